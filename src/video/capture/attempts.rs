//! How often a camera that cannot be opened, or fails, is tried again.
//!
//! Pure.

use std::time::{Duration, Instant};

use crate::video::VideoError;

/// How long after a failure the source is opened again, first and then. A replugged camera is to be
/// back within two seconds; asking costs a few system calls.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);

/// The same where only another device or file can help.
const HOPELESS_RETRY: Duration = Duration::from_secs(5);

/// How long a source must have been live for its next failure to count as the first. A camera that
/// dies at each start must not fill the log four times a second.
const PROVEN: Duration = Duration::from_secs(5);

/// Where a source is in the diagram above, over all attempts of one run.
#[derive(Default)]
pub(super) struct Attempts {
    failures: u32,
    pub(super) live_since: Option<Instant>,
    pub(super) was_live: bool,
}

impl Attempts {
    /// Records a failure and returns how long to wait before the next attempt.
    pub(super) fn failed(&mut self, error: &VideoError, now: Instant) -> Duration {
        let live_since = self.live_since.take();
        if live_since.is_some_and(|since| now.saturating_duration_since(since) >= PROVEN) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            FIRST_RETRY
        } else if error.is_retryable() {
            RETRY
        } else {
            HOPELESS_RETRY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn missing() -> VideoError {
        VideoError::Missing {
            name: "/dev/video0".to_owned(),
        }
    }

    #[test]
    fn the_first_retry_is_quick_and_only_a_proven_camera_earns_another() {
        let t0 = clock::now();
        let mut attempts = Attempts::default();
        assert_eq!(attempts.failed(&missing(), t0), FIRST_RETRY);
        attempts.live_since = Some(t0);
        assert_eq!(attempts.failed(&missing(), t0 + RETRY), RETRY);
        attempts.live_since = Some(t0);
        assert_eq!(attempts.failed(&missing(), t0 + PROVEN), FIRST_RETRY);
        let format = VideoError::Format {
            path: "/dev/video0".into(),
            wanted: "H264".to_owned(),
            offered: "MJPG".to_owned(),
        };
        assert_eq!(attempts.failed(&format, t0), HOPELESS_RETRY);
    }
}
