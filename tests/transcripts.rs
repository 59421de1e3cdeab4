//! What is said in each dialect of tutorials, text by text: the device's adapter and the server's half
//! together, compared with whole transcripts.
//!
//! A transcript in `tests/data` has a JSON object in each line: what somebody does (`opens`, `closes`,
//! a page's or the engine's words, `wait_ms`), and after each such line everything that comes of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use roomcam::config::{CallEvents, Dialect};
use roomcam::server::pairing::{Member, Opening, Output, RoomServer};
use roomcam::signaling::dialect::{self, Adapter, Join};
use roomcam::signaling::{CandidateInit, RoomEvent, RoomMessage, ViewerId};
use serde_json::{Value, json};

const DEVICE: &str = "device";

/// Fields of lines that somebody does; all others come of it.
const DEEDS: [&str; 4] = ["opens", "closes", "engine", "wait_ms"];

struct World {
    now: Instant,
    server: RoomServer,
    adapter: Adapter,
    /// Who is connected, by name.
    members: BTreeMap<String, Member>,
    /// How many have been.
    connections: u64,
    devices: u64,
    viewer: Option<ViewerId>,
    transcript: Vec<Value>,
}

impl World {
    fn new(dialect: Dialect) -> Self {
        let join = Join {
            room: "cam".to_owned(),
            ..Join::default()
        };
        Self {
            now: roomcam::clock::now(),
            server: RoomServer::new(dialect, CallEvents::default()).unwrap(),
            adapter: Adapter::new(dialect, join),
            members: BTreeMap::new(),
            connections: 0,
            devices: 0,
            viewer: None,
            transcript: Vec::new(),
        }
    }

    fn perform(&mut self, line: &Value) {
        let fields = line.as_object().unwrap();
        let who = |field: &str| fields.get(field).and_then(Value::as_str);
        let speaks = self
            .members
            .keys()
            .find(|name| name.as_str() != DEVICE && fields.contains_key(name.as_str()));
        if let Some(name) = speaks {
            let text = fields[name.as_str()].as_str().unwrap();
            self.transcript.push(line.clone());
            self.server.handle_text(self.members[name], text, self.now);
        } else if DEEDS.iter().any(|deed| fields.contains_key(*deed)) {
            self.transcript.push(line.clone());
            if let Some(name) = who("opens") {
                self.open(name);
            } else if let Some(name) = who("closes") {
                self.close(name);
            } else if let Some(kind) = who("engine") {
                let message = self.engine_says(kind, line);
                self.adapter.handle_message(&message, self.now);
            } else {
                self.now += Duration::from_millis(line["wait_ms"].as_u64().unwrap());
                self.server.handle_timeout(self.now);
                self.adapter.handle_timeout(self.now);
            }
        }
        self.settle();
    }

    fn open(&mut self, name: &str) {
        self.connections += 1;
        let member = Member(self.connections);
        self.members.insert(name.to_owned(), member);
        let sid = if name == DEVICE {
            self.devices += 1;
            format!("sid-{name}-{}", self.devices)
        } else {
            format!("sid-{name}")
        };
        self.server
            .handle_opened(member, &Opening::websocket(sid), self.now);
        if name == DEVICE {
            self.adapter.handle_connected(self.now);
        }
    }

    fn close(&mut self, name: &str) {
        let member = self.members.remove(name).unwrap();
        self.server.handle_closed(member);
        if name == DEVICE {
            self.adapter.handle_closed();
        }
    }

    fn engine_says(&self, kind: &str, line: &Value) -> RoomMessage {
        let viewer = self.viewer.clone().expect("a viewer to say it to");
        let sdp = line["sdp"].as_str().unwrap_or_default().to_owned();
        match kind {
            "offer" => RoomMessage::Offer { viewer, sdp },
            "answer" => RoomMessage::Answer { viewer, sdp },
            "connected" => RoomMessage::Connected { viewer },
            "candidate" => {
                let candidate = serde_json::from_value(line["candidate"].clone()).unwrap();
                RoomMessage::Candidate { viewer, candidate }
            }
            _ => panic!("the engine says no {kind}"),
        }
    }

    /// Moves texts until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let is_in = self.members.contains_key(DEVICE);
            if let Some(output) = self.server.poll_output() {
                self.take_server_output(output);
            } else if let Some(output) = self.adapter.poll_output().filter(|_| is_in) {
                self.take_adapter_output(output);
            } else {
                return;
            }
        }
    }

    fn take_server_output(&mut self, output: Output) {
        let Output::Send { to, text } = output else {
            panic!("nobody is closed: {output:?}")
        };
        let Some((name, _)) = self.members.iter().find(|(_, member)| **member == to) else {
            return;
        };
        self.transcript.push(json!({format!("to {name}"): text}));
        if name == DEVICE {
            self.adapter.handle_text(&text, self.now);
        }
    }

    fn take_adapter_output(&mut self, output: dialect::Output) {
        match output {
            dialect::Output::Send(text) => {
                self.transcript.push(json!({DEVICE: text}));
                self.server
                    .handle_text(self.members[DEVICE], &text, self.now);
            }
            dialect::Output::Event(event) => {
                let (viewer, event) = told(event);
                self.transcript
                    .push(json!({"event": event, "viewer": viewer.0}));
                self.viewer = Some(viewer);
            }
            dialect::Output::Joined { is_confirmed, .. } => {
                self.transcript
                    .push(json!({"event": "joined", "is_confirmed": is_confirmed}));
            }
            dialect::Output::Rejoin => {
                self.transcript.push(json!({"event": "rejoins"}));
                self.close(DEVICE);
                self.open(DEVICE);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Returns what the engine would hear, and of whom.
fn told(event: RoomEvent) -> (ViewerId, String) {
    let candidate_of = |candidate: CandidateInit| candidate.candidate;
    match event {
        RoomEvent::Call { viewer, is_present } => (viewer, format!("call is_present={is_present}")),
        RoomEvent::ViewerLeft { viewer, on_purpose } => {
            (viewer, format!("left on_purpose={on_purpose}"))
        }
        RoomEvent::Offer { viewer, sdp } => (viewer, format!("offer {} bytes", sdp.len())),
        RoomEvent::Answer { viewer, sdp } => (viewer, format!("answer {} bytes", sdp.len())),
        RoomEvent::Candidate { viewer, candidate } => {
            (viewer, format!("candidate {}", candidate_of(candidate)))
        }
        other => panic!("{other:?}"),
    }
}

/// Does what a transcript's people do, and compares what comes of it.
fn is_as_written(name: &str, dialect: Dialect) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.jsonl"));
    let expected = std::fs::read_to_string(file).unwrap();
    let mut world = World::new(dialect);
    for line in expected.lines() {
        let line = serde_json::from_str(line).unwrap();
        world.perform(&line);
    }
    let told = world.transcript.iter().map(|line| format!("{line}\n"));
    let told: String = told.collect();
    assert!(told == expected, "{name} is not as written, but\n{told}");
}

#[test]
fn ws_rooms_are_as_written() {
    is_as_written("ws-rooms", Dialect::WsRooms);
}

#[test]
fn ws_broadcast_is_as_written() {
    is_as_written("ws-broadcast", Dialect::WsBroadcast);
}

#[test]
fn socketio_rooms_are_as_written() {
    is_as_written("socketio-rooms", Dialect::SocketioRooms);
}

#[test]
fn socketio_calls_are_as_written() {
    is_as_written("socketio-calls", Dialect::SocketioCalls);
}
