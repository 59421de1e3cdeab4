//! The frames since the last keyframe: what a newcomer can start with, at once.
//!
//! Kept whole where the camera cannot make a keyframe on demand. Where it can, only a short run is
//! worth keeping: it lets a crowd that joins together share one keyframe. Pure.

use std::sync::Arc;

use super::VideoFrame;

/// Most that is kept of a source without keyframes on demand, in bytes: 16 s of 4 Mbit/s.
pub const MAX_BYTES: usize = 8 << 20;

/// Most frames that are kept of a source with keyframes on demand: half a second of 30 fps, the
/// least time between two keyframes.
pub const MAX_FRAMES_ON_DEMAND: usize = 15;

/// The current group of pictures, as far as it is known and worth keeping.
#[derive(Debug, Default)]
pub struct Gop {
    frames: Vec<Arc<VideoFrame>>,
    bytes: usize,
}

impl Gop {
    /// Starts with nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            frames: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the next frame of the stream.
    pub fn push(&mut self, frame: &Arc<VideoFrame>) {
        if frame.is_keyframe {
            self.clear();
        } else if self.frames.is_empty() {
            return;
        }
        self.bytes += frame.size();
        self.frames.push(Arc::clone(frame));
        let too_long = frame.keyframes_on_demand && self.frames.len() > MAX_FRAMES_ON_DEMAND;
        if too_long || self.bytes > MAX_BYTES {
            self.clear();
        }
    }

    /// Forgets everything: a frame was lost, or the camera was switched off.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    /// Returns the frames from the keyframe on; empty where none are kept.
    #[must_use]
    pub fn frames(&self) -> &[Arc<VideoFrame>] {
        &self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(is_keyframe: bool, keyframes_on_demand: bool, size: usize) -> Arc<VideoFrame> {
        Arc::new(VideoFrame {
            payloads: vec![Bytes::from(vec![0; size])],
            captured_at: crate::clock::now(),
            is_keyframe,
            keyframes_on_demand,
            is_placeholder: false,
        })
    }

    #[test]
    fn a_camera_that_makes_no_keyframes_on_demand_has_its_whole_gop_kept() {
        let mut gop = Gop::new();
        gop.push(&frame(false, false, 10));
        assert!(gop.frames().is_empty(), "nothing to start with yet");
        gop.push(&frame(true, false, 10));
        for _ in 0..300 {
            gop.push(&frame(false, false, 10));
        }
        assert_eq!(gop.frames().len(), 301);
        gop.push(&frame(true, false, 10));
        assert_eq!(gop.frames().len(), 1);
    }

    #[test]
    fn a_crowd_shares_a_keyframe_that_was_just_made() {
        let mut gop = Gop::new();
        gop.push(&frame(true, true, 10));
        gop.push(&frame(false, true, 10));
        assert_eq!(gop.frames().len(), 2);
        for _ in 0..MAX_FRAMES_ON_DEMAND {
            gop.push(&frame(false, true, 10));
        }
        assert!(gop.frames().is_empty(), "asking for a new one is cheaper");
    }

    #[test]
    fn a_camera_without_keyframes_does_not_fill_the_memory() {
        let mut gop = Gop::new();
        gop.push(&frame(true, false, MAX_BYTES));
        gop.push(&frame(false, false, 1));
        assert!(gop.frames().is_empty());
    }
}
