//! The camera as viewers steer it, keep a picture of it, and miss it: settings, snapshots, and what is
//! shown in its place.

use std::path::Path;
use std::time::Duration;

use roomcam::clock;
use roomcam::video::mjpeg::Mjpeg;
use roomcam::video::openh264;
use roomcam::watch::depacketize::AccessUnit;
use roomcam::watch::protocol::{Command as Control, Reply, Setting};
use roomcam::watch::seen::Seen;
use roomcam::watch::viewer::Viewer;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::support::demo::Demo;
use crate::watching::{demo, more_frames, until, viewer};

/// Until viewers are told that the camera is away, in words and in a picture: measured are 0.06 s of one that
/// dies, 0.81 s of one that hangs.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// From a viewer's offer to the first picture, of a camera that starts at once. On a quiet machine 0.1 s.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// From a camera's return to its picture: measured are 0.25 to 1.0 s.
const BACK_WITHIN: Duration = Duration::from_secs(3);

async fn reply(viewer: &Viewer, command: Control) -> Reply {
    viewer.command(command).await.expect("a reply")
}

fn setting<'a>(seen: &'a Seen, id: &str) -> Option<&'a Setting> {
    seen.controls.iter().find(|setting| setting.id == id)
}

fn is_set(id: &'static str, value: i64) -> impl Fn(&Seen) -> bool {
    move |seen| setting(seen, id).is_some_and(|setting| setting.value == value)
}

fn video(what: &'static str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.state.as_ref().is_some_and(|state| state.video == what)
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn what_one_viewer_sets_is_told_to_all_and_outlives_the_camera() {
    let demo = demo("");
    let mut one = viewer(&demo, 1).await;
    let mut other = viewer(&demo, 1).await;
    for viewer in [&mut one, &mut other] {
        until(viewer, "it is told what there is", is_set("brightness", 0)).await;
    }
    let listed = reply(&one, Control::ListControls).await.controls;
    let ids: Vec<_> = listed.iter().flatten().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["brightness", "vertical_flip", "color_effects"]);

    let brighter = Control::SetControl {
        control: "brightness",
        value: 40,
    };
    assert_eq!(reply(&one, brighter).await.value, Some(40));
    until(&mut other, "it is told", is_set("brightness", 40)).await;

    reply(&one, Control::SetCamera { on: false }).await;
    let has_none = |seen: &Seen| seen.controls.is_empty();
    until(&mut other, "there is nothing to set", has_none).await;
    reply(&one, Control::SetCamera { on: true }).await;
    until(&mut other, "it is as it was", is_set("brightness", 40)).await;

    assert_eq!(reply(&other, Control::ResetControls).await.error, None);
    until(&mut one, "it is reset", is_set("brightness", 0)).await;
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn what_cannot_be_set_is_refused_with_what_can() {
    let demo = demo("");
    let mut viewer = viewer(&demo, 1).await;
    until(&mut viewer, "it is told", is_set("brightness", 0)).await;
    let refusal = async |control, value| {
        let set = Control::SetControl { control, value };
        let error = reply(&viewer, set).await.error.expect("a refusal");
        (error.code, error.message)
    };
    let (code, message) = refusal("brightness", 65).await;
    assert_eq!(code, "out-of-range");
    assert_eq!(message, "brightness takes -64 to 64, not 65");
    let (code, message) = refusal("color_effects", -1).await;
    assert_eq!(code, "out-of-range");
    assert!(message.contains("1 (Black & White)"), "{message}");
    let (code, message) = refusal("zoom_absolute", 1).await;
    assert_eq!(code, "no-control");
    assert!(message.contains("it has brightness, "), "{message}");
    let (code, _) = refusal("bitrate", 1).await;
    assert_eq!(code, "bad-command", "nothing but what is listed");

    reply(&viewer, Control::SetCamera { on: false }).await;
    let has_none = |seen: &Seen| seen.controls.is_empty();
    until(&mut viewer, "there is nothing to set", has_none).await;
    let brighter = Control::SetControl {
        control: "brightness",
        value: 1,
    };
    for command in [brighter, Control::Snapshot] {
        let error = reply(&viewer, command).await.error.expect("a refusal");
        assert_eq!(error.code, "no-camera");
    }
    let listed = reply(&viewer, Control::ListControls).await.controls;
    assert_eq!(listed, Some(Vec::new()));
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_snapshot_is_a_jpeg_file_of_the_picture() {
    let demo = demo("");
    let mut viewer = viewer(&demo, 10).await;
    let announced = reply(&viewer, Control::Snapshot).await.snapshot;
    let announced = announced.expect("a file is announced");
    assert_eq!((announced.width, announced.height), (320, 180));
    let again = reply(&viewer, Control::Snapshot).await.error;
    assert_eq!(again.expect("one a second").code, "busy");

    let is_here = |seen: &Seen| seen.file.len() == announced.bytes;
    let seen = until(&mut viewer, "all of it is here", is_here).await;
    let mut decoder = Mjpeg::new(320, 180);
    assert!(decoder.decode(&seen.file).is_ok());
    let after = more_frames(&mut viewer, 10).await;
    assert_eq!(after.counts.incomplete, seen.counts.incomplete);
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn the_camera_runs_while_somebody_watches_and_the_first_viewer_sees_it_at_once() {
    let camera = Unpluggable::new();
    let config = format!("{}[control]\nidle_timeout_s = 1\n", camera.config());
    let demo = Demo::configured(&["--video", "csi"], &config);
    for starts in 1..=2 {
        let mut viewer = viewer(&demo, 1).await;
        assert_eq!(camera.starts(), starts);
        let seen = viewer.seen();
        let (offered, first) = (seen.offered.unwrap(), seen.counts.first_frame.unwrap());
        let took = first.saturating_duration_since(offered);
        assert!(took < SEEN_WITHIN, "{took:?}");
        more_frames(&mut viewer, 2).await;
        assert!(camera.is_running());
        viewer.leave().await;
        let deadline = clock::now() + Duration::from_secs(20);
        while camera.is_running() {
            assert!(clock::now() < deadline, "it runs for nobody");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_camera_that_never_was_there_is_said_to_be_missing_in_a_picture() {
    let config = "[video]\nwidth = 320\nheight = 180\n";
    let demo = Demo::configured(&["--video", "/dev/no-such-camera"], config);
    let (mut viewer, mut frames) = with_frames(&demo).await;
    until(&mut viewer, "it is told", video("waiting")).await;
    let first = frames.recv().await.expect("a picture");
    assert!(is_notice(&first), "it starts with a keyframe");
    assert_eq!(viewer.seen().counts.picture, Some((320, 180)));
    let mut watch = crate::support::program::roomcam();
    watch.args(["watch", demo.url(), "--frames", "2"]);
    let output = tokio::task::spawn_blocking(move || watch.output()).await;
    let output = output.unwrap().unwrap();
    assert!(!output.status.success(), "it is no picture of a camera");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("waiting for camera: "), "{words}");

    let sound = viewer.seen().counts.audio_packets;
    let goes_on = |seen: &Seen| seen.counts.audio_packets > sound + 20;
    until(&mut viewer, "it hears", goes_on).await;

    // Whoever comes later does not wait for it, either.
    let (_later, mut frames) = with_frames(&demo).await;
    let joined = clock::now();
    assert!(is_notice(&frames.recv().await.expect("a picture")));
    assert!(clock::now() - joined < TOLD_WITHIN);
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_camera_that_dies_is_replaced_by_a_notice_until_it_is_back() {
    let camera = Unpluggable::new();
    let demo = Demo::configured(&["--video", "csi"], &camera.config());
    let (mut viewer, mut frames) = with_frames(&demo).await;
    until(&mut viewer, "it sees", video("live")).await;
    more_frames(&mut viewer, 5).await;
    for round in 0..2 {
        camera.unplug();
        let unplugged = clock::now();
        until(&mut viewer, "it is told", video("waiting")).await;
        wait_for(&mut frames, is_notice).await;
        let took = clock::now() - unplugged;
        assert!(took < TOLD_WITHIN, "{round}: {took:?}");
        let sound = viewer.seen().counts.audio_packets;

        camera.plug();
        let plugged = clock::now();
        let first = wait_for(&mut frames, |unit| !is_notice(unit)).await;
        let took = first.arrived.saturating_duration_since(plugged);
        assert!(took < BACK_WITHIN, "{round}: {took:?}");
        let seen = until(&mut viewer, "it is told", video("live")).await;
        assert!(seen.counts.audio_packets > sound, "the sound went on");
        more_frames(&mut viewer, 5).await;
    }
    assert_eq!(viewer.seen().counts.incomplete, 0);
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_camera_that_hangs_is_said_to_be_silent_within_a_second() {
    let camera = Unpluggable::new();
    let demo = Demo::configured(&["--video", "csi"], &camera.config());
    let (mut viewer, mut frames) = with_frames(&demo).await;
    until(&mut viewer, "it sees", video("live")).await;
    more_frames(&mut viewer, 5).await;
    camera.hang();
    let hung = clock::now();
    let seen = until(&mut viewer, "it is told", video("waiting")).await;
    let detail = seen.state.expect("it was told").detail;
    assert!(detail.contains("sends no pictures"), "{detail}");
    wait_for(&mut frames, is_notice).await;
    let took = clock::now() - hung;
    assert!(took < TOLD_WITHIN, "{took:?}");

    camera.plug();
    wait_for(&mut frames, |unit| !is_notice(unit)).await;
    until(&mut viewer, "it is told", video("live")).await;
    assert_eq!(camera.starts(), 1, "it was not started anew");
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_camera_that_was_switched_off_is_said_to_be_off_in_a_picture() {
    let demo = demo("");
    let (mut viewer, mut frames) = with_frames(&demo).await;
    more_frames(&mut viewer, 5).await;
    reply(&viewer, Control::SetCamera { on: false }).await;
    wait_for(&mut frames, is_notice).await;
    // Commands about other things leave it there.
    reply(&viewer, Control::SetMuted { muted: true }).await;
    more_frames(&mut viewer, 2).await;
    let (_later, mut theirs) = with_frames(&demo).await;
    assert!(is_notice(&theirs.recv().await.expect("a picture")));

    reply(&viewer, Control::SetCamera { on: true }).await;
    wait_for(&mut frames, |unit| !is_notice(unit)).await;
    until(&mut viewer, "it is told", video("live")).await;
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "an emulated processor takes seconds for pictures of this size"
)]
async fn a_csi_camera_is_set_while_its_picture_goes_on_and_stays_so_when_it_was_away() {
    let camera = Unpluggable::new();
    let demo = Demo::configured(&["--video", "csi"], &camera.config());
    let (mut viewer, mut frames) = with_frames(&demo).await;
    until(&mut viewer, "it is told", is_set("brightness", 0)).await;
    let brighter = Control::SetControl {
        control: "brightness",
        value: 50,
    };
    assert_eq!(reply(&viewer, brighter).await.value, Some(50));
    let deadline = clock::now() + Duration::from_secs(20);
    loop {
        assert_eq!(reply(&viewer, Control::RequestKeyframe).await.error, None);
        let unit = wait_for(&mut frames, |_| true).await;
        assert!(!is_notice(&unit), "it goes on");
        if is_bright(&unit) {
            break;
        }
        assert!(clock::now() < deadline, "it is as it was set");
    }
    assert_eq!(camera.starts(), 2);
    let is_live = viewer
        .seen()
        .state
        .as_ref()
        .is_some_and(|s| s.video == "live");
    assert!(is_live, "nobody was told that it is away");

    camera.unplug();
    wait_for(&mut frames, is_notice).await;
    camera.plug();
    let first = wait_for(&mut frames, |unit| !is_notice(unit)).await;
    assert!(is_bright(&first), "from the first picture on");
    until(&mut viewer, "it is told", is_set("brightness", 50)).await;
}

/// Whether the middle of a picture is bright.
fn is_bright(unit: &AccessUnit) -> bool {
    let picture = openh264::decode(&unit.data).expect("a keyframe");
    let middle = picture.width * (picture.height + 1) / 2;
    picture.bytes.get(middle).is_some_and(|luma| *luma > 160)
}

/// A viewer whose frames come out of the channel.
async fn with_frames(demo: &Demo) -> (Viewer, mpsc::Receiver<AccessUnit>) {
    let (sender, frames) = mpsc::channel(1_024);
    let viewer = Viewer::join(&demo.url().parse().unwrap(), Some(sender)).await;
    (viewer.unwrap(), frames)
}

/// Waits for such a picture; those before it are passed over.
async fn wait_for(
    frames: &mut mpsc::Receiver<AccessUnit>,
    is_it: impl Fn(&AccessUnit) -> bool,
) -> AccessUnit {
    let wait = async {
        loop {
            let unit = frames.recv().await.expect("the viewer lives");
            if unit.is_keyframe && is_it(&unit) {
                return unit;
            }
        }
    };
    let limit = Duration::from_secs(20);
    let found = tokio::time::timeout(limit, wait).await;
    found.expect("such a picture came")
}

/// Whether a picture is one of words: dark to its corners, with bright letters in the middle.
pub(crate) fn is_notice(unit: &AccessUnit) -> bool {
    let Ok(picture) = openh264::decode(&unit.data) else {
        return false;
    };
    let (luma, _) = picture.bytes.split_at(picture.width * picture.height);
    let mut rows = luma.chunks(picture.width);
    let corners = [luma.first(), luma.get(picture.width - 1), luma.last()];
    let is_dark = corners.iter().flatten().all(|y| (18..34).contains(*y));
    let has_letters = rows.any(|row| row.iter().filter(|y| **y > 180).count() > 10);
    is_dark && has_letters
}

/// A camera program that a test starts, hangs and ends: grey pictures, as `rpicam-vid` writes them.
pub(crate) struct Unpluggable {
    directory: TempDir,
}

impl Unpluggable {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let camera = Self { directory };
        let script = format!(
            "#!/bin/sh\ncd {}\n[ -e plugged ] || exit 1\necho x >>starts\necho $$ >pid\n\
             grey=x\ncase \"$*\" in *--brightness=0.5*) grey='\\310';; esac\n\
             while [ -e plugged ]; do\n\
             [ -e hangs ] || {{ head -c 30720 /dev/zero | tr '\\0' $grey; head -c 15360 /dev/zero | tr '\\0' '\\200'; }}\n\
             sleep 0.05\ndone\nexit 1\n",
            camera.directory.path().display()
        );
        camera.write("program", &script);
        make_executable(&camera.directory.path().join("program"));
        camera.plug();
        camera
    }

    pub(crate) fn config(&self) -> String {
        format!(
            "[video]\nwidth = 256\nheight = 120\nfps = 15\n\
             [video.csi]\nprogram = \"{}\"\n",
            self.directory.path().join("program").display()
        )
    }

    fn plug(&self) {
        self.remove("hangs");
        self.write("plugged", "");
    }

    fn unplug(&self) {
        self.remove("plugged");
    }

    fn hang(&self) {
        self.write("hangs", "");
    }

    fn is_running(&self) -> bool {
        let pid = std::fs::read_to_string(self.directory.path().join("pid")).unwrap_or_default();
        Path::new("/proc").join(pid.trim()).exists()
    }

    fn starts(&self) -> usize {
        let starts = std::fs::read_to_string(self.directory.path().join("starts"));
        starts.unwrap().lines().count()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.directory.path().join(name)).ok();
    }
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, executable).unwrap();
}
