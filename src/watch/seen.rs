//! What a viewer has seen so far.
//!
//! Pure.

use std::time::Instant;

use super::protocol::{DeviceState, Refusal, Reply, Setting};
use super::tally::Counts;
use super::timing::SenderClock;

/// How many candidates, refusals and replies are kept; later ones are dropped.
const MAX_KEPT: usize = 32;

/// Longest file that is kept, in bytes.
const MAX_FILE_BYTES: usize = 8 << 20;

/// What a viewer has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The instance of the device in the room.
    pub device: Option<String>,
    /// The instance of the device that the peer connection was made with.
    pub met: Option<String>,
    /// When the offer was sent.
    pub offered: Option<Instant>,
    /// When the answer came.
    pub answered: Option<Instant>,
    /// When ICE and DTLS were done.
    pub connected: Option<Instant>,
    /// How the connection to the device is.
    pub connection: Connection,
    /// When the control channel opened; `None` again once it is closed.
    pub control_open: Option<Instant>,
    /// The state that the device told last.
    pub state: Option<DeviceState>,
    /// How many states it told.
    pub states: u64,
    /// Replies to numbers that nobody waits for.
    pub replies: Vec<Reply>,
    /// What the room server or the device refused.
    pub refusals: Vec<Refusal>,
    /// Our candidates, as `host 192.0.2.7:4000`.
    pub local_candidates: Vec<String>,
    /// The device's candidates.
    pub remote_candidates: Vec<String>,
    /// Whether the room server's connection is there.
    pub in_room: bool,
    /// What can be set of the camera, as the device told it last.
    pub controls: Vec<Setting>,
    /// The file that came last, or as much of it as is here.
    pub file: Vec<u8>,
    /// Why the device ended that we speak.
    pub talking_ended: Option<Refusal>,
    /// What the device reported last of when pictures were captured.
    pub picture_clock: Option<SenderClock>,
    /// The same of sound.
    pub sound_clock: Option<SenderClock>,
    /// What came in.
    pub counts: Counts,
}

impl Seen {
    /// Returns the refusal that ends all hope for an answer, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusals.first()
    }

    /// Takes what the device told of the camera's controls: all of them, or those that changed.
    pub(super) fn handle_controls(&mut self, are_all: bool, told: Vec<Setting>) {
        if are_all {
            self.controls = told;
            return;
        }
        for new in told {
            if let Some(old) = self.controls.iter_mut().find(|old| old.id == new.id) {
                *old = new;
            }
        }
    }

    /// Takes a piece of a file.
    pub(super) fn handle_piece(&mut self, piece: &[u8]) {
        if self.file.len() + piece.len() <= MAX_FILE_BYTES {
            self.file.extend_from_slice(piece);
        }
    }

    /// Returns whether the peer connection runs, and was made with this `instance` of the device.
    #[must_use]
    pub fn runs_with(&self, instance: &str) -> bool {
        self.connection == Connection::Connected && self.met.as_deref() == Some(instance)
    }
}

/// How the connection to the device is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Connection {
    /// Nothing was agreed on yet.
    #[default]
    New,
    /// ICE and DTLS are at work.
    Connecting,
    /// Media can flow.
    Connected,
    /// Nothing came for a while; it may recover.
    Disconnected,
    /// ICE or DTLS gave up.
    Failed,
    /// One of the sides ended it.
    Closed,
}

/// Adds `item`, unless there are enough.
pub(super) fn keep<T>(items: &mut Vec<T>, item: T) {
    if items.len() < MAX_KEPT {
        items.push(item);
    }
}

/// Returns the candidates of a description, as [`summary`] tells them.
pub(super) fn candidates_in(sdp: &str) -> Vec<String> {
    let mut candidates: Vec<String> = sdp
        .lines()
        .filter_map(|line| summary(line.strip_prefix("a=")?))
        .collect();
    candidates.dedup();
    candidates
}

/// Returns type and address of a candidate line (RFC 8839 §5.1), as `host 192.0.2.7:4000`, with
/// `tcp` where it is; `None` for what is no candidate.
pub(super) fn summary(candidate: &str) -> Option<String> {
    let mut words = candidate
        .strip_prefix("candidate:")?
        .split_ascii_whitespace();
    let transport = words.nth(2)?.to_ascii_lowercase();
    let address = words.nth(1)?;
    let port = words.next()?;
    let kind = words.nth(1)?;
    let tcp = if transport == "tcp" { " tcp" } else { "" };
    Some(format!("{kind} {address}:{port}{tcp}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_merely_rejoins_keeps_its_running_peer() {
        let mut seen = Seen {
            device: None, // it left, and comes back
            met: Some("i".to_owned()),
            connection: Connection::Connected,
            ..Seen::default()
        };
        assert!(seen.runs_with("i"));
        assert!(!seen.runs_with("j"));
        for connection in [
            Connection::New,
            Connection::Connecting,
            Connection::Disconnected,
            Connection::Failed,
            Connection::Closed,
        ] {
            seen.connection = connection;
            assert!(!seen.runs_with("i"), "{connection:?}");
        }
    }

    #[test]
    fn candidates_are_told_by_type_and_address() {
        let sdp = "v=0\r\na=candidate:1 1 udp 2130706431 192.0.2.7 4000 typ host\r\n\
            a=candidate:2 1 TCP 1 192.0.2.8 9 typ srflx raddr 0.0.0.0 rport 0\r\na=mid:0\r\n";
        assert_eq!(
            candidates_in(sdp),
            ["host 192.0.2.7:4000", "srflx 192.0.2.8:9 tcp"]
        );
        assert_eq!(summary("candidate:1 1 udp"), None);
        assert_eq!(summary(""), None);
    }
}
