//! Tries a hardware encoder: `encode DEVICE FORMAT WIDTH HEIGHT PICTURES`
//!
//! Encodes the test picture on a stateful V4L2 encoder (`H264`; tests use others) as fast as it goes,
//! and prints one line of JSON: who it is, how many pictures came out, of how many bytes, and how many
//! milliseconds each took.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use roomcam::clock;
use roomcam::video::format::{FourCc, Size};
use roomcam::video::test_card::TestCard;
use roomcam::video::v4l2_encoder::{Settings, V4l2Encoder};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, format, width, height, pictures] = arguments.as_slice() else {
        return Err("usage: encode DEVICE FORMAT WIDTH HEIGHT PICTURES".into());
    };
    let size = Size {
        width: width.parse()?,
        height: height.parse()?,
    };
    let code: [u8; 4] = format.as_bytes().try_into()?;
    let settings = Settings {
        coded: FourCc::from_u32(u32::from_le_bytes(code)),
        size,
        fps: 30,
        bitrate_bps: 2_000_000,
    };
    let pictures: u32 = pictures.parse()?;
    let mut encoder = V4l2Encoder::open(Path::new(device), settings)?;
    let mut card = TestCard::new(size.width.try_into()?, size.height.try_into()?);
    let (mut units, mut bytes) = (0_u32, 0);
    let start = clock::now();
    let mut latest = start;
    for number in 0..pictures {
        let picture = card.draw(clock::unix_time()).ok_or("no picture")?;
        if number == pictures / 2 {
            encoder.request_keyframe();
            encoder.set_bitrate(1_000_000);
        }
        let mut coded = encoder.encode(&picture, clock::now())?;
        while let Some(unit) = coded {
            if unit.captured_at < latest {
                return Err("a picture came out of order".into());
            }
            latest = unit.captured_at;
            units += 1;
            bytes += unit.data.len();
            coded = encoder.take_ready()?;
        }
    }
    while units < pictures && clock::now() < latest + Duration::from_secs(10) {
        if let Some(unit) = encoder.take_ready()? {
            units += 1;
            bytes += unit.data.len();
        }
    }
    let each_ms = (clock::now() - start).as_millis() / u128::from(pictures.max(1));
    let name = encoder.name();
    let report = json!({"name": name, "pictures": units, "bytes": bytes, "each_ms": each_ms});
    Ok(writeln!(std::io::stdout(), "{report}")?)
}
