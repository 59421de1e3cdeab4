//! The only place where the parts are put together, started and stopped.
//!
//! ```text
//! threads: main (room server, link, signals) · engine (media) · video · audio
//! start:   room server → capture threads → engine → link → READY=1
//! stop:    STOPPING=1 → viewers told → room left → threads joined → exit 0, within 2 s
//! ```

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use crate::audio::capture::AudioRequest;
use crate::config::{CallEvents, Config, Dialect, Headers, Secret};
use crate::control::SourceStatus;
use crate::engine::{EngineChannels, EngineError, EngineOptions, Pulse};
use crate::keys::{self, KeyError};
use crate::rtp::{AudioFrame, VideoFrame};
use crate::server::pairing::private::Tutorials;
use crate::server::{Server, ServerError, ServerOptions};
use crate::signaling::server_url::{BadServerUrl, parse_server_url};
use crate::signaling::websocket::{Authorities, CaFileError, LinkOptions, run_link};
use crate::signaling::{RoomEvent, RoomIndex, RoomMessage};
use crate::systemd::Notifier;
use crate::turn::credentials::IceServers;
use crate::video::capture::CaptureRequest;
use crate::{audio, clock, engine, interfaces, video};

/// Video frames between capture and engine. The engine takes each at once; a sixth of a second at
/// 90 fps is for a machine that stumbles.
const VIDEO_QUEUE: usize = 16;

/// Audio frames between capture and engine: 320 ms.
const AUDIO_QUEUE: usize = 16;

/// Signals between link and engine.
const SIGNAL_QUEUE: usize = 256;

/// How long the threads get to end.
const JOIN_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What kind of daemon this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For months: the room's key is kept, and not printed where a log would keep it.
    Service,
    /// For a look: a new key each time, and the whole URL printed.
    Demonstration,
}

/// Why the daemon does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The embedded room server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The media thread.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The room's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The URL of the room server.
    #[error(transparent)]
    ServerUrl(#[from] BadServerUrl),
    /// The CA of the room server.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// Threads, signals, standard output.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// A thread ended that never should. systemd starts the daemon again.
    #[error("bug: a thread ended by itself")]
    ThreadEnded,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// [`DaemonError`], where it cannot start, or where it ended by itself.
pub async fn run(config: Config, mode: Mode) -> Result<(), DaemonError> {
    let notifier = Notifier::from_env();
    let mut stop = StopSignals::new()?;
    let (shutdown, shut) = watch::channel(false);
    // The server outlives the engine: the device says goodbye in its own room, too.
    let (shutdown_server, shut_server) = watch::channel(false);
    let mut servers = JoinSet::new();

    let room = Room::open(&config, mode, &shut_server, &mut servers).await?;
    let (mut capture, channels) = start_capture(&config, shut.clone())?;
    let (event_tx, events) = mpsc::channel(SIGNAL_QUEUE);
    let (messages, message_queues): (Vec<_>, Vec<_>) = room
        .links
        .iter()
        .map(|_| mpsc::channel(SIGNAL_QUEUE))
        .unzip();
    let (pulse, mut pulses) = watch::channel(Pulse {
        at: clock::now(),
        summary: "starting".to_owned(),
    });
    let engine = engine::spawn(
        EngineOptions {
            webrtc: config.webrtc.clone(),
            control: config.control.clone(),
            video_bitrate_bps: config.video.bitrate_kbps.saturating_mul(1_000),
            has_video: config.video.source != "none",
            has_audio: config.audio.source != "none",
            authorities: Authorities::load(&config.room.ca_file)?,
            one_stream: room
                .links
                .iter()
                .all(|link| link.dialect != Dialect::Roomcam),
            offer_loopback: room.is_local,
        },
        channels.with(events, messages, pulse),
    )?;
    let mut links = JoinSet::new();
    for (i, (link, queue)) in room.links.into_iter().zip(message_queues).enumerate() {
        links.spawn(run_link(link, RoomIndex(i), event_tx.clone(), queue));
    }
    drop(event_tx);

    if let Some(page) = &room.page {
        announce(page, mode, config.room_is_secret())?;
    }
    notifier.ready();
    let ended_by_itself = loop {
        tokio::select! {
            () = stop.recv() => break false,
            changed = pulses.changed() => {
                if changed.is_err() {
                    break true;
                }
                if capture.threads.iter().any(JoinHandle::is_finished) {
                    break true;
                }
                let pulse = pulses.borrow_and_update();
                notifier.watchdog();
                notifier.status(&pulse.summary);
            }
        }
    };

    notifier.stopping();
    shutdown.send_replace(true);
    tracing::info!("stopping");
    let everything_ended = async {
        join([engine]).await;
        while let Some(ended) = links.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "bug: a link ended by itself");
            }
        }
        shutdown_server.send_replace(true);
        while servers.join_next().await.is_some() {}
        join(std::mem::take(&mut capture.threads)).await;
    };
    if tokio::time::timeout(JOIN_TIMEOUT, everything_ended)
        .await
        .is_err()
    {
        tracing::warn!("something did not stop in time and is left behind");
    }
    if ended_by_itself {
        return Err(DaemonError::ThreadEnded);
    }
    Ok(())
}

/// Runs the room server alone until it is told to stop.
///
/// # Errors
///
/// [`DaemonError`] where it cannot start.
pub async fn serve(config: Config) -> Result<(), DaemonError> {
    let mut stop = StopSignals::new()?;
    let state = keys::state_directory();
    let kept = |configured: &Secret, name| {
        if configured.is_empty() {
            keys::load_or_create(&state, name)
        } else {
            Ok(configured.clone())
        }
    };
    let viewer_key = kept(&config.room.key, keys::VIEWER_KEY_FILE)?;
    let device_key = kept(&config.server.device_key, keys::DEVICE_KEY_FILE)?;
    let server = Server::bind(ServerOptions {
        listen: config.server.listen,
        viewer_key: viewer_key.clone(),
        device_key: device_key.clone(),
        allowed_origins: config.server.allowed_origins.clone(),
        ice_servers: IceServers::new(&config.webrtc, clock::unix_time),
        tutorials: tutorials(&config),
    })
    .await?;
    announce_server(
        server.local_addr(),
        &config.room.name,
        &viewer_key,
        &device_key,
    )?;
    let (shutdown, shut) = watch::channel(false);
    let notifier = Notifier::from_env();
    notifier.ready();
    let running = server.run(shut);
    tokio::pin!(running);
    tokio::select! {
        () = stop.recv() => {}
        () = &mut running => return Ok(()),
    }
    notifier.stopping();
    shutdown.send_replace(true);
    running.await;
    Ok(())
}

/// The rooms, as the device sees them.
struct Room {
    links: Vec<LinkOptions>,
    /// Whether the room server is on this machine.
    is_local: bool,
    page: Option<Page>,
}

/// Where to watch.
struct Page {
    url: String,
    /// The same without the key.
    public_url: String,
}

impl Page {
    fn origin(&self) -> &str {
        self.public_url.split("/#").next().unwrap_or_default()
    }
}

impl Room {
    /// Starts the embedded server, unless one elsewhere is configured.
    async fn open(
        config: &Config,
        mode: Mode,
        shut: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, DaemonError> {
        let instance = keys::generate()?.expose().to_owned();
        let links = |to: LinkOptions| {
            let link = |name: &String| LinkOptions {
                room: name.clone(),
                ..to.clone()
            };
            config.room.names().map(link).collect()
        };
        if !config.room.server.is_empty() {
            let server = parse_server_url(&config.room.server, config.room.dialect)?;
            let is_local = match server.host() {
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => false,
            };
            return Ok(Self {
                links: links(LinkOptions {
                    server,
                    dialect: config.room.dialect,
                    room: String::new(),
                    room_is_secret: config.room_is_secret(),
                    key: config.room.key.clone(),
                    instance,
                    headers: config.room.headers.clone(),
                    authorities: Authorities::load(&config.room.ca_file)?,
                    auth: config.room.auth.to_json(),
                    events: config.room.events.clone(),
                }),
                is_local,
                page: None,
            });
        }
        let viewer_key = match mode {
            _ if !config.room.key.is_empty() => config.room.key.clone(),
            Mode::Demonstration => keys::generate()?,
            Mode::Service => keys::load_or_create(&keys::state_directory(), keys::VIEWER_KEY_FILE)?,
        };
        let device_key = keys::generate()?;
        let server = Server::bind(ServerOptions {
            listen: config.server.listen,
            viewer_key: viewer_key.clone(),
            device_key: device_key.clone(),
            allowed_origins: config.server.allowed_origins.clone(),
            ice_servers: IceServers::new(&config.webrtc, clock::unix_time),
            tutorials: tutorials(config),
        })
        .await?;
        let address = server.local_addr();
        tasks.spawn(server.run(shut.clone()));
        let local = SocketAddr::new(reachable_from_here(address.ip()), address.port());
        Ok(Self {
            links: links(LinkOptions {
                server: parse_server_url(&format!("ws://{local}"), Dialect::Roomcam)?,
                dialect: Dialect::Roomcam,
                room: String::new(),
                room_is_secret: config.room_is_secret(),
                key: device_key,
                instance,
                headers: Headers::default(),
                authorities: Authorities::default(),
                auth: Secret::default(),
                events: CallEvents::default(),
            }),
            is_local: address.ip().is_loopback(),
            page: Some(page_url(address, config.room.first_name(), &viewer_key)),
        })
    }
}

/// Returns what pages of tutorials may speak, and in which rooms they find the device.
fn tutorials(config: &Config) -> Tutorials {
    let dialects = config.server.tutorial_dialects.iter();
    Tutorials {
        dialects: dialects.map(|&dialect| dialect.into()).collect(),
        rooms: config.room.names().cloned().map(Secret::new).collect(),
        events: config.room.events.clone(),
    }
}

/// Says where to watch: on standard output, for people and programs.
fn announce(page: &Page, mode: Mode, room_is_secret: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if mode == Mode::Demonstration || out.is_terminal() {
        writeln!(out, "Open {}", page.url)?;
    } else {
        // Standard output may be a log, and a log is no place for a key; a room's name may be one.
        let key = keys::state_directory().join(keys::VIEWER_KEY_FILE);
        writeln!(
            out,
            "Open {} with the key of room.key or of {}",
            if room_is_secret {
                page.origin()
            } else {
                &page.public_url
            },
            key.display()
        )?;
    }
    out.flush()
}

/// Says where viewers and devices find the room server. Keys are for a person's eyes: standard output
/// may be a log.
fn announce_server(
    address: SocketAddr,
    room: &str,
    viewer_key: &Secret,
    device_key: &Secret,
) -> io::Result<()> {
    let page = page_url(address, room, viewer_key);
    let origin = page.origin();
    let mut out = io::stdout().lock();
    let (url, key) = if out.is_terminal() {
        (page.url.as_str(), device_key.expose())
    } else {
        (page.public_url.as_str(), "DEVICE_KEY")
    };
    writeln!(out, "Viewers open  {url}")?;
    writeln!(
        out,
        "Devices run   roomcam run --server {origin} --room {room} --key {key}"
    )?;
    if !out.is_terminal() {
        writeln!(
            out,
            "The keys are those of the configuration, or in {}",
            keys::state_directory().display()
        )?;
    }
    out.flush()
}

fn page_url(address: SocketAddr, room: &str, key: &Secret) -> Page {
    let ip = if address.ip().is_unspecified() {
        first_interface_address(address.ip())
    } else {
        address.ip()
    };
    let public_url = format!(
        "http://{}/#room={room}",
        SocketAddr::new(ip, address.port())
    );
    let key: String = url::form_urlencoded::byte_serialize(key.expose().as_bytes()).collect();
    Page {
        url: format!("{public_url}&key={key}"),
        public_url,
    }
}

fn first_interface_address(unspecified: IpAddr) -> IpAddr {
    let first = interfaces::reachable_addresses().into_iter().next();
    first.unwrap_or_else(|| reachable_from_here(unspecified))
}

fn reachable_from_here(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The running capture threads, and the ends of channels that a missing source would have held.
struct CaptureThreads {
    threads: Vec<JoinHandle<()>>,
    _frames: (
        broadcast::Sender<Arc<VideoFrame>>,
        broadcast::Sender<Arc<AudioFrame>>,
    ),
    _status: (watch::Sender<SourceStatus>, watch::Sender<SourceStatus>),
}

/// The engine's ends of the capture channels.
struct CaptureChannels {
    video: broadcast::Receiver<Arc<VideoFrame>>,
    audio: broadcast::Receiver<Arc<AudioFrame>>,
    video_status: watch::Receiver<SourceStatus>,
    audio_status: watch::Receiver<SourceStatus>,
    video_request: watch::Sender<CaptureRequest>,
    audio_request: watch::Sender<AudioRequest>,
    shutdown: watch::Receiver<bool>,
}

impl CaptureChannels {
    fn with(
        self,
        events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
        messages: Vec<mpsc::Sender<RoomMessage>>,
        pulse: watch::Sender<Pulse>,
    ) -> EngineChannels {
        EngineChannels {
            events,
            messages,
            video: self.video,
            audio: self.audio,
            video_status: self.video_status,
            audio_status: self.audio_status,
            video_request: self.video_request,
            audio_request: self.audio_request,
            pulse,
            shutdown: self.shutdown,
        }
    }
}

fn start_capture(
    config: &Config,
    shutdown: watch::Receiver<bool>,
) -> io::Result<(CaptureThreads, CaptureChannels)> {
    let runtime = tokio::runtime::Handle::current();
    // full: oldest lost, viewers wait for a keyframe
    let (video_tx, video) = broadcast::channel(VIDEO_QUEUE);
    let (audio_tx, audio) = broadcast::channel(AUDIO_QUEUE);
    let (video_status_tx, video_status) = watch::channel(SourceStatus::Off);
    let (audio_status_tx, audio_status) = watch::channel(SourceStatus::Off);
    let (video_request, video_requests) = watch::channel(CaptureRequest {
        run: false,
        shutdown: false,
        bitrate_bps: config.video.bitrate_kbps.saturating_mul(1_000),
        keyframe_serial: 0,
    });
    let (audio_request, audio_requests) = watch::channel(AudioRequest {
        run: false,
        muted: config.control.muted,
        shutdown: false,
    });
    let mut threads = Vec::new();
    if config.video.source != "none" {
        threads.push(video::capture::spawn(
            config.video.clone(),
            runtime.clone(),
            video_requests,
            video_tx.clone(),
            video_status_tx.clone(),
        )?);
    }
    if config.audio.source != "none" {
        threads.push(audio::capture::spawn(
            config.audio.clone(),
            runtime,
            audio_requests,
            audio_tx.clone(),
            audio_status_tx.clone(),
        )?);
    }
    let capture = CaptureThreads {
        threads,
        _frames: (video_tx, audio_tx),
        _status: (video_status_tx, audio_status_tx),
    };
    let channels = CaptureChannels {
        video,
        audio,
        video_status,
        audio_status,
        video_request,
        audio_request,
        shutdown,
    };
    Ok((capture, channels))
}

/// Waits for threads without holding up the tasks beside them.
async fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    for thread in threads {
        while !thread.is_finished() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if thread.join().is_err() {
            tracing::error!("bug: a thread panicked");
        }
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
