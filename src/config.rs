//! The configuration file: one struct tree, every key with its default, nothing ignored.
//!
//! `config/roomcam.toml` documents the same keys for people; a test asserts that it parses to
//! [`Config::default`]. A key that is wrong ends with its line number and the legal values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::keys::KeyError;
use crate::signaling::IceServer;
use crate::turn::url::{TurnUrl, stun_host};

mod credentials;
mod csi;
mod format;
mod talkback;

pub use credentials::{Auth, Headers};
pub use csi::{Csi, CsiMode};
pub use format::CameraFormat;
pub use talkback::{Duplex, Talkback};

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

/// `[video]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Video {
    /// `auto`, a device path, a by-id name, a card name, `csi`, `pattern`, `file:PATH` or `none`.
    pub source: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Target of the encoder, in 1000 bit/s.
    pub bitrate_kbps: u32,
    /// Which of a V4L2 camera's formats is taken.
    pub format: CameraFormat,
    /// What encodes raw pictures: `auto`, `software`, or the path of a hardware encoder.
    pub encoder: String,
    /// The CSI camera behind libcamera.
    pub csi: Csi,
}

/// `[audio]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Audio {
    /// `auto`, a sound card's id or a part of its name, an ALSA PCM name, `tone` or `none`.
    pub source: String,
    /// Target of the Opus encoder, in 1000 bit/s.
    pub bitrate_kbps: u32,
}

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

/// `[webrtc]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct WebRtc {
    /// The UDP port of all viewers; 0: any free one.
    pub udp_port: u16,
    /// Addresses to offer instead of this machine's own (port forwarding, NAT 1:1).
    pub advertised_addresses: Vec<IpAddr>,
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// TURN servers of one's own.
    pub turn: Turn,
    /// Names of the network interfaces to offer; empty: all that lead anywhere.
    pub interfaces: Vec<String>,
    /// How many may watch at once.
    pub max_viewers: usize,
    /// What is traded for latency.
    pub latency: Latency,
}

/// `[webrtc.turn]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// `turn:host:port?transport=udp`, `turns:host:port`, …; empty: none.
    pub urls: Vec<String>,
    /// A user of these servers.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// Instead of both: the secret of coturn's `use-auth-secret`, from which they are minted.
    pub secret: Secret,
    /// How long minted credentials are good for, in seconds.
    pub lifetime_s: u64,
}

/// What the browser's jitter buffer is asked to do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// Show every picture at once (playout-delay 0/0); a bad network shows as stutter.
    Low,
    /// Picture and sound in streams of their own, each as early as its network allows.
    #[default]
    Balanced,
    /// One stream: lips and sound together, the earlier waits for the later.
    Smooth,
}

/// `[control]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Whether the camera is on when the daemon starts.
    pub camera: bool,
    /// Whether the microphone is muted when the daemon starts.
    pub muted: bool,
    /// How long camera and microphone stay open after the last viewer left, in seconds.
    pub idle_timeout_s: u64,
}

impl Default for Video {
    fn default() -> Self {
        Self {
            source: "auto".to_owned(),
            width: 1280,
            height: 720,
            fps: 30,
            bitrate_kbps: 2_000,
            format: CameraFormat::Auto,
            encoder: "auto".to_owned(),
            csi: Csi::default(),
        }
    }
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            source: "auto".to_owned(),
            bitrate_kbps: 32,
        }
    }
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

impl Default for WebRtc {
    fn default() -> Self {
        Self {
            udp_port: 0,
            advertised_addresses: Vec::new(),
            ice_servers: Vec::new(),
            turn: Turn::default(),
            interfaces: Vec::new(),
            max_viewers: 8,
            latency: Latency::Balanced,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            username: String::new(),
            password: Secret::default(),
            secret: Secret::default(),
            lifetime_s: 43_200,
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self {
            camera: true,
            muted: false,
            idle_timeout_s: 10,
        }
    }
}

impl Config {
    /// Returns whether the name of a room lets in whoever knows it: then no log says it.
    #[must_use]
    pub fn room_is_secret(&self) -> bool {
        !self.server.tutorial_dialects.is_empty()
            || !matches!(self.room.dialect, Dialect::Roomcam | Dialect::Ayame)
    }
}

impl Room {
    /// Returns whether the rooms have different names that may be ones; there is only one bus.
    fn has_good_rooms(&self) -> bool {
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

impl Video {
    /// Returns whether there is a source at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.source != "none"
    }
}

impl Audio {
    /// Returns whether there is a source at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.source != "none"
    }
}

impl Control {
    /// Returns how long camera and microphone stay open after the last viewer left.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}

/// A key or password. Never shown: `Debug` prints `***`.
#[derive(Clone, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text itself. Not for logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether nothing was configured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in time that depends on the lengths alone.
    #[must_use]
    pub fn matches(&self, candidate: &str) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "***" })
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

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`]; none heals by itself.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config = Self::parse(&text).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })?;
        config.check()?;
        Ok(config)
    }

    /// Parses the text of a configuration file; the error names line and column.
    ///
    /// # Errors
    ///
    /// A message for people, over several lines.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            // Without the line itself, which may hold a key.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            format!(
                "line {line}: {}",
                quote_no_secret(text, line, error.message())
            )
        })
    }

    /// Checks the ranges of all values.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Range`] for the first value that is out of its range, or
    /// [`ConfigError::Header`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let even = |n: u32| n.is_multiple_of(2);
        let v = &self.video;
        let (room_rule, rooms_rule) = match self.room.dialect {
            Dialect::Roomcam => (
                ROOM_NAME_RULE,
                "at most 16 different rooms, each of 1 to 64 letters, digits, '-', '_' or '.'",
            ),
            _ => (
                "1 to 128 bytes, no control characters",
                "at most 16 different rooms (for ws-broadcast: one), each of 1 to 128 bytes, no control characters",
            ),
        };
        let checks: [(&'static str, String, bool, &'static str); 12] = [
            (
                "video.width",
                v.width.to_string(),
                (64..=3840).contains(&v.width) && even(v.width),
                "an even number from 64 to 3840",
            ),
            (
                "video.height",
                v.height.to_string(),
                (64..=2160).contains(&v.height) && even(v.height),
                "an even number from 64 to 2160",
            ),
            (
                "video.fps",
                v.fps.to_string(),
                (1..=120).contains(&v.fps),
                "1 to 120",
            ),
            (
                "video.bitrate_kbps",
                v.bitrate_kbps.to_string(),
                (50..=50_000).contains(&v.bitrate_kbps),
                "50 to 50000",
            ),
            (
                "video.encoder",
                v.encoder.clone(),
                matches!(v.encoder.as_str(), "auto" | "software") || v.encoder.starts_with("/dev/"),
                "\"auto\", \"software\", or the path of an encoder such as \"/dev/video11\"",
            ),
            (
                "video.csi.options",
                v.csi.options.join(" "),
                v.csi.has_good_options(),
                "at most 64 options of rpicam-vid, without those that this program sets (--width, --output, …)",
            ),
            (
                "audio.bitrate_kbps",
                self.audio.bitrate_kbps.to_string(),
                (6..=256).contains(&self.audio.bitrate_kbps),
                "6 to 256",
            ),
            (
                "webrtc.max_viewers",
                self.webrtc.max_viewers.to_string(),
                (1..=64).contains(&self.webrtc.max_viewers),
                "1 to 64",
            ),
            (
                "room.name",
                self.room.name.clone(),
                self.room.dialect.is_room_name(&self.room.name),
                room_rule,
            ),
            (
                "room.dialect",
                format!("{:?}", self.room.dialect),
                self.room.dialect == Dialect::Roomcam || !self.room.server.is_empty(),
                "\"roomcam\" as long as room.server names no server",
            ),
            (
                "room.rooms",
                self.room.rooms.join(", "),
                self.room.has_good_rooms(),
                rooms_rule,
            ),
            (
                "control.idle_timeout_s",
                self.control.idle_timeout_s.to_string(),
                self.control.idle_timeout_s <= 86_400,
                "0 to 86400",
            ),
        ];
        for (key, value, good, legal) in checks {
            if !good {
                return Err(ConfigError::Range { key, value, legal });
            }
        }
        self.talkback.check()?;
        self.room.headers.check()?;
        let mut ice_servers = self.webrtc.ice_servers.iter();
        ice_servers.try_for_each(check_ice_server)?;
        self.webrtc.turn.check()
    }
}

/// Checks an entry of `webrtc.ice_servers`. What cannot be used would be missed by nobody until a viewer
/// does not connect.
fn check_ice_server(server: &IceServer) -> Result<(), ConfigError> {
    let is_given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let has_user = is_given(&server.username) && is_given(&server.credential);
    for url in &server.urls {
        // Browsers take no `?…` behind `stun:`.
        let is_stun = stun_host(url).is_some() && !url.contains('?');
        let is_turn = url.parse::<TurnUrl>().is_ok();
        let legal = match (is_stun, is_turn) {
            (true, _) => continue,
            (false, true) if has_user => continue,
            (false, true) => "a TURN server needs a username and a credential",
            (false, false) => {
                "\"stun:HOST\", \"stun:HOST:PORT\", \"turn:HOST:PORT?transport=udp\" (or tcp), \
                 \"turns:HOST:PORT\""
            }
        };
        return Err(ConfigError::Range {
            key: "webrtc.ice_servers",
            value: shown(url).to_owned(),
            legal,
        });
    }
    Ok(())
}

/// Returns a URL, unless somebody wrote a password into it.
fn shown(url: &str) -> &str {
    if url.contains('@') { "…@…" } else { url }
}

impl Turn {
    fn check(&self) -> Result<(), ConfigError> {
        let error = |key, value: &str, legal| ConfigError::Range {
            key,
            value: value.to_owned(),
            legal,
        };
        if let Some(url) = self.urls.iter().find(|url| url.parse::<TurnUrl>().is_err()) {
            let legal =
                "\"turn:HOST\", \"turn:HOST:PORT?transport=udp\" (or tcp), \"turns:HOST:PORT\"";
            return Err(error("webrtc.turn.urls", shown(url), legal));
        }
        let is_user = !self.username.is_empty() && !self.password.is_empty();
        if !self.urls.is_empty() && is_user != self.secret.is_empty() {
            let legal = "either it, or a username and a password";
            return Err(error("webrtc.turn.secret", "…", legal));
        }
        if !(10..=604_800).contains(&self.lifetime_s) {
            let value = self.lifetime_s.to_string();
            return Err(error("webrtc.turn.lifetime_s", &value, "10 to 604800"));
        }
        Ok(())
    }
}

/// Returns `message`, unless it may quote the value of a key or password in line `line`.
fn quote_no_secret<'a>(text: &str, line: usize, message: &'a str) -> &'a str {
    if message.starts_with("unknown field") {
        return message;
    }
    let mut backwards = text
        .lines()
        .take(line)
        .collect::<Vec<_>>()
        .into_iter()
        .rev();
    let at = backwards.clone().next().unwrap_or_default();
    let section = backwards.find(|line| line.trim_start().starts_with('['));
    let names = |line: &str, secrets: &[&str]| secrets.iter().any(|name| line.contains(name));
    let tables = &["headers", "auth"];
    if names(at, tables) || section.is_some_and(|section| names(section, tables)) {
        "not a table like { NAME = \"VALUE\" } (the line is not shown: it may hold a key)"
    } else if names(at, &["key", "credential", "password", "secret"]) {
        "not a text in quotes (the line is not shown: it holds a key)"
    } else {
        message
    }
}

/// What a room may be called, in words.
pub const ROOM_NAME_RULE: &str = "1 to 64 letters, digits, '-', '_' or '.'";

/// Most rooms a device is in.
const MAX_ROOMS: usize = 16;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_documents_the_defaults() {
        let shipped = include_str!("../config/roomcam.toml");
        assert_eq!(Config::parse(shipped).unwrap(), Config::default());
    }

    #[test]
    fn the_shipped_file_names_every_key() {
        let shipped = include_str!("../config/roomcam.toml");
        let table: toml::Table = toml::from_str(shipped).unwrap();
        let keys: Vec<String> = table
            .iter()
            .flat_map(|(t, v)| {
                let keys = v.as_table().unwrap().keys();
                keys.map(move |k| format!("{t}.{k}")).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(keys.len(), 8 + 2 + 9 + 4 + 7 + 3 + 3, "{keys:?}");
        let turn = table["webrtc"]["turn"].as_table().unwrap();
        assert_eq!(turn.len(), 5, "{turn:?}");
        let csi = table["video"]["csi"].as_table().unwrap();
        assert_eq!(csi.len(), 4, "{csi:?}");
    }

    #[test]
    fn a_format_that_is_none_is_answered_with_those_there_are() {
        let format = |name| Config::parse(&format!("[video]\nformat = \"{name}\""));
        assert_eq!(format("nv12").unwrap().video.format, CameraFormat::Nv12);
        let error = format("mpeg").unwrap_err();
        assert!(
            error.contains("`yuyv`") && error.contains("`nv12`"),
            "{error}"
        );
    }

    #[test]
    fn rooms_are_different_and_a_bus_is_one() {
        let rooms = |dialect, rooms: &[&str]| {
            let mut config = Config::default();
            config.room.server = "ws://h".to_owned();
            config.room.dialect = dialect;
            config.room.rooms = rooms.iter().map(|&r| r.to_owned()).collect();
            config.check().is_ok()
        };
        assert!(rooms(Dialect::WsRooms, &["a", "b c"]));
        assert!(!rooms(Dialect::WsRooms, &["a", "a"]));
        assert!(!rooms(Dialect::Roomcam, &["a", "b c"]));
        assert!(rooms(Dialect::WsBroadcast, &["a"]));
        assert!(!rooms(Dialect::WsBroadcast, &["a", "b"]));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_legal_ones() {
        let error = Config::parse("[video]\nfps = 30\nbitrate = 5\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains("bitrate_kbps"), "{error}");
    }

    #[test]
    fn a_mistyped_key_is_not_quoted_into_the_log() {
        for wrong in [
            "key = hunter2",
            "key = hunter2 \"",
            "keyy = \"hunter2\"",
            "key = 5",
        ] {
            let error = Config::parse(&format!("[room]\n\n{wrong}\n")).unwrap_err();
            assert!(error.contains("line 3"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for wrong in [
            "headers = { Authorization = hunter2 }",
            "headers = \"hunter2\"",
            "auth = \"hunter2\"",
            "headers.Authorization = [\"hunter2\"]",
            "[room.headers]\nAuthorization = [\"hunter2\"]",
            "[room.headers]\n\nAuthorization = 5 hunter2",
            "[room.auth]\ntoken = hunter2",
        ] {
            let error = Config::parse(&format!("[room]\n{wrong}\n")).unwrap_err();
            assert!(error.contains("not shown"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_value_out_of_range_names_the_key_and_the_range() {
        let mut config = Config::default();
        config.video.fps = 0;
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "video.fps = 0 is out of range: 1 to 120"
        );
    }

    #[test]
    fn a_relay_needs_a_url_that_is_one_and_one_way_to_log_in() {
        let check = |turn: &str| {
            let config = Config::parse(&format!("[webrtc.turn]\n{turn}")).unwrap();
            config.check().map_err(|error| error.to_string())
        };
        let url = "urls = [\"turn:turn.example\"]\n";
        assert_eq!(check(&format!("{url}secret = \"hunter2\"")), Ok(()));
        let user = "username = \"u\"\npassword = \"hunter2\"\n";
        assert_eq!(check(&format!("{url}{user}")), Ok(()));
        for (wrong, key) in [
            ("urls = [\"turn.example\"]".to_owned(), "webrtc.turn.urls"),
            (url.to_owned(), "webrtc.turn.secret"),
            (format!("{url}{user}secret = \"s\""), "webrtc.turn.secret"),
            ("lifetime_s = 1".to_owned(), "webrtc.turn.lifetime_s"),
        ] {
            let error = check(&wrong).unwrap_err();
            assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_stun_or_turn_server_that_cannot_be_used_is_refused() {
        let check = |server: &str| {
            let config = format!("[webrtc]\nice_servers = [{{ {server} }}]");
            let config = Config::parse(&config).unwrap();
            config.check().map_err(|error| error.to_string())
        };
        let user = "username = \"u\", credential = \"hunter2\"";
        for good in [
            "urls = [\"stun:s.example\", \"stun:s.example:19302\"]",
            &format!("urls = [\"stun:s.example\", \"turn:t.example\"], {user}"),
        ] {
            assert_eq!(check(good), Ok(()));
        }
        for (wrong, why) in [
            ("urls = [\"s.example\"]", "= s.example is"),
            ("urls = [\"stun:s.example\", \"stun:\"]", "= stun: is"),
            ("urls = [\"stun://s.example\"]", "stun:HOST"),
            ("urls = [\"stun:s.example?transport=udp\"]", "stun:HOST"),
            ("urls = [\"turn:t.example\"]", "needs a username"),
            (
                "urls = [\"turn:t.example\"], username = \"u\"",
                "needs a username",
            ),
            (
                &format!("urls = [\"turn:t.example?transport=sctp\"], {user}"),
                "(or tcp)",
            ),
            ("urls = [\"turn:u:hunter2@t.example\"]", "…@…"),
        ] {
            let error = check(wrong).unwrap_err();
            let is_clear = error.contains("webrtc.ice_servers") && error.contains(why);
            assert!(is_clear && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        assert!(secret.matches("hunter2") && !secret.matches("hunter"));
    }
}
