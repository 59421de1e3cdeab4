//! A camera's buffers → access units of an encoder.
//!
//! Raw pictures stay where the camera's driver has put them if a hardware encoder can read them there;
//! otherwise they are converted where their layout demands it. JPEG pictures are decoded first.

use bytes::Bytes;

use super::convert::{Converter, I420};
use super::encoder::{self, Coding, Encoder};
use super::format::Size;
use super::mjpeg::Mjpeg;
use super::sharing::{self, KEPT_BY_CAMERA};
use super::still::{Keeper, Planes, Still};
use super::v4l2::Negotiated;
use super::v4l2::queue::{Filled, Queue};
use super::{AccessUnit, VideoError, v4l2_encoder};
use crate::config;

/// Buffers of a camera of which an encoder may read some: one more than it can hold and the camera needs,
/// so that the newest picture is at hand.
const BUFFERS_SHARED: u32 = v4l2_encoder::BUFFERS + KEPT_BY_CAMERA + 1;

/// Pictures of one camera and their encoder.
#[derive(Debug)]
pub(super) struct Encoded {
    pictures: Pictures,
    encoder: Encoder,
    /// The numbers of the camera's buffers that the encoder reads. Bounded by how many there are.
    lent: Vec<u32>,
    kept: Keeper,
    setup: Setup,
}

/// What the encoder was made for.
#[derive(Debug)]
struct Setup {
    config: config::Video,
    size: Size,
    fps: u32,
    coding: Coding,
}

/// What one buffer came to.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) unit: Option<AccessUnit>,
    /// What is wrong with its content.
    pub(super) damage: Option<String>,
}

impl Taken {
    pub(super) const fn unit(unit: Option<AccessUnit>) -> Self {
        Self { unit, damage: None }
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self {
            unit: None,
            damage: Some(what.into()),
        }
    }
}

impl Encoded {
    /// Prepares the way of the pictures that a camera settled on; `allocate` makes a queue of at least so many
    /// buffers. Returns `None` where they are no pictures.
    pub(super) fn of(
        config: &config::Video,
        settled: Negotiated,
        fps: u32,
        coding: Coding,
        allocate: impl FnOnce(u32) -> Result<Queue, VideoError>,
    ) -> Result<Option<(Queue, Self)>, VideoError> {
        let Some(pictures) = Pictures::of(settled) else {
            return Ok(None);
        };
        let hardware = encoder::hardware(config, coding.coded);
        let may_share = hardware.is_some() && sharing::obstacle(&settled).is_none();
        let queue = allocate(if may_share { BUFFERS_SHARED } else { 0 })?;
        let hardware = hardware.as_deref();
        let encoder = Encoder::open_for_camera(config, hardware, settled, fps, &queue, coding);
        let encoded = Self {
            pictures,
            encoder,
            lent: Vec::new(),
            kept: Keeper::default(),
            setup: Setup {
                config: config.clone(),
                size: settled.size,
                fps,
                coding,
            },
        };
        Ok(Some((queue, encoded)))
    }

    /// Returns by what they are encoded, for people.
    pub(super) fn describe(&self) -> String {
        let name = self.encoder.name();
        if self.encoder.is_sharing() {
            format!("encoded by {name} without a copy")
        } else {
            format!("encoded by {name}")
        }
    }

    pub(super) const fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    pub(super) const fn kept(&mut self) -> &mut Keeper {
        &mut self.kept
    }

    /// Returns what the encoder has made of earlier pictures.
    pub(super) fn take_ready(&mut self, camera: &Queue) -> Result<Option<AccessUnit>, VideoError> {
        let ready = match self.encoder.take_ready() {
            Err(error) if self.encoder.is_sharing() => {
                self.copy_from_now_on(camera, &error.to_string())?;
                None
            }
            ready => ready?,
        };
        self.take_back(camera)?;
        Ok(ready)
    }

    /// Makes an access unit of the picture in a buffer of the camera, now or later. The camera gets the buffer
    /// back when it has been read.
    pub(super) fn take(&mut self, camera: &Queue, filled: Filled) -> Result<Taken, VideoError> {
        let raw = camera.bytes(&filled);
        let taken = if !self.encoder.is_sharing() {
            self.encode(raw, &filled)
        } else if !self.pictures.is_whole(raw) {
            Ok(Taken::damaged("cut short"))
        } else {
            self.keep(raw);
            match self.lend(&filled) {
                Ok(unit) => {
                    self.lent.push(filled.index);
                    self.take_back(camera)?;
                    return Ok(Taken::unit(unit));
                }
                Err(reason) => self
                    .copy_from_now_on(camera, &reason)
                    .map(|()| Taken::unit(None)),
            }
        };
        camera.give_back(filled)?;
        taken
    }

    fn encode(&mut self, raw: &[u8], filled: &Filled) -> Result<Taken, VideoError> {
        let is_jpeg = matches!(self.pictures, Pictures::Jpeg(_));
        let picture = match self.pictures.read(raw) {
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
        let unit = self.encoder.encode(&picture, filled.captured_at)?;
        Ok(Taken::unit(unit))
    }

    /// Copies a picture that the encoder reads where it is, if somebody asked for it.
    fn keep(&mut self, raw: &[u8]) {
        if self.kept.is_asked()
            && let Ok(picture) = self.pictures.read(raw)
        {
            self.kept
                .offer(|| Still::Picture(Planes::copy_of(&picture)));
        }
    }

    /// Has the encoder read the camera's buffer; or says why it cannot.
    fn lend(&mut self, filled: &Filled) -> Result<Option<AccessUnit>, String> {
        // The encoder reads from the first byte on.
        if filled.start > 0 {
            return Err("the camera puts something before its pictures".to_owned());
        }
        let encoder = self.encoder.sharing().ok_or("the encoder is gone")?;
        let unit = encoder.encode_shared(filled.index, filled.captured_at);
        unit.map_err(|error| error.to_string())
    }

    /// Gives the camera the buffers that the encoder has done with.
    fn take_back(&mut self, camera: &Queue) -> Result<(), VideoError> {
        let Some(encoder) = self.encoder.sharing() else {
            return Ok(());
        };
        while let Some(index) = encoder.take_done() {
            self.lent.retain(|lent| *lent != index);
            camera.give(index)?;
        }
        Ok(())
    }

    /// The encoder failed with pictures in the camera's buffers: it gets copies, if it still works.
    fn copy_from_now_on(&mut self, camera: &Queue, reason: &str) -> Result<(), VideoError> {
        let encoder = self.encoder.name();
        tracing::warn!(
            encoder,
            reason,
            "pictures are copied to the encoder from now on"
        );
        let Setup {
            config,
            size,
            fps,
            coding,
        } = &self.setup;
        self.encoder.close();
        self.encoder = Encoder::open(config, (size.width, size.height), *fps, coding.coded);
        let mut lent = self.lent.drain(..);
        lent.try_for_each(|index| camera.give(index))
    }
}

/// How a buffer becomes a picture.
#[derive(Debug)]
enum Pictures {
    Raw(Converter),
    Jpeg(Mjpeg),
}

impl Pictures {
    /// Returns how buffers of what a camera settled on become pictures, or `None` where they do not.
    fn of(settled: Negotiated) -> Option<Self> {
        let pixels = |n| usize::try_from(n).unwrap_or_default();
        let (width, height) = (pixels(settled.size.width), pixels(settled.size.height));
        if settled.fourcc.is_jpeg() {
            return Some(Self::Jpeg(Mjpeg::new(width, height)));
        }
        let format = settled.fourcc.raw_format()?;
        let converter = Converter::new(format, width, height, pixels(settled.stride));
        Some(Self::Raw(converter.of_range(settled.is_full_range)))
    }

    /// Returns the picture in `bytes`, or what is wrong with it.
    fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Result<I420<'a>, String> {
        match self {
            Self::Raw(converter) => converter
                .convert(bytes)
                .ok_or_else(|| "cut short".to_owned()),
            Self::Jpeg(decoder) => decoder.decode(bytes).map_err(|damage| damage.to_string()),
        }
    }

    /// Returns whether `bytes` are all of a raw picture.
    fn is_whole(&self, bytes: &[u8]) -> bool {
        matches!(self, Self::Raw(converter) if converter.holds(bytes))
    }
}
