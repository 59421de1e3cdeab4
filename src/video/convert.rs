//! Raw camera pictures → I420 in limited range, the one layout the encoder takes.
//!
//! YUYV and UYVY 4:2:2 (two rows of chroma are averaged into one), NV12 (chroma is pulled apart) and
//! I420 itself (borrowed as it is). Row strides are honoured. Samples of full range are brought into
//! limited range. MJPEG is left out. Pure.

use super::range;

/// One plane of a picture: rows of `stride` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Plane<'a> {
    /// Returns the plane whose rows start every `stride` bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8], stride: usize) -> Self {
        Self { bytes, stride }
    }

    /// Returns all bytes; the last row may end before its stride.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the distance from row to row, in bytes.
    #[must_use]
    pub const fn stride(self) -> usize {
        self.stride
    }

    fn holds(self, columns: usize, rows: usize) -> bool {
        let last_row = self.stride.checked_mul(rows.saturating_sub(1));
        let end = last_row.and_then(|start| start.checked_add(columns));
        self.stride >= columns && end.is_some_and(|end| end <= self.bytes.len())
    }
}

/// A borrowed picture in planes: luma at full size, chroma at half of it both ways.
///
/// The planes are known to be long enough, so a decoder in C may read them.
#[derive(Clone, Copy, Debug)]
pub struct I420<'a> {
    width: usize,
    height: usize,
    planes: [Plane<'a>; 3],
}

impl<'a> I420<'a> {
    /// Returns the picture, or `None` where a plane is too short, the strides of the chroma planes
    /// differ, or the size is odd or zero.
    #[must_use]
    pub fn new(width: usize, height: usize, planes: [Plane<'a>; 3]) -> Option<Self> {
        let [y, u, v] = planes;
        let good = width > 0
            && height > 0
            && width.is_multiple_of(2)
            && height.is_multiple_of(2)
            && y.holds(width, height)
            && u.holds(width / 2, height / 2)
            && v.holds(width / 2, height / 2)
            && u.stride == v.stride;
        good.then_some(Self {
            width,
            height,
            planes,
        })
    }

    /// Returns the picture that lies in one block: Y, then U, then V, where chroma rows are half as
    /// long as luma rows.
    #[must_use]
    pub fn in_one_block(
        width: usize,
        height: usize,
        bytes: &'a [u8],
        stride: usize,
    ) -> Option<Self> {
        let (y, chroma) = bytes.split_at_checked(stride.checked_mul(height)?)?;
        let (u, v) = chroma.split_at_checked((stride / 2).checked_mul(height / 2)?)?;
        let plane = |bytes| Plane::new(bytes, stride / 2);
        Self::new(width, height, [Plane::new(y, stride), plane(u), plane(v)])
    }

    /// Returns the width in pixels, even.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Returns the height in pixels, even.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Returns Y, U and V.
    #[must_use]
    pub const fn planes(&self) -> [Plane<'a>; 3] {
        self.planes
    }

    /// Writes the planes to `out`, one behind the other and without padding; what was there is lost.
    pub(super) fn copy_to(&self, out: &mut Vec<u8>) {
        let (width, height) = (self.width, self.height);
        let [y, u, v] = self.planes;
        out.clear();
        for (plane, columns, rows) in [
            (y, width, height),
            (u, width / 2, height / 2),
            (v, width / 2, height / 2),
        ] {
            let lines = plane.bytes.chunks(plane.stride).take(rows);
            lines.for_each(|line| out.extend_from_slice(line.get(..columns).unwrap_or_default()));
        }
    }
}

/// Layouts of raw pictures that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawFormat {
    /// `YUYV`: Y0 U Y1 V.
    Yuyv,
    /// `UYVY`: U Y0 V Y1.
    Uyvy,
    /// `NV12`: Y, then U and V interleaved.
    Nv12,
    /// `YU12`: Y, U, V.
    I420,
}

/// Converts the pictures of one camera. Keeps its output buffer from picture to picture.
#[derive(Debug)]
pub struct Converter {
    format: RawFormat,
    width: usize,
    height: usize,
    stride: usize,
    is_full_range: bool,
    converted: Vec<u8>,
    limited: Vec<u8>,
    /// A row of averaged chroma, U and V in turns.
    chroma_row: Vec<u8>,
}

impl Converter {
    /// Creates the converter of pictures of `width` x `height` pixels whose first plane has rows of
    /// `stride` bytes. An odd last column or row is cut off.
    #[must_use]
    pub const fn new(format: RawFormat, width: usize, height: usize, stride: usize) -> Self {
        Self {
            format,
            width: width & !1,
            height: height & !1,
            stride,
            is_full_range: false,
            converted: Vec::new(),
            limited: Vec::new(),
            chroma_row: Vec::new(),
        }
    }

    /// The same, of pictures whose samples go from 0 to 255 if `is_full_range`.
    #[must_use]
    pub const fn of_range(mut self, is_full_range: bool) -> Self {
        self.is_full_range = is_full_range;
        self
    }

    /// Returns whether `raw` is long enough to hold a picture.
    #[must_use]
    pub fn holds(&self, raw: &[u8]) -> bool {
        let (width, height) = (self.width, self.height);
        match self.format {
            RawFormat::I420 => I420::in_one_block(width, height, raw, self.stride).is_some(),
            RawFormat::Yuyv | RawFormat::Uyvy => {
                Plane::new(raw, self.stride).holds(width * 2, height)
            }
            RawFormat::Nv12 => self.halves(raw).is_some(),
        }
    }

    /// Returns luma, and chroma, of NV12.
    fn halves<'a>(&self, raw: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let (y, uv) = raw.split_at_checked(self.stride.checked_mul(self.height)?)?;
        let is_long_enough = Plane::new(uv, self.stride).holds(self.width, self.height / 2);
        is_long_enough.then_some((y, uv))
    }

    /// Returns the picture in `raw`, or `None` where `raw` is too short to hold one.
    pub fn convert<'a>(&'a mut self, raw: &'a [u8]) -> Option<I420<'a>> {
        if !self.holds(raw) {
            return None;
        }
        let (width, height, stride) = (self.width, self.height, self.stride);
        let picture = match self.format {
            RawFormat::I420 => I420::in_one_block(width, height, raw, stride)?,
            RawFormat::Yuyv | RawFormat::Uyvy => {
                let is_yuyv = self.format == RawFormat::Yuyv;
                self.converted.resize(width * height * 3 / 2, 0);
                self.chroma_row.resize(width, 0);
                let (y, chroma) = self.converted.split_at_mut(width * height);
                let row = &mut self.chroma_row;
                // One loop for each: the order of the samples is known where it is compiled.
                if is_yuyv {
                    split_packed(raw, stride, y, chroma, row, first, mean_second);
                } else {
                    split_packed(raw, stride, y, chroma, row, second, mean_first);
                }
                I420::in_one_block(width, height, &self.converted, width)?
            }
            RawFormat::Nv12 => {
                let (y, uv) = self.halves(raw)?;
                self.converted.resize(width * height / 2, 0);
                let (u, v) = self.converted.split_at_mut(width * height / 4);
                split_chroma(uv, stride, width, u, v);
                let plane = |bytes| Plane::new(bytes, width / 2);
                let (u, v) = (plane(&*u), plane(&*v));
                I420::new(width, height, [Plane::new(y, stride), u, v])?
            }
        };
        if !self.is_full_range {
            return Some(picture);
        }
        picture.copy_to(&mut self.limited);
        range::limit(&mut self.limited, width * height);
        I420::in_one_block(width, height, &self.limited, width)
    }
}

/// Splits rows of packed 4:2:2: of each two bytes, one is luma, the other U and V in turns. `chroma_row` is
/// as long as a row of the picture, and of no use afterwards.
fn split_packed(
    raw: &[u8],
    stride: usize,
    y: &mut [u8],
    chroma: &mut [u8],
    chroma_row: &mut [u8],
    luma_of: impl Fn([u8; 2]) -> u8,
    chroma_of: impl Fn([u8; 2], [u8; 2]) -> u8,
) {
    let width = chroma_row.len();
    let (u, v) = chroma.split_at_mut(chroma.len() / 2);
    let chroma_rows = u
        .chunks_exact_mut(width / 2)
        .zip(v.chunks_exact_mut(width / 2));
    let luma_rows = y.chunks_exact_mut(width * 2);
    for ((two_rows, luma_row), (u, v)) in raw.chunks(stride * 2).zip(luma_rows).zip(chroma_rows) {
        let (upper, lower) = two_rows.split_at(stride.min(two_rows.len()));
        let (y_upper, y_lower) = luma_row.split_at_mut(width);
        for (row, y) in [(upper, y_upper), (lower, y_lower)] {
            for (pair, y) in row.as_chunks().0.iter().zip(y) {
                *y = luma_of(*pair);
            }
        }
        let pairs = upper.as_chunks().0.iter().zip(lower.as_chunks().0);
        for ((upper, lower), out) in pairs.zip(chroma_row.iter_mut()) {
            *out = chroma_of(*upper, *lower);
        }
        split_pairs(chroma_row, u, v);
    }
}

fn split_chroma(uv: &[u8], stride: usize, width: usize, u: &mut [u8], v: &mut [u8]) {
    let rows = u
        .chunks_exact_mut(width / 2)
        .zip(v.chunks_exact_mut(width / 2));
    for (row, (u, v)) in uv.chunks(stride).zip(rows) {
        split_pairs(row, u, v);
    }
}

fn split_pairs(pairs: &[u8], u: &mut [u8], v: &mut [u8]) {
    for (pair, (u, v)) in pairs.as_chunks().0.iter().zip(u.iter_mut().zip(v)) {
        *u = first(*pair);
        *v = second(*pair);
    }
}

// Two bytes are taken as one number, which is cut in vector instructions; byte by byte, compilers find
// those that take ten times as long.

#[inline]
const fn first(pair: [u8; 2]) -> u8 {
    (u16::from_le_bytes(pair) & 0xff) as u8
}

#[inline]
const fn second(pair: [u8; 2]) -> u8 {
    (u16::from_le_bytes(pair) >> 8) as u8
}

/// Returns the mean of the first ones, rounded down.
#[inline]
const fn mean_first(a: [u8; 2], b: [u8; 2]) -> u8 {
    let sum = (u16::from_le_bytes(a) & 0xff) + (u16::from_le_bytes(b) & 0xff);
    (sum >> 1 & 0xff) as u8
}

/// Returns the mean of the second ones, rounded down.
#[inline]
const fn mean_second(a: [u8; 2], b: [u8; 2]) -> u8 {
    let sum = (u16::from_le_bytes(a) >> 8) + (u16::from_le_bytes(b) >> 8);
    (sum >> 1 & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;

    fn rows(plane: Plane<'_>, columns: usize, rows: usize) -> Vec<Vec<u8>> {
        (0..rows)
            .map(|r| plane.bytes()[r * plane.stride()..][..columns].to_vec())
            .collect()
    }

    #[test]
    fn yuyv_keeps_luma_and_averages_the_chroma_of_two_rows() {
        // 4x2 with a stride of 10: two bytes of padding per row.
        let raw = [
            [1, 100, 2, 200, 3, 50, 4, 60, 0xee, 0xee],
            [5, 110, 6, 210, 7, 50, 8, 60, 0xee, 0xee],
        ]
        .concat();
        let mut converter = Converter::new(RawFormat::Yuyv, 4, 2, 10);
        let picture = converter.convert(&raw).unwrap();
        let [y, u, v] = picture.planes();
        assert_eq!(rows(y, 4, 2), [[1, 2, 3, 4], [5, 6, 7, 8]]);
        assert_eq!(rows(u, 2, 1), [[105, 50]]);
        assert_eq!(rows(v, 2, 1), [[205, 60]]);
    }

    #[test]
    fn uyvy_is_the_same_in_another_order() {
        let raw = [
            [100, 1, 200, 2, 50, 3, 60, 4, 0xee, 0xee],
            [110, 5, 210, 6, 50, 7, 60, 8, 0xee, 0xee],
        ]
        .concat();
        let mut converter = Converter::new(RawFormat::Uyvy, 4, 2, 10);
        let [y, u, v] = converter.convert(&raw).unwrap().planes();
        assert_eq!(rows(y, 4, 2), [[1, 2, 3, 4], [5, 6, 7, 8]]);
        assert_eq!(rows(u, 2, 1), [[105, 50]]);
        assert_eq!(rows(v, 2, 1), [[205, 60]]);
    }

    #[test]
    fn full_range_is_brought_into_limited_range_whatever_the_layout() {
        for (format, luma_first) in [
            (RawFormat::Yuyv, [0, 128, 255, 128].repeat(4)),
            (RawFormat::Uyvy, [128, 0, 128, 255].repeat(4)),
            (RawFormat::Nv12, [[0, 255].repeat(8), vec![128; 8]].concat()),
            (RawFormat::I420, [[0, 255].repeat(8), vec![128; 8]].concat()),
        ] {
            let packed = matches!(format, RawFormat::Yuyv | RawFormat::Uyvy);
            let (width, height, stride) = if packed { (4, 2, 8) } else { (4, 4, 4) };
            let mut converter = Converter::new(format, width, height, stride).of_range(true);
            let [y, u, v] = converter.convert(&luma_first).unwrap().planes();
            assert_eq!(rows(y, 4, 1), [[16, 235, 16, 235]], "{format:?}");
            assert_eq!([rows(u, 2, 1), rows(v, 2, 1)], [[[128; 2]], [[128; 2]]]);
        }
    }

    #[test]
    fn a_last_row_without_its_padding_is_a_whole_picture() {
        let raw = [9; 10 + 8];
        let mut converter = Converter::new(RawFormat::Yuyv, 4, 2, 10);
        assert!(converter.convert(&raw).is_some());
    }

    #[test]
    fn nv12_is_pulled_apart_and_its_luma_is_not_copied() {
        let raw = [
            [1, 2, 0xee, 0xee],
            [3, 4, 0xee, 0xee],
            [5, 6, 0xee, 0xee],
            [7, 8, 0xee, 0xee],
            [10, 20, 0xee, 0xee],
            [11, 21, 0xee, 0xee],
        ]
        .concat();
        let mut converter = Converter::new(RawFormat::Nv12, 2, 4, 4);
        let picture = converter.convert(&raw).unwrap();
        let [y, u, v] = picture.planes();
        assert_eq!(y.bytes().as_ptr(), raw.as_ptr());
        assert_eq!(rows(y, 2, 4), [[1, 2], [3, 4], [5, 6], [7, 8]]);
        assert_eq!(rows(u, 1, 2), [[10], [11]]);
        assert_eq!(rows(v, 1, 2), [[20], [21]]);
    }

    #[test]
    fn i420_is_borrowed_with_its_strides() {
        let raw: Vec<u8> = (0..24).collect();
        let mut converter = Converter::new(RawFormat::I420, 2, 4, 4);
        let picture = converter.convert(&raw).unwrap();
        let [y, u, v] = picture.planes();
        assert_eq!(rows(y, 2, 4), [[0, 1], [4, 5], [8, 9], [12, 13]]);
        assert_eq!(rows(u, 1, 2), [[16], [18]]);
        assert_eq!(rows(v, 1, 2), [[20], [22]]);
    }

    #[test]
    fn a_buffer_that_is_too_short_is_no_picture() {
        let formats = [RawFormat::Yuyv, RawFormat::Uyvy, RawFormat::Nv12];
        for format in formats.into_iter().chain([RawFormat::I420]) {
            let mut converter = Converter::new(format, 64, 64, 128);
            for length in [0, 1, 128, 4_000] {
                assert!(converter.convert(&vec![0; length]).is_none(), "{format:?}");
            }
            let mut no_rows = Converter::new(format, 64, 64, 0);
            assert!(no_rows.convert(&[0; 9_000]).is_none(), "{format:?}");
        }
    }

    #[test]
    fn once_warm_nothing_is_allocated() {
        let raw = vec![128; 64 * 64 * 2];
        for (format, stride) in [
            (RawFormat::Yuyv, 128),
            (RawFormat::Nv12, 64),
            (RawFormat::I420, 64),
        ] {
            let mut converter = Converter::new(format, 64, 64, stride);
            assert!(converter.convert(&raw).is_some());
            let before = allocations::of_this_thread();
            assert!(converter.convert(&raw).is_some());
            assert_eq!(allocations::of_this_thread(), before, "{format:?}");
        }
    }
}
