//! The only place where the parts are put together, started and stopped.
//!
//! ```text
//! threads: main (room server, link, signals) · engine (media) · video · audio · talkback
//! start:   room server → capture and talkback threads → engine → READY=1
//! alive:   engine's pulse, capture threads that lack nothing → WATCHDOG=1
//! reload:  SIGHUP → configuration read again → capture threads, engine, rooms
//! stop:    STOPPING=1 → viewers told → room left → threads joined → exit 0, within 2 s
//! ```

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, ConfigError};
use crate::engine::{EngineError, EngineOptions, Pulse};
use crate::keys::KeyError;
use crate::server::ServerError;
use crate::signaling::server_url::BadServerUrl;
use crate::signaling::websocket::CaFileError;
use crate::systemd::Notifier;
use crate::{clock, engine, reload};

mod capture;
mod rooms;
mod serve;
mod signals;

use capture::{CaptureThreads, start_capture};
pub use rooms::try_server;
use rooms::{Opened, Rooms, announce};
pub use serve::serve;
use signals::{Signals, Told};

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
    /// The embedded server or a link ended, which never should. systemd starts the daemon again.
    #[error("bug: the room server or a link to one ended by itself")]
    RoomsEnded,
}

impl DaemonError {
    /// Returns whether a start fails in the same way until someone has mended the configuration. A port
    /// may come free, and a file appear.
    #[must_use]
    pub const fn is_wrong_configuration(&self) -> bool {
        match self {
            Self::Server(error) => error.is_wrong_configuration(),
            Self::ServerUrl(_) => true,
            Self::Engine(_)
            | Self::Key(_)
            | Self::CaFile(_)
            | Self::Start(_)
            | Self::ThreadEnded
            | Self::RoomsEnded => false,
        }
    }
}

/// Runs the daemon until it is told to stop. `read_again` gives the configuration once more, when it
/// is told to reload.
///
/// # Errors
///
/// [`DaemonError`], where it cannot start, or where it ended by itself.
pub async fn run(
    config: Config,
    mode: Mode,
    read_again: impl Fn() -> Result<Config, ConfigError>,
) -> Result<(), DaemonError> {
    let notifier = Notifier::from_env();
    let mut signals = Signals::new()?;
    let (shutdown, shut) = watch::channel(false);
    let (mut rooms, events) = Rooms::new(mode)?;
    let mut opened = rooms.open(&config).await?;
    let page = opened.page.take();
    let (capture, channels) = start_capture(&config, shut)?;
    let (pulse, mut pulses) = watch::channel(Pulse {
        at: clock::now(),
        summary: "starting".to_owned(),
    });
    let (options, wanted) = watch::channel(engine_options(&config, opened));
    let engine = engine::spawn(channels.with(wanted, events, pulse))?;
    if let Some(page) = &page {
        announce(page, mode, config.room_is_secret())?;
    }
    let mut daemon = Daemon {
        config,
        mode,
        rooms,
        options,
        capture,
    };

    notifier.ready();
    let ended = loop {
        tokio::select! {
            told = signals.recv() => match told {
                Told::Stop => break Ok(()),
                Told::Reload => {
                    notifier.reloading(clock::monotonic());
                    if let Err(error) = daemon.reload(read_again()).await {
                        break Err(error);
                    }
                    notifier.ready();
                }
            },
            changed = pulses.changed() => {
                let mut threads = daemon.capture.threads.iter();
                if changed.is_err() || threads.any(JoinHandle::is_finished) {
                    break Err(DaemonError::ThreadEnded);
                }
                daemon.show_life(&notifier, &pulses.borrow_and_update());
            }
            () = daemon.rooms.ended() => break Err(DaemonError::RoomsEnded),
        }
    };

    notifier.stopping();
    shutdown.send_replace(true);
    tracing::info!("stopping");
    let everything_ended = daemon.end(engine);
    if tokio::time::timeout(JOIN_TIMEOUT, everything_ended)
        .await
        .is_err()
    {
        tracing::warn!("something did not stop in time and is left behind");
    }
    ended
}

/// What runs.
struct Daemon {
    /// As it runs: what waits for the next start is not in it.
    config: Config,
    mode: Mode,
    rooms: Rooms,
    options: watch::Sender<EngineOptions>,
    capture: CaptureThreads,
}

impl Daemon {
    /// Tells systemd that the daemon lives, unless only a new process helps: what a driver holds in the
    /// kernel comes free with one, if at all.
    fn show_life(&mut self, notifier: &Notifier, pulse: &Pulse) {
        if let Some(lack) = self.capture.lack(pulse.at) {
            notifier.status(&lack);
        } else {
            notifier.watchdog();
            notifier.status(&pulse.summary);
        }
    }

    /// Lets what may change now change, and says what else is new.
    ///
    /// # Errors
    ///
    /// Where neither the new rooms nor the old ones can be opened.
    async fn reload(&mut self, new: Result<Config, ConfigError>) -> Result<(), DaemonError> {
        let mut new = match new {
            Ok(new) => new,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the new configuration is wrong, the old one stays");
                return Ok(());
            }
        };
        let plan = reload::plan(&self.config, &new);
        let waiting = plan.at_next_start.join(", ");
        new.webrtc.udp_port = self.config.webrtc.udp_port;
        let advertised = &self.config.webrtc.advertised_addresses;
        new.webrtc.advertised_addresses.clone_from(advertised);
        (new.control.camera, new.control.muted) =
            (self.config.control.camera, self.config.control.muted);
        let changed = plan.now.join(", ");
        tracing::info!(changed, "configuration read again");
        if plan.rooms {
            self.reopen_rooms(&mut new).await?;
        }
        self.config = new;
        let config = &self.config;
        self.options.send_modify(|options| {
            options.webrtc = config.webrtc.clone();
            options.control = config.control.clone();
            options.has_video = config.video.is_there();
            options.has_audio = config.audio.is_there();
            options.talkback = config.talkback.clone();
        });
        self.capture.configure(&config.video, &config.audio);
        if !waiting.is_empty() {
            let keys = waiting;
            tracing::warn!(keys, "changes take effect when roomcam is restarted");
        }
        Ok(())
    }

    /// Leaves the rooms and opens those of `new`; where that cannot be, those of before, which `new`
    /// then has.
    async fn reopen_rooms(&mut self, new: &mut Config) -> Result<(), DaemonError> {
        self.options.send_modify(|options| options.rooms.clear());
        self.rooms.close().await;
        let opened = match self.rooms.open(new).await {
            Ok(opened) => opened,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the new rooms cannot be opened, the old ones stay");
                new.room.clone_from(&self.config.room);
                new.server.clone_from(&self.config.server);
                let (webrtc, running) = (&mut new.webrtc, &self.config.webrtc);
                webrtc.ice_servers.clone_from(&running.ice_servers);
                webrtc.turn.clone_from(&running.turn);
                self.rooms.open(new).await?
            }
        };
        // Whoever read standard output may have gone since the start: nobody's picture ends for that.
        if let Some(page) = &opened.page
            && let Err(error) = announce(page, self.mode, new.room_is_secret())
        {
            tracing::warn!(%error, "cannot say where the page is now");
        }
        self.options.send_replace(engine_options(new, opened));
        Ok(())
    }

    async fn end(mut self, engine: JoinHandle<()>) {
        join([engine]).await;
        self.options.send_modify(|options| options.rooms.clear());
        self.rooms.close().await;
        join(self.capture.threads).await;
    }
}

fn engine_options(config: &Config, rooms: Opened) -> EngineOptions {
    EngineOptions {
        webrtc: config.webrtc.clone(),
        control: config.control.clone(),
        talkback: config.talkback.clone(),
        // What `[video]` says at any time, which the capture thread knows.
        video_bitrate_bps: 0,
        has_video: config.video.is_there(),
        has_audio: config.audio.is_there(),
        authorities: rooms.authorities,
        one_stream: rooms.one_stream,
        offer_loopback: rooms.is_local,
        rooms: rooms.messages,
    }
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
