//! Raw pictures → coded ones in hardware: a stateful memory-to-memory encoder (kernel documentation,
//! "Memory-to-Memory Stateful Video Encoder Interface"), such as `bcm2835-codec` on Pi 0 to 4.
//!
//! Found by what it can do, not by its number, and trusted once it has encoded a picture. Controls
//! that it does not have are skipped. Pictures are copied into its buffers, or it reads them in those
//! of the camera (DMABUF). Stateless encoders and changes of size are left out.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::convert::I420;
use super::format::{Choice, FourCc, Size};
use super::sharing::{self, KEPT_BY_CAMERA};
use super::v4l2::memory::Exported;
use super::v4l2::queue::{Filled, Queue};
use super::v4l2::{CodecControl, Device, Identity, Kind, Negotiated, Room};
use super::{AccessUnit, VideoError};
use crate::clock;

mod layout;
mod proof;

/// Pictures that may be under way: one in the encoder, one behind it, one being written.
pub(super) const BUFFERS: u32 = 3;

/// Room for one coded picture: a keyframe of 1080p at 20 Mbit/s does not fit into the 0.5 MB that
/// drivers give unasked.
const CODED_BYTES: u32 = 3 << 19;

/// Highest target in bit/s. `bcm2835-codec` says 25 M, and fails there.
const MOST_BITRATE_BPS: u32 = 20_000_000;

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
    input: Input,
    /// Raw pictures that the device holds, and how many it may.
    held: usize,
    most_held: usize,
    under_way: VecDeque<(Duration, Instant)>,
    ready: VecDeque<AccessUnit>,
    first_at: Option<Instant>,
    last_coded: Option<Instant>,
    keyframe_wanted: bool,
}

/// How pictures get into the encoder.
#[derive(Debug)]
enum Input {
    /// They are written into its own buffers.
    Copied {
        /// Bytes from row to row of luma, and rows of luma.
        stride: usize,
        rows: usize,
        free: Vec<u32>,
    },
    /// It reads them in the camera's buffers.
    Shared {
        /// Of one picture.
        bytes: u32,
        /// The numbers of those that it is done with.
        done: Vec<u32>,
    },
}

/// A camera whose buffers the encoder reads.
#[derive(Clone, Debug)]
pub(super) struct Lender {
    /// What its driver settled on.
    pub(super) pictures: Negotiated,
    /// All of its buffers.
    pub(super) buffers: Arc<[Exported]>,
}

impl V4l2Encoder {
    /// Opens the encoder, encodes a picture to see whether it works, and starts over.
    ///
    /// # Errors
    ///
    /// Any [`VideoError`]: encode in software then, and say why.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, VideoError> {
        // One instance at a time is all that some have.
        Self::start(path, settings, None)?.prove()?;
        Self::start(path, settings, None)
    }

    /// The same for pictures that stay in a camera's buffers. None of these may be with the camera: each is
    /// encoded once, as it is.
    pub(super) fn open_sharing(
        path: &Path,
        settings: Settings,
        lender: &Lender,
    ) -> Result<Self, VideoError> {
        Self::start(path, settings, Some(lender))?.prove_sharing(lender)?;
        Self::start(path, settings, Some(lender))
    }

    fn start(path: &Path, settings: Settings, lender: Option<&Lender>) -> Result<Self, VideoError> {
        let unfit = |reason: String| VideoError::HardwareEncoder {
            path: path.to_owned(),
            reason,
        };
        let device = Arc::new(Device::open(path)?);
        let identity = device.identity().ok();
        let (input_kind, output, card) = identity
            .and_then(|identity| {
                let (input, output) = identity.converter_queues()?;
                Some((input, output, identity.card))
            })
            .ok_or_else(|| unfit("is no encoder".to_owned()))?;
        let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
        let raw = lender.map_or(FourCc::I420, |lender| lender.pictures.fourcc);
        if !encodes(&device, (input_kind, raw), (output, settings.coded)) {
            let coded = settings.coded;
            return Err(unfit(format!("does not turn {raw} into {coded}")));
        }
        let Settings { coded, size, .. } = settings;
        let choice = |fourcc| Choice { fourcc, size };
        let room = Room {
            bytes: CODED_BYTES,
            ..Room::default()
        };
        let settled = device.set_format(output, choice(coded), room)?;
        if settled.fourcc != coded {
            return Err(unfit(format!("gives {} for {coded}", settled.fourcc)));
        }
        let room = Room {
            stride: lender.map_or(0, |lender| lender.pictures.stride),
            ..Room::default()
        };
        let settled = device.set_format(input_kind, choice(raw), room)?;
        if settled.fourcc != raw
            || settled.size.width < size.width
            || settled.size.height < size.height
        {
            let Size { width, height } = settled.size;
            return Err(unfit(format!("takes {width}x{height} at most, not {size}")));
        }
        device.set_crop(input_kind, size);
        device.set_frame_rate(input_kind, settings.fps);
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
        let (raw, input, most_held) = if let Some(lender) = lender {
            let room = lender.buffers.iter().map(|buffer| buffer.bytes).min();
            let room = room.unwrap_or_default();
            if let Some(reason) = sharing::mismatch(&lender.pictures, room, &settled) {
                return Err(unfit(reason));
            }
            let most_held = lender.buffers.len().saturating_sub(pixels(KEPT_BY_CAMERA));
            if most_held == 0 {
                return Err(unfit("would leave the camera no buffers".to_owned()));
            }
            let input = Input::Shared {
                bytes: settled.bytes,
                done: Vec::new(),
            };
            let buffers = Arc::clone(&lender.buffers);
            let raw = Queue::import(&device, input_kind, buffers)?;
            (raw, input, most_held.min(pixels(BUFFERS)))
        } else {
            let raw = Queue::allocate(&device, input_kind, BUFFERS)?;
            let free: Vec<u32> = raw.indices().collect();
            let most_held = free.len();
            let input = Input::Copied {
                stride: pixels(settled.stride.max(size.width)),
                rows: pixels(settled.size.height),
                free,
            };
            (raw, input, most_held)
        };
        let coded = Queue::allocate(&device, output, BUFFERS)?;
        coded.give_all()?;
        raw.start()?;
        coded.start()?;
        Ok(Self {
            name: format!("{card} ({})", path.display()),
            raw,
            coded,
            device,
            settings,
            input,
            held: 0,
            most_held,
            under_way: VecDeque::new(),
            ready: VecDeque::new(),
            first_at: None,
            last_coded: None,
            keyframe_wanted: false,
        })
    }

    /// Returns whether it reads pictures in the camera's buffers.
    pub(super) const fn is_sharing(&self) -> bool {
        matches!(self.input, Input::Shared { .. })
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
        self.deliver()
    }

    /// The same of the picture in the camera's buffer of this number, which is the encoder's until
    /// [`Self::take_done`] returns it.
    pub(super) fn encode_shared(
        &mut self,
        index: u32,
        captured_at: Instant,
    ) -> Result<Option<AccessUnit>, VideoError> {
        self.submit_shared(index, captured_at)?;
        self.deliver()
    }

    /// Returns the number of a camera's buffer that the encoder is done with.
    pub(super) fn take_done(&mut self) -> Option<u32> {
        match &mut self.input {
            Input::Copied { .. } => None,
            Input::Shared { done, .. } => done.pop(),
        }
    }

    fn deliver(&mut self) -> Result<Option<AccessUnit>, VideoError> {
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

    fn submit(&mut self, picture: &I420<'_>, captured_at: Instant) -> Result<(), VideoError> {
        let size = self.settings.size;
        let is_of_size = u32::try_from(picture.width()) == Ok(size.width)
            && u32::try_from(picture.height()) == Ok(size.height);
        if !is_of_size {
            return Err(self.failure("was given a picture of another size"));
        }
        self.make_room()?;
        let Input::Copied { stride, rows, free } = &mut self.input else {
            return Err(self.failure("reads the camera's buffers"));
        };
        let (stride, rows) = (*stride, *rows);
        let Some(index) = free.pop() else {
            return Err(self.failure("stopped taking pictures"));
        };
        let timestamp = self.next_timestamp(captured_at);
        self.raw.give_written(index, timestamp, |buffer| {
            layout::write_picture(picture, stride, rows, buffer)
        })?;
        self.has_taken(timestamp, captured_at);
        Ok(())
    }

    fn submit_shared(&mut self, index: u32, captured_at: Instant) -> Result<(), VideoError> {
        self.make_room()?;
        let Input::Shared { bytes, .. } = self.input else {
            return Err(self.failure("has buffers of its own"));
        };
        let timestamp = self.next_timestamp(captured_at);
        self.raw.give_foreign(index, timestamp, bytes)?;
        self.has_taken(timestamp, captured_at);
        Ok(())
    }

    /// Waits until the device may take one more picture.
    fn make_room(&mut self) -> Result<(), VideoError> {
        self.collect(Duration::ZERO)?;
        if self.held >= self.most_held {
            self.device.wait(libc::POLLOUT, LONGEST_SILENCE)?;
            self.collect(Duration::ZERO)?;
        }
        if self.held >= self.most_held {
            return Err(self.failure("stopped taking pictures"));
        }
        Ok(())
    }

    /// Asks for the keyframe that is wanted; returns the time that the next picture is marked with.
    fn next_timestamp(&mut self, captured_at: Instant) -> Duration {
        if std::mem::take(&mut self.keyframe_wanted) {
            self.device.set_control(CodecControl::ForceKeyframe, 1);
        }
        let first_at = *self.first_at.get_or_insert(captured_at);
        // In whole microseconds, as it comes back; and never twice the same.
        let age = captured_at.saturating_duration_since(first_at).as_micros();
        let age = Duration::from_micros(u64::try_from(age).unwrap_or_default());
        let last = self.under_way.back().map(|(last, _)| *last);
        last.map_or(age, |last| age.max(last + Duration::from_micros(1)))
    }

    fn has_taken(&mut self, timestamp: Duration, captured_at: Instant) {
        self.held += 1;
        // Bounded by the number of buffers.
        self.under_way.push_back((timestamp, captured_at));
    }

    /// Takes back what the encoder is done with; waits up to `patience` for a coded picture.
    fn collect(&mut self, patience: Duration) -> Result<(), VideoError> {
        while let Some(returned) = self.raw.dequeue()? {
            self.held = self.held.saturating_sub(1);
            match &mut self.input {
                Input::Copied { free, .. } => free.push(returned.index),
                Input::Shared { done, .. } => done.push(returned.index),
            }
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
    queues.is_some_and(|(input, output)| encodes(&device, (input, FourCc::I420), (output, coded)))
}

fn encodes(device: &Device, (input, raw): (Kind, FourCc), (output, coded): (Kind, FourCc)) -> bool {
    let has = |kind, fourcc| device.formats(kind).iter().any(|f| f.fourcc == fourcc);
    has(output, coded) && has(input, raw)
}

#[cfg(test)]
mod tests {
    use super::*;

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
