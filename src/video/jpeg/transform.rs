//! The coefficients of a block → its 8x8 samples in limited range: the inverse cosine transform (ITU-T
//! T.81, A.3.3; ITU-R BT.601).
//!
//! After Arai, Agui and Nakajima: most factors of the transform are multiplied into the quantization
//! tables, five multiplications remain for each row and column. They are done in 16 bits, for eight
//! columns at once, as the vector instructions of every processor do; five bits are behind the point, so
//! that samples are within one of the exact ones. Sums saturate: nothing wraps around. Pure.

use std::hint::black_box;

/// The coefficients of a block, each as [`scaled`] gives it; those of a column lie together.
pub(super) type Block = [i16; 64];

/// The samples of a block, row by row.
pub(super) type Samples = [u8; 64];

/// Bits behind the point while a block is transformed. What a whole picture holds grows to 128 * 1.39 *
/// 2.62 = 466 on the way at most; 1023 would fit.
const POINT: u32 = 5;

/// Bits behind the point of a [`factor`]: with a coefficient of 12 bits, it fits 32.
const FACTOR_POINT: u32 = 8;

/// √2 cos(k π / 16), and 1 for k = 0, in units of 2^-14: what is multiplied into the tables.
const SCALES: [i64; 8] = [16_384, 22_725, 21_407, 19_266, 16_384, 12_873, 8_867, 4_520];

/// Largest coefficient: what is larger is none of a picture of eight bits.
const LARGEST: i32 = 2_047;

/// Largest factor: 255 times the scales is half as much.
const LARGEST_FACTOR: i32 = i32::MAX / (LARGEST + 1);

/// Returns what a coefficient is multiplied by, for [`scaled`].
pub(super) fn factor(quantizer: u16, column: usize, row: usize) -> i32 {
    let scale = |at: usize| SCALES.get(at).copied().unwrap_or_default();
    let product = i64::from(quantizer) * scale(column) * scale(row);
    // The scales' own bits, and the transform's factor of 1/8.
    let too_many = 2 * 14 + 3 - POINT - FACTOR_POINT;
    let rounded = (product + (1 << (too_many - 1))) >> too_many;
    i32::try_from(rounded).map_or(LARGEST_FACTOR, |factor| factor.min(LARGEST_FACTOR))
}

/// Returns a coefficient as a [`Block`] holds it.
#[inline]
pub(super) fn scaled(coefficient: i32, factor: i32) -> i16 {
    let product = coefficient.clamp(-LARGEST, LARGEST) * factor;
    let rounded = (product + (1 << (FACTOR_POINT - 1))) >> FACTOR_POINT;
    let end = if rounded < 0 { i16::MIN } else { i16::MAX };
    i16::try_from(rounded).unwrap_or(end)
}

/// Returns the sample of luma that a value is: 16 + (128 + value) * 219 / 255.
#[inline]
#[expect(clippy::cast_sign_loss, reason = "it was brought into range")]
pub(super) fn luma(value: i16) -> u8 {
    // Added before: 0.929, which is left of 16 + 128 * 219 / 255, and a half.
    let scaled = part(value.saturating_add(53), 1_759);
    scaled.saturating_add(125).clamp(16, 235) as u8
}

/// Returns the sample of chroma that a value is: 128 + value * 224 / 255.
#[inline]
#[expect(clippy::cast_sign_loss, reason = "it was brought into range")]
pub(super) fn chroma(value: i16) -> u8 {
    let scaled = part(value.saturating_add(18), 1_799);
    scaled.saturating_add(128).clamp(16, 240) as u8
}

/// Returns the samples of `block`, as `sample` makes them: [`luma`] or [`chroma`]. Where there is nothing but
/// a mean, that is what all samples are made of.
#[inline]
pub(super) fn samples(block: &Block, sample: impl Fn(i16) -> u8) -> Samples {
    let mut values = *block;
    one_way(&mut values);
    // Three times make columns of rows. A compiler that sees them as one step takes longer ways.
    let mut values = black_box(shuffled(&black_box(shuffled(&values))));
    values = shuffled(&values);
    one_way(&mut values);
    let mut samples = [0; 64];
    for (out, value) in samples.iter_mut().zip(&values) {
        *out = sample(*value);
    }
    samples
}

/// Returns the two halves dealt into one another, as cards are.
#[inline]
fn shuffled(values: &Block) -> Block {
    let mut out = [0; 64];
    let (lower, upper) = values.split_at(32);
    let pairs = out.as_chunks_mut().0.iter_mut();
    for ((pair, a), b) in pairs.zip(lower).zip(upper) {
        *pair = [*a, *b];
    }
    out
}

/// Transforms what is eight apart.
#[inline]
fn one_way(values: &mut Block) {
    let ([c0, c1, c2, c3, c4, c5, c6, c7], []) = values.as_chunks_mut::<8>() else {
        return;
    };
    let low = c0.iter_mut().zip(c1).zip(c2.iter_mut().zip(c3));
    let high = c4.iter_mut().zip(c5).zip(c6.iter_mut().zip(c7));
    for (((c0, c1), (c2, c3)), ((c4, c5), (c6, c7))) in low.zip(high) {
        [*c0, *c1, *c2, *c3, *c4, *c5, *c6, *c7] =
            transform([*c0, *c1, *c2, *c3, *c4, *c5, *c6, *c7]);
    }
}

#[inline]
fn transform([c0, c1, c2, c3, c4, c5, c6, c7]: [i16; 8]) -> [i16; 8] {
    // Even frequencies.
    let (sum, difference) = butterfly(c0, c4);
    let (inner, turned) = butterfly(c2, c6);
    let outer = by_1_4142(turned).saturating_sub(inner);
    let (e0, e3) = butterfly(sum, inner);
    let (e1, e2) = butterfly(difference, outer);
    // Odd ones.
    let (a, b) = butterfly(c5, c3);
    let (c, d) = butterfly(c1, c7);
    let (o0, between) = butterfly(c, a);
    let shared = by_1_8478(b.saturating_add(d));
    let o1 = shared.saturating_sub(by_2_6131(b)).saturating_sub(o0);
    let o2 = by_1_4142(between).saturating_sub(o1);
    let o3 = shared.saturating_sub(by_1_0824(d)).saturating_sub(o2);
    let ((y0, y7), (y1, y6)) = (butterfly(e0, o0), butterfly(e1, o1));
    let ((y2, y5), (y3, y4)) = (butterfly(e2, o2), butterfly(e3, o3));
    [y0, y1, y2, y3, y4, y5, y6, y7]
}

#[inline]
const fn butterfly(a: i16, b: i16) -> (i16, i16) {
    (a.saturating_add(b), a.saturating_sub(b))
}

/// By 2 cos(π/4).
#[inline]
fn by_1_4142(value: i16) -> i16 {
    value.saturating_add(part(value, 27_146))
}

/// By 2 cos(π/8).
#[inline]
fn by_1_8478(value: i16) -> i16 {
    let twice = value.saturating_add(value);
    twice.saturating_add(part(value, -9_977))
}

/// By 2 (cos(π/8) - cos(3π/8)).
#[inline]
fn by_1_0824(value: i16) -> i16 {
    value.saturating_add(part(value, 5_400))
}

/// By 2 (cos(π/8) + cos(3π/8)).
#[inline]
fn by_2_6131(value: i16) -> i16 {
    let thrice = value.saturating_add(value).saturating_add(value);
    thrice.saturating_add(part(value, -25_355))
}

/// Returns `value * factor / 65536`, which is one vector instruction.
#[inline]
fn part(value: i16, factor: i16) -> i16 {
    ((i32::from(value) * i32::from(factor)) >> 16) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::{PI, SQRT_2};

    /// As the standard writes it.
    fn exact(coefficients: &[[f64; 8]; 8], x: usize, y: usize) -> f64 {
        let n = |n: usize| f64::from(u8::try_from(n).unwrap());
        let wave = |at: usize, frequency: usize| {
            let scale = if frequency == 0 { 1.0 / SQRT_2 } else { 1.0 };
            scale * ((2.0 * n(at) + 1.0) * n(frequency) * PI / 16.0).cos()
        };
        let mut sum = 0.0;
        for (v, row) in coefficients.iter().enumerate() {
            for (u, value) in row.iter().enumerate() {
                sum += wave(x, u) * wave(y, v) * value;
            }
        }
        (sum / 4.0 + 128.0).clamp(0.0, 255.0)
    }

    fn in_range(full: f64, is_luma: bool) -> f64 {
        if is_luma {
            16.0 + full * 219.0 / 255.0
        } else {
            128.0 + (full - 128.0) * 224.0 / 255.0
        }
    }

    #[test]
    fn samples_are_within_one_of_the_exact_ones() {
        let mut random = 0x9e37_79b9_u32;
        let mut next = |below: i32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            i32::try_from(random >> 8).unwrap() % below
        };
        for round in 0..400 {
            let mut coefficients = [[0.0; 8]; 8];
            let mut block = [0; 64];
            for _ in 0..=round % 20 {
                let (u, v) = (next(8), next(8));
                let [u, v] = [u, v].map(|n| usize::try_from(n).unwrap());
                let (value, quantizer) = (next(21) - 10, next(30) + 1);
                coefficients[v][u] = f64::from(value * quantizer);
                let quantizer = u16::try_from(quantizer).unwrap();
                block[u * 8 + v] = scaled(value, factor(quantizer, u, v));
            }
            for (made, is_luma) in [
                (samples(&block, luma), true),
                (samples(&block, chroma), false),
            ] {
                for (at, sample) in made.iter().enumerate() {
                    let wanted = in_range(exact(&coefficients, at % 8, at / 8), is_luma);
                    let off = (f64::from(*sample) - wanted).abs();
                    assert!(off < 1.0, "{off} at {at} of {coefficients:?}");
                }
            }
        }
    }

    #[test]
    fn a_block_of_one_value_needs_no_transform() {
        for mean in -1_100..1_100 {
            let mut block = [0; 64];
            block[0] = scaled(mean, factor(1, 0, 0));
            let flat = luma(block[0]);
            assert_eq!(samples(&block, luma), [flat; 64], "{mean}");
        }
    }

    #[test]
    fn what_no_picture_holds_saturates() {
        for extreme in [i16::MIN, i16::MAX] {
            let mut block = [extreme; 64];
            samples(&block, luma);
            block[1..].fill(0);
            let ends = if extreme < 0 { [16, 16] } else { [235, 240] };
            assert_eq!(samples(&block, luma), [ends[0]; 64]);
            assert_eq!(samples(&block, chroma), [ends[1]; 64]);
        }
        assert_eq!(scaled(2_047, factor(u16::MAX, 1, 1)), i16::MAX);
        assert_eq!(scaled(-2_047, factor(u16::MAX, 1, 1)), i16::MIN);
    }

    #[test]
    fn black_white_and_grey_land_on_their_values() {
        let values = [0, 128, 255].map(|full| scaled(8 * (full - 128), factor(1, 0, 0)));
        assert_eq!(values.map(luma), [16, 126, 235]);
        assert_eq!(values.map(chroma), [16, 128, 240]);
    }
}
