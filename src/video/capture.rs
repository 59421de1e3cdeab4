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

/// How long after a failure the source is opened again, first and then. A replugged camera is to be
/// back within two seconds; asking costs a few system calls.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);

/// The same where only another device or file can help.
const HOPELESS_RETRY: Duration = Duration::from_secs(5);

/// How long a source must have been live for its next failure to count as the first. A camera that
/// dies at each start must not fill the log four times a second.
const PROVEN: Duration = Duration::from_secs(5);

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

/// Where a source is in the diagram above, over all attempts of one run.
#[derive(Default)]
struct Attempts {
    failures: u32,
    live_since: Option<Instant>,
    was_live: bool,
}

impl Attempts {
    /// Records a failure and returns how long to wait before the next attempt.
    fn failed(&mut self, error: &VideoError, now: Instant) -> Duration {
        let live_since = self.live_since.take();
        if live_since.is_some_and(|since| now.saturating_duration_since(since) >= PROVEN) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            FIRST_RETRY
        } else if error.is_retryable() {
            RETRY
        } else {
            HOPELESS_RETRY
        }
    }
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
                if is_live && is_silent && !source.is_restarting() {
                    is_live = false;
                    let reason = format!("camera {} sends no pictures", source.identity());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{HUNG_AFTER, Lack, STARVED_AFTER};
    use crate::video::AccessUnit;
    use crate::video::desk::desk;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::runtime::Runtime;

    const KEYFRAME: &[u8] = &[
        0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x28, 0x02, 0xdd, 0, 0, 0, 1, 0x68,
        0xce, 0x3c, 0x80, 0, 0, 0, 1, 0x65, 0x88, 0x80, 0x11,
    ];
    const DELTA: &[u8] = &[0, 0, 0, 1, 0x41, 0x9a, 0x11];

    /// What happened to the scripted cameras.
    #[derive(Default)]
    struct Record {
        open_now: AtomicUsize,
        opened: AtomicUsize,
        asked: Mutex<Vec<String>>,
        sizes: Mutex<Vec<(u32, u32)>>,
    }

    impl Record {
        fn asked_for(&self, settings: &config::Video) {
            let size = (settings.width, settings.height);
            self.sizes.lock().unwrap().push(size);
        }
    }

    /// Delivers a keyframe, then deltas; fails after so many frames, or pauses once.
    struct Scripted {
        record: Arc<Record>,
        delivered: usize,
        pauses_after: usize,
        paused_at: Option<Instant>,
        keyframe_wanted: bool,
        fails_after: usize,
        fails_with: fn() -> VideoError,
    }

    impl VideoSource for Scripted {
        fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
            if self.delivered == self.fails_after {
                return Err((self.fails_with)());
            }
            if self.delivered == self.pauses_after {
                let paused_at = *self.paused_at.get_or_insert_with(clock::now);
                if clock::now() - paused_at < SHORTEST_SILENCE * 3 / 2 {
                    thread::sleep(Duration::from_millis(20));
                    return Ok(None);
                }
            }
            let is_keyframe = self.delivered == 0 || std::mem::take(&mut self.keyframe_wanted);
            let data = if is_keyframe { KEYFRAME } else { DELTA };
            self.delivered += 1;
            thread::sleep(Duration::from_millis(1));
            Ok(Some(AccessUnit {
                data: Bytes::from_static(data),
                captured_at: clock::now(),
            }))
        }

        fn description(&self) -> String {
            "scripted camera".to_owned()
        }

        fn keyframes_on_demand(&self) -> bool {
            true
        }

        fn request_keyframe(&mut self) {
            self.keyframe_wanted = true;
            self.record.asked.lock().unwrap().push("keyframe".into());
        }

        fn set_bitrate(&mut self, bits_per_second: u32) {
            let asked = format!("{bits_per_second} bit/s");
            self.record.asked.lock().unwrap().push(asked);
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.record.open_now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn unplugged() -> VideoError {
        VideoError::Missing {
            name: "/dev/video0".to_owned(),
        }
    }

    fn stalled() -> VideoError {
        VideoError::Stalled {
            path: "/dev/video0".into(),
            silent_for: Duration::from_secs(5),
        }
    }

    /// What the next attempt to open gives; without a script, a camera that works.
    enum Attempt {
        Fails(VideoError),
        WorksFor(usize),
        StallsAfter(usize),
        PausesAfter(usize),
    }

    struct Bench {
        runtime: Runtime,
        settings: watch::Sender<config::Video>,
        progress: Progress,
        request: watch::Sender<CaptureRequest>,
        frames: broadcast::Receiver<Arc<VideoFrame>>,
        status: watch::Receiver<SourceStatus>,
        record: Arc<Record>,
        thread: Option<JoinHandle<()>>,
    }

    impl Bench {
        fn with(attempts: impl IntoIterator<Item = Attempt>) -> Self {
            let mut attempts: VecDeque<_> = attempts.into_iter().collect();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()
                .unwrap();
            let (request, requests) = watch::channel(CaptureRequest::default());
            let (frames_in, frames) = broadcast::channel(1_024);
            let (status_in, status) = watch::channel(SourceStatus::Off);
            let (settings, configured) = watch::channel(config::Video::default());
            let progress = Progress::default();
            let record = Arc::new(Record::default());
            let capture = Capture {
                settings: configured,
                runtime: runtime.handle().clone(),
                request: requests,
                stage: Arc::new(Stage::new(frames_in)),
                status: status_in,
                progress: progress.clone(),
                desk: desk().0,
            };
            let shared = Arc::clone(&record);
            let open = move |settings: &config::Video| {
                shared.asked_for(settings);
                shared.opened.fetch_add(1, Ordering::SeqCst);
                let mut pauses_after = usize::MAX;
                let (fails_after, fails_with): (_, fn() -> _) = match attempts.pop_front() {
                    Some(Attempt::PausesAfter(frames)) => {
                        pauses_after = frames;
                        (usize::MAX, unplugged)
                    }
                    Some(Attempt::Fails(error)) => return Err(error),
                    Some(Attempt::WorksFor(frames)) => (frames, unplugged),
                    Some(Attempt::StallsAfter(frames)) => (frames, stalled),
                    None => (usize::MAX, unplugged),
                };
                shared.open_now.fetch_add(1, Ordering::SeqCst);
                Ok(Box::new(Scripted {
                    record: Arc::clone(&shared),
                    delivered: 0,
                    pauses_after,
                    paused_at: None,
                    keyframe_wanted: false,
                    fails_after,
                    fails_with,
                }) as Box<dyn VideoSource>)
            };
            Self {
                thread: Some(thread::spawn(move || capture.run(open))),
                runtime,
                settings,
                progress,
                request,
                frames,
                status,
                record,
            }
        }

        fn ask(&self, change: impl FnOnce(&mut CaptureRequest)) {
            self.request.send_modify(change);
        }

        fn wait_for(&mut self, wanted: impl FnMut(&SourceStatus) -> bool) -> SourceStatus {
            let wait = self.status.wait_for(wanted);
            let limit = Duration::from_secs(20);
            let seen = self
                .runtime
                .block_on(async { tokio::time::timeout(limit, wait).await });
            seen.expect("in time").expect("the thread lives").clone()
        }

        fn wait_until_live(&mut self) {
            self.wait_for(|s| matches!(s, SourceStatus::Live { .. }));
        }

        fn next_frame(&mut self) -> Arc<VideoFrame> {
            let limit = Duration::from_secs(20);
            let next = self.frames.recv();
            let frame = self
                .runtime
                .block_on(async { tokio::time::timeout(limit, next).await });
            frame.expect("in time").expect("a frame")
        }

        /// Ends the thread and returns how long that took.
        fn join(mut self) -> Duration {
            let start = clock::now();
            self.thread.take().unwrap().join().unwrap();
            clock::now() - start
        }
    }

    #[test]
    fn nothing_is_opened_before_someone_wants_pictures() {
        let mut bench = Bench::with([]);
        assert_eq!(bench.record.opened.load(Ordering::SeqCst), 0);
        bench.ask(|r| r.run = true);
        bench.wait_until_live();
        assert!(bench.next_frame().is_keyframe);
        assert!(!bench.next_frame().is_keyframe);
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn stopping_closes_the_camera_and_running_opens_it_again() {
        let mut bench = Bench::with([]);
        for round in 1..=3 {
            bench.ask(|r| r.run = true);
            bench.wait_until_live();
            assert_eq!(bench.record.opened.load(Ordering::SeqCst), round);
            bench.ask(|r| r.run = false);
            bench.wait_for(|s| *s == SourceStatus::Off);
            assert_eq!(bench.record.open_now.load(Ordering::SeqCst), 0);
        }
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn an_unplugged_camera_is_waited_for_and_starts_with_a_keyframe() {
        let mut bench = Bench::with([Attempt::WorksFor(3), Attempt::Fails(unplugged())]);
        bench.ask(|r| r.run = true);
        let keyframes: Vec<bool> = (0..5).map(|_| bench.next_frame().is_keyframe).collect();
        assert_eq!(keyframes, [true, false, false, true, false]);
        assert_eq!(bench.record.opened.load(Ordering::SeqCst), 3);
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn a_camera_that_pauses_is_said_to_and_goes_on_with_a_keyframe_without_being_opened_anew() {
        let mut bench = Bench::with([Attempt::PausesAfter(3)]);
        bench.ask(|r| r.run = true);
        bench.wait_until_live();
        let status = bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
        let reason = "camera scripted camera sends no pictures".to_owned();
        assert_eq!(status, SourceStatus::Waiting { reason });
        bench.wait_until_live();
        let keyframes: Vec<bool> = (0..5).map(|_| bench.next_frame().is_keyframe).collect();
        assert_eq!(keyframes, [true, false, false, true, false]);
        assert_eq!(bench.record.opened.load(Ordering::SeqCst), 1);
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn the_reason_for_waiting_names_camera_and_cause() {
        let driver = VideoError::Driver {
            path: "/dev/video0".into(),
            operation: "VIDIOC_STREAMON",
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        let mut bench = Bench::with([Attempt::Fails(driver)]);
        bench.ask(|r| r.run = true);
        let status = bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
        let reason = "camera /dev/video0: VIDIOC_STREAMON failed: \
                      No space left on device (os error 28)";
        assert_eq!(
            status,
            SourceStatus::Waiting {
                reason: reason.to_owned()
            }
        );
        bench.wait_until_live();
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn requests_reach_the_source_once_each() {
        let mut bench = Bench::with([]);
        bench.ask(|r| {
            r.run = true;
            r.keyframe_serial = 7;
        });
        bench.wait_until_live();
        bench.ask(|r| r.keyframe_serial = 8);
        let asked = |bench: &mut Bench, count: usize| {
            let deadline = clock::now() + Duration::from_secs(20);
            loop {
                let asked = bench.record.asked.lock().unwrap().clone();
                if asked.len() >= count || clock::now() > deadline {
                    return asked;
                }
                bench.next_frame();
            }
        };
        assert_eq!(asked(&mut bench, 1), ["keyframe"]);
        bench.ask(|r| r.bitrate_bps = 500_000);
        assert_eq!(asked(&mut bench, 2), ["keyframe", "500000 bit/s"]);
        (0..20).for_each(|_| drop(bench.next_frame()));
        assert_eq!(bench.record.asked.lock().unwrap().len(), 2);
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn another_bitrate_is_passed_on_and_another_size_opens_the_camera_again() {
        let mut bench = Bench::with([]);
        bench.ask(|r| r.run = true);
        assert!(bench.next_frame().is_keyframe);
        bench.settings.send_modify(|video| video.bitrate_kbps = 500);
        while bench.record.asked.lock().unwrap().is_empty() {
            bench.next_frame();
        }
        assert_eq!(*bench.record.asked.lock().unwrap(), ["500000 bit/s"]);
        assert_eq!(bench.record.opened.load(Ordering::SeqCst), 1);

        bench.settings.send_modify(|video| video.width = 640);
        while !bench.next_frame().is_keyframe {}
        assert_eq!(
            *bench.record.sizes.lock().unwrap(),
            [(1280, 720), (640, 720)]
        );
        assert_eq!(bench.record.open_now.load(Ordering::SeqCst), 1);
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn another_source_is_not_kept_waiting_by_one_that_fails() {
        let missing = || Attempt::Fails(unplugged());
        let mut bench = Bench::with([missing(), missing(), missing()]);
        bench.ask(|r| r.run = true);
        bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
        for width in [640, 320, 160] {
            bench.settings.send_modify(|video| video.width = width);
        }
        bench.wait_until_live();
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn a_source_that_is_taken_out_of_the_configuration_is_closed_until_there_is_another() {
        let mut bench = Bench::with([]);
        bench.ask(|r| r.run = true);
        bench.wait_until_live();
        bench
            .settings
            .send_modify(|video| video.source = "none".into());
        bench.wait_for(|s| *s == SourceStatus::Off);
        assert_eq!(bench.record.open_now.load(Ordering::SeqCst), 0);
        bench
            .settings
            .send_modify(|video| video.source = "auto".into());
        bench.wait_until_live();
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    #[test]
    fn the_thread_shows_progress_while_it_works_and_none_is_asked_of_it_while_it_waits() {
        let mut bench = Bench::with([]);
        let later = || clock::now() + HUNG_AFTER;
        bench.ask(|r| r.run = true);
        bench.wait_until_live();
        let seen = clock::now();
        bench.next_frame();
        assert_eq!(bench.progress.lack(seen), None);
        let much_later = later() + Duration::from_secs(60);
        assert_eq!(bench.progress.lack(much_later), Some(Lack::Hung));
        bench.ask(|r| r.run = false);
        bench.wait_for(|s| *s == SourceStatus::Off);
        let deadline = clock::now() + Duration::from_secs(20);
        while bench.progress.lack(later()).is_some() {
            assert!(clock::now() < deadline, "it says that it waits");
            thread::sleep(Duration::from_millis(1));
        }
        bench.ask(|r| r.shutdown = true);
        bench.join();
    }

    /// Returns what only a new process may mend, some time after these attempts to open failed.
    fn lack_after(attempts: impl IntoIterator<Item = Attempt>) -> Option<Lack> {
        let mut bench = Bench::with(attempts);
        let progress = bench.progress.clone();
        bench.ask(|r| r.run = true);
        bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
        bench.ask(|r| r.shutdown = true);
        bench.join();
        let later = clock::now() + STARVED_AFTER;
        progress.made(later);
        progress.lack(later)
    }

    #[test]
    fn a_camera_that_falls_silent_is_a_lack_and_one_that_is_unplugged_is_not() {
        assert_eq!(lack_after([Attempt::StallsAfter(3)]), Some(Lack::Starved));
        assert_eq!(lack_after([Attempt::WorksFor(3)]), None);
    }

    #[test]
    fn stops_at_once_while_it_waits_for_a_camera() {
        let hopeless = || {
            Attempt::Fails(VideoError::File {
                path: "/clip".into(),
                reason: "is empty".to_owned(),
            })
        };
        let mut bench = Bench::with([hopeless(), hopeless(), hopeless()]);
        bench.ask(|r| r.run = true);
        bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
        bench.ask(|r| r.run = false);
        bench.wait_for(|s| *s == SourceStatus::Off);
        bench.ask(|r| r.shutdown = true);
        assert!(
            bench.join() < Duration::from_secs(4),
            "before the next attempt"
        );
    }

    #[test]
    fn the_test_picture_is_captured_and_stopped() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (request, requests) = watch::channel(CaptureRequest {
            run: true,
            ..CaptureRequest::default()
        });
        let (frames_in, mut frames) = broadcast::channel(64);
        let (status_in, status) = watch::channel(SourceStatus::Off);
        let config = config::Video {
            source: "pattern".to_owned(),
            width: 64,
            height: 64,
            fps: 120,
            ..config::Video::default()
        };
        let handle = runtime.handle().clone();
        let (_settings, configured) = watch::channel(config);
        let progress = Progress::default();
        let (desk, _client) = desk();
        let thread = spawn(
            configured, handle, requests, frames_in, status_in, progress, desk,
        );
        let thread = thread.unwrap();
        let first = frames.blocking_recv().unwrap();
        assert!(first.is_keyframe && first.keyframes_on_demand);
        assert!(!frames.blocking_recv().unwrap().is_keyframe);
        let description = "test picture 64x64 at 120 fps, encoded by OpenH264".to_owned();
        assert_eq!(*status.borrow(), SourceStatus::Live { description });
        request.send_modify(|r| r.shutdown = true);
        thread.join().unwrap();
        assert_eq!(*status.borrow(), SourceStatus::Off);
    }

    #[test]
    fn ends_when_whoever_asked_is_gone() {
        let mut bench = Bench::with([]);
        bench.ask(|r| r.run = true);
        bench.wait_until_live();
        let (unused, _) = watch::channel(bench.request.borrow().clone());
        drop(std::mem::replace(&mut bench.request, unused));
        bench.join();
    }

    #[test]
    fn the_first_retry_is_quick_and_only_a_proven_camera_earns_another() {
        let t0 = clock::now();
        let mut attempts = Attempts::default();
        assert_eq!(attempts.failed(&unplugged(), t0), FIRST_RETRY);
        attempts.live_since = Some(t0);
        assert_eq!(attempts.failed(&unplugged(), t0 + RETRY), RETRY);
        attempts.live_since = Some(t0);
        assert_eq!(attempts.failed(&unplugged(), t0 + PROVEN), FIRST_RETRY);
        let format = VideoError::Format {
            path: "/dev/video0".into(),
            wanted: "H264".to_owned(),
            offered: "MJPG".to_owned(),
        };
        assert_eq!(attempts.failed(&format, t0), HOPELESS_RETRY);
    }
}
