//! The capture thread: source → frames → (muted: silence) → Opus → every viewer.
//!
//! ```text
//!  Off ──run──▶ Starting ──first frame──▶ Live ──error──▶ Waiting ──first frame──▶ Live
//!   ▲             └────────error───────────────────────────▲ │ opened again and again
//!   └──────────────────────── not run (the device is closed) ┘
//! ```
//!
//! A microphone that fails ends nothing: it is opened again until it works or is not wanted. One that
//! is configured anew is opened again at once.
//! Mute is applied here, before the encoder: what is not encoded cannot leak.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tracing::{debug, error, info, warn};

use super::framer::{Continuity, Framer};
use super::losses::{Losses, Lost};
use super::opus::Encoder;
use super::{AudioError, AudioSource, FRAME_SAMPLES};
use crate::clock;
use crate::config;
use crate::control::SourceStatus;
use crate::progress::Progress;
use crate::rtp::AudioFrame;

/// A replugged or freed microphone is opened again within this. Where there is none, asking costs
/// next to nothing.
const RETRY: Duration = Duration::from_secs(1);

/// Where only a person can help.
const SLOW_RETRY: Duration = Duration::from_secs(5);

/// How often a waiting thread looks whether it is still wanted.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// 5 ms. Sound cut off at once clicks.
const FADE_SAMPLES: i32 = 240;

/// What the capture thread is to do. A state, not an event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AudioRequest {
    /// Someone listens: keep the microphone open.
    pub run: bool,
    /// Publish silence instead of sound.
    pub muted: bool,
    /// End the thread.
    pub shutdown: bool,
}

/// Starts the capture thread, which ends on `shutdown` or when the sender of `request` is gone.
///
/// `settings` may change at any time.
///
/// # Errors
///
/// When the system has no thread left.
pub fn spawn(
    settings: watch::Receiver<config::Audio>,
    runtime: tokio::runtime::Handle,
    request: watch::Receiver<AudioRequest>,
    frames: broadcast::Sender<Arc<AudioFrame>>,
    status: watch::Sender<SourceStatus>,
    progress: Progress,
) -> io::Result<JoinHandle<()>> {
    let capture = Capture {
        open: super::open,
        settings,
        delays: Delays {
            retry: RETRY,
            slow_retry: SLOW_RETRY,
        },
        runtime,
        request,
        frames,
        status,
        progress,
    };
    let thread = thread::Builder::new().name("audio".to_owned());
    thread.spawn(move || capture.run())
}

/// The capture thread, over whatever `open` opens.
struct Capture<Open> {
    open: Open,
    settings: watch::Receiver<config::Audio>,
    delays: Delays,
    runtime: tokio::runtime::Handle,
    request: watch::Receiver<AudioRequest>,
    frames: broadcast::Sender<Arc<AudioFrame>>,
    status: watch::Sender<SourceStatus>,
    progress: Progress,
}

/// How long to wait before the source is opened again.
struct Delays {
    retry: Duration,
    slow_retry: Duration,
}

impl<Open> Capture<Open>
where
    Open: FnMut(&config::Audio) -> Result<Box<dyn AudioSource>, AudioError>,
{
    fn run(mut self) {
        while self.wait_until_wanted() {
            self.set_status(SourceStatus::Starting);
            self.capture();
            self.set_status(SourceStatus::Off);
            info!("microphone closed");
        }
    }

    /// Returns false when the thread is to end.
    fn wait_until_wanted(&mut self) -> bool {
        loop {
            // Its owner is gone, which the last value does not tell.
            if self.request.has_changed().is_err() {
                return false;
            }
            let request = self.request.borrow_and_update().clone();
            let is_there = self.settings.borrow_and_update().is_there();
            if request.shutdown {
                return false;
            }
            if request.run && is_there {
                return true;
            }
            self.progress.idle();
            let (request, settings) = (&mut self.request, &mut self.settings);
            let changed = self.runtime.block_on(async {
                tokio::select! {
                    changed = request.changed() => changed,
                    changed = settings.changed() => changed,
                }
            });
            if changed.is_err() {
                return false;
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.progress.made(clock::now());
        let is_there = self.settings.borrow().is_there();
        let request = self.request.borrow();
        request.run && is_there && !request.shutdown && self.request.has_changed().is_ok()
    }

    fn is_configured_anew(&self) -> bool {
        // An error means that it never will be again.
        self.settings.has_changed().unwrap_or(false)
    }

    /// Captures until it is not wanted, through any number of failures.
    fn capture(&mut self) {
        while self.is_wanted() {
            let Err(error) = self.stream() else {
                self.progress.excused();
                continue;
            };
            if !matches!(error, AudioError::Stalled { .. }) {
                self.progress.excused();
            }
            self.report(&error);
            self.pause(if error.is_retryable() {
                self.delays.retry
            } else {
                self.delays.slow_retry
            });
        }
    }

    /// Opens the source and publishes its sound. Ends without an error when it is not wanted any more
    /// or configured anew.
    fn stream(&mut self) -> Result<(), AudioError> {
        let settings = self.settings.borrow_and_update().clone();
        let mut source = (self.open)(&settings)?;
        self.progress.opened(clock::now());
        let mut losses = Losses::default();
        let ended = self.publish(source.as_mut(), settings.bitrate_kbps, &mut losses);
        losses.rest().into_iter().for_each(tell);
        ended
    }

    fn publish(
        &mut self,
        source: &mut dyn AudioSource,
        bitrate_kbps: u32,
        losses: &mut Losses,
    ) -> Result<(), AudioError> {
        let mut encoder = Encoder::new(bitrate_kbps)?;
        let mut framer = Framer::new(source.rate_hz())?;
        let mut fader = Fader::default();
        let mut is_live = false;
        while self.is_wanted() && !self.is_configured_anew() {
            let Some(period) = source.next()? else {
                continue;
            };
            match framer.push(period) {
                Continuity::Steady => {}
                Continuity::Gap(missing) => losses.add(missing),
                Continuity::Overlap(dropped) => {
                    debug!(?dropped, "more sound came than time went by")
                }
            }
            losses.due(clock::now()).into_iter().for_each(tell);
            while let Some(mut frame) = framer.next_frame()? {
                fader.apply(&mut frame.samples, self.request.borrow().muted);
                let frame = AudioFrame {
                    payload: encoder.encode(&frame.samples)?,
                    captured_at: encoder.delayed(frame.captured_at),
                };
                // Fails only when nobody listens. full: oldest lost, the next stands alone
                drop(self.frames.send(Arc::new(frame)));
                self.progress.delivered(clock::now());
                if !is_live {
                    is_live = true;
                    let description = source.description();
                    info!(source = %description, "sound is live");
                    self.set_status(SourceStatus::Live { description });
                }
            }
        }
        Ok(())
    }

    /// Tells why there is no sound: to people through the status, and once to the log.
    fn report(&self, error: &AudioError) {
        let reason = reason(error);
        let changed = self.set_status(SourceStatus::Waiting {
            reason: reason.clone(),
        });
        if !changed {
            return;
        }
        match error {
            AudioError::NoMicrophone => info!("no microphone found, waiting for one"),
            error if error.is_retryable() => warn!(reason, "no sound, trying again"),
            _ => error!(reason, "no sound"),
        }
    }

    /// Returns whether that is news.
    fn set_status(&self, status: SourceStatus) -> bool {
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        })
    }

    /// Sleeps, but not longer than it is wanted as it is.
    ///
    /// Not with a timer of the runtime, which may be gone before this thread.
    fn pause(&self, delay: Duration) {
        let until = clock::now() + delay;
        while self.is_wanted() && !self.is_configured_anew() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK_AROUND));
        }
    }
}

/// Tells that viewers missed sound: this machine was too busy, or the card delivered less.
fn tell(lost: Lost) {
    let missing_ms = lost.missing.as_millis();
    warn!(gaps = lost.gaps, missing_ms, "sound was lost");
}

/// Returns an error with all its causes.
fn reason(error: &AudioError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Turns frames into silence and back, with a fade of 5 ms.
#[derive(Debug, Default)]
struct Fader {
    /// Whether the last frame ended silent. At first it did: a stream fades in.
    audible: bool,
}

impl Fader {
    fn apply(&mut self, samples: &mut [i16; FRAME_SAMPLES], muted: bool) {
        let was_audible = std::mem::replace(&mut self.audible, !muted);
        if was_audible && !muted {
            return;
        }
        for (done, sample) in (0..).zip(samples.iter_mut()) {
            let gain = match (was_audible, muted) {
                (true, true) => (FADE_SAMPLES - done).max(0),
                (false, false) => done.min(FADE_SAMPLES),
                _ => 0,
            };
            *sample = i16::try_from(i32::from(*sample) * gain / FADE_SAMPLES).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Period;
    use std::num::NonZeroU32;
    use std::sync::mpsc;
    use std::time::Instant;

    const DEADLINE: Duration = Duration::from_secs(10);
    const PERIOD: Duration = Duration::from_millis(10);

    /// A source that delivers what the test sends it.
    struct Script {
        period: Period,
        steps: mpsc::Receiver<Result<Period, AudioError>>,
        /// Tells the test that the device was closed.
        _open: mpsc::Sender<()>,
    }

    impl AudioSource for Script {
        fn rate_hz(&self) -> NonZeroU32 {
            NonZeroU32::new(48_000).unwrap()
        }

        fn next(&mut self) -> Result<Option<&Period>, AudioError> {
            let Ok(step) = self.steps.recv_timeout(Duration::from_millis(50)) else {
                return Ok(None);
            };
            self.period = step?;
            Ok(Some(&self.period))
        }

        fn description(&self) -> String {
            "a script".to_owned()
        }
    }

    /// The test's end of an open source.
    struct Played {
        steps: mpsc::Sender<Result<Period, AudioError>>,
        closed: mpsc::Receiver<()>,
        next_at: Instant,
        position: u32,
    }

    impl Played {
        /// Sends this many periods of a loud tone.
        fn play(&mut self, periods: u32) {
            for _ in 0..periods {
                let samples = (self.position..self.position + 480)
                    .map(|n| (n as f32 * 0.06).sin() * 0.25)
                    .collect();
                let period = Period {
                    samples,
                    captured_at: self.next_at,
                    follows_gap: false,
                };
                self.steps.send(Ok(period)).unwrap();
                self.position += 480;
                self.next_at += PERIOD;
            }
        }

        fn is_closed_within(&self, deadline: Duration) -> bool {
            self.closed.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Disconnected)
        }
    }

    /// A capture thread, and all that the test needs to steer and watch it.
    struct Rig {
        request: watch::Sender<AudioRequest>,
        settings: watch::Sender<config::Audio>,
        status: watch::Receiver<SourceStatus>,
        frames: broadcast::Receiver<Arc<AudioFrame>>,
        opened: mpsc::Receiver<Played>,
        /// What the next attempts to open fail with.
        failures: mpsc::Sender<AudioError>,
        thread: JoinHandle<()>,
        decoder: ::opus::Decoder,
        _runtime: tokio::runtime::Runtime,
    }

    fn rig() -> Rig {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (request, requested) = watch::channel(AudioRequest::default());
        let (status_tx, status) = watch::channel(SourceStatus::Off);
        let (frames_tx, frames) = broadcast::channel(1_000);
        let (opened_tx, opened) = mpsc::channel();
        let (failures, failing) = mpsc::channel();
        let (settings, configured) = watch::channel(config::Audio::default());
        let open = move |_: &config::Audio| -> Result<Box<dyn AudioSource>, AudioError> {
            if let Ok(error) = failing.try_recv() {
                return Err(error);
            }
            let (steps, script) = mpsc::channel();
            let (open, closed) = mpsc::channel();
            let played = Played {
                steps,
                closed,
                next_at: clock::now(),
                position: 0,
            };
            drop(opened_tx.send(played));
            Ok(Box::new(Script {
                period: Period {
                    samples: Vec::new(),
                    captured_at: clock::now(),
                    follows_gap: false,
                },
                steps: script,
                _open: open,
            }))
        };
        let capture = Capture {
            open,
            settings: configured,
            delays: Delays {
                retry: Duration::from_millis(1),
                slow_retry: DEADLINE,
            },
            runtime: runtime.handle().clone(),
            request: requested,
            frames: frames_tx,
            status: status_tx,
            progress: Progress::default(),
        };
        Rig {
            request,
            settings,
            status,
            frames,
            opened,
            failures,
            thread: thread::spawn(move || capture.run()),
            decoder: ::opus::Decoder::new(48_000, ::opus::Channels::Mono).unwrap(),
            _runtime: runtime,
        }
    }

    impl Rig {
        fn ask(&self, change: impl FnOnce(&mut AudioRequest)) {
            self.request.send_modify(change);
        }

        fn opened(&self) -> Played {
            self.opened.recv_timeout(DEADLINE).unwrap()
        }

        /// Decodes the next frames; returns the effective amplitude of the last one.
        fn hear(&mut self, frames: usize) -> f64 {
            let mut samples = [0; FRAME_SAMPLES];
            for _ in 0..frames {
                let frame = self.frames.blocking_recv().unwrap();
                self.decoder
                    .decode(&frame.payload, &mut samples, false)
                    .unwrap();
            }
            let sum: f64 = samples.iter().map(|&s| f64::from(s).powi(2)).sum();
            (sum / samples.len() as f64).sqrt()
        }

        fn wait_for(&self, expected: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
            let until = clock::now() + DEADLINE;
            loop {
                let status = self.status.borrow().clone();
                if expected(&status) {
                    return status;
                }
                assert!(clock::now() < until, "{status:?}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn nothing_is_opened_until_someone_listens() {
        let rig = rig();
        rig.ask(|request| request.muted = true);
        rig.ask(|request| request.shutdown = true);
        rig.thread.join().unwrap();
        assert!(rig.opened.try_recv().is_err());
        assert_eq!(*rig.status.borrow(), SourceStatus::Off);
    }

    #[test]
    fn mute_silences_what_is_encoded_and_unmute_brings_it_back() {
        let mut rig = rig();
        rig.ask(|request| request.run = true);
        let mut microphone = rig.opened();
        microphone.play(21);
        assert!(rig.hear(10) > 3_000.0);
        rig.ask(|request| request.muted = true);
        microphone.play(21);
        assert!(rig.hear(10) < 1.0);
        rig.ask(|request| request.muted = false);
        microphone.play(21);
        assert!(rig.hear(10) > 3_000.0);
        let description = "a script".to_owned();
        assert_eq!(*rig.status.borrow(), SourceStatus::Live { description });
    }

    #[test]
    fn a_microphone_that_starts_muted_is_never_heard() {
        let mut rig = rig();
        rig.ask(|request| (request.run, request.muted) = (true, true));
        rig.opened().play(11);
        for _ in 0..5 {
            assert!(rig.hear(1) < 1.0);
        }
    }

    #[test]
    fn frames_carry_the_time_of_their_first_sample() {
        let mut rig = rig();
        rig.ask(|request| request.run = true);
        let mut microphone = rig.opened();
        let first_at = microphone.next_at;
        microphone.play(7);
        for n in 0..3 {
            let frame = rig.frames.blocking_recv().unwrap();
            let late = first_at + 2 * PERIOD * n - frame.captured_at;
            // The resampler begins a little before what it is given, and Opus some 6.5 ms.
            let expected = Duration::from_micros(6_500)..Duration::from_micros(7_500);
            assert!(expected.contains(&late), "{late:?}");
        }
    }

    #[test]
    fn a_microphone_that_dies_is_opened_again() {
        let mut rig = rig();
        rig.ask(|request| request.run = true);
        let mut microphone = rig.opened();
        microphone.play(3);
        rig.hear(1);
        for _ in 0..3 {
            let pcm = "hw:1".to_owned();
            rig.failures.send(AudioError::Missing { pcm }).unwrap();
        }
        let broken = AudioError::Driver {
            pcm: "hw:1".to_owned(),
            operation: "snd_pcm_readi",
            source: io::Error::from_raw_os_error(libc::EIO),
        };
        microphone.steps.send(Err(broken)).unwrap();
        let mut microphone = rig.opened();
        let reason = "microphone hw:1 is not present".to_owned();
        rig.wait_for(|status| {
            *status
                == SourceStatus::Waiting {
                    reason: reason.clone(),
                }
        });
        microphone.play(21);
        assert!(rig.hear(10) > 3_000.0);
        rig.wait_for(|status| matches!(status, SourceStatus::Live { .. }));
    }

    #[test]
    fn a_microphone_that_is_configured_anew_is_opened_again() {
        let mut rig = rig();
        rig.ask(|request| request.run = true);
        let mut microphone = rig.opened();
        microphone.play(3);
        rig.hear(1);
        rig.settings.send_modify(|audio| audio.bitrate_kbps = 64);
        assert!(microphone.is_closed_within(DEADLINE));
        rig.opened().play(21);
        assert!(rig.hear(10) > 3_000.0);
    }

    #[test]
    fn a_reason_names_the_cause() {
        let error = AudioError::Driver {
            pcm: "hw:1".to_owned(),
            operation: "snd_pcm_readi",
            source: io::Error::from_raw_os_error(libc::EIO),
        };
        let text = reason(&error);
        assert!(text.starts_with("microphone hw:1: snd_pcm_readi failed: Input/output"));
    }

    #[test]
    fn a_microphone_that_is_not_wanted_is_closed_and_can_be_opened_again() {
        let mut rig = rig();
        for _ in 0..2 {
            rig.ask(|request| request.run = true);
            let mut microphone = rig.opened();
            microphone.play(3);
            rig.hear(1);
            rig.ask(|request| request.run = false);
            assert!(microphone.is_closed_within(DEADLINE));
            rig.wait_for(|status| *status == SourceStatus::Off);
        }
    }

    #[test]
    fn shutdown_ends_the_thread_while_it_waits_for_a_microphone() {
        let rig = rig();
        // Not retryable: the next attempt would be after the deadline.
        let error = AudioError::Encoder("no".to_owned());
        rig.failures.send(error).unwrap();
        rig.ask(|request| request.run = true);
        rig.wait_for(|status| matches!(status, SourceStatus::Waiting { .. }));
        let asked_at = clock::now();
        rig.ask(|request| request.shutdown = true);
        rig.thread.join().unwrap();
        assert!(asked_at.elapsed() < DEADLINE / 2);
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let rig = rig();
        rig.ask(|request| request.run = true);
        let microphone = rig.opened();
        drop(rig.request);
        assert!(microphone.is_closed_within(DEADLINE));
        rig.thread.join().unwrap();
    }

    #[test]
    fn mute_fades_out_and_unmute_fades_in_within_5_ms() {
        let mut fader = Fader::default();
        let loud = || [10_000_i16; FRAME_SAMPLES];
        let mut first = loud();
        fader.apply(&mut first, false);
        assert_eq!((first[0], first[120], first[240]), (0, 5_000, 10_000));
        let mut steady = loud();
        fader.apply(&mut steady, false);
        assert_eq!(steady, loud());
        let mut muted = loud();
        fader.apply(&mut muted, true);
        assert_eq!((muted[0], muted[120], muted[240]), (10_000, 5_000, 0));
        assert!(muted[240..].iter().all(|&s| s == 0));
        let mut silent = loud();
        fader.apply(&mut silent, true);
        assert_eq!(silent, [0; FRAME_SAMPLES]);
    }
}
