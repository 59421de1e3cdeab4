//! The only place where the parts are put together, started and stopped.
//!
//! ```text
//! threads: main (room server, link, signals) · engine (media) · video · audio
//! start:   room server → capture threads → engine → link → READY=1
//! alive:   engine's pulse, capture threads not hung → WATCHDOG=1
//! reload:  SIGHUP → configuration read again → capture threads, or a word about the next start
//! stop:    STOPPING=1 → viewers told → room left → threads joined → exit 0, within 2 s
//! ```

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use crate::audio::capture::AudioRequest;
use crate::config::{self, CallEvents, Config, ConfigError, Dialect, Headers, Secret};
use crate::control::SourceStatus;
use crate::engine::{EngineChannels, EngineError, EngineOptions, Pulse};
use crate::keys::{self, KeyError};
use crate::page::{self, Page};
use crate::progress::Progress;
use crate::rtp::{AudioFrame, VideoFrame};
use crate::server::pairing::private::Tutorials;
use crate::server::{Server, ServerError, ServerOptions};
use crate::signaling::server_url::{BadServerUrl, parse_server_url};
use crate::signaling::websocket::{Authorities, CaFileError, LinkOptions, run_link};
use crate::signaling::{RoomEvent, RoomIndex, RoomMessage};
use crate::systemd::Notifier;
use crate::turn::credentials::IceServers;
use crate::video::capture::CaptureRequest;
use crate::{audio, clock, engine, reload, video};

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

/// Runs the daemon until it is told to stop. `read_again` gives the configuration once more, when it
/// is told to reload.
///
/// # Errors
///
/// [`DaemonError`], where it cannot start, or where it ended by itself.
pub async fn run(
    mut config: Config,
    mode: Mode,
    read_again: impl Fn() -> Result<Config, ConfigError>,
) -> Result<(), DaemonError> {
    let notifier = Notifier::from_env();
    let mut signals = Signals::new()?;
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
            // What `[video]` says at any time, which the capture thread knows.
            video_bitrate_bps: 0,
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
            told = signals.recv() => match told {
                Told::Stop => break false,
                Told::Reload => {
                    notifier.reloading(clock::monotonic());
                    reload_configuration(&mut config, read_again(), &capture);
                    notifier.ready();
                }
            },
            changed = pulses.changed() => {
                if changed.is_err() || capture.threads.iter().any(JoinHandle::is_finished) {
                    break true;
                }
                show_life(&notifier, &pulses.borrow_and_update(), &mut capture);
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

/// Tells systemd that the daemon lives, unless a capture thread hangs: what a driver holds in the
/// kernel comes free with a new process, if at all.
fn show_life(notifier: &Notifier, pulse: &Pulse, capture: &mut CaptureThreads) {
    let hung = capture.progress.iter();
    let hung = hung.filter(|(_, progress)| progress.is_hung(pulse.at));
    let hung = hung.map(|(what, _)| *what).next();
    if hung != capture.hung {
        capture.hung = hung;
        match hung {
            Some(what) => tracing::error!(what, "hangs in its driver, waiting for a restart"),
            None => tracing::info!("no longer hangs"),
        }
    }
    if let Some(what) = hung {
        notifier.status(&format!("the {what} hangs in its driver"));
    } else {
        notifier.watchdog();
        notifier.status(&pulse.summary);
    }
}

/// Hands what may change now to the capture threads, and says what else is new.
fn reload_configuration(
    running: &mut Config,
    new: Result<Config, ConfigError>,
    capture: &CaptureThreads,
) {
    let new = match new {
        Ok(new) => new,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the new configuration is wrong, the old one stays");
            return;
        }
    };
    let plan = reload::plan(running, &new);
    if plan.video {
        running.video = new.video;
        capture.video.send_replace(running.video.clone());
    }
    if plan.audio {
        running.audio = new.audio;
        capture.audio.send_replace(running.audio.clone());
    }
    let (video, audio) = (plan.video, plan.audio);
    tracing::info!(video, audio, "configuration read again");
    if !plan.at_next_start.is_empty() {
        let keys = plan.at_next_start.join(", ");
        tracing::warn!(keys, "changes take effect when roomcam is restarted");
    }
}

/// Runs the room server alone until it is told to stop.
///
/// # Errors
///
/// [`DaemonError`] where it cannot start.
pub async fn serve(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
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
    loop {
        tokio::select! {
            told = signals.recv() => match told {
                Told::Stop => break,
                Told::Reload => tracing::warn!("changes take effect when roomcam is restarted"),
            },
            () = &mut running => return Ok(()),
        }
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
        let local = SocketAddr::new(page::from_here(address.ip()), address.port());
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
            page: Some(Page::at(address, config.room.first_name(), &viewer_key)),
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
            "Open {} with the key of room.key or of {}: `roomcam url` prints the whole link",
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
    let page = Page::at(address, room, viewer_key);
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

/// The running capture threads, and the ends of channels that a missing source would have held.
struct CaptureThreads {
    threads: Vec<JoinHandle<()>>,
    video: watch::Sender<config::Video>,
    audio: watch::Sender<config::Audio>,
    progress: [(&'static str, Progress); 2],
    /// Which one hung when it was last looked at.
    hung: Option<&'static str>,
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
        bitrate_bps: 0,
        keyframe_serial: 0,
    });
    let (audio_request, audio_requests) = watch::channel(AudioRequest {
        run: false,
        muted: config.control.muted,
        shutdown: false,
    });
    let (video_settings, video_configured) = watch::channel(config.video.clone());
    let (audio_settings, audio_configured) = watch::channel(config.audio.clone());
    let (camera, microphone) = (Progress::default(), Progress::default());
    let mut threads = Vec::new();
    if config.video.source != "none" {
        threads.push(video::capture::spawn(
            video_configured,
            runtime.clone(),
            video_requests,
            video_tx.clone(),
            video_status_tx.clone(),
            camera.clone(),
        )?);
    }
    if config.audio.source != "none" {
        threads.push(audio::capture::spawn(
            audio_configured,
            runtime,
            audio_requests,
            audio_tx.clone(),
            audio_status_tx.clone(),
            microphone.clone(),
        )?);
    }
    let capture = CaptureThreads {
        threads,
        video: video_settings,
        audio: audio_settings,
        progress: [("camera", camera), ("microphone", microphone)],
        hung: None,
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

/// What a signal tells the daemon.
enum Told {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` in a terminal, where the signal means that it is closed: that ends the process.
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let in_terminal = io::stdin().is_terminal();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!in_terminal)
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
        })
    }

    async fn recv(&mut self) -> Told {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = hang_up => Told::Reload,
        }
    }
}
