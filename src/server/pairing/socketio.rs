//! The server's end of Socket.IO, over the text frames of Engine.IO; what the events mean is its
//! rules', of which there are two.
//!
//! Protocol 5 on Engine.IO 4 (clients 3 and 4), protocol 4 on Engine.IO 3 (clients 2). Left out: other
//! namespaces than `/`, which are refused, binary events and acknowledgements, which are passed over.
//!
//! ```text
//!          Engine.IO 4: 40             event
//! opened ─────────────────▶ connected ──────▶ rules
//!    │     3: at once       │   ▲
//!    │                      └41─┘ (out of its rooms)
//!    └── 1, silence: closed
//! ```
//!
//! Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::socketio_calls::Calls;
use super::socketio_rooms::Rooms;
use super::{EngineIo, MAX_MEMBERS, Member, Opening, Output, room_of, send};
use crate::config::{CallEvents, Dialect};
use crate::signaling::MAX_MESSAGE_BYTES;
use crate::signaling::socketio::{event, of_default_namespace, read_event, split_first};

/// How often one side pings: the default of all versions.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);

/// How much longer a silent member is kept: the default of Engine.IO 4.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest payload of a ping that is echoed, in bytes; the known one is `probe`.
const MAX_PING_PAYLOAD_BYTES: usize = 16;

/// The server.
#[derive(Debug)]
pub struct Server {
    events: CallEvents,
    connections: BTreeMap<Member, Connection>,
    rules: Rules,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Connection {
    opening: Opening,
    is_connected: bool,
    /// When we ping; `None` where the member does.
    ping_at: Option<Instant>,
    heard: Instant,
}

/// What events mean.
#[derive(Debug)]
enum Rules {
    /// Not known yet: nothing.
    Undecided,
    Rooms(Rooms),
    Calls(Box<Calls>),
}

/// An event for a member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Emit {
    pub(super) to: Member,
    pub(super) name: String,
    pub(super) args: Vec<Value>,
}

impl Server {
    /// Creates a server without members that takes no events until [`Self::decide`].
    #[must_use]
    pub const fn new(events: CallEvents) -> Self {
        Self {
            events,
            connections: BTreeMap::new(),
            rules: Rules::Undecided,
            outputs: VecDeque::new(),
        }
    }

    /// Decides what events mean from now on.
    pub fn decide(&mut self, dialect: Dialect) {
        self.rules = match dialect {
            Dialect::SocketioRooms => Rules::Rooms(Rooms::default()),
            Dialect::SocketioCalls => Rules::Calls(Box::new(Calls::new(self.events.clone()))),
            _ => Rules::Undecided,
        };
        let connected = self.connections.iter().filter(|(_, c)| c.is_connected);
        for (&member, connection) in connected {
            self.rules.handle_connected(member, &connection.opening.sid);
        }
    }

    /// Returns what rules `text` of a member speaks, if it tells.
    #[must_use]
    pub fn dialect_of(&self, text: &str) -> Option<Dialect> {
        let (name, args) = event_of(text)?;
        match args.first() {
            Some(Value::String(_)) if name == "join" => Some(Dialect::SocketioRooms),
            Some(Value::Object(_)) if name == self.events.join => Some(Dialect::SocketioCalls),
            _ => None,
        }
    }

    pub(super) fn handle_opened(&mut self, member: Member, opening: &Opening, now: Instant) {
        if self.connections.len() >= MAX_MEMBERS {
            self.outputs.push_back(Output::Close { member });
            return;
        }
        let is_v4 = opening.version == EngineIo::V4;
        let connection = Connection {
            opening: opening.clone(),
            is_connected: !is_v4,
            ping_at: is_v4.then_some(now + PING_INTERVAL),
            heard: now,
        };
        self.connections.insert(member, connection);
        let upgrades: &[&str] = if opening.may_upgrade {
            &["websocket"]
        } else {
            &[]
        };
        let mut greeting = json!({
            "sid": opening.sid,
            "upgrades": upgrades,
            "pingInterval": ms(PING_INTERVAL),
            "pingTimeout": ms(PING_TIMEOUT),
        });
        if let (true, Some(fields)) = (is_v4, greeting.as_object_mut()) {
            fields.insert("maxPayload".to_owned(), MAX_MESSAGE_BYTES.into());
        }
        self.send(member, format!("0{greeting}"));
        if !is_v4 {
            self.send(member, "40");
            self.rules.handle_connected(member, &opening.sid);
        }
    }

    pub(super) fn handle_text(&mut self, member: Member, text: &str, now: Instant) {
        let Some(connection) = self.connections.get_mut(&member) else {
            return;
        };
        connection.heard = now;
        match split_first(text) {
            Some(('1', _)) => self.close(member),
            Some(('2', payload)) if payload.len() <= MAX_PING_PAYLOAD_BYTES => {
                self.send(member, format!("3{payload}"));
            }
            Some(('4', packet)) => self.handle_packet(member, packet),
            _ => {}
        }
    }

    pub(super) fn handle_closed(&mut self, member: Member) {
        self.connections.remove(&member);
        self.rules.handle_closed(member);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let mut silent = Vec::new();
        let mut due = Vec::new();
        for (&member, connection) in &mut self.connections {
            if connection.silent_at() <= now {
                silent.push(member);
            } else if connection.ping_at.is_some_and(|at| at <= now) {
                connection.ping_at = Some(now + PING_INTERVAL);
                due.push(member);
            }
        }
        for member in silent {
            self.close(member);
        }
        for member in due {
            self.send(member, "2");
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = self.connections.values().map(|connection| {
            let silent_at = connection.silent_at();
            connection.ping_at.map_or(silent_at, |at| at.min(silent_at))
        });
        timeouts.min()
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn room_wanted(&self, text: &str) -> Option<String> {
        let (name, args) = event_of(text)?;
        let content = args.first()?;
        let room = match self.rules {
            Rules::Rooms(_) if name == "join" => content,
            Rules::Calls(_) if name == self.events.join => content.get("room")?,
            _ => return None,
        };
        room_of(room).map(str::to_owned)
    }

    /// Takes a packet of Socket.IO, which is `<type>[<namespace>,][<ack id>][<JSON>]`.
    fn handle_packet(&mut self, member: Member, packet: &str) {
        let Some(connection) = self.connections.get_mut(&member) else {
            return;
        };
        let Some((kind, rest)) = split_first(packet) else {
            return;
        };
        let Some(payload) = of_default_namespace(rest) else {
            if kind == '0' {
                let namespace: String = rest.chars().take_while(|&c| c != ',').take(64).collect();
                let refusal = json!({"message": "Invalid namespace"});
                self.send(member, format!("44{namespace},{refusal}"));
            }
            return;
        };
        let is_connected = connection.is_connected;
        match kind {
            '0' if !is_connected => {
                connection.is_connected = true;
                let sid = connection.opening.sid.clone();
                self.send(member, format!("40{}", json!({"sid": sid})));
                self.rules.handle_connected(member, &sid);
            }
            '1' => {
                connection.is_connected = false;
                self.rules.handle_closed(member);
            }
            '2' if is_connected => {
                if let Some((name, args)) = read_event(payload) {
                    for emit in self.rules.handle_event(member, &name, &args) {
                        let text = event(&emit.name, &emit.args);
                        self.send(emit.to, text);
                    }
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, member: Member) {
        self.handle_closed(member);
        self.outputs.push_back(Output::Close { member });
    }

    fn send(&mut self, to: Member, text: impl Into<String>) {
        send(&mut self.outputs, to, text);
    }
}

impl Rules {
    fn handle_connected(&mut self, member: Member, sid: &str) {
        if let Self::Calls(calls) = self {
            calls.handle_connected(member, sid);
        }
    }

    fn handle_event(&mut self, from: Member, name: &str, args: &[Value]) -> Vec<Emit> {
        match self {
            Self::Undecided => Vec::new(),
            Self::Rooms(rooms) => rooms.handle_event(from, name, args),
            Self::Calls(calls) => calls.handle_event(from, name, args),
        }
    }

    fn handle_closed(&mut self, member: Member) {
        match self {
            Self::Undecided => {}
            Self::Rooms(rooms) => rooms.handle_closed(member),
            Self::Calls(calls) => calls.handle_closed(member),
        }
    }
}

impl Connection {
    fn silent_at(&self) -> Instant {
        self.heard + PING_INTERVAL + PING_TIMEOUT
    }
}

/// Returns the event that a frame carries.
fn event_of(text: &str) -> Option<(String, Vec<Value>)> {
    read_event(of_default_namespace(text.strip_prefix("42")?)?)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(sid: &str, version: EngineIo) -> Opening {
        Opening {
            sid: sid.to_owned(),
            version,
            may_upgrade: version == EngineIo::V3,
        }
    }

    fn drain(server: &mut Server) -> Vec<String> {
        let told = server.outputs.drain(..).map(|output| match output {
            Output::Send { to, text } => format!("{}: {text}", to.0),
            Output::Close { member } => format!("{}: closed", member.0),
        });
        told.collect()
    }

    fn say(server: &mut Server, from: u64, text: &str, now: Instant) -> Vec<String> {
        server.handle_text(Member(from), text, now);
        drain(server)
    }

    #[test]
    fn both_versions_are_greeted_and_pinged_as_they_expect() {
        let now = crate::clock::now();
        let mut server = Server::new(CallEvents::default());
        server.handle_opened(Member(4), &opening("four", EngineIo::V4), now);
        server.handle_opened(Member(3), &opening("three", EngineIo::V3), now);
        assert_eq!(
            drain(&mut server),
            [
                r#"4: 0{"maxPayload":131072,"pingInterval":25000,"pingTimeout":20000,"sid":"four","upgrades":[]}"#,
                r#"3: 0{"pingInterval":25000,"pingTimeout":20000,"sid":"three","upgrades":["websocket"]}"#,
                "3: 40",
            ]
        );
        assert_eq!(
            say(&mut server, 4, "40{\"token\":1}", now),
            [r#"4: 40{"sid":"four"}"#]
        );
        assert_eq!(say(&mut server, 4, "40", now), Vec::<String>::new());
        let later = now + PING_INTERVAL;
        assert_eq!(server.poll_timeout(), Some(later));
        server.handle_timeout(later);
        assert_eq!(drain(&mut server), ["4: 2"]);
        assert_eq!(say(&mut server, 4, "3", later), Vec::<String>::new());
        assert_eq!(say(&mut server, 3, "2", later), ["3: 3"]);
        assert_eq!(say(&mut server, 3, "2probe", later), ["3: 3probe"]);
        server.handle_timeout(later + PING_INTERVAL + PING_TIMEOUT);
        assert_eq!(drain(&mut server), ["3: closed", "4: closed"]);
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn a_member_may_leave_the_namespace_and_come_back_or_close() {
        let now = crate::clock::now();
        let mut server = Server::new(CallEvents::default());
        server.decide(Dialect::SocketioRooms);
        server.handle_opened(Member(1), &opening("one", EngineIo::V4), now);
        drain(&mut server);
        let join = r#"42["join","a"]"#;
        assert_eq!(
            say(&mut server, 1, join, now),
            Vec::<String>::new(),
            "not connected"
        );
        say(&mut server, 1, "40", now);
        assert_eq!(say(&mut server, 1, join, now), [r#"1: 42["created"]"#]);
        assert_eq!(say(&mut server, 1, "41", now), Vec::<String>::new());
        say(&mut server, 1, "40/,{}", now);
        assert_eq!(say(&mut server, 1, join, now), [r#"1: 42["created"]"#]);
        assert_eq!(say(&mut server, 1, "1", now), ["1: closed"]);
    }

    #[test]
    fn another_namespace_is_refused_and_junk_passed_over() {
        let now = crate::clock::now();
        let mut server = Server::new(CallEvents::default());
        server.handle_opened(Member(1), &opening("one", EngineIo::V4), now);
        drain(&mut server);
        assert_eq!(
            say(&mut server, 1, "40/admin,{}", now),
            [r#"1: 44/admin,{"message":"Invalid namespace"}"#]
        );
        say(&mut server, 1, "40", now);
        for junk in [
            "",
            "4",
            "42",
            "42{}",
            "42[7]",
            "451-[]",
            "9",
            "é",
            "2aaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(
                say(&mut server, 1, junk, now),
                Vec::<String>::new(),
                "{junk}"
            );
        }
    }

    #[test]
    fn the_first_event_tells_which_rules_are_spoken() {
        let server = Server::new(CallEvents::default());
        let dialect = |text| server.dialect_of(text);
        assert_eq!(dialect(r#"42["join","a"]"#), Some(Dialect::SocketioRooms));
        let calls = r#"420["room:join",{"email":"e","room":"a"}]"#;
        assert_eq!(dialect(calls), Some(Dialect::SocketioCalls));
        for other in ["40", r#"42["ready","a"]"#, r#"42["join"]"#, "2"] {
            assert_eq!(dialect(other), None);
        }
    }
}
