//! What viewers and systemd are told: the device's switches and its sources, in words. Pure.

use crate::audio::capture::AudioStatus;
use crate::control::{DeviceState, Report, SourceState};
use crate::video::capture::CaptureStatus;

/// Returns the state that is pushed to viewers. `None` stands for a source that is not configured.
pub(super) fn report(
    device: DeviceState,
    viewers: usize,
    video: Option<&CaptureStatus>,
    audio: Option<&AudioStatus>,
) -> Report {
    let (video, camera_detail) = match video {
        None => (SourceState::None, None),
        Some(_) if !device.camera => (SourceState::Off, None),
        Some(CaptureStatus::Off) => (SourceState::Off, None),
        Some(CaptureStatus::Starting) => (SourceState::Starting, None),
        Some(CaptureStatus::Live { .. }) => (SourceState::Live, None),
        Some(CaptureStatus::Waiting { reason }) => {
            (SourceState::Waiting, Some(waiting_for("camera", reason)))
        }
    };
    let (audio, microphone_detail) = match audio {
        None => (SourceState::None, None),
        Some(AudioStatus::Off) => (SourceState::Off, None),
        Some(AudioStatus::Starting) => (SourceState::Starting, None),
        Some(AudioStatus::Live { .. }) => (SourceState::Live, None),
        Some(AudioStatus::Waiting { reason }) => (
            SourceState::Waiting,
            Some(waiting_for("microphone", reason)),
        ),
    };
    let details: Vec<_> = camera_detail.into_iter().chain(microphone_detail).collect();
    Report {
        device,
        viewers,
        video,
        audio,
        detail: details.join("; "),
    }
}

/// Returns one line for `systemctl status`.
pub(super) fn summary(report: &Report, in_room: bool) -> String {
    let mut line = match report.viewers {
        1 => "1 viewer".to_owned(),
        n => format!("{n} viewers"),
    };
    if !in_room {
        line.push_str(", not in a room yet");
    }
    if !report.detail.is_empty() {
        line.push_str(", ");
        line.push_str(&report.detail);
    }
    line
}

/// The reasons name the thing themselves: it is said once.
fn waiting_for(what: &str, reason: &str) -> String {
    let reason = reason.strip_prefix(what).unwrap_or(reason).trim_start();
    format!("waiting for {what}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: DeviceState = DeviceState {
        camera: true,
        muted: false,
    };

    fn missing() -> CaptureStatus {
        CaptureStatus::Waiting {
            reason: "camera /dev/video0 is not present".to_owned(),
        }
    }

    #[test]
    fn a_missing_camera_is_named_once_while_the_sound_plays() {
        let live = AudioStatus::Live {
            description: "tone".to_owned(),
        };
        let report = report(ON, 1, Some(&missing()), Some(&live));
        assert_eq!(
            report.detail,
            "waiting for camera: /dev/video0 is not present"
        );
        assert_eq!(
            (report.video, report.audio),
            (SourceState::Waiting, SourceState::Live)
        );
        let line = summary(&report, true);
        assert_eq!(
            line,
            "1 viewer, waiting for camera: /dev/video0 is not present"
        );
    }

    #[test]
    fn a_camera_that_is_switched_off_is_not_waited_for() {
        let off = DeviceState {
            camera: false,
            ..ON
        };
        let report = report(off, 0, Some(&missing()), None);
        assert_eq!(
            (report.video, report.audio),
            (SourceState::Off, SourceState::None)
        );
        assert_eq!(report.detail, "");
        assert_eq!(summary(&report, false), "0 viewers, not in a room yet");
    }
}
