//! The room servers that people have, and the pages they have for them: `tests/peers`.
//!
//! The servers are the real libraries under Node.js, the pages run in Chromium with a made-up camera
//! and microphone. Neither knows anything of the device.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fantoccini::wd::WindowHandle;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::{Mutex, MutexGuard};

use crate::support::chromium::{Chromium, PATIENCE, Setup};

const POLL_EVERY: Duration = Duration::from_millis(50);

/// A picture moves when so many more were shown.
const MOVING: u64 = 4;

/// Of what a server prints, how much may wait to be read.
const MAX_LINES: usize = 100;

/// A room server of `tests/peers/server.js`, which also serves the pages.
#[derive(Debug)]
pub(crate) struct RoomServer {
    kind: Vec<String>,
    port: u16,
    process: Child,
    /// What it printed.
    output: Receiver<String>,
    /// The server ends when this does.
    _lifeline: ChildStdin,
}

impl RoomServer {
    /// Starts one on a free port: its kind, and options.
    pub(crate) async fn start(kind: &[&str]) -> Self {
        Self::launch(kind.iter().map(|&word| word.to_owned()).collect(), 0).await
    }

    /// Kills it and starts it again on the same port: it remembers nothing.
    pub(crate) async fn start_again(self) -> Self {
        let (kind, port) = (self.kind.clone(), self.port);
        drop(self);
        Self::launch(kind, port).await
    }

    /// Waits until one more has entered a room.
    pub(crate) async fn somebody_enters(&mut self) {
        assert_eq!(self.line().await, "entered");
    }

    /// Returns where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the URL of one of its pages.
    pub(crate) fn page(&self, page: &str) -> String {
        format!("{}/{page}", self.url())
    }

    async fn launch(kind: Vec<String>, port: u16) -> Self {
        let mut process = Command::new("node")
            .arg(sources().join("server.js"))
            .args(&kind)
            .args(["--port", &port.to_string()])
            .env("NODE_PATH", modules())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts (Debian's package nodejs)");
        let lifeline = process.stdin.take().expect("it is piped");
        let output = process.stdout.take().expect("it is piped");
        let (sender, receiver) = channel(MAX_LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // full: lost, and the test that waits for it fails
                sender.try_send(line).ok();
            }
        });
        let mut server = Self {
            kind,
            port,
            process,
            output: receiver,
            _lifeline: lifeline,
        };
        let line = server.line().await;
        let port = line.strip_prefix("listening ");
        let port = port.and_then(|port| port.parse().ok());
        server.port = port.expect("the server prints its port first");
        server
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.output.recv()).await;
        let line = line.expect("the room server was to print something");
        line.expect("the room server has ended")
    }
}

impl Drop for RoomServer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// Returns the directory of the libraries, which are fetched when they are missing.
fn modules() -> &'static str {
    static MODULES: OnceLock<String> = OnceLock::new();
    MODULES.get_or_init(|| {
        let install = Command::new(sources().join("install"))
            .stderr(Stdio::inherit())
            .output()
            .expect("tests/peers/install starts");
        assert!(install.status.success(), "tests/peers/install failed");
        String::from_utf8_lossy(&install.stdout).trim().to_owned()
    })
}

/// A Chromium for several pages, each in a window of its own.
#[derive(Debug)]
pub(crate) struct Browser {
    chromium: Chromium,
    /// The window that was last turned to.
    current: Mutex<Option<WindowHandle>>,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let setup = Setup {
            camera: true,
            ..Setup::default()
        };
        Self {
            chromium: Chromium::start(setup).await,
            current: Mutex::default(),
        }
    }

    /// Opens a page in a new window.
    pub(crate) async fn open(&self, url: &str) -> Page<'_> {
        let mut current = self.current.lock().await;
        let window = self.chromium.open_window().await;
        self.chromium.open(url).await;
        *current = Some(window.clone());
        Page {
            browser: self,
            window,
            joined: Cell::new(roomcam::clock::now()),
        }
    }

    /// Ends the browser in good order.
    pub(crate) async fn close(self) {
        self.chromium.close().await;
    }
}

/// A page of `tests/peers/pages`. It stays open when this is dropped.
#[derive(Debug)]
pub(crate) struct Page<'b> {
    browser: &'b Browser,
    window: WindowHandle,
    joined: Cell<Instant>,
}

/// How long no picture comes, for one to be sure that none will.
const STOPPED: Duration = Duration::from_millis(250);

/// What `instruments.js` tells of a page.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// What the page did not catch.
    pub(crate) errors: Vec<String>,
    /// The state of every peer connection that it ever made.
    pub(crate) connections: Vec<String>,
    /// The state of their transports: a goodbye is seen there at once, above after seconds.
    pub(crate) transports: Vec<String>,
    /// Pictures shown since it joined, or since [`Page::picture_stops`].
    pub(crate) frames: u64,
    /// From the first of them until now.
    first_picture_ago_ms: Option<f64>,
    #[serde(skip, default = "roomcam::clock::now")]
    read_at: Instant,
    pub(crate) audio_packets: u64,
    /// Grows with everything that is heard.
    pub(crate) audio_energy: f64,
    /// Of the video that comes.
    pub(crate) video_codec: Option<String>,
}

impl Report {
    /// Returns when the first of the pictures was shown; there must be one.
    pub(crate) fn first_picture_at(&self) -> Instant {
        let ago = self.first_picture_ago_ms.expect("it has seen a picture");
        self.read_at - Duration::from_secs_f64(ago / 1_000.0)
    }
}

impl Page<'_> {
    /// Presses the page's button to join; returns once it is in the room, or refused, with what the
    /// server said.
    pub(crate) async fn join(&self, room: &str) -> Value {
        let room = Value::from(room);
        self.joined.set(roomcam::clock::now());
        self.run(&format!("seen.restart(); return await join({room})"))
            .await
    }

    /// Returns when it last joined.
    pub(crate) const fn joined(&self) -> Instant {
        self.joined.get()
    }

    /// Presses the page's button to leave.
    pub(crate) async fn leave(&self) {
        self.run("await leave()").await;
    }

    /// Closes its window without a word.
    pub(crate) async fn close(self) {
        let mut current = self.turn_to().await;
        self.browser.chromium.close_window().await;
        *current = None;
    }

    /// Runs the body of an asynchronous JavaScript function.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let _current = self.turn_to().await;
        let body = format!("return (async () => {{ {body} }})()");
        self.browser.chromium.run(&body).await
    }

    pub(crate) async fn report(&self) -> Report {
        let report = self.run("return await seen.report()").await;
        serde_json::from_value(report).expect("instruments.js reports this")
    }

    /// Waits until what the page tells is so.
    pub(crate) async fn wait_until(
        &self,
        what: &str,
        mut condition: impl FnMut(&Report) -> bool,
    ) -> Report {
        let deadline = roomcam::clock::now() + PATIENCE;
        loop {
            let report = self.report().await;
            if condition(&report) {
                return report;
            }
            assert!(
                roomcam::clock::now() < deadline,
                "waited in vain until {what}: {report:#?}"
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until it shows a moving picture and gets sound, and nothing in it has failed.
    pub(crate) async fn sees_and_hears(&self) -> Report {
        let before = self.report().await;
        // They fall when a connection ends, and grow on from there with the next.
        let (mut packets, mut energy) = (before.audio_packets, before.audio_energy);
        let report = self
            .wait_until("it sees and hears", |now| {
                packets = packets.min(now.audio_packets);
                energy = energy.min(now.audio_energy);
                now.frames >= before.frames + MOVING
                    && now.audio_packets > packets
                    && now.audio_energy > energy
            })
            .await;
        assert_eq!(report.errors, Vec::<String>::new());
        report
    }

    /// Waits until its picture stands still; what is shown later is counted anew.
    pub(crate) async fn picture_stops(&self) {
        let mut before = None;
        self.wait_until("its picture stands still", |now| {
            let (frames, at) = *before.get_or_insert((now.frames, now.read_at));
            if now.frames > frames {
                before = None;
            }
            now.frames == frames && now.read_at - at >= STOPPED
        })
        .await;
        self.run("seen.restart()").await;
    }

    async fn turn_to(&self) -> MutexGuard<'_, Option<WindowHandle>> {
        let mut current = self.browser.current.lock().await;
        if current.as_ref() != Some(&self.window) {
            self.browser.chromium.turn_to(&self.window).await;
            *current = Some(self.window.clone());
        }
        current
    }
}
