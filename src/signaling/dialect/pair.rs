//! What the rooms of two have in common: they name nobody, so whoever is there now is "the viewer".
//!
//! Only one who said good-bye is told from the next. Otherwise a newcomer may be the same page once
//! more: what runs goes on until the new peer connection is up.
//!
//! Pure.

use serde::Deserialize as _;
use serde_json::Value;

use super::Description;
use crate::signaling::{CandidateInit, RoomEvent, ViewerId};

/// The one on the other side.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// How many there have been. Never reused: media of an earlier one may outlive a connection.
    count: u64,
    viewer: Option<ViewerId>,
}

impl Pair {
    /// Returns who is there, if anyone was heard of.
    pub(super) const fn viewer(&self) -> Option<&ViewerId> {
        self.viewer.as_ref()
    }

    /// Returns whether `viewer` is the one who is there now.
    pub(super) fn is(&self, viewer: &ViewerId) -> bool {
        self.viewer.as_ref() == Some(viewer)
    }

    /// Takes note of a newcomer. Returns its name, and the news that its predecessor left.
    pub(super) fn replace(&mut self) -> (ViewerId, Option<RoomEvent>) {
        let left = self.leave();
        (self.viewer_or_new(), left)
    }

    /// Returns who is there: whoever speaks without having been announced is new.
    pub(super) fn viewer_or_new(&mut self) -> ViewerId {
        let count = &mut self.count;
        let viewer = self.viewer.get_or_insert_with(|| {
            *count += 1;
            ViewerId(format!("peer-{count}"))
        });
        viewer.clone()
    }

    /// Whoever was there cannot be reached any more; its media may go on.
    pub(super) fn forget(&mut self) {
        self.viewer = None;
    }

    /// Takes note that nobody is there any more. Returns the news of that.
    pub(super) fn leave(&mut self) -> Option<RoomEvent> {
        let viewer = self.viewer.take()?;
        let on_purpose = true;
        Some(RoomEvent::ViewerLeft { viewer, on_purpose })
    }
}

/// Returns the SDP of a description, if `value` is one of `kind`.
pub(super) fn sdp_of(value: &Value, kind: &str) -> Option<String> {
    let description = Description::deserialize(value).ok()?;
    (description.kind == kind).then_some(description.sdp)
}

/// Returns a candidate. `null` and empty ones only mark the end, which nobody here waits for.
pub(super) fn candidate_of(value: &Value) -> Option<CandidateInit> {
    let candidate = CandidateInit::deserialize(value).ok()?;
    (!candidate.candidate.is_empty()).then_some(candidate)
}

/// Returns a candidate as these pages can take it: never an empty one, which throws, and always with
/// the m-line it belongs to.
pub(super) fn for_page(candidate: &CandidateInit) -> Option<CandidateInit> {
    if candidate.candidate.is_empty() {
        return None;
    }
    let mut candidate = candidate.clone();
    if candidate.sdp_mid.is_none() && candidate.sdp_mline_index.is_none() {
        candidate.sdp_mline_index = Some(0);
    }
    Some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_takes_the_place_of_the_one_before() {
        let mut pair = Pair::default();
        let first = pair.viewer_or_new();
        assert_eq!(pair.viewer_or_new(), first);
        let (second, left) = pair.replace();
        assert_ne!(second, first);
        let viewer = first;
        let on_purpose = true;
        assert_eq!(left, Some(RoomEvent::ViewerLeft { viewer, on_purpose }));
        assert!(pair.leave().is_some());
        assert!(pair.leave().is_none());
        assert_ne!(pair.viewer_or_new(), second, "names are not used again");
    }

    #[test]
    fn the_end_of_candidates_is_not_passed_on() {
        for end in ["null", r#"{"candidate":""}"#, "7"] {
            assert_eq!(candidate_of(&serde_json::from_str(end).unwrap()), None);
        }
        assert_eq!(for_page(&CandidateInit::default()), None);
    }
}
