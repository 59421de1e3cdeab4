//! Tells people on both sides why a viewer does not connect.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Engine;
use crate::interfaces;
use crate::signaling::RoomMessage;
use crate::viewer::roster::SessionId;

/// How many sentences are remembered.
const MAX_TOLD: usize = 64;

/// How long the log is not told the same again: a page that keeps trying is a new viewer every 10 s.
const TOLD_FOR: Duration = Duration::from_secs(3_600);

/// What the log was told, and when.
#[derive(Debug, Default)]
pub(super) struct Told(VecDeque<(String, Instant)>);

impl Told {
    /// Returns whether it is new, and remembers it.
    pub(super) fn is_news(&mut self, sentence: &str, now: Instant) -> bool {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= TOLD_FOR;
        self.0.retain(|(_, since)| !is_old(*since));
        if self.0.iter().any(|(told, _)| told == sentence) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.pop_front();
        }
        self.0.push_back((sentence.to_owned(), now));
        true
    }
}

impl Engine {
    /// Says why a session is not connected, unless that was said.
    pub(super) fn explain(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let relay = self.network.turn.relays.status();
        let interfaces = interfaces::reachable(&self.options.webrtc.interfaces);
        let name_of = |ip: IpAddr| {
            let mut interfaces = interfaces.iter();
            let interface = interfaces.find(|interface| interface.address == ip)?;
            Some(interface.name.clone())
        };
        let Some(verdict) = session.diagnose(&relay, name_of) else {
            return;
        };
        let Some(seat) = self.roster.viewer_of(id).cloned() else {
            return;
        };
        let (why, pairs) = (&verdict.sentence, verdict.pairs);
        let (ours, theirs) = (&verdict.ours, &verdict.theirs);
        let (asked, answered) = (verdict.asked, verdict.answered);
        if self.told.is_news(why, now) {
            let viewer = id.0;
            tracing::warn!(
                viewer,
                why,
                ours,
                theirs,
                pairs,
                asked,
                answered,
                "viewer could not connect"
            );
        } else {
            tracing::debug!(viewer = id.0, why, "viewer could not connect again");
        }
        let message = RoomMessage::Error {
            viewer: seat.viewer,
            code: verdict.code,
            message: verdict.sentence,
        };
        self.say(seat.room, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_that_tries_all_night_fills_no_log() {
        let t0 = crate::clock::now();
        let mut told = Told::default();
        assert!(told.is_news("blocked", t0));
        assert!(!told.is_news("blocked", t0 + TOLD_FOR / 2));
        assert!(told.is_news("refused", t0));
        assert!(told.is_news("blocked", t0 + TOLD_FOR));
        for n in 0..1_000 {
            assert!(told.is_news(&n.to_string(), t0));
        }
        assert_eq!(told.0.len(), MAX_TOLD);
    }
}
