//! A tone to test with: 440 Hz that swells once a second, at the pace of a sound card.
//!
//! Never silent, so that a test can measure its energy at any moment, and never steady, so that
//! an ear hears at once when it freezes. [`Generator`] is pure; [`Tone`] gives it a clock.

use std::f64::consts::TAU;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use super::{AudioError, AudioSource, Period, SAMPLE_RATE_HZ};
use crate::clock;

const TONE_HZ: f64 = 440.0;

/// −20 dBFS, sine peak: audible on a phone, no shock in headphones.
const PEAK: f64 = 0.1;

/// As most sound cards deliver: half an Opus frame.
const PERIOD: Duration = Duration::from_millis(10);
const PERIOD_SAMPLES: usize = 480;

const RATE: NonZeroU32 = NonZeroU32::new(SAMPLE_RATE_HZ).unwrap();

/// More than this behind (the machine slept), the tone goes on from now instead of catching up.
const MAX_LAG: Duration = Duration::from_millis(200);

/// A tone at the pace of the clock.
#[derive(Debug)]
pub(super) struct Tone {
    generator: Generator,
    /// When the first sample of the next period is "captured".
    next_at: Instant,
    period: Period,
}

impl Tone {
    /// Starts the tone now.
    pub(super) fn start() -> Self {
        let now = clock::now();
        Self {
            generator: Generator::default(),
            next_at: now,
            period: Period {
                samples: Vec::with_capacity(PERIOD_SAMPLES),
                captured_at: now,
                follows_gap: false,
            },
        }
    }
}

impl AudioSource for Tone {
    fn rate_hz(&self) -> NonZeroU32 {
        RATE
    }

    fn next(&mut self) -> Result<Option<&Period>, AudioError> {
        // A period exists once its last sample was captured, as with a microphone.
        let due = self.next_at + PERIOD;
        let now = clock::now();
        thread::sleep(due.saturating_duration_since(now));
        self.period.follows_gap = now.saturating_duration_since(due) > MAX_LAG;
        if self.period.follows_gap {
            self.next_at = now;
        }
        self.period.captured_at = self.next_at;
        self.next_at += PERIOD;
        self.period.samples.clear();
        let samples = self.generator.by_ref().take(PERIOD_SAMPLES);
        self.period.samples.extend(samples);
        Ok(Some(&self.period))
    }

    fn description(&self) -> String {
        "a test tone of 440 Hz".to_owned()
    }
}

/// The samples of the tone, for ever.
#[derive(Debug, Default)]
pub(super) struct Generator {
    /// Samples since the last whole second. The tone repeats exactly every second, because its
    /// frequency is whole, so this never grows and the phase never jumps.
    position: u32,
}

impl Iterator for Generator {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        let seconds = f64::from(self.position) / f64::from(SAMPLE_RATE_HZ);
        self.position = (self.position + 1) % SAMPLE_RATE_HZ;
        // Loudest at each whole second, a quarter of that between them.
        let swell = 0.375_f64.mul_add((TAU * seconds).cos(), 0.625);
        let sample = PEAK * swell * (TAU * TONE_HZ * seconds).sin();
        #[expect(clippy::cast_possible_truncation, reason = "|sample| ≤ PEAK")]
        Some(sample as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tone_is_440_hz_at_minus_20_dbfs() {
        let second: Vec<f32> = Generator::default().take(48_000).collect();
        let rising = second.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0);
        let rising = rising.count();
        assert!((439..=440).contains(&rising), "{rising}");
        let peak = second.iter().copied().fold(0.0, f32::max);
        assert!((0.098..=0.1).contains(&peak), "{peak}");
    }

    #[test]
    fn the_tone_is_never_silent_and_never_clicks() {
        let samples: Vec<f32> = Generator::default().take(3 * 48_000).collect();
        for frame in samples.chunks(960) {
            assert!(frame.iter().any(|s| s.abs() > 0.02));
        }
        let steps = samples.windows(2).map(|w| (w[0] - w[1]).abs());
        let step = steps.fold(0.0, f32::max);
        // A 440 Hz sine with this peak moves by at most 2π·440/48000·0.1 ≈ 0.0058 a sample.
        assert!(step < 0.006, "{step}");
    }

    #[test]
    fn periods_follow_each_other_without_a_gap() {
        let mut tone = Tone::start();
        let started_at = tone.next_at;
        let mut samples = Vec::new();
        for n in 0..5 {
            let period = tone.next().unwrap().unwrap();
            assert_eq!(period.captured_at, started_at + PERIOD * n);
            samples.extend_from_slice(&period.samples);
        }
        assert!(clock::now() >= started_at + PERIOD * 5);
        let whole: Vec<f32> = Generator::default().take(5 * PERIOD_SAMPLES).collect();
        assert_eq!(samples, whole);
    }

    #[test]
    fn after_a_sleep_of_the_machine_the_tone_goes_on_from_now() {
        let mut tone = Tone::start();
        let now = clock::now();
        if let Some(past) = now.checked_sub(Duration::from_secs(5)) {
            tone.next_at = past;
        }
        let period = tone.next().unwrap().unwrap();
        assert!(period.captured_at >= now);
        assert!(period.follows_gap);
    }
}
