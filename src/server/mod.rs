//! The embedded room server: the page, and the rooms in which viewers and devices meet.
//!
//! `rooms.rs` decides who is where and what is passed on to whom, `protocol.rs` has the texts,
//! `guesses.rs`, `guard.rs` and `places.rs` keep strangers out; `clients.rs` has the task that owns the rooms,
//! and their clients; `http.rs` listens, `websocket.rs` moves the texts. Speaks `docs/signaling.md`;
//! `whep.rs` speaks it for players that know only WHEP (`docs/whep.md`). No TLS: that is for a proxy in front.

use std::net::SocketAddr;

use crate::config::Secret;
use crate::turn::credentials::IceServers;

pub mod clients;
pub mod guard;
pub mod guesses;
pub mod http;
pub mod places;
pub mod protocol;
pub mod rooms;
pub mod websocket;
pub mod whep;

pub use http::Server;

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
