//! Where pictures leave for the viewers: the camera's, or a notice's in their place. Never both.
//!
//! Two threads write here, the camera's and the placeholder's, each a stream of its own that begins with a
//! keyframe. A picture of one in the middle of the other would break what viewers decode: so the lock
//! is held while one is sent, and the first picture of the camera ends the notice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::notice::Notice;
use crate::rtp::VideoFrame;

/// The least time between the capture times of two pictures.
const LEAST_STEP: Duration = Duration::from_millis(1);

/// The way to the viewers.
#[derive(Debug)]
pub(super) struct Stage {
    frames: broadcast::Sender<Arc<VideoFrame>>,
    notice: watch::Sender<Option<Notice>>,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    last_captured_at: Option<Instant>,
    size: Option<(u32, u32)>,
}

impl Stage {
    /// `frames` may be without receivers. A receiver that lags loses the oldest frames.
    pub(super) fn new(frames: broadcast::Sender<Arc<VideoFrame>>) -> Self {
        Self {
            frames,
            notice: watch::Sender::new(None),
            shown: Mutex::default(),
        }
    }

    /// Shows a picture of the camera, whose size is `size`; a notice ends with it.
    pub(super) fn show_camera(&self, frame: VideoFrame, size: Option<(u32, u32)>) {
        let mut shown = self.lock();
        self.uncover();
        shown.size = size.or(shown.size);
        self.send(&mut shown, frame);
    }

    /// Shows a picture of the notice, if there still is one.
    pub(super) fn show_notice(&self, mut frame: VideoFrame) {
        let mut shown = self.lock();
        if self.notice.borrow().is_some() {
            frame.is_placeholder = true;
            self.send(&mut shown, frame);
        }
    }

    /// Lets a notice stand in for the camera. What began earlier is said to go on since then.
    pub(super) fn cover(&self, headline: &str, detail: &str, since: Duration) {
        self.notice.send_if_modified(|notice| {
            let new = Notice {
                headline: headline.to_owned(),
                detail: detail.to_owned(),
                since: notice.as_ref().map_or(since, |notice| notice.since),
            };
            let changed = notice.as_ref() != Some(&new);
            *notice = Some(new);
            changed
        });
    }

    /// Nothing stands in for the camera any more.
    pub(super) fn uncover(&self) {
        self.notice
            .send_if_modified(|notice| notice.take().is_some());
    }

    pub(super) fn is_covered(&self) -> bool {
        self.notice.borrow().is_some()
    }

    /// Returns the notice, as it changes.
    pub(super) fn notices(&self) -> watch::Receiver<Option<Notice>> {
        self.notice.subscribe()
    }

    /// Returns the size of the camera's last picture, in pixels.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        self.lock().size
    }

    fn send(&self, shown: &mut Shown, mut frame: VideoFrame) {
        // Some drivers leave the time out at first, and a camera's picture is older than a notice's
        // of the same moment: receivers drop what comes from the past.
        let earliest = shown.last_captured_at.map(|last| last + LEAST_STEP);
        frame.captured_at = earliest.map_or(frame.captured_at, |at| frame.captured_at.max(at));
        shown.last_captured_at = Some(frame.captured_at);
        // full: oldest lost, viewer waits for a keyframe. An error: nobody watches.
        let _nobody_watches = self.frames.send(Arc::new(frame));
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(captured_at: Instant) -> VideoFrame {
        VideoFrame {
            payloads: Vec::new(),
            captured_at,
            is_keyframe: true,
            keyframes_on_demand: true,
            is_placeholder: false,
        }
    }

    #[test]
    fn a_notice_is_shown_until_the_camera_delivers_and_not_once_more() {
        let (frames, mut shown) = broadcast::channel(9);
        let stage = Stage::new(frames);
        let t0 = crate::clock::now();
        stage.show_notice(frame(t0));
        assert!(shown.try_recv().is_err(), "there is none");
        stage.cover("Camera unplugged", "", Duration::ZERO);
        stage.show_notice(frame(t0));
        assert!(shown.try_recv().unwrap().is_placeholder);
        stage.show_camera(frame(t0), Some((640, 480)));
        assert!(!shown.try_recv().unwrap().is_placeholder);
        stage.show_notice(frame(t0));
        assert!(shown.try_recv().is_err(), "the camera is back");
        assert_eq!(stage.size(), Some((640, 480)));
    }

    #[test]
    fn time_goes_on_from_one_stream_to_the_other() {
        let (frames, mut shown) = broadcast::channel(9);
        let stage = Stage::new(frames);
        let t0 = crate::clock::now();
        stage.cover("Camera unplugged", "", Duration::ZERO);
        stage.show_notice(frame(t0 + Duration::from_millis(50)));
        stage.show_camera(frame(t0), None);
        let times = [(); 2].map(|()| shown.try_recv().unwrap().captured_at);
        assert!(times[0] < times[1]);
    }

    #[test]
    fn another_reason_leaves_the_time_since_when() {
        let stage = Stage::new(broadcast::channel(1).0);
        stage.cover("Camera failed", "EIO", Duration::from_secs(60));
        stage.cover("Camera unplugged", "gone", Duration::from_secs(90));
        let notice = stage.notices().borrow().clone().unwrap();
        assert_eq!(notice.headline, "Camera unplugged");
        assert_eq!(notice.since, Duration::from_secs(60));
    }
}
