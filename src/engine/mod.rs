//! The media thread: drives all viewers.
//!
//! Frames, datagrams, signals and timers go to the viewers' machines; their datagrams leave in
//! batches, their events become requests to the capture threads and texts to the room. Nothing is
//! decided here that a pure module could decide.
//!
//! | file         | what                                                            |
//! |--------------|-----------------------------------------------------------------|
//! | `udp.rs`     | sockets: GSO, GRO, interfaces                                   |
//! | `demux.rs`   | datagram → session                                              |
//! | `gather.rs`  | our ICE candidates                                              |
//! | `explain.rs` | why a viewer does not connect                                   |
//! | `network.rs` | the ways to viewers: the UDP port, or a relay                  |
//! | `turn.rs`    | the sockets of TURN servers                                     |
//! | `stun.rs`    | asks STUN servers how they see us                               |
//! | `room.rs`    | descriptions and candidates, to and from the rooms              |
//! | `talk.rs`    | viewers who speak                                               |
//! | `report.rs`  | what viewers and systemd are told                               |
//! | `camera.rs`  | what viewers ask of the open camera, and what it answers        |
//! | `session.rs` | one viewer's machine and its outgoing batch; catches its panics |

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{broadcast, mpsc, watch};

use crate::audio::capture::AudioRequest;
use crate::clock;
use crate::config;
use crate::control::camera::{Answer, Control};
use crate::control::demand::Demand;
use crate::control::protocol::{self, Command};
use crate::control::{DeviceState, Report, SourceStatus};
use crate::rtp::gop::Gop;
use crate::rtp::{AudioFrame, VideoFrame};
use crate::signaling::websocket::Authorities;
use crate::signaling::{IceServer, RoomEvent, RoomIndex, RoomMessage, Seat};
use crate::talkback::floor::Floor;
use crate::talkback::player::{Failure, Player};
use crate::turn::reach::Reach;
use crate::video::capture::CaptureRequest;
use crate::video::desk;
use crate::viewer::keyframes::KeyframeRequests;
use crate::viewer::roster::{Roster, SessionId};
use crate::viewer::webrtc::{Certificate, Datagram, PeerError};
use crate::viewer::{Ended, Viewer, ViewerEvent};

mod camera;
pub mod demux;
mod explain;
pub mod gather;
mod network;
mod report;
mod room;
mod session;
mod stun;
mod talk;
pub mod turn;
pub mod udp;

use demux::{Demux, Via};
use network::Network;
use session::Session;
use udp::{PortError, ReceiveBuffer, UdpPort};

/// How often the engine shows that it is alive while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long viewers get to be told at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// What the engine is asked for. It may change at any time, but for what says otherwise.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// `[webrtc]`; port and advertised addresses are those of the start.
    pub webrtc: config::WebRtc,
    /// `[control]`; the switches are those of the start.
    pub control: config::Control,
    /// `[talkback]`
    pub talkback: config::Talkback,
    /// Target of the video encoder, in bit/s.
    pub video_bitrate_bps: u32,
    /// Whether there is a video source at all.
    pub has_video: bool,
    /// Whether there is an audio source at all.
    pub has_audio: bool,
    /// Whose TLS certificates are believed.
    pub authorities: Authorities,
    /// Whether nobody in the rooms has our own page: picture and sound are then always one stream.
    pub one_stream: bool,
    /// Whether to offer the loopback address: the room server is on this machine, and may hand out
    /// servers that are.
    pub offer_loopback: bool,
    /// What we say in each room that the device is in. A room that is left out is left, once nobody
    /// else holds its sender; media goes on.
    pub rooms: BTreeMap<RoomIndex, mpsc::Sender<RoomMessage>>,
}

impl EngineOptions {
    /// Returns where the STUN and TURN servers may be that room servers hand out.
    const fn reach_of_room_servers(&self) -> Reach {
        if self.offer_loopback {
            Reach::Anywhere
        } else {
            Reach::Elsewhere
        }
    }
}

/// What connects the engine to the rest of the daemon.
#[derive(Debug)]
pub struct EngineChannels {
    /// What is asked for.
    pub options: watch::Receiver<EngineOptions>,
    /// What happens in the rooms.
    pub events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
    /// Pictures.
    pub video: broadcast::Receiver<Arc<VideoFrame>>,
    /// Sound.
    pub audio: broadcast::Receiver<Arc<AudioFrame>>,
    /// What the camera does.
    pub video_status: watch::Receiver<SourceStatus>,
    /// What the microphone does.
    pub audio_status: watch::Receiver<SourceStatus>,
    /// What the camera is to do.
    pub video_request: watch::Sender<CaptureRequest>,
    /// What the microphone is to do.
    pub audio_request: watch::Sender<AudioRequest>,
    /// What plays what viewers say.
    pub player: Player,
    /// What viewers ask of the open camera.
    pub camera: desk::Client,
    /// What the engine does, for systemd and people.
    pub pulse: watch::Sender<Pulse>,
    /// True ends the engine.
    pub shutdown: watch::Receiver<bool>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// When it was given.
    pub at: Instant,
    /// In words, for `systemctl status`.
    pub summary: String,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The media port is in use.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No thread, no runtime, no randomness.
    #[error("cannot start the media thread")]
    Start(#[from] io::Error),
    /// No DTLS certificate.
    #[error("cannot make a DTLS certificate: {0}")]
    Certificate(#[from] PeerError),
}

/// Opens the media port and starts the thread.
///
/// # Errors
///
/// [`EngineError`]; where the port is in use, the message says what to do.
pub fn spawn(mut channels: EngineChannels) -> Result<JoinHandle<()>, EngineError> {
    let options = channels.options.borrow_and_update().clone();
    let certificate = Certificate::generate()?;
    let (opened, is_open) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let thread = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        let started = runtime.map_err(EngineError::from).and_then(|runtime| {
            let port = {
                let _guard = runtime.enter();
                UdpPort::bind(options.webrtc.udp_port)?
            };
            Ok((runtime, port))
        });
        let (runtime, port) = match started {
            Ok(started) => started,
            Err(error) => return drop(opened.send(Err(error))),
        };
        tracing::info!(port = port.port(), "media port opened");
        if opened.send(Ok(())).is_err() {
            return;
        }
        runtime.block_on(async move {
            Engine::new(options, channels, certificate, port)
                .run()
                .await;
        });
        // A name that is still being looked up must not hold up the end.
        runtime.shutdown_background();
    })?;
    match is_open.recv() {
        Ok(started) => started.map(|()| thread),
        Err(_) => Err(io::Error::other("the thread ended at once").into()),
    }
}

struct Engine {
    options: EngineOptions,
    channels: EngineChannels,
    certificate: Certificate,
    network: Network,
    reflexive: stun::Reflexive,
    demux: Demux,
    roster: Roster,
    sessions: BTreeMap<SessionId, Session>,
    device: DeviceState,
    floor: Floor,
    /// Unix time at which the camera was switched off, while it is.
    off_since: Option<Duration>,
    /// What can be set of the open camera, as viewers were told.
    controls: Vec<Control>,
    last_snapshot: Option<Instant>,
    demand: Demand,
    keyframes: KeyframeRequests,
    gop: Gop,
    last_report: Option<Report>,
    told: explain::Told,
    rooms_joined: BTreeSet<RoomIndex>,
    /// The STUN and TURN servers that each room's server handed out last.
    handed: BTreeMap<RoomIndex, Vec<IceServer>>,
    /// What is to be said once our candidates are known.
    waiting: Vec<room::Waiting>,
}

/// One thing that woke the engine.
enum Input {
    Video(Arc<VideoFrame>),
    VideoLost(u64),
    Audio(Arc<AudioFrame>),
    AudioLost,
    Room(RoomIndex, RoomEvent),
    Datagrams,
    Reflexive(SocketAddr),
    Relay(turn::Incoming),
    Talkback(Failure),
    Options,
    Status,
    Camera(Answer),
    Controls,
    Timer,
    Stop,
}

impl Engine {
    fn new(
        options: EngineOptions,
        channels: EngineChannels,
        certificate: Certificate,
        port: UdpPort,
    ) -> Self {
        let mut reflexive = stun::Reflexive::new();
        reflexive.add_servers(&options.webrtc.ice_servers, Reach::Anywhere, clock::now());
        let reach = options.reach_of_room_servers();
        Self {
            network: Network {
                port,
                advertised: options.webrtc.advertised_addresses.clone(),
                turn: turn::Turn::new(&options.webrtc, options.authorities.clone(), reach),
            },
            reflexive,
            roster: Roster::new(options.webrtc.max_viewers),
            device: DeviceState {
                camera: options.control.camera,
                muted: options.control.muted,
            },
            floor: Floor::new(options.talkback.clone()),
            off_since: (!options.control.camera).then(clock::unix_time),
            controls: Vec::new(),
            last_snapshot: None,
            demand: Demand::new(options.control.idle_timeout()),
            options,
            channels,
            certificate,
            demux: Demux::new(),
            sessions: BTreeMap::new(),
            keyframes: KeyframeRequests::new(),
            gop: Gop::new(),
            last_report: None,
            told: explain::Told::default(),
            rooms_joined: BTreeSet::new(),
            handed: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    async fn run(mut self) {
        let mut buffer = ReceiveBuffer::new();
        loop {
            let input = self.next_input().await;
            let now = clock::now();
            match input {
                Input::Video(frame) => self.handle_video(&frame, now),
                Input::VideoLost(missed) => self.handle_video_lost(missed),
                Input::Audio(frame) => {
                    for session in self.sessions.values_mut() {
                        session.with(|viewer| viewer.handle_audio(&frame));
                    }
                }
                Input::Options => self.handle_options(now),
                Input::Status => self.handle_status(),
                Input::Talkback(failure) => self.handle_talkback_failure(&failure, now),
                Input::Camera(answer) => self.handle_camera_answer(&answer, now),
                Input::Controls => self.handle_controls(now),
                Input::AudioLost | Input::Timer => {}
                Input::Room(room, event) => {
                    // Of a room that was joined just now, the options tell that we are in it.
                    if self.channels.options.has_changed().unwrap_or(false) {
                        self.handle_options(now);
                    }
                    self.handle_room_event(room, event, now);
                }
                Input::Datagrams => self.handle_datagrams(&mut buffer, now),
                Input::Reflexive(address) => self.announce_reflexive(address),
                Input::Relay(incoming) => self.handle_relay(incoming, now),
                Input::Stop => break,
            }
            self.handle_timers(now);
            self.settle(now);
        }
        self.stop().await;
    }

    /// Waits for the next input. Frames first: they are what viewers wait for. Datagrams behind the
    /// room: anyone can send those.
    async fn next_input(&mut self) -> Input {
        let wake_at = self.next_timer(clock::now());
        let channels = &mut self.channels;
        tokio::select! {
            biased;
            stop = channels.shutdown.wait_for(|stop| *stop) => {
                drop(stop);
                Input::Stop
            }
            frame = channels.video.recv() => match frame {
                Ok(frame) => Input::Video(frame),
                Err(broadcast::error::RecvError::Lagged(missed)) => Input::VideoLost(missed),
                Err(broadcast::error::RecvError::Closed) => Input::Stop,
            },
            frame = channels.audio.recv() => match frame {
                Ok(frame) => Input::Audio(frame),
                Err(broadcast::error::RecvError::Lagged(_)) => Input::AudioLost,
                Err(broadcast::error::RecvError::Closed) => Input::Stop,
            },
            changed = channels.options.changed() => changed.map_or(Input::Stop, |()| Input::Options),
            event = channels.events.recv() => {
                event.map_or(Input::Stop, |(room, event)| Input::Room(room, event))
            }
            ready = self.network.port.ready() => {
                if let Err(error) = ready {
                    tracing::warn!(%error, "the media port failed");
                }
                Input::Datagrams
            }
            changed = channels.video_status.changed() => {
                changed.map_or(Input::Stop, |()| Input::Status)
            }
            changed = channels.audio_status.changed() => {
                changed.map_or(Input::Stop, |()| Input::Status)
            }
            Some(failure) = channels.player.failures.recv() => Input::Talkback(failure),
            answer = channels.camera.answers.recv() => answer.map_or(Input::Stop, Input::Camera),
            changed = channels.camera.controls.changed() => {
                changed.map_or(Input::Stop, |()| Input::Controls)
            }
            incoming = self.network.turn.next() => Input::Relay(incoming),
            address = self.reflexive.next() => Input::Reflexive(address),
            () = tokio::time::sleep_until(wake_at.into()) => Input::Timer,
        }
    }

    fn next_timer(&mut self, now: Instant) -> Instant {
        let heartbeat = self.channels.pulse.borrow().at + HEARTBEAT;
        self.sessions
            .values()
            .filter_map(Session::timeout)
            .chain(self.demand.poll_timeout())
            .chain(self.floor.poll_timeout(now))
            .chain(self.keyframes.poll_timeout())
            .chain(self.reflexive.poll_timeout())
            .chain(self.network.turn.relays.poll_timeout())
            .chain(self.waiting.iter().map(|waiting| waiting.until))
            .chain([heartbeat])
            .min()
            .unwrap_or(heartbeat)
    }

    fn handle_timers(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if session.timeout().is_some_and(|at| at <= now) {
                session.with(|viewer| viewer.handle_timeout(now));
            }
        }
        if !self.waiting.is_empty() {
            self.handle_waiting(now);
        }
        self.handle_talk_timers(now);
        for (server, request) in self.reflexive.poll_requests(now) {
            let anywhere = Ipv4Addr::UNSPECIFIED.into();
            let port = &mut self.network.port;
            port.send(anywhere, server, request.len(), &request);
        }
        let relays = &mut self.network.turn.relays;
        if self.roster.viewers() > 0 {
            relays.want(now);
        }
        relays.handle_timeout(now);
    }

    fn handle_video(&mut self, frame: &Arc<VideoFrame>, now: Instant) {
        // A frame that was on its way when the camera was switched off is not shown.
        let is_off = !self.channels.video_request.borrow().run || !self.device.camera;
        if is_off && !frame.is_placeholder {
            return;
        }
        self.gop.push(frame);
        if frame.is_keyframe {
            self.keyframes.handle_keyframe();
        }
        for session in self.sessions.values_mut() {
            session.with(|viewer| viewer.handle_video(frame, now));
        }
    }

    /// The configuration was read again. What viewers are connected by stays as it is.
    fn handle_options(&mut self, now: Instant) {
        let options = self.channels.options.borrow_and_update().clone();
        let running = std::mem::replace(&mut self.options, options);
        let options = &self.options;
        self.roster.set_max_viewers(options.webrtc.max_viewers);
        self.demand.set_idle_timeout(options.control.idle_timeout());
        self.rooms_joined
            .retain(|room| options.rooms.contains_key(room));
        self.handed
            .retain(|room, _| options.rooms.contains_key(room));
        let reach = options.reach_of_room_servers();
        let turn = &mut self.network.turn;
        turn.configure(&options.webrtc, options.authorities.clone(), reach);
        if options.webrtc.ice_servers != running.webrtc.ice_servers {
            self.reflexive = stun::Reflexive::new();
            let configured = &options.webrtc.ice_servers;
            self.reflexive.add_servers(configured, Reach::Anywhere, now);
            for handed in self.handed.values() {
                self.reflexive.add_servers(handed, reach, now);
            }
        }
        self.configure_talkback(now);
    }

    /// A newcomer must not be shown what a camera saw before it was closed or lost.
    fn handle_status(&mut self) {
        let is_live = matches!(
            &*self.channels.video_status.borrow(),
            SourceStatus::Live { .. }
        );
        if !is_live {
            self.gop.clear();
        }
    }

    fn handle_video_lost(&mut self, missed: u64) {
        tracing::debug!(missed, "the media thread fell behind the camera");
        self.gop.clear();
        for session in self.sessions.values_mut() {
            session.with(|viewer| viewer.handle_lag(missed));
        }
    }

    fn handle_datagrams(&mut self, buffer: &mut ReceiveBuffer, now: Instant) {
        let Self {
            network,
            demux,
            sessions,
            reflexive,
            ..
        } = self;
        let Network {
            port, advertised, ..
        } = network;
        port.exchange(buffer, |local, peer, bytes| {
            if reflexive.handle_response(peer, bytes, now) {
                return;
            }
            let local = advertised_for(advertised, local);
            deliver(demux, sessions, Via::Port, local, peer, bytes, now);
        });
    }

    fn handle_relay(&mut self, incoming: turn::Incoming, now: Instant) {
        let Self {
            network,
            demux,
            sessions,
            ..
        } = self;
        network.turn.handle(incoming, now, |local, peer, bytes| {
            deliver(demux, sessions, Via::Relay, local, peer, bytes, now);
        });
    }

    /// Lets every machine speak until nothing more comes of it.
    fn settle(&mut self, now: Instant) {
        let mut events = Vec::new();
        for session in self.sessions.values_mut() {
            session.drain(&mut events);
        }
        self.transmit(now);
        for (session, event) in events {
            self.handle_viewer_event(session, event, now);
        }
        self.publish(now);
        // Replies, state and the frames of a newcomer.
        self.transmit(now);
        if let Some(address) = self.network.turn.settle(now) {
            self.announce_relayed(address);
        }
    }

    fn transmit(&mut self, now: Instant) {
        for (&id, session) in &mut self.sessions {
            session.transmit(&mut self.network, now, |via, peer| {
                self.demux.add_address(via, peer, id);
            });
        }
    }

    fn handle_viewer_event(&mut self, id: SessionId, event: ViewerEvent, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match event {
            ViewerEvent::Connected => {
                session.with(|viewer| viewer.start_with(self.gop.frames(), now));
                if self.gop.frames().is_empty() {
                    self.keyframes.request();
                }
                for sibling in self.roster.handle_connected(id) {
                    self.close(sibling, "a newer connection is up");
                }
                let viewers = self.roster.connected_viewers();
                tracing::info!(viewer = id.0, viewers, "viewer connected");
                if let Some(seat) = self.roster.viewer_of(id).cloned() {
                    let viewer = seat.viewer;
                    self.say(seat.room, RoomMessage::Connected { viewer });
                }
            }
            ViewerEvent::Stuck => self.explain(id, now),
            ViewerEvent::ControlOpen => {
                let state = protocol::state(&self.report());
                session_send(&mut self.sessions, id, &state, now);
                self.tell_controls(id, now);
            }
            ViewerEvent::Command {
                id: request,
                command,
            } if command.camera_task().is_some() => self.ask_camera(id, request, command, now),
            ViewerEvent::Command {
                id: request,
                command,
            } => {
                let outcome = match &command {
                    Command::SetTalking { on, key } => self.set_talking(id, *on, key, now),
                    command => {
                        self.apply(command);
                        Ok(())
                    }
                };
                let reply = match outcome {
                    Ok(()) => protocol::accepted(request),
                    Err(refusal) => {
                        tracing::debug!(viewer = id.0, %refusal, "viewer may not speak");
                        protocol::refused(request, refusal.code(), &refusal.to_string())
                    }
                };
                session_send(&mut self.sessions, id, &reply, now);
            }
            ViewerEvent::Speech(packet) => self.handle_speech(id, packet, now),
            ViewerEvent::KeyframeWanted => self.keyframes.request(),
            ViewerEvent::Ended(reason) => {
                if reason == Ended::Failed {
                    self.roster.handle_failed();
                }
                let dropped = session.dropped_frames();
                if matches!(reason, Ended::NeverConnected | Ended::Failed) {
                    self.explain(id, now);
                }
                self.end(id);
                match reason {
                    Ended::Gone => self.log_gone(id, dropped),
                    Ended::NeverAnswered => {
                        tracing::debug!(viewer = id.0, "nobody took our offer");
                    }
                    Ended::NeverConnected | Ended::Failed => {
                        tracing::debug!(viewer = id.0, "gave up connecting");
                    }
                }
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        if *command == Command::RequestKeyframe {
            self.keyframes.request();
        }
        let before = self.device;
        self.device = before.after(command);
        if self.device != before {
            let DeviceState { camera, muted } = self.device;
            tracing::info!(camera, muted, "device switched");
        }
        if self.device.camera {
            self.off_since = None;
        } else if before.camera {
            self.off_since = Some(clock::unix_time());
            self.gop.clear();
            for session in self.sessions.values_mut() {
                session.with(Viewer::stop_video);
            }
        }
    }

    /// Tells the capture threads what to do, viewers what the device does, and systemd that we live.
    fn publish(&mut self, now: Instant) {
        self.demand.handle_viewers(self.roster.viewers(), now);
        let wanted = self.demand.poll(now);
        let keyframe = self.keyframes.poll(now);
        let camera = self.device.camera;
        if !wanted {
            self.gop.clear();
        }
        let watched = self.roster.viewers() > 0;
        let off_since = self.off_since;
        // full: coalesced
        self.channels.video_request.send_if_modified(|request| {
            let run = wanted && camera;
            let changed = request.run != run
                || keyframe
                || request.watched != watched
                || request.off_since != off_since;
            request.run = run;
            request.watched = watched;
            request.off_since = off_since;
            request.bitrate_bps = self.options.video_bitrate_bps;
            request.keyframe_serial = request.keyframe_serial.wrapping_add(keyframe.into());
            changed
        });
        // While somebody speaks through the loudspeaker, the microphone would send it back.
        let muted = self.device.muted || self.floor.is_ducked(now);
        self.channels.audio_request.send_if_modified(|request| {
            let changed = request.run != wanted || request.muted != muted;
            request.run = wanted;
            request.muted = muted;
            changed
        });
        let report = self.report();
        if self.last_report.as_ref() != Some(&report) {
            let state = protocol::state(&report);
            for session in self.sessions.values_mut() {
                session.with(|viewer| viewer.send_control(&state, now));
            }
        }
        let rooms = (self.rooms_joined.len(), self.options.rooms.len());
        self.channels.pulse.send_if_modified(|pulse| {
            let due = now.saturating_duration_since(pulse.at) >= HEARTBEAT;
            let changed = due || self.last_report.as_ref() != Some(&report);
            if changed {
                pulse.at = now;
                pulse.summary = report::summary(&report, rooms);
            }
            changed
        });
        self.last_report = Some(report);
    }

    fn report(&self) -> Report {
        let video = self.channels.video_status.borrow();
        let audio = self.channels.audio_status.borrow();
        report::report(
            self.device,
            self.roster.connected_viewers(),
            self.options.has_video.then_some(&*video),
            self.options.has_audio.then_some(&*audio),
            &self.floor,
        )
    }

    fn log_gone(&self, id: SessionId, dropped: u64) {
        let viewers = self.roster.connected_viewers();
        tracing::info!(viewer = id.0, viewers, dropped, "viewer gone");
    }

    /// Closes a session that the roster has let go of already.
    fn close(&mut self, id: SessionId, why: &'static str) {
        let now = clock::now();
        if let Some(session) = self.sessions.get_mut(&id) {
            tracing::debug!(viewer = id.0, why, "session closed");
            session.with(Viewer::close);
            session.transmit(&mut self.network, now, |_, _| {});
        }
        self.end(id);
    }

    fn end(&mut self, id: SessionId) {
        let now = clock::now();
        self.stop_talking(id, now);
        self.floor.forget(id, now);
        let seat = self.roster.handle_ended(id);
        if let Some(Seat { room, viewer }) = seat {
            self.say(room, RoomMessage::Ended { viewer });
        }
        self.demux.remove(id);
        self.sessions.remove(&id);
    }

    async fn stop(mut self) {
        self.channels
            .video_request
            .send_modify(|request| request.shutdown = true);
        self.channels
            .audio_request
            .send_modify(|request| request.shutdown = true);
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.close(id, "the daemon stops");
        }
        self.network.turn.relays.release();
        self.network.turn.settle(clock::now());
        // What the kernel could not take at once gets a moment.
        let mut buffer = ReceiveBuffer::new();
        let port = &mut self.network.port;
        let last_words = async {
            // The relays' connections are tasks, which get this moment to say goodbye.
            tokio::task::yield_now().await;
            while port.has_backlog() && port.ready().await.is_ok() {
                port.exchange(&mut buffer, |_, _, _| {});
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, last_words)
            .await
            .is_err()
        {
            tracing::debug!("the network did not take the last packets");
        }
    }
}

fn session_send(
    sessions: &mut BTreeMap<SessionId, Session>,
    id: SessionId,
    text: &str,
    now: Instant,
) {
    if let Some(session) = sessions.get_mut(&id) {
        session.with(|viewer| viewer.send_control(text, now));
    }
}

/// Hands a datagram to its viewer. `local` is our address as the viewer knows it.
fn deliver(
    demux: &mut Demux,
    sessions: &mut BTreeMap<SessionId, Session>,
    via: Via,
    local: SocketAddr,
    peer: SocketAddr,
    bytes: &[u8],
    now: Instant,
) {
    let session = demux.route(via, peer, bytes);
    if let Some(session) = session.and_then(|session| sessions.get_mut(&session)) {
        let bytes = BytesMut::from(bytes);
        let datagram = Datagram { local, peer, bytes };
        session.with(|viewer| viewer.handle_datagram(datagram, now));
    }
}

/// The address that a viewer knows `local` by: with port forwarding it is a configured one.
fn advertised_for(advertised: &[IpAddr], local: SocketAddr) -> SocketAddr {
    advertised
        .iter()
        .find(|ip| ip.is_ipv4() == local.is_ipv4())
        .map_or(local, |&ip| SocketAddr::new(ip, local.port()))
}

fn random_u32() -> u32 {
    getrandom::u32().unwrap_or_else(|error| {
        // Only a broken kernel has no randomness; a predictable SSRC harms nobody.
        tracing::error!(%error, "no randomness");
        0x726f_6f6d
    })
}
