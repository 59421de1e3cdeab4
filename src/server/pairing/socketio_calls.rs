//! Rooms of many over Socket.IO: who enters is announced to those inside, with the socket id to call
//! it by; all else is addressed to an id, and arrives with the sender's.
//!
//! Nobody hears of who leaves. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::socketio::Emit;
use super::{MAX_ROOMS_PER_MEMBER, Member, room_of};
use crate::config::CallEvents;

/// Longest e-mail address that is announced, in bytes.
const MAX_EMAIL_BYTES: usize = 254;

/// Who is where.
#[derive(Debug)]
pub(super) struct Calls {
    events: CallEvents,
    ids: BTreeMap<String, Member>,
    rooms: BTreeMap<String, BTreeSet<Member>>,
}

impl Calls {
    pub(super) const fn new(events: CallEvents) -> Self {
        Self {
            events,
            ids: BTreeMap::new(),
            rooms: BTreeMap::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, member: Member, sid: &str) {
        self.ids.insert(sid.to_owned(), member);
    }

    pub(super) fn handle_event(&mut self, from: Member, name: &str, args: &[Value]) -> Vec<Emit> {
        let content = args.first().unwrap_or(&Value::Null);
        if name == self.events.join {
            return self.join(from, content);
        }
        // What is sent, what arrives, and the field that comes along.
        let events = &self.events;
        let relayed = [
            (&events.call, &events.incoming, "offer"),
            (&events.accepted, &events.accepted, "ans"),
            (&events.renegotiate, &events.renegotiate, "offer"),
            (&events.renegotiated, &events.finished, "ans"),
            (&events.candidate, &events.candidate, "candidate"),
        ];
        let relayed = relayed.into_iter().find(|(sent, _, _)| *sent == name);
        let to = content.get("to").and_then(Value::as_str);
        let to = to.and_then(|id| self.ids.get(id));
        let (Some((_, arrives, field)), Some(&to), Some(id)) = (relayed, to, self.id_of(from))
        else {
            return Vec::new();
        };
        let field_of = content.get(field).unwrap_or(&Value::Null);
        vec![Emit {
            to,
            name: arrives.clone(),
            args: vec![json!({"from": id, field: field_of})],
        }]
    }

    pub(super) fn handle_closed(&mut self, member: Member) {
        self.ids.retain(|_, m| *m != member);
        self.rooms.retain(|_, members| {
            members.remove(&member);
            !members.is_empty()
        });
    }

    fn join(&mut self, from: Member, content: &Value) -> Vec<Emit> {
        let email = content.get("email").and_then(Value::as_str);
        let email = email.filter(|e| e.len() <= MAX_EMAIL_BYTES).unwrap_or("");
        let Some(room) = content.get("room").and_then(room_of) else {
            return Vec::new();
        };
        let inside = self.rooms.values().filter(|m| m.contains(&from)).count();
        let Some(id) = self.id_of(from).filter(|_| inside < MAX_ROOMS_PER_MEMBER) else {
            return Vec::new();
        };
        let members = self.rooms.get(room).into_iter().flatten();
        let news = members.map(|&to| Emit {
            to,
            name: self.events.joined.clone(),
            args: vec![json!({"email": email, "id": id})],
        });
        let mut told: Vec<Emit> = news.collect();
        told.push(Emit {
            to: from,
            name: self.events.join.clone(),
            args: vec![json!({"email": email, "room": room})],
        });
        let room = self.rooms.entry(room.to_owned()).or_default();
        room.insert(from);
        told
    }

    fn id_of(&self, member: Member) -> Option<&str> {
        let found = self.ids.iter().find(|(_, m)| **m == member);
        found.map(|(id, _)| id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(members: u64) -> Calls {
        let mut calls = Calls::new(CallEvents::default());
        (0..members).for_each(|m| calls.handle_connected(Member(m), &format!("s{m}")));
        calls
    }

    fn say(calls: &mut Calls, from: u64, name: &str, content: Value) -> Vec<String> {
        let told = calls.handle_event(Member(from), name, &[content]);
        let text = |emit: Emit| format!("{}: {} {}", emit.to.0, emit.name, emit.args[0]);
        told.into_iter().map(text).collect()
    }

    #[test]
    fn who_enters_is_announced_to_those_inside_and_told_so() {
        let mut calls = calls(3);
        let join = json!({"email": "e", "room": "a"});
        let echo = r#"room:join {"email":"e","room":"a"}"#;
        assert_eq!(
            say(&mut calls, 0, "room:join", join.clone()),
            [format!("0: {echo}")]
        );
        assert_eq!(
            say(&mut calls, 1, "room:join", join),
            [
                r#"0: user:joined {"email":"e","id":"s1"}"#.to_owned(),
                format!("1: {echo}"),
            ]
        );
        calls.handle_closed(Member(0));
        let join = json!({"room": "a"});
        assert_eq!(say(&mut calls, 2, "room:join", join).len(), 2);
        assert_eq!(calls.ids.len(), 2);
    }

    #[test]
    fn what_is_addressed_arrives_with_the_senders_id_and_under_its_name() {
        let mut calls = calls(2);
        for (sent, field, arrives) in [
            ("user:call", "offer", "incomming:call"),
            ("call:accepted", "ans", "call:accepted"),
            ("peer:nego:needed", "offer", "peer:nego:needed"),
            ("peer:nego:done", "ans", "peer:nego:final"),
            ("peer:ice:candidate", "candidate", "peer:ice:candidate"),
        ] {
            let told = say(
                &mut calls,
                0,
                sent,
                json!({"to": "s1", field: 7, "more": 1}),
            );
            let content = json!({"from": "s0", field: 7});
            assert_eq!(told, [format!("1: {arrives} {content}")]);
        }
        let nobody = json!({"to": "s9", "offer": 7});
        assert_eq!(
            say(&mut calls, 0, "user:call", nobody),
            Vec::<String>::new()
        );
    }

    #[test]
    fn junk_is_passed_over_and_rooms_are_bounded() {
        let mut calls = calls(1);
        for junk in [json!(null), json!({}), json!({"room": 7}), json!({"to": 7})] {
            assert_eq!(
                say(&mut calls, 0, "room:join", junk.clone()),
                Vec::<String>::new()
            );
            assert_eq!(say(&mut calls, 0, "user:call", junk), Vec::<String>::new());
        }
        for room in 0..1000 {
            say(
                &mut calls,
                0,
                "room:join",
                json!({"room": room.to_string()}),
            );
        }
        assert_eq!(calls.rooms.len(), MAX_ROOMS_PER_MEMBER);
    }
}
