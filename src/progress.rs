//! Whether a thread that must not hang gets on.
//!
//! A capture thread says so each time round its loop, and that it waits for work where it does: a
//! driver that never returns is what is left. The daemon then keeps silent towards systemd, whose
//! watchdog starts it again. Pure.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread may be away. A capture thread comes round every 300 ms; opening a webcam that
/// does not answer takes the kernel 5 s a question.
pub const HUNG_AFTER: Duration = Duration::from_secs(15);

/// One thread's sign of life, shared with whoever watches over it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    /// The thread works, and was seen at `now`.
    pub fn made(&self, now: Instant) {
        self.set(Some(now));
    }

    /// The thread waits for work, for as long as it takes.
    pub fn idle(&self) {
        self.set(None);
    }

    /// Returns whether the thread works and was not seen for [`HUNG_AFTER`].
    #[must_use]
    pub fn is_hung(&self, now: Instant) -> bool {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|seen| now.saturating_duration_since(seen) >= HUNG_AFTER)
    }

    fn set(&self, seen: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_hangs_when_it_works_and_is_not_seen() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        assert!(!thread.is_hung(t0), "it did not start yet");
        thread.made(t0);
        assert!(!thread.is_hung(t0 + HUNG_AFTER / 2));
        assert!(thread.is_hung(t0 + HUNG_AFTER));
        thread.made(t0 + HUNG_AFTER);
        assert!(!thread.is_hung(t0 + HUNG_AFTER));
    }

    #[test]
    fn a_thread_that_waits_for_work_does_not_hang() {
        let thread = Progress::default();
        let t0 = crate::clock::now();
        thread.made(t0);
        thread.idle();
        assert!(!thread.is_hung(t0 + HUNG_AFTER * 9));
    }
}
