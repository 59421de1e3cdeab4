//! Pictures on their way from the camera to the viewers.

use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use crate::control::SourceStatus;
use crate::rtp::VideoFrame;

impl Engine {
    pub(super) fn handle_video(&mut self, frame: &Arc<VideoFrame>, now: Instant) {
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

    pub(super) fn handle_video_lost(&mut self, missed: u64) {
        tracing::debug!(missed, "the media thread fell behind the camera");
        self.gop.clear();
        for session in self.sessions.values_mut() {
            session.with(|viewer| viewer.handle_lag(missed));
        }
    }

    /// A newcomer must not be shown what a camera saw before it was closed or lost.
    pub(super) fn handle_status(&mut self) {
        let is_live = matches!(
            &*self.channels.video_status.borrow(),
            SourceStatus::Live { .. }
        );
        if !is_live {
            self.gop.clear();
        }
    }
}
