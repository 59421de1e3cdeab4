//! `roomcam run` in a room of somebody else's server: test picture and tone, started by a test and
//! ended with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::program;
use crate::support::chromium::PATIENCE;
use crate::support::failures;

const POLL_EVERY: Duration = Duration::from_millis(10);

/// A picture that a busy machine encodes with ease.
const SOURCES: &str = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\nfps = 15\n\
                       [audio]\nsource = \"tone\"\n";

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    process: Child,
    command: Command,
    /// Of all its lives.
    log: Arc<Mutex<String>>,
    started: Instant,
    _config: NamedTempFile,
}

impl Device {
    /// Starts it with these arguments of `roomcam run`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::configured(arguments, "", &[])
    }

    /// The same with more configuration, and variables of its environment.
    pub(crate) fn configured(
        arguments: &[&str],
        configuration: &str,
        environment: &[(&str, &Path)],
    ) -> Self {
        failures::tell_at_once();
        let mut config = NamedTempFile::new().expect("a temporary file");
        let written = config.write_all(format!("{SOURCES}{configuration}").as_bytes());
        written.expect("a temporary file");
        let mut command = program::roomcam();
        command
            .args(["run", "--verbose", "--config"])
            .arg(config.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let log = Arc::default();
        Self {
            started: roomcam::clock::now(),
            process: launch(&mut command, &log),
            command,
            log,
            _config: config,
        }
    }

    /// Starts it again, after [`Self::kill`] or [`Self::terminate`].
    pub(crate) fn start_again(&mut self) {
        self.started = roomcam::clock::now();
        self.process = launch(&mut self.command, &self.log);
    }

    /// Returns when it was last started.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// Waits until these words are in its log.
    pub(crate) async fn has_logged(&self, words: &str) {
        let deadline = roomcam::clock::now() + PATIENCE;
        while !self.log().contains(words) {
            let is_late = roomcam::clock::now() > deadline;
            assert!(!is_late, "it never logged {words:?}");
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Ends it without a word, as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }

    /// Tells it to stop; returns how long it took to end, and how it ended.
    pub(crate) fn terminate(&mut self) -> (Duration, ExitStatus) {
        let since = roomcam::clock::now();
        let mut kill = Command::new("kill");
        let told = kill.arg(self.process.id().to_string()).status();
        assert!(told.is_ok_and(|status| status.success()), "kill");
        let status = self.process.wait().expect("it is our child");
        (since.elapsed(), status)
    }

    fn log(&self) -> String {
        self.log
            .lock()
            .map_or_else(|_| String::new(), |log| log.clone())
    }
}

fn launch(command: &mut Command, log: &Arc<Mutex<String>>) -> Child {
    let mut process = command.spawn().expect("the program was just built");
    let errors = process.stderr.take().expect("it is piped");
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            if let Ok(mut log) = log.lock() {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
    process
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            failures::show("roomcam run", &self.log());
        }
    }
}
