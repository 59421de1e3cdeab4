//! An emulated machine with cameras and a sound card of its own, in which the daemon runs.
//!
//! The host watches it as any other device on its loopback: one TCP port for the page and the room
//! server, one UDP port for the media. Tests plug and unplug things by shell commands in the guest,
//! through a virtio port. `tests/guest/` makes and starts the machine. Everything in it is emulated,
//! so it is 10 to 20 times slower than the host: the limits here are generous.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use roomcam::clock;
use tempfile::TempDir;

use crate::support::control::Control;
use crate::support::failures;

/// How long anything in the guest may take, its start included. On a quiet machine that is 4 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The same where it boots a whole Debian, which takes half a minute on a quiet machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

const POLL_EVERY: Duration = Duration::from_millis(50);

/// One guest at a time: two would emulate at half the speed each.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How many guests are started for one test. The kernel patches its code while it starts and loads modules, which
/// an emulated processor does not survive every time: it ends, or a process of it with this.
const BOOTS: u32 = 3;
const EMULATION_FAILED: &str = "Oops: int3";

/// The key of the guest's room.
const KEY: &str = "guest-key";

/// A running guest. When it is dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Guest {
    qemu: Child,
    control: Control,
    directory: TempDir,
    http_port: u16,
    media_port: u16,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Guest {
    /// Starts a guest in which `modules` are loaded, each line one call of `modprobe`.
    pub(crate) async fn start(modules: &[&str]) -> Self {
        Self::start_image(image(), &[], modules).await
    }

    /// The same of another image, with further options of QEMU's.
    pub(crate) async fn start_image(image: &Path, options: &[&str], modules: &[&str]) -> Self {
        for _ in 0..BOOTS {
            let mut guest = Self::boot(image, options, ONE_AT_A_TIME.lock().await);
            let is_up = guest.control.talk("true").is_ok();
            let loaded = is_up && modules.iter().all(|module| guest.loads(module));
            let failed = guest.has_ended() || guest.console().contains(EMULATION_FAILED);
            if loaded || !failed {
                return guest;
            }
            failures::show(
                "a guest that the emulator failed; another is started",
                &guest.console(),
            );
        }
        panic!("the emulator failed {BOOTS} guests in a row");
    }

    /// Returns whether QEMU is gone, which has no reason but its own to go before a test has begun.
    fn has_ended(&mut self) -> bool {
        self.qemu.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Loads a module; returns false where the guest is gone.
    fn loads(&mut self, module: &str) -> bool {
        let answer = self.control.talk(&format!("modprobe {module}"));
        if let Ok((status, output)) = &answer {
            assert_eq!(*status, 0, "in the guest: modprobe {module}\n{output}");
        }
        answer.is_ok()
    }

    fn boot(image: &Path, options: &[&str], turn: tokio::sync::MutexGuard<'static, ()>) -> Self {
        failures::tell_at_once();
        let directory = TempDir::new().expect("the temporary directory is writable");
        let socket = directory.path().join("control");
        let listener = UnixListener::bind(&socket).expect("a socket in a new directory");
        let (http_port, media_port) = free_ports();
        let network = format!(
            "user,id=network,hostfwd=tcp:127.0.0.1:{http_port}-:8080,\
             hostfwd=udp:127.0.0.1:{media_port}-:{media_port}"
        );
        let console = std::fs::File::create(directory.path().join("console"));
        let mut qemu = Command::new(scripts().join("run"))
            .arg(image)
            .args(options)
            .args(["-netdev", &network])
            .args(["-device", "virtio-net-pci,netdev=network,romfile="])
            .arg("-chardev")
            .arg(format!("socket,id=control,path={}", socket.display()))
            .args(["-device", "virtserialport,chardev=control"])
            .stdin(Stdio::null())
            .stdout(console.expect("a file in a new directory"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("tests/guest/run starts");
        let control = Control::accept(&listener, &mut qemu, BOOT_PATIENCE);
        Self {
            qemu,
            control,
            directory,
            http_port,
            media_port,
            _turn: turn,
        }
    }

    /// Runs a shell command and returns what it printed; it must succeed.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let (status, output) = self.attempt(command);
        assert_eq!(status, 0, "in the guest: {command}\n{output}");
        output
    }

    /// Runs a shell command and returns its status and what it printed.
    pub(crate) fn attempt(&mut self, command: &str) -> (i32, String) {
        self.control.talk(command).unwrap_or_else(|error| {
            let console = self.console();
            panic!("the guest ended at: {command}: {error}\n{console}")
        })
    }

    /// Runs a shell command until it succeeds; returns what it printed then.
    pub(crate) fn run_until_it_succeeds(&mut self, command: &str) -> String {
        let deadline = clock::now() + PATIENCE;
        loop {
            let (status, output) = self.attempt(command);
            if status == 0 {
                return output;
            }
            assert!(clock::now() < deadline, "never: {command}\n{output}");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Starts the daemon with this `[video]` and `[audio]`, and waits until it serves.
    pub(crate) fn start_daemon(&mut self, video_and_audio: &str) {
        let configuration = format!(
            "{video_and_audio}\n\
             [room]\nkey = \"{KEY}\"\n\
             [server]\nlisten = \"0.0.0.0:8080\"\n\
             [webrtc]\nudp_port = {}\nadvertised_addresses = [\"127.0.0.1\"]\n",
            self.media_port
        );
        // A new name each time: the guest does not read again what it has read.
        let file = tempfile::Builder::new()
            .suffix(".toml")
            .tempfile_in(&self.directory);
        let (mut file, path) = file
            .and_then(|file| file.keep().map_err(|kept| kept.error))
            .expect("the temporary directory is writable");
        let written = file.write_all(configuration.as_bytes());
        written.expect("the temporary directory is writable");
        self.run(&format!(
            "chroot /host {} run --config {} >/run/log 2>&1 & echo $! >/run/pid",
            env!("CARGO_BIN_EXE_roomcam"),
            path.display()
        ));
        let deadline = clock::now() + PATIENCE;
        while !self.serves() {
            let log = self.log();
            assert!(clock::now() < deadline, "the daemon does not serve:\n{log}");
            assert!(self.daemon_runs(), "the daemon ended:\n{log}");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Returns whether the daemon that was started last still runs.
    pub(crate) fn daemon_runs(&mut self) -> bool {
        self.attempt("kill -0 $(cat /run/pid)").0 == 0
    }

    /// Returns what the daemon logged.
    pub(crate) fn log(&mut self) -> String {
        self.attempt("cat /run/log").1
    }

    /// Returns who holds `device` open, as process ids.
    pub(crate) fn holders(&mut self, device: &str) -> Vec<String> {
        let links = self.attempt("ls -l /proc/[0-9]*/fd 2>/dev/null").1;
        let mut process = "";
        let mut holders = Vec::new();
        for line in links.lines() {
            if let Some(directory) = line.strip_prefix("/proc/") {
                process = directory.split('/').next().unwrap_or_default();
            } else if line.ends_with(device) {
                holders.push(process.to_owned());
            }
        }
        holders
    }

    /// Returns the URL of the page, with room and key.
    pub(crate) fn url(&self) -> String {
        self.url_with(KEY)
    }

    /// The same with another key.
    pub(crate) fn url_with(&self, key: &str) -> String {
        format!("http://127.0.0.1:{}/#room=cam&key={key}", self.http_port)
    }

    /// Returns the UDP port at which the host reaches the guest's port of the same number.
    pub(crate) const fn media_port(&self) -> u16 {
        self.media_port
    }

    fn serves(&self) -> bool {
        let healthy = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.http_port))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            io::Result::Ok(answer.contains(" 200 "))
        };
        healthy().unwrap_or(false)
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self
                .control
                .talk("cat /run/log || journalctl --no-pager --boot --lines=80")
                .map(|(_, log)| log);
            failures::show("the daemon", &log.unwrap_or_default());
            failures::show("the guest's console", &self.console());
        }
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

/// Returns a TCP and a UDP port that nobody uses.
pub(crate) fn free_ports() -> (u16, u16) {
    let any = "127.0.0.1:0";
    let tcp = TcpListener::bind(any).and_then(|socket| socket.local_addr());
    let udp = UdpSocket::bind(any).and_then(|socket| socket.local_addr());
    let both = tcp.and_then(|tcp| Ok((tcp.port(), udp?.port())));
    both.expect("the loopback has free ports")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest")
}

/// Returns the directory of the guest's image, which is made if there is none.
pub(crate) fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let made = Command::new(scripts().join("build")).output();
        let made = made.expect("tests/guest/build starts");
        let errors = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "there is no guest: {errors}");
        PathBuf::from(String::from_utf8_lossy(&made.stdout).trim())
    })
}
