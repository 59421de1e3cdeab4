//! One peer connection, driven without I/O. With `webrtc/feedback.rs` and `webrtc/reports.rs`, the
//! only file of the device that knows `rtc`.
//!
//! Offers are made, or answered, with one H.264 and one Opus stream, send-only as far as the viewer lets
//! us, and the `control` channel is served. What the viewer sends of its own is accepted and dropped, but
//! for its voice where there is talkback: that is received while it may speak.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtc::data_channel::{RTCDataChannel, RTCDataChannelId};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::interceptor::{NackResponderBuilder, ReceiverReportBuilder, Registry, Slot};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::certificate::{CertificateParams, RTCCertificate};
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_H264, MIME_TYPE_OPUS, MIME_TYPE_RTX, MediaEngine,
};
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters,
    RTCRtpEncodingParameters, RTCRtpHeaderExtensionCapability, RTCRtpRtxParameters, RtpCodecKind,
};
use rtc::rtp_transceiver::{RTCRtpSenderId, RTCRtpTransceiverDirection};
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};

use crate::config::Latency;
use crate::rtp::SpeechPacket;
use crate::signaling::CandidateInit;

mod feedback;
mod reports;
mod roles;

use feedback::{FEEDBACK_TAP_SLOT, FeedbackTap};
use reports::SenderReports;
use roles::Roles;

/// The data channel that carries `docs/control.md`.
pub const CONTROL_CHANNEL: &str = "control";

/// Control messages waiting to be sent to one viewer, in bytes: beyond it, its channel is stuck
/// and further messages are dropped. State is pushed again at the next change.
const MAX_BUFFERED_CONTROL_BYTES: usize = 64 * 1024;

/// The time between two connectivity checks: 20 ms instead of the usual 50–200 makes connecting
/// feel instant, at the price of a few more packets in the first second.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How often a pair is checked before it is left to the viewer to check it: for a second. The viewer may
/// have yet to learn our candidate, and a relay to be told of it.
const MAX_CHECKS: u16 = 50;

/// How long a relayed pair waits for a better one.
const RELAY_WAIT: Duration = Duration::from_millis(500);

/// How long a viewer may be silent before its path counts as broken, and then as gone: together
/// below the 15 s in which a vanished viewer is noticed.
const DISCONNECTED_AFTER: Duration = Duration::from_secs(4);
const FAILED_AFTER: Duration = Duration::from_secs(8);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How many packets are kept to answer NACKs with: two seconds of 2 Mbit/s.
const RETRANSMIT_PACKETS: u16 = 512;

const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";

/// Minimum 0, maximum 0: show each picture at once.
const PLAYOUT_DELAY_NONE: &[u8] = &[0, 0, 0];

const H264_PAYLOAD_TYPE: u8 = 102;
const RTX_PAYLOAD_TYPE: u8 = 103;
const OPUS_PAYLOAD_TYPE: u8 = 111;

/// The DTLS certificate of this process. Made once: making one takes time and changes the
/// fingerprint.
#[derive(Clone, Debug)]
pub struct Certificate(RTCCertificate);

impl Certificate {
    /// Makes a self-signed ECDSA P-256 certificate.
    ///
    /// # Errors
    ///
    /// Only where the system has no randomness.
    pub fn generate() -> Result<Self, PeerError> {
        let provider = rtc::crypto::default_provider().map_err(PeerError::other)?;
        let params =
            CertificateParams::new(vec!["roomcam".to_owned()]).map_err(PeerError::other)?;
        let scheme = rtc::crypto::SignatureScheme::EcdsaP256Sha256;
        RTCCertificate::generate(provider.crypto(), scheme, params)
            .map(Self)
            .map_err(PeerError::other)
    }
}

/// What WebRTC would not do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(String);

impl PeerError {
    fn other(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl From<RtcError> for PeerError {
    fn from(error: RtcError) -> Self {
        Self::other(error)
    }
}

/// What is fixed when a peer connection is made.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// The certificate of this process.
    pub certificate: Certificate,
    /// What is traded for latency.
    pub latency: Latency,
    /// Whether picture and sound belong to one `MediaStream`, whatever is traded for latency: pages that
    /// were not made for this device play the first stream they get, and nothing else.
    pub one_stream: bool,
    /// Whether the viewer may be let speak: its sound is received where it offers some.
    pub talkback: bool,
    /// The Unix time of the moment in which it is made: sender reports count from there.
    pub unix_time: Duration,
    /// SSRC of the video stream; audio and repair use the next two.
    pub first_ssrc: u32,
    /// Whether to insist on AES-GCM for SRTP, which costs a quarter of AES-CM with SHA-1. Left to
    /// themselves, browsers choose the latter.
    pub gcm_only: bool,
}

/// A datagram, in or out.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Our address.
    pub local: SocketAddr,
    /// The viewer's address.
    pub peer: SocketAddr,
    /// The content.
    pub bytes: BytesMut,
}

/// What happened on a peer connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// ICE and DTLS are up: media can be sent.
    Connected,
    /// The control channel is open.
    ControlOpen,
    /// A message on the control channel. `None`: it was no text.
    Control(Option<String>),
    /// The viewer asks for a keyframe (PLI or FIR).
    KeyframeWanted,
    /// What the viewer says, while it speaks.
    Speech(SpeechPacket),
    /// It is over: the viewer closed it, or it did not answer any more.
    Closed,
    /// It never came to be, or broke: no path, or no common cryptography.
    Failed,
}

/// One peer connection.
pub struct Peer {
    pc: RTCPeerConnection,
    video: Stream,
    audio: Stream,
    control: Option<RTCDataChannelId>,
    /// Set by the interceptor when a PLI or FIR arrives.
    keyframe_wanted: Arc<AtomicBool>,
    playout_delay: bool,
    talkback: bool,
    is_talking: bool,
    connected: bool,
    /// The viewer answered our offer as the client of DTLS, which it stays.
    is_dtls_server: bool,
    roles: Roles,
    events: VecDeque<PeerEvent>,
    /// While connecting: STUN in front, `outgoing_stun` of it.
    outgoing: VecDeque<Datagram>,
    outgoing_stun: usize,
}

struct Stream {
    sender: RTCRtpSenderId,
    ssrc: u32,
    sequence_number: u16,
    /// `None` until negotiated.
    payload_type: Option<u8>,
    /// Id of the playout-delay header extension, where negotiated.
    playout_delay_id: Option<u8>,
}

/// What all packets of one frame share.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    /// RTP timestamp, in ticks of the stream's clock rate.
    pub timestamp: u32,
    /// When it was captured.
    pub captured_at: Instant,
}

impl Peer {
    /// Creates a peer connection that has neither offered nor answered.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where `rtc` refuses its own configuration, which is a bug of ours.
    pub fn new(options: &PeerOptions, now: Instant) -> Result<Self, PeerError> {
        let playout_delay = options.latency == Latency::Low;
        let mut media = MediaEngine::default();
        media.register_codec(h264(), RtpCodecKind::Video)?;
        media.register_codec(rtx(), RtpCodecKind::Video)?;
        media.register_codec(opus(), RtpCodecKind::Audio)?;
        if playout_delay {
            let extension = RTCRtpHeaderExtensionCapability {
                uri: PLAYOUT_DELAY.to_owned(),
            };
            media.register_header_extension(extension, RtpCodecKind::Video, None)?;
        }
        let keyframe_wanted = Arc::new(AtomicBool::new(false));
        let mut registry = Registry::new()
            .with(
                Slot::NackResponder,
                NackResponderBuilder::new()
                    .with_size(RETRANSMIT_PACKETS)
                    .build(),
            )
            .with(
                Slot::SenderReport,
                SenderReports::new(now, options.unix_time),
            )
            .with(
                Slot::from(FEEDBACK_TAP_SLOT),
                FeedbackTap::new(Arc::clone(&keyframe_wanted), now),
            );
        if options.talkback {
            // By what is lost, the viewer's encoder decides how much it repeats.
            let reports = ReceiverReportBuilder::new().build();
            registry = registry.with(Slot::ReceiverReport, reports);
        }
        let mut profiles = vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm];
        if !options.gcm_only {
            profiles.push(SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80);
        }
        let settings = SettingEngineBuilder::new()
            .with_srtp_protection_profiles(profiles)
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(MAX_CHECKS))
            .with_ice_timeouts(
                Some(DISCONNECTED_AFTER),
                Some(FAILED_AFTER),
                Some(KEEPALIVE_INTERVAL),
            )
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
            .build();
        let configuration = RTCConfigurationBuilder::new()
            .with_certificates(vec![options.certificate.0.clone()])
            .build();
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_media_engine(media)
            .with_setting_engine(settings)
            .with_interceptor_registry(registry)
            .build(now)?;
        // A browser plays tracks of one stream in sync: the picture waits for the sound. Streams
        // of their own are each played as early as possible.
        let one_stream = options.one_stream || options.latency == Latency::Smooth;
        let (video_stream, audio_stream) = if one_stream {
            ("roomcam", "roomcam")
        } else {
            ("roomcam-video", "roomcam-audio")
        };
        let ssrc = options.first_ssrc;
        let (audio_ssrc, rtx_ssrc) = (ssrc.wrapping_add(1), ssrc.wrapping_add(2));
        // The order of the m-lines where we offer.
        let audio = pc.add_track(MediaStreamTrack::new(
            audio_stream.to_owned(),
            "audio".to_owned(),
            "audio".to_owned(),
            RtpCodecKind::Audio,
            vec![encoding(audio_ssrc, None, opus().rtp_codec)],
        ))?;
        let video = pc.add_track(MediaStreamTrack::new(
            video_stream.to_owned(),
            "video".to_owned(),
            "video".to_owned(),
            RtpCodecKind::Video,
            vec![encoding(ssrc, Some(rtx_ssrc), h264().rtp_codec)],
        ))?;
        let stream = |sender, ssrc: u32| Stream {
            sender,
            ssrc,
            // Any start will do (RFC 3550 §5.1); the SSRC is random already.
            sequence_number: u16::try_from(ssrc >> 17).unwrap_or_default(),
            payload_type: None,
            playout_delay_id: None,
        };
        Ok(Self {
            video: stream(video, ssrc),
            audio: stream(audio, audio_ssrc),
            pc,
            control: None,
            keyframe_wanted,
            playout_delay,
            talkback: options.talkback,
            is_talking: false,
            connected: false,
            is_dtls_server: false,
            roles: Roles::default(),
            events: VecDeque::new(),
            outgoing: VecDeque::new(),
            outgoing_stun: 0,
        })
    }

    /// Adds one of our candidates: `candidate:…`.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where it is malformed.
    pub fn add_local_candidate(&mut self, candidate: &str) -> Result<(), PeerError> {
        Ok(self.pc.add_local_candidate(RTCIceCandidateInit {
            candidate: candidate.to_owned(),
            ..RTCIceCandidateInit::default()
        })?)
    }

    /// Applies an offer and returns our answer, which carries our candidates.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where `rtc` cannot make sense of it; the peer connection is of no use then.
    pub fn answer(&mut self, offer: &str, now: Instant) -> Result<String, PeerError> {
        let description = RTCSessionDescription::offer(offer.to_owned())?;
        self.pc.set_remote_description(now, description)?;
        self.only_send(self.talkback);
        let answer = self.pc.create_answer(None)?;
        self.pc.set_local_description(now, answer)?;
        self.read_negotiated_parameters();
        let mut answer = self.local_description()?;
        self.roles.handle_descriptions(&answer, offer);
        if self.is_dtls_server {
            // `rtc` would be the client in every answer of its own. Browsers take no other role than that of
            // the running association (RFC 8842 §5.5).
            answer = answer.replace("a=setup:active", "a=setup:passive");
        }
        Ok(answer)
    }

    /// Returns an offer: audio, video and the control channel, with our candidates. Send-only, for browsers
    /// that cannot encode H.264 would refuse to receive it on a line that goes both ways; but for sound where
    /// there is talkback.
    ///
    /// # Errors
    ///
    /// [`PeerError`], which is a bug of ours.
    pub fn offer(&mut self, now: Instant) -> Result<String, PeerError> {
        self.only_send(self.talkback);
        self.pc.create_data_channel(CONTROL_CHANNEL, None)?;
        let offer = self.pc.create_offer(None)?;
        self.pc.set_local_description(now, offer)?;
        self.local_description()
    }

    /// Applies the answer to our offer.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where `rtc` cannot make sense of it; the peer connection is of no use then.
    pub fn accept(&mut self, answer: &str, now: Instant) -> Result<(), PeerError> {
        let description = RTCSessionDescription::answer(answer.to_owned())?;
        self.pc.set_remote_description(now, description)?;
        self.is_dtls_server = answer.contains("a=setup:active");
        self.read_negotiated_parameters();
        self.roles
            .handle_descriptions(&self.local_description()?, answer);
        Ok(())
    }

    /// Adds a candidate of the viewer's. One that makes no sense is ignored: others may work.
    pub fn add_remote_candidate(&mut self, candidate: &CandidateInit) {
        let added = self.pc.add_remote_candidate(RTCIceCandidateInit {
            candidate: candidate.candidate.clone(),
            sdp_mid: candidate.sdp_mid.clone(),
            sdp_mline_index: candidate.sdp_mline_index,
            username_fragment: candidate.username_fragment.clone(),
            url: None,
        });
        if let Err(error) = added {
            tracing::debug!(%error, "ignored a candidate");
        }
    }

    /// Takes a datagram from the viewer.
    pub fn handle_datagram(&mut self, datagram: Datagram, now: Instant) {
        let conflict = if self.connected {
            None
        } else {
            self.roles.handle_datagram(&datagram.bytes)
        };
        let read = self.pc.handle_read(TaggedBytesMut {
            now,
            transport: TransportContext {
                local_addr: datagram.local,
                peer_addr: datagram.peer,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            },
            message: conflict.map_or(datagram.bytes, |check| BytesMut::from(&check[..])),
        });
        if let Err(error) = read {
            tracing::debug!(%error, "ignored a datagram");
        }
    }

    /// Queues the packets of a video frame.
    pub fn send_video(&mut self, header: FrameHeader, payloads: &[Bytes]) {
        let extension = if self.playout_delay {
            self.video.playout_delay_id
        } else {
            None
        };
        send(&mut self.pc, &mut self.video, header, payloads, extension);
    }

    /// Queues one packet of sound.
    pub fn send_audio(&mut self, header: FrameHeader, payload: &Bytes) {
        let payloads = std::slice::from_ref(payload);
        send(&mut self.pc, &mut self.audio, header, payloads, None);
    }

    /// Sends a text on the control channel; dropped while it is not open, or where the viewer does
    /// not read. Returns whether it was sent.
    pub fn send_control(&mut self, text: &str, now: Instant) -> bool {
        self.send_message(text.len(), |channel| channel.send_text(now, text))
    }

    /// The same of bytes.
    pub fn send_control_bytes(&mut self, bytes: &[u8], now: Instant) -> bool {
        self.send_message(bytes.len(), |channel| {
            channel.send(now, BytesMut::from(bytes))
        })
    }

    /// Returns how many bytes of the control channel the viewer has not acknowledged yet; `None` while it
    /// is not open.
    pub fn outstanding_control_bytes(&mut self) -> Option<usize> {
        let channel = self.control.and_then(|id| self.pc.data_channel(id))?;
        Some(channel.outstanding_bytes())
    }

    fn send_message(
        &mut self,
        bytes: usize,
        send: impl FnOnce(&mut RTCDataChannel<'_>) -> Result<(), RtcError>,
    ) -> bool {
        let Some(mut channel) = self.control.and_then(|id| self.pc.data_channel(id)) else {
            return false;
        };
        if channel.outstanding_bytes() + bytes > MAX_BUFFERED_CONTROL_BYTES {
            return false;
        }
        let sent = send(&mut channel);
        if let Err(error) = &sent {
            tracing::debug!(%error, "could not send on the control channel");
        }
        sent.is_ok()
    }

    /// Lets the viewer's voice through, or no longer.
    pub const fn set_talking(&mut self, on: bool) {
        self.is_talking = on && self.talkback;
    }

    /// Tells the machine what time it is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.pc.handle_timeout(now) {
            tracing::debug!(%error, "timer failed");
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.pc.poll_timeout()
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        if self.connected && self.outgoing.is_empty() {
            return self.poll_write().map(datagram);
        }
        // While connecting, `rtc` puts our DTLS hello in front of the STUN response that makes the
        // viewer's side ready for it. A viewer that drops early hellos would wait a second for the
        // next one: STUN first.
        while let Some(write) = self.poll_write() {
            let is_stun = write.message.first().is_some_and(|byte| *byte < 4);
            let at = if is_stun {
                self.outgoing_stun += 1;
                self.outgoing_stun - 1
            } else {
                self.outgoing.len()
            };
            self.outgoing.insert(at, datagram(write));
        }
        self.outgoing_stun = self.outgoing_stun.saturating_sub(1);
        self.outgoing.pop_front()
    }

    /// Returns the next datagram of `rtc`'s that is to be sent.
    fn poll_write(&mut self) -> Option<TaggedBytesMut> {
        loop {
            let write = self.pc.poll_write()?;
            if self.connected || self.roles.may_send(&write.message) {
                return Some(write);
            }
        }
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        while let Some(event) = self.pc.poll_event() {
            self.handle_event(&event);
        }
        while let Some(read) = self.pc.poll_read() {
            match read.message {
                RTCMessage::DataChannelMessage(id, message) if self.control == Some(id) => {
                    let text = message
                        .is_string
                        .then(|| String::from_utf8(message.data.to_vec()).ok())
                        .flatten();
                    self.events.push_back(PeerEvent::Control(text));
                }
                RTCMessage::RtpPacket(_, packet)
                    if self.is_talking
                        && self.audio.payload_type == Some(packet.header.payload_type) =>
                {
                    self.events.push_back(PeerEvent::Speech(SpeechPacket {
                        ssrc: packet.header.ssrc,
                        sequence_number: packet.header.sequence_number,
                        timestamp: packet.header.timestamp,
                        payload: packet.payload,
                    }));
                }
                _ => {}
            }
        }
        if self.keyframe_wanted.swap(false, Ordering::Relaxed) {
            self.events.push_back(PeerEvent::KeyframeWanted);
        }
        self.events.pop_front()
    }

    /// Closes the connection and tells the viewer; drain [`Self::poll_transmit`] afterwards.
    pub fn close(&mut self) {
        if let Err(error) = self.pc.close() {
            tracing::debug!(%error, "close failed");
        }
    }

    fn handle_event(&mut self, event: &RTCPeerConnectionEvent) {
        match event {
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => match state {
                RTCPeerConnectionState::Connected if !self.connected => {
                    self.connected = true;
                    self.read_negotiated_parameters();
                    self.events.push_back(PeerEvent::Connected);
                }
                RTCPeerConnectionState::Closed => self.events.push_back(PeerEvent::Closed),
                RTCPeerConnectionState::Failed => self.events.push_back(PeerEvent::Failed),
                _ => {}
            },
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                let is_control = self
                    .pc
                    .data_channel(*id)
                    .is_some_and(|channel| channel.label() == CONTROL_CHANNEL);
                if is_control && self.control.is_none() {
                    self.control = Some(*id);
                    self.events.push_back(PeerEvent::ControlOpen);
                }
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(id))
                if self.control == Some(*id) =>
            {
                self.control = None;
            }
            _ => {}
        }
    }

    /// A viewer that is told so sends nothing of its own, and costs nothing. To be said once the lines of
    /// an offer are matched: before, those that go both ways would not find ours. Its voice may be kept.
    fn only_send(&mut self, but_voice: bool) {
        let transceivers: Vec<_> = self.pc.get_transceivers().collect();
        for id in transceivers {
            if let Some(mut transceiver) = self.pc.rtp_transceiver(id) {
                if but_voice && transceiver.sender() == Some(self.audio.sender) {
                    continue;
                }
                match transceiver.direction() {
                    RTCRtpTransceiverDirection::Sendrecv => {
                        transceiver.set_direction(RTCRtpTransceiverDirection::Sendonly);
                    }
                    RTCRtpTransceiverDirection::Recvonly => {
                        transceiver.set_direction(RTCRtpTransceiverDirection::Inactive);
                    }
                    _ => {}
                }
            }
        }
    }

    fn local_description(&self) -> Result<String, PeerError> {
        let description = self.pc.local_description();
        let description =
            description.ok_or_else(|| PeerError("no local description".to_owned()))?;
        Ok(description.sdp)
    }

    /// Payload types and extension ids are the viewer's choice.
    fn read_negotiated_parameters(&mut self) {
        for (stream, mime_type) in [
            (&mut self.video, MIME_TYPE_H264),
            (&mut self.audio, MIME_TYPE_OPUS),
        ] {
            let Some(mut sender) = self.pc.rtp_sender(stream.sender) else {
                continue;
            };
            let parameters = &sender.get_parameters().rtp_parameters;
            stream.payload_type = parameters
                .codecs
                .iter()
                .find(|codec| codec.rtp_codec.mime_type.eq_ignore_ascii_case(mime_type))
                .map(|codec| codec.payload_type);
            stream.playout_delay_id = parameters
                .header_extensions
                .iter()
                .find(|extension| extension.uri == PLAYOUT_DELAY)
                .and_then(|extension| u8::try_from(extension.id).ok());
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("connected", &self.connected)
            .finish_non_exhaustive()
    }
}

fn send(
    pc: &mut RTCPeerConnection,
    stream: &mut Stream,
    frame: FrameHeader,
    payloads: &[Bytes],
    playout_delay_id: Option<u8>,
) {
    let (Some(payload_type), Some(mut sender)) =
        (stream.payload_type, pc.rtp_sender(stream.sender))
    else {
        return;
    };
    let last = payloads.len().saturating_sub(1);
    for (i, payload) in payloads.iter().enumerate() {
        let mut header = rtc::rtp::Header {
            version: 2,
            marker: i == last,
            payload_type,
            sequence_number: stream.sequence_number,
            timestamp: frame.timestamp,
            ssrc: stream.ssrc,
            ..rtc::rtp::Header::default()
        };
        if let Some(id) = playout_delay_id {
            let set = header.set_extension(id, Bytes::from_static(PLAYOUT_DELAY_NONE));
            debug_assert!(set.is_ok(), "three bytes fit a one-byte extension");
        }
        stream.sequence_number = stream.sequence_number.wrapping_add(1);
        let packet = rtc::rtp::Packet {
            header,
            payload: payload.clone(),
        };
        // The capture time, not the send time: sender reports relate it to the RTP timestamp.
        if let Err(error) = sender.write_rtp(frame.captured_at, packet) {
            tracing::debug!(%error, "could not send a packet");
            return;
        }
    }
}

fn datagram(write: TaggedBytesMut) -> Datagram {
    Datagram {
        local: write.transport.local_addr,
        peer: write.transport.peer_addr,
        bytes: write.message,
    }
}

fn encoding(ssrc: u32, rtx: Option<u32>, codec: RTCRtpCodec) -> RTCRtpEncodingParameters {
    RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(ssrc),
            rtx: rtx.map(|ssrc| RTCRtpRtxParameters { ssrc }),
            ..RTCRtpCodingParameters::default()
        },
        codec,
        active: true,
        ..RTCRtpEncodingParameters::default()
    }
}

/// Constrained Baseline, level 3.1: the one profile that every browser shows.
fn h264() -> RTCRtpCodecParameters {
    let feedback = |typ: &str, parameter: &str| RTCPFeedback {
        typ: typ.to_owned(),
        parameter: parameter.to_owned(),
    };
    codec(
        MIME_TYPE_H264,
        90_000,
        0,
        "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        vec![
            feedback("nack", ""),
            feedback("nack", "pli"),
            feedback("ccm", "fir"),
        ],
        H264_PAYLOAD_TYPE,
    )
}

fn rtx() -> RTCRtpCodecParameters {
    let apt = format!("apt={H264_PAYLOAD_TYPE}");
    codec(MIME_TYPE_RTX, 90_000, 0, &apt, Vec::new(), RTX_PAYLOAD_TYPE)
}

fn opus() -> RTCRtpCodecParameters {
    codec(
        MIME_TYPE_OPUS,
        48_000,
        2,
        "minptime=10;useinbandfec=1",
        Vec::new(),
        OPUS_PAYLOAD_TYPE,
    )
}

fn codec(
    mime_type: &str,
    clock_rate: u32,
    channels: u16,
    fmtp: &str,
    rtcp_feedback: Vec<RTCPFeedback>,
    payload_type: u8,
) -> RTCRtpCodecParameters {
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: mime_type.to_owned(),
            clock_rate,
            channels,
            sdp_fmtp_line: fmtp.to_owned(),
            rtcp_feedback,
        },
        payload_type,
    }
}
