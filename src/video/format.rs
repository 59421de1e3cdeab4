//! What a camera offers, and which of it is taken.
//!
//! H.264 comes first: it costs no CPU. Of the others the nearest size at the frame rate wins, then the one that
//! is turned into I420 most cheaply, MJPEG last. Pure.

use std::fmt;

use serde::Serialize;

use super::convert::RawFormat;
use crate::config::CameraFormat;

/// What this program takes, for messages.
pub(super) const WANTED: &str = "H264, YUYV, UYVY, NV12, YU12 or MJPG";

/// A four-character code of a pixel format, e.g. `YUYV`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct FourCc([u8; 4]);

impl FourCc {
    /// H.264 as an Annex B byte stream.
    pub const H264: Self = Self(*b"H264");

    /// JPEG pictures, one per buffer.
    pub const MJPEG: Self = Self(*b"MJPG");
    /// Planes of Y, U and V.
    pub const I420: Self = Self(*b"YU12");

    /// Returns the code that the kernel writes as `code`.
    #[must_use]
    pub const fn from_u32(code: u32) -> Self {
        Self(code.to_le_bytes())
    }

    /// Returns the code as the kernel writes it.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        u32::from_le_bytes(self.0)
    }

    /// Returns the raw layout it stands for, if this program understands it.
    #[must_use]
    pub const fn raw_format(self) -> Option<RawFormat> {
        match &self.0 {
            b"YUYV" => Some(RawFormat::Yuyv),
            b"UYVY" => Some(RawFormat::Uyvy),
            b"NV12" => Some(RawFormat::Nv12),
            b"YU12" => Some(RawFormat::I420),
            _ => None,
        }
    }

    /// Returns whether each buffer is a JPEG picture.
    #[must_use]
    pub const fn is_jpeg(self) -> bool {
        matches!(&self.0, b"MJPG" | b"JPEG")
    }

    /// Returns whether this is what encoders make of pictures, of the codes in the kernel's "Compressed
    /// Formats" that anything encodes to.
    #[must_use]
    pub(super) const fn is_coded(self) -> bool {
        matches!(
            &self.0,
            b"H264" | b"HEVC" | b"VP80" | b"VP90" | b"MPG2" | b"MPG4" | b"H263" | b"FWHT"
        ) || self.is_jpeg()
    }

    /// Returns whether pictures in this format can be sent.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(&self.0, b"H264") || self.is_jpeg() || self.raw_format().is_some()
    }

    /// Returns whether these are the values of a bare sensor, which are no picture yet.
    fn is_sensor_data(self) -> bool {
        const COLOUR: [&[u8; 2]; 5] = [b"BG", b"GB", b"GR", b"RG", b"BA"];
        const DEPTH: [&[u8; 2]; 5] = [b"81", b"10", b"12", b"14", b"16"];
        let [a, b, c, d] = self.0;
        let bayer = COLOUR.contains(&&[a, b]) && DEPTH.contains(&&[c, d]);
        // MIPI-packed: pBAA (10 bits), pBCC (12), pBEE (14).
        let packed = a == b'p' && b"BGgR".contains(&b) && c == d && b"ACE".contains(&c);
        let eight_bits = [b"GBRG", b"GRBG", b"RGGB", b"BYR2"].contains(&&self.0);
        bayer || packed || eight_bits
    }
}

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.escape_ascii().to_string().trim_end())
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<FourCc> for String {
    fn from(code: FourCc) -> Self {
        code.to_string()
    }
}

/// Width and height, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl Size {
    /// Returns how different the sizes are; 0 for equal ones.
    const fn distance(self, other: Self) -> u32 {
        let width = self.width.abs_diff(other.width);
        width.saturating_add(self.height.abs_diff(other.height))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The sizes that a camera offers in one format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizes {
    /// The driver does not say.
    Unknown,
    /// These and no others; bounded by the lister.
    Listed(Vec<Size>),
    /// Anything between.
    Range {
        /// The smallest.
        min: Size,
        /// The largest.
        max: Size,
        /// From one to the next.
        step: Size,
    },
}

impl Sizes {
    /// Returns the size nearest to `wanted`.
    fn nearest(&self, wanted: Size) -> Size {
        match self {
            Self::Unknown => wanted,
            Self::Listed(sizes) => {
                let nearest = sizes.iter().min_by_key(|size| size.distance(wanted));
                nearest.copied().unwrap_or(wanted)
            }
            Self::Range { min, max, step } => Size {
                width: on_grid(wanted.width, min.width, max.width, step.width),
                height: on_grid(wanted.height, min.height, max.height, step.height),
            },
        }
    }
}

fn on_grid(wanted: u32, min: u32, max: u32, step: u32) -> u32 {
    let clamped = wanted.min(max).max(min);
    clamped - (clamped - min) % step.max(1)
}

/// One format of a camera.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormatInfo {
    /// The pixel format.
    pub fourcc: FourCc,
    /// Whether this program can send it.
    pub usable: bool,
    /// At which sizes.
    pub sizes: Sizes,
}

impl fmt::Display for FormatInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fourcc)?;
        match &self.sizes {
            Sizes::Unknown => Ok(()),
            Sizes::Listed(sizes) => sizes.iter().try_for_each(|size| write!(f, " {size}")),
            Sizes::Range { min, max, .. } => write!(f, " {min} to {max}"),
        }
    }
}

/// What is asked of the camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) fourcc: FourCc,
    pub(super) size: Size,
}

/// Returns whether the configuration admits a format.
pub(super) const fn is_admitted(format: CameraFormat, fourcc: FourCc) -> bool {
    match format {
        CameraFormat::Auto => true,
        CameraFormat::H264 => matches!(&fourcc.0, b"H264"),
        CameraFormat::Mjpeg => fourcc.is_jpeg(),
        CameraFormat::Yuyv => matches!(&fourcc.0, b"YUYV"),
        CameraFormat::Uyvy => matches!(&fourcc.0, b"UYVY"),
        CameraFormat::Nv12 => matches!(&fourcc.0, b"NV12"),
        CameraFormat::Yu12 => matches!(&fourcc.0, b"YU12"),
    }
}

/// Returns what would do, in words.
pub(super) const fn wanted(format: CameraFormat) -> &'static str {
    match format {
        CameraFormat::Auto => WANTED,
        CameraFormat::H264 => "H264 (video.format)",
        CameraFormat::Mjpeg => "MJPG (video.format)",
        CameraFormat::Yuyv => "YUYV (video.format)",
        CameraFormat::Uyvy => "UYVY (video.format)",
        CameraFormat::Nv12 => "NV12 (video.format)",
        CameraFormat::Yu12 => "YU12 (video.format)",
    }
}

/// Returns what to take of `offers`, or `None` if nothing there is usable, or is of the `format` that is
/// configured. `fastest` says how many pictures per second there are of a format and size, where that is known.
pub(super) fn choose(
    offers: &[FormatInfo],
    format: CameraFormat,
    wanted: Size,
    fps: u32,
    fastest: impl Fn(Choice) -> Option<u32>,
) -> Option<Choice> {
    let rank = |fourcc: FourCc| match fourcc.raw_format() {
        Some(RawFormat::Yuyv) => 1,
        Some(RawFormat::Uyvy) => 2,
        Some(RawFormat::Nv12) => 3,
        Some(RawFormat::I420) => 4,
        None if fourcc.is_jpeg() => 5,
        None => 0,
    };
    let choices = offers
        .iter()
        .filter(|offer| offer.usable && is_admitted(format, offer.fourcc))
        .map(|offer| Choice {
            fourcc: offer.fourcc,
            size: offer.sizes.nearest(wanted),
        });
    choices.min_by_key(|&choice| {
        let Choice { fourcc, size } = choice;
        let is_encoded_here = fourcc != FourCc::H264;
        // USB 2 carries 10 raw pictures of 720p per second, and 30 as JPEG.
        let lacking = fastest(choice).map_or(0, |fastest| fps.saturating_sub(fastest));
        (
            is_encoded_here,
            size.distance(wanted),
            lacking,
            rank(fourcc),
        )
    })
}

/// Returns in words what a camera offers of which nothing is usable.
pub(super) fn describe(offers: &[FormatInfo]) -> String {
    if offers.is_empty() {
        return "no picture format".to_owned();
    }
    let codes: Vec<String> = offers.iter().map(|o| o.fourcc.to_string()).collect();
    let codes = codes.join(", ");
    if offers.iter().all(|offer| offer.fourcc.is_sensor_data()) {
        return format!(
            "raw Bayer sensor data alone ({codes}), as CSI sensors behind libcamera do"
        );
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HD: Size = size(1280, 720);

    const fn size(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    fn offer(code: &[u8; 4], sizes: &[(u32, u32)]) -> FormatInfo {
        let fourcc = FourCc(*code);
        FormatInfo {
            fourcc,
            usable: fourcc.is_usable(),
            sizes: Sizes::Listed(sizes.iter().map(|&(w, h)| size(w, h)).collect()),
        }
    }

    fn chosen(offers: &[FormatInfo]) -> String {
        chosen_at(offers, |_| None)
    }

    fn chosen_at(offers: &[FormatInfo], fastest: impl Fn(Choice) -> Option<u32>) -> String {
        choose(offers, CameraFormat::Auto, HD, 30, fastest)
            .map_or_else(String::new, |c| format!("{} {}", c.fourcc, c.size))
    }

    #[test]
    fn h264_comes_first_even_at_another_size() {
        let offers = [
            offer(b"YUYV", &[(1280, 720)]),
            offer(b"MJPG", &[(1280, 720)]),
            offer(b"H264", &[(1920, 1080), (640, 480)]),
        ];
        assert_eq!(chosen(&offers), "H264 640x480");
    }

    #[test]
    fn of_raw_formats_the_nearest_size_wins_and_then_yuyv() {
        let vga = &[(640, 480)][..];
        let hd = &[(320, 240), (1280, 720)][..];
        assert_eq!(
            chosen(&[offer(b"YUYV", vga), offer(b"NV12", hd)]),
            "NV12 1280x720"
        );
        assert_eq!(
            chosen(&[offer(b"YU12", hd), offer(b"YUYV", hd)]),
            "YUYV 1280x720"
        );
    }

    #[test]
    fn jpeg_is_taken_where_raw_pictures_are_too_small_or_too_slow() {
        let vga = &[(640, 480)][..];
        let hd = &[(640, 480), (1280, 720)][..];
        let both = [offer(b"YUYV", hd), offer(b"MJPG", hd)];
        assert_eq!(chosen(&both), "YUYV 1280x720");
        let usb2 = |choice: Choice| Some(if choice.fourcc.is_jpeg() { 30 } else { 10 });
        assert_eq!(chosen_at(&both, usb2), "MJPG 1280x720");
        assert_eq!(
            chosen(&[offer(b"YUYV", vga), offer(b"MJPG", hd)]),
            "MJPG 1280x720"
        );
    }

    #[test]
    fn the_format_that_is_configured_is_taken_or_none() {
        let hd = &[(1280, 720)][..];
        let codes = [b"H264", b"YUYV", b"UYVY", b"NV12", b"YU12", b"JPEG"];
        let offers = codes.map(|code| offer(code, hd));
        let taken = |offers, format| {
            choose(offers, format, HD, 30, |_| None).map(|choice| choice.fourcc.to_string())
        };
        for (format, code) in [
            (CameraFormat::Auto, "H264"),
            (CameraFormat::H264, "H264"),
            (CameraFormat::Yuyv, "YUYV"),
            (CameraFormat::Uyvy, "UYVY"),
            (CameraFormat::Nv12, "NV12"),
            (CameraFormat::Yu12, "YU12"),
            (CameraFormat::Mjpeg, "JPEG"),
        ] {
            assert_eq!(taken(&offers, format).as_deref(), Some(code));
        }
        assert_eq!(taken(&offers[..1], CameraFormat::Nv12), None);
        assert_eq!(wanted(CameraFormat::Nv12), "NV12 (video.format)");
    }

    #[test]
    fn a_range_gives_the_size_on_its_grid() {
        let sizes = Sizes::Range {
            min: size(32, 32),
            max: size(1024, 1024),
            step: size(32, 16),
        };
        assert_eq!(sizes.nearest(HD), size(1024, 720));
        assert_eq!(sizes.nearest(size(100, 10)), size(96, 32));
        assert_eq!(Sizes::Unknown.nearest(HD), HD);
    }

    #[test]
    fn a_range_that_makes_no_sense_does_no_harm() {
        let sizes = Sizes::Range {
            min: size(640, 480),
            max: size(0, 0),
            step: size(0, 0),
        };
        assert_eq!(sizes.nearest(HD), size(640, 480));
    }

    #[test]
    fn a_bare_sensor_is_told_in_words() {
        let offers = [
            offer(b"RG10", &[]),
            offer(b"pRAA", &[]),
            offer(b"BA81", &[]),
        ];
        assert_eq!(chosen(&offers), "");
        assert!(describe(&offers).starts_with("raw Bayer sensor data alone (RG10, pRAA, BA81)"));
        assert_eq!(
            describe(&[offer(b"HEVC", &[]), offer(b"GREY", &[])]),
            "HEVC, GREY"
        );
        assert_eq!(describe(&[]), "no picture format");
    }

    #[test]
    fn a_format_is_shown_with_its_sizes() {
        let offer = offer(b"Y16 ", &[(640, 480), (320, 240)]);
        assert_eq!(offer.to_string(), "Y16 640x480 320x240");
        assert_eq!(FourCc::from_u32(FourCc::H264.to_u32()), FourCc::H264);
    }
}
