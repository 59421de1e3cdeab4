//! The thread that shows a notice while there is no picture of the camera.
//!
//! A thread of its own, since the camera's may be held up in a driver. It has an encoder only while
//! there is a notice and somebody who watches.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::AccessUnit;
use super::capture::CaptureRequest;
use super::notice::Notice;
use super::openh264::OpenH264;
use super::stage::Stage;
use crate::rtp::h264::Packetizer;
use crate::{clock, config};

/// The time between two pictures. They hardly differ: enough that a player takes the stream for alive.
const INTERVAL: Duration = Duration::from_secs(1);
const FPS: u32 = 1;

/// What is left for the letters of the first picture; the others are next to nothing.
const BITRATE_BPS: u32 = 200_000;

/// Largest width and height that are drawn, in pixels. Of larger pictures, half the size will do.
const LARGEST: u32 = 1920;

pub(super) struct Placeholder {
    pub(super) stage: Arc<Stage>,
    pub(super) request: watch::Receiver<CaptureRequest>,
    pub(super) settings: watch::Receiver<config::Video>,
    pub(super) runtime: Handle,
}

impl Placeholder {
    /// Starts the thread, which ends with the shutdown of `request`.
    pub(super) fn spawn(self) -> io::Result<JoinHandle<()>> {
        let thread = thread::Builder::new().name("placeholder".to_owned());
        thread.spawn(move || self.run())
    }

    fn run(mut self) {
        let mut notices = self.stage.notices();
        loop {
            // An error means that whoever asked is gone.
            if self.request.has_changed().is_err() {
                return;
            }
            let asked = self.request.borrow_and_update().clone();
            if asked.shutdown {
                return;
            }
            let notice = notices.borrow_and_update().clone();
            if let Some(notice) = notice.filter(|_| asked.watched) {
                self.show(notice, &mut notices);
                continue;
            }
            let request = &mut self.request;
            self.runtime.block_on(async {
                // An error shows again above.
                tokio::select! {
                    _ = notices.changed() => {}
                    _ = request.changed() => {}
                }
            });
        }
    }

    /// Shows notices until there is none, or nobody who would see it.
    fn show(&mut self, mut notice: Notice, notices: &mut watch::Receiver<Option<Notice>>) {
        let (width, height) = self.size();
        let mut encoder = OpenH264::new(FPS, BITRATE_BPS);
        let mut packetizer = Packetizer::new(true);
        let mut keyframe_serial = self.request.borrow().keyframe_serial;
        loop {
            let drawn = notice.draw(width, height, clock::unix_time());
            let captured_at = clock::now();
            let coded = drawn.picture().map(|p| encoder.encode(&p, captured_at));
            let data = match coded {
                Some(Ok(data)) => data,
                None => None,
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot say in a picture why there is none");
                    encoder = OpenH264::new(FPS, BITRATE_BPS);
                    None
                }
            };
            let unit = data.map(|data| AccessUnit { data, captured_at });
            if let Some(frame) = unit.and_then(|unit| packetizer.packetize(&unit)) {
                self.stage.show_notice(frame);
            }
            let request = &mut self.request;
            let has_ended = self.runtime.block_on(async {
                tokio::select! {
                    changed = notices.changed() => changed.is_err(),
                    changed = request.changed() => changed.is_err(),
                    () = tokio::time::sleep(INTERVAL) => false,
                }
            });
            let asked = self.request.borrow_and_update().clone();
            let next = notices.borrow_and_update().clone();
            let Some(next) = next.filter(|_| asked.watched && !asked.shutdown && !has_ended) else {
                return;
            };
            notice = next;
            if asked.keyframe_serial != keyframe_serial {
                keyframe_serial = asked.keyframe_serial;
                encoder.request_keyframe();
            }
        }
    }

    /// Returns the size of what was seen last, or of what would be.
    fn size(&self) -> (usize, usize) {
        let configured = {
            let settings = self.settings.borrow();
            (settings.width, settings.height)
        };
        let (mut width, mut height) = self.stage.size().unwrap_or(configured);
        while width.max(height) > LARGEST {
            (width, height) = (width / 2, height / 2);
        }
        let even = |n: u32| usize::try_from(n & !1).unwrap_or_default().max(2);
        (even(width), even(height))
    }
}
