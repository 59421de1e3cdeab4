//! Rooms of two over Socket.IO: who enters hears `created`, `joined` or `full`; what else is said goes
//! to the other one of the room it names.
//!
//! Nobody hears of who closes the connection without `leave`. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::socketio::Emit;
use super::{MAX_ROOMS_PER_MEMBER, Member, room_of};

/// How many a room takes.
const ROOM_SIZE: usize = 2;

/// Who is where.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: BTreeMap<String, Vec<Member>>,
}

impl Rooms {
    pub(super) fn handle_event(&mut self, from: Member, name: &str, args: &[Value]) -> Vec<Emit> {
        let room = match name {
            "join" | "ready" | "leave" => args.first(),
            "offer" | "answer" | "candidate" => args.get(1),
            _ => None,
        };
        let Some(room) = room.and_then(room_of) else {
            return Vec::new();
        };
        match name {
            "join" => self.join(from, room),
            "leave" => {
                self.leave(from, room);
                self.to_others(from, room, name, &[])
            }
            "ready" => self.to_others(from, room, name, &[]),
            _ => self.to_others(from, room, name, args.get(..1).unwrap_or_default()),
        }
    }

    pub(super) fn handle_closed(&mut self, member: Member) {
        self.rooms.retain(|_, members| {
            members.retain(|&m| m != member);
            !members.is_empty()
        });
    }

    /// Who joins twice is taken for the second one, as those servers do.
    fn join(&mut self, from: Member, name: &str) -> Vec<Emit> {
        let inside = self.rooms.values().filter(|m| m.contains(&from)).count();
        let before = self.rooms.get(name).map_or(0, Vec::len);
        if before == 0 && inside >= MAX_ROOMS_PER_MEMBER {
            return Vec::new();
        }
        let answer = match before {
            0 => "created",
            ROOM_SIZE.. => "full",
            _ => "joined",
        };
        if before < ROOM_SIZE {
            let members = self.rooms.entry(name.to_owned()).or_default();
            if !members.contains(&from) {
                members.push(from);
            }
        }
        vec![emit(from, answer, &[])]
    }

    fn leave(&mut self, from: Member, name: &str) {
        if let Some(members) = self.rooms.get_mut(name) {
            members.retain(|&m| m != from);
            if members.is_empty() {
                self.rooms.remove(name);
            }
        }
    }

    fn to_others(&self, from: Member, room: &str, name: &str, args: &[Value]) -> Vec<Emit> {
        let members = self.rooms.get(room).into_iter().flatten();
        let others = members.filter(|&&member| member != from);
        others.map(|&to| emit(to, name, args)).collect()
    }
}

fn emit(to: Member, name: &str, args: &[Value]) -> Emit {
    Emit {
        to,
        name: name.to_owned(),
        args: args.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Who hears what, once `from` has emitted this.
    fn say(rooms: &mut Rooms, from: u64, event: Value) -> Vec<String> {
        let Value::Array(items) = event else {
            panic!("an event is an array")
        };
        let name = items[0].as_str().unwrap();
        let told = rooms.handle_event(Member(from), name, &items[1..]);
        let text = |emit: Emit| format!("{}: {} {}", emit.to.0, emit.name, Value::from(emit.args));
        told.into_iter().map(text).collect()
    }

    #[test]
    fn the_first_creates_the_second_joins_the_third_finds_it_full() {
        let mut rooms = Rooms::default();
        assert_eq!(say(&mut rooms, 1, json!(["join", "a"])), ["1: created []"]);
        assert_eq!(say(&mut rooms, 2, json!(["join", "a"])), ["2: joined []"]);
        assert_eq!(say(&mut rooms, 3, json!(["join", "a"])), ["3: full []"]);
        assert_eq!(say(&mut rooms, 3, json!(["join", "b"])), ["3: created []"]);
        assert_eq!(say(&mut rooms, 2, json!(["leave", "a"])), ["1: leave []"]);
        assert_eq!(say(&mut rooms, 3, json!(["join", "a"])), ["3: joined []"]);
        rooms.handle_closed(Member(1));
        rooms.handle_closed(Member(3));
        assert!(rooms.rooms.is_empty());
    }

    #[test]
    fn what_is_said_goes_to_the_other_one_without_the_rooms_name() {
        let mut rooms = Rooms::default();
        say(&mut rooms, 1, json!(["join", "a"]));
        say(&mut rooms, 2, json!(["join", "a"]));
        say(&mut rooms, 3, json!(["join", "b"]));
        assert_eq!(say(&mut rooms, 2, json!(["ready", "a"])), ["1: ready []"]);
        for name in ["offer", "answer", "candidate"] {
            let told = say(&mut rooms, 1, json!([name, {"sdp": 1}, "a"]));
            assert_eq!(told, [format!("2: {name} [{{\"sdp\":1}}]")]);
        }
        let null = say(&mut rooms, 1, json!(["candidate", null, "a"]));
        assert_eq!(null, ["2: candidate [null]"]);
    }

    #[test]
    fn who_joins_twice_is_taken_for_two() {
        let mut rooms = Rooms::default();
        say(&mut rooms, 1, json!(["join", "a"]));
        assert_eq!(say(&mut rooms, 1, json!(["join", "a"])), ["1: joined []"]);
        assert_eq!(say(&mut rooms, 2, json!(["join", "a"])), ["2: joined []"]);
    }

    #[test]
    fn junk_is_passed_over_and_rooms_are_bounded() {
        let mut rooms = Rooms::default();
        for junk in [
            json!(["join"]),
            json!(["join", 7]),
            json!(["offer", {}]),
            json!(["x", "a"]),
        ] {
            assert_eq!(say(&mut rooms, 1, junk), Vec::<String>::new());
        }
        for room in 0..1000 {
            say(&mut rooms, 1, json!(["join", room.to_string()]));
        }
        assert_eq!(rooms.rooms.len(), MAX_ROOMS_PER_MEMBER);
    }
}
