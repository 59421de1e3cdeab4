//! Raw pictures → coded ones in hardware: a stateful memory-to-memory encoder (kernel documentation,
//! "Memory-to-Memory Stateful Video Encoder Interface"), such as `bcm2835-codec` on Pi 0 to 4.
//!
//! Found by what it can do, not by its number, and trusted once it has encoded a picture. Controls
//! that it does not have are skipped. Pictures are copied in; DMABUF is left out, as are stateless
//! encoders and changes of size.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::convert::{I420, Plane};
use super::format::{Choice, FourCc, Size};
use super::v4l2::queue::{Filled, Queue};
use super::v4l2::{CodecControl, Device, Identity, Kind};
use super::{AccessUnit, VideoError};
use crate::clock;
use crate::h264::annexb::{NalUnit, nal_units};

/// Pictures that may be under way: one in the encoder, one behind it, one being written.
const BUFFERS: u32 = 3;

/// Room for one coded picture: a keyframe of 1080p at 20 Mbit/s does not fit into the 0.5 MB that
/// drivers give unasked.
const CODED_BYTES: u32 = 3 << 19;

/// Highest target in bit/s. `bcm2835-codec` says 25 M, and fails there.
const MOST_BITRATE_BPS: u32 = 20_000_000;

/// How long the first picture may take, with all that the firmware loads for it.
const PROVEN_WITHIN: Duration = Duration::from_secs(2);

/// How long the encoder may be silent while it has pictures.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// Seconds from keyframe to keyframe: a safety net, they are made on demand.
const GOP_S: u32 = 10;

const CONSTRAINED_BASELINE: u32 = 1;
const LEVEL_4_0: u32 = 11;

/// What an encoder is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The coded format: H.264, but for tests.
    pub coded: FourCc,
    /// Pixels, both even.
    pub size: Size,
    /// Pictures per second.
    pub fps: u32,
    /// Target in bit/s.
    pub bitrate_bps: u32,
}

/// An encoder of pictures of one size that works.
#[derive(Debug)]
pub struct V4l2Encoder {
    // Queues before the device: they are stopped first.
    raw: Queue,
    coded: Queue,
    device: Arc<Device>,
    name: String,
    settings: Settings,
    /// Bytes from row to row of luma, and rows of luma, in the driver's buffers.
    stride: usize,
    rows: usize,
    free: Vec<u32>,
    under_way: VecDeque<(Duration, Instant)>,
    ready: VecDeque<AccessUnit>,
    first_at: Option<Instant>,
    last_coded: Option<Instant>,
    keyframe_wanted: bool,
}

impl V4l2Encoder {
    /// Opens the encoder, encodes a picture to see whether it works, and starts over.
    ///
    /// # Errors
    ///
    /// Any [`VideoError`]: encode in software then, and say why.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, VideoError> {
        // One instance at a time is all that some have.
        Self::start(path, settings)?.prove()?;
        Self::start(path, settings)
    }

    fn start(path: &Path, settings: Settings) -> Result<Self, VideoError> {
        let unfit = |reason: String| VideoError::HardwareEncoder {
            path: path.to_owned(),
            reason,
        };
        let device = Arc::new(Device::open(path)?);
        let identity = device.identity().ok();
        let (input, output, card) = identity
            .and_then(|identity| {
                let (input, output) = identity.converter_queues()?;
                Some((input, output, identity.card))
            })
            .ok_or_else(|| unfit("is no encoder".to_owned()))?;
        if !encodes(&device, input, output, settings.coded) {
            return Err(unfit(format!("does not turn YU12 into {}", settings.coded)));
        }
        let Settings { coded, size, .. } = settings;
        let choice = |fourcc| Choice { fourcc, size };
        let settled = device.set_format(output, choice(coded), CODED_BYTES)?;
        if settled.fourcc != coded {
            return Err(unfit(format!("gives {} for {coded}", settled.fourcc)));
        }
        let settled = device.set_format(input, choice(FourCc::I420), 0)?;
        if settled.fourcc != FourCc::I420
            || settled.size.width < size.width
            || settled.size.height < size.height
        {
            let Size { width, height } = settled.size;
            return Err(unfit(format!("takes {width}x{height} at most, not {size}")));
        }
        device.set_crop(input, size);
        device.set_frame_rate(input, settings.fps);
        let gop = GOP_S.saturating_mul(settings.fps);
        for (control, value) in [
            (CodecControl::BitrateMode, 0),
            (
                CodecControl::Bitrate,
                settings.bitrate_bps.min(MOST_BITRATE_BPS),
            ),
            (CodecControl::RepeatHeaders, 1),
            (CodecControl::PrependHeaders, 1),
            (CodecControl::Profile, CONSTRAINED_BASELINE),
            (CodecControl::Level, LEVEL_4_0),
            (CodecControl::BFrames, 0),
            (CodecControl::GopSize, gop),
            (CodecControl::IPeriod, gop),
        ] {
            device.set_control(control, value);
        }
        let raw = Queue::allocate(&device, input, BUFFERS)?;
        let coded = Queue::allocate(&device, output, BUFFERS)?;
        coded.give_all()?;
        raw.start()?;
        coded.start()?;
        let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
        Ok(Self {
            free: raw.indices().collect(),
            name: format!("{card} ({})", path.display()),
            raw,
            coded,
            device,
            settings,
            stride: pixels(settled.stride.max(size.width)),
            rows: pixels(settled.size.height),
            under_way: VecDeque::new(),
            ready: VecDeque::new(),
            first_at: None,
            last_coded: None,
            keyframe_wanted: false,
        })
    }

    /// Returns card and path, for the log and for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Encodes one picture. Returns the oldest access unit that is ready: that of this picture, or of
    /// the one before where the encoder takes longer than most of the time between two.
    ///
    /// # Errors
    ///
    /// Any [`VideoError`]; the encoder is unusable afterwards.
    pub fn encode(
        &mut self,
        picture: &I420<'_>,
        captured_at: Instant,
    ) -> Result<Option<AccessUnit>, VideoError> {
        self.submit(picture, captured_at)?;
        let patience = Duration::from_secs(1) / self.settings.fps.max(1) * 3 / 4;
        self.collect(patience)?;
        Ok(self.ready.pop_front())
    }

    /// Returns an access unit that has become ready since.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn take_ready(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if self.ready.is_empty() && !self.under_way.is_empty() {
            self.collect(Duration::ZERO)?;
        }
        Ok(self.ready.pop_front())
    }

    /// Makes the next picture a keyframe, where the encoder can.
    pub const fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// Changes the target, where the encoder can.
    pub fn set_bitrate(&mut self, bits_per_second: u32) {
        let bitrate_bps = bits_per_second.min(MOST_BITRATE_BPS);
        self.device.set_control(CodecControl::Bitrate, bitrate_bps);
    }

    /// Encodes a grey picture and checks what comes out.
    fn prove(mut self) -> Result<(), VideoError> {
        let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
        let Size { width, height } = self.settings.size;
        let (width, height) = (pixels(width), pixels(height));
        let grey = vec![128; width * height * 3 / 2];
        let picture = I420::in_one_block(width, height, &grey, width);
        let picture = picture.ok_or_else(|| self.failure("takes even sizes alone"))?;
        let now = clock::now();
        self.submit(&picture, now)?;
        while self.ready.is_empty() {
            if clock::now() > now + PROVEN_WITHIN {
                return Err(self.failure("did not encode a picture"));
            }
            self.collect(PROVEN_WITHIN)?;
        }
        let unit = self.ready.pop_front().map(|unit| unit.data);
        if self.settings.coded == FourCc::H264 && !unit.is_some_and(|unit| is_keyframe(&unit)) {
            return Err(self.failure("did not begin with a keyframe"));
        }
        Ok(())
    }

    fn submit(&mut self, picture: &I420<'_>, captured_at: Instant) -> Result<(), VideoError> {
        let size = self.settings.size;
        let is_of_size = u32::try_from(picture.width()) == Ok(size.width)
            && u32::try_from(picture.height()) == Ok(size.height);
        if !is_of_size {
            return Err(self.failure("was given a picture of another size"));
        }
        self.collect(Duration::ZERO)?;
        if self.free.is_empty() {
            self.device.wait(libc::POLLOUT, LONGEST_SILENCE)?;
            self.collect(Duration::ZERO)?;
        }
        let Some(index) = self.free.pop() else {
            return Err(self.failure("stopped taking pictures"));
        };
        if std::mem::take(&mut self.keyframe_wanted) {
            self.device.set_control(CodecControl::ForceKeyframe, 1);
        }
        let first_at = *self.first_at.get_or_insert(captured_at);
        // In whole microseconds, as it comes back; and never twice the same.
        let age = captured_at.saturating_duration_since(first_at).as_micros();
        let age = Duration::from_micros(u64::try_from(age).unwrap_or_default());
        let last = self.under_way.back().map(|(last, _)| *last);
        let timestamp = last.map_or(age, |last| age.max(last + Duration::from_micros(1)));
        let (stride, rows) = (self.stride, self.rows);
        self.raw.give_written(index, timestamp, |buffer| {
            write_picture(picture, stride, rows, buffer)
        })?;
        // Bounded by the number of buffers.
        self.under_way.push_back((timestamp, captured_at));
        Ok(())
    }

    /// Takes back what the encoder is done with; waits up to `patience` for a coded picture.
    fn collect(&mut self, patience: Duration) -> Result<(), VideoError> {
        while let Some(done) = self.raw.dequeue()? {
            self.free.push(done.index);
        }
        let deadline = clock::now() + patience;
        loop {
            while let Some(filled) = self.coded.dequeue()? {
                self.take(&filled);
                self.coded.give_back(filled)?;
            }
            let now = clock::now();
            let left = deadline.saturating_duration_since(now);
            if !self.ready.is_empty() || left.is_zero() || self.under_way.is_empty() {
                break;
            }
            self.device.wait(libc::POLLIN, left)?;
        }
        let oldest = self.under_way.front().map(|(_, captured_at)| *captured_at);
        let since = oldest.max(self.last_coded.filter(|_| oldest.is_some()));
        let is_silent = |since| clock::now().saturating_duration_since(since) > LONGEST_SILENCE;
        if since.is_some_and(is_silent) {
            return Err(self.failure("stopped encoding"));
        }
        Ok(())
    }

    fn take(&mut self, filled: &Filled) {
        let captured_at = loop {
            match self.under_way.pop_front() {
                // What it skipped.
                Some((timestamp, _)) if timestamp < filled.timestamp => {}
                Some((_, captured_at)) => break captured_at,
                None => break clock::now(),
            }
        };
        self.last_coded = Some(clock::now());
        let bytes = self.coded.bytes(filled);
        if filled.is_damaged || bytes.is_empty() {
            // What follows refers to it.
            self.keyframe_wanted = true;
            return;
        }
        // Bounded: each picture that goes in takes one out.
        self.ready.push_back(AccessUnit {
            data: Bytes::copy_from_slice(bytes),
            captured_at,
        });
    }

    fn failure(&self, reason: &str) -> VideoError {
        VideoError::HardwareEncoder {
            path: self.device.path().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Returns who the encoder at `path` is, and what it makes of pictures; `None` for what is none.
pub(super) fn coded_formats(path: &Path) -> Option<(Identity, Vec<FourCc>)> {
    let device = Device::open(path).ok()?;
    let identity = device.identity().ok()?;
    let (input, output) = identity.converter_queues()?;
    let fourccs = |kind| device.formats(kind).into_iter().map(|f| f.fourcc);
    let coded: Vec<FourCc> = fourccs(output).filter(|f| f.is_coded()).collect();
    let takes_pictures = fourccs(input).any(|fourcc| fourcc == FourCc::I420);
    (takes_pictures && !coded.is_empty()).then_some((identity, coded))
}

/// Returns whether the device at `path` encodes to `coded`.
pub(super) fn is_encoder(path: &Path, coded: FourCc) -> bool {
    let Ok(device) = Device::open(path) else {
        return false;
    };
    let queues = device.identity().ok().and_then(|i| i.converter_queues());
    queues.is_some_and(|(input, output)| encodes(&device, input, output, coded))
}

fn encodes(device: &Device, input: Kind, output: Kind, coded: FourCc) -> bool {
    let has = |kind, fourcc| device.formats(kind).iter().any(|f| f.fourcc == fourcc);
    has(output, coded) && has(input, FourCc::I420)
}

fn is_keyframe(unit: &[u8]) -> bool {
    let has = |wanted| nal_units(unit).any(|unit| unit.unit_type() == wanted);
    has(NalUnit::SPS) && has(NalUnit::PPS) && has(NalUnit::IDR_SLICE)
}

/// Writes the planes of `picture` as the driver lays them out: luma rows of `stride` bytes, `rows` of
/// them, then chroma rows of half as many bytes. Returns how long that is.
fn write_picture(picture: &I420<'_>, stride: usize, rows: usize, buffer: &mut [u8]) -> usize {
    let [y, u, v] = picture.planes();
    let luma_bytes = stride * rows;
    let chroma_bytes = luma_bytes / 4;
    let (width, height) = (picture.width(), picture.height());
    write_plane(y, width, height, buffer, 0, stride);
    for (plane, start) in [(u, luma_bytes), (v, luma_bytes + chroma_bytes)] {
        write_plane(plane, width / 2, height / 2, buffer, start, stride / 2);
    }
    (luma_bytes + 2 * chroma_bytes).min(buffer.len())
}

fn write_plane(
    plane: Plane<'_>,
    columns: usize,
    rows: usize,
    buffer: &mut [u8],
    start: usize,
    stride: usize,
) {
    let from = plane.bytes().chunks(plane.stride().max(1)).take(rows);
    let target = buffer.get_mut(start..).unwrap_or_default();
    for (from, to) in from.zip(target.chunks_mut(stride.max(1))) {
        if let (Some(from), Some(to)) = (from.get(..columns), to.get_mut(..columns)) {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_written_with_the_strides_and_rows_of_the_driver() {
        let raw: Vec<u8> = (0..24).collect();
        let picture = I420::in_one_block(4, 4, &raw, 4).unwrap();
        let mut buffer = [99; 8 * 6 * 3 / 2];
        assert_eq!(write_picture(&picture, 8, 6, &mut buffer), 72);
        assert_eq!(buffer[..12], [0, 1, 2, 3, 99, 99, 99, 99, 4, 5, 6, 7]);
        assert_eq!(buffer[48..54], [16, 17, 99, 99, 18, 19]);
        assert_eq!(buffer[60..66], [20, 21, 99, 99, 22, 23]);
    }

    #[test]
    fn a_buffer_that_is_too_small_does_no_harm() {
        let raw = [7; 24];
        let picture = I420::in_one_block(4, 4, &raw, 4).unwrap();
        for length in 0..72 {
            let mut buffer = vec![0; length];
            assert!(write_picture(&picture, 8, 6, &mut buffer) <= length);
        }
    }

    #[test]
    fn what_is_no_encoder_is_said_to_be_none() {
        let settings = Settings {
            coded: FourCc::H264,
            size: Size {
                width: 64,
                height: 64,
            },
            fps: 30,
            bitrate_bps: 500_000,
        };
        let error = V4l2Encoder::open(Path::new("/dev/null"), settings).unwrap_err();
        assert_eq!(error.to_string(), "encoder /dev/null: is no encoder");
        assert!(!is_encoder(Path::new("/dev/null"), FourCc::H264));
    }
}
