//! What is said in the room: offers and candidates in, answers, candidates and refusals out.

use std::net::SocketAddr;
use std::time::Instant;

use super::session::Session;
use super::{Engine, gather, random_u32};
use crate::signaling::{CandidateInit, RoomEvent, RoomMessage, ViewerId};
use crate::viewer::roster::Admitted;
use crate::viewer::webrtc::{PeerError, PeerOptions};
use crate::viewer::{Viewer, offer};

impl Engine {
    pub(super) fn handle_room_event(&mut self, event: RoomEvent, now: Instant) {
        match event {
            RoomEvent::Joined { ice_servers } => {
                self.in_room = true;
                self.reflexive.add_servers(&ice_servers, now);
            }
            RoomEvent::IceServers(ice_servers) => self.reflexive.add_servers(&ice_servers, now),
            RoomEvent::Disconnected => self.in_room = false,
            RoomEvent::ViewerJoined(viewer) => {
                tracing::debug!(viewer = viewer.0, "viewer entered the room");
            }
            RoomEvent::ViewerLeft { viewer, on_purpose } => {
                for session in self.roster.handle_left(&viewer, on_purpose) {
                    self.close(session, "left the room");
                }
            }
            RoomEvent::Offer { viewer, sdp } => self.handle_offer(&viewer, &sdp, now),
            RoomEvent::Answer { viewer, .. } => {
                tracing::debug!(viewer = viewer.0, "ignored an answer nobody asked for");
            }
            RoomEvent::Candidate { viewer, candidate } => {
                if let Some(session) = self.roster.handle_candidate(&viewer, &candidate)
                    && let Some(session) = self.sessions.get_mut(&session)
                {
                    session.with(|viewer| viewer.handle_candidate(&candidate));
                }
            }
        }
    }

    fn handle_offer(&mut self, viewer: &ViewerId, sdp: &str, now: Instant) {
        let summary = match offer::read(sdp) {
            Ok(summary) => summary,
            Err(error) => return self.refuse(viewer, "bad-offer", error.to_string()),
        };
        let session = match self.roster.handle_offer(viewer, summary) {
            Admitted::Full => {
                let max = self.options.webrtc.max_viewers;
                let message = format!("{max} viewers are watching already, which is the limit");
                return self.refuse(viewer, "room-full", message);
            }
            Admitted::Renegotiate(session) => session,
            Admitted::New { session, displaced } => {
                for displaced in displaced {
                    self.close(displaced, "displaced by a newer attempt");
                }
                match self.new_viewer(now) {
                    Ok(machine) => {
                        let machine = Session::new(session, machine);
                        self.sessions.insert(session, machine);
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot make a peer connection");
                        self.roster.handle_ended(session);
                        return;
                    }
                }
                session
            }
        };
        // Made while the connection comes up, it is there when it is.
        if self.gop.frames().is_empty() {
            self.keyframes.request();
        }
        let candidates = self.host_candidates();
        let Some(machine) = self.sessions.get_mut(&session) else {
            return;
        };
        let answered = machine.with(|viewer| viewer.handle_offer(sdp, &candidates, now));
        match answered {
            Some(Ok(answer)) => {
                for ufrag in offer::ufrags(&answer) {
                    self.demux.add_ufrag(ufrag, session);
                }
                for candidate in self.roster.take_parked(viewer) {
                    machine.with(|viewer| viewer.handle_candidate(&candidate));
                }
                self.say(RoomMessage::Answer {
                    viewer: viewer.clone(),
                    sdp: answer,
                });
                for (address, index) in self.reflexive.addresses() {
                    self.trickle(viewer.clone(), gather::reflexive_candidate(address, index));
                }
            }
            Some(Err(error)) => {
                self.end(session);
                self.refuse(
                    viewer,
                    "bad-offer",
                    format!("cannot answer the offer: {error}"),
                );
            }
            None => self.end(session),
        }
    }

    fn new_viewer(&self, now: Instant) -> Result<Viewer, PeerError> {
        let options = PeerOptions {
            certificate: self.certificate.clone(),
            latency: self.options.webrtc.latency,
            first_ssrc: random_u32(),
            gcm_only: !self.roster.has_failed(),
        };
        Viewer::new(&options, random_u32(), now)
    }

    /// The configured addresses, or those of this machine as they are now.
    fn host_candidates(&self) -> Vec<String> {
        let addresses = if self.advertised.is_empty() {
            let webrtc = &self.options.webrtc;
            let interfaces = self
                .port
                .interfaces(&webrtc.interfaces, self.options.offer_loopback);
            interfaces.into_iter().map(|i| i.address).collect()
        } else {
            self.advertised.clone()
        };
        let port = self.port.port();
        (0_u16..)
            .zip(addresses)
            .map(|(i, ip)| gather::host_candidate(SocketAddr::new(ip, port), i))
            .collect()
    }

    /// A STUN server told an address of ours: viewers that are still connecting may need it.
    pub(super) fn announce_reflexive(&mut self, address: SocketAddr) {
        let candidate = gather::reflexive_candidate(address, 0);
        let connecting: Vec<ViewerId> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.is_connected())
            .filter_map(|(&id, _)| self.roster.viewer_of(id).cloned())
            .collect();
        for viewer in connecting {
            self.trickle(viewer, candidate.clone());
        }
    }

    fn trickle(&self, viewer: ViewerId, candidate: String) {
        self.say(RoomMessage::Candidate {
            viewer,
            candidate: CandidateInit {
                candidate,
                sdp_mline_index: Some(0),
                ..CandidateInit::default()
            },
        });
    }

    fn refuse(&self, viewer: &ViewerId, code: &'static str, message: String) {
        tracing::info!(viewer = viewer.0, code, message, "viewer refused");
        self.say(RoomMessage::Error {
            viewer: viewer.clone(),
            code,
            message,
        });
    }

    fn say(&self, message: RoomMessage) {
        // full: dropped; the link has been stuck for a hundred messages, the viewer tries again
        if self.channels.messages.try_send(message).is_err() {
            tracing::warn!("could not reach the room server: a message was dropped");
        }
    }
}
