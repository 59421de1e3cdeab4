//! The newest picture → a JPEG file.
//!
//! What an MJPEG camera made is kept as it is; raw pictures are encoded by `jpeg-encoder`, keyframes
//! of H.264 decoded before. It takes tens of milliseconds: not on the camera's thread.

use bytes::Bytes;
use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType, SamplingFactor};

use super::convert::I420;
use super::jpeg;
use super::openh264::decode;
use super::range::{full_chroma, full_luma};
use crate::control::camera::Snapshot;

/// Longest file that is sent to a viewer. A 4K picture of an MJPEG camera has 2 MB.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Of 100: above, files grow faster than what is to be seen in them.
const QUALITY: u8 = 90;

/// A picture on its way to a file.
#[derive(Clone, Debug)]
pub enum Still {
    /// A frame of an MJPEG camera.
    Jpeg(Bytes),
    /// Raw.
    Picture(Planes),
    /// A keyframe with its parameter sets, as an Annex B byte stream.
    Keyframe(Bytes),
}

/// A picture in I420 of its own, in limited range.
#[derive(Clone, Debug)]
pub struct Planes {
    /// Pixels, even.
    pub width: usize,
    /// Pixels, even.
    pub height: usize,
    /// Y, U and V, without padding.
    pub bytes: Vec<u8>,
}

/// A source's copy of a picture that somebody asked for.
#[derive(Debug, Default)]
pub(super) enum Keeper {
    /// Nobody asked.
    #[default]
    Idle,
    /// The next picture is to be kept.
    Asked,
    /// Here it is.
    Kept(Still),
}

impl Keeper {
    /// Somebody asks for the next picture.
    pub(super) fn ask(&mut self) {
        *self = Self::Asked;
    }

    /// Whether somebody asked for the next picture.
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// Here is a picture; it is copied if somebody asked.
    pub(super) fn offer(&mut self, copy: impl FnOnce() -> Still) {
        if self.is_asked() {
            *self = Self::Kept(copy());
        }
    }

    /// Takes the copy, once there is one.
    pub(super) fn take(&mut self) -> Option<Still> {
        match std::mem::take(self) {
            Self::Kept(still) => Some(still),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Planes {
    /// Copies a picture.
    pub(super) fn copy_of(picture: &I420<'_>) -> Self {
        let (width, height) = (picture.width(), picture.height());
        let mut bytes = Vec::with_capacity(width * height * 3 / 2);
        picture.copy_to(&mut bytes);
        Self {
            width,
            height,
            bytes,
        }
    }

    fn row(&self, start: usize, columns: usize, row: usize) -> &[u8] {
        let start = start + columns * row;
        self.bytes.get(start..start + columns).unwrap_or_default()
    }
}

impl Still {
    /// Makes the file.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub(super) fn into_snapshot(self) -> Result<Snapshot, String> {
        let snapshot = match self {
            Self::Jpeg(frame) => {
                let (header, file) = jpeg::file(&frame).map_err(|damage| damage.to_string())?;
                Snapshot {
                    jpeg: file.into(),
                    width: header.width,
                    height: header.height,
                }
            }
            Self::Picture(planes) => encode(&planes)?,
            Self::Keyframe(unit) => {
                let planes = decode(&unit).map_err(|error| error.to_string())?;
                encode(&planes)?
            }
        };
        let bytes = snapshot.jpeg.len();
        if bytes > MAX_BYTES {
            return Err(format!(
                "the file has {bytes} bytes, at most {MAX_BYTES} are sent"
            ));
        }
        Ok(snapshot)
    }
}

fn encode(planes: &Planes) -> Result<Snapshot, String> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    let encoded = encoder.encode_image(planes);
    encoded.map_err(|error| error.to_string())?;
    Ok(Snapshot {
        jpeg: jpeg.into(),
        width: planes.width,
        height: planes.height,
    })
}

impl ImageBuffer for &Planes {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        u16::try_from(self.width).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from(self.height).unwrap_or(u16::MAX)
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let row = usize::from(y);
        let (width, half) = (self.width, self.width / 2);
        let luma = width * self.height;
        let chroma = luma / 4;
        let twice = |sample: &u8| [full_chroma(*sample); 2];
        let [y, u, v, _] = buffers;
        y.extend(self.row(0, width, row).iter().map(|s| full_luma(*s)));
        u.extend(self.row(luma, half, row / 2).iter().flat_map(twice));
        v.extend(
            self.row(luma + chroma, half, row / 2)
                .iter()
                .flat_map(twice),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::video::mjpeg::Mjpeg;
    use crate::video::openh264::OpenH264;
    use crate::video::test_card::TestCard;

    const NOON: std::time::Duration = std::time::Duration::from_secs(43_200);

    fn card() -> Planes {
        Planes::copy_of(&TestCard::new(320, 180).draw(NOON).unwrap())
    }

    /// The mean difference of the samples of `planes` and of what is in `file`.
    fn difference(planes: &Planes, file: &[u8]) -> f64 {
        let mut decoder = Mjpeg::new(planes.width, planes.height);
        let decoded = Planes::copy_of(&decoder.decode(file).unwrap());
        let pairs = planes.bytes.iter().zip(&decoded.bytes);
        let sum: u32 = pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        f64::from(sum) / f64::from(u32::try_from(planes.bytes.len()).unwrap())
    }

    #[test]
    fn a_raw_picture_looks_the_same_in_its_file() {
        let snapshot = Still::Picture(card()).into_snapshot().unwrap();
        assert_eq!((snapshot.width, snapshot.height), (320, 180));
        let off_by = difference(&card(), &snapshot.jpeg);
        assert!(off_by < 1.5, "{off_by}");
    }

    #[test]
    fn a_keyframe_looks_the_same_in_its_file() {
        let planes = card();
        let picture = I420::in_one_block(320, 180, &planes.bytes, 320).unwrap();
        let mut encoder = OpenH264::new(30, 4_000_000);
        let unit = encoder.encode(&picture, clock::now()).unwrap().unwrap();
        let snapshot = Still::Keyframe(unit).into_snapshot().unwrap();
        let off_by = difference(&planes, &snapshot.jpeg);
        assert!(off_by < 4.0, "{off_by}");
    }

    #[test]
    fn the_frame_of_a_camera_is_the_file_with_all_that_belongs_to_one() {
        let frame = Still::Picture(card()).into_snapshot().unwrap().jpeg;
        let file = Still::Jpeg(frame.clone()).into_snapshot().unwrap().jpeg;
        assert!(file.starts_with(&[0xff, 0xd8]) && file.ends_with(&[0xff, 0xd9]));
        assert!(difference(&card(), &file) < 1.5);
        let cut_short = frame.slice(..frame.len() / 2);
        let error = Still::Jpeg(cut_short).into_snapshot().unwrap_err();
        assert_eq!(error, "cut short");
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        for junk in [&b""[..], b"junk", &[0, 0, 1, 0x67, 1, 2, 3]] {
            let still = Still::Keyframe(Bytes::from_static(junk));
            assert!(still.into_snapshot().is_err(), "{junk:?}");
        }
    }
}
