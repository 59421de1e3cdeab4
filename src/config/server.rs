//! `[server]`: the embedded room server.
//!
//! Pure.

use std::net::SocketAddr;

use serde::Deserialize;

use super::{Dialect, Secret};

/// `[server]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port of the page and the room server.
    pub listen: SocketAddr,
    /// The key devices must know to enter a room of `roomcam serve`; empty: made at the first start
    /// and kept in the state directory.
    pub device_key: Secret,
    /// Origins of other sites' pages that may connect, e.g. `https://example.org`.
    pub allowed_origins: Vec<String>,
    /// What pages of tutorials may speak at the embedded server.
    pub tutorial_dialects: Vec<TutorialDialect>,
}

/// Wire protocols of tutorials, as far as the embedded server speaks them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum TutorialDialect {
    /// [`Dialect::WsRooms`].
    WsRooms,
    /// [`Dialect::WsBroadcast`].
    WsBroadcast,
    /// [`Dialect::SocketioRooms`].
    SocketioRooms,
    /// [`Dialect::SocketioCalls`].
    SocketioCalls,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            device_key: Secret::default(),
            allowed_origins: Vec::new(),
            tutorial_dialects: Vec::new(),
        }
    }
}

impl From<TutorialDialect> for Dialect {
    fn from(dialect: TutorialDialect) -> Self {
        match dialect {
            TutorialDialect::WsRooms => Self::WsRooms,
            TutorialDialect::WsBroadcast => Self::WsBroadcast,
            TutorialDialect::SocketioRooms => Self::SocketioRooms,
            TutorialDialect::SocketioCalls => Self::SocketioCalls,
        }
    }
}
