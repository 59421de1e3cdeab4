//! The wire protocols of room servers: one file each, with that protocol's texts and rules.
//!
//! An [`Adapter`] turns the server's texts into [`RoomEvent`]s and our [`RoomMessage`]s into texts.
//! Most of these protocols leave open who offers, who is there and who left; what can be known and
//! how long is waited is the adapter's. Connections, their loss and their return are `link.rs`'s;
//! peer connections are the engine's.
//!
//! | file                | server                                                          |
//! |---------------------|-----------------------------------------------------------------|
//! | `roomcam.rs`        | ours: one device, many viewers, keys (`docs/signaling.md`)      |
//! | `ws_rooms.rs`       | JSON over a plain WebSocket, rooms of two                       |
//! | `ws_broadcast.rs`   | JSON over a plain WebSocket, everything to everyone             |
//! | `socketio_rooms.rs` | Socket.IO, rooms of two, the first one in offers                |
//! | `socketio_calls.rs` | Socket.IO, rooms of many who call each other by socket id       |
//! | `ayame.rs`          | OpenAyame, rooms of two                                         |
//! | `pair.rs`           | what the rooms of two have in common                            |
//!
//! Pure.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{IceServer, MAX_MESSAGE_BYTES, RoomEvent, RoomMessage};
use crate::config::{CallEvents, Dialect, Secret};

mod ayame;
mod pair;
mod roomcam;
mod socketio_calls;
mod socketio_rooms;
mod ws_broadcast;
mod ws_rooms;

#[cfg(test)]
mod tests;

/// The code of a refusal because the room has as many inside as it takes.
pub const ROOM_FULL: &str = "room-full";

/// What a device says to enter a room.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// Where.
    pub room: String,
    /// The key that the room server asks of devices.
    pub key: Secret,
    /// A random text that stays the same while this process runs.
    pub instance: String,
    /// Payload of Socket.IO's CONNECT packet: a JSON object, or empty.
    pub auth: Secret,
    /// Names of the events of `socketio-calls`.
    pub events: CallEvents,
}

impl Join {
    /// Returns the payload of Socket.IO's CONNECT packet.
    fn auth(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.auth.expose()).ok()
    }
}

/// What an adapter has to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// To the server.
    Send(String),
    /// We are in the room.
    Joined {
        /// For our peer connections.
        ice_servers: Vec<IceServer>,
        /// The server said so; otherwise its silence is taken for consent.
        is_confirmed: bool,
    },
    /// The server will not have us.
    Refused {
        /// Machine-readable.
        code: String,
        /// For people.
        message: String,
    },
    /// Something the server found wrong, which may be why it closes soon.
    Complaint(String),
    /// Something happened in the room.
    Event(RoomEvent),
    /// Our place is of no use any more, as it happens in this protocol: connect and join anew.
    Rejoin,
    /// The server ended it, and why. Connect and join anew.
    Lost {
        /// For people.
        reason: String,
    },
}

/// How the device speaks one dialect in one room. Outlives the connections.
#[derive(Debug)]
pub enum Adapter {
    /// See [`Dialect::Roomcam`].
    Roomcam(roomcam::Roomcam),
    /// See [`Dialect::WsRooms`].
    WsRooms(ws_rooms::WsRooms),
    /// See [`Dialect::WsBroadcast`].
    WsBroadcast(ws_broadcast::WsBroadcast),
    /// See [`Dialect::SocketioRooms`].
    SocketioRooms(socketio_rooms::SocketioRooms),
    /// See [`Dialect::SocketioCalls`].
    SocketioCalls(socketio_calls::SocketioCalls),
    /// See [`Dialect::Ayame`].
    Ayame(ayame::Ayame),
}

/// Calls a method of whichever adapter it is: they all have the same ones.
macro_rules! each {
    ($adapter:expr, $it:ident => $call:expr) => {
        match $adapter {
            Adapter::Roomcam($it) => $call,
            Adapter::WsRooms($it) => $call,
            Adapter::WsBroadcast($it) => $call,
            Adapter::SocketioRooms($it) => $call,
            Adapter::SocketioCalls($it) => $call,
            Adapter::Ayame($it) => $call,
        }
    };
}

impl Adapter {
    /// Creates the adapter of a device that has not been in its room yet.
    #[must_use]
    pub fn new(dialect: Dialect, join: Join) -> Self {
        match dialect {
            Dialect::Roomcam => Self::Roomcam(roomcam::Roomcam::new(join)),
            Dialect::WsRooms => Self::WsRooms(ws_rooms::WsRooms::new(join)),
            Dialect::WsBroadcast => Self::WsBroadcast(ws_broadcast::WsBroadcast::new()),
            Dialect::SocketioRooms => Self::SocketioRooms(socketio_rooms::SocketioRooms::new(join)),
            Dialect::SocketioCalls => Self::SocketioCalls(socketio_calls::SocketioCalls::new(join)),
            Dialect::Ayame => Self::Ayame(ayame::Ayame::new(join)),
        }
    }

    /// Takes note of a new connection: enter the room.
    pub fn handle_connected(&mut self, now: Instant) {
        each!(self, it => it.handle_connected(now));
    }

    /// Takes note that the connection is gone. Viewers' media may go on.
    pub fn handle_closed(&mut self) {
        each!(self, it => it.handle_closed());
    }

    /// Takes a text of the server. One that is too large, or makes no sense, is ignored.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        if text.len() <= MAX_MESSAGE_BYTES {
            each!(self, it => it.handle_text(text, now));
        }
    }

    /// Returns whether a binary message may be a text: `ws` 8 relays what it is given in that form.
    #[must_use]
    pub const fn reads_binary(&self) -> bool {
        !matches!(self, Self::SocketioRooms(_) | Self::SocketioCalls(_))
    }

    /// Takes a message of the engine.
    pub fn handle_message(&mut self, message: &RoomMessage, now: Instant) {
        each!(self, it => it.handle_message(message, now));
    }

    /// Says good-bye, as far as the protocol knows one.
    pub fn handle_leave(&mut self) {
        each!(self, it => it.handle_leave());
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        each!(self, it => it.handle_timeout(now));
    }

    /// Returns when [`Self::handle_timeout`] next has work, or `None` while nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        each!(self, it => it.poll_timeout())
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        each!(self, it => it.poll_output())
    }
}

/// A session description as browsers write it (`RTCSessionDescriptionInit`, WebRTC §4.6.2).
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    sdp: String,
}

impl Description {
    fn offer(sdp: &str) -> Self {
        Self {
            kind: "offer".to_owned(),
            sdp: sdp.to_owned(),
        }
    }

    fn answer(sdp: &str) -> Self {
        Self {
            kind: "answer".to_owned(),
            sdp: sdp.to_owned(),
        }
    }
}

fn to_text(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}
