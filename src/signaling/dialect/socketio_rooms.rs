//! Socket.IO, rooms of two: `join`, `ready`, `offer`, `answer`, `candidate`, in some servers `leave`.
//!
//! The room's creator offers when it hears that the other is `ready`; the one who joined says `ready`
//! and answers. We do either, as it comes; and where the creator does not offer although we are ready,
//! we do.
//!
//! ```text
//!            created                          ready
//! joining ───────────▶ alone ─────────────────────────────▶ we offer
//!    │ joined: we say ready                                  ▲
//!    └──────────────▶ waiting ──── OFFER_WAIT ───────────────┘
//!                        │ offer                      a viewer that is not up in CONNECT_WAIT:
//!                        ▼                            enter anew, ever later
//!                    we answer
//! ```
//!
//! Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pair::{self, Pair};
use super::{Description, Join, Output, ROOM_FULL};
use crate::signaling::socketio::{self, SocketIo, SocketIoEvent};
use crate::signaling::{RoomEvent, RoomMessage};

/// How long the creator of the room gets to offer, once we said that we are ready.
const OFFER_WAIT: Duration = Duration::from_secs(4);

/// How long a viewer that was there before us may take to be connected, before we enter anew: a page may
/// be stuck with what it knew of our predecessor, and forgets it when we leave; or a person was asked for
/// the camera meanwhile. Doubles each time, up to the second.
const CONNECT_WAIT: Duration = Duration::from_secs(9);
const MAX_CONNECT_WAIT: Duration = Duration::from_secs(60);

/// The device's side.
#[derive(Debug)]
pub struct SocketioRooms {
    join: Join,
    socket: SocketIo,
    is_joined: bool,
    /// Somebody was in the room when we entered it.
    is_second: bool,
    pair: Pair,
    /// When we offer.
    offer_at: Option<Instant>,
    /// When we enter anew.
    rejoin_at: Option<Instant>,
    /// How long a viewer gets the next time.
    connect_wait: Duration,
    /// Media runs, as far as we know.
    is_connected: bool,
    outputs: VecDeque<Output>,
}

impl SocketioRooms {
    pub(super) fn new(join: Join) -> Self {
        Self {
            socket: SocketIo::new(None),
            join,
            is_joined: false,
            is_second: false,
            pair: Pair::default(),
            offer_at: None,
            rejoin_at: None,
            connect_wait: CONNECT_WAIT,
            is_connected: false,
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, _now: Instant) {
        self.socket = SocketIo::new(self.join.auth());
        self.is_joined = false;
    }

    pub(super) const fn handle_closed(&mut self) {
        self.offer_at = None;
        self.rejoin_at = None;
        self.is_joined = false;
    }

    pub(super) fn handle_text(&mut self, text: &str, now: Instant) {
        self.socket.handle_text(text, now);
        self.drain_socket(now);
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, now: Instant) {
        if !self.pair.is(message.viewer()) {
            return;
        }
        let room = Value::from(self.join.room.as_str());
        match message {
            RoomMessage::Offer { sdp, .. } => {
                self.emit("offer", &[json!(Description::offer(sdp)), room]);
            }
            RoomMessage::Answer { sdp, .. } => {
                self.emit("answer", &[json!(Description::answer(sdp)), room]);
            }
            RoomMessage::Candidate { candidate, .. } => {
                if let Some(candidate) = pair::for_page(candidate) {
                    self.emit("candidate", &[json!(candidate), room]);
                }
            }
            RoomMessage::Connected { .. } => {
                self.offer_at = None;
                self.rejoin_at = None;
                self.connect_wait = CONNECT_WAIT;
                self.is_connected = true;
            }
            RoomMessage::Ended { .. } => {
                // Media outlived our place in the room, and somebody else may be there by now.
                if std::mem::take(&mut self.is_connected) && self.is_second {
                    self.say_ready(now);
                }
            }
            RoomMessage::Error { .. } => {}
        }
    }

    pub(super) fn handle_leave(&mut self) {
        // Without a `41` behind it: a server delivers an event a little later, and then finds that it is
        // from nobody. The end of the WebSocket says the same.
        self.emit("leave", &[self.join.room.as_str().into()]);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.socket.handle_timeout(now);
        self.drain_socket(now);
        if self.offer_at.is_some_and(|at| at <= now) {
            self.offer_at = None;
            let viewer = self.pair.viewer_or_new();
            let is_present = true;
            self.event(RoomEvent::Call { viewer, is_present });
        }
        if self.rejoin_at.is_some_and(|at| at <= now) {
            self.connect_wait = (self.connect_wait * 2).min(MAX_CONNECT_WAIT);
            self.handle_leave();
            self.outputs.push_back(Output::Rejoin);
            self.handle_closed();
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.socket.poll_timeout(), self.offer_at, self.rejoin_at]
            .into_iter()
            .flatten()
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
                SocketIoEvent::Connected { .. } => {
                    // Once for each connection: a second join would make us the second one in.
                    self.emit("join", &[self.join.room.as_str().into()]);
                }
                SocketIoEvent::Refused { message } => self.outputs.push_back(Output::Refused {
                    code: "refused".to_owned(),
                    message,
                }),
                SocketIoEvent::Disconnected { reason } => {
                    self.outputs.push_back(Output::Lost { reason });
                }
                SocketIoEvent::Event { name, args } => self.handle_event(&name, &args, now),
            }
        }
    }

    fn handle_event(&mut self, name: &str, args: &[Value], now: Instant) {
        let first = args.first().unwrap_or(&Value::Null);
        match name {
            "created" | "joined" if !self.is_joined => {
                self.is_joined = true;
                self.outputs.push_back(Output::Joined {
                    ice_servers: Vec::new(),
                    is_confirmed: true,
                });
                self.is_second = name == "joined";
                // What runs is not disturbed only because we were out of the room for a moment.
                if self.is_second && !self.is_connected {
                    self.say_ready(now);
                }
            }
            "full" if !self.is_joined => self.outputs.push_back(Output::Refused {
                code: ROOM_FULL.to_owned(),
                message: "two are in this room already".to_owned(),
            }),
            "ready" => {
                self.offer_at = None;
                self.rejoin_at = None;
                let viewer = self.pair.viewer_or_new();
                let is_present = true;
                self.event(RoomEvent::Call { viewer, is_present });
            }
            "offer" => {
                if let Some(sdp) = pair::sdp_of(first, "offer") {
                    self.offer_at = None;
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Offer { viewer, sdp });
                }
            }
            "answer" => {
                let sdp = pair::sdp_of(first, "answer");
                if let (Some(sdp), Some(viewer)) = (sdp, self.pair.viewer().cloned()) {
                    self.event(RoomEvent::Answer { viewer, sdp });
                }
            }
            "candidate" => {
                if let Some(candidate) = pair::candidate_of(first) {
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Candidate { viewer, candidate });
                }
            }
            "leave" => {
                self.offer_at = None;
                self.rejoin_at = None;
                self.is_connected = false;
                let left = self.pair.leave();
                self.outputs.extend(left.map(Output::Event));
            }
            _ => {}
        }
    }

    fn say_ready(&mut self, now: Instant) {
        self.pair.viewer_or_new();
        self.emit("ready", &[self.join.room.as_str().into()]);
        self.offer_at = Some(now + OFFER_WAIT);
        self.rejoin_at = Some(now + self.connect_wait);
    }

    fn emit(&mut self, name: &str, args: &[Value]) {
        let text = socketio::event(name, args);
        self.outputs.push_back(Output::Send(text));
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

    const OPEN: &str = r#"0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;

    const OFFER: &str = r#"42["offer",{"type":"offer","sdp":"theirs"}]"#;
    const READY: &str = r#"42["ready"]"#;

    /// A device whose connection is up, and which has asked to join.
    fn asking() -> Played {
        let (mut room, outputs) = Played::connected(Dialect::SocketioRooms);
        assert_eq!(outputs, [], "the server speaks first");
        assert_eq!(room.hear(OPEN), [send("40")]);
        let join = send(r#"42["join","cam"]"#);
        assert_eq!(room.hear(r#"40{"sid":"s"}"#), [join]);
        room
    }

    fn created() -> Played {
        let mut room = asking();
        assert_eq!(room.hear(r#"42["created"]"#), [joined(true)]);
        room
    }

    fn second() -> Played {
        let mut room = asking();
        let ready = send(r#"42["ready","cam"]"#);
        assert_eq!(room.hear(r#"42["joined"]"#), [joined(true), ready]);
        room
    }

    /// All but what keeps the connection alive.
    fn wait(room: &mut Played, seconds: u64) -> Vec<(Duration, Output)> {
        let mut outputs = Vec::new();
        for _ in 0..seconds {
            outputs.push(room.wait(Duration::from_secs(1)));
            assert_eq!(room.hear("2"), [send("3")]);
        }
        let mut start = Duration::ZERO;
        let mut all = Vec::new();
        for second in outputs {
            all.extend(second.into_iter().map(|(at, output)| (start + at, output)));
            start += Duration::from_secs(1);
        }
        all
    }

    #[test]
    fn the_one_who_created_the_room_offers_whoever_is_ready() {
        let mut room = created();
        assert_eq!(room.hear(READY), [call("peer-1")]);
        let offer = send(r#"42["offer",{"sdp":"ours","type":"offer"},"cam"]"#);
        assert_eq!(room.say(&offer_to("peer-1")), [offer]);
        let answer = r#"42["answer",{"type":"answer","sdp":"a"}]"#;
        assert_eq!(room.hear(answer), [answered("peer-1", "a")]);
        let candidate =
            send(r#"42["candidate",{"candidate":"candidate:1","sdpMLineIndex":0},"cam"]"#);
        let said = room.say(&candidate_to("peer-1", "candidate:1"));
        assert_eq!(said, [candidate]);
        assert_eq!(room.say(&candidate_to("peer-1", "")), []);
        assert_eq!(
            room.hear(READY),
            [call("peer-1")],
            "it may be the same page"
        );
    }

    #[test]
    fn media_that_runs_is_not_disturbed_by_a_blip_of_our_connection() {
        let mut room = created();
        room.hear(READY);
        let viewer = viewer("peer-1");
        room.say(&RoomMessage::Connected {
            viewer: viewer.clone(),
        });
        room.adapter.handle_closed();
        room.reconnect();
        room.hear(OPEN);
        room.hear(r#"40{"sid":"s"}"#);
        assert_eq!(room.hear(r#"42["joined"]"#), [joined(true)]);
        assert_eq!(wait(&mut room, 60), []);
        let ready = send(r#"42["ready","cam"]"#);
        assert_eq!(room.say(&RoomMessage::Ended { viewer }), [ready]);
    }

    #[test]
    fn the_second_one_in_is_ready_and_answers() {
        let mut room = second();
        assert_eq!(room.hear(OFFER), [offered("peer-1", "theirs")]);
        let answer = send(r#"42["answer",{"sdp":"ours","type":"answer"},"cam"]"#);
        assert_eq!(room.say(&answer_to("peer-1")), [answer]);
        room.say(&RoomMessage::Connected {
            viewer: viewer("peer-1"),
        });
        assert_eq!(wait(&mut room, 60), []);
    }

    #[test]
    fn a_creator_that_does_not_offer_is_offered_after_4_s_and_left_after_9() {
        let mut room = second();
        let rejoin = wait(&mut room, 60);
        let expected = [
            (OFFER_WAIT, call("peer-1")),
            (CONNECT_WAIT, send(r#"42["leave","cam"]"#)),
            (CONNECT_WAIT, Output::Rejoin),
        ];
        assert_eq!(rejoin, expected);
        room.adapter.handle_closed();
        room.reconnect();
        room.hear(OPEN);
        room.hear(r#"40{"sid":"s"}"#);
        room.hear(r#"42["joined"]"#);
        let again = wait(&mut room, 60);
        assert_eq!(again[0], (OFFER_WAIT, call("peer-1")));
        assert_eq!(again[1].0, 2 * CONNECT_WAIT, "ever later");
    }

    #[test]
    fn a_full_room_and_a_server_that_refuses_are_told_apart() {
        let refused = |code: &str, message: &str| Output::Refused {
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let full = refused(ROOM_FULL, "two are in this room already");
        assert_eq!(asking().hear(r#"42["full"]"#), [full]);
        let (mut room, _) = Played::connected(Dialect::SocketioRooms);
        room.hear(OPEN);
        let outputs = room.hear(r#"44{"message":"who are you"}"#);
        assert_eq!(outputs, [refused("refused", "who are you")]);
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_the_device_stays() {
        let mut room = created();
        room.hear(READY);
        assert_eq!(room.hear(r#"42["leave"]"#), [left("peer-1")]);
        assert_eq!(room.hear(READY), [call("peer-2")]);
    }

    #[test]
    fn says_good_bye() {
        let mut room = created();
        room.adapter.handle_leave();
        let bye = [send(r#"42["leave","cam"]"#)];
        assert_eq!(room.drain(), bye);
    }

    #[test]
    fn junk_and_a_second_welcome_are_ignored() {
        let mut room = created();
        for text in junk() {
            assert_eq!(room.hear(&text), [], "{text:.60}");
        }
        assert_eq!(room.hear(r#"42["joined"]"#), []);
        assert_eq!(room.hear(r#"42["full"]"#), []);
    }
}
