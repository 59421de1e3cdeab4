//! Where H.264 comes from.
//!
//! | file           | source                                                        |
//! |----------------|---------------------------------------------------------------|
//! | `v4l2.rs`      | a camera: native H.264 passed through, or raw pictures        |
//! | `openh264.rs`  | encodes raw pictures in software                              |
//! | `replay.rs`    | an Annex B file in a loop; tests, demos, benchmarks           |
//! | `pattern.rs`   | a moving test picture with a clock                            |
//! | `capture.rs`   | the thread that reads a source, packetizes and publishes      |

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// One coded picture with the parameter sets that precede it, as an Annex B byte stream.
#[derive(Clone, Debug)]
pub struct AccessUnit {
    /// The bytes; cloning shares them.
    pub data: Bytes,
    /// When the sensor captured it, on the monotonic clock.
    pub captured_at: Instant,
}

/// A producer of access units. Blocking: it runs on a thread of its own.
///
/// A trait because there really are several (see the table above) and because tests replace the
/// camera with a script. Everything a source cannot do is a no-op, not an error: many cameras
/// ignore bitrate changes, and a viewer must still get a picture.
pub trait VideoSource: Send {
    /// Waits for the next access unit.
    ///
    /// Returns `None` when none came within about 200 ms, so that the capture thread can notice
    /// that it is to stop.
    ///
    /// # Errors
    ///
    /// Any [`VideoError`]. The source is unusable afterwards: drop it and open a new one if
    /// [`VideoError::is_retryable`].
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError>;

    /// Returns what is captured and how, for the log and for people: `vivid YUYV 640x480 at 30
    /// fps, encoded by OpenH264`.
    fn description(&self) -> String;

    /// Returns whether [`Self::request_keyframe`] works here.
    fn keyframes_on_demand(&self) -> bool;

    /// Asks for a keyframe as soon as the encoder can make one.
    fn request_keyframe(&mut self) {}

    /// Asks for about `bits_per_second` of output.
    fn set_bitrate(&mut self, bits_per_second: u32) {
        let _ = bits_per_second;
    }
}

/// Why a camera gives no pictures. Each message names the device and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// Another program holds the device.
    #[error("camera {} is in use by another program", path.display())]
    Busy {
        /// The device node.
        path: PathBuf,
    },
    /// The driver reported an error.
    #[error("camera {}: {operation} failed", path.display())]
    Driver {
        /// The device node.
        path: PathBuf,
        /// The ioctl, by its name in the kernel documentation, e.g. `VIDIOC_DQBUF`.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device cannot deliver what is asked of it.
    #[error("camera {} offers {offered}, but this program takes {wanted}", path.display())]
    Format {
        /// The device node.
        path: PathBuf,
        /// What would do.
        wanted: String,
        /// From the driver.
        offered: String,
    },
    /// The device is not there, or was unplugged.
    #[error("camera {name} is not present")]
    Missing {
        /// As configured.
        name: String,
    },
    /// The device delivers nothing.
    #[error("camera {} delivered no frame for {silent_for:?}", path.display())]
    Stalled {
        /// The device node.
        path: PathBuf,
        /// How long we waited.
        silent_for: Duration,
    },
    /// The file to be replayed is of no use. The message names the remedy.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The encoder failed.
    #[error("OpenH264: {0}")]
    Encoder(String),
}

impl VideoError {
    /// Returns whether opening the camera again may help. A wrong configuration never heals.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Driver { .. }
            | Self::Missing { .. }
            | Self::Stalled { .. }
            | Self::Encoder(_) => true,
            Self::Format { .. } | Self::File { .. } => false,
        }
    }
}
