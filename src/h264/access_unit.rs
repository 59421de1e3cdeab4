//! Where one coded picture ends and the next begins (ITU-T H.264 §7.4.1.2.3), and what it holds.
//!
//! Reads only the first bits of slice headers. Redundant and auxiliary pictures, and data
//! partitioning, which no camera makes, are not told apart. Pure.

use bytes::Bytes;

use super::annexb::{NalUnit, nal_units};
use super::bits::BitReader;

/// What a coded picture is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// There is a slice at all; otherwise these are parameter sets alone.
    pub has_picture: bool,
    /// It is an IDR picture.
    pub is_idr: bool,
    /// It has bidirectional slices, which a real-time viewer cannot show without delay.
    pub has_b_slices: bool,
}

/// Returns what the access unit `stream` is made of.
#[must_use]
pub fn contents(stream: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for unit in nal_units(stream).filter(|unit| unit.is_slice()) {
        contents.has_picture = true;
        contents.is_idr |= unit.unit_type() == NalUnit::IDR_SLICE;
        contents.has_b_slices |= slice_type(unit).is_some_and(|t| t % 5 == B_SLICE);
    }
    contents
}

/// Splits a byte stream into access units. The parts share the memory of `stream`.
///
/// Bytes before the first start code are dropped, as is a tail without a picture.
#[must_use]
pub fn access_units(stream: &Bytes) -> Vec<Bytes> {
    let mut units = Vec::new();
    let mut start: Option<usize> = None;
    let mut has_picture = false;
    for unit in nal_units(stream) {
        let at = offset_of_start_code(stream, unit);
        if has_picture && begins_access_unit(unit) {
            if let Some(begin) = start.replace(at) {
                units.push(stream.slice(begin..at));
            }
            has_picture = false;
        }
        start.get_or_insert(at);
        has_picture |= unit.is_slice();
    }
    if let (Some(begin), true) = (start, has_picture) {
        units.push(stream.slice(begin..));
    }
    units
}

/// `slice_type` of a B slice, modulo 5 (Table 7-6).
const B_SLICE: u32 = 1;

/// Whether `unit`, coming after a slice, belongs to the next picture.
fn begins_access_unit(unit: NalUnit<'_>) -> bool {
    match unit.unit_type() {
        NalUnit::SEI | NalUnit::SPS | NalUnit::PPS | NalUnit::DELIMITER | 14..=18 => true,
        // first_mb_in_slice is 0, whose code is a single 1 bit.
        _ => unit.is_slice() && unit.bytes().get(1).is_some_and(|b| b & 0x80 != 0),
    }
}

fn slice_type(unit: NalUnit<'_>) -> Option<u32> {
    let mut bits = BitReader::new(unit.bytes().get(1..)?);
    bits.ue()?;
    bits.ue()
}

fn offset_of_start_code(stream: &[u8], unit: NalUnit<'_>) -> usize {
    let unit_at = unit.bytes().as_ptr().addr() - stream.as_ptr().addr();
    let mut at = unit_at.saturating_sub(3);
    if at > 0 && stream.get(at - 1) == Some(&0) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: &[u8] = &[0, 0, 0, 1, 0x67, 0x42];
    const PPS: &[u8] = &[0, 0, 0, 1, 0x68, 0xce];
    const IDR: &[u8] = &[0, 0, 1, 0x65, 0x88, 0x80];
    const P: &[u8] = &[0, 0, 0, 1, 0x41, 0x9a, 0x11];
    const SECOND_SLICE: &[u8] = &[0, 0, 1, 0x41, 0x5a, 0x11];
    const B: &[u8] = &[0, 0, 1, 0x01, 0b1010_1111];

    fn split(parts: &[&[u8]]) -> Vec<Bytes> {
        access_units(&Bytes::from(parts.concat()))
    }

    #[test]
    fn parameter_sets_belong_to_the_picture_behind_them() {
        let units = split(&[SPS, PPS, IDR, P, SPS, PPS, IDR]);
        assert_eq!(
            units,
            [
                [SPS, PPS, IDR].concat(),
                P.to_vec(),
                [SPS, PPS, IDR].concat()
            ]
        );
    }

    #[test]
    fn several_slices_are_one_picture() {
        assert_eq!(split(&[P, SECOND_SLICE, P]).len(), 2);
    }

    #[test]
    fn what_is_no_byte_stream_has_no_pictures() {
        assert!(split(&[b"hello world"]).is_empty());
        assert!(split(&[]).is_empty());
        assert!(split(&[SPS, PPS]).is_empty());
    }

    #[test]
    fn tells_keyframes_and_b_pictures() {
        assert!(contents(&[SPS, PPS, IDR].concat()).is_idr);
        assert!(!contents(P).is_idr && contents(P).has_picture);
        assert!(contents(B).has_b_slices && !contents(P).has_b_slices);
        assert!(!contents(SPS).has_picture);
    }
}
