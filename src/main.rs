//! The process: flags → configuration → logging → daemon → exit code.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use roomcam::cli::{Cli, Command};
use roomcam::config::ConfigError;
use roomcam::daemon::{self, DaemonError, Mode};
use roomcam::{block_on, inspect, logging, share, watch};

/// `EX_CONFIG` of sysexits.h: the unit is not started again before someone has mended the file.
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // These say what they find by themselves.
    let is_told = matches!(cli.command, Command::Devices(_) | Command::Doctor(_));
    if !is_told || cli.verbose > 0 {
        logging::init(cli.verbose);
    }
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // One line: what failed, and why.
            let mut line = format!("roomcam: {error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                line.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            // Nobody is left to tell if even this fails.
            drop(writeln!(std::io::stderr(), "{line}"));
            let ended = error.downcast_ref::<DaemonError>();
            if error.is::<ConfigError>() || ended.is_some_and(DaemonError::is_wrong_configuration) {
                ExitCode::from(WRONG_CONFIGURATION)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run(run) => {
            let read = || run.clone().into_config();
            block_on(daemon::run(read()?, Mode::Service, read))??;
        }
        Command::Demo(demo) => {
            let read = || demo.clone().into_config();
            block_on(daemon::run(read()?, Mode::Demonstration, read))??;
        }
        Command::Serve(serve) => {
            let config = serve.into_config()?;
            block_on(daemon::serve(config))??;
        }
        Command::Watch(options) => {
            let json = options.json;
            let mut out = std::io::stdout();
            block_on(watch::run(options.into(), json, &mut out))??;
        }
        Command::Devices(devices) => inspect::devices(devices.json)?,
        Command::Doctor(doctor) => return Ok(inspect::doctor(doctor.config, doctor.json)?),
        Command::Url(url) => share::url(url.config, url.talk)?,
    }
    Ok(ExitCode::SUCCESS)
}
