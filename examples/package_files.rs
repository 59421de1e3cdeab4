//! What a package holds beside the program, made from its command line: `package_files DIRECTORY`
//!
//! Man pages (`man/`) and completions for bash, zsh and fish (`completions/`). `scripts/package` calls
//! it; the program itself does not carry what makes them.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use roomcam::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.ok_or("usage: package_files DIRECTORY")?;
    let (man, completions) = (
        Path::new(&directory).join("man"),
        Path::new(&directory).join("completions"),
    );
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "roomcam", &completions)?;
    }
    Ok(())
}
