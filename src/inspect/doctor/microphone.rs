//! Tries the microphone: a second of sound; and the loudspeaker: whether it opens.

use std::time::Duration;

use super::media::Sound;
use crate::audio::{self, AudioError};
use crate::talkback::{self, SpeakerError};
use crate::{clock, config};

/// How much is listened to, and how long that may take.
const LENGTH: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(4);

/// Opens the source of `config`, and closes it after a second of sound.
pub(super) fn try_source(config: &config::Audio) -> Result<Sound, AudioError> {
    let start = clock::now();
    let mut source = audio::open(config)?;
    let rate_hz = source.rate_hz().get();
    let mut sound = Sound {
        description: source.description(),
        after: Duration::ZERO,
        length: Duration::ZERO,
        peak: 0,
    };
    let mut samples: u32 = 0;
    while sound.length < LENGTH && clock::now() < start + WITHIN {
        let Some(period) = source.next()? else {
            continue;
        };
        if samples == 0 {
            sound.after = clock::now() - start;
        }
        samples = samples.saturating_add(u32::try_from(period.samples.len()).unwrap_or(u32::MAX));
        sound.length = Duration::from_secs(1) * samples / rate_hz;
        let loudest = period.samples.iter().copied().map(steps);
        sound.peak = loudest.max().unwrap_or_default().max(sound.peak);
    }
    Ok(sound)
}

/// Returns how far a sample is from silence, in steps of 16 bit.
fn steps(sample: f32) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 32767; NaN is 0"
    )]
    let steps = (sample.abs().min(1.0) * 32_767.0) as u16;
    steps
}

/// Opens a loudspeaker and closes it, without a sound; returns what it is.
pub(super) fn try_speaker(sink: &str) -> Result<String, SpeakerError> {
    Ok(talkback::open(sink)?.description())
}

/// Returns who has the configured microphone, where that can be known.
pub(super) fn holder(source: &str) -> Option<String> {
    holder_among(audio::recorders(), source)
}

/// The same of the configured loudspeaker.
pub(super) fn holder_of_speaker(sink: &str) -> Option<String> {
    holder_among(audio::players(), sink)
}

fn holder_among(pcms: Vec<audio::Pcm>, source: &str) -> Option<String> {
    let wanted = source.trim_start_matches("plug");
    let is_meant = |pcm: &audio::Pcm| {
        let name = pcm.pcm.trim_start_matches("plug");
        source == "auto"
            || source == pcm.card_id
            || name == wanted
            || name.starts_with(&format!("{wanted},"))
    };
    pcms.into_iter().find(is_meant)?.held_by
}
