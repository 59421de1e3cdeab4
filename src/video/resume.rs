//! What of a passed-through stream may be shown: nothing behind a damaged picture, until a keyframe.
//!
//! Every later picture refers to the missing one, and RTP sequence numbers would not show a gap: a
//! viewer would look at mush and never ask. Pure.

use std::time::{Duration, Instant};

/// How often the camera is asked again for a keyframe it has not delivered.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long pictures may come without a keyframe. Streams of broadcasting programs have one every 10 s.
pub(super) const KEYFRAME_WITHIN: Duration = Duration::from_secs(30);

/// Follows one stream from its start, which is as good as damaged: the first picture must be a
/// keyframe.
#[derive(Debug)]
pub(super) struct Resume {
    waits: bool,
    /// When the first picture came that could not be shown.
    in_vain_since: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Resume {
    pub(super) const fn new() -> Self {
        Self {
            waits: true,
            in_vain_since: None,
            asked_at: None,
        }
    }

    /// A picture was damaged or lost.
    pub(super) const fn handle_damage(&mut self) {
        self.waits = true;
    }

    /// Takes the next whole picture; returns whether it may be shown.
    pub(super) fn handle_picture(&mut self, is_keyframe: bool, now: Instant) -> bool {
        if is_keyframe {
            self.waits = false;
            self.asked_at = None;
            self.in_vain_since = None;
        } else if self.waits {
            self.in_vain_since.get_or_insert(now);
        }
        !self.waits
    }

    /// Returns whether pictures come, and none can be shown.
    pub(super) const fn awaits_keyframe(&self) -> bool {
        self.in_vain_since.is_some()
    }

    /// Returns whether pictures have come for [`KEYFRAME_WITHIN`], and none could be shown.
    pub(super) fn lacks_keyframe(&self, now: Instant) -> bool {
        let in_vain = |since| now.saturating_duration_since(since) >= KEYFRAME_WITHIN;
        self.in_vain_since.is_some_and(in_vain)
    }

    /// Returns whether to ask the camera for a keyframe now.
    pub(super) fn poll_request(&mut self, now: Instant) -> bool {
        let due = self
            .asked_at
            .is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY);
        let asks = self.waits && due;
        if asks {
            self.asked_at = Some(now);
        }
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_between_a_damaged_picture_and_the_next_keyframe() {
        let mut resume = Resume::new();
        let t0 = crate::clock::now();
        assert!(!resume.handle_picture(false, t0), "nothing to start with");
        assert!(resume.handle_picture(true, t0));
        assert!(resume.handle_picture(false, t0));
        resume.handle_damage();
        assert!(!resume.handle_picture(false, t0));
        assert!(resume.handle_picture(true, t0));
    }

    #[test]
    fn pictures_in_vain_are_counted_from_the_first_until_a_keyframe() {
        let mut resume = Resume::new();
        let t0 = crate::clock::now();
        assert!(
            !resume.lacks_keyframe(t0 + KEYFRAME_WITHIN * 2),
            "none came"
        );
        assert!(!resume.awaits_keyframe());
        resume.handle_picture(false, t0);
        assert!(resume.awaits_keyframe());
        resume.handle_picture(false, t0 + KEYFRAME_WITHIN / 2);
        assert!(!resume.lacks_keyframe(t0 + KEYFRAME_WITHIN / 2));
        assert!(resume.lacks_keyframe(t0 + KEYFRAME_WITHIN));
        resume.handle_picture(true, t0 + KEYFRAME_WITHIN);
        assert!(!resume.awaits_keyframe());
        resume.handle_picture(false, t0 + KEYFRAME_WITHIN);
        assert!(!resume.lacks_keyframe(t0 + KEYFRAME_WITHIN * 3));
    }

    #[test]
    fn the_camera_is_asked_once_a_second_until_it_delivers() {
        let mut resume = Resume::new();
        let t0 = crate::clock::now();
        assert!(resume.poll_request(t0));
        assert!(!resume.poll_request(t0 + ASK_EVERY / 2));
        assert!(resume.poll_request(t0 + ASK_EVERY));
        resume.handle_picture(true, t0);
        assert!(!resume.poll_request(t0 + ASK_EVERY * 9));
    }
}
