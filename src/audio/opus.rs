//! Opus, 20 ms of mono at 48 kHz in each packet (RFC 6716, RFC 7587).
//!
//! `Application::Voip`: below 60 kbit/s it keeps the speech modes, the only ones that carry
//! in-band FEC (a coarse copy of the previous frame), and filters rumble and mains hum, which a
//! camera's microphone has more of than music. The delay is that of `Application::Audio`.
//! DTX is off: what a room sounds like while nobody speaks is why people watch it, and receivers
//! take missing packets for loss.

use std::time::{Duration, Instant};

use bytes::Bytes;
use opus::{Application, Bitrate, Channels};

use super::{AudioError, FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// What FEC prepares for, in percent. More shrinks the bits left for the frame itself.
const EXPECTED_LOSS_PERCENT: i32 = 10;

/// Of 0 to 10. What libwebrtc uses on phones: half the time of 10, and few hear the difference.
const COMPLEXITY: i32 = 5;

/// The longest Opus frame (RFC 6716 §3.4), so no packet is ever too long for the buffer.
const MAX_PACKET: usize = 1_275;

/// An encoder of one stream.
#[derive(Debug)]
pub(super) struct Encoder {
    inner: opus::Encoder,
    delay: Duration,
}

impl Encoder {
    /// Creates an encoder that makes about `bitrate_kbps` (1000 bit/s).
    pub(super) fn new(bitrate_kbps: u32) -> Result<Self, AudioError> {
        let bits_per_second = bitrate_kbps.saturating_mul(1_000);
        let bitrate = Bitrate::Bits(i32::try_from(bits_per_second).unwrap_or(i32::MAX));
        let configured = || {
            let mut inner = opus::Encoder::new(SAMPLE_RATE_HZ, Channels::Mono, Application::Voip)?;
            inner.set_bitrate(bitrate)?;
            inner.set_complexity(COMPLEXITY)?;
            inner.set_inband_fec(true)?;
            inner.set_packet_loss_perc(EXPECTED_LOSS_PERCENT)?;
            inner.set_dtx(false)?;
            Ok(inner)
        };
        let mut inner = configured().map_err(failed)?;
        let lookahead = inner.get_lookahead().map_err(failed)?;
        let samples = u64::try_from(lookahead).unwrap_or_default();
        let delay = Duration::from_nanos(samples * 1_000_000_000 / u64::from(SAMPLE_RATE_HZ));
        Ok(Self { inner, delay })
    }

    /// Returns when the sound was captured that a packet begins with once it is decoded, if that which it
    /// was made of was captured at `captured_at`: 6.5 ms before (RFC 7845 §4.2 calls it pre-skip).
    pub(super) fn delayed(&self, captured_at: Instant) -> Instant {
        captured_at.checked_sub(self.delay).unwrap_or(captured_at)
    }

    /// Returns `samples` as one packet.
    pub(super) fn encode(&mut self, samples: &[i16; FRAME_SAMPLES]) -> Result<Bytes, AudioError> {
        let mut packet = [0; MAX_PACKET];
        let len = self.inner.encode(samples, &mut packet).map_err(failed)?;
        let packet = packet.get(..len).unwrap_or_default();
        Ok(Bytes::copy_from_slice(packet))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: opus::Error) -> AudioError {
    AudioError::Encoder(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something with the spectrum and the pauses of a voice, more or less.
    fn voice(frame: usize) -> [i16; FRAME_SAMPLES] {
        std::array::from_fn(|i| {
            let t = f64::from(u32::try_from(frame * FRAME_SAMPLES + i).unwrap()) / 48_000.0;
            let pitch = 120.0 * std::f64::consts::TAU * t;
            let tract = [1.0, 0.8, 0.7, 0.5, 0.6, 0.3, 0.2, 0.2];
            let sum: f64 = (1..)
                .zip(tract)
                .map(|(n, a)| a * (f64::from(n) * pitch).sin())
                .sum();
            #[expect(clippy::cast_possible_truncation, reason = "at most 12 900")]
            {
                (sum * 3_000.0) as i16
            }
        })
    }

    fn energy(samples: &[i16]) -> f64 {
        let sum: f64 = samples.iter().map(|&s| f64::from(s).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    }

    #[test]
    fn what_is_encoded_is_heard_at_the_configured_bitrate() {
        for (kbps, least, most) in [(16, 12.0, 20.0), (32, 24.0, 38.0), (64, 48.0, 74.0)] {
            let mut encoder = Encoder::new(kbps).unwrap();
            let mut decoder = opus::Decoder::new(48_000, Channels::Mono).unwrap();
            let mut bytes = 0;
            let mut heard = [0; FRAME_SAMPLES];
            for n in 0..100 {
                let packet = encoder.encode(&voice(n)).unwrap();
                bytes += packet.len();
                assert_eq!(decoder.decode(&packet, &mut heard, false).unwrap(), 960);
            }
            let sent = energy(&voice(99));
            let ratio = energy(&heard) / sent;
            assert!((0.7..1.3).contains(&ratio), "{kbps} kbit/s: {ratio}");
            let rate = bytes as f64 * 8.0 / 2_000.0;
            assert!((least..most).contains(&rate), "{kbps} kbit/s: {rate}");
        }
    }

    #[test]
    fn a_lost_packet_is_heard_from_its_successor() {
        let mut encoder = Encoder::new(32).unwrap();
        let mut with_fec = opus::Decoder::new(48_000, Channels::Mono).unwrap();
        let mut packets = Vec::new();
        // Silence, then a voice: what is lost is its onset, which no concealment can guess.
        for n in 0..50 {
            let frame = if n < 40 { [0; FRAME_SAMPLES] } else { voice(n) };
            packets.push(encoder.encode(&frame).unwrap());
        }
        let mut heard = [0; FRAME_SAMPLES];
        for packet in &packets[..41] {
            with_fec.decode(packet, &mut heard, false).unwrap();
        }
        with_fec.decode(&packets[42], &mut heard, true).unwrap();
        let ratio = energy(&heard) / energy(&voice(41));
        assert!(ratio > 0.3, "{ratio}");
    }

    #[test]
    fn every_legal_bitrate_is_taken() {
        for kbps in [6, 24, 128, 256] {
            let mut encoder = Encoder::new(kbps).unwrap();
            assert!(!encoder.encode(&voice(0)).unwrap().is_empty());
        }
    }
}
