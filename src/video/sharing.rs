//! May an encoder read pictures where the camera has put them? What speaks against it, in words.
//!
//! The kernel has the last word: it may refuse memory that lies in pieces, or of another kind. Pure.

use super::convert::RawFormat;
use super::v4l2::Negotiated;

/// Buffers of a camera that go round. Two of them stay with it: one that it fills, and the next.
pub(super) const KEPT_BY_CAMERA: u32 = 2;

/// Returns why pictures of the camera have to be copied or converted, whatever the encoder is.
pub(super) fn obstacle(camera: &Negotiated) -> Option<String> {
    let is_odd = !camera.size.width.is_multiple_of(2) || !camera.size.height.is_multiple_of(2);
    if camera.fourcc.is_jpeg() {
        Some("JPEG pictures are decoded first".to_owned())
    } else if camera.is_full_range {
        // The bitstream says limited, and so do those of the encoders.
        Some("its samples are of full range, and are brought into limited range first".to_owned())
    } else if is_odd {
        Some(format!("{} is cut to even sides first", camera.size))
    } else {
        None
    }
}

/// Returns why the encoder, which settled on `encoder` for pictures as of `camera`, would misread them
/// in buffers of `room` bytes.
pub(super) fn mismatch(camera: &Negotiated, room: u32, encoder: &Negotiated) -> Option<String> {
    let Negotiated { fourcc, size, .. } = *camera;
    if encoder.fourcc != fourcc {
        return Some(format!("the encoder takes {} for {fourcc}", encoder.fourcc));
    }
    if encoder.stride != camera.stride {
        return Some(format!(
            "the encoder reads rows of {} bytes, not of {}",
            encoder.stride, camera.stride
        ));
    }
    let is_smaller = encoder.size.width < size.width || encoder.size.height < size.height;
    // Behind luma comes chroma, where the encoder expects it.
    let is_planar = matches!(
        fourcc.raw_format(),
        Some(RawFormat::Nv12 | RawFormat::I420) | None
    );
    if is_smaller || (is_planar && encoder.size.height != size.height) {
        let rows = encoder.size.height;
        return Some(format!(
            "the encoder reads {rows} rows of {fourcc} for {size}"
        ));
    }
    (room < encoder.bytes).then(|| {
        format!(
            "the encoder reads {} bytes, of {room} in a buffer",
            encoder.bytes
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::format::{FourCc, Size};
    use super::*;

    const fn pictures(code: [u8; 4], width: u32, height: u32, stride: u32) -> Negotiated {
        Negotiated {
            fourcc: FourCc::from_u32(u32::from_le_bytes(code)),
            size: Size { width, height },
            stride,
            bytes: stride * height * 3 / 2,
            is_full_range: false,
        }
    }

    #[test]
    fn raw_pictures_of_limited_range_may_be_shared_and_others_not() {
        let yuyv = pictures(*b"YUYV", 640, 480, 1_280);
        assert_eq!(obstacle(&yuyv), None);
        let full = Negotiated {
            is_full_range: true,
            ..yuyv
        };
        assert!(obstacle(&full).unwrap().contains("full range"));
        let odd = pictures(*b"YUYV", 641, 480, 1_282);
        assert_eq!(
            obstacle(&odd).unwrap(),
            "641x480 is cut to even sides first"
        );
        let jpeg = pictures(*b"MJPG", 640, 480, 0);
        assert!(obstacle(&jpeg).unwrap().contains("decoded"));
    }

    #[test]
    fn equal_layouts_fit() {
        let camera = pictures(*b"YU12", 640, 480, 640);
        assert_eq!(mismatch(&camera, camera.bytes, &camera), None);
    }

    #[test]
    fn rows_that_the_encoder_adds_are_no_matter_where_chroma_lies_beside_luma() {
        let camera = pictures(*b"YUYV", 320, 180, 640);
        let encoder = pictures(*b"YUYV", 320, 184, 640);
        assert_eq!(mismatch(&camera, encoder.bytes, &encoder), None);
        let said = mismatch(&camera, encoder.bytes - 1, &encoder).unwrap();
        assert!(said.contains("in a buffer"), "{said}");

        for code in [*b"YU12", *b"NV12"] {
            let camera = pictures(code, 320, 180, 320);
            let encoder = pictures(code, 320, 184, 320);
            let said = mismatch(&camera, encoder.bytes, &encoder).unwrap();
            assert!(said.contains("reads 184 rows"), "{said}");
        }
    }

    #[test]
    fn another_format_stride_or_size_does_not_fit() {
        let camera = pictures(*b"NV12", 640, 480, 640);
        let room = u32::MAX;
        for (other, said) in [
            (pictures(*b"YU12", 640, 480, 640), "takes YU12 for NV12"),
            (pictures(*b"NV12", 640, 480, 704), "rows of 704 bytes"),
            (pictures(*b"NV12", 320, 480, 640), "for 640x480"),
        ] {
            let reason = mismatch(&camera, room, &other).unwrap();
            assert!(reason.contains(said), "{reason}");
        }
    }
}
