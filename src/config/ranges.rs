//! Which values are legal.
//!
//! Pure.

use super::room::ROOM_NAME_RULE;
use super::webrtc::check_ice_server;
use super::{Config, ConfigError, Dialect};

impl Config {
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
