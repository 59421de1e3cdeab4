//! Tells systemd what the daemon does (`sd_notify(3)`): a datagram to the socket it names.
//!
//! Without systemd every call does nothing. A message that cannot be sent is no failure: systemd
//! draws its own conclusions.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Longest status text, in characters: what fits a line of `systemctl status`.
const MAX_STATUS_CHARS: usize = 200;

/// The way to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`: a path, or an abstract name behind an `@`.
    #[must_use]
    pub fn from_env() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        Self {
            socket: name.as_deref().and_then(connect),
        }
    }

    /// The daemon is up: `READY=1`.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It reads its configuration again, as of `now` on the monotonic clock; [`Self::ready`] ends that.
    pub fn reloading(&self, now: Duration) {
        let now = now.as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// What it is doing, in words: `STATUS=…`.
    pub fn status(&self, text: &str) {
        let line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_STATUS_CHARS)
            .collect();
        self.send(&format!("STATUS={line}"));
    }

    /// It is going down: `STOPPING=1`.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// It is alive: `WATCHDOG=1`. Harmless where no watchdog is configured.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, "systemd did not take a message");
        }
    }
}

fn connect(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    // A full queue at systemd's end must not hold up the daemon.
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(name: &OsStr, listener: &UnixDatagram) -> Vec<String> {
        let notifier = Notifier {
            socket: connect(name),
        };
        notifier.ready();
        notifier.status("2 viewers\nREADY=0");
        notifier.reloading(Duration::from_secs(7));
        notifier.stopping();
        let mut buffer = [0; 256];
        (0..4)
            .map(|_| {
                let length = listener.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            })
            .collect()
    }

    const EXPECTED: [&str; 4] = [
        "READY=1",
        "STATUS=2 viewers READY=0",
        "RELOADING=1\nMONOTONIC_USEC=7000000",
        "STOPPING=1",
    ];

    #[test]
    fn systemd_is_told_over_a_path_and_nothing_can_be_smuggled_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(received(path.as_os_str(), &listener), EXPECTED);
    }

    #[test]
    fn systemd_is_told_over_an_abstract_name() {
        let name = format!("roomcam-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        assert_eq!(
            received(OsStr::new(&format!("@{name}")), &listener),
            EXPECTED
        );
    }

    #[test]
    fn without_systemd_nothing_happens() {
        Notifier { socket: None }.ready();
    }
}
