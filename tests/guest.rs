//! The daemon with a real camera and a real microphone, as the kernel sees them: V4L2 and ALSA
//! drivers in an emulated machine, watched from outside.
//!
//! `vivid` is a camera with raw pictures that can be unplugged, `v4l2loopback` one that delivers the
//! H.264 or MJPEG that `examples/loopback_camera.rs` makes, `vicodec` an encoder with the interface of the
//! Pi's (but FWHT in place of H.264), `snd-aloop` a sound card whose outputs are its inputs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use roomcam::clock;
use roomcam::video::mjpeg::Mjpeg;
use roomcam::watch::depacketize::AccessUnit;
use roomcam::watch::invitation::Invitation;
use roomcam::watch::protocol::{Command as Control, DeviceState};
use roomcam::watch::seen::Seen;
use roomcam::watch::viewer::Viewer;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::camera::is_notice;
use crate::doctoring::finding;
use crate::sound;
use crate::speaking::{MICROPHONE, TALK, tone_in, wait_for_notice};
use crate::support::chromium::{Chromium, Setup};
use crate::support::guest::{Guest, PATIENCE};

mod cameras;
mod drift;

pub(crate) const VIVID: &str =
    "vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0 vid_cap_nr=0";
const LOOPBACK: &str =
    "v4l2loopback video_nr=20 card_label=Loopback exclusive_caps=1 max_buffers=8";
const ENCODER: &str = "vicodec multiplanar=1";
const SOUND_CARD: &str = "snd-aloop";

/// What an emulated processor encodes in time.
const SMALL: &str = "width = 320\nheight = 180\nfps = 15";
const NO_SOUND: &str = "[audio]\nsource = \"none\"";

/// From a camera's return to its picture. Within 2 s on real machines, where nothing is emulated.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(10);

fn video(source: &str) -> String {
    format!("[video]\nsource = \"{source}\"\n{SMALL}\n")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_with_raw_pictures_is_encoded() {
    let mut guest = Guest::start(&[VIVID]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("vivid")));

    let report = watch(&guest, &["--frames", "30"]);
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    assert_eq!(report["device"]["video"], "live");
    assert_eq!(report["device"]["audio"], "none");
    assert!(
        guest.log().contains("encoded by OpenH264"),
        "{}",
        guest.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_with_h264_is_passed_through_and_a_newcomer_starts_within_its_gop() {
    // 20 s: whoever comes in between would wait for up to so long.
    const GOP: u64 = 300;
    let mut guest = Guest::start(&[LOOPBACK]).await;
    start_camera(&mut guest, "H264", GOP);
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video20")));

    let mut first = join(&guest).await;
    let seen = until(&mut first, "sees", |seen| seen.counts.frames >= 30).await;
    let report = watch(&guest, &["--frames", "30"]);
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    assert_eq!(report["keyframes"], 1);
    let made_meanwhile = first.seen().counts.keyframes - seen.counts.keyframes;
    assert_eq!(made_meanwhile, 0, "the newcomer started with the last one");
    let log = guest.log();
    assert!(log.contains("passed through"), "{log}");
    assert!(
        !log.contains("waiting for camera"),
        "a camera without a keyframe is not silent: {log}"
    );
    first.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn jpeg_pictures_are_decoded_and_damaged_ones_skipped() {
    let mut guest = Guest::start(&[LOOPBACK]).await;
    start_camera(&mut guest, "MJPG", 5);
    guest.start_daemon(&format!("{}{NO_SOUND}", video("auto")));

    let report = watch(&guest, &["--frames", "30"]);
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    let log = guest.log();
    assert!(log.contains("MJPG 320x180"), "{log}");
    assert!(log.contains("skipped a damaged picture"), "{log}");
    assert!(log.contains("because=\"it is the only one\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_that_returns_under_another_number_is_found_by_its_name() {
    let mut guest = Guest::start(&[&format!("{VIVID} multiplanar=2")]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("platform:vivid-000")));
    let mut viewer = join(&guest).await;
    until(&mut viewer, "sees", |seen| seen.counts.frames >= 10).await;

    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind");
    until_waiting(&mut viewer).await;
    guest.run("modprobe v4l2loopback video_nr=0");
    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind");
    until_more_frames(&mut viewer).await;
    assert_eq!(guest.holders("/dev/video0").len(), 0);
    assert_eq!(guest.holders("/dev/video1").len(), 1);
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_that_delivers_damage_errors_and_then_nothing_is_used_again() {
    let mut guest = Guest::start(&[VIVID]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("vivid")));
    let mut viewer = join(&guest).await;
    until_more_frames(&mut viewer).await;

    let faults = [
        ("inject_v4l2_buf_flag_error=1", "marked by the driver"),
        ("inject_fatal_streaming_error=1", "Input/output error"),
        (
            "percentage_of_dropped_buffers=100",
            "delivered no frame for",
        ),
    ];
    for (fault, said) in faults {
        guest.run(&format!("v4l2-ctl -d /dev/video0 -c {fault}"));
        guest.run_until_it_succeeds(&format!("grep -q '{said}' /run/log"));
        guest.run("v4l2-ctl -d /dev/video0 -c percentage_of_dropped_buffers=0");
        until_more_frames(&mut viewer).await;
    }
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_microphone_is_heard_without_a_camera() {
    let mut guest = Guest::start(&[SOUND_CARD]).await;
    play_a_tone(&mut guest);
    guest.start_daemon("[video]\nsource = \"none\"\n[audio]\nsource = \"plughw:CARD=Loopback\"");

    let mut viewer = join(&guest).await;
    let seen = until(&mut viewer, "hears", |seen| {
        seen.counts.audio_packets >= 100
    })
    .await;
    assert_eq!(seen.counts.frames, 0);
    assert_eq!(state(&seen).map(|s| s.audio.as_str()), Some("live"));
    // A tone, not silence: Opus says silence in a few bytes.
    let bytes_a_packet = seen.counts.audio_bytes / seen.counts.audio_packets;
    assert!(bytes_a_packet > 20, "{bytes_a_packet}");
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_sound_card_of_the_kernel_keeps_to_the_facts_at_its_own_rate_and_format() {
    let mut guest = Guest::start(&[SOUND_CARD]).await;
    let facts = std::env::current_exe().expect("this program has a path");
    let facts = format!(
        "{} --exact sound::this_microphone_keeps_to_the_facts",
        facts.display()
    );
    let (microphone, described_as) = (sound::MICROPHONE, sound::DESCRIBED_AS);
    let cards = [
        ("S16_LE", 44_100, 1, "S16 mono 44100 Hz"),
        ("S32_LE", 48_000, 2, "S32 stereo 48000 Hz"),
        ("FLOAT_LE", 32_000, 1, "FLOAT mono 32000 Hz"),
        ("S24_3LE", 16_000, 2, "S24_3 stereo 16000 Hz"),
        ("S16_LE", 8_000, 1, "S16 mono 8000 Hz"),
    ];
    for (format, rate, channels, description) in cards {
        // What it delivers is what is played into it: the tone in one channel at a time, in percent.
        let loudness = 10 * channels;
        play(
            &mut guest,
            &format!("-F {format} -r {rate} -c {channels} -S {loudness}"),
        );
        for name in ["Loopback", "plughw:CARD=Loopback", "loopback pcm"] {
            let (status, output) = guest.attempt(&format!(
                "chroot /host env {microphone}='{name}' {described_as}='{description}' {facts}"
            ));
            assert_eq!(status, 0, "{name}, {description}: {output}");
            assert!(output.contains("1 passed"), "{output}");
        }
        stop_playing(&mut guest);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_microphone_that_was_unplugged_comes_back_and_the_picture_goes_on() {
    const DRIVER: &str = "/sys/bus/platform/drivers/snd_aloop";
    let mut guest = Guest::start(&[VIVID, SOUND_CARD]).await;
    play(&mut guest, "-F S32_LE -r 44100 -c 1");
    guest.start_daemon(&format!("{}[audio]\nsource = \"Loopback\"", video("vivid")));
    let mut viewer = join(&guest).await;
    until_more_frames(&mut viewer).await;
    until_more_sound(&mut viewer).await;

    // Ends once nobody has it open any more.
    guest.run(&format!("(echo snd_aloop.0 >{DRIVER}/unbind) &"));
    stop_playing(&mut guest);
    let waiting = |seen: &Seen| state(seen).is_some_and(|s| s.audio == "waiting");
    let seen = until(&mut viewer, "is told", waiting).await;
    let told = &state(&seen).expect("it was told").detail;
    assert!(told.contains("microphone"), "{told}");
    until_more_frames(&mut viewer).await;

    guest.run_until_it_succeeds(&format!("! [ -e {DRIVER}/snd_aloop.0 ]"));
    guest.run(&format!("echo snd_aloop.0 >{DRIVER}/bind"));
    let returned = clock::now();
    until_more_sound(&mut viewer).await;
    let waited = clock::now() - returned;
    assert!(waited < BACK_WITHIN, "{waited:?}");
    let live = |seen: &Seen| state(seen).is_some_and(|s| s.audio == "live" && s.detail.is_empty());
    until(&mut viewer, "is told", live).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_busy_microphone_is_waited_for_and_its_holder_is_named() {
    let mut guest = Guest::start(&[SOUND_CARD]).await;
    guest.run(
        "arecord -D hw:Loopback,0 -f S16_LE -r 48000 /dev/null 2>/dev/null & echo $! >/run/holder",
    );
    guest.run_until_it_succeeds("grep -q RUNNING /proc/asound/Loopback/pcm0c/sub0/status");
    // It has eight inputs, of which the first that is free is taken: all but one are too many here.
    guest.start_daemon(
        "[video]\nsource = \"none\"\n[audio]\nsource = \"hw:CARD=Loopback,DEV=0,SUBDEV=0\"",
    );
    let mut viewer = join(&guest).await;
    let waiting = |seen: &Seen| state(seen).is_some_and(|s| s.audio == "waiting");
    let seen = until(&mut viewer, "is told", waiting).await;
    let told = &state(&seen).expect("it was told").detail;
    assert!(told.contains("is in use by arecord (pid "), "{told}");

    guest.run("kill $(cat /run/holder)");
    until_more_sound(&mut viewer).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_browser_shows_the_camera_and_plays_the_microphone() {
    let mut guest = Guest::start(&[VIVID, SOUND_CARD]).await;
    play_a_tone(&mut guest);
    guest.start_daemon(&format!(
        "{}[audio]\nsource = \"auto\"",
        video("/dev/video0")
    ));

    let page = Chromium::start(Setup::default()).await;
    page.join(&guest.url()).await;
    page.wait_for_frames(15).await;
    let loudness = page.loudness().await;
    assert!(loudness > 0.005, "{loudness}");
    page.screenshot("guest").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_that_was_unplugged_comes_back() {
    let mut guest = Guest::start(&[VIVID]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video0")));
    let mut viewer = join(&guest).await;
    until(&mut viewer, "sees", |seen| seen.counts.frames >= 10).await;

    // The driver says ENODEV once, but the device stays.
    guest.run("v4l2-ctl -d /dev/video0 -c disconnect=1");
    until_more_frames(&mut viewer).await;

    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind");
    let seen = until(&mut viewer, "is told", |seen| {
        state(seen).is_some_and(|s| s.video == "waiting")
    })
    .await;
    let detail = &state(&seen).expect("it was told").detail;
    assert!(detail.contains("/dev/video0 is not present"), "{detail}");

    let frames = viewer.seen().counts.frames;
    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind");
    let returned = clock::now();
    until(&mut viewer, "sees again", |seen| {
        seen.counts.frames > frames
    })
    .await;
    let waited = clock::now() - returned;
    assert!(waited < BACK_WITHIN, "{waited:?}");
    let live = |seen: &Seen| state(seen).is_some_and(|s| s.video == "live" && s.detail.is_empty());
    until(&mut viewer, "is told", live).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn what_is_set_reaches_the_driver_and_is_set_again_after_a_replug() {
    let mut guest = Guest::start(&[VIVID]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("vivid")));
    let (mut viewer, mut frames) = join_with_frames(&guest).await;
    let has = |id: &'static str| move |seen: &Seen| seen.controls.iter().any(|c| c.id == id);
    let seen = until(&mut viewer, "is told", has("brightness")).await;
    let ids: Vec<_> = seen.controls.iter().map(|c| c.id.as_str()).collect();
    for id in ["contrast", "saturation", "hue", "gain_automatic", "gain"] {
        assert!(ids.contains(&id), "{ids:?}");
    }
    let brightness = |guest: &mut Guest| {
        let said = guest.run("v4l2-ctl -d /dev/video0 -C brightness,gain_automatic");
        said.split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect::<Vec<i64>>()
    };
    assert_eq!(set(&viewer, "brightness", 200).await, Ok(200));
    assert_eq!(set(&viewer, "gain_automatic", 0).await, Ok(0));
    assert_eq!(brightness(&mut guest), [200, 0]);
    let refused = set(&viewer, "brightness", 256).await.unwrap_err();
    assert_eq!(refused, "brightness takes 0 to 255, not 256");
    assert_eq!(set(&viewer, "gain", 7).await, Ok(7));
    assert_eq!(set(&viewer, "gain_automatic", 1).await, Ok(1));
    let refused = set(&viewer, "gain", 8).await.unwrap_err();
    assert!(refused.contains("gain has no effect now"), "{refused}");

    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind");
    until_waiting(&mut viewer).await;
    next_keyframe(&mut frames, true).await;
    assert!(viewer.seen().controls.is_empty());
    guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind");
    let returned = clock::now();
    next_keyframe(&mut frames, false).await;
    let waited = clock::now() - returned;
    assert!(waited < BACK_WITHIN, "{waited:?}");
    until(&mut viewer, "is told", has("brightness")).await;
    assert_eq!(brightness(&mut guest), [200, 1]);
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_with_h264_that_falls_silent_gives_way_to_a_notice_and_snapshots_are_decoded() {
    let mut guest = Guest::start(&[LOOPBACK]).await;
    start_camera(&mut guest, "H264", 15);
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video20")));
    let (mut viewer, mut frames) = join_with_frames(&guest).await;
    until(&mut viewer, "sees", |seen| seen.counts.frames >= 20).await;
    assert_eq!(snapshot(&mut viewer).await, (320, 180));

    guest.run("kill $(cat /run/camera.pid)");
    until_waiting(&mut viewer).await;
    next_keyframe(&mut frames, true).await;
    // The loopback takes no other camera before the daemon has given up on this one.
    guest.run_until_it_succeeds("! ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q 'video20$'");
    start_camera(&mut guest, "H264", 15);
    next_keyframe(&mut frames, false).await;
    until_more_frames(&mut viewer).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_snapshot_of_a_jpeg_camera_is_its_own_picture_and_of_a_raw_one_encoded() {
    for (module, source) in [(VIVID, "vivid"), (LOOPBACK, "/dev/video20")] {
        let mut guest = Guest::start(&[module]).await;
        if module == LOOPBACK {
            start_camera(&mut guest, "MJPG", 5);
        }
        guest.start_daemon(&format!("{}{NO_SOUND}", video(source)));
        let mut viewer = join(&guest).await;
        until_more_frames(&mut viewer).await;
        assert_eq!(snapshot(&mut viewer).await, (320, 180), "{source}");
        viewer.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_busy_camera_is_waited_for_and_its_holder_is_named() {
    let mut guest = Guest::start(&[VIVID]).await;
    hold_camera(&mut guest);
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video0")));

    let mut viewer = join(&guest).await;
    let detail = until_waiting(&mut viewer).await;
    assert!(detail.contains("/dev/video0 is in use by"), "{detail}");
    assert!(detail.contains("v4l2-ctl"), "{detail}");

    guest.run("kill $(cat /run/holder)");
    until_more_frames(&mut viewer).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn what_is_missing_or_of_no_use_is_said_in_words_and_ends_nothing() {
    let mut guest = Guest::start(&[LOOPBACK]).await;
    guest.start_daemon(
        "[video]\nsource = \"/dev/video9\"\n[audio]\nsource = \"plughw:CARD=Nothing\"",
    );
    let mut viewer = join(&guest).await;
    let detail = until_waiting(&mut viewer).await;
    assert!(detail.contains("/dev/video9 is not present"), "{detail}");
    assert!(
        detail.contains("plughw:CARD=Nothing is not present"),
        "{detail}"
    );
    assert!(guest.daemon_runs());
    viewer.leave().await;
    stop_daemon(&mut guest);

    // A loopback that nobody writes to is no camera.
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video20")));
    let mut viewer = join(&guest).await;
    let detail = until_waiting(&mut viewer).await;
    assert!(detail.contains("/dev/video20 offers"), "{detail}");
    // Now it is one.
    start_camera(&mut guest, "H264", 15);
    until_more_frames(&mut viewer).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_that_is_switched_off_is_closed() {
    let mut guest = Guest::start(&[VIVID]).await;
    guest.start_daemon(&format!("{}{NO_SOUND}", video("/dev/video0")));
    let mut viewer = join(&guest).await;
    until(&mut viewer, "sees", |seen| seen.counts.frames >= 10).await;
    assert_eq!(guest.holders("/dev/video0").len(), 1);

    let reply = viewer.command(Control::SetCamera { on: false }).await;
    assert!(reply.is_some_and(|reply| reply.error.is_none()));
    until(&mut viewer, "is told", |seen| {
        state(seen).is_some_and(|s| !s.camera && s.video == "off")
    })
    .await;
    wait_until_closed(&mut guest);

    let reply = viewer.command(Control::SetCamera { on: true }).await;
    assert!(reply.is_some_and(|reply| reply.error.is_none()));
    until_more_frames(&mut viewer).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn sigterm_ends_it_in_two_seconds_with_a_viewer_and_open_devices() {
    let mut guest = Guest::start(&[VIVID, SOUND_CARD]).await;
    guest.start_daemon(&format!(
        "{}[audio]\nsource = \"auto\"",
        video("/dev/video0")
    ));
    let mut viewer = join(&guest).await;
    until(&mut viewer, "sees", |seen| seen.counts.frames >= 10).await;

    let elapsed = stop_daemon(&mut guest);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    assert_eq!(guest.holders("/dev/video0").len(), 0);
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_browser_speaks_through_the_sound_card_and_is_told_what_is_wrong_with_it() {
    const ONE_OUTPUT: &str = "snd-aloop pcm_substreams=1";
    let mut guest = Guest::start(&[ONE_OUTPUT]).await;
    guest.start_daemon(
        "[video]\nsource = \"none\"\n[audio]\nsource = \"tone\"\n[talkback]\nsink = \"auto\"",
    );
    let page = Chromium::start(MICROPHONE).await;
    page.join(&guest.url()).await;
    page.wait_for_button(TALK).await;

    page.hold(TALK).await;
    page.wait_until("roomcam.talk === 'on' && roomcam.state?.talking === 1")
        .await;
    let output = "/proc/asound/Loopback/pcm0p/sub0/hw_params";
    guest.run_until_it_succeeds(&format!("grep -q S16_LE {output}"));
    // What is played on this card's outputs is what its inputs hear.
    let heard = guest.run(
        "arecord -q -D plughw:Loopback,1 -f S16_LE -r 48000 -c 1 -t raw -d 4 /run/heard 2>/run/errors; \
         base64 /run/heard | tr -d '\\n'",
    );
    let bytes = data_encoding::BASE64
        .decode(heard.trim().as_bytes())
        .unwrap();
    let tone = tone_in(&bytes);
    let audible = tone.iter().filter(|&&amplitude| amplitude > 0.02).count();
    assert!(audible >= 10, "{tone:.3?}");
    page.let_go().await;
    guest.run_until_it_succeeds(&format!("grep -q closed {output}"));

    guest.run("speaker-test -D hw:Loopback,0 -r 48000 -c 2 >/run/tone 2>&1 & echo $! >/run/other");
    guest.run_until_it_succeeds(&format!("grep -q S16_LE {output}"));
    page.hold(TALK).await;
    wait_for_notice(&page, "is in use by another program").await;
    page.let_go().await;
    guest.run("kill $(cat /run/other)");
    guest.run_until_it_succeeds(&format!("grep -q closed {output}"));

    page.hold(TALK).await;
    page.wait_until("roomcam.talk === 'on' && roomcam.state?.talking === 1")
        .await;
    guest.run_until_it_succeeds(&format!("grep -q S16_LE {output}"));
    guest.run("echo snd_aloop.0 >/sys/bus/platform/drivers/snd_aloop/unbind");
    wait_for_notice(&page, "oudspeaker").await;
    page.wait_until("roomcam.talk === 'off' && roomcam.state?.talking === 0")
        .await;
    page.let_go().await;
    page.wait_for_status("Live").await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn all_devices_are_listed_with_what_they_offer() {
    let mut guest = Guest::start(&[VIVID, ENCODER, SOUND_CARD]).await;
    hold_camera(&mut guest);
    let listing = guest.run(&format!("chroot /host {} devices --json", roomcam()));
    let listing: Value = serde_json::from_str(&listing).expect("a listing");
    let named = |list: &str, key: &str, name: &str| {
        let mut all = listing[list].as_array().expect("a list").iter();
        let found = all.find(|one| one[key].as_str().is_some_and(|n| n.contains(name)));
        found.unwrap_or_else(|| panic!("no {name} in {listing:#}"))
    };
    let vivid = named("cameras", "card", "vivid");
    assert_eq!(vivid["path"], "/dev/video0");
    assert_eq!(vivid["bus"], "platform:vivid-000");
    let holder = vivid["held_by"].as_str().expect("its holder");
    assert!(holder.starts_with("v4l2-ctl (pid "), "{holder}");
    let formats = vivid["formats"].as_array().expect("formats");
    let yuyv = formats.iter().find(|format| format["fourcc"] == "YUYV");
    let yuyv = yuyv.expect("vivid has it");
    assert_eq!(yuyv["usable"], true);
    let size = &yuyv["sizes"][0];
    assert_eq!(
        (&size["width"], &size["height"]),
        (&320.into(), &180.into())
    );
    assert!(size["rates"][0].as_f64() > Some(1.0), "{size}");
    let problem = |thing: &Value| thing["problem"].as_str().unwrap_or_default().to_owned();
    let encoder = named("encoders", "name", "vicodec");
    assert_eq!(encoder["formats"], serde_json::json!(["FWHT"]));
    assert_eq!(problem(encoder), "does not encode to H264");
    assert!(named("encoders", "name", "OpenH264")["problem"].is_null());
    for list in ["microphones", "speakers"] {
        let card = named(list, "card_id", "Loopback");
        assert_eq!(card["pcm"], "plughw:CARD=Loopback,DEV=0");
        let formats = card["formats"].as_array().expect("formats");
        assert!(formats.contains(&"S16_LE".into()), "{card}");
        let rates = card["rates_hz"].as_array().expect("rates");
        assert!(rates.contains(&48_000.into()), "{card}");
    }
    let automatic = &listing["automatic"];
    assert_eq!(automatic["camera"]["source"], "/dev/video0");
    assert_eq!(automatic["camera"]["because"], "it is the only one");
    assert_eq!(automatic["encoder"]["source"], "software");
    assert_eq!(
        automatic["microphone"]["source"],
        "plughw:CARD=Loopback,DEV=0"
    );
    let text = guest.run(&format!("chroot /host {} devices", roomcam()));
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(text.contains("* /dev/video0   vivid"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn the_doctor_gets_a_frame_and_sound_and_says_who_is_in_the_way() {
    let mut guest = Guest::start(&[VIVID, SOUND_CARD]).await;
    let configuration = format!("{}[audio]\nsource = \"auto\"", video("vivid"));
    let configuration = format!("{configuration}\n[server]\nlisten = \"0.0.0.0:8080\"");
    let lines = configuration.replace('\n', "\\n");
    guest.run(&format!("printf '{lines}\\n' >/run/doctor.toml"));

    play_a_tone(&mut guest);
    let (code, report) = doctor(&mut guest, roomcam());
    assert_eq!(code, 0, "{report:#}");
    let [level, text, _] = finding(&report, "camera");
    assert!(
        level == "ok" && text.contains("first frame after"),
        "{text}"
    );
    let [level, text, _] = finding(&report, "microphone");
    assert!(
        level == "ok" && text.contains(" dB at its loudest"),
        "{text}"
    );
    assert_eq!(finding(&report, "page")[0], "ok");

    guest.run("killall speaker-test");
    let (code, report) = doctor(&mut guest, roomcam());
    assert_eq!(code, 0, "silence ends nothing");
    let silent = finding(&report, "microphone");
    assert!(
        silent[0] == "warning" && silent[1].contains("silent"),
        "{silent:?}"
    );
    assert_eq!(silent[2], "alsamixer --card Loopback --view capture");

    hold_camera(&mut guest);
    let (code, report) = doctor(&mut guest, roomcam());
    let [level, text, remedy] = finding(&report, "camera");
    assert_eq!((code, level), (1, "error"));
    assert!(text.contains("in use by v4l2-ctl (pid "), "{text}");
    guest.run(&format!(
        "test $(cat /run/holder) = \"$(echo {remedy} | cut -d' ' -f3)\""
    ));
    guest.run(remedy.trim_start_matches("sudo "));

    // One that is not in the group that owns the camera.
    guest.run(&format!("cp /host{} /run/roomcam", roomcam()));
    let group = "$(grep ^video: /host/etc/group | cut -d: -f3)";
    guest.run(&format!(
        "nodes=\"/dev/video0 /dev/media0\"; chown 0:{group} $nodes && chmod 660 $nodes"
    ));
    let nobody = "/usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups /run/roomcam";
    let (code, report) = doctor(&mut guest, nobody);
    let [level, text, remedy] = finding(&report, "video access");
    assert_eq!((code, level), (1, "error"));
    assert!(
        text.contains("/dev/video0: it is not in the group video"),
        "{text}"
    );
    assert!(
        remedy.starts_with("sudo usermod -aG video nobody"),
        "{remedy}"
    );
    assert_eq!(finding(&report, "camera")[0], "error");

    // Its own daemon is in nobody's way.
    guest.start_daemon(&format!("{}{NO_SOUND}", video("vivid")));
    let mut viewer = join(&guest).await;
    until_more_frames(&mut viewer).await;
    let (code, report) = doctor(&mut guest, roomcam());
    assert_eq!(code, 0, "{report:#}");
    let [level, text, _] = finding(&report, "camera");
    assert!(
        level == "ok" && text.contains("by the running service"),
        "{text}"
    );
    assert!(finding(&report, "page")[1].contains("by roomcam"));
    until_more_frames(&mut viewer).await;
    viewer.leave().await;
}

/// Runs the doctor in the guest; returns its exit code and its report.
fn doctor(guest: &mut Guest, program: &str) -> (i32, Value) {
    let command = format!("chroot /host {program} doctor --json --config /run/doctor.toml");
    let (code, said) = guest.attempt(&command);
    let report = serde_json::from_str(&said);
    (
        code,
        report.unwrap_or_else(|error| panic!("{error}: {said}")),
    )
}

const fn roomcam() -> &'static str {
    env!("CARGO_BIN_EXE_roomcam")
}

/// Runs `roomcam watch` on the host and returns its report.
fn watch(guest: &Guest, options: &[&str]) -> Value {
    let seconds = PATIENCE.as_secs().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_roomcam"))
        .args(["watch", &guest.url(), "--json", "--seconds", &seconds])
        .args(options)
        .output()
        .expect("the program was just built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

async fn join(guest: &Guest) -> Viewer {
    join_at(&guest.url()).await
}

pub(crate) async fn join_at(url: &str) -> Viewer {
    join_for(url, None).await
}

/// The same, whose frames go to `frames`.
async fn join_for(url: &str, frames: Option<mpsc::Sender<AccessUnit>>) -> Viewer {
    let invitation: Invitation = url.parse().expect("the guest's own URL");
    let deadline = clock::now() + PATIENCE;
    // What is emulated may take longer to let somebody in than people are asked to wait.
    loop {
        match Viewer::join(&invitation, frames.clone()).await {
            Ok(viewer) => return viewer,
            Err(error) => {
                let is_late = error.to_string().contains("no answer");
                assert!(
                    is_late && clock::now() < deadline,
                    "the room is open: {error}"
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

pub(crate) async fn until(
    viewer: &mut Viewer,
    what: &str,
    condition: impl FnMut(&Seen) -> bool,
) -> Seen {
    let seen = viewer.until(PATIENCE, condition).await;
    seen.unwrap_or_else(|seen| panic!("the viewer never {what}: {seen:#?}"))
}

pub(crate) async fn until_more_frames(viewer: &mut Viewer) {
    let goal = viewer.seen().counts.frames + 10;
    until(viewer, "sees again", |seen| seen.counts.frames >= goal).await;
}

/// The same, with a channel that its frames come out of.
async fn join_with_frames(guest: &Guest) -> (Viewer, mpsc::Receiver<AccessUnit>) {
    let (sender, frames) = mpsc::channel(1_024);
    (join_for(&guest.url(), Some(sender)).await, frames)
}

/// Waits for a keyframe that is a notice, or that is none.
async fn next_keyframe(frames: &mut mpsc::Receiver<AccessUnit>, notice: bool) {
    let wait = async {
        loop {
            let unit = frames.recv().await.expect("the viewer lives");
            if unit.is_keyframe && is_notice(&unit) == notice {
                return;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("no such picture came (a notice: {notice})"));
}

/// Sets a control; returns what it is now, or why not.
async fn set(viewer: &Viewer, control: &'static str, value: i64) -> Result<i64, String> {
    let reply = viewer.command(Control::SetControl { control, value }).await;
    let reply = reply.expect("a reply");
    reply
        .value
        .ok_or_else(|| reply.error.expect("a refusal").message)
}

/// Takes a snapshot and decodes it; returns its size. An emulated camera may take longer for a keyframe
/// than the device waits, and an emulated device longer for the file than a viewer.
async fn snapshot(viewer: &mut Viewer) -> (u32, u32) {
    let deadline = clock::now() + PATIENCE;
    let announced = loop {
        let reply = viewer.command(Control::Snapshot).await;
        if let Some(announced) = reply.as_ref().and_then(|reply| reply.snapshot.clone()) {
            break announced;
        }
        assert!(clock::now() < deadline, "no snapshot: {reply:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let is_here = |seen: &Seen| seen.file.len() == announced.bytes;
    let seen = until(viewer, "has all of it", is_here).await;
    let mut decoder = Mjpeg::new(320, 180);
    decoder.decode(&seen.file).expect("a JPEG picture");
    (announced.width, announced.height)
}

async fn until_more_sound(viewer: &mut Viewer) {
    let goal = viewer.seen().counts.audio_packets + 20;
    until(viewer, "hears", |seen| seen.counts.audio_packets >= goal).await;
}

/// Waits until the device tells that its camera is waited for; returns why.
pub(crate) async fn until_waiting(viewer: &mut Viewer) -> String {
    let waiting = |seen: &Seen| state(seen).is_some_and(|s| s.video == "waiting");
    let seen = until(viewer, "is told", waiting).await;
    state(&seen).map(|s| s.detail.clone()).unwrap_or_default()
}

pub(crate) fn state(seen: &Seen) -> Option<&DeviceState> {
    seen.state.as_ref()
}

fn wait_until_closed(guest: &mut Guest) {
    let deadline = clock::now() + PATIENCE;
    while !guest.holders("/dev/video0").is_empty() {
        assert!(
            clock::now() < deadline,
            "{:?}",
            guest.holders("/dev/video0")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start_camera(guest: &mut Guest, format: &str, each: u64) {
    guest.run(&format!(
        "chroot /host {} /dev/video20 {format} 320 180 15 {each} >/run/camera 2>&1 & \
         echo $! >/run/camera.pid",
        example("loopback_camera")
    ));
    guest.run_until_it_succeeds(&format!(
        "v4l2-ctl -d /dev/video20 --get-fmt-video-out | grep -q {format}"
    ));
}

/// Returns the path of an example, which Cargo builds with the tests.
fn example(name: &str) -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_roomcam"));
    let program = program.with_file_name("examples").join(name);
    program.display().to_string()
}

/// Has another program stream from the camera; `/run/holder` has its process id.
fn hold_camera(guest: &mut Guest) {
    guest.run("v4l2-ctl -d /dev/video0 --stream-mmap >/run/held 2>&1 & echo $! >/run/holder");
    // A mark for each picture.
    guest.run_until_it_succeeds("grep -q '<' /run/held");
}

/// Plays into the sound card's output, which is its input.
fn play_a_tone(guest: &mut Guest) {
    play(guest, "-r 48000 -c 2");
}

/// The same with these options of `speaker-test`: the input is as the output is. Its buffer of half a
/// second outlasts what an emulated machine does meanwhile.
fn play(guest: &mut Guest, options: &str) {
    guest.run(&format!(
        "speaker-test -D hw:Loopback,1 -t sine -f 440 -b 500000 {options} >/run/tone 2>&1 & echo $! >/run/player"
    ));
    guest.run_until_it_succeeds("grep -q rate /proc/asound/Loopback/pcm1p/sub0/hw_params");
}

fn stop_playing(guest: &mut Guest) {
    guest.run("kill -KILL $(cat /run/player); while kill -0 $(cat /run/player) 2>/dev/null; do sleep 0.02; done");
}

/// Ends the daemon as systemd does; returns how long that took, by the guest's clock.
fn stop_daemon(guest: &mut Guest) -> Duration {
    let took = guest.run(
        "now() { cut -d' ' -f1 /proc/uptime | tr -d .; }; start=$(now); kill -TERM $(cat /run/pid); \
         while kill -0 $(cat /run/pid) 2>/dev/null; do sleep 0.02; done; echo $(($(now) - start))",
    );
    let hundredths: u64 = took.trim().parse().expect("a number");
    Duration::from_millis(10 * hundredths)
}
