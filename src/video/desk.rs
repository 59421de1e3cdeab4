//! Where viewers' questions reach the open camera: its controls, and snapshots.
//!
//! The camera's thread looks in between two pictures, and never waits here. What was set is remembered
//! for each camera as long as the process runs, and set again when that camera comes back. Snapshots
//! become files on a thread of the runtime's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::still::Still;
use super::{AccessUnit, VideoSource};
use crate::control::camera::{
    Answer, Ask, Control, ControlId, ControlKind, Outcome, Refusal, Task, find,
};
use crate::rtp::VideoFrame;
use crate::rtp::h264::Packetizer;

/// Questions that wait for the camera's next picture. A page that is being dragged on asks ten times a
/// second.
const MAX_ASKS: usize = 64;

/// Cameras whose settings are remembered: more are rarely plugged into one device.
const MAX_REMEMBERED: usize = 8;

/// How long a camera that makes its own H.264 may take for the keyframe that a snapshot is made of.
const KEYFRAME_WITHIN: Duration = Duration::from_secs(3);

/// The engine's ends.
#[derive(Debug)]
pub struct Client {
    /// What viewers ask.
    pub asks: mpsc::Sender<Ask>,
    /// What became of it.
    pub answers: mpsc::Receiver<Answer>,
    /// The controls of the open camera, as they change.
    pub controls: watch::Receiver<Vec<Control>>,
}

/// The camera's ends.
#[derive(Debug)]
pub struct Desk {
    asks: mpsc::Receiver<Ask>,
    answers: mpsc::Sender<Answer>,
    controls: watch::Sender<Vec<Control>>,
    remembered: Remembered,
    snapshot: Option<(Ask, Wait)>,
}

/// What a snapshot waits for.
#[derive(Debug)]
enum Wait {
    /// The source keeps its next picture.
    Picture,
    /// The next keyframe, until then.
    Keyframe(Instant),
}

/// Returns both ends.
#[must_use]
pub fn desk() -> (Desk, Client) {
    // full: the viewer is told to ask again
    let (asks_in, asks) = mpsc::channel(MAX_ASKS);
    // full: awaits, or the answer is lost, and the viewer stops waiting for it
    let (answers, answers_out) = mpsc::channel(MAX_ASKS);
    let (controls, controls_out) = watch::channel(Vec::new());
    let desk = Desk {
        asks,
        answers,
        controls,
        remembered: Remembered::default(),
        snapshot: None,
    };
    let client = Client {
        asks: asks_in,
        answers: answers_out,
        controls: controls_out,
    };
    (desk, client)
}

impl Desk {
    /// A camera was opened: it gets back what was set before.
    pub(super) fn restore(&mut self, source: &mut dyn VideoSource) {
        let camera = source.identity();
        for (control, value) in self.remembered.of(&camera) {
            // What another governs would have no effect; some cameras stumble over it.
            let can_be_set = source.control(control).is_some_and(|c| c.can_be_reset());
            if can_be_set && let Err(reason) = source.set_control(control, value) {
                tracing::debug!(camera, %control, value, reason, "a setting was not restored");
            }
        }
    }

    /// The camera delivers: everybody learns what can be set.
    pub(super) fn publish(&self, source: &dyn VideoSource) {
        self.tell(source.controls());
    }

    /// The camera is closed: nothing can be set, and nobody is kept waiting.
    pub(super) fn close(&mut self) {
        if let Some((ask, _)) = self.snapshot.take() {
            self.answer(ask, Err(Refusal::no_camera()));
        }
        self.refuse_all();
        self.tell(Vec::new());
    }

    /// Answers for a camera that is not there.
    pub(super) fn refuse_all(&mut self) {
        while let Ok(ask) = self.asks.try_recv() {
            self.refuse(ask);
        }
    }

    /// Waits for somebody who asks for a camera that is not there; answers.
    pub(super) async fn wait_and_refuse(&mut self) {
        match self.asks.recv().await {
            Some(ask) => self.refuse(ask),
            None => std::future::pending().await,
        }
    }

    fn refuse(&self, ask: Ask) {
        self.answer(
            ask,
            match ask.task {
                Task::List => Ok(Outcome::Controls(Vec::new())),
                Task::Set { .. } | Task::Reset | Task::Snapshot => Err(Refusal::no_camera()),
            },
        );
    }

    /// Does what was asked for since the last picture.
    pub(super) fn serve(&mut self, source: &mut dyn VideoSource, runtime: &Handle, now: Instant) {
        while let Ok(ask) = self.asks.try_recv() {
            match ask.task {
                Task::List => {
                    let controls = source.controls();
                    self.tell(controls.clone());
                    self.answer(ask, Ok(Outcome::Controls(controls)));
                }
                Task::Set { control, value } => {
                    let set = self.set(source, control, value);
                    self.answer(ask, set.map(Outcome::Set));
                }
                Task::Reset => {
                    self.reset(source);
                    self.answer(ask, Ok(Outcome::Reset));
                }
                Task::Snapshot if self.snapshot.is_some() => {
                    self.answer(ask, Err(Refusal::busy()));
                }
                Task::Snapshot => {
                    let wait = if source.keep_next_picture() {
                        Wait::Picture
                    } else {
                        source.request_keyframe();
                        Wait::Keyframe(now + KEYFRAME_WITHIN)
                    };
                    self.snapshot = Some((ask, wait));
                }
            }
        }
        match self.snapshot {
            Some((ask, Wait::Picture)) => {
                if let Some(still) = source.take_picture() {
                    self.snapshot = None;
                    self.make_file(ask, still, runtime);
                }
            }
            Some((ask, Wait::Keyframe(until))) if until <= now => {
                self.snapshot = None;
                let within = KEYFRAME_WITHIN.as_secs();
                let message = format!(
                    "this camera encodes by itself and made no whole picture within {within} s"
                );
                self.answer(ask, Err(Refusal::new("unsupported", message)));
            }
            _ => {}
        }
    }

    /// Sees what goes to the viewers: a snapshot may wait for it.
    pub(super) fn handle_frame(
        &mut self,
        frame: &VideoFrame,
        unit: &AccessUnit,
        packetizer: &Packetizer,
        runtime: &Handle,
    ) {
        if let Some((ask, Wait::Keyframe(_))) = self.snapshot
            && frame.is_keyframe
        {
            self.snapshot = None;
            let keyframe = packetizer.with_parameter_sets(&unit.data);
            self.make_file(ask, Still::Keyframe(keyframe), runtime);
        }
    }

    fn set(
        &mut self,
        source: &mut dyn VideoSource,
        id: ControlId,
        value: i64,
    ) -> Result<i32, Refusal> {
        let controls = self.controls.borrow().clone();
        let known = find(&controls, id)?;
        let legal = known.check(value)?;
        let failed = |reason| Refusal::new("failed", format!("the camera refused {id}: {reason}"));
        source.set_control(id, legal).map_err(failed)?;
        // What a switch governs becomes active or inactive with it, and may have another value.
        if known.kind == ControlKind::Integer {
            let settled = source.control(id);
            let settled = settled.into_iter().collect::<Vec<_>>();
            let new = |old: Control| {
                settled
                    .iter()
                    .find(|c| c.id == old.id)
                    .cloned()
                    .unwrap_or(old)
            };
            self.tell(controls.into_iter().map(new).collect());
        } else {
            self.tell(source.controls());
        }
        let settled = self
            .controls
            .borrow()
            .iter()
            .find(|c| c.id == id)
            .map(|c| c.value);
        let settled = settled.unwrap_or(legal);
        if self.kind(id) != Some(ControlKind::Button) {
            self.remembered.keep(source.identity(), id, settled);
        }
        Ok(settled)
    }

    fn reset(&mut self, source: &mut dyn VideoSource) {
        self.remembered.forget(&source.identity());
        let ids: Vec<_> = self.controls.borrow().iter().map(|c| c.id).collect();
        for id in ids {
            // Read again each time: one that was set before may have made it inactive.
            let Some(control) = source.control(id).filter(Control::can_be_reset) else {
                continue;
            };
            if control.value != control.default
                && let Err(reason) = source.set_control(id, control.default)
            {
                tracing::debug!(%id, reason, "a setting was not reset");
            }
        }
        self.tell(source.controls());
    }

    fn kind(&self, id: ControlId) -> Option<ControlKind> {
        let controls = self.controls.borrow();
        controls.iter().find(|c| c.id == id).map(|c| c.kind)
    }

    fn make_file(&self, ask: Ask, still: Still, runtime: &Handle) {
        let answers = self.answers.clone();
        // Not waited for: its last act is to answer, and the process may end without it.
        drop(runtime.spawn_blocking(move || {
            let outcome = still.into_snapshot().map(Outcome::Snapshot);
            let outcome = outcome.map_err(|reason| {
                Refusal::new("unsupported", format!("no file can be made: {reason}"))
            });
            let answer = Answer { to: ask, outcome };
            if answers.blocking_send(answer).is_err() {
                tracing::debug!("nobody takes a snapshot any more");
            }
        }));
    }

    fn tell(&self, controls: Vec<Control>) {
        self.controls.send_if_modified(|told| {
            let changed = *told != controls;
            *told = controls;
            changed
        });
    }

    fn answer(&self, to: Ask, outcome: Result<Outcome, Refusal>) {
        if self.answers.try_send(Answer { to, outcome }).is_err() {
            tracing::debug!("an answer of the camera was lost");
        }
    }
}

/// What was set, for each camera; the one that was set last is behind.
#[derive(Debug, Default)]
struct Remembered(Vec<(String, BTreeMap<ControlId, i32>)>);

impl Remembered {
    fn of(&self, camera: &str) -> BTreeMap<ControlId, i32> {
        let found = self.0.iter().find(|(name, _)| name == camera);
        found.map(|(_, values)| values.clone()).unwrap_or_default()
    }

    fn keep(&mut self, camera: String, control: ControlId, value: i32) {
        let mut values = self.of(&camera);
        values.insert(control, value);
        self.forget(&camera);
        if self.0.len() == MAX_REMEMBERED {
            self.0.remove(0);
        }
        self.0.push((camera, values));
    }

    fn forget(&mut self, camera: &str) {
        self.0.retain(|(name, _)| name != camera);
    }
}

#[cfg(test)]
mod tests;
