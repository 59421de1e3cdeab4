//! The room servers that tutorials build, as machines, and how one of them becomes a viewer's.
//!
//! A [`RoomServer`] is what other people run, faithfully: texts of its members in, texts to its members
//! out. [`private::Pairing`] gives each tutorial page a room server of its own with two members, the page
//! and a *virtual device*: the very adapter that the daemon uses on other people's servers. What that
//! one hears from the page becomes what a viewer says in our own rooms, and the other way round.
//!
//! | file                | what                                                             |
//! |---------------------|------------------------------------------------------------------|
//! | `ws_rooms.rs`       | JSON over a plain WebSocket, rooms of two                        |
//! | `ws_broadcast.rs`   | JSON over a plain WebSocket, everything to everyone              |
//! | `socketio.rs`       | the server's end of Socket.IO, for both of                       |
//! | `socketio_rooms.rs` | rooms of two, the first one in offers                            |
//! | `socketio_calls.rs` | rooms of many who call each other by socket id                   |
//! | `payload.rs`        | Engine.IO's texts where there is no WebSocket yet                |
//! | `private.rs`        | a page and the device, each in its own world                     |
//!
//! Pure.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use crate::config::{CallEvents, Dialect};
use crate::signaling::MAX_MESSAGE_BYTES;

pub mod payload;
pub mod private;
pub mod socketio;
mod socketio_calls;
mod socketio_rooms;
mod ws_broadcast;
mod ws_rooms;

/// How many members a server has at most; who comes then is not heard.
pub const MAX_MEMBERS: usize = 64;

/// In how many rooms a member is at most; wishes for more are passed over.
pub const MAX_ROOMS_PER_MEMBER: usize = 16;

/// Longest name of a room, in bytes.
pub const MAX_ROOM_NAME_BYTES: usize = 128;

/// One connection to a server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Member(pub u64);

/// How a member's connection begins. Plain WebSockets have nothing of this.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Engine.IO's name for the connection, and Socket.IO's: random, for it is a secret where
    /// requests carry it.
    pub sid: String,
    /// The version of Engine.IO that the member asked for.
    pub version: EngineIo,
    /// Whether the member begins without a WebSocket, and may go over to one.
    pub may_upgrade: bool,
}

/// Versions of Engine.IO.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EngineIo {
    /// Clients 2 of Socket.IO: they ping, and are connected unasked.
    V3,
    /// Clients 3 and 4: the server pings, and they ask to be connected.
    V4,
}

impl Opening {
    /// How a connection begins that is a WebSocket from the start.
    #[must_use]
    pub const fn websocket(sid: String) -> Self {
        Self {
            sid,
            version: EngineIo::V4,
            may_upgrade: false,
        }
    }
}

/// Something to do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send a text.
    Send {
        /// To whom.
        to: Member,
        /// What.
        text: String,
    },
    /// Close a member's connection, once everything so far is sent.
    Close {
        /// Whose.
        member: Member,
    },
}

/// One room server.
#[derive(Debug)]
pub enum RoomServer {
    /// See [`Dialect::WsRooms`].
    WsRooms(ws_rooms::WsRooms),
    /// See [`Dialect::WsBroadcast`].
    WsBroadcast(ws_broadcast::WsBroadcast),
    /// See [`Dialect::SocketioRooms`] and [`Dialect::SocketioCalls`].
    SocketIo(Box<socketio::Server>),
}

impl RoomServer {
    /// Creates a server without members; `None` for dialects that no tutorial has.
    #[must_use]
    pub fn new(dialect: Dialect, events: CallEvents) -> Option<Self> {
        match dialect {
            Dialect::WsRooms => Some(Self::WsRooms(ws_rooms::WsRooms::default())),
            Dialect::WsBroadcast => Some(Self::WsBroadcast(ws_broadcast::WsBroadcast::default())),
            Dialect::SocketioRooms | Dialect::SocketioCalls => {
                let mut server = socketio::Server::new(events);
                server.decide(dialect);
                Some(Self::SocketIo(Box::new(server)))
            }
            Dialect::Roomcam | Dialect::Ayame => None,
        }
    }

    /// Takes a new member.
    pub fn handle_opened(&mut self, member: Member, opening: &Opening, now: Instant) {
        match self {
            Self::WsRooms(server) => server.handle_opened(member),
            Self::WsBroadcast(server) => server.handle_opened(member),
            Self::SocketIo(server) => server.handle_opened(member, opening, now),
        }
    }

    /// Takes a text of a member. One that is too large, or makes no sense, is passed over.
    pub fn handle_text(&mut self, member: Member, text: &str, now: Instant) {
        if text.len() > MAX_MESSAGE_BYTES {
            return;
        }
        match self {
            Self::WsRooms(server) => server.handle_text(member, text),
            Self::WsBroadcast(server) => server.handle_text(member, text),
            Self::SocketIo(server) => server.handle_text(member, text, now),
        }
    }

    /// Takes note that a member's connection is gone.
    pub fn handle_closed(&mut self, member: Member) {
        match self {
            Self::WsRooms(server) => server.handle_closed(member),
            Self::WsBroadcast(server) => server.handle_closed(member),
            Self::SocketIo(server) => server.handle_closed(member),
        }
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Self::SocketIo(server) = self {
            server.handle_timeout(now);
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work, or `None` while nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::WsRooms(_) | Self::WsBroadcast(_) => None,
            Self::SocketIo(server) => server.poll_timeout(),
        }
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::WsRooms(server) => server.outputs.pop_front(),
            Self::WsBroadcast(server) => server.outputs.pop_front(),
            Self::SocketIo(server) => server.poll_output(),
        }
    }

    /// Returns the room that `text` of a member asks to enter, if it does.
    #[must_use]
    pub fn room_wanted(&self, text: &str) -> Option<String> {
        match self {
            Self::WsRooms(_) => ws_rooms::room_wanted(text),
            Self::WsBroadcast(_) => None,
            Self::SocketIo(server) => server.room_wanted(text),
        }
    }
}

fn send(outputs: &mut VecDeque<Output>, to: Member, text: impl Into<String>) {
    let text = text.into();
    outputs.push_back(Output::Send { to, text });
}

/// Returns the name of a room, if `value` may be one.
fn room_of(value: &Value) -> Option<&str> {
    let name = value.as_str()?;
    (1..=MAX_ROOM_NAME_BYTES)
        .contains(&name.len())
        .then_some(name)
}
