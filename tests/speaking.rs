//! Viewers who speak: a real browser whose button is held, and what the device plays.
//!
//! The loudspeaker is libasound's own: a PCM that keeps in a file what it is given.

use std::path::PathBuf;
use std::time::Duration;

use roomcam::config::Secret;
use roomcam::talkback::floor::MAX_SPEAKERS;
use serde_json::json;
use tempfile::TempDir;

use crate::browser::{AUDIBLE, KEEP_THE_CHANNEL, ONE_AT_A_TIME, wait_for_loudness};
use crate::support::chromium::{Chromium, PATIENCE, Setup, VOICE_HZ};
use crate::support::demo::Demo;
use crate::watching::{until, viewer, watch};

pub(crate) const TALK: &str = "Hold to talk";

pub(crate) const KEPT: &str = "[talkback]\nsink = \"kept\"\n";

/// 100 ms of what was played.
const WINDOW: usize = 4_800;

pub(crate) const MICROPHONE: Setup = Setup {
    addresses: crate::support::chromium::Addresses::Shown,
    phone: None,
    dark: false,
    camera: false,
    microphone: true,
};

/// A loudspeaker, as configuration of libasound.
pub(crate) struct Loudspeaker {
    directory: TempDir,
}

impl Loudspeaker {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let loudspeaker = Self { directory };
        let played = loudspeaker.path("played.raw");
        let configuration = format!(
            "pcm.kept {{ type file slave.pcm {{ type null }} file {} format raw }}",
            played.display()
        );
        std::fs::write(loudspeaker.path("asound.conf"), configuration).unwrap();
        loudspeaker
    }

    /// The file that `ALSA_CONFIG_PATH` is to name.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.path("asound.conf")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a device that has it, with further keys of `[talkback]`.
    fn demo(&self, talkback: &str) -> Demo {
        self.demo_with(&format!("{KEPT}{talkback}"))
    }

    /// Starts a device that could have it.
    fn demo_with(&self, config: &str) -> Demo {
        let configuration = self.configuration();
        Demo::with_environment(config, &[("ALSA_CONFIG_PATH", &configuration)])
    }

    /// Returns [`tone_in`] of what was played.
    fn tone(&self) -> Vec<f64> {
        tone_in(&std::fs::read(self.path("played.raw")).unwrap_or_default())
    }

    pub(crate) async fn wait_for_tone(&self, windows: usize) {
        let deadline = roomcam::clock::now() + PATIENCE;
        loop {
            let tone = self.tone();
            if tone.iter().filter(|&&amplitude| amplitude > 0.02).count() >= windows {
                return;
            }
            assert!(roomcam::clock::now() < deadline, "played: {tone:.3?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Returns how loud the tone of the made-up microphone is in each 100 ms of samples: 1 is as loud as can be.
pub(crate) fn tone_in(bytes: &[u8]) -> Vec<f64> {
    loudness_of(VOICE_HZ, bytes)
}

/// The same of a tone of `hz`.
fn loudness_of(hz: f64, bytes: &[u8]) -> Vec<f64> {
    let (pairs, _) = bytes.as_chunks();
    let samples = pairs
        .iter()
        .map(|pair| f64::from(i16::from_le_bytes(*pair)) / 32_768.0);
    let samples: Vec<f64> = samples.collect();
    let (windows, _) = samples.as_chunks::<WINDOW>();
    windows.iter().map(|window| amplitude(hz, window)).collect()
}

/// Returns the amplitude of `hz` in `samples` (one term of a Fourier transform).
fn amplitude(hz: f64, samples: &[f64]) -> f64 {
    let mut sum = (0.0, 0.0);
    for (n, sample) in (0_u32..).zip(samples) {
        let angle = std::f64::consts::TAU * hz * f64::from(n) / 48_000.0;
        sum = (sum.0 + sample * angle.cos(), sum.1 + sample * angle.sin());
    }
    f64::hypot(sum.0, sum.1) * 2.0 / samples.len() as f64
}

pub(crate) async fn wait_for_notice(page: &Chromium, words: &str) {
    let words = json!(words);
    page.wait_until(&format!(
        "document.getElementById('notice').textContent.includes({words})"
    ))
    .await;
}

/// What the watch command says is this tone.
const SAID_HZ: f64 = 440.0;

/// Returns in how many of the 100 ms that were played that tone was heard.
fn heard(loudspeaker: &Loudspeaker) -> usize {
    let played = std::fs::read(loudspeaker.path("played.raw")).unwrap_or_default();
    let loudness = loudness_of(SAID_HZ, &played);
    loudness.iter().filter(|&&loudness| loudness > 0.01).count()
}

/// Returns an Ogg file with packets of less than 255 bytes, each on a page of its own.
fn ogg(packets: &[bytes::Bytes]) -> Vec<u8> {
    let head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0".as_slice();
    let tags = b"OpusTags\0\0\0\0\0\0\0\0".as_slice();
    let mut file = Vec::new();
    for packet in [head, tags]
        .into_iter()
        .chain(packets.iter().map(|p| &p[..]))
    {
        file.extend(b"OggS\0\0");
        file.extend([0; 20]);
        file.extend([1, u8::try_from(packet.len()).expect("they are short")]);
        file.extend(packet);
    }
    file
}

#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts the program, which QEMU without binfmt_misc cannot"
)]
fn what_the_watch_command_says_is_played_and_only_with_the_key_for_it() {
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("key = \"open sesame\"\n");
    let output = watch(demo.url(), &["--speak", "tone", "--frames", "1"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        errors.contains("speaking needs a key of its own"),
        "{errors}"
    );
    assert_eq!(heard(&loudspeaker), 0);

    let url = format!("{}&talk=open+sesame", demo.url());
    let output = watch(&url, &["--speak", "tone", "--frames", "1"]);
    assert!(output.status.success(), "{output:?}");
    let tone = heard(&loudspeaker);
    assert!((25..=32).contains(&tone), "{tone} of 30");

    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("");
    let second = roomcam::audio::tone(Duration::from_secs(1)).unwrap();
    let file = loudspeaker.path("announcement.ogg");
    std::fs::write(&file, ogg(&second)).unwrap();
    let name = file.to_str().expect("its name is a text");
    let output = watch(demo.url(), &["--speak", name, "--frames", "1"]);
    assert!(output.status.success(), "{output:?}");
    let said = heard(&loudspeaker);
    assert!((8..=12).contains(&said), "{said} of 10");
}

#[test]
fn what_cannot_be_said_is_refused_before_anybody_is_asked() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("music.ogg");
    std::fs::write(&file, b"RIFF").unwrap();
    let name = file.to_str().expect("its name is a text");
    let nowhere = "http://127.0.0.1:9/#room=cam&key=K";
    for (name, words) in [(name, "is no Ogg file"), ("/no/such.ogg", "No such file")] {
        let output = watch(nowhere, &["--speak", name]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(words),
            "{errors}"
        );
    }
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn who_holds_the_button_is_heard_and_the_microphone_is_silent_meanwhile() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.wait_for_button(TALK).await;
    wait_for_loudness(&page, |loudness| loudness > AUDIBLE).await;
    let sends = "roomcam.pc.getSenders().some((sender) => sender.track !== null)";
    assert_eq!(page.eval(sends).await, false, "not before it is pressed");

    page.hold(TALK).await;
    page.wait_until("roomcam.talk === 'on' && roomcam.state?.talking === 1")
        .await;
    page.wait_for_status("you are speaking").await;
    page.wait_until("document.getElementById('talk').ariaPressed === 'true'")
        .await;
    page.screenshot("speaking").await;
    loudspeaker.wait_for_tone(10).await;
    wait_for_loudness(&page, |loudness| loudness < AUDIBLE).await;
    assert_eq!(
        page.eval("roomcam.state?.muted").await,
        false,
        "only ducked"
    );

    page.let_go().await;
    page.wait_until("roomcam.talk === 'off' && roomcam.state?.talking === 0")
        .await;
    page.wait_for_button(TALK).await;
    assert_eq!(page.eval(sends).await, false, "the microphone is let go");
    wait_for_loudness(&page, |loudness| loudness > AUDIBLE).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn the_button_is_held_by_the_space_bar_as_well() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("duplex = \"full\"\n");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.wait_for_button(TALK).await;
    page.run("document.getElementById('talk').focus()").await;
    page.hold_key(' ').await;
    page.wait_until("roomcam.talk === 'on'").await;
    loudspeaker.wait_for_tone(3).await;
    wait_for_loudness(&page, |loudness| loudness > AUDIBLE).await;
    page.let_go().await;
    page.wait_until("roomcam.talk === 'off' && roomcam.state?.talking === 0")
        .await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_is_closed_while_it_speaks_speaks_no_more() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("");
    let one = Chromium::start(MICROPHONE).await;
    let two = Chromium::start(Setup::default()).await;
    one.join(demo.url()).await;
    two.join(demo.url()).await;
    one.wait_for_button(TALK).await;
    one.hold(TALK).await;
    two.wait_for_status("somebody is speaking").await;
    one.open("about:blank").await;
    two.wait_until("roomcam.state?.talking === 0").await;
    wait_for_loudness(&two, |loudness| loudness > AUDIBLE).await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn where_it_is_not_configured_there_is_no_button_and_the_command_is_refused() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::start();
    let page = Chromium::start(MICROPHONE).await;
    page.open(demo.url()).await;
    page.run(KEEP_THE_CHANNEL).await;
    page.click("Join").await;
    page.wait_for_status("Live").await;
    page.wait_until("roomcam.state?.talkback === 'none'").await;
    let shown = "document.getElementById('talk').checkVisibility()";
    assert_eq!(page.eval(shown).await, false);
    let directions = "roomcam.pc.getTransceivers().map((t) => t.currentDirection)";
    assert_eq!(page.eval(directions).await, json!(["recvonly", "recvonly"]));
    page.run("window.channel.send('{\"id\":77,\"type\":\"set_talking\",\"on\":true}')")
        .await;
    page.wait_until(
        "window.heard.some((text) => text.includes('\"id\":77') && text.includes('no-talkback'))",
    )
    .await;
    assert_eq!(page.eval("roomcam.state?.talking").await, 0);
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_page_that_was_open_before_there_was_talkback_connects_anew_and_speaks() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo_with("");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.run("window.before = roomcam.pc").await;
    demo.reload(KEPT);
    page.wait_for_button(TALK).await;
    page.hold(TALK).await;
    wait_for_notice(&page, "Connecting anew for speaking").await;
    page.let_go().await;
    page.wait_until("roomcam.pc !== window.before").await;
    page.wait_for_status("Live").await;
    page.wait_for_button(TALK).await;
    page.hold(TALK).await;
    loudspeaker.wait_for_tone(2).await;

    demo.reload("");
    wait_for_notice(&page, "Talkback was configured anew").await;
    page.wait_until("roomcam.talk === 'off' && roomcam.state?.talkback === 'none'")
        .await;
    page.let_go().await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn where_speaking_needs_a_key_only_its_holders_see_the_button_and_are_heard() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("key = \"open sesame\"\n");
    let page = Chromium::start(Setup {
        phone: Some((360, 740)),
        ..MICROPHONE
    })
    .await;
    page.join(demo.url()).await;
    page.wait_until("roomcam.state?.talkback === 'key'").await;
    let shown = "document.getElementById('talk').checkVisibility()";
    assert_eq!(page.eval(shown).await, false);

    page.join(&format!("{}&talk=open+simsim", demo.url())).await;
    page.wait_for_button(TALK).await;
    page.hold(TALK).await;
    wait_for_notice(&page, "needs a key of its own").await;
    page.let_go().await;
    assert_eq!(page.eval("roomcam.talk").await, "off");

    page.join(&format!("{}&talk=open+sesame", demo.url())).await;
    page.wait_for_button(TALK).await;
    page.hold(TALK).await;
    loudspeaker.wait_for_tone(2).await;
    page.screenshot("speaking-phone").await;
    let fits = "document.documentElement.scrollWidth <= 360 && \
                document.documentElement.scrollHeight <= 740";
    assert_eq!(page.eval(fits).await, true);
    page.let_go().await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: scripts/test"]
async fn who_would_speak_while_as_many_speak_as_may_is_told_so_and_may_when_one_has_finished() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.wait_for_button(TALK).await;
    let mut others = Vec::new();
    for _ in 0..MAX_SPEAKERS {
        let mut other = viewer(&demo, 1).await;
        // Then the channel is open.
        until(&mut other, "is told", |seen| seen.state.is_some()).await;
        let reply = other.set_talking(true, &Secret::default()).await;
        assert_eq!(reply.expect("a reply").error, None);
        others.push(other);
    }
    page.wait_until(&format!("roomcam.state?.talking === {MAX_SPEAKERS}"))
        .await;
    page.wait_for_status(&format!("{MAX_SPEAKERS} are speaking"))
        .await;
    page.hold(TALK).await;
    wait_for_notice(&page, "4 others are speaking: wait until").await;
    page.let_go().await;
    assert_eq!(page.eval("roomcam.talk").await, "off");

    others.pop().expect("there are some").leave().await;
    page.wait_until(&format!("roomcam.state?.talking === {}", MAX_SPEAKERS - 1))
        .await;
    page.hold(TALK).await;
    page.wait_until("roomcam.talk === 'on'").await;
    page.let_go().await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn a_loudspeaker_that_is_missing_is_told_to_who_speaks_and_the_picture_goes_on() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let demo = Demo::configured(&[], "[talkback]\nsink = \"no_such_loudspeaker\"\n");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.wait_for_button(TALK).await;
    page.hold(TALK).await;
    wait_for_notice(&page, "Loudspeaker no_such_loudspeaker is not present").await;
    page.wait_until("roomcam.talk === 'off' && roomcam.state?.talking === 0")
        .await;
    page.let_go().await;
    page.wait_for_frames(15).await;
    page.close().await;
}

#[tokio::test]
#[ignore = "needs Chromium: scripts/test"]
async fn the_page_says_why_it_has_no_microphone() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let loudspeaker = Loudspeaker::new();
    let demo = loudspeaker.demo("");
    let page = Chromium::start(MICROPHONE).await;
    page.join(demo.url()).await;
    page.wait_for_button(TALK).await;
    for (name, words) in [
        ("NotAllowedError", "may not use the microphone: allow it"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "perhaps another program has it"),
    ] {
        page.run(&format!(
            "navigator.mediaDevices.getUserMedia = \
               () => Promise.reject(new DOMException('', '{name}'))"
        ))
        .await;
        page.hold(TALK).await;
        wait_for_notice(&page, words).await;
        page.let_go().await;
        assert_eq!(page.eval("roomcam.talk").await, "off");
    }
    page.run("Object.defineProperty(window, 'isSecureContext', { value: false })")
        .await;
    page.hold(TALK).await;
    wait_for_notice(&page, "Speaking needs https").await;
    page.let_go().await;
    page.close().await;
}
