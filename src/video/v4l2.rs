//! A V4L2 device, a camera or an encoder: what it offers, and what is asked of it.
//!
//! Kernel documentation, "Video Capture Interface", "Memory-to-Memory Stateful Video Encoder
//! Interface" and "Single- and multi-planar APIs"; its buffers are in `queue`, formats in
//! `negotiation`, inputs that receive a signal in `signal`. The `v4l` crate lends its bindings alone.
//! Decisions are made in `camera` and
//! `v4l2_encoder`.
#![expect(
    unsafe_code,
    reason = "the kernel's video interface is C: ioctl, unions"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use v4l::v4l_sys as sys;

use super::format::{Choice, FormatInfo, FourCc, Size, Sizes};
use super::{VideoError, holder, poll};

mod controls;
pub(super) mod memory;
mod negotiation;
pub(super) mod queue;
mod request;
mod signal;

pub(super) use negotiation::{Negotiated, Room};

use request::{
    ENUM_FMT, ENUM_FRAMEINTERVALS, ENUM_FRAMESIZES, G_PARM, QUERYCAP, QUERYCTRL, Request, S_CTRL,
    S_PARM, S_SELECTION, zeroed,
};

/// Most formats of a device that are looked at, and most sizes of a format. Cameras list up to a
/// dozen formats with two dozen sizes; `vivid` has more formats than anything.
const MAX_FORMATS: u32 = 128;
const MAX_SIZES: u32 = 64;

/// Most frame rates of a size that are looked at; cameras list up to ten.
const MAX_INTERVALS: u32 = 64;

/// Which queue of a device: what the kernel calls a buffer type. Pictures come out of "capture" and
/// go into "output"; an encoder has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Capture,
    CapturePlanes,
    Output,
    OutputPlanes,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Self::Capture => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE,
            Self::CapturePlanes => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE,
            Self::Output => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_OUTPUT,
            Self::OutputPlanes => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE,
        }
    }

    const fn has_planes(self) -> bool {
        matches!(self, Self::CapturePlanes | Self::OutputPlanes)
    }

    const fn is_output(self) -> bool {
        matches!(self, Self::Output | Self::OutputPlanes)
    }
}

/// Controls of encoders, and of cameras that deliver H.264 ("Codec Control Reference").
#[derive(Clone, Copy, Debug)]
pub(super) enum CodecControl {
    Bitrate,
    /// SPS and PPS in front of every IDR picture.
    RepeatHeaders,
    PrependHeaders,
    GopSize,
    IPeriod,
    BFrames,
    ForceKeyframe,
    /// A menu: 0 is variable, 1 constant.
    BitrateMode,
    /// A menu: 1 is constrained baseline.
    Profile,
    /// A menu: 11 is level 4.0.
    Level,
}

impl CodecControl {
    const fn id(self) -> u32 {
        match self {
            Self::Bitrate => sys::V4L2_CID_MPEG_VIDEO_BITRATE,
            Self::RepeatHeaders => sys::V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER,
            Self::PrependHeaders => sys::V4L2_CID_MPEG_VIDEO_PREPEND_SPSPPS_TO_IDR,
            Self::GopSize => sys::V4L2_CID_MPEG_VIDEO_GOP_SIZE,
            Self::IPeriod => sys::V4L2_CID_MPEG_VIDEO_H264_I_PERIOD,
            Self::BFrames => sys::V4L2_CID_MPEG_VIDEO_B_FRAMES,
            Self::ForceKeyframe => sys::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME,
            Self::BitrateMode => sys::V4L2_CID_MPEG_VIDEO_BITRATE_MODE,
            Self::Profile => sys::V4L2_CID_MPEG_VIDEO_H264_PROFILE,
            Self::Level => sys::V4L2_CID_MPEG_VIDEO_H264_LEVEL,
        }
    }
}

/// Who a device says it is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) driver: String,
    pub(super) card: String,
    pub(super) bus: String,
    capabilities: u32,
}

impl Identity {
    /// Returns the queue that pictures come out of, if it is a camera and streams.
    pub(super) const fn capture_queue(&self) -> Option<Kind> {
        if !self.has(sys::V4L2_CAP_STREAMING) {
            None
        } else if self.has(sys::V4L2_CAP_VIDEO_CAPTURE) {
            Some(Kind::Capture)
        } else if self.has(sys::V4L2_CAP_VIDEO_CAPTURE_MPLANE) {
            Some(Kind::CapturePlanes)
        } else {
            None
        }
    }

    /// Returns the queues of an encoder, decoder or scaler: what goes in, what comes out.
    pub(super) const fn converter_queues(&self) -> Option<(Kind, Kind)> {
        if !self.has(sys::V4L2_CAP_STREAMING) {
            None
        } else if self.has(sys::V4L2_CAP_VIDEO_M2M_MPLANE) {
            Some((Kind::OutputPlanes, Kind::CapturePlanes))
        } else if self.has(sys::V4L2_CAP_VIDEO_M2M) {
            Some((Kind::Output, Kind::Capture))
        } else {
            None
        }
    }

    /// Whether it is an encoder, decoder or scaler, which needs pictures instead of making them.
    pub(super) const fn is_converter(&self) -> bool {
        self.has(sys::V4L2_CAP_VIDEO_M2M) || self.has(sys::V4L2_CAP_VIDEO_M2M_MPLANE)
    }

    /// Whether someone has to connect it to a sensor first: CSI receivers behind libcamera.
    pub(super) const fn needs_media_controller(&self) -> bool {
        self.has(sys::V4L2_CAP_IO_MC)
    }

    const fn has(&self, capability: u32) -> bool {
        self.capabilities & capability != 0
    }
}

/// An open device node.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    pub(super) fn open(path: &Path) -> Result<Self, VideoError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        match options.open(path) {
            Ok(file) => Ok(Self {
                file,
                path: path.to_owned(),
            }),
            Err(error) => Err(failure(path, "open", error)),
        }
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        let mut raw: sys::v4l2_capability = zeroed();
        self.ioctl(&QUERYCAP, &mut raw)?;
        let per_node = raw.capabilities & sys::V4L2_CAP_DEVICE_CAPS != 0;
        Ok(Identity {
            driver: text(&raw.driver),
            card: text(&raw.card),
            bus: text(&raw.bus_info),
            capabilities: if per_node {
                raw.device_caps
            } else {
                raw.capabilities
            },
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits up to `timeout` for one of `events` (`poll(2)`); returns those that are there.
    pub(super) fn wait(&self, events: i16, timeout: Duration) -> Result<i16, VideoError> {
        let result = poll::wait(self.file.as_raw_fd(), events, timeout);
        result.map_err(|error| failure(&self.path, "poll", error))
    }

    pub(super) fn formats(&self, kind: Kind) -> Vec<FormatInfo> {
        let mut formats = Vec::new();
        for index in 0..MAX_FORMATS {
            let mut raw: sys::v4l2_fmtdesc = zeroed();
            raw.index = index;
            raw.type_ = kind.code();
            if self.ioctl(&ENUM_FMT, &mut raw).is_err() {
                break;
            }
            let fourcc = FourCc::from_u32(raw.pixelformat);
            formats.push(FormatInfo {
                fourcc,
                usable: fourcc.is_usable(),
                sizes: self.sizes(fourcc),
            });
        }
        formats
    }

    fn sizes(&self, fourcc: FourCc) -> Sizes {
        let mut listed = Vec::new();
        for index in 0..MAX_SIZES {
            let mut raw: sys::v4l2_frmsizeenum = zeroed();
            raw.index = index;
            raw.pixel_format = fourcc.to_u32();
            if self.ioctl(&ENUM_FRAMESIZES, &mut raw).is_err() {
                break;
            }
            if raw.type_ == sys::v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE {
                // SAFETY: `type_` says which member the driver wrote, and both are plain integers.
                let size = unsafe { raw.__bindgen_anon_1.discrete };
                listed.push(Size {
                    width: size.width,
                    height: size.height,
                });
            } else {
                // SAFETY: as above.
                let range = unsafe { raw.__bindgen_anon_1.stepwise };
                let size = |width, height| Size { width, height };
                return Sizes::Range {
                    min: size(range.min_width, range.min_height),
                    max: size(range.max_width, range.max_height),
                    step: size(range.step_width, range.step_height),
                };
            }
        }
        if listed.is_empty() {
            Sizes::Unknown
        } else {
            Sizes::Listed(listed)
        }
    }

    /// Returns the shortest time between two pictures of a format and size, if the driver says.
    pub(super) fn shortest_interval(&self, choice: Choice) -> Option<Duration> {
        self.intervals(choice).into_iter().min()
    }

    /// Returns the times between two pictures of a format and size that the driver lists; of a range, its
    /// two ends.
    pub(super) fn intervals(&self, choice: Choice) -> Vec<Duration> {
        let mut intervals = Vec::new();
        for index in 0..MAX_INTERVALS {
            let mut raw: sys::v4l2_frmivalenum = zeroed();
            raw.index = index;
            raw.pixel_format = choice.fourcc.to_u32();
            raw.width = choice.size.width;
            raw.height = choice.size.height;
            if self.ioctl(&ENUM_FRAMEINTERVALS, &mut raw).is_err() {
                break;
            }
            let is_listed = raw.type_ == sys::v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE;
            if is_listed {
                // SAFETY: `type_` says which member the driver wrote, and both are plain integers.
                intervals.extend(duration(unsafe { raw.__bindgen_anon_1.discrete }));
            } else {
                // SAFETY: as above.
                let range = unsafe { raw.__bindgen_anon_1.stepwise };
                intervals.extend(duration(range.min));
                intervals.extend(duration(range.max));
                break;
            }
        }
        intervals
    }

    /// Says which part of the pictures that go in is to be seen: drivers round sizes up.
    pub(super) fn set_crop(&self, kind: Kind, size: Size) {
        let mut raw: sys::v4l2_selection = zeroed();
        // Selections know the single-planar types alone, for both.
        let single = if kind.is_output() {
            Kind::Output
        } else {
            Kind::Capture
        };
        raw.type_ = single.code();
        raw.target = sys::V4L2_SEL_TGT_CROP;
        raw.r.width = size.width;
        raw.r.height = size.height;
        if let Err(error) = self.ioctl(&S_SELECTION, &mut raw) {
            let device = self.path.display();
            tracing::debug!(%device, %size, %error, "the device shows whole pictures");
        }
    }

    /// Asks for a frame rate and returns the time per frame that the driver settled on, if it says.
    ///
    /// Always after [`Self::set_format`], which resets it: `vivid` falls to 5 frames per second.
    pub(super) fn set_frame_rate(&self, kind: Kind, fps: u32) -> Option<Duration> {
        let mut raw: sys::v4l2_streamparm = zeroed();
        raw.type_ = kind.code();
        let wanted = sys::v4l2_fract {
            numerator: 1,
            denominator: fps,
        };
        if kind.is_output() {
            let mut parameters: sys::v4l2_outputparm = zeroed();
            parameters.timeperframe = wanted;
            raw.parm.output = parameters;
        } else {
            let mut parameters: sys::v4l2_captureparm = zeroed();
            parameters.timeperframe = wanted;
            raw.parm.capture = parameters;
        }
        if self.ioctl(&S_PARM, &mut raw).is_err() {
            // It cannot be set; perhaps it can be known.
            raw.type_ = kind.code();
            self.ioctl(&G_PARM, &mut raw).ok()?;
        }
        // SAFETY: for this buffer type the driver answers in that member, which is plain integers.
        let settled = unsafe {
            if kind.is_output() {
                raw.parm.output.timeperframe
            } else {
                raw.parm.capture.timeperframe
            }
        };
        duration(settled)
    }

    /// Returns whether the device has the control and lets it be changed.
    pub(super) fn has_control(&self, control: CodecControl) -> bool {
        self.query(control).is_some()
    }

    /// Sets a control to the legal value nearest to `value`. A device without it is left alone.
    pub(super) fn set_control(&self, control: CodecControl, value: u32) {
        let Some(about) = self.query(control) else {
            return;
        };
        let (min, max, step) = (about.minimum, about.maximum, about.step.max(1));
        let value = i32::try_from(value).unwrap_or(i32::MAX).min(max).max(min);
        let value = value - value.saturating_sub(min) % step;
        let mut raw = sys::v4l2_control {
            id: control.id(),
            value,
        };
        if let Err(error) = self.ioctl(&S_CTRL, &mut raw) {
            let device = self.path.display();
            tracing::debug!(%device, ?control, value, %error, "the device kept a control");
        }
    }

    fn query(&self, control: CodecControl) -> Option<sys::v4l2_queryctrl> {
        const NOT_NOW: u32 = sys::V4L2_CTRL_FLAG_DISABLED | sys::V4L2_CTRL_FLAG_READ_ONLY;
        let mut raw: sys::v4l2_queryctrl = zeroed();
        raw.id = control.id();
        self.ioctl(&QUERYCTRL, &mut raw).ok()?;
        (raw.flags & NOT_NOW == 0).then_some(raw)
    }

    fn call<T>(&self, request: &Request<T>, argument: &mut T) -> Result<(), VideoError> {
        let result = self.ioctl(request, argument);
        result.map_err(|error| failure(&self.path, request.name, error))
    }

    fn ioctl<T>(&self, request: &Request<T>, argument: &mut T) -> io::Result<()> {
        loop {
            let argument = ptr::from_mut(argument).cast::<libc::c_void>();
            // SAFETY: a `Request<T>` is made only for the requests whose argument is a `T`, and
            // `argument` is one, borrowed for the call. The one pointer that a `T` can hold
            // (`v4l2_buffer`'s planes) is looked at for multi-planar types alone, for which `queue`
            // lets it point to as many planes as it says.
            let result = unsafe { v4l::v4l2::ioctl(self.file.as_raw_fd(), request.code, argument) };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

fn failure(path: &Path, operation: &'static str, error: io::Error) -> VideoError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VideoError::Missing {
            name: path.display().to_string(),
        },
        Some(libc::EBUSY) => VideoError::Busy {
            holder: holder::of(&path),
            path,
        },
        Some(libc::EACCES | libc::EPERM) => VideoError::Permission { path },
        Some(libc::ENOTTY) => VideoError::Format {
            path,
            wanted: super::format::WANTED.to_owned(),
            offered: "no video (it is no camera)".to_owned(),
        },
        _ => VideoError::Driver {
            path,
            operation,
            source: error,
        },
    }
}

fn duration(seconds: sys::v4l2_fract) -> Option<Duration> {
    let is_one = seconds.numerator > 0 && seconds.denominator > 0;
    is_one.then(|| Duration::from_secs(seconds.numerator.into()) / seconds.denominator)
}

/// Returns the text up to the first NUL. Cameras put what they like in there.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(
        any(target_arch = "aarch64", target_arch = "arm"),
        ignore = "QEMU passes no ioctl of V4L2 on"
    )]
    fn a_missing_node_and_one_that_is_no_camera_are_told_apart() {
        let missing = Device::open(Path::new("/dev/video-that-is-not-there")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "camera /dev/video-that-is-not-there is not present"
        );
        let device = Device::open(Path::new("/dev/null")).unwrap();
        assert!(device.identity().is_err());
        assert!(device.formats(Kind::Capture).is_empty());
        let choice = Choice {
            fourcc: FourCc::H264,
            size: Size {
                width: 640,
                height: 480,
            },
        };
        let error = device
            .set_format(Kind::Capture, choice, Room::default())
            .unwrap_err();
        assert!(matches!(error, VideoError::Format { .. }), "{error}");
    }

    #[test]
    fn text_of_a_camera_is_cleaned() {
        assert_eq!(text(b"HD\x1b[31m Cam\0junk"), "HD[31m Cam");
        assert_eq!(text(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
