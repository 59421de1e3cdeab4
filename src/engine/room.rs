//! What is said in the rooms: descriptions, candidates, refusals.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::network::Network;
use super::session::Session;
use super::{Engine, gather, random_u32};
use crate::clock;
use crate::signaling::{
    CandidateInit, IceServer, RoomEvent, RoomIndex, RoomMessage, Seat, ViewerId,
};
use crate::viewer::roster::{Admitted, Answered, SessionId};
use crate::viewer::webrtc::{Certificate, PeerError, PeerOptions};
use crate::viewer::{Viewer, offer};

/// How long a description waits for candidates that others have yet to tell us. There are viewers that
/// never learn a candidate which comes later.
pub(super) const GATHER_WAIT: Duration = Duration::from_millis(500);

/// How many descriptions wait for that.
const MAX_WAITING: usize = 64;

/// Something to be said once our candidates are known.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) until: Instant,
    seat: Seat,
    wish: Wish,
}

/// What a viewer's offer tells of it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    one_stream: bool,
    talkback: bool,
}

#[derive(Debug)]
enum Wish {
    Answer(String),
    Offer { is_present: bool },
}

impl Engine {
    pub(super) fn handle_room_event(&mut self, room: RoomIndex, event: RoomEvent, now: Instant) {
        let seat = |viewer: ViewerId| Seat { room, viewer };
        match event {
            // On its way when the room was left.
            RoomEvent::Joined { .. } | RoomEvent::IceServers(_)
                if !self.options.rooms.contains_key(&room) => {}
            RoomEvent::Joined { ice_servers } => {
                self.rooms_joined.insert(room);
                self.learn_servers(room, ice_servers, now);
            }
            RoomEvent::IceServers(ice_servers) => self.learn_servers(room, ice_servers, now),
            RoomEvent::Disconnected => {
                self.rooms_joined.remove(&room);
            }
            RoomEvent::ViewerJoined(viewer) => {
                tracing::debug!(viewer = viewer.0, "viewer entered the room");
                // Its offer comes a round trip later.
                self.network.turn.relays.want(now);
            }
            RoomEvent::StillThere(viewer) => {
                let seat = seat(viewer);
                let viewer = seat.viewer.clone();
                match self.roster.is_connected(&seat) {
                    Some(true) => self.say(room, RoomMessage::Connected { viewer }),
                    Some(false) => {}
                    None => self.say(room, RoomMessage::Ended { viewer }),
                }
            }
            RoomEvent::ViewerLeft { viewer, on_purpose } => {
                let seat = seat(viewer);
                self.waiting.retain(|waiting| waiting.seat != seat);
                for id in self.roster.handle_left(&seat, on_purpose) {
                    let watched = self.sessions.get(&id).filter(|s| s.is_connected());
                    let dropped = watched.map(Session::dropped_frames);
                    self.close(id, "left the room");
                    if let Some(dropped) = dropped {
                        self.log_gone(id, dropped);
                    }
                }
            }
            RoomEvent::Call { viewer, is_present } => {
                self.gather_first(seat(viewer), Wish::Offer { is_present }, now);
            }
            RoomEvent::Offer { viewer, sdp } => {
                self.gather_first(seat(viewer), Wish::Answer(sdp), now);
            }
            RoomEvent::Answer { viewer, sdp } => self.handle_answer(&seat(viewer), &sdp, now),
            RoomEvent::Candidate { viewer, candidate } => {
                for session in self.roster.handle_candidate(&seat(viewer), &candidate) {
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.with(|viewer| viewer.handle_candidate(&candidate));
                    }
                }
            }
        }
    }

    fn learn_servers(&mut self, room: RoomIndex, servers: Vec<IceServer>, now: Instant) {
        let reach = self.options.reach_of_room_servers();
        self.reflexive.add_servers(&servers, reach, now);
        self.handed.insert(room, servers);
        let all: Vec<IceServer> = self.handed.values().flatten().cloned().collect();
        self.network.turn.relays.handle_ice_servers(&all, now);
    }

    /// Says what has waited long enough, or everything once all candidates are known.
    pub(super) fn handle_waiting(&mut self, now: Instant) {
        let gathering = [
            self.reflexive.gathering_until(),
            self.network.turn.relays.gathering_until(),
        ];
        let is_ready = gathering.into_iter().flatten().all(|at| at <= now);
        let waiting = std::mem::take(&mut self.waiting);
        for Waiting { until, seat, wish } in waiting {
            if is_ready || until <= now {
                self.grant(&seat, wish, now);
            } else {
                self.waiting.push(Waiting { until, seat, wish });
            }
        }
    }

    fn gather_first(&mut self, seat: Seat, wish: Wish, now: Instant) {
        let until = now + GATHER_WAIT;
        self.network.turn.relays.want(now);
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(Waiting { until, seat, wish });
        } else {
            tracing::debug!(viewer = seat.viewer.0, "too many offers at once");
        }
        self.handle_waiting(now);
    }

    fn grant(&mut self, seat: &Seat, wish: Wish, now: Instant) {
        match wish {
            Wish::Answer(sdp) => self.handle_offer(seat, &sdp, now),
            Wish::Offer { is_present } => self.call(seat, is_present, now),
        }
    }

    fn handle_offer(&mut self, seat: &Seat, sdp: &str, now: Instant) {
        let summary = match offer::read(sdp) {
            Ok(summary) => summary,
            Err(error) => return self.refuse(seat, "bad-offer", error.to_string()),
        };
        let admitted = self.roster.handle_offer(seat, summary);
        let kind = Kind {
            one_stream: self.options.one_stream || !offer::is_own_page(sdp),
            talkback: self.options.talkback.is_there() && offer::can_talk(sdp),
        };
        let Some(session) = self.admit(seat, admitted, kind, now) else {
            return;
        };
        let candidates = self.candidates();
        let Some(machine) = self.sessions.get_mut(&session) else {
            return;
        };
        match machine.with(|viewer| viewer.handle_offer(sdp, &candidates, now)) {
            Some(Ok(answer)) => {
                self.described(session, &answer);
                self.hand_over_parked(session);
                let viewer = seat.viewer.clone();
                self.say(
                    seat.room,
                    RoomMessage::Answer {
                        viewer,
                        sdp: answer,
                    },
                );
            }
            Some(Err(error)) => {
                self.end(session);
                let message = format!("cannot answer the offer: {error}");
                self.refuse(seat, "bad-offer", message);
            }
            None => self.end(session),
        }
    }

    fn call(&mut self, seat: &Seat, is_present: bool, now: Instant) {
        let admitted = self.roster.handle_call(seat, is_present);
        let kind = Kind {
            one_stream: true,
            talkback: self.options.talkback.is_there(),
        };
        let Some(session) = self.admit(seat, admitted, kind, now) else {
            return;
        };
        let candidates = self.candidates();
        let Some(machine) = self.sessions.get_mut(&session) else {
            return;
        };
        match machine.with(|viewer| viewer.offer(&candidates, now)) {
            Some(Ok(offer)) => {
                self.described(session, &offer);
                let viewer = seat.viewer.clone();
                self.say(seat.room, RoomMessage::Offer { viewer, sdp: offer });
            }
            Some(Err(error)) => {
                tracing::error!(%error, "cannot make an offer");
                self.end(session);
            }
            None => self.end(session),
        }
    }

    fn handle_answer(&mut self, seat: &Seat, sdp: &str, now: Instant) {
        let summary = match offer::read(sdp) {
            Ok(summary) => summary,
            Err(error) => {
                tracing::debug!(viewer = seat.viewer.0, %error, "ignored an answer");
                return;
            }
        };
        let session = match self.roster.handle_answer(seat, summary) {
            Answered::Taken(session) => session,
            Answered::Full(session) => {
                self.close(session, "too many viewers");
                return self.refuse_full(seat);
            }
            Answered::Unasked => {
                tracing::debug!(viewer = seat.viewer.0, "ignored an answer nobody asked for");
                return;
            }
        };
        let Some(machine) = self.sessions.get_mut(&session) else {
            return;
        };
        match machine.with(|viewer| viewer.handle_answer(sdp, now)) {
            Some(Ok(())) => self.hand_over_parked(session),
            Some(Err(error)) => {
                self.end(session);
                self.refuse(
                    seat,
                    "bad-answer",
                    format!("cannot take the answer: {error}"),
                );
            }
            None => self.end(session),
        }
    }

    /// Returns the session to go on with; a new one is made, and those in its way are closed.
    fn admit(
        &mut self,
        seat: &Seat,
        admitted: Admitted,
        kind: Kind,
        now: Instant,
    ) -> Option<SessionId> {
        let session = match admitted {
            Admitted::Full => {
                self.refuse_full(seat);
                return None;
            }
            Admitted::Renegotiate(session) => return Some(session),
            Admitted::New { session, displaced } => {
                for displaced in displaced {
                    self.close(displaced, "displaced by a newer attempt");
                }
                session
            }
        };
        match self.new_viewer(kind, now) {
            Ok(machine) => {
                self.sessions
                    .insert(session, Session::new(session, machine));
            }
            Err(error) => {
                tracing::error!(%error, "cannot make a peer connection");
                self.roster.handle_ended(session);
                return None;
            }
        }
        // Made while the connection comes up, it is there when it is.
        if self.gop.frames().is_empty() {
            self.keyframes.request();
        }
        Some(session)
    }

    /// Our description is out: who knows our ICE name is this viewer.
    fn described(&mut self, session: SessionId, description: &str) {
        // One transport carries everything, so there is one name.
        if let Some(ufrag) = offer::ufrags(description).next() {
            self.demux.set_ufrag(ufrag, session);
        }
    }

    fn hand_over_parked(&mut self, session: SessionId) {
        let parked = self.roster.take_parked(session);
        if let Some(machine) = self.sessions.get_mut(&session) {
            for candidate in parked {
                machine.with(|viewer| viewer.handle_candidate(&candidate));
            }
        }
    }

    fn new_viewer(&self, kind: Kind, now: Instant) -> Result<Viewer, PeerError> {
        let Kind {
            one_stream,
            talkback,
        } = kind;
        // Our own page makes a new peer connection each time. Others may keep theirs, and take what comes with
        // a certificate they know for the association they have (RFC 8842 §5.5): it would never be up.
        let certificate = if one_stream {
            Certificate::generate()?
        } else {
            self.certificate.clone()
        };
        let options = PeerOptions {
            certificate,
            latency: self.options.webrtc.latency,
            one_stream,
            talkback,
            unix_time: clock::unix_time(),
            first_ssrc: random_u32(),
            // Our own page tries a second time, with any cryptography.
            gcm_only: !one_stream && !self.roster.has_failed(),
        };
        Viewer::new(&options, random_u32(), now)
    }

    /// Everything we know: the configured addresses, or those of this machine as they are now, what
    /// STUN servers told, and what a TURN server lends us.
    fn candidates(&self) -> Vec<String> {
        let Network {
            port,
            advertised,
            turn,
        } = &self.network;
        let addresses = if advertised.is_empty() {
            let webrtc = &self.options.webrtc;
            let interfaces = port.interfaces(&webrtc.interfaces, self.options.offer_loopback);
            interfaces.into_iter().map(|i| i.address).collect()
        } else {
            advertised.clone()
        };
        let port = port.port();
        let host = (0_u16..)
            .zip(addresses)
            .map(|(i, ip)| gather::host_candidate(SocketAddr::new(ip, port), i));
        let reflexive = self.reflexive.addresses();
        let relayed = turn.relays.current();
        host.chain(reflexive.map(|(address, i)| gather::reflexive_candidate(address, i)))
            .chain(relayed.map(gather::relayed_candidate))
            .collect()
    }

    /// A STUN server told an address of ours: viewers that are still connecting may need it.
    pub(super) fn announce_reflexive(&mut self, address: SocketAddr) {
        self.announce(&gather::reflexive_candidate(address, 0));
    }

    /// A TURN server lent us an address: the same.
    pub(super) fn announce_relayed(&mut self, address: SocketAddr) {
        let candidate = gather::relayed_candidate(address);
        for session in self.sessions.values_mut() {
            if !session.is_connected() {
                session.with(|viewer| viewer.add_local_candidate(&candidate));
            }
        }
        self.announce(&candidate);
    }

    fn announce(&self, candidate: &str) {
        let connecting: Vec<Seat> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.is_connected())
            .filter_map(|(&id, _)| self.roster.viewer_of(id).cloned())
            .collect();
        for seat in connecting {
            let message = RoomMessage::Candidate {
                viewer: seat.viewer,
                candidate: CandidateInit {
                    candidate: candidate.to_owned(),
                    sdp_mline_index: Some(0),
                    ..CandidateInit::default()
                },
            };
            self.say(seat.room, message);
        }
    }

    fn refuse_full(&mut self, seat: &Seat) {
        let max = self.options.webrtc.max_viewers;
        let message = format!("{max} viewers are watching already, which is the limit");
        self.refuse(seat, "room-full", message);
    }

    fn refuse(&mut self, seat: &Seat, code: &'static str, message: String) {
        let viewer = &seat.viewer.0;
        if self.told.is_news(&message, clock::now()) {
            tracing::info!(viewer, code, message, "viewer refused");
        } else {
            tracing::debug!(viewer, code, message, "viewer refused again");
        }
        let viewer = seat.viewer.clone();
        let refusal = RoomMessage::Error {
            viewer,
            code,
            message,
        };
        self.say(seat.room, refusal);
    }

    pub(super) fn say(&self, room: RoomIndex, message: RoomMessage) {
        let Some(messages) = self.options.rooms.get(&room) else {
            return;
        };
        // full: dropped; the link has been stuck for a hundred messages, the viewer tries again
        if messages.try_send(message).is_err() {
            tracing::warn!("could not reach the room server: a message was dropped");
        }
    }
}
