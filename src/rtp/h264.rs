//! Access units → RTP payloads (RFC 6184, packetization-mode 1), once for all viewers.
//!
//! In front of every IDR picture go its SPS and PPS in one STAP-A, repeated from memory where the
//! camera sends them only once. Access unit delimiters and filler are dropped. Interleaved mode and
//! STAP-B are left out: no browser takes them. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::VideoFrame;
use crate::h264::access_unit::contents;
use crate::h264::annexb::{NalUnit, nal_units};
use crate::h264::sps::{self, SpsInfo};
use crate::video::AccessUnit;

/// Longest RTP packet, in bytes: fits a tunnel inside a tunnel (IPv6 minimum 1280, less IPv6, UDP,
/// SRTP tag, WireGuard).
pub const MAX_PACKET_BYTES: usize = 1150;

/// What the header takes of that: 12 fixed, 16 of extensions, 2 of an RTX repair (RFC 4588).
const HEADER_BYTES: usize = 12 + 16 + 2;

/// Longest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = MAX_PACKET_BYTES - HEADER_BYTES;

/// Largest access unit that is sent, in bytes: 4K at 50 Mbit/s stays below. More is a broken
/// camera.
pub const MAX_ACCESS_UNIT_BYTES: usize = 4 << 20;

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Turns one source's access units into frames. Remembers its parameter sets.
#[derive(Debug)]
pub struct Packetizer {
    keyframes_on_demand: bool,
    /// As it came, to notice a change.
    camera_sps: Bytes,
    sps: Bytes,
    pps: Vec<Bytes>,
    info: Option<SpsInfo>,
    saw_b_slices: bool,
}

impl Packetizer {
    /// Creates the packetizer of a source that has delivered nothing yet.
    #[must_use]
    pub const fn new(keyframes_on_demand: bool) -> Self {
        Self {
            keyframes_on_demand,
            camera_sps: Bytes::new(),
            sps: Bytes::new(),
            pps: Vec::new(),
            info: None,
            saw_b_slices: false,
        }
    }

    /// Returns size and profile of the stream, once an SPS was seen.
    #[must_use]
    pub const fn info(&self) -> Option<SpsInfo> {
        self.info
    }

    /// Returns the keyframe `unit` with the parameter sets in front of it, wherever they came, as a byte
    /// stream that a decoder can start with.
    #[must_use]
    pub fn with_parameter_sets(&self, unit: &[u8]) -> Bytes {
        let mut stream = BytesMut::new();
        for set in std::iter::once(&self.sps).chain(&self.pps) {
            stream.put_slice(&[0, 0, 0, 1]);
            stream.put_slice(set);
        }
        stream.put_slice(unit);
        stream.freeze()
    }

    /// Returns whether the stream holds B pictures, which browsers show late or not at all.
    #[must_use]
    pub const fn saw_b_slices(&self) -> bool {
        self.saw_b_slices
    }

    /// Packetizes one access unit.
    ///
    /// `None` where nothing can be sent: parameter sets alone (they are remembered), a picture
    /// before the first parameter sets, more than [`MAX_ACCESS_UNIT_BYTES`], or no H.264 at all.
    pub fn packetize(&mut self, unit: &AccessUnit) -> Option<VideoFrame> {
        if unit.data.len() > MAX_ACCESS_UNIT_BYTES {
            return None;
        }
        self.remember_parameter_sets(&unit.data);
        let contents = contents(&unit.data);
        self.saw_b_slices |= contents.has_b_slices;
        if !contents.has_picture || self.sps.is_empty() || self.pps.is_empty() {
            return None;
        }
        let mut payloads = Payloads::with_capacity(unit.data.len());
        if contents.is_idr {
            self.push_parameter_sets(&mut payloads);
        }
        for nal_unit in nal_units(&unit.data) {
            match nal_unit.unit_type() {
                NalUnit::SPS | NalUnit::PPS | NalUnit::DELIMITER | NalUnit::FILLER => {}
                _ => payloads.push_nal_unit(&unit.data, nal_unit),
            }
        }
        Some(VideoFrame {
            payloads: payloads.done,
            captured_at: unit.captured_at,
            is_keyframe: contents.is_idr,
            keyframes_on_demand: self.keyframes_on_demand,
            is_placeholder: false,
        })
    }

    fn remember_parameter_sets(&mut self, data: &Bytes) {
        let mut fresh_pps = Vec::new();
        for nal_unit in nal_units(data) {
            // A parameter set that fills a packet is damaged; and it must never be fragmented.
            if nal_unit.bytes().len() > MAX_PAYLOAD_BYTES / 4 {
                continue;
            }
            match nal_unit.unit_type() {
                NalUnit::SPS if self.camera_sps != nal_unit.bytes() => {
                    self.camera_sps = Bytes::copy_from_slice(nal_unit.bytes());
                    self.info = sps::parse(nal_unit.bytes());
                    self.sps = sps::without_reordering(nal_unit.bytes())
                        .map_or_else(|| self.camera_sps.clone(), Bytes::from);
                }
                NalUnit::PPS if fresh_pps.len() < MAX_PPS => fresh_pps.push(nal_unit),
                _ => {}
            }
        }
        let known = self.pps.iter().map(Bytes::as_ref);
        if !fresh_pps.is_empty() && !known.eq(fresh_pps.iter().map(|p| p.bytes())) {
            self.pps = fresh_pps
                .iter()
                .map(|p| Bytes::copy_from_slice(p.bytes()))
                .collect();
        }
    }

    fn push_parameter_sets(&self, payloads: &mut Payloads) {
        let sets = || std::iter::once(&self.sps).chain(&self.pps);
        let size = 1 + sets().map(|s| 2 + s.len()).sum::<usize>();
        if size > MAX_PAYLOAD_BYTES {
            payloads.done.extend(sets().cloned());
            return;
        }
        let mut packet = BytesMut::with_capacity(size);
        let importance = sets().filter_map(|s| s.first()).map(|h| h & 0x60).max();
        packet.put_u8(importance.unwrap_or_default() | STAP_A);
        for set in sets() {
            // Fits: `size` is below the longest payload.
            packet.put_u16(u16::try_from(set.len()).unwrap_or(u16::MAX));
            packet.put_slice(set);
        }
        payloads.done.push(packet.freeze());
    }
}

/// How many picture parameter sets are kept. Cameras send one, some two.
const MAX_PPS: usize = 4;

/// The payloads of one frame. Fragments are cut from one allocation; whole NAL units are not
/// copied at all.
struct Payloads {
    done: Vec<Bytes>,
    arena: BytesMut,
}

impl Payloads {
    fn with_capacity(bytes: usize) -> Self {
        let packets = bytes / MAX_PAYLOAD_BYTES + 2;
        Self {
            done: Vec::with_capacity(packets),
            arena: BytesMut::with_capacity(if packets > 2 { bytes + packets * 2 } else { 0 }),
        }
    }

    fn push_nal_unit(&mut self, data: &Bytes, nal_unit: NalUnit<'_>) {
        let bytes = nal_unit.bytes();
        if bytes.len() <= MAX_PAYLOAD_BYTES {
            self.done.push(data.slice_ref(bytes));
            return;
        }
        let Some((&header, body)) = bytes.split_first() else {
            return;
        };
        // Fragments of equal size: one GSO call then sends them all (§5.8).
        let count = body.len().div_ceil(MAX_PAYLOAD_BYTES - 2);
        let each = body.len().div_ceil(count);
        let last = body.chunks(each).len() - 1;
        for (i, chunk) in body.chunks(each).enumerate() {
            let start = u8::from(i == 0) << 7;
            let end = u8::from(i == last) << 6;
            self.arena.put_u8(header & 0xe0 | FU_A);
            self.arena.put_u8(start | end | header & 0x1f);
            self.arena.put_slice(chunk);
            self.done.push(self.arena.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;

    const SPS: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x28, 0x02, 0xdd, 0x00, 0xf0, 0x88, 0x45, 0x38,
    ];
    const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];

    fn unit(nal_units: &[&[u8]]) -> AccessUnit {
        let mut data = Vec::new();
        for nal_unit in nal_units {
            data.extend_from_slice(&[0, 0, 0, 1]);
            data.extend_from_slice(nal_unit);
        }
        AccessUnit {
            data: data.into(),
            captured_at: crate::clock::now(),
        }
    }

    fn slice(header: u8, size: usize) -> Vec<u8> {
        let mut bytes = vec![0xaa; size];
        bytes[0] = header;
        bytes[1] = 0x88;
        bytes
    }

    /// What a receiver makes of the payloads (RFC 6184 §5.6–5.8).
    fn depacketize(payloads: &[Bytes]) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        for p in payloads {
            match p[0] & 0x1f {
                STAP_A => {
                    let mut rest = &p[1..];
                    while let [a, b, tail @ ..] = rest {
                        let n = usize::from(u16::from_be_bytes([*a, *b]));
                        out.push(tail[..n].to_vec());
                        rest = &tail[n..];
                    }
                }
                FU_A if p[1] & 0x80 != 0 => {
                    let mut first = vec![p[0] & 0xe0 | p[1] & 0x1f];
                    first.extend_from_slice(&p[2..]);
                    out.push(first);
                }
                FU_A => out.last_mut().unwrap().extend_from_slice(&p[2..]),
                _ => out.push(p.to_vec()),
            }
        }
        out
    }

    #[test]
    fn every_keyframe_starts_with_its_parameter_sets_in_one_packet() {
        let mut p = Packetizer::new(true);
        let first = p.packetize(&unit(&[&[9, 0xf0], SPS, PPS, &slice(0x65, 50)]));
        let frame = first.unwrap();
        assert!(frame.is_keyframe);
        assert_eq!(frame.payloads[0][0], 0x60 | STAP_A);
        let units = depacketize(&frame.payloads);
        assert_eq!(units.len(), 3, "the delimiter is gone");
        assert_eq!(units[0], sps::without_reordering(SPS).unwrap());
        assert_eq!(units[1], PPS);

        // This camera sends its parameter sets once.
        let again = p.packetize(&unit(&[&slice(0x65, 50)])).unwrap();
        assert_eq!(depacketize(&again.payloads)[0], units[0]);
    }

    #[test]
    fn nothing_is_sent_before_the_parameter_sets_are_known() {
        let mut p = Packetizer::new(true);
        assert!(p.packetize(&unit(&[&slice(0x65, 50)])).is_none());
        assert!(p.packetize(&unit(&[SPS, PPS])).is_none(), "no picture");
        assert!(p.packetize(&unit(&[&slice(0x65, 50)])).is_some());
    }

    #[test]
    fn a_large_slice_is_cut_into_equal_fragments_that_fit() {
        let mut p = Packetizer::new(true);
        p.packetize(&unit(&[SPS, PPS]));
        for size in [1121, 1122, 2240, 5_000, 100_000] {
            let slice = slice(0x41, size);
            let frame = p.packetize(&unit(&[&slice])).unwrap();
            let sizes: Vec<_> = frame.payloads.iter().map(Bytes::len).collect();
            assert!(sizes.iter().all(|&s| s <= MAX_PAYLOAD_BYTES), "{sizes:?}");
            let (last, others) = sizes.split_last().unwrap();
            assert!(others.iter().all(|s| s == &sizes[0] && s >= last));
            assert_eq!(depacketize(&frame.payloads), [slice]);
        }
    }

    #[test]
    fn a_small_picture_is_sent_without_copying_it() {
        let mut p = Packetizer::new(true);
        p.packetize(&unit(&[SPS, PPS]));
        let unit = unit(&[&slice(0x41, 500)]);
        let frame = p.packetize(&unit).unwrap();
        let within = unit.data.as_ptr_range();
        assert!(within.contains(&frame.payloads[0].as_ptr()));
    }

    #[test]
    fn damaged_input_is_no_frame_and_no_panic() {
        let mut p = Packetizer::new(true);
        for data in [&[][..], &[0, 0, 1], &[0, 0, 1, 0x67], &[1; 99]] {
            let unit = AccessUnit {
                data: Bytes::copy_from_slice(data),
                captured_at: crate::clock::now(),
            };
            assert!(p.packetize(&unit).is_none());
        }
    }

    #[test]
    fn a_frame_takes_as_many_allocations_however_many_packets_it_has() {
        let taken = |frame: AccessUnit| {
            let mut packetizer = Packetizer::new(true);
            packetizer.packetize(&unit(&[SPS, PPS]));
            let before = allocations::of_this_thread();
            let frame = packetizer.packetize(&frame).unwrap();
            let taken = allocations::of_this_thread() - before;
            (frame.payloads.len(), taken)
        };
        // The list of payloads, and the count of who shares the access unit.
        assert_eq!(taken(unit(&[&slice(0x41, 500)])), (1, 2));
        // The list, the fragments in one block, and the count of who shares that.
        assert_eq!(taken(unit(&[&slice(0x41, 2_000)])), (2, 3));
        assert_eq!(taken(unit(&[&slice(0x41, 50_000)])).1, 3);
    }
}
