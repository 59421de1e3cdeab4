//! What every source of sound keeps to, whatever it is: the tone, microphones of a made-up sound card
//! that any machine can have, and (`guest.rs`) those of the kernel's own sound card driver. And what
//! viewers notice of a microphone that comes and goes.

use std::process::Command;
use std::time::{Duration, Instant};

use roomcam::audio::framer::{Continuity, Frame, Framer};
use roomcam::audio::{self, AudioError, AudioSource};
use roomcam::clock;
use roomcam::config;
use roomcam::watch::seen::Seen;
use roomcam::watch::viewer::Viewer;

use crate::support::demo::Demo;
use crate::support::microphone::{Microphones, Offer};

/// How long anything that is waited for may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// The sound that is listened to.
const LISTENED: Duration = Duration::from_secs(1);

const FRAME: Duration = Duration::from_millis(20);

/// How long one of the kernel's is watched, whose times jitter by some milliseconds: uncompensated, 480 ppm
/// are 29 ms by then.
const WATCHED_DRIFTING: Duration = Duration::from_secs(60);

/// How long a card whose clock is off is watched.
const WATCHED: Duration = Duration::from_secs(30);

/// Names the microphone that [`this_microphone_keeps_to_the_facts`] is about.
pub(crate) const MICROPHONE: &str = "ROOMCAM_TEST_MICROPHONE";

/// What its description ends with.
pub(crate) const DESCRIBED_AS: &str = "ROOMCAM_TEST_MICROPHONE_DESCRIBED_AS";

/// What a sound card may offer, and how that is described.
const OFFERS: [(Offer, &str); 9] = [
    offer("webcam", "S16_LE", 16_000, 1, "S16 mono 16000 Hz"),
    offer("dongle", "S16_LE", 48_000, 1, "S16 mono 48000 Hz"),
    offer("line_in", "S16_LE", 44_100, 2, "S16 stereo 44100 Hz"),
    offer("i2s", "S32_LE", 48_000, 2, "S32 stereo 48000 Hz"),
    offer("i2s_slow", "S32_LE", 8_000, 1, "S32 mono 8000 Hz"),
    offer("studio", "S24_3LE", 96_000, 2, "S24_3 stereo 96000 Hz"),
    offer("codec", "S24_LE", 32_000, 1, "S24 mono 32000 Hz"),
    offer("server", "FLOAT_LE", 44_100, 1, "FLOAT mono 44100 Hz"),
    offer("array", "S16_LE", 16_000, 6, "S16 6 channels 16000 Hz"),
];

const fn offer(
    pcm: &'static str,
    format: &'static str,
    rate_hz: u32,
    channels: u32,
    described_as: &'static str,
) -> (Offer, &'static str) {
    let offer = Offer {
        pcm,
        format,
        rate_hz,
        channels,
    };
    (offer, described_as)
}

/// A format that is none of ours.
const OLD: Offer = Offer {
    pcm: "old",
    format: "U8",
    rate_hz: 11_025,
    channels: 1,
};

#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn the_tone_keeps_to_the_facts() {
    keeps_to_the_facts("tone", "a test tone of 440 Hz");
}

#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn microphones_of_every_format_and_rate_keep_to_the_facts() {
    let microphones = Microphones::new(&OFFERS.map(|(offer, _)| offer));
    for some in OFFERS.chunks(3) {
        let start = |&(offer, described_as): &(Offer, &str)| {
            let child = about_itself(offer.pcm, described_as)
                .env("ALSA_CONFIG_PATH", microphones.configuration())
                .spawn();
            (offer, child.expect("this program starts"))
        };
        let children: Vec<_> = some.iter().map(start).collect();
        for (offer, child) in children {
            let output = child.wait_with_output().expect("it is our child");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{offer:?}: {text}");
            assert!(text.contains("1 passed"), "{offer:?}: {text}");
        }
    }
}

#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn a_pcm_that_converts_delivers_at_the_rate_of_its_card() {
    let described_as = [
        (OFFERS[0].0, "S32 mono 16000 Hz"),
        (OFFERS[2].0, "S32 mono 44100 Hz"),
        (OLD, "S32 mono 11025 Hz"),
    ];
    let microphones = Microphones::new(&described_as.map(|(offer, _)| offer));
    for (offer, described_as) in described_as {
        let output = about_itself(&format!("plug_{}", offer.pcm), described_as)
            .env("ALSA_CONFIG_PATH", microphones.configuration())
            .output()
            .expect("this program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{offer:?}: {text}");
    }
}

/// Is started by others, in a process of its own: libasound reads its configuration once.
#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn this_microphone_keeps_to_the_facts() {
    if let Ok(microphone) = std::env::var(MICROPHONE) {
        let described_as = std::env::var(DESCRIBED_AS).unwrap_or_default();
        keeps_to_the_facts(&microphone, &described_as);
    }
}

/// Cards whose clocks are off by nearly as much as is compensated for, and how that is told.
const FAST_AND_SLOW: [i32; 2] = [480, -480];

/// How far the time of sound may be off: a card that is off by 480 ppm from the start is 3.5 ms late before
/// the loop has caught up. Without it, 14 ms would be wrong in the end.
const KEPT_IN_STEP: Duration = Duration::from_millis(6);

#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn a_card_whose_clock_is_off_is_kept_in_step_without_a_jump() {
    let children = FAST_AND_SLOW.map(|ppm| {
        let keys = format!("marks 1 ppm {ppm}");
        let microphones = Microphones::with(&[OFFERS[2].0], &keys);
        let child = about_a_microphone("this_microphone_is_kept_in_step", OFFERS[2].0.pcm)
            .env("ALSA_CONFIG_PATH", microphones.configuration())
            .spawn();
        (ppm, microphones, child.expect("this program starts"))
    });
    for (ppm, _microphones, child) in children {
        let output = child.wait_with_output().expect("it is our child");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{ppm} ppm: {text}");
        assert!(text.contains("1 passed"), "{ppm} ppm: {text}");
    }
}

/// Is started by the test above, in a process of its own.
#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn this_microphone_is_kept_in_step() {
    let Ok(microphone) = std::env::var(MICROPHONE) else {
        return;
    };
    let config = config::Audio {
        source: microphone,
        ..config::Audio::default()
    };
    let mut source = audio::open(&config).unwrap();
    let mut framer = Framer::new(source.rate_hz()).unwrap();
    let (began_at, began_unix) = (clock::now(), clock::unix_time());
    let mut silent_for = 0_u32;
    let mut off = Vec::new();
    while clock::now() < began_at + WATCHED {
        let Some(period) = source.next().unwrap() else {
            continue;
        };
        // But for what a busy machine does not read in time.
        let is_steady = framer.push(period) == Continuity::Steady;
        assert!(is_steady || period.follows_gap, "{off:.1?}");
        while let Some(frame) = framer.next_frame().unwrap() {
            for (n, sample) in (0_u32..).zip(frame.samples) {
                silent_for += 1;
                if sample.unsigned_abs() > 1_000 {
                    let since = frame.captured_at.saturating_duration_since(began_at);
                    let at =
                        began_unix.as_secs_f64() + since.as_secs_f64() + f64::from(n) / 48_000.0;
                    // A mark at each half second.
                    if silent_for > 9_600 {
                        off.push((at - (at * 2.0).round() / 2.0) * 1_000.0);
                    }
                    silent_for = 0;
                }
            }
        }
    }
    let worst = off.iter().fold(0.0_f64, |worst, off| worst.max(off.abs()));
    assert!(off.len() >= 50, "{off:.1?}");
    assert!(worst < KEPT_IN_STEP.as_secs_f64() * 1_000.0, "{off:.1?}");
}

/// Is started by `guest.rs`, where the card of this name has a clock that is off by 480 ppm.
#[test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
fn this_card_that_is_off_is_kept_in_step() {
    let Ok(microphone) = std::env::var(MICROPHONE) else {
        return;
    };
    let config = config::Audio {
        source: microphone,
        ..config::Audio::default()
    };
    let mut source = audio::open(&config).unwrap();
    let rate_hz = f64::from(source.rate_hz().get());
    let mut framer = Framer::new(source.rate_hz()).unwrap();
    let began_at = clock::now();
    let mut gaps = 0;
    // What the card counted as seconds, and what they were.
    let (mut counted, mut elapsed) = (0.0, 0.0);
    let mut before: Option<(Instant, f64)> = None;
    // How much sound was behind the last frame, by when, in seconds.
    let mut lags: Vec<(f64, f64)> = Vec::new();
    while clock::now() < began_at + WATCHED_DRIFTING {
        let Some(period) = source.next().unwrap() else {
            continue;
        };
        // But for what an emulated machine does not read in time.
        let continuity = framer.push(period);
        let is_steady = continuity == Continuity::Steady;
        assert!(is_steady || period.follows_gap, "{continuity:?}, {lags:?}");
        gaps += u32::from(!is_steady);
        let length = period.samples.len() as f64 / rate_hz;
        if let (true, Some((at, length))) = (is_steady, before) {
            counted += length;
            elapsed += (period.captured_at - at).as_secs_f64();
        }
        before = Some((period.captured_at, length));
        let heard_until = period.captured_at + Duration::from_secs_f64(length);
        let mut last = None;
        while let Some(frame) = framer.next_frame().unwrap() {
            last = Some(frame.captured_at + FRAME);
        }
        if let Some(last) = last {
            let at = heard_until.saturating_duration_since(began_at);
            let lag = heard_until.saturating_duration_since(last);
            lags.push((at.as_secs_f64(), lag.as_secs_f64()));
        }
    }
    let watched = WATCHED_DRIFTING.as_secs_f64();
    let mean = |from: f64, to: f64| {
        let some = lags.iter().filter(|(at, _)| (from..to).contains(at));
        let (sum, count) = some.fold((0.0, 0_u32), |(sum, n), (_, lag)| (sum + lag, n + 1));
        sum / f64::from(count.max(1)) * 1_000.0
    };
    let (early, late) = (mean(1.0, 6.0), mean(watched - 10.0, watched));
    let off_ppm = (counted / elapsed - 1.0) * 1e6;
    let all = format!(
        "off by {off_ppm:.0} ppm, {gaps} gaps, behind by {early:.1} ms, then by {late:.1} ms"
    );
    // Each gap is a time more that jitters.
    let is_off = (400.0..560.0).contains(&off_ppm.abs());
    assert!(is_off || gaps > 0, "{all}");
    assert!(late - early < 10.0, "{all}");
    assert!(late < 40.0, "{all}");
}

/// Returns a command that runs this program's test about a microphone.
fn about_itself(microphone: &str, described_as: &str) -> Command {
    let mut command = about_a_microphone("this_microphone_keeps_to_the_facts", microphone);
    command.env(DESCRIBED_AS, described_as);
    command
}

/// Returns a command that runs the test `name` of this file about a microphone.
fn about_a_microphone(name: &str, microphone: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command
        .args(["--include-ignored", "--exact", "--nocapture"])
        .arg(format!("sound::{name}"))
        .env(MICROPHONE, microphone)
        .stdout(std::process::Stdio::piped());
    command
}

/// The facts. What is heard is a tone of 440 Hz.
fn keeps_to_the_facts(name: &str, described_as: &str) {
    let config = config::Audio {
        source: name.to_owned(),
        ..config::Audio::default()
    };
    let mut source = match audio::open(&config) {
        Err(AudioError::Busy { .. }) => panic!("somebody else has {name}"),
        source => source.unwrap_or_else(|error| panic!("{name}: {error:?}")),
    };
    let description = source.description();
    assert!(description.ends_with(described_as), "{description}");
    let heard = listen(source.as_mut());
    let expected = heard.took.saturating_sub(heard.missing);
    let off = heard.sound.as_secs_f64() - expected.as_secs_f64();
    assert!(off.abs() < 0.3, "it keeps pace: {heard:?}");

    let mut steps = heard.frames.windows(2);
    let is_steady = |w: &[Frame]| w[1].captured_at - w[0].captured_at >= FRAME;
    assert!(steps.all(is_steady), "its time goes on by whole frames");
    let steps = heard.frames.windows(2);
    let jumps = steps.filter(|w| w[1].captured_at - w[0].captured_at != FRAME);
    assert!(jumps.count() <= heard.gaps, "only a gap makes it jump");

    // The first begins before there was sound.
    let samples: Vec<_> = heard
        .frames
        .iter()
        .skip(1)
        .flat_map(|f| f.samples)
        .collect();
    let rising = samples.windows(2).filter(|w| w[0] < 0 && w[1] >= 0).count();
    let pitch = rising as f64 * 48_000.0 / samples.len() as f64;
    assert!((430.0..450.0).contains(&pitch), "{pitch} Hz");
    let peak = samples.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
    assert!((3_100..3_450).contains(&peak) || heard.gaps > 0, "{peak}");
}

#[derive(Debug)]
struct Heard {
    frames: Vec<Frame>,
    /// How long the sound lasts that came after the first period, and how long it took to come.
    sound: Duration,
    took: Duration,
    /// How often some was missing between periods, and how much in all.
    gaps: usize,
    missing: Duration,
}

/// Listens for a second.
fn listen(source: &mut dyn AudioSource) -> Heard {
    let rate_hz = source.rate_hz();
    let mut framer = Framer::new(rate_hz).unwrap();
    let mut frames = Vec::new();
    let (mut gaps, mut missing) = (0, Duration::ZERO);
    let (mut sound, mut first_at) = (Duration::ZERO, None);
    let deadline = clock::now() + PATIENCE;
    while sound < LISTENED {
        assert!(clock::now() < deadline, "only {sound:?} of sound came");
        let Some(period) = source.next().unwrap() else {
            continue;
        };
        assert!(!period.samples.is_empty());
        assert!(period.samples.iter().all(|s| (-1.0..=1.0).contains(s)));
        assert!(period.captured_at <= clock::now(), "not of the future");
        match framer.push(period) {
            Continuity::Steady => {}
            Continuity::Gap(lost) => {
                gaps += 1;
                missing += lost;
            }
            Continuity::Overlap(by) => panic!("{by:?} too much"),
        }
        match first_at {
            None => first_at = Some(clock::now()),
            Some(_) => {
                let seconds = period.samples.len() as f64 / f64::from(rate_hz.get());
                sound += Duration::from_secs_f64(seconds);
            }
        }
        while let Some(frame) = framer.next_frame().unwrap() {
            frames.push(frame);
        }
    }
    Heard {
        frames,
        sound,
        took: first_at.map_or(Duration::ZERO, |at| clock::now() - at),
        gaps,
        missing,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
async fn a_microphone_that_was_unplugged_is_heard_again_and_the_picture_goes_on() {
    let (offer, _) = OFFERS[2];
    let microphones = Microphones::new(&[offer]);
    let (_demo, mut viewer) = hearing(&microphones, offer.pcm).await;
    microphones.unplug();
    let told = until(&mut viewer, "is told", |seen| audio(seen) == "waiting").await;
    let detail = &told.state.as_ref().unwrap().detail;
    assert!(detail.contains("line_in is not present"), "{detail}");
    let frames = told.counts.frames;
    until(&mut viewer, "sees", |seen| seen.counts.frames > frames + 10).await;

    let packets = viewer.seen().counts.audio_packets;
    microphones.plug_in();
    let returned = clock::now();
    let again = |seen: &Seen| seen.counts.audio_packets > packets + 5;
    until(&mut viewer, "hears again", again).await;
    let took = clock::now() - returned;
    assert!(took < Duration::from_secs(3), "{took:?}");
    until(&mut viewer, "is told", |seen| audio(seen) == "live").await;
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "starts itself, and has libasound load what this machine's compiler makes"
)]
async fn sound_goes_on_after_an_overrun_and_nobody_is_told_of_a_failure() {
    let (offer, _) = OFFERS[3];
    let microphones = Microphones::new(&[offer]);
    let (demo, mut viewer) = hearing(&microphones, offer.pcm).await;
    let states = viewer.seen().states;
    for _ in 0..3 {
        microphones.overrun();
        let packets = viewer.seen().counts.audio_packets;
        let more = |seen: &Seen| seen.counts.audio_packets > packets + 10;
        until(&mut viewer, "hears", more).await;
    }
    assert_eq!(viewer.seen().states, states);
    viewer.leave().await;
    let log = demo.end();
    // Once at once, and the others together when the microphone is closed.
    let told = log.matches("sound was lost").count();
    assert!((1..=2).contains(&told), "{log}");
}

/// A demonstration with such a microphone, and a viewer who sees and hears.
async fn hearing(microphones: &Microphones, pcm: &str) -> (Demo, Viewer) {
    let small = "[video]\nwidth = 320\nheight = 180\n";
    let demo = Demo::hears(pcm, &microphones.configuration(), small);
    let invitation = demo.url().parse().expect("its own URL");
    let mut viewer = Viewer::join(&invitation, None).await.expect("it is open");
    let both = |seen: &Seen| seen.counts.frames > 5 && seen.counts.audio_packets > 20;
    let seen = until(&mut viewer, "sees and hears", both).await;
    // A tone, not silence: Opus says silence in a few bytes.
    let bytes_a_packet = seen.counts.audio_bytes / seen.counts.audio_packets;
    assert!(bytes_a_packet > 20, "{bytes_a_packet}");
    (demo, viewer)
}

fn audio(seen: &Seen) -> &str {
    seen.state.as_ref().map_or("", |state| &state.audio)
}

async fn until(viewer: &mut Viewer, what: &str, condition: impl FnMut(&Seen) -> bool) -> Seen {
    match viewer.until(PATIENCE, condition).await {
        Ok(seen) => seen,
        Err(seen) => panic!("the viewer never {what}: {seen:#?}"),
    }
}
