//! The camera's settings, snapshots and notices, as a person has them on the page.

use serde_json::{Value, json};

use super::{ONE_AT_A_TIME, two_pages};
use crate::camera::Unpluggable;
use crate::support::chromium::{Chromium, Setup};
use crate::support::demo::Demo;

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_slider_changes_the_picture_for_everyone_and_every_page_shows_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let (one, two) = two_pages(&demo).await;
    let before = one.number(BRIGHTNESS_OF_THE_PICTURE).await;

    one.click("Settings").await;
    one.wait_until("document.activeElement.id === 'settings-panel'")
        .await;
    one.screenshot("settings").await;
    one.run(DRAG_THE_SLIDER).await;
    for page in [&one, &two] {
        page.wait_until("roomcam.controls.find((c) => c.id === 'brightness').value === 60")
            .await;
    }
    one.wait_until(&format!("{BRIGHTNESS_OF_THE_PICTURE} > {before} + 20"))
        .await;
    two.click("Settings").await;
    let shown = "document.getElementById('setting-brightness').value";
    assert_eq!(two.eval(shown).await, "60");
    two.run(
        "const menu = document.getElementById('setting-color_effects'); \
         menu.value = '1'; menu.dispatchEvent(new Event('input')); \
         document.getElementById('setting-vertical_flip').click();",
    )
    .await;
    one.wait_until(
        "document.getElementById('setting-color_effects').value === '1' && \
         document.getElementById('setting-vertical_flip').checked",
    )
    .await;

    one.click("Reset to defaults").await;
    for page in [&one, &two] {
        page.wait_until("roomcam.controls.every((c) => c.value === c.default)")
            .await;
        page.wait_until(&format!("{shown} === '0'")).await;
    }
    one.run(
        "document.getElementById('settings-panel')\
         .dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))",
    )
    .await;
    one.wait_until(
        "document.getElementById('settings-panel').hidden && \
         document.activeElement.id === 'settings'",
    )
    .await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn every_setting_has_a_label_and_the_panel_fits_a_phone() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup {
        phone: Some((360, 740)),
        dark: true,
        ..Setup::default()
    })
    .await;
    page.join(demo.url()).await;
    page.click("Settings").await;
    assert_eq!(
        page.eval(LABELS_OF_THE_SETTINGS).await,
        json!(["Brightness", "Upside down", "Colour effects"])
    );
    let fits = "document.documentElement.scrollWidth <= 360 && \
                document.documentElement.scrollHeight <= 740";
    assert_eq!(page.eval(fits).await, true);
    page.screenshot("phone-settings").await;
    page.click("Stop camera").await;
    page.wait_until(
        "document.getElementById('settings').hidden && \
         document.getElementById('settings-panel').hidden",
    )
    .await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_csi_camera_is_set_on_a_phone_though_its_program_starts_anew_for_it() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let camera = Unpluggable::new();
    let demo = Demo::configured(&["--video", "csi"], &camera.config());
    let page = Chromium::start(Setup {
        phone: Some((360, 740)),
        ..Setup::default()
    })
    .await;
    page.join(demo.url()).await;
    let before = page.number(BRIGHTNESS_OF_THE_PICTURE).await;
    page.click("Settings").await;
    let labels = page.eval(LABELS_OF_THE_SETTINGS).await;
    let of_every_sensor = json!([
        "Brightness",
        "Contrast",
        "Saturation",
        "Sharpness",
        "Exposure compensation",
        "White balance",
        "Mirror",
        "Upside down"
    ]);
    assert_eq!(labels, of_every_sensor);
    // There are more than fit: the panel scrolls, and the page does not.
    let fits = "document.documentElement.scrollWidth <= 360 && \
                document.documentElement.scrollHeight <= 740";
    assert_eq!(page.eval(fits).await, true);
    page.run(
        "const slider = document.getElementById('setting-brightness'); \
         slider.value = 50; slider.dispatchEvent(new Event('input'));",
    )
    .await;
    page.wait_until(&format!("{BRIGHTNESS_OF_THE_PICTURE} > {before} + 20"))
        .await;
    page.wait_for_status("Live").await;
    page.screenshot("phone-csi-settings").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_snapshot_is_kept_as_a_file_of_the_whole_picture() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.join(demo.url()).await;
    page.run(CATCH_DOWNLOADS).await;
    page.click("Snapshot").await;
    page.wait_until("window.saved !== undefined").await;
    let name = page.eval("window.saved.name").await;
    let name = name.as_str().unwrap();
    assert!(
        name.starts_with("cam-20") && name.ends_with(".jpg"),
        "{name}"
    );
    let size = "await createImageBitmap(window.saved.blob).then((p) => [p.width, p.height])";
    assert_eq!(page.eval(size).await, json!([1280, 720]));
    assert_eq!(page.eval("window.saved.blob.type").await, "image/jpeg");

    page.wait_for_button("Snapshot").await;
    page.click("Stop camera").await;
    page.wait_for_status("Camera is off").await;
    let disabled = page.eval("document.getElementById('snapshot').disabled");
    assert_eq!(disabled.await, true);
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn while_a_camera_is_missing_the_page_shows_the_picture_that_says_so() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::configured(&["--video", "/dev/no-such-camera"], "");
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    page.click("Join").await;
    page.wait_for_status("Waiting for camera: /dev/no-such-camera")
        .await;
    page.wait_until("!document.getElementById('cover').checkVisibility()")
        .await;
    page.wait_until("document.querySelector('video').videoWidth === 1280")
        .await;
    page.screenshot("notice").await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn what_the_device_tells_of_its_controls_is_understood_and_the_rest_ignored() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(Setup::default()).await;
    page.open(demo.url()).await;
    let a = json!({"id": "gain", "value": 1});
    let b = json!({"id": "hue", "value": 1});
    let newer = json!({"id": "hue", "value": 2});
    for (message, expected) in [
        (json!({"type": "controls", "controls": [a]}), json!([a])),
        (
            json!({"type": "controls_changed", "controls": [newer]}),
            json!([a, newer]),
        ),
        (json!({"type": "state", "controls": [a]}), Value::Null),
        (json!({"type": "controls"}), Value::Null),
        (json!({"id": 7, "ok": true, "controls": [a]}), Value::Null),
    ] {
        let known = json!([a, b]);
        let call = format!("(await import('/camera.js')).merged({known}, {message})");
        assert_eq!(page.eval(&call).await, expected, "{message}");
    }
    let name = "(await import('/camera.js')).fileName('cam', new Date(2026, 0, 2, 3, 4, 5))";
    assert_eq!(page.eval(name).await, "cam-2026-01-02-03-04-05.jpg");
    let too_long = "await (async () => { \
        const { Incoming } = await import('/camera.js'); \
        const file = new Incoming({ type: 'image/jpeg', bytes: 4 }); \
        file.piece(new ArrayBuffer(3)); file.piece(new ArrayBuffer(2)); \
        return file.file.catch((error) => error.message); })()";
    let words = "The device sent another picture than it said";
    assert_eq!(page.eval(too_long).await, words);
    page.close().await;
}

/// The mean of the green of all pixels that are shown.
const BRIGHTNESS_OF_THE_PICTURE: &str = "(() => { \
    const canvas = new OffscreenCanvas(64, 36).getContext('2d'); \
    canvas.drawImage(document.querySelector('video'), 0, 0, 64, 36); \
    const { data } = canvas.getImageData(0, 0, 64, 36); \
    let sum = 0; \
    for (let i = 1; i < data.length; i += 4) sum += data[i]; \
    return sum / (64 * 36); })()";

const LABELS_OF_THE_SETTINGS: &str = "[...document.querySelectorAll('.setting :is(input, select)')]\
    .map((e) => e.labels[0]?.textContent)";

/// As fast as a hand: more often than the device would take it.
const DRAG_THE_SLIDER: &str = "const slider = document.getElementById('setting-brightness'); \
    for (let value = 1; value <= 60; value += 1) { \
      slider.value = value; \
      slider.dispatchEvent(new Event('input')); \
    }";

/// Leaves in `saved` what the page lets the viewer keep.
const CATCH_DOWNLOADS: &str = "let kept = null; \
    const real = URL.createObjectURL; \
    URL.createObjectURL = (blob) => { kept = blob; return real.call(URL, blob); }; \
    HTMLAnchorElement.prototype.click = function () { \
      window.saved = { name: this.download, blob: kept }; \
    };";
