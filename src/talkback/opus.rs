//! The Opus decoder: what the jitter buffer decided on → samples (RFC 6716).

use opus::Channels;

use super::SpeakerError;
use super::packet::MAX_SAMPLES;

/// What is to be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Input<'a> {
    /// A packet.
    Packet(&'a [u8]),
    /// What was lost before this packet, as far as this packet tells (in-band FEC).
    Before(&'a [u8]),
    /// Something was lost: what it may have sounded like.
    Lost,
}

/// A decoder of one stream, mono.
#[derive(Debug)]
pub(super) struct Decoder {
    inner: opus::Decoder,
    samples: Vec<i16>,
}

impl Decoder {
    /// Creates a decoder that has heard nothing.
    pub(super) fn new() -> Result<Self, SpeakerError> {
        let inner = opus::Decoder::new(super::SAMPLE_RATE_HZ, Channels::Mono)
            .map_err(|error| SpeakerError::Decoder(error.to_string()))?;
        Ok(Self {
            inner,
            samples: vec![0; MAX_SAMPLES as usize],
        })
    }

    /// Returns `samples` samples; silence where the input is broken.
    pub(super) fn decode(&mut self, input: Input<'_>, samples: u32) -> &[i16] {
        let wanted = samples.min(MAX_SAMPLES) as usize;
        let (packet, fec) = match input {
            Input::Packet(packet) => (packet, false),
            Input::Before(packet) => (packet, true),
            Input::Lost => (&[][..], false),
        };
        // A packet is decoded whole; what is lost is made as long as there is room for.
        let room = match input {
            Input::Packet(_) => self.samples.len(),
            Input::Before(_) | Input::Lost => wanted,
        };
        let out = self.samples.get_mut(..room).unwrap_or_default();
        let decoded = self.inner.decode(packet, out, fec).unwrap_or_else(|error| {
            tracing::debug!(%error, "silence instead of a broken Opus packet");
            0
        });
        let missing = self.samples.get_mut(decoded..).unwrap_or_default();
        missing.fill(0);
        self.samples.get(..wanted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opus::Application;

    fn tone(frame: usize) -> Vec<i16> {
        let sample = |n: usize| {
            let t = f64::from(u32::try_from(frame * 960 + n).unwrap()) / 48_000.0;
            #[expect(clippy::cast_possible_truncation, reason = "at most 8000")]
            let sample = (8_000.0 * (t * 440.0 * std::f64::consts::TAU).sin()) as i16;
            sample
        };
        (0..960).map(sample).collect()
    }

    fn loudness(samples: &[i16]) -> f64 {
        let sum: f64 = samples.iter().map(|&s| f64::from(s).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    }

    #[test]
    fn packets_are_heard_and_what_is_lost_is_concealed_for_a_while() {
        let mut encoder = opus::Encoder::new(48_000, Channels::Mono, Application::Voip).unwrap();
        let mut decoder = Decoder::new().unwrap();
        for n in 0..20 {
            let packet = encoder.encode_vec(&tone(n), 1_275).unwrap();
            decoder.decode(Input::Packet(&packet), 960);
        }
        assert!(loudness(decoder.decode(Input::Lost, 960)) > 2_000.0);
        for _ in 0..20 {
            decoder.decode(Input::Lost, 960);
        }
        let later = loudness(decoder.decode(Input::Lost, 960));
        assert!(later < 1_000.0, "{later}");
    }

    #[test]
    fn what_was_lost_is_heard_from_the_packet_after_it() {
        let mut encoder = opus::Encoder::new(48_000, Channels::Mono, Application::Voip).unwrap();
        encoder.set_inband_fec(true).unwrap();
        encoder.set_packet_loss_perc(20).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(32_000)).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let mut packets = Vec::new();
        for n in 0..32 {
            let frame = if n < 30 { vec![0; 960] } else { tone(n) };
            packets.push(encoder.encode_vec(&frame, 1_275).unwrap());
        }
        for packet in &packets[..30] {
            decoder.decode(Input::Packet(packet), 960);
        }
        let onset = loudness(decoder.decode(Input::Before(&packets[31]), 960));
        assert!(onset > 1_500.0, "no concealment guesses an onset: {onset}");
    }

    #[test]
    fn junk_is_silence_and_breaks_nothing() {
        let mut decoder = Decoder::new().unwrap();
        let mut random = 1_u32;
        for len in 0..400 {
            let junk: Vec<u8> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random.to_be_bytes()[0]
            })
            .take(len)
            .collect();
            assert_eq!(decoder.decode(Input::Packet(&junk), 960).len(), 960);
            assert_eq!(decoder.decode(Input::Before(&junk), 480).len(), 480);
        }
        assert_eq!(decoder.decode(Input::Lost, 1_000_000).len(), 5_760);
    }
}
