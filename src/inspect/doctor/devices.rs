//! What a configuration has of cameras, encoders, microphones and loudspeakers → the checks of them.

use std::path::{Path, PathBuf};

use super::access::{self, Kind};
use super::finding::{Finding, Level};
use super::service::Service;
use super::{Check, DEVICE, QUICK, camera, media, microphone, passwd, unanswered, within};
use crate::audio::AudioError;
use crate::config::{self, Config};
use crate::talkback::SpeakerError;
use crate::video::{self, inventory};

/// Most cameras beside the configured one that are tried.
const MAX_OTHER_CAMERAS: u32 = 4;

/// The configured camera, the others, and the encoders, one after the other: two cameras on one bus may
/// not deliver at once, and some encoders are open once only.
pub(super) fn cameras(config: &Config, service_runs: bool) -> Vec<Check> {
    let video = &config.video;
    if !video.is_there() {
        let none = || vec![Finding::ok("camera", "none is configured.")];
        return vec![Check::new("camera", QUICK, none)];
    }
    let (configured, with_others, encoded) = (video.clone(), video.clone(), video.clone());
    vec![
        Check::new("camera", DEVICE, move || {
            let tried = camera::try_source(&configured);
            vec![media::camera(true, service_runs, &tried)]
        }),
        Check::new(
            "other camera",
            DEVICE * (MAX_OTHER_CAMERAS + 1),
            move || other_cameras(&with_others, service_runs),
        ),
        Check::new("encoder", DEVICE, move || encoders(&encoded, service_runs)),
    ]
}

/// Tries the cameras that could be used beside the configured one.
fn other_cameras(config: &config::Video, service_runs: bool) -> Vec<Finding> {
    const CHECK: &str = "other camera";
    let configured = inventory::chosen(config).map(|(source, _)| source);
    let configured = configured.unwrap_or_default();
    let node = Path::new(&configured).canonicalize().ok();
    let usable = video::cameras().into_iter().filter(|c| c.is_usable());
    let paths = usable.map(|camera| camera.path);
    let others = paths.filter(|path| Some(path) != node.as_ref());
    let csi = (configured != "csi" && inventory::has_csi_camera(&config.csi)).then_some("csi");
    let others = others.map(|path| path.display().to_string());
    others
        .chain(csi.map(str::to_owned))
        .take(usize::try_from(MAX_OTHER_CAMERAS).unwrap_or_default())
        .map(|source| {
            let other = config::Video {
                source: source.clone(),
                ..config.clone()
            };
            let tried = within(DEVICE, move || camera::try_source(&other));
            tried.map_or_else(
                || Finding::warning(CHECK, format!("{source}: {}", unanswered(DEVICE))),
                |tried| media::camera(false, service_runs, &tried),
            )
        })
        .collect()
}

fn encoders(config: &config::Video, service_runs: bool) -> Vec<Finding> {
    let hardware: Vec<PathBuf> = inventory::encoders()
        .into_iter()
        .filter(inventory::Encoder::makes_h264)
        .filter_map(|encoder| encoder.path)
        .collect();
    let is_needed = hardware.is_empty() || config.encoder == "software";
    let mut findings: Vec<Finding> = hardware
        .iter()
        .map(|path| {
            let shown = path.display().to_string();
            let tried = camera::try_hardware(path, config);
            let is_configured = config.encoder == shown;
            media::hardware_encoder(&shown, is_configured, service_runs, &tried)
        })
        .collect();
    let tried = camera::try_openh264(config);
    let has_assembly = video::openh264::has_assembly();
    findings.push(media::software_encoder(has_assembly, is_needed, &tried));
    findings
}

/// The configured microphone.
pub(super) fn microphones(config: &Config, service_runs: bool) -> Vec<Check> {
    let audio = config.audio.clone();
    if !audio.is_there() {
        let none = || vec![Finding::ok("microphone", "none is configured.")];
        return vec![Check::new("microphone", QUICK, none)];
    }
    let failure = without_sound(config);
    vec![Check::new("microphone", DEVICE, move || {
        let tried = microphone::try_source(&audio);
        let holder = match &tried {
            Err(AudioError::Busy { .. }) => microphone::holder(&audio.source),
            _ => None,
        };
        let holder = holder.as_deref();
        vec![media::microphone(failure, service_runs, holder, &tried)]
    })]
}

/// The configured loudspeaker, where there is one.
pub(super) fn speakers(config: &Config, service_runs: bool) -> Vec<Check> {
    if !config.talkback.is_there() {
        return Vec::new();
    }
    let sink = config.talkback.sink.clone();
    vec![Check::new("speaker", DEVICE, move || {
        let tried = microphone::try_speaker(&sink);
        let holder = match &tried {
            Err(SpeakerError::Busy { .. }) => microphone::holder_of_speaker(&sink),
            _ => None,
        };
        vec![media::speaker(service_runs, holder.as_deref(), &tried)]
    })]
}

/// Returns how bad a microphone that fails is: the picture is what most look for, where there is one.
fn without_sound(config: &Config) -> Level {
    if config.video.is_there() {
        Level::Warning
    } else {
        Level::Error
    }
}

/// Who may open what the configuration needs; without a configuration, what there is.
pub(super) fn access(config: Option<&Config>, service: Option<Service>) -> Check {
    let config = config.cloned();
    Check::new("access", QUICK, move || {
        let user = passwd::user(service.as_ref());
        let kinds = config.map_or_else(
            || vec![(Kind::Video, None), (Kind::Audio, None)],
            |config| needed(&config),
        );
        let of_kind = |(kind, failure): (Kind, Option<Level>)| {
            access::findings(kind, &user, &passwd::nodes(kind), failure)
        };
        kinds.into_iter().flat_map(of_kind).collect()
    })
}

/// Returns the kinds of nodes that matter, and how bad it is where they cannot be opened; `None` where nothing
/// is configured that they are for.
fn needed(config: &Config) -> Vec<(Kind, Option<Level>)> {
    let is_made_up =
        |source: &str| matches!(source, "none" | "pattern" | "tone") || source.starts_with("file:");
    let video = (!is_made_up(&config.video.source)).then_some(Level::Error);
    let audio = (!is_made_up(&config.audio.source)).then(|| without_sound(config));
    let is_csi = video.is_some()
        && inventory::chosen(&config.video).is_ok_and(|(source, _)| source == "csi");
    let mut kinds = vec![(Kind::Video, video), (Kind::Audio, audio)];
    if is_csi {
        kinds.extend([(Kind::Media, video), (Kind::DmaHeap, video)]);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed_by(video: &str, audio: &str) -> Vec<(Kind, Option<Level>)> {
        let mut config = Config::default();
        video.clone_into(&mut config.video.source);
        audio.clone_into(&mut config.audio.source);
        needed(&config)
    }

    #[test]
    fn a_microphone_is_needed_where_there_is_nothing_else() {
        let (warning, error) = (Some(Level::Warning), Some(Level::Error));
        assert_eq!(
            needed_by("/dev/video0", "auto"),
            [(Kind::Video, error), (Kind::Audio, warning)]
        );
        assert_eq!(
            needed_by("none", "auto"),
            [(Kind::Video, None), (Kind::Audio, error)]
        );
        assert_eq!(
            needed_by("pattern", "tone"),
            [(Kind::Video, None), (Kind::Audio, None)]
        );
    }

    #[test]
    fn a_csi_camera_needs_more_than_video_nodes() {
        let kinds: Vec<Kind> = needed_by("csi", "none")
            .iter()
            .map(|(kind, _)| *kind)
            .collect();
        assert_eq!(
            kinds,
            [Kind::Video, Kind::Audio, Kind::Media, Kind::DmaHeap]
        );
    }
}
