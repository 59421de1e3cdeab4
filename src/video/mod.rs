//! Where H.264 comes from.
//!
//! | file           | what                                                          |
//! |----------------|---------------------------------------------------------------|
//! | `capture.rs`   | the thread that reads a source, packetizes and publishes      |
//! | `camera.rs`    | source: a camera; native H.264 passed through, or `encoded.rs`: pictures through an encoder |
//! | `rpicam.rs`    | source: a CSI camera by `rpicam-vid`, which `child.rs` runs; `csi.rs`: how it is asked, `csi/settings.rs`: what can be set |
//! | `raw_stream.rs`, `coded_stream.rs` | what comes through its pipe → pictures, access units |
//! | `v4l2.rs`      | a V4L2 device, `v4l2/queue.rs` its buffers, `v4l2/memory.rs` where they lie; `format.rs`: which of its formats |
//! | `devices.rs`   | which cameras there are; `holder.rs`: who has one open        |
//! | `inventory.rs` | cameras and encoders with all they offer, for people          |
//! | `convert.rs`   | raw layouts → I420; `range.rs`: full range → limited          |
//! | `mjpeg.rs`     | MJPEG frames → I420; `jpeg.rs`: their form, in `jpeg/` what decodes them |
//! | `encoder.rs`   | which encoder takes raw pictures: `v4l2_encoder.rs`, the hardware, or `openh264.rs`; `sharing.rs`: may it read the camera's buffers |
//! | `desk.rs`      | what viewers ask of the open camera: controls, and snapshots, made by `still.rs` |
//! | `stage.rs`     | whose pictures are shown: the camera's, or those of `placeholder.rs`, drawn by `notice.rs` |
//! | `replay.rs`    | source: an Annex B file in a loop; tests, demos, benchmarks   |
//! | `pattern.rs`   | source: a moving test picture, drawn by `test_card.rs`; `effects.rs`: its controls |
//! | `timecode.rs`  | the clock in that picture that programs read                  |
//! | `metronome.rs` | when the next picture of a made-up source is due              |

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::control::camera::{Control, ControlId};
use crate::logging::Refrain;
use crate::{clock, config};

mod camera;
mod canvas;
pub mod capture;
mod child;
mod coded_stream;
pub mod convert;
mod csi;
pub mod desk;
mod devices;
mod effects;
mod encoded;
mod encoder;
mod font;
pub mod format;
pub mod holder;
pub mod inventory;
pub mod jpeg;
mod metronome;
pub mod mjpeg;
mod notice;
pub mod openh264;
pub mod pattern;
mod placeholder;
mod poll;
pub mod range;
mod raw_stream;
pub mod replay;
mod resume;
mod rpicam;
mod sharing;
mod stage;
pub mod still;
pub mod test_card;
pub mod timecode;
mod v4l2;
pub mod v4l2_encoder;

use devices::Found;
pub use devices::{CameraInfo, cameras};
pub use encoder::Coding;
use still::Still;

/// A camera that fails is opened again each second.
static OPENED: Refrain = Refrain::new();

/// Opens the source that `video.source` names: `pattern`, `file:PATH`, `csi`, or a camera (`auto`, a
/// path, a by-id, by-path or bus name, a card name or a part of one, in any case).
///
/// `none` is no source; whoever asks handles it.
///
/// # Errors
///
/// Any [`VideoError`].
pub fn open(config: &config::Video) -> Result<Box<dyn VideoSource>, VideoError> {
    if config.source == "pattern" {
        return Ok(Box::new(pattern::Pattern::new(config)));
    }
    if let Some(path) = config.source.strip_prefix("file:") {
        let replay = replay::Replay::open(Path::new(path), config.fps)?;
        return Ok(Box::new(replay));
    }
    let (found, because) = devices::find(&config.source, rpicam::is_installed(&config.csi))?;
    let source: Box<dyn VideoSource> = match found {
        Found::Csi => Box::new(rpicam::Rpicam::open(config)?),
        Found::Node(path) => Box::new(camera::Camera::open(&path, config, Coding::default())?),
    };
    let camera = source.description();
    if OPENED.is_news(&format!("{camera} {because}"), clock::now()) {
        tracing::info!(camera, because, "camera opened");
    }
    Ok(source)
}

/// Opens the camera at `path` and encodes its pictures as `coding` says. For tests with encoders of other
/// formats than H.264, and without DMABUF where there could be.
///
/// # Errors
///
/// As [`open`].
pub fn open_with(
    path: &Path,
    config: &config::Video,
    coding: Coding,
) -> Result<Box<dyn VideoSource>, VideoError> {
    Ok(Box::new(camera::Camera::open(path, config, coding)?))
}

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

    /// Returns what tells this camera from others, also when it was away: what was set is remembered by
    /// it.
    fn identity(&self) -> String {
        self.description()
    }

    /// Returns what can be set of its picture, as it is now.
    fn controls(&self) -> Vec<Control> {
        Vec::new()
    }

    /// Returns one of its controls, as it is now.
    fn control(&self, id: ControlId) -> Option<Control> {
        self.controls().into_iter().find(|control| control.id == id)
    }

    /// Sets one of its controls, to a value that is known to be legal.
    ///
    /// # Errors
    ///
    /// Why the camera refused, in words.
    fn set_control(&mut self, id: ControlId, value: i32) -> Result<(), String> {
        Err(format!("it has no {id} to be set to {value}"))
    }

    /// Returns whether it is silent because of what was set: it will be back in a moment.
    fn is_restarting(&self) -> bool {
        false
    }

    /// Returns whether pictures come, and none can be shown before the next keyframe.
    fn awaits_keyframe(&self) -> bool {
        false
    }

    /// Asks it to keep a copy of its next picture as it is before it is encoded; returns whether it has
    /// one then. Otherwise there are coded pictures alone.
    fn keep_next_picture(&mut self) -> bool {
        false
    }

    /// Takes the copy, once there is one.
    fn take_picture(&mut self) -> Option<Still> {
        None
    }
}

/// Why a camera gives no pictures. Each message names the device and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// Another program holds the device.
    #[error("camera {} is in use by {}", path.display(), who(path, holder.as_deref()))]
    Busy {
        /// The device node.
        path: PathBuf,
        /// Name and id of a process that has it open, where that can be known.
        holder: Option<String>,
    },
    /// This user may not open the device.
    #[error("camera {} may not be opened by this user; add it to the group `video`", path.display())]
    Permission {
        /// The device node.
        path: PathBuf,
    },
    /// `auto` found nothing.
    #[error("no camera was found{seen}")]
    NoCamera {
        /// What was found instead, and why it is of no use; empty or starting with `; `.
        seen: String,
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
    /// It is an input that somebody plugs something into, and nothing usable comes in.
    #[error("camera {} receives no signal: {reason}", path.display())]
    NoSignal {
        /// The device node.
        path: PathBuf,
        /// What to look at.
        reason: &'static str,
    },
    /// What comes into it is of another format now.
    #[error("camera {} receives another signal than before", path.display())]
    SignalChanged {
        /// The device node.
        path: PathBuf,
    },
    /// The device delivers nothing.
    #[error("camera {} delivered no frame for {silent_for:?}", path.display())]
    Stalled {
        /// The device node.
        path: PathBuf,
        /// How long we waited.
        silent_for: Duration,
    },
    /// The device delivers pictures of which each refers to an earlier one.
    #[error(
        "camera {} sent H.264 for {waited:?} without a keyframe; whatever makes its stream must make one every second or two, as ffmpeg does with `-g 30`",
        path.display()
    )]
    NoKeyframe {
        /// The device node.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// The program that reads the camera is missing, ended, or failed.
    #[error("camera program {program} {reason}")]
    Program {
        /// Its path, or its name.
        program: String,
        /// What happened, with its own last words.
        reason: String,
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
    /// The hardware encoder cannot be used, or failed.
    #[error("encoder {}: {reason}", path.display())]
    HardwareEncoder {
        /// The device node.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Returns the command that names who has `path` open. A CSI camera (`csi`) has no node of its own.
pub(crate) fn names_holder(path: &Path) -> String {
    if path == Path::new("csi") {
        return "sudo fuser -v /dev/media*".to_owned();
    }
    format!("sudo fuser -v {}", path.display())
}

/// Returns who has `path` open. Of other users' processes only root may know what they do.
fn who(path: &Path, holder: Option<&str>) -> String {
    holder.map_or_else(
        || format!("another program: `{}` names it", names_holder(path)),
        str::to_owned,
    )
}

impl VideoError {
    /// Returns whether opening the camera again may help. A wrong configuration never heals.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Permission { .. }
            | Self::NoCamera { .. }
            | Self::Driver { .. }
            | Self::Missing { .. }
            | Self::NoSignal { .. }
            | Self::SignalChanged { .. }
            | Self::Stalled { .. }
            | Self::NoKeyframe { .. }
            | Self::Program { .. }
            | Self::HardwareEncoder { .. }
            | Self::Encoder(_) => true,
            Self::Format { .. } | Self::File { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> config::Video {
        config::Video {
            source: source.to_owned(),
            ..config::Video::default()
        }
    }

    #[test]
    fn messages_name_the_device_and_leave_the_cause_to_the_source() {
        let error = VideoError::Driver {
            path: "/dev/video0".into(),
            operation: "VIDIOC_DQBUF",
            source: io::Error::from_raw_os_error(19),
        };
        assert_eq!(error.to_string(), "camera /dev/video0: VIDIOC_DQBUF failed");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn a_busy_camera_says_who_has_it() {
        let busy = |holder: Option<&str>| VideoError::Busy {
            path: "/dev/video0".into(),
            holder: holder.map(str::to_owned),
        };
        assert_eq!(
            busy(Some("guvcview (pid 412)")).to_string(),
            "camera /dev/video0 is in use by guvcview (pid 412)"
        );
        assert_eq!(
            busy(None).to_string(),
            "camera /dev/video0 is in use by another program: `sudo fuser -v /dev/video0` names it"
        );
    }

    #[test]
    fn the_source_is_chosen_by_its_name() {
        assert!(open(&named("pattern")).unwrap().keyframes_on_demand());
        let file = open(&named("file:/nonexistent.h264")).map(drop);
        assert!(matches!(file, Err(VideoError::File { .. })));
        let path = open(&named("/dev/nonexistent")).map(drop);
        assert!(matches!(path, Err(VideoError::Missing { .. })));
        let card = open(&named("No Such Camera")).map(drop);
        assert!(matches!(card, Err(VideoError::Missing { .. })));
    }
}
