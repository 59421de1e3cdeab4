//! Sender reports (RFC 3550 §6.4.1): which RTP timestamp is which moment, so that a viewer plays the sound
//! of a picture with it.
//!
//! A timestamp is the moment of capture, and so is what the report says of it. Those of `rtc` take the
//! moment of sending for it, which is 30 ms later for sound and whatever a camera and an encoder take for
//! pictures: by the difference, lips and sound would be apart.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rtc::interceptor::{AttributedPacket, Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::rtcp::sender_report::SenderReport;
use rtc::sansio::Protocol;
use rtc::shared::TransportContext;
use rtc::shared::error::Error as RtcError;
use rtc::shared::time::SystemInstant;

/// From one report to the next. A browser needs one of each stream before it can play them together.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the reports of all streams that are sent.
pub(super) struct SenderReports {
    /// A moment, and the Unix time it was. One for all streams, for good: a clock that is set must not
    /// take them apart.
    origin: (Instant, Duration),
    next_at: Option<Instant>,
    streams: BTreeMap<u32, Sent>,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

/// What was sent of a stream.
struct Sent {
    clock_rate_hz: u32,
    newest: Option<Newest>,
    packets: u32,
    payload_bytes: u32,
}

/// The newest packet of a stream.
#[derive(Clone, Copy)]
struct Newest {
    sequence_number: u16,
    timestamp: u32,
    captured_at: Instant,
}

impl SenderReports {
    /// Takes the Unix time of `now`.
    pub(super) const fn new(now: Instant, unix_time: Duration) -> Self {
        Self {
            origin: (now, unix_time),
            next_at: None,
            streams: BTreeMap::new(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
        }
    }

    fn ntp(&self, at: Instant) -> u64 {
        let (origin, unix_time) = self.origin;
        let since = at.saturating_duration_since(origin);
        let before = origin.saturating_duration_since(at);
        SystemInstant::unix2ntp((unix_time + since).saturating_sub(before))
    }

    /// Returns the report of a stream, once something of it was sent.
    fn report(&self, ssrc: u32, sent: &Sent, now: Instant) -> Option<SenderReport> {
        let newest = sent.newest?;
        let since = now.saturating_duration_since(newest.captured_at);
        let ticks = since.as_nanos() * u128::from(sent.clock_rate_hz) / 1_000_000_000;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "timestamps are modulo 2^32"
        )]
        let ticks = ticks as u32;
        Some(SenderReport {
            ssrc,
            ntp_time: self.ntp(newest.captured_at + since),
            rtp_time: newest.timestamp.wrapping_add(ticks),
            packet_count: sent.packets,
            octet_count: sent.payload_bytes,
            ..SenderReport::default()
        })
    }
}

impl Sent {
    fn handle(&mut self, packet: &rtc::rtp::Packet, captured_at: Instant) {
        self.packets = self.packets.wrapping_add(1);
        let bytes = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX);
        self.payload_bytes = self.payload_bytes.wrapping_add(bytes);
        let header = &packet.header;
        // What is sent again says nothing of what is captured now.
        let is_newer = self.newest.is_none_or(|newest| {
            let ahead = header.sequence_number.wrapping_sub(newest.sequence_number);
            (1..0x8000).contains(&ahead)
        });
        if is_newer {
            self.newest = Some(Newest {
                sequence_number: header.sequence_number,
                timestamp: header.timestamp,
                captured_at,
            });
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for SenderReports {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = RtcError;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), RtcError> {
        self.reads.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }

    /// A packet comes with the moment of its capture.
    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), RtcError> {
        if let Packet::Rtp(packet) = &message.message.packet
            && let Some(sent) = self.streams.get_mut(&packet.header.ssrc)
        {
            sent.handle(packet, message.now);
            self.next_at.get_or_insert(message.now + INTERVAL);
        }
        self.writes.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), RtcError> {
        if self.next_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.next_at = Some(now + INTERVAL);
        let streams = self.streams.iter();
        let reports: Vec<_> = streams
            .filter_map(|(&ssrc, sent)| self.report(ssrc, sent, now))
            .collect();
        for report in reports {
            self.writes.push_back(TaggedPacket {
                now,
                transport: TransportContext::default(),
                message: AttributedPacket::new(Packet::Rtcp(vec![Box::new(report)])),
            });
        }
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.next_at
    }
}

impl Interceptor for SenderReports {
    fn bind_local_stream(&mut self, info: &StreamInfo) {
        let sent = Sent {
            clock_rate_hz: info.clock_rate,
            newest: None,
            packets: 0,
            payload_bytes: 0,
        };
        // A stream that is agreed on again goes on.
        self.streams.entry(info.ssrc).or_insert(sent);
    }

    fn unbind_local_stream(&mut self, info: &StreamInfo) {
        self.streams.remove(&info.ssrc);
    }

    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
