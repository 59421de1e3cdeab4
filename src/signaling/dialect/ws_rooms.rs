//! JSON over a plain WebSocket, rooms of two: `join`, `ready`, `offer`, `answer`, `candidate`.
//!
//! When the room has two, both hear `ready`. Who then offers is not defined: some pages both do, some
//! leave it to the first or to the second one in. We wait a little for their offer, and else make ours;
//! theirs is answered at any time. There is no `leave`, and no sign that a join was heard.
//!
//! ```text
//! alone ──ready──▶ waiting ──OFFER_WAIT──▶ we offer
//!   ▲                │ offer                  │ offer
//!   │                ▼                        ▼
//!   └── (never) ── we answer ◀────────────────┘        ready at any time: once more
//! ```
//!
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pair::{self, Pair};
use super::{Description, Join, Output, to_text};
use crate::signaling::{RoomEvent, RoomMessage};

/// How long the page gets to offer. Longer than a page needs that asks for camera and microphone again;
/// shorter than people's patience, for half of the pages never will.
const OFFER_WAIT: Duration = Duration::from_millis(2_500);

/// The device's side.
#[derive(Debug)]
pub struct WsRooms {
    room: String,
    pair: Pair,
    /// When we offer.
    offer_at: Option<Instant>,
    /// We were told that somebody is there, and have not offered since.
    is_present: bool,
    is_connected: bool,
    outputs: VecDeque<Output>,
}

impl WsRooms {
    pub(super) fn new(join: Join) -> Self {
        Self {
            room: join.room,
            pair: Pair::default(),
            offer_at: None,
            is_present: false,
            is_connected: false,
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, _now: Instant) {
        self.offer_at = None;
        self.send(&json!({"type": "join", "room": self.room}));
        self.outputs.push_back(Output::Joined {
            ice_servers: Vec::new(),
            is_confirmed: false,
        });
    }

    pub(super) const fn handle_closed(&mut self) {
        self.offer_at = None;
    }

    pub(super) fn handle_text(&mut self, text: &str, now: Instant) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        // One socket may be in several rooms; this one is in one.
        let room = message.get("room").and_then(Value::as_str);
        if room.is_some_and(|room| room != self.room) {
            return;
        }
        let field = |name: &str| message.get(name).unwrap_or(&Value::Null);
        match field("type").as_str() {
            Some("ready") => {
                // What runs goes on until the new connection is up, for it may be the same page.
                self.is_present = true;
                self.offer_at = Some(now + OFFER_WAIT);
            }
            Some("offer") => {
                if let Some(sdp) = pair::sdp_of(field("offer"), "offer") {
                    self.offer_at = None;
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Offer { viewer, sdp });
                }
            }
            Some("answer") => {
                let sdp = pair::sdp_of(field("answer"), "answer");
                if let (Some(sdp), Some(viewer)) = (sdp, self.pair.viewer().cloned()) {
                    self.event(RoomEvent::Answer { viewer, sdp });
                }
            }
            Some("candidate") => {
                if let Some(candidate) = pair::candidate_of(field("candidate")) {
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Candidate { viewer, candidate });
                }
            }
            _ => {}
        }
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, now: Instant) {
        if !self.pair.is(message.viewer()) {
            return;
        }
        let room = &self.room;
        let message = match message {
            RoomMessage::Offer { sdp, .. } => {
                json!({"type": "offer", "offer": Description::offer(sdp), "room": room})
            }
            RoomMessage::Answer { sdp, .. } => {
                json!({"type": "answer", "answer": Description::answer(sdp), "room": room})
            }
            RoomMessage::Candidate { candidate, .. } => match pair::for_page(candidate) {
                Some(candidate) => {
                    json!({"type": "candidate", "candidate": candidate, "room": room})
                }
                None => return,
            },
            RoomMessage::Connected { .. } => {
                self.is_connected = true;
                return;
            }
            RoomMessage::Ended { .. } => {
                // Somebody may still ask a person for the camera, and could not take our offer yet.
                if !self.is_connected {
                    self.offer_at = Some(now + OFFER_WAIT);
                }
                self.is_connected = false;
                return;
            }
            RoomMessage::Error { .. } => return,
        };
        self.send(&message);
    }

    /// The protocol has no word for it: closing has to do.
    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_leave(&mut self) {}

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.offer_at.is_some_and(|at| at <= now) {
            self.offer_at = None;
            let viewer = self.pair.viewer_or_new();
            let is_present = self.is_present;
            self.is_present = false;
            self.event(RoomEvent::Call { viewer, is_present });
        }
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.offer_at
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn send(&mut self, message: &Value) {
        self.outputs.push_back(Output::Send(to_text(message)));
    }

    fn event(&mut self, event: RoomEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;
    use crate::config::Dialect;

    const READY: &str = r#"{"type":"ready","room":"cam"}"#;
    const OFFER: &str = r#"{"room":"cam","type":"offer","offer":{"sdp":"theirs","type":"offer"}}"#;

    fn inside() -> Played {
        let (played, outputs) = Played::connected(Dialect::WsRooms);
        let join = send(r#"{"room":"cam","type":"join"}"#);
        assert_eq!(outputs, [join, joined(false)]);
        played
    }

    #[test]
    fn a_page_that_offers_is_answered() {
        let mut room = inside();
        assert_eq!(room.hear(READY), []);
        assert_eq!(room.hear(OFFER), [offered("peer-1", "theirs")]);
        let answer = r#"{"answer":{"sdp":"ours","type":"answer"},"room":"cam","type":"answer"}"#;
        assert_eq!(room.say(&answer_to("peer-1")), [send(answer)]);
        assert_eq!(room.wait(Duration::from_secs(60)), []);
    }

    #[test]
    fn a_page_that_does_not_offer_is_offered_after_2500_ms() {
        let mut room = inside();
        room.hear(READY);
        let due = (OFFER_WAIT, call("peer-1"));
        assert_eq!(room.wait(Duration::from_secs(60)), [due]);
        let offer = r#"{"offer":{"sdp":"ours","type":"offer"},"room":"cam","type":"offer"}"#;
        assert_eq!(room.say(&offer_to("peer-1")), [send(offer)]);
        let answer = r#"{"type":"answer","answer":{"type":"answer","sdp":"a"},"room":"cam"}"#;
        assert_eq!(room.hear(answer), [answered("peer-1", "a")]);
    }

    #[test]
    fn an_offer_that_crosses_ours_is_answered_all_the_same() {
        let mut room = inside();
        room.hear(READY);
        room.wait(OFFER_WAIT);
        assert_eq!(room.hear(OFFER), [offered("peer-1", "theirs")]);
    }

    #[test]
    fn media_goes_on_through_a_second_ready_until_the_new_connection_is_up() {
        let mut room = inside();
        room.hear(READY);
        room.hear(OFFER);
        assert_eq!(room.hear(READY), [], "nobody is cut off");
        assert_eq!(room.hear(OFFER), [offered("peer-1", "theirs")]);
        room.adapter.handle_closed();
        assert_eq!(room.wait(Duration::from_secs(60)), []);
        room.reconnect();
        assert_eq!(room.hear(READY), []);
        let due = (OFFER_WAIT, call("peer-1"));
        assert_eq!(room.wait(Duration::from_secs(60)), [due]);
    }

    #[test]
    fn a_page_that_could_not_take_our_offer_is_offered_again_and_again_but_nothing_is_kept_awake() {
        let mut room = inside();
        let viewer = viewer("peer-1");
        let ended = RoomMessage::Ended {
            viewer: viewer.clone(),
        };
        room.hear(READY);
        room.wait(OFFER_WAIT);
        for _ in 0..3 {
            assert_eq!(room.say(&ended), []);
            let again = Output::Event(RoomEvent::Call {
                viewer: viewer.clone(),
                is_present: false,
            });
            let due = (OFFER_WAIT, again);
            assert_eq!(room.wait(Duration::from_secs(60)), [due]);
        }
        room.say(&RoomMessage::Connected { viewer });
        room.say(&ended);
        assert_eq!(
            room.wait(Duration::from_secs(60)),
            [],
            "it watched, and went"
        );
    }

    #[test]
    fn candidates_go_out_whole_and_never_as_null() {
        let mut room = inside();
        room.hear(OFFER);
        assert_eq!(room.say(&candidate_to("peer-1", "")), []);
        let text = r#"{"candidate":{"candidate":"candidate:1","sdpMLineIndex":0},"room":"cam","type":"candidate"}"#;
        let said = room.say(&candidate_to("peer-1", "candidate:1"));
        assert_eq!(said, [send(text)]);
    }

    #[test]
    fn other_rooms_and_junk_are_ignored() {
        let mut room = inside();
        assert_eq!(room.hear(r#"{"type":"ready","room":"den"}"#), []);
        for text in junk() {
            assert_eq!(room.hear(&text), [], "{text:.60}");
        }
        assert_eq!(room.wait(Duration::from_secs(60)), []);
    }
}
