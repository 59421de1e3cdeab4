//! What a package holds beside the program: `package_files DIRECTORY TARGET`
//!
//! From the command line: man pages (`man/`) and completions for bash, zsh and fish (`completions/`).
//! From the crates that the program for TARGET, as Rust names it, is built of: their licences
//! (`third-party.txt`) and a list of them for other programs (`roomcam.cdx.json`).
//! `scripts/package` calls it; the program itself does not carry what makes them.

mod bill;
mod crates;
mod licences;

use std::error::Error;
use std::fs;
use std::iter;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use roomcam::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: package_files DIRECTORY TARGET".into());
    };
    let directory = Path::new(&directory);
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for page in iter::once(&command).chain(command.get_subcommands()) {
        let page = Man::new(page.clone()).manual("roomcam");
        page.source(concat!("roomcam ", env!("CARGO_PKG_VERSION")))
            .generate_to(&man)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "roomcam", &completions)?;
    }

    let crates = crates::of_program(&target)?;
    fs::write(
        directory.join("third-party.txt"),
        licences::document(&crates)?,
    )?;
    fs::write(
        directory.join("roomcam.cdx.json"),
        bill::of_materials(&crates, &target)?,
    )?;
    Ok(())
}
