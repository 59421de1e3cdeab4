//! Tells people on both sides why a viewer does not connect.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::Engine;
use crate::interfaces;
use crate::signaling::{RoomMessage, Seat};
use crate::viewer::roster::SessionId;

/// How many viewers are remembered with what the log was told of them.
const MAX_TOLD: usize = 64;

/// What the log was told of viewers that keep trying: once is enough.
#[derive(Debug, Default)]
pub(super) struct Told(VecDeque<(Seat, String)>);

impl Told {
    /// Returns whether it is new, and remembers it.
    fn is_news(&mut self, seat: &Seat, sentence: &str) -> bool {
        let known = self.0.iter().position(|(told, _)| told == seat);
        let before = known.and_then(|at| self.0.remove(at));
        if self.0.len() >= MAX_TOLD {
            self.0.pop_front();
        }
        self.0.push_back((seat.clone(), sentence.to_owned()));
        before.is_none_or(|(_, before)| before != sentence)
    }
}

impl Engine {
    /// Says why a session is not connected, unless that was said.
    pub(super) fn explain(&mut self, id: SessionId) {
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
        if self.told.is_news(&seat, why) {
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
    use crate::signaling::{RoomIndex, ViewerId};

    #[test]
    fn a_viewer_that_tries_all_night_fills_no_log() {
        let seat = |name: &str| Seat {
            room: RoomIndex(0),
            viewer: ViewerId(name.to_owned()),
        };
        let mut told = Told::default();
        assert!(told.is_news(&seat("a"), "blocked"));
        assert!(!told.is_news(&seat("a"), "blocked"));
        assert!(told.is_news(&seat("b"), "blocked"));
        assert!(told.is_news(&seat("a"), "refused"));
        for n in 0..1_000 {
            told.is_news(&seat(&n.to_string()), "blocked");
        }
        assert_eq!(told.0.len(), MAX_TOLD);
    }
}
