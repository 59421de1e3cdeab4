//! What viewers and systemd are told: the device's switches and its sources, in words. Pure.

use crate::control::{DeviceState, Report, SourceState, SourceStatus};

/// Returns the state that is pushed to viewers. `None` stands for a source that is not configured.
pub(super) fn report(
    device: DeviceState,
    viewers: usize,
    camera: Option<&SourceStatus>,
    microphone: Option<&SourceStatus>,
) -> Report {
    let (mut video, mut camera_detail) = state_of("camera", camera);
    if camera.is_some() && !device.camera {
        (video, camera_detail) = (SourceState::Off, None);
    }
    let (audio, microphone_detail) = state_of("microphone", microphone);
    let details: Vec<_> = camera_detail.into_iter().chain(microphone_detail).collect();
    Report {
        device,
        viewers,
        video,
        audio,
        detail: details.join("; "),
    }
}

fn state_of(what: &str, status: Option<&SourceStatus>) -> (SourceState, Option<String>) {
    match status {
        None => (SourceState::None, None),
        Some(SourceStatus::Off) => (SourceState::Off, None),
        Some(SourceStatus::Starting) => (SourceState::Starting, None),
        Some(SourceStatus::Live { .. }) => (SourceState::Live, None),
        Some(SourceStatus::Waiting { reason }) => {
            (SourceState::Waiting, Some(waiting_for(what, reason)))
        }
    }
}

/// Returns one line for `systemctl status`.
///
/// `rooms` are how many the device is in, of how many.
pub(super) fn summary(report: &Report, rooms: (usize, usize)) -> String {
    let mut line = match report.viewers {
        1 => "1 viewer".to_owned(),
        n => format!("{n} viewers"),
    };
    match rooms {
        (0, _) => line.push_str(", not in a room yet"),
        (joined, all) if joined < all => {
            line.push_str(&format!(", in {joined} of {all} rooms"));
        }
        _ => {}
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

    fn missing() -> SourceStatus {
        SourceStatus::Waiting {
            reason: "camera /dev/video0 is not present".to_owned(),
        }
    }

    #[test]
    fn a_missing_camera_is_named_once_while_the_sound_plays() {
        let live = SourceStatus::Live {
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
        let line = summary(&report, (1, 1));
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
        assert_eq!(summary(&report, (0, 1)), "0 viewers, not in a room yet");
    }
}
