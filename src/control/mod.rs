//! What viewers may ask of the device, and the one place that holds its state.
//!
//! The wire format is in `protocol.rs` and `docs/control.md`. Pure.

use serde::Serialize;

pub mod camera;
pub mod demand;
pub mod protocol;

use protocol::Command;

/// The switches of the device. Shared by all viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceState {
    /// The camera is switched on.
    pub camera: bool,
    /// The microphone is silenced.
    pub muted: bool,
}

impl DeviceState {
    /// Returns the state after `command`.
    #[must_use]
    pub const fn after(self, command: &Command) -> Self {
        match *command {
            Command::SetCamera { on } => Self { camera: on, ..self },
            Command::SetMuted { muted } => Self { muted, ..self },
            Command::RequestKeyframe
            | Command::SetTalking { .. }
            | Command::ListControls
            | Command::SetControl { .. }
            | Command::ResetControls
            | Command::Snapshot => self,
        }
    }
}

/// What a capture thread is doing with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Closed: switched off, or nobody watches.
    Off,
    /// Being opened; nothing was delivered yet.
    Starting,
    /// Delivering.
    Live {
        /// What is captured and how.
        description: String,
    },
    /// Missing, busy or failed; tried again and again.
    Waiting {
        /// Why, in words.
        reason: String,
    },
}

/// Whether a source delivers, as viewers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It delivers.
    Live,
    /// It is being opened.
    Starting,
    /// It is missing, busy or broken, and tried again and again.
    Waiting,
    /// It is switched off, or nobody watches.
    Off,
    /// None is configured.
    None,
}

/// Who may speak, as viewers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TalkbackState {
    /// Nobody: no loudspeaker is configured.
    #[default]
    None,
    /// Whoever watches.
    Anyone,
    /// Who knows a key of its own.
    Key,
}

/// Everything that is pushed to viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The switches.
    pub device: DeviceState,
    /// How many viewers are connected.
    pub viewers: usize,
    /// Whether pictures come.
    pub video: SourceState,
    /// Whether sound comes.
    pub audio: SourceState,
    /// Why something is waited for, in words.
    pub detail: String,
    /// Who may speak.
    pub talkback: TalkbackState,
    /// How many viewers speak.
    pub talking: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: DeviceState = DeviceState {
        camera: true,
        muted: false,
    };

    #[test]
    fn two_viewers_muting_at_once_leave_the_device_muted() {
        let mute = Command::SetMuted { muted: true };
        assert!(START.after(&mute).after(&mute).muted);
    }

    #[test]
    fn switching_the_camera_leaves_the_microphone_alone() {
        let off = START.after(&Command::SetCamera { on: false });
        assert_eq!((off.camera, off.muted), (false, false));
    }
}
