//! How the camera program of Raspberry Pi OS is asked for pictures, and what it says.
//!
//! `rpicam-vid` and its older name `libcamera-vid` are the stable interface to CSI cameras: libcamera
//! itself changes with each release. Written for rpicam-apps 1.0 to 1.9. Pure.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::inventory::OfferedSize;
use crate::config::{self, CsiMode};

pub(super) mod settings;

use settings::Settings;

/// The programs, in the order in which they are looked for.
pub(super) const PROGRAMS: [&str; 2] = ["rpicam-vid", "libcamera-vid"];

/// The first release that knows `--low-latency`, without which it makes B pictures on a Pi 5.
const LOW_LATENCY_SINCE: (u32, u32) = (1, 6);

/// Pictures from keyframe to keyframe of the program's own H.264: it makes none on demand.
const GOP: u32 = 30;

/// Longest line of the program that is looked at, in bytes.
const LONGEST_LINE: usize = 300;

/// Lines of the program that are logged in each [`LINES_EVERY`]. The rest is counted.
const MOST_LINES: u32 = 20;
const LINES_EVERY: Duration = Duration::from_secs(10);

/// Returns the command line for pictures of `config` with these `settings`, without the program.
pub(super) fn arguments(
    config: &config::Video,
    settings: &Settings,
    version: Option<(u32, u32)>,
) -> Vec<String> {
    let mut arguments: Vec<String> = [
        ("--nopreview", None),
        ("--timeout", Some(0)),
        ("--camera", Some(config.csi.camera)),
        ("--width", Some(config.width)),
        ("--height", Some(config.height)),
        ("--framerate", Some(config.fps)),
        ("--flush", None),
    ]
    .into_iter()
    .flat_map(|(name, value)| [Some(name.to_owned()), value.map(|v: u32| v.to_string())])
    .flatten()
    .collect();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    match config.csi.mode {
        CsiMode::Raw => add(&["--codec", "yuv420"]),
        CsiMode::H264 => {
            let bitrate = config.bitrate_kbps.saturating_mul(1_000).to_string();
            let gop = GOP.to_string();
            add(&[
                "--codec",
                "h264",
                "--inline",
                "--profile",
                "baseline",
                "--level",
                "4",
            ]);
            add(&["--intra", &gop, "--bitrate", &bitrate]);
            if version.is_some_and(|version| version >= LOW_LATENCY_SINCE) {
                add(&["--low-latency"]);
            }
        }
    }
    arguments.extend(settings.options());
    arguments.extend(["--output", "-"].map(str::to_owned));
    arguments
}

/// Returns major and minor of what `--version` printed: `rpicam-apps build: v1.6.0 4d56a4a 12-…`.
pub(super) fn version(output: &str) -> Option<(u32, u32)> {
    let build = output.lines().find(|line| line.contains("-apps build:"))?;
    let number = build
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Most cameras of a list, and most sizes of a camera.
const MOST_CAMERAS: usize = 8;
const MOST_SIZES: usize = 32;

/// A camera behind libcamera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CsiCamera {
    /// What `video.csi.camera` means by it.
    pub number: u32,
    /// Its sensor: `imx708`.
    pub sensor: String,
    /// Its place in the device tree, which stays.
    pub id: String,
    /// What the sensor delivers, each size once, with the most pictures per second.
    pub sizes: Vec<OfferedSize>,
}

/// Returns the cameras that `--list-cameras` printed:
///
/// ```text
/// 0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)
///     Modes: 'SRGGB10_CSI2P' : 640x480 [103.33 fps - (1000, 752)/1280x960 crop]
/// ```
pub(super) fn cameras(output: &str) -> Vec<CsiCamera> {
    let mut cameras: Vec<CsiCamera> = Vec::new();
    for line in output.lines() {
        if let Some(camera) = camera(line) {
            if cameras.len() == MOST_CAMERAS {
                break;
            }
            cameras.push(camera);
        } else if let (Some(camera), Some(size)) = (cameras.last_mut(), mode(line)) {
            // The same size in another depth: the fastest counts.
            let known = camera
                .sizes
                .iter()
                .position(|known| known.is_same_size(&size));
            if let Some(known) = known.and_then(|at| camera.sizes.get_mut(at)) {
                if known.rates < size.rates {
                    *known = size;
                }
            } else if camera.sizes.len() < MOST_SIZES {
                camera.sizes.push(size);
            }
        }
    }
    cameras
}

fn camera(line: &str) -> Option<CsiCamera> {
    let (number, rest) = line.split_once(" : ")?;
    let number = number.trim().parse().ok()?;
    let (sensor, rest) = rest.split_once(' ')?;
    let id = rest.rsplit_once('(')?.1.strip_suffix(')')?;
    Some(CsiCamera {
        number,
        sensor: sensor.to_owned(),
        id: id.to_owned(),
        sizes: Vec::new(),
    })
}

/// Reads `1640x1232 [41.85 fps - …`, behind what else is on the line.
fn mode(line: &str) -> Option<OfferedSize> {
    let (before, after) = line.split_once(" [")?;
    let (width, height) = before.split_whitespace().next_back()?.split_once('x')?;
    let rate: f64 = after.split_once(" fps")?.0.parse().ok()?;
    Some(OfferedSize {
        width: width.parse().ok()?,
        height: height.parse().ok()?,
        rates: vec![rate],
    })
}

/// What a line on the program's standard error is for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It is why there are no pictures, or says that something is wrong.
    Complaint,
    /// It is for those who look closely.
    Detail,
    /// It comes with every picture.
    Noise,
}

/// Tells what is told to whom.
pub(super) fn classify(line: &str) -> Line {
    let is_frame = line.starts_with('#') && line.contains("fps)");
    if line.trim().is_empty() || is_frame {
        return Line::Noise;
    }
    let complains = ["ERROR", "FATAL", "WARN", "***", "error", "failed"];
    if complains.iter().any(|word| line.contains(word)) {
        Line::Complaint
    } else {
        Line::Detail
    }
}

/// Tells whether the program ended because another process has the camera.
pub(super) fn says_busy(complaint: &str) -> bool {
    ["failed to acquire camera", "in use by another process"]
        .iter()
        .any(|words| complaint.contains(words))
}

/// Returns what of a line is fit for a log: without control characters, and not too long.
pub(super) fn printable(line: &[u8]) -> String {
    let line = line.get(..LONGEST_LINE).unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let mut clean = String::new();
    let mut in_colour = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => in_colour = true,
            'm' if in_colour => in_colour = false,
            _ if in_colour || c.is_control() => {}
            _ => clean.push(c),
        }
    }
    clean.trim().to_owned()
}

/// Keeps a program that says too much from filling the log.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    since: Option<Instant>,
    logged: u32,
    left_out: u64,
}

impl LogBudget {
    /// Takes a line at `now`: returns how many were left out before it, or `None` if it is too.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_over = |since| now.saturating_duration_since(since) >= LINES_EVERY;
        if self.since.is_none_or(is_over) {
            self.since = Some(now);
            self.logged = 0;
        }
        if self.logged == MOST_LINES {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_counted_instead_of_logged() {
        let mut budget = LogBudget::default();
        let t0 = crate::clock::now();
        let admitted = (0..1_000).filter_map(|_| budget.admit(t0)).count();
        assert_eq!(admitted, 20);
        assert_eq!(budget.admit(t0 + LINES_EVERY), Some(980));
        assert_eq!(budget.admit(t0 + LINES_EVERY), Some(0));
    }

    fn command(change: impl FnOnce(&mut config::Video), version: Option<(u32, u32)>) -> String {
        let mut config = config::Video::default();
        change(&mut config);
        let settings = Settings::new(&config.csi.options);
        arguments(&config, &settings, version).join(" ")
    }

    #[test]
    fn raw_pictures_are_asked_for_by_default() {
        assert_eq!(
            command(|_| {}, None),
            "--nopreview --timeout 0 --camera 0 --width 1280 --height 720 --framerate 30 --flush \
             --codec yuv420 --output -"
        );
    }

    #[test]
    fn coded_pictures_are_asked_for_with_short_gops_and_no_b_pictures() {
        let h264 = |version| command(|config| config.csi.mode = CsiMode::H264, version);
        assert!(h264(None).ends_with(
            "--codec h264 --inline --profile baseline --level 4 --intra 30 --bitrate 2000000 \
             --output -"
        ));
        assert!(h264(Some((1, 6))).contains("--low-latency"));
        assert!(
            !h264(Some((1, 5))).contains("--low-latency"),
            "it does not know it"
        );
    }

    #[test]
    fn options_of_the_configuration_come_last_but_for_the_output() {
        let command = command(
            |config| config.csi.options = ["--hflip", "--awb", "indoor"].map(str::to_owned).into(),
            None,
        );
        assert!(
            command.ends_with("yuv420 --awb=indoor --hflip --output -"),
            "{command}"
        );
    }

    #[test]
    fn the_release_is_read_from_what_it_prints() {
        let new =
            "rpicam-apps build: v1.7.0 4d56a4a 12-05-2025 (12:34:56)\nlibcamera build: v0.5.0+59\n";
        assert_eq!(version(new), Some((1, 7)));
        let old = "libcamera-apps build: v1.0.2 1234567 (2022)\n";
        assert_eq!(version(old), Some((1, 0)));
        for odd in ["", "libcamera build: v0.5.0", "rpicam-apps build: 99"] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }

    #[test]
    fn its_list_of_cameras_is_read() {
        let list = "Available cameras\n-----------------\n\
            0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)\n    \
            Modes: 'SRGGB10_CSI2P' : 640x480 [103.33 fps - (1000, 752)/1280x960 crop]\n                             \
            3280x2464 [21.19 fps - (0, 0)/3280x2464 crop]\n           \
            'SRGGB8' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]\n\n\
            1 : ov5647 [2592x1944] (/base/soc/i2c0mux/i2c@0/ov5647@36)\n";
        let cameras = cameras(list);
        assert_eq!(cameras.len(), 2);
        assert_eq!(cameras[0].sensor, "imx219");
        assert_eq!(cameras[0].id, "/base/soc/i2c0mux/i2c@1/imx219@10");
        let size = |width, height, rate| OfferedSize {
            width,
            height,
            rates: vec![rate],
        };
        let expected = [size(640, 480, 206.65), size(3280, 2464, 21.19)];
        assert_eq!(cameras[0].sizes, expected);
        assert_eq!((cameras[1].number, cameras[1].sizes.len()), (1, 0));
    }

    #[test]
    fn a_list_without_cameras_and_nonsense_are_none() {
        let flood = "7 : x [1] (y)\n".repeat(100);
        assert_eq!(cameras(&flood).len(), MOST_CAMERAS);
        for text in [
            "",
            "No cameras available!\n",
            " : [",
            "0 : x",
            "0 : x (",
            "9x9 [1 fps",
        ] {
            assert_eq!(cameras(text), [], "{text}");
        }
    }

    #[test]
    fn a_line_per_picture_is_not_for_the_log() {
        assert_eq!(
            classify("#17 (30.00 fps) exp 33251.00 ag 8.00 dg 1.00"),
            Line::Noise
        );
        assert_eq!(
            classify("ERROR: *** no cameras available ***"),
            Line::Complaint
        );
        assert_eq!(
            classify("[0:01] WARN RPI vc4.cpp:408 overflow"),
            Line::Complaint
        );
        assert_eq!(classify("Mode selection for 1280:720:12:P"), Line::Detail);
    }

    #[test]
    fn colours_and_floods_do_not_reach_the_log() {
        let line = b"[0:01] \x1b[1;31mERROR \x1b[0mCamera in use\r";
        assert_eq!(printable(line), "[0:01] ERROR Camera in use");
        assert_eq!(printable(&[b'x'; 9_999]).len(), LONGEST_LINE);
    }
}
