//! The configuration file: one struct tree, every key with its default, nothing ignored.
//!
//! `config/roomcam.toml` documents the same keys for people; a test asserts that it parses to
//! [`Config::default`]. A key that is wrong ends with its line number and the legal values.

use std::path::PathBuf;

use serde::Deserialize;

use crate::keys::KeyError;

mod control;
mod credentials;
mod csi;
mod format;
mod media;
mod parse;
mod ranges;
mod room;
mod secret;
mod server;
mod talkback;
#[cfg(test)]
mod tests;
mod webrtc;

pub use control::Control;
pub use credentials::{Auth, Headers};
pub use csi::{Csi, CsiMode};
pub use format::CameraFormat;
pub use media::{Audio, Video};
pub use room::{CallEvents, Dialect, ROOM_NAME_RULE, Room, is_room_name};
pub use secret::Secret;
pub use server::{Server, TutorialDialect};
pub use talkback::{Duplex, Talkback};
pub use webrtc::{Latency, Turn, WebRtc};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Pictures in.
    pub video: Video,
    /// Sound in.
    pub audio: Audio,
    /// Which room the device is in.
    pub room: Room,
    /// The embedded room server.
    pub server: Server,
    /// Media to viewers.
    pub webrtc: WebRtc,
    /// What viewers may do.
    pub control: Control,
    /// Whether viewers may speak.
    pub talkback: Talkback,
}

impl Config {
    /// Returns whether the name of a room lets in whoever knows it: then no log says it.
    #[must_use]
    pub fn room_is_secret(&self) -> bool {
        !self.server.tutorial_dialects.is_empty()
            || !matches!(self.room.dialect, Dialect::Roomcam | Dialect::Ayame)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what this program understands. The message carries line and column.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, what is wrong, and the legal values.
        message: String,
    },
    /// A value is out of its range.
    #[error("{key} = {value} is out of range: {legal}")]
    Range {
        /// E.g. `video.fps`.
        key: &'static str,
        /// What was configured.
        value: String,
        /// The legal values, in words.
        legal: &'static str,
    },
    /// A secret that systemd handed over cannot be read.
    #[error(transparent)]
    Credential(#[from] KeyError),
    /// A header that cannot be sent to a room server.
    #[error("room.headers: {name}: {problem}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}
