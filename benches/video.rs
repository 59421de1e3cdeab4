//! What a picture costs on its way from the camera to the packets, and how old it is then:
//! `cargo bench --bench video`. Prints Markdown tables for docs/performance.md; takes half a minute.
//!
//! The time of this thread alone counts, so that a busy machine disturbs little; the paths take turns,
//! so that what disturbs meets all of them.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a measurement that fails may panic"
)]

use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use roomcam::rtp::h264::Packetizer;
use roomcam::video::convert::{Converter, I420, Plane, RawFormat};
use roomcam::video::mjpeg::Mjpeg;
use roomcam::video::openh264::{self, OpenH264};
use roomcam::video::{self, AccessUnit, range};
use roomcam::{clock, config};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
const FPS: u32 = 30;
const BITRATE_BPS: u32 = 2_000_000;

/// How often each path is taken.
const ROUNDS: u32 = 200;

/// How far the scene moves, in pixels: to and fro.
const PAN: usize = 64;

/// Longest frame of the made-up MJPEG camera, in bytes: those of real ones have 80 to 110 kB.
const FRAME_BYTES: usize = 100_000;

/// Pictures whose age is measured, and those before, in which the encoder is made.
const PICTURES: usize = 600;
const WARM_UP: usize = 30;

fn main() {
    assert!(
        openh264::has_assembly(),
        "OpenH264 was built without its assembly: install nasm (docs/building.md)"
    );
    cost();
    age();
}

/// One way of a picture, and what it took.
struct Path<'a> {
    name: String,
    run: Box<dyn FnMut(u32) + 'a>,
    times: Vec<Duration>,
}

impl<'a> Path<'a> {
    fn new(name: impl Into<String>, run: impl FnMut(u32) + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
            times: Vec::new(),
        }
    }
}

fn cost() {
    let scene = &Scene::new();
    let raw = scene.yuyv();
    let nv12 = scene.nv12();
    let mut block = nv12.clone();
    let still = scene.picture(0);
    let frames = [
        ("4:2:0", SamplingFactor::F_2_2),
        ("4:2:2", SamplingFactor::F_2_1),
    ]
    .map(|(name, sampling)| (name, scene.jpeg(sampling)));
    let mut paths = Vec::new();
    for (name, frame) in &frames {
        let kilobytes = frame.len() / 1_000;
        let mut decoder = Mjpeg::new(WIDTH, HEIGHT);
        paths.push(Path::new(
            format!("MJPEG {name}, {kilobytes} kB → I420 in limited range"),
            move |_| {
                black_box(decoder.decode(frame).unwrap());
            },
        ));
        let mut samples = vec![0; WIDTH * HEIGHT * 3];
        paths.push(Path::new(
            format!("for comparison: `zune-jpeg`, {name} → full size, full range"),
            move |_| {
                let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::YCbCr);
                let mut decoder = JpegDecoder::new_with_options(ZCursor::new(frame), options);
                decoder.decode_into(&mut samples).unwrap();
            },
        ));
    }
    let mut yuyv = Converter::new(RawFormat::Yuyv, WIDTH, HEIGHT, WIDTH * 2);
    paths.push(Path::new("YUYV → I420", move |_| {
        black_box(yuyv.convert(&raw).unwrap());
    }));
    let mut converter = Converter::new(RawFormat::Nv12, WIDTH, HEIGHT, WIDTH);
    paths.push(Path::new("NV12 → I420", move |_| {
        black_box(converter.convert(&nv12).unwrap());
    }));
    paths.push(Path::new("full range → limited, in place", move |_| {
        range::limit(black_box(&mut block), WIDTH * HEIGHT);
    }));
    let mut encoder = OpenH264::new(FPS, BITRATE_BPS);
    let start = clock::now();
    let at = |round: u32| start + Duration::from_secs(1) * round / FPS;
    paths.push(Path::new(
        "I420 → H.264, OpenH264 with its assembly, 2 Mbit/s, a scene that moves",
        move |round| {
            let picture = scene.picture(round);
            black_box(encoder.encode(&picture, at(round)).unwrap());
        },
    ));
    let mut packetizer = Packetizer::new(true);
    let data = OpenH264::new(FPS, BITRATE_BPS).encode(&still, start);
    let unit = AccessUnit {
        data: data.unwrap().unwrap(),
        captured_at: start,
    };
    let kilobytes = unit.data.len() / 1_000;
    paths.push(Path::new(
        format!("H.264 → packets, a keyframe of {kilobytes} kB"),
        move |_| {
            black_box(packetizer.packetize(&unit).unwrap());
        },
    ));

    for round in 0..ROUNDS {
        for path in &mut paths {
            let before = thread_time();
            (path.run)(round);
            path.times.push(thread_time() - before);
        }
    }
    print("| CPU per frame of 1280x720 | p50 | fastest |\n|---|---|---|");
    for Path {
        name, mut times, ..
    } in paths
    {
        let (p50, fastest) = (percentile(&mut times, 50), percentile(&mut times, 0));
        print(&format!("| {name} | {} | {} |", ms(p50), ms(fastest)));
    }
}

/// How old the test picture is when its access unit is there, by the clock.
fn age() {
    let config = config::Video {
        source: "pattern".to_owned(),
        width: 1280,
        height: 720,
        fps: FPS,
        ..config::Video::default()
    };
    let mut source = video::open(&config).unwrap();
    let mut ages = Vec::with_capacity(PICTURES);
    let before = thread_time();
    let mut pictures = 0;
    while ages.len() < PICTURES {
        let Some(unit) = source.next().unwrap() else {
            continue;
        };
        pictures += 1;
        if pictures > WARM_UP {
            ages.push(clock::now() - unit.captured_at);
        }
    }
    let each = (thread_time() - before) / u32::try_from(pictures).unwrap();
    let [p50, p99, oldest] = [50, 99, 100].map(|percent| percentile(&mut ages, percent));
    let limit = Duration::from_secs(2) / FPS;
    let late = ages.iter().filter(|age| **age > limit).count();
    let frame_times = oldest.as_secs_f64() * f64::from(FPS);
    print(
        "\n| test picture, 720p30 | p50 | p99 | oldest | in frame times | older than two | CPU per frame |",
    );
    print("|---|---|---|---|---|---|---|");
    print(&format!(
        "| capture → access unit | {} | {} | {} | {frame_times:.2} | {late} of {PICTURES} | {} |",
        ms(p50),
        ms(p99),
        ms(oldest),
        ms(each)
    ));
}

/// A picture larger than what is seen of it: soft shapes of several sizes, texture, and a sensor's noise.
struct Scene {
    bytes: Vec<u8>,
}

impl Scene {
    const STRIDE: usize = WIDTH + PAN;

    fn new() -> Self {
        let size = |n: usize| u32::try_from(n).unwrap();
        let (width, height) = (size(Self::STRIDE), size(HEIGHT));
        let sample = |x: u32, y: u32, seed: u32| {
            let shapes = soft(x, y, 160, seed) * 9 + soft(x, y, 40, seed) * 4;
            let texture = soft(x, y, 8, seed) * 2 + hashed(x, y, seed) % 256;
            u8::try_from((shapes + texture) / 16).unwrap_or(255)
        };
        let luma = (0..height).flat_map(|y| (0..width).map(move |x| sample(x, y, 1)));
        let chroma = |seed: u32| {
            (0..height / 2).flat_map(move |y| {
                (0..width / 2)
                    .map(move |x| u8::try_from(64 + soft(x, y, 60, seed) / 2).unwrap_or(255))
            })
        };
        let bytes = luma.chain(chroma(2)).chain(chroma(3)).collect();
        Self { bytes }
    }

    /// What is seen in a round.
    fn picture(&self, round: u32) -> I420<'_> {
        let round = usize::try_from(round).unwrap();
        let left = (round * 2 % (2 * PAN)).abs_diff(PAN) & !1;
        let luma_bytes = Self::STRIDE * HEIGHT;
        let (luma, chroma) = self.bytes.split_at(luma_bytes);
        let (u, v) = chroma.split_at(luma_bytes / 4);
        let planes = [
            cut(luma, left, Self::STRIDE),
            cut(u, left / 2, Self::STRIDE / 2),
            cut(v, left / 2, Self::STRIDE / 2),
        ];
        I420::new(WIDTH, HEIGHT, planes).unwrap()
    }

    /// Y, Cb and Cr at a pixel.
    fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let [luma, u, v] = self.picture(0).planes();
        let at = |plane: Plane<'_>, x: usize, y: usize| {
            let byte = plane.bytes().get(y * plane.stride() + x);
            *byte.unwrap()
        };
        [at(luma, x, y), at(u, x / 2, y / 2), at(v, x / 2, y / 2)]
    }

    fn yuyv(&self) -> Vec<u8> {
        let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let two = |(x, y): (usize, usize)| {
            let [luma, u, v] = self.pixel(x, y);
            [luma, if x.is_multiple_of(2) { u } else { v }]
        };
        pixels.flat_map(two).collect()
    }

    fn nv12(&self) -> Vec<u8> {
        let rows = |rows: usize| (0..rows).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let luma = rows(HEIGHT).map(|(x, y)| self.pixel(x, y)[0]);
        let chroma = rows(HEIGHT / 2).map(|(x, y)| self.pixel(x, 2 * y)[1 + x % 2]);
        luma.chain(chroma).collect()
    }

    /// The best frame that is no longer than a camera's.
    fn jpeg(&self, sampling: SamplingFactor) -> Vec<u8> {
        let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let pixels: Vec<u8> = pixels.flat_map(|(x, y)| self.pixel(x, y)).collect();
        let frames = (1..=19).rev().map(|twentieth| {
            let mut jpeg = Vec::new();
            let mut encoder = Encoder::new(&mut jpeg, twentieth * 5);
            encoder.set_sampling_factor(sampling);
            let [width, height] = [WIDTH, HEIGHT].map(|n| u16::try_from(n).unwrap());
            let encoded = encoder.encode(&pixels, width, height, ColorType::Ycbcr);
            encoded.unwrap();
            jpeg
        });
        let mut fitting = frames.filter(|frame| frame.len() <= FRAME_BYTES);
        fitting.next().unwrap()
    }
}

fn cut(bytes: &[u8], left: usize, stride: usize) -> Plane<'_> {
    let (_, from) = bytes.split_at(left);
    Plane::new(from, stride)
}

/// Returns 0 to 255, changing softly from one point of a grid to the next, `pitch` pixels away.
fn soft(x: u32, y: u32, pitch: u32, seed: u32) -> u32 {
    let corner = |dx, dy| hashed(x / pitch + dx, y / pitch + dy, seed * 1_000 + pitch) % 256;
    let mix = |a: u32, b: u32, at: u32| (a * (pitch - at) + b * at) / pitch;
    let upper = mix(corner(0, 0), corner(1, 0), x % pitch);
    let lower = mix(corner(0, 1), corner(1, 1), x % pitch);
    mix(upper, lower, y % pitch)
}

fn hashed(x: u32, y: u32, seed: u32) -> u32 {
    let mixed = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ seed << 7;
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0xc2b2_ae3d);
    mixed ^ mixed >> 13
}

/// Returns the processor time of this thread.
fn thread_time() -> Duration {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[expect(unsafe_code, reason = "std does not tell it")]
    // SAFETY: `spec` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut spec) };
    assert_eq!(status, 0);
    let seconds = u64::try_from(spec.tv_sec).unwrap();
    Duration::new(seconds, u32::try_from(spec.tv_nsec).unwrap())
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    *times.get(rank - 1).unwrap()
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}
