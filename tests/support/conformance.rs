//! The facts that every source of video keeps, whatever it reads: one list, for made-up sources, files,
//! stand-ins and (by `examples/conform.rs`, inside the emulated machine) real V4L2 devices.
//!
//! A fact that does not hold is an `Err` in words.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use roomcam::h264::annexb::{NalUnit, nal_units};
use roomcam::h264::sps;
use roomcam::video::still::Still;
use roomcam::video::{self, AccessUnit, Coding, VideoError, VideoSource};
use roomcam::{clock, config};
use serde::Serialize;

/// How long a source may take for its first picture, and for any later one.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
const NEXT_WITHIN: Duration = Duration::from_secs(10);

/// Pictures that are looked at one after the other.
const PICTURES: u32 = 20;

/// A keyframe that was asked for may come behind the pictures that were on their way.
const ON_THEIR_WAY: u32 = 8;

/// Encoders to FWHT make none on demand, but one in so many pictures.
const FWHT_GOP: u32 = 16;

/// Pictures that a source may have kept while nobody read it: the buffers of a driver, and those on the
/// way through an encoder.
const KEPT: u32 = 8;

/// The source of a configuration; or, encoded in another way, the camera at the path that is its source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a config::Video,
    pub(crate) coding: Option<Coding>,
}

impl<'a> From<&'a config::Video> for Subject<'a> {
    fn from(config: &'a config::Video) -> Self {
        Self {
            config,
            coding: None,
        }
    }
}

/// What is promised of a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// A keyframe comes when it is asked for.
    pub(crate) keyframes_on_demand: bool,
    /// How old a picture may be when it is delivered, beyond two frame times: what this machine takes.
    pub(crate) slack: Duration,
    /// Tells how often this thread has allocated memory, where that is counted.
    pub(crate) allocations: fn() -> Option<u64>,
}

/// What was measured on the way.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// What the source says of itself.
    pub(crate) description: String,
    /// From the call that opens to the first picture.
    pub(crate) first_ms: u128,
    /// Of those that were read without a pause.
    pub(crate) oldest_ms: u128,
    /// The most allocations that one of these took, where they are counted.
    pub(crate) allocations: Option<u64>,
    /// Bytes of the first keyframe.
    pub(crate) keyframe_bytes: usize,
    /// The same for the same bytes.
    pub(crate) keyframe_hash: String,
    /// The brightest luma of a raw picture, where the source has raw pictures: white is 235.
    pub(crate) brightest: Option<u8>,
}

/// Holds a source to every fact.
pub(crate) fn conforms<'a>(
    subject: impl Into<Subject<'a>>,
    promise: Promise,
) -> Result<Figures, String> {
    let subject = subject.into();
    let config = subject.config;
    let start = clock::now();
    let mut source = open(subject)?;
    let first = next(source.as_mut(), FIRST_WITHIN)?;
    let mut figures = Figures {
        first_ms: (clock::now() - start).as_millis(),
        description: source.description(),
        keyframe_bytes: first.data.len(),
        keyframe_hash: hash(&first.data),
        ..Figures::default()
    };
    it_begins_with_a_keyframe_of_the_size_that_it_tells(&first, &source.description())?;
    let limit = Duration::from_secs(2) / config.fps.max(1) + promise.slack;
    let (last, oldest) = pictures_come_in_order_and_fresh(source.as_mut(), &first, limit)?;
    figures.oldest_ms = oldest.as_millis();
    figures.allocations = most_allocations(source.as_mut(), promise.allocations)?;
    if source.keyframes_on_demand() != promise.keyframes_on_demand {
        return Err("it tells otherwise of keyframes on demand".to_owned());
    }
    if promise.keyframes_on_demand {
        a_keyframe_comes_when_it_is_asked_for(source.as_mut())?;
    }
    figures.brightest = a_still_is_of_the_size_that_it_tells(source.as_mut())?;
    source.set_bitrate(300_000);
    let after = next(source.as_mut(), NEXT_WITHIN)?;
    if after.captured_at < last {
        return Err("another bitrate turned back the time".to_owned());
    }
    whoever_was_away_soon_gets_fresh_pictures(source.as_mut(), config.fps, limit)?;
    drop(source);
    it_is_closed(&config.source)?;
    let again = next(open(subject)?.as_mut(), FIRST_WITHIN)?;
    it_begins_with_a_keyframe_of_the_size_that_it_tells(&again, "")?;
    it_is_closed(&config.source)?;
    Ok(figures)
}

/// Reads a source, says when it is `live`, and goes on reading while something befalls it: `pictures` come,
/// fresh and in order.
pub(crate) fn goes_on<'a>(
    subject: impl Into<Subject<'a>>,
    slack: Duration,
    pictures: u32,
    live: impl FnOnce(),
) -> Result<(), String> {
    let subject = subject.into();
    let mut source = open(subject)?;
    let mut last = next(source.as_mut(), FIRST_WITHIN)?.captured_at;
    live();
    let limit = Duration::from_secs(2) / subject.config.fps.max(1) + slack;
    for _ in 0..pictures {
        let unit = next(source.as_mut(), NEXT_WITHIN)?;
        let now = clock::now();
        let age = now.saturating_duration_since(unit.captured_at);
        if unit.captured_at < last || unit.captured_at > now || age > limit {
            return Err(format!("a picture is {age:?} old, or its time is wrong"));
        }
        last = unit.captured_at;
    }
    Ok(())
}

/// Reads a source until it fails; says when it is `live`. Returns the name of the error, which
/// is one after which the capture thread opens the source again.
pub(crate) fn ends<'a>(
    subject: impl Into<Subject<'a>>,
    live: impl FnOnce(),
) -> Result<&'static str, String> {
    let mut source = open(subject.into())?;
    next(source.as_mut(), FIRST_WITHIN)?;
    live();
    let deadline = clock::now() + FIRST_WITHIN;
    while clock::now() < deadline {
        match source.next() {
            Ok(_) => {}
            Err(error) if !error.is_retryable() => return Err(format!("{error}: for ever?")),
            Err(VideoError::Missing { .. }) => return Ok("missing"),
            Err(VideoError::Driver { .. }) => return Ok("driver"),
            Err(VideoError::Stalled { .. }) => return Ok("stalled"),
            Err(VideoError::Program { .. }) => return Ok("program"),
            Err(error) => return Err(format!("unexpected: {error}")),
        }
    }
    Err("it never failed".to_owned())
}

fn open(subject: Subject<'_>) -> Result<Box<dyn VideoSource>, String> {
    let Subject { config, coding } = subject;
    let source = match coding {
        None => video::open(config),
        Some(coding) => video::open_with(Path::new(&config.source), config, coding),
    };
    source.map_err(|error| format!("it does not open: {error}"))
}

fn next(source: &mut dyn VideoSource, within: Duration) -> Result<AccessUnit, String> {
    let deadline = clock::now() + within;
    while clock::now() < deadline {
        let asked = clock::now();
        let unit = source
            .next()
            .map_err(|error| format!("it failed: {error}"))?;
        match unit {
            Some(unit) => return Ok(unit),
            // The capture thread is to notice that it is to stop.
            None if clock::now() - asked > Duration::from_secs(2) => {
                return Err("it kept its reader waiting for more than 2 s".to_owned());
            }
            None => {}
        }
    }
    Err(format!("no picture within {within:?}"))
}

fn it_begins_with_a_keyframe_of_the_size_that_it_tells(
    unit: &AccessUnit,
    description: &str,
) -> Result<(), String> {
    if !is_keyframe(unit) {
        return Err("it does not begin with a keyframe".to_owned());
    }
    let Some((width, height)) = size(unit) else {
        return Err("its parameter set cannot be read".to_owned());
    };
    let size = format!("{width}x{height}");
    let mut told = description.split_whitespace().filter(|word| is_size(word));
    match told.next() {
        Some(told) if told != size => Err(format!("it delivers {size} and says {description:?}")),
        _ => Ok(()),
    }
}

/// Whether a word is like `1280x720`.
fn is_size(word: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let sides = word.split_once('x');
    sides.is_some_and(|(width, height)| is_number(width) && is_number(height))
}

fn pictures_come_in_order_and_fresh(
    source: &mut dyn VideoSource,
    first: &AccessUnit,
    limit: Duration,
) -> Result<(Instant, Duration), String> {
    let mut last = first.captured_at;
    let mut oldest = Duration::ZERO;
    for number in 0..PICTURES {
        let unit = next(source, NEXT_WITHIN)?;
        let now = clock::now();
        if unit.captured_at > now {
            return Err(format!("picture {number} comes from the future"));
        }
        if unit.captured_at < last {
            return Err(format!("picture {number} is older than the one before it"));
        }
        last = unit.captured_at;
        // The encoder's first picture takes longer, and those behind it wait for it.
        if number >= KEPT {
            oldest = oldest.max(now - unit.captured_at);
        }
    }
    if oldest > limit {
        return Err(format!("a picture was {oldest:?} old, more than {limit:?}"));
    }
    Ok((last, oldest))
}

/// Returns the most allocations that a picture takes of a source that has delivered some.
fn most_allocations(
    source: &mut dyn VideoSource,
    count: fn() -> Option<u64>,
) -> Result<Option<u64>, String> {
    let mut most = None;
    for _ in 0..PICTURES {
        let before = count();
        next(source, NEXT_WITHIN)?;
        let made = count().zip(before).map(|(after, before)| after - before);
        most = most.max(made);
    }
    Ok(most)
}

fn a_keyframe_comes_when_it_is_asked_for(source: &mut dyn VideoSource) -> Result<(), String> {
    source.request_keyframe();
    let mut seen = 0;
    loop {
        let unit = next(source, NEXT_WITHIN)?;
        if is_keyframe(&unit) {
            return Ok(());
        }
        seen += 1;
        let gop = fwht(&unit.data).map_or(0, |_| FWHT_GOP);
        if seen >= ON_THEIR_WAY + gop {
            return Err(format!("no keyframe among the next {seen} pictures"));
        }
    }
}

fn whoever_was_away_soon_gets_fresh_pictures(
    source: &mut dyn VideoSource,
    fps: u32,
    limit: Duration,
) -> Result<(), String> {
    thread::sleep(Duration::from_secs(10) / fps.max(1));
    for _ in 0..KEPT {
        next(source, NEXT_WITHIN)?;
    }
    let unit = next(source, NEXT_WITHIN)?;
    let age = clock::now().saturating_duration_since(unit.captured_at);
    if age > limit {
        return Err(format!("after a pause pictures stay {age:?} old"));
    }
    Ok(())
}

fn it_is_closed(source: &str) -> Result<(), String> {
    let Ok(device) = Path::new(source).canonicalize() else {
        return Ok(());
    };
    let files = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let mut open = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    if open.any(|file| file == device) {
        return Err(format!("{source} is still open"));
    }
    Ok(())
}

/// Returns the brightest luma of a picture before it was encoded, where the source keeps one.
fn a_still_is_of_the_size_that_it_tells(
    source: &mut dyn VideoSource,
) -> Result<Option<u8>, String> {
    if !source.keep_next_picture() {
        return Ok(None);
    }
    for _ in 0..ON_THEIR_WAY {
        next(source, NEXT_WITHIN)?;
        let Some(still) = source.take_picture() else {
            continue;
        };
        let Still::Picture(planes) = still else {
            return Ok(None);
        };
        let size = format!("{}x{}", planes.width, planes.height);
        let description = source.description();
        let mut told = description.split_whitespace().filter(|word| is_size(word));
        if told.next().is_some_and(|told| told != size) {
            return Err(format!("its still is {size}, and it says {description:?}"));
        }
        let luma = planes.bytes.iter().take(planes.width * planes.height);
        return Ok(luma.copied().max());
    }
    Err("it keeps no picture when it is asked for one".to_owned())
}

fn is_keyframe(unit: &AccessUnit) -> bool {
    if let Some(fwht) = fwht(&unit.data) {
        return fwht.is_keyframe;
    }
    let has = |wanted| nal_units(&unit.data).any(|unit| unit.unit_type() == wanted);
    has(NalUnit::SPS) && has(NalUnit::PPS) && has(NalUnit::IDR_SLICE)
}

/// Returns width and height of a keyframe.
fn size(unit: &AccessUnit) -> Option<(u32, u32)> {
    if let Some(fwht) = fwht(&unit.data) {
        return Some((fwht.width, fwht.height));
    }
    let mut units = nal_units(&unit.data);
    let parameters = units.find(|unit| unit.unit_type() == NalUnit::SPS)?;
    let info = sps::parse(parameters.bytes())?;
    Some((info.width, info.height))
}

/// The header of a picture in FWHT, the format of the kernel's encoder without hardware.
struct Fwht {
    width: u32,
    height: u32,
    is_keyframe: bool,
}

fn fwht(picture: &[u8]) -> Option<Fwht> {
    const MAGIC: u64 = 0x4f4f_4f4f_ffff_ffff;
    const KEYFRAME: u32 = 1 << 10;
    let (magic, rest) = picture.split_first_chunk()?;
    let words: Vec<u32> = rest
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_be_bytes(*word))
        .take(4)
        .collect();
    let [_version, width, height, flags] = *words else {
        return None;
    };
    (u64::from_be_bytes(*magic) == MAGIC).then_some(Fwht {
        width,
        height,
        is_keyframe: flags & KEYFRAME != 0,
    })
}

fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
