//! One viewer's packets → frames of 20 ms.

use super::floor::MAX_SPEECH;
use super::jitter::{Jitter, Step};
use super::mixer;
use super::opus::{Decoder, Input};
use super::{FRAME_SAMPLES, Frame, SpeakerError};
use crate::rtp::SpeechPacket;

/// A voice whose end got lost ends by itself, when it may not speak any more for sure.
const MAX_FRAMES: u64 = (MAX_SPEECH.as_secs() + 5) * 50;

/// 5 ms. Sound that is cut off at once clicks.
const FADE_SAMPLES: i32 = 240;

/// A viewer who speaks, or has just stopped.
#[derive(Debug)]
pub(super) struct Voice {
    jitter: Jitter,
    decoder: Decoder,
    /// Decoded, and less than a packet: not yet played.
    samples: Vec<i16>,
    /// The last one that was made, from which silence begins.
    last: i16,
    is_ending: bool,
    played_frames: u64,
}

impl Voice {
    pub(super) fn new() -> Result<Self, SpeakerError> {
        Ok(Self {
            jitter: Jitter::default(),
            decoder: Decoder::new()?,
            samples: Vec::new(),
            last: 0,
            is_ending: false,
            played_frames: 0,
        })
    }

    pub(super) fn push(&mut self, packet: SpeechPacket) {
        if !self.is_ending {
            self.jitter.push(packet);
        }
    }

    /// Nothing more comes: what waits is still played.
    pub(super) const fn end(&mut self) {
        self.is_ending = true;
    }

    /// Returns the next frame; `None` once all is played after the end.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        self.played_frames += 1;
        if self.played_frames > MAX_FRAMES {
            return None;
        }
        while self.samples.len() < FRAME_SAMPLES {
            if self.is_ending && self.jitter.is_empty() {
                if self.samples.is_empty() && self.last == 0 {
                    return None;
                }
                self.fall_silent(FRAME_SAMPLES - self.samples.len());
                break;
            }
            self.decode_next();
        }
        Some(mixer::take_frame(&mut self.samples))
    }

    fn decode_next(&mut self) {
        let decoder = &mut self.decoder;
        let (decoded, stretch) = match &self.jitter.pull() {
            Step::Silence(samples) => {
                let samples = *samples as usize;
                return self.fall_silent(samples);
            }
            Step::Packet {
                payload,
                samples,
                stretch,
            } => (decoder.decode(Input::Packet(payload), *samples), *stretch),
            Step::Before { payload, samples } => {
                (decoder.decode(Input::Before(payload), *samples), 0)
            }
            Step::Lost(samples) => (decoder.decode(Input::Lost, *samples), 0),
        };
        let stretch = isize::try_from(stretch).unwrap_or_default();
        let len = decoded.len().saturating_add_signed(stretch).max(1);
        mixer::append_resized(&mut self.samples, decoded, len);
        self.last = self.samples.last().copied().unwrap_or_default();
    }

    fn fall_silent(&mut self, samples: usize) {
        let from = i32::from(std::mem::take(&mut self.last));
        let faded = |n: i32| from * (FADE_SAMPLES - n).max(0) / FADE_SAMPLES;
        let sample = |n| i16::try_from(faded(n)).unwrap_or_default();
        self.samples.extend((1..).map(sample).take(samples));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Packets of a tone that is loud wherever it ends.
    fn packets(count: u16) -> Vec<SpeechPacket> {
        let mono = opus::Channels::Mono;
        let mut encoder = opus::Encoder::new(48_000, mono, opus::Application::Voip).unwrap();
        let mut packet = |n: u16| {
            let sample = |i: u16| {
                if (n * 960 + i) % 110 < 55 {
                    9_000
                } else {
                    -9_000
                }
            };
            let samples: Vec<i16> = (0..960).map(sample).collect();
            SpeechPacket {
                ssrc: 1,
                sequence_number: n,
                timestamp: u32::from(n) * 960,
                payload: Bytes::from(encoder.encode_vec(&samples, 1_275).unwrap()),
            }
        };
        (0..count).map(&mut packet).collect()
    }

    fn steepest(samples: &[i16]) -> i32 {
        let steps = samples
            .windows(2)
            .map(|w| (i32::from(w[1]) - i32::from(w[0])).abs());
        steps.max().unwrap_or_default()
    }

    #[test]
    fn what_is_said_is_played_to_its_end_and_does_not_end_with_a_click() {
        let mut voice = Voice::new().unwrap();
        for packet in packets(10) {
            voice.push(packet);
        }
        voice.end();
        voice.push(packets(1).remove(0));
        let frames: Vec<Frame> = std::iter::from_fn(|| voice.next_frame()).collect();
        assert_eq!(frames.len(), 11, "one more, in which it fades");
        let played = frames.concat();
        let (said, end) = played.split_at(10 * FRAME_SAMPLES);
        let edge = [said[said.len() - 1], end[0]];
        assert!(said[said.len() - 1].abs() > 1_000);
        assert!(steepest(&edge) < 200 && steepest(end) < 200);
        assert_eq!(end[240..], [0; 720]);
    }

    #[test]
    fn a_voice_that_nobody_ends_ends_by_itself() {
        let mut voice = Voice::new().unwrap();
        let frames = std::iter::from_fn(|| voice.next_frame()).count();
        assert_eq!(u64::try_from(frames).unwrap(), MAX_FRAMES);
    }
}
