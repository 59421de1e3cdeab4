//! The coded bytes of a scan → bits (ITU-T T.81, B.1.1.5 and F.2.2.5).
//!
//! A zero follows each 0xff of coded data, and restart markers lie between; both are taken out first,
//! so that eight bytes can be read at once. What ends early goes on with zeros, and is told afterwards. Pure.

use super::Damage;

/// How many zeros are behind the coded bytes: as many as are read at once.
pub(super) const PADDING: usize = 8;

/// Longest tail of an interval that is passed over, in bytes: some encoders fill up the words that they
/// write, and cheap cameras leave a few bytes behind the last block of every frame. A frame that lost
/// its way in the middle leaves more, or too little.
const LONGEST_TAIL: usize = 16;

/// How much is searched for a marker in one go, in bytes.
const STRIDE: usize = 64;

/// Replaces `coded` by what lies in front of the first marker of `bytes`, for [`Bits`]; returns the marker
/// and what is behind it. `coded` becomes no longer than `bytes`, and eight.
///
/// # Errors
///
/// [`Damage::CutShort`], where there is no marker.
pub(super) fn take_interval<'a>(
    bytes: &'a [u8],
    coded: &mut Vec<u8>,
) -> Result<(u8, &'a [u8]), Damage> {
    coded.clear();
    let mut rest = bytes;
    loop {
        let (plain, from) = rest.split_at(plain_bytes(rest));
        coded.extend_from_slice(plain);
        rest = match from {
            [_, 0x00, behind @ ..] => {
                coded.push(0xff);
                behind
            }
            [_, 0xff, ..] => from.get(1..).unwrap_or_default(),
            [_, marker, behind @ ..] => {
                coded.extend([0; PADDING]);
                return Ok((*marker, behind));
            }
            [_] | [] => return Err(Damage::CutShort),
        };
    }
}

/// Returns how many bytes there are in front of the first 0xff.
fn plain_bytes(bytes: &[u8]) -> usize {
    let strides = bytes.chunks(STRIDE);
    let plain = strides.take_while(|stride| !stride.contains(&0xff)).count() * STRIDE;
    let rest = bytes.get(plain..).unwrap_or_default();
    plain.min(bytes.len()) + rest.iter().take_while(|&&byte| byte != 0xff).count()
}

/// Reads bits, first the highest of each byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest on. Behind those that are held come some that will be.
    window: u64,
    held: u32,
}

impl<'a> Bits<'a> {
    /// Creates the reader of what [`take_interval`] gave.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            window: 0,
            held: 0,
        }
    }

    /// Sees to it that 56 bits can be read.
    #[inline]
    pub(super) fn refill(&mut self) {
        let next = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk);
        self.window |= next.map_or(0, |next| u64::from_be_bytes(*next)) >> self.held;
        self.at += usize::try_from((63 - self.held) / 8).unwrap_or_default();
        self.held |= 56;
    }

    /// Returns the next `count` bits without reading them: 1 to 56.
    #[inline]
    pub(super) const fn peek(&self, count: u32) -> u64 {
        self.window >> (64 - count)
    }

    /// Reads `count` bits that are there: up to 56 since the last [`Self::refill`].
    #[inline]
    pub(super) const fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.held -= count;
    }

    /// Returns how many bits are left, or `None` where more were read than there are.
    #[inline]
    pub(super) fn left(&self) -> Option<usize> {
        let coded = self.bytes.len().saturating_sub(PADDING);
        let held = usize::try_from(self.held).unwrap_or_default();
        (coded * 8 + held).checked_sub(self.at * 8)
    }

    /// Returns whether more was read than there is.
    #[inline]
    pub(super) fn ended_early(&self) -> bool {
        self.left().is_none()
    }

    /// Returns whether everything was read, up to a tail of a few bytes.
    pub(super) fn is_at_end(&self) -> bool {
        self.left().is_some_and(|left| left / 8 <= LONGEST_TAIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(bytes: &[u8]) -> Result<(Vec<u8>, u8, &[u8]), Damage> {
        let mut coded = vec![1, 2, 3];
        let (marker, behind) = take_interval(bytes, &mut coded)?;
        assert!(coded.ends_with(&[0; PADDING]));
        coded.truncate(coded.len() - PADDING);
        Ok((coded, marker, behind))
    }

    #[test]
    fn stuffing_is_taken_out_up_to_the_marker() {
        let found = interval(&[1, 0xff, 0, 2, 0xff, 0xff, 0xd3, 9, 8]);
        assert_eq!(found, Ok((vec![1, 0xff, 2], 0xd3, &[9, 8][..])));
        for length in [0, 1, 63, 64, 65, 127, 128, 129, 500] {
            let mut bytes = vec![7; length];
            bytes.extend([0xff, 0xd9]);
            assert_eq!(interval(&bytes), Ok((vec![7; length], 0xd9, &[][..])));
            assert_eq!(interval(&bytes[..length + 1]), Err(Damage::CutShort));
            assert_eq!(interval(&bytes[..length]), Err(Damage::CutShort));
        }
    }

    #[test]
    fn bits_come_in_the_order_they_are_written_in() {
        let bytes: Vec<u8> = (0..100).chain([0; PADDING]).collect();
        let mut bits = Bits::new(&bytes);
        let mut read = Vec::new();
        for length in (1..=15).cycle() {
            bits.refill();
            let value = bits.peek(length);
            bits.skip(length);
            read.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
            if read.len() > 800 - 15 {
                break;
            }
        }
        let wanted = (0..100_u8).flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        assert!(read.iter().copied().eq(wanted.take(read.len())));
    }

    #[test]
    fn what_was_not_read_or_is_not_there_is_noticed() {
        let read = |coded: &[u8], count: usize| {
            let bytes = [coded, &[0; PADDING]].concat();
            let mut bits = Bits::new(&bytes);
            for _ in 0..count {
                bits.refill();
                bits.skip(1);
            }
            (bits.is_at_end(), bits.ended_early())
        };
        assert_eq!(read(&[1; 20], 160), (true, false));
        assert_eq!(read(&[1; 20], 32), (true, false), "a tail");
        assert_eq!(read(&[1; 20], 24), (false, false), "more than that");
        assert_eq!(read(&[1; 20], 161), (false, true));
        assert_eq!(read(&[1; 20], 100_000), (false, true));
        assert_eq!(read(&[0; 17], 0), (false, false));
        assert_eq!(read(&[], 0), (true, false));
    }
}
