//! Microphones through ALSA (libasound).
//!
//! A PCM is read without blocking, 10 ms at a time, at a rate and in a format of the card's own
//! (`alsa/negotiation.rs`): what is to be converted is converted here, better than `plughw:` does. The
//! time of a sample is the driver's: the moment the driver counted the samples, minus those unread by
//! then. After an overrun the PCM is started again, and the next period says so.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use alsa::Direction;
use alsa::pcm::{PCM, State};
use tracing::debug;

use super::{AudioError, AudioSource, Period, holder};
use crate::clock;

pub(crate) mod cards;
pub(crate) mod messages;
mod negotiation;
pub(super) mod pcms;

use messages::Messages;
use negotiation::Setup;

/// Half an Opus frame: the most that waiting for a whole period adds to the latency.
const PERIOD: Duration = Duration::from_millis(10);

/// How long one wait may take; the capture thread looks around in between.
const WAIT_MS: u32 = 200;

/// A microphone that delivers nothing for this long is opened again.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// So many overruns in a row are taken for a machine that is too busy to read what its card delivers;
/// after that, the card is to blame.
const EXCUSED_OVERRUNS: u32 = 20;

/// An open capture PCM.
#[derive(Debug)]
pub(super) struct Microphone {
    pcm: PCM,
    name: String,
    description: String,
    setup: Setup,
    /// When sound last came; at first, when the PCM was started.
    heard_at: Instant,
    /// Overruns since the last period: sound was lost.
    overruns: u32,
    raw: Vec<u8>,
    period: Period,
}

impl Microphone {
    /// Opens and starts the PCM of this name, or the microphone of a card of this name.
    pub(super) fn open(name: &str) -> Result<Self, AudioError> {
        let messages = Messages::divert();
        let opened = match Self::start(name) {
            // The name of a card stands for wherever that card is now.
            Err(AudioError::Missing { .. }) if !name.contains(':') => {
                match cards::find(&cards::recorders(), name) {
                    Some(found) => Self::start(&found.pcm),
                    None => Err(AudioError::Missing {
                        pcm: name.to_owned(),
                    }),
                }
            }
            opened => opened,
        };
        opened.inspect_err(|_| messages.log())
    }

    /// Opens a PCM: the card itself where `plughw:` is asked for, and that only if the card is of no
    /// use without a conversion that is not ours.
    fn start(name: &str) -> Result<Self, AudioError> {
        if let Some(card) = name
            .strip_prefix("plug")
            .filter(|pcm| pcm.starts_with("hw:"))
        {
            match Self::start_as_it_is(card, name) {
                Err(AudioError::Format { offered, .. }) => {
                    debug!(pcm = card, offered, "the card is left to a plug");
                }
                opened => return opened,
            }
        }
        Self::start_as_it_is(name, name)
    }

    /// Opens `name` for what was `configured`, which errors are about.
    fn start_as_it_is(name: &str, configured: &str) -> Result<Self, AudioError> {
        let failed = |error| explain(configured, error);
        let missing = || AudioError::Missing {
            pcm: configured.to_owned(),
        };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let pcm = PCM::open(&c_name, Direction::Capture, true).map_err(failed)?;
        let setup = negotiation::negotiate(&pcm, name)?;
        let title = pcm
            .info()
            .and_then(|info| info.get_name().map(str::to_owned));
        pcm.start().map_err(failed)?;
        let title = title.unwrap_or_default();
        let now = clock::now();
        Ok(Self {
            pcm,
            name: configured.to_owned(),
            description: format!("{configured} ({title}), {setup}"),
            heard_at: now,
            overruns: 0,
            raw: vec![0; setup.buffer_frames * setup.frame_bytes()],
            period: Period {
                samples: Vec::with_capacity(setup.buffer_frames),
                captured_at: now,
                follows_gap: false,
            },
            setup,
        })
    }

    /// Nothing came: that is an error once it lasts.
    fn nothing(&self) -> Result<bool, AudioError> {
        let silent_for = clock::now().saturating_duration_since(self.heard_at);
        if silent_for < STALLED_AFTER {
            return Ok(false);
        }
        Err(AudioError::Stalled {
            pcm: self.name.clone(),
            silent_for: Duration::from_secs(silent_for.as_secs()),
        })
    }

    /// Starts again after an overrun; any other error stays one.
    ///
    /// Not `snd_pcm_recover`, which does the same but sleeps for seconds after a suspend.
    fn recover(&mut self, error: alsa::Error) -> Result<bool, AudioError> {
        match error.errno() {
            libc::EAGAIN => {
                // A plugin that says it is ready too early must not make us spin.
                thread::sleep(PERIOD);
            }
            libc::EPIPE | libc::ESTRPIPE => {
                self.overruns = self.overruns.saturating_add(1);
                debug!(pcm = %self.name, overruns = self.overruns, "sound was lost to an overrun");
                if self.overruns <= EXCUSED_OVERRUNS {
                    self.heard_at = clock::now();
                }
                let restarted = self.pcm.prepare().and_then(|()| self.pcm.start());
                restarted.map_err(|e| explain(&self.name, e))?;
                // One that overruns at once must not make us spin.
                thread::sleep(PERIOD);
            }
            _ => return Err(explain(&self.name, error)),
        }
        self.nothing()
    }

    /// Returns how many frames to read, and when the first of them was captured.
    fn available(&self) -> alsa::Result<(usize, Instant)> {
        let status = self.pcm.status()?;
        // Plugins in such a state may wait on, with nothing to read.
        let errno = match status.get_state() {
            State::XRun => libc::EPIPE,
            State::Suspended => libc::ESTRPIPE,
            State::Disconnected => libc::ENODEV,
            _ => 0,
        };
        if errno != 0 {
            return Err(alsa::Error::new("snd_pcm_status", errno));
        }
        let mut frames = usize::try_from(status.get_avail()).unwrap_or_default();
        let stamp = status.get_htstamp();
        let mut counted_at = clock::from_monotonic(Duration::new(
            u64::try_from(stamp.tv_sec).unwrap_or_default(),
            u32::try_from(stamp.tv_nsec).unwrap_or_default(),
        ));
        if frames >= self.setup.buffer_frames {
            // A card whose buffer is full has stopped. Only PCMs without a clock (`null`, `file`)
            // offer that much and go on: they get ours.
            thread::sleep(PERIOD);
            counted_at = clock::now();
            let elapsed = counted_at.saturating_duration_since(self.heard_at);
            let due = elapsed.as_micros() * u128::from(self.setup.rate_hz.get()) / 1_000_000;
            frames = usize::try_from(due)
                .unwrap_or_default()
                .min(self.setup.buffer_frames);
        }
        let unread = self.setup.duration(frames);
        Ok((frames, counted_at.checked_sub(unread).unwrap_or(counted_at)))
    }

    /// Reads up to so many frames into the period.
    fn read(&mut self, frames: usize) -> alsa::Result<()> {
        let frame_bytes = self.setup.frame_bytes();
        let wanted = (frames * frame_bytes).min(self.raw.len());
        let buffer = self.raw.get_mut(..wanted).unwrap_or_default();
        let read = self.pcm.io_bytes().readi(buffer)?;
        let bytes = buffer.get(..read * frame_bytes).unwrap_or_default();
        let Setup {
            encoding, channels, ..
        } = self.setup;
        self.period.samples.clear();
        encoding.mix(bytes, channels, &mut self.period.samples);
        Ok(())
    }

    /// Waits for a period; returns whether one came.
    fn fill(&mut self) -> Result<bool, AudioError> {
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
            Ok(()) if self.period.samples.is_empty() => self.nothing(),
            Ok(()) => {
                self.heard_at = clock::now();
                self.period.captured_at = captured_at;
                self.period.follows_gap = std::mem::take(&mut self.overruns) > 0;
                Ok(true)
            }
            Err(error) => self.recover(error),
        }
    }
}

impl AudioSource for Microphone {
    fn rate_hz(&self) -> NonZeroU32 {
        self.setup.rate_hz
    }

    fn next(&mut self) -> Result<Option<&Period>, AudioError> {
        Ok(self.fill()?.then_some(&self.period))
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}

/// Returns the name of a PCM that converts whatever the PCM `name` delivers.
pub(crate) fn converting(name: &str) -> String {
    if name.starts_with("hw:") {
        format!("plug{name}")
    } else {
        format!("plug:'{name}'")
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

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
    fn the_pcm_that_converts_has_a_name() {
        assert_eq!(converting("hw:CARD=Device"), "plughw:CARD=Device");
        assert_eq!(converting("dsnoop:1"), "plug:'dsnoop:1'");
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
                "--include-ignored",
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
        for (name, expected) in [("silent", 0.0), ("played", 0.125)] {
            let mut microphone = Microphone::open(name).unwrap();
            let started_at = clock::now();
            let mut samples = Vec::new();
            while samples.len() < 9_600 {
                assert!(started_at.elapsed() < Duration::from_secs(10), "{name}");
                let Some(period) = microphone.next().unwrap() else {
                    continue;
                };
                assert!(period.captured_at <= clock::now());
                samples.extend_from_slice(&period.samples);
            }
            let took = started_at.elapsed();
            assert!(took >= Duration::from_millis(150), "{name}: {took:?}");
            assert!(
                samples.iter().all(|s| (s - expected).abs() < 0.001),
                "{name}"
            );
            let description = microphone.description();
            assert!(description.starts_with(name), "{description}");
            assert!(description.ends_with("S32 mono 48000 Hz"), "{description}");
        }
        assert!(cards::recorders().is_empty());
    }
}
