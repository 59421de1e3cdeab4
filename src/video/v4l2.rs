//! A V4L2 capture device: what it offers, what is asked of it, and its queue of buffers.
//!
//! Single-planar capture with memory-mapped buffers (kernel documentation, "Video Capture
//! Interface" and "Streaming I/O (Memory Mapping)"). The `v4l` crate lends its bindings alone: its
//! own stream ignores error flags, cannot be used after an error and panics when it is dropped then.
//! Multi-planar devices, DMABUF and events are left out. Decisions are made in `camera`.
#![expect(
    unsafe_code,
    reason = "the kernel's camera interface is C: ioctl, mmap, unions"
)]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use v4l::v4l_sys as sys;
use v4l::v4l2::vidioc;

use super::format::{Choice, FormatInfo, FourCc, Size, Sizes};
use super::{VideoError, holder};
use crate::clock;

/// Most formats of a device that are looked at, and most sizes of a format. Cameras list up to a
/// dozen formats with two dozen sizes; `vivid` has more formats than anything.
const MAX_FORMATS: u32 = 128;
const MAX_SIZES: u32 = 64;

/// Buffers that the driver fills in turn: one being filled, one waiting, one in our hands, and one
/// to spare for a late wake-up. More would only add latency when we are late.
const BUFFERS: u32 = 4;

const CAPTURE: u32 = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE;
const MMAP: u32 = sys::v4l2_memory_V4L2_MEMORY_MMAP;

/// Controls of cameras that deliver H.264 ("Codec Control Reference").
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
    /// Whether it captures pictures into buffers that we can use.
    pub(super) const fn captures(&self) -> bool {
        self.has(sys::V4L2_CAP_VIDEO_CAPTURE) && self.has(sys::V4L2_CAP_STREAMING)
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

/// What the driver settled on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiated {
    pub(super) fourcc: FourCc,
    pub(super) size: Size,
    /// Bytes from row to row of the first plane; 0 for coded pictures.
    pub(super) stride: u32,
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

    pub(super) fn formats(&self) -> Vec<FormatInfo> {
        let mut formats = Vec::new();
        for index in 0..MAX_FORMATS {
            let mut raw: sys::v4l2_fmtdesc = zeroed();
            raw.index = index;
            raw.type_ = CAPTURE;
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

    /// Asks for a format. The driver may settle on another size, or even another format.
    pub(super) fn set_format(&self, choice: Choice) -> Result<Negotiated, VideoError> {
        let mut raw: sys::v4l2_format = zeroed();
        raw.type_ = CAPTURE;
        let mut pix: sys::v4l2_pix_format = zeroed();
        pix.width = choice.size.width;
        pix.height = choice.size.height;
        pix.pixelformat = choice.fourcc.to_u32();
        pix.field = sys::v4l2_field_V4L2_FIELD_NONE;
        raw.fmt.pix = pix;
        self.call(&S_FMT, &mut raw)?;
        // SAFETY: for this buffer type the driver answers in `pix`, which is plain integers.
        let pix = unsafe { raw.fmt.pix };
        Ok(Negotiated {
            fourcc: FourCc::from_u32(pix.pixelformat),
            size: Size {
                width: pix.width,
                height: pix.height,
            },
            stride: pix.bytesperline,
        })
    }

    /// Asks for a frame rate and returns the time per frame that the driver settled on, if it says.
    ///
    /// Always after [`Self::set_format`], which resets it: `vivid` falls to 5 frames per second.
    pub(super) fn set_frame_rate(&self, fps: u32) -> Option<Duration> {
        let mut raw: sys::v4l2_streamparm = zeroed();
        raw.type_ = CAPTURE;
        let mut parameters: sys::v4l2_captureparm = zeroed();
        parameters.timeperframe.numerator = 1;
        parameters.timeperframe.denominator = fps;
        raw.parm.capture = parameters;
        if self.ioctl(&S_PARM, &mut raw).is_err() {
            // It cannot be set; perhaps it can be known.
            raw.type_ = CAPTURE;
            self.ioctl(&G_PARM, &mut raw).ok()?;
        }
        // SAFETY: for this buffer type the driver answers in `capture`, which is plain integers.
        let settled = unsafe { raw.parm.capture }.timeperframe;
        let (numerator, denominator) = (settled.numerator, settled.denominator);
        if numerator == 0 || denominator == 0 {
            return None;
        }
        Some(Duration::from_secs(numerator.into()) / denominator)
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
            let camera = self.path.display();
            tracing::debug!(%camera, ?control, value, %error, "the camera kept a control");
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
            // (`v4l2_buffer`'s planes) is not looked at by the driver for single-planar types.
            let result = unsafe { v4l::v4l2::ioctl(self.file.as_raw_fd(), request.code, argument) };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// What the driver puts in a filled buffer.
#[derive(Debug)]
pub(super) struct Filled {
    index: u32,
    used: usize,
    /// The driver says that the content is damaged.
    pub(super) is_damaged: bool,
    pub(super) captured_at: Instant,
}

/// A device that is streaming. Dropping it stops the camera.
#[derive(Debug)]
pub(super) struct Stream {
    buffers: Vec<Mapping>,
    device: Device,
}

impl Stream {
    /// Starts the camera.
    pub(super) fn start(device: Device) -> Result<Self, VideoError> {
        let mut request: sys::v4l2_requestbuffers = zeroed();
        request.count = BUFFERS;
        request.type_ = CAPTURE;
        request.memory = MMAP;
        device.call(&REQBUFS, &mut request)?;
        let mut stream = Self {
            buffers: Vec::new(),
            device,
        };
        for index in 0..request.count {
            let mut raw = buffer(index);
            stream.device.call(&QUERYBUF, &mut raw)?;
            let mapping = Mapping::new(&stream.device.file, &raw);
            let mapping = mapping.map_err(|error| failure(stream.path(), "mmap", error))?;
            stream.buffers.push(mapping);
            stream.queue(index)?;
        }
        let mut kind = capture_as_int();
        stream.device.call(&STREAMON, &mut kind)?;
        Ok(stream)
    }

    pub(super) fn path(&self) -> &Path {
        &self.device.path
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// Waits up to `timeout` for a filled buffer. Hand it back with [`Self::give_back`].
    pub(super) fn next(&mut self, timeout: Duration) -> Result<Option<Filled>, VideoError> {
        let mut poll = libc::pollfd {
            fd: self.device.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: `poll` is one valid pollfd for the duration of the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(None),
                _ => Err(failure(self.path(), "poll", error)),
            };
        }
        if ready == 0 {
            return Ok(None);
        }
        let mut raw = buffer(0);
        match self.device.ioctl(&DQBUF, &mut raw) {
            Ok(()) => Ok(Some(self.filled(&raw))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Nothing there although poll said so: with an error it would say so for ever.
                if poll.revents & (libc::POLLERR | libc::POLLHUP) == 0 {
                    return Ok(None);
                }
                Err(failure(
                    self.path(),
                    "poll",
                    io::Error::from_raw_os_error(libc::EIO),
                ))
            }
            Err(error) => Err(failure(self.path(), DQBUF.name, error)),
        }
    }

    /// Returns what the camera wrote.
    pub(super) fn bytes(&self, filled: &Filled) -> &[u8] {
        let index = usize::try_from(filled.index).unwrap_or(usize::MAX);
        let mapping = self.buffers.get(index).map(Mapping::bytes);
        mapping
            .and_then(|b| b.get(..filled.used))
            .unwrap_or_default()
    }

    /// Lets the camera fill the buffer again.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "its bytes must not be read afterwards"
    )]
    pub(super) fn give_back(&mut self, filled: Filled) -> Result<(), VideoError> {
        self.queue(filled.index)
    }

    fn queue(&self, index: u32) -> Result<(), VideoError> {
        self.device.call(&QBUF, &mut buffer(index))
    }

    fn filled(&self, raw: &sys::v4l2_buffer) -> Filled {
        let index = usize::try_from(raw.index).unwrap_or(usize::MAX);
        let room = self.buffers.get(index).map_or(0, |mapping| mapping.length);
        let has_time =
            raw.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        let captured_at = if has_time {
            let seconds = u64::try_from(raw.timestamp.tv_sec).unwrap_or_default();
            let micros = u64::try_from(raw.timestamp.tv_usec).unwrap_or_default();
            clock::from_monotonic(Duration::from_secs(seconds) + Duration::from_micros(micros))
        } else {
            clock::now()
        };
        Filled {
            index: raw.index,
            used: usize::try_from(raw.bytesused)
                .unwrap_or(usize::MAX)
                .min(room),
            is_damaged: raw.flags & sys::V4L2_BUF_FLAG_ERROR != 0,
            captured_at,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An unplugged camera refuses, and closing the device stops it as well.
        let _refused = self.device.ioctl(&STREAMOFF, &mut capture_as_int());
    }
}

/// One buffer of the driver in our address space.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone and is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &File, raw: &sys::v4l2_buffer) -> io::Result<Self> {
        let length = usize::try_from(raw.length).unwrap_or_default();
        // SAFETY: for memory-mapped buffers the driver answers in `offset`, a plain integer.
        let offset = libc::off64_t::from(unsafe { raw.m.offset });
        // SAFETY: a new mapping at an address that the kernel chooses; it touches no memory of ours.
        let start = unsafe {
            libc::mmap64(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, length })
    }

    const fn bytes(&self) -> &[u8] {
        // SAFETY: `length` bytes are mapped and initialized (the kernel zeroes them) until `drop`.
        // The driver writes to them only while the buffer is queued, and [`Stream::bytes`] is
        // called only with a `Filled`, which exists only while it is not.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `mmap` returned, and no slice of it outlives `self`.
        let _status = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// An ioctl whose argument is a `T`, with its name in the kernel documentation.
struct Request<T> {
    code: vidioc::_IOC_TYPE,
    name: &'static str,
    argument: PhantomData<T>,
}

impl<T> Request<T> {
    const fn new(code: vidioc::_IOC_TYPE, name: &'static str) -> Self {
        Self {
            code,
            name,
            argument: PhantomData,
        }
    }
}

const QUERYCAP: Request<sys::v4l2_capability> =
    Request::new(vidioc::VIDIOC_QUERYCAP, "VIDIOC_QUERYCAP");
const ENUM_FMT: Request<sys::v4l2_fmtdesc> =
    Request::new(vidioc::VIDIOC_ENUM_FMT, "VIDIOC_ENUM_FMT");
const ENUM_FRAMESIZES: Request<sys::v4l2_frmsizeenum> =
    Request::new(vidioc::VIDIOC_ENUM_FRAMESIZES, "VIDIOC_ENUM_FRAMESIZES");
const S_FMT: Request<sys::v4l2_format> = Request::new(vidioc::VIDIOC_S_FMT, "VIDIOC_S_FMT");
const S_PARM: Request<sys::v4l2_streamparm> = Request::new(vidioc::VIDIOC_S_PARM, "VIDIOC_S_PARM");
const G_PARM: Request<sys::v4l2_streamparm> = Request::new(vidioc::VIDIOC_G_PARM, "VIDIOC_G_PARM");
const QUERYCTRL: Request<sys::v4l2_queryctrl> =
    Request::new(vidioc::VIDIOC_QUERYCTRL, "VIDIOC_QUERYCTRL");
const S_CTRL: Request<sys::v4l2_control> = Request::new(vidioc::VIDIOC_S_CTRL, "VIDIOC_S_CTRL");
const REQBUFS: Request<sys::v4l2_requestbuffers> =
    Request::new(vidioc::VIDIOC_REQBUFS, "VIDIOC_REQBUFS");
const QUERYBUF: Request<sys::v4l2_buffer> =
    Request::new(vidioc::VIDIOC_QUERYBUF, "VIDIOC_QUERYBUF");
const QBUF: Request<sys::v4l2_buffer> = Request::new(vidioc::VIDIOC_QBUF, "VIDIOC_QBUF");
const DQBUF: Request<sys::v4l2_buffer> = Request::new(vidioc::VIDIOC_DQBUF, "VIDIOC_DQBUF");
const STREAMON: Request<c_int> = Request::new(vidioc::VIDIOC_STREAMON, "VIDIOC_STREAMON");
const STREAMOFF: Request<c_int> = Request::new(vidioc::VIDIOC_STREAMOFF, "VIDIOC_STREAMOFF");

/// A C struct for which zero is a value.
///
/// # Safety
///
/// All bytes zero must be a valid value of the type.
unsafe trait Zeroable {}

// SAFETY: integers, arrays and unions of integers, and a pointer that may be null.
unsafe impl Zeroable for sys::v4l2_capability {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_fmtdesc {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_frmsizeenum {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_format {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_pix_format {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_streamparm {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_captureparm {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_queryctrl {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_requestbuffers {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_buffer {}

const fn zeroed<T: Zeroable>() -> T {
    // SAFETY: that is what `Zeroable` says.
    unsafe { mem::zeroed() }
}

fn buffer(index: u32) -> sys::v4l2_buffer {
    let mut raw: sys::v4l2_buffer = zeroed();
    raw.index = index;
    raw.type_ = CAPTURE;
    raw.memory = MMAP;
    raw
}

fn capture_as_int() -> c_int {
    c_int::try_from(CAPTURE).unwrap_or_default()
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
        assert!(device.formats().is_empty());
        let choice = Choice {
            fourcc: FourCc::H264,
            size: Size {
                width: 640,
                height: 480,
            },
        };
        let error = device.set_format(choice).unwrap_err();
        assert!(matches!(error, VideoError::Format { .. }), "{error}");
    }

    #[test]
    fn text_of_a_camera_is_cleaned() {
        assert_eq!(text(b"HD\x1b[31m Cam\0junk"), "HD[31m Cam");
        assert_eq!(text(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
