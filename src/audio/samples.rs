//! What sound cards deliver → samples between −1 and 1 of one channel. Pure.

/// How a card writes down a sample. Little endian, as all cards of our machines do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    /// 16 bits.
    S16,
    /// 24 bits in the low bytes of four.
    S24,
    /// 24 bits in three bytes.
    S24Packed,
    /// 32 bits, of which the lowest may be unused.
    S32,
    /// Floating point, nominally between −1 and 1.
    Float,
}

impl Encoding {
    /// Returns how many bytes a sample takes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::S16 => 2,
            Self::S24Packed => 3,
            Self::S24 | Self::S32 | Self::Float => 4,
        }
    }

    /// Appends to `mono` the mean of the channels that are interleaved in `bytes`. A frame that is
    /// not whole is left out.
    pub(super) fn mix(self, bytes: &[u8], channels: usize, mono: &mut Vec<f32>) {
        const FULL_SCALE: f32 = 2_147_483_648.0;
        let wide = |b: [u8; 4]| i32::from_le_bytes(b) as f32 / FULL_SCALE;
        match self {
            Self::S16 => mix(bytes, channels, mono, |[a, b]| wide([0, 0, a, b])),
            // The fourth byte may hold anything.
            Self::S24 => mix(bytes, channels, mono, |[a, b, c, _]| wide([0, a, b, c])),
            Self::S24Packed => mix(bytes, channels, mono, |[a, b, c]| wide([0, a, b, c])),
            Self::S32 => mix(bytes, channels, mono, wide),
            Self::Float => mix(bytes, channels, mono, |b| {
                let value = f32::from_le_bytes(b);
                // One that is no number would be in all that follow.
                if value.is_finite() {
                    value.clamp(-1.0, 1.0)
                } else {
                    0.0
                }
            }),
        }
    }
}

fn mix<const N: usize>(
    bytes: &[u8],
    channels: usize,
    mono: &mut Vec<f32>,
    value: impl Fn([u8; N]) -> f32,
) {
    let channels = channels.max(1);
    let share = 1.0 / channels as f32;
    let mean = |frame: &[u8]| {
        let values = frame.as_chunks::<N>().0.iter().map(|&sample| value(sample));
        values.sum::<f32>() * share
    };
    mono.extend(bytes.chunks_exact(N * channels).map(mean));
}

/// Returns a sample as the encoder takes it. What is too loud is cut off.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
pub(super) fn to_i16(sample: f32) -> i16 {
    (sample * 32_768.0).round() as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mono(encoding: Encoding, channels: usize, bytes: &[u8]) -> Vec<i16> {
        let mut mono = Vec::new();
        encoding.mix(bytes, channels, &mut mono);
        mono.into_iter().map(to_i16).collect()
    }

    #[test]
    fn every_encoding_means_the_same_sample() {
        let cases: [(Encoding, &[u8]); 5] = [
            (Encoding::S16, &[0x34, 0x12]),
            (Encoding::S24, &[0, 0x34, 0x12, 0x77]),
            (Encoding::S24Packed, &[0, 0x34, 0x12]),
            (Encoding::S32, &[0, 0, 0x34, 0x12]),
            (Encoding::Float, &(4_660.0_f32 / 32_768.0).to_le_bytes()),
        ];
        for (encoding, bytes) in cases {
            assert_eq!(bytes.len(), encoding.bytes());
            assert_eq!(mono(encoding, 1, bytes), [0x1234], "{encoding:?}");
        }
    }

    #[test]
    fn the_loudest_and_the_most_negative_samples_keep_their_sign() {
        let cases: [(Encoding, &[u8]); 4] = [
            (Encoding::S16, &[0, 0x80, 0xff, 0x7f]),
            (Encoding::S24, &[0, 0, 0x80, 0, 0xff, 0xff, 0x7f, 0]),
            (Encoding::S24Packed, &[0, 0, 0x80, 0xff, 0xff, 0x7f]),
            (Encoding::S32, &[0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f]),
        ];
        for (encoding, bytes) in cases {
            assert_eq!(
                mono(encoding, 1, bytes),
                [i16::MIN, i16::MAX],
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn channels_are_mixed_into_one_and_a_part_of_a_frame_is_left_out() {
        let bytes = [100_i16, 200, -3, 3, i16::MAX, i16::MAX, 7];
        let bytes: Vec<u8> = bytes.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(mono(Encoding::S16, 2, &bytes), [150, 0, i16::MAX]);
        assert_eq!(mono(Encoding::S16, 0, &bytes[..2]), [100]);
        assert!(mono(Encoding::S16, 2, &bytes[..3]).is_empty());
    }

    #[test]
    fn floats_that_are_no_samples_are_silence_or_as_loud_as_can_be() {
        let bytes: Vec<u8> = [f32::NAN, f32::INFINITY, 3.5, -3.5]
            .iter()
            .flat_map(|s| s.to_le_bytes())
            .collect();
        assert_eq!(mono(Encoding::Float, 1, &bytes), [0, 0, i16::MAX, i16::MIN]);
    }
}
