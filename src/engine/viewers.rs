//! What viewers do: they come, ask for something, and go.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Engine;
use super::session::Session;
use crate::clock;
use crate::control::DeviceState;
use crate::control::protocol::{self, Command};
use crate::signaling::{RoomMessage, Seat};
use crate::viewer::roster::SessionId;
use crate::viewer::{Ended, Viewer, ViewerEvent};

impl Engine {
    /// Lets every machine speak until nothing more comes of it.
    pub(super) fn settle(&mut self, now: Instant) {
        let mut events = Vec::new();
        for session in self.sessions.values_mut() {
            session.drain(&mut events);
        }
        self.transmit(now);
        for (session, event) in events {
            self.handle_viewer_event(session, event, now);
        }
        self.publish(now);
        // Replies, state and the frames of a newcomer.
        self.transmit(now);
        if let Some(address) = self.network.turn.settle(now) {
            self.announce_relayed(address);
        }
    }

    pub(super) fn handle_viewer_event(&mut self, id: SessionId, event: ViewerEvent, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match event {
            ViewerEvent::Connected => {
                session.with(|viewer| viewer.start_with(self.gop.frames(), now));
                if self.gop.frames().is_empty() {
                    self.keyframes.request();
                }
                for sibling in self.roster.handle_connected(id) {
                    self.close(sibling, "a newer connection is up");
                }
                let viewers = self.roster.connected_viewers();
                tracing::info!(viewer = id.0, viewers, "viewer connected");
                if let Some(seat) = self.roster.viewer_of(id).cloned() {
                    let viewer = seat.viewer;
                    self.say(seat.room, RoomMessage::Connected { viewer });
                }
            }
            ViewerEvent::Stuck => self.explain(id, now),
            ViewerEvent::ControlOpen => {
                let state = protocol::state(&self.report());
                session_send(&mut self.sessions, id, &state, now);
                self.tell_controls(id, now);
            }
            ViewerEvent::Command {
                id: request,
                command,
            } if command.camera_task().is_some() => self.ask_camera(id, request, command, now),
            ViewerEvent::Command {
                id: request,
                command,
            } => {
                let outcome = match &command {
                    Command::SetTalking { on, key } => self.set_talking(id, *on, key, now),
                    command => {
                        self.apply(command);
                        Ok(())
                    }
                };
                let reply = match outcome {
                    Ok(()) => protocol::accepted(request),
                    Err(refusal) => {
                        tracing::debug!(viewer = id.0, %refusal, "viewer may not speak");
                        protocol::refused(request, refusal.code(), &refusal.to_string())
                    }
                };
                session_send(&mut self.sessions, id, &reply, now);
            }
            ViewerEvent::Speech(packet) => self.handle_speech(id, packet, now),
            ViewerEvent::KeyframeWanted => self.keyframes.request(),
            ViewerEvent::Ended(reason) => {
                if reason == Ended::Failed {
                    self.roster.handle_failed();
                }
                let dropped = session.dropped_frames();
                if matches!(reason, Ended::NeverConnected | Ended::Failed) {
                    self.explain(id, now);
                }
                self.end(id);
                match reason {
                    Ended::Gone => self.log_gone(id, dropped),
                    Ended::NeverAnswered => {
                        tracing::debug!(viewer = id.0, "nobody took our offer");
                    }
                    Ended::NeverConnected | Ended::Failed => {
                        tracing::debug!(viewer = id.0, "gave up connecting");
                    }
                }
            }
        }
    }

    pub(super) fn apply(&mut self, command: &Command) {
        if *command == Command::RequestKeyframe {
            self.keyframes.request();
        }
        let before = self.device;
        self.device = before.after(command);
        if self.device != before {
            let DeviceState { camera, muted } = self.device;
            tracing::info!(camera, muted, "device switched");
        }
        if self.device.camera {
            self.off_since = None;
        } else if before.camera {
            self.off_since = Some(clock::unix_time());
            self.gop.clear();
            for session in self.sessions.values_mut() {
                session.with(Viewer::stop_video);
            }
        }
    }

    pub(super) fn log_gone(&self, id: SessionId, dropped: u64) {
        let viewers = self.roster.connected_viewers();
        tracing::info!(viewer = id.0, viewers, dropped, "viewer gone");
    }

    /// Closes a session that the roster has let go of already.
    pub(super) fn close(&mut self, id: SessionId, why: &'static str) {
        let now = clock::now();
        if let Some(session) = self.sessions.get_mut(&id) {
            tracing::debug!(viewer = id.0, why, "session closed");
            session.with(Viewer::close);
            session.transmit(&mut self.network, now, |_, _| {});
        }
        self.end(id);
    }

    pub(super) fn end(&mut self, id: SessionId) {
        let now = clock::now();
        self.stop_talking(id, now);
        self.floor.forget(id, now);
        let seat = self.roster.handle_ended(id);
        if let Some(Seat { room, viewer }) = seat {
            self.say(room, RoomMessage::Ended { viewer });
        }
        self.demux.remove(id);
        self.sessions.remove(&id);
    }
}

pub(super) fn session_send(
    sessions: &mut BTreeMap<SessionId, Session>,
    id: SessionId,
    text: &str,
    now: Instant,
) {
    if let Some(session) = sessions.get_mut(&id) {
        session.with(|viewer| viewer.send_control(text, now));
    }
}
