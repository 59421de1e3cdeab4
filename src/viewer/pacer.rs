//! How fast queued frames leave for one viewer: a token bucket.
//!
//! A live frame passes at once. What does not is a burst: the last GOP that a newcomer gets, or a
//! keyframe on top of one. Sent in one go it would overflow the receive buffer of the browser's
//! socket (208 KiB by default on Linux), and everything would be lost and sent again. Pure.

use std::time::{Duration, Instant};

/// What may leave in one go, in bytes: below half of that socket buffer, and above any keyframe at
/// ordinary bitrates.
pub const BURST_BYTES: i64 = 96 * 1024;

/// What may leave in the long run, in bytes per second: 100 Mbit/s, twice the highest bitrate that
/// can be configured. A burst of half a second of an ordinary stream leaves in 10 ms.
pub const BYTES_PER_SECOND: i64 = 12_500_000;

/// Token bucket of one viewer. A frame is never split: the balance may go below zero.
#[derive(Debug)]
pub struct Pacer {
    balance: i64,
    updated: Instant,
}

impl Pacer {
    /// Creates a pacer with a full bucket.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            balance: BURST_BYTES,
            updated: now,
        }
    }

    /// Takes a frame of `bytes` if one may leave now.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.updated);
        let earned = i64::try_from(elapsed.as_micros())
            .unwrap_or(i64::MAX)
            .saturating_mul(BYTES_PER_SECOND)
            / 1_000_000;
        self.balance = self.balance.saturating_add(earned).min(BURST_BYTES);
        self.updated = self.updated.max(now);
        let may_leave = self.balance > 0;
        if may_leave {
            self.balance = self
                .balance
                .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        may_leave
    }

    /// Returns when the next frame may leave.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        let missing = u64::try_from(1 - self.balance).unwrap_or_default();
        let rate = u64::try_from(BYTES_PER_SECOND).unwrap_or(1);
        // Rounded up, so that there is something to take then.
        self.updated + Duration::from_micros(missing.saturating_mul(1_000_000) / rate + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_frames_are_never_held_back() {
        let t0 = crate::clock::now();
        let mut pacer = Pacer::new(t0);
        for i in 0..300 {
            assert!(pacer.take(20_000, t0 + Duration::from_millis(33) * i));
        }
    }

    #[test]
    fn a_burst_is_spread_at_the_paced_rate() {
        let t0 = crate::clock::now();
        let mut pacer = Pacer::new(t0);
        let (mut now, mut sent) = (t0, 0);
        while sent < 2_000_000 {
            if pacer.take(10_000, now) {
                sent += 10_000;
            } else {
                now = pacer.next_at();
            }
        }
        let took = (now - t0).as_secs_f64();
        assert!((0.14..0.17).contains(&took), "{took}");
    }
}
