//! Loudspeakers through ALSA (libasound).
//!
//! A PCM is written 20 ms at a time, as signed 16 bit at 48 kHz, to one channel or to both of two.
//! What a card cannot do by itself, `plughw:` converts; we do not. Volume is the mixer's business
//! (`alsamixer`).

use std::ffi::CString;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use alsa::pcm::{Access, Format, Frames, HwParams, PCM};
use alsa::{Direction, ValueOr};
use tracing::debug;

use super::{FRAME_SAMPLES, Frame, SAMPLE_RATE_HZ, Speaker, SpeakerError};
use crate::audio::alsa::converting;
use crate::audio::alsa::messages::Messages;
use crate::clock;

const PERIOD: Duration = Duration::from_millis(20);
const PERIOD_FRAMES: Frames = 960;

/// 80 ms: a busy Pi may not run us for that long before there is a hole in the sound. It is always
/// full, so it is also how much later everything is heard.
const BUFFER_FRAMES: Frames = 3_840;

/// How long one wait may take.
const WAIT_MS: u32 = 200;

/// A loudspeaker that takes nothing for this long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// An open playback PCM.
#[derive(Debug)]
pub(super) struct Output {
    pcm: PCM,
    name: String,
    description: String,
    channels: usize,
    buffer_frames: Frames,
    /// When a frame was last taken.
    taken_at: Instant,
    underruns: u64,
    interleaved: Vec<i16>,
}

impl Output {
    /// Opens the PCM of this name. It starts once its buffer is full.
    pub(super) fn open(name: &str) -> Result<Self, SpeakerError> {
        let messages = Messages::divert();
        Self::prepare(name).inspect_err(|_| messages.log())
    }

    fn prepare(name: &str) -> Result<Self, SpeakerError> {
        let failed = |error| explain(name, error);
        let missing = || SpeakerError::Missing {
            pcm: name.to_owned(),
        };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let pcm = PCM::open(&c_name, Direction::Playback, true).map_err(failed)?;
        let (channels, buffer_frames) = negotiate(&pcm, name)?;
        let title = pcm
            .info()
            .and_then(|info| info.get_name().map(str::to_owned));
        let title = title.unwrap_or_default();
        let layout = if channels == 1 { "mono" } else { "stereo" };
        Ok(Self {
            pcm,
            name: name.to_owned(),
            description: format!("{name} ({title}), {layout}"),
            channels,
            buffer_frames,
            taken_at: clock::now(),
            underruns: 0,
            interleaved: Vec::with_capacity(FRAME_SAMPLES * channels),
        })
    }

    /// Waits for room, and writes what fits; returns how many samples of each channel that was.
    fn write(&mut self, from: usize) -> alsa::Result<usize> {
        if !self.pcm.wait(Some(WAIT_MS))? {
            return Ok(0);
        }
        let rest = self.interleaved.get(from * self.channels..);
        self.pcm.io_i16()?.writei(rest.unwrap_or_default())
    }

    /// Starts again after an underrun; any other error stays one.
    ///
    /// Not `snd_pcm_recover`, which does the same but sleeps for seconds after a suspend.
    fn recover(&mut self, error: alsa::Error) -> Result<(), SpeakerError> {
        match error.errno() {
            libc::EAGAIN => {
                // A plugin that says it is ready too early must not make us spin.
                thread::sleep(PERIOD / 4);
                Ok(())
            }
            libc::EPIPE | libc::ESTRPIPE => {
                self.underruns += 1;
                debug!(pcm = %self.name, underruns = self.underruns, "a hole in what is played");
                self.pcm.prepare().map_err(|e| explain(&self.name, e))
            }
            _ => Err(explain(&self.name, error)),
        }
    }

    /// PCMs without a clock (`null`, `file`) take everything at once: they get ours.
    fn keep_pace(&mut self) {
        let room = self.pcm.avail_update().unwrap_or_default();
        let now = clock::now();
        if room < self.buffer_frames {
            self.taken_at = now;
            return;
        }
        let due_at = self.taken_at + PERIOD;
        let ahead = due_at.saturating_duration_since(now);
        thread::sleep(ahead);
        // Without what was lost by sleeping too long, but no more than a period of it.
        self.taken_at = due_at.max(now.checked_sub(PERIOD).unwrap_or(now));
    }
}

impl Speaker for Output {
    fn play(&mut self, frame: &Frame) -> Result<(), SpeakerError> {
        self.interleaved.clear();
        for &sample in frame {
            self.interleaved
                .extend(std::iter::repeat_n(sample, self.channels));
        }
        let began_at = clock::now();
        let mut written = 0;
        while written < frame.len() {
            match self.write(written) {
                Ok(taken) => written += taken,
                Err(error) => self.recover(error)?,
            }
            let stuck_for = clock::now().saturating_duration_since(began_at);
            if written < frame.len() && stuck_for > STALLED_AFTER {
                return Err(SpeakerError::Stalled {
                    pcm: self.name.clone(),
                    stuck_for: Duration::from_secs(stuck_for.as_secs()),
                });
            }
        }
        self.keep_pace();
        Ok(())
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}

/// Sets format, period and buffer; returns channels and the buffer's size in frames.
fn negotiate(pcm: &PCM, name: &str) -> Result<(usize, Frames), SpeakerError> {
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
        return Err(SpeakerError::Format {
            pcm: name.to_owned(),
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
    // Full, but for what may not fit any more: then there is a whole buffer's time to bring the next.
    sw.set_avail_min(period)
        .and_then(|()| sw.set_start_threshold((buffer - period).max(period)))
        .and_then(|()| pcm.sw_params(&sw))
        .map_err(failed)?;
    Ok((usize::try_from(channels).unwrap_or(1), buffer))
}

fn explain(name: &str, error: alsa::Error) -> SpeakerError {
    let pcm = name.to_owned();
    match error.errno() {
        libc::EBUSY => SpeakerError::Busy { pcm },
        libc::EACCES | libc::EPERM => SpeakerError::Denied { pcm },
        libc::ENOENT | libc::ENODEV | libc::ENXIO => SpeakerError::Missing { pcm },
        errno => SpeakerError::Driver {
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
            "loudspeaker hw:1 is in use by another program"
        );
        assert_eq!(text(libc::ENODEV), "loudspeaker hw:1 is not present");
        assert!(text(libc::EACCES).contains("group `audio`"));
        assert!(text(libc::EIO).contains("snd_pcm_open failed: Input/output"));
    }

    #[test]
    fn an_unknown_name_is_a_missing_loudspeaker() {
        for name in ["no_such_loudspeaker", "hw:\0"] {
            let error = Output::open(name).unwrap_err();
            assert!(matches!(error, SpeakerError::Missing { .. }), "{error:?}");
        }
    }

    /// A PCM that libasound itself provides. Its configuration is global to a process, so the test
    /// that needs it runs in a child.
    const CONFIGURATION: &str =
        "pcm.kept { type file slave.pcm { type null } file PLAYED format raw }";

    #[test]
    #[cfg_attr(
        any(target_arch = "aarch64", target_arch = "arm"),
        ignore = "starts itself, which QEMU without binfmt_misc cannot"
    )]
    fn frames_reach_the_device_whole_in_order_and_at_the_pace_of_the_clock() {
        const MARK: &str = "ROOMCAM_TEST_SPEAKER";
        let name = "frames_reach_the_device_whole_in_order_and_at_the_pace_of_the_clock";
        if std::env::var_os(MARK).is_some() {
            let mut output = Output::open("kept").unwrap();
            let began_at = clock::now();
            for n in 0..20 {
                output.play(&[n; FRAME_SAMPLES]).unwrap();
            }
            let took = began_at.elapsed();
            assert!(took >= Duration::from_millis(300), "{took:?}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let played = dir.path().join("played.raw");
        let text = CONFIGURATION.replace("PLAYED", &played.display().to_string());
        let file = dir.path().join("asound.conf");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--include-ignored", "--nocapture"])
            .arg(format!("talkback::alsa::tests::{name}"))
            .env("ALSA_CONFIG_PATH", &file)
            .env(MARK, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}{errors}");
        assert!(text.contains("1 passed"), "{text}");
        let bytes = std::fs::read(&played).unwrap();
        let expected: Vec<u8> = (0..20_i16)
            .flat_map(|n| n.to_le_bytes().repeat(FRAME_SAMPLES))
            .collect();
        assert!(bytes == expected, "{} bytes were played", bytes.len());
    }
}
