//! A camera that delivers H.264, for tests and for trying things out without one:
//! `h264_camera DEVICE WIDTH HEIGHT FPS GOP`
//!
//! Writes the test picture to a v4l2loopback node (`modprobe v4l2loopback exclusive_caps=1`), one
//! access unit per `write`, which is one buffer for whoever reads the node as a camera. Every GOP-th
//! picture is a keyframe; like many cameras, it makes none on demand. Ends when it is killed.

use std::error::Error;
use std::io::Write as _;

use roomcam::config;
use roomcam::video;
use v4l::video::Output as _;
use v4l::{Device, Format, FourCC};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, width, height, fps, gop] = arguments.as_slice() else {
        return Err("usage: h264_camera DEVICE WIDTH HEIGHT FPS GOP".into());
    };
    let config = config::Video {
        source: "pattern".to_owned(),
        width: width.parse()?,
        height: height.parse()?,
        fps: fps.parse()?,
        ..config::Video::default()
    };
    let gop: u64 = gop.parse()?;
    let mut source = video::open(&config)?;

    let mut node = Device::with_path(device)?;
    let mut format = Format::new(config.width, config.height, FourCC::new(b"H264"));
    // The largest access unit that fits into a buffer: raw pictures are never smaller.
    format.size = config.width * config.height * 3 / 2;
    node.set_format(&format)?;

    let mut pictures = 0_u64;
    loop {
        let Some(unit) = source.next()? else { continue };
        node.write_all(&unit.data)?;
        pictures += 1;
        if pictures.is_multiple_of(gop) {
            source.request_keyframe();
        }
    }
}
