//! What the tests of all adapters share: a room server that is played by the test.

use std::time::{Duration, Instant};

use super::{Adapter, Join, Output};
use crate::config::{Dialect, Secret};
use crate::signaling::{CandidateInit, RoomEvent, RoomMessage, ViewerId};

pub(super) struct Played {
    pub(super) adapter: Adapter,
    pub(super) now: Instant,
}

impl Played {
    /// A device that has just been connected, and has said what it says first.
    pub(super) fn connected(dialect: Dialect) -> (Self, Vec<Output>) {
        let join = Join {
            room: "cam".to_owned(),
            key: Secret::new("k".to_owned()),
            instance: "i".to_owned(),
            ..Join::default()
        };
        let mut played = Self {
            adapter: Adapter::new(dialect, join),
            now: crate::clock::now(),
        };
        let outputs = played.reconnect();
        (played, outputs)
    }

    pub(super) fn reconnect(&mut self) -> Vec<Output> {
        self.adapter.handle_connected(self.now);
        self.drain()
    }

    /// The server says `text`.
    pub(super) fn hear(&mut self, text: &str) -> Vec<Output> {
        self.adapter.handle_text(text, self.now);
        self.drain()
    }

    /// The engine says `message`.
    pub(super) fn say(&mut self, message: &RoomMessage) -> Vec<Output> {
        self.adapter.handle_message(message, self.now);
        self.drain()
    }

    /// Nothing is said for `time`. Returns when what was done.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<(Duration, Output)> {
        let start = self.now;
        let end = start + time;
        let mut seen = Vec::new();
        while let Some(at) = self.adapter.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.adapter.handle_timeout(self.now);
            let passed = self.now - start;
            seen.extend(self.drain().into_iter().map(|output| (passed, output)));
        }
        self.now = end;
        seen
    }

    pub(super) fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.adapter.poll_output()).collect()
    }
}

pub(super) fn viewer(id: &str) -> ViewerId {
    ViewerId(id.to_owned())
}

pub(super) fn call(id: &str) -> Output {
    Output::Event(RoomEvent::Call {
        viewer: viewer(id),
        is_present: true,
    })
}

pub(super) fn left(id: &str) -> Output {
    Output::Event(RoomEvent::ViewerLeft {
        viewer: viewer(id),
        on_purpose: true,
    })
}

pub(super) fn offered(id: &str, sdp: &str) -> Output {
    Output::Event(RoomEvent::Offer {
        viewer: viewer(id),
        sdp: sdp.to_owned(),
    })
}

pub(super) fn answered(id: &str, sdp: &str) -> Output {
    Output::Event(RoomEvent::Answer {
        viewer: viewer(id),
        sdp: sdp.to_owned(),
    })
}

pub(super) fn send(text: &str) -> Output {
    Output::Send(text.to_owned())
}

pub(super) fn joined(is_confirmed: bool) -> Output {
    Output::Joined {
        ice_servers: Vec::new(),
        is_confirmed,
    }
}

pub(super) fn offer_to(id: &str) -> RoomMessage {
    RoomMessage::Offer {
        viewer: viewer(id),
        sdp: "ours".to_owned(),
    }
}

pub(super) fn answer_to(id: &str) -> RoomMessage {
    RoomMessage::Answer {
        viewer: viewer(id),
        sdp: "ours".to_owned(),
    }
}

/// A candidate without an m-line, as it comes from the engine's STUN servers.
pub(super) fn candidate_to(id: &str, candidate: &str) -> RoomMessage {
    RoomMessage::Candidate {
        viewer: viewer(id),
        candidate: CandidateInit {
            candidate: candidate.to_owned(),
            ..CandidateInit::default()
        },
    }
}

/// Texts that no server should send, and more of them.
pub(super) fn junk() -> Vec<String> {
    let mut junk: Vec<String> = [
        "",
        "null",
        "[]",
        "7",
        "{",
        "\"offer\"",
        "42",
        "42[",
        "42[]",
        "42[null]",
        "42[7,7]",
        r#"42["offer"]"#,
        r#"42["offer",null]"#,
        r#"42["answer",{"type":"answer"}]"#,
        r#"42["candidate",null]"#,
        r#"42["incomming:call",{"from":7}]"#,
        r#"42["incomming:call",{"from":"s-1","offer":{"type":"answer","sdp":"x"}}]"#,
        r#"42["user:joined",{"id":""}]"#,
        r#"{"type":"offer"}"#,
        r#"{"type":"offer","offer":null}"#,
        r#"{"type":"offer","offer":{"type":"offer"}}"#,
        r#"{"type":"answer","answer":{"type":"answer","sdp":"x"}}"#,
        r#"{"type":"candidate","candidate":null}"#,
        r#"{"type":"candidate","candidate":{"candidate":7}}"#,
        r#"{"type":"weather"}"#,
        r#"{"sdp":null}"#,
        r#"{"sdp":{"type":"answer","sdp":"x"},"candidate":1}"#,
        r#"{"candidate":{"candidate":""}}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    junk.push("[".repeat(100_000));
    junk.push(format!(
        r#"{{"type":"ready","x":"{}"}}"#,
        "x".repeat(crate::signaling::MAX_MESSAGE_BYTES)
    ));
    junk
}
