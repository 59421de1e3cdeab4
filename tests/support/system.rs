//! A booted Debian with systemd, in which a test installs the package; in the words of
//! `tests/system/boot`.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use roomcam::clock;
use tempfile::TempDir;

use crate::support::failures;
use crate::support::guest::{self, Guest};

/// How long anything may take that is not measured. The machine may have other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

const POLL_EVERY: Duration = Duration::from_millis(50);

/// Our end of the cable, and the system's.
const OUR_ADDRESS: &str = "10.86.0.1/24";
const ITS_ADDRESS: &str = "10.86.0.2/24";

/// The service shows a small test picture, which an unoptimized program draws in time.
const PATTERN: &str = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\nfps = 15\n\
                       [audio]\nsource = \"tone\"\n\
                       [server]\nlisten = \"0.0.0.0:8080\"\n[webrtc]\nudp_port = 8080\n";

/// A running system. Ends with its test, and leaves nothing.
#[derive(Debug)]
pub(crate) struct System {
    script: Child,
    directory: TempDir,
}

impl System {
    /// Boots one, with the packages at `/packages` and no network.
    pub(crate) fn boot() -> Self {
        failures::tell_at_once();
        let directory = tempfile::tempdir().expect("there is room");
        let console = File::create(directory.path().join("console")).expect("there is room");
        let errors = console.try_clone().expect("a file has handles");
        let script = Command::new(scripts().join("boot"))
            .arg(root())
            .arg(directory.path())
            .arg(format!("--bind-ro={}:/packages", packages().display()))
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(errors)
            .spawn()
            .expect("tests/system/boot starts");
        let mut system = Self { script, directory };
        system.wait_for_boot();
        system
    }

    /// Boots one, connects it, and installs the package, whose service shows the test picture.
    pub(crate) fn with_service() -> Self {
        let system = Self::boot();
        system.install(1);
        system.connect();
        system.configure("roomcam", PATTERN);
        system.run("systemctl restart roomcam");
        system
    }

    /// Installs this revision of the package, or upgrades to it.
    pub(crate) fn install(&self, revision: u32) {
        self.run(&format!(
            "DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /packages/roomcam_*-{revision}_*.deb"
        ));
    }

    /// Gives the service `name` a configuration, as an editor does.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let path = format!("/etc/roomcam/{name}.toml");
        self.run(&format!("printf %s '{text}' >{path}; chmod 644 {path}"));
    }

    /// Writes a file with these permissions, whatever quotes are in it.
    pub(crate) fn write(&self, path: &str, text: &str, mode: &str) {
        let writing = format!("cat >{path} && chmod {mode} {path}");
        let mut writer = self.command(&writing);
        let mut writer = writer
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter starts");
        let input = writer.stdin.take();
        let written = input.map(|mut input| input.write_all(text.as_bytes()));
        assert!(matches!(written, Some(Ok(()))), "{written:?}");
        assert!(writer.wait().is_ok_and(|status| status.success()), "{path}");
    }

    /// Plugs in the network cable.
    pub(crate) fn connect(&self) {
        self.run(&format!(
            "ip address add {ITS_ADDRESS} dev host0 && ip link set host0 up"
        ));
        let ours = format!(
            "cable=$(ip -br link | sed -n 's/^\\(ve-[^@ ]*\\).*/\\1/p') && \
             ip address add {OUR_ADDRESS} dev $cable && ip link set $cable up"
        );
        let output = self.outside("sh", &["-c", &ours]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Reboots it.
    pub(crate) fn reboot(&mut self) {
        let before = self.leader();
        // The answer may not come any more.
        drop(self.command("systemctl reboot").status());
        self.until("it goes down", |system| system.leader() != before);
        self.wait_for_boot();
    }

    /// Runs a shell command that succeeds; returns what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let (status, output) = self.attempt(command);
        assert_eq!(status, 0, "{command}\n{output}");
        output
    }

    /// Runs a shell command; returns its status and what it printed.
    pub(crate) fn attempt(&self, command: &str) -> (i32, String) {
        let output = self.command(&format!("exec 2>&1; {command}")).output();
        let output = output.expect("nsenter starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Waits until `condition` holds; returns how long that took.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Duration {
        let start = clock::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(POLL_EVERY);
        }
        start.elapsed()
    }

    /// Waits until the shell command succeeds; returns what it printed.
    pub(crate) fn until_it_succeeds(&self, command: &str) -> String {
        let mut output = String::new();
        self.until(command, |system| {
            let (status, text) = system.attempt(command);
            output = text;
            status == 0
        });
        output
    }

    /// Runs a program of this machine at the other end of the cable.
    pub(crate) fn outside(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.outside_command(program, arguments).output();
        output.expect("nsenter starts")
    }

    /// The same, to be started.
    pub(crate) fn outside_command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.script.id().to_string();
        command.args(["--net", "--target", &target, "--", program]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Does `work` at the other end of the cable: its sockets are there, and so are its processes.
    pub(crate) fn do_outside<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.script.id()));
        let namespace = namespace.expect("the script runs");
        let thread = move || {
            enter(&namespace);
            // Its threads are where this one is.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            runtime.expect("threads are to be had").block_on(work)
        };
        let ended = std::thread::scope(|scope| scope.spawn(thread).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Returns the process of a service.
    pub(crate) fn main_pid(&self, unit: &str) -> String {
        let pid = self.run(&format!("systemctl show --property=MainPID --value {unit}"));
        pid.trim().to_owned()
    }

    /// Waits until a service is up with another process than `before`.
    pub(crate) fn wait_for_another(&self, unit: &str, before: &str) {
        self.until("another process is up", |system| {
            system.main_pid(unit) != before
                && system.attempt(&format!("systemctl is-active {unit}")).0 == 0
        });
    }

    /// Returns what a service logged.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(&format!(
            "journalctl --no-pager --output=cat --boot --unit={unit}"
        ))
    }

    fn wait_for_boot(&mut self) {
        let deadline = clock::now() + PATIENCE;
        while !self.has_booted() {
            let ended = self.script.try_wait().ok().flatten();
            assert!(ended.is_none(), "{ended:?}\n{}", self.console());
            assert!(clock::now() < deadline, "no boot:\n{}", self.console());
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn has_booted(&self) -> bool {
        let state = self.attempt("systemctl is-system-running").1;
        self.leader().is_some() && matches!(state.trim(), "running" | "degraded")
    }

    /// Returns the process id, seen from here, of the system's first process.
    fn leader(&self) -> Option<u32> {
        let first_child = |pid: u32| -> Option<u32> {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            children.ok()?.split_whitespace().next()?.parse().ok()
        };
        // The script, systemd-nspawn, systemd.
        first_child(self.script.id()).and_then(first_child)
    }

    fn command(&self, command: &str) -> Command {
        let leader = self.leader().unwrap_or(u32::MAX).to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        nsenter.args(["--target", &leader, "--", "/bin/sh", "-c", command]);
        // Nothing of this machine's, least of all its home or a socket of its service manager.
        nsenter.env_clear().env("HOME", "/root");
        nsenter.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        nsenter.stdin(Stdio::null());
        nsenter
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console"));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader().is_some() {
            let log = self.attempt("journalctl --no-pager --boot --lines=60").1;
            failures::show("the system", &log);
        }
        // All of it ends with its first process, and what it was mounted on with that.
        if let Some(leader) = self.leader() {
            let pid = leader.to_string();
            drop(Command::new("kill").args(["-KILL", &pid]).status());
        }
        let deadline = clock::now() + Duration::from_secs(10);
        while matches!(self.script.try_wait(), Ok(None)) && clock::now() < deadline {
            std::thread::sleep(POLL_EVERY);
        }
        self.script.kill().ok();
        self.script.wait().ok();
    }
}

/// Returns where this revision of the package is.
pub(crate) fn package(revision: u32) -> PathBuf {
    let number = format!("-{revision}_");
    let files = std::fs::read_dir(packages()).expect("the packages were made");
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    let found = files.find(|path| path.to_string_lossy().contains(&number));
    found.expect("this revision was made")
}

/// Boots the system in an emulated machine, with the package installed.
pub(crate) async fn emulate() -> Guest {
    let image = tempfile::tempdir().expect("there is room");
    let made = Command::new(scripts().join("emulate"))
        .args([root(), guest::image(), &package(1), image.path()])
        .stdin(Stdio::null())
        .output();
    printed(&made.expect("tests/system/emulate starts"));
    Guest::start_image(image.path(), &["-m", "2048"], &[]).await
}

/// Takes this thread to a network namespace.
#[expect(unsafe_code, reason = "std does not know namespaces")]
fn enter(namespace: &File) {
    // SAFETY: the call takes a descriptor, which is open, and touches no memory of ours.
    let status = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "root may: {}", std::io::Error::last_os_error());
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system")
}

/// Returns the root file system, which is made if there is none.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let made = Command::new(scripts().join("build")).output();
        PathBuf::from(printed(&made.expect("tests/system/build starts")))
    })
}

/// Returns the directory of the packages, of two revisions of this very program.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        for revision in ["1", "2"] {
            let made = Command::new("scripts/package")
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["--profile", "dev", "--revision", revision, "--output"])
                .arg(&directory)
                .output();
            printed(&made.expect("scripts/package starts"));
        }
        directory
    })
}

/// Returns the line that a script printed, which succeeded.
fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
