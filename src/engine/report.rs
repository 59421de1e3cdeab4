//! What viewers and systemd are told: the device's switches and its sources, in words. Pure.

use crate::control::{DeviceState, Report, SourceState, SourceStatus, TalkbackState};
use crate::talkback::floor::Floor;

/// Returns the state that is pushed to viewers. `None` stands for a source that is not configured.
pub(super) fn report(
    device: DeviceState,
    viewers: usize,
    camera: Option<&SourceStatus>,
    microphone: Option<&SourceStatus>,
    floor: &Floor,
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
        talkback: match floor.settings() {
            settings if !settings.is_there() => TalkbackState::None,
            settings if settings.key.is_empty() => TalkbackState::Anyone,
            _ => TalkbackState::Key,
        },
        talking: floor.speaking(),
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

/// Returns one line for `systemctl status`: where it is, who watches, and what is not as usual.
///
/// `rooms` are how many the device is in, of how many.
pub(super) fn summary(report: &Report, rooms: (usize, usize)) -> String {
    let place = match rooms {
        (0, _) => "not in a room yet".to_owned(),
        (1, 1) => "in the room".to_owned(),
        (joined, all) if joined < all => format!("in {joined} of {all} rooms"),
        (_, all) => format!("in {all} rooms"),
    };
    let viewers = match report.viewers {
        0 => "nobody watches".to_owned(),
        1 => "1 viewer".to_owned(),
        n => format!("{n} viewers"),
    };
    let camera_is_off = report.video != SourceState::None && !report.device.camera;
    let is_muted = report.audio != SourceState::None && report.device.muted;
    let starts = [("camera", report.video), ("microphone", report.audio)]
        .into_iter()
        .filter(|(_, state)| *state == SourceState::Starting)
        .map(|(what, _)| format!("{what} starts"));
    let mut line = vec![place, viewers];
    line.extend(camera_is_off.then(|| "camera switched off".to_owned()));
    line.extend(is_muted.then(|| "muted".to_owned()));
    line.extend(starts);
    line.extend((report.talking > 0).then(|| format!("{} speaking", report.talking)));
    line.extend((!report.detail.is_empty()).then(|| report.detail.clone()));
    line.join(", ")
}

/// The reasons name the thing themselves: it is said once.
fn waiting_for(what: &str, reason: &str) -> String {
    let reason = reason.strip_prefix(what).unwrap_or(reason).trim_start();
    format!("waiting for {what}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Talkback;

    fn report(
        device: DeviceState,
        viewers: usize,
        camera: Option<&SourceStatus>,
        microphone: Option<&SourceStatus>,
    ) -> Report {
        let floor = Floor::new(Talkback::default());
        super::report(device, viewers, camera, microphone, &floor)
    }

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
            "in the room, 1 viewer, waiting for camera: /dev/video0 is not present"
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
        assert_eq!(
            summary(&report, (0, 1)),
            "not in a room yet, nobody watches, camera switched off"
        );
    }

    #[test]
    fn systemd_is_told_what_the_device_does_in_a_line() {
        let live = SourceStatus::Live {
            description: "tone".to_owned(),
        };
        let told = |device, viewers, camera: &SourceStatus, rooms| {
            let report = report(device, viewers, Some(camera), Some(&live));
            summary(&report, rooms)
        };
        assert_eq!(
            told(ON, 0, &SourceStatus::Off, (1, 1)),
            "in the room, nobody watches"
        );
        assert_eq!(
            told(ON, 1, &SourceStatus::Starting, (2, 3)),
            "in 2 of 3 rooms, 1 viewer, camera starts"
        );
        let muted = DeviceState {
            camera: false,
            muted: true,
        };
        assert_eq!(
            told(muted, 4, &SourceStatus::Off, (3, 3)),
            "in 3 rooms, 4 viewers, camera switched off, muted"
        );
        let nothing = summary(&report(muted, 0, None, None), (0, 2));
        assert_eq!(nothing, "not in a room yet, nobody watches");
    }
}
