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
    0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x28, 0x02, 0xdd, 0, 0, 0, 1, 0x68, 0xce,
    0x3c, 0x80, 0, 0, 0, 1, 0x65, 0x88, 0x80, 0x11,
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
    awaits_keyframe: bool,
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

    fn awaits_keyframe(&self) -> bool {
        self.awaits_keyframe && self.paused_at.is_some()
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
    LacksKeyframeAfter(usize),
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
            let mut awaits_keyframe = false;
            let (fails_after, fails_with): (_, fn() -> _) = match attempts.pop_front() {
                Some(Attempt::PausesAfter(frames)) => {
                    pauses_after = frames;
                    (usize::MAX, unplugged)
                }
                Some(Attempt::LacksKeyframeAfter(frames)) => {
                    (pauses_after, awaits_keyframe) = (frames, true);
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
                awaits_keyframe,
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
fn a_camera_that_lacks_a_keyframe_is_said_to_and_no_new_process_would_help() {
    let mut bench = Bench::with([Attempt::LacksKeyframeAfter(3)]);
    bench.ask(|r| r.run = true);
    bench.wait_until_live();
    let status = bench.wait_for(|s| matches!(s, SourceStatus::Waiting { .. }));
    let reason = "camera scripted camera sends no keyframe".to_owned();
    assert_eq!(status, SourceStatus::Waiting { reason });
    bench.wait_until_live();
    bench.ask(|r| r.shutdown = true);
    bench.join();
    assert_eq!(lack_after([Attempt::LacksKeyframeAfter(3)]), None);
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
    assert_eq!(lack_after([Attempt::PausesAfter(3)]), Some(Lack::Starved));
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
