//! A stream of bytes → raw I420 pictures, whose rows may be padded.
//!
//! Programs write one picture after the other, with nothing between, and do not say how long a row
//! is in memory. Where the width is a multiple of 128, as those of usual sizes are, it is never padded.
//! Otherwise it shows in the pause after the first picture: so many bytes came, and only a few
//! paddings are usual. Pictures of full range are brought into limited range. Pure.

use super::convert::I420;
use super::range;

/// To what multiples rows are padded: nothing, 16 and 32 (GPUs), 64 (Pi 0 to 4), 128 (Pi 5).
const ALIGNMENTS: [usize; 5] = [2, 16, 32, 64, LARGEST_ALIGNMENT];
const LARGEST_ALIGNMENT: usize = 128;

/// Cuts the stream of one program. Its memory is that of the largest picture with padding.
#[derive(Debug)]
pub(super) struct RawStream {
    width: usize,
    height: usize,
    /// Bytes from row to row of luma, once it is known.
    stride: Option<usize>,
    buffer: Vec<u8>,
    filled: usize,
    is_taken: bool,
}

impl RawStream {
    /// Creates the cutter of pictures of `width` x `height` pixels, both even.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let largest = width.next_multiple_of(LARGEST_ALIGNMENT);
        Self {
            width,
            height,
            stride: (largest == width).then_some(width),
            // One more, to notice when there is too much.
            buffer: vec![0; picture_bytes(largest, height) + 1],
            filled: 0,
            is_taken: false,
        }
    }

    /// Returns where the next bytes go; empty only when it is lost. A picture that was taken is gone
    /// then.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.is_taken {
            let rest = self.picture_end().min(self.filled);
            self.buffer.copy_within(rest..self.filled, 0);
            self.filled -= rest;
            self.is_taken = false;
        }
        // Once the stride is known, no more than a picture is read: the rest stays in the pipe.
        let end = self.picture_end();
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }

    /// So many bytes were written to [`Self::space`].
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.buffer.len());
    }

    /// Returns whether more came than one picture can be, without a pause that shows where it ends.
    pub(super) const fn is_lost(&self) -> bool {
        let largest = self.width.next_multiple_of(LARGEST_ALIGNMENT);
        self.stride.is_none() && self.filled > picture_bytes(largest, self.height)
    }

    /// Returns whether a pause would tell something.
    pub(super) const fn waits_for_pause(&self) -> bool {
        self.stride.is_none() && self.filled >= picture_bytes(self.width, self.height)
    }

    /// Nothing came for a while: if what is here is a whole picture, it shows how long a row is.
    pub(super) fn pause(&mut self) {
        if self.stride.is_none() {
            let strides = ALIGNMENTS.map(|alignment| self.width.next_multiple_of(alignment));
            let fits = |stride: &usize| picture_bytes(*stride, self.height) == self.filled;
            self.stride = strides.into_iter().find(fits);
        }
    }

    /// Returns the picture, once it is whole, in limited range; the next bytes are the next one's.
    pub(super) fn take(&mut self) -> Option<I420<'_>> {
        let stride = self.stride?;
        let end = picture_bytes(stride, self.height);
        if self.is_taken || self.filled < end {
            return None;
        }
        self.is_taken = true;
        let picture = self.buffer.get_mut(..end)?;
        range::limit(picture, stride * self.height);
        I420::in_one_block(self.width, self.height, picture, stride)
    }

    fn picture_end(&self) -> usize {
        self.stride.map_or(self.buffer.len(), |stride| {
            picture_bytes(stride, self.height)
        })
    }
}

const fn picture_bytes(stride: usize, height: usize) -> usize {
    stride * height * 3 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;

    const WIDTH: usize = 90;
    const HEIGHT: usize = 4;

    /// A picture of full range whose luma is `number`; the padding is of another value.
    fn picture(number: u8, stride: usize) -> Vec<u8> {
        let row = |length: usize, stride: usize, value: u8| {
            (0..stride).map(move |x| if x < length { value } else { 99 })
        };
        let luma = (0..HEIGHT).flat_map(|_| row(WIDTH, stride, number));
        let chroma = (0..HEIGHT).flat_map(|_| row(WIDTH / 2, stride / 2, 128));
        luma.chain(chroma).collect()
    }

    /// Feeds `bytes` in pieces; returns the luma of each picture that is taken.
    fn feed(stream: &mut RawStream, mut bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while !bytes.is_empty() {
            let space = stream.space();
            let length = space.len().min(piece).min(bytes.len());
            assert!(length > 0, "there is always space");
            let (now, later) = bytes.split_at(length);
            space[..length].copy_from_slice(now);
            bytes = later;
            stream.wrote(length);
            taken.extend(luma(stream));
        }
        taken
    }

    fn luma(stream: &mut RawStream) -> Option<u8> {
        let picture = stream.take()?;
        let [y, u, _] = picture.planes();
        let rows = (0..HEIGHT).map(|row| &y.bytes()[row * y.stride()..][..WIDTH]);
        let values: Vec<u8> = rows.flatten().copied().collect();
        assert!(values.iter().all(|v| *v == values[0]), "no padding in it");
        assert_eq!(u.bytes()[u.stride() + WIDTH / 2 - 1], 128);
        Some(values[0])
    }

    #[test]
    fn padding_is_learned_from_the_pause_after_the_first_picture() {
        for alignment in ALIGNMENTS {
            let stride = WIDTH.next_multiple_of(alignment);
            let mut stream = RawStream::new(WIDTH, HEIGHT);
            assert_eq!(feed(&mut stream, &picture(0, stride), 7), [0; 0]);
            assert!(stream.waits_for_pause());
            stream.pause();
            assert_eq!(luma(&mut stream), Some(16), "limited range, {stride}");
            assert!(!stream.waits_for_pause());
            let more = [picture(255, stride), picture(0, stride)].concat();
            assert_eq!(feed(&mut stream, &more, 100), [235, 16]);
        }
    }

    #[test]
    fn a_pause_within_the_first_picture_tells_nothing() {
        let stride = WIDTH.next_multiple_of(64);
        let bytes = picture(255, stride);
        let mut stream = RawStream::new(WIDTH, HEIGHT);
        for piece in bytes.chunks(stride * HEIGHT * 3 / 2 - 50) {
            stream.pause();
            assert_eq!(luma(&mut stream), None);
            feed(&mut stream, piece, 1_000);
        }
        stream.pause();
        assert_eq!(luma(&mut stream), Some(235));
    }

    #[test]
    fn pictures_that_come_without_a_pause_are_told_apart_at_usual_widths_alone() {
        let mut unusual = RawStream::new(WIDTH, HEIGHT);
        let bytes: Vec<u8> = (0..9).flat_map(|_| picture(0, WIDTH)).collect();
        let space = unusual.space();
        let length = space.len();
        space.copy_from_slice(&bytes[..length]);
        unusual.wrote(length);
        assert!(unusual.is_lost());

        let mut usual = RawStream::new(128, 2);
        let mut taken = 0;
        for _ in 0..50 {
            let piece = usual.space().len().min(100);
            usual.wrote(piece);
            taken += usize::from(usual.take().is_some());
            assert!(!usual.waits_for_pause() && !usual.is_lost());
        }
        assert_eq!(taken, 50 / 4, "each comes in four pieces");
    }

    #[test]
    fn nothing_is_allocated_for_a_picture() {
        let bytes = picture(255, 128);
        let mut stream = RawStream::new(128, HEIGHT);
        let before = allocations::of_this_thread();
        for _ in 0..10 {
            stream.space().copy_from_slice(&bytes);
            stream.wrote(bytes.len());
            assert!(stream.take().is_some());
        }
        assert_eq!(allocations::of_this_thread(), before);
    }
}
