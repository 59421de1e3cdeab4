//! What `roomcam devices` prints: every camera, encoder, microphone and speaker, for people and, in the
//! shape of `docs/tools.md`, for programs. Pure.

use serde::Serialize;

use super::columns::entry;
use crate::audio::Pcm;
use crate::video::inventory::{Camera, CsiCamera, Encoder, Inventory, OfferedFormat, OfferedSize};

/// Where the second column starts.
const COLUMN: usize = 16;

/// Everything there is.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Listing {
    #[serde(flatten)]
    pub(super) video: Inventory,
    pub(super) microphones: Vec<Pcm>,
    pub(super) speakers: Vec<Pcm>,
    pub(super) automatic: Automatic,
}

/// What `auto` means now.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Automatic {
    pub(super) camera: Choice,
    pub(super) encoder: Choice,
    pub(super) microphone: Choice,
    pub(super) speaker: Choice,
}

/// One of them, or none, and why.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Choice {
    /// What to write in the configuration for it.
    pub(super) source: Option<String>,
    pub(super) because: String,
}

impl Listing {
    /// Returns it in columns.
    pub(super) fn for_people(&self) -> String {
        let mut out = String::new();
        let text = &mut out;
        let automatic = &self.automatic;
        heading(text, "Cameras ([video] source)");
        for camera in &self.video.cameras {
            show_camera(text, camera, &automatic.camera);
        }
        for camera in &self.video.csi_cameras {
            show_csi(text, camera, &automatic.camera);
        }
        if self.video.cameras.is_empty() && self.video.csi_cameras.is_empty() {
            entry(text, 2, "", "none; `roomcam demo` shows a test picture");
        }
        heading(text, "Encoders ([video] encoder)");
        for encoder in &self.video.encoders {
            show_encoder(text, encoder, &automatic.encoder);
        }
        heading(text, "Microphones ([audio] source)");
        show_pcms(text, &self.microphones, &automatic.microphone);
        heading(text, "Speakers ([talkback] sink)");
        show_pcms(text, &self.speakers, &automatic.speaker);
        heading(text, "What \"auto\" takes (marked *)");
        let choices = [
            ("camera", &automatic.camera),
            ("encoder", &automatic.encoder),
            ("microphone", &automatic.microphone),
            ("speaker", &automatic.speaker),
        ];
        for (what, choice) in choices {
            let because = &choice.because;
            let said = match &choice.source {
                Some(source) => format!("{source}: {because}"),
                None => because.clone(),
            };
            entry(text, COLUMN, &format!("  {what}"), &said);
        }
        out
    }
}

fn heading(out: &mut String, title: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    entry(out, 0, "", title);
}

/// Shows what something is called; with a star if `auto` takes it.
fn name(out: &mut String, source: &str, name: &str, automatic: &Choice) {
    let chosen = automatic.source.as_deref();
    let mark = if chosen == Some(source) { '*' } else { ' ' };
    entry(out, COLUMN, &format!("{mark} {source}"), name);
}

/// Shows one thing about it, where there is something to say.
fn detail(out: &mut String, label: &str, text: &str) {
    if !text.is_empty() {
        entry(out, COLUMN, &format!("    {label}"), text);
    }
}

fn show_camera(out: &mut String, camera: &Camera, automatic: &Choice) {
    let source = camera.path.display().to_string();
    name(out, &source, &camera.card, automatic);
    detail(out, "by id", camera.by_id.as_deref().unwrap_or_default());
    detail(
        out,
        "by path",
        camera.by_path.as_deref().unwrap_or_default(),
    );
    detail(out, "bus", &camera.bus);
    detail(out, "driver", &camera.driver);
    detail(
        out,
        "problem",
        camera.problem.as_deref().unwrap_or_default(),
    );
    detail(
        out,
        "in use by",
        camera.held_by.as_deref().unwrap_or_default(),
    );
    let mut shown: Vec<(String, String)> = Vec::new();
    for format in camera.formats.iter().filter(|format| format.usable) {
        let (code, sizes) = (format.fourcc.to_string(), sizes(format));
        // Formats of the same sizes share a line.
        match shown.last_mut() {
            Some((codes, same)) if *same == sizes => *codes = format!("{codes} {code}"),
            _ => shown.push((code, sizes)),
        }
    }
    for (codes, sizes) in &shown {
        entry(out, COLUMN, &format!("    {codes}"), sizes);
    }
    let others = camera.formats.iter().filter(|format| !format.usable);
    let others: Vec<String> = others.map(|format| format.fourcc.to_string()).collect();
    detail(out, "not usable", &others.join(" "));
}

fn show_csi(out: &mut String, camera: &CsiCamera, automatic: &Choice) {
    name(out, "csi", &camera.sensor, automatic);
    detail(out, "video.csi", &format!("camera = {}", camera.number));
    detail(out, "place", &camera.id);
    detail(out, "sizes", &grouped(&camera.sizes));
}

fn show_encoder(out: &mut String, encoder: &Encoder, automatic: &Choice) {
    let path = encoder.path.as_ref().map(|path| path.display().to_string());
    let source = path.as_deref().unwrap_or("software");
    name(out, source, &encoder.name, automatic);
    let formats: Vec<String> = encoder.formats.iter().map(ToString::to_string).collect();
    detail(out, "driver", &encoder.driver);
    detail(out, "encodes to", &formats.join(" "));
    detail(
        out,
        "problem",
        encoder.problem.as_deref().unwrap_or_default(),
    );
    detail(
        out,
        "in use by",
        encoder.held_by.as_deref().unwrap_or_default(),
    );
}

fn show_pcms(out: &mut String, pcms: &[Pcm], automatic: &Choice) {
    for pcm in pcms {
        name(out, &pcm.pcm, &pcm.name, automatic);
        detail(out, "card", &pcm.card_id);
        detail(out, "problem", pcm.problem.as_deref().unwrap_or_default());
        detail(out, "in use by", pcm.held_by.as_deref().unwrap_or_default());
        detail(out, "formats", &pcm.formats.join(" "));
        detail(out, "channels", &numbers(&pcm.channels));
        let rates = numbers(&pcm.rates_hz);
        if !rates.is_empty() {
            detail(out, "rates", &format!("{rates} Hz"));
        }
    }
    if pcms.is_empty() {
        entry(out, 2, "", "none");
    }
}

fn sizes(format: &OfferedFormat) -> String {
    match &format.range {
        Some(range) => format!("{} to {}", size(&range.min), grouped_one(&range.max)),
        None if format.sizes.is_empty() => "any size".to_owned(),
        None => grouped(&format.sizes),
    }
}

/// Returns sizes, those of the same rates together: `1280x720 640x480 at 30 15 fps; 1920x1080 at 5 fps`.
fn grouped(sizes: &[OfferedSize]) -> String {
    let mut groups: Vec<(String, String)> = Vec::new();
    for offered in sizes {
        let (size, rates) = (size(offered), rates(offered));
        match groups.last_mut() {
            Some((sizes, same)) if *same == rates => *sizes = format!("{sizes} {size}"),
            _ => groups.push((size, rates)),
        }
    }
    let groups = groups
        .iter()
        .map(|(sizes, rates)| format!("{sizes}{rates}"));
    groups.collect::<Vec<_>>().join("; ")
}

fn grouped_one(offered: &OfferedSize) -> String {
    format!("{}{}", size(offered), rates(offered))
}

fn size(offered: &OfferedSize) -> String {
    format!("{}x{}", offered.width, offered.height)
}

fn rates(offered: &OfferedSize) -> String {
    if offered.rates.is_empty() {
        return String::new();
    }
    format!(" at {} fps", numbers(&offered.rates))
}

fn numbers<T: ToString>(numbers: &[T]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::format::FourCc;
    use crate::video::inventory::SizeRange;

    fn fourcc(code: &[u8; 4]) -> FourCc {
        FourCc::from_u32(u32::from_le_bytes(*code))
    }

    fn offered(width: u32, height: u32, rates: &[f64]) -> OfferedSize {
        OfferedSize {
            width,
            height,
            rates: rates.to_vec(),
        }
    }

    fn format(code: &[u8; 4], sizes: &[OfferedSize]) -> OfferedFormat {
        OfferedFormat {
            fourcc: fourcc(code),
            usable: fourcc(code).is_usable(),
            sizes: sizes.to_vec(),
            range: None,
        }
    }

    fn listing() -> Listing {
        let hd = offered(1280, 720, &[30.0, 7.5]);
        let vga = offered(640, 480, &[30.0, 7.5]);
        let slow = offered(1920, 1080, &[5.0]);
        let camera = Camera {
            path: "/dev/video0".into(),
            card: "HD Pro Webcam".to_owned(),
            driver: "uvcvideo".to_owned(),
            bus: "usb-0000:01:00.0-1.2".to_owned(),
            by_id: Some("usb-046d_HD_Pro_Webcam-video-index0".to_owned()),
            by_path: None,
            formats: vec![
                format(b"YUYV", &[hd.clone(), vga.clone()]),
                format(b"NV12", &[hd, vga, slow]),
                format(b"RGB3", &[]),
            ],
            problem: None,
            held_by: Some("guvcview (pid 412)".to_owned()),
        };
        let pcm = Pcm {
            pcm: "plughw:CARD=Device,DEV=0".to_owned(),
            card_id: "Device".to_owned(),
            name: "USB PnP Sound Device, USB Audio".to_owned(),
            formats: vec!["S16_LE"],
            channels: vec![1, 2],
            rates_hz: vec![44_100, 48_000],
            problem: None,
            held_by: None,
        };
        let choice = |source: &str, because: &str| Choice {
            source: Some(source.to_owned()),
            because: because.to_owned(),
        };
        Listing {
            video: Inventory {
                cameras: vec![camera],
                encoders: vec![Encoder {
                    path: None,
                    name: "OpenH264".to_owned(),
                    driver: String::new(),
                    formats: vec![FourCc::H264],
                    problem: None,
                    held_by: None,
                }],
                ..Inventory::default()
            },
            microphones: vec![pcm],
            speakers: Vec::new(),
            automatic: Automatic {
                camera: choice("/dev/video0", "it is the only one"),
                encoder: choice("software", "no hardware encodes to H264"),
                microphone: Choice::default(),
                speaker: Choice::default(),
            },
        }
    }

    #[test]
    fn people_see_columns() {
        let expected = "\
Cameras ([video] source)
* /dev/video0   HD Pro Webcam
    by id       usb-046d_HD_Pro_Webcam-video-index0
    bus         usb-0000:01:00.0-1.2
    driver      uvcvideo
    in use by   guvcview (pid 412)
    YUYV        1280x720 640x480 at 30 7.5 fps
    NV12        1280x720 640x480 at 30 7.5 fps; 1920x1080 at 5 fps
    not usable  RGB3

Encoders ([video] encoder)
* software      OpenH264
    encodes to  H264

Microphones ([audio] source)
  plughw:CARD=Device,DEV=0
                USB PnP Sound Device, USB Audio
    card        Device
    formats     S16_LE
    channels    1 2
    rates       44100 48000 Hz

Speakers ([talkback] sink)
  none

What \"auto\" takes (marked *)
  camera        /dev/video0: it is the only one
  encoder       software: no hardware encodes to H264
  microphone
  speaker
";
        assert_eq!(listing().for_people(), expected);
    }

    #[test]
    fn many_formats_stay_within_80_columns() {
        let mut listing = listing();
        let sizes: Vec<_> = (1..60).map(|n| offered(n * 16, n * 9, &[30.0])).collect();
        let range = SizeRange {
            min: offered(32, 32, &[90.0]),
            max: offered(2592, 1944, &[90.0, 1.0]),
            step: [2, 2],
        };
        let mut ranged = format(b"YU12", &[]);
        ranged.range = Some(range);
        let formats = [format(b"YUYV", &sizes), ranged];
        listing.video.cameras[0].formats.extend(formats);
        let text = listing.for_people();
        assert!(
            text.contains("    YU12        32x32 to 2592x1944 at 90 1 fps\n"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn programs_get_the_documented_shape() {
        let json = serde_json::to_value(listing()).unwrap();
        let documented = serde_json::json!({
            "fourcc": "YUYV",
            "usable": true,
            "sizes": [
                {"width": 1280, "height": 720, "rates": [30.0, 7.5]},
                {"width": 640, "height": 480, "rates": [30.0, 7.5]},
            ],
            "range": null,
        });
        assert_eq!(json["cameras"][0]["formats"][0], documented);
        assert_eq!(json["automatic"]["camera"]["source"], "/dev/video0");
        assert!(json["automatic"]["microphone"]["source"].is_null());
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        let expected = [
            "automatic",
            "cameras",
            "csi_cameras",
            "csi_program",
            "encoders",
            "microphones",
            "speakers",
        ];
        assert_eq!(keys, expected);
    }
}
