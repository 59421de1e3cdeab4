//! JSON over a plain WebSocket without rooms: `{"sdp":…}` and `{"candidate":…}` go to everyone else.
//!
//! Pages offer when they connect. So do we, for a page that is there already. Nobody is named: a
//! viewer is told from another by the session id of its offer, and its candidates by their ufrag.
//!
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pair;
use super::{Description, Output, to_text};
use crate::signaling::{RoomEvent, RoomMessage, ViewerId};
use crate::viewer::offer;

/// How long our offer to whoever is there stands. A page answers within a second.
const OFFER_STANDS: Duration = Duration::from_secs(10);

/// How many viewers' ICE names are remembered: candidates come within seconds of a description.
const MAX_UFRAGS: usize = 64;

/// The device's side.
#[derive(Debug)]
pub struct WsBroadcast {
    /// How many times we have offered.
    offers: u64,
    /// Our offer that nobody has answered yet, and until when it stands.
    offered: Option<(ViewerId, Instant)>,
    /// ICE names of viewers, the newest last.
    ufrags: VecDeque<(String, ViewerId)>,
    outputs: VecDeque<Output>,
}

impl WsBroadcast {
    pub(super) const fn new() -> Self {
        Self {
            offers: 0,
            offered: None,
            ufrags: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.outputs.push_back(Output::Joined {
            ice_servers: Vec::new(),
            is_confirmed: false,
        });
        self.withdraw();
        self.offers += 1;
        let viewer = ViewerId(format!("called-{}", self.offers));
        self.offered = Some((viewer.clone(), now + OFFER_STANDS));
        let is_present = false;
        self.event(RoomEvent::Call { viewer, is_present });
    }

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_closed(&mut self) {}

    pub(super) fn handle_text(&mut self, text: &str, _now: Instant) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        if let Some(description) = message.get("sdp") {
            if let Some(sdp) = pair::sdp_of(description, "offer") {
                // What is no offer is refused by the engine, in words.
                let session = offer::session(&sdp).unwrap_or_default();
                let viewer = ViewerId(format!("offer-{session}"));
                self.remember(&sdp, &viewer);
                self.event(RoomEvent::Offer { viewer, sdp });
            } else if let Some(sdp) = pair::sdp_of(description, "answer")
                && let Some((viewer, _)) = self.offered.take()
            {
                self.remember(&sdp, &viewer);
                self.event(RoomEvent::Answer { viewer, sdp });
            }
        } else if let Some(candidate) = message.get("candidate").and_then(pair::candidate_of) {
            let newest = self.ufrags.back();
            let viewer = match candidate.ufrag() {
                Some(ufrag) => self.ufrags.iter().rev().find(|(u, _)| u == ufrag),
                None => newest,
            };
            // Descriptions come before candidates: others are of conversations that are not ours.
            if let Some((_, viewer)) = viewer {
                let viewer = viewer.clone();
                self.event(RoomEvent::Candidate { viewer, candidate });
            }
        }
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, _now: Instant) {
        let message = match message {
            RoomMessage::Offer { sdp, .. } => json!({"sdp": Description::offer(sdp)}),
            RoomMessage::Answer { sdp, .. } => json!({"sdp": Description::answer(sdp)}),
            RoomMessage::Candidate { candidate, .. } => match pair::for_page(candidate) {
                Some(candidate) => json!({"candidate": candidate}),
                None => return,
            },
            RoomMessage::Error { .. }
            | RoomMessage::Connected { .. }
            | RoomMessage::Ended { .. } => return,
        };
        self.outputs.push_back(Output::Send(to_text(&message)));
    }

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_leave(&mut self) {}

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self
            .offered
            .as_ref()
            .is_some_and(|(_, until)| *until <= now)
        {
            self.withdraw();
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.offered.as_ref().map(|(_, until)| *until)
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Nobody took our offer.
    fn withdraw(&mut self) {
        if let Some((viewer, _)) = self.offered.take() {
            let on_purpose = true;
            self.event(RoomEvent::ViewerLeft { viewer, on_purpose });
        }
    }

    fn remember(&mut self, sdp: &str, viewer: &ViewerId) {
        let ufrags: Vec<_> = offer::ufrags(sdp).take(1).map(str::to_owned).collect();
        for ufrag in ufrags.into_iter().filter(|u| u.len() <= 256) {
            self.ufrags.push_back((ufrag, viewer.clone()));
        }
        while self.ufrags.len() > MAX_UFRAGS {
            self.ufrags.pop_front();
        }
    }

    fn event(&mut self, event: RoomEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Adapter;
    use super::super::tests::*;
    use super::*;
    use crate::config::Dialect;

    fn description(kind: &str, session: &str) -> (String, String) {
        let sdp = format!("v=0\r\no=- {session} 2 IN IP4 127.0.0.1\r\na=ice-ufrag:u{session}\r\n");
        let message = json!({"sdp": {"type": kind, "sdp": sdp}});
        (message.to_string(), sdp)
    }

    fn on_the_bus() -> Played {
        let (played, outputs) = Played::connected(Dialect::WsBroadcast);
        let called = Output::Event(RoomEvent::Call {
            viewer: viewer("called-1"),
            is_present: false,
        });
        assert_eq!(outputs, [joined(false), called]);
        played
    }

    #[test]
    fn who_is_there_answers_our_first_offer() {
        let mut bus = on_the_bus();
        let offer = send(r#"{"sdp":{"sdp":"ours","type":"offer"}}"#);
        assert_eq!(bus.say(&offer_to("called-1")), [offer]);
        let (text, sdp) = description("answer", "7");
        assert_eq!(bus.hear(&text), [answered("called-1", &sdp)]);
        assert_eq!(bus.hear(&text), [], "one answer is enough");
        assert_eq!(bus.wait(Duration::from_secs(60)), []);
    }

    #[test]
    fn an_offer_that_nobody_takes_is_withdrawn() {
        let mut bus = on_the_bus();
        let withdrawn = (OFFER_STANDS, left("called-1"));
        assert_eq!(bus.wait(Duration::from_secs(60)), [withdrawn]);
        let (text, _) = description("answer", "7");
        assert_eq!(bus.hear(&text), []);
    }

    #[test]
    fn pages_are_told_apart_by_their_offers_and_candidates_find_theirs() {
        let mut bus = on_the_bus();
        for session in ["7", "8"] {
            let (text, sdp) = description("offer", session);
            let id = format!("offer-{session}");
            assert_eq!(bus.hear(&text), [offered(&id, &sdp)]);
        }
        for (ufrag, id) in [(Some("u7"), "offer-7"), (None, "offer-8")] {
            let candidate = json!({"candidate": {
                "candidate": "candidate:1", "sdpMid": "0", "usernameFragment": ufrag,
            }});
            let outputs = bus.hear(&candidate.to_string());
            assert!(
                matches!(&outputs[..], [Output::Event(RoomEvent::Candidate { viewer, .. })] if viewer.0 == id)
            );
        }
    }

    #[test]
    fn junk_is_ignored_and_names_are_bounded() {
        let mut bus = on_the_bus();
        bus.wait(OFFER_STANDS);
        for text in junk() {
            assert_eq!(bus.hear(&text), [], "{text:.60}");
        }
        for session in 0..10_000 {
            bus.hear(&description("offer", &session.to_string()).0);
        }
        let Adapter::WsBroadcast(adapter) = &bus.adapter else {
            panic!("{:?}", bus.adapter);
        };
        assert_eq!(adapter.ufrags.len(), MAX_UFRAGS);
    }
}
