//! Keeps a sound card's count of samples in step with our clock.
//!
//! A card has a crystal of its own: what it calls 48 000 samples takes 0.99990 to 1.00010 seconds of
//! ours, 0.36 s in an hour. Each period tells how much later it was captured than the count of samples
//! says. That is smoothed, because such times jitter by some milliseconds, and steers the resampling
//! ratio (a proportional-integral controller, critically damped): so the count is never off by more
//! than a few milliseconds, and the pitch changes by less than anyone hears.
//!
//! What is off by more than that can mend was lost, or came twice: then the count has to jump. One
//! time that is wrong does not make it jump, a few in a row do. Pure.

use std::time::Duration;

/// The most that the ratio is changed by: 500 ppm. Crystals are off by 100 at most; a hundredth of a
/// semitone is 580.
const MAX_CORRECTION: f64 = 500e-6;

/// How fast the correction may change, per second: a start with a wrong clock is no glide of pitch.
const MAX_SLEW: f64 = 100e-6;

/// How long offsets are smoothed for, in seconds: sees through the jitter of 64 periods of 10 ms.
const SMOOTHING: f64 = 0.64;

/// Time constant of the loop, in seconds. Jitter of 5 ms makes the ratio waver by 25 ppm, and a card
/// that is off by 200 ppm from the start is 1.5 ms late before the loop has caught up.
const TIME_CONSTANT: f64 = 20.0;

/// The most by which one period is believed to be off, in seconds: half a period of 10 ms or so is
/// jitter, all beyond is a thread that woke late.
const MAX_INNOVATION: f64 = 0.010;

/// From here on the count has to jump, in seconds. Nobody sees that a picture and its sound are 25 ms
/// apart (40 ms is what broadcasters allow).
const ASTRAY: f64 = 0.025;

/// So many periods in a row have to be astray, and to the same side, before that is believed.
const CONFIRMATIONS: i32 = 4;

/// The control loop of one stream.
#[derive(Debug, Default)]
pub(super) struct Drift {
    /// Capture times minus count, smoothed, in seconds. Positive: samples are missing.
    offset: f64,
    /// By how much the card is slower than ours, as far as is known.
    slowness: f64,
    /// What the ratio is changed by.
    correction: f64,
    /// How many periods in a row were too late (positive) or too early.
    astray: i32,
}

impl Drift {
    /// Takes how much later (in seconds; negative: earlier) a period was captured than the count
    /// says, and how long it lasts. Returns whether the count has to jump by that.
    pub(super) fn observe(&mut self, offset: f64, period: Duration) -> bool {
        let period = period.as_secs_f64();
        // Where there are no times but those of reading, they jitter by a period.
        if offset.abs() > ASTRAY.max(period) {
            let side = if offset > 0.0 { 1 } else { -1 };
            let was_same_side = self.astray * side > 0;
            self.astray = if was_same_side { self.astray } else { 0 } + side;
            return self.astray.abs() >= CONFIRMATIONS;
        }
        self.astray = 0;
        let innovation = (offset - self.offset).clamp(-MAX_INNOVATION, MAX_INNOVATION);
        self.offset += innovation * (period / SMOOTHING).min(1.0);
        false
    }

    /// The count has jumped to where the times are. How fast the card is does not change by that.
    pub(super) const fn jumped(&mut self) {
        self.offset = 0.0;
        self.astray = 0;
    }

    /// Returns what the ratio of output to input is to be multiplied by, from now for `duration`.
    pub(super) fn advance(&mut self, duration: Duration) -> f64 {
        let duration = duration.as_secs_f64();
        let wanted = self.slowness + self.offset * 2.0 / TIME_CONSTANT;
        if wanted.abs() < MAX_CORRECTION {
            self.slowness += self.offset * duration / (TIME_CONSTANT * TIME_CONSTANT);
        }
        let bounded = wanted.clamp(-MAX_CORRECTION, MAX_CORRECTION);
        let step = MAX_SLEW * duration;
        self.correction += (bounded - self.correction).clamp(-step, step);
        1.0 + self.correction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(20);
    const PERIOD: Duration = Duration::from_millis(10);
    const HOUR: f64 = 3_600.0;

    /// A card, a resampler and the loop between them, in seconds and samples. No sound.
    struct Simulation {
        drift: Drift,
        /// Samples per second of ours.
        real_hz: f64,
        delivered: f64,
        /// When the last of those was captured.
        delivered_until: f64,
        consumed: f64,
        /// The time that the next frame is given.
        next_at: f64,
        corrections: Vec<f64>,
    }

    impl Simulation {
        fn of_a_card_slow_by(ppm: f64) -> Self {
            Self {
                drift: Drift::default(),
                real_hz: 48_000.0 * (1.0 - ppm / 1e6),
                delivered: 0.0,
                delivered_until: 0.0,
                consumed: 0.0,
                next_at: 0.0,
                corrections: Vec::new(),
            }
        }

        /// Delivers a period whose time is wrong by `jitter` seconds; returns by how many seconds
        /// the time of the next frame is wrong.
        fn deliver(&mut self, jitter: f64) -> f64 {
            let captured_at = self.delivered_until + jitter;
            let counted_at = self.next_at + (self.delivered - self.consumed) / 48_000.0;
            let jumps = self.drift.observe(captured_at - counted_at, PERIOD);
            assert!(!jumps, "at {} s", self.next_at);
            self.delivered += 480.0;
            self.delivered_until += 480.0 / self.real_hz;
            while self.delivered - self.consumed >= 970.0 {
                let correction = self.drift.advance(FRAME);
                self.corrections.push(correction);
                self.consumed += 960.0 / correction;
                self.next_at += FRAME.as_secs_f64();
            }
            let pending = (self.delivered - self.consumed) / self.real_hz;
            self.next_at - (self.delivered_until - pending)
        }
    }

    /// The same numbers between 0 and 1 each time.
    fn noise() -> impl FnMut() -> f64 {
        let mut state = 1_u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            f64::from(u32::try_from(state >> 32).unwrap()) / f64::from(u32::MAX)
        }
    }

    /// Runs an hour; returns the largest error of all, and of the last 58 minutes, in milliseconds.
    fn an_hour(card: &mut Simulation, mut jitter: impl FnMut() -> f64) -> (f64, f64) {
        let (mut worst, mut settled) = (0.0_f64, 0.0_f64);
        while card.next_at < HOUR {
            let error = card.deliver(jitter()).abs() * 1_000.0;
            worst = worst.max(error);
            if card.next_at > 120.0 {
                settled = settled.max(error);
            }
        }
        (worst, settled)
    }

    #[test]
    fn an_hour_of_a_card_that_is_off_by_200_ppm_stays_within_3_ms() {
        for ppm in [-200.0, -20.0, 0.0, 20.0, 200.0] {
            let mut card = Simulation::of_a_card_slow_by(ppm);
            let (worst, settled) = an_hour(&mut card, || 0.0);
            assert!(worst < 3.0, "{ppm} ppm: {worst} ms");
            assert!(settled < 0.1, "{ppm} ppm: {settled} ms");
            let found = (card.corrections.last().unwrap() - 1.0) * 1e6;
            assert!((found - ppm).abs() < 1.0, "{ppm} ppm: {found}");
        }
    }

    #[test]
    fn jitter_of_arrival_moves_times_by_less_than_it_and_the_pitch_inaudibly() {
        let mut random = noise();
        for ppm in [-200.0, 200.0] {
            let mut card = Simulation::of_a_card_slow_by(ppm);
            let mut n = 0;
            let (worst, settled) = an_hour(&mut card, || {
                n += 1;
                // Times of reading: late by up to 8 ms, and by 300 ms once in 20 s.
                0.008 * random() + if n % 2_000 == 0 { 0.3 } else { 0.0 }
            });
            assert!(worst < 8.0, "{ppm} ppm: {worst} ms");
            // 4 ms of that is how late they are on average.
            assert!(settled < 5.0, "{ppm} ppm: {settled} ms");
            let settled = &card.corrections[6_000..];
            let error = |c: &f64| (c - 1.0 - ppm / 1e6).abs() * 1e6;
            let wavers = settled.iter().map(error).fold(0.0, f64::max);
            assert!(wavers < 100.0, "{ppm} ppm: {wavers} ppm");
            let steps = card.corrections.windows(2).map(|w| (w[0] - w[1]).abs());
            assert!(steps.fold(0.0, f64::max) < 2.1e-6);
        }
    }

    #[test]
    fn a_clock_that_changes_its_pace_is_followed() {
        let mut card = Simulation::of_a_card_slow_by(50.0);
        an_hour(&mut card, || 0.0);
        // It warms up: 100 ppm in a quarter of an hour.
        let mut worst = 0.0_f64;
        for _ in 0..90_000 {
            card.real_hz += 48_000.0 * 100e-6 / 90_000.0;
            worst = worst.max(card.deliver(0.0).abs());
        }
        assert!(worst < 0.000_2, "{worst}");
    }

    #[test]
    fn one_wrong_time_changes_nothing_and_some_in_a_row_make_the_count_jump() {
        let mut drift = Drift::default();
        for _ in 0..10 {
            assert!(!drift.observe(0.0, PERIOD));
            assert!(!drift.observe(0.5, PERIOD));
            assert!(!drift.observe(-0.5, PERIOD));
        }
        assert!((drift.advance(FRAME) - 1.0).abs() < 1e-9);
        let jumps = [0.03, 0.031, 0.029, 0.03].map(|offset| drift.observe(offset, PERIOD));
        assert_eq!(jumps, [false, false, false, true]);
        drift.jumped();
        assert!(!drift.observe(0.03, PERIOD));
        // A card with periods of 64 ms, and no times but those of reading.
        let coarse = Duration::from_millis(64);
        assert!((0..10).all(|_| !drift.observe(0.06, coarse)));
    }

    #[test]
    fn the_correction_is_bounded_and_does_not_wind_up() {
        let mut drift = Drift::default();
        for _ in 0..3_000 {
            drift.observe(0.02, PERIOD);
            drift.observe(0.02, PERIOD);
            assert!(drift.advance(FRAME) <= 1.0 + MAX_CORRECTION);
        }
        let mut frames = 0;
        while drift.advance(FRAME) > 1.0 {
            drift.observe(-0.001, PERIOD);
            drift.observe(-0.001, PERIOD);
            frames += 1;
            assert!(frames < 6_000, "{drift:?}");
        }
    }
}
