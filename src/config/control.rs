//! `[control]`: how the device starts, and when it rests.
//!
//! Pure.

use std::time::Duration;

use serde::Deserialize;

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

impl Default for Control {
    fn default() -> Self {
        Self {
            camera: true,
            muted: false,
            idle_timeout_s: 10,
        }
    }
}

impl Control {
    /// Returns how long camera and microphone stay open after the last viewer left.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}
