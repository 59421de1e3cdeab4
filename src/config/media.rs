//! `[video]` and `[audio]`: pictures and sound in.
//!
//! Pure.

use serde::Deserialize;

use super::{CameraFormat, Csi};

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
