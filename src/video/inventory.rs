//! What this machine has to see with and to encode with, for `roomcam devices` and `roomcam doctor`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::devices::{self, CameraInfo, Found};
use super::format::{Choice, FormatInfo, FourCc, Size, Sizes};
use super::openh264::has_assembly;
use super::v4l2::Device;
use super::{VideoError, holder, rpicam, v4l2_encoder};
use crate::config;

pub use super::csi::CsiCamera;

/// Everything that delivers or encodes pictures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inventory {
    /// V4L2 devices that deliver pictures, or could.
    pub cameras: Vec<Camera>,
    /// The program for CSI cameras, where it is installed.
    pub csi_program: Option<PathBuf>,
    /// The cameras that program sees.
    pub csi_cameras: Vec<CsiCamera>,
    /// The hardware ones, and OpenH264.
    pub encoders: Vec<Encoder>,
}

/// A V4L2 device that delivers pictures, or could, with the rates of all its sizes.
pub type Camera = CameraInfo<OfferedFormat>;

/// A format of a camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfferedFormat {
    /// The pixel format.
    pub fourcc: FourCc,
    /// Whether this program can send it.
    pub usable: bool,
    /// Its sizes; none where the driver names a range, or does not say.
    pub sizes: Vec<OfferedSize>,
    /// Any size between two.
    pub range: Option<SizeRange>,
}

/// A size of a camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfferedSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pictures per second, the most first; of a range, its two ends. None where the driver does not say.
    pub rates: Vec<f64>,
}

/// Sizes between two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeRange {
    /// The smallest.
    pub min: OfferedSize,
    /// The largest.
    pub max: OfferedSize,
    /// Pixels from one width to the next, and from one height to the next.
    pub step: [u32; 2],
}

/// Something that makes coded pictures of raw ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Encoder {
    /// The device node; none for OpenH264.
    pub path: Option<PathBuf>,
    /// What it calls itself.
    pub name: String,
    /// Its kernel driver; empty for OpenH264.
    pub driver: String,
    /// What it makes.
    pub formats: Vec<FourCc>,
    /// Why it is of no use, or slower than it could be, in words.
    pub problem: Option<String>,
    /// A process that has it open, where that can be known.
    pub held_by: Option<String>,
}

impl OfferedSize {
    /// Returns whether both have the same width and height.
    #[must_use]
    pub const fn is_same_size(&self, other: &Self) -> bool {
        self.width == other.width && self.height == other.height
    }
}

impl Encoder {
    /// Returns whether it makes H.264.
    #[must_use]
    pub fn makes_h264(&self) -> bool {
        self.formats.contains(&FourCc::H264)
    }
}

/// Looks at everything. Cameras that others use are looked at, too: that disturbs nobody.
#[must_use]
pub fn inventory() -> Inventory {
    let csi = rpicam::cameras(&config::Csi::default());
    let (csi_program, csi_cameras) = csi.map_or((None, Vec::new()), |(program, cameras)| {
        (Some(program), cameras)
    });
    Inventory {
        cameras: devices::cameras().into_iter().map(camera).collect(),
        csi_program,
        csi_cameras,
        encoders: encoders(),
    }
}

/// Returns whether there is a camera behind libcamera, and the program for it.
#[must_use]
pub fn has_csi_camera(config: &config::Csi) -> bool {
    rpicam::cameras(config).is_some_and(|(_, cameras)| !cameras.is_empty())
}

/// Returns what `video.source` means now: a device node or `csi`; and why.
///
/// # Errors
///
/// [`VideoError::NoCamera`] or [`VideoError::Missing`].
pub fn chosen(config: &config::Video) -> Result<(String, String), VideoError> {
    let (found, because) = devices::find(&config.source, rpicam::is_installed(&config.csi))?;
    let source = match found {
        Found::Csi => "csi".to_owned(),
        Found::Node(path) => path.display().to_string(),
    };
    Ok((source, because))
}

/// Returns the encoder that `video.encoder = "auto"` means now, for raw pictures: a device node or
/// `software`; and why.
#[must_use]
pub fn chosen_encoder() -> (String, &'static str) {
    match devices::encoder(FourCc::H264) {
        Some(path) => (
            path.display().to_string(),
            "it is hardware; OpenH264 takes its place where it fails",
        ),
        None => ("software".to_owned(), "no hardware encodes to H264"),
    }
}

/// Returns the hardware encoders, and OpenH264.
#[must_use]
pub fn encoders() -> Vec<Encoder> {
    let hardware = devices::nodes().filter_map(|path| {
        let (identity, formats) = v4l2_encoder::coded_formats(&path)?;
        let encoder = Encoder {
            held_by: holder::of(&path),
            path: Some(path),
            name: identity.card,
            driver: identity.driver,
            formats,
            problem: None,
        };
        let problem = (!encoder.makes_h264()).then(|| "does not encode to H264".to_owned());
        Some(Encoder { problem, ..encoder })
    });
    let software = Encoder {
        path: None,
        name: "OpenH264".to_owned(),
        driver: String::new(),
        formats: vec![FourCc::H264],
        problem: (!has_assembly())
            .then(|| "built without its assembly, which takes twice the CPU".to_owned()),
        held_by: None,
    };
    hardware.chain([software]).collect()
}

fn camera(info: CameraInfo) -> Camera {
    let device = Device::open(&info.path).ok();
    let rates = |fourcc, size| {
        let device = device.as_ref();
        device.map_or_else(Vec::new, |device| device.intervals(Choice { fourcc, size }))
    };
    let formats = info.formats.iter();
    let formats = formats
        .map(|format| offered(format, |size| rates(format.fourcc, size)))
        .collect();
    Camera {
        held_by: holder::of(&info.path),
        ..info.with_formats(formats)
    }
}

fn offered(format: &FormatInfo, intervals: impl Fn(Size) -> Vec<Duration>) -> OfferedFormat {
    let with_rates = |size: Size| {
        let mut rates: Vec<f64> = intervals(size).into_iter().map(rate).collect();
        rates.sort_by(|a, b| b.total_cmp(a));
        rates.dedup();
        OfferedSize {
            width: size.width,
            height: size.height,
            rates,
        }
    };
    let (sizes, range) = match &format.sizes {
        Sizes::Unknown => (Vec::new(), None),
        Sizes::Listed(sizes) => (sizes.iter().copied().map(with_rates).collect(), None),
        Sizes::Range { min, max, step } => {
            let range = SizeRange {
                min: with_rates(*min),
                max: with_rates(*max),
                step: [step.width, step.height],
            };
            (Vec::new(), Some(range))
        }
    };
    OfferedFormat {
        fourcc: format.fourcc,
        usable: format.usable,
        sizes,
        range,
    }
}

/// Returns pictures per second, with two digits behind the point: 29.97.
fn rate(interval: Duration) -> f64 {
    let rate = interval.as_secs_f64().recip();
    if rate.is_finite() {
        (rate * 100.0).round() / 100.0
    } else {
        0.0
    }
}
