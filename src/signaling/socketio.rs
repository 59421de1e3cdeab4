//! Socket.IO as its clients speak it, over Engine.IO text frames on one WebSocket: texts of the
//! server → events, and what keeps the connection alive.
//!
//! Socket.IO protocol 5 on Engine.IO 4 (servers 3 and 4), and protocol 4 on Engine.IO 3 (servers 2),
//! told apart by who greets first. Left out: polling and upgrading, other namespaces than `/`, binary
//! events, acknowledgements. They are passed over.
//!
//! ```text
//! Opening ──0{…}──▶ Opened ──40{"sid":…}──▶ Connected: the server pings, we answer
//!                     │ ├────40──────────▶ Connected: we ping, the server answers (Engine.IO 3)
//!                     │ └────44──────────▶ Closed: refused
//!                     └─ with `maxPayload` we say `40` at once, otherwise 150 ms later
//! from any state: 1, 41, silence ──▶ Closed: disconnected
//! ```
//!
//! Pure: a text or the time goes in; then the caller takes all texts to send and all events out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::MAX_MESSAGE_BYTES;
use crate::config::Secret;

/// How long a server that may be of Engine.IO 3 gets to greet by itself. Its greeting follows its
/// opening at once; a server of Engine.IO 4 waits for ours, and just gets it this much later.
const GREETING_WAIT: Duration = Duration::from_millis(150);

/// How often a server pings that does not say so: the default of all versions.
const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(25);

/// How long a ping may take where the server does not say so: the default of Engine.IO 4.
const DEFAULT_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Shortest interval that is believed. Zero would keep us pinging without a pause.
const MIN_PING_MS: u64 = 100;

/// Longest interval that is believed: a day. A dead connection is noticed in other ways, too.
const MAX_PING_MS: u64 = 24 * 3_600 * 1_000;

/// Longest name of an event, in bytes; the longest known one has 18.
const MAX_NAME_BYTES: usize = 128;

/// How many arguments of an event are kept; the known ones have at most two.
const MAX_ARGS: usize = 8;

/// Longest socket id that is kept, in characters; those of the known servers have 20.
const MAX_SID_CHARS: usize = 64;

/// How much of a server's reason is kept, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Longest payload of a ping that is echoed, in bytes; the known one is `probe`.
const MAX_PING_PAYLOAD_BYTES: usize = 16;

/// How many texts and events wait to be taken. One input makes at most one of each.
const MAX_PENDING: usize = 64;

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum SocketIoEvent {
    /// The server took us in: events may be sent.
    Connected {
        /// Our socket id, by which others may address us.
        sid: String,
    },
    /// The server will not have us. Nothing follows: close the connection.
    Refused {
        /// What the server says of why.
        message: String,
    },
    /// The server emitted an event.
    Event {
        /// Its name.
        name: String,
        /// Its arguments, at most 8.
        args: Vec<Value>,
    },
    /// The server ended the connection, or is silent. Nothing follows: close the connection.
    Disconnected {
        /// Why, in words.
        reason: String,
    },
}

/// One Socket.IO connection, from the opened WebSocket on.
#[derive(Debug)]
pub struct SocketIo {
    /// The payload of our CONNECT packet.
    auth: Option<Secret>,
    state: State,
    ping_interval: Duration,
    ping_timeout: Duration,
    last_heard: Option<Instant>,
    sends: VecDeque<Secret>,
    events: VecDeque<SocketIoEvent>,
}

#[derive(Debug)]
enum State {
    /// The server has not spoken.
    Opening,
    /// The transport is up, the namespace is not.
    Opened {
        /// The transport's id; in Engine.IO 3 also the socket's.
        sid: String,
        /// When we greet, unless we have.
        greet_at: Option<Instant>,
    },
    /// Events flow.
    Connected {
        /// When we ping; `None` where the server does.
        ping_at: Option<Instant>,
    },
    /// It is over.
    Closed,
}

impl SocketIo {
    /// Creates the client's end of a WebSocket that was just opened. `auth` is the payload of the
    /// CONNECT packet; servers of Engine.IO 3 do not get it, for they do not ask.
    #[must_use]
    pub fn new(auth: Option<Value>) -> Self {
        Self {
            auth: auth.map(|auth| Secret::new(auth.to_string())),
            state: State::Opening,
            ping_interval: DEFAULT_PING_INTERVAL,
            ping_timeout: DEFAULT_PING_TIMEOUT,
            last_heard: None,
            sends: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes a text frame of the server. What is no packet, or not for us, is passed over; only the
    /// first text must be an opening.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.last_heard = Some(now);
        if text.len() > MAX_MESSAGE_BYTES {
            return;
        }
        let Some((kind, rest)) = split_first(text) else {
            return;
        };
        match (&self.state, kind) {
            (State::Opening, '0') => self.open(rest, now),
            (State::Opening, _) => self.disconnected("it does not speak Socket.IO".to_owned()),
            (_, '1') => self.disconnected("the room server closed the session".to_owned()),
            (_, '2') if rest.len() <= MAX_PING_PAYLOAD_BYTES => self.send(format!("3{rest}")),
            (_, '4') => self.handle_packet(rest, now),
            _ => {}
        }
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.silent_at().is_some_and(|at| at <= now) {
            let limit = self.ping_interval + self.ping_timeout;
            self.disconnected(format!("silent for {} seconds", limit.as_secs_f32()));
            return;
        }
        match &mut self.state {
            State::Opened { greet_at, .. } if greet_at.is_some_and(|at| at <= now) => {
                *greet_at = None;
                self.greet();
            }
            State::Connected { ping_at: Some(at) } if *at <= now => {
                *at = now + self.ping_interval;
                self.send("2".to_owned());
            }
            _ => {}
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work: `None` before the server's first text
    /// and after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silent_at = self.silent_at()?;
        let next = match self.state {
            State::Opened { greet_at, .. } => greet_at,
            State::Connected { ping_at } => ping_at,
            State::Opening | State::Closed => None,
        };
        Some(next.map_or(silent_at, |next| next.min(silent_at)))
    }

    /// Returns the next text to send. It may hold what authenticates us: not for logs.
    pub fn poll_send(&mut self) -> Option<String> {
        let text = self.sends.pop_front()?;
        Some(text.expose().to_owned())
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<SocketIoEvent> {
        self.events.pop_front()
    }

    fn open(&mut self, text: &str, now: Instant) {
        let Ok(Value::Object(opening)) = serde_json::from_str(text) else {
            self.disconnected("it does not speak Socket.IO".to_owned());
            return;
        };
        let sid = sid_of(opening.get("sid"));
        if let Some(interval) = opening.get("pingInterval").and_then(milliseconds) {
            self.ping_interval = interval;
        }
        if let Some(timeout) = opening.get("pingTimeout").and_then(milliseconds) {
            self.ping_timeout = timeout;
        }
        if opening.contains_key("maxPayload") {
            self.state = State::Opened {
                sid,
                greet_at: None,
            };
            self.greet();
        } else {
            let greet_at = Some(now + GREETING_WAIT);
            self.state = State::Opened { sid, greet_at };
        }
    }

    /// Asks to be connected to the namespace `/`.
    fn greet(&mut self) {
        let auth = self.auth.as_ref().map_or("", Secret::expose);
        self.send(format!("40{auth}"));
    }

    /// Takes a packet of Socket.IO, which is `<type>[<namespace>,][<ack id>][<JSON>]`.
    fn handle_packet(&mut self, packet: &str, now: Instant) {
        let Some((kind, rest)) = split_first(packet) else {
            return;
        };
        let Some(payload) = of_default_namespace(rest) else {
            return;
        };
        let greeted = match &self.state {
            State::Opened { sid, .. } => Some(sid.clone()),
            _ => None,
        };
        match (greeted, kind) {
            (Some(transport), '0') => self.connected(payload, transport, now),
            (Some(_), '4') => self.refused(payload),
            (_, '1') => self.disconnected("the room server disconnected us".to_owned()),
            (None, '2') => self.handle_event(payload),
            _ => {}
        }
    }

    fn connected(&mut self, payload: &str, transport: String, now: Instant) {
        let (sid, ping_at) = if payload.is_empty() {
            // Only Engine.IO 3 answers without an id, asked or not.
            (transport, Some(now + self.ping_interval))
        } else {
            let payload: Value = serde_json::from_str(payload).unwrap_or_default();
            (sid_of(payload.get("sid")), None)
        };
        self.state = State::Connected { ping_at };
        self.tell(SocketIoEvent::Connected { sid });
    }

    fn handle_event(&mut self, payload: &str) {
        if let Some((name, args)) = read_event(payload) {
            self.tell(SocketIoEvent::Event { name, args });
        }
    }

    /// The payload is `{"message":…}` in Engine.IO 4, and any JSON in Engine.IO 3.
    fn refused(&mut self, payload: &str) {
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        let message = match payload.get("message").unwrap_or(&payload) {
            Value::String(message) => message.chars().take(MAX_REASON_CHARS).collect(),
            _ => "no reason given".to_owned(),
        };
        self.state = State::Closed;
        self.tell(SocketIoEvent::Refused { message });
    }

    fn disconnected(&mut self, reason: String) {
        self.state = State::Closed;
        self.tell(SocketIoEvent::Disconnected { reason });
    }

    fn silent_at(&self) -> Option<Instant> {
        if matches!(self.state, State::Closed) {
            return None;
        }
        Some(self.last_heard? + self.ping_interval + self.ping_timeout)
    }

    fn send(&mut self, text: String) {
        // full: newest lost; the caller takes all of them after each input
        if self.sends.len() < MAX_PENDING {
            self.sends.push_back(Secret::new(text));
        }
    }

    fn tell(&mut self, event: SocketIoEvent) {
        // full: newest lost, as above
        if self.events.len() < MAX_PENDING {
            self.events.push_back(event);
        }
    }
}

/// Returns the text that emits an event.
#[must_use]
pub fn event(name: &str, args: &[Value]) -> String {
    let name = Value::from(name);
    let items: Vec<Value> = std::iter::once(name).chain(args.iter().cloned()).collect();
    format!("42{}", Value::Array(items))
}

/// Returns the text that says good-bye.
#[must_use]
pub fn disconnect() -> String {
    "41".to_owned()
}

/// Returns an event's name and its arguments, of which at most 8 are kept. `payload` is what follows the
/// type of its packet and the namespace.
pub(crate) fn read_event(payload: &str) -> Option<(String, Vec<Value>)> {
    // The id by which the other side would like an acknowledgement.
    let payload = payload.trim_start_matches(|c: char| c.is_ascii_digit());
    let Ok(Value::Array(items)) = serde_json::from_str(payload) else {
        return None;
    };
    let mut items = items.into_iter();
    match items.next() {
        Some(Value::String(name)) if name.len() <= MAX_NAME_BYTES => {
            Some((name, items.take(MAX_ARGS).collect()))
        }
        _ => None,
    }
}

pub(crate) fn split_first(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    Some((first, chars.as_str()))
}

/// Returns what follows the namespace, where that is `/`, written or not.
pub(crate) fn of_default_namespace(rest: &str) -> Option<&str> {
    if !rest.starts_with('/') {
        return Some(rest);
    }
    let (namespace, payload) = rest.split_once(',').unwrap_or((rest, ""));
    let name = namespace.split('?').next().unwrap_or_default();
    (name == "/").then_some(payload)
}

fn sid_of(value: Option<&Value>) -> String {
    let sid = value.and_then(Value::as_str).unwrap_or_default();
    sid.chars().take(MAX_SID_CHARS).collect()
}

fn milliseconds(value: &Value) -> Option<Duration> {
    let ms = match (value.as_u64(), value.as_f64()) {
        (Some(ms), _) => ms,
        (None, Some(ms)) if ms < 0.0 => 0,
        // A fraction is nothing a server has a reason to send: the default will do.
        _ => return None,
    };
    Some(Duration::from_millis(ms.clamp(MIN_PING_MS, MAX_PING_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    const OPENING_4: &str = r#"0{"sid":"transport-4","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    const OPENING_3: &str =
        r#"0{"sid":"transport-3","upgrades":[],"pingInterval":25000,"pingTimeout":5000}"#;

    fn sent(socket: &mut SocketIo) -> Vec<String> {
        std::iter::from_fn(|| socket.poll_send()).collect()
    }

    fn events(socket: &mut SocketIo) -> Vec<SocketIoEvent> {
        std::iter::from_fn(|| socket.poll_event()).collect()
    }

    /// What a text gives: what is sent, what happened.
    fn hear(socket: &mut SocketIo, text: &str, now: Instant) -> (Vec<String>, Vec<SocketIoEvent>) {
        socket.handle_text(text, now);
        (sent(socket), events(socket))
    }

    fn connected(sid: &str) -> SocketIoEvent {
        let sid = sid.to_owned();
        SocketIoEvent::Connected { sid }
    }

    fn disconnected(reason: &str) -> SocketIoEvent {
        let reason = reason.to_owned();
        SocketIoEvent::Disconnected { reason }
    }

    fn emitted(name: &str, args: &[Value]) -> SocketIoEvent {
        SocketIoEvent::Event {
            name: name.to_owned(),
            args: args.to_vec(),
        }
    }

    /// A connection to a server of Engine.IO 4.
    fn connected_4(now: Instant) -> SocketIo {
        let mut socket = SocketIo::new(None);
        hear(&mut socket, OPENING_4, now);
        hear(&mut socket, r#"40{"sid":"me"}"#, now);
        socket
    }

    /// A connection to a server of Engine.IO 3.
    fn connected_3(now: Instant) -> SocketIo {
        let mut socket = SocketIo::new(None);
        hear(&mut socket, OPENING_3, now);
        hear(&mut socket, "40", now);
        socket
    }

    #[test]
    fn a_server_that_tells_its_limit_is_greeted_at_once() {
        let now = crate::clock::now();
        let mut socket = SocketIo::new(None);
        assert_eq!(socket.poll_timeout(), None);
        let (sends, happened) = hear(&mut socket, OPENING_4, now);
        assert_eq!(sends, ["40"]);
        assert_eq!(happened, []);
        let (sends, happened) = hear(&mut socket, r#"40{"sid":"me","pid":"x"}"#, now);
        assert_eq!(sends, [""; 0]);
        assert_eq!(happened, [connected("me")]);
    }

    #[test]
    fn the_greeting_carries_what_authenticates_us_and_no_log_does() {
        let now = crate::clock::now();
        let mut socket = SocketIo::new(Some(json!({"token": "hunter2"})));
        socket.handle_text(OPENING_4, now);
        assert!(!format!("{socket:?}").contains("hunter2"));
        assert_eq!(sent(&mut socket), [r#"40{"token":"hunter2"}"#]);
    }

    #[test]
    fn an_older_server_that_waits_for_the_greeting_gets_it_150_ms_later() {
        let now = crate::clock::now();
        let mut socket = SocketIo::new(None);
        assert_eq!(hear(&mut socket, OPENING_3, now).0, [""; 0]);
        let at = socket.poll_timeout().unwrap();
        assert_eq!(at, now + GREETING_WAIT);
        socket.handle_timeout(at - MS(1));
        assert_eq!(sent(&mut socket), [""; 0]);
        socket.handle_timeout(at);
        socket.handle_timeout(at);
        assert_eq!(sent(&mut socket), ["40"]);
        let (_, happened) = hear(&mut socket, r#"40{"sid":"me"}"#, at);
        assert_eq!(happened, [connected("me")]);
        assert_eq!(socket.poll_timeout(), Some(at + MS(30_000)), "it pings");
    }

    #[test]
    fn a_server_of_engine_io_3_greets_by_itself_and_is_pinged_by_us() {
        let start = crate::clock::now();
        let mut socket = SocketIo::new(Some(json!({"token": "x"})));
        hear(&mut socket, OPENING_3, start);
        let (sends, happened) = hear(&mut socket, "40", start);
        assert_eq!(sends, [""; 0]);
        assert_eq!(happened, [connected("transport-3")]);
        let mut now = start;
        for _ in 0..3 {
            let at = socket.poll_timeout().unwrap();
            assert_eq!(at, now + MS(25_000));
            now = at;
            socket.handle_timeout(now);
            assert_eq!(sent(&mut socket), ["2"]);
            assert_eq!(hear(&mut socket, "3", now), (Vec::new(), Vec::new()));
        }
    }

    #[test]
    fn a_server_of_engine_io_3_that_greets_late_is_still_understood() {
        let now = crate::clock::now();
        let mut socket = SocketIo::new(None);
        hear(&mut socket, OPENING_3, now);
        socket.handle_timeout(now + GREETING_WAIT);
        assert_eq!(sent(&mut socket), ["40"]);
        let later = now + MS(400);
        assert_eq!(
            hear(&mut socket, "40", later).1,
            [connected("transport-3")],
            "its own greeting"
        );
        assert_eq!(hear(&mut socket, "40", later).1, [], "its answer to ours");
        assert_eq!(socket.poll_timeout(), Some(later + MS(25_000)));
    }

    #[test]
    fn pings_of_the_server_are_answered() {
        let now = crate::clock::now();
        let mut socket = connected_4(now);
        assert_eq!(hear(&mut socket, "2", now).0, ["3"]);
        assert_eq!(hear(&mut socket, "2probe", now).0, ["3probe"]);
        let long = format!("2{}", "x".repeat(1_000));
        assert_eq!(hear(&mut socket, &long, now).0, [""; 0]);
    }

    #[test]
    fn a_silent_server_is_given_up_after_interval_and_timeout() {
        let start = crate::clock::now();
        let mut socket = connected_4(start);
        let heard = start + MS(25_000);
        hear(&mut socket, "2", heard);
        let at = socket.poll_timeout().unwrap();
        assert_eq!(at, heard + MS(45_000));
        socket.handle_timeout(at);
        assert_eq!(events(&mut socket), [disconnected("silent for 45 seconds")]);
        assert_eq!(socket.poll_timeout(), None);
    }

    #[test]
    fn a_server_of_engine_io_3_that_answers_no_ping_is_given_up() {
        let start = crate::clock::now();
        let mut socket = connected_3(start);
        socket.handle_timeout(start + MS(25_000));
        assert_eq!(sent(&mut socket), ["2"]);
        assert_eq!(socket.poll_timeout(), Some(start + MS(30_000)));
        socket.handle_timeout(start + MS(30_000));
        assert_eq!(events(&mut socket), [disconnected("silent for 30 seconds")]);
    }

    #[test]
    fn events_come_with_and_without_arguments_and_acknowledgements() {
        let now = crate::clock::now();
        for (text, expected) in [
            (r#"42["ready"]"#, emitted("ready", &[])),
            (
                r#"42["offer",{"type":"offer","sdp":"v=0\r\n"}]"#,
                emitted("offer", &[json!({"type": "offer", "sdp": "v=0\r\n"})]),
            ),
            (
                r#"4212["candidate",null,"cam"]"#,
                emitted("candidate", &[Value::Null, json!("cam")]),
            ),
            (r#"42/,["joined"]"#, emitted("joined", &[])),
        ] {
            let expected = [expected];
            for mut socket in [connected_4(now), connected_3(now)] {
                assert_eq!(hear(&mut socket, text, now).1, expected, "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_for_us_is_passed_over() {
        let now = crate::clock::now();
        for text in [
            "",
            "3",
            "5",
            "6",
            "7",
            "4",
            "42",
            "42[]",
            "42{}",
            "42[7]",
            "42[\"unfinished",
            "42/admin,[\"ready\"]",
            "42/admin",
            "41/admin,",
            "40/admin,{\"sid\":\"x\"}",
            "40",
            "40{\"sid\":\"again\"}",
            "4312[\"an acknowledgement\"]",
            "44{\"message\":\"an error of a handler\"}",
            "451-[\"picture\",{\"_placeholder\":true,\"num\":0}]",
            "461-12[]",
            "0{\"sid\":\"again\"}",
            "{\"type\":\"ready\"}",
            "é",
            "4é",
        ] {
            let mut socket = connected_4(now);
            let heard = hear(&mut socket, text, now);
            assert_eq!(heard, (Vec::new(), Vec::new()), "{text}");
            assert_eq!(hear(&mut socket, "2", now).0, ["3"], "alive after {text}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let now = crate::clock::now();
        let long = format!(r#"44"{}""#, "é".repeat(1_000));
        for (text, message) in [
            (
                r#"44{"message":"wrong token","data":{"code":1}}"#,
                "wrong token",
            ),
            (r#"44"Authentication error""#, "Authentication error"),
            ("44", "no reason given"),
            (r#"44{"message":7}"#, "no reason given"),
            (&long, &"é".repeat(MAX_REASON_CHARS)),
        ] {
            let mut socket = SocketIo::new(None);
            hear(&mut socket, OPENING_4, now);
            let message = message.to_owned();
            let (_, happened) = hear(&mut socket, text, now);
            assert_eq!(happened, [SocketIoEvent::Refused { message }]);
            assert_eq!(socket.poll_timeout(), None);
        }
    }

    #[test]
    fn after_the_end_nothing_happens() {
        let now = crate::clock::now();
        for (text, reason) in [
            ("41", "the room server disconnected us"),
            ("1", "the room server closed the session"),
        ] {
            let mut socket = connected_4(now);
            assert_eq!(hear(&mut socket, text, now).1, [disconnected(reason)]);
            for text in [text, "2", OPENING_4, r#"42["ready"]"#] {
                assert_eq!(hear(&mut socket, text, now), (Vec::new(), Vec::new()));
            }
            socket.handle_timeout(now + MS(MAX_PING_MS));
            assert_eq!(events(&mut socket), []);
            assert_eq!(socket.poll_timeout(), None);
        }
    }

    #[test]
    fn a_server_that_does_not_open_speaks_something_else() {
        let now = crate::clock::now();
        for text in [r#"{"type":"ready"}"#, "0", "0[]", "0nonsense", "2", "hello"] {
            let mut socket = SocketIo::new(None);
            let (_, happened) = hear(&mut socket, text, now);
            let expected = [disconnected("it does not speak Socket.IO")];
            assert_eq!(happened, expected, "{text}");
        }
    }

    #[test]
    fn absurd_intervals_are_not_believed() {
        let now = crate::clock::now();
        for (written, interval) in [
            ("0", MS(MIN_PING_MS)),
            ("-5", MS(MIN_PING_MS)),
            ("300", MS(300)),
            ("18446744073709551615", MS(MAX_PING_MS)),
            ("1e300", DEFAULT_PING_INTERVAL),
            ("\"soon\"", DEFAULT_PING_INTERVAL),
            ("null", DEFAULT_PING_INTERVAL),
        ] {
            let mut socket = SocketIo::new(None);
            let opening = format!(r#"0{{"sid":"x","pingInterval":{written},"pingTimeout":100}}"#);
            hear(&mut socket, &opening, now);
            hear(&mut socket, "40", now);
            assert_eq!(socket.poll_timeout(), Some(now + interval), "{written}");
        }
    }

    #[test]
    fn everything_a_server_can_fill_is_bounded() {
        let now = crate::clock::now();
        let mut socket = SocketIo::new(None);
        hear(&mut socket, OPENING_4, now);
        let greeting = format!(r#"40{{"sid":"{}"}}"#, "s".repeat(10_000));
        let (_, happened) = hear(&mut socket, &greeting, now);
        assert_eq!(happened, [connected(&"s".repeat(MAX_SID_CHARS))]);
        let many = format!(r#"42["many"{}]"#, ",1".repeat(1_000));
        let (_, happened) = hear(&mut socket, &many, now);
        assert_eq!(happened, [emitted("many", &vec![json!(1); MAX_ARGS])]);
        let long_name = format!(r#"42["{}"]"#, "n".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(hear(&mut socket, &long_name, now).1, []);
        let huge = format!(r#"42["huge","{}"]"#, "x".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(hear(&mut socket, &huge, now).1, []);
        let deep = format!(r#"42["deep",{}]"#, "[".repeat(100_000));
        assert_eq!(hear(&mut socket, &deep, now).1, []);
        for _ in 0..10_000 {
            socket.handle_text("2", now);
            socket.handle_text(r#"42["ready"]"#, now);
        }
        assert_eq!(sent(&mut socket).len(), MAX_PENDING);
        assert_eq!(events(&mut socket).len(), MAX_PENDING);
    }

    #[test]
    fn what_we_say_is_what_servers_read() {
        assert_eq!(event("ready", &["cam".into()]), r#"42["ready","cam"]"#);
        assert_eq!(event("a\"b", &[]), r#"42["a\"b"]"#);
        let args = [json!({"sdp": "v=0\r\n"}), json!("cam")];
        assert_eq!(
            event("offer", &args),
            r#"42["offer",{"sdp":"v=0\r\n"},"cam"]"#
        );
        assert_eq!(disconnect(), "41");
    }

    #[test]
    fn mutated_conversations_do_no_harm() {
        let start = crate::clock::now();
        let conversation = [
            OPENING_4,
            OPENING_3,
            "40",
            r#"40{"sid":"me"}"#,
            "2",
            r#"4212["offer",{"type":"offer","sdp":"v=0\r\n"},"room"]"#,
            "42/admin,[\"é\"]",
            r#"451-["x",{"_placeholder":true,"num":0}]"#,
            r#"44{"message":"no"}"#,
            "3",
            "41",
            "1",
        ];
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % 1_000_003).unwrap() % below
        };
        let mut connections = 0;
        for _ in 0..20_000 {
            let mut socket = SocketIo::new(None);
            let mut now = start;
            for step in 0..8 {
                let mut text = conversation[random(conversation.len())].to_owned();
                if step == 0 {
                    OPENING_4.clone_into(&mut text);
                }
                for _ in 0..random(3) {
                    let mut chars: Vec<char> = text.chars().collect();
                    let at = random(chars.len() + 1);
                    match random(4) {
                        0 => chars.truncate(at),
                        1 if at < chars.len() => drop(chars.remove(at)),
                        2 => chars.insert(at, ['0', '{', '"', ',', '/', '\u{fffd}'][random(6)]),
                        _ => chars.rotate_left(at),
                    }
                    text = chars.into_iter().collect();
                }
                now += MS(random(30_000) as u64);
                socket.handle_text(&text, now);
                socket.handle_timeout(now);
                assert!(socket.poll_timeout().is_none_or(|at| at > now));
                assert!(sent(&mut socket).iter().all(|s| s.len() < 64));
                for event in events(&mut socket) {
                    connections += usize::from(matches!(event, SocketIoEvent::Connected { .. }));
                }
            }
        }
        assert!(
            connections > 1_000,
            "{connections}: the mutations are too wild"
        );
    }
}
