//! Whether a capture thread gets on.
//!
//! It says so each time round its loop, and with each frame; and that it waits for work, or for a
//! device that is not there, which is no fault of its own. Two things are left that only a new process
//! may mend: a driver that never returns, and a device that has stopped delivering although it was
//! opened again and again. The daemon then keeps silent towards systemd, whose watchdog starts it anew.
//! A device that has delivered nothing to this process yet is not one of them: the process before this
//! one could not mend it either, and sound and viewers are worth more than a third attempt. Pure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread may be away. A capture thread comes round every 300 ms; opening a webcam that
/// does not answer takes the kernel 5 s a question.
pub const HUNG_AFTER: Duration = Duration::from_secs(15);

/// How long an open device may deliver nothing. A silent one is opened again after 5 s; this is when
/// that has not helped three times.
pub const STARVED_AFTER: Duration = Duration::from_secs(20);

/// What only a new process may mend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The thread has not been seen for [`HUNG_AFTER`]: it is in the driver.
    Hung,
    /// The device, which has delivered before, has not for [`STARVED_AFTER`].
    Starved,
}

/// One thread's signs of life, shared with whoever watches over it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// When the thread was seen, while it works.
    seen: Option<Instant>,
    /// Since when the open device has delivered nothing.
    hungry_since: Option<Instant>,
    has_delivered: bool,
}

impl Progress {
    /// The thread works, and was seen at `now`.
    pub fn made(&self, now: Instant) {
        self.state().seen = Some(now);
    }

    /// The device is open: frames are to come.
    pub fn opened(&self, now: Instant) {
        self.state().hungry_since.get_or_insert(now);
    }

    /// A frame came.
    pub fn delivered(&self, now: Instant) {
        let mut state = self.state();
        state.hungry_since = Some(now);
        state.has_delivered = true;
    }

    /// No frames are to come: the device is missing, busy, or another one is wanted.
    pub fn excused(&self) {
        self.state().hungry_since = None;
    }

    /// The thread waits for work, for as long as it takes.
    pub fn idle(&self) {
        let mut state = self.state();
        state.seen = None;
        state.hungry_since = None;
    }

    /// Returns what only a new process may mend.
    #[must_use]
    pub fn lack(&self, now: Instant) -> Option<Lack> {
        let state = self.state();
        let is_past = |since: Option<Instant>, limit| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
        };
        if is_past(state.seen, HUNG_AFTER) {
            Some(Lack::Hung)
        } else if state.has_delivered && is_past(state.hungry_since, STARVED_AFTER) {
            Some(Lack::Starved)
        } else {
            None
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_thread_hangs_when_it_works_and_is_not_seen() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        assert_eq!(thread.lack(t0), None, "it did not start yet");
        thread.made(t0);
        assert_eq!(thread.lack(t0 + HUNG_AFTER / 2), None);
        assert_eq!(thread.lack(t0 + HUNG_AFTER), Some(Lack::Hung));
        thread.made(t0 + HUNG_AFTER);
        assert_eq!(thread.lack(t0 + HUNG_AFTER), None);
    }

    #[test]
    fn a_thread_that_waits_for_work_lacks_nothing() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        thread.made(t0);
        thread.delivered(t0);
        thread.idle();
        assert_eq!(thread.lack(t0 + HUNG_AFTER * 9), None);
    }

    /// The thread goes round, and its device is opened again each `SECOND`, until `end`.
    fn opened_in_vain(thread: &Progress, from: Instant, end: Instant) {
        let mut now = from;
        while now < end {
            thread.made(now);
            thread.opened(now);
            now += SECOND;
        }
        thread.made(end);
    }

    #[test]
    fn a_device_that_stops_delivering_starves_its_viewers_although_it_is_opened_again() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        thread.delivered(t0);
        opened_in_vain(&thread, t0, t0 + STARVED_AFTER);
        assert_eq!(thread.lack(t0 + STARVED_AFTER - SECOND), None);
        assert_eq!(thread.lack(t0 + STARVED_AFTER), Some(Lack::Starved));
        thread.delivered(t0 + STARVED_AFTER);
        assert_eq!(thread.lack(t0 + STARVED_AFTER), None);
    }

    #[test]
    fn a_device_that_a_new_process_did_not_mend_is_left_alone() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        opened_in_vain(&thread, t0, t0 + STARVED_AFTER * 9);
        assert_eq!(thread.lack(t0 + STARVED_AFTER * 9), None);
    }

    #[test]
    fn a_device_that_is_unplugged_or_taken_by_others_is_waited_for() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        thread.delivered(t0);
        thread.excused();
        let later = t0 + STARVED_AFTER * 9;
        thread.made(later);
        assert_eq!(thread.lack(later), None);
        thread.opened(later);
        assert_eq!(thread.lack(later), None, "its time starts when it is back");
    }
}
