//! RTP packets as the network delivers them to packets in order, with the gaps marked.
//!
//! A packet that is missing is waited for, as retransmissions take a round trip; after
//! [`PATIENCE`] or [`MAX_WAITING`] packets it counts as lost and the stream goes on.
//!
//! Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// How long a missing packet is waited for. Two round trips of 100 ms, and the 100 ms between
/// two NACKs of the receiver.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// How many packets wait behind a missing one. At 2 Mbit/s that is more than a second.
pub const MAX_WAITING: usize = 512;

/// A sequence number this far from the last one begins a new stream (RFC 3550 §A.1).
const MAX_DROPOUT: u64 = 3_000;

/// One packet of a stream.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Which stream; another one starts afresh.
    pub ssrc: u32,
    /// The RTP sequence number.
    pub sequence: u16,
    /// The RTP timestamp.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// The payload, without padding.
    pub payload: Bytes,
    /// When it came.
    pub arrived: Instant,
}

/// One packet, in its turn.
#[derive(Clone, Debug)]
pub struct InOrder {
    /// The RTP timestamp.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// Packets in front of this one are lost.
    pub after_gap: bool,
    /// The payload.
    pub payload: Bytes,
    /// When it came.
    pub arrived: Instant,
}

/// Puts the packets of one stream in order.
#[derive(Debug, Default)]
pub struct Reorder {
    /// The stream, and the number of the packet whose turn it is, counted beyond 16 bits.
    turn: Option<(u32, u64)>,
    waiting: BTreeMap<u64, Packet>,
    starts_after_gap: bool,
    counts: ReorderCounts,
}

/// What happened to the packets of a stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReorderCounts {
    /// Never came, or too late.
    pub lost: u64,
    /// Came out of order but in time, most of them because they were sent again.
    pub recovered: u64,
    /// Came twice, or after they were given up.
    pub duplicates: u64,
}

impl Reorder {
    /// Takes a packet. Call [`Self::poll`] until it returns `None`.
    pub fn push(&mut self, packet: Packet) {
        let number = match self.turn {
            Some((ssrc, turn)) if ssrc == packet.ssrc => {
                let number = nearest(turn, packet.sequence);
                if number.abs_diff(turn) <= MAX_DROPOUT {
                    number
                } else {
                    self.restart(&packet)
                }
            }
            Some(_) => self.restart(&packet),
            None => {
                let number = FIRST_NUMBER + u64::from(packet.sequence);
                self.turn = Some((packet.ssrc, number));
                number
            }
        };
        let Some((_, turn)) = self.turn else { return };
        let newest = self.waiting.last_key_value().map(|(n, _)| *n);
        if number < turn || self.waiting.contains_key(&number) {
            self.counts.duplicates += 1;
            return;
        }
        if newest.is_some_and(|newest| number < newest) {
            self.counts.recovered += 1;
        }
        self.waiting.insert(number, packet);
    }

    /// Returns the next packet whose turn it is at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<InOrder> {
        let (_, turn) = self.turn.as_mut()?;
        let (number, first) = self.waiting.first_key_value()?;
        let missing = number.saturating_sub(*turn);
        if missing > 0 {
            let waited = now.saturating_duration_since(first.arrived);
            if waited < PATIENCE && self.waiting.len() <= MAX_WAITING {
                return None;
            }
        }
        let (number, packet) = self.waiting.pop_first()?;
        self.counts.lost += missing;
        *turn = number + 1;
        Some(InOrder {
            timestamp: packet.timestamp,
            marker: packet.marker,
            after_gap: missing > 0 || std::mem::take(&mut self.starts_after_gap),
            payload: packet.payload,
            arrived: packet.arrived,
        })
    }

    /// Returns what happened so far.
    #[must_use]
    pub const fn counts(&self) -> ReorderCounts {
        self.counts
    }

    fn restart(&mut self, packet: &Packet) -> u64 {
        let number = FIRST_NUMBER + u64::from(packet.sequence);
        self.waiting.clear();
        self.turn = Some((packet.ssrc, number));
        self.starts_after_gap = true;
        number
    }
}

/// Numbers begin here, so that packets from before the first one have a number as well.
const FIRST_NUMBER: u64 = 1 << 16;

/// Returns the number nearest to `turn` whose low 16 bits are `sequence`.
fn nearest(turn: u64, sequence: u16) -> u64 {
    const CYCLE: u64 = 1 << 16;
    let candidate = turn - turn % CYCLE + u64::from(sequence);
    if candidate + CYCLE / 2 < turn {
        candidate + CYCLE
    } else if candidate > turn + CYCLE / 2 {
        candidate - CYCLE
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Pushes each sequence number, one a millisecond, and returns what comes out, a gap as `?`.
    fn order(sequences: &[u16]) -> (String, ReorderCounts) {
        let mut reorder = Reorder::default();
        let mut now = clock::now();
        let mut out = Vec::new();
        for sequence in sequences {
            now += Duration::from_millis(1);
            reorder.push(packet(*sequence, now));
            drain(&mut reorder, now, &mut out);
        }
        drain(&mut reorder, now + PATIENCE, &mut out);
        (out.join(" "), reorder.counts())
    }

    fn packet(sequence: u16, arrived: Instant) -> Packet {
        Packet {
            ssrc: 7,
            sequence,
            timestamp: u32::from(sequence),
            marker: false,
            payload: Bytes::new(),
            arrived,
        }
    }

    fn drain(reorder: &mut Reorder, now: Instant, out: &mut Vec<String>) {
        while let Some(packet) = reorder.poll(now) {
            if packet.after_gap {
                out.push("?".to_owned());
            }
            out.push(packet.timestamp.to_string());
        }
    }

    fn counts(lost: u64, recovered: u64, duplicates: u64) -> ReorderCounts {
        ReorderCounts {
            lost,
            recovered,
            duplicates,
        }
    }

    #[test]
    fn packets_in_order_pass() {
        assert_eq!(order(&[5, 6, 7]), ("5 6 7".to_owned(), counts(0, 0, 0)));
    }

    #[test]
    fn a_packet_that_was_sent_again_takes_its_turn() {
        assert_eq!(
            order(&[5, 7, 8, 6, 9]),
            ("5 6 7 8 9".to_owned(), counts(0, 1, 0))
        );
    }

    #[test]
    fn a_packet_that_never_comes_leaves_a_gap() {
        assert_eq!(order(&[5, 8, 9]), ("5 ? 8 9".to_owned(), counts(2, 0, 0)));
    }

    #[test]
    fn packets_that_come_twice_are_dropped() {
        assert_eq!(
            order(&[5, 6, 6, 8, 8, 7, 5]),
            ("5 6 7 8".to_owned(), counts(0, 1, 3))
        );
    }

    #[test]
    fn the_sequence_number_wraps() {
        assert_eq!(
            order(&[65_534, 65_535, 1, 0, 2]),
            ("65534 65535 0 1 2".to_owned(), counts(0, 1, 0))
        );
    }

    #[test]
    fn a_far_jump_begins_a_new_stream_and_loses_nothing() {
        assert_eq!(
            order(&[5, 30_000, 30_001]),
            ("5 ? 30000 30001".to_owned(), counts(0, 0, 0))
        );
    }

    #[test]
    fn another_ssrc_begins_a_new_stream() {
        let mut reorder = Reorder::default();
        let now = clock::now();
        let mut out = Vec::new();
        reorder.push(packet(5, now));
        drain(&mut reorder, now, &mut out);
        reorder.push(Packet {
            ssrc: 8,
            ..packet(4, now)
        });
        drain(&mut reorder, now, &mut out);
        assert_eq!(out.join(" "), "5 ? 4");
    }

    #[test]
    fn no_more_than_the_maximum_waits_behind_a_gap() {
        let mut reorder = Reorder::default();
        let now = clock::now();
        let mut out = Vec::new();
        reorder.push(packet(0, now));
        for sequence in 2..=u16::try_from(MAX_WAITING).unwrap() + 2 {
            reorder.push(packet(sequence, now));
            drain(&mut reorder, now, &mut out);
        }
        assert!(reorder.waiting.is_empty());
        assert_eq!(reorder.counts(), counts(1, 0, 0));
    }
}
