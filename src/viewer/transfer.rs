//! A file on its way to a viewer over the control channel, in pieces: beside the picture, not before it.
//!
//! A piece leaves every [`INTERVAL`], unless too much of the channel is still unacknowledged. Pure.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// Longest piece, in bytes: every browser takes binary messages of 16 KiB, in several packets.
pub const CHUNK_BYTES: usize = 8 * 1024;

/// The time between two pieces: with [`CHUNK_BYTES`] 1.6 Mbit/s, less than a picture's own. A file of
/// 150 kB takes a second.
pub const INTERVAL: Duration = Duration::from_millis(40);

/// Most bytes of the channel on their way: on a slow path the file waits, not the picture.
pub const MAX_OUTSTANDING_BYTES: usize = 2 * CHUNK_BYTES;

/// The rest of a file.
#[derive(Debug)]
pub struct Transfer {
    rest: Bytes,
    next_at: Instant,
}

impl Transfer {
    /// Starts to send `file`.
    #[must_use]
    pub const fn new(file: Bytes, now: Instant) -> Self {
        Self {
            rest: file,
            next_at: now,
        }
    }

    /// Returns the next piece, if it may leave now; `outstanding` bytes of the channel are on their way.
    pub fn poll(&mut self, outstanding: usize, now: Instant) -> Option<Bytes> {
        if now < self.next_at || self.rest.is_empty() {
            return None;
        }
        self.next_at = now + INTERVAL;
        let fits = outstanding + CHUNK_BYTES <= MAX_OUTSTANDING_BYTES;
        let length = self.rest.len().min(CHUNK_BYTES);
        fits.then(|| self.rest.split_to(length))
    }

    /// Returns when [`Self::poll`] has something to say.
    #[must_use]
    pub const fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Returns whether all of it was sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_leaves_in_pieces_at_a_steady_pace() {
        let t0 = crate::clock::now();
        let file: Vec<u8> = (0..=u8::MAX).cycle().take(20_000).collect();
        let mut transfer = Transfer::new(file.clone().into(), t0);
        let mut now = t0;
        let mut received = Vec::new();
        let mut pieces = Vec::new();
        while !transfer.is_done() {
            let piece = transfer.poll(0, now).unwrap();
            assert_eq!(transfer.poll(0, now), None, "one at a time");
            pieces.push(piece.len());
            received.extend(piece);
            now = transfer.next_at();
        }
        assert_eq!(received, file);
        assert_eq!(pieces, [8_192, 8_192, 3_616]);
        assert_eq!(now - t0, INTERVAL * 3);
    }

    #[test]
    fn nothing_is_added_to_a_channel_that_does_not_drain() {
        let t0 = crate::clock::now();
        let mut transfer = Transfer::new(Bytes::from_static(b"file"), t0);
        assert_eq!(transfer.poll(MAX_OUTSTANDING_BYTES, t0), None);
        assert_eq!(transfer.poll(0, t0), None, "it is looked at again later");
        assert!(transfer.poll(0, t0 + INTERVAL).is_some());
        assert!(transfer.is_done());
    }
}
