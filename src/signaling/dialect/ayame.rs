//! OpenAyame: JSON over a WebSocket, rooms of two, `register` first.
//!
//! The server tells the second one in that somebody is there: that one offers. It pings in words of its
//! own, and when one of two leaves it closes the other's connection as well: register again.
//!
//! Pure.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Value, json};

use super::pair::{self, Pair};
use super::{Join, Output, ROOM_FULL, to_text};
use crate::signaling::{IceServer, RoomEvent, RoomMessage};

/// How many ICE servers are taken, and of how many addresses each.
const MAX_ICE_SERVERS: usize = 16;

/// The device's side.
#[derive(Debug)]
pub struct Ayame {
    join: Join,
    pair: Pair,
    outputs: VecDeque<Output>,
}

impl Ayame {
    pub(super) fn new(join: Join) -> Self {
        Self {
            join,
            pair: Pair::default(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, _now: Instant) {
        let mut register = json!({
            "type": "register",
            "roomId": self.join.room,
            "clientId": self.join.instance,
            "ayameClient": concat!("roomcam/", env!("CARGO_PKG_VERSION")),
            "environment": "roomcam",
        });
        if !self.join.key.is_empty()
            && let Some(fields) = register.as_object_mut()
        {
            // `key` is its name in older servers.
            for name in ["signalingKey", "key"] {
                fields.insert(name.to_owned(), self.join.key.expose().into());
            }
        }
        self.send(&register);
    }

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_closed(&mut self) {}

    pub(super) fn handle_text(&mut self, text: &str, _now: Instant) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        let field = |name: &str| message.get(name).unwrap_or(&Value::Null);
        let sdp = || field("sdp").as_str().map(str::to_owned);
        match field("type").as_str() {
            Some("accept") => {
                let servers = field("iceServers").as_array().map(Vec::as_slice);
                self.outputs.push_back(Output::Joined {
                    ice_servers: ice_servers(servers.unwrap_or_default()),
                    is_confirmed: true,
                });
                let exists = |name| field(name).as_bool().unwrap_or(false);
                if exists("isExistClient") || exists("isExistUser") {
                    let (viewer, left) = self.pair.replace();
                    self.outputs.extend(left.map(Output::Event));
                    let is_present = true;
                    self.event(RoomEvent::Call { viewer, is_present });
                } else {
                    self.pair.forget();
                }
            }
            Some("reject") => {
                let reason = field("reason").as_str().unwrap_or("no reason given");
                let code = if reason == "full" {
                    ROOM_FULL
                } else {
                    "rejected"
                };
                self.outputs.push_back(Output::Refused {
                    code: code.to_owned(),
                    message: reason.to_owned(),
                });
            }
            Some("offer") => {
                if let Some(sdp) = sdp() {
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Offer { viewer, sdp });
                }
            }
            Some("answer") => {
                if let (Some(sdp), Some(viewer)) = (sdp(), self.pair.viewer().cloned()) {
                    self.event(RoomEvent::Answer { viewer, sdp });
                }
            }
            Some("candidate") => {
                if let Some(candidate) = pair::candidate_of(field("ice")) {
                    let viewer = self.pair.viewer_or_new();
                    self.event(RoomEvent::Candidate { viewer, candidate });
                }
            }
            Some("ping") => self.send(&json!({"type": "pong"})),
            Some("bye") => {
                let left = self.pair.leave();
                self.outputs.extend(left.map(Output::Event));
                self.outputs.push_back(Output::Rejoin);
            }
            _ => {}
        }
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, _now: Instant) {
        if !self.pair.is(message.viewer()) {
            return;
        }
        let message = match message {
            RoomMessage::Offer { sdp, .. } => json!({"type": "offer", "sdp": sdp}),
            RoomMessage::Answer { sdp, .. } => json!({"type": "answer", "sdp": sdp}),
            RoomMessage::Candidate { candidate, .. } => match pair::for_page(candidate) {
                Some(ice) => json!({"type": "candidate", "ice": ice}),
                None => return,
            },
            RoomMessage::Error { .. }
            | RoomMessage::Connected { .. }
            | RoomMessage::Ended { .. } => return,
        };
        self.send(&message);
    }

    pub(super) fn handle_leave(&mut self) {
        self.send(&json!({"type": "bye"}));
    }

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_timeout(&mut self, _now: Instant) {}

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        None
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

/// Reads ICE servers; what we do not know is no reason to go without the others.
fn ice_servers(values: &[Value]) -> Vec<IceServer> {
    let server = |value: &Value| {
        let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let urls = match value.get("urls")? {
            Value::String(url) => vec![url.clone()],
            Value::Array(urls) => urls
                .iter()
                .filter_map(Value::as_str)
                .take(MAX_ICE_SERVERS)
                .map(str::to_owned)
                .collect(),
            _ => return None,
        };
        Some(IceServer {
            urls,
            username: text("username"),
            credential: text("credential"),
        })
    };
    values
        .iter()
        .filter_map(server)
        .take(MAX_ICE_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;
    use crate::config::Dialect;

    const ALONE: &str =
        r#"{"type":"accept","connectionId":"c","isExistClient":false,"isExistUser":false}"#;
    const OFFER: &str = r#"{"type":"offer","sdp":"theirs"}"#;

    fn registered(accept: &str) -> (Played, Vec<Output>) {
        let (mut played, outputs) = Played::connected(Dialect::Ayame);
        let [Output::Send(register)] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        let register: Value = serde_json::from_str(register).unwrap();
        for (field, value) in [
            ("type", "register"),
            ("roomId", "cam"),
            ("clientId", "i"),
            ("signalingKey", "k"),
        ] {
            assert_eq!(register[field], value);
        }
        let outputs = played.hear(accept);
        (played, outputs)
    }

    #[test]
    fn the_first_one_in_waits_and_answers() {
        let (mut room, outputs) = registered(ALONE);
        assert_eq!(outputs, [joined(true)]);
        assert_eq!(room.hear(OFFER), [offered("peer-1", "theirs")]);
        let answer = send(r#"{"sdp":"ours","type":"answer"}"#);
        assert_eq!(room.say(&answer_to("peer-1")), [answer]);
        let candidate =
            send(r#"{"ice":{"candidate":"candidate:1","sdpMLineIndex":0},"type":"candidate"}"#);
        let said = room.say(&candidate_to("peer-1", "candidate:1"));
        assert_eq!(said, [candidate]);
    }

    #[test]
    fn the_second_one_in_offers_and_uses_the_servers_ice_servers() {
        let (mut room, outputs) = registered(
            r#"{"type":"accept","isExistClient":true,"iceServers":[
                {"urls":["stun:s","turn:t"],"username":"u","credential":"p"},{"urls":"stun:x"},{"urls":7},7]}"#,
        );
        let Output::Joined { ice_servers, .. } = &outputs[0] else {
            panic!("{outputs:?}");
        };
        assert_eq!(ice_servers.len(), 2);
        assert_eq!(ice_servers[0].urls, ["stun:s", "turn:t"]);
        assert_eq!(outputs[1..], [call("peer-1")]);
        let answer = r#"{"type":"answer","sdp":"a"}"#;
        assert_eq!(room.hear(answer), [answered("peer-1", "a")]);
    }

    #[test]
    fn a_ping_is_answered_in_its_own_words() {
        let (mut room, _) = registered(ALONE);
        let pong = send(r#"{"type":"pong"}"#);
        assert_eq!(room.hear(r#"{"type":"ping"}"#), [pong]);
    }

    #[test]
    fn when_the_other_leaves_the_device_registers_again() {
        let (mut room, _) = registered(ALONE);
        room.hear(OFFER);
        let outputs = room.hear(r#"{"type":"bye"}"#);
        assert_eq!(outputs, [left("peer-1"), Output::Rejoin]);
        room.reconnect();
        room.hear(ALONE);
        assert_eq!(room.hear(OFFER), [offered("peer-2", "theirs")]);
    }

    #[test]
    fn a_rejection_says_why() {
        for (reason, code) in [("full", ROOM_FULL), ("INVALID-SIGNALING-KEY", "rejected")] {
            let (mut room, _) = Played::connected(Dialect::Ayame);
            let rejected = Output::Refused {
                code: code.to_owned(),
                message: reason.to_owned(),
            };
            let text = format!(r#"{{"type":"reject","reason":"{reason}"}}"#);
            assert_eq!(room.hear(&text), [rejected]);
        }
    }

    #[test]
    fn junk_is_ignored() {
        let (mut room, _) = registered(ALONE);
        for text in junk() {
            assert_eq!(room.hear(&text), [], "{text:.60}");
        }
    }
}
