//! A browser and a network without I/O: minutes of viewing in a moment of CPU, the same every run.
//!
//! The browser is the other side of the same `rtc` core, with the receiving half configured. The
//! network delays and loses datagrams by a seeded generator.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use roomcam::rtp::VideoFrame;
use roomcam::viewer::webrtc::{Certificate, Datagram, PeerOptions};
use roomcam::viewer::{Viewer, ViewerEvent};
use roomcam::watch::reports::{REPORT_TAP_SLOT, ReportTap};
use rtc::data_channel::RTCDataChannelId;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::peer_connection::configuration::media_engine::MediaEngine;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent, RTCTrackEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::rtp_transceiver::{
    RTCRtpReceiverId, RTCRtpSenderId, RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};

/// One RTP packet as the browser's application sees it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) ssrc: u32,
    pub(crate) sequence_number: u16,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
}

/// What a sender report says: this timestamp of that stream is this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported {
    pub(crate) ssrc: u32,
    pub(crate) timestamp: u32,
    /// As in NTP: seconds since 1900, in units of 2⁻³² s.
    pub(crate) ntp: u64,
}

/// What the network does to datagrams, in both directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) delay: Duration,
    pub(crate) loss_percent: u64,
    pub(crate) up: bool,
}

/// A device's viewer machine, a browser and the network between them.
pub(crate) struct Simulation {
    pub(crate) now: Instant,
    pub(crate) began_at: Instant,
    pub(crate) path: Path,
    pub(crate) viewer: Viewer,
    pub(crate) events: Vec<ViewerEvent>,
    pub(crate) received: Vec<Received>,
    pub(crate) reported: Vec<Reported>,
    pub(crate) control: Vec<String>,
    /// The device's last one, where [`Self::with_microphone`] or [`Self::renegotiate`] made it.
    pub(crate) answer: String,
    microphone: Option<RTCRtpSenderId>,
    /// What came in binary messages, one behind the other.
    pub(crate) file: Vec<u8>,
    browser: RTCPeerConnection,
    channel: Option<RTCDataChannelId>,
    channel_open: bool,
    video: Option<RTCRtpReceiverId>,
    in_flight: VecDeque<(Instant, bool, BytesMut)>,
    random: u64,
    next_frame: Instant,
    frames_sent: usize,
}

/// SSRCs of the device's streams in a simulation.
pub(crate) const VIDEO: u32 = 1_000;
pub(crate) const AUDIO: u32 = 1_001;

/// The Unix time at which a simulation begins.
pub(crate) const UNIX_TIME: Duration = Duration::from_secs(1_700_000_000);

/// SSRC of the browser's microphone.
pub(crate) const MICROPHONE: u32 = 79;

/// The time between two frames of a simulated camera.
pub(crate) const FRAME: Duration = Duration::from_micros(33_333);

const DEVICE: ([u8; 4], u16) = ([192, 0, 2, 1], 5000);
const BROWSER: ([u8; 4], u16) = ([192, 0, 2, 2], 6000);

fn candidate(address: ([u8; 4], u16)) -> String {
    roomcam::engine::gather::host_candidate(SocketAddr::from(address), 0)
}

impl Simulation {
    /// The browser offers; nothing has been sent yet.
    pub(crate) fn new(seed: u64) -> Self {
        let mut simulation = Self::strangers(seed);
        let now = simulation.now;
        let browser = &mut simulation.browser;
        for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
            browser.add_transceiver_from_kind(kind, None).unwrap();
        }
        let channel = browser.create_data_channel("control", None).unwrap().id();
        simulation.channel = Some(channel);
        let offer = simulation.browser_offers();
        let viewer = &mut simulation.viewer;
        let answer = viewer.handle_offer(&offer, &[candidate(DEVICE)], now);
        simulation.browser_accepts(answer.unwrap());
        simulation
    }

    /// The browser offers sound of its own beside what it wants, and the device has talkback or not.
    pub(crate) fn with_microphone(seed: u64, talkback: bool) -> Self {
        let mut simulation = Self::of_device(seed, talkback);
        let video = RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Recvonly,
            ..RTCRtpTransceiverInit::default()
        };
        let browser = &mut simulation.browser;
        let track = track(RtpCodecKind::Audio, "audio", MICROPHONE);
        simulation.microphone = Some(browser.add_track(track).unwrap());
        browser
            .add_transceiver_from_kind(RtpCodecKind::Video, Some(video))
            .unwrap();
        let channel = browser.create_data_channel("control", None).unwrap().id();
        simulation.channel = Some(channel);
        let offer = simulation.browser_offers();
        let answer = simulation.device_answers(&offer);
        simulation.answer.clone_from(&answer);
        simulation.browser_accepts(answer);
        simulation
    }

    /// The browser sends a packet of its microphone's sound.
    pub(crate) fn speak(&mut self, n: u16) {
        let mut sender = self.browser.rtp_sender(self.microphone.unwrap()).unwrap();
        let codecs = &sender.get_parameters().rtp_parameters.codecs;
        let opus = codecs
            .iter()
            .find(|c| c.rtp_codec.mime_type == "audio/opus");
        let header = rtc::rtp::Header {
            version: 2,
            payload_type: opus.expect("Opus is negotiated").payload_type,
            sequence_number: n,
            timestamp: u32::from(n) * 960,
            ssrc: MICROPHONE,
            ..rtc::rtp::Header::default()
        };
        let packet = rtc::rtp::Packet {
            header,
            payload: Bytes::from(vec![0x08, 1, 2, 3]),
        };
        sender.write_rtp(self.now, packet).unwrap();
    }

    /// The device offers, and the browser answers.
    pub(crate) fn called(seed: u64) -> Self {
        let mut simulation = Self::strangers(seed);
        let now = simulation.now;
        let offer = simulation.device_offers();
        let answer = simulation.browser_answers(offer);
        simulation.viewer.handle_answer(&answer, now).unwrap();
        simulation
    }

    /// The same, where the device has talkback, and the browser a microphone.
    pub(crate) fn called_with_microphone(seed: u64) -> Self {
        let mut simulation = Self::of_device(seed, true);
        let track = track(RtpCodecKind::Audio, "audio", MICROPHONE);
        simulation.microphone = Some(simulation.browser.add_track(track).unwrap());
        let offer = simulation.device_offers();
        let answer = simulation.browser_answers(offer);
        let now = simulation.now;
        simulation.viewer.handle_answer(&answer, now).unwrap();
        simulation
    }

    /// A device and a browser that know nothing of each other.
    pub(crate) fn strangers(seed: u64) -> Self {
        Self::of_device(seed, false)
    }

    fn of_device(seed: u64, talkback: bool) -> Self {
        let now = roomcam::clock::now();
        let mut media = MediaEngine::default();
        media.register_default_codecs().unwrap();
        let registry =
            rtc::interceptor::Registry::new().with(REPORT_TAP_SLOT.into(), ReportTap::default());
        let registry = register_default_interceptors(registry, &mut media).unwrap();
        let settings = SettingEngineBuilder::new()
            .with_ice_connection_attempts(Some(Duration::from_millis(20)), None)
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .build();
        let mut browser = RTCPeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_setting_engine(settings)
            .with_interceptor_registry(registry)
            .build(now)
            .unwrap();
        browser
            .add_local_candidate(RTCIceCandidateInit {
                candidate: candidate(BROWSER),
                ..RTCIceCandidateInit::default()
            })
            .unwrap();
        let options = PeerOptions {
            certificate: Certificate::generate().unwrap(),
            latency: roomcam::config::Latency::Balanced,
            one_stream: false,
            talkback,
            unix_time: UNIX_TIME,
            first_ssrc: VIDEO,
            gcm_only: true,
        };
        Self {
            now,
            began_at: now,
            path: Path {
                delay: Duration::from_millis(20),
                loss_percent: 0,
                up: true,
            },
            viewer: Viewer::new(&options, 0, now).unwrap(),
            events: Vec::new(),
            received: Vec::new(),
            reported: Vec::new(),
            control: Vec::new(),
            file: Vec::new(),
            browser,
            answer: String::new(),
            microphone: None,
            channel: None,
            channel_open: false,
            video: None,
            in_flight: VecDeque::new(),
            random: seed | 1,
            next_frame: now,
            frames_sent: 0,
        }
    }

    fn browser_offers(&mut self) -> String {
        let offer = self.browser.create_offer(None).unwrap();
        self.browser.set_local_description(self.now, offer).unwrap();
        self.browser.local_description().unwrap().sdp
    }

    /// A page with a camera and a microphone.
    pub(crate) fn browser_offers_with_tracks(&mut self) -> String {
        for (kind, name, ssrc) in [
            (RtpCodecKind::Audio, "audio", 77),
            (RtpCodecKind::Video, "video", 78),
        ] {
            self.browser.add_track(track(kind, name, ssrc)).unwrap();
        }
        self.browser_offers()
    }

    pub(crate) fn device_answers(&mut self, offer: &str) -> String {
        let answer = self
            .viewer
            .handle_offer(offer, &[candidate(DEVICE)], self.now);
        answer.unwrap()
    }

    pub(crate) fn browser_accepts(&mut self, answer: String) {
        let answer = RTCSessionDescription::answer(answer).unwrap();
        self.browser
            .set_remote_description(self.now, answer)
            .unwrap();
    }

    pub(crate) fn device_offers(&mut self) -> String {
        let offered = self.viewer.offer(&[candidate(DEVICE)], self.now);
        offered.unwrap()
    }

    fn browser_answers(&mut self, offer: String) -> String {
        let offer = RTCSessionDescription::offer(offer).unwrap();
        self.browser
            .set_remote_description(self.now, offer)
            .unwrap();
        let answer = self.browser.create_answer(None).unwrap();
        self.browser
            .set_local_description(self.now, answer)
            .unwrap();
        self.browser.local_description().unwrap().sdp
    }

    /// Runs the network for `time`.
    pub(crate) fn run(&mut self, time: Duration) {
        self.run_while_not(time, |_| false);
    }

    /// Runs until `done`, at most for `time`; returns whether it was.
    pub(crate) fn run_while_not(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        self.run_until(self.now + time, done)
    }

    /// Runs for `time` with a camera that makes a frame every [`FRAME`]; its first is a keyframe.
    pub(crate) fn stream(&mut self, time: Duration) {
        let end = self.now + time;
        self.next_frame = self.next_frame.max(self.now);
        while self.next_frame < end {
            let at = self.next_frame;
            self.run_until(at, |_| false);
            let frame = frame(self.frames_sent == 0, 3_000, at);
            self.viewer.handle_video(&frame, at);
            self.frames_sent += 1;
            self.next_frame = at + FRAME;
        }
        self.run_until(end, |_| false);
    }

    pub(crate) fn frames_sent(&self) -> usize {
        self.frames_sent
    }

    pub(crate) fn send_control(&mut self, text: &str) {
        let mut channel = self.browser.data_channel(self.channel.unwrap()).unwrap();
        channel.send_text(self.now, text).unwrap();
    }

    /// The browser makes a new offer on the running connection, with new ICE credentials or without.
    pub(crate) fn renegotiate(&mut self, restart_ice: bool) {
        if restart_ice {
            self.browser.restart_ice();
        }
        let now = self.now;
        let offer = self.browser_offers();
        let answer = self.viewer.handle_offer(&offer, &[candidate(DEVICE)], now);
        self.answer = answer.unwrap();
        self.browser_accepts(self.answer.clone());
        if restart_ice {
            let own = RTCIceCandidateInit {
                candidate: candidate(BROWSER),
                ..RTCIceCandidateInit::default()
            };
            self.browser.add_local_candidate(own).unwrap();
        }
    }

    /// The browser asks for a keyframe.
    pub(crate) fn send_pli(&mut self) {
        let pli = PictureLossIndication {
            sender_ssrc: 1,
            media_ssrc: VIDEO,
        };
        let receiver = self.video.expect("video arrived");
        let mut receiver = self.browser.rtp_receiver(receiver).unwrap();
        receiver.write_rtcp(self.now, vec![Box::new(pli)]).unwrap();
    }

    /// Hands the viewer's machine a datagram that no browser sends.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        let datagram = Datagram {
            local: DEVICE.into(),
            peer: BROWSER.into(),
            bytes: BytesMut::from(bytes),
        };
        self.viewer.handle_datagram(datagram, self.now);
    }

    pub(crate) fn channel_is_open(&self) -> bool {
        self.channel_open
    }

    /// Counts the frames that arrived whole: three packets in a row, the last with the marker.
    pub(crate) fn whole_frames(&self) -> usize {
        let mut packets: Vec<_> = self.received.iter().filter(|p| p.ssrc == VIDEO).collect();
        packets.sort_by_key(|p| (p.timestamp, p.sequence_number));
        packets.dedup_by_key(|p| p.sequence_number);
        packets
            .chunk_by(|a, b| a.timestamp == b.timestamp)
            .filter(|frame| {
                let in_a_row = frame
                    .windows(2)
                    .all(|w| w[1].sequence_number == w[0].sequence_number.wrapping_add(1));
                in_a_row && frame.len() == 3 && frame[2].marker
            })
            .count()
    }

    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            self.exchange();
            if done(self) {
                return true;
            }
            let delivery = self.in_flight.front().map(|(at, ..)| *at);
            let timers = [
                delivery,
                self.viewer.poll_timeout(),
                self.browser.poll_timeout(),
            ];
            let next = timers.into_iter().flatten().min().unwrap_or(end);
            let next = next.max(self.now + Duration::from_micros(100));
            if next > end {
                self.now = self.now.max(end);
                return false;
            }
            self.now = next;
            self.deliver();
            let now = self.now;
            if self.viewer.poll_timeout().is_some_and(|at| at <= now) {
                self.viewer.handle_timeout(now);
            }
            if self.browser.poll_timeout().is_some_and(|at| at <= now) {
                self.browser.handle_timeout(now).unwrap();
            }
        }
    }

    fn deliver(&mut self) {
        while self
            .in_flight
            .front()
            .is_some_and(|(at, ..)| *at <= self.now)
        {
            let (_, to_browser, bytes) = self.in_flight.pop_front().unwrap();
            if to_browser {
                let transport = TransportContext {
                    local_addr: BROWSER.into(),
                    peer_addr: DEVICE.into(),
                    ecn: None,
                    transport_protocol: TransportProtocol::UDP,
                };
                let datagram = TaggedBytesMut {
                    now: self.now,
                    transport,
                    message: bytes,
                };
                self.browser.handle_read(datagram).unwrap();
            } else {
                self.inject(&bytes);
            }
        }
    }

    fn exchange(&mut self) {
        while let Some(event) = self.viewer.poll_event() {
            self.events.push(event);
        }
        while let Some(datagram) = self.viewer.poll_transmit() {
            self.carry(true, datagram.bytes);
        }
        while let Some(event) = self.browser.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                    self.channel = Some(id);
                    self.channel_open = true;
                }
                RTCPeerConnectionEvent::OnTrack(RTCTrackEvent::OnOpen(track)) => {
                    self.video = Some(track.receiver_id);
                }
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(_)) => {
                    self.channel_open = false;
                }
                _ => {}
            }
        }
        while let Some(read) = self.browser.poll_read() {
            match read.message {
                RTCMessage::RtpPacket(_, packet) => self.received.push(Received {
                    at: self.now,
                    ssrc: packet.header.ssrc,
                    sequence_number: packet.header.sequence_number,
                    timestamp: packet.header.timestamp,
                    marker: packet.header.marker,
                }),
                RTCMessage::RtcpPacket(_, packets) => {
                    let reports = packets
                        .iter()
                        .filter_map(|packet| packet.as_any().downcast_ref::<SenderReport>());
                    self.reported.extend(reports.map(|report| Reported {
                        ssrc: report.ssrc,
                        timestamp: report.rtp_time,
                        ntp: report.ntp_time,
                    }));
                }
                RTCMessage::DataChannelMessage(_, message) if !message.is_string => {
                    self.file.extend_from_slice(&message.data);
                }
                RTCMessage::DataChannelMessage(_, message) => {
                    let text = String::from_utf8(message.data.to_vec());
                    self.control.push(text.unwrap());
                }
                _ => {}
            }
        }
        while let Some(write) = self.browser.poll_write() {
            self.carry(false, write.message);
        }
    }

    fn carry(&mut self, to_browser: bool, bytes: BytesMut) {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if self.path.up && self.random % 100 >= self.path.loss_percent {
            let at = self.now + self.path.delay;
            self.in_flight.push_back((at, to_browser, bytes));
        }
    }
}

fn track(kind: RtpCodecKind, name: &str, ssrc: u32) -> MediaStreamTrack {
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(ssrc),
            ..RTCRtpCodingParameters::default()
        },
        ..RTCRtpEncodingParameters::default()
    };
    let name = name.to_owned();
    MediaStreamTrack::new("s".to_owned(), name.clone(), name, kind, vec![encoding])
}

/// A frame of three equal packets.
pub(crate) fn frame(is_keyframe: bool, bytes: usize, captured_at: Instant) -> Arc<VideoFrame> {
    Arc::new(VideoFrame {
        payloads: vec![Bytes::from(vec![0x41; bytes / 3]); 3],
        captured_at,
        is_keyframe,
        keyframes_on_demand: true,
        is_placeholder: false,
    })
}
