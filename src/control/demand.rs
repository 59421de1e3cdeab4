//! Whether camera and microphone run: while someone watches, and a little longer. Pure.

use std::time::{Duration, Instant};

/// Follows the number of viewers.
#[derive(Debug)]
pub struct Demand {
    idle_timeout: Duration,
    watched: bool,
    /// When the last viewer left; `None` before the first one came.
    unwatched_since: Option<Instant>,
}

impl Demand {
    /// Creates the demand of a device that nobody watches yet: none.
    #[must_use]
    pub const fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            watched: false,
            unwatched_since: None,
        }
    }

    /// Takes another time that the devices stay open.
    pub const fn set_idle_timeout(&mut self, idle_timeout: Duration) {
        self.idle_timeout = idle_timeout;
    }

    /// Records whether someone watches.
    pub fn handle_viewers(&mut self, viewers: usize, now: Instant) {
        let watched = viewers > 0;
        if self.watched && !watched {
            self.unwatched_since = Some(now);
        }
        self.watched = watched;
    }

    /// Returns whether the devices should run.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.unwatched_since = None;
        }
        self.watched || self.unwatched_since.is_some()
    }

    /// Returns when the answer changes by itself.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.unwatched_since
            .filter(|_| !self.watched)
            .map(|since| since + self.idle_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_run_from_the_first_viewer_until_a_little_after_the_last() {
        let timeout = Duration::from_secs(10);
        let mut demand = Demand::new(timeout);
        let t0 = crate::clock::now();
        assert!(!demand.poll(t0), "nobody came yet");
        demand.handle_viewers(1, t0);
        assert!(demand.poll(t0 + timeout * 99));
        demand.handle_viewers(0, t0);
        assert!(demand.poll(t0 + timeout / 2));
        assert!(!demand.poll(t0 + timeout));
        assert_eq!(demand.poll_timeout(), None);
        demand.handle_viewers(1, t0 + timeout * 2);
        assert!(demand.poll(t0 + timeout * 2));
    }
}
