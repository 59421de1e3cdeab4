//! A camera for tests and for trying things out without one:
//! `loopback_camera DEVICE H264|MJPG|YU12 WIDTH HEIGHT FPS EACH`
//!
//! Writes the test picture to a v4l2loopback node (`modprobe v4l2loopback exclusive_caps=1`), one
//! access unit or picture per `write`, which is one buffer for whoever reads the node as a camera.
//! Of H.264, each EACH-th picture is a keyframe; like many cameras, it makes none on demand. Of MJPEG,
//! each EACH-th picture is cut short, as the USB bus does, and all lack their Huffman tables, as those
//! of many cameras do. Ends when it is killed.

use std::error::Error;
use std::io::Write as _;
use std::time::{Duration, Instant};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use roomcam::config;
use roomcam::video::convert::I420;
use roomcam::video::test_card::TestCard;
use roomcam::{clock, video};
use v4l::video::Output as _;
use v4l::{Device, Format, FourCC};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, format, width, height, fps, each] = arguments.as_slice() else {
        return Err("usage: loopback_camera DEVICE H264|MJPG|YU12 WIDTH HEIGHT FPS EACH".into());
    };
    let config = config::Video {
        source: "pattern".to_owned(),
        width: width.parse()?,
        height: height.parse()?,
        fps: fps.parse()?,
        ..config::Video::default()
    };
    let code: [u8; 4] = format.as_bytes().try_into()?;
    let mut node = Device::with_path(device)?;
    let mut raw = Format::new(config.width, config.height, FourCC::new(&code));
    // The largest picture that fits into a buffer: raw ones are never smaller.
    raw.size = config.width * config.height * 3 / 2;
    node.set_format(&raw)?;

    match format.as_str() {
        "MJPG" => mjpeg(&mut node, &config, each.parse()?),
        "YU12" => raw_pictures(&mut node, &config),
        _ => h264(&mut node, &config, each.parse()?),
    }
}

fn raw_pictures(node: &mut Device, config: &config::Video) -> Result<(), Box<dyn Error>> {
    let (width, height) = (config.width.try_into()?, config.height.try_into()?);
    let mut card = TestCard::new(width, height);
    let mut due: Instant = clock::now();
    loop {
        std::thread::sleep(due.saturating_duration_since(clock::now()));
        due += Duration::from_secs(1) / config.fps;
        let picture = card.draw(clock::unix_time()).ok_or("no picture")?;
        let [y, u, v] = picture.planes();
        let sides = [
            (y, width, height),
            (u, width / 2, height / 2),
            (v, width / 2, height / 2),
        ];
        let rows = sides.into_iter().flat_map(|(plane, columns, rows)| {
            let lines = plane.bytes().chunks(plane.stride()).take(rows);
            lines.filter_map(move |line| line.get(..columns))
        });
        node.write_all(&rows.collect::<Vec<_>>().concat())?;
    }
}

fn h264(node: &mut Device, config: &config::Video, each: u64) -> Result<(), Box<dyn Error>> {
    let mut source = video::open(config)?;
    let mut pictures = 0_u64;
    loop {
        let Some(unit) = source.next()? else { continue };
        node.write_all(&unit.data)?;
        pictures += 1;
        if pictures.is_multiple_of(each) {
            source.request_keyframe();
        }
    }
}

fn mjpeg(node: &mut Device, config: &config::Video, each: u64) -> Result<(), Box<dyn Error>> {
    let (width, height) = (u16::try_from(config.width)?, u16::try_from(config.height)?);
    let mut card = TestCard::new(width.into(), height.into());
    let mut due: Instant = clock::now();
    for number in 1_u64.. {
        std::thread::sleep(due.saturating_duration_since(clock::now()));
        due += Duration::from_secs(1) / config.fps;
        let picture = card.draw(clock::unix_time()).ok_or("no picture")?;
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 80);
        encoder.set_sampling_factor(SamplingFactor::F_2_1);
        encoder.encode(&samples(&picture), width, height, ColorType::Ycbcr)?;
        let mut jpeg = without_tables(&jpeg);
        if each > 0 && number.is_multiple_of(each) {
            jpeg.truncate(jpeg.len() / 2);
        }
        node.write_all(&jpeg)?;
    }
    Ok(())
}

/// Returns Y, Cb and Cr of each pixel, in full range.
fn samples(picture: &I420<'_>) -> Vec<u8> {
    let full = |limited: u8, black: f32, range: f32| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "such a cast saturates"
        )]
        let full = ((f32::from(limited) - black) * 255.0 / range).round() as u8;
        full
    };
    let chroma = |limited| full(limited, 128.0 - 112.0, 224.0);
    let [y, u, v] = picture.planes();
    let at = |plane: video::convert::Plane<'_>, row: usize, column: usize| {
        let sample = plane.bytes().get(row * plane.stride() + column);
        sample.copied().unwrap_or_default()
    };
    let pixels = (0..picture.height()).flat_map(|r| (0..picture.width()).map(move |c| (r, c)));
    pixels
        .flat_map(|(row, column)| {
            let luma = full(at(y, row, column), 16.0, 219.0);
            let (row, column) = (row / 2, column / 2);
            [luma, chroma(at(u, row, column)), chroma(at(v, row, column))]
        })
        .collect()
}

/// Leaves the Huffman tables out, which are those of the standard.
fn without_tables(jpeg: &[u8]) -> Vec<u8> {
    const TABLES: u8 = 0xc4;
    const SCAN: u8 = 0xda;
    let (start, mut rest) = jpeg.split_at_checked(2).unwrap_or_default();
    let mut out = start.to_vec();
    while let [0xff, marker, high, low, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([high, low])) + 2;
        let (segment, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        if marker == SCAN {
            break;
        }
        if marker != TABLES {
            out.extend(segment);
        }
        rest = behind;
    }
    out.extend(rest);
    out
}
