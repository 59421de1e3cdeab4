//! Holds a camera to the facts that every source of video keeps:
//! `conform SOURCE WIDTH HEIGHT FPS on-demand|unasked|until-it-ends|goes-on SLACK_MS [OPTION…]`
//!
//! SOURCE is a `video.source`. `on-demand` and `unasked` tell whether it makes keyframes when asked; SLACK_MS
//! is how old a picture may be beyond two frame times. Prints a line of JSON with what it measured, or fails
//! with the fact that does not hold. `until-it-ends` prints `live` and then the name of the error that ends
//! the source; `goes-on` prints `live`, and `goes on` when 40 more pictures came. The log is on standard error.
//!
//! OPTIONs: `format=nv12` (a `video.format`), `encoder=/dev/video11` (a `video.encoder`), `coded=FWHT` (what a
//! hardware encoder without H.264 makes, of the camera whose path is SOURCE) and `copied` (never by DMABUF).

#[path = "../src/allocations.rs"]
mod allocations;
#[path = "../tests/support/conformance.rs"]
mod conformance;

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use conformance::{Promise, Subject};
use roomcam::config::{self, Config};
use roomcam::video::Coding;
use roomcam::video::format::FourCc;

/// Pictures that come while something befalls the source.
const MEANWHILE: u32 = 40;

fn main() -> Result<(), Box<dyn Error>> {
    roomcam::logging::init(0);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, width, height, fps, promised, slack_ms, options @ ..] = arguments.as_slice()
    else {
        return Err(
            "usage: conform SOURCE WIDTH HEIGHT FPS on-demand|unasked|until-it-ends|goes-on SLACK_MS [OPTION…]"
                .into(),
        );
    };
    let mut config = config::Video {
        source: source.clone(),
        width: width.parse()?,
        height: height.parse()?,
        fps: fps.parse()?,
        ..config::Video::default()
    };
    let mut coding = None;
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("format", name) => config.format = format(name)?,
            ("encoder", name) => config.encoder = name.to_owned(),
            ("coded", name) => {
                let code: [u8; 4] = name.as_bytes().try_into()?;
                let coded = FourCc::from_u32(u32::from_le_bytes(code));
                coding.get_or_insert_with(Coding::default).coded = coded;
            }
            ("copied", "") => coding.get_or_insert_with(Coding::default).may_share = false,
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let subject = Subject {
        config: &config,
        coding,
    };
    let slack = Duration::from_millis(slack_ms.parse()?);
    let mut out = std::io::stdout();
    let mut said = Ok(());
    let live = || said = writeln!(std::io::stdout(), "live");
    let outcome = match promised.as_str() {
        "until-it-ends" => conformance::ends(subject, live)?.to_owned(),
        "goes-on" => {
            conformance::goes_on(subject, slack, MEANWHILE, live)?;
            "goes on".to_owned()
        }
        promised => {
            let promise = Promise {
                allocations: || Some(allocations::of_this_thread()),
                keyframes_on_demand: promised == "on-demand",
                slack,
            };
            serde_json::to_string(&conformance::conforms(subject, promise)?)?
        }
    };
    said?;
    Ok(writeln!(out, "{outcome}")?)
}

/// Reads the name of a format as the configuration does.
fn format(name: &str) -> Result<config::CameraFormat, Box<dyn Error>> {
    let text = format!("[video]\nformat = \"{name}\"");
    Ok(Config::parse(&text)?.video.format)
}
