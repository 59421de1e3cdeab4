//! How fast a room server is read.
//!
//! Servers of others pass on whatever anyone in a room says. Reading slower is enough: what is not read
//! fills the connection, and then waits at the server.
//!
//! Pure: a leaky bucket that is asked before each message.

use std::time::{Duration, Instant};

/// The pace over time: 50 messages a second. A page that joins says about twenty in all.
const INTERVAL: Duration = Duration::from_millis(20);

/// How many messages may come at once: ten pages that join in the same moment.
const BURST: u32 = 200;

/// The pace of one connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// When all messages so far are paid for.
    paid_at: Instant,
}

impl Flow {
    /// Starts with a full burst.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { paid_at: now }
    }

    /// Takes note of a message.
    pub fn handle_message(&mut self, now: Instant) {
        self.paid_at = self.paid_at.max(now) + INTERVAL;
    }

    /// Returns when the next message may be read, or `None`: now.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ready_at = self.paid_at.checked_sub(INTERVAL * BURST)?;
        (ready_at > now).then_some(ready_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_at_once_and_a_flood_at_fifty_a_second() {
        let start = crate::clock::now();
        let mut flow = Flow::new(start);
        let mut now = start;
        for read in 0..1_000_u32 {
            if let Some(at) = flow.poll_timeout(now) {
                now = at;
            }
            assert_eq!(now == start, read <= BURST, "{read}");
            flow.handle_message(now);
        }
        assert_eq!(now - start, INTERVAL * (1_000 - BURST - 1));
        let later = now + Duration::from_secs(60);
        assert_eq!(flow.poll_timeout(later), None, "it is forgiven in time");
    }
}
