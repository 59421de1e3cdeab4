//! A V4L2 camera as a source: which format, passed through or encoded, when it counts as dead.
//!
//! H.264 from the camera is passed through, never decoded. What becomes of other pictures: `encoded`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::encoded::{Encoded, Taken};
use super::encoder::Coding;
use super::format::{self, FourCc, Size};
use super::resume::{KEYFRAME_WITHIN, Resume};
use super::still::Still;
use super::v4l2::queue::{Filled, Queue};
use super::v4l2::{CodecControl, Device, Identity, Kind, Room};
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
    // The encoder before the buffers that it may read.
    output: Output,
    queue: Queue,
    description: String,
    identity: String,
    last_picture: Instant,
    damaged: u64,
    skipped: u64,
    resume: Resume,
}

#[derive(Debug)]
enum Output {
    PassedThrough { keyframes_on_demand: bool },
    Encoded(Box<Encoded>),
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
        let unusable = || {
            let (settled, asked) = (settled.fourcc, choice.fourcc);
            refused(format!("{settled} when asked for {asked}"))
        };
        if !format::is_admitted(config.format, settled.fourcc) {
            return Err(unusable());
        }
        let frame_time = device.set_frame_rate(kind, config.fps);
        let fps = frame_time.map_or(config.fps, rounded_rate);
        let device = Arc::new(device);
        let (queue, output, how) = if settled.fourcc == FourCc::H264 {
            let keyframes_on_demand = set_up_coding(&device, fps, config);
            let output = Output::PassedThrough {
                keyframes_on_demand,
            };
            let queue = Queue::allocate(&device, kind, BUFFERS)?;
            (queue, output, "passed through".to_owned())
        } else {
            let encoded = Encoded::of(config, settled, fps, coding, |count| {
                Queue::allocate(&device, kind, BUFFERS.max(count))
            })?;
            let (queue, encoded) = encoded.ok_or_else(unusable)?;
            let how = encoded.describe();
            (queue, Output::Encoded(Box::new(encoded)), how)
        };
        queue.give_all()?;
        queue.start()?;
        let (card, fourcc, size) = (&identity.card, settled.fourcc, settled.size);
        Ok(Self {
            description: format!("{card} {fourcc} {size} at {fps} fps, {how}"),
            identity: format!("{card} ({})", identity.bus),
            output,
            queue,
            last_picture: clock::now(),
            damaged: 0,
            skipped: 0,
            resume: Resume::new(),
        })
    }

    fn take(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if let Output::Encoded(encoded) = &mut self.output
            && let Some(unit) = encoded.take_ready(&self.queue)?
        {
            return Ok(Some(unit));
        }
        let Some(mut filled) = self.queue.next(LONGEST_WAIT)? else {
            return Ok(None);
        };
        // Where pictures come faster than they are encoded, the newest is worth the most. Of a coded
        // stream each is needed.
        if let Output::Encoded(_) = self.output {
            while let Some(newer) = self.queue.dequeue()? {
                self.queue.give_back(filled)?;
                filled = newer;
                self.skipped += 1;
            }
        }
        let Taken { unit, damage } = self.read(filled)?;
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
            Output::Encoded(_) => unit,
        })
    }

    /// Makes an access unit of a buffer, now or later, and sees that the camera gets it back.
    fn read(&mut self, filled: Filled) -> Result<Taken, VideoError> {
        let raw = self.queue.bytes(&filled);
        let damage = if filled.is_damaged {
            "marked by the driver"
        } else if raw.is_empty() {
            // What some UVC cameras send while they start.
            "empty"
        } else {
            return match &mut self.output {
                Output::Encoded(encoded) => encoded.take(&self.queue, filled),
                Output::PassedThrough { .. } => {
                    let unit = AccessUnit {
                        data: Bytes::copy_from_slice(raw),
                        captured_at: filled.captured_at,
                    };
                    self.queue.give_back(filled)?;
                    Ok(Taken::unit(Some(unit)))
                }
            };
        };
        self.queue.give_back(filled)?;
        Ok(Taken::damaged(damage))
    }

    /// Returns what of a passed-through stream can be shown, and asks for what cannot.
    fn decodable(&mut self, unit: Option<AccessUnit>, is_damaged: bool) -> Option<AccessUnit> {
        let now = clock::now();
        if is_damaged {
            self.resume.handle_damage();
        }
        let unit = unit.filter(|unit| {
            let contents = access_unit::contents(&unit.data);
            // A camera that lacks a keyframe is not silent.
            self.last_picture = now;
            // Parameter sets may come alone, in front of their picture.
            !contents.has_picture || self.resume.handle_picture(contents.is_idr, now)
        });
        if self.resume.poll_request(now) {
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
        if self.resume.lacks_keyframe(now) {
            return Err(VideoError::NoKeyframe {
                path: self.queue.path().to_owned(),
                waited: KEYFRAME_WITHIN,
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
            Output::Encoded(_) => true,
        }
    }

    fn request_keyframe(&mut self) {
        match &mut self.output {
            Output::PassedThrough { .. } => {
                let device = self.queue.device();
                device.set_control(CodecControl::ForceKeyframe, 1);
            }
            Output::Encoded(encoded) => encoded.encoder().request_keyframe(),
        }
    }

    fn set_bitrate(&mut self, bits_per_second: u32) {
        match &mut self.output {
            Output::PassedThrough { .. } => {
                let device = self.queue.device();
                device.set_control(CodecControl::Bitrate, bits_per_second);
            }
            Output::Encoded(encoded) => encoded.encoder().set_bitrate(bits_per_second),
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

    fn awaits_keyframe(&self) -> bool {
        self.resume.awaits_keyframe()
    }

    fn keep_next_picture(&mut self) -> bool {
        match &mut self.output {
            Output::PassedThrough { .. } => false,
            Output::Encoded(encoded) => {
                encoded.kept().ask();
                true
            }
        }
    }

    fn take_picture(&mut self) -> Option<Still> {
        match &mut self.output {
            Output::PassedThrough { .. } => None,
            Output::Encoded(encoded) => encoded.kept().take(),
        }
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
