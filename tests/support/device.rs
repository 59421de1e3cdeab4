//! `roomcam run` in a room of somebody else's server: test picture and tone, started by a test and
//! ended with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::support::chromium::PATIENCE;

const POLL_EVERY: Duration = Duration::from_millis(10);

/// A picture that a busy machine encodes with ease.
const SOURCES: &str = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\nfps = 15\n\
                       [audio]\nsource = \"tone\"\n";

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    process: Child,
    arguments: Vec<String>,
    config: Arc<NamedTempFile>,
    log: Arc<Mutex<String>>,
    started: Instant,
}

impl Device {
    /// Starts it with the arguments of `roomcam run` and what a configuration file has beside the
    /// sources.
    pub(crate) fn start(arguments: &[&str], config: &str) -> Self {
        let mut file = NamedTempFile::new().expect("a temporary file");
        write!(file, "{SOURCES}{config}").expect("a temporary file");
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        Self::launch(arguments, Arc::new(file))
    }

    /// Starts it again, after [`Self::kill`] or [`Self::terminate`].
    pub(crate) fn start_again(self) -> Self {
        Self::launch(self.arguments.clone(), Arc::clone(&self.config))
    }

    /// Returns when it was started.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// Waits until it has entered its room so many times.
    pub(crate) async fn has_joined(&self, times: usize) {
        self.has_logged("joined the room", times).await;
    }

    /// Waits until these words are in its log so many times.
    pub(crate) async fn has_logged(&self, words: &str, times: usize) {
        let deadline = roomcam::clock::now() + PATIENCE;
        while self.log().matches(words).count() < times {
            assert!(
                roomcam::clock::now() < deadline,
                "it never logged {words:?} {times} times"
            );
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

    fn launch(arguments: Vec<String>, config: Arc<NamedTempFile>) -> Self {
        let started = roomcam::clock::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_roomcam"))
            .args(["run", "--verbose", "--config"])
            .arg(config.path())
            .args(&arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was just built");
        let errors = process.stderr.take().expect("it is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if let Ok(mut log) = written.lock() {
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self {
            process,
            arguments,
            config,
            log,
            started,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            complain(&self.log());
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows the device's log")]
fn complain(log: &str) {
    eprintln!("---- log of roomcam run\n{log}----");
}
