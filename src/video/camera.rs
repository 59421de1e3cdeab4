//! A V4L2 camera as a source: which format, passed through or encoded, when it counts as dead.
//!
//! H.264 from the camera is passed through, never decoded. Raw pictures stay where the camera's driver
//! has put them if a hardware encoder can read them there; otherwise they are converted where their
//! layout demands it. JPEG pictures are decoded first.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::convert::{Converter, I420};
use super::encoder::{self, Coding, Encoder};
use super::format::{self, FourCc, Size};
use super::mjpeg::Mjpeg;
use super::resume::Resume;
use super::sharing::{self, KEPT_BY_CAMERA};
use super::still::{Keeper, Planes, Still};
use super::v4l2::queue::{Filled, Queue};
use super::v4l2::{CodecControl, Device, Identity, Kind, Negotiated, Room};
use super::{AccessUnit, VideoError, VideoSource, v4l2_encoder};
use crate::control::camera::{Control, ControlId};
use crate::h264::access_unit;
use crate::{clock, config};

/// Longest wait for a picture in one call, so that the capture thread notices that it is to stop.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// How long a camera may be silent. UVC cameras take up to two seconds for the first picture, and
/// some pause for one when their exposure changes.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// Seconds from keyframe to keyframe of a camera that makes one when asked: a safety net.
const GOP_ON_DEMAND_S: u32 = 10;

/// Seconds from keyframe to keyframe of one that does not: a newcomer waits, or is sent, that much.
const GOP_UNASKED_S: u32 = 1;

/// Buffers that the driver fills in turn: one being filled, one waiting, one in our hands, and one
/// to spare for a late wake-up. More would only add latency when we are late.
const BUFFERS: u32 = 4;

/// The same where an encoder may read some of them: one more than it can hold and the camera needs, so
/// that the newest picture is at hand.
const BUFFERS_SHARED: u32 = v4l2_encoder::BUFFERS + KEPT_BY_CAMERA + 1;

/// A camera that is open and streaming.
#[derive(Debug)]
pub(super) struct Camera {
    // The encoder before the buffers that it may read.
    output: Output,
    queue: Queue,
    /// The numbers of the buffers that the encoder reads.
    lent: Vec<u32>,
    setup: Setup,
    description: String,
    identity: String,
    kept: Keeper,
    last_picture: Instant,
    damaged: u64,
    skipped: u64,
    resume: Resume,
}

/// What an encoder was made for.
#[derive(Debug)]
struct Setup {
    config: config::Video,
    size: Size,
    fps: u32,
    coding: Coding,
}

#[derive(Debug)]
enum Output {
    PassedThrough {
        keyframes_on_demand: bool,
    },
    Encoded {
        pictures: Pictures,
        encoder: Encoder,
    },
}

/// What one buffer came to.
struct Taken {
    unit: Option<AccessUnit>,
    /// What is wrong with its content.
    damage: Option<String>,
    /// The encoder reads it, and returns it when it is done.
    is_lent: bool,
}

impl Taken {
    const fn unit(unit: Option<AccessUnit>) -> Self {
        Self {
            unit,
            damage: None,
            is_lent: false,
        }
    }

    fn damaged(what: impl Into<String>) -> Self {
        Self {
            unit: None,
            damage: Some(what.into()),
            is_lent: false,
        }
    }
}

/// How a buffer becomes a picture.
#[derive(Debug)]
enum Pictures {
    Raw(Converter),
    Jpeg(Mjpeg),
}

impl Pictures {
    /// Returns the picture in `bytes`, or what is wrong with it.
    fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Result<I420<'a>, String> {
        match self {
            Self::Raw(converter) => converter
                .convert(bytes)
                .ok_or_else(|| "cut short".to_owned()),
            Self::Jpeg(decoder) => decoder.decode(bytes).map_err(|damage| damage.to_string()),
        }
    }

    /// Returns a copy of the picture in `bytes`.
    fn still(&mut self, bytes: &[u8]) -> Option<Still> {
        let picture = self.read(bytes).ok()?;
        Some(Still::Picture(Planes::copy_of(&picture)))
    }

    /// Returns whether `bytes` are all of a raw picture.
    fn is_whole(&self, bytes: &[u8]) -> bool {
        matches!(self, Self::Raw(converter) if converter.holds(bytes))
    }
}

impl Camera {
    /// Opens the device, negotiates and starts it.
    pub(super) fn open(
        path: &Path,
        config: &config::Video,
        coding: Coding,
    ) -> Result<Self, VideoError> {
        let device = Device::open(path)?;
        let identity = device.identity().ok();
        let refused = |offered: String| VideoError::Format {
            path: path.to_owned(),
            wanted: format::wanted(config.format).to_owned(),
            offered,
        };
        let identity = identity.ok_or_else(|| refused("no video (it is no camera)".to_owned()))?;
        let kind = usable_queue(&identity).map_err(|problem| refused(problem.to_owned()))?;
        device.follow_signal()?;
        let offers = device.formats(kind);
        let wanted = Size {
            width: config.width,
            height: config.height,
        };
        let fastest = |choice| device.shortest_interval(choice).map(rounded_rate);
        let choice = format::choose(&offers, config.format, wanted, config.fps, fastest)
            .ok_or_else(|| refused(format::describe(&offers)))?;
        let settled = device.set_format(kind, choice, Room::default())?;
        let frame_time = device.set_frame_rate(kind, config.fps);
        let fps = frame_time.map_or(config.fps, rounded_rate);
        let unusable = || {
            let (settled, asked) = (settled.fourcc, choice.fourcc);
            refused(format!("{settled} when asked for {asked}"))
        };
        let is_passed_through = settled.fourcc == FourCc::H264;
        let pictures = if is_passed_through {
            None
        } else {
            Some(pictures(settled).ok_or_else(unusable)?)
        };
        let may_share = !is_passed_through
            && sharing::obstacle(&settled).is_none()
            && encoder::has_hardware(config, coding);
        let buffers = if may_share { BUFFERS_SHARED } else { BUFFERS };
        let keyframes_on_demand = is_passed_through && set_up_coding(&device, fps, config);
        let queue = Queue::allocate(&Arc::new(device), kind, buffers)?;
        let output = match pictures {
            None => Output::PassedThrough {
                keyframes_on_demand,
            },
            Some(pictures) => Output::Encoded {
                pictures,
                encoder: Encoder::open_for_camera(config, settled, fps, &queue, coding),
            },
        };
        let how = match &output {
            Output::PassedThrough { .. } => "passed through".to_owned(),
            Output::Encoded { encoder, .. } if encoder.is_sharing() => {
                format!("encoded by {} without a copy", encoder.name())
            }
            Output::Encoded { encoder, .. } => format!("encoded by {}", encoder.name()),
        };
        queue.give_all()?;
        queue.start()?;
        let (card, fourcc, size) = (&identity.card, settled.fourcc, settled.size);
        Ok(Self {
            description: format!("{card} {fourcc} {size} at {fps} fps, {how}"),
            identity: format!("{card} ({})", identity.bus),
            kept: Keeper::default(),
            output,
            queue,
            lent: Vec::new(),
            setup: Setup {
                config: config.clone(),
                size,
                fps,
                coding,
            },
            last_picture: clock::now(),
            damaged: 0,
            skipped: 0,
            resume: Resume::new(),
        })
    }

    fn take(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if let Some(unit) = self.take_ready()? {
            return Ok(Some(unit));
        }
        let Some(mut filled) = self.queue.next(LONGEST_WAIT)? else {
            return Ok(None);
        };
        // Where pictures come faster than they are encoded, the newest is worth the most. Of a coded
        // stream each is needed.
        if let Output::Encoded { .. } = self.output {
            while let Some(newer) = self.queue.dequeue()? {
                self.queue.give_back(filled)?;
                filled = newer;
                self.skipped += 1;
            }
        }
        let Taken {
            unit,
            damage,
            is_lent,
        } = self.read(&filled)?;
        if is_lent {
            self.lent.push(filled.index);
        } else {
            self.queue.give_back(filled)?;
        }
        self.take_back()?;
        let is_damaged = damage.is_some();
        if let Some(reason) = damage {
            self.damaged += 1;
            if self.damaged == 1 {
                tracing::warn!(
                    camera = self.description,
                    reason,
                    "skipped a damaged picture"
                );
            }
        }
        Ok(match self.output {
            Output::PassedThrough { .. } => self.decodable(unit, is_damaged),
            Output::Encoded { .. } => unit,
        })
    }

    /// Returns what the encoder has made of earlier pictures.
    fn take_ready(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        let Output::Encoded { encoder, .. } = &mut self.output else {
            return Ok(None);
        };
        let ready = match encoder.take_ready() {
            Err(error) if encoder.is_sharing() => {
                self.copy_from_now_on(&error.to_string())?;
                None
            }
            ready => ready?,
        };
        self.take_back()?;
        Ok(ready)
    }

    /// Gives the camera the buffers that the encoder has done with.
    fn take_back(&mut self) -> Result<(), VideoError> {
        let Output::Encoded { encoder, .. } = &mut self.output else {
            return Ok(());
        };
        let Some(encoder) = encoder.sharing() else {
            return Ok(());
        };
        while let Some(index) = encoder.take_done() {
            self.lent.retain(|lent| *lent != index);
            self.queue.give(index)?;
        }
        Ok(())
    }

    /// The encoder failed with pictures in the camera's buffers, or would: it gets copies, if it still works.
    fn copy_from_now_on(&mut self, reason: &str) -> Result<(), VideoError> {
        let Output::Encoded { encoder, .. } = &mut self.output else {
            return Ok(());
        };
        tracing::warn!(
            camera = self.description,
            reason,
            "pictures are copied to the encoder from now on"
        );
        let Setup {
            config,
            size,
            fps,
            coding,
        } = &self.setup;
        encoder.close();
        *encoder = Encoder::open(config, (size.width, size.height), *fps, coding.coded);
        for index in self.lent.drain(..) {
            self.queue.give(index)?;
        }
        Ok(())
    }

    /// Makes an access unit of a buffer, now or later.
    fn read(&mut self, filled: &Filled) -> Result<Taken, VideoError> {
        let captured_at = filled.captured_at;
        let raw = self.queue.bytes(filled);
        if filled.is_damaged {
            return Ok(Taken::damaged("marked by the driver"));
        }
        // What some UVC cameras send while they start.
        if raw.is_empty() {
            return Ok(Taken::damaged("empty"));
        }
        let Output::Encoded { pictures, encoder } = &mut self.output else {
            return Ok(Taken::unit(Some(AccessUnit {
                data: Bytes::copy_from_slice(raw),
                captured_at,
            })));
        };
        if let Some(encoder) = encoder.sharing() {
            if !pictures.is_whole(raw) {
                return Ok(Taken::damaged("cut short"));
            }
            if self.kept.is_asked()
                && let Some(still) = pictures.still(raw)
            {
                self.kept.offer(|| still);
            }
            // The encoder reads from the first byte on.
            let reason = if filled.start > 0 {
                "the camera puts something before its pictures".to_owned()
            } else {
                match encoder.encode_shared(filled.index, captured_at) {
                    Ok(unit) => {
                        return Ok(Taken {
                            is_lent: true,
                            ..Taken::unit(unit)
                        });
                    }
                    Err(error) => error.to_string(),
                }
            };
            self.copy_from_now_on(&reason)?;
            return Ok(Taken::unit(None));
        }
        let is_jpeg = matches!(pictures, Pictures::Jpeg(_));
        let picture = match pictures.read(raw) {
            Ok(picture) => picture,
            Err(damage) => return Ok(Taken::damaged(damage)),
        };
        self.kept.offer(|| {
            if is_jpeg {
                Still::Jpeg(Bytes::copy_from_slice(raw))
            } else {
                Still::Picture(Planes::copy_of(&picture))
            }
        });
        Ok(Taken::unit(encoder.encode(&picture, captured_at)?))
    }

    /// Returns what of a passed-through stream can be shown, and asks for what cannot.
    fn decodable(&mut self, unit: Option<AccessUnit>, is_damaged: bool) -> Option<AccessUnit> {
        if is_damaged {
            self.resume.handle_damage();
        }
        let unit = unit.filter(|unit| {
            let contents = access_unit::contents(&unit.data);
            // Parameter sets may come alone, in front of their picture.
            !contents.has_picture || self.resume.handle_picture(contents.is_idr)
        });
        if self.resume.poll_request(clock::now()) {
            self.request_keyframe();
        }
        unit
    }
}

impl VideoSource for Camera {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        let unit = self.take()?;
        let now = clock::now();
        if unit.is_some() {
            self.last_picture = now;
        }
        let silent_for = now.saturating_duration_since(self.last_picture);
        if silent_for > LONGEST_SILENCE {
            return Err(VideoError::Stalled {
                path: self.queue.path().to_owned(),
                silent_for: LONGEST_SILENCE,
            });
        }
        Ok(unit)
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn keyframes_on_demand(&self) -> bool {
        match self.output {
            Output::PassedThrough {
                keyframes_on_demand,
            } => keyframes_on_demand,
            Output::Encoded { .. } => true,
        }
    }

    fn request_keyframe(&mut self) {
        match &mut self.output {
            Output::PassedThrough { .. } => {
                let device = self.queue.device();
                device.set_control(CodecControl::ForceKeyframe, 1);
            }
            Output::Encoded { encoder, .. } => encoder.request_keyframe(),
        }
    }

    fn set_bitrate(&mut self, bits_per_second: u32) {
        match &mut self.output {
            Output::PassedThrough { .. } => {
                let device = self.queue.device();
                device.set_control(CodecControl::Bitrate, bits_per_second);
            }
            Output::Encoded { encoder, .. } => encoder.set_bitrate(bits_per_second),
        }
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn controls(&self) -> Vec<Control> {
        self.queue.device().picture_controls()
    }

    fn control(&self, id: ControlId) -> Option<Control> {
        self.queue.device().one_picture_control(id)
    }

    fn set_control(&mut self, id: ControlId, value: i32) -> Result<(), String> {
        let set = self.queue.device().set_picture_control(id, value);
        set.map_err(|error| error.to_string())
    }

    fn keep_next_picture(&mut self) -> bool {
        let has_pictures = matches!(self.output, Output::Encoded { .. });
        if has_pictures {
            self.kept.ask();
        }
        has_pictures
    }

    fn take_picture(&mut self) -> Option<Still> {
        self.kept.take()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        if self.damaged > 0 {
            let damaged = self.damaged;
            tracing::info!(
                camera = self.description,
                damaged,
                "damaged pictures were skipped"
            );
        }
        if self.skipped > 0 {
            let (camera, skipped) = (&self.description, self.skipped);
            tracing::info!(
                camera,
                skipped,
                "pictures came faster than they are encoded"
            );
        }
    }
}

/// Returns the queue that a camera's pictures come out of, or why it can be no camera for us,
/// whatever formats it lists.
pub(super) const fn usable_queue(identity: &Identity) -> Result<Kind, &'static str> {
    match identity.capture_queue() {
        Some(_) if identity.needs_media_controller() => {
            Err("sensor data of a CSI camera, which only libcamera makes pictures of")
        }
        Some(kind) if !identity.is_converter() => Ok(kind),
        _ => Err("no video capture"),
    }
}

/// Sets a camera up whose own H.264 is passed through; returns whether it makes keyframes on demand.
fn set_up_coding(device: &Device, fps: u32, config: &config::Video) -> bool {
    let keyframes_on_demand = device.has_control(CodecControl::ForceKeyframe);
    let gop_s = if keyframes_on_demand {
        GOP_ON_DEMAND_S
    } else {
        GOP_UNASKED_S
    };
    let gop = gop_s.saturating_mul(fps);
    for (control, value) in [
        (
            CodecControl::Bitrate,
            config.bitrate_kbps.saturating_mul(1_000),
        ),
        (CodecControl::RepeatHeaders, 1),
        (CodecControl::PrependHeaders, 1),
        (CodecControl::BFrames, 0),
        (CodecControl::GopSize, gop),
        (CodecControl::IPeriod, gop),
    ] {
        device.set_control(control, value);
    }
    keyframes_on_demand
}

/// Returns how buffers of what the device settled on become pictures, or `None` where they do not.
fn pictures(settled: Negotiated) -> Option<Pictures> {
    let pixels = |n| usize::try_from(n).unwrap_or_default();
    let (width, height) = (pixels(settled.size.width), pixels(settled.size.height));
    if settled.fourcc.is_jpeg() {
        return Some(Pictures::Jpeg(Mjpeg::new(width, height)));
    }
    let format = settled.fourcc.raw_format()?;
    let converter = Converter::new(format, width, height, pixels(settled.stride));
    Some(Pictures::Raw(converter.of_range(settled.is_full_range)))
}

/// Returns frames per second, at least one: 33.367 ms are 30.
fn rounded_rate(frame_time: Duration) -> u32 {
    let nanos = frame_time.as_nanos().max(1);
    u32::try_from((1_000_000_000 + nanos / 2) / nanos)
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_rate_is_rounded_to_whole_pictures() {
        let rate = |nanos| rounded_rate(Duration::from_nanos(nanos));
        assert_eq!([rate(33_366_667), rate(33_333_333)], [30, 30]);
        assert_eq!([rate(133_333_333), rate(2_000_000_000)], [8, 1]);
        assert_eq!(rate(0), 1_000_000_000, "no division by zero");
    }

    fn open(path: &str) -> Result<Camera, VideoError> {
        let config = config::Video::default();
        Camera::open(Path::new(path), &config, Coding::default())
    }

    #[test]
    fn a_node_that_is_no_camera_is_refused_by_name() {
        let error = open("/dev/null").unwrap_err();
        assert_eq!(
            error.to_string(),
            "camera /dev/null offers no video (it is no camera), but this program takes H264, \
             YUYV, UYVY, NV12, YU12 or MJPG"
        );
    }
}
