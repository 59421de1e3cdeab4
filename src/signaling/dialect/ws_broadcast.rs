//! JSON over a plain WebSocket without rooms: `{"sdp":…}` and `{"candidate":…}` go to everyone else.
//!
//! Pages offer when they connect. So do we, for a page that is there already. Nobody is named: a
//! viewer is told from another by the session id of its offer, and its candidates by their ufrag.
//!
//! Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pair;
use super::{Description, Output, to_text};
use crate::signaling::{RoomEvent, RoomMessage, ViewerId};
use crate::viewer::offer;

/// How long our offer to whoever is there stands: a person may have to permit a page its microphone.
const OFFER_STANDS: Duration = crate::viewer::ANSWER_TIMEOUT;

/// How many viewers' descriptions are remembered.
const MAX_KNOWN: usize = 64;

/// The device's side.
#[derive(Debug)]
pub struct WsBroadcast {
    /// How many times we have offered.
    offers: u64,
    /// Our offer that nobody has answered yet, and until when it stands.
    offered: Option<(ViewerId, Instant)>,
    /// Viewers' descriptions, the newest last.
    known: VecDeque<Known>,
    /// Whose media runs.
    connected: BTreeSet<ViewerId>,
    outputs: VecDeque<Output>,
}

/// What a description tells of its peer connection.
#[derive(Debug)]
struct Known {
    viewer: ViewerId,
    session: String,
    ufrag: String,
}

impl WsBroadcast {
    pub(super) const fn new() -> Self {
        Self {
            offers: 0,
            offered: None,
            known: VecDeque::new(),
            connected: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.outputs.push_back(Output::Joined {
            ice_servers: Vec::new(),
            is_confirmed: false,
        });
        self.withdraw();
        // Pages take an offer into the peer connection they have: what runs would stop.
        if !self.connected.is_empty() {
            return;
        }
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
                let known = self.known.iter().rfind(|known| known.session == session);
                let viewer = match known {
                    Some(known) => known.viewer.clone(),
                    None => ViewerId(format!("offer-{session}")),
                };
                self.remember(&sdp, &viewer);
                self.event(RoomEvent::Offer { viewer, sdp });
            } else if let Some(sdp) = pair::sdp_of(description, "answer")
                && let Some((viewer, _)) = self.offered.take()
            {
                self.remember(&sdp, &viewer);
                self.event(RoomEvent::Answer { viewer, sdp });
            }
        } else if let Some(candidate) = message.get("candidate").and_then(pair::candidate_of) {
            let known = match candidate.ufrag() {
                Some(ufrag) => self.known.iter().rfind(|known| known.ufrag == ufrag),
                None => self.known.back(),
            };
            // Descriptions come before candidates: others are of conversations that are not ours.
            if let Some(Known { viewer, .. }) = known {
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
            RoomMessage::Connected { viewer } => {
                self.connected.insert(viewer.clone());
                return;
            }
            RoomMessage::Ended { viewer } => {
                self.connected.remove(viewer);
                return;
            }
            RoomMessage::Error { .. } => return,
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
        let (Some(session), Some(ufrag)) = (offer::session(sdp), offer::ufrags(sdp).next()) else {
            return;
        };
        if ufrag.len() > 256 {
            return;
        }
        self.known.push_back(Known {
            viewer: viewer.clone(),
            session: session.to_owned(),
            ufrag: ufrag.to_owned(),
        });
        while self.known.len() > MAX_KNOWN {
            self.known.pop_front();
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
        let (text, sdp) = description("offer", "7");
        assert_eq!(
            bus.hear(&text),
            [offered("called-1", &sdp)],
            "the same page"
        );
    }

    #[test]
    fn a_blip_of_our_connection_does_not_offer_into_calls_that_run() {
        let mut bus = on_the_bus();
        let connected = RoomMessage::Connected {
            viewer: viewer("called-1"),
        };
        bus.say(&connected);
        bus.adapter.handle_closed();
        let outputs = bus.reconnect();
        assert!(
            !outputs
                .iter()
                .any(|o| matches!(o, Output::Event(RoomEvent::Call { .. })))
        );
        bus.say(&RoomMessage::Ended {
            viewer: viewer("called-1"),
        });
        bus.adapter.handle_closed();
        let outputs = bus.reconnect();
        assert!(
            outputs
                .iter()
                .any(|o| matches!(o, Output::Event(RoomEvent::Call { .. })))
        );
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
        assert_eq!(adapter.known.len(), MAX_KNOWN);
    }
}
