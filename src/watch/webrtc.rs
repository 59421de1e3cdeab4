//! The viewer's peer connection, on the crate `webrtc`: offers, receives, opens the control
//! channel.
//!
//! What comes in is passed on as [`PeerEvent`]s; nothing is counted or decided here.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_H264, MIME_TYPE_OPUS, MIME_TYPE_RTX,
};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters,
    RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::error::{Error, Result};
use webrtc::media_stream::track_local::TrackLocal as _;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCConfigurationBuilder, RTCIceCandidateInit, RTCIceGatheringState, RTCIceServer,
    RTCPeerConnectionIceEvent, RTCPeerConnectionState, RTCSessionDescription, Registry,
    SettingEngineBuilder, SrtpProtectionProfile, configure_nack, configure_rtcp_reports,
    configure_twcc_receiver_only,
};
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};

use super::reorder::Packet;
use super::reports::{REPORT_TAP_SLOT, ReportTap};
use super::seen::Connection;
use super::tally::SoundPacket;
use super::timing::SenderClock;
use crate::clock;
use crate::interfaces;
use crate::signaling::{CandidateInit, IceServer};

/// The label of the control channel (`docs/control.md`).
const CONTROL: &str = "control";

/// How many packets may wait for the viewer. At 2 Mbit/s, four seconds of video.
const MAX_QUEUED_PACKETS: usize = 1_024;

/// How many other events may wait for the viewer.
const MAX_QUEUED_EVENTS: usize = 256;

/// How often connectivity checks are sent. The default of 200 ms is most of the time that
/// connecting takes.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a relayed pair waits for a better one.
const RELAY_WAIT: Duration = Duration::from_millis(500);

/// The payload type of Opus, both ways: the device takes the viewer's.
const OPUS: u8 = 111;

/// The SSRC of what we say. The device's are random.
const VOICE_SSRC: u32 = 1;

/// What a peer connection tells its viewer.
pub(super) enum PeerEvent {
    /// A candidate of ours, for the device; `None` ends them.
    Candidate(Option<CandidateInit>),
    /// ICE and DTLS came to another state.
    Connection(Connection),
    /// The picture begins.
    Video(VideoTrack),
    /// The control channel is open.
    ControlOpen,
    /// The device said something on the control channel.
    Control(String),
    /// A piece of a file that the device announced there.
    Piece(Bytes),
    /// The control channel is gone.
    ControlClosed,
}

/// One packet of one of the device's tracks.
#[derive(Debug)]
pub(super) enum Media {
    /// Of the picture.
    Video(Packet),
    /// Of the sound.
    Audio(SoundPacket),
    /// What the device reports of the picture (true) or the sound.
    Reported(bool, SenderClock),
}

/// One peer connection to the device.
pub(super) struct Peer {
    connection: Arc<dyn PeerConnection>,
    control: Arc<dyn DataChannel>,
    /// Everything but media.
    pub(super) events: mpsc::Receiver<PeerEvent>,
    /// Packets.
    pub(super) media: mpsc::Receiver<Media>,
    voice: Option<Voice>,
}

/// What we say.
struct Voice {
    track: Arc<TrackLocalStaticRTP>,
    sequence_number: u16,
    timestamp: u32,
}

impl Peer {
    /// Makes a peer connection and its offer. With `loopback`, the device may be reachable at
    /// this machine's loopback addresses only; who `speaks` offers sound, too.
    ///
    /// # Errors
    ///
    /// No socket, or an ICE server that is none.
    pub(super) async fn offer(
        ice_servers: &[IceServer],
        loopback: bool,
        speaks: bool,
    ) -> Result<(Self, String)> {
        let (event_sender, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let (media_sender, media) = mpsc::channel(MAX_QUEUED_PACKETS);
        let mut codecs = codecs()?;
        let interceptors = configure_nack(Registry::new(), &mut codecs);
        let interceptors =
            configure_rtcp_reports(interceptors).with(REPORT_TAP_SLOT.into(), ReportTap::default());
        let interceptors = configure_twcc_receiver_only(interceptors, &mut codecs)?;
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), None)
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            ])
            .build();
        let configuration = RTCConfigurationBuilder::default()
            .with_ice_servers(ice_servers.iter().map(ice_server).collect())
            .build();
        let connection: Arc<dyn PeerConnection> = Arc::new(
            PeerConnectionBuilder::new()
                .with_configuration(configuration)
                .with_media_engine(codecs)
                .with_setting_engine(settings)
                .with_interceptor_registry(interceptors)
                .with_handler(Arc::new(Handler {
                    events: event_sender.clone(),
                    media: media_sender,
                }))
                .with_udp_addrs(local_addresses(loopback))
                .build()
                .await?,
        );
        let voice = speaks.then(Voice::new);
        if let Some(voice) = &voice {
            connection.add_track(Arc::clone(&voice.track) as _).await?;
        }
        let sound = (!speaks).then_some(RtpCodecKind::Audio);
        for kind in sound.into_iter().chain([RtpCodecKind::Video]) {
            let receive_only = RTCRtpTransceiverInit {
                direction: RTCRtpTransceiverDirection::Recvonly,
                streams: Vec::new(),
                send_encodings: Vec::new(),
            };
            connection
                .add_transceiver_from_kind(kind, Some(receive_only))
                .await?;
        }
        let control = connection.create_data_channel(CONTROL, None).await?;
        tokio::spawn(forward_control(Arc::clone(&control), event_sender));
        let offer = connection.create_offer(None).await?;
        connection.set_local_description(offer.clone()).await?;
        let sdp = connection
            .local_description()
            .await
            .map_or(offer.sdp, |description| description.sdp);
        let peer = Self {
            connection,
            control,
            events,
            media,
            voice,
        };
        Ok((peer, sdp))
    }

    /// Takes the device's answer.
    ///
    /// # Errors
    ///
    /// It is no answer to our offer.
    pub(super) async fn answer(&self, sdp: String) -> Result<()> {
        let answer = RTCSessionDescription::answer(sdp)?;
        self.connection.set_remote_description(answer).await
    }

    /// Takes one of the device's candidates.
    ///
    /// # Errors
    ///
    /// It is no candidate, or there was no answer yet.
    pub(super) async fn add_candidate(&self, candidate: CandidateInit) -> Result<()> {
        self.connection
            .add_ice_candidate(RTCIceCandidateInit {
                candidate: candidate.candidate,
                sdp_mid: candidate.sdp_mid,
                sdp_mline_index: candidate.sdp_mline_index,
                username_fragment: candidate.username_fragment,
                ..RTCIceCandidateInit::default()
            })
            .await
    }

    /// Says something on the control channel.
    ///
    /// # Errors
    ///
    /// The channel is not open.
    pub(super) async fn send_control(&self, text: &str) -> Result<()> {
        self.control.send_text(text).await
    }

    /// Says a packet of so many samples of 48 kHz. Without a voice, nothing is said.
    ///
    /// # Errors
    ///
    /// The connection is not there yet, or gone.
    pub(super) async fn say(&mut self, payload: Bytes, samples: u32) -> Result<()> {
        match &mut self.voice {
            Some(voice) => voice.say(payload, samples).await,
            None => Ok(()),
        }
    }

    /// Ends the connection, and tells the device.
    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "peer connection was closed already");
        }
    }
}

impl Voice {
    fn new() -> Self {
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(VOICE_SSRC),
                ..RTCRtpCodingParameters::default()
            },
            codec: opus().rtp_codec,
            ..RTCRtpEncodingParameters::default()
        };
        let name = || "voice".to_owned();
        let kind = RtpCodecKind::Audio;
        let track = MediaStreamTrack::new(name(), name(), name(), kind, vec![encoding]);
        Self {
            track: Arc::new(TrackLocalStaticRTP::new(track)),
            sequence_number: 0,
            timestamp: 0,
        }
    }

    async fn say(&mut self, payload: Bytes, samples: u32) -> Result<()> {
        let header = rtc::rtp::Header {
            version: 2,
            payload_type: OPUS,
            sequence_number: self.sequence_number,
            timestamp: self.timestamp,
            ssrc: VOICE_SSRC,
            ..rtc::rtp::Header::default()
        };
        self.sequence_number = self.sequence_number.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(samples);
        self.track
            .write_rtp(rtc::rtp::Packet { header, payload })
            .await
    }
}

/// The device's picture.
pub(super) struct VideoTrack(Arc<dyn TrackRemote>);

impl VideoTrack {
    /// Asks for a keyframe as browsers do (PLI, RFC 4585 §6.3.1).
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(super) async fn request_keyframe(&self) -> Result<()> {
        let ssrcs = self.0.ssrcs().await;
        let media_ssrc = *ssrcs.first().ok_or(Error::ErrConnectionClosed)?;
        let request = PictureLossIndication {
            sender_ssrc: 0,
            media_ssrc,
        };
        self.0.write_rtcp(vec![Box::new(request)]).await
    }
}

/// Passes on what the peer connection reports.
struct Handler {
    events: mpsc::Sender<PeerEvent>,
    media: mpsc::Sender<Media>,
}

impl Handler {
    async fn pass(&self, event: PeerEvent) {
        // full: awaits. A closed channel is a viewer that has left.
        drop(self.events.send(event).await);
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        match event.candidate.to_json() {
            Ok(init) => {
                let candidate = CandidateInit {
                    candidate: init.candidate,
                    sdp_mid: init.sdp_mid,
                    sdp_mline_index: init.sdp_mline_index,
                    username_fragment: init.username_fragment,
                };
                self.pass(PeerEvent::Candidate(Some(candidate))).await;
            }
            Err(error) => tracing::debug!(%error, "left out a candidate"),
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.pass(PeerEvent::Candidate(None)).await;
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.pass(PeerEvent::Connection(connection(state))).await;
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let kind = track.kind().await;
        if kind == RtpCodecKind::Video {
            let video = VideoTrack(Arc::clone(&track));
            self.pass(PeerEvent::Video(video)).await;
        }
        tokio::spawn(forward_media(track, kind, self.media.clone()));
    }
}

async fn forward_media(
    track: Arc<dyn TrackRemote>,
    kind: RtpCodecKind,
    media: mpsc::Sender<Media>,
) {
    while let Some(event) = track.poll().await {
        let packet = match (event, kind) {
            (TrackRemoteEvent::OnRtpPacket(packet), RtpCodecKind::Video) => {
                Media::Video(received(packet, clock::now()))
            }
            (TrackRemoteEvent::OnRtpPacket(packet), _) => Media::Audio(SoundPacket {
                sequence: packet.header.sequence_number,
                timestamp: packet.header.timestamp,
                payload: packet.payload,
                arrived: clock::now(),
            }),
            (TrackRemoteEvent::OnRtcpPacket(packets), kind) => {
                let mut reports = packets.iter().filter_map(|p| p.as_any().downcast_ref());
                let Some(report) = reports.next() else {
                    continue;
                };
                let SenderReport {
                    rtp_time, ntp_time, ..
                } = *report;
                let is_video = kind == RtpCodecKind::Video;
                Media::Reported(is_video, SenderClock::new(rtp_time, ntp_time))
            }
            _ => continue,
        };
        // full: awaits, and the track drops packets as a network would
        if media.send(packet).await.is_err() {
            return;
        }
    }
}

fn received(packet: rtc::rtp::Packet, arrived: Instant) -> Packet {
    Packet {
        ssrc: packet.header.ssrc,
        sequence: packet.header.sequence_number,
        timestamp: packet.header.timestamp,
        marker: packet.header.marker,
        payload: packet.payload,
        arrived,
    }
}

async fn forward_control(control: Arc<dyn DataChannel>, events: mpsc::Sender<PeerEvent>) {
    while let Some(event) = control.poll().await {
        let event = match event {
            DataChannelEvent::OnOpen => PeerEvent::ControlOpen,
            DataChannelEvent::OnMessage(message) if !message.is_string => {
                PeerEvent::Piece(message.data.freeze())
            }
            DataChannelEvent::OnMessage(message) => {
                PeerEvent::Control(String::from_utf8_lossy(&message.data).into_owned())
            }
            DataChannelEvent::OnClose => break,
            _ => continue,
        };
        // full: awaits
        if events.send(event).await.is_err() {
            return;
        }
    }
    // full: awaits. A closed channel is a viewer that has left.
    drop(events.send(PeerEvent::ControlClosed).await);
}

const fn connection(state: RTCPeerConnectionState) -> Connection {
    match state {
        RTCPeerConnectionState::Connecting => Connection::Connecting,
        RTCPeerConnectionState::Connected => Connection::Connected,
        RTCPeerConnectionState::Disconnected => Connection::Disconnected,
        RTCPeerConnectionState::Failed => Connection::Failed,
        RTCPeerConnectionState::Closed => Connection::Closed,
        _ => Connection::New,
    }
}

/// H.264 Constrained Baseline with retransmissions, and Opus: what every browser offers.
fn codecs() -> Result<MediaEngine> {
    const H264: u8 = 102;
    let mut codecs = MediaEngine::default();
    let feedback = |kind: &str, parameter: &str| RTCPFeedback {
        typ: kind.to_owned(),
        parameter: parameter.to_owned(),
    };
    let parameters =
        |payload_type, mime_type: &str, clock_rate, channels, fmtp: &str| RTCRtpCodecParameters {
            rtp_codec: RTCRtpCodec {
                mime_type: mime_type.to_owned(),
                clock_rate,
                channels,
                sdp_fmtp_line: fmtp.to_owned(),
                rtcp_feedback: Vec::new(),
            },
            payload_type,
        };
    let mut h264 = parameters(
        H264,
        MIME_TYPE_H264,
        90_000,
        0,
        "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
    );
    h264.rtp_codec.rtcp_feedback = vec![feedback("ccm", "fir")];
    codecs.register_codec(h264, RtpCodecKind::Video)?;
    let rtx = parameters(103, MIME_TYPE_RTX, 90_000, 0, &format!("apt={H264}"));
    codecs.register_codec(rtx, RtpCodecKind::Video)?;
    codecs.register_codec(opus(), RtpCodecKind::Audio)?;
    Ok(codecs)
}

fn opus() -> RTCRtpCodecParameters {
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: MIME_TYPE_OPUS.to_owned(),
            clock_rate: 48_000,
            channels: 2,
            sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
            rtcp_feedback: Vec::new(),
        },
        payload_type: OPUS,
    }
}

fn ice_server(server: &IceServer) -> RTCIceServer {
    RTCIceServer {
        urls: server.urls.clone(),
        username: server.username.clone().unwrap_or_default(),
        credential: server.credential.clone().unwrap_or_default(),
    }
}

/// Returns an address of each interface, with any port. Loopback is among them if asked for, or
/// if there is nothing else.
fn local_addresses(loopback: bool) -> Vec<SocketAddr> {
    let mut addresses = interfaces::reachable_addresses();
    if loopback || addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, 0))
        .collect()
}
