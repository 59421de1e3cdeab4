//! When something was captured: RTP timestamps, related to the device's clock by its sender reports
//! (RFC 3550 §6.4.1).
//!
//! Pure.

use std::num::NonZeroU32;
use std::time::Duration;

/// Seconds from 1900, where NTP begins, to 1970, where Unix time does.
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// What a sender report says of its stream: this timestamp is this moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SenderClock {
    /// In ticks of the stream's clock rate.
    pub timestamp: u32,
    /// By the device's clock.
    pub unix_time: Duration,
}

impl SenderClock {
    /// Takes what a report holds; `ntp` counts from 1900, in units of 2⁻³² s.
    #[must_use]
    pub fn new(timestamp: u32, ntp: u64) -> Self {
        let seconds = (ntp >> 32).saturating_sub(NTP_TO_UNIX);
        let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000) >> 32;
        Self {
            timestamp,
            unix_time: Duration::from_secs(seconds) + Duration::from_nanos(nanos),
        }
    }

    /// Returns the Unix time, by the device's clock, of `timestamp` in the same stream, which ticks so
    /// often in a second. Right for half of the way around: 6 hours of video either way.
    #[must_use]
    pub fn moment(&self, timestamp: u32, rate_hz: NonZeroU32) -> Duration {
        let ticks = timestamp.wrapping_sub(self.timestamp).cast_signed();
        let distance = u64::from(ticks.unsigned_abs()) * 1_000_000_000 / u64::from(rate_hz.get());
        let distance = Duration::from_nanos(distance);
        if ticks < 0 {
            self.unix_time.saturating_sub(distance)
        } else {
            self.unix_time + distance
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::clock::VIDEO_CLOCK_HZ;

    #[test]
    fn timestamps_before_and_behind_a_report_are_told_across_the_wrap() {
        let ntp = (1_700_000_000 + NTP_TO_UNIX) << 32 | 1 << 31;
        let clock = SenderClock::new(45_000, ntp);
        let half_past = Duration::from_millis(1_700_000_000_500);
        assert_eq!(clock.moment(45_000, VIDEO_CLOCK_HZ), half_past);
        let second = Duration::from_secs(1);
        assert_eq!(clock.moment(135_000, VIDEO_CLOCK_HZ), half_past + second);
        let before = 45_000_u32.wrapping_sub(90_000);
        assert_eq!(clock.moment(before, VIDEO_CLOCK_HZ), half_past - second);
    }

    #[test]
    fn a_report_of_a_device_that_does_not_know_the_time_is_no_trouble() {
        let clock = SenderClock::new(0, 7 << 32);
        assert_eq!(clock.unix_time, Duration::ZERO);
        let ancient = clock.moment(u32::MAX, VIDEO_CLOCK_HZ);
        assert_eq!(ancient, Duration::ZERO);
    }
}
