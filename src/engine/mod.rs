//! The media thread: drives all viewers.
//!
//! Frames, datagrams, signals and timers go to the viewers' machines; their datagrams leave in
//! batches, their events become requests to the capture threads and texts to the room. Nothing is
//! decided here that a pure module could decide.
//!
//! | file           | what                                                            |
//! |----------------|-----------------------------------------------------------------|
//! | `options.rs`   | what the engine is asked for                                    |
//! | `channels.rs`  | what connects it to the rest of the daemon                      |
//! | `input.rs`     | what wakes it                                                   |
//! | `pictures.rs`  | pictures to the viewers                                         |
//! | `datagrams.rs` | datagrams to the viewer they are of                             |
//! | `viewers.rs`   | what viewers do                                                 |
//! | `publish.rs`   | what the capture threads, viewers and systemd are told          |
//! | `udp.rs`       | sockets: GSO, GRO, interfaces                                   |
//! | `demux.rs`     | datagram → session                                              |
//! | `gather.rs`    | our ICE candidates                                              |
//! | `explain.rs`   | why a viewer does not connect                                   |
//! | `network.rs`   | the ways to viewers: the UDP port, or a relay                   |
//! | `turn.rs`      | the sockets of TURN servers                                     |
//! | `stun.rs`      | asks STUN servers how they see us                               |
//! | `room.rs`      | descriptions and candidates, to and from the rooms              |
//! | `talk.rs`      | viewers who speak                                               |
//! | `report.rs`    | what viewers and systemd are told                               |
//! | `camera.rs`    | what viewers ask of the open camera, and what it answers        |
//! | `session.rs`   | one viewer's machine and its outgoing batch; catches its panics |

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock;
use crate::control::camera::Control;
use crate::control::demand::Demand;
use crate::control::{DeviceState, Report};
use crate::rtp::gop::Gop;
use crate::signaling::{IceServer, RoomIndex};
use crate::talkback::floor::Floor;
use crate::turn::reach::Reach;
use crate::viewer::keyframes::KeyframeRequests;
use crate::viewer::roster::{Roster, SessionId};
use crate::viewer::webrtc::{Certificate, PeerError};

mod camera;
mod channels;
mod datagrams;
pub mod demux;
mod explain;
pub mod gather;
mod input;
mod network;
mod options;
mod pictures;
mod publish;
mod report;
mod room;
mod session;
mod stun;
mod talk;
pub mod turn;
pub mod udp;
mod viewers;

pub use channels::{EngineChannels, Pulse};
pub use options::EngineOptions;

use demux::Demux;
use input::Input;
use network::Network;
use session::Session;
use udp::{PortError, ReceiveBuffer, UdpPort};
use viewers::session_send;

/// How often the engine shows that it is alive while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long viewers get to be told at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

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

fn random_u32() -> u32 {
    getrandom::u32().unwrap_or_else(|error| {
        // Only a broken kernel has no randomness; a predictable SSRC harms nobody.
        tracing::error!(%error, "no randomness");
        0x726f_6f6d
    })
}
