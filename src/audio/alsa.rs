//! Microphones through ALSA (libasound).
//!
//! A PCM is read without blocking, 10 ms at a time, as signed 16 bit at 48 kHz; two channels are
//! mixed into one. What a card cannot do by itself, `plughw:` converts; we do not. The time of a
//! sample is the driver's: the moment the driver counted the samples, minus those unread by then.
//!
//! libasound tells its troubles to stderr; here they go to the log, at debug.

use std::cell::RefCell;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use alsa::card;
use alsa::ctl::{Ctl, DeviceIter};
use alsa::pcm::{Access, Format, Frames, HwParams, PCM, TstampType};
use alsa::{Direction, Output, ValueOr};
use tracing::debug;

use super::{AudioError, AudioSource, MicrophoneInfo, Period, SAMPLE_RATE_HZ, holder};
use crate::clock;

pub(super) mod cards;

/// Half an Opus frame: the most that waiting for a whole period adds to the latency.
const PERIOD: Duration = Duration::from_millis(10);
const PERIOD_FRAMES: Frames = 480;

/// 200 ms: a busy Pi may not run us for that long before sound is lost. Costs no latency.
const BUFFER_FRAMES: Frames = 9_600;

/// How long one wait may take; the capture thread looks around in between.
const WAIT_MS: u32 = 200;

/// A microphone that delivers nothing for this long is opened again.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// Formats named to people when none fits.
const KNOWN_FORMATS: [(Format, &str); 6] = [
    (Format::S16LE, "S16_LE"),
    (Format::S24LE, "S24_LE"),
    (Format::S243LE, "S24_3LE"),
    (Format::S32LE, "S32_LE"),
    (Format::FloatLE, "FLOAT_LE"),
    (Format::U8, "U8"),
];

/// An open capture PCM.
#[derive(Debug)]
pub(super) struct Microphone {
    pcm: PCM,
    name: String,
    description: String,
    channels: usize,
    buffer_frames: usize,
    /// When sound last came; at first, when the PCM was started.
    heard_at: Instant,
    xruns: u64,
    scratch: Vec<i16>,
}

impl Microphone {
    /// Opens and starts the PCM of this name.
    pub(super) fn open(name: &str) -> Result<Self, AudioError> {
        let messages = divert_messages();
        Self::start(name).inspect_err(|_| log_messages(messages.as_ref()))
    }

    fn start(name: &str) -> Result<Self, AudioError> {
        let failed = |error| explain(name, error);
        let missing = || AudioError::Missing {
            pcm: name.to_owned(),
        };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let pcm = PCM::open(&c_name, Direction::Capture, true).map_err(failed)?;
        let (channels, buffer_frames) = negotiate(&pcm, name)?;
        let title = pcm
            .info()
            .and_then(|info| info.get_name().map(str::to_owned));
        pcm.start().map_err(failed)?;
        let title = title.unwrap_or_default();
        let layout = if channels == 1 { "mono" } else { "stereo" };
        Ok(Self {
            pcm,
            name: name.to_owned(),
            description: format!("{name} ({title}), {layout}"),
            channels,
            buffer_frames,
            heard_at: clock::now(),
            xruns: 0,
            scratch: vec![0; buffer_frames * channels],
        })
    }

    /// Nothing came: that is an error once it lasts.
    fn nothing(&self) -> Result<Option<Period>, AudioError> {
        let silent_for = clock::now().saturating_duration_since(self.heard_at);
        if silent_for < STALLED_AFTER {
            return Ok(None);
        }
        Err(AudioError::Stalled {
            pcm: self.name.clone(),
            silent_for: Duration::from_secs(silent_for.as_secs()),
        })
    }

    /// Starts again after an overrun; any other error stays one.
    ///
    /// Not `snd_pcm_recover`, which does the same but sleeps for seconds after a suspend.
    fn recover(&mut self, error: alsa::Error) -> Result<Option<Period>, AudioError> {
        match error.errno() {
            libc::EAGAIN => {
                // A plugin that says it is ready too early must not make us spin.
                thread::sleep(PERIOD);
            }
            libc::EPIPE | libc::ESTRPIPE => {
                self.xruns += 1;
                debug!(pcm = %self.name, xruns = self.xruns, "sound was lost to an overrun");
                let restarted = self.pcm.prepare().and_then(|()| self.pcm.start());
                restarted.map_err(|e| explain(&self.name, e))?;
            }
            _ => return Err(explain(&self.name, error)),
        }
        self.nothing()
    }

    /// Returns how many frames to read, and when the first of them was captured.
    fn available(&self) -> alsa::Result<(usize, Instant)> {
        let status = self.pcm.status()?;
        let mut frames = usize::try_from(status.get_avail()).unwrap_or_default();
        let stamp = status.get_htstamp();
        let mut counted_at = clock::from_monotonic(Duration::new(
            u64::try_from(stamp.tv_sec).unwrap_or_default(),
            u32::try_from(stamp.tv_nsec).unwrap_or_default(),
        ));
        if frames >= self.buffer_frames {
            // A card whose buffer is full has stopped. Only PCMs without a clock (`null`, `file`)
            // offer that much and go on: they get ours.
            thread::sleep(PERIOD);
            counted_at = clock::now();
            let elapsed = counted_at.saturating_duration_since(self.heard_at);
            let due = elapsed.as_micros() * u128::from(SAMPLE_RATE_HZ) / 1_000_000;
            frames = usize::try_from(due)
                .unwrap_or_default()
                .min(self.buffer_frames);
        }
        let unread = duration_of(frames);
        Ok((frames, counted_at.checked_sub(unread).unwrap_or(counted_at)))
    }

    fn read(&mut self, frames: usize) -> alsa::Result<Vec<i16>> {
        let wanted = (frames * self.channels).min(self.scratch.len());
        let buffer = self.scratch.get_mut(..wanted).unwrap_or_default();
        let read = self.pcm.io_i16()?.readi(buffer)?;
        let samples = buffer.get(..read * self.channels).unwrap_or_default();
        Ok(mono(samples, self.channels))
    }
}

impl AudioSource for Microphone {
    fn next(&mut self) -> Result<Option<Period>, AudioError> {
        match self.pcm.wait(Some(WAIT_MS)) {
            Ok(true) => {}
            Ok(false) => return self.nothing(),
            Err(error) => return self.recover(error),
        }
        let (frames, captured_at) = match self.available() {
            Ok((0, _)) => return self.recover(alsa::Error::new("snd_pcm_avail", libc::EAGAIN)),
            Ok(available) => available,
            Err(error) => return self.recover(error),
        };
        match self.read(frames) {
            Ok(samples) if samples.is_empty() => self.nothing(),
            Ok(samples) => {
                self.heard_at = clock::now();
                Ok(Some(Period {
                    samples,
                    captured_at,
                }))
            }
            Err(error) => self.recover(error),
        }
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}

/// Returns the microphones of this machine, in the order of the sound cards.
pub(super) fn microphones() -> Vec<MicrophoneInfo> {
    let messages = divert_messages();
    let mut found = Vec::new();
    for card in card::Iter::new().map_while(Result::ok) {
        if let Err(error) = add_microphones(card, &mut found) {
            debug!(card = card.get_index(), %error, "sound card passed over");
            log_messages(messages.as_ref());
        }
    }
    found
}

fn add_microphones(card: alsa::Card, found: &mut Vec<MicrophoneInfo>) -> alsa::Result<()> {
    let ctl = Ctl::from_card(&card, true)?;
    let info = ctl.card_info()?;
    let (card_id, card_name) = (info.get_id()?, info.get_name()?);
    for device in DeviceIter::new(&ctl) {
        let Ok(number) = u32::try_from(device) else {
            continue;
        };
        // ENOENT: this device only plays.
        let Ok(pcm) = ctl.pcm_info(number, 0, Direction::Capture) else {
            continue;
        };
        found.push(MicrophoneInfo {
            pcm: format!("plughw:CARD={card_id},DEV={number}"),
            card_id: card_id.to_owned(),
            name: format!("{card_name}, {}", pcm.get_name()?),
        });
    }
    Ok(())
}

/// Sets format, period and buffer; returns channels and the buffer's size in frames.
fn negotiate(pcm: &PCM, name: &str) -> Result<(usize, usize), AudioError> {
    let failed = |error| explain(name, error);
    let hw = HwParams::any(pcm).map_err(failed)?;
    hw.set_access(Access::RWInterleaved).map_err(failed)?;
    let channels = if hw.test_channels(1).is_ok() { 1 } else { 2 };
    let suits = hw
        .set_format(Format::s16())
        .and_then(|()| hw.set_channels(channels))
        .and_then(|()| hw.set_rate(SAMPLE_RATE_HZ, ValueOr::Nearest));
    if let Err(error) = suits {
        debug!(pcm = name, %error, "the format was refused");
        return Err(AudioError::Format {
            pcm: name.to_owned(),
            offered: offered(pcm),
            converting: converting(name),
        });
    }
    hw.set_period_size_near(PERIOD_FRAMES, ValueOr::Nearest)
        .and_then(|_| hw.set_buffer_size_near(BUFFER_FRAMES))
        .and_then(|_| pcm.hw_params(&hw))
        .map_err(failed)?;
    let period = hw.get_period_size().map_err(failed)?;
    let buffer = hw.get_buffer_size().map_err(failed)?;
    let sw = pcm.sw_params_current().map_err(failed)?;
    sw.set_avail_min(period)
        .and_then(|()| sw.set_tstamp_mode(true))
        .map_err(failed)?;
    if let Err(error) = sw.set_tstamp_type(TstampType::Monotonic) {
        // Some plugins cannot; then the time of reading is taken.
        debug!(pcm = name, %error, "no monotonic timestamps");
    }
    pcm.sw_params(&sw).map_err(failed)?;
    let channels = usize::try_from(channels).unwrap_or(1);
    Ok((channels, usize::try_from(buffer).unwrap_or_default()))
}

/// Says in words what a PCM can deliver.
fn offered(pcm: &PCM) -> String {
    let describe = || {
        let hw = HwParams::any(pcm)?;
        let formats: Vec<&str> = KNOWN_FORMATS
            .iter()
            .filter(|(format, _)| hw.test_format(*format).is_ok())
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

/// Returns the name of a PCM that converts whatever the PCM `name` delivers.
fn converting(name: &str) -> String {
    if name.starts_with("hw:") {
        format!("plug{name}")
    } else {
        format!("plug:'{name}'")
    }
}

/// Mixes interleaved channels into one.
fn mono(samples: &[i16], channels: usize) -> Vec<i16> {
    match channels {
        0 | 1 => samples.to_vec(),
        _ => samples
            .chunks_exact(channels)
            .map(|frame| {
                let sum: i64 = frame.iter().map(|&s| i64::from(s)).sum();
                let count = i64::try_from(frame.len()).unwrap_or(1);
                i16::try_from(sum / count).unwrap_or_default()
            })
            .collect(),
    }
}

fn duration_of(frames: usize) -> Duration {
    let frames = u64::try_from(frames).unwrap_or_default();
    Duration::from_nanos(frames.saturating_mul(1_000_000_000) / u64::from(SAMPLE_RATE_HZ))
}

fn explain(name: &str, error: alsa::Error) -> AudioError {
    let pcm = name.to_owned();
    match error.errno() {
        libc::EBUSY => AudioError::Busy {
            holder: holder::of(name),
            pcm,
        },
        libc::EACCES | libc::EPERM => AudioError::Denied { pcm },
        libc::ENOENT | libc::ENODEV | libc::ENXIO => AudioError::Missing { pcm },
        errno => AudioError::Driver {
            pcm,
            operation: error.func(),
            source: io::Error::from_raw_os_error(errno),
        },
    }
}

/// Keeps libasound's messages of this thread off stderr, from now on, and starts them anew.
fn divert_messages() -> Option<Rc<RefCell<Output>>> {
    Output::local_error_handler().ok()
}

fn log_messages(messages: Option<&Rc<RefCell<Output>>>) {
    for line in messages
        .map(|m| m.borrow().to_string())
        .unwrap_or_default()
        .lines()
    {
        debug!(message_of_libasound = line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn two_channels_become_their_mean() {
        assert_eq!(
            mono(&[10, 20, -5, -5, i16::MAX, i16::MAX], 2),
            [15, -5, i16::MAX]
        );
        assert_eq!(mono(&[i16::MIN, i16::MIN], 2), [i16::MIN]);
        assert_eq!(mono(&[1, 2, 3], 1), [1, 2, 3]);
    }

    #[test]
    fn the_error_of_a_device_names_it_and_what_to_do() {
        let text = |errno| explain("hw:1", alsa::Error::new("snd_pcm_open", errno)).to_string();
        assert_eq!(
            text(libc::EBUSY),
            "microphone hw:1 is in use by another program: `sudo fuser -v /dev/snd/*` names it"
        );
        assert_eq!(text(libc::ENODEV), "microphone hw:1 is not present");
        assert!(text(libc::EACCES).contains("group `audio`"));
        assert_eq!(text(libc::EIO), "microphone hw:1: snd_pcm_open failed");
    }

    #[test]
    fn a_name_with_a_zero_byte_is_a_missing_microphone() {
        let error = Microphone::open("hw:\0").unwrap_err();
        assert!(matches!(error, AudioError::Missing { .. }), "{error:?}");
    }

    #[test]
    fn an_unknown_name_is_a_missing_microphone() {
        let error = Microphone::open("no_such_microphone").unwrap_err();
        assert!(matches!(error, AudioError::Missing { .. }), "{error:?}");
    }

    #[test]
    fn the_pcm_that_converts_has_a_name() {
        assert_eq!(converting("hw:CARD=Device"), "plughw:CARD=Device");
        assert_eq!(converting("dsnoop:1"), "plug:'dsnoop:1'");
    }

    /// PCMs that libasound itself provides. Its configuration is global to a process, so each
    /// test that needs this one runs in a child.
    const CONFIGURATION: &str = "
        pcm.silent { type null }
        pcm.played { type file slave.pcm { type null } file /dev/null infile INFILE format raw }
    ";

    /// Runs the test `name` of this file in a child with [`CONFIGURATION`]; returns false there.
    fn ran_in_a_child(name: &str) -> bool {
        const MARK: &str = "ROOMCAM_TEST_ALSA";
        if std::env::var_os(MARK).is_some() {
            return false;
        }
        let dir = tempfile::tempdir().unwrap();
        let sound = dir.path().join("sound.raw");
        std::fs::write(&sound, [0x00_u8, 0x10].repeat(48_000)).unwrap();
        let text = CONFIGURATION.replace("INFILE", &sound.display().to_string());
        let file = dir.path().join("asound.conf");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                &format!("audio::alsa::tests::{name}"),
            ])
            .env("ALSA_CONFIG_PATH", &file)
            .env(MARK, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}{errors}");
        assert!(text.contains("1 passed"), "{text}");
        assert!(
            !errors.contains("ALSA lib"),
            "libasound wrote to stderr: {errors}"
        );
        true
    }

    #[test]
    #[cfg_attr(
        any(target_arch = "aarch64", target_arch = "arm"),
        ignore = "starts itself, which QEMU without binfmt_misc cannot"
    )]
    fn pcms_of_libasound_are_read_at_the_pace_of_the_clock() {
        if ran_in_a_child("pcms_of_libasound_are_read_at_the_pace_of_the_clock") {
            return;
        }
        for (name, expected) in [("silent", 0), ("played", 0x1000)] {
            let mut microphone = Microphone::open(name).unwrap();
            let started_at = clock::now();
            let mut samples = Vec::new();
            while samples.len() < 9_600 {
                assert!(started_at.elapsed() < Duration::from_secs(10), "{name}");
                let Some(period) = microphone.next().unwrap() else {
                    continue;
                };
                assert!(period.captured_at <= clock::now());
                samples.extend(period.samples);
            }
            let took = started_at.elapsed();
            assert!(took >= Duration::from_millis(150), "{name}: {took:?}");
            assert!(samples.iter().all(|&s| s == expected), "{name}");
            assert!(microphone.description().starts_with(name));
        }
        assert!(microphones().is_empty());
    }
}
