//! What was seen, as JSON and in words.
//!
//! Pure.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::protocol::DeviceState;
use super::seen::Seen;

/// What was seen. Times in milliseconds count from the moment the offer was sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchReport {
    /// The room.
    pub room: String,
    /// Whole frames.
    pub frames: u64,
    /// Of these, how many a decoder can start at.
    pub keyframes: u64,
    /// Frames that missed a packet for good.
    pub incomplete_frames: u64,
    /// Frames a second.
    pub fps: f64,
    /// Rate of the video payloads, in 1000 bit/s.
    pub bitrate_kbps: f64,
    /// The longest time between two frames.
    pub max_gap_ms: f64,
    /// Width and height in pixels, as the stream says.
    pub picture: Option<(u32, u32)>,
    /// Video packets.
    pub video_packets: u64,
    /// Bytes of their payloads.
    pub video_bytes: u64,
    /// Video packets that never came.
    pub lost: u64,
    /// Video packets that came out of order, but in time: most were sent again.
    pub recovered: u64,
    /// Video packets that came twice, or too late.
    pub duplicates: u64,
    /// Audio packets.
    pub audio_packets: u64,
    /// Bytes of their payloads.
    pub audio_bytes: u64,
    /// Offer → answer.
    pub time_to_answer_ms: Option<f64>,
    /// Offer → connected.
    pub time_to_connected_ms: Option<f64>,
    /// Offer → first video packet.
    pub first_packet_ms: Option<f64>,
    /// Offer → first whole keyframe.
    pub first_keyframe_ms: Option<f64>,
    /// The state that the device told last.
    pub device: Option<DeviceState>,
}

impl WatchReport {
    /// Sums up what was seen in `room`.
    #[must_use]
    pub fn new(room: &str, seen: &Seen) -> Self {
        let counts = &seen.counts;
        let since_offer = |at: Option<Instant>| {
            let offered = seen.offered?;
            at.map(|at| milliseconds(at.saturating_duration_since(offered)))
        };
        let seconds = counts.span().as_secs_f64();
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        Self {
            room: room.to_owned(),
            frames: counts.frames,
            keyframes: counts.keyframes,
            incomplete_frames: counts.incomplete,
            // The frames after the first one came within the span.
            fps: tenths(per_second(lossy(counts.frames.saturating_sub(1)))),
            bitrate_kbps: tenths(per_second(lossy(counts.video_bytes) * 8.0 / 1_000.0)),
            max_gap_ms: milliseconds(counts.longest_gap),
            picture: counts.picture,
            video_packets: counts.video_packets,
            video_bytes: counts.video_bytes,
            lost: counts.video.lost,
            recovered: counts.video.recovered,
            duplicates: counts.video.duplicates,
            audio_packets: counts.audio_packets,
            audio_bytes: counts.audio_bytes,
            time_to_answer_ms: since_offer(seen.answered),
            time_to_connected_ms: since_offer(seen.connected),
            first_packet_ms: since_offer(counts.first_packet),
            first_keyframe_ms: since_offer(counts.first_keyframe),
            device: seen.state.clone(),
        }
    }

    /// Returns the report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for WatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "room {}", self.room)?;
        write!(f, "  picture    ")?;
        if let Some((width, height)) = self.picture {
            write!(f, "{width}x{height}, ")?;
        }
        writeln!(
            f,
            "{} frames, {} keyframes, {} per second, {} kbit/s, longest gap {} ms",
            self.frames, self.keyframes, self.fps, self.bitrate_kbps, self.max_gap_ms
        )?;
        writeln!(f, "  sound      {} packets", self.audio_packets)?;
        writeln!(
            f,
            "  packets    {} of video, {} lost, {} recovered, {} twice, {} frames incomplete",
            self.video_packets, self.lost, self.recovered, self.duplicates, self.incomplete_frames
        )?;
        write!(
            f,
            "  after the offer: answer {}, connected {}, first packet {}, first keyframe {}",
            Ms(self.time_to_answer_ms),
            Ms(self.time_to_connected_ms),
            Ms(self.first_packet_ms),
            Ms(self.first_keyframe_ms)
        )?;
        if let Some(device) = &self.device {
            write!(
                f,
                "\n  device     camera {}, microphone {}, {} watching, video {}, audio {}",
                if device.camera { "on" } else { "off" },
                if device.muted { "muted" } else { "on" },
                device.viewers,
                device.video,
                device.audio
            )?;
            if !device.detail.is_empty() {
                write!(f, ": {}", device.detail)?;
            }
        }
        Ok(())
    }
}

/// A time that may not have come.
struct Ms(Option<f64>);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(f, "{ms} ms"),
            None => f.write_str("never"),
        }
    }
}

/// Returns `duration` in milliseconds, to a tenth.
fn milliseconds(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64() * 1_000.0)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Converts a count for division; beyond 2⁵³ the last digits are lost, and do not matter.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
const fn lossy(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Half a minute in a healthy room.
    fn seen() -> Seen {
        let offered = clock::now();
        let at = |ms| Some(offered + Duration::from_millis(ms));
        let mut seen = Seen {
            offered: Some(offered),
            answered: at(3),
            connected: at(41),
            state: Some(DeviceState {
                camera: true,
                muted: true,
                viewers: 2,
                video: "live".to_owned(),
                audio: "live".to_owned(),
                detail: String::new(),
            }),
            ..Seen::default()
        };
        seen.counts.frames = 901;
        seen.counts.keyframes = 2;
        seen.counts.video_packets = 6_300;
        seen.counts.video_bytes = 7_500_000;
        seen.counts.audio_packets = 1_500;
        seen.counts.video.recovered = 4;
        seen.counts.first_packet = at(44);
        seen.counts.first_keyframe = at(50);
        seen.counts.first_frame = at(50);
        seen.counts.last_frame = at(30_050);
        seen.counts.longest_gap = Duration::from_micros(41_260);
        seen.counts.picture = Some((1_280, 720));
        seen
    }

    #[test]
    fn a_report_reads_well() {
        assert_eq!(
            WatchReport::new("cam", &seen()).to_string(),
            "room cam
  picture    1280x720, 901 frames, 2 keyframes, 30 per second, 2000 kbit/s, longest gap 41.3 ms
  sound      1500 packets
  packets    6300 of video, 0 lost, 4 recovered, 0 twice, 0 frames incomplete
  after the offer: answer 3 ms, connected 41 ms, first packet 44 ms, first keyframe 50 ms
  device     camera on, microphone muted, 2 watching, video live, audio live"
        );
    }

    #[test]
    fn what_never_came_is_said() {
        let nothing = WatchReport::new("cam", &Seen::default());
        let text = nothing.to_string();
        assert!(text.contains("first keyframe never"), "{text}");
        assert_eq!(nothing.fps.to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn json_has_every_figure() {
        let report = WatchReport::new("cam", &seen());
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["frames"], 901);
        assert_eq!(value["first_keyframe_ms"], 50.0);
        assert_eq!(value["picture"], serde_json::json!([1280, 720]));
        assert_eq!(value["device"]["viewers"], 2);
    }
}
