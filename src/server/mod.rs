//! The embedded room server: the page, and the rooms in which viewers and devices meet.
//!
//! `rooms.rs` decides who is where and what is passed on to whom, `protocol.rs` has the texts,
//! `guesses.rs`, `guard.rs` and `places.rs` keep strangers out; `clients.rs` has the task that owns the rooms,
//! and their clients; `pairing/` and `pages.rs` have what tutorial pages speak, `whep.rs` what players do that
//! know WHEP alone; `http.rs` and `engineio.rs` listen, `websocket.rs` moves the texts. Speaks
//! `docs/signaling.md` and `docs/whep.md`. No TLS: that is for a proxy in front.

use std::net::SocketAddr;

use crate::config::Secret;
use crate::turn::credentials::IceServers;
use pairing::private::Tutorials;

pub mod clients;
pub mod engineio;
pub mod guard;
pub mod guesses;
pub mod http;
pub mod pages;
pub mod pairing;
pub mod places;
pub mod protocol;
pub mod rooms;
pub mod websocket;
pub mod whep;

pub use http::Server;

/// Shortest name of a room that keeps strangers out, in bytes: what nobody guesses at ten a second.
const MIN_ROOM_NAME_BYTES: usize = 16;

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What viewers must know.
    pub viewer_key: Secret,
    /// What devices must know. Another one: who may watch must not be able to pose as the camera.
    pub device_key: Secret,
    /// Origins of other sites' pages that may connect, e.g. `https://example.org`. Their hosts are
    /// also names by which a proxy may ask a server that listens on loopback.
    pub allowed_origins: Vec<String>,
    /// Handed out to whoever joined.
    pub ice_servers: IceServers,
    /// What pages of tutorials may speak.
    pub tutorials: Tutorials,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A server without a key would be open to all.
    #[error("the key of {whose} is empty: no room server without one")]
    EmptyKey {
        /// `viewers` or `devices`.
        whose: &'static str,
    },
    /// Who may watch could pose as the camera.
    #[error("viewers and devices have the same key: choose another for one of them")]
    SameKey,
    /// An allowed origin is none.
    #[error("{origin:?} is no origin: write it as \"https://example.org\"")]
    BadOrigin {
        /// As configured.
        origin: String,
    },
    /// Who guesses the name of a room may watch.
    #[error(
        "{listen} can be reached from elsewhere, and with server.tutorial_dialects a room's name is all that \
         one must know to watch: give room.name at least {MIN_ROOM_NAME_BYTES} characters, hard to guess, \
         or listen on 127.0.0.1"
    )]
    ShortRoomName {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// Everybody may watch.
    #[error(
        "{listen} can be reached from elsewhere, and \"ws-broadcast\" asks nothing of who wants to watch: \
         take it out of server.tutorial_dialects, or listen on 127.0.0.1"
    )]
    OpenBroadcast {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// Who guesses the name of a room may watch, from a page or through a proxy that is let in.
    #[error(
        "{origin:?} in server.allowed_origins lets in others than this machine's people, and with \
         server.tutorial_dialects a room's name is all that one must know to watch: give room.name at least \
         {MIN_ROOM_NAME_BYTES} characters, hard to guess, or take the origin out"
    )]
    ShortRoomNameForOrigin {
        /// As configured.
        origin: String,
    },
    /// Everybody may watch, from a page or through a proxy that is let in.
    #[error(
        "{origin:?} in server.allowed_origins lets in others than this machine's people, and \"ws-broadcast\" \
         asks nothing of who wants to watch: take one of them out of the configuration"
    )]
    OpenBroadcastForOrigin {
        /// As configured.
        origin: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {remedy}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What to do.
        remedy: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ServerError {
    /// Returns whether only another configuration helps; a port may come free.
    #[must_use]
    pub const fn is_wrong_configuration(&self) -> bool {
        !matches!(self, Self::Listen { .. })
    }
}
