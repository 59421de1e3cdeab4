//! One viewer: joins a room, offers, receives, steers, and tells what it has seen.
//!
//! [`Viewer`] is a handle; the work is done by one task, [`Driver`], which owns the WebSocket, the
//! peer connection and the counters, and is the only writer of [`Seen`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::WatchError;
use super::depacketize::AccessUnit;
use super::invitation::Invitation;
use super::protocol::{Asked, Command, Description, FromDevice, FromRoom, Refusal, Reply, ToRoom};
use super::seen::{Connection, Seen, candidates_in, keep, summary};
use super::tally::{SoundPacket, Tally};
use super::webrtc::{Media, Peer, PeerEvent, VideoTrack};
use super::websocket::RoomSocket;
use crate::clock;
use crate::config::Secret;
use crate::signaling::{CandidateInit, IceServer};

/// How long the room server may take to let us in. It answers at once.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the device may take to reply to a command. It replies at once.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long leaving may take. Saying goodbye takes a moment, closing what has died forever.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many things may be asked of the viewer's task before it has done them.
const MAX_QUEUED_ASKS: usize = 64;

/// The least time between two keyframe requests of ours: a keyframe is 5 to 20 times a delta
/// frame, and asking for many would make a congested link worse.
const KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// A viewer in a room. When it is dropped, it leaves.
#[derive(Debug)]
pub struct Viewer {
    asks: mpsc::Sender<Ask>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// What a viewer wants, beside seeing. What comes is lost to a channel that is full.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Whole frames.
    pub frames: Option<mpsc::Sender<AccessUnit>>,
    /// Packets of sound, as they come.
    pub sound: Option<mpsc::Sender<SoundPacket>>,
    /// To speak: sound goes both ways then.
    pub speaks: bool,
}

/// What the handle asks of the task.
#[derive(Debug)]
enum Ask {
    Command(Asked, oneshot::Sender<Reply>),
    Say(Bytes, u32),
    ControlText(String),
    RoomText(String),
    Keyframe,
}

impl Viewer {
    /// Joins the room; the connection to the device is made in the background, as soon as there
    /// is a device. Whole frames go to `frames`, and are lost to it while it is full.
    ///
    /// # Errors
    ///
    /// The room server is not there, or lets nobody in with this key.
    pub async fn join(
        invitation: &Invitation,
        frames: Option<mpsc::Sender<AccessUnit>>,
    ) -> Result<Self, WatchError> {
        let wishes = Wishes {
            frames,
            ..Wishes::default()
        };
        Self::join_with(invitation, wishes).await
    }

    /// As [`Self::join`], with more wishes.
    ///
    /// # Errors
    ///
    /// The room server is not there, or lets nobody in with this key.
    pub async fn join_with(invitation: &Invitation, wishes: Wishes) -> Result<Self, WatchError> {
        let server = invitation.server.to_string();
        let mut room = match RoomSocket::connect(&invitation.server).await {
            Ok(room) => room,
            Err(reason) => return Err(WatchError::NoServer { server, reason }),
        };
        let join = ToRoom::join(invitation.room.clone(), invitation.key.expose().to_owned());
        let lost = |reason: &str| WatchError::NoServer {
            server: server.clone(),
            reason: reason.to_owned(),
        };
        room.send(join.text())
            .await
            .map_err(|error| lost(&error.to_string()))?;
        let joined = tokio::time::timeout(JOIN_TIMEOUT, async {
            while let Some(text) = room.next().await {
                match serde_json::from_str(&text) {
                    Ok(FromRoom::Joined {
                        ice_servers,
                        device,
                    }) => {
                        return Ok((ice_servers, device));
                    }
                    Ok(FromRoom::Error(refusal)) => {
                        return Err(WatchError::from_refusal(refusal, &invitation.room));
                    }
                    _ => {}
                }
            }
            Err(lost("it closed the connection instead of letting us in"))
        });
        let (ice_servers, device) = joined
            .await
            .unwrap_or_else(|_| Err(lost("it speaks another protocol: no answer to join")))?;

        let (ask_sender, asks) = mpsc::channel(MAX_QUEUED_ASKS);
        let (seen_sender, seen) = watch::channel(Seen {
            in_room: true,
            ..Seen::default()
        });
        let mut driver = Driver {
            loopback: invitation.is_loopback(),
            ice_servers,
            room: Some(room),
            peer: None,
            video: None,
            tally: Tally::default(),
            incomplete: 0,
            keyframe_requested: None,
            pending: HashMap::new(),
            next_id: 1,
            seen: seen_sender,
            wishes,
        };
        let task = tokio::spawn(async move {
            if let Some(instance) = device {
                driver.meet(instance).await;
            }
            driver.run(asks).await;
        });
        Ok(Self {
            asks: ask_sender,
            seen,
            task,
        })
    }

    /// Returns what was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until `condition` holds, and returns what was seen by then.
    ///
    /// # Errors
    ///
    /// What was seen when `limit` had passed, or when the viewer ended before.
    pub async fn until(
        &mut self,
        limit: Duration,
        condition: impl FnMut(&Seen) -> bool,
    ) -> Result<Seen, Box<Seen>> {
        let waiting = self.seen.wait_for(condition);
        let seen = tokio::time::timeout(limit, waiting)
            .await
            .ok()
            .and_then(|ended| ended.ok().map(|seen| seen.clone()));
        seen.ok_or_else(|| Box::new(self.seen()))
    }

    /// Sends `command` on the control channel and waits for the reply; `None` if there is no
    /// channel, or no reply.
    pub async fn command(&self, command: Command) -> Option<Reply> {
        self.reply_to(Asked::Command(command)).await
    }

    /// Asks to speak, with the key of those who may, or ends that; returns as [`Self::command`] does.
    pub async fn set_talking(&self, on: bool, key: &Secret) -> Option<Reply> {
        let key = key.clone();
        self.reply_to(Asked::Talking { on, key }).await
    }

    /// Says `packet`, which lasts for so many samples of 48 kHz. Whoever calls it keeps the pace.
    pub async fn say(&self, packet: Bytes, samples: u32) {
        self.ask(Ask::Say(packet, samples)).await;
    }

    async fn reply_to(&self, asked: Asked) -> Option<Reply> {
        let (sender, reply) = oneshot::channel();
        self.ask(Ask::Command(asked, sender)).await;
        tokio::time::timeout(REPLY_TIMEOUT, reply).await.ok()?.ok()
    }

    /// Sends `text` on the control channel as it is.
    pub async fn send_control(&self, text: impl Into<String>) {
        self.ask(Ask::ControlText(text.into())).await;
    }

    /// Sends `text` to the room server as it is.
    pub async fn send_room(&self, text: impl Into<String>) {
        self.ask(Ask::RoomText(text.into())).await;
    }

    /// Asks for a keyframe as browsers do, by RTCP (PLI).
    pub async fn request_keyframe(&self) {
        self.ask(Ask::Keyframe).await;
    }

    /// Leaves the room, and waits until everyone is told, at most 2 s.
    pub async fn leave(mut self) {
        drop(self.asks);
        match tokio::time::timeout(LEAVE_TIMEOUT, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the viewer ended before it left"),
            Err(_) => {
                tracing::debug!("could not leave in time");
                self.task.abort();
            }
        }
    }

    async fn ask(&self, ask: Ask) {
        // full: awaits
        if self.asks.send(ask).await.is_err() {
            tracing::debug!("the viewer has ended");
        }
    }
}

/// The task behind a [`Viewer`].
struct Driver {
    loopback: bool,
    ice_servers: Vec<IceServer>,
    room: Option<RoomSocket>,
    peer: Option<Peer>,
    video: Option<VideoTrack>,
    tally: Tally,
    /// How many incomplete frames a keyframe was asked for.
    incomplete: u64,
    keyframe_requested: Option<Instant>,
    /// Who waits for the reply to which command.
    pending: HashMap<u32, oneshot::Sender<Reply>>,
    next_id: u32,
    seen: watch::Sender<Seen>,
    wishes: Wishes,
}

/// What the driver's task wakes up for.
enum Input {
    Room(Option<String>),
    Peer(PeerEvent),
    Media(Media),
    Ask(Option<Ask>),
}

impl Driver {
    /// Works until the handle is gone, then leaves.
    async fn run(&mut self, mut asks: mpsc::Receiver<Ask>) {
        loop {
            match self.input(&mut asks).await {
                Input::Room(Some(text)) => self.handle_room(&text).await,
                Input::Room(None) => {
                    self.room = None;
                    self.seen.send_modify(|seen| seen.in_room = false);
                }
                Input::Peer(event) => self.handle_peer(event).await,
                Input::Media(media) => self.handle_media(media).await,
                Input::Ask(Some(ask)) => self.handle_ask(ask).await,
                Input::Ask(None) => break,
            }
        }
        self.send(&ToRoom::Bye).await;
        if let Some(room) = self.room.take() {
            room.close().await;
        }
        if let Some(peer) = self.peer.take() {
            peer.close().await;
        }
    }

    async fn input(&mut self, asks: &mut mpsc::Receiver<Ask>) -> Input {
        let room = async {
            match self.room.as_mut() {
                Some(room) => room.next().await,
                None => std::future::pending().await,
            }
        };
        let peer = async {
            let Some(peer) = self.peer.as_mut() else {
                return std::future::pending().await;
            };
            tokio::select! {
                Some(event) = peer.events.recv() => Input::Peer(event),
                Some(media) = peer.media.recv() => Input::Media(media),
                else => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = asks.recv() => Input::Ask(ask),
            text = room => Input::Room(text),
            input = peer => input,
        }
    }

    /// Makes a peer connection to the device that calls itself `instance`.
    async fn meet(&mut self, instance: String) {
        if let Some(old) = self.peer.take() {
            old.close().await;
        }
        self.video = None;
        self.seen.send_modify(|seen| {
            seen.device = Some(instance.clone());
            seen.met = Some(instance);
            seen.connection = Connection::New;
            (seen.answered, seen.connected, seen.control_open) = (None, None, None);
        });
        let speaks = self.wishes.speaks;
        match Peer::offer(&self.ice_servers, self.loopback, speaks).await {
            Ok((peer, sdp)) => {
                self.peer = Some(peer);
                let now = clock::now();
                self.seen.send_modify(|seen| seen.offered = Some(now));
                let offer = Description {
                    kind: "offer".to_owned(),
                    sdp,
                };
                self.send(&ToRoom::Offer { offer }).await;
            }
            Err(error) => self.refuse(Refusal {
                code: "no-offer".to_owned(),
                message: format!("cannot make an offer: {error}"),
                from: None,
            }),
        }
    }

    async fn send(&mut self, message: &ToRoom) {
        self.send_text(message.text()).await;
    }

    async fn send_text(&mut self, text: String) {
        if let Some(room) = &mut self.room
            && let Err(error) = room.send(text).await
        {
            tracing::debug!(%error, "the room server is gone");
        }
    }

    async fn handle_room(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(FromRoom::DeviceJoined { instance }) => {
                if self.seen.borrow().runs_with(&instance) {
                    self.seen.send_modify(|seen| seen.device = Some(instance));
                } else {
                    self.meet(instance).await;
                }
            }
            Ok(FromRoom::DeviceLeft) => self.seen.send_modify(|seen| seen.device = None),
            Ok(FromRoom::Answer { answer }) => self.handle_answer(answer.sdp).await,
            Ok(FromRoom::Candidate {
                candidate: Some(candidate),
            }) => self.handle_candidate(candidate).await,
            Ok(FromRoom::Error(refusal)) => self.refuse(refusal),
            Ok(FromRoom::Candidate { candidate: None } | FromRoom::Joined { .. })
            | Ok(FromRoom::Connected | FromRoom::Ended | FromRoom::Unknown)
            | Err(_) => {}
        }
    }

    async fn handle_answer(&mut self, sdp: String) {
        let Some(peer) = &self.peer else { return };
        let candidates = candidates_in(&sdp);
        match peer.answer(sdp).await {
            Ok(()) => {
                let now = clock::now();
                self.seen.send_modify(|seen| {
                    seen.answered = Some(now);
                    for candidate in candidates {
                        keep(&mut seen.remote_candidates, candidate);
                    }
                });
            }
            Err(error) => self.refuse(Refusal {
                code: "bad-answer".to_owned(),
                message: format!("the device's answer cannot be used: {error}"),
                from: None,
            }),
        }
    }

    async fn handle_candidate(&self, candidate: CandidateInit) {
        let Some(peer) = &self.peer else { return };
        if let Some(summary) = summary(&candidate.candidate) {
            self.seen
                .send_modify(|seen| keep(&mut seen.remote_candidates, summary));
        }
        if let Err(error) = peer.add_candidate(candidate).await {
            tracing::debug!(%error, "left out a candidate of the device");
        }
    }

    async fn handle_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Candidate(candidate) => {
                let ours = candidate.as_ref().and_then(|c| summary(&c.candidate));
                if let Some(summary) = ours {
                    self.seen
                        .send_modify(|seen| keep(&mut seen.local_candidates, summary));
                }
                self.send(&ToRoom::Candidate { candidate }).await;
            }
            PeerEvent::Connection(connection) => {
                let now = clock::now();
                self.seen.send_modify(|seen| {
                    seen.connection = connection;
                    if connection == Connection::Connected {
                        seen.connected.get_or_insert(now);
                    }
                });
            }
            PeerEvent::Video(track) => self.video = Some(track),
            PeerEvent::ControlOpen => {
                let now = clock::now();
                self.seen.send_modify(|seen| seen.control_open = Some(now));
            }
            PeerEvent::ControlClosed => {
                self.pending.clear();
                self.seen.send_modify(|seen| {
                    seen.control_open = None;
                    // All that the crate says when the device closes DTLS: the connection's state
                    // stays as it is until ICE misses the device, half a minute later.
                    seen.connection = Connection::Closed;
                });
            }
            PeerEvent::Control(text) => self.handle_control(&text),
            PeerEvent::Piece(piece) => self.seen.send_modify(|seen| seen.handle_piece(&piece)),
        }
    }

    fn handle_control(&mut self, text: &str) {
        match FromDevice::parse(text) {
            FromDevice::State(state) => self.seen.send_modify(|seen| {
                seen.state = Some(state);
                seen.states += 1;
            }),
            FromDevice::Controls { are_all, controls } => self
                .seen
                .send_modify(|seen| seen.handle_controls(are_all, controls)),
            FromDevice::Reply(reply) if reply.snapshot.is_some() => {
                self.seen.send_modify(|seen| seen.file.clear());
                self.handle_reply(reply);
            }
            FromDevice::Reply(reply) => self.handle_reply(reply),
            FromDevice::TalkingEnded(refusal) => {
                self.seen
                    .send_modify(|seen| seen.talking_ended = Some(refusal));
            }
            FromDevice::Unknown => tracing::debug!("passed over a control message"),
        }
    }

    fn handle_reply(&mut self, reply: Reply) {
        match reply.id.and_then(|id| self.pending.remove(&id)) {
            Some(waiting) => {
                if waiting.send(reply).is_err() {
                    tracing::debug!("nobody waits for this reply any more");
                }
            }
            None => self.seen.send_modify(|seen| keep(&mut seen.replies, reply)),
        }
    }

    async fn handle_media(&mut self, media: Media) {
        match media {
            Media::Audio(packet) => {
                self.tally.audio(&packet);
                // full: the packet is lost to who asked for sound
                if let Some(Err(_)) = self.wishes.sound.as_ref().map(|s| s.try_send(packet)) {
                    tracing::debug!("nobody took a packet of sound");
                }
            }
            Media::Reported(of_picture, clock) => self.seen.send_modify(|seen| {
                let told = if of_picture {
                    &mut seen.picture_clock
                } else {
                    &mut seen.sound_clock
                };
                *told = Some(clock);
            }),
            Media::Video(packet) => {
                let now = packet.arrived;
                for frame in self.tally.video(packet) {
                    // full: the frame is lost to who asked for frames
                    if let Some(Err(_)) = self.wishes.frames.as_ref().map(|f| f.try_send(frame)) {
                        tracing::debug!("nobody took a frame");
                    }
                }
                self.repair(now).await;
            }
        }
        let counts = self.tally.counts().clone();
        self.seen.send_modify(|seen| seen.counts = counts);
    }

    /// Asks for a keyframe when frames were incomplete, as every decoder has to.
    async fn repair(&mut self, now: Instant) {
        let incomplete = self.tally.counts().incomplete;
        let is_due = self
            .keyframe_requested
            .is_none_or(|at| now.saturating_duration_since(at) >= KEYFRAME_REQUEST_INTERVAL);
        if incomplete > self.incomplete && is_due {
            self.incomplete = incomplete;
            self.keyframe_requested = Some(now);
            self.request_keyframe().await;
        }
    }

    async fn request_keyframe(&self) {
        if let Some(video) = &self.video
            && let Err(error) = video.request_keyframe().await
        {
            tracing::debug!(%error, "cannot ask for a keyframe");
        }
    }

    async fn handle_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Command(command, reply) => {
                let id = self.next_id;
                self.next_id = self.next_id.wrapping_add(1);
                self.pending.retain(|_, waiting| !waiting.is_closed());
                self.pending.insert(id, reply);
                if !self.send_control(&command.text(id)).await {
                    self.pending.remove(&id);
                }
            }
            Ask::Say(packet, samples) => {
                if let Some(peer) = &mut self.peer
                    && let Err(error) = peer.say(packet, samples).await
                {
                    tracing::debug!(%error, "could not say a packet");
                }
            }
            Ask::ControlText(text) => {
                self.send_control(&text).await;
            }
            Ask::RoomText(text) => self.send_text(text).await,
            Ask::Keyframe => self.request_keyframe().await,
        }
    }

    /// Returns whether there was a channel to send on.
    async fn send_control(&self, text: &str) -> bool {
        let Some(peer) = &self.peer else { return false };
        match peer.send_control(text).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "no control channel");
                false
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        self.seen
            .send_modify(|seen| keep(&mut seen.refusals, refusal));
    }
}
