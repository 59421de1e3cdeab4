//! JSON over a plain WebSocket, rooms of two: whoever makes a room two makes it `ready`, and what else
//! is said goes to the others of the room it names, as it is.
//!
//! Nobody is refused, and nobody hears of who leaves. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::{MAX_MEMBERS, MAX_ROOMS_PER_MEMBER, Member, Output, room_of, send};

/// The server.
#[derive(Debug, Default)]
pub struct WsRooms {
    members: BTreeSet<Member>,
    rooms: BTreeMap<String, BTreeSet<Member>>,
    pub(super) outputs: VecDeque<Output>,
}

impl WsRooms {
    pub(super) fn handle_opened(&mut self, member: Member) {
        if self.members.len() < MAX_MEMBERS {
            self.members.insert(member);
        }
    }

    pub(super) fn handle_text(&mut self, from: Member, text: &str) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        let Some(name) = message.get("room").and_then(room_of) else {
            return;
        };
        if room_wanted(text).is_some() {
            self.join(from, name);
        } else if let Some(room) = self.rooms.get(name) {
            for &other in room.iter().filter(|&&member| member != from) {
                send(&mut self.outputs, other, text);
            }
        }
    }

    pub(super) fn handle_closed(&mut self, member: Member) {
        self.members.remove(&member);
        self.rooms.retain(|_, room| {
            room.remove(&member);
            !room.is_empty()
        });
    }

    fn join(&mut self, member: Member, name: &str) {
        let inside = self.rooms.values().filter(|r| r.contains(&member)).count();
        let is_known = self.rooms.get(name).is_some_and(|r| r.contains(&member));
        if !self.members.contains(&member) || (!is_known && inside >= MAX_ROOMS_PER_MEMBER) {
            return;
        }
        let room = self.rooms.entry(name.to_owned()).or_default();
        room.insert(member);
        if room.len() == 2 {
            let ready = json!({"type": "ready", "room": name}).to_string();
            for &member in &*room {
                send(&mut self.outputs, member, ready.as_str());
            }
        }
    }
}

/// Returns the room that `text` asks to enter, if it does.
pub(super) fn room_wanted(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    let joins = message.get("type").and_then(Value::as_str) == Some("join");
    let room = message.get("room").and_then(room_of)?;
    joins.then(|| room.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOIN: &str = r#"{"type":"join","room":"a"}"#;
    const READY: &str = r#"{"room":"a","type":"ready"}"#;

    fn server(members: u64) -> WsRooms {
        let mut server = WsRooms::default();
        (0..members).for_each(|member| server.handle_opened(Member(member)));
        server
    }

    /// Who hears what, once `from` has said `text`.
    fn say(server: &mut WsRooms, from: u64, text: &str) -> Vec<(u64, String)> {
        server.handle_text(Member(from), text);
        let told = server.outputs.drain(..).map(|output| match output {
            Output::Send { to, text } => (to.0, text),
            Output::Close { member } => panic!("closes {member:?}"),
        });
        told.collect()
    }

    #[test]
    fn the_second_one_makes_the_room_ready_for_both_and_a_third_hears_nothing() {
        let mut server = server(3);
        assert_eq!(say(&mut server, 0, JOIN), []);
        let both = [(0, READY.to_owned()), (1, READY.to_owned())];
        assert_eq!(say(&mut server, 1, JOIN), both);
        assert_eq!(say(&mut server, 2, JOIN), []);
    }

    #[test]
    fn what_is_said_goes_to_the_others_of_that_room_as_it_is() {
        let mut server = server(3);
        say(&mut server, 0, JOIN);
        say(&mut server, 1, JOIN);
        say(&mut server, 2, r#"{"type":"join","room":"b"}"#);
        let text = r#"{ "candidate":null, "room":"a", "type":"candidate" }"#;
        assert_eq!(say(&mut server, 1, text), [(0, text.to_owned())]);
        server.handle_closed(Member(0));
        assert_eq!(say(&mut server, 1, text), []);
        let both = [(1, READY.to_owned()), (2, READY.to_owned())];
        assert_eq!(say(&mut server, 2, JOIN), both);
    }

    #[test]
    fn junk_is_passed_over_and_names_are_bounded() {
        let mut server = server(1);
        for junk in [
            "",
            "null",
            "[]",
            r#"{"type":"join"}"#,
            r#"{"type":"join","room":7}"#,
        ] {
            assert_eq!(say(&mut server, 0, junk), []);
        }
        say(&mut server, 9, JOIN);
        assert!(server.rooms.is_empty(), "a stranger enters nothing");
        for room in 0..1000 {
            say(
                &mut server,
                0,
                &json!({"type": "join", "room": room.to_string()}).to_string(),
            );
        }
        assert_eq!(server.rooms.len(), MAX_ROOMS_PER_MEMBER);
        server.handle_closed(Member(0));
        assert!(server.rooms.is_empty());
    }
}
