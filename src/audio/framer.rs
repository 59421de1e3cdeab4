//! Cuts periods of any length and sample rate into frames of 20 ms at 48 kHz, and gives each frame its
//! capture time.
//!
//! Three clocks meet here: the samples (the sound card's crystal), the timestamps (ours, read with
//! some jitter) and RTP, whose receivers take any step other than 960 for lost sound. So frames
//! are exactly 20 ms apart, counted in samples of ours, and the ratio at which those are made of the
//! card's follows the timestamps (`drift.rs`). Only a gap makes the time of frames jump, always
//! forwards: what was lost is missing, and nothing after it is late.
//!
//! Holds less than one frame between calls, and half the sinc of the resampler (0.7 ms at 48 kHz).
//! Allocates nothing once it has seen the longest period. Pure.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::drift::Drift;
use super::rubato::Resampler;
use super::samples::to_i16;
use super::{AudioError, FRAME_SAMPLES, Period};

/// From the first sample of a frame to that of the next.
const FRAME: Duration = Duration::from_millis(20);

/// 20 ms of sound.
#[derive(Clone, Debug)]
pub struct Frame {
    /// 48 kHz, mono.
    pub samples: [i16; FRAME_SAMPLES],
    /// When the first sample was captured, on the monotonic clock.
    pub captured_at: Instant,
}

/// How a period follows the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Continuity {
    /// Without a gap, as far as the jitter of timestamps tells.
    Steady,
    /// This much sound is missing before it: the time of frames jumps forwards.
    Gap(Duration),
    /// This much more sound came than time went by: as much is dropped.
    Overlap(Duration),
}

/// Turns periods into frames. Push a period, then take frames until there is none.
#[derive(Debug)]
pub struct Framer {
    rate_hz: NonZeroU32,
    resampler: Resampler,
    drift: Drift,
    /// What the ratio of the next frame is multiplied by.
    correction: f64,
    pending: Vec<f32>,
    /// More samples came than time went by: they are dropped until that is made good.
    is_ahead: bool,
    /// Capture time of the next frame; `None` before the first period.
    next_at: Option<Instant>,
    output: [f32; FRAME_SAMPLES],
}

impl Framer {
    /// Makes one for periods of this many samples per second.
    ///
    /// # Errors
    ///
    /// When there is no resampler for that rate.
    pub fn new(rate_hz: NonZeroU32) -> Result<Self, AudioError> {
        Ok(Self {
            rate_hz,
            resampler: Resampler::new(rate_hz)?,
            drift: Drift::default(),
            correction: 1.0,
            pending: Vec::new(),
            is_ahead: false,
            next_at: None,
            output: [0.0; FRAME_SAMPLES],
        })
    }

    /// Takes a period.
    pub fn push(&mut self, period: &Period) -> Continuity {
        let first_at = self.output_time(period.captured_at);
        let counted_at = *self.next_at.get_or_insert(first_at) + self.duration(self.pending.len());
        let offset = seconds_between(counted_at, first_at);
        if self.is_ahead {
            return self.drop_excess(period, -offset);
        }
        let jumps = self
            .drift
            .observe(offset, self.duration(period.samples.len()));
        if offset > 0.0 && (jumps || period.follows_gap) {
            self.drift.jumped();
            self.resampler.reset();
            self.pending.clear();
            self.next_at = Some(first_at);
            self.pending.extend_from_slice(&period.samples);
            return Continuity::Gap(Duration::from_secs_f64(offset));
        }
        if jumps {
            return self.drop_excess(period, -offset);
        }
        self.pending.extend_from_slice(&period.samples);
        Continuity::Steady
    }

    /// Returns the next frame, once it is complete.
    ///
    /// # Errors
    ///
    /// When the resampler fails, which it has no reason to.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, AudioError> {
        let needed = self.resampler.needed(self.correction)?;
        let (Some(captured_at), Some(input)) = (self.next_at, self.pending.get(..needed)) else {
            return Ok(None);
        };
        self.resampler.process(input, &mut self.output)?;
        self.pending.drain(..needed);
        self.correction = self.drift.advance(FRAME);
        self.next_at = Some(captured_at + FRAME);
        Ok(Some(Frame {
            samples: self.output.map(to_i16),
            captured_at,
        }))
    }

    /// Takes what is left of a period after so many seconds of it.
    fn drop_excess(&mut self, period: &Period, seconds: f64) -> Continuity {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates"
        )]
        let excess = (seconds * f64::from(self.rate_hz.get())) as usize;
        let kept = period.samples.get(excess..).unwrap_or_default();
        self.pending.extend_from_slice(kept);
        self.is_ahead = kept.is_empty();
        self.drift.jumped();
        Continuity::Overlap(self.duration(period.samples.len() - kept.len()))
    }

    /// Returns the time of the first sample that comes out, if what is put in begins at `input`.
    fn output_time(&self, input: Instant) -> Instant {
        input.checked_sub(self.resampler.delay()).unwrap_or(input)
    }

    /// Returns how long so many samples of the card's last.
    fn duration(&self, samples: usize) -> Duration {
        let samples = u64::try_from(samples).unwrap_or(u64::MAX);
        let nanos = samples.saturating_mul(1_000_000_000) / u64::from(self.rate_hz.get());
        Duration::from_nanos(nanos)
    }
}

/// Returns `to - from`.
fn seconds_between(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(after) => after.as_secs_f64(),
        None => -from.saturating_duration_since(to).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;
    use crate::clock;
    use std::f64::consts::TAU;

    const MS: Duration = Duration::from_millis(1);
    const RATES: [u32; 8] = [
        8_000, 11_025, 16_000, 32_000, 44_100, 48_000, 96_000, 192_000,
    ];

    fn framer(rate_hz: u32) -> Framer {
        Framer::new(NonZeroU32::new(rate_hz).unwrap()).unwrap()
    }

    /// A card that hears 440 Hz at half of full scale.
    struct Card {
        rate_hz: u32,
        /// What it calls a second, in ours.
        second: f64,
        started_at: Instant,
        delivered: u32,
    }

    impl Card {
        fn new(rate_hz: u32, started_at: Instant) -> Self {
            Self {
                rate_hz,
                second: 1.0,
                started_at,
                delivered: 0,
            }
        }

        fn slow_by(mut self, ppm: f64) -> Self {
            self.second = 1.0 + ppm / 1e6;
            self
        }

        fn deliver(&mut self, len: u32) -> Period {
            let seconds = |n: u32| f64::from(n) * self.second / f64::from(self.rate_hz);
            let from = self.delivered;
            self.delivered += len;
            #[expect(clippy::cast_possible_truncation, reason = "at most a half")]
            let sample = |n| heard(seconds(n)) as f32;
            Period {
                samples: (from..self.delivered).map(sample).collect(),
                captured_at: self.started_at + Duration::from_secs_f64(seconds(from)),
                follows_gap: false,
            }
        }
    }

    /// What is to be heard this many seconds after the start.
    fn heard(seconds: f64) -> f64 {
        (TAU * 440.0 * seconds).sin() * 0.5
    }

    /// Returns the largest difference of a frame to what was to be heard at its time.
    fn error(frame: &Frame, started_at: Instant) -> f64 {
        let at = seconds_between(started_at, frame.captured_at);
        (0..)
            .zip(frame.samples)
            .map(|(n, sample)| {
                let expected = heard(at + f64::from(n) / 48_000.0);
                (f64::from(sample) / 32_768.0 - expected).abs()
            })
            .fold(0.0, f64::max)
    }

    fn silence(captured_at: Instant, len: usize) -> Period {
        Period {
            samples: vec![0.0; len],
            captured_at,
            follows_gap: false,
        }
    }

    fn drain(framer: &mut Framer) -> Vec<Frame> {
        std::iter::from_fn(|| framer.next_frame().unwrap()).collect()
    }

    #[test]
    fn a_frame_holds_what_was_heard_at_its_time_at_every_rate() {
        for rate_hz in RATES {
            let t0 = clock::now() + 100 * MS;
            let mut card = Card::new(rate_hz, t0);
            let mut framer = framer(rate_hz);
            let mut frames = Vec::new();
            for _ in 0..50 {
                let continuity = framer.push(&card.deliver(rate_hz / 100));
                assert_eq!(continuity, Continuity::Steady);
                frames.extend(drain(&mut framer));
            }
            assert!(frames.len() >= 24, "{rate_hz} Hz: {}", frames.len());
            for frame in &frames[1..] {
                // At this loudness and pitch, 0.02 are 14 µs.
                let error = error(frame, t0);
                assert!(error < 0.02, "{rate_hz} Hz: {error}");
            }
        }
    }

    #[test]
    fn periods_of_any_length_become_frames_that_are_20_ms_apart() {
        for len in [1, 7, 441, 480, 512, 960, 1_024, 4_800] {
            let t0 = clock::now() + 100 * MS;
            let mut card = Card::new(48_000, t0);
            let mut framer = framer(48_000);
            let mut frames = Vec::new();
            while card.delivered < 9_600 {
                assert_eq!(framer.push(&card.deliver(len)), Continuity::Steady);
                frames.extend(drain(&mut framer));
                assert!(framer.pending.len() < FRAME_SAMPLES + 2);
            }
            let whole = usize::try_from(card.delivered).unwrap() / FRAME_SAMPLES;
            assert!(
                (whole - 1..=whole).contains(&frames.len()),
                "periods of {len}"
            );
            for pair in frames.windows(2) {
                assert_eq!(pair[1].captured_at - pair[0].captured_at, FRAME);
            }
            assert!(frames[1..].iter().all(|frame| error(frame, t0) < 0.02));
        }
    }

    #[test]
    fn jitter_of_the_timestamps_does_not_reach_the_frames() {
        let t0 = clock::now() + 100 * MS;
        let mut card = Card::new(48_000, t0);
        let mut framer = framer(48_000);
        let mut frames = Vec::new();
        for n in 0..1_000_u32 {
            let mut period = card.deliver(480);
            match n % 3 {
                0 => {}
                1 => period.captured_at += 3 * MS,
                _ => period.captured_at -= 3 * MS,
            }
            assert_eq!(framer.push(&period), Continuity::Steady);
            frames.extend(drain(&mut framer));
        }
        for pair in frames.windows(2) {
            assert_eq!(pair[1].captured_at - pair[0].captured_at, FRAME);
        }
        // 0.1 are 75 µs.
        assert!(frames[1..].iter().all(|frame| error(frame, t0) < 0.1));
    }

    #[test]
    fn a_card_whose_crystal_is_off_is_resampled_into_step_without_a_click() {
        for ppm in [-200.0, 200.0] {
            let t0 = clock::now() + 100 * MS;
            let mut card = Card::new(44_100, t0).slow_by(ppm);
            let mut framer = framer(44_100);
            let (mut frames, mut last) = (0_u32, t0);
            let mut samples = Vec::new();
            // Two minutes: uncompensated, the count would be 24 ms off at the end.
            while card.delivered < 120 * 44_100 {
                assert_eq!(framer.push(&card.deliver(441)), Continuity::Steady);
                for frame in drain(&mut framer) {
                    frames += 1;
                    last = frame.captured_at;
                    // The first begins before there was sound.
                    samples.extend((frames > 1).then_some(frame.samples).into_iter().flatten());
                    if frames > 5_500 {
                        // 0.3 are 220 µs.
                        let error = error(&frame, t0);
                        assert!(error < 0.3, "{ppm} ppm: {error}");
                    }
                    samples.drain(..samples.len().saturating_sub(961));
                    let step = samples.windows(2).map(|w| w[0].abs_diff(w[1])).max();
                    // A sine of 440 Hz at half of full scale never moves further between two samples.
                    assert!(step.is_none_or(|step| step < 960), "{step:?}");
                }
                assert!(framer.pending.len() < FRAME_SAMPLES);
            }
            let first = framer.output_time(t0);
            assert_eq!(last, first + FRAME * (frames - 1), "steps of 20 ms alone");
        }
    }

    #[test]
    fn sound_that_an_overrun_lost_moves_the_time_of_frames_forwards_at_once() {
        let t0 = clock::now() + 100 * MS;
        let mut card = Card::new(48_000, t0);
        let mut framer = framer(48_000);
        framer.push(&card.deliver(1_100));
        assert_eq!(drain(&mut framer).len(), 1);
        card.delivered += 4_800;
        let mut period = card.deliver(1_100);
        period.follows_gap = true;
        let Continuity::Gap(missing) = framer.push(&period) else {
            panic!("a gap of 100 ms was not seen");
        };
        assert_eq!(missing.as_millis(), 100);
        let frames = drain(&mut framer);
        assert_eq!(frames.len(), 1);
        assert_eq!(
            frames[0].captured_at,
            framer.output_time(period.captured_at)
        );
        framer.push(&card.deliver(960));
        assert!(error(&drain(&mut framer)[0], t0) < 0.02);
    }

    #[test]
    fn sound_that_is_lost_without_a_word_is_noticed_within_four_periods() {
        let t0 = clock::now() + 100 * MS;
        let mut card = Card::new(48_000, t0);
        let mut framer = framer(48_000);
        let mut continuities = Vec::new();
        for n in 0..10 {
            if n == 3 {
                card.delivered += 9_600;
            }
            let continuity = framer.push(&card.deliver(480));
            continuities.push(continuity != Continuity::Steady);
            drain(&mut framer);
        }
        let noticed: Vec<_> = continuities
            .iter()
            .enumerate()
            .filter(|(_, c)| **c)
            .collect();
        assert_eq!(noticed, [(6, &true)]);
        framer.push(&card.deliver(1_000));
        assert!(error(drain(&mut framer).last().unwrap(), t0) < 0.02);
    }

    #[test]
    fn sound_that_comes_twice_is_dropped_within_some_periods() {
        let t0 = clock::now() + 100 * MS;
        let mut card = Card::new(48_000, t0);
        let mut framer = framer(48_000);
        let mut dropped = Duration::ZERO;
        for n in 0..30 {
            let mut period = card.deliver(480);
            // From here on, 60 ms more than there were.
            period.captured_at -= if n < 10 { Duration::ZERO } else { 60 * MS };
            if let Continuity::Overlap(by) = framer.push(&period) {
                dropped += by;
            }
            drain(&mut framer);
        }
        assert!(dropped.abs_diff(60 * MS) < MS, "{dropped:?}");
        framer.push(&card.deliver(1_000));
        let last = drain(&mut framer).pop().unwrap();
        // To a sample: 0.06 are 43 µs.
        assert!(error(&last, t0 - 60 * MS) < 0.06);
    }

    #[test]
    fn more_samples_than_time_never_move_the_time_of_frames_backwards() {
        let t0 = clock::now() + 100 * MS;
        let mut framer = framer(48_000);
        let mut last = None;
        for n in 0..1_000_u32 {
            // Ten times as much sound as time.
            framer.push(&silence(t0 + n * MS, 480));
            for frame in drain(&mut framer) {
                assert!(last.is_none_or(|last| frame.captured_at == last + FRAME));
                let ahead = frame.captured_at.saturating_duration_since(t0 + n * MS);
                assert!(ahead <= 100 * MS, "{n}: {ahead:?}");
                last = Some(frame.captured_at);
            }
        }
        assert!(last.is_some_and(|last| last > t0 + 900 * MS));
    }

    #[test]
    fn once_warm_nothing_is_allocated() {
        let mut card = Card::new(44_100, clock::now() + 100 * MS).slow_by(100.0);
        let mut framer = framer(44_100);
        let periods: Vec<_> = (0..100).map(|_| card.deliver(441)).collect();
        let push = |framer: &mut Framer, periods: &[Period]| {
            let mut frames = 0;
            for period in periods {
                framer.push(period);
                while framer.next_frame().unwrap().is_some() {
                    frames += 1;
                }
            }
            frames
        };
        push(&mut framer, &periods[..10]);
        let before = allocations::of_this_thread();
        assert!(push(&mut framer, &periods[10..]) > 40);
        assert_eq!(allocations::of_this_thread(), before);
    }
}
