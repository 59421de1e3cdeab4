//! Tries cameras and encoders: a frame of each.

use std::path::Path;
use std::time::Duration;

use super::media::{Frame, Pace};
use crate::video::format::{FourCc, Size};
use crate::video::openh264::OpenH264;
use crate::video::test_card::TestCard;
use crate::video::v4l2_encoder::{Settings, V4l2Encoder};
use crate::video::{self, VideoError};
use crate::{clock, config};

/// How long a camera may take. Its source gives up by itself, after 5 s without a picture and 30 s without a
/// keyframe, and knows better why; before, the camera has to be opened.
const FRAME_WITHIN: Duration = Duration::from_secs(35);

/// Pictures that are encoded to see how long each takes; the first, a keyframe, takes longer.
const PICTURES: u32 = 8;

/// Opens the source of `config`, and closes it after its first frame.
pub(super) fn try_source(config: &config::Video) -> Result<Frame, VideoError> {
    let start = clock::now();
    let mut source = video::open(config)?;
    while clock::now() < start + FRAME_WITHIN {
        if let Some(unit) = source.next()? {
            return Ok(Frame {
                description: source.description(),
                after: clock::now() - start,
                bytes: unit.data.len(),
            });
        }
    }
    Err(VideoError::Stalled {
        path: config.source.clone().into(),
        silent_for: FRAME_WITHIN,
    })
}

/// Encodes a few test pictures in software.
pub(super) fn try_openh264(config: &config::Video) -> Result<Pace, VideoError> {
    let config::Video {
        width, height, fps, ..
    } = *config;
    let pixels = |n| usize::try_from(n).unwrap_or_default();
    let mut card = TestCard::new(pixels(width), pixels(height));
    let mut encoder = OpenH264::new(fps, config.bitrate_kbps.saturating_mul(1_000));
    let mut took = Duration::ZERO;
    for _ in 0..PICTURES {
        let Some(picture) = card.draw(clock::unix_time()) else {
            return Err(VideoError::Encoder("there was no test picture".to_owned()));
        };
        let start = clock::now();
        encoder.encode(&picture, start)?;
        took += clock::now() - start;
    }
    Ok(Pace {
        each: took / PICTURES,
        size: (width, height),
        fps,
    })
}

/// Opens a hardware encoder, which proves itself with a picture.
pub(super) fn try_hardware(path: &Path, config: &config::Video) -> Result<Duration, VideoError> {
    let start = clock::now();
    V4l2Encoder::open(
        path,
        Settings {
            coded: FourCc::H264,
            size: Size {
                width: config.width,
                height: config.height,
            },
            fps: config.fps,
            bitrate_bps: config.bitrate_kbps.saturating_mul(1_000),
        },
    )?;
    Ok(clock::now() - start)
}
