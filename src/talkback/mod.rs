//! Viewers who speak: their Opus packets → put in order, decoded, mixed → a loudspeaker.
//!
//! | file        | what                                                                  |
//! |-------------|-----------------------------------------------------------------------|
//! | `floor.rs`  | who may speak, how many at once, for how long; when the microphone is silent |
//! | `packet.rs` | how long an Opus packet lasts                                         |
//! | `jitter.rs` | packets as they come → one after the other, as they were spoken       |
//! | `opus.rs`   | the Opus decoder                                                      |
//! | `mixer.rs`  | several voices → one; a little faster or slower                       |
//! | `voice.rs`  | one viewer's packets → frames of 20 ms                                |
//! | `player.rs` | the thread that mixes and plays, while somebody speaks                |
//! | `alsa.rs`   | a loudspeaker                                                         |

use std::io;
use std::time::Duration;

use crate::audio::CardPcm;
use crate::audio::alsa::cards;

mod alsa;
pub mod floor;
pub mod jitter;
pub mod mixer;
mod opus;
pub mod packet;
pub mod player;
mod voice;

/// Samples per second of everything in this directory (RFC 7587 §4.1).
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Samples in one frame of 20 ms, mono.
pub const FRAME_SAMPLES: usize = 960;

/// 20 ms of sound to be played: 48 kHz, mono, signed 16 bit.
pub type Frame = [i16; FRAME_SAMPLES];

/// A consumer of sound. Blocking: it runs on a thread of its own.
///
/// A trait because tests replace the loudspeaker.
pub trait Speaker: Send {
    /// Plays a frame after those before. Waits until there is room for it, so that whoever calls it
    /// again and again is kept at the loudspeaker's pace.
    ///
    /// # Errors
    ///
    /// Any [`SpeakerError`]. The loudspeaker is unusable afterwards: drop it and open it again.
    fn play(&mut self, frame: &Frame) -> Result<(), SpeakerError>;

    /// Returns what it plays on, for the log: `plughw:CARD=Device,DEV=0 (USB Audio), mono`.
    fn description(&self) -> String;
}

/// Returns the loudspeakers of this machine, in the order of the sound cards.
#[must_use]
pub fn speakers() -> Vec<CardPcm> {
    cards::players()
}

/// Opens the configured loudspeaker: `auto`, the id of a card, or the name of an ALSA PCM.
///
/// # Errors
///
/// Any [`SpeakerError`]; trying again later may help.
pub fn open(sink: &str) -> Result<Box<dyn Speaker>, SpeakerError> {
    let speakers = speakers();
    let found = match sink {
        "auto" => Some(speakers.first().ok_or(SpeakerError::NoSpeaker)?),
        sink => speakers.iter().find(|speaker| speaker.card_id == sink),
    };
    let pcm = found.map_or(sink, |speaker| &speaker.pcm);
    Ok(Box::new(alsa::Output::open(pcm)?))
}

/// Why nobody can be heard. Each message names the device and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// Another program holds the device.
    #[error("loudspeaker {pcm} is in use by another program")]
    Busy {
        /// As configured.
        pcm: String,
    },
    /// This user may not open it.
    #[error("loudspeaker {pcm} may not be opened: add this program's user to the group `audio`")]
    Denied {
        /// As configured.
        pcm: String,
    },
    /// The driver reported an error.
    #[error("loudspeaker {pcm}: {operation} failed: {source}")]
    Driver {
        /// As configured.
        pcm: String,
        /// The function of libasound, e.g. `snd_pcm_writei`.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device cannot play what it is given.
    #[error(
        "loudspeaker {pcm} does not take S16 with 1 or 2 channels at {SAMPLE_RATE_HZ} Hz: use \
         {converting}, which converts"
    )]
    Format {
        /// As configured.
        pcm: String,
        /// The name of a PCM that converts.
        converting: String,
    },
    /// The device is not there, or was unplugged.
    #[error("loudspeaker {pcm} is not present")]
    Missing {
        /// As configured.
        pcm: String,
    },
    /// `auto` found none.
    #[error("no loudspeaker found")]
    NoSpeaker,
    /// The device takes nothing any more.
    #[error("loudspeaker {pcm} took no sound for {stuck_for:?}")]
    Stalled {
        /// As configured.
        pcm: String,
        /// How long we waited.
        stuck_for: Duration,
    },
    /// The decoder could not be made.
    #[error("Opus: {0}")]
    Decoder(String),
}
