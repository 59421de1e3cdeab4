//! What cameras, encoders and microphones gave when they were tried. Pure.

use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, Level, sentence};
use crate::audio::AudioError;
use crate::talkback::SpeakerError;
use crate::video::{VideoError, names_holder};

/// The loudest sample of what counts as silence, of 32767: -66 dB. A microphone's own noise is louder.
const SILENCE: u16 = 16;

const INSTALL_RPICAM: &str = "sudo apt install rpicam-apps-lite";
const REPLUG: &str = "unplug it and plug it in again; sudo dmesg | tail";

/// A first frame that took this long is worth a word: viewers wait for it.
const SLOW: Duration = Duration::from_secs(4);

/// What a camera gave.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// As the log describes the source.
    pub(super) description: String,
    pub(super) after: Duration,
    pub(super) bytes: usize,
}

/// Judges a camera. `is_configured`: it is the one that the daemon would open.
pub(super) fn camera(
    is_configured: bool,
    service_runs: bool,
    tried: &Result<Frame, VideoError>,
) -> Finding {
    let check = if is_configured {
        "camera"
    } else {
        "other camera"
    };
    let error = match tried {
        Ok(frame) => {
            let ms = frame.after.as_millis();
            let description = &frame.description;
            let kb = frame.bytes.div_ceil(1_000);
            let text = format!("{description}: first frame after {ms} ms, {kb} kB.");
            return if frame.after < SLOW {
                Finding::ok(check, text)
            } else {
                Finding::warning(check, text).mended_by("roomcam devices")
            };
        }
        Err(error) => error,
    };
    if let VideoError::Busy { path, holder } = error
        && is_ours(holder.as_deref(), service_runs)
    {
        let holder = holder.as_deref().unwrap_or("roomcam, it seems");
        let path = path.display();
        let text = format!("{path} is in use by the running service: {holder}.");
        return Finding::ok(check, text);
    }
    let finding = if is_configured {
        Finding::error(check, sentence(error))
    } else {
        Finding::warning(check, sentence(error))
    };
    finding.mended_by(match error {
        VideoError::Busy { path, holder } => match holder.as_deref().and_then(process) {
            Some(id) => format!("sudo kill {id}"),
            None => names_holder(path),
        },
        VideoError::Permission { .. } => {
            "sudo usermod -aG video $USER, then log out and in again".to_owned()
        }
        // A sensor whose program is not there.
        VideoError::NoCamera { seen } if seen.contains("raw Bayer") => INSTALL_RPICAM.to_owned(),
        VideoError::NoCamera { .. } | VideoError::Missing { .. } | VideoError::Format { .. } => {
            "roomcam devices".to_owned()
        }
        VideoError::Program { reason, .. } if reason.contains("not installed") => {
            INSTALL_RPICAM.to_owned()
        }
        VideoError::Program { program, .. } => list_cameras(program),
        VideoError::Stalled { path, .. } if is_program(path) => {
            let list = list_cameras(&path.to_string_lossy());
            format!("switch the machine off and push the ribbon cable in anew, then: {list}")
        }
        VideoError::NoSignal { path, .. } | VideoError::SignalChanged { path } => {
            format!("v4l2-ctl -d {} --query-dv-timings", path.display())
        }
        VideoError::Driver { .. } | VideoError::Stalled { .. } => REPLUG.to_owned(),
        VideoError::NoKeyframe { .. } => {
            "start the program that writes to it with a keyframe every second: ffmpeg … -g 30"
                .to_owned()
        }
        VideoError::File { .. } => "write another video.source".to_owned(),
        VideoError::Encoder(_) | VideoError::HardwareEncoder { .. } => {
            "write encoder = \"software\" into [video]".to_owned()
        }
    })
}

/// Whether that is the program of a CSI camera, and no device.
fn is_program(path: &Path) -> bool {
    !path.starts_with("/dev")
}

/// Returns the command that shows what libcamera sees; its name changed together with that of `program`.
fn list_cameras(program: &str) -> String {
    let hello = if program.ends_with("libcamera-vid") {
        "libcamera-hello"
    } else {
        "rpicam-hello"
    };
    format!("{hello} --list-cameras")
}

/// How fast an encoder was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) each: Duration,
    pub(super) size: (u32, u32),
    pub(super) fps: u32,
}

/// Judges OpenH264. `is_needed`: no hardware takes its place.
pub(super) fn software_encoder(
    has_assembly: bool,
    is_needed: bool,
    tried: &Result<Pace, VideoError>,
) -> Finding {
    const CHECK: &str = "encoder";
    let pace = match tried {
        Ok(pace) => pace,
        Err(error) => return Finding::error(CHECK, sentence(error)),
    };
    let Pace { each, size, fps } = *pace;
    let (width, height) = size;
    let ms = each.as_secs_f64() * 1_000.0;
    let text = format!("OpenH264 takes {ms:.1} ms for a picture of {width}x{height}.");
    let has_time = each.saturating_mul(fps.max(1)) < Duration::from_secs(1);
    if is_needed && !has_time {
        let text = format!("{text} That is too long for {fps} a second.");
        return Finding::warning(CHECK, text)
            .mended_by("write a smaller width, height or fps into [video]");
    }
    if !has_assembly {
        let text = format!("{text} It was built without its assembly, which takes twice the CPU.");
        return Finding::warning(CHECK, text).mended_by(
            "sudo apt install nasm && cargo clean -p openh264-sys2 -p roomcam && cargo build --release",
        );
    }
    Finding::ok(CHECK, text)
}

/// Judges a hardware encoder, which took `tried` to be opened and to prove itself.
pub(super) fn hardware_encoder(
    path: &str,
    is_configured: bool,
    service_runs: bool,
    tried: &Result<Duration, VideoError>,
) -> Finding {
    const CHECK: &str = "encoder";
    match tried {
        Ok(took) => {
            let ms = took.as_millis();
            Finding::ok(
                CHECK,
                format!("{path} encoded a picture; ready after {ms} ms."),
            )
        }
        Err(VideoError::Busy { holder, .. }) if is_ours(holder.as_deref(), service_runs) => {
            Finding::ok(CHECK, format!("{path} is in use by the running service."))
        }
        Err(error) => {
            let text = format!("{} OpenH264 takes its place.", sentence(error));
            let finding = Finding::warning(CHECK, text);
            if is_configured {
                finding.mended_by("write encoder = \"auto\" into [video]")
            } else {
                finding.mended_by("write encoder = \"software\" into [video]")
            }
        }
    }
}

/// What a microphone gave.
#[derive(Clone, Debug)]
pub(super) struct Sound {
    pub(super) description: String,
    /// How long until the first sample.
    pub(super) after: Duration,
    /// How much of it was heard.
    pub(super) length: Duration,
    /// The loudest sample.
    pub(super) peak: u16,
}

/// Judges the configured microphone. `failure` is how bad it is if it fails: pictures are shown all the same,
/// where there are any.
pub(super) fn microphone(
    failure: Level,
    service_runs: bool,
    holder: Option<&str>,
    tried: &Result<Sound, AudioError>,
) -> Finding {
    const CHECK: &str = "microphone";
    let error = match tried {
        Ok(sound) => return heard(failure, sound),
        Err(error) => error,
    };
    if matches!(error, AudioError::Busy { .. }) && is_ours(holder, service_runs) {
        let holder = holder.unwrap_or("roomcam, it seems");
        return Finding::ok(CHECK, format!("in use by the running service: {holder}."));
    }
    let mut text = sentence(error);
    if let (AudioError::Busy { pcm, .. }, Some(holder)) = (error, holder) {
        text = format!("microphone {pcm} is in use by {holder}.");
    }
    if failure != Level::Error {
        text.push_str(WITHOUT_SOUND);
    }
    Finding::new(CHECK, failure, text).mended_by(match error {
        AudioError::Busy { .. } => match holder.and_then(process) {
            Some(id) => format!("sudo kill {id}"),
            None => WHO_HAS_SOUND.to_owned(),
        },
        AudioError::Denied { .. } => TO_AUDIO.to_owned(),
        AudioError::Driver { .. } | AudioError::Stalled { .. } => REPLUG.to_owned(),
        AudioError::NoMicrophone => {
            "plug one in, or write source = \"none\" into [audio]".to_owned()
        }
        AudioError::Format { converting, .. } => {
            format!("write source = \"{converting}\" into [audio]")
        }
        AudioError::Missing { .. } | AudioError::Encoder(_) | AudioError::Resampler(_) => {
            "roomcam devices".to_owned()
        }
    })
}

/// What is left where a microphone fails.
const WITHOUT_SOUND: &str = " Pictures are shown without sound.";

const WHO_HAS_SOUND: &str = "sudo fuser -v /dev/snd/*";
const TO_AUDIO: &str = "sudo usermod -aG audio $USER, then log out and in again";

fn heard(failure: Level, sound: &Sound) -> Finding {
    const CHECK: &str = "microphone";
    let Sound {
        description,
        after,
        length,
        peak,
    } = sound;
    let ms = after.as_millis();
    if length.is_zero() {
        let text = format!("{description}: opened, but no sound came.");
        return Finding::new(CHECK, failure, text).mended_by(REPLUG);
    }
    if *peak <= SILENCE {
        let text = format!("{description}: silent. Is it muted, or its volume zero?");
        let card = description
            .split("CARD=")
            .nth(1)
            .and_then(|rest| rest.split([',', ' ']).next());
        let remedy = match card {
            Some(card) => format!("alsamixer --card {card} --view capture"),
            None => "alsamixer --view capture".to_owned(),
        };
        return Finding::warning(CHECK, text).mended_by(remedy);
    }
    let decibels = 20.0 * (f64::from(*peak) / 32_768.0).log10();
    let text = format!("{description}: sound after {ms} ms, {decibels:.0} dB at its loudest.");
    Finding::ok(CHECK, text)
}

/// Judges the configured loudspeaker: what it is, or why nobody can be heard. It is never needed for pictures.
pub(super) fn speaker(
    service_runs: bool,
    holder: Option<&str>,
    tried: &Result<String, SpeakerError>,
) -> Finding {
    const CHECK: &str = "speaker";
    let error = match tried {
        Ok(description) => return Finding::ok(CHECK, format!("{description}: opened.")),
        Err(error) => error,
    };
    let is_busy = matches!(error, SpeakerError::Busy { .. });
    if is_busy && is_ours(holder, service_runs) {
        let holder = holder.unwrap_or("roomcam, it seems");
        return Finding::ok(CHECK, format!("in use by the running service: {holder}."));
    }
    let text = format!("{error}. Viewers cannot be heard.");
    Finding::warning(CHECK, text).mended_by(match error {
        SpeakerError::Busy { .. } => match holder.and_then(process) {
            Some(id) => format!("sudo kill {id}"),
            None => WHO_HAS_SOUND.to_owned(),
        },
        SpeakerError::Denied { .. } => TO_AUDIO.to_owned(),
        SpeakerError::NoSpeaker => {
            "plug one in, or write sink = \"none\" into [talkback]".to_owned()
        }
        SpeakerError::Format { converting, .. } => {
            format!("write sink = \"{converting}\" into [talkback]")
        }
        SpeakerError::Missing { .. } => "roomcam devices".to_owned(),
        _ => REPLUG.to_owned(),
    })
}

/// Whether whoever has a device is roomcam itself. Who it is can often not be seen; then the running
/// service is the likeliest.
fn is_ours(holder: Option<&str>, service_runs: bool) -> bool {
    // Also a program that it has started: `rpicam-vid (pid 9) of roomcam (pid 7)`.
    holder.map_or(service_runs, |holder| {
        holder.starts_with("roomcam (pid ") || holder.contains(" of roomcam (pid ")
    })
}

/// Reads the number of `guvcview (pid 412)`.
fn process(holder: &str) -> Option<u32> {
    let (_, id) = holder.rsplit_once("(pid ")?;
    id.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn busy(holder: Option<&str>) -> Result<Frame, VideoError> {
        Err(VideoError::Busy {
            path: "/dev/video0".into(),
            holder: holder.map(str::to_owned),
        })
    }

    #[test]
    fn a_frame_is_told_with_its_time() {
        let frame = Frame {
            description: "vivid YUYV 320x180 at 15 fps, encoded by OpenH264".to_owned(),
            after: Duration::from_millis(212),
            bytes: 4_321,
        };
        let finding = camera(true, false, &Ok(frame.clone()));
        assert_eq!(finding.level, Level::Ok);
        assert!(
            finding
                .text
                .ends_with("OpenH264: first frame after 212 ms, 5 kB.")
        );
        let slow = Frame {
            after: Duration::from_secs(5),
            ..frame
        };
        assert_eq!(camera(true, false, &Ok(slow)).level, Level::Warning);
    }

    #[test]
    fn a_camera_that_the_service_holds_is_well_and_others_are_named() {
        let level = |holder, runs| camera(true, runs, &busy(holder)).level;
        assert_eq!(level(Some("roomcam (pid 7)"), false), Level::Ok);
        assert_eq!(level(None, true), Level::Ok, "root alone sees who it is");
        assert_eq!(level(None, false), Level::Error);
        let finding = camera(true, true, &busy(Some("guvcview (pid 412)")));
        assert_eq!(finding.level, Level::Error);
        assert_eq!(
            finding.text,
            "camera /dev/video0 is in use by guvcview (pid 412)."
        );
        assert_eq!(finding.remedy.unwrap(), "sudo kill 412");
    }

    #[test]
    fn a_csi_camera_that_the_services_program_has_is_well() {
        let busy = |holder: Option<&str>| {
            Err(VideoError::Busy {
                path: "csi".into(),
                holder: holder.map(str::to_owned),
            })
        };
        let ours = camera(
            true,
            true,
            &busy(Some("rpicam-vid (pid 9) of roomcam (pid 7)")),
        );
        assert_eq!(ours.level, Level::Ok);
        assert_eq!(
            ours.text,
            "csi is in use by the running service: rpicam-vid (pid 9) of roomcam (pid 7)."
        );
        let others = camera(true, true, &busy(Some("rpicam-vid (pid 9)")));
        assert_eq!(others.remedy.as_deref(), Some("sudo kill 9"));
        let somebodys = camera(true, false, &busy(None));
        assert_eq!(
            somebodys.remedy.as_deref(),
            Some("sudo fuser -v /dev/media*")
        );
    }

    #[test]
    fn a_sensor_without_its_program_is_told_the_package() {
        let remedy = |seen: &str| {
            let error = VideoError::NoCamera {
                seen: format!("; /dev/video0 (unicam) offers {seen}"),
            };
            camera(true, false, &Err(error)).remedy.unwrap()
        };
        assert_eq!(remedy("GREY"), "roomcam devices");
        assert_eq!(
            remedy("raw Bayer sensor data alone (RG10), as CSI sensors behind libcamera do"),
            "sudo apt install rpicam-apps-lite"
        );
    }

    #[test]
    fn a_csi_camera_that_is_silent_has_a_cable_that_is_no_plug() {
        let silent = |path: &str| {
            let error = VideoError::Stalled {
                path: path.into(),
                silent_for: Duration::from_secs(5),
            };
            camera(true, false, &Err(error)).remedy.unwrap()
        };
        let remedy = silent("/usr/bin/rpicam-vid");
        assert!(remedy.contains("ribbon cable"), "{remedy}");
        assert!(remedy.ends_with("rpicam-hello --list-cameras"), "{remedy}");
        assert!(silent("/usr/bin/libcamera-vid").ends_with("libcamera-hello --list-cameras"));
        assert_eq!(silent("/dev/video0"), REPLUG);
    }

    #[test]
    fn what_fails_on_a_camera_that_is_not_configured_is_a_warning() {
        let missing = Err(VideoError::Missing {
            name: "/dev/video2".to_owned(),
        });
        assert_eq!(camera(true, false, &missing).level, Level::Error);
        let other = camera(false, false, &missing);
        assert_eq!((other.check, other.level), ("other camera", Level::Warning));
        assert_eq!(other.remedy.unwrap(), "roomcam devices");
    }

    #[test]
    fn an_encoder_that_is_too_slow_or_lacks_its_assembly_is_a_warning() {
        let pace = |ms| {
            Ok(Pace {
                each: Duration::from_millis(ms),
                size: (1280, 720),
                fps: 30,
            })
        };
        assert_eq!(software_encoder(true, true, &pace(5)).level, Level::Ok);
        let slow = software_encoder(true, true, &pace(50));
        assert_eq!(slow.level, Level::Warning);
        assert!(slow.text.contains("too long for 30 a second"), "{slow:?}");
        assert_eq!(software_encoder(true, false, &pace(50)).level, Level::Ok);
        let plain = software_encoder(false, true, &pace(5));
        assert!(plain.remedy.unwrap().contains("nasm"));
        let failed = Err(VideoError::HardwareEncoder {
            path: "/dev/video11".into(),
            reason: "is no encoder".to_owned(),
        });
        let hardware = hardware_encoder("/dev/video11", true, false, &failed);
        assert_eq!(hardware.level, Level::Warning);
        assert!(
            hardware
                .text
                .ends_with("is no encoder. OpenH264 takes its place.")
        );
    }

    #[test]
    fn silence_is_a_warning_and_sound_has_a_level() {
        let sound = |peak| {
            Ok(Sound {
                description: "plughw:CARD=Device,DEV=0 (USB Audio), mono".to_owned(),
                after: Duration::from_millis(12),
                length: Duration::from_secs(1),
                peak,
            })
        };
        let hear = |peak| microphone(Level::Warning, false, None, &sound(peak));
        assert_eq!(hear(0).level, Level::Warning);
        assert_eq!(
            hear(3).remedy.unwrap(),
            "alsamixer --card Device --view capture"
        );
        let loud = hear(16_384);
        assert_eq!(loud.level, Level::Ok);
        assert!(loud.text.ends_with("-6 dB at its loudest."), "{loud:?}");
    }

    #[test]
    fn a_busy_microphone_names_who_has_it() {
        let busy = Err(AudioError::Busy {
            pcm: "plughw:CARD=Device".to_owned(),
            holder: None,
        });
        let finding = microphone(Level::Error, true, Some("arecord (pid 9)"), &busy);
        assert_eq!(
            finding.text,
            "microphone plughw:CARD=Device is in use by arecord (pid 9)."
        );
        assert_eq!(finding.remedy.unwrap(), "sudo kill 9");
        let ours = microphone(Level::Warning, false, Some("roomcam (pid 9)"), &busy);
        assert_eq!(ours.level, Level::Ok);
    }

    #[test]
    fn a_microphone_that_fails_is_as_bad_as_what_is_left_without_it() {
        let judge = |failure| microphone(failure, false, None, &Err(AudioError::NoMicrophone));
        let beside_pictures = judge(Level::Warning);
        assert_eq!(beside_pictures.level, Level::Warning);
        assert_eq!(
            beside_pictures.text,
            "no microphone found. Pictures are shown without sound."
        );
        assert_eq!(judge(Level::Error).level, Level::Error);
        assert_eq!(judge(Level::Error).text, "no microphone found.");
    }

    #[test]
    fn a_loudspeaker_is_never_an_error() {
        let missing = Err(SpeakerError::Missing {
            pcm: "plughw:CARD=Device".to_owned(),
        });
        let finding = speaker(false, None, &missing);
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(
            finding.text,
            "loudspeaker plughw:CARD=Device is not present. Viewers cannot be heard."
        );
        let busy = Err(SpeakerError::Busy {
            pcm: "plughw:CARD=Device".to_owned(),
        });
        let level = |holder, runs| speaker(runs, holder, &busy).level;
        assert_eq!(level(Some("roomcam (pid 9)"), true), Level::Ok);
        assert_eq!(level(Some("aplay (pid 9)"), true), Level::Warning);
        let finding = speaker(
            false,
            None,
            &Ok("plughw:CARD=Device (USB), mono".to_owned()),
        );
        assert_eq!(finding.text, "plughw:CARD=Device (USB), mono: opened.");
    }
}
