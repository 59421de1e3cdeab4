//! The control protocol: one JSON object per data-channel message (`docs/control.md`).
//!
//! A change here is a change there. Pure: text in, [`Command`] out; state in, text out.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Report;
use super::camera::{ControlId, Task};
use crate::config::Secret;

/// Longest control message accepted, in bytes. A browser has no reason to send more.
pub const MAX_MESSAGE_BYTES: usize = 4_096;

/// Most messages one viewer may send in a second. A person presses buttons more slowly.
pub const MAX_MESSAGES_PER_SECOND: u32 = 20;

/// A command as a viewer sends it, e.g. `{"id":7,"type":"set_muted","muted":true}`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the viewer and echoed in the reply.
    pub id: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a viewer may ask of the device.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum Command {
    /// Ask the encoder for a keyframe.
    RequestKeyframe,
    /// Turn the camera on or off. Off stops the sensor; it does not send black.
    SetCamera {
        /// Whether the camera should run.
        on: bool,
    },
    /// Mute or unmute the microphone, for every viewer.
    SetMuted {
        /// Whether the microphone should be silent.
        muted: bool,
    },
    /// Play what this viewer says, from now on or no longer.
    SetTalking {
        /// Whether it speaks.
        on: bool,
        /// The key of those who may, where there is one.
        #[serde(default)]
        key: Secret,
    },
    /// Tell what can be set of the camera.
    ListControls,
    /// Set one of the camera's controls.
    SetControl {
        /// Which.
        control: ControlId,
        /// To what.
        value: i64,
    },
    /// Set all of the camera's controls to their defaults.
    ResetControls,
    /// Send the newest picture as a JPEG file.
    Snapshot,
}

impl Command {
    /// Returns what the open camera is to do, if it is the camera that is asked.
    #[must_use]
    pub const fn camera_task(&self) -> Option<Task> {
        match *self {
            Self::RequestKeyframe
            | Self::SetCamera { .. }
            | Self::SetMuted { .. }
            | Self::SetTalking { .. } => None,
            Self::ListControls => Some(Task::List),
            Self::SetControl { control, value } => Some(Task::Set { control, value }),
            Self::ResetControls => Some(Task::Reset),
            Self::Snapshot => Some(Task::Snapshot),
        }
    }
}

/// A control message that is not a command.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not a command this version knows.
    #[error("not a control command: {source}")]
    Json {
        /// The id, where one could be read.
        id: Option<u32>,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Binary.
    #[error("not a control command: control messages are text")]
    NotText,
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("control message of {bytes} bytes, at most {MAX_MESSAGE_BYTES} are accepted")]
    TooLong {
        /// How long it was.
        bytes: usize,
    },
    /// Over [`MAX_MESSAGES_PER_SECOND`].
    #[error("over {MAX_MESSAGES_PER_SECOND} messages in a second; this one was ignored")]
    TooFast,
}

impl ParseError {
    /// Returns the machine-readable code of `docs/control.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Json { .. } | Self::NotText => "bad-command",
            Self::TooLong { .. } => "too-long",
            Self::TooFast => "too-fast",
        }
    }

    /// Returns the reply that tells the viewer.
    #[must_use]
    pub fn reply(&self) -> String {
        let id = match self {
            Self::Json { id, .. } => *id,
            Self::NotText | Self::TooLong { .. } | Self::TooFast => None,
        };
        json!({"id": id, "error": {"code": self.code(), "message": self.to_string()}}).to_string()
    }
}

/// Parses one data-channel message; `None` stands for a binary one.
///
/// # Errors
///
/// [`ParseError`]. The caller sends its [`ParseError::reply`] and keeps the channel open.
pub fn parse(message: Option<&str>) -> Result<Request, ParseError> {
    let message = message.ok_or(ParseError::NotText)?;
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(ParseError::TooLong {
            bytes: message.len(),
        });
    }
    serde_json::from_str(message).map_err(|source| ParseError::Json {
        id: serde_json::from_str::<Value>(message)
            .ok()
            .and_then(|value| u32::try_from(value.get("id")?.as_u64()?).ok()),
        source,
    })
}

/// Returns the reply to an accepted command.
#[must_use]
pub fn accepted(id: u32) -> String {
    json!({"id": id, "ok": true}).to_string()
}

/// Returns the reply to a command that the device refuses.
#[must_use]
pub fn refused(id: u32, code: &str, message: &str) -> String {
    json!({"id": id, "error": {"code": code, "message": message}}).to_string()
}

/// Returns the message to a viewer who speaks and is not heard any more.
#[must_use]
pub fn talking_ended(code: &str, message: &str) -> String {
    json!({"type": "talking_ended", "code": code, "message": message}).to_string()
}

/// Returns the message that tells viewers the state.
#[must_use]
pub fn state(report: &Report) -> String {
    json!({
        "type": "state",
        "camera": report.device.camera,
        "muted": report.device.muted,
        "viewers": report.viewers,
        "video": report.video,
        "audio": report.audio,
        "detail": report.detail,
        "talkback": report.talkback,
        "talking": report.talking,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DeviceState, SourceState, TalkbackState};

    #[test]
    fn parses_the_documented_examples() {
        let parsed = |text: &str| parse(Some(text)).unwrap();
        let mute = parsed(r#"{"id":7,"type":"set_muted","muted":true}"#);
        assert_eq!(
            (mute.id, mute.command),
            (7, Command::SetMuted { muted: true })
        );
        let off = parsed(r#"{"id":8,"type":"set_camera","on":false}"#);
        assert_eq!((off.id, off.command), (8, Command::SetCamera { on: false }));
        let key = parsed(r#"{"id":9,"type":"request_keyframe"}"#);
        assert_eq!((key.id, key.command), (9, Command::RequestKeyframe));
        let talk = |on, key: &str| Command::SetTalking {
            on,
            key: Secret::new(key.to_owned()),
        };
        let speak = parsed(r#"{"id":10,"type":"set_talking","on":true}"#);
        assert_eq!((speak.id, speak.command), (10, talk(true, "")));
        let with_key = parsed(r#"{"id":11,"type":"set_talking","on":true,"key":"k"}"#);
        assert_eq!(with_key.command, talk(true, "k"));
        let set = parsed(r#"{"id":10,"type":"set_control","control":"brightness","value":140}"#);
        let task = Task::Set {
            control: ControlId::Brightness,
            value: 140,
        };
        assert_eq!((set.id, set.command.camera_task()), (10, Some(task)));
        for (name, task) in [
            ("list_controls", Task::List),
            ("reset_controls", Task::Reset),
            ("snapshot", Task::Snapshot),
        ] {
            let message = format!(r#"{{"id":11,"type":"{name}"}}"#);
            assert_eq!(parsed(&message).command.camera_task(), Some(task));
        }
    }

    #[test]
    fn a_control_that_nobody_knows_is_refused_with_those_that_there_are() {
        let message = r#"{"id":3,"type":"set_control","control":"secret","value":1}"#;
        let reply = parse(Some(message)).unwrap_err().reply();
        assert!(reply.contains("unknown variant `secret`"), "{reply}");
        assert!(reply.contains("`brightness`"), "{reply}");
    }

    #[test]
    fn says_what_is_not_a_command_and_for_which_id() {
        for (message, reply) in [
            ("", r#"{"error":{"code":"bad-command""#),
            ("null", r#"{"error":{"code":"bad-command""#),
            (r#"{"id":1}"#, r#"{"error":{"code":"bad-command""#),
            (r#"{"id":-1,"type":"set_camera","on":true}"#, r#"{"error""#),
            (
                r#"{"id":3,"type":"set_muted","muted":"yes"}"#,
                r#"{"error""#,
            ),
        ] {
            let error = parse(Some(message)).unwrap_err();
            assert!(error.reply().starts_with(reply), "{}", error.reply());
        }
        let unknown = parse(Some(r#"{"id":5,"type":"reboot"}"#)).unwrap_err();
        assert!(
            unknown.reply().ends_with(r#""id":5}"#),
            "{}",
            unknown.reply()
        );
        assert!(parse(None).unwrap_err().reply().contains("are text"));
        let long = " ".repeat(MAX_MESSAGE_BYTES + 1);
        assert_eq!(parse(Some(&long)).unwrap_err().code(), "too-long");
    }

    #[test]
    fn deeply_nested_json_is_refused() {
        let deep = "[".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(parse(Some(&deep)).unwrap_err().code(), "bad-command");
    }

    #[test]
    fn the_state_is_what_the_documentation_shows() {
        let report = Report {
            device: DeviceState {
                camera: true,
                muted: false,
            },
            viewers: 2,
            video: SourceState::Live,
            audio: SourceState::Live,
            detail: String::new(),
            talkback: TalkbackState::Anyone,
            talking: 1,
        };
        let expected = json!({"type":"state","camera":true,"muted":false,"viewers":2,
            "video":"live","audio":"live","detail":"",
            "talkback":"anyone","talking":1});
        assert_eq!(state(&report).parse::<Value>().unwrap(), expected);
    }
}
