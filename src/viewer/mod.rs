//! One remote browser, as a machine without I/O.
//!
//! Datagrams, frames, signals and time go in (`handle_*`); datagrams and events come out (`poll_*`).
//! After each input the driver drains [`Viewer::poll_transmit`] and [`Viewer::poll_event`] until
//! both return `None`, and calls [`Viewer::handle_timeout`] at [`Viewer::poll_timeout`].
//!
//! ```text
//!         its offer answered         ICE + DTLS up
//!     new ──────────▶ connecting ─────────────▶ connected ──▶ ended
//!      │ ours  accepted ▲ │ CONNECT_TIMEOUT                     ▲ closed by the viewer,
//!      ├───▶ calling ───┘ │                                     │ silent, or closed by us
//!      └────────┴─────────┴─────────────────────────────────────┘
//! ```
//!
//! | file           | what                                                          |
//! |----------------|---------------------------------------------------------------|
//! | `offer.rs`     | what a browser's offer holds                                  |
//! | `webrtc.rs`    | the peer connection; the only file that knows `rtc`           |
//! | `gate.rs`      | which frames it can decode                                    |
//! | `pacer.rs`     | how fast queued frames leave                                  |
//! | `keyframes.rs` | when the encoder is asked for a keyframe, over all viewers    |
//! | `roster.rs`    | who may watch, how many, who is gone                          |
//! | `transfer.rs`  | files on the control channel                                  |
//! | `verdict.rs`   | why a viewer does not connect                                 |

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::control::protocol::{self, Command, MAX_MESSAGES_PER_SECOND, ParseError};
use crate::rtp::clock::{OPUS_CLOCK_HZ, RtpClock, VIDEO_CLOCK_HZ};
use crate::rtp::{AudioFrame, SpeechPacket, VideoFrame};
use crate::signaling::CandidateInit;
use crate::turn::relays::Status;

pub mod gate;
pub mod keyframes;
pub mod offer;
pub mod pacer;
pub mod roster;
pub mod transfer;
pub mod verdict;
pub mod webrtc;

use gate::{KeyframeGate, Verdict};
use pacer::Pacer;
use transfer::Transfer;
use verdict::{Attempt, Verdict as Diagnosis};
use webrtc::{Datagram, FrameHeader, Peer, PeerError, PeerEvent, PeerOptions};

/// How long a viewer may take from its offer to a connection. Slow phones on bad networks take a
/// few seconds; a viewer that cannot be reached is told so by its page.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// After how long a viewer is told why it does not connect, while it goes on trying: before its page
/// gives up and begins anew, after 10 s.
const STUCK_AFTER: Duration = Duration::from_secs(8);

/// How long our offer may wait for an answer: somebody may have to permit a page its microphone first.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most frames that wait for one viewer, in bytes: the last GOP of a pass-through camera and a
/// little more. Beyond it the viewer waits for the next keyframe.
const MAX_QUEUED_BYTES: usize = crate::rtp::gop::MAX_BYTES + (1 << 20);

/// The distance that frames of the past keep on a newcomer's screen: it decodes them as fast as it
/// can and shows the last one.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(1);

/// Most packets of what a viewer says between two drains: a second and a half of them. One drain follows
/// a batch of datagrams.
const MAX_SPEECH_PACKETS: usize = 75;

/// Why a viewer's session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The viewer closed it, or fell silent after having been connected.
    Gone,
    /// Nobody answered our offer in [`ANSWER_TIMEOUT`].
    NeverAnswered,
    /// No connection came about in [`CONNECT_TIMEOUT`].
    NeverConnected,
    /// The connection failed before it was up: no path, or no common cryptography.
    Failed,
}

/// Something the driver must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewerEvent {
    /// Media can be sent.
    Connected,
    /// It takes so long that something is wrong: ask [`Viewer::diagnosis`]. It may connect still.
    Stuck,
    /// The control channel is open: tell it the state.
    ControlOpen,
    /// An accepted command; answer with [`Viewer::send_control`].
    Command {
        /// To be echoed.
        id: u32,
        /// What to do.
        command: Command,
    },
    /// The viewer needs a keyframe.
    KeyframeWanted,
    /// What the viewer says; only after [`Viewer::set_talking`].
    Speech(SpeechPacket),
    /// It is over. Nothing more will come.
    Ended(Ended),
}

/// One viewer's session.
#[derive(Debug)]
pub struct Viewer {
    peer: Peer,
    gate: KeyframeGate,
    pacer: Pacer,
    /// Frames that could not leave at once, with the capture time they are shown at.
    queue: VecDeque<(Arc<VideoFrame>, Instant)>,
    queued_bytes: usize,
    video_clock: RtpClock,
    audio_clock: RtpClock,
    calling: bool,
    connected: bool,
    ended: bool,
    connect_by: Instant,
    /// `None` once it was said, or while nobody answered our offer.
    stuck_at: Option<Instant>,
    /// `None` once it is up.
    attempt: Option<Attempt>,
    commands: CommandRate,
    transfer: Option<Transfer>,
    events: VecDeque<ViewerEvent>,
    /// How many of them are speech.
    speech_packets: usize,
}

impl Viewer {
    /// Creates the session of a viewer whose offer is about to be answered, or who is to be offered.
    ///
    /// `first_timestamp` is where RTP timestamps start and should be random (RFC 3550 §5.1).
    ///
    /// # Errors
    ///
    /// [`PeerError`], which is a bug of ours.
    pub fn new(
        options: &PeerOptions,
        first_timestamp: u32,
        now: Instant,
    ) -> Result<Self, PeerError> {
        Ok(Self {
            peer: Peer::new(options, now)?,
            gate: KeyframeGate::new(),
            pacer: Pacer::new(now),
            queue: VecDeque::new(),
            queued_bytes: 0,
            video_clock: RtpClock::new(VIDEO_CLOCK_HZ, now, first_timestamp),
            audio_clock: RtpClock::new(OPUS_CLOCK_HZ, now, first_timestamp),
            calling: false,
            connected: false,
            ended: false,
            connect_by: now + CONNECT_TIMEOUT,
            stuck_at: Some(now + STUCK_AFTER),
            attempt: Some(Attempt::default()),
            commands: CommandRate::new(now),
            transfer: None,
            events: VecDeque::new(),
            speech_packets: 0,
        })
    }

    /// Answers an offer, the first or a later one. The answer carries `candidates`.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where the offer makes no sense; end the session then.
    pub fn handle_offer(
        &mut self,
        offer: &str,
        candidates: &[String],
        now: Instant,
    ) -> Result<String, PeerError> {
        self.add_candidates(candidates)?;
        if let Some(attempt) = &mut self.attempt {
            attempt.add_description(offer);
        }
        self.peer.answer(offer, now)
    }

    /// Returns our offer, which carries `candidates`.
    ///
    /// # Errors
    ///
    /// [`PeerError`], which is a bug of ours; end the session then.
    pub fn offer(&mut self, candidates: &[String], now: Instant) -> Result<String, PeerError> {
        self.add_candidates(candidates)?;
        self.calling = true;
        self.stuck_at = None;
        self.connect_by = now + ANSWER_TIMEOUT;
        self.peer.offer(now)
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    ///
    /// [`PeerError`] where the answer makes no sense; end the session then.
    pub fn handle_answer(&mut self, answer: &str, now: Instant) -> Result<(), PeerError> {
        self.peer.accept(answer, now)?;
        self.calling = false;
        self.connect_by = now + CONNECT_TIMEOUT;
        self.stuck_at = Some(now + STUCK_AFTER);
        if let Some(attempt) = &mut self.attempt {
            attempt.add_description(answer);
        }
        Ok(())
    }

    /// Takes a candidate of the viewer's.
    pub fn handle_candidate(&mut self, candidate: &CandidateInit) {
        if let Some(attempt) = &mut self.attempt {
            attempt.add_theirs(&candidate.candidate);
        }
        self.peer.add_remote_candidate(candidate);
    }

    /// Adds a candidate of ours that was found after the answer.
    pub fn add_local_candidate(&mut self, candidate: &str) {
        let candidates = std::slice::from_ref(&candidate);
        if let Err(error) = self.add_candidates(candidates) {
            tracing::debug!(%error, "could not add our candidate");
        }
    }

    /// Takes a datagram from the viewer.
    pub fn handle_datagram(&mut self, datagram: Datagram, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.received(datagram.local, datagram.peer, &datagram.bytes);
        }
        self.peer.handle_datagram(datagram, now);
        self.handle_peer_events(now);
    }

    /// Takes the next frame of the stream.
    pub fn handle_video(&mut self, frame: &Arc<VideoFrame>, now: Instant) {
        if !self.connected || self.gate.handle_frame(frame.is_keyframe) == Verdict::Drop {
            return;
        }
        self.enqueue(frame, frame.captured_at);
        self.send_queued(now);
    }

    /// Starts at once, with the frames since the last keyframe, the newest last.
    pub fn start_with(&mut self, gop: &[Arc<VideoFrame>], now: Instant) {
        let (Some(first), Some(newest)) = (gop.first(), gop.last()) else {
            return;
        };
        if self.gate.is_open() || self.gate.handle_frame(first.is_keyframe) == Verdict::Drop {
            return;
        }
        let mut shown_at = newest.captured_at;
        let mut queue = VecDeque::with_capacity(gop.len());
        for frame in gop.iter().rev() {
            queue.push_front((Arc::clone(frame), shown_at));
            shown_at = shown_at.checked_sub(CATCH_UP_INTERVAL).unwrap_or(shown_at);
        }
        for (frame, shown_at) in queue {
            self.enqueue(&frame, shown_at);
        }
        self.send_queued(now);
    }

    /// Records that frames were lost on the way to this viewer. Nothing more is sent until a
    /// keyframe.
    pub fn handle_lag(&mut self, missed: u64) {
        if self.gate.handle_lag(missed) {
            self.events.push_back(ViewerEvent::KeyframeWanted);
        }
    }

    /// The camera was switched off: what waits is not shown any more, and the next picture will be a
    /// keyframe.
    pub fn stop_video(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.gate.close();
    }

    /// Takes the next packet of sound. A lost one stands alone, so there is no queue.
    pub fn handle_audio(&mut self, frame: &AudioFrame) {
        if self.connected {
            let header = FrameHeader {
                timestamp: self.audio_clock.timestamp(frame.captured_at),
                captured_at: frame.captured_at,
            };
            self.peer.send_audio(header, &frame.payload);
        }
    }

    /// Lets what the viewer says through as [`ViewerEvent::Speech`], or no longer. Before, it is dropped
    /// as soon as it is decrypted.
    pub const fn set_talking(&mut self, on: bool) {
        self.peer.set_talking(on);
    }

    /// Sends a text on the control channel, if it is open.
    pub fn send_control(&mut self, text: &str, now: Instant) {
        // One that is not open is told everything when it opens.
        let _is_sent = self.peer.send_control(text, now);
    }

    /// Sends a text that announces a file on the control channel, and the file behind it, in binary
    /// messages. Only while [`Self::is_receiving`] says no.
    pub fn send_file(&mut self, announcement: &str, file: Bytes, now: Instant) {
        if self.peer.send_control(announcement, now) {
            self.transfer = Some(Transfer::new(file, now));
            self.send_pieces(now);
        }
    }

    /// Returns whether a file is still on its way.
    #[must_use]
    pub const fn is_receiving(&self) -> bool {
        self.transfer.is_some()
    }

    /// Tells the machine what time it is.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.peer.handle_timeout(now);
        self.handle_peer_events(now);
        self.send_queued(now);
        self.send_pieces(now);
        if self.stuck_at.is_some_and(|at| at <= now) {
            self.stuck_at = None;
            self.events.push_back(ViewerEvent::Stuck);
        }
        if !self.connected && now >= self.connect_by {
            self.end(if self.calling {
                Ended::NeverAnswered
            } else {
                Ended::NeverConnected
            });
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let connect_by = (!self.connected).then_some(self.connect_by);
        let queued = (!self.queue.is_empty()).then(|| self.pacer.next_at());
        let piece = self.transfer.as_ref().map(Transfer::next_at);
        let own = [connect_by, self.stuck_at, queued, piece];
        let all = own.into_iter().chain([self.peer.poll_timeout()]);
        all.flatten().min()
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        let datagram = self.peer.poll_transmit()?;
        if let Some(attempt) = &mut self.attempt {
            attempt.sent(datagram.local, datagram.peer, &datagram.bytes);
        }
        Some(datagram)
    }

    /// Returns why it does not connect, as far as can be said. `relay` is what TURN has to offer,
    /// `name_of` the network interface of an address of ours. `None` once it is connected.
    #[must_use]
    pub fn diagnosis(
        &self,
        relay: &Status,
        name_of: impl Fn(IpAddr) -> Option<String>,
    ) -> Option<Diagnosis> {
        let attempt = self.attempt.as_ref()?;
        Some(attempt.verdict(relay, name_of))
    }

    /// Returns the next thing the driver must act on.
    pub fn poll_event(&mut self) -> Option<ViewerEvent> {
        let event = self.events.pop_front();
        if matches!(event, Some(ViewerEvent::Speech(_))) {
            self.speech_packets = self.speech_packets.saturating_sub(1);
        }
        event
    }

    /// Closes the session and tells the viewer; drain [`Self::poll_transmit`] afterwards.
    pub fn close(&mut self) {
        self.ended = true;
        self.peer.close();
    }

    /// Returns whether media can be sent.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Returns how many frames this viewer did not get since it joined.
    #[must_use]
    pub const fn dropped_frames(&self) -> u64 {
        self.gate.dropped()
    }

    fn add_candidates(&mut self, candidates: &[impl AsRef<str>]) -> Result<(), PeerError> {
        for candidate in candidates {
            let candidate = candidate.as_ref();
            self.peer.add_local_candidate(candidate)?;
            if let Some(attempt) = &mut self.attempt {
                attempt.add_ours(candidate);
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, frame: &Arc<VideoFrame>, shown_at: Instant) {
        if self.queued_bytes + frame.size() > MAX_QUEUED_BYTES {
            let missed = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
            self.queue.clear();
            self.queued_bytes = 0;
            self.handle_lag(missed.saturating_add(1));
            return;
        }
        self.queued_bytes += frame.size();
        self.queue.push_back((Arc::clone(frame), shown_at));
    }

    fn send_queued(&mut self, now: Instant) {
        while let Some((frame, shown_at)) = self.queue.front() {
            let size = frame.size();
            if !self.pacer.take(size, now) {
                return;
            }
            let header = FrameHeader {
                timestamp: self.video_clock.timestamp(*shown_at),
                captured_at: *shown_at,
            };
            self.peer.send_video(header, &frame.payloads);
            self.queued_bytes = self.queued_bytes.saturating_sub(size);
            self.queue.pop_front();
        }
    }

    fn send_pieces(&mut self, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let outstanding = self.peer.outstanding_control_bytes();
        let piece = outstanding.map(|bytes| transfer.poll(bytes, now));
        let is_lost = match piece {
            // The channel is closed.
            None => true,
            Some(Some(piece)) => !self.peer.send_control_bytes(&piece, now),
            Some(None) => false,
        };
        if is_lost || transfer.is_done() {
            self.transfer = None;
        }
    }

    fn handle_peer_events(&mut self, now: Instant) {
        while let Some(event) = self.peer.poll_event() {
            match event {
                PeerEvent::Connected => {
                    self.connected = true;
                    self.stuck_at = None;
                    self.attempt = None;
                    self.events.push_back(ViewerEvent::Connected);
                }
                PeerEvent::ControlOpen => self.events.push_back(ViewerEvent::ControlOpen),
                PeerEvent::KeyframeWanted => self.events.push_back(ViewerEvent::KeyframeWanted),
                PeerEvent::Control(text) => self.handle_control(text.as_deref(), now),
                PeerEvent::Speech(packet) => {
                    // full: newest lost, and made up for
                    if self.speech_packets < MAX_SPEECH_PACKETS {
                        self.speech_packets += 1;
                        self.events.push_back(ViewerEvent::Speech(packet));
                    }
                }
                PeerEvent::Closed => self.end(Ended::Gone),
                PeerEvent::Failed if self.connected => self.end(Ended::Gone),
                PeerEvent::Failed => self.end(Ended::Failed),
            }
        }
    }

    fn handle_control(&mut self, text: Option<&str>, now: Instant) {
        let request = match self.commands.admit(now) {
            Admission::Admitted => protocol::parse(text),
            Admission::FirstTooMany => Err(ParseError::TooFast),
            Admission::TooMany => return,
        };
        match request {
            Ok(request) => self.events.push_back(ViewerEvent::Command {
                id: request.id,
                command: request.command,
            }),
            Err(error) => self.send_control(&error.reply(), now),
        }
    }

    fn end(&mut self, reason: Ended) {
        if !self.ended {
            self.ended = true;
            self.events.push_back(ViewerEvent::Ended(reason));
        }
    }
}

/// Counts control messages per second.
#[derive(Debug)]
struct CommandRate {
    second_began: Instant,
    count: u32,
}

enum Admission {
    Admitted,
    /// Over the limit for the first time in this second: say so once.
    FirstTooMany,
    /// Not worth an answer.
    TooMany,
}

impl CommandRate {
    const fn new(now: Instant) -> Self {
        Self {
            second_began: now,
            count: 0,
        }
    }

    fn admit(&mut self, now: Instant) -> Admission {
        if now.saturating_duration_since(self.second_began) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        match self.count {
            0..=MAX_MESSAGES_PER_SECOND => Admission::Admitted,
            n if n == MAX_MESSAGES_PER_SECOND + 1 => Admission::FirstTooMany,
            _ => Admission::TooMany,
        }
    }
}
