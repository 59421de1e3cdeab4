//! Holds a camera to the facts that every source of video keeps:
//! `conform SOURCE WIDTH HEIGHT FPS on-demand|unasked|until-it-ends SLACK_MS`
//!
//! SOURCE is a `video.source`. `on-demand` and `unasked` tell whether it makes keyframes when asked; SLACK_MS
//! is how old a picture may be beyond two frame times. Prints a line of JSON with what it measured, or fails
//! with the fact that does not hold. `until-it-ends` prints `live` and then the name of the error that ends
//! the source.

#[path = "../tests/support/conformance.rs"]
mod conformance;

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use conformance::Promise;
use roomcam::config;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, width, height, fps, promised, slack_ms] = arguments.as_slice() else {
        return Err(
            "usage: conform SOURCE WIDTH HEIGHT FPS on-demand|unasked|until-it-ends SLACK_MS"
                .into(),
        );
    };
    let config = config::Video {
        source: source.clone(),
        width: width.parse()?,
        height: height.parse()?,
        fps: fps.parse()?,
        ..config::Video::default()
    };
    let mut out = std::io::stdout();
    if promised == "until-it-ends" {
        let mut said = Ok(());
        let ended = conformance::ends(&config, || said = writeln!(std::io::stdout(), "live"))?;
        said?;
        return Ok(writeln!(out, "{ended}")?);
    }
    let promise = Promise {
        keyframes_on_demand: promised == "on-demand",
        slack: Duration::from_millis(slack_ms.parse()?),
    };
    let figures = conformance::conforms(&config, promise)?;
    Ok(writeln!(out, "{}", serde_json::to_string(&figures)?)?)
}
