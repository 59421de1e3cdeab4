//! `video.format`: which of a camera's formats is taken.

use serde::Deserialize;

/// Which of a V4L2 camera's formats is taken.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum CameraFormat {
    /// The best of them for the size and frame rate that are asked for.
    #[default]
    Auto,
    /// H.264, passed through.
    H264,
    /// JPEG pictures.
    Mjpeg,
    /// Y0 U Y1 V.
    Yuyv,
    /// U Y0 V Y1.
    Uyvy,
    /// Y, then U and V interleaved.
    Nv12,
    /// Y, U, V.
    Yu12,
}
