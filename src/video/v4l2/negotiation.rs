//! Which pictures a device and this program agree on ("Data Formats", "Defining Colorspaces in V4L2").
#![expect(unsafe_code, reason = "unions of C")]

use v4l::v4l_sys as sys;

use super::request::{S_FMT, zeroed};
use super::{Device, Kind};
use crate::video::VideoError;
use crate::video::format::{Choice, FourCc, Size};

/// What the driver settled on.
#[derive(Clone, Copy, Debug)]
pub(in crate::video) struct Negotiated {
    pub(in crate::video) fourcc: FourCc,
    pub(in crate::video) size: Size,
    /// Bytes from row to row of the first plane; 0 for coded pictures.
    pub(in crate::video) stride: u32,
    /// Room that a buffer has for a picture at least.
    pub(in crate::video) bytes: u32,
    /// Its samples go from 0 to 255, as those of JPEG do.
    pub(in crate::video) is_full_range: bool,
}

/// What is asked of the memory of a picture; 0 leaves it to the driver.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::video) struct Room {
    /// For a coded picture.
    pub(in crate::video) bytes: u32,
    /// From row to row of a raw one.
    pub(in crate::video) stride: u32,
}

impl Device {
    /// Asks for a format. The driver may settle on another size, or even another format.
    pub(in crate::video) fn set_format(
        &self,
        kind: Kind,
        choice: Choice,
        room: Room,
    ) -> Result<Negotiated, VideoError> {
        let mut raw: sys::v4l2_format = zeroed();
        raw.type_ = kind.code();
        if kind.has_planes() {
            let mut pix: sys::v4l2_pix_format_mplane = zeroed();
            pix.width = choice.size.width;
            pix.height = choice.size.height;
            pix.pixelformat = choice.fourcc.to_u32();
            pix.field = sys::v4l2_field_V4L2_FIELD_NONE;
            pix.num_planes = 1;
            let [plane, ..] = &mut pix.plane_fmt;
            plane.sizeimage = room.bytes;
            plane.bytesperline = room.stride;
            raw.fmt.pix_mp = pix;
            self.call(&S_FMT, &mut raw)?;
            // SAFETY: for this buffer type the driver answers in `pix_mp`, which is plain integers.
            let pix = unsafe { raw.fmt.pix_mp };
            let [plane, ..] = pix.plane_fmt;
            if pix.num_planes != 1 {
                return Err(VideoError::Format {
                    path: self.path.clone(),
                    wanted: "pictures in one piece of memory".to_owned(),
                    offered: format!("{} in {} pieces", choice.fourcc, pix.num_planes),
                });
            }
            return Ok(Negotiated {
                fourcc: FourCc::from_u32(pix.pixelformat),
                size: Size {
                    width: pix.width,
                    height: pix.height,
                },
                stride: plane.bytesperline,
                bytes: plane.sizeimage,
                is_full_range: is_full_range(pix.colorspace, pix.quantization.into()),
            });
        }
        let mut pix: sys::v4l2_pix_format = zeroed();
        pix.width = choice.size.width;
        pix.height = choice.size.height;
        pix.pixelformat = choice.fourcc.to_u32();
        pix.field = sys::v4l2_field_V4L2_FIELD_NONE;
        pix.sizeimage = room.bytes;
        pix.bytesperline = room.stride;
        // Without it a driver may not say which range its samples have.
        pix.priv_ = sys::V4L2_PIX_FMT_PRIV_MAGIC;
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
            bytes: pix.sizeimage,
            is_full_range: is_full_range(pix.colorspace, pix.quantization),
        })
    }
}

/// Returns what a driver says of the range of YUV samples ("Defining Colorspaces in V4L2").
const fn is_full_range(colorspace: u32, quantization: u32) -> bool {
    match quantization {
        sys::v4l2_quantization_V4L2_QUANTIZATION_FULL_RANGE => true,
        sys::v4l2_quantization_V4L2_QUANTIZATION_DEFAULT => {
            colorspace == sys::v4l2_colorspace_V4L2_COLORSPACE_JPEG
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_limited_range_unless_the_driver_says_otherwise() {
        const SRGB: u32 = sys::v4l2_colorspace_V4L2_COLORSPACE_SRGB;
        const JPEG: u32 = sys::v4l2_colorspace_V4L2_COLORSPACE_JPEG;
        const DEFAULT: u32 = sys::v4l2_quantization_V4L2_QUANTIZATION_DEFAULT;
        const FULL: u32 = sys::v4l2_quantization_V4L2_QUANTIZATION_FULL_RANGE;
        const LIMITED: u32 = sys::v4l2_quantization_V4L2_QUANTIZATION_LIM_RANGE;
        assert!(is_full_range(SRGB, FULL) && is_full_range(JPEG, DEFAULT));
        for (colorspace, quantization) in [(0, DEFAULT), (SRGB, DEFAULT), (JPEG, LIMITED)] {
            assert!(!is_full_range(colorspace, quantization));
        }
    }
}
