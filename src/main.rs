//! The process: flags → configuration → logging → daemon → exit code.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use roomcam::cli::{Cli, Command};
use roomcam::config::ConfigError;
use roomcam::daemon::{self, DaemonError, Mode};
use roomcam::{inspect, logging, share, watch};

/// `EX_CONFIG` of sysexits.h: the unit is not started again before someone has mended the file.
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::init(cli.verbose);
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
        Command::Check(check) => return inspect::check(check.config.as_ref()),
        Command::Url(url) => share::url(url.config, url.talk)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `work` on this thread, which is enough: media has its own.
fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let outcome = runtime.block_on(work);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(outcome)
}
