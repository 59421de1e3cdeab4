//! The capture thread: next → packetize → publish; opens the source again when it fails.
//!
//! ```text
//!          run                    first frame
//!   Off ─────────▶ Starting ───────────────────▶ Live
//!    ▲                 │ cannot be opened          │ fails
//!    │ run = false     ▼                           ▼
//!    └───────────── Waiting ◀──────────────────────┘
//!   (from anywhere)    └── opens again after 0.25 s, then every second, until frames come
//! ```
//!
//! While it waits, or the camera is switched off, a notice says so to those who watch (`placeholder`).
//! A camera that falls silent is waited for before it counts as failed, and shown again from a keyframe on.
//!
//! The thread never waits for anyone but its camera, and notices within 300 ms that it is to stop,
//! or that it is configured anew: another bitrate is passed on, anything else opens the source again.
//! While it does not run, the camera is closed and its light is out. What is made of the frames,
//! and who may stop the camera, is decided elsewhere.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use super::desk::Desk;
use super::notice::{self, headline};
use super::placeholder::Placeholder;
use super::resume::Resume;
use super::stage::Stage;
use super::{VideoError, VideoSource};
use crate::control::SourceStatus;
use crate::progress::Progress;
use crate::rtp::VideoFrame;
use crate::rtp::h264::Packetizer;
use crate::{clock, config};

mod attempts;
#[cfg(test)]
mod tests;

use attempts::Attempts;

/// Longest sleep in one go between two attempts, so that a stop is noticed.
const LONGEST_NAP: Duration = Duration::from_millis(100);

/// How long a live camera may be silent before viewers are told: they are to know within a second, of
/// which a wait for the camera takes up to 0.2. Some cameras pause for so long when their exposure
/// changes; then the notice is gone as soon as it came.
const SHORTEST_SILENCE: Duration = Duration::from_millis(750);

/// The same in pictures, for slow cameras.
const SILENT_PICTURES: u32 = 3;

/// What is asked of the capture thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureRequest {
    /// The camera is to be open.
    pub run: bool,
    /// The thread is to end, for good.
    pub shutdown: bool,
    /// What the encoder is to aim at; 0 leaves it at the configured target.
    pub bitrate_bps: u32,
    /// A change asks for a keyframe.
    pub keyframe_serial: u64,
    /// Somebody watches: where there is no picture, they are told why in one.
    pub watched: bool,
    /// Unix time at which the camera was switched off, while it is.
    pub off_since: Option<Duration>,
}

/// Starts the thread `video`, which serves `request` until it asks for a shutdown or its sender is
/// gone.
///
/// `frames` may be without receivers. A receiver that lags loses the oldest frames. `settings` may
/// change at any time. What viewers ask of the open camera comes to `desk`.
///
/// # Errors
///
/// When the system gives no thread.
pub fn spawn(
    settings: watch::Receiver<config::Video>,
    runtime: Handle,
    request: watch::Receiver<CaptureRequest>,
    frames: broadcast::Sender<Arc<VideoFrame>>,
    status: watch::Sender<SourceStatus>,
    progress: Progress,
    desk: Desk,
) -> io::Result<JoinHandle<()>> {
    let stage = Arc::new(Stage::new(frames));
    let placeholder = Placeholder {
        stage: Arc::clone(&stage),
        request: request.clone(),
        settings: settings.clone(),
        runtime: runtime.clone(),
    };
    let placeholder = placeholder.spawn()?;
    let capture = Capture {
        settings,
        runtime,
        request,
        stage,
        status,
        progress,
        desk,
    };
    let thread = thread::Builder::new().name("video".to_owned());
    thread.spawn(move || {
        capture.run(super::open);
        if placeholder.join().is_err() {
            tracing::error!("bug: the placeholder's thread panicked");
        }
    })
}

struct Capture {
    settings: watch::Receiver<config::Video>,
    runtime: Handle,
    request: watch::Receiver<CaptureRequest>,
    stage: Arc<Stage>,
    status: watch::Sender<SourceStatus>,
    progress: Progress,
    desk: Desk,
}

/// Why a source that works is closed.
enum Ending {
    NotWanted,
    ConfiguredAnew,
}

impl Capture {
    fn run(
        mut self,
        mut open: impl FnMut(&config::Video) -> Result<Box<dyn VideoSource>, VideoError>,
    ) {
        while self.wait_until_wanted() {
            self.report(SourceStatus::Starting);
            self.stage.uncover();
            self.serve(&mut open);
            self.stage.uncover();
            self.report(SourceStatus::Off);
            tracing::info!("camera closed");
        }
    }

    /// Returns false when the thread is to end.
    fn wait_until_wanted(&mut self) -> bool {
        loop {
            // An error means that whoever asked is gone.
            if self.request.has_changed().is_err() {
                return false;
            }
            let asked = self.request.borrow_and_update().clone();
            let is_there = self.settings.borrow_and_update().is_there();
            if asked.shutdown {
                return false;
            }
            if asked.run && is_there {
                return true;
            }
            match asked.off_since.filter(|_| asked.watched && is_there) {
                Some(since) => self.stage.cover(notice::OFF, "", since),
                None => self.stage.uncover(),
            }
            self.progress.idle();
            let (request, settings) = (&mut self.request, &mut self.settings);
            let desk = &mut self.desk;
            let changed = self.runtime.block_on(async {
                tokio::select! {
                    changed = request.changed() => changed,
                    changed = settings.changed() => changed,
                    () = desk.wait_and_refuse() => Ok(()),
                }
            });
            if changed.is_err() {
                return false;
            }
        }
    }

    /// Returns what is asked for, or `None` when the camera is to be closed.
    fn wanted(&mut self) -> Option<CaptureRequest> {
        self.progress.made(clock::now());
        self.request.has_changed().ok()?;
        let request = self.request.borrow_and_update().clone();
        let is_there = self.settings.borrow().is_there();
        (request.run && is_there && !request.shutdown).then_some(request)
    }

    /// Opens the source, again and again, until it is no longer wanted.
    fn serve(
        &mut self,
        open: &mut impl FnMut(&config::Video) -> Result<Box<dyn VideoSource>, VideoError>,
    ) {
        let mut attempts = Attempts::default();
        while self.wanted().is_some() {
            let settings = self.settings.borrow_and_update().clone();
            let ended = open(&settings).and_then(|mut source| {
                self.progress.opened(clock::now());
                self.desk.restore(source.as_mut());
                let ended = self.publish_all(source.as_mut(), settings, &mut attempts);
                self.desk.close();
                ended
            });
            let error = match ended {
                Ok(Ending::NotWanted) => return,
                Ok(Ending::ConfiguredAnew) => {
                    self.progress.excused();
                    attempts = Attempts::default();
                    self.stage.uncover();
                    self.report(SourceStatus::Starting);
                    continue;
                }
                Err(error) => error,
            };
            if !matches!(error, VideoError::Stalled { .. }) {
                self.progress.excused();
            }
            let retry_in = attempts.failed(&error, clock::now());
            self.wait(headline(&error, attempts.was_live), reason(&error));
            if !self.nap(retry_in) {
                return;
            }
        }
    }

    /// Publishes what the source delivers, until it is to be closed (`Ok`) or fails.
    fn publish_all(
        &mut self,
        source: &mut dyn VideoSource,
        mut settings: config::Video,
        attempts: &mut Attempts,
    ) -> Result<Ending, VideoError> {
        let mut packetizer = Packetizer::new(source.keyframes_on_demand());
        let mut bitrate_bps = configured_bitrate(&settings);
        let mut warned_of_b_slices = false;
        let mut is_live = false;
        let mut last_picture: Option<Instant> = None;
        let mut resume = Resume::new();
        // A fresh source starts with a keyframe unasked.
        let mut keyframe_serial = self.request.borrow().keyframe_serial;
        while let Some(request) = self.wanted() {
            if request.keyframe_serial != keyframe_serial {
                keyframe_serial = request.keyframe_serial;
                source.request_keyframe();
            }
            if self.is_configured_anew() {
                let new = self.settings.borrow_and_update().clone();
                settings.bitrate_kbps = new.bitrate_kbps;
                if settings != new {
                    return Ok(Ending::ConfiguredAnew);
                }
            }
            let target_bps = match request.bitrate_bps {
                0 => configured_bitrate(&settings),
                asked_for => asked_for,
            };
            if target_bps != bitrate_bps {
                bitrate_bps = target_bps;
                source.set_bitrate(bitrate_bps);
            }
            self.desk.serve(source, &self.runtime, clock::now());
            let Some(unit) = source.next()? else {
                let silence = last_picture.map(|at| clock::now().saturating_duration_since(at));
                let is_silent =
                    silence.is_some_and(|silence| silence >= tolerated_silence(&settings));
                let lack = if source.awaits_keyframe() {
                    // A new process would wait for it as well.
                    self.progress.excused();
                    "keyframe"
                } else {
                    "pictures"
                };
                if is_live && is_silent && !source.is_restarting() {
                    is_live = false;
                    let reason = format!("camera {} sends no {lack}", source.identity());
                    self.wait(notice::SILENT, reason);
                }
                continue;
            };
            let Some(frame) = packetizer.packetize(&unit) else {
                continue;
            };
            let now = clock::now();
            last_picture = Some(now);
            self.progress.delivered(now);
            // The notice's pictures are no reference for the camera's.
            if self.stage.is_covered() && !frame.is_keyframe {
                if resume.poll_request(now) {
                    source.request_keyframe();
                }
                continue;
            }
            if !is_live {
                is_live = true;
                resume = Resume::new();
                attempts.was_live = true;
                self.report(SourceStatus::Live {
                    description: source.description(),
                });
            }
            if packetizer.saw_b_slices() && !warned_of_b_slices {
                warned_of_b_slices = true;
                let camera = source.description();
                tracing::warn!(
                    camera,
                    "has B pictures, which browsers show late or not at all"
                );
            }
            self.desk
                .handle_frame(&frame, &unit, &packetizer, &self.runtime);
            let size = packetizer.info().map(|info| (info.width, info.height));
            self.stage.show_camera(frame, size);
            if attempts.live_since.is_none() {
                attempts.live_since = Some(now);
                // Some cameras take a while to say what they have: after their first picture.
                self.desk.publish(source);
            }
        }
        Ok(Ending::NotWanted)
    }

    /// There is no picture: viewers are told why, in words and in a picture.
    fn wait(&self, headline: &str, reason: String) {
        self.stage.cover(headline, &reason, clock::unix_time());
        self.report(SourceStatus::Waiting { reason });
    }

    fn is_configured_anew(&self) -> bool {
        // An error means that it never will be again.
        self.settings.has_changed().unwrap_or(false)
    }

    /// Sleeps, unless it is configured anew; returns false as soon as the camera is no longer wanted.
    fn nap(&mut self, length: Duration) -> bool {
        let end = clock::now() + length;
        while self.wanted().is_some() {
            self.desk.refuse_all();
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() || self.is_configured_anew() {
                return true;
            }
            thread::sleep(left.min(LONGEST_NAP));
        }
        false
    }

    /// Tells everyone, and the log once, when something has changed.
    fn report(&self, status: SourceStatus) {
        let changed = self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                current.clone_from(&status);
            }
            changed
        });
        match status {
            SourceStatus::Live { description } if changed => {
                tracing::info!(camera = description, "camera live");
            }
            SourceStatus::Waiting { reason } if changed => {
                tracing::warn!(reason, "waiting for camera");
            }
            _ => {}
        }
    }
}

const fn configured_bitrate(settings: &config::Video) -> u32 {
    settings.bitrate_kbps.saturating_mul(1_000)
}

fn tolerated_silence(settings: &config::Video) -> Duration {
    let pictures = Duration::from_secs(1) * SILENT_PICTURES / settings.fps.max(1);
    pictures.max(SHORTEST_SILENCE)
}

/// Returns the error and its causes in one line.
fn reason(error: &VideoError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
