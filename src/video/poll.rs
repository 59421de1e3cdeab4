//! Waiting for a file descriptor, with a limit (`poll(2)`).

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Waits up to `timeout` for one of `events`; returns those that are there, or 0. A signal ends the
/// wait early.
pub(super) fn wait(descriptor: RawFd, events: i16, timeout: Duration) -> io::Result<i16> {
    let mut poll = libc::pollfd {
        fd: descriptor,
        events,
        revents: 0,
    };
    // Rounded up: less than a millisecond must not become a busy loop.
    let timeout_ms = c_int::try_from(timeout.as_micros().div_ceil(1_000)).unwrap_or(c_int::MAX);
    #[expect(unsafe_code, reason = "std cannot wait for a file descriptor")]
    // SAFETY: `poll` is one valid pollfd for the duration of the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    if ready >= 0 {
        return Ok(poll.revents);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}
