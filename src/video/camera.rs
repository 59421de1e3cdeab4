//! A V4L2 camera as a source: which format, passed through or encoded, when it counts as dead.
//!
//! H.264 from the camera is passed through, never decoded. Raw pictures are encoded straight from
//! the driver's buffer where their layout allows; JPEG pictures are decoded first.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::convert::{Converter, I420};
use super::encoder::Encoder;
use super::format::{self, FourCc, Size};
use super::mjpeg::Mjpeg;
use super::resume::Resume;
use super::still::{Keeper, Planes, Still};
use super::v4l2::queue::Queue;
use super::v4l2::{CodecControl, Device, Identity, Kind, Negotiated};
use super::{AccessUnit, VideoError, VideoSource};
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

/// A camera that is open and streaming.
#[derive(Debug)]
pub(super) struct Camera {
    queue: Queue,
    output: Output,
    description: String,
    identity: String,
    kept: Keeper,
    last_picture: Instant,
    damaged: u64,
    skipped: u64,
    resume: Resume,
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
}

impl Camera {
    /// Opens the device, negotiates and starts it.
    pub(super) fn open(path: &Path, config: &config::Video) -> Result<Self, VideoError> {
        let device = Device::open(path)?;
        let identity = device.identity().ok();
        let refused = |offered: String| VideoError::Format {
            path: path.to_owned(),
            wanted: format::WANTED.to_owned(),
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
        let choice = format::choose(&offers, wanted, config.fps, fastest)
            .ok_or_else(|| refused(format::describe(&offers)))?;
        let settled = device.set_format(kind, choice, 0)?;
        let frame_time = device.set_frame_rate(kind, config.fps);
        let fps = frame_time.map_or(config.fps, rounded_rate);
        let output = output(&device, settled, fps, config).ok_or_else(|| {
            refused(format!(
                "{} when asked for {}",
                settled.fourcc, choice.fourcc
            ))
        })?;
        let how = match &output {
            Output::PassedThrough { .. } => "passed through".to_owned(),
            Output::Encoded { encoder, .. } => format!("encoded by {}", encoder.name()),
        };
        let queue = Queue::allocate(&Arc::new(device), kind, BUFFERS)?;
        queue.give_all()?;
        queue.start()?;
        let (card, fourcc, size) = (&identity.card, settled.fourcc, settled.size);
        Ok(Self {
            description: format!("{card} {fourcc} {size} at {fps} fps, {how}"),
            identity: format!("{card} ({})", identity.bus),
            kept: Keeper::default(),
            queue,
            output,
            last_picture: clock::now(),
            damaged: 0,
            skipped: 0,
            resume: Resume::new(),
        })
    }

    fn take(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if let Output::Encoded { encoder, .. } = &mut self.output
            && let Some(unit) = encoder.take_ready()?
        {
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
        let captured_at = filled.captured_at;
        let raw = self.queue.bytes(&filled);
        let mut damage = None;
        let unit = match &mut self.output {
            _ if filled.is_damaged => {
                damage = Some("marked by the driver".to_owned());
                Ok(None)
            }
            // What some UVC cameras send while they start.
            _ if raw.is_empty() => {
                damage = Some("empty".to_owned());
                Ok(None)
            }
            Output::PassedThrough { .. } => Ok(Some(AccessUnit {
                data: Bytes::copy_from_slice(raw),
                captured_at,
            })),
            Output::Encoded { pictures, encoder } => {
                let is_jpeg = matches!(pictures, Pictures::Jpeg(_));
                match pictures.read(raw) {
                    Ok(picture) => {
                        self.kept.offer(|| {
                            if is_jpeg {
                                Still::Jpeg(Bytes::copy_from_slice(raw))
                            } else {
                                Still::Picture(Planes::copy_of(&picture))
                            }
                        });
                        encoder.encode(&picture, captured_at)
                    }
                    Err(reason) => {
                        damage = Some(reason);
                        Ok(None)
                    }
                }
            }
        };
        self.queue.give_back(filled)?;
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
        let unit = unit?;
        Ok(match self.output {
            Output::PassedThrough { .. } => self.decodable(unit, is_damaged),
            Output::Encoded { .. } => unit,
        })
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

/// Prepares the way from what the device settled on to H.264, or `None` where there is none.
fn output(
    device: &Device,
    settled: Negotiated,
    fps: u32,
    config: &config::Video,
) -> Option<Output> {
    if settled.fourcc == FourCc::H264 {
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
        return Some(Output::PassedThrough {
            keyframes_on_demand,
        });
    }
    let pixels = |n| usize::try_from(n).unwrap_or_default();
    let (width, height) = (pixels(settled.size.width), pixels(settled.size.height));
    let pictures = if settled.fourcc.is_jpeg() {
        Pictures::Jpeg(Mjpeg::new(width, height))
    } else {
        let format = settled.fourcc.raw_format()?;
        Pictures::Raw(Converter::new(
            format,
            width,
            height,
            pixels(settled.stride),
        ))
    };
    let size = (settled.size.width, settled.size.height);
    Some(Output::Encoded {
        pictures,
        encoder: Encoder::open(config, size, fps),
    })
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

    #[test]
    fn a_node_that_is_no_camera_is_refused_by_name() {
        let error = Camera::open(Path::new("/dev/null"), &config::Video::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "camera /dev/null offers no video (it is no camera), but this program takes H264, \
             YUYV, UYVY, NV12, YU12 or MJPG"
        );
    }
}
