//! What a PCM is asked to deliver: what its card has by itself, as near to 48 kHz as it can.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use alsa::pcm::{Access, Format, Frames, HwParams, PCM, TstampType};
use alsa::{ValueOr, pcm::SwParams};
use tracing::debug;

use super::{converting, explain};
use crate::audio::AudioError;
use crate::audio::samples::Encoding;

/// The rates that are asked for, best first; if a card has none of these, the nearest to the first.
/// Opus has nothing above 20 kHz, and more samples cost more.
const RATES_HZ: [u32; 8] = [
    48_000, 44_100, 96_000, 32_000, 88_200, 192_000, 16_000, 8_000,
];

/// The formats that are taken, best first. Microphones on the I2S pins are quiet: of their 32 bits,
/// 16 would leave a few. Those of three bytes are as good, but asked for by few, so they come last.
const ENCODINGS: [(Format, Encoding, &str); 5] = [
    (Format::S32LE, Encoding::S32, "S32"),
    (Format::S16LE, Encoding::S16, "S16"),
    (Format::FloatLE, Encoding::Float, "FLOAT"),
    (Format::S24LE, Encoding::S24, "S24"),
    (Format::S243LE, Encoding::S24Packed, "S24_3"),
];

/// Formats that are named to people when none of ours fits.
const OTHER_FORMATS: [(Format, &str); 7] = [
    (Format::U8, "U8"),
    (Format::S8, "S8"),
    (Format::S16BE, "S16_BE"),
    (Format::S24BE, "S24_BE"),
    (Format::S32BE, "S32_BE"),
    (Format::MuLaw, "MU_LAW"),
    (Format::ALaw, "A_LAW"),
];

/// Periods in a second, of 10 ms each.
const PERIODS: u32 = 100;

/// Buffers in a second, of 500 ms each: a busy Pi may not run us for that long before sound is lost.
/// Costs no latency.
const BUFFERS: u32 = 2;

/// More channels than the largest sound card has.
const MAX_CHANNELS: u32 = 64;

/// What a PCM delivers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) rate_hz: NonZeroU32,
    pub(super) channels: usize,
    pub(super) encoding: Encoding,
    pub(super) buffer_frames: usize,
}

impl Setup {
    /// Returns how many bytes the samples of all channels take that belong together.
    pub(super) const fn frame_bytes(&self) -> usize {
        self.channels * self.encoding.bytes()
    }

    /// Returns how long so many frames last.
    pub(super) fn duration(&self, frames: usize) -> Duration {
        let frames = u64::try_from(frames).unwrap_or_default();
        let rate_hz = u64::from(self.rate_hz.get());
        Duration::from_nanos(frames.saturating_mul(1_000_000_000) / rate_hz)
    }
}

/// `S16 mono 44100 Hz`.
impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ENCODINGS
            .iter()
            .find(|(_, encoding, _)| *encoding == self.encoding)
            .map_or("", |(_, _, name)| *name);
        let layout = match self.channels {
            1 => "mono".to_owned(),
            2 => "stereo".to_owned(),
            more => format!("{more} channels"),
        };
        write!(f, "{name} {layout} {} Hz", self.rate_hz)
    }
}

/// Sets rate, channels, format, period and buffer.
pub(super) fn negotiate(pcm: &PCM, name: &str) -> Result<Setup, AudioError> {
    let failed = |error| explain(name, error);
    let suits = parameters(pcm, false).or_else(|error| {
        debug!(pcm = name, %error, "it does not work without a resampler of libasound's");
        parameters(pcm, true)
    });
    let (hw, encoding) = suits.map_err(|error| {
        debug!(pcm = name, %error, "the format was refused");
        AudioError::Format {
            pcm: name.to_owned(),
            offered: offered(pcm),
            converting: converting(name),
        }
    })?;
    let rate_hz = NonZeroU32::new(hw.get_rate().map_err(failed)?).unwrap_or(NonZeroU32::MIN);
    let channels = hw.get_channels().map_err(failed)?;
    hw.set_period_size_near(frames(rate_hz.get() / PERIODS), ValueOr::Nearest)
        .and_then(|_| hw.set_buffer_size_near(frames(rate_hz.get() / BUFFERS)))
        .and_then(|_| pcm.hw_params(&hw))
        .map_err(failed)?;
    let period = hw.get_period_size().map_err(failed)?;
    let buffer = hw.get_buffer_size().map_err(failed)?;
    let sw = pcm.sw_params_current().map_err(failed)?;
    stamp(&sw, name).map_err(failed)?;
    sw.set_avail_min(period).map_err(failed)?;
    pcm.sw_params(&sw).map_err(failed)?;
    Ok(Setup {
        rate_hz,
        channels: usize::try_from(channels).unwrap_or(1),
        encoding,
        buffer_frames: usize::try_from(buffer).unwrap_or_default(),
    })
}

/// Chooses rate, channels and format.
///
/// Those that only convert (`plughw:`, `default`) offer every rate; without `resample` they offer
/// what the card has.
fn parameters(pcm: &PCM, resample: bool) -> alsa::Result<(HwParams<'_>, Encoding)> {
    let hw = HwParams::any(pcm)?;
    hw.set_rate_resample(resample)?;
    hw.set_access(Access::RWInterleaved)?;
    let [best, ..] = RATES_HZ;
    match RATES_HZ.iter().find(|rate| hw.test_rate(**rate).is_ok()) {
        Some(rate) => hw.set_rate(*rate, ValueOr::Nearest)?,
        None => drop(hw.set_rate_near(best, ValueOr::Nearest)?),
    }
    let channels = hw.set_channels_near(1)?;
    let taken = ENCODINGS
        .iter()
        .find(|(format, ..)| hw.test_format(*format).is_ok());
    match taken {
        Some((format, encoding, _)) if channels <= MAX_CHANNELS => {
            hw.set_format(*format)?;
            Ok((hw, *encoding))
        }
        _ => Err(alsa::Error::new("snd_pcm_hw_params", libc::EINVAL)),
    }
}

/// Asks for timestamps of the monotonic clock.
fn stamp(sw: &SwParams<'_>, name: &str) -> alsa::Result<()> {
    sw.set_tstamp_mode(true)?;
    if let Err(error) = sw.set_tstamp_type(TstampType::Monotonic) {
        // Some plugins cannot; then the time of reading is taken.
        debug!(pcm = name, %error, "no monotonic timestamps");
    }
    Ok(())
}

/// Says in words what a PCM can deliver.
fn offered(pcm: &PCM) -> String {
    let describe = || {
        let hw = HwParams::any(pcm)?;
        let ours = ENCODINGS.iter().map(|(format, _, name)| (format, name));
        let others = OTHER_FORMATS.iter().map(|(format, name)| (format, name));
        let formats: Vec<&str> = ours
            .chain(others)
            .filter(|(format, _)| hw.test_format(**format).is_ok())
            .map(|(_, name)| *name)
            .collect();
        Ok(format!(
            "{} with {} channels at {} Hz",
            formats.join("/"),
            Range(hw.get_channels_min()?, hw.get_channels_max()?),
            Range(hw.get_rate_min()?, hw.get_rate_max()?),
        ))
    };
    describe().unwrap_or_else(|error: alsa::Error| error.to_string())
}

/// `1`, or `1 to 2`.
struct Range(u32, u32);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(min, max) if min == max => write!(f, "{min}"),
            Self(min, max) => write!(f, "{min} to {max}"),
        }
    }
}

/// Returns a number of frames as ALSA counts them: in as many bits as the machine has.
fn frames(count: u32) -> Frames {
    Frames::try_from(u64::from(count)).unwrap_or(Frames::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_reads_as_people_say_it() {
        let setup = |rate, channels, encoding| Setup {
            rate_hz: NonZeroU32::new(rate).unwrap(),
            channels,
            encoding,
            buffer_frames: 9_600,
        };
        let text = |setup: Setup| setup.to_string();
        assert_eq!(text(setup(44_100, 1, Encoding::S16)), "S16 mono 44100 Hz");
        assert_eq!(
            text(setup(48_000, 2, Encoding::Float)),
            "FLOAT stereo 48000 Hz"
        );
        assert_eq!(
            text(setup(16_000, 6, Encoding::S24Packed)),
            "S24_3 6 channels 16000 Hz"
        );
    }
}
