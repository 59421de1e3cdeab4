//! Which encoder takes raw pictures: the hardware where it works, software otherwise.

use std::path::PathBuf;
use std::time::Instant;

use super::convert::I420;
use super::format::{FourCc, Size};
use super::openh264::OpenH264;
use super::v4l2_encoder::{Settings, V4l2Encoder};
use super::{AccessUnit, VideoError, devices};
use crate::config;

/// An encoder of pictures of one size.
#[derive(Debug)]
pub(super) enum Encoder {
    Software(OpenH264),
    Hardware(Box<V4l2Encoder>),
}

impl Encoder {
    /// Returns the encoder that the configuration names, or the best there is. Where that is not what
    /// somebody would expect, the log says why.
    pub(super) fn open(config: &config::Video, (width, height): (u32, u32), fps: u32) -> Self {
        let bitrate_bps = config.bitrate_kbps.saturating_mul(1_000);
        let settings = Settings {
            coded: FourCc::H264,
            size: Size {
                width: width & !1,
                height: height & !1,
            },
            fps,
            bitrate_bps,
        };
        let software = || Self::Software(OpenH264::new(fps, bitrate_bps));
        let path = match config.encoder.as_str() {
            "software" => return software(),
            "auto" => devices::encoder(FourCc::H264),
            path => Some(PathBuf::from(path)),
        };
        let Some(path) = path else {
            tracing::info!(
                reason = "no hardware encoder",
                "pictures are encoded in software"
            );
            return software();
        };
        match V4l2Encoder::open(&path, settings) {
            Ok(encoder) => Self::Hardware(Box::new(encoder)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let reason = error.to_string();
                tracing::warn!(reason, cause, "pictures are encoded in software");
                software()
            }
        }
    }

    /// Returns its name, for people.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Software(_) => "OpenH264",
            Self::Hardware(encoder) => encoder.name(),
        }
    }

    /// Encodes a picture; returns the oldest access unit that is ready.
    pub(super) fn encode(
        &mut self,
        picture: &I420<'_>,
        captured_at: Instant,
    ) -> Result<Option<AccessUnit>, VideoError> {
        match self {
            Self::Software(encoder) => {
                let coded = encoder.encode(picture, captured_at)?;
                Ok(coded.map(|data| AccessUnit { data, captured_at }))
            }
            Self::Hardware(encoder) => encoder.encode(picture, captured_at),
        }
    }

    /// Returns an access unit that became ready later.
    pub(super) fn take_ready(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        match self {
            Self::Software(_) => Ok(None),
            Self::Hardware(encoder) => encoder.take_ready(),
        }
    }

    pub(super) fn request_keyframe(&mut self) {
        match self {
            Self::Software(encoder) => encoder.request_keyframe(),
            Self::Hardware(encoder) => encoder.request_keyframe(),
        }
    }

    pub(super) fn set_bitrate(&mut self, bits_per_second: u32) {
        match self {
            Self::Software(encoder) => encoder.set_bitrate(bits_per_second),
            Self::Hardware(encoder) => encoder.set_bitrate(bits_per_second),
        }
    }
}
