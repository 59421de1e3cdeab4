//! What wakes the engine: the next thing that happened, or the next timer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::broadcast;

use super::session::Session;
use super::{Engine, HEARTBEAT, turn};
use crate::clock;
use crate::control::camera::Answer;
use crate::rtp::{AudioFrame, VideoFrame};
use crate::signaling::{RoomEvent, RoomIndex};
use crate::talkback::player::Failure;

/// One thing that woke the engine.
pub(super) enum Input {
    Video(Arc<VideoFrame>),
    VideoLost(u64),
    Audio(Arc<AudioFrame>),
    AudioLost,
    Room(RoomIndex, RoomEvent),
    Datagrams,
    Reflexive(SocketAddr),
    Relay(turn::Incoming),
    Talkback(Failure),
    Options,
    Status,
    Camera(Answer),
    Controls,
    Timer,
    Stop,
}

impl Engine {
    /// Waits for the next input. Frames first: they are what viewers wait for. Datagrams behind the
    /// room: anyone can send those.
    pub(super) async fn next_input(&mut self) -> Input {
        let wake_at = self.next_timer(clock::now());
        let channels = &mut self.channels;
        tokio::select! {
            biased;
            stop = channels.shutdown.wait_for(|stop| *stop) => {
                drop(stop);
                Input::Stop
            }
            frame = channels.video.recv() => match frame {
                Ok(frame) => Input::Video(frame),
                Err(broadcast::error::RecvError::Lagged(missed)) => Input::VideoLost(missed),
                Err(broadcast::error::RecvError::Closed) => Input::Stop,
            },
            frame = channels.audio.recv() => match frame {
                Ok(frame) => Input::Audio(frame),
                Err(broadcast::error::RecvError::Lagged(_)) => Input::AudioLost,
                Err(broadcast::error::RecvError::Closed) => Input::Stop,
            },
            changed = channels.options.changed() => changed.map_or(Input::Stop, |()| Input::Options),
            event = channels.events.recv() => {
                event.map_or(Input::Stop, |(room, event)| Input::Room(room, event))
            }
            ready = self.network.port.ready() => {
                if let Err(error) = ready {
                    tracing::warn!(%error, "the media port failed");
                }
                Input::Datagrams
            }
            changed = channels.video_status.changed() => {
                changed.map_or(Input::Stop, |()| Input::Status)
            }
            changed = channels.audio_status.changed() => {
                changed.map_or(Input::Stop, |()| Input::Status)
            }
            Some(failure) = channels.player.failures.recv() => Input::Talkback(failure),
            answer = channels.camera.answers.recv() => answer.map_or(Input::Stop, Input::Camera),
            changed = channels.camera.controls.changed() => {
                changed.map_or(Input::Stop, |()| Input::Controls)
            }
            incoming = self.network.turn.next() => Input::Relay(incoming),
            address = self.reflexive.next() => Input::Reflexive(address),
            () = tokio::time::sleep_until(wake_at.into()) => Input::Timer,
        }
    }

    pub(super) fn next_timer(&mut self, now: Instant) -> Instant {
        let heartbeat = self.channels.pulse.borrow().at + HEARTBEAT;
        self.sessions
            .values()
            .filter_map(Session::timeout)
            .chain(self.demand.poll_timeout())
            .chain(self.floor.poll_timeout(now))
            .chain(self.keyframes.poll_timeout())
            .chain(self.reflexive.poll_timeout())
            .chain(self.network.turn.relays.poll_timeout())
            .chain(self.waiting.iter().map(|waiting| waiting.until))
            .chain([heartbeat])
            .min()
            .unwrap_or(heartbeat)
    }

    pub(super) fn handle_timers(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if session.timeout().is_some_and(|at| at <= now) {
                session.with(|viewer| viewer.handle_timeout(now));
            }
        }
        if !self.waiting.is_empty() {
            self.handle_waiting(now);
        }
        self.handle_talk_timers(now);
        for (server, request) in self.reflexive.poll_requests(now) {
            let anywhere = Ipv4Addr::UNSPECIFIED.into();
            let port = &mut self.network.port;
            port.send(anywhere, server, request.len(), &request);
        }
        let relays = &mut self.network.turn.relays;
        if self.roster.viewers() > 0 {
            relays.want(now);
        }
        relays.handle_timeout(now);
    }
}
