//! Counts what comes in: packets, losses, frames, and how far apart they are.
//!
//! Pure: every packet brings the time it came.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::depacketize::{AccessUnit, Depacketizer, Picture};
use super::reorder::{Packet, Reorder, ReorderCounts};
use crate::h264::annexb::{NalUnit, nal_units};
use crate::h264::sps;

/// What came in so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Whole access units.
    pub frames: u64,
    /// Of these, how many a decoder can start at.
    pub keyframes: u64,
    /// Access units that missed a packet for good.
    pub incomplete: u64,
    /// Video packets, each counted once however often it came.
    pub video_packets: u64,
    /// Bytes of their payloads.
    pub video_bytes: u64,
    /// Audio packets.
    pub audio_packets: u64,
    /// Bytes of their payloads.
    pub audio_bytes: u64,
    /// Video packets that were lost, recovered, or came twice.
    pub video: ReorderCounts,
    /// When the first video packet came.
    pub first_packet: Option<Instant>,
    /// When the first keyframe was whole.
    pub first_keyframe: Option<Instant>,
    /// When the first frame was whole.
    pub first_frame: Option<Instant>,
    /// When the last frame was whole.
    pub last_frame: Option<Instant>,
    /// The longest time between two frames.
    pub longest_gap: Duration,
    /// Width and height in pixels, as the last keyframe's SPS says.
    pub picture: Option<(u32, u32)>,
}

impl Counts {
    /// Returns the time from the first whole frame to the last.
    #[must_use]
    pub fn span(&self) -> Duration {
        match (self.first_frame, self.last_frame) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }
}

/// A packet of sound: one Opus packet.
#[derive(Clone, Debug)]
pub struct SoundPacket {
    /// Goes up by one with each packet, and wraps.
    pub sequence: u16,
    /// Of its first sample, in ticks of 48 kHz.
    pub timestamp: u32,
    /// The Opus packet.
    pub payload: Bytes,
    /// When it came.
    pub arrived: Instant,
}

/// Counts, and puts the frames together.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    reorder: Reorder,
    depacketizer: Depacketizer,
}

impl Tally {
    /// Takes a video packet; returns the frames that are whole now.
    pub fn video(&mut self, packet: Packet) -> Vec<AccessUnit> {
        let now = packet.arrived;
        self.counts.first_packet.get_or_insert(now);
        self.reorder.push(packet);
        let mut frames = Vec::new();
        while let Some(packet) = self.reorder.poll(now) {
            self.counts.video_packets += 1;
            self.counts.video_bytes += packet.payload.len() as u64;
            self.depacketizer.push(&packet);
            while let Some(picture) = self.depacketizer.poll() {
                match picture {
                    Picture::Whole(frame) => {
                        self.count_frame(&frame);
                        frames.push(frame);
                    }
                    Picture::Damaged => self.counts.incomplete += 1,
                }
            }
        }
        self.counts.video = self.reorder.counts();
        frames
    }

    /// Takes an audio packet.
    pub const fn audio(&mut self, packet: &SoundPacket) {
        self.counts.audio_packets += 1;
        self.counts.audio_bytes += packet.payload.len() as u64;
    }

    /// Returns the counts so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    fn count_frame(&mut self, frame: &AccessUnit) {
        let counts = &mut self.counts;
        counts.frames += 1;
        counts.first_frame.get_or_insert(frame.arrived);
        if frame.is_keyframe {
            counts.keyframes += 1;
            counts.first_keyframe.get_or_insert(frame.arrived);
            counts.picture = size(&frame.data).or(counts.picture);
        }
        if let Some(last) = counts.last_frame.replace(frame.arrived) {
            let gap = frame.arrived.saturating_duration_since(last);
            counts.longest_gap = counts.longest_gap.max(gap);
        }
    }
}

/// Returns the size of the pictures that an access unit's SPS announces.
fn size(access_unit: &[u8]) -> Option<(u32, u32)> {
    let mut units = nal_units(access_unit);
    let sps = units.find(|unit| unit.unit_type() == NalUnit::SPS)?;
    let info = sps::parse(sps.bytes())?;
    Some((info.width, info.height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn frames_and_the_time_between_them_are_counted() {
        let start = clock::now();
        let mut tally = Tally::default();
        let packet = |sequence: u16, at_ms: u64| Packet {
            ssrc: 7,
            sequence,
            timestamp: u32::from(sequence) * 3_000,
            marker: true,
            payload: Bytes::from_static(&[0x41, 0x9a, 1, 2]),
            arrived: start + Duration::from_millis(at_ms),
        };
        for (sequence, at_ms) in [(0, 0), (1, 33), (2, 133), (4, 166)] {
            tally.video(packet(sequence, at_ms));
        }
        assert_eq!(tally.counts().frames, 3, "the fourth waits for the third");
        assert_eq!(tally.video(packet(3, 170)).len(), 2);
        tally.audio(&SoundPacket {
            sequence: 0,
            timestamp: 0,
            payload: Bytes::from_static(&[0; 80]),
            arrived: start,
        });

        let counts = tally.counts();
        assert_eq!(
            (counts.frames, counts.keyframes, counts.incomplete),
            (5, 0, 0)
        );
        assert_eq!((counts.video_packets, counts.video_bytes), (5, 20));
        assert_eq!((counts.audio_packets, counts.audio_bytes), (1, 80));
        assert_eq!((counts.video.lost, counts.video.recovered), (0, 1));
        assert_eq!(counts.first_packet, Some(start));
        assert_eq!(counts.longest_gap, Duration::from_millis(100));
    }
}
