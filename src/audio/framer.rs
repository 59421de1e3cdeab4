//! Cuts periods of any length into frames of 20 ms, and gives each frame its capture time.
//!
//! Three clocks meet here: the samples (the sound card's crystal), the timestamps (ours, read with
//! some jitter) and RTP, whose receivers take any step other than 960 for lost sound. So frames
//! are exactly 20 ms apart, counted in samples; and where the count and the timestamps drift
//! apart, the sound is stretched by up to four samples in a frame, which nobody hears, until they
//! agree again within a millisecond. Only a gap makes the time of frames jump, always forwards.
//!
//! Holds less than one frame between calls, so it adds no delay. Pure.

use std::time::{Duration, Instant};

use super::{FRAME_SAMPLES, Period, SAMPLE_RATE_HZ};

/// From the first sample of a frame to that of the next.
const FRAME: Duration = Duration::from_millis(20);

/// Beyond this the count cannot be mended by stretching: samples were lost, or are too many.
/// Two frames; sound cards' timestamps jitter by less than one period of 10 ms.
const MAX_OFFSET_NS: i64 = 40_000_000;

/// Smoothing of the offset, in periods. 64 periods of 10 ms see through the jitter of a USB card,
/// and a crystal that is off by 100 ppm drifts by 64 µs in that time.
const SMOOTHING: i64 = 64;

/// Offsets below are left alone. One sample is stretched for each such unit.
const TOLERANCE_NS: i64 = 1_000_000;

/// Most samples that one frame is stretched by: 0.4 %, a fifteenth of a semitone, and 4 ms in a
/// second, 40 times the drift of a bad crystal.
const MAX_STRETCH: i64 = 4;

const SAMPLE_NS: i64 = 1_000_000_000 / SAMPLE_RATE_HZ as i64;

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
    /// It begins this much before the end of the one before: it was dropped.
    Overlap(Duration),
}

/// Turns periods into frames. Push a period, then take frames until there is none.
#[derive(Debug, Default)]
pub struct Framer {
    pending: Vec<i16>,
    /// Capture time of the first pending sample, by the count; `None` before the first period.
    next_at: Option<Instant>,
    /// Timestamps minus count, smoothed.
    offset_ns: i64,
}

impl Framer {
    /// Takes a period.
    pub fn push(&mut self, period: &Period) -> Continuity {
        let expected_at = *self.next_at.get_or_insert(period.captured_at)
            + Duration::from_nanos(pending_ns(&self.pending).unsigned_abs());
        let offset_ns = signed_ns(expected_at, period.captured_at);
        let mut continuity = Continuity::Steady;
        if offset_ns < -MAX_OFFSET_NS {
            return Continuity::Overlap(Duration::from_nanos(offset_ns.unsigned_abs()));
        }
        if offset_ns > MAX_OFFSET_NS {
            continuity = Continuity::Gap(Duration::from_nanos(offset_ns.unsigned_abs()));
            self.pending.clear();
            self.next_at = Some(period.captured_at);
            self.offset_ns = 0;
        } else {
            self.offset_ns += (offset_ns - self.offset_ns) / SMOOTHING;
        }
        self.pending.extend_from_slice(&period.samples);
        continuity
    }

    /// Returns the next frame, once it is complete.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let captured_at = self.next_at?;
        // The timestamps are ahead of the count: samples are missing, so fewer make a frame.
        let missing = (self.offset_ns / TOLERANCE_NS).clamp(-MAX_STRETCH, MAX_STRETCH);
        let taken = FRAME_SAMPLES.saturating_add_signed(isize::try_from(-missing).ok()?);
        let samples = stretched(self.pending.get(..taken)?);
        self.pending.drain(..taken);
        self.offset_ns -= missing * SAMPLE_NS;
        self.next_at = Some(captured_at + FRAME);
        Some(Frame {
            samples,
            captured_at,
        })
    }
}

/// Returns `samples`, a few more or fewer than a frame has, as one frame (linear interpolation).
fn stretched(samples: &[i16]) -> [i16; FRAME_SAMPLES] {
    let mut frame = [0; FRAME_SAMPLES];
    let last = samples.last().copied().unwrap_or_default();
    for (i, out) in frame.iter_mut().enumerate() {
        let position = i * samples.len();
        let (index, part) = (position / FRAME_SAMPLES, position % FRAME_SAMPLES);
        let at = |n: usize| i64::from(samples.get(n).copied().unwrap_or(last));
        let (from, to) = (at(index), at(index + 1));
        #[expect(clippy::cast_possible_wrap, reason = "both are at most 960")]
        let (part, whole) = (part as i64, FRAME_SAMPLES as i64);
        let value = from + (to - from) * part / whole;
        *out = i16::try_from(value).unwrap_or_default();
    }
    frame
}

/// Returns how long the pending samples last.
fn pending_ns(pending: &[i16]) -> i64 {
    let samples = i64::try_from(pending.len()).unwrap_or(i64::MAX);
    samples.saturating_mul(1_000_000_000) / i64::from(SAMPLE_RATE_HZ)
}

/// Returns `to - from` in nanoseconds.
fn signed_ns(from: Instant, to: Instant) -> i64 {
    let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match to.checked_duration_since(from) {
        Some(after) => ns(after),
        None => -ns(from.saturating_duration_since(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    fn period(captured_at: Instant, samples: Vec<i16>) -> Period {
        Period {
            samples,
            captured_at,
        }
    }

    /// A ramp that shows where each sample went.
    fn ramp(from: usize, len: usize) -> Vec<i16> {
        let sample = |n: usize| i16::try_from(n % 30_000).unwrap();
        (from..from + len).map(sample).collect()
    }

    fn drain(framer: &mut Framer) -> Vec<Frame> {
        std::iter::from_fn(|| framer.next_frame()).collect()
    }

    #[test]
    fn periods_of_any_length_become_frames_of_20_ms_in_order() {
        for len in [1, 7, 441, 480, 512, 960, 1_024, 4_800] {
            let t0 = clock::now();
            let mut framer = Framer::default();
            let mut frames = Vec::new();
            let mut sent = 0;
            while sent < 9_600 {
                let offset = Duration::from_nanos(sent as u64 * 1_000_000_000 / 48_000);
                let continuity = framer.push(&period(t0 + offset, ramp(sent, len)));
                assert_eq!(continuity, Continuity::Steady);
                sent += len;
                frames.extend(drain(&mut framer));
                assert!(framer.pending.len() < FRAME_SAMPLES);
            }
            assert_eq!(frames.len(), sent / FRAME_SAMPLES, "periods of {len}");
            for (n, frame) in frames.iter().enumerate() {
                assert_eq!(frame.captured_at, t0 + FRAME * u32::try_from(n).unwrap());
                assert_eq!(frame.samples.as_slice(), ramp(n * 960, 960));
            }
        }
    }

    #[test]
    fn jitter_of_the_timestamps_does_not_reach_the_frames() {
        let t0 = clock::now() + 100 * MS;
        let mut framer = Framer::default();
        let mut frames = Vec::new();
        for n in 0..1_000_u32 {
            let real = t0 + n * 10 * MS;
            let at = match n % 3 {
                0 => real,
                1 => real + 3 * MS,
                _ => real - 3 * MS,
            };
            framer.push(&period(at, ramp(n as usize * 480, 480)));
            frames.extend(drain(&mut framer));
        }
        for pair in frames.windows(2) {
            assert_eq!(pair[1].captured_at - pair[0].captured_at, FRAME);
        }
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(frame.samples.as_slice(), ramp(n * 960, 960));
        }
    }

    #[test]
    fn a_card_whose_crystal_is_off_stays_in_step_with_our_clock() {
        for ppm in [-300_i64, 300] {
            let t0 = clock::now();
            let mut framer = Framer::default();
            let mut frames = 0_u32;
            let mut last = t0;
            for n in 0..18_000_u64 {
                // Three minutes: uncompensated, the count would be 54 ms off at the end.
                let ns = n * 10_000_000 * 1_000_000 / u64::try_from(1_000_000 + ppm).unwrap();
                let at = t0 + Duration::from_nanos(ns);
                let continuity = framer.push(&period(at, vec![1_000; 480]));
                assert_eq!(continuity, Continuity::Steady, "{ppm} ppm, period {n}");
                for frame in drain(&mut framer) {
                    frames += 1;
                    last = frame.captured_at;
                    assert_eq!(frame.samples, [1_000; FRAME_SAMPLES]);
                }
                assert!(framer.offset_ns.abs() < 2_000_000, "{}", framer.offset_ns);
                assert!(framer.pending.len() < FRAME_SAMPLES + 4);
            }
            assert_eq!(last, t0 + FRAME * (frames - 1), "steps of 20 ms alone");
        }
    }

    #[test]
    fn lost_samples_move_the_time_of_frames_forwards_at_once() {
        let t0 = clock::now();
        let mut framer = Framer::default();
        framer.push(&period(t0, ramp(0, 1_000)));
        assert_eq!(drain(&mut framer).len(), 1);
        let after = t0 + 500 * MS;
        let Continuity::Gap(missing) = framer.push(&period(after, ramp(0, 960))) else {
            panic!("a gap of 479 ms was not seen");
        };
        assert_eq!(missing.as_millis(), 479);
        let frames = drain(&mut framer);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].captured_at, after);
        assert_eq!(frames[0].samples.as_slice(), ramp(0, 960), "nothing stale");
    }

    #[test]
    fn a_small_offset_is_stretched_away_within_seconds() {
        let t0 = clock::now();
        let mut framer = Framer::default();
        framer.push(&period(t0, ramp(0, 480)));
        for n in 1..2_000_u32 {
            // 20 ms of samples are missing from here on.
            framer.push(&period(t0 + 20 * MS + n * 10 * MS, ramp(0, 480)));
            drain(&mut framer);
        }
        assert!(framer.offset_ns.abs() <= 1_100_000, "{}", framer.offset_ns);
    }

    #[test]
    fn more_samples_than_time_never_move_the_time_of_frames_backwards() {
        let t0 = clock::now();
        let mut framer = Framer::default();
        let mut last = None;
        for n in 0..1_000_u32 {
            // Ten times as much sound as time.
            framer.push(&period(t0 + n * MS, vec![0; 480]));
            for frame in drain(&mut framer) {
                assert!(last.is_none_or(|last| frame.captured_at == last + FRAME));
                assert!(frame.captured_at <= t0 + n * MS + 60 * MS);
                last = Some(frame.captured_at);
            }
        }
        assert!(last.is_some_and(|last| last > t0 + 900 * MS));
    }

    #[test]
    fn a_stretched_frame_keeps_its_ends() {
        for len in [956, 959, 961, 964] {
            let frame = stretched(&ramp(0, len));
            assert_eq!(frame[0], 0);
            let end = usize::try_from(frame[FRAME_SAMPLES - 1]).unwrap();
            assert!((len - 2..len).contains(&end), "{len}: {end}");
            assert!(frame.windows(2).all(|w| (0..=2).contains(&(w[1] - w[0]))));
        }
    }
}
