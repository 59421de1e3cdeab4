//! When the next picture of a made-up source is due: absolute deadlines at a frame rate.
//!
//! Deadlines are computed from the origin, so that rounding and late wake-ups do not add up. Whoever
//! falls behind by more than a frame skips to the present instead of hurrying after it. Pure, but
//! for [`Metronome::wait`], which sleeps.

use std::time::{Duration, Instant};

use crate::clock;

/// Longest sleep in one go, so that the capture thread notices that it is to stop.
const LONGEST_NAP: Duration = Duration::from_millis(200);

/// The deadlines of one source.
#[derive(Debug)]
pub(super) struct Metronome {
    origin: Instant,
    fps: u32,
    next_beat: u64,
}

impl Metronome {
    /// Creates a metronome whose first beat is at `origin`. Zero `fps` counts as one.
    pub(super) const fn new(fps: u32, origin: Instant) -> Self {
        Self {
            origin,
            fps: if fps == 0 { 1 } else { fps },
            next_beat: 0,
        }
    }

    /// Sleeps until the next beat, but not much longer than 200 ms. Returns whether it has come.
    pub(super) fn wait(&mut self) -> bool {
        let nap = self.until_next(clock::now()).min(LONGEST_NAP);
        if !nap.is_zero() {
            std::thread::sleep(nap);
        }
        self.beat(clock::now())
    }

    /// Returns how long it is to the next beat.
    fn until_next(&self, now: Instant) -> Duration {
        self.deadline(self.next_beat).saturating_duration_since(now)
    }

    /// Takes the next beat if it is due.
    fn beat(&mut self, now: Instant) -> bool {
        if now < self.deadline(self.next_beat) {
            return false;
        }
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let present = elapsed * u128::from(self.fps) / 1_000_000_000;
        let present = u64::try_from(present).unwrap_or(u64::MAX);
        self.next_beat = self.next_beat.max(present).saturating_add(1);
        true
    }

    fn deadline(&self, beat: u64) -> Instant {
        let fps = u64::from(self.fps);
        let nanos = (beat % fps) * 1_000_000_000 / fps;
        let offset = Duration::from_secs(beat / fps) + Duration::from_nanos(nanos);
        self.origin.checked_add(offset).unwrap_or(self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn beats_stay_on_the_grid_however_late_each_was_taken() {
        let t0 = clock::now();
        let mut metronome = Metronome::new(50, t0);
        for beat in 0..500 {
            let due = t0 + MS(20) * beat;
            assert_eq!(metronome.until_next(due), Duration::ZERO);
            assert!(metronome.beat(due + MS(7)));
            assert_eq!(metronome.until_next(due + MS(7)), MS(13));
            assert!(!metronome.beat(due + MS(7)));
        }
    }

    #[test]
    fn a_third_of_a_second_does_not_add_up_to_a_drift() {
        let t0 = clock::now();
        let mut metronome = Metronome::new(3, t0);
        let hour = Duration::from_secs(3_600);
        assert!(metronome.beat(t0 + hour));
        let next = t0 + hour + metronome.until_next(t0 + hour);
        assert_eq!(next - t0, hour + Duration::from_nanos(333_333_333));
    }

    #[test]
    fn whoever_falls_behind_skips_to_the_present() {
        let t0 = clock::now();
        let mut metronome = Metronome::new(10, t0);
        assert!(metronome.beat(t0));
        assert!(metronome.beat(t0 + MS(5_050)));
        assert!(!metronome.beat(t0 + MS(5_050)), "no hurrying after it");
        assert_eq!(metronome.until_next(t0 + MS(5_050)), MS(50));
    }
}
