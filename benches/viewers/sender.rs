//! Senders as processes: roomcam, or pion in a room of a room server in this process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use roomcam::config::Secret;
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use roomcam::watch::invitation::Invitation;
use tempfile::NamedTempFile;
use tokio::sync::watch;

/// Linux counts processor time in these units of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

const VIEWER_KEY: &str = "viewer";
const DEVICE_KEY: &str = "device";

/// A running sender. Ends with the value.
#[derive(Debug)]
pub(crate) struct Sender {
    process: Child,
    invitation: Invitation,
    _config: Option<NamedTempFile>,
    _server: Option<watch::Sender<bool>>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// Of these, what the thread `audio` used, which encodes.
    pub(crate) audio_seconds: f64,
    pub(crate) rss_mb: f64,
    pub(crate) threads: f64,
}

impl Sender {
    /// Starts `roomcam demo` with this video and the test tone.
    pub(crate) fn roomcam(video: &str) -> Self {
        let mut config = NamedTempFile::new().unwrap();
        writeln!(config, "[webrtc]\nmax_viewers = 64").unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_roomcam"))
            .args(["demo", "--listen", "127.0.0.1:0", "--video", video])
            .arg("--config")
            .arg(config.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.get(line.find("http://")?..)?.to_owned()));
        Self {
            process,
            invitation: url.unwrap().trim().parse().unwrap(),
            _config: Some(config),
            _server: None,
        }
    }

    /// Starts a room server here, and the program of `benches/pion` as the device of a room.
    pub(crate) async fn pion(program: &Path, clip: &Path, tone: &Path) -> Self {
        let key = |key: &str| Secret::new(key.to_owned());
        let server = Server::bind(ServerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            viewer_key: key(VIEWER_KEY),
            device_key: key(DEVICE_KEY),
            allowed_origins: Vec::new(),
            ice_servers: Vec::new().into(),
            tutorials: Tutorials::default(),
        });
        let server = server.await.unwrap();
        let address = server.local_addr();
        let (running, stopped) = watch::channel(false);
        tokio::spawn(server.run(stopped));
        let process = Command::new(program)
            .args([&format!("ws://{address}/ws"), "cam", DEVICE_KEY])
            .args([clip, tone])
            .spawn()
            .unwrap();
        let url = format!("http://{address}/#room=cam&key={VIEWER_KEY}");
        Self {
            process,
            invitation: url.parse().unwrap(),
            _config: None,
            _server: Some(running),
        }
    }

    pub(crate) const fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(&self.process.id().to_string())
    }

    /// How many file descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(directory).unwrap().count()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Usage {
    /// Reads `/proc` (proc(5)) for a process id, or for `self`.
    pub(crate) fn of(process: &str) -> Self {
        let directory = Path::new("/proc").join(process);
        let status = std::fs::read_to_string(directory.join("status")).unwrap();
        let number = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let first = line.unwrap().split_whitespace().next();
            first.unwrap().parse().unwrap()
        };
        let threads = std::fs::read_dir(directory.join("task")).unwrap();
        let audio = threads
            .map(|thread| thread.unwrap().path())
            .filter(|thread| {
                let name = std::fs::read_to_string(thread.join("comm"));
                name.is_ok_and(|name| name.trim() == "audio")
            });
        Self {
            cpu_seconds: cpu_seconds(&directory),
            audio_seconds: audio.map(|thread| cpu_seconds(&thread)).sum(),
            rss_mb: number("VmRSS:") / 1_024.0,
            threads: number("Threads:"),
        }
    }
}

/// Returns the processor time of a process or thread, from its directory in `/proc`.
fn cpu_seconds(directory: &Path) -> f64 {
    let stat = std::fs::read_to_string(directory.join("stat")).unwrap();
    // Fields 14 and 15, counted from behind the name, which may hold anything.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u32 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u32>().unwrap())
        .sum();
    f64::from(ticks) / TICKS_PER_SECOND
}
