//! Several voices → one, and one voice a little faster or slower.
//!
//! Pure.

use super::{FRAME_SAMPLES, Frame};

/// Adds a voice to what is to be played. Where the sum is louder than there are numbers, it is as
/// loud as there are: that distorts, but does not crack.
pub fn add(sum: &mut Frame, voice: &Frame) {
    for (sum, sample) in sum.iter_mut().zip(voice) {
        *sum = sum.saturating_add(*sample);
    }
}

/// Appends `samples` to `out`, as `len` samples: with linear interpolation, so that where
/// the two differ by a few, nobody hears it.
pub fn append_resized(out: &mut Vec<i16>, samples: &[i16], len: usize) {
    if samples.len() == len {
        out.extend_from_slice(samples);
        return;
    }
    let last = samples.last().copied().unwrap_or_default();
    let whole = i64::try_from(len).unwrap_or(i64::MAX);
    for i in 0..len {
        let position = i * samples.len();
        let at = |n: usize| i64::from(samples.get(n).copied().unwrap_or(last));
        let (from, to) = (at(position / len), at(position / len + 1));
        let part = i64::try_from(position % len).unwrap_or_default();
        let value = from + (to - from) * part / whole;
        out.push(i16::try_from(value).unwrap_or_default());
    }
}

/// Takes a frame from the front of `samples`, which has one at least; silence takes the place of what
/// is missing.
pub fn take_frame(samples: &mut Vec<i16>) -> Frame {
    let mut frame = [0; FRAME_SAMPLES];
    let taken = samples.len().min(FRAME_SAMPLES);
    for (out, sample) in frame.iter_mut().zip(samples.drain(..taken)) {
        *out = sample;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voices_are_added_and_never_overflow() {
        let mut sum = [100; FRAME_SAMPLES];
        add(&mut sum, &[-30; FRAME_SAMPLES]);
        assert_eq!(sum, [70; FRAME_SAMPLES]);
        for loud in [i16::MAX, i16::MIN] {
            let mut sum = [loud; FRAME_SAMPLES];
            add(&mut sum, &[loud; FRAME_SAMPLES]);
            assert_eq!(sum, [loud; FRAME_SAMPLES]);
        }
    }

    #[test]
    fn a_voice_that_is_made_faster_or_slower_stays_whole() {
        let ramp: Vec<i16> = (0..960).collect();
        for len in [912, 956, 960, 964, 1_008] {
            let mut out = Vec::new();
            append_resized(&mut out, &ramp, len);
            assert_eq!((out.len(), out[0]), (len, 0));
            assert!(out[len - 1] >= 957, "{}", out[len - 1]);
            assert!(out.windows(2).all(|w| (0..=2).contains(&(w[1] - w[0]))));
        }
        let mut out = Vec::new();
        append_resized(&mut out, &[], 3);
        assert_eq!(out, [0, 0, 0]);
    }

    #[test]
    fn frames_are_taken_in_order_and_the_last_is_filled_up() {
        let mut samples: Vec<i16> = (0..1_000).collect();
        assert_eq!(take_frame(&mut samples)[959], 959);
        let rest = take_frame(&mut samples);
        assert_eq!((rest[0], rest[39], rest[40]), (960, 999, 0));
        assert!(samples.is_empty());
    }
}
