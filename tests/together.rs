//! Picture and sound of one moment, as a viewer gets them: the test picture shows the time, a made-up
//! microphone hears a mark at each half second, and the device's sender reports say when what it sent was
//! captured.

use std::num::NonZeroU32;
use std::time::Duration;

use roomcam::clock;
use roomcam::rtp::clock::{OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ};
use roomcam::video::{openh264, timecode};
use roomcam::watch::depacketize::AccessUnit;
use roomcam::watch::seen::Seen;
use roomcam::watch::tally::SoundPacket;
use roomcam::watch::timing::SenderClock;
use roomcam::watch::viewer::{Viewer, Wishes};
use tokio::sync::mpsc;

use crate::support::demo::Demo;
use crate::support::microphone::{Microphones, Offer};

/// How long anything that is waited for may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// What broadcasters allow, in milliseconds.
const APART_MS: f64 = 40.0;

/// How far either may be from the truth, in milliseconds.
const WRONG_MS: f64 = 40.0;

/// From one mark of the microphone to the next, in seconds.
const MARK: f64 = 0.5;

/// So many marks and pictures are measured.
const MARKS: usize = 4;
const PICTURES: usize = 3;

/// Louder than this is a mark, if this many samples before it were not.
const LOUD: i16 = 6_000;
const SILENCE_SAMPLES: u32 = 9_600;

const CARD: Offer = Offer {
    pcm: "marking",
    format: "S16_LE",
    rate_hz: 44_100,
    channels: 1,
};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "has libasound load what this machine's compiler makes"
)]
async fn picture_and_sound_of_one_moment_are_within_40_ms_even_after_overruns_and_a_replug() {
    let microphones = Microphones::with(&[CARD], "marks 1 ppm 200");
    let small = "[video]\nwidth = 320\nheight = 180\n";
    let demo = Demo::hears(CARD.pcm, &microphones.configuration(), small);
    let mut audience = Audience::join(&demo).await;
    audience
        .until("both clocks are reported", |seen| {
            seen.picture_clock.is_some() && seen.sound_clock.is_some()
        })
        .await;
    audience.measure("at first").await;

    for _ in 0..3 {
        microphones.overrun();
    }
    audience.measure("after overruns").await;

    microphones.unplug();
    let audio = |seen: &Seen| seen.state.as_ref().map(|state| state.audio.clone());
    audience
        .until("it is missing", |seen| {
            audio(seen).as_deref() == Some("waiting")
        })
        .await;
    microphones.plug_in();
    audience
        .until("it is back", |seen| audio(seen).as_deref() == Some("live"))
        .await;
    audience.measure("after a replug").await;
    audience.viewer.leave().await;
}

/// A viewer who takes pictures and sound apart.
struct Audience {
    viewer: Viewer,
    frames: mpsc::Receiver<AccessUnit>,
    sound: mpsc::Receiver<SoundPacket>,
}

impl Audience {
    async fn join(demo: &Demo) -> Self {
        let invitation = demo.url().parse().expect("its own URL");
        let (to_frames, frames) = mpsc::channel(1_000);
        let (to_sound, sound) = mpsc::channel(1_000);
        let wishes = Wishes {
            frames: Some(to_frames),
            sound: Some(to_sound),
            speaks: false,
        };
        let viewer = Viewer::join_with(&invitation, wishes).await;
        Self {
            viewer: viewer.expect("it is open"),
            frames,
            sound,
        }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Seen) -> bool) {
        if let Err(seen) = self.viewer.until(PATIENCE, condition).await {
            panic!("never {what}: {seen:#?}");
        }
    }

    /// Measures how far picture and sound that come from now on are from the truth, and from each other.
    async fn measure(&mut self, when: &str) {
        while self.frames.try_recv().is_ok() {}
        while self.sound.try_recv().is_ok() {}
        let (mut pictures, mut marks) = (Vec::new(), Vec::new());
        let mut ears = Ears::new();
        let mut ask = tokio::time::interval(Duration::from_millis(400));
        let deadline = clock::now() + PATIENCE;
        while pictures.len() < PICTURES || marks.len() < MARKS {
            assert!(
                clock::now() < deadline,
                "{when}: {pictures:?} {marks:?} {:#?}",
                self.viewer.seen()
            );
            tokio::select! {
                _ = ask.tick() => self.viewer.request_keyframe().await,
                Some(frame) = self.frames.recv() => {
                    if let (true, Some(clock)) = (frame.is_keyframe, self.viewer.seen().picture_clock) {
                        pictures.extend(picture_is_off_by(&frame, clock));
                    }
                }
                Some(packet) = self.sound.recv() => {
                    let mark = ears.hear(&packet);
                    if let (Some(timestamp), Some(clock)) = (mark, self.viewer.seen().sound_clock) {
                        marks.push(mark_is_off_by(timestamp, clock));
                    }
                }
            }
        }
        let all = format!("{when}: pictures are off by {pictures:.1?} ms, sound by {marks:.1?} ms");
        for picture in &pictures {
            assert!(picture.abs() < WRONG_MS, "{all}");
            for mark in &marks {
                assert!(mark.abs() < WRONG_MS, "{all}");
                assert!((picture - mark).abs() < APART_MS, "{all}");
            }
        }
    }
}

/// Returns by how many milliseconds the moment that is reported of a picture is later than the one it shows.
fn picture_is_off_by(frame: &AccessUnit, clock: SenderClock) -> Option<f64> {
    let picture = openh264::decode(&frame.data).expect("a keyframe is a picture");
    let row = timecode::rows(picture.height) / 2 * picture.width;
    // The card that says that there is no picture has no clock.
    let shown = timecode::read(&picture.bytes[row..row + picture.width])?;
    let reported = timecode::reading(clock.moment(frame.timestamp, VIDEO_CLOCK_HZ));
    Some(f64::from(reported.wrapping_sub(shown).cast_signed()) / 10.0)
}

/// Returns by how many milliseconds the moment that is reported of a mark is later than that mark.
fn mark_is_off_by(timestamp: u32, clock: SenderClock) -> f64 {
    let reported = clock.moment(timestamp, OPUS_CLOCK_HZ).as_secs_f64();
    (reported - (reported / MARK).round() * MARK) * 1_000.0
}

/// Hears marks.
struct Ears {
    decoder: opus::Decoder,
    /// Samples since it was loud.
    silent_for: u32,
}

impl Ears {
    fn new() -> Self {
        let rate_hz = NonZeroU32::get(OPUS_CLOCK_HZ);
        let decoder = opus::Decoder::new(rate_hz, opus::Channels::Mono);
        Self {
            decoder: decoder.expect("a rate of Opus"),
            silent_for: 0,
        }
    }

    /// Returns the timestamp of the mark that begins in this packet.
    fn hear(&mut self, packet: &SoundPacket) -> Option<u32> {
        let mut samples = [0_i16; 5_760];
        let count = self.decoder.decode(&packet.payload, &mut samples, false);
        let mut mark = None;
        for (timestamp, sample) in (packet.timestamp..).zip(&samples[..count.expect("it is Opus")])
        {
            self.silent_for += 1;
            if sample.unsigned_abs() > LOUD.unsigned_abs() {
                if self.silent_for > SILENCE_SAMPLES {
                    mark = Some(timestamp);
                }
                self.silent_for = 0;
            }
        }
        mark
    }
}
