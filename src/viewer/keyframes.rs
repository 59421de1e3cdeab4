//! When the encoder is asked for a keyframe, over all viewers.
//!
//! A keyframe is 5 to 20 times the size of a delta frame, and every viewer receives it. One that is
//! wanted is asked for at once if none was in the last [`MIN_INTERVAL`], else when that has passed.
//! Pure.

use std::time::{Duration, Instant};

/// The least time between two keyframes that viewers ask for.
pub const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// Coalesces the wishes of all viewers.
#[derive(Debug, Default)]
pub struct KeyframeRequests {
    wanted: bool,
    last: Option<Instant>,
}

impl KeyframeRequests {
    /// Starts with nothing wanted.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wanted: false,
            last: None,
        }
    }

    /// Records that a viewer wants one: it joined, fell behind, or sent PLI or FIR.
    pub const fn request(&mut self) {
        self.wanted = true;
    }

    /// Records that a keyframe is on its way to everyone: all wishes so far are granted.
    pub const fn handle_keyframe(&mut self) {
        self.wanted = false;
    }

    /// Returns whether to ask the encoder now.
    pub fn poll(&mut self, now: Instant) -> bool {
        let due = self.poll_timeout().is_some_and(|at| at <= now) || self.is_first();
        if due {
            self.wanted = false;
            self.last = Some(now);
        }
        due
    }

    /// Returns when [`Self::poll`] next has something to say.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.last
            .filter(|_| self.wanted)
            .map(|last| last + MIN_INTERVAL)
    }

    const fn is_first(&self) -> bool {
        self.wanted && self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wish_is_granted_at_once() {
        let mut requests = KeyframeRequests::new();
        let t0 = crate::clock::now();
        assert!(!requests.poll(t0));
        requests.request();
        assert!(requests.poll(t0));
        assert!(!requests.poll(t0 + MIN_INTERVAL * 9), "granted once");
    }

    #[test]
    fn a_keyframe_that_was_asked_for_at_the_offer_serves_the_connection_too() {
        let mut requests = KeyframeRequests::new();
        let t0 = crate::clock::now();
        requests.request();
        assert!(requests.poll(t0), "the offer came");
        requests.request();
        assert!(!requests.poll(t0 + MIN_INTERVAL / 9), "connected");
        requests.handle_keyframe();
        assert!(!requests.poll(t0 + MIN_INTERVAL * 9));
    }

    #[test]
    fn fifty_viewers_in_a_second_make_three_keyframes() {
        let mut requests = KeyframeRequests::new();
        let t0 = crate::clock::now();
        let made = (0..50).filter(|i| {
            requests.request();
            requests.poll(t0 + Duration::from_millis(20) * *i)
        });
        assert_eq!(made.count(), 2);
        let due = requests.poll_timeout().unwrap();
        assert!(requests.poll(due));
        assert_eq!(requests.poll_timeout(), None);
    }
}
