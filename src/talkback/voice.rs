//! One viewer's packets → frames of 20 ms.

use super::floor::MAX_SPEECH;
use super::jitter::{Jitter, Step};
use super::mixer;
use super::opus::{Decoder, Input};
use super::{FRAME_SAMPLES, Frame, SpeakerError};
use crate::rtp::SpeechPacket;

/// A voice whose end got lost ends by itself, when it may not speak any more for sure.
const MAX_FRAMES: u64 = (MAX_SPEECH.as_secs() + 5) * 50;

/// A viewer who speaks, or has just stopped.
#[derive(Debug)]
pub(super) struct Voice {
    jitter: Jitter,
    decoder: Decoder,
    /// Decoded, and less than a packet: not yet played.
    samples: Vec<i16>,
    is_ending: bool,
    played_frames: u64,
}

impl Voice {
    pub(super) fn new() -> Result<Self, SpeakerError> {
        Ok(Self {
            jitter: Jitter::default(),
            decoder: Decoder::new()?,
            samples: Vec::new(),
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
                if self.samples.is_empty() {
                    return None;
                }
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
                let len = self.samples.len() + *samples as usize;
                self.samples.resize(len, 0);
                return;
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
    }
}
