//! MJPEG frames → I420 in limited range, with the decoder of `zune-jpeg`.
//!
//! No detour over RGB: the decoder gives Y, Cb and Cr at full size, of which the chroma of each four
//! pixels is averaged. 4:2:0, 4:2:2, 4:4:0, 4:4:4 and grey. A damaged frame is an error and nothing else:
//! its size is compared with the camera's before anything is allocated, and the decoder is strict.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::convert::I420;
use super::jpeg::{self, Damage};
use super::range::{limited_chroma, limited_luma};

/// How much larger than the camera's size a frame may say it is, in pixels: some cameras round up to
/// whole blocks, the largest of which has 32 columns. What is more is cut off.
const LARGEST_EXCESS: usize = 31;

/// Decodes the frames of one camera. Keeps its buffers from frame to frame.
pub struct Mjpeg {
    width: usize,
    height: usize,
    tidied: Vec<u8>,
    samples: Vec<u8>,
    planes: Vec<u8>,
}

impl fmt::Debug for Mjpeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, .. } = self;
        write!(f, "Mjpeg({width}x{height})")
    }
}

impl Mjpeg {
    /// Creates the decoder of frames of `width` x `height` pixels. An odd last column or row is cut
    /// off.
    #[must_use]
    pub const fn new(width: usize, height: usize) -> Self {
        Self {
            width: width & !1,
            height: height & !1,
            tidied: Vec::new(),
            samples: Vec::new(),
            planes: Vec::new(),
        }
    }

    /// Returns the picture in `frame`.
    ///
    /// # Errors
    ///
    /// [`Damage`]; the next frame may be whole again.
    pub fn decode(&mut self, frame: &[u8]) -> Result<I420<'_>, Damage> {
        let header = jpeg::tidy(frame, &mut self.tidied)?;
        let fits = |is: usize, wanted: usize| (wanted..=wanted + LARGEST_EXCESS).contains(&is);
        if !fits(header.width, self.width) || !fits(header.height, self.height) {
            return Err(Damage::Size {
                width: header.width,
                height: header.height,
            });
        }
        let (space, channels) = if header.is_grey {
            (ColorSpace::Luma, 1)
        } else {
            (ColorSpace::YCbCr, 3)
        };
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(header.width)
            .set_max_height(header.height)
            .jpeg_set_out_colorspace(space);
        let stride = header.width * channels;
        self.samples.resize(stride * header.height, 0);
        let samples = &mut self.samples;
        let tidied = ZCursor::new(&self.tidied);
        // The decoder is fuzzed, but it is not ours: what it does not expect must not end the camera.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            JpegDecoder::new_with_options(tidied, options).decode_into(samples)
        }));
        match decoded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Damage::Coded(error.to_string())),
            Err(_) => return Err(Damage::Coded("the decoder gave up".to_owned())),
        }
        let (width, height) = (self.width, self.height);
        self.planes.resize(width * height * 3 / 2, 0);
        let (luma, chroma) = self.planes.split_at_mut(width * height);
        let rows = self.samples.chunks_exact(stride);
        if header.is_grey {
            for (row, out) in rows.zip(luma.chunks_exact_mut(width)) {
                for (sample, out) in row.iter().zip(out) {
                    *out = limited_luma(*sample);
                }
            }
            chroma.fill(128);
        } else {
            split(&self.samples, stride, width, luma, chroma);
        }
        I420::in_one_block(width, height, &self.planes, width).ok_or(Damage::Malformed)
    }
}

/// Pulls rows of Y Cb Cr apart.
fn split(samples: &[u8], stride: usize, width: usize, luma: &mut [u8], chroma: &mut [u8]) {
    let (u, v) = chroma.split_at_mut(chroma.len() / 2);
    let chroma_rows = u
        .chunks_exact_mut(width / 2)
        .zip(v.chunks_exact_mut(width / 2));
    let luma_rows = luma.chunks_exact_mut(width * 2);
    for ((two_rows, luma), (u, v)) in samples.chunks(stride * 2).zip(luma_rows).zip(chroma_rows) {
        let (upper, lower) = two_rows.split_at(stride.min(two_rows.len()));
        let (y_upper, y_lower) = luma.split_at_mut(width);
        for (row, y) in [(upper, y_upper), (lower, y_lower)] {
            for ([sample, _, _], y) in row.as_chunks().0.iter().zip(y) {
                *y = limited_luma(*sample);
            }
        }
        let fours = upper.as_chunks().0.iter().zip(lower.as_chunks().0);
        for ((([_, a, b, _, c, d], [_, e, f, _, g, h]), u), v) in fours.zip(u).zip(v) {
            *u = limited_chroma(mean([*a, *c, *e, *g]));
            *v = limited_chroma(mean([*b, *d, *f, *h]));
        }
    }
}

fn mean(four: [u8; 4]) -> u8 {
    let sum: u16 = four.into_iter().map(u16::from).sum();
    u8::try_from((sum + 2) / 4).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

    const WIDTH: usize = 96;
    const HEIGHT: usize = 64;

    /// A gradient of luma, and chroma that differs from corner to corner; full range.
    fn pixel(x: usize, y: usize) -> [u8; 3] {
        let part = |i: usize, n: usize| u8::try_from(i * 255 / (n - 1)).unwrap();
        [part(x, WIDTH), part(y, HEIGHT), 255 - part(x, WIDTH)]
    }

    fn jpeg(width: usize, height: usize, sampling: SamplingFactor, kind: ColorType) -> Vec<u8> {
        let channels = if kind == ColorType::Luma { 1 } else { 3 };
        let pixels: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                pixel(i % width % WIDTH, i / width % HEIGHT)
                    .into_iter()
                    .take(channels)
            })
            .collect();
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 95);
        encoder.set_sampling_factor(sampling);
        let size = |n: usize| u16::try_from(n).unwrap();
        encoder
            .encode(&pixels, size(width), size(height), kind)
            .unwrap();
        jpeg
    }

    fn colour(sampling: SamplingFactor) -> Vec<u8> {
        jpeg(WIDTH, HEIGHT, sampling, ColorType::Ycbcr)
    }

    /// Asserts that the picture is the gradient in limited range, but for what coding loses.
    fn assert_shows_the_gradient(picture: &I420<'_>, is_grey: bool) {
        assert_eq!((picture.width(), picture.height()), (WIDTH, HEIGHT));
        let [y_plane, u_plane, v_plane] = picture.planes();
        let close = |is: u8, wanted: u8| is.abs_diff(wanted) <= 6;
        for (y, x) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (y, x))) {
            let [luma, cb, cr] = pixel(x, y);
            let is = y_plane.bytes()[y * y_plane.stride() + x];
            assert!(close(is, limited_luma(luma)), "luma at {x},{y}: {is}");
            let at = y / 2 * u_plane.stride() + x / 2;
            let (u, v) = (u_plane.bytes()[at], v_plane.bytes()[at]);
            if is_grey {
                assert_eq!([u, v], [128, 128]);
            } else {
                assert!(close(u, limited_chroma(cb)), "u at {x},{y}: {u}");
                assert!(close(v, limited_chroma(cr)), "v at {x},{y}: {v}");
            }
        }
    }

    #[test]
    fn every_sampling_gives_the_same_picture_in_limited_range() {
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        for sampling in [
            SamplingFactor::F_1_1,
            SamplingFactor::F_2_1,
            SamplingFactor::F_1_2,
            SamplingFactor::F_2_2,
        ] {
            let picture = decoder.decode(&colour(sampling)).unwrap();
            assert_shows_the_gradient(&picture, false);
        }
        let grey = jpeg(WIDTH, HEIGHT, SamplingFactor::F_1_1, ColorType::Luma);
        assert_shows_the_gradient(&decoder.decode(&grey).unwrap(), true);
    }

    #[test]
    fn a_frame_that_is_a_little_larger_is_cut_to_size() {
        let frame = jpeg(
            WIDTH + 16,
            HEIGHT + 8,
            SamplingFactor::F_2_1,
            ColorType::Ycbcr,
        );
        let mut decoder = Mjpeg::new(WIDTH + 1, HEIGHT + 1);
        let picture = decoder.decode(&frame).unwrap();
        assert_eq!((picture.width(), picture.height()), (WIDTH, HEIGHT));
    }

    #[test]
    fn a_size_that_the_camera_was_not_set_to_allocates_nothing() {
        let mut frame = colour(SamplingFactor::F_2_2);
        let at = frame.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        frame[at + 5..at + 9].fill(0xff);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        let size = Damage::Size {
            width: 65_535,
            height: 65_535,
        };
        assert_eq!(decoder.decode(&frame).unwrap_err(), size);
        let small = jpeg(WIDTH / 2, HEIGHT, SamplingFactor::F_2_2, ColorType::Ycbcr);
        assert!(matches!(decoder.decode(&small), Err(Damage::Size { .. })));
        assert_eq!(decoder.samples.capacity(), 0);
    }

    #[test]
    fn a_frame_cut_short_or_with_a_gap_is_no_picture() {
        let frame = colour(SamplingFactor::F_2_1);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        let scan = frame.windows(2).position(|w| w == [0xff, 0xda]).unwrap() + 14;
        let third = (frame.len() - scan) / 3;
        for length in (0..frame.len()).step_by(7) {
            assert!(decoder.decode(&frame[..length]).is_err(), "{length}");
            // What the USB bus lost, between a whole head and a whole tail.
            if (scan + third..frame.len()).contains(&length) {
                let gap = [&frame[..scan], &frame[length..]].concat();
                assert!(decoder.decode(&gap).is_err(), "a gap up to {length}");
            }
        }
        assert!(
            decoder.decode(&frame).is_ok(),
            "the next whole one is decoded"
        );
    }

    #[test]
    fn flipped_bits_never_panic() {
        let frames = [SamplingFactor::F_2_1, SamplingFactor::F_2_2].map(colour);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        let mut random = 0x9e37_79b9_u32;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            usize::try_from(random).unwrap() % below
        };
        for round in 0..4_000 {
            let mut frame = frames[round % 2].clone();
            for _ in 0..=next(8) {
                let at = next(frame.len());
                frame[at] = u8::try_from(next(256)).unwrap();
            }
            if let Err(Damage::Coded(reason)) = decoder.decode(&frame) {
                assert_ne!(reason, "the decoder gave up");
            }
        }
    }
}
