//! Socket.IO, rooms of many: who enters is announced, and calls others by their socket ids.
//!
//! A page that calls has no tracks yet: its first offer has no m-lines, and it adds them once that is
//! answered. There is nothing to connect then, so such an offer is answered by hand, and what counts
//! is the next one: the page's, or ours where it makes none. Whoever enters after us is called.
//!
//! ```text
//!               joined                      accepted
//! (stranger) ───────────▶ we called ───────────────────────▶ agreed ◀─┐
//!      │ incoming, with media: answered                        ▲      │ renegotiate:
//!      ├───────────────────────────────────────────────────────┤      │ answered
//!      │ incoming, without media: answered by hand             │      │
//!      └──────────────▶ empty ── renegotiate, or ours ─────────┘──────┘
//!                              after REOFFER_WAIT
//! ```
//!
//! Nobody says that they leave: their media tells. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pair;
use super::{Description, Join, Output};
use crate::signaling::socketio::{self, SocketIo, SocketIoEvent};
use crate::signaling::{MAX_VIEWER_ID_BYTES, RoomEvent, RoomMessage, ViewerId};
use crate::viewer::offer;

/// The answer to an offer without m-lines: it agrees on nothing.
const EMPTY_ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";

/// How long a page gets to offer its tracks, once its first offer was answered.
const REOFFER_WAIT: Duration = Duration::from_millis(1_500);

/// How long our own offer stands in the way of theirs.
const OFFER_STANDS: Duration = Duration::from_secs(10);

/// How many are remembered; the one that was heard of longest ago is forgotten.
const MAX_VIEWERS: usize = 64;

/// What the device is called where people have addresses.
const EMAIL: &str = "roomcam";

/// The device's side.
#[derive(Debug)]
pub struct SocketioCalls {
    join: Join,
    socket: SocketIo,
    is_joined: bool,
    /// Our own socket id.
    own: Option<ViewerId>,
    viewers: BTreeMap<ViewerId, Conversation>,
    /// Counts what was heard.
    heard: u64,
    outputs: VecDeque<Output>,
}

/// Where we are with one viewer.
#[derive(Debug, Default)]
struct Conversation {
    heard: u64,
    /// It was in touch before: what is said goes by the later events.
    is_later: bool,
    /// Our offer is on its way, or waits to be answered.
    offered: Option<Instant>,
    /// When we offer, unless it does.
    offer_at: Option<Instant>,
    /// Its call that crossed ours, and until when it may still take ours.
    crossed: Option<(Instant, String)>,
}

impl SocketioCalls {
    pub(super) fn new(join: Join) -> Self {
        Self {
            socket: SocketIo::new(None),
            join,
            is_joined: false,
            own: None,
            viewers: BTreeMap::new(),
            heard: 0,
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, _now: Instant) {
        self.socket = SocketIo::new(self.join.auth());
        self.is_joined = false;
        // Ids are those of connections, and the server may be another.
        self.viewers.clear();
    }

    pub(super) fn handle_closed(&mut self) {
        self.is_joined = false;
        self.viewers.clear();
    }

    pub(super) fn handle_text(&mut self, text: &str, now: Instant) {
        self.socket.handle_text(text, now);
        self.drain_socket(now);
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, now: Instant) {
        let viewer = message.viewer();
        let Some(conversation) = self.viewers.get_mut(viewer) else {
            return;
        };
        let events = &self.join.events;
        let to = &viewer.0;
        let (name, content) = match message {
            RoomMessage::Offer { sdp, .. } => {
                conversation.offered = Some(now);
                let name = if conversation.is_later {
                    &events.renegotiate
                } else {
                    &events.call
                };
                (name, json!({"to": to, "offer": Description::offer(sdp)}))
            }
            RoomMessage::Answer { sdp, .. } => {
                let name = if conversation.is_later {
                    &events.renegotiated
                } else {
                    &events.accepted
                };
                conversation.is_later = true;
                (name, json!({"to": to, "ans": Description::answer(sdp)}))
            }
            RoomMessage::Candidate { candidate, .. } => match pair::for_page(candidate) {
                Some(candidate) => (&events.candidate, json!({"to": to, "candidate": candidate})),
                None => return,
            },
            RoomMessage::Error { .. }
            | RoomMessage::Connected { .. }
            | RoomMessage::Ended { .. } => return,
        };
        let text = socketio::event(name, &[content]);
        self.outputs.push_back(Output::Send(text));
    }

    pub(super) fn handle_leave(&mut self) {
        self.outputs.push_back(Output::Send(socketio::disconnect()));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.socket.handle_timeout(now);
        self.drain_socket(now);
        let mut ignored = Vec::new();
        for (viewer, conversation) in &mut self.viewers {
            if conversation.offer_at.is_some_and(|at| at <= now) {
                conversation.offer_at = None;
                conversation.offered = Some(now);
                self.outputs.push_back(call_for(viewer));
            }
            if conversation
                .crossed
                .as_ref()
                .is_some_and(|(at, _)| *at <= now)
                && let Some((_, sdp)) = conversation.crossed.take()
            {
                conversation.offered = None;
                ignored.push((viewer.clone(), sdp));
            }
        }
        // A page that calls, but cannot be called.
        for (viewer, sdp) in ignored {
            self.handle_call(&viewer, sdp, now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.viewers
            .values()
            .flat_map(|c| [c.offer_at, c.crossed.as_ref().map(|(at, _)| *at)])
            .flatten()
            .chain(self.socket.poll_timeout())
            .min()
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn drain_socket(&mut self, now: Instant) {
        while let Some(text) = self.socket.poll_send() {
            self.outputs.push_back(Output::Send(text));
        }
        while let Some(event) = self.socket.poll_event() {
            match event {
                SocketIoEvent::Connected { sid } => {
                    self.own = Some(ViewerId(sid));
                    let join = json!({"email": EMAIL, "room": self.join.room});
                    let text = socketio::event(&self.join.events.join, &[join]);
                    self.outputs.push_back(Output::Send(text));
                }
                SocketIoEvent::Refused { message } => self.outputs.push_back(Output::Refused {
                    code: "refused".to_owned(),
                    message,
                }),
                SocketIoEvent::Disconnected { reason } => {
                    self.outputs.push_back(Output::Lost { reason });
                }
                SocketIoEvent::Event { name, args } => {
                    let content = args.first().unwrap_or(&Value::Null);
                    self.handle_event(&name, content, now);
                }
            }
        }
    }

    fn handle_event(&mut self, name: &str, content: &Value, now: Instant) {
        let events = self.join.events.clone();
        let field = |name: &str| content.get(name).unwrap_or(&Value::Null);
        if name == events.join {
            if !self.is_joined {
                self.is_joined = true;
                self.outputs.push_back(Output::Joined {
                    ice_servers: Vec::new(),
                    is_confirmed: true,
                });
            }
            return;
        }
        let from = if name == events.joined { "id" } else { "from" };
        let Some(viewer) = viewer_of(field(from)) else {
            return;
        };
        // There are servers that announce a newcomer to everyone, itself included.
        if self.own.as_ref() == Some(&viewer) {
            return;
        }
        if name == events.joined {
            let conversation = self.hear(&viewer);
            *conversation = Conversation {
                heard: conversation.heard,
                offered: Some(now),
                ..Conversation::default()
            };
            self.outputs.push_back(call_for(&viewer));
        } else if name == events.incoming {
            if let Some(sdp) = pair::sdp_of(field("offer"), "offer") {
                self.handle_call(&viewer, sdp, now);
            }
        } else if name == events.renegotiate {
            let conversation = self.hear(&viewer);
            conversation.is_later = true;
            if conversation.has_offered(now) {
                return;
            }
            conversation.offer_at = None;
            if let Some(sdp) = pair::sdp_of(field("offer"), "offer") {
                self.event(RoomEvent::Offer { viewer, sdp });
            }
        } else if name == events.accepted || name == events.finished {
            let conversation = self.hear(&viewer);
            conversation.is_later = true;
            conversation.offered = None;
            conversation.crossed = None;
            if let Some(sdp) = pair::sdp_of(field("ans"), "answer") {
                self.event(RoomEvent::Answer { viewer, sdp });
            }
        } else if name == events.candidate
            && let Some(candidate) = pair::candidate_of(field("candidate"))
        {
            self.hear(&viewer);
            self.event(RoomEvent::Candidate { viewer, candidate });
        }
    }

    fn handle_call(&mut self, viewer: &ViewerId, sdp: String, now: Instant) {
        let accepted = self.join.events.accepted.clone();
        let conversation = self.hear(viewer);
        // Both called at once: the browser takes ours and forgets its own, if the page lets it.
        if conversation.has_offered(now) {
            conversation.crossed = Some((now + REOFFER_WAIT, sdp));
            return;
        }
        conversation.is_later = false;
        if offer::has_media(&sdp) {
            let viewer = viewer.clone();
            return self.event(RoomEvent::Offer { viewer, sdp });
        }
        conversation.is_later = true;
        conversation.offer_at = Some(now + REOFFER_WAIT);
        let answer = json!({"to": viewer.0, "ans": Description::answer(EMPTY_ANSWER)});
        let text = socketio::event(&accepted, &[answer]);
        self.outputs.push_back(Output::Send(text));
    }

    /// Returns where we are with `viewer`, who was just heard of.
    fn hear(&mut self, viewer: &ViewerId) -> &mut Conversation {
        self.heard += 1;
        if !self.viewers.contains_key(viewer) && self.viewers.len() >= MAX_VIEWERS {
            let oldest = self.viewers.iter().min_by_key(|(_, c)| c.heard);
            if let Some(oldest) = oldest.map(|(viewer, _)| viewer.clone()) {
                self.viewers.remove(&oldest);
            }
        }
        let conversation = self.viewers.entry(viewer.clone()).or_default();
        conversation.heard = self.heard;
        conversation
    }

    fn event(&mut self, event: RoomEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl Conversation {
    /// Returns whether an offer of ours waits to be answered.
    fn has_offered(&self, now: Instant) -> bool {
        self.offered
            .is_some_and(|at| now.saturating_duration_since(at) < OFFER_STANDS)
    }
}

fn call_for(viewer: &ViewerId) -> Output {
    Output::Event(RoomEvent::Call {
        viewer: viewer.clone(),
        // Nobody here says that they leave: one who came may be gone.
        is_present: false,
    })
}

fn viewer_of(id: &Value) -> Option<ViewerId> {
    let id = id.as_str()?;
    (1..=MAX_VIEWER_ID_BYTES)
        .contains(&id.len())
        .then(|| ViewerId(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;
    use crate::config::Dialect;

    const OPEN: &str = r#"0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;

    const NOTHING: &str = "v=0\r\no=- 9 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
    const SOMETHING: &str = "v=0\r\nm=audio 9 X 0\r\n";

    fn called(id: &str) -> Output {
        Output::Event(RoomEvent::Call {
            viewer: viewer(id),
            is_present: false,
        })
    }

    fn inside() -> Played {
        let (mut room, _) = Played::connected(Dialect::SocketioCalls);
        room.hear(OPEN);
        let join = send(r#"42["room:join",{"email":"roomcam","room":"cam"}]"#);
        assert_eq!(room.hear(r#"40{"sid":"s"}"#), [join]);
        let echo = r#"42["room:join",{"email":"roomcam","room":"cam"}]"#;
        assert_eq!(room.hear(echo), [joined(true)]);
        room
    }

    /// The server delivers `content` under the default name of an event.
    fn hear(room: &mut Played, name: &str, content: &Value) -> Vec<Output> {
        room.hear(&socketio::event(name, std::slice::from_ref(content)))
    }

    fn offer(sdp: &str) -> Value {
        json!({"from": "s-1", "offer": {"type": "offer", "sdp": sdp}})
    }

    fn answer() -> Value {
        json!({"from": "s-1", "ans": {"type": "answer", "sdp": "a"}})
    }

    #[test]
    fn who_enters_is_called_by_its_id() {
        let mut room = inside();
        let newcomer = json!({"email": "e", "id": "s-1"});
        assert_eq!(hear(&mut room, "user:joined", &newcomer), [called("s-1")]);
        let sent = send(r#"42["user:call",{"offer":{"sdp":"ours","type":"offer"},"to":"s-1"}]"#);
        assert_eq!(room.say(&offer_to("s-1")), [sent]);
        let accepted = hear(&mut room, "call:accepted", &answer());
        assert_eq!(accepted, [answered("s-1", "a")]);
        // Its own tracks come later, on the same peer connection.
        let later = hear(&mut room, "peer:nego:needed", &offer(SOMETHING));
        assert_eq!(later, [offered("s-1", SOMETHING)]);
        let done =
            send(r#"42["peer:nego:done",{"ans":{"sdp":"ours","type":"answer"},"to":"s-1"}]"#);
        assert_eq!(room.say(&answer_to("s-1")), [done]);
    }

    #[test]
    fn a_call_without_media_is_answered_by_hand_and_its_tracks_are_waited_for() {
        let mut room = inside();
        let outputs = hear(&mut room, "incomming:call", &offer(NOTHING));
        let by_hand = json!({"to": "s-1", "ans": {"type": "answer", "sdp": EMPTY_ANSWER}});
        let by_hand = Output::Send(socketio::event("call:accepted", &[by_hand]));
        assert_eq!(outputs, [by_hand]);
        let tracks = hear(&mut room, "peer:nego:needed", &offer(SOMETHING));
        assert_eq!(tracks, [offered("s-1", SOMETHING)]);
        assert_eq!(room.wait(Duration::from_secs(5)), []);
    }

    #[test]
    fn a_page_that_adds_no_tracks_is_offered_after_1500_ms_and_its_own_offer_then_ignored() {
        let mut room = inside();
        hear(&mut room, "incomming:call", &offer(NOTHING));
        let due = (REOFFER_WAIT, called("s-1"));
        assert_eq!(room.wait(Duration::from_secs(5)), [due]);
        let sent =
            send(r#"42["peer:nego:needed",{"offer":{"sdp":"ours","type":"offer"},"to":"s-1"}]"#);
        assert_eq!(room.say(&offer_to("s-1")), [sent]);
        let crossing = hear(&mut room, "peer:nego:needed", &offer(SOMETHING));
        assert_eq!(crossing, []);
        let answered_last = hear(&mut room, "peer:nego:final", &answer());
        assert_eq!(answered_last, [answered("s-1", "a")]);
        let later = hear(&mut room, "peer:nego:needed", &offer(SOMETHING));
        assert_eq!(later, [offered("s-1", SOMETHING)]);
    }

    #[test]
    fn of_two_crossing_calls_ours_stands_unless_the_page_cannot_be_called() {
        let mut room = inside();
        hear(&mut room, "user:joined", &json!({"id": "s-1"}));
        assert_eq!(hear(&mut room, "incomming:call", &offer(SOMETHING)), []);
        let taken = (REOFFER_WAIT, offered("s-1", SOMETHING));
        assert_eq!(room.wait(Duration::from_secs(5)), [taken]);

        let mut room = inside();
        hear(&mut room, "user:joined", &json!({"id": "s-1"}));
        hear(&mut room, "incomming:call", &offer(NOTHING));
        hear(&mut room, "call:accepted", &answer());
        assert_eq!(room.wait(Duration::from_secs(5)), []);
    }

    #[test]
    fn the_device_does_not_call_itself() {
        let mut room = inside();
        assert_eq!(hear(&mut room, "user:joined", &json!({"id": "s"})), []);
    }

    #[test]
    fn several_are_spoken_to_at_once_and_10_000_are_not_remembered() {
        let mut room = inside();
        for id in 0..10_000 {
            hear(&mut room, "user:joined", &json!({"id": format!("s-{id}")}));
        }
        assert_eq!(room.say(&offer_to("s-1")), [], "long forgotten");
        assert_eq!(room.say(&offer_to("s-9998")).len(), 1);
        assert_eq!(room.say(&offer_to("s-9999")).len(), 1);
    }

    #[test]
    fn events_may_have_other_names() {
        let events = crate::config::CallEvents {
            incoming: "incoming:call".to_owned(),
            ..crate::config::CallEvents::default()
        };
        let join = Join {
            room: "cam".to_owned(),
            events,
            ..Join::default()
        };
        let mut room = Played {
            adapter: super::super::Adapter::new(Dialect::SocketioCalls, join),
            now: crate::clock::now(),
        };
        room.reconnect();
        room.hear(OPEN);
        room.hear(r#"40{"sid":"s"}"#);
        let called = hear(&mut room, "incoming:call", &offer(SOMETHING));
        assert_eq!(called, [offered("s-1", SOMETHING)]);
    }

    #[test]
    fn junk_is_ignored() {
        let mut room = inside();
        for text in junk() {
            assert_eq!(room.hear(&text), [], "{text:.60}");
        }
    }
}
