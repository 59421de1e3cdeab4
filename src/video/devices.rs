//! Which cameras this machine has (`/sys/class/video4linux`), and which one a name means.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::camera::usable_queue;
use super::format::{FormatInfo, FourCc, describe};
use super::v4l2::Device;
use super::{VideoError, v4l2_encoder};

/// Most device nodes that are looked at. A Pi has up to 30, nearly all of them converters.
const MAX_NODES: usize = 128;

/// Capture nodes that are stages of the Pi's image pipeline and not cameras.
const PIPELINE_DRIVERS: [&str; 4] = ["bcm2835-isp", "pispbe", "rpi-hevc-dec", "bcm2835-codec"];

/// Drivers that appear with a CSI sensor: Pi 0 to 4 and Pi 5.
const CSI_RECEIVERS: [&str; 2] = ["unicam", "rp1-cfe"];

/// What `video.source` means on this machine, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A V4L2 device that delivers pictures.
    Node(PathBuf),
    /// The camera behind libcamera, by its program.
    Csi,
}

/// A camera, or a device that could be one. What is told of each of its formats is `F`.
#[derive(Clone, Debug, Serialize)]
pub struct CameraInfo<F = FormatInfo> {
    /// The device node. Its number may change when it is plugged in again.
    pub path: PathBuf,
    /// What it calls itself.
    pub card: String,
    /// Its kernel driver.
    pub driver: String,
    /// Where it is connected.
    pub bus: String,
    /// Its name in `/dev/v4l/by-id`, which stays; serial number included.
    pub by_id: Option<String>,
    /// Its name in `/dev/v4l/by-path`, which stays while it is in that socket.
    pub by_path: Option<String>,
    /// What it offers.
    pub formats: Vec<F>,
    /// Why it cannot be used, in words.
    pub problem: Option<String>,
    /// A process that has it open, where that was asked and can be known: `guvcview (pid 412)`.
    pub held_by: Option<String>,
}

impl<F> CameraInfo<F> {
    /// Returns the same camera, with something else told of its formats.
    pub(super) fn with_formats<G>(self, formats: Vec<G>) -> CameraInfo<G> {
        CameraInfo {
            path: self.path,
            card: self.card,
            driver: self.driver,
            bus: self.bus,
            by_id: self.by_id,
            by_path: self.by_path,
            formats,
            problem: self.problem,
            held_by: self.held_by,
        }
    }
}

impl CameraInfo {
    /// Returns whether its pictures can be sent.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.problem.is_none()
    }

    fn delivers_h264(&self) -> bool {
        self.formats.iter().any(|f| f.fourcc == FourCc::H264)
    }

    /// Whether this is where a CSI sensor behind libcamera delivers what it sees. Behind the same driver,
    /// an HDMI receiver delivers pictures, and is a camera like any other.
    fn is_bare_sensor(&self) -> bool {
        CSI_RECEIVERS.contains(&self.driver.as_str()) && !self.is_usable()
    }
}

/// Lists the cameras of this machine, in the order of their numbers. Encoders, scalers and other
/// nodes that are no cameras are left out; a camera that cannot be used says why.
#[must_use]
pub fn cameras() -> Vec<CameraInfo> {
    let by_id = links(Path::new("/dev/v4l/by-id"));
    let by_path = links(Path::new("/dev/v4l/by-path"));
    let look = |path: PathBuf| {
        let mut info = inspect(&path)?;
        info.by_id = by_id.get(&path).cloned();
        info.by_path = by_path.get(&path).cloned();
        Some(info)
    };
    nodes().filter_map(look).collect()
}

/// Returns the first device that encodes to `coded`, whatever its number.
pub(super) fn encoder(coded: FourCc) -> Option<PathBuf> {
    nodes().find(|path| v4l2_encoder::is_encoder(path, coded))
}

pub(super) fn nodes() -> impl Iterator<Item = PathBuf> {
    let mut numbers: Vec<u32> = fs::read_dir("/sys/class/video4linux")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("video")?.parse().ok())
        .take(MAX_NODES)
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| PathBuf::from(format!("/dev/video{number}")))
}

/// Returns what `name` means (`auto`, `csi`, a path, a by-id, by-path or bus name, a card name or a part
/// of one), and why. Names are looked up each time: numbers change when things are plugged in again.
///
/// # Errors
///
/// [`VideoError::NoCamera`] for `auto` when none can be used, [`VideoError::Missing`] when nothing
/// bears the name.
pub(super) fn find(name: &str, has_csi_program: bool) -> Result<(Found, String), VideoError> {
    if name.starts_with('/') {
        return Ok((Found::Node(PathBuf::from(name)), CONFIGURED.to_owned()));
    }
    if name == "csi" {
        return Ok((Found::Csi, CONFIGURED.to_owned()));
    }
    let cameras = cameras();
    if name == "auto" {
        return automatic(&cameras, has_csi_program).ok_or_else(|| VideoError::NoCamera {
            seen: seen(&cameras),
        });
    }
    let camera = named(&cameras, name).ok_or_else(|| VideoError::Missing {
        name: name.to_owned(),
    })?;
    Ok((Found::Node(camera.path.clone()), CONFIGURED.to_owned()))
}

const CONFIGURED: &str = "it is configured";

/// One that delivers H.264 costs no CPU, so it comes first; then the camera that came with the Pi;
/// then whatever delivers pictures.
fn automatic(cameras: &[CameraInfo], has_csi_program: bool) -> Option<(Found, String)> {
    let usable = || cameras.iter().filter(|camera| camera.is_usable());
    let node = |camera: &CameraInfo| Found::Node(camera.path.clone());
    if let Some(camera) = usable().find(|camera| camera.delivers_h264()) {
        return Some((node(camera), "it delivers H264".to_owned()));
    }
    let csi = cameras.iter().find(|camera| camera.is_bare_sensor());
    if csi.is_some() && has_csi_program {
        let because = "no camera delivers H264, and there is one on the CSI connector";
        return Some((Found::Csi, because.to_owned()));
    }
    let camera = usable().next()?;
    let because = if csi.is_some() {
        "the one on the CSI connector needs rpicam-vid (`apt install rpicam-apps-lite`)"
    } else if usable().count() > 1 {
        "it is the first; none delivers H264"
    } else {
        "it is the only one"
    };
    Some((node(camera), because.to_owned()))
}

/// Exact names win over parts of card names, and usable cameras over others: a UVC camera often has
/// a second node of the same name that delivers nothing.
fn named<'a>(cameras: &'a [CameraInfo], name: &str) -> Option<&'a CameraInfo> {
    let wanted = name.to_lowercase();
    let is = |link: &Option<String>| link.as_deref() == Some(name);
    let exact = |c: &&CameraInfo| {
        is(&c.by_id) || is(&c.by_path) || c.bus == name || c.card.to_lowercase() == wanted
    };
    let part = |c: &&CameraInfo| c.card.to_lowercase().contains(&wanted);
    let usable = || cameras.iter().filter(|camera| camera.is_usable());
    usable()
        .find(exact)
        .or_else(|| usable().find(part))
        .or_else(|| cameras.iter().find(exact))
        .or_else(|| cameras.iter().find(part))
}

fn seen(cameras: &[CameraInfo]) -> String {
    cameras
        .iter()
        .filter_map(|c| {
            let problem = c.problem.as_ref()?;
            Some(format!("; {} ({}) {problem}", c.path.display(), c.card))
        })
        .collect()
}

/// Returns what `path` is, or `None` for what is no camera.
fn inspect(path: &Path) -> Option<CameraInfo> {
    let mut info = CameraInfo {
        path: path.to_owned(),
        card: sysfs_name(path),
        driver: String::new(),
        bus: String::new(),
        by_id: None,
        by_path: None,
        formats: Vec::new(),
        problem: None,
        held_by: None,
    };
    let device = match Device::open(path) {
        Ok(device) => device,
        Err(error) => {
            info.problem = Some(match error {
                VideoError::Permission { .. } => "may not be opened by this user".to_owned(),
                VideoError::Busy { .. } => "is in use".to_owned(),
                _ => "cannot be opened".to_owned(),
            });
            return Some(info);
        }
    };
    let identity = device.identity().ok()?;
    let kind = identity.capture_queue()?;
    if identity.is_converter() || PIPELINE_DRIVERS.contains(&identity.driver.as_str()) {
        return None;
    }
    info.formats = device.formats(kind);
    info.problem = if let Err(problem) = usable_queue(&identity) {
        Some(format!("offers {problem}"))
    } else if info.formats.iter().any(|format| format.usable) {
        None
    } else {
        Some(format!("offers {}", describe(&info.formats)))
    };
    info.card = identity.card;
    info.driver = identity.driver;
    info.bus = identity.bus;
    Some(info)
}

fn sysfs_name(path: &Path) -> String {
    let node = path.file_name().unwrap_or_default();
    let file = Path::new("/sys/class/video4linux").join(node).join("name");
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Returns the names of the symbolic links in `directory`, by what they point to.
fn links(directory: &Path) -> HashMap<PathBuf, String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .take(MAX_NODES)
        .filter_map(|entry| {
            let target = entry.path().canonicalize().ok()?;
            Some((target, entry.file_name().into_string().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::format::Sizes;

    fn camera(number: u32, card: &str, formats: &[&[u8; 4]]) -> CameraInfo {
        let formats: Vec<FormatInfo> = formats
            .iter()
            .map(|code| FourCc::from_u32(u32::from_le_bytes(**code)))
            .map(|fourcc| FormatInfo {
                fourcc,
                usable: fourcc.is_usable(),
                sizes: Sizes::Unknown,
            })
            .collect();
        let usable = formats.iter().any(|f| f.usable);
        CameraInfo {
            path: format!("/dev/video{number}").into(),
            card: card.to_owned(),
            driver: "uvcvideo".to_owned(),
            bus: format!("usb-{number}"),
            by_id: Some(format!("usb-vendor-{number}")),
            by_path: None,
            problem: (!usable).then(|| format!("offers {}", describe(&formats))),
            held_by: None,
            formats,
        }
    }

    fn path(camera: Option<&CameraInfo>) -> Option<&str> {
        camera.and_then(|c| c.path.to_str())
    }

    fn chosen(cameras: &[CameraInfo], has_csi_program: bool) -> String {
        match automatic(cameras, has_csi_program) {
            Some((Found::Node(path), because)) => format!("{}: {because}", path.display()),
            Some((Found::Csi, because)) => format!("csi: {because}"),
            None => String::new(),
        }
    }

    fn csi_receiver(number: u32) -> CameraInfo {
        CameraInfo {
            driver: "unicam".to_owned(),
            ..camera(number, "unicam", &[b"RG10"])
        }
    }

    #[test]
    fn auto_takes_h264_then_csi_then_whatever_delivers_pictures() {
        let cameras = [
            csi_receiver(0),
            camera(1, "Laptop Camera", &[b"MJPG", b"YUYV"]),
            camera(2, "HD Pro Webcam C920", &[b"YUYV", b"H264"]),
        ];
        assert_eq!(chosen(&cameras, true), "/dev/video2: it delivers H264");
        assert!(chosen(&cameras[..2], true).starts_with("csi: no camera delivers H264"));
        assert!(chosen(&cameras[..1], true).starts_with("csi: "));
        assert_eq!(
            chosen(&cameras[1..2], true),
            "/dev/video1: it is the only one"
        );
    }

    #[test]
    fn an_hdmi_receiver_on_the_csi_connector_is_no_camera_of_libcameras() {
        let receiver = CameraInfo {
            driver: "unicam".to_owned(),
            ..camera(0, "unicam", &[b"RGB3", b"UYVY"])
        };
        assert_eq!(chosen(&[receiver], true), "/dev/video0: it is the only one");
    }

    #[test]
    fn auto_never_takes_a_bare_sensor_and_says_what_its_camera_needs() {
        let cameras = [csi_receiver(0), camera(1, "Webcam", &[b"MJPG"])];
        let because = chosen(&cameras, false);
        assert!(
            because.starts_with("/dev/video1: ") && because.contains("rpicam-vid"),
            "{because}"
        );
        assert_eq!(chosen(&cameras[..1], false), "");
        let seen = seen(&cameras);
        assert!(
            seen.starts_with("; /dev/video0 (unicam) offers raw Bayer"),
            "{seen}"
        );
    }

    #[test]
    fn a_camera_is_found_by_link_by_card_and_by_part_of_it() {
        let cameras = [
            camera(0, "HD Pro Webcam C920 rev 2", &[b"YUYV"]),
            camera(4, "HD Pro Webcam C920", &[]),
            camera(5, "hd pro webcam c920", &[b"YUYV"]),
        ];
        let find = |name| path(named(&cameras, name));
        assert_eq!(find("usb-vendor-4"), Some("/dev/video4"));
        assert_eq!(
            find("HD Pro Webcam C920"),
            Some("/dev/video5"),
            "usable, exact"
        );
        assert_eq!(find("pro webcam"), Some("/dev/video0"));
        assert_eq!(find("usb-5"), Some("/dev/video5"), "where it is plugged in");
        assert_eq!(find("Kinect"), None);
    }

    #[test]
    fn links_are_found_by_what_they_point_to() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("by-id")).unwrap();
        fs::write(root.join("video7"), b"").unwrap();
        std::os::unix::fs::symlink("../video7", root.join("by-id/usb-x-index0")).unwrap();
        std::os::unix::fs::symlink("../gone", root.join("by-id/dangling")).unwrap();
        let links = links(&root.join("by-id"));
        assert_eq!(links.len(), 1);
        assert_eq!(links[&root.join("video7")], "usb-x-index0");
    }

    #[test]
    fn listing_never_fails() {
        for camera in cameras() {
            assert!(serde_json::to_string(&camera).is_ok());
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_an_unknown_name_is_missing() {
        let (found, _) = find("/dev/v4l/by-id/x", false).unwrap();
        assert_eq!(found, Found::Node("/dev/v4l/by-id/x".into()));
        assert_eq!(find("csi", false).unwrap().0, Found::Csi);
        let error = find("no camera is called this", false).unwrap_err();
        assert!(matches!(error, VideoError::Missing { .. }));
    }
}
