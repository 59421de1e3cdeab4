//! Which encoder takes raw pictures: the hardware where it works, software otherwise.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::convert::I420;
use super::format::{FourCc, Size};
use super::openh264::OpenH264;
use super::v4l2::Negotiated;
use super::v4l2::queue::Queue;
use super::v4l2_encoder::{Lender, Settings, V4l2Encoder};
use super::{AccessUnit, VideoError, devices, sharing};
use crate::logging::Refrain;
use crate::{clock, config};

/// An encoder of pictures of one size.
#[derive(Debug)]
pub(super) enum Encoder {
    Software(OpenH264),
    Hardware(Box<V4l2Encoder>),
}

/// With each camera that is opened an encoder is.
fn is_news(choice: &str) -> bool {
    static CHOSEN: Refrain = Refrain::new();
    CHOSEN.is_news(choice, clock::now())
}

/// What becomes of a camera's pictures.
#[derive(Clone, Copy, Debug)]
pub struct Coding {
    /// The coded format: H.264, but for tests.
    pub coded: FourCc,
    /// Whether the encoder may read pictures in the camera's buffers.
    pub may_share: bool,
}

impl Default for Coding {
    fn default() -> Self {
        Self {
            coded: FourCc::H264,
            may_share: true,
        }
    }
}

impl Encoder {
    /// Returns the encoder that the configuration names, or the best there is. Where that is not what
    /// somebody would expect, the log says why.
    pub(super) fn open(config: &config::Video, size: (u32, u32), fps: u32, coded: FourCc) -> Self {
        let settings = settings(config, size, fps, coded);
        Self::open_on(config, hardware(config, coded).as_deref(), settings)
    }

    /// The same for the pictures that come through `queue`, of which none may be with the camera yet; `path`
    /// is the [`hardware`]. It reads them in the camera's buffers where it can; the log says which way they
    /// take, and why.
    pub(super) fn open_for_camera(
        config: &config::Video,
        path: Option<&Path>,
        pictures: Negotiated,
        fps: u32,
        queue: &Queue,
        coding: Coding,
    ) -> Self {
        let size = (pictures.size.width, pictures.size.height);
        let settings = settings(config, size, fps, coding.coded);
        let reason = match path.map(|path| share(path, settings, pictures, queue, coding)) {
            Some(Ok(encoder)) => {
                let name = encoder.name();
                if is_news(name) {
                    tracing::info!(
                        encoder = name,
                        "the encoder reads pictures in the camera's buffers"
                    );
                }
                return Self::Hardware(Box::new(encoder));
            }
            Some(Err(reason)) => reason,
            None => String::new(),
        };
        let encoder = Self::open_on(config, path, settings);
        if let Self::Hardware(_) = encoder {
            let encoder = encoder.name();
            if is_news(&format!("{encoder} {reason}")) {
                tracing::info!(encoder, reason, "pictures are copied to the encoder");
            }
        }
        encoder
    }

    fn open_on(config: &config::Video, path: Option<&Path>, settings: Settings) -> Self {
        let software = || Self::Software(OpenH264::new(settings.fps, settings.bitrate_bps));
        let Some(path) = path else {
            if config.encoder != "software" && is_news("") {
                tracing::info!(
                    reason = "no hardware encoder",
                    "pictures are encoded in software"
                );
            }
            return software();
        };
        match V4l2Encoder::open(path, settings) {
            Ok(encoder) => Self::Hardware(Box::new(encoder)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let reason = error.to_string();
                if is_news(&reason) {
                    tracing::warn!(reason, cause, "pictures are encoded in software");
                }
                software()
            }
        }
    }

    /// Returns the hardware that reads pictures in the camera's buffers, if it is that.
    pub(super) fn sharing(&mut self) -> Option<&mut V4l2Encoder> {
        match self {
            Self::Hardware(encoder) if encoder.is_sharing() => Some(encoder),
            _ => None,
        }
    }

    /// Lets go of the hardware, of which one instance at a time is all that some have.
    pub(super) fn close(&mut self) {
        *self = Self::Software(OpenH264::new(1, 1));
    }

    /// Whether the hardware reads pictures in the camera's buffers.
    pub(super) fn is_sharing(&self) -> bool {
        matches!(self, Self::Hardware(encoder) if encoder.is_sharing())
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

/// Returns the hardware encoder that is configured, or with `auto` the first there is.
pub(super) fn hardware(config: &config::Video, coded: FourCc) -> Option<PathBuf> {
    match config.encoder.as_str() {
        "software" => None,
        "auto" => devices::encoder(coded),
        path => Some(PathBuf::from(path)),
    }
}

fn settings(
    config: &config::Video,
    (width, height): (u32, u32),
    fps: u32,
    coded: FourCc,
) -> Settings {
    Settings {
        coded,
        size: Size {
            width: width & !1,
            height: height & !1,
        },
        fps,
        bitrate_bps: config.bitrate_kbps.saturating_mul(1_000),
    }
}

/// Returns the encoder that reads the camera's buffers, or why there is none, in words.
fn share(
    path: &Path,
    settings: Settings,
    pictures: Negotiated,
    queue: &Queue,
    coding: Coding,
) -> Result<V4l2Encoder, String> {
    if !coding.may_share {
        return Err("they are to be".to_owned());
    }
    if let Some(obstacle) = sharing::obstacle(&pictures) {
        return Err(obstacle);
    }
    let encoder = queue.export().and_then(|buffers| {
        let lender = Lender { pictures, buffers };
        V4l2Encoder::open_sharing(path, settings, &lender)
    });
    encoder.map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}
