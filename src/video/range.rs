//! Full-range samples (JPEG: 0 to 255) → limited range (16 to 235, chroma 16 to 240), and back.
//!
//! Everything this program encodes is of limited range, as its bitstream says. It could say "full"
//! instead, but decoders in hardware often ignore that, and show grey for black. BT.601 on both
//! sides, so each sample stands for itself (ITU-T T.871, ITU-R BT.601). Pure.

/// Returns a luma sample in limited range.
#[must_use]
pub const fn limited_luma(full: u8) -> u8 {
    // 16 + full * 219 / 255, off by less than one; in 16 bits, which compilers vectorize best.
    scaled(full, 220, 16 * 256 + 128)
}

/// Returns a chroma sample in limited range.
#[must_use]
pub const fn limited_chroma(full: u8) -> u8 {
    // 128 + (full - 128) * 224 / 255, likewise.
    scaled(full, 225, 128 * 256 - 128 * 225 + 128)
}

/// Returns a luma sample of limited range in full range; what lies outside is cut off.
#[must_use]
pub fn full_luma(limited: u8) -> u8 {
    let above_black = i32::from(limited) - 16;
    clamped((above_black * 255 + 109) / 219)
}

/// Returns a chroma sample of limited range in full range, likewise.
#[must_use]
pub fn full_chroma(limited: u8) -> u8 {
    let from_grey = i32::from(limited) - 128;
    clamped(128 + from_grey * 255 / 224)
}

fn clamped(sample: i32) -> u8 {
    u8::try_from(sample.clamp(0, 255)).unwrap_or_default()
}

/// Brings a picture of planes in one block, of which `luma_bytes` are luma, into limited range.
pub fn limit(block: &mut [u8], luma_bytes: usize) {
    let (luma, chroma) = block.split_at_mut(luma_bytes.min(block.len()));
    luma.iter_mut()
        .for_each(|sample| *sample = limited_luma(*sample));
    chroma
        .iter_mut()
        .for_each(|sample| *sample = limited_chroma(*sample));
}

const fn scaled(full: u8, factor: u16, offset: u16) -> u8 {
    // The sum stays below 65536, see the tests; its high byte is the sample.
    ((full as u16 * factor + offset) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_white_and_grey_land_on_their_values() {
        assert_eq!([limited_luma(0), limited_luma(255)], [16, 235]);
        let chroma = [0, 128, 255].map(limited_chroma);
        assert_eq!(chroma, [16, 128, 240]);
    }

    #[test]
    fn full_range_comes_back_as_it_was() {
        assert_eq!([0, 16, 235, 255].map(full_luma), [0, 0, 255, 255]);
        assert_eq!(
            [0, 16, 128, 240, 255].map(full_chroma),
            [0, 1, 128, 255, 255]
        );
        for full in 0..=u8::MAX {
            assert!(full_luma(limited_luma(full)).abs_diff(full) <= 2, "{full}");
            assert!(
                full_chroma(limited_chroma(full)).abs_diff(full) <= 2,
                "{full}"
            );
        }
    }

    #[test]
    fn luma_and_chroma_of_a_block_are_told_apart() {
        let mut block = [255; 6];
        limit(&mut block, 4);
        assert_eq!(block, [235, 235, 235, 235, 240, 240]);
    }

    #[test]
    fn every_sample_is_within_one_of_the_exact_value() {
        for full in 0..=u8::MAX {
            let exact = f64::from(full) * 219.0 / 255.0 + 16.0;
            assert!(
                (f64::from(limited_luma(full)) - exact).abs() <= 1.0,
                "{full}"
            );
            let exact = (f64::from(full) - 128.0) * 224.0 / 255.0 + 128.0;
            assert!(
                (f64::from(limited_chroma(full)) - exact).abs() <= 1.0,
                "{full}"
            );
        }
    }
}
