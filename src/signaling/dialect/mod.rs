//! What every dialect has to say: one file per wire protocol of room servers.
//!
//! A dialect turns texts into [`Incoming`] and messages into texts, and has no state: when to say
//! what is `link.rs`'s.

use super::{IceServer, RoomEvent, RoomMessage, ViewerId};
use crate::config::{Dialect, Secret};

pub mod roomcam;

/// What a device says to enter a room.
#[derive(Clone, Debug)]
pub struct Join {
    /// Where.
    pub room: String,
    /// The key that the room server asks of devices.
    pub key: Secret,
    /// A random text that stays the same while this process runs.
    pub instance: String,
}

/// What a room server said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// We are in the room.
    Joined {
        /// For our peer connections.
        ice_servers: Vec<IceServer>,
        /// Who is there already.
        viewers: Vec<ViewerId>,
    },
    /// An error of the server's.
    Error {
        /// Machine-readable.
        code: String,
        /// For people.
        message: String,
    },
    /// Something happened in the room.
    Event(RoomEvent),
    /// Nothing that concerns us, or nothing we understand.
    Ignored,
}

impl Dialect {
    /// Returns the text that enters a room.
    #[must_use]
    pub fn join(self, join: &Join) -> String {
        match self {
            Self::Roomcam => roomcam::join(join),
            _ => String::new(),
        }
    }

    /// Returns the text that leaves the room.
    #[must_use]
    pub fn bye(self) -> String {
        match self {
            Self::Roomcam => roomcam::bye(),
            _ => String::new(),
        }
    }

    /// Reads a text of the server.
    #[must_use]
    pub fn decode(self, text: &str) -> Incoming {
        match self {
            Self::Roomcam => roomcam::decode(text),
            _ => Incoming::Ignored,
        }
    }

    /// Returns the text of a message.
    #[must_use]
    pub fn encode(self, message: &RoomMessage) -> String {
        match self {
            Self::Roomcam => roomcam::encode(message),
            _ => String::new(),
        }
    }
}
