//! `[room]`: which room the device is in, and what is spoken there.
//!
//! Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Auth, Headers, Secret};

/// What a room may be called, in words.
pub const ROOM_NAME_RULE: &str = "1 to 64 letters, digits, '-', '_' or '.'";

/// Most rooms a device is in.
const MAX_ROOMS: usize = 16;

/// `[room]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Room {
    /// URL of a foreign room server; empty for the embedded one.
    pub server: String,
    /// The wire protocol of that server.
    pub dialect: Dialect,
    /// Name of the room.
    pub name: String,
    /// Several rooms instead of the one of `name`, all fed by one encoder.
    pub rooms: Vec<String>,
    /// Event names of `socketio-calls`.
    pub events: CallEvents,
    /// The key viewers must know; empty: made at the first start and kept in the state directory.
    pub key: Secret,
    /// Headers of the HTTP request that opens the WebSocket to a foreign room server.
    pub headers: Headers,
    /// What a Socket.IO server is told of us when we connect.
    pub auth: Auth,
    /// PEM file with further CAs that may sign the room server's certificate; empty: the system's.
    pub ca_file: PathBuf,
}

/// Wire protocols of room servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// The protocol of the embedded server, `docs/signaling.md`.
    #[default]
    Roomcam,
    /// JSON over a plain WebSocket, rooms of two, who offers is not defined.
    WsRooms,
    /// JSON over a plain WebSocket, everything to everyone.
    WsBroadcast,
    /// Socket.IO, rooms of two, the first one in offers.
    SocketioRooms,
    /// Socket.IO, rooms of many who call each other by socket id.
    SocketioCalls,
    /// OpenAyame.
    Ayame,
}

/// `[room.events]`: names of the events of the dialect `socketio-calls`. People rename them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct CallEvents {
    /// Enters a room, and is echoed.
    pub join: String,
    /// Somebody else entered.
    pub joined: String,
    /// A first offer, as it is sent.
    pub call: String,
    /// A first offer, as it arrives.
    pub incoming: String,
    /// The answer to it, both ways.
    pub accepted: String,
    /// A later offer, both ways.
    pub renegotiate: String,
    /// The answer to that, as it is sent.
    pub renegotiated: String,
    /// The same as it arrives.
    pub finished: String,
    /// A candidate, both ways.
    pub candidate: String,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            server: String::new(),
            dialect: Dialect::Roomcam,
            name: "cam".to_owned(),
            rooms: Vec::new(),
            events: CallEvents::default(),
            key: Secret::default(),
            headers: Headers::default(),
            auth: Auth::default(),
            ca_file: PathBuf::new(),
        }
    }
}

impl Default for CallEvents {
    fn default() -> Self {
        let name = str::to_owned;
        Self {
            join: name("room:join"),
            joined: name("user:joined"),
            call: name("user:call"),
            incoming: name("incomming:call"), // as that server spells it
            accepted: name("call:accepted"),
            renegotiate: name("peer:nego:needed"),
            renegotiated: name("peer:nego:done"),
            finished: name("peer:nego:final"),
            candidate: name("peer:ice:candidate"),
        }
    }
}

impl Room {
    /// Returns whether the rooms have different names that may be ones; there is only one bus.
    pub(super) fn has_good_rooms(&self) -> bool {
        let different: BTreeSet<_> = self.rooms.iter().collect();
        let max = match self.dialect {
            Dialect::WsBroadcast => 1,
            _ => MAX_ROOMS,
        };
        different.len() == self.rooms.len()
            && self.rooms.len() <= max
            && self.rooms.iter().all(|r| self.dialect.is_room_name(r))
    }

    /// Returns the name of the room that is shown where there is place for one.
    #[must_use]
    pub fn first_name(&self) -> &str {
        self.rooms.first().unwrap_or(&self.name)
    }

    /// Returns the names of all rooms the device is in.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let only = self.rooms.is_empty().then_some(&self.name);
        self.rooms.iter().chain(only)
    }
}

impl Dialect {
    /// Returns whether `name` may name a room there. Other people's servers take any text.
    #[must_use]
    pub fn is_room_name(self, name: &str) -> bool {
        match self {
            Self::Roomcam => is_room_name(name),
            _ => (1..=128).contains(&name.len()) && !name.chars().any(char::is_control),
        }
    }
}

/// Returns whether `name` may name a room: [`ROOM_NAME_RULE`].
#[must_use]
pub fn is_room_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
