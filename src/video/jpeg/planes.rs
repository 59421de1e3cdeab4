//! Where the blocks of a frame go: into planes of I420, with what is too much of chroma averaged.
//!
//! Planes are as large as the blocks that cover the picture, so that no block is ever cut. Pure.

use super::transform::Samples;
use crate::video::convert::{I420, Plane};

/// How many blocks the components have in one MCU, and how many MCUs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grid {
    /// MCUs in a row.
    pub(super) across: usize,
    /// Rows of MCUs.
    pub(super) down: usize,
    /// Blocks of luma in an MCU, next to each other.
    pub(super) h: usize,
    /// Blocks of luma in an MCU, one above the other.
    pub(super) v: usize,
}

impl Grid {
    /// Returns the grid that covers `width` x `height` pixels.
    pub(super) const fn covering(width: usize, height: usize, h: usize, v: usize) -> Self {
        Self {
            across: width.div_ceil(8 * h),
            down: height.div_ceil(8 * v),
            h,
            v,
        }
    }

    const fn width(&self) -> usize {
        self.across * self.h * 8
    }

    const fn height(&self) -> usize {
        self.down * self.v * 8
    }
}

/// The planes of one frame after the other.
#[derive(Debug, Default)]
pub(super) struct Planes {
    grid: Grid,
    bytes: Vec<u8>,
}

impl Planes {
    /// Prepares for a frame; what is in the planes is of no use then.
    pub(super) fn prepare(&mut self, grid: Grid) {
        if self.grid != grid {
            self.grid = grid;
            self.bytes.clear();
            self.bytes.resize(grid.width() * grid.height() * 3 / 2, 0);
        }
    }

    /// Returns Y, U and V, and the distance from row to row of luma; that of chroma is half of it.
    pub(super) fn split(&mut self) -> ([&mut [u8]; 3], usize) {
        // So many bytes are there, and half as many again.
        let luma_bytes = self.grid.width() * self.grid.height();
        let (luma, chroma) = self.bytes.split_at_mut(luma_bytes);
        let (u, v) = chroma.split_at_mut(chroma.len() / 2);
        ([luma, u, v], self.grid.width())
    }

    /// Returns the first `width` x `height` pixels, both even.
    pub(super) fn picture(&self, width: usize, height: usize) -> Option<I420<'_>> {
        let stride = self.grid.width();
        let (luma, chroma) = self.bytes.split_at_checked(stride * self.grid.height())?;
        let (u, v) = chroma.split_at_checked(chroma.len() / 2)?;
        let planes = [
            Plane::new(luma, stride),
            Plane::new(u, stride / 2),
            Plane::new(v, stride / 2),
        ];
        I420::new(width, height, planes)
    }
}

/// How the blocks of a component lie in their plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lay {
    /// One sample for one.
    Whole,
    /// Two rows become one: chroma of 4:2:2.
    HalfTheRows,
    /// Four samples become one: chroma of 4:4:4.
    Quartered,
    /// So many columns and rows of a plane for two samples each: chroma of other samplings.
    Scaled {
        /// 1, 2 or 4.
        columns: usize,
        /// 1, 2 or 4.
        rows: usize,
    },
}

impl Lay {
    /// Returns how chroma lies of which there is one block for `across` x `down` of luma; `None` where there
    /// is no such camera.
    pub(super) const fn of_chroma(across: usize, down: usize) -> Option<Self> {
        match (across, down) {
            (2, 2) => Some(Self::Whole),
            (2, 1) => Some(Self::HalfTheRows),
            (1, 1) => Some(Self::Quartered),
            (1 | 2 | 4, 1 | 2 | 4) => Some(Self::Scaled {
                columns: across,
                rows: down,
            }),
            _ => None,
        }
    }

    /// Returns columns and rows that a block takes.
    pub(super) const fn size(self) -> (usize, usize) {
        match self {
            Self::Whole => (8, 8),
            Self::HalfTheRows => (8, 4),
            Self::Quartered => (4, 4),
            Self::Scaled { columns, rows } => (4 * columns, 4 * rows),
        }
    }

    /// Puts a block where `plane` starts, whose rows are `stride` bytes apart.
    #[inline]
    pub(super) fn put(self, samples: &Samples, plane: &mut [u8], stride: usize) {
        match self {
            Self::Whole => put_rows(samples.as_chunks().0, plane, stride),
            Self::HalfTheRows => {
                let mut halved = [0; 32];
                let pairs = samples.as_chunks::<16>().0;
                for (out, pair) in halved.as_chunks_mut::<8>().0.iter_mut().zip(pairs) {
                    let (upper, lower) = pair.split_at(8);
                    for ((out, a), b) in out.iter_mut().zip(upper).zip(lower) {
                        *out = mean_of_two(*a, *b);
                    }
                }
                put_rows(halved.as_chunks().0, plane, stride);
            }
            Self::Quartered => {
                let pairs = samples.as_chunks::<16>().0;
                for (line, pair) in plane.chunks_mut(stride).zip(pairs) {
                    let (upper, lower) = pair.split_at(8);
                    let fours = upper.as_chunks().0.iter().zip(lower.as_chunks().0);
                    for (out, ([a, b], [c, d])) in line.iter_mut().zip(fours) {
                        *out = mean_of_four([*a, *b, *c, *d]);
                    }
                }
            }
            Self::Scaled { columns, rows } => {
                for (y, line) in plane.chunks_mut(stride).take(4 * rows).enumerate() {
                    for (x, out) in line.iter_mut().take(4 * columns).enumerate() {
                        let [left, right] = [2 * x / columns, (2 * x + 1) / columns];
                        let [upper, lower] = [2 * y / rows, (2 * y + 1) / rows];
                        let four = [(left, upper), (right, upper), (left, lower), (right, lower)];
                        *out = mean_of_four(four.map(|(x, y)| {
                            let sample = samples.get(y * 8 + x).copied();
                            sample.unwrap_or_default()
                        }));
                    }
                }
            }
        }
    }
}

#[inline]
fn put_rows(rows: &[[u8; 8]], plane: &mut [u8], stride: usize) {
    for (row, line) in rows.iter().zip(plane.chunks_mut(stride)) {
        if let Some(out) = line.first_chunk_mut() {
            *out = *row;
        }
    }
}

/// Rounded up.
#[inline]
fn mean_of_two(a: u8, b: u8) -> u8 {
    ((u16::from(a) + u16::from(b) + 1) >> 1 & 0xff) as u8
}

#[inline]
fn mean_of_four(four: [u8; 4]) -> u8 {
    let [a, b, c, d] = four.map(u16::from);
    ((a + b + c + d + 2) >> 2 & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a block of which each sample is `10 * y + x`, and returns the first rows.
    fn put(lay: Lay) -> Vec<Vec<u8>> {
        let samples: Vec<u8> = (0..64).map(|at| at / 8 * 10 + at % 8).collect();
        let mut plane = vec![255; 18 * 17];
        lay.put(&samples.try_into().unwrap(), &mut plane, 18);
        let (columns, rows) = lay.size();
        let (inside, outside): (Vec<_>, Vec<_>) = plane
            .iter()
            .enumerate()
            .partition(|(at, _)| at % 18 < columns && at / 18 < rows);
        assert!(outside.iter().all(|(_, byte)| **byte == 255), "{lay:?}");
        let inside: Vec<u8> = inside.into_iter().map(|(_, byte)| *byte).collect();
        inside.chunks(columns).map(<[u8]>::to_vec).collect()
    }

    fn of(across: usize, down: usize) -> Vec<Vec<u8>> {
        put(Lay::of_chroma(across, down).unwrap())
    }

    #[test]
    fn chroma_of_every_sampling_covers_two_pixels_each_way() {
        assert_eq!(of(2, 2)[7], [70, 71, 72, 73, 74, 75, 76, 77]);
        assert_eq!(
            of(2, 1),
            (0..4)
                .map(|y| (0..8).map(|x| 20 * y + 5 + x).collect::<Vec<u8>>())
                .collect::<Vec<_>>()
        );
        assert_eq!(of(1, 1)[1], [26, 28, 30, 32].map(|n: u8| n));
        assert_eq!(of(1, 2)[3], [31, 33, 35, 37].map(|n: u8| n));
        assert_eq!(of(4, 1)[0][..6], [5, 5, 6, 6, 7, 7]);
        assert_eq!(of(2, 4)[2..4], [of(2, 2)[1].clone(), of(2, 2)[1].clone()]);
        assert_eq!(Lay::of_chroma(3, 1), None);
    }

    #[test]
    fn planes_hold_every_block_of_a_size_that_is_none_of_theirs() {
        let grid = Grid::covering(1_921, 1_080, 2, 2);
        assert_eq!((grid.across, grid.down), (121, 68));
        let mut planes = Planes::default();
        planes.prepare(grid);
        let ([y, u, v], stride) = planes.split();
        assert_eq!((stride, y.len()), (1_936, 1_936 * 1_088));
        assert_eq!([u.len(), v.len()], [968 * 544; 2]);
        let picture = planes.picture(1_920, 1_080).unwrap();
        assert_eq!((picture.width(), picture.height()), (1_920, 1_080));
        assert!(planes.picture(1_940, 1_080).is_none());
    }
}
