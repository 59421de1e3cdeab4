//! The only place that reads a clock.
//!
//! Everything else is handed the time, so that tests can be an hour long in a millisecond.
//! `Instant` is `CLOCK_MONOTONIC` on Linux, the clock V4L2 and ALSA stamp their buffers with, so
//! driver timestamps convert exactly.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the file that reads the clock"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the time on the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time since 1970-01-01 UTC; zero where the clock is set before that.
///
/// A Pi has no battery-backed clock: never compute durations from this.
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns the time on the monotonic clock as a number, for those outside who count on it.
#[must_use]
pub fn monotonic() -> Duration {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[expect(unsafe_code, reason = "std does not expose the raw monotonic time")]
    // SAFETY: `spec` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut spec) };
    if status != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(spec.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(spec.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// Converts a driver's `CLOCK_MONOTONIC` timestamp to an `Instant`.
///
/// Some drivers stamp slightly in the future, others leave zero: the result is never later than
/// now, and an age of more than ten seconds counts as "no timestamp", which means now.
#[must_use]
pub fn from_monotonic(timestamp: Duration) -> Instant {
    const OLDEST: Duration = Duration::from_secs(10);
    let now = Instant::now();
    let age = monotonic().saturating_sub(timestamp);
    if age > OLDEST {
        return now;
    }
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_timestamp_in_the_future_means_now() {
        let before = now();
        let at = from_monotonic(Duration::from_secs(u64::from(u32::MAX)));
        assert!(at >= before && at <= now());
    }

    #[test]
    fn a_driver_that_leaves_zero_means_now() {
        let before = now();
        assert!(from_monotonic(Duration::ZERO) >= before);
    }
}
