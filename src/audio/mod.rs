//! Where sound comes from: a source of samples, cut into 20 ms, silenced when muted, coded as Opus.
//!
//! | file         | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `alsa.rs`    | a microphone, at a rate and in a format of its own; `alsa/cards.rs`: the sound cards; `alsa/pcms.rs`: what they offer |
//! | `samples.rs` | those formats → floating point, one channel                       |
//! | `tone.rs`    | a steady tone; demos and tests                                    |
//! | `framer.rs`  | periods of any length and rate → frames of 20 ms at 48 kHz, with their capture time |
//! | `drift.rs`   | how far the card's clock is off, and what to do about it          |
//! | `rubato.rs`  | the resampler                                                     |
//! | `opus.rs`    | the Opus encoder                                                  |
//! | `losses.rs`  | when to tell of sound that was lost                               |
//! | `capture.rs` | the thread that reads a source, mutes, encodes and publishes      |
//!
//! From the card to the encoder nothing is allocated for a frame.

use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::config;

pub(crate) mod alsa;
pub mod capture;
mod drift;
pub mod framer;
mod holder;
mod losses;
mod opus;
mod rubato;
mod samples;
mod tone;

/// Samples per second of what is encoded (RFC 7587 §4.1).
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Samples per channel in one Opus frame of 20 ms.
pub const FRAME_SAMPLES: usize = 960;

/// A period of sound as the source delivered it, in one channel.
#[derive(Clone, Debug)]
pub struct Period {
    /// The samples, from −1 to 1, at the source's rate.
    pub samples: Vec<f32>,
    /// When the first sample was captured, on the monotonic clock.
    pub captured_at: Instant,
    /// Whether sound before it is known to be lost.
    pub follows_gap: bool,
}

/// A producer of sound. Blocking: it runs on a thread of its own.
///
/// A trait because there are two (see the table above) and because tests replace the microphone
/// with a script.
pub trait AudioSource: Send {
    /// Returns how many samples it delivers per second, by its own clock.
    fn rate_hz(&self) -> NonZeroU32;

    /// Waits for the next period.
    ///
    /// Returns `None` when none came within about 200 ms, so that the capture thread can notice
    /// that it is to stop.
    ///
    /// # Errors
    ///
    /// Any [`AudioError`]. The source is unusable afterwards: drop it and open a new one.
    fn next(&mut self) -> Result<Option<&Period>, AudioError>;

    /// Returns what is captured, for the log and for people: `hw:CARD=Device,DEV=0 (USB Audio), S16
    /// mono 44100 Hz`.
    fn description(&self) -> String;
}

/// Something of a sound card that records or plays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CardPcm {
    /// What to write in the configuration: `plughw:CARD=Device,DEV=0`. Unlike card numbers, it
    /// stays the same after a replug.
    pub pcm: String,
    /// The card's id: `Device`.
    pub card_id: String,
    /// For people: `USB PnP Sound Device, USB Audio`.
    pub name: String,
    /// The card's number, as it is now.
    pub card: i32,
    /// The number of the device of that card.
    pub device: u32,
}

/// Returns the microphones of this machine, in the order of the sound cards.
#[must_use]
pub fn microphones() -> Vec<CardPcm> {
    alsa::cards::recorders()
}

/// Something of a sound card that records or plays, with all it offers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Pcm {
    /// What to write in the configuration, as in [`CardPcm::pcm`].
    pub pcm: String,
    /// The card's id: `Device`.
    pub card_id: String,
    /// For people: `USB PnP Sound Device, USB Audio`.
    pub name: String,
    /// What the card does without conversion, by the names of ALSA's own tools: `S16_LE`.
    pub formats: Vec<&'static str>,
    /// How many channels it may have.
    pub channels: Vec<u32>,
    /// Samples per second, of the usual ones.
    pub rates_hz: Vec<u32>,
    /// Why it cannot be used, or nothing of it be known, in words.
    pub problem: Option<String>,
    /// A process that has it open: `arecord (pid 412)`.
    pub held_by: Option<String>,
}

/// Returns everything that records, in the order of the sound cards.
#[must_use]
pub fn recorders() -> Vec<Pcm> {
    alsa::pcms::recorders()
}

/// Returns everything that plays, in the order of the sound cards.
#[must_use]
pub fn players() -> Vec<Pcm> {
    alsa::pcms::players()
}

/// Opens the configured source: `auto`, `tone`, or the name of an ALSA PCM or a card. `none` is for
/// the caller to see.
///
/// # Errors
///
/// Any [`AudioError`]; trying again later may help.
pub fn open(config: &config::Audio) -> Result<Box<dyn AudioSource>, AudioError> {
    match config.source.as_str() {
        "tone" => Ok(Box::new(tone::Tone::start())),
        "auto" => match microphones().first() {
            Some(first) => Ok(Box::new(alsa::Microphone::open(&first.pcm)?)),
            None => Err(AudioError::NoMicrophone),
        },
        pcm => Ok(Box::new(alsa::Microphone::open(pcm)?)),
    }
}

/// Returns so much of the test tone, as Opus packets of 20 ms.
///
/// # Errors
///
/// [`AudioError::Encoder`].
pub fn tone(length: Duration) -> Result<Vec<Bytes>, AudioError> {
    let mut encoder = opus::Encoder::new(config::Audio::default().bitrate_kbps)?;
    let mut tone = tone::Generator::default();
    let frames = length.as_millis() / 20;
    (0..frames)
        .map(|_| {
            let sample = |_| tone.next().map_or(0, samples::to_i16);
            encoder.encode(&std::array::from_fn(sample))
        })
        .collect()
}

/// Who records, where that cannot be known: a service sees no other processes.
const HIDDEN_HOLDER: &str = "another program: `sudo fuser -v /dev/snd/*` names it";

/// Why there is no sound. Each message names the device and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// Another program holds the device.
    #[error("microphone {pcm} is in use by {}", holder.as_deref().unwrap_or(HIDDEN_HOLDER))]
    Busy {
        /// As configured.
        pcm: String,
        /// Name and id of the process that records, where that can be known.
        holder: Option<String>,
    },
    /// This user may not open it.
    #[error("microphone {pcm} may not be opened: add this program's user to the group `audio`")]
    Denied {
        /// As configured.
        pcm: String,
    },
    /// The driver reported an error.
    #[error("microphone {pcm}: {operation} failed")]
    Driver {
        /// As configured.
        pcm: String,
        /// The function of libasound, e.g. `snd_pcm_readi`.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device cannot deliver what is asked of it.
    #[error(
        "microphone {pcm} offers {offered}, but this program takes S16, S24, S32 and FLOAT (LE): \
         use {converting}, which converts"
    )]
    Format {
        /// As configured.
        pcm: String,
        /// From the driver.
        offered: String,
        /// The name of a PCM that converts.
        converting: String,
    },
    /// The device is not there, or was unplugged.
    #[error("microphone {pcm} is not present")]
    Missing {
        /// As configured.
        pcm: String,
    },
    /// `auto` found none.
    #[error("no microphone found")]
    NoMicrophone,
    /// The device delivers nothing.
    #[error("microphone {pcm} delivered no sound for {silent_for:?}")]
    Stalled {
        /// As configured.
        pcm: String,
        /// How long we waited.
        silent_for: Duration,
    },
    /// The encoder failed.
    #[error("Opus: {0}")]
    Encoder(String),
    /// The resampler failed.
    #[error("resampler: {0}")]
    Resampler(String),
}

impl AudioError {
    /// Returns whether opening the microphone again soon may help. A wrong configuration heals
    /// only if someone changes the machine.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Driver { .. }
            | Self::Missing { .. }
            | Self::NoMicrophone
            | Self::Stalled { .. } => true,
            Self::Denied { .. } | Self::Format { .. } | Self::Encoder(_) | Self::Resampler(_) => {
                false
            }
        }
    }
}
