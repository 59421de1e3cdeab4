//! `roomcam demo` and `roomcam watch`, as processes: pictures and sound, commands that act for
//! everyone, refusals in words, and viewers that behave badly without disturbing the others.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use roomcam::config::Secret;
use roomcam::h264::annexb::{NalUnit, nal_units};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use roomcam::watch::protocol::Command as Control;
use roomcam::watch::seen::{Connection, Seen};
use roomcam::watch::viewer::Viewer;
use roomcam::watch::{WatchError, WatchOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::demo::Demo;
use crate::support::program;
use crate::support::room::RoomClient;

/// How long anything that is waited for may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must happen, where that is the point.
const WHILE_NOTHING: Duration = Duration::from_millis(500);

/// The test picture in a size that a busy machine encodes with ease.
const SMALL: &str = "[video]\nwidth = 320\nheight = 180\n";

/// A demonstration with a configuration.
pub(crate) fn demo(configuration: &str) -> Demo {
    Demo::configured(&[], &format!("{SMALL}{configuration}"))
}

/// A viewer that has come to see `frames`.
pub(crate) async fn viewer(demo: &Demo, frames: u64) -> Viewer {
    let mut viewer = join(demo).await;
    until(&mut viewer, "frames come", |seen| {
        seen.counts.frames >= frames
    })
    .await;
    viewer
}

async fn join(demo: &Demo) -> Viewer {
    Viewer::join(&demo.url().parse().unwrap(), None)
        .await
        .unwrap()
}

pub(crate) async fn until(
    viewer: &mut Viewer,
    what: &str,
    condition: impl FnMut(&Seen) -> bool,
) -> Seen {
    match viewer.until(PATIENCE, condition).await {
        Ok(seen) => seen,
        Err(seen) => panic!("waited in vain until {what}: {seen:#?}"),
    }
}

/// Waits for so many frames more.
pub(crate) async fn more_frames(viewer: &mut Viewer, more: u64) -> Seen {
    let wanted = viewer.seen().counts.frames + more;
    until(viewer, "more frames come", |s| s.counts.frames >= wanted).await
}

/// Waits for so many packets of sound more than it had seen.
async fn more_sound(viewer: &mut Viewer, seen: &Seen, more: u64) -> Seen {
    let wanted = seen.counts.audio_packets + more;
    let enough = |seen: &Seen| seen.counts.audio_packets >= wanted;
    until(viewer, "sound goes on", enough).await
}

fn viewers(seen: &Seen) -> Option<u64> {
    seen.state.as_ref().map(|state| state.viewers)
}

pub(crate) fn watch(url: &str, arguments: &[&str]) -> Output {
    program::roomcam()
        .args(["watch", url])
        .args(arguments)
        .output()
        .unwrap()
}

/// Asserts that nothing of what a bad neighbour did reached this viewer.
fn assert_undisturbed(before: &Seen, after: &Seen) {
    assert_eq!(after.connection, Connection::Connected);
    assert_eq!(after.offered, before.offered, "it never had to start anew");
    assert_eq!(after.counts.incomplete, before.counts.incomplete);
    assert_eq!(after.counts.video.lost, before.counts.video.lost);
}

#[tokio::test]
async fn a_viewer_gets_pictures_and_sound_and_can_decode_from_the_first_frame_on() {
    let demo = demo("");
    let mut viewer = viewer(&demo, 30).await;
    let heard = |seen: &Seen| seen.counts.audio_packets >= 30 && seen.state.is_some();
    let seen = until(&mut viewer, "sound and state come", heard).await;
    let counts = &seen.counts;
    assert_eq!(counts.picture, Some((320, 180)));
    assert_eq!(counts.first_frame, counts.first_keyframe);
    assert_eq!((counts.incomplete, counts.video.lost), (0, 0));
    let state = seen.state.unwrap();
    assert_eq!((state.camera, state.muted, state.viewers), (true, false, 1));
    assert_eq!(
        (state.video.as_str(), state.audio.as_str()),
        ("live", "live")
    );
}

#[tokio::test]
async fn the_watch_command_reports_what_came_and_saves_what_a_decoder_can_start_at() {
    let demo = demo("");
    let directory = TempDir::new().unwrap();
    let saved = directory.path().join("saved.h264");
    let arguments = [
        "--frames",
        "20",
        "--json",
        "--save",
        saved.to_str().unwrap(),
    ];
    let output = watch(demo.url(), &arguments);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["frames"].as_u64().unwrap() >= 20, "{report}");
    assert_eq!(report["picture"], json!([320, 180]));
    assert_eq!(report["incomplete_frames"], 0);

    let stream = std::fs::read(saved).unwrap();
    let types: Vec<u8> = nal_units(&stream).map(NalUnit::unit_type).collect();
    let idr = [NalUnit::SPS, NalUnit::PPS, NalUnit::IDR_SLICE];
    assert_eq!(types[..3], idr, "{types:?}");
    let slices = nal_units(&stream).filter(|unit| unit.is_slice());
    assert!(slices.count() >= 20);
}

#[tokio::test]
async fn mute_is_told_to_everyone_and_the_sound_goes_quiet_at_its_source() {
    let demo = demo("");
    let mut one = viewer(&demo, 1).await;
    let mut other = viewer(&demo, 1).await;
    let loud = until(&mut other, "it hears", |s| s.counts.audio_packets >= 50).await;

    let reply = one.command(Control::SetMuted { muted: true }).await;
    assert_eq!(reply.unwrap().error, None);
    let is_muted = |seen: &Seen| seen.state.as_ref().is_some_and(|state| state.muted);
    until(&mut one, "it is told", is_muted).await;
    let told = until(&mut other, "the other is told", is_muted).await;
    // What was said before may still be on its way.
    let muted = more_sound(&mut other, &told, 25).await;
    let quiet = more_sound(&mut other, &muted, 50).await;
    let bytes_each = |from: &Seen, to: &Seen| {
        (to.counts.audio_bytes - from.counts.audio_bytes)
            / (to.counts.audio_packets - from.counts.audio_packets)
    };
    let before = bytes_each(&Seen::default(), &loud);
    let after = bytes_each(&muted, &quiet);
    assert!(after * 3 < before, "{before} bytes a packet, then {after}");

    other.command(Control::SetMuted { muted: false }).await;
    until(&mut one, "it is told", |seen| !is_muted(seen)).await;
}

#[tokio::test]
async fn camera_off_stops_the_frames_for_everyone_and_on_brings_them_back() {
    let demo = demo("");
    let mut one = viewer(&demo, 1).await;
    let mut other = viewer(&demo, 1).await;
    let video = |what: &'static str| {
        move |seen: &Seen| seen.state.as_ref().is_some_and(|state| state.video == what)
    };

    let reply = one.command(Control::SetCamera { on: false }).await;
    assert_eq!(reply.unwrap().error, None);
    for viewer in [&mut one, &mut other] {
        let seen = until(viewer, "the camera is off", video("off")).await;
        assert!(!seen.state.unwrap().camera);
        let frames = viewer.seen().counts.frames;
        let on_their_way = 3;
        let unexpected = |seen: &Seen| seen.counts.frames > frames + on_their_way;
        let nothing = viewer.until(WHILE_NOTHING, unexpected).await;
        assert!(nothing.is_err(), "frames came from a camera that is off");
    }
    other.command(Control::SetCamera { on: true }).await;
    for viewer in [&mut one, &mut other] {
        until(viewer, "the camera is live", video("live")).await;
        let keyframes = viewer.seen().counts.keyframes;
        more_frames(viewer, 10).await;
        let seen = viewer.seen();
        assert!(seen.counts.keyframes >= keyframes.max(2), "{seen:?}");
        assert_eq!(seen.counts.incomplete, 0);
    }
}

#[tokio::test]
async fn a_keyframe_comes_when_it_is_asked_for() {
    let demo = demo("");
    let mut viewer = viewer(&demo, 30).await;
    let before = viewer.seen().counts.keyframes;
    viewer.request_keyframe().await;
    let seen = until(&mut viewer, "PLI is answered", |s| {
        s.counts.keyframes > before
    })
    .await;
    let before = seen.counts.keyframes;
    let reply = viewer.command(Control::RequestKeyframe).await;
    assert_eq!(reply.unwrap().error, None);
    until(&mut viewer, "the command works", |s| {
        s.counts.keyframes > before
    })
    .await;
}

#[tokio::test]
async fn every_viewer_is_told_how_many_there_are() {
    let demo = demo("");
    let mut one = viewer(&demo, 1).await;
    until(&mut one, "it is alone", |seen| viewers(seen) == Some(1)).await;
    let mut other = viewer(&demo, 1).await;
    until(&mut one, "there are two", |seen| viewers(seen) == Some(2)).await;
    until(&mut other, "there are two", |seen| viewers(seen) == Some(2)).await;
    other.leave().await;
    until(&mut one, "it is alone again", |s| viewers(s) == Some(1)).await;
    more_frames(&mut one, 10).await;
}

#[tokio::test]
async fn one_viewer_too_many_is_refused_in_words_until_another_leaves() {
    let demo = demo("[webrtc]\nmax_viewers = 1\n");
    let mut first = viewer(&demo, 1).await;
    let before = first.seen();
    let options = WatchOptions {
        invitation: demo.url().parse().unwrap(),
        frames: Some(1),
        seconds: None,
        save: None,
        speak: None,
    };
    let error = roomcam::watch::watch(options).await.unwrap_err();
    let WatchError::RefusedByDevice { code, message } = error else {
        panic!("{error:?}");
    };
    assert_eq!(code, "room-full");
    assert!(
        message.contains('1'),
        "it says how many may watch: {message}"
    );
    let after = more_frames(&mut first, 10).await;
    assert_undisturbed(&before, &after);

    first.leave().await;
    viewer(&demo, 1).await;
}

#[tokio::test]
async fn what_does_not_lead_to_a_picture_is_said_in_words() {
    let demo = demo("");
    let wrong_key = format!("{}x", demo.url());
    let (page, _) = demo.url().split_once('#').unwrap();
    let no_page = "http://127.0.0.1:1/#room=cam&key=K";
    for (url, words) in [
        (wrong_key.as_str(), "wrong key for room \"cam\""),
        (
            no_page,
            "no room server answers at ws://127.0.0.1:1/ws: connection refused",
        ),
        (page, "the URL names no room"),
    ] {
        let output = watch(url, &["--frames", "1"]);
        assert!(!output.status.success());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(words), "{url}: {errors}");
        assert_eq!(output.stdout, b"");
    }
}

/// A room server in this process, for devices elsewhere.
async fn room_server() -> (String, tokio::sync::watch::Sender<bool>) {
    let key = |key: &str| Secret::new(key.to_owned());
    let server = Server::bind(ServerOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        viewer_key: key("viewer"),
        device_key: key("device"),
        allowed_origins: Vec::new(),
        ice_servers: Vec::new().into(),
        tutorials: Tutorials::default(),
    });
    let server = server.await.unwrap();
    let origin = format!("http://{}", server.local_addr());
    let (running, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(server.run(stopped));
    (origin, running)
}

/// A process that ends without a word when it is dropped.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let process = program::roomcam()
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(process.unwrap())
    }

    /// A device in the room `attic` of a room server elsewhere.
    fn device(server: &str) -> Self {
        let room = ["run", "--server", server, "--room", "attic"];
        let rest = ["--key", "device", "--video", "pattern", "--audio", "tone"];
        Self::start(&[room.as_slice(), &rest].concat())
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success(), "kill {signal}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_reload_keeps_the_viewers_though_nobody_reads_standard_output_any_more() {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(SMALL.as_bytes()).unwrap();
    let mut process = program::roomcam()
        .args(["demo", "--listen", "127.0.0.1:0", "--config"])
        .arg(config.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let process = Process(process);
    output.read_line(&mut line).unwrap();
    drop(output);
    let url = line.split_whitespace().find(|w| w.starts_with("http://"));
    let invitation = url.unwrap().parse().unwrap();
    let mut viewer = Viewer::join(&invitation, None).await.unwrap();
    more_frames(&mut viewer, 5).await;

    config.write_all(b"[room]\nname = \"attic\"\n").unwrap();
    process.signal("-HUP");
    until(&mut viewer, "is out of the room", |seen| !seen.in_room).await;
    more_frames(&mut viewer, 50).await;
}

#[tokio::test]
async fn a_viewer_waits_for_the_device_and_finds_it_again_when_it_comes_back() {
    let (server, _running) = room_server().await;
    let invitation = format!("{server}/#room=attic&key=viewer").parse().unwrap();
    let mut viewer = Viewer::join(&invitation, None).await.unwrap();
    assert_eq!(viewer.seen().device, None);

    let device = Process::device(&server);
    let first = until(&mut viewer, "frames come", |s| s.counts.frames >= 10).await;
    drop(device);
    until(&mut viewer, "the device is gone", |s| s.device.is_none()).await;

    let _device = Process::device(&server);
    let again = |seen: &Seen| seen.offered > first.offered && seen.connected.is_some();
    let seen = until(&mut viewer, "it is back", again).await;
    assert_ne!(seen.device, first.device);
    more_frames(&mut viewer, 10).await;
}

#[tokio::test]
async fn a_room_without_a_device_is_said_to_be_one() {
    let (server, _running) = room_server().await;
    let options = WatchOptions {
        invitation: format!("{server}/#room=attic&key=viewer").parse().unwrap(),
        frames: Some(1),
        seconds: None,
        save: None,
        speak: None,
    };
    let error = roomcam::watch::watch(options).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "room \"attic\" has no device; waited 10 s for one"
    );
}

#[tokio::test]
async fn offers_that_are_none_are_refused_and_disturb_nobody() {
    let mut demo = demo("");
    let mut neighbour = viewer(&demo, 1).await;
    let before = neighbour.seen();
    let mut room = RoomClient::join(demo.url()).await;
    let media = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
        a=fingerprint:sha-256 00:11\r\nm=video 9 UDP/TLS/RTP/SAVPF 102\r\n\
        a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1\r\n";
    for sdp in [
        String::new(),
        "junk".to_owned(),
        "v=0".to_owned(),
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n".to_owned(),
        "v=0\r\no=- 2 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 RTP/AVP 96\r\n".to_owned(),
        format!("v=0\r\no=- 3\r\n{media}"),
        format!(
            "v=0\r\no=- 4 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{}",
            "m=".repeat(9_000)
        ),
        format!("v=0\r\no=- 5 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{media}")
            .replace("H264", "VP8"),
        format!(
            "v=0\r\no=- 6 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{}",
            "a=x\r\n".repeat(10_000)
        ),
        format!(
            "v=0\r\no=- 7 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{}",
            "\u{1f980}".repeat(10_000)
        ),
    ] {
        let offer = json!({"type": "offer", "offer": {"type": "offer", "sdp": sdp}});
        assert!(room.send(offer.to_string()).await);
        let error = room.expect("error").await;
        assert_eq!(error["code"], "bad-offer", "{error}");
        assert_ne!(error["message"], "", "{error}");
    }
    let after = more_frames(&mut neighbour, 10).await;
    assert_undisturbed(&before, &after);
    assert!(demo.is_running());
}

#[tokio::test]
async fn a_stray_answer_and_junk_candidates_disturb_nobody() {
    let mut demo = demo("");
    let mut neighbour = viewer(&demo, 1).await;
    let mut stray = viewer(&demo, 1).await;
    let before = neighbour.seen();
    for text in [
        r#"{"type":"answer","answer":{"type":"answer","sdp":"v=0"}}"#,
        r#"{"type":"answer","answer":{"type":"answer","sdp":"junk"}}"#,
        r#"{"type":"candidate","candidate":{"candidate":"junk","sdpMid":"0"}}"#,
        r#"{"type":"candidate","candidate":{"candidate":"candidate:1 1 udp 1 256.1.1.1 99999 typ host","sdpMid":"9"}}"#,
        r#"{"type":"candidate","candidate":{"candidate":"","sdpMLineIndex":65535}}"#,
        r#"{"type":"candidate","candidate":7}"#,
        r#"{"type":"candidate"}"#,
        r#"{"type":"offer","offer":null}"#,
        r#"{"type":"weather"}"#,
        "junk",
        "[]",
    ] {
        stray.send_room(text).await;
    }
    let seen = more_frames(&mut stray, 10).await;
    assert_eq!(seen.connection, Connection::Connected);
    let after = more_frames(&mut neighbour, 10).await;
    assert_undisturbed(&before, &after);
    assert!(demo.is_running());
}

#[tokio::test]
async fn ten_thousand_candidates_and_a_megabyte_of_sdp_end_their_sender_alone() {
    let mut demo = demo("");
    let mut neighbour = viewer(&demo, 1).await;
    let before = neighbour.seen();

    let mut flood = RoomClient::join(demo.url()).await;
    for n in 0..10_000 {
        let line = format!(
            "candidate:{n} 1 udp 1 192.0.2.1 {} typ host",
            n % 60_000 + 1
        );
        let candidate = json!({"candidate": line, "sdpMid": "0"});
        let message = json!({"type": "candidate", "candidate": candidate});
        if !flood.send(message.to_string()).await {
            break;
        }
    }
    assert_closed_for(flood, "too-fast").await;

    let mut large = RoomClient::join(demo.url()).await;
    let sdp = "a=x\r\n".repeat(200_000);
    let offer = json!({"type": "offer", "offer": {"type": "offer", "sdp": sdp}});
    large.send(offer.to_string()).await;
    assert_closed_for(large, "too-large").await;

    let after = more_frames(&mut neighbour, 10).await;
    assert_undisturbed(&before, &after);
    assert!(demo.is_running());
}

/// Asserts that the server closes this connection, and says why if it says anything: what the
/// client has not read by the time it is cut off may be lost.
async fn assert_closed_for(mut room: RoomClient, code: &str) {
    while let Some(message) = room.next().await {
        assert_eq!(message["code"], code, "{message}");
    }
}

#[tokio::test]
async fn junk_on_the_control_channel_is_answered_and_disturbs_nobody() {
    let mut demo = demo("");
    let mut neighbour = viewer(&demo, 1).await;
    let mut junk = viewer(&demo, 1).await;
    until(&mut junk, "the channel is open", |s| {
        s.control_open.is_some()
    })
    .await;
    let before = neighbour.seen();
    let too_long = format!(r#"{{"id":7,"type":"{}"}}"#, "x".repeat(5_000));
    for (text, id, code) in [
        ("junk", None, "bad-command"),
        ("[]", None, "bad-command"),
        (r#"{"id":1}"#, Some(1), "bad-command"),
        (r#"{"id":2,"type":"explode"}"#, Some(2), "bad-command"),
        (
            r#"{"id":3,"type":"set_muted","muted":"yes"}"#,
            Some(3),
            "bad-command",
        ),
        (
            r#"{"id":-1,"type":"set_muted","muted":true}"#,
            None,
            "bad-command",
        ),
        (too_long.as_str(), None, "too-long"),
    ] {
        let known = junk.seen().replies.len();
        junk.send_control(text).await;
        let seen = until(&mut junk, text, |seen| seen.replies.len() > known).await;
        let reply = seen.replies.last().unwrap();
        assert_eq!(reply.id, id, "{text}");
        assert_eq!(reply.error.as_ref().unwrap().code, code, "{text}");
    }
    for n in 0..2_000 {
        junk.send_control(format!(r#"{{"id":{n},"type":"request_keyframe"}}"#))
            .await;
    }
    let after = more_frames(&mut neighbour, 30).await;
    assert_undisturbed(&before, &after);
    let keyframes = after.counts.keyframes - before.counts.keyframes;
    assert!(
        keyframes < 30,
        "a flood of requests made {keyframes} keyframes"
    );
    let state = after.state.unwrap();
    assert!(state.camera && !state.muted);
    assert!(demo.is_running());
}

#[tokio::test]
async fn a_viewer_that_vanishes_is_noticed_within_15_seconds() {
    let demo = demo("");
    let mut stays = viewer(&demo, 1).await;
    let vanishes = Process::start(&["watch", demo.url(), "--seconds", "600"]);
    until(&mut stays, "there are two", |seen| viewers(seen) == Some(2)).await;
    drop(vanishes);
    let alone = stays.until(Duration::from_secs(15), |s| viewers(s) == Some(1));
    assert!(alone.await.is_ok(), "{:?}", stays.seen());
}

#[tokio::test]
async fn sigterm_ends_the_daemon_within_two_seconds_and_viewers_are_told() {
    let mut demo = demo("");
    let mut one = viewer(&demo, 1).await;
    let mut other = viewer(&demo, 1).await;
    let (took, status) = demo.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    for viewer in [&mut one, &mut other] {
        let told = |seen: &Seen| !seen.in_room && seen.connection == Connection::Closed;
        let seen = viewer.until(Duration::from_secs(2), told).await;
        assert!(seen.is_ok(), "{seen:?}");
    }
}
