//! An emulated 64-bit Raspberry Pi, as far as software sees one: its processor's instructions, Debian for
//! arm64 with its own kernel and systemd, and a network to this machine. `tests/emulated/` makes and
//! starts it.
//!
//! Unlike `guest`, all of it is that system's own, and the package is installed in it. Everything
//! is emulated, 10 to 20 times slower than this machine: the limits here are generous.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use roomcam::clock;
use tempfile::TempDir;

use crate::support::control::Control;
use crate::support::failures;
use crate::support::guest::free_ports;

/// How long anything in it may take. On a quiet machine, it boots in 20 s.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL_EVERY: Duration = Duration::from_millis(200);

/// A running machine. When it is dropped, it is gone, and what was written to its disk.
#[derive(Debug)]
pub(crate) struct Emulated {
    qemu: Child,
    control: Control,
    directory: TempDir,
    http_port: u16,
    media_port: u16,
}

impl Emulated {
    /// Boots this release of Debian, with the package in `/packages`.
    pub(crate) fn boot(suite: &str) -> Self {
        failures::tell_at_once();
        let directory = TempDir::new().expect("the temporary directory is writable");
        let socket = directory.path().join("control");
        let listener = UnixListener::bind(&socket).expect("a socket in a new directory");
        let console = File::create(directory.path().join("console"));
        let (http_port, media_port) = free_ports();
        // It ends with this process in any case.
        let mut qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(scripts().join("run"))
            .arg(image(suite))
            .args(["", "-snapshot"])
            .arg("-netdev")
            .arg(format!(
                "user,id=network,hostfwd=tcp:127.0.0.1:{http_port}-:8080,\
                 hostfwd=udp:127.0.0.1:{media_port}-:{media_port}"
            ))
            .args(["-device", "virtio-net-pci,netdev=network,romfile="])
            .arg("-virtfs")
            .arg(format!(
                "local,path={},mount_tag=packages,security_model=none,readonly=on",
                packages().display()
            ))
            .arg("-chardev")
            .arg(format!("socket,id=control,path={}", socket.display()))
            .args(["-device", "virtserialport,chardev=control"])
            .stdin(Stdio::null())
            .stdout(console.expect("a file in a new directory"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("setpriv, of util-linux, starts");
        let control = Control::accept(&listener, &mut qemu, PATIENCE);
        let mut machine = Self {
            qemu,
            control,
            directory,
            http_port,
            media_port,
        };
        machine.wait_for_boot();
        machine.run("mkdir /packages && modprobe 9p && modprobe 9pnet_virtio");
        machine.run("mount -t 9p -o trans=virtio,version=9p2000.L,ro packages /packages");
        machine
    }

    /// Reboots it.
    pub(crate) fn reboot(&mut self) {
        let said = self.control.say("systemctl --no-block reboot");
        said.expect("the machine runs");
        self.wait_for_boot();
    }

    /// Runs a shell command that succeeds; returns what it printed.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let (status, output) = self.attempt(command);
        assert_eq!(status, 0, "{command}\n{output}");
        output.trim_end().to_owned()
    }

    /// Runs a shell command; returns its status and what it printed.
    pub(crate) fn attempt(&mut self, command: &str) -> (i32, String) {
        self.control
            .talk(command)
            .unwrap_or_else(|error| panic!("{command}: {error}\n{}", self.console()))
    }

    /// Waits until the shell command succeeds; returns what it printed.
    pub(crate) fn until_it_succeeds(&mut self, command: &str) -> String {
        let deadline = clock::now() + PATIENCE;
        loop {
            let (status, output) = self.attempt(command);
            if status == 0 {
                return output.trim_end().to_owned();
            }
            assert!(clock::now() < deadline, "never: {command}\n{output}");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Writes a file, as an editor does.
    pub(crate) fn write(&mut self, path: &str, text: &str) {
        let text = text.replace('\n', "\\n");
        self.run(&format!("printf '{text}' >{path}"));
    }

    /// Returns the UDP port that leads from this machine's loopback to the same one there.
    pub(crate) fn media_port(&self) -> u16 {
        self.media_port
    }

    /// Returns the URL that leads from this machine's loopback to a URL there.
    pub(crate) fn seen_from_outside(&self, url: &str) -> String {
        let outside = format!("127.0.0.1:{}/", self.http_port);
        url.replacen("10.0.2.15:8080/", &outside, 1)
    }

    fn wait_for_boot(&mut self) {
        // A machine that goes down may still answer what took it down, or be too late for that.
        loop {
            let said = self.control.line();
            match said.as_deref() {
                Ok("READY\n") => break,
                Ok(answer) if answer.ends_with('\n') => {}
                _ => panic!("no boot: {said:?}\n{}", self.console()),
            }
        }
        let state = self.attempt("systemctl is-system-running --wait").1;
        if state.trim() != "running" {
            let failed = self.attempt("systemctl --failed; journalctl --no-pager --lines=40");
            panic!("{state}{}", failed.1);
        }
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console"));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.control.talk("journalctl --no-pager --lines=60");
            let log = log.map_or_else(|_| self.console(), |(_, log)| log);
            failures::show("the system", &log);
        }
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

/// Returns the package of this very program for arm64.
pub(crate) fn package() -> PathBuf {
    let files = std::fs::read_dir(packages()).expect("the package was made");
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    let found = files.find(|path| path.to_string_lossy().ends_with("_arm64.deb"));
    found.expect("the package was made")
}

/// Returns a command of the project's, to be run in its directory.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::null());
    command
}

/// Returns what a command printed, which succeeded.
pub(crate) fn printed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&stdout).trim().to_owned()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated")
}

/// Returns the directory of the image of a release, which is made if there is none.
fn image(suite: &str) -> PathBuf {
    PathBuf::from(printed(script("tests/emulated/build").arg(suite)))
}

/// Returns the directory of the package.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages-arm64");
        let mut made = script("scripts/aarch64");
        made.args(["scripts/package", "--profile", "dev", "--output"]);
        printed(made.arg(&directory).arg("arm64"));
        directory
    })
}
