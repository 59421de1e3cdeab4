//! Three network namespaces: a device's, a viewer's, and between them one that both reach and that passes
//! nothing on. Where nothing else connects, a relay in the middle does.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::failures;

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(40);

const POLL_EVERY: Duration = Duration::from_millis(10);

/// What the middle is called by the device, and by the viewer.
pub(crate) const MIDDLE: (&str, &str) = ("10.77.1.1", "10.77.2.1");

/// The secret that coturn is started with.
pub(crate) const SECRET: &str = "north-by-northwest";

const SOURCES: &str = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\n\
                       [audio]\nsource = \"tone\"\n";

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Device,
    Middle,
    Viewer,
}

/// The three of them; gone with this.
#[derive(Debug)]
pub(crate) struct Islands {
    prefix: String,
    directory: TempDir,
}

impl Islands {
    /// Makes them, and starts a room server in the middle.
    pub(crate) fn new() -> (Self, Program) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let islands = Self {
            prefix: format!("roomcam-{}-{count}", std::process::id()),
            directory: TempDir::new().unwrap(),
        };
        for place in [Place::Device, Place::Middle, Place::Viewer] {
            ip(&format!("netns add {}", islands.name(place)));
            ip(&format!("-n {} link set lo up", islands.name(place)));
        }
        for (place, middle, net) in [(Place::Device, "eth1", "1"), (Place::Viewer, "eth2", "2")] {
            let (end, hub) = (islands.name(place), islands.name(Place::Middle));
            ip(&format!(
                "link add eth0 netns {end} type veth peer name {middle} netns {hub}"
            ));
            ip(&format!("-n {end} addr add 10.77.{net}.2/24 dev eth0"));
            ip(&format!("-n {hub} addr add 10.77.{net}.1/24 dev {middle}"));
            ip(&format!("-n {end} link set eth0 up"));
            ip(&format!("-n {hub} link set {middle} up"));
            ip(&format!("-n {end} route add default via 10.77.{net}.1"));
        }
        // A machine with containers passes on, and its namespaces begin as it is.
        let off = "echo 0 > /proc/sys/net/ipv4/ip_forward";
        let mut command = islands.command(Place::Middle, "sh");
        assert!(command.args(["-c", off]).status().unwrap().success());
        let config = islands.file(
            "serve.toml",
            "[room]\nkey = \"see\"\n[server]\nlisten = \"0.0.0.0:8080\"\ndevice_key = \"be seen\"\n",
        );
        let server = islands.start(
            Place::Middle,
            env!("CARGO_BIN_EXE_roomcam"),
            &["serve", "--config", &config],
        );
        server.has_said("room server started", 1);
        (islands, server)
    }

    /// Writes a file that is gone with the islands; returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts coturn in the middle. Its relayed addresses are those that the viewer reaches.
    pub(crate) fn coturn(&self, arguments: &[&str]) -> Program {
        let mut command = self.command(Place::Middle, "turnserver");
        command.args(arguments);
        coturn(command, self.directory.path(), MIDDLE, 3478)
    }

    /// Starts a device, and waits until it is in its room.
    pub(crate) fn device(&self, config: &str) -> Program {
        let config = format!(
            "{SOURCES}[room]\nserver = \"http://{}:8080\"\nkey = \"be seen\"\n{config}",
            MIDDLE.0
        );
        let config = self.file("device.toml", &config);
        let roomcam = env!("CARGO_BIN_EXE_roomcam");
        let device = self.start(Place::Device, roomcam, &["run", "--config", &config]);
        device.has_said("joined the room", 1);
        device
    }

    /// Has the doctor look at what a device with this configuration would find; returns its report.
    pub(crate) fn doctor(&self, config: &str) -> Output {
        let config = format!(
            "{SOURCES}[room]\nserver = \"http://{}:8080\"\nkey = \"be seen\"\n{config}",
            MIDDLE.0
        );
        let config = self.file("doctor.toml", &config);
        let mut command = self.command(Place::Device, env!("CARGO_BIN_EXE_roomcam"));
        command.args(["doctor", "--json", "--config", &config]);
        command.output().unwrap()
    }

    /// Watches to the end; next to the device, or from the other island.
    pub(crate) fn watch(&self, place: Place, arguments: &[&str]) -> Output {
        let watching = self
            .watching(place, arguments)
            .stdout(Stdio::piped())
            .spawn();
        watching.unwrap().wait_with_output().unwrap()
    }

    /// Starts to watch.
    pub(crate) fn start_watching(&self, place: Place, arguments: &[&str]) -> Child {
        let mut watching = self.watching(place, arguments);
        watching.stdout(Stdio::piped()).spawn().unwrap()
    }

    fn watching(&self, place: Place, arguments: &[&str]) -> Command {
        let server = match place {
            Place::Viewer => MIDDLE.1,
            Place::Device | Place::Middle => MIDDLE.0,
        };
        let url = format!("http://{server}:8080/#room=cam&key=see");
        let mut command = self.command(place, env!("CARGO_BIN_EXE_roomcam"));
        command.args(["watch", &url, "--json"]).args(arguments);
        command.stderr(Stdio::piped());
        command
    }

    fn start(&self, place: Place, program: &str, arguments: &[&str]) -> Program {
        let mut command = self.command(place, program);
        command.args(arguments).stdout(Stdio::piped());
        Program::new(command.stderr(Stdio::piped()))
    }

    /// `ip netns exec` becomes the program itself: ending it ends the program.
    fn command(&self, place: Place, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command.env("STATE_DIRECTORY", self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    fn name(&self, place: Place) -> String {
        format!("{}-{place:?}", self.prefix)
    }
}

impl Drop for Islands {
    fn drop(&mut self) {
        for place in [Place::Device, Place::Middle, Place::Viewer] {
            let mut command = Command::new("ip");
            command.args(["netns", "del", &self.name(place)]);
            // One that was never made is gone already.
            command.stderr(Stdio::null()).status().ok();
        }
    }
}

/// A TURN server on this machine.
#[derive(Debug)]
pub(crate) struct Relay {
    /// `turn:…`
    pub(crate) url: String,
    _coturn: Program,
    _directory: TempDir,
}

impl Relay {
    /// Starts coturn on `address`, which is not of the loopback: browsers ask no server there.
    pub(crate) fn start(address: IpAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let probe = UdpSocket::bind((address, 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let ip = address.to_string();
        let command = Command::new("turnserver");
        Self {
            url: format!("turn:{address}:{port}"),
            _coturn: coturn(command, directory.path(), (&ip, &ip), port),
            _directory: directory,
        }
    }
}

/// Starts coturn, and waits until it listens. It keeps all its files in `directory`.
fn coturn(mut command: Command, directory: &Path, (ip, relay): (&str, &str), port: u16) -> Program {
    let directory = directory.display();
    command.args([
        "-n",
        "--no-cli",
        "--no-dtls",
        "--use-auth-secret",
        "--realm=example.org",
    ]);
    command.args(["--log-file=stdout", "--simple-log", "-v"]);
    command.args([
        format!("--static-auth-secret={SECRET}"),
        format!("--listening-ip={ip}"),
        format!("--listening-port={port}"),
        format!("--relay-ip={relay}"),
        format!("--userdb={directory}/turn.db"),
        format!("--pidfile={directory}/turn.pid"),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let coturn = Program::new(command.stderr(Stdio::piped()));
    coturn.has_said(&format!("UDP listener opened on: {ip}:{port}"), 1);
    coturn
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output();
    let done = done.expect("iproute2 is installed");
    assert!(done.status.success(), "ip {arguments}: {done:?}");
}

/// A program and what it said; ended with this.
#[derive(Debug)]
pub(crate) struct Program {
    process: Child,
    said: Arc<Mutex<String>>,
}

impl Program {
    fn new(command: &mut Command) -> Self {
        failures::tell_at_once();
        let mut process = command.spawn().expect("the program is installed");
        let said = Arc::new(Mutex::new(String::new()));
        listen(process.stdout.take().expect("it is piped"), &said);
        listen(process.stderr.take().expect("it is piped"), &said);
        Self { process, said }
    }

    /// Returns all that it said.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Returns how often it said these words.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.said().matches(words).count()
    }

    /// Waits until it has said these words so many times.
    pub(crate) fn has_said(&self, words: &str, times: usize) {
        let deadline = roomcam::clock::now() + PATIENCE;
        while self.count(words) < times {
            let said = || self.said();
            assert!(
                roomcam::clock::now() < deadline,
                "it never said {words:?} {times} times, but\n{}",
                said()
            );
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            failures::show("a program of the networks", &self.said());
        }
    }
}

fn listen(output: impl Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
}
