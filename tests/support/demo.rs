//! `roomcam demo`, started by a test and ended with it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{failures, program};

/// A running daemon with its room server, page, test picture and tone.
#[derive(Debug)]
pub(crate) struct Demo {
    process: Child,
    log: Option<JoinHandle<String>>,
    url: String,
    config: tempfile::NamedTempFile,
}

/// From the start to the line with the URL. Emulated, a start takes seconds.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

impl Demo {
    /// Starts it on a free port of the loopback and waits for the URL that it prints.
    pub(crate) fn start() -> Self {
        Self::launch("127.0.0.1:0", &[], "", &[])
    }

    /// As [`Self::configured`], with variables of its environment.
    pub(crate) fn with_environment(config: &str, environment: &[(&str, &Path)]) -> Self {
        Self::launch("127.0.0.1:0", &[], config, environment)
    }

    /// As [`Self::start`], with further arguments and the text of a configuration file.
    pub(crate) fn configured(arguments: &[&str], config: &str) -> Self {
        Self::launch("127.0.0.1:0", arguments, config, &[])
    }

    /// As [`Self::start`], with the sound of this PCM of a configuration of libasound's.
    pub(crate) fn hears(pcm: &str, libasound: &Path, config: &str) -> Self {
        let environment = [("ALSA_CONFIG_PATH", libasound)];
        Self::launch("127.0.0.1:0", &["--audio", pcm], config, &environment)
    }

    /// Ends it without a word, as a power cut does, and starts it on the same port with the same
    /// key.
    pub(crate) fn start_again(self) -> Self {
        let url = self.url.clone();
        drop(self);
        let (address, fragment) = url
            .strip_prefix("http://")
            .and_then(|url| url.split_once("/#"))
            .expect("a URL with room and key");
        let (_, key) = fragment.split_once("key=").expect("the key comes last");
        Self::launch(address, &[], &format!("[room]\nkey = \"{key}\"\n"), &[])
    }

    /// Stops it in its tracks.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Has it read its configuration again, which now is this.
    pub(crate) fn reload(&self, config: &str) {
        std::fs::write(self.config.path(), config).expect("a temporary file");
        self.signal("-HUP");
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Tells it to stop; returns how long it took to end, and how it ended.
    pub(crate) fn terminate(&mut self) -> (Duration, ExitStatus) {
        let since = roomcam::clock::now();
        self.signal("-TERM");
        let status = self.process.wait().expect("it is our child");
        (since.elapsed(), status)
    }

    /// Tells it to stop; returns its log.
    pub(crate) fn end(mut self) -> String {
        self.terminate();
        let log = self.log.take().and_then(|log| log.join().ok());
        log.unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args([signal, &self.process.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal}");
    }

    fn launch(
        listen: &str,
        arguments: &[&str],
        config: &str,
        environment: &[(&str, &Path)],
    ) -> Self {
        failures::tell_at_once();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(config.as_bytes()).expect("a temporary file");
        let mut process = program::roomcam()
            .args(["demo", "--listen", listen])
            .arg("--config")
            .arg(file.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was just built");
        let output = process.stdout.take().expect("it is piped");
        let mut errors = process.stderr.take().expect("it is piped");
        let log = std::thread::spawn(move || {
            let mut text = Vec::new();
            // A log that cannot be read is an empty one.
            let _ = errors.read_to_end(&mut text).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        });
        let lines = lines_of(output);
        let mut demo = Self {
            process,
            log: Some(log),
            url: String::new(),
            config: file,
        };
        while demo.url.is_empty() {
            let line = lines.recv_timeout(STARTS_WITHIN);
            let line = line.expect("demo prints the URL of its page");
            let url = line.split_whitespace().find(|w| w.starts_with("http://"));
            demo.url = url.unwrap_or_default().to_owned();
        }
        demo
    }

    /// The page's URL with room and key in its fragment.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        let log = self.log.take().and_then(|log| log.join().ok());
        if std::thread::panicking() {
            failures::show("roomcam demo", &log.unwrap_or_default());
        }
    }
}

/// Reads on to the end, so that the program never waits for its reader.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            sender.send(line).ok();
        }
    });
    receiver
}
