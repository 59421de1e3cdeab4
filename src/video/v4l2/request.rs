//! The ioctls of V4L2, each with the type of its argument, and its name for messages.
#![expect(
    unsafe_code,
    reason = "C structs are made of zeros, as the kernel asks for"
)]

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem;

use v4l::v4l_sys as sys;
use v4l::v4l2::vidioc;

/// An ioctl whose argument is a `T`, with its name in the kernel documentation.
pub(super) struct Request<T> {
    pub(super) code: vidioc::_IOC_TYPE,
    pub(super) name: &'static str,
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

/// Returns the code of an ioctl that the bindings lack (`_IOWR('V', number, T)`).
const fn read_write<T>(number: vidioc::_IOC_TYPE) -> vidioc::_IOC_TYPE {
    code::<T>(3, number)
}

/// The same of one that only answers (`_IOR`), and of one that does not (`_IOW`).
const fn read<T>(number: vidioc::_IOC_TYPE) -> vidioc::_IOC_TYPE {
    code::<T>(2, number)
}

const fn write<T>(number: vidioc::_IOC_TYPE) -> vidioc::_IOC_TYPE {
    code::<T>(1, number)
}

const fn code<T>(ways: vidioc::_IOC_TYPE, number: vidioc::_IOC_TYPE) -> vidioc::_IOC_TYPE {
    (ways << 30) | ((size_of::<T>() as vidioc::_IOC_TYPE) << 16) | (0x56 << 8) | number
}

/// `struct v4l2_dv_timings`, which the bindings lack. It is only passed on.
#[repr(C)]
pub(super) struct DvTimings([u32; 33]);

pub(super) const QUERYCAP: Request<sys::v4l2_capability> =
    Request::new(vidioc::VIDIOC_QUERYCAP, "VIDIOC_QUERYCAP");
pub(super) const ENUM_FMT: Request<sys::v4l2_fmtdesc> =
    Request::new(vidioc::VIDIOC_ENUM_FMT, "VIDIOC_ENUM_FMT");
pub(super) const ENUM_FRAMESIZES: Request<sys::v4l2_frmsizeenum> =
    Request::new(vidioc::VIDIOC_ENUM_FRAMESIZES, "VIDIOC_ENUM_FRAMESIZES");
pub(super) const ENUM_FRAMEINTERVALS: Request<sys::v4l2_frmivalenum> = Request::new(
    vidioc::VIDIOC_ENUM_FRAMEINTERVALS,
    "VIDIOC_ENUM_FRAMEINTERVALS",
);
pub(super) const S_FMT: Request<sys::v4l2_format> =
    Request::new(vidioc::VIDIOC_S_FMT, "VIDIOC_S_FMT");
pub(super) const S_SELECTION: Request<sys::v4l2_selection> =
    Request::new(read_write::<sys::v4l2_selection>(95), "VIDIOC_S_SELECTION");
pub(super) const S_PARM: Request<sys::v4l2_streamparm> =
    Request::new(vidioc::VIDIOC_S_PARM, "VIDIOC_S_PARM");
pub(super) const G_PARM: Request<sys::v4l2_streamparm> =
    Request::new(vidioc::VIDIOC_G_PARM, "VIDIOC_G_PARM");
pub(super) const QUERYCTRL: Request<sys::v4l2_queryctrl> =
    Request::new(vidioc::VIDIOC_QUERYCTRL, "VIDIOC_QUERYCTRL");
pub(super) const S_CTRL: Request<sys::v4l2_control> =
    Request::new(vidioc::VIDIOC_S_CTRL, "VIDIOC_S_CTRL");
pub(super) const G_CTRL: Request<sys::v4l2_control> =
    Request::new(vidioc::VIDIOC_G_CTRL, "VIDIOC_G_CTRL");
pub(super) const QUERYMENU: Request<sys::v4l2_querymenu> =
    Request::new(vidioc::VIDIOC_QUERYMENU, "VIDIOC_QUERYMENU");
pub(super) const REQBUFS: Request<sys::v4l2_requestbuffers> =
    Request::new(vidioc::VIDIOC_REQBUFS, "VIDIOC_REQBUFS");
pub(super) const QUERYBUF: Request<sys::v4l2_buffer> =
    Request::new(vidioc::VIDIOC_QUERYBUF, "VIDIOC_QUERYBUF");
pub(super) const QBUF: Request<sys::v4l2_buffer> = Request::new(vidioc::VIDIOC_QBUF, "VIDIOC_QBUF");
pub(super) const DQBUF: Request<sys::v4l2_buffer> =
    Request::new(vidioc::VIDIOC_DQBUF, "VIDIOC_DQBUF");
pub(super) const EXPBUF: Request<sys::v4l2_exportbuffer> =
    Request::new(vidioc::VIDIOC_EXPBUF, "VIDIOC_EXPBUF");
pub(super) const STREAMON: Request<c_int> =
    Request::new(vidioc::VIDIOC_STREAMON, "VIDIOC_STREAMON");
pub(super) const STREAMOFF: Request<c_int> =
    Request::new(vidioc::VIDIOC_STREAMOFF, "VIDIOC_STREAMOFF");

pub(super) const QUERY_DV_TIMINGS: Request<DvTimings> =
    Request::new(read::<DvTimings>(99), "VIDIOC_QUERY_DV_TIMINGS");
pub(super) const S_DV_TIMINGS: Request<DvTimings> =
    Request::new(read_write::<DvTimings>(87), "VIDIOC_S_DV_TIMINGS");
pub(super) const SUBSCRIBE_EVENT: Request<sys::v4l2_event_subscription> = Request::new(
    write::<sys::v4l2_event_subscription>(90),
    "VIDIOC_SUBSCRIBE_EVENT",
);
pub(super) const DQEVENT: Request<sys::v4l2_event> =
    Request::new(read::<sys::v4l2_event>(89), "VIDIOC_DQEVENT");

/// A C struct for which zero is a value.
///
/// # Safety
///
/// All bytes zero must be a valid value of the type.
pub(super) unsafe trait Zeroable {}

// SAFETY: integers, arrays and unions of integers, and a pointer that may be null.
unsafe impl Zeroable for sys::v4l2_capability {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_fmtdesc {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_frmsizeenum {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_frmivalenum {}
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
unsafe impl Zeroable for sys::v4l2_querymenu {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_requestbuffers {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_buffer {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_exportbuffer {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_plane {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_pix_format_mplane {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_outputparm {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_selection {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_event_subscription {}
// SAFETY: as above.
unsafe impl Zeroable for sys::v4l2_event {}
// SAFETY: as above.
unsafe impl Zeroable for DvTimings {}

pub(super) const fn zeroed<T: Zeroable>() -> T {
    // SAFETY: that is what `Zeroable` says.
    unsafe { mem::zeroed() }
}
