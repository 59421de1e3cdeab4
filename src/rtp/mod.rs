//! What goes in RTP packets: timestamps, payloads, and what comes back as RTCP.
//!
//! A frame is packetized once, here, and its payloads are shared by all viewers; only the
//! 12-byte header differs from viewer to viewer.

use std::time::Instant;

use bytes::Bytes;

pub mod clock;
pub mod gop;
pub mod h264;

/// One access unit as RTP payloads (RFC 6184), ready to be sent to any number of viewers.
#[derive(Clone, Debug)]
pub struct VideoFrame {
    /// The payloads in order; the last one carries the marker bit.
    pub payloads: Vec<Bytes>,
    /// When the sensor captured it, on the monotonic clock.
    pub captured_at: Instant,
    /// A decoder can start here.
    pub is_keyframe: bool,
    /// Whether the source makes a keyframe when asked. Where it cannot, newcomers get the last GOP.
    pub keyframes_on_demand: bool,
    /// It says why there is no picture of the camera.
    pub is_placeholder: bool,
}

impl VideoFrame {
    /// Returns the sum of its payloads, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }
}

/// One 20 ms Opus packet (RFC 7587), which is an RTP payload as it is.
#[derive(Clone, Debug)]
pub struct AudioFrame {
    /// The Opus packet.
    pub payload: Bytes,
    /// When the first sample was captured that is decoded from it, on the monotonic clock.
    pub captured_at: Instant,
}

/// One Opus packet of a viewer who speaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpeechPacket {
    /// The sender's choice; it stays, unless the sender starts anew.
    pub ssrc: u32,
    /// One more than that of the packet before.
    pub sequence_number: u16,
    /// RTP timestamp of its first sample, in ticks of 48 kHz.
    pub timestamp: u32,
    /// The Opus packet.
    pub payload: Bytes,
}
