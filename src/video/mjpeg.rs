//! The frames of one MJPEG camera → I420 in limited range.
//!
//! 4:2:0, 4:2:2, 4:4:0, 4:4:4, 4:1:1 and grey. A damaged frame is an error and nothing else: its size is
//! compared with the camera's before anything is allocated, and what is not whole is no picture. Once warm,
//! nothing is allocated. Pure.

use std::fmt;

use super::convert::I420;
use super::jpeg::Damage;
use super::jpeg::decoder::Decoder;

/// How much larger than the camera's size a frame may say it is, in pixels: some cameras round up to
/// whole blocks, the largest of which has 32 columns. What is more is cut off.
const LARGEST_EXCESS: usize = 31;

/// Decodes the frames of one camera. Keeps its buffers from frame to frame.
pub struct Mjpeg {
    width: usize,
    height: usize,
    decoder: Decoder,
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
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width: width & !1,
            height: height & !1,
            decoder: Decoder::new(),
        }
    }

    /// Returns the picture in `frame`.
    ///
    /// # Errors
    ///
    /// [`Damage`]; the next frame may be whole again.
    pub fn decode(&mut self, frame: &[u8]) -> Result<I420<'_>, Damage> {
        let (width, height) = (self.width, self.height);
        let fits = |is: usize, wanted: usize| (wanted..=wanted + LARGEST_EXCESS).contains(&is);
        self.decoder.decode(frame, |header| {
            if fits(header.width, width) && fits(header.height, height) {
                return Ok(());
            }
            Err(Damage::Size {
                width: header.width,
                height: header.height,
            })
        })?;
        self.decoder.picture(width, height).ok_or(Damage::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::range::{limited_chroma, limited_luma};
    use crate::{allocations, clock};
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    use std::time::Instant;
    use zune_jpeg::JpegDecoder;
    use zune_jpeg::zune_core::bytestream::ZCursor;
    use zune_jpeg::zune_core::colorspace::ColorSpace;
    use zune_jpeg::zune_core::options::DecoderOptions;

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
        let small = jpeg(WIDTH / 2, HEIGHT, SamplingFactor::F_2_2, ColorType::Ycbcr);
        let size = Damage::Size {
            width: 65_535,
            height: 65_535,
        };
        let before = allocations::of_this_thread();
        assert_eq!(decoder.decode(&frame).unwrap_err(), size);
        assert!(matches!(decoder.decode(&small), Err(Damage::Size { .. })));
        assert_eq!(allocations::of_this_thread(), before);
    }

    #[test]
    fn once_warm_nothing_is_allocated() {
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        for sampling in [SamplingFactor::F_2_2, SamplingFactor::F_2_1] {
            // The first is the shortest: each further one is longer than any before.
            let frames: Vec<_> = (1..=10)
                .map(|tenth| photo(WIDTH, HEIGHT, sampling, 10 * tenth, 0))
                .collect();
            let (first, further) = frames.split_first().unwrap();
            assert!(first.len() * 2 < further.last().unwrap().len());
            decoder.decode(first).unwrap();
            let before = allocations::of_this_thread();
            for frame in further {
                decoder.decode(frame).unwrap();
                decoder.decode(&frame[..frame.len() / 2]).unwrap_err();
            }
            assert_eq!(allocations::of_this_thread(), before);
        }
    }

    /// A picture with edges, noise and smooth parts, as the decoder of others needs it: full-size chroma
    /// is the same in each square of four.
    fn photo(
        width: usize,
        height: usize,
        sampling: SamplingFactor,
        quality: u8,
        restart_interval: u16,
    ) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(width * height * 3);
        let mut random = 0x2545_f491_u32;
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let noise = usize::from(random.to_le_bytes()[0] % 32);
            let edge = if (x / 13 + y / 9) % 3 == 0 { 90 } else { 20 };
            let luma = edge + noise + x * 100 / width;
            let (x, y) = (x / 2 * 2, y / 2 * 2);
            let (cb, cr) = (60 + x, 200 - y);
            pixels.extend([luma, cb, cr].map(|sample| u8::try_from(sample).unwrap()));
        }
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, quality);
        encoder.set_sampling_factor(sampling);
        encoder.set_restart_interval(restart_interval);
        let size = |n: usize| u16::try_from(n).unwrap();
        encoder
            .encode(&pixels, size(width), size(height), ColorType::Ycbcr)
            .unwrap();
        jpeg
    }

    /// What the decoder of `zune-jpeg` makes of a frame: Y, Cb and Cr of each pixel, in full range.
    fn decoded_by_others(frame: &[u8]) -> Vec<[u8; 3]> {
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(ColorSpace::YCbCr);
        let samples = JpegDecoder::new_with_options(ZCursor::new(frame), options)
            .decode()
            .unwrap();
        samples.as_chunks().0.to_vec()
    }

    /// Asserts that a plane is what others decode, who smooth chroma that they enlarge.
    fn assert_same(what: &str, differences: &[u8], is_smoothed: bool) {
        let worst = *differences.iter().max().unwrap();
        let sum: u32 = differences.iter().copied().map(u32::from).sum();
        let mean = f64::from(sum) / f64::from(u32::try_from(differences.len()).unwrap());
        let largest = if is_smoothed { 16 } else { 2 };
        assert!(worst <= largest && mean <= 1.0, "{what}: {worst}, {mean}");
    }

    fn assert_shows_what_others_decode(frame: &[u8], width: usize, height: usize, is_full: bool) {
        let others = decoded_by_others(frame);
        let mut decoder = Mjpeg::new(width, height);
        let picture = decoder.decode(frame).unwrap();
        let [y_plane, u_plane, v_plane] = picture.planes();
        let mut differences = Vec::with_capacity(width * height);
        for (y, x) in (0..height & !1).flat_map(|y| (0..width & !1).map(move |x| (y, x))) {
            let is = y_plane.bytes()[y * y_plane.stride() + x];
            differences.push(is.abs_diff(limited_luma(others[y * width + x][0])));
        }
        assert_same("luma", &differences, false);
        for (part, plane) in [(1, u_plane), (2, v_plane)] {
            differences.clear();
            for (y, x) in (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (y, x))) {
                let is = plane.bytes()[y * plane.stride() + x];
                let at = |dx: usize, dy: usize| {
                    u16::from(others[(2 * y + dy) * width + 2 * x + dx][part])
                };
                let sum: u16 = at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1);
                let wanted = limited_chroma(u8::try_from((sum + 2) / 4).unwrap());
                differences.push(is.abs_diff(wanted));
            }
            assert_same("chroma", &differences, !is_full);
        }
    }

    #[test]
    fn every_sampling_size_and_quality_shows_what_others_decode() {
        let samplings = [
            SamplingFactor::F_1_1,
            SamplingFactor::F_2_1,
            SamplingFactor::F_1_2,
            SamplingFactor::F_2_2,
        ];
        for sampling in samplings {
            for (width, height) in [(96, 64), (98, 66), (101, 71), (34, 18), (16, 8), (2, 2)] {
                for (quality, restart_interval) in [(30, 0), (75, 1), (90, 5), (100, 0)] {
                    let frame = photo(width, height, sampling, quality, restart_interval);
                    let is_full = sampling == SamplingFactor::F_1_1;
                    assert_shows_what_others_decode(&frame, width, height, is_full);
                }
            }
        }
    }

    /// `jpeg` without its segments of `marker`.
    fn without(marker: u8, jpeg: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (jpeg[..2].to_vec(), &jpeg[2..]);
        while rest[1] != 0xda {
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]])) + 2;
            let (segment, behind) = rest.split_at(length);
            if segment[1] != marker {
                out.extend(segment);
            }
            rest = behind;
        }
        [&out, rest].concat()
    }

    #[test]
    fn huffman_tables_that_are_left_out_are_those_of_the_standard() {
        let frame = colour(SamplingFactor::F_2_1);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        let bare = without(0xc4, &frame);
        assert!(bare.len() + 400 < frame.len());
        assert_shows_the_gradient(&decoder.decode(&bare).unwrap(), false);
    }

    #[test]
    fn the_tables_of_a_frame_do_not_hold_for_the_next() {
        let frame = colour(SamplingFactor::F_2_1);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        assert!(decoder.decode(&frame).is_ok());
        let missing = Damage::Coded("a table is missing");
        let bare = without(0xdb, &frame);
        assert_eq!(decoder.decode(&bare).unwrap_err(), missing);
        let other = photo(WIDTH, HEIGHT, SamplingFactor::F_2_1, 50, 0);
        assert!(decoder.decode(&other).is_ok());
        assert_shows_the_gradient(&decoder.decode(&frame).unwrap(), false);
    }

    #[test]
    fn a_lost_or_swapped_restart_interval_is_damage() {
        let frame = photo(WIDTH, HEIGHT, SamplingFactor::F_2_1, 80, 4);
        let marker = |number: u8| {
            let wanted = [0xff, 0xd0 + number];
            frame.windows(2).position(|pair| pair == wanted).unwrap()
        };
        let (first, second, third) = (marker(0), marker(1), marker(2));
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        assert!(decoder.decode(&frame).is_ok());
        let lost = [&frame[..first], &frame[second..]].concat();
        assert!(decoder.decode(&lost).is_err());
        let swapped = [
            &frame[..first],
            &frame[second..third],
            &frame[first..second],
            &frame[third..],
        ];
        assert!(decoder.decode(&swapped.concat()).is_err());
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
    fn flipped_bytes_never_panic_and_never_take_much_longer() {
        let frames = [SamplingFactor::F_2_1, SamplingFactor::F_2_2].map(colour);
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        let mut random = 0x9e37_79b9_u32;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            usize::try_from(random).unwrap() % below
        };
        let took = |start: Instant| clock::now() - start;
        let start = clock::now();
        for frame in frames.iter().cycle().take(200) {
            decoder.decode(frame).unwrap();
        }
        let whole = took(start);
        let start = clock::now();
        for round in 0..4_000 {
            let mut frame = frames[round % 2].clone();
            for _ in 0..=next(8) {
                let at = next(frame.len());
                frame[at] = u8::try_from(next(256)).unwrap();
            }
            let _damage = decoder.decode(&frame).is_err();
        }
        assert!(
            took(start) < whole * 20 * 5,
            "five times as long as whole ones"
        );
    }
}
