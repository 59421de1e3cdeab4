//! `tests/peers/python/whep.py`: a player that is no browser, on PyPI's aiortc.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

use crate::support::chromium::PATIENCE;

const POLL_EVERY: Duration = Duration::from_millis(50);

/// A running player. It vanishes without a word when this is dropped.
#[derive(Debug)]
pub(crate) struct Player {
    process: Child,
    /// Once this is closed, it ends its session.
    input: Option<ChildStdin>,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Player {
    /// Starts to play what is at `url`.
    pub(crate) fn start(url: &str, key: &str) -> Self {
        let mut process = Command::new(python())
            .arg(sources().join("whep.py"))
            .args([url, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was just installed");
        let input = process.stdin.take();
        let output = process.stdout.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("it says JSON");
                heard.lock().expect("nobody panics with it").push(line);
            }
        });
        Self {
            process,
            input,
            said,
        }
    }

    /// Waits until it says a `word` of which something is so, and returns that.
    pub(crate) async fn says(&self, word: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        let deadline = roomcam::clock::now() + PATIENCE;
        let mut read = 0;
        loop {
            let said = self.said.lock().expect("nobody panics with it").clone();
            let mut words = said.iter().skip(read).filter_map(|line| line.get(word));
            if let Some(found) = words.find(|word| is_so(word)) {
                return found.clone();
            }
            read = said.len();
            assert!(
                roomcam::clock::now() < deadline,
                "waited in vain for {word}: {:?}",
                said.last()
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until it has decoded a moving picture and heard something.
    pub(crate) async fn sees_and_hears(&self) -> Value {
        self.says("seen", |seen| {
            let number = |name: &str| seen[name].as_f64().unwrap_or_default();
            number("changes") >= 15.0 && number("sounds") >= 25.0 && number("loudness") > 0.005
        })
        .await
    }

    /// Closes it as a person does; returns the status of its DELETE.
    pub(crate) async fn close(mut self) -> Value {
        self.input = None;
        let deleted = self.says("deleted", |_| true).await;
        deleted["status"].clone()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn sources() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/python")
}

/// Returns the Python that has what the player needs, which is fetched when it is missing.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let install = Command::new(sources().join("install"))
            .stderr(Stdio::inherit())
            .output()
            .expect("tests/peers/python/install starts");
        assert!(
            install.status.success(),
            "tests/peers/python/install failed"
        );
        String::from_utf8_lossy(&install.stdout).trim().to_owned()
    })
}
