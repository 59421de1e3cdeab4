//! RTP payloads to access units (RFC 6184): the opposite of `rtp::h264`, for the receiving side.
//!
//! Understands single NAL unit packets, STAP-A and FU-A, which is all that packetization-mode 1
//! without interleaving allows (§6.3). An access unit ends with the marker or with the next
//! timestamp. What misses a packet is [`Picture::Damaged`]: it is counted, never handed out.
//! Nothing is decoded.
//!
//! Pure.

use std::collections::VecDeque;
use std::time::Instant;

use super::reorder::InOrder;

/// Largest access unit that is put together, in bytes. A 4K keyframe is about 1 MB.
pub const MAX_ACCESS_UNIT_BYTES: usize = 4 * 1024 * 1024;

/// All NAL units of one coded picture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessUnit {
    /// Annex B, each unit behind a four-byte start code.
    pub data: Vec<u8>,
    /// The RTP timestamp, at 90 kHz.
    pub timestamp: u32,
    /// An IDR picture with SPS and PPS in front: a decoder can start here.
    pub is_keyframe: bool,
    /// When its last packet came.
    pub arrived: Instant,
}

/// What a stream of packets turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Picture {
    /// Every packet of it came.
    Whole(AccessUnit),
    /// A packet is missing, or its payload is not RFC 6184.
    Damaged,
}

/// Puts access units together.
#[derive(Debug, Default)]
pub struct Depacketizer {
    current: Option<Assembly>,
    done: VecDeque<Picture>,
}

/// The access unit that is being put together.
#[derive(Debug)]
struct Assembly {
    timestamp: u32,
    arrived: Instant,
    data: Vec<u8>,
    /// Fragments of a NAL unit are coming in (FU-A).
    fragments: bool,
    has_sps: bool,
    has_pps: bool,
    has_idr: bool,
    has_slice: bool,
    is_damaged: bool,
}

impl Depacketizer {
    /// Takes the next packet. Call [`Self::poll`] until it returns `None`.
    pub fn push(&mut self, packet: &InOrder) {
        let same = self
            .current
            .as_ref()
            .is_some_and(|a| a.timestamp == packet.timestamp);
        if !same {
            self.finish(packet.after_gap);
        }
        let is_first = self.current.is_none();
        let assembly = self
            .current
            .get_or_insert_with(|| Assembly::new(packet.timestamp, packet.arrived));
        assembly.arrived = packet.arrived;
        // Behind a gap only the packet that begins a picture is known to miss nothing of it.
        if packet.after_gap && !(is_first && begins_picture(&packet.payload)) {
            assembly.is_damaged = true;
        }
        assembly.add(&packet.payload);
        if packet.marker {
            self.finish(false);
        }
    }

    /// Returns the next picture that is finished.
    pub fn poll(&mut self) -> Option<Picture> {
        self.done.pop_front()
    }

    /// Ends the access unit that is being put together; with `lost_its_end`, it is damaged.
    fn finish(&mut self, lost_its_end: bool) {
        let Some(assembly) = self.current.take() else {
            return;
        };
        if lost_its_end || assembly.is_damaged || assembly.fragments {
            self.done.push_back(Picture::Damaged);
        } else if assembly.has_slice {
            self.done.push_back(Picture::Whole(AccessUnit {
                is_keyframe: assembly.has_idr && assembly.has_sps && assembly.has_pps,
                data: assembly.data,
                timestamp: assembly.timestamp,
                arrived: assembly.arrived,
            }));
        }
        // Parameter sets alone are no picture, and nothing is wrong with them.
    }
}

impl Assembly {
    const fn new(timestamp: u32, arrived: Instant) -> Self {
        Self {
            timestamp,
            arrived,
            data: Vec::new(),
            fragments: false,
            has_sps: false,
            has_pps: false,
            has_idr: false,
            has_slice: false,
            is_damaged: false,
        }
    }

    fn add(&mut self, payload: &[u8]) {
        let understood = match payload {
            // Padding, which congestion control sends to probe a path.
            [] => Some(()),
            [header, ..] if header & FORBIDDEN_BIT != 0 => None,
            [header, rest @ ..] => match header & TYPE_BITS {
                1..=23 => self.add_unit(payload),
                STAP_A => self.add_aggregate(rest),
                FU_A => self.add_fragment(*header, rest),
                _ => None,
            },
        };
        if understood.is_none() {
            self.is_damaged = true;
        }
    }

    fn add_unit(&mut self, unit: &[u8]) -> Option<()> {
        if self.fragments {
            return None;
        }
        self.begin_unit(*unit.first()?);
        self.append(unit)
    }

    /// STAP-A (§5.7.1): NAL units, each behind its size in 16 bits.
    fn add_aggregate(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            let (size, tail) = rest.split_first_chunk::<2>()?;
            let (unit, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
            let is_plain = unit
                .first()
                .is_some_and(|h| (1..=23).contains(&(h & TYPE_BITS)));
            if !is_plain {
                return None;
            }
            self.add_unit(unit)?;
            rest = tail;
        }
        Some(())
    }

    /// FU-A (§5.8): the first fragment brings the type, the last one says so.
    fn add_fragment(&mut self, indicator: u8, rest: &[u8]) -> Option<()> {
        let (header, fragment) = rest.split_first()?;
        let (starts, ends) = (header & START_BIT != 0, header & END_BIT != 0);
        if starts == self.fragments || (starts && ends) {
            return None;
        }
        if starts {
            let unit_header = (indicator & !TYPE_BITS) | (header & TYPE_BITS);
            if !(1..=23).contains(&(unit_header & TYPE_BITS)) {
                return None;
            }
            self.begin_unit(unit_header);
            self.append(&[unit_header])?;
        }
        self.fragments = !ends;
        self.append(fragment)
    }

    fn begin_unit(&mut self, header: u8) {
        match header & TYPE_BITS {
            IDR_SLICE => (self.has_idr, self.has_slice) = (true, true),
            1..=4 => self.has_slice = true,
            SPS => self.has_sps = true,
            PPS => self.has_pps = true,
            _ => {}
        }
        self.data.extend_from_slice(&START_CODE);
    }

    fn append(&mut self, bytes: &[u8]) -> Option<()> {
        if self.data.len() + bytes.len() > MAX_ACCESS_UNIT_BYTES {
            self.data.clear();
            return None;
        }
        self.data.extend_from_slice(bytes);
        Some(())
    }
}

/// Returns whether nothing of a picture can be in front of this payload: parameter sets, SEI or
/// delimiter, or a slice whose `first_mb_in_slice` is 0 (one set bit, ITU-T H.264 §7.3.3).
fn begins_picture(payload: &[u8]) -> bool {
    match payload {
        [header, first, ..] if (1..=IDR_SLICE).contains(&(header & TYPE_BITS)) => first & 0x80 != 0,
        [header, ..] if (6..=9).contains(&(header & TYPE_BITS)) => true,
        [header, _, _, unit, ..] if header & TYPE_BITS == STAP_A => {
            (6..=9).contains(&(unit & TYPE_BITS))
        }
        [header, fu, first, ..] if header & TYPE_BITS == FU_A => {
            fu & START_BIT != 0 && first & 0x80 != 0
        }
        _ => false,
    }
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];
const FORBIDDEN_BIT: u8 = 0x80;
const TYPE_BITS: u8 = 0x1f;
const START_BIT: u8 = 0x80;
const END_BIT: u8 = 0x40;
const IDR_SLICE: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock;

    /// What a stream of `(timestamp, marker, after_gap, payload)` turns out to be: the access
    /// units' bytes and whether they are keyframes; `None` for a damaged one.
    fn pictures(packets: &[(u32, bool, bool, &[u8])]) -> Vec<Option<(Vec<u8>, bool)>> {
        let mut depacketizer = Depacketizer::default();
        let mut all = Vec::new();
        for (timestamp, marker, after_gap, payload) in packets {
            depacketizer.push(&InOrder {
                timestamp: *timestamp,
                marker: *marker,
                after_gap: *after_gap,
                payload: Bytes::copy_from_slice(payload),
                arrived: clock::now(),
            });
            while let Some(picture) = depacketizer.poll() {
                all.push(match picture {
                    Picture::Whole(unit) => Some((unit.data, unit.is_keyframe)),
                    Picture::Damaged => None,
                });
            }
        }
        all
    }

    #[test]
    fn a_keyframe_is_an_idr_behind_sps_and_pps() {
        let parameter_sets = [0x78, 0, 2, 0x67, 1, 0, 2, 0x68, 2];
        assert_eq!(
            pictures(&[
                (1, false, false, &parameter_sets),
                (1, true, false, &[0x65, 0x88]),
                (2, true, false, &[0x65, 0x88]),
                (3, true, false, &[0x41, 0x9a]),
            ]),
            [
                Some((
                    vec![
                        0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 1, 0x65, 0x88
                    ],
                    true
                )),
                Some((vec![0, 0, 0, 1, 0x65, 0x88], false)),
                Some((vec![0, 0, 0, 1, 0x41, 0x9a], false)),
            ]
        );
    }

    #[test]
    fn fragments_become_one_unit_again() {
        assert_eq!(
            pictures(&[
                (1, false, false, &[0x7c, 0x85, 0x88, 1]),
                (1, false, false, &[0x7c, 0x05, 2, 3]),
                (1, true, false, &[0x7c, 0x45, 4]),
            ]),
            [Some((vec![0, 0, 0, 1, 0x65, 0x88, 1, 2, 3, 4], false))]
        );
    }

    #[test]
    fn a_picture_that_misses_a_packet_is_damaged_and_the_next_one_is_whole() {
        assert_eq!(
            pictures(&[
                (1, false, false, &[0x7c, 0x81, 0x88]),
                (1, true, true, &[0x7c, 0x41, 4]),
                (2, true, false, &[0x41, 0x9a]),
            ]),
            [None, Some((vec![0, 0, 0, 1, 0x41, 0x9a], false))]
        );
    }

    #[test]
    fn a_picture_whose_end_is_missing_is_damaged_and_the_next_one_is_whole() {
        assert_eq!(
            pictures(&[
                (1, false, false, &[0x7c, 0x81, 0x88]),
                (2, true, true, &[0x41, 0x9a]),
            ]),
            [None, Some((vec![0, 0, 0, 1, 0x41, 0x9a], false))]
        );
    }

    #[test]
    fn behind_a_gap_a_picture_without_its_beginning_is_damaged() {
        let second_slice = [0x41, 0x3a];
        let middle_fragment = [0x7c, 0x01, 9];
        assert_eq!(pictures(&[(1, true, true, &second_slice)]), [None]);
        assert_eq!(pictures(&[(1, true, true, &middle_fragment)]), [None]);
    }

    #[test]
    fn without_a_marker_the_next_timestamp_ends_the_picture() {
        assert_eq!(
            pictures(&[
                (1, false, false, &[0x41, 0x9a]),
                (2, false, false, &[0x41, 0x9b]),
            ]),
            [Some((vec![0, 0, 0, 1, 0x41, 0x9a], false))]
        );
    }

    #[test]
    fn payloads_that_are_not_rfc_6184_damage_their_picture_only() {
        let junk: [&[u8]; 12] = [
            &[0xc1, 1],          // forbidden bit
            &[0x60],             // type 0
            &[0x7e, 1],          // type 30
            &[0x78, 0],          // STAP-A: half a size
            &[0x78, 0, 9, 0x41], // STAP-A: longer than the packet
            &[0x78, 0, 0],       // STAP-A: empty unit
            &[0x78, 0, 1, 0x7c], // STAP-A: a fragment inside
            &[0x7c],             // FU-A: no header
            &[0x7c, 0x05, 1],    // FU-A: never started
            &[0x7c, 0xc5, 1],    // FU-A: starts and ends
            &[0x7c, 0x9c, 1],    // FU-A: of a fragment
            &[0x7c, 0x85, 1],    // FU-A: never ends
        ];
        for payload in junk {
            assert_eq!(
                pictures(&[(1, true, false, payload), (2, true, false, &[0x41, 0x9a])]),
                [None, Some((vec![0, 0, 0, 1, 0x41, 0x9a], false))],
                "{payload:02x?}"
            );
        }
    }

    #[test]
    fn padding_and_lone_parameter_sets_are_no_pictures() {
        assert_eq!(
            pictures(&[(1, true, false, &[]), (2, true, false, &[0x67, 1])]),
            []
        );
    }

    #[test]
    fn an_endless_picture_is_damaged_and_its_memory_given_back() {
        let mut depacketizer = Depacketizer::default();
        let fragment = Bytes::from(vec![0x7c; 60_000]);
        for n in 0..200_u32 {
            let mut payload = fragment.to_vec();
            payload[1] = if n == 0 { 0x85 } else { 0x05 };
            depacketizer.push(&InOrder {
                timestamp: 1,
                marker: false,
                after_gap: false,
                payload: payload.into(),
                arrived: clock::now(),
            });
            let held = depacketizer.current.as_ref().map_or(0, |a| a.data.len());
            assert!(held <= MAX_ACCESS_UNIT_BYTES);
        }
        depacketizer.finish(false);
        assert_eq!(depacketizer.poll(), Some(Picture::Damaged));
    }
}
