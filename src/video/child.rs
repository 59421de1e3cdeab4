//! A program as a child process: what it writes to a pipe is for us, what it complains of for the log.
//!
//! In a process group of its own, so that its children end with it. It dies when the thread that
//! started it does, and is reaped when this value is dropped. Where memory is short, the kernel ends it
//! before us.
#![expect(
    unsafe_code,
    reason = "process groups, death signals and pipe sizes are not in std"
)]

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::mem;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::csi::{self, Line, LogBudget, settings};
use crate::clock;

/// How long a program may take to end by itself, then when it is asked to, then when it is killed.
const PATIENCE: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Most bytes of a line that are kept while its end is waited for; the rest is the next line.
const MOST_BYTES_OF_LINE: u64 = 4_096;

/// What of a program's words is kept.
#[derive(Debug, Default)]
struct Said {
    last_complaint: Option<String>,
    sensor: Option<String>,
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    /// Gone once it is reaped.
    child: Option<Child>,
    said: Arc<Mutex<Said>>,
    log: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts `program`; returns what it writes to its standard output as well.
    pub(super) fn start(program: &Path, arguments: &[String]) -> io::Result<(Self, ChildStdout)> {
        let parent = std::process::id();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: the closure runs between fork and exec, and makes system calls alone.
        unsafe {
            command.pre_exec(move || {
                let signal = libc::c_ulong::try_from(libc::SIGKILL).unwrap_or_default();
                if libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before that.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                volunteer_for_oom();
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut running = Self {
            child: Some(child),
            said: Arc::default(),
            log: None,
        };
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(io::Error::other("no pipe"));
        };
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let name = name.into_owned();
        let said = Arc::clone(&running.said);
        // Ends when the pipe does, which the program and its children hold.
        let log = thread::Builder::new().name("video-child".to_owned());
        running.log = Some(log.spawn(move || log_lines(&name, stderr, &said))?);
        Ok((running, stdout))
    }

    /// Returns the last thing that the program complained of.
    pub(super) fn last_complaint(&self) -> Option<String> {
        let said = self.said.lock();
        let said = said.unwrap_or_else(PoisonError::into_inner);
        said.last_complaint.clone()
    }

    /// Returns the sensor that the program says it uses.
    pub(super) fn sensor(&self) -> Option<String> {
        let said = self.said.lock();
        said.unwrap_or_else(PoisonError::into_inner).sensor.clone()
    }

    /// Waits a little for a program that is about to end, and ends it otherwise; returns how it ended,
    /// if it did by itself.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_ref()?;
        let by_itself = ends_within(child, PATIENCE);
        let status = self.stop();
        // Its last words may still be on their way.
        let deadline = clock::now() + PATIENCE;
        let is_read = |log: &JoinHandle<()>| log.is_finished() || clock::now() >= deadline;
        while !self.log.as_ref().is_none_or(is_read) {
            thread::sleep(LOOK_EVERY);
        }
        status.filter(|_| by_itself)
    }

    /// Asks the program to end, kills what is left of it and its children, and reaps it.
    fn stop(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if !ends_within(&child, Duration::ZERO) {
            signal(&child, libc::SIGINT);
            ends_within(&child, PATIENCE);
        }
        // While it is not reaped, its number is nobody else's.
        signal(&child, libc::SIGKILL);
        if ends_within(&child, PATIENCE) {
            return child.wait().ok();
        }
        // Stuck in a driver. It is reaped when it gets out.
        let reaper = thread::Builder::new().name("video-reaper".to_owned());
        let started = reaper.spawn(move || child.wait());
        if let Err(error) = started {
            tracing::warn!(%error, "a camera program that does not end is not waited for");
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a pipe hold up to `bytes`, where the system allows it.
pub(super) fn widen(pipe: &ChildStdout, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, and the argument is an integer.
    let _refused = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Has the kernel end this process first where memory is short: a camera program is started again, and
/// nobody loses sound or connection. Called between fork and exec.
fn volunteer_for_oom() {
    const FIRST: &[u8] = b"1000";
    // SAFETY: the path is a string that ends with a zero.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY) };
    if file >= 0 {
        // SAFETY: the buffer is valid for its length, and the descriptor is open.
        let _refused = unsafe { libc::write(file, FIRST.as_ptr().cast(), FIRST.len()) };
        // SAFETY: the descriptor is open, and nobody else's.
        unsafe { libc::close(file) };
    }
}

/// Sends a signal to the program and its children.
fn signal(child: &Child, signal: libc::c_int) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no memory is involved; the group is that of a child that is not reaped.
        let _gone = unsafe { libc::kill(-group, signal) };
    }
}

/// Waits until the program has ended; does not reap it.
fn ends_within(child: &Child, limit: Duration) -> bool {
    let deadline = clock::now() + limit;
    loop {
        // SAFETY: zero is a value of this struct of integers.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is valid for the call, and `child` is not reaped.
        let status = unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut info, options) };
        // SAFETY: zero, or what `waitid` wrote.
        let has_ended = status == 0 && unsafe { info.si_pid() } != 0;
        if has_ended || clock::now() >= deadline {
            return has_ended;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Passes on what a program writes to its standard error output, until it is closed.
fn log_lines(program: &str, stderr: ChildStderr, said: &Mutex<Said>) {
    let mut reader = BufReader::new(stderr);
    let mut budget = LogBudget::default();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = reader
            .by_ref()
            .take(MOST_BYTES_OF_LINE)
            .read_until(b'\n', &mut bytes);
        if !read.is_ok_and(|length| length > 0) {
            return;
        }
        let line = csi::printable(&bytes);
        let kind = csi::classify(&line);
        if kind == Line::Noise {
            continue;
        }
        let sensor = settings::sensor(&line).map(str::to_owned);
        if kind == Line::Complaint || sensor.is_some() {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if kind == Line::Complaint {
                said.last_complaint = Some(line.clone());
            }
            said.sensor = sensor.or(said.sensor.take());
        }
        match (budget.admit(clock::now()), kind) {
            (Some(left_out), Line::Complaint) => {
                tracing::warn!(program, line, left_out, "camera program complained");
            }
            (Some(left_out), _) => tracing::debug!(program, line, left_out, "camera program said"),
            (None, _) => {}
        }
    }
}
