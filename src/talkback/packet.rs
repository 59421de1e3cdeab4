//! How long an Opus packet lasts, by its first two bytes (RFC 6716 §3.1, §3.2).
//!
//! Nothing is decoded. Pure.

use super::SAMPLE_RATE_HZ;

/// The longest that one packet may last (RFC 6716 §3.2.5), in samples: 120 ms.
pub const MAX_SAMPLES: u32 = SAMPLE_RATE_HZ * 120 / 1_000;

/// Returns how many samples of 48 kHz a packet has; `None` where it is no Opus packet.
#[must_use]
pub fn duration(packet: &[u8]) -> Option<u32> {
    let &toc = packet.first()?;
    let samples_of_ms = |ms| SAMPLE_RATE_HZ / 1_000 * ms;
    let configuration = u32::from(toc >> 3);
    let frame = match configuration {
        // SILK: 10, 20, 40, 60 ms.
        0..12 => samples_of_ms([10, 20, 40, 60].get(configuration as usize % 4).copied()?),
        // Hybrid: 10, 20 ms.
        12..16 => samples_of_ms(10 << (configuration % 2)),
        // CELT: 2.5, 5, 10, 20 ms.
        _ => (SAMPLE_RATE_HZ / 400) << (configuration % 4),
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    let samples = frame * frames;
    (1..=MAX_SAMPLES).contains(&samples).then_some(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_how_long_a_packet_lasts() {
        for (packet, samples) in [
            (&[0b0000_1000][..], Some(960)),     // SILK, 20 ms
            (&[0b0001_1000], Some(2_880)),       // SILK, 60 ms
            (&[0b0111_1000], Some(960)),         // hybrid, 20 ms
            (&[0b1000_0000], Some(120)),         // CELT, 2.5 ms
            (&[0b1111_1100], Some(960)),         // CELT, 20 ms, stereo
            (&[0b1111_1001], Some(1_920)),       // two frames of 20 ms
            (&[0b1111_1011, 6], Some(5_760)),    // six of them
            (&[0b1111_1011, 0x86], Some(5_760)), // of variable size
        ] {
            assert_eq!(duration(packet), samples, "{packet:02x?}");
        }
    }

    #[test]
    fn what_is_no_packet_lasts_not_at_all() {
        for junk in [&[][..], &[0b1111_1011], &[0b1111_1011, 0], &[0xfb, 7]] {
            assert_eq!(duration(junk), None, "{junk:02x?}");
        }
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let samples = duration(&[first, second]).unwrap_or(120);
                assert!((120..=MAX_SAMPLES).contains(&samples));
            }
        }
    }
}
