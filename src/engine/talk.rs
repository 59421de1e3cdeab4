//! Viewers who speak: let through, handed to the player, stopped.

use std::time::Instant;

use super::{Engine, session_send};
use crate::config::Secret;
use crate::control::protocol;
use crate::rtp::SpeechPacket;
use crate::talkback::floor::{MAX_SPEECH, Refusal};
use crate::talkback::player::{Failure, Speech};
use crate::viewer::Viewer;
use crate::viewer::roster::SessionId;

impl Engine {
    /// A viewer presses the button, or lets it go; the reply tells it what came of it.
    pub(super) fn set_talking(
        &mut self,
        id: SessionId,
        on: bool,
        key: &Secret,
        now: Instant,
    ) -> Result<(), Refusal> {
        if !on {
            self.stop_talking(id, now);
            return Ok(());
        }
        if !self.floor.ask(id, key, now)? {
            return Ok(());
        }
        let sink = self.floor.settings().sink.clone();
        let began = Speech::Began { speaker: id, sink };
        if self.channels.player.speech.try_send(began).is_err() {
            self.floor.release(id, now);
            return Err(Refusal::Stuck);
        }
        self.let_through(id, true);
        let speaking = self.floor.speaking();
        tracing::info!(viewer = id.0, speaking, "viewer speaks");
        Ok(())
    }

    pub(super) fn handle_speech(&mut self, id: SessionId, packet: SpeechPacket, now: Instant) {
        let speech = Speech::Packet {
            speaker: id,
            packet,
        };
        // full: the loudspeaker hangs, and speaking ends
        if self.channels.player.speech.try_send(speech).is_err() {
            let refusal = Refusal::Stuck;
            self.end_all_talking(refusal.code(), &refusal.to_string(), now);
        }
    }

    pub(super) fn handle_talkback_failure(&mut self, failure: &Failure, now: Instant) {
        self.end_all_talking(Refusal::Stuck.code(), &failure.0, now);
    }

    /// Nobody speaks by a configuration that is over.
    pub(super) fn configure_talkback(&mut self, now: Instant) {
        if self.floor.configure(&self.options.talkback) {
            let message = "talkback was configured anew: speak again";
            self.end_all_talking(Refusal::Off.code(), message, now);
        }
    }

    pub(super) fn handle_talk_timers(&mut self, now: Instant) {
        for id in self.floor.overdue(now) {
            let limit = MAX_SPEECH.as_secs();
            let message = format!("you have spoken for {limit} seconds: press the button again");
            self.end_talking(id, "too-long", &message, now);
        }
    }

    /// A viewer has finished, or is gone.
    pub(super) fn stop_talking(&mut self, id: SessionId, now: Instant) {
        if !self.floor.release(id, now) {
            return;
        }
        self.let_through(id, false);
        // full: lost; the player ends a voice that says nothing for long
        drop(
            self.channels
                .player
                .speech
                .try_send(Speech::Ended { speaker: id }),
        );
        let speaking = self.floor.speaking();
        tracing::info!(viewer = id.0, speaking, "viewer stopped speaking");
    }

    fn end_all_talking(&mut self, code: &str, message: &str, now: Instant) {
        for id in self.floor.speakers() {
            self.end_talking(id, code, message, now);
        }
    }

    fn end_talking(&mut self, id: SessionId, code: &str, message: &str, now: Instant) {
        self.stop_talking(id, now);
        let told = protocol::talking_ended(code, message);
        session_send(&mut self.sessions, id, &told, now);
    }

    fn let_through(&mut self, id: SessionId, on: bool) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.with(|viewer: &mut Viewer| viewer.set_talking(on));
        }
    }
}
