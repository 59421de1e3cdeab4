//! When to ping a peer, and when to give it up for dead.
//!
//! Both ends of a WebSocket ping: a NAT in between forgets an idle connection after a minute or
//! so, and a Pi whose power was cut never says good-bye.
//!
//! Pure: the driver says when something was heard, and sends the pings.

use std::time::{Duration, Instant};

/// How often each end pings. Below the 30 s after which the most forgetful NATs drop a connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Longest silence of a peer that is alive: two lost pings and some.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(40);

/// What is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Send a ping.
    Ping,
    /// The peer was silent for [`SILENCE_LIMIT`]: close.
    Dead,
}

/// The two timers of one connection.
#[derive(Clone, Debug)]
pub struct KeepAlive {
    last_heard: Instant,
    next_ping: Instant,
}

impl KeepAlive {
    /// Starts the timers of a connection that was made at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            last_heard: now,
            next_ping: now + PING_INTERVAL,
        }
    }

    /// Records that anything arrived from the peer.
    pub const fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Returns what is due at `now`. A ping that is due is due once.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if self.last_heard + SILENCE_LIMIT <= now {
            return Due::Dead;
        }
        if self.next_ping <= now {
            self.next_ping = now + PING_INTERVAL;
            return Due::Ping;
        }
        Due::Nothing
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_ping.min(self.last_heard + SILENCE_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_silent_peer_is_pinged_every_15_s_and_dead_after_40() {
        let start = crate::clock::now();
        let mut k = KeepAlive::new(start);
        let mut due = Vec::new();
        while due.last().is_none_or(|(_, d)| *d != Due::Dead) {
            let at = k.poll_timeout();
            due.push((at - start, k.handle_timeout(at)));
        }
        let expected = [(S(15), Due::Ping), (S(30), Due::Ping), (S(40), Due::Dead)];
        assert_eq!(due, expected);
    }

    #[test]
    fn a_peer_that_answers_lives_for_ever() {
        let start = crate::clock::now();
        let mut k = KeepAlive::new(start);
        for _ in 0..10_000 {
            let at = k.poll_timeout();
            assert_eq!(k.handle_timeout(at), Due::Ping);
            assert_eq!(k.handle_timeout(at), Due::Nothing);
            k.heard(at + S(1));
        }
    }
}
