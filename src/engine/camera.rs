//! What viewers ask of the open camera, on its way there; answers and changes, on their way back.

use std::time::{Duration, Instant};

use super::{Engine, session_send};
use crate::control::camera::{self, Answer, Ask, Outcome, Refusal, Task};
use crate::control::protocol::Command;
use crate::viewer::Viewer;
use crate::viewer::roster::SessionId;

/// The least time between two snapshots of the device: each is some 100 kB that leave beside the
/// pictures, and a copy that the camera's thread makes.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn ask_camera(
        &mut self,
        id: SessionId,
        request: u32,
        command: Command,
        now: Instant,
    ) {
        let Some(task) = command.camera_task() else {
            return;
        };
        if let Err(refusal) = self.try_to_ask(id, request, task, now) {
            session_send(&mut self.sessions, id, &refusal.reply(request), now);
        }
    }

    fn try_to_ask(
        &mut self,
        id: SessionId,
        request: u32,
        task: Task,
        now: Instant,
    ) -> Result<(), Refusal> {
        if task == Task::Snapshot {
            let too_soon = |last| now.saturating_duration_since(last) < SNAPSHOT_INTERVAL;
            let session = self.sessions.get_mut(&id);
            let is_receiving = session.and_then(|s| s.with(|viewer| viewer.is_receiving()));
            if self.last_snapshot.is_some_and(too_soon) || is_receiving != Some(false) {
                return Err(Refusal::busy());
            }
            self.last_snapshot = Some(now);
        }
        let ask = Ask {
            session: id.0,
            id: request,
            task,
        };
        // full: the viewer is told to ask again
        let sent = self.channels.camera.asks.try_send(ask);
        sent.map_err(|_| Refusal::busy())
    }

    pub(super) fn handle_camera_answer(&mut self, answer: &Answer, now: Instant) {
        let Ask { session, id, .. } = answer.to;
        let Some(session) = self.sessions.get_mut(&SessionId(session)) else {
            return;
        };
        let reply = match &answer.outcome {
            Ok(outcome) => outcome.reply(id),
            Err(refusal) => refusal.reply(id),
        };
        session.with(|viewer| match &answer.outcome {
            // It asked for two, the first of which took long.
            Ok(Outcome::Snapshot(_)) if viewer.is_receiving() => {
                viewer.send_control(&Refusal::busy().reply(id), now);
            }
            Ok(Outcome::Snapshot(snapshot)) => {
                viewer.send_file(&reply, snapshot.jpeg.clone(), now);
            }
            _ => viewer.send_control(&reply, now),
        });
    }

    /// The controls changed: everybody is told.
    pub(super) fn handle_controls(&mut self, now: Instant) {
        let new = self.channels.camera.controls.borrow_and_update().clone();
        let message = if camera::are_others(&self.controls, &new) {
            Some(camera::controls(&new))
        } else {
            camera::changes(&self.controls, &new)
        };
        self.controls = new;
        if let Some(message) = message {
            for session in self.sessions.values_mut() {
                session.with(|viewer: &mut Viewer| viewer.send_control(&message, now));
            }
        }
    }

    /// Tells a newcomer what can be set.
    pub(super) fn tell_controls(&mut self, id: SessionId, now: Instant) {
        if !self.controls.is_empty() {
            let message = camera::controls(&self.controls);
            session_send(&mut self.sessions, id, &message, now);
        }
    }
}
