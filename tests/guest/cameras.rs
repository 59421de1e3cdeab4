//! Cameras and encoders of the kernel's own: the facts that every source keeps, pictures that are never
//! copied, and every fault that a driver can have.

use std::time::Duration;

use roomcam::clock;
use roomcam::watch::seen::Seen;
use serde_json::Value;

use super::{
    BACK_WITHIN, ENCODER, LOOPBACK, NO_SOUND, SOUND_CARD, VIVID, example, join, join_with_frames,
    next_keyframe, start_camera, state, until, video, wait_until_closed, watch,
};
use crate::support::guest::Guest;

/// A single-planar camera and a multi-planar one.
const TWO_VIVIDS: &str = "vivid n_devs=2 node_types=0x1,0x1 num_inputs=1,1 input_types=0,0 \
                          vid_cap_nr=0,1 multiplanar=1,2";

/// An input whose pictures are as large as what comes in.
const HDMI: &str =
    "vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=3 vid_cap_nr=0 ccs_cap_mode=0";

/// How old a picture may be, beyond two frame times, where one emulated processor makes, decodes and encodes
/// them: that none is older is shown where nothing is emulated.
const SLACK_MS: u32 = 20_000;

/// From a viewer's wish to join to the first picture that can be decoded, of a camera that was closed. Where
/// nothing is emulated, within a second.
const SEEN_WITHIN: Duration = BACK_WITHIN;

/// What a picture may allocate once its source has begun: the bytes that go out.
const FOR_THE_ACCESS_UNIT: u32 = 1;

/// The camera's smallest size, and one that the encoder has: its own smallest is 640x360, of which it makes
/// more rows.
const SMALLEST: &str = "320 180";
const WHOLE: &str = "640 480";
const ROUNDED: &str = "640 360";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn real_devices_keep_the_facts_that_every_source_keeps() {
    let mut guest = Guest::start(&[TWO_VIVIDS, LOOPBACK]).await;
    for device in ["/dev/video0", "/dev/video1"] {
        for format in ["yuyv", "uyvy", "nv12", "yu12"] {
            let options = format!("format={format}");
            let (figures, _) = conforms(&mut guest, device, SMALLEST, "on-demand", &options);
            let described = figures["description"].as_str().expect("a description");
            assert!(described.contains(&format.to_uppercase()), "{described}");
            assert_eq!(figures["allocations"], FOR_THE_ACCESS_UNIT, "{described}");
        }
    }
    for (format, each, promised) in [("H264", 15, "unasked"), ("MJPG", 0, "on-demand")] {
        start_camera(&mut guest, format, each);
        // It is a camera once its first picture was written.
        guest.run_until_it_succeeds("v4l2-ctl -d /dev/video20 --info | grep -q 'Video Capture'");
        let (figures, _) = conforms(&mut guest, "/dev/video20", SMALLEST, promised, "");
        assert_eq!(figures["allocations"], FOR_THE_ACCESS_UNIT, "{format}");
        guest.run("kill $(cat /run/camera.pid)");
        guest.run_until_it_succeeds("! kill -0 $(cat /run/camera.pid)");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn an_hdmi_input_follows_its_signal_and_says_where_there_is_none() {
    let mut guest = Guest::start(&[HDMI]).await;
    let signal = |mode: &str| format!("v4l2-ctl -d /dev/video0 -c dv_timings_signal_mode={mode}");
    guest.run("v4l2-ctl -d /dev/video0 -c dv_timings_signal_mode=4 -c dv_timings=0");
    guest.start_daemon(&format!("{}{NO_SOUND}", video("vivid")));
    let mut viewer = join(&guest).await;
    let is_of = |size| {
        move |seen: &Seen| {
            let is_live = state(seen).is_some_and(|s| s.video == "live");
            is_live && seen.counts.picture == Some(size)
        }
    };
    until(&mut viewer, "sees", is_of((640, 480))).await;

    guest.run(&signal("1"));
    let nothing_comes_in = |seen: &Seen| {
        let detail = state(seen).map(|state| state.detail.as_str());
        detail.is_some_and(|detail| detail.contains("receives no signal: is anything plugged in"))
    };
    until(&mut viewer, "is told", nothing_comes_in).await;

    // 720x576, as another computer may send.
    guest.run("v4l2-ctl -d /dev/video0 -c dv_timings=4 -c dv_timings_signal_mode=4");
    until(&mut viewer, "sees the other", is_of((720, 576))).await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn an_encoder_like_the_pis_encodes_and_one_of_no_use_is_named_in_the_log() {
    let mut guest = Guest::start(&[ENCODER, VIVID]).await;
    let node = encoder(&mut guest);
    // Neither is a multiple of what the encoder rounds up to.
    let report = guest.run(&format!(
        "chroot /host {} {node} FWHT 332 182 40",
        example("encode")
    ));
    let report: Value = serde_json::from_str(&report).expect("a report");
    assert_eq!(report["pictures"], 40, "{report}");

    guest.start_daemon(&format!(
        "{}encoder = \"{node}\"\n{NO_SOUND}",
        video("vivid")
    ));
    watch(&guest, &["--frames", "10"]);
    let log = guest.log();
    assert!(log.contains("does not turn YU12 into H264"), "{log}");
    assert!(log.contains("encoded by OpenH264"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn an_encoder_reads_pictures_in_the_cameras_buffers_and_makes_the_same_of_them() {
    for encoder_module in ["vicodec", ENCODER] {
        let mut guest = Guest::start(&[TWO_VIVIDS, encoder_module]).await;
        let node = encoder(&mut guest);
        for (device, kind) in [("/dev/video0", "single"), ("/dev/video1", "multi")] {
            // Without the clock in its pictures, they are all the same.
            guest.run(&format!("v4l2-ctl -d {device} -c osd_text_mode=2"));
            let mut first = |format: &str, way: &str| {
                let options = format!("format={format} encoder={node} coded=FWHT {way}");
                let (figures, log) = conforms(&mut guest, device, WHOLE, "on-demand", &options);
                let described = figures["description"].as_str().expect("a description");
                let said = if way.is_empty() {
                    (
                        described.ends_with(" without a copy"),
                        "in the camera's buffers",
                    )
                } else {
                    (
                        !described.contains("without"),
                        "pictures are copied to the encoder",
                    )
                };
                assert!(said.0 && log.contains(said.1), "{described}: {log}");
                assert_eq!(figures["brightest"].as_u64().map(|b| b < 236), Some(true));
                assert_eq!(figures["allocations"], FOR_THE_ACCESS_UNIT, "{described}");
                figures["keyframe_hash"]
                    .as_str()
                    .expect("a hash")
                    .to_owned()
            };
            let copied = first("yu12", "copied");
            assert_eq!(first("yu12", ""), copied, "{kind}");
            assert_eq!(first("nv12", ""), copied, "{kind}");
            // The copying way makes 4:2:0 of these.
            assert_eq!(first("yuyv", ""), first("uyvy", ""), "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_camera_that_is_unplugged_while_the_encoder_reads_its_buffers_comes_back() {
    let mut guest = Guest::start(&[VIVID, ENCODER]).await;
    let node = encoder(&mut guest);
    let options = format!("format=yuyv encoder={node} coded=FWHT");
    for (fault, expected) in [
        (
            "echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind",
            "missing",
        ),
        ("v4l2-ctl -d /dev/video0 -c disconnect=1", "missing"),
        (
            "v4l2-ctl -d /dev/video0 -c inject_fatal_streaming_error=1",
            "driver",
        ),
    ] {
        let said = is_told(&mut guest, "/dev/video0", "until-it-ends", &options, fault);
        assert_eq!(said, expected, "{fault}");
        let log = guest.run("cat /run/conform.log");
        assert!(log.contains("in the camera's buffers"), "{log}");
        if fault.contains("unbind") {
            guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind");
        }
        assert!(guest.holders(&node).is_empty(), "the encoder is free");
    }
    let (figures, _) = conforms(&mut guest, "/dev/video0", WHOLE, "on-demand", &options);
    let described = figures["description"].as_str().expect("a description");
    assert!(described.ends_with(" without a copy"), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn an_encoder_that_vanishes_with_the_cameras_buffers_ends_nothing() {
    let mut guest = Guest::start(&[VIVID, ENCODER]).await;
    let node = encoder(&mut guest);
    let options = format!("format=yuyv encoder={node} coded=FWHT");
    let vanished = "echo vicodec.0 >/sys/bus/platform/drivers/vicodec/unbind";
    let said = is_told(&mut guest, "/dev/video0", "goes-on", &options, vanished);
    let log = guest.run("cat /run/conform.log");
    assert_eq!(said, "goes on", "{log}");
    assert!(log.contains("in the camera's buffers"), "{log}");
    assert!(log.contains("copied to the encoder from now on"), "{log}");
    assert!(log.contains("pictures are encoded in software"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn pictures_are_copied_where_the_encoder_cannot_read_them_and_the_log_says_why() {
    let mut guest = Guest::start(&[VIVID, LOOPBACK, ENCODER]).await;
    let node = encoder(&mut guest);
    let copied = |guest: &mut Guest, device: &str, size: &str, options: &str, reason: &str| {
        let options = format!("{options} encoder={node} coded=FWHT");
        let (figures, log) = conforms(guest, device, size, "on-demand", &options);
        let described = figures["description"].as_str().expect("a description");
        assert!(!described.contains("without a copy"), "{described}");
        assert!(described.contains("encoded by vicodec"), "{described}");
        let line = log
            .lines()
            .find(|line| line.contains("pictures are copied to the encoder"));
        assert!(line.is_some_and(|line| line.contains(reason)), "{log}");
        figures["brightest"].as_u64()
    };
    copied(
        &mut guest,
        "/dev/video0",
        ROUNDED,
        "format=nv12",
        "rows of NV12 for 640x360",
    );
    // White in full range; the encoder is told nothing of that.
    guest.run("v4l2-ctl -d /dev/video0 -c osd_text_mode=2,test_pattern=1,quantization=1");
    let white = copied(
        &mut guest,
        "/dev/video0",
        WHOLE,
        "format=yuyv",
        "full range",
    );
    assert!(matches!(white, Some(230..=235)), "{white:?}");
    guest.run("v4l2-ctl -d /dev/video0 -c quantization=0");

    start_camera(&mut guest, "YU12", 0);
    guest.run_until_it_succeeds("v4l2-ctl -d /dev/video20 --info | grep -q 'Video Capture'");
    let options = format!("encoder={node} coded=FWHT");
    let said = is_told(&mut guest, "/dev/video20", "goes-on", &options, "true");
    let log = guest.run("cat /run/conform.log");
    assert_eq!(said, "goes on", "{log}");
    assert!(log.contains("VIDIOC_EXPBUF failed"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn every_fault_of_a_device_is_an_error_after_which_it_is_opened_again() {
    let mut guest = Guest::start(&[TWO_VIVIDS]).await;
    for device in ["/dev/video0", "/dev/video1"] {
        let control = format!("v4l2-ctl -d {device} -c");
        for (fault, expected) in [
            ("disconnect=1", "missing"),
            ("inject_fatal_streaming_error=1", "driver"),
            ("inject_vidioc_qbuf_error=1", "driver"),
            ("percentage_of_dropped_buffers=100", "stalled"),
        ] {
            let fault = format!("{control} {fault}");
            let said = is_told(&mut guest, device, "until-it-ends", "", &fault);
            assert_eq!(said, expected, "{fault}");
            guest.run(&format!("{control} percentage_of_dropped_buffers=0"));
        }
        // These befall it while it is opened; the next time it opens.
        for fault in [
            "inject_vidioc_reqbufs_error=1",
            "inject_vidioc_streamon_error=1",
        ] {
            guest.run(&format!("{control} {fault}"));
            let command = conform(device, SMALLEST, "goes-on", "");
            let (status, said) = guest.attempt(&format!("{command} 2>&1"));
            assert!(
                status != 0 && said.contains("it does not open"),
                "{fault}: {said}"
            );
            assert_eq!(
                is_told(&mut guest, device, "goes-on", "", "true"),
                "goes on"
            );
        }
    }
    let unplugged = "echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind";
    let said = is_told(&mut guest, "/dev/video1", "until-it-ends", "", unplugged);
    assert_eq!(said, "missing");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn a_device_whose_faults_are_small_goes_on_with_fresh_pictures() {
    let mut guest = Guest::start(&[TWO_VIVIDS]).await;
    for device in ["/dev/video0", "/dev/video1"] {
        for (fault, normal) in [
            ("inject_v4l2_buf_flag_error=1", ""),
            (
                "percentage_of_dropped_buffers=30",
                "percentage_of_dropped_buffers=0",
            ),
            (
                "fill_percentage_of_frame=30",
                "fill_percentage_of_frame=100",
            ),
            ("wrap_sequence_number=1", "wrap_sequence_number=0"),
        ] {
            let control = format!("v4l2-ctl -d {device} -c");
            // More than once: a picture that is marked may be one that a newer one overtakes.
            let faults = format!("for n in 1 2 3; do {control} {fault}; sleep 0.3; done");
            let said = is_told(&mut guest, device, "goes-on", "", &faults);
            assert_eq!(said, "goes on", "{fault}");
            if normal.is_empty() {
                let log = guest.run("cat /run/conform.log");
                assert!(log.contains("marked by the driver"), "{log}");
            } else {
                guest.run(&format!("{control} {normal}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn devices_are_closed_while_nobody_watches_and_open_for_the_first_viewer() {
    let mut guest = Guest::start(&[VIVID, SOUND_CARD]).await;
    guest.start_daemon(&format!(
        "{}[audio]\nsource = \"auto\"\n[control]\nidle_timeout_s = 1",
        video("/dev/video0")
    ));
    assert_eq!(guest.holders("/dev/video0").len(), 0);
    for _ in 0..2 {
        let asked = clock::now();
        let (viewer, mut frames) = join_with_frames(&guest).await;
        next_keyframe(&mut frames, false).await;
        let waited = clock::now() - asked;
        assert!(waited < SEEN_WITHIN, "{waited:?}");
        viewer.leave().await;
        wait_until_closed(&mut guest);
        guest.run_until_it_succeeds("grep -q closed /proc/asound/Loopback/pcm1c/sub0/hw_params");
    }
}

/// Returns the path of the encoder.
fn encoder(guest: &mut Guest) -> String {
    let node =
        guest.run("basename $(dirname $(grep -l stateful-encoder /sys/class/video4linux/*/name))");
    format!("/dev/{}", node.trim())
}

/// Returns the command that holds a camera to what is promised of it.
fn conform(device: &str, size: &str, promised: &str, options: &str) -> String {
    let program = example("conform");
    // Slow enough for every picture to be encoded while something befalls the camera, and for that to happen.
    let fps = if promised == "goes-on" { 5 } else { 15 };
    format!("chroot /host {program} {device} {size} {fps} {promised} {SLACK_MS} {options}")
}

/// Holds a camera to what is promised of it; returns the figures, and the log.
fn conforms(
    guest: &mut Guest,
    device: &str,
    size: &str,
    promised: &str,
    options: &str,
) -> (Value, String) {
    let command = conform(device, size, promised, options);
    let (status, figures) = guest.attempt(&format!("{command} 2>/run/conform.log"));
    let log = guest.run("cat /run/conform.log");
    assert_eq!(status, 0, "{command}: {figures}{log}");
    let figures = serde_json::from_str(&figures);
    (figures.expect("a line of JSON"), log)
}

/// Has a camera read, and `fault` befall it meanwhile; returns what is told then.
fn is_told(guest: &mut Guest, device: &str, how: &str, options: &str, fault: &str) -> String {
    let size = if options.is_empty() { SMALLEST } else { WHOLE };
    let watched = conform(device, size, how, options);
    guest.run(&format!(
        "rm -f /run/told; ({watched} >/run/told 2>/run/conform.log; echo ended >>/run/told) &"
    ));
    guest.run_until_it_succeeds("grep -qE 'live|ended' /run/told");
    guest.run(fault);
    guest.run_until_it_succeeds("grep -q ended /run/told");
    let told = guest.run("cat /run/told");
    let log = guest.run("cat /run/conform.log");
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some("live"), "{watched}: {told}{log}");
    let said = lines.next().unwrap_or_default();
    assert_ne!(said, "ended", "{watched}, {fault}: {log}");
    said.to_owned()
}
