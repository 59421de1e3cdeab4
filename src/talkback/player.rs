//! The thread that plays: voices → frames → mixed → the loudspeaker.
//!
//! ```text
//!   closed ──somebody speaks──▶ open ──nobody for LINGER──▶ closed
//!     ▲──────────error: told, and every voice ends──┘
//! ```
//!
//! The loudspeaker sets the pace. One that cannot be opened, or fails, ends the speaking and nothing
//! else; the next who speaks tries again.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::voice::Voice;
use super::{FRAME_SAMPLES, Frame, Speaker, SpeakerError, mixer};
use crate::rtp::SpeechPacket;
use crate::viewer::roster::SessionId;

/// What the engine says between two frames: four voices at 100 packets a second, for a third of a second
/// that opening a sound card may take.
const QUEUE: usize = 128;

/// How long the loudspeaker stays open after the last word, in frames: a second, for an answer to the
/// answer. Many click when they are opened.
const LINGER_FRAMES: u32 = 50;

/// What the player is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Speech {
    /// A viewer speaks from now on, through this loudspeaker.
    Began {
        /// Who.
        speaker: SessionId,
        /// As configured.
        sink: String,
    },
    /// What it says.
    Packet {
        /// Who.
        speaker: SessionId,
        /// One packet.
        packet: SpeechPacket,
    },
    /// It has finished: what waits is still played.
    Ended {
        /// Who.
        speaker: SessionId,
    },
}

/// Why nobody is heard any more, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure(pub String);

/// The engine's ends of the channels.
#[derive(Debug)]
pub struct Player {
    /// full: the loudspeaker hangs, and speaking ends
    pub speech: SyncSender<Speech>,
    /// What went wrong.
    pub failures: mpsc::Receiver<Failure>,
}

/// Starts the thread, which sleeps while nobody speaks, and ends with [`Player::speech`].
///
/// # Errors
///
/// When the system has no thread left.
pub fn spawn() -> io::Result<(JoinHandle<()>, Player)> {
    spawn_over(super::open)
}

fn spawn_over<Open>(open: Open) -> io::Result<(JoinHandle<()>, Player)>
where
    Open: FnMut(&str) -> Result<Box<dyn Speaker>, SpeakerError> + Send + 'static,
{
    let (speech, said) = sync_channel(QUEUE);
    // full: dropped; the first one ends all speaking
    let (failed, failures) = mpsc::channel(1);
    let playing = Playing {
        open,
        said,
        failed,
        output: None,
        voices: BTreeMap::new(),
    };
    let thread = thread::Builder::new().name("talkback".to_owned());
    let thread = thread.spawn(move || playing.run())?;
    Ok((thread, Player { speech, failures }))
}

struct Playing<Open> {
    open: Open,
    said: Receiver<Speech>,
    failed: mpsc::Sender<Failure>,
    output: Option<OpenSpeaker>,
    voices: BTreeMap<SessionId, Voice>,
}

struct OpenSpeaker {
    sink: String,
    speaker: Box<dyn Speaker>,
    /// Since somebody was last heard.
    idle_frames: u32,
}

impl<Open> Playing<Open>
where
    Open: FnMut(&str) -> Result<Box<dyn Speaker>, SpeakerError>,
{
    fn run(mut self) {
        while let Some(heard) = self.listen() {
            let outcome = heard.map_or(Ok(()), |speech| self.handle(speech));
            if let Err(error) = outcome.and_then(|()| self.play()) {
                self.fail(&error);
            }
        }
    }

    /// Waits for what is said while nothing is played. `None` where nobody is left to say anything.
    fn listen(&self) -> Option<Option<Speech>> {
        if self.output.is_none() {
            return match self.said.recv() {
                Ok(speech) => Some(Some(speech)),
                Err(RecvError) => None,
            };
        }
        match self.said.try_recv() {
            Ok(speech) => Some(Some(speech)),
            Err(TryRecvError::Empty) => Some(None),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    fn handle(&mut self, speech: Speech) -> Result<(), SpeakerError> {
        match speech {
            Speech::Began { speaker, sink } => {
                if self.output.as_ref().is_none_or(|open| open.sink != sink) {
                    // The old one first: it may be the same card.
                    self.output = None;
                    let opened = (self.open)(&sink)?;
                    info!(speaker = %opened.description(), "loudspeaker opened");
                    self.output = Some(OpenSpeaker {
                        sink,
                        speaker: opened,
                        idle_frames: 0,
                    });
                }
                self.voices.insert(speaker, Voice::new()?);
            }
            Speech::Packet { speaker, packet } => {
                if let Some(voice) = self.voices.get_mut(&speaker) {
                    voice.push(packet);
                }
            }
            Speech::Ended { speaker } => {
                if let Some(voice) = self.voices.get_mut(&speaker) {
                    voice.end();
                }
            }
        }
        Ok(())
    }

    /// Takes all that was said, and plays a frame.
    fn play(&mut self) -> Result<(), SpeakerError> {
        while let Ok(speech) = self.said.try_recv() {
            self.handle(speech)?;
        }
        let Some(open) = &mut self.output else {
            return Ok(());
        };
        let mut mixed: Frame = [0; FRAME_SAMPLES];
        self.voices.retain(|_, voice| {
            let frame = voice.next_frame();
            if let Some(frame) = &frame {
                mixer::add(&mut mixed, frame);
            }
            frame.is_some()
        });
        open.speaker.play(&mixed)?;
        open.idle_frames += 1;
        if !self.voices.is_empty() {
            open.idle_frames = 0;
        }
        if open.idle_frames > LINGER_FRAMES {
            self.output = None;
            info!("loudspeaker closed");
        }
        Ok(())
    }

    fn fail(&mut self, error: &SpeakerError) {
        let reason = error.to_string();
        warn!(reason, "nobody can be heard");
        self.output = None;
        self.voices.clear();
        drop(self.failed.try_send(Failure(reason)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use bytes::Bytes;
    use std::sync::mpsc::{self as std_mpsc, Sender};
    use std::time::Duration;

    const DEADLINE: Duration = Duration::from_secs(10);
    const ANNE: SessionId = SessionId(1);
    const BEN: SessionId = SessionId(2);

    /// A loudspeaker that takes a frame whenever the test allows one, and gives it to the test.
    struct Scripted {
        allowed: Receiver<Result<(), SpeakerError>>,
        played: Sender<Frame>,
    }

    impl Speaker for Scripted {
        fn play(&mut self, frame: &Frame) -> Result<(), SpeakerError> {
            let allowed = self.allowed.recv_timeout(DEADLINE);
            allowed.unwrap_or(Err(SpeakerError::NoSpeaker))?;
            self.played.send(*frame).ok();
            Ok(())
        }

        fn description(&self) -> String {
            "a script".to_owned()
        }
    }

    struct Rig {
        thread: JoinHandle<()>,
        player: Player,
        opened: Receiver<Device>,
        failing: Sender<SpeakerError>,
    }

    /// The test's end of an open loudspeaker.
    struct Device {
        sink: String,
        allow: Sender<Result<(), SpeakerError>>,
        played: Receiver<Frame>,
    }

    impl Device {
        fn play(&self, frames: usize) -> Vec<f64> {
            let loudness = |frame: Frame| {
                let sum: f64 = frame.iter().map(|&s| f64::from(s).powi(2)).sum();
                (sum / 960.0).sqrt()
            };
            let next = |_| {
                self.allow.send(Ok(())).unwrap();
                loudness(self.played.recv_timeout(DEADLINE).unwrap())
            };
            (0..frames).map(next).collect()
        }

        fn is_closed(&self) -> bool {
            let until = clock::now() + DEADLINE;
            while clock::now() < until {
                if self.allow.send(Ok(())).is_err() {
                    return true;
                }
                thread::yield_now();
            }
            false
        }
    }

    fn rig() -> Rig {
        let (devices, opened) = std_mpsc::channel();
        let (failing, failures) = std_mpsc::channel();
        let open = move |sink: &str| {
            if let Ok(error) = failures.try_recv() {
                return Err(error);
            }
            let (allow, allowed) = std_mpsc::channel();
            let (heard, played) = std_mpsc::channel();
            let device = Device {
                sink: sink.to_owned(),
                allow,
                played,
            };
            devices.send(device).unwrap();
            let speaker = Scripted {
                allowed,
                played: heard,
            };
            Ok(Box::new(speaker) as Box<dyn Speaker>)
        };
        let (thread, player) = spawn_over(open).unwrap();
        Rig {
            thread,
            player,
            opened,
            failing,
        }
    }

    impl Rig {
        fn says(&self, speech: Speech) {
            self.player.speech.send(speech).unwrap();
        }

        fn begins(&self, speaker: SessionId) {
            let sink = "a speaker".to_owned();
            self.says(Speech::Began { speaker, sink });
        }

        /// As many packets of a steady tone.
        fn speaks(&self, speaker: SessionId, packets: u32) {
            for packet in tone(packets) {
                self.says(Speech::Packet { speaker, packet });
            }
        }

        fn device(&self) -> Device {
            self.opened.recv_timeout(DEADLINE).unwrap()
        }

        fn failure(&mut self) -> String {
            self.player.failures.blocking_recv().unwrap().0
        }
    }

    fn tone(packets: u32) -> Vec<SpeechPacket> {
        let mut encoder =
            opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        let mut tone = |n: u32| {
            let sample = |i: u32| {
                let t = f64::from(n * 960 + i) / 48_000.0;
                #[expect(clippy::cast_possible_truncation, reason = "at most 8000")]
                let sample = (8_000.0 * (t * 400.0 * std::f64::consts::TAU).sin()) as i16;
                sample
            };
            let samples: Vec<i16> = (0..960).map(sample).collect();
            SpeechPacket {
                ssrc: 1,
                sequence_number: u16::try_from(n).unwrap(),
                timestamp: n * 960,
                payload: Bytes::from(encoder.encode_vec(&samples, 1_275).unwrap()),
            }
        };
        (0..packets).map(&mut tone).collect()
    }

    fn loudest(frames: &[f64]) -> f64 {
        frames.iter().copied().fold(0.0, f64::max)
    }

    #[test]
    fn what_a_viewer_says_is_played_and_the_loudspeaker_closed_after() {
        let rig = rig();
        rig.begins(ANNE);
        rig.speaks(ANNE, 8);
        rig.says(Speech::Ended { speaker: ANNE });
        let device = rig.device();
        assert_eq!(device.sink, "a speaker");
        let played = device.play(20);
        let audible = played
            .iter()
            .filter(|&&loudness| loudness > 3_000.0)
            .count();
        assert!((7..=9).contains(&audible), "{played:?}");
        assert!(played[15] < 10.0, "silence after the end: {played:?}");
        assert!(device.is_closed());
    }

    #[test]
    fn two_viewers_are_heard_at_once() {
        let rig = rig();
        for speaker in [ANNE, BEN] {
            rig.begins(speaker);
            rig.speaks(speaker, 9);
        }
        let one_voice = 8_000.0 / std::f64::consts::SQRT_2;
        let loudest = loudest(&rig.device().play(12));
        assert!(loudest > 1.7 * one_voice, "{loudest}");
    }

    #[test]
    fn who_did_not_begin_is_not_heard() {
        let rig = rig();
        rig.begins(ANNE);
        rig.speaks(BEN, 9);
        rig.speaks(SessionId(3), 9);
        assert!(loudest(&rig.device().play(10)) < 1.0);
    }

    #[test]
    fn a_loudspeaker_that_is_missing_is_told_and_tried_again_by_the_next() {
        let mut rig = rig();
        rig.failing.send(SpeakerError::NoSpeaker).unwrap();
        rig.begins(ANNE);
        assert_eq!(rig.failure(), "no loudspeaker found");
        rig.begins(ANNE);
        rig.speaks(ANNE, 9);
        assert!(loudest(&rig.device().play(10)) > 3_000.0);
    }

    #[test]
    fn a_loudspeaker_that_is_unplugged_ends_the_speaking_and_nothing_else() {
        let mut rig = rig();
        rig.begins(ANNE);
        let device = rig.device();
        device.play(3);
        let pcm = "hw:1".to_owned();
        device
            .allow
            .send(Err(SpeakerError::Missing { pcm }))
            .unwrap();
        assert_eq!(rig.failure(), "loudspeaker hw:1 is not present");
        rig.speaks(ANNE, 3);
        rig.begins(BEN);
        rig.speaks(BEN, 9);
        assert!(loudest(&rig.device().play(10)) > 3_000.0);
    }

    #[test]
    fn a_loudspeaker_that_is_configured_anew_is_opened_instead() {
        let rig = rig();
        rig.begins(ANNE);
        let device = rig.device();
        let sink = "another".to_owned();
        rig.says(Speech::Began { speaker: BEN, sink });
        assert!(device.is_closed());
        assert_eq!(rig.device().sink, "another");
    }

    #[test]
    fn the_thread_ends_with_its_owner_whether_it_plays_or_not() {
        let rig = rig();
        drop(rig.player);
        rig.thread.join().unwrap();
        let rig = self::rig();
        rig.begins(ANNE);
        let device = rig.device();
        drop(rig.player);
        assert!(device.is_closed());
        rig.thread.join().unwrap();
    }
}
