//! The viewer's side of `docs/signaling.md` and `docs/control.md`: texts to values and back.
//!
//! Pure. Unknown fields and types are passed over, as both documents ask.

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::signaling::{CandidateInit, IceServer};

/// The version of the signaling protocol that is spoken.
const PROTOCOL: u32 = 1;

/// A session description (`RTCSessionDescriptionInit`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Description {
    /// `offer` or `answer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The description.
    pub sdp: String,
}

/// What a viewer says in the room.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToRoom {
    /// The first message.
    Join {
        /// The version.
        protocol: u32,
        /// `viewer`.
        role: &'static str,
        /// Which room.
        room: String,
        /// Its key.
        key: String,
    },
    /// Asks the device for its tracks.
    Offer {
        /// The description.
        offer: Description,
    },
    /// One of our candidates; `None` ends them.
    Candidate {
        /// The candidate.
        candidate: Option<CandidateInit>,
    },
    /// The last message.
    Bye,
}

impl ToRoom {
    /// Asks to be let in.
    #[must_use]
    pub const fn join(room: String, key: String) -> Self {
        Self::Join {
            protocol: PROTOCOL,
            role: "viewer",
            room,
            key,
        }
    }

    /// Returns the text that goes over the wire.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a viewer hears in the room.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromRoom {
    /// We are in.
    Joined {
        /// STUN and TURN servers.
        #[serde(default)]
        ice_servers: Vec<IceServer>,
        /// The device's instance; `None` while there is no device.
        device: Option<String>,
    },
    /// The device came, or came back.
    DeviceJoined {
        /// Its instance.
        instance: String,
    },
    /// The device's connection to the room ended.
    DeviceLeft,
    /// The device's answer.
    Answer {
        /// The description.
        answer: Description,
    },
    /// One of the device's candidates; `None` or an empty text ends them.
    Candidate {
        /// The candidate.
        candidate: Option<CandidateInit>,
    },
    /// Our peer connection is up, says the device.
    Connected,
    /// Our last peer connection is over, says the device.
    Ended,
    /// Something was refused.
    Error(Refusal),
    /// Something of a later version.
    #[serde(other)]
    Unknown,
}

/// A refusal, by the room server or by the device.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Refusal {
    /// One of the codes of `docs/signaling.md`.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// `device` where the device refused; otherwise the room server did.
    #[serde(default)]
    pub from: Option<String>,
}

/// What a viewer may ask of the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// Silences the microphone for everyone, or ends that.
    SetMuted {
        /// Silenced.
        muted: bool,
    },
    /// Opens or closes the camera for everyone.
    SetCamera {
        /// Open.
        on: bool,
    },
    /// Asks for a picture that a decoder can start at.
    RequestKeyframe,
    /// Asks what can be set of the camera.
    ListControls,
    /// Sets one of the camera's controls.
    SetControl {
        /// Its id.
        control: &'static str,
        /// The value.
        value: i64,
    },
    /// Sets all of them to their defaults.
    ResetControls,
    /// Asks for the newest picture as a file.
    Snapshot,
}

impl Command {
    /// Returns the text that goes over the control channel.
    #[must_use]
    pub fn text(self, id: u32) -> String {
        #[derive(Serialize)]
        struct Numbered {
            id: u32,
            #[serde(flatten)]
            command: Command,
        }
        serde_json::to_string(&Numbered { id, command: self }).unwrap_or_default()
    }
}

/// A command, with what not all who hold one may see.
#[derive(Debug)]
pub(super) enum Asked {
    Command(Command),
    /// Asks to speak, or ends that.
    Talking {
        on: bool,
        key: Secret,
    },
}

impl Asked {
    /// Returns the text that goes over the control channel.
    pub(super) fn text(&self, id: u32) -> String {
        #[derive(Serialize)]
        struct Talking<'a> {
            id: u32,
            #[serde(rename = "type")]
            kind: &'static str,
            on: bool,
            #[serde(skip_serializing_if = "str::is_empty")]
            key: &'a str,
        }
        match self {
            Self::Command(command) => command.text(id),
            Self::Talking { on, key } => serde_json::to_string(&Talking {
                id,
                kind: "set_talking",
                on: *on,
                key: key.expose(),
            })
            .unwrap_or_default(),
        }
    }
}

/// What a viewer hears on the control channel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FromDevice {
    /// The answer to a command.
    Reply(Reply),
    /// How the device is.
    State(DeviceState),
    /// What can be set of the camera: all of it, or what changed.
    Controls {
        /// Whether these are all.
        are_all: bool,
        /// The controls.
        controls: Vec<Setting>,
    },
    /// We are not heard any more.
    TalkingEnded(Refusal),
    /// Something of a later version, or nothing readable.
    Unknown,
}

/// The answer to a command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Reply {
    /// The command's number; `None` where the device found none.
    pub id: Option<u32>,
    /// Why it was refused.
    #[serde(default)]
    pub error: Option<Refusal>,
    /// To what a control was set.
    #[serde(default)]
    pub value: Option<i64>,
    /// The controls that were asked for.
    #[serde(default)]
    pub controls: Option<Vec<Setting>>,
    /// The file that follows.
    #[serde(default)]
    pub snapshot: Option<File>,
}

/// A file that is announced.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct File {
    /// How long it is.
    pub bytes: usize,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A control of the camera, as far as it matters here.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Setting {
    /// Its id, e.g. `brightness`.
    pub id: String,
    /// Lowest value.
    pub minimum: i64,
    /// Highest value.
    pub maximum: i64,
    /// The driver's default.
    pub default: i64,
    /// As it is.
    pub value: i64,
    /// Another control governs it.
    pub inactive: bool,
}

/// How the device is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceState {
    /// The camera is switched on.
    pub camera: bool,
    /// The microphone is silenced.
    pub muted: bool,
    /// How many are connected.
    pub viewers: u64,
    /// `live`, `starting`, `waiting`, `off` or `none`.
    #[serde(default)]
    pub video: String,
    /// Likewise.
    #[serde(default)]
    pub audio: String,
    /// Why something is waited for.
    #[serde(default)]
    pub detail: String,
}

impl FromDevice {
    /// Reads one message of the control channel.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: Option<String>,
        }
        #[derive(Deserialize)]
        struct Told {
            controls: Vec<Setting>,
        }
        let kind = serde_json::from_str(text).map(|Kind { kind }| kind);
        match kind.as_ref().map(Option::as_deref) {
            Ok(Some("state")) => serde_json::from_str(text).map_or(Self::Unknown, Self::State),
            Ok(Some(kind @ ("controls" | "controls_changed"))) => {
                let are_all = kind == "controls";
                let told = serde_json::from_str(text);
                told.map_or(Self::Unknown, |Told { controls }| Self::Controls {
                    are_all,
                    controls,
                })
            }
            Ok(Some("talking_ended")) => {
                serde_json::from_str(text).map_or(Self::Unknown, Self::TalkingEnded)
            }
            Ok(None) => serde_json::from_str(text).map_or(Self::Unknown, Self::Reply),
            Ok(Some(_)) | Err(_) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_the_room_are_as_documented() {
        let description = Description {
            kind: "offer".to_owned(),
            sdp: "v=0".to_owned(),
        };
        for (message, text) in [
            (
                ToRoom::join("cam".to_owned(), "K".to_owned()),
                r#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"K"}"#,
            ),
            (
                ToRoom::Offer { offer: description },
                r#"{"type":"offer","offer":{"type":"offer","sdp":"v=0"}}"#,
            ),
            (
                ToRoom::Candidate { candidate: None },
                r#"{"type":"candidate","candidate":null}"#,
            ),
            (ToRoom::Bye, r#"{"type":"bye"}"#),
        ] {
            assert_eq!(message.text(), text);
        }
    }

    #[test]
    fn messages_from_the_room_are_as_documented() {
        for (text, message) in [
            (
                r#"{"type":"joined","protocol":1,"room":"cam","id":"v-9","ice_servers":[],"device":null}"#,
                FromRoom::Joined {
                    ice_servers: Vec::new(),
                    device: None,
                },
            ),
            (r#"{"type":"device-left"}"#, FromRoom::DeviceLeft),
            (
                r#"{"type":"candidate","from":"device","candidate":null}"#,
                FromRoom::Candidate { candidate: None },
            ),
            (
                r#"{"type":"error","code":"wrong-key","message":"no"}"#,
                FromRoom::Error(Refusal {
                    code: "wrong-key".to_owned(),
                    message: "no".to_owned(),
                    from: None,
                }),
            ),
            (r#"{"type":"weather","sun":true}"#, FromRoom::Unknown),
        ] {
            assert_eq!(serde_json::from_str::<FromRoom>(text).unwrap(), message);
        }
    }

    #[test]
    fn commands_carry_their_number() {
        assert_eq!(
            Command::SetMuted { muted: true }.text(7),
            r#"{"id":7,"type":"set_muted","muted":true}"#
        );
        assert_eq!(
            Command::SetCamera { on: false }.text(8),
            r#"{"id":8,"type":"set_camera","on":false}"#
        );
        assert_eq!(
            Command::RequestKeyframe.text(9),
            r#"{"id":9,"type":"request_keyframe"}"#
        );
    }

    #[test]
    fn replies_and_states_are_told_apart() {
        let reply = FromDevice::parse(r#"{"id":7,"ok":true}"#);
        let FromDevice::Reply(Reply { id, error, .. }) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!((id, error), (Some(7), None));
        let refused =
            FromDevice::parse(r#"{"id":null,"error":{"code":"bad-command","message":"no"}}"#);
        let FromDevice::Reply(Reply {
            id: None, error, ..
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(error.unwrap().code, "bad-command");
        let state = FromDevice::parse(
            r#"{"type":"state","camera":true,"muted":false,"viewers":2,"video":"live","audio":"off","detail":""}"#,
        );
        let FromDevice::State(state) = state else {
            panic!("{state:?}");
        };
        assert_eq!((state.viewers, state.audio.as_str()), (2, "off"));
        assert_eq!(FromDevice::parse("junk"), FromDevice::Unknown);
        assert_eq!(
            FromDevice::parse(r#"{"type":"weather"}"#),
            FromDevice::Unknown
        );
    }
}
