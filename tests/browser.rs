//! The daemon seen by a real browser: picture, sound, buttons, words.
//!
//! One test at a time: a software encoder and one or two browsers fill a small machine.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::chromium::{Addresses, Chromium, PATIENCE, Setup};
use crate::support::demo::Demo;
use crate::support::islands::{Relay, SECRET};

mod camera;

pub(crate) static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Half a second of the demo's tone is louder, half a second of silence is not.
pub(crate) const AUDIBLE: f64 = 0.005;

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_shows_the_picture_and_plays_the_sound() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.join(demo.url()).await;

    page.wait_for_frames(30).await;
    let first = page.picture_clock().await;
    let second = page.picture_clock().await;
    let step = second.captured.wrapping_sub(first.captured);
    assert!((1..50_000).contains(&step), "{first:?} {second:?}");
    assert!(second.latency() < Duration::from_secs(2), "{second:?}");
    assert_eq!(
        page.eval("document.querySelector('audio').paused").await,
        false
    );
    let loudness = page.loudness().await;
    assert!(loudness > AUDIBLE, "{loudness}");

    page.click("Statistics").await;
    page.wait_until("/\\d+ × \\d+/.test(document.getElementById('overlay').innerText)")
        .await;
    page.screenshot("page").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_may_use_relays_alone_is_handed_credentials_that_work() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let addresses = roomcam::interfaces::reachable_addresses();
    let address = addresses.into_iter().find(|ip| ip.is_ipv4());
    let relay = Relay::start(address.expect("this machine has a network"));
    let urls = &relay.url;
    let config = format!("[webrtc.turn]\nurls = [\"{urls}\"]\nsecret = \"{SECRET}\"\n");
    let demo = Demo::configured(&[], &config);
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(
        "const Any = RTCPeerConnection;\
         window.RTCPeerConnection = function (configuration) {\
           return new Any({ ...configuration, iceTransportPolicy: 'relay' });\
         };\
         const { setConfiguration } = Any.prototype;\
         Any.prototype.setConfiguration = function (configuration) {\
           return setConfiguration.call(this, { ...configuration, iceTransportPolicy: 'relay' });\
         };",
    )
    .await;
    page.click("Join").await;
    page.wait_for_frames(30).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_finds_no_path_says_what_the_device_says_of_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    // An address for documentation: nobody is there (RFC 5737).
    let demo = Demo::configured(&[], "[webrtc]\nadvertised_addresses = [\"198.51.100.1\"]\n");
    let hidden = Setup {
        addresses: Addresses::Hidden,
        ..Setup::default()
    };
    let page = Chromium::start(hidden).await;
    page.open(demo.url()).await;
    page.click("Join").await;
    page.wait_for_status("only hidden addresses (mDNS)").await;
    page.wait_for_status("set webrtc.turn").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_takes_nothing_from_elsewhere_and_tells_nobody_the_key() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(COUNT_REQUESTS_FOR_DEVICES).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;

    let foreign = "performance.getEntriesByType('resource').map((r) => r.name)\
                   .filter((name) => !name.startsWith(location.origin) || name.includes('key'))";
    assert_eq!(page.eval(foreign).await, json!([]));
    let asked = page.eval("window.requestsForDevices").await;
    assert_eq!(
        asked, 0,
        "neither the camera nor the microphone of the viewer"
    );
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn mute_silences_the_sound_for_everyone_and_every_page_shows_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let (one, two) = two_pages(&demo).await;
    assert!(one.loudness().await > AUDIBLE && two.loudness().await > AUDIBLE);

    one.click("Mute").await;
    for page in [&one, &two] {
        page.wait_for_button("Unmute").await;
        page.wait_for_status("microphone muted").await;
        wait_for_loudness(page, |loudness| loudness < AUDIBLE).await;
    }
    two.click("Unmute").await;
    for page in [&one, &two] {
        page.wait_for_button("Mute").await;
        wait_for_loudness(page, |loudness| loudness > AUDIBLE).await;
    }
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn stop_camera_stops_the_picture_for_everyone_and_start_brings_it_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let (one, two) = two_pages(&demo).await;

    one.click("Stop camera").await;
    for page in [&one, &two] {
        page.wait_for_status("Camera is off").await;
        page.wait_for_button("Start camera").await;
        page.wait_until("document.getElementById('cover').checkVisibility()")
            .await;
        wait_until_no_frames_come(page).await;
        assert!(page.loudness().await > AUDIBLE, "the sound goes on");
    }
    one.screenshot("camera-off").await;

    two.click("Start camera").await;
    for page in [&one, &two] {
        page.wait_for_frames(15).await;
        page.wait_for_status("Live").await;
        page.wait_for_button("Stop camera").await;
    }
    let clock = one.picture_clock().await;
    assert!(clock.latency() < Duration::from_secs(2), "{clock:?}");
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn who_leaves_is_gone_and_can_come_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let (one, two) = two_pages(&demo).await;
    one.wait_until("roomcam.state.viewers === 2").await;

    two.click("Leave").await;
    two.wait_for_button("Join").await;
    assert_eq!(two.eval("roomcam.pc").await, Value::Null);
    one.wait_until("roomcam.state.viewers === 1").await;

    two.click("Join").await;
    two.wait_for_status("Live").await;
    two.wait_for_frames(15).await;
    one.wait_until("roomcam.state.viewers === 2").await;

    // A closed page says goodbye, too.
    two.open("about:blank").await;
    one.wait_until("roomcam.state.viewers === 1").await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_wrong_key_is_said_in_words_and_the_right_one_may_follow() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    let key = page.eval("document.getElementById('key').value").await;

    page.fill("Key", "wrong").await;
    page.click("Join").await;
    page.wait_for_status("Wrong key").await;
    page.wait_for_button("Join").await;

    page.fill("Key", key.as_str().unwrap()).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_browser_without_h264_is_told_what_to_do() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(OFFER_VP8_ALONE).await;
    page.click("Join").await;
    page.wait_for_status("This browser offers no H.264 (Firefox: enable its OpenH264 plugin)")
        .await;
    page.wait_for_button("Join").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_browser_without_webrtc_or_that_refuses_a_connection_is_told_so() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run("window.real = RTCPeerConnection; window.RTCPeerConnection = undefined;")
        .await;
    page.click("Join").await;
    page.wait_for_status("This browser has no WebRTC").await;
    page.run("window.RTCPeerConnection = function () { throw new Error('too many'); };")
        .await;
    page.click("Join").await;
    page.wait_for_status("This browser cannot connect: too many")
        .await;
    page.run("window.RTCPeerConnection = window.real").await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn sound_that_was_held_back_or_paused_plays_after_a_tap_or_when_the_page_is_shown() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(HOLD_BACK_SOUND).await;
    page.click("Join").await;
    page.wait_until("document.getElementById('notice').textContent.includes('tap anywhere')")
        .await;
    // Sound that came later would play by itself.
    page.wait_until("document.querySelector('audio').srcObject.getTracks().length === 1")
        .await;
    let plays = "!document.querySelector('audio').paused";
    page.run("window.allowed = true; dispatchEvent(new Event('pointerdown'))")
        .await;
    assert_eq!(page.eval(plays).await, false, "a touch began");
    page.run("dispatchEvent(new Event('touchend'))").await;
    page.wait_until(plays).await;

    page.run("document.querySelectorAll('audio, video').forEach((e) => e.pause())")
        .await;
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
        .await;
    page.wait_until(plays).await;
    page.wait_until("!document.querySelector('video').paused")
        .await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_waits_on_a_dead_socket_joins_anew_when_the_network_is_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(KEEP_THE_SOCKETS).await;
    page.run(LOSE_THE_FIRST_ANSWER).await;
    page.click("Join").await;
    page.wait_until("window.lost === true").await;
    page.run("dispatchEvent(new Event('online'))").await;
    page.wait_for_status("Live").await;
    assert_eq!(page.eval("window.sockets.length").await, 2);

    page.run("window.before = roomcam.pc; dispatchEvent(new Event('online'))")
        .await;
    page.wait_for_frames(10).await;
    let kept = "window.sockets.length === 2 && roomcam.pc === window.before";
    assert_eq!(page.eval(kept).await, true, "what runs is left alone");
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_full_room_says_so_and_takes_the_next_one_when_somebody_left() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::configured(&[], "[webrtc]\nmax_viewers = 1\n");
    let one = Chromium::start(Setup::default()).await;
    let two = Chromium::start(Setup::default()).await;
    one.join(demo.url()).await;
    two.open(demo.url()).await;
    two.click("Join").await;
    two.wait_for_status("The room is full").await;
    one.wait_for_frames(15).await;

    one.click("Leave").await;
    one.wait_for_button("Join").await;
    two.click("Join").await;
    two.wait_for_status("Live").await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_camera_that_is_missing_is_named_while_the_sound_plays() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::configured(&["--video", "/dev/no-such-camera"], "");
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.click("Join").await;
    page.wait_for_status("Waiting for camera: /dev/no-such-camera")
        .await;
    assert!(page.loudness().await > AUDIBLE);
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_browser_that_hides_its_addresses_gets_the_picture() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup {
        addresses: Addresses::Hidden,
        ..Setup::default()
    })
    .await;
    page.join(demo.url()).await;
    page.wait_for_frames(15).await;
    let hosts = "roomcam.pc.localDescription.sdp.match(/^a=candidate:.* typ host/gm)";
    let hidden = format!("{hosts}.length > 0 && {hosts}.every((c) => c.includes('.local '))");
    page.wait_until(&hidden).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_broken_picture_is_mended_by_the_keyframe_its_decoder_asks_for() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(BREAK_FRAMES_ON_DEMAND).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    for _ in 0..3 {
        page.wait_for_frames(10).await;
        let before = page.eval("await roomcam.stats()").await;
        page.run("window.framesToBreak = 1").await;
        page.wait_until(&format!(
            "(({{ plis, keyframes }}) => plis > {} && keyframes > {})(await roomcam.stats())",
            before["plis"], before["keyframes"]
        ))
        .await;
    }
    page.wait_for_frames(10).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_asks_for_a_keyframe_gets_one() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(KEEP_THE_CHANNEL).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    page.wait_for_frames(10).await;
    let before = page.number("(await roomcam.stats()).keyframes").await;
    page.run("window.channel.send('{\"id\":4000000000,\"type\":\"request_keyframe\"}')")
        .await;
    page.wait_until(&format!(
        "(await roomcam.stats()).keyframes > {before} && \
         window.heard.includes('{{\"id\":4000000000,\"ok\":true}}')"
    ))
    .await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn the_picture_outlives_the_connection_to_the_room_server() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.run(KEEP_THE_SOCKETS).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    page.run("window.before = roomcam.pc; window.sockets[0].close()")
        .await;
    page.wait_until("window.sockets.length === 2 && roomcam.status.words === 'Live'")
        .await;
    page.wait_for_frames(30).await;
    assert_eq!(page.eval("roomcam.pc === window.before").await, true);
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_device_that_starts_anew_is_found_again() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.join(demo.url()).await;
    page.run("window.before = roomcam.pc").await;
    let _demo = demo.start_again();
    page.wait_until("roomcam.pc !== window.before").await;
    page.wait_for_status("Live").await;
    page.wait_for_frames(15).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_device_that_hangs_is_connected_to_anew() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.join(demo.url()).await;
    page.run("window.before = roomcam.pc").await;

    demo.freeze();
    page.wait_for_status("stands still").await;
    page.wait_for_status("Connect").await;
    demo.thaw();
    page.wait_for_status("Live").await;
    page.wait_for_frames(15).await;
    assert_eq!(page.eval("roomcam.pc === window.before").await, false);
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn the_page_fits_a_phone() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup {
        phone: Some((360, 740)),
        dark: true,
        ..Setup::default()
    })
    .await;
    let fits = "document.documentElement.scrollWidth <= 360 && \
                document.documentElement.scrollHeight <= 740";
    page.open(demo.url()).await;
    assert_eq!(page.eval(fits).await, true);
    page.screenshot("phone-form").await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    assert_eq!(page.eval(fits).await, true);
    page.screenshot("phone").await;
    page.close().await;
}

/// The page's own functions, called in the browser that runs them.
#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn every_state_has_its_words() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;

    let live =
        json!({"camera": true, "muted": false, "video": "live", "audio": "live", "detail": ""});
    let state = |change: Value| merged(&live, &change);
    let connected = json!({"room": "joined", "media": "connected", "device": true, "state": live,
        "picture": true, "frozen": false, "ended": ""});
    let busy = "camera /dev/video0 is in use by another program";
    let facts = [
        (json!({"room": "none"}), ""),
        (
            json!({"room": "none", "ended": "The room is full"}),
            "The room is full",
        ),
        (
            json!({"room": "connecting", "media": "none", "device": false}),
            "Connecting…",
        ),
        (
            json!({"room": "unreachable", "media": "none"}),
            "The server does not answer: retrying…",
        ),
        (
            json!({"media": "none", "device": false}),
            "Waiting for the device…",
        ),
        (json!({"media": "lost"}), "Connection lost: retrying…"),
        (
            json!({"media": "lost", "room": "lost"}),
            "Connection lost: retrying…",
        ),
        (
            json!({"media": "shaky"}),
            "Connection interrupted: waiting for it…",
        ),
        (json!({}), "Live"),
        (
            json!({"room": "lost"}),
            "Live (room server lost: retrying…)",
        ),
        (json!({"state": null}), "Live"),
        (json!({"picture": false}), "Waiting for the picture…"),
        (
            json!({"frozen": true}),
            "The picture stands still: asking for a new one…",
        ),
        (
            json!({"state": state(json!({"muted": true}))}),
            "Live, microphone muted",
        ),
        (
            json!({"state": state(json!({"audio": "waiting", "detail": "waiting for microphone: microphone hw:1 is missing"}))}),
            "Live, no sound: microphone hw:1 is missing",
        ),
        (
            json!({"state": state(json!({"video": "none"}))}),
            "Live, sound only",
        ),
        (
            json!({"state": state(json!({"video": "starting"}))}),
            "Camera is starting…",
        ),
        (
            json!({"state": state(json!({"camera": false, "video": "off"}))}),
            "Camera is off",
        ),
        (
            json!({"state": state(json!({"video": "waiting", "detail": busy}))}),
            "Waiting for camera: /dev/video0 is in use by another program",
        ),
        (
            json!({"state": state(json!({"video": "waiting", "detail": format!("waiting for camera: {busy}")}))}),
            "Waiting for camera: /dev/video0 is in use by another program",
        ),
    ];
    for (change, words) in facts {
        let view = merged(&connected, &change);
        let said = page
            .eval(&format!("(await import('/app.js')).statusOf({view}).words"))
            .await;
        assert_eq!(said, words, "{view}");
    }
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_picture_that_stands_still_is_asked_for_and_then_connected_anew() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;

    let asks = json!("keyframe");
    let replaces = json!("replace");
    let waits = Value::Null;
    // For each: milliseconds, state of the connection, frames decoded, whether more are expected.
    let cases = [
        (
            "a picture that moves is left alone",
            vec![
                (json!([500, "connected", 1, true]), &waits),
                (json!([1000, "connected", 2, true]), &waits),
            ],
        ),
        (
            "one that stands still",
            vec![
                (json!([1000, "connected", 5, true]), &waits),
                (json!([2900, "connected", 5, true]), &waits),
                (json!([3100, "connected", 5, true]), &asks),
                (json!([3600, "connected", 5, true]), &waits),
                (json!([5100, "connected", 5, true]), &replaces),
            ],
        ),
        (
            "one that moves again",
            vec![
                (json!([2000, "connected", 0, true]), &waits),
                (json!([2100, "connected", 0, true]), &asks),
                (json!([4000, "connected", 1, true]), &waits),
                (json!([5900, "connected", 1, true]), &waits),
            ],
        ),
        (
            "nobody expects one of a camera that is off",
            vec![
                (json!([1900, "connected", 5, false]), &waits),
                (json!([3800, "connected", 5, false]), &waits),
                (json!([5700, "connected", 5, true]), &waits),
            ],
        ),
        (
            "a page that slept looks twice",
            vec![
                (json!([1000, "connected", 5, true]), &waits),
                (json!([60_000, "connected", 5, true]), &waits),
            ],
        ),
        (
            "a connection that comes back is kept",
            vec![
                (json!([1000, "disconnected", 5, true]), &waits),
                (json!([2900, "disconnected", 5, true]), &waits),
                (json!([3900, "connected", 6, true]), &waits),
            ],
        ),
        (
            "one that does not is replaced",
            vec![
                (json!([1000, "disconnected", 5, true]), &waits),
                (json!([3900, "disconnected", 5, true]), &waits),
                (json!([4100, "disconnected", 5, true]), &replaces),
            ],
        ),
        (
            "one that failed at once",
            vec![(json!([100, "failed", 0, true]), &replaces)],
        ),
        (
            "one that never came about",
            vec![
                (json!([9900, "connecting", 0, true]), &waits),
                (json!([10_100, "connecting", 0, true]), &replaces),
            ],
        ),
    ];
    for (case, looks) in cases {
        let (inputs, verdicts): (Vec<_>, Vec<_>) = looks.into_iter().unzip();
        let said = page
            .eval(&format!(
                "await (async () => {{ \
                   const dog = new (await import('/app.js')).Watchdog(0); \
                   return {}.map(([now, connection, frames, expected]) => \
                     dog.look({{ now, connection, frames, expected }})); }})()",
                json!(inputs)
            ))
            .await;
        assert_eq!(said, json!(verdicts), "{case}");
    }
    page.close().await;
}

async fn two_pages(demo: &Demo) -> (Chromium, Chromium) {
    let one = Chromium::start(Setup::default()).await;
    let two = Chromium::start(Setup::default()).await;
    one.join(demo.url()).await;
    two.join(demo.url()).await;
    (one, two)
}

pub(crate) async fn wait_for_loudness(page: &Chromium, is_right: impl Fn(f64) -> bool) {
    let deadline = roomcam::clock::now() + PATIENCE;
    loop {
        let loudness = page.loudness().await;
        if is_right(loudness) {
            return;
        }
        assert!(roomcam::clock::now() < deadline, "loudness {loudness}");
    }
}

/// Frames on their way still come; then half a second goes by without one.
async fn wait_until_no_frames_come(page: &Chromium) {
    page.wait_until(
        "await (async () => { \
           const { frames } = await roomcam.stats(); \
           await new Promise((done) => setTimeout(done, 500)); \
           return (await roomcam.stats()).frames === frames; })()",
    )
    .await;
}

fn merged(base: &Value, change: &Value) -> Value {
    let mut all = base.as_object().unwrap().clone();
    all.extend(change.as_object().unwrap().clone());
    Value::Object(all)
}

/// Leaves in `requestsForDevices` how often the page asked for the viewer's camera or microphone.
const COUNT_REQUESTS_FOR_DEVICES: &str = "window.requestsForDevices = 0; \
    Object.defineProperty(navigator, 'mediaDevices', { \
      get() { window.requestsForDevices += 1; } \
    });";

/// Makes the browser one that has no other video codec.
const OFFER_VP8_ALONE: &str = "const real = RTCPeerConnection.prototype.addTransceiver; \
    RTCPeerConnection.prototype.addTransceiver = function (...args) { \
      const transceiver = real.apply(this, args); \
      if (args[0] === 'video') { \
        const { codecs } = RTCRtpReceiver.getCapabilities('video'); \
        transceiver.setCodecPreferences(codecs.filter((c) => c.mimeType === 'video/VP8')); \
        transceiver.setCodecPreferences = () => {}; \
      } \
      return transceiver; \
    };";

/// Zeroes the payload of the next `framesToBreak` frames before they are decoded.
const BREAK_FRAMES_ON_DEMAND: &str = "window.framesToBreak = 0; \
    const Real = RTCPeerConnection; \
    window.RTCPeerConnection = class extends Real { \
      constructor(config) { \
        super({ ...config, encodedInsertableStreams: true }); \
        this.addEventListener('track', ({ receiver, track }) => { \
          const { readable, writable } = receiver.createEncodedStreams(); \
          readable.pipeThrough(new TransformStream({ transform(frame, out) { \
            if (track.kind === 'video' && frame.type === 'delta' && window.framesToBreak > 0) { \
              window.framesToBreak -= 1; \
              new Uint8Array(frame.data).fill(0, 5); \
            } \
            out.enqueue(frame); \
          } })).pipeTo(writable); \
        }); \
      } \
    };";

/// Leaves the page's control channel in `channel` and what it hears in `heard`.
pub(crate) const KEEP_THE_CHANNEL: &str = "window.heard = []; \
    const real = RTCPeerConnection.prototype.createDataChannel; \
    RTCPeerConnection.prototype.createDataChannel = function (...args) { \
      window.channel = real.apply(this, args); \
      window.channel.addEventListener('message', ({ data }) => window.heard.push(data)); \
      return window.channel; \
    };";

/// Refuses to play sound until `allowed`.
const HOLD_BACK_SOUND: &str = "const real = HTMLMediaElement.prototype.play; \
    HTMLMediaElement.prototype.play = function () { \
      if (window.allowed || this.tagName === 'VIDEO') return real.call(this); \
      this.pause(); \
      return Promise.reject(new DOMException('held back', 'NotAllowedError')); \
    };";

/// The first of the page's WebSockets hears nothing from the answer on, as one that is dead.
const LOSE_THE_FIRST_ANSWER: &str = "const Kept = WebSocket; \
    window.WebSocket = class extends Kept { \
      set onmessage(listener) { \
        const first = window.sockets[0] === this; \
        super.onmessage = listener && ((event) => { \
          if (first && event.data.includes('\"answer\"')) window.lost = true; \
          if (!first || !window.lost) listener(event); \
        }); \
      } \
    };";

/// Leaves the page's WebSockets in `sockets`.
const KEEP_THE_SOCKETS: &str = "window.sockets = []; \
    const Real = WebSocket; \
    window.WebSocket = class extends Real { \
      constructor(...args) { super(...args); window.sockets.push(this); } \
    };";
