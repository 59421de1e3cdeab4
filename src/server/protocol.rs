//! The texts of `docs/signaling.md` as the room server reads and writes them.
//!
//! What is relayed is read and written anew: a peer is handed valid messages only, without fields
//! that nobody specified. Session descriptions and candidates are moved, not looked into.
//!
//! Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{ROOM_NAME_RULE, is_room_name};
use crate::signaling::{CandidateInit, IceServer};

/// The protocol version that is spoken here.
pub const PROTOCOL: u64 = 1;

/// Longest `instance` of a device, in bytes.
pub const MAX_INSTANCE_BYTES: usize = 64;

/// Longest error code that is relayed from a device, in bytes.
const MAX_CODE_BYTES: usize = 64;

/// A message of a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientMessage {
    /// Wants to enter a room.
    Join(Join),
    /// Leaves.
    Bye,
    /// Something for the other side.
    Relay {
        /// For whom, as a device says it.
        to: Option<String>,
        /// What.
        content: Content,
    },
}

/// A wish to enter a room.
#[derive(Clone, Eq, PartialEq)]
pub struct Join {
    /// As whom.
    pub role: Role,
    /// Where.
    pub room: String,
    /// The key, as it was sent. Not for logs.
    pub key: String,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Join({:?}, {})", self.role, self.room)
    }
}

/// What a client is in its room.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Watches.
    Viewer,
    /// Is watched.
    Device {
        /// Stays the same while the device's process runs.
        instance: String,
    },
}

/// What is relayed between a viewer and the device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// A viewer wants the device to offer.
    Call,
    /// Either side's description.
    Offer(Description),
    /// The other side's.
    Answer(Description),
    /// A candidate; `None` ends them.
    Candidate(Option<CandidateInit>),
    /// The device does not serve a viewer.
    Error {
        /// Machine-readable.
        code: String,
        /// For people.
        message: String,
    },
    /// The viewer's peer connection is up, says the device.
    Connected,
    /// The viewer's last peer connection is over, says the device.
    Ended,
}

/// A session description as browsers write it (`RTCSessionDescriptionInit`, WebRTC §4.6.2).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Description {
    /// `offer` or `answer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub sdp: String,
}

/// Why a client is told off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// From the list in `docs/signaling.md`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    fn bad_message(message: impl Into<String>) -> Self {
        Self::new("bad-message", message)
    }
}

/// A message of the server.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ServerMessage<'a> {
    /// The answer to a viewer's or a device's join.
    Joined {
        /// [`PROTOCOL`].
        protocol: u64,
        /// Which room.
        room: &'a str,
        /// The client's name in the room.
        id: &'a str,
        /// For the client's peer connections.
        ice_servers: &'a [IceServer],
        /// Who is inside.
        #[serde(flatten)]
        inside: Inside<'a>,
    },
    /// To those inside: the credentials that they were handed expire, these do later.
    IceServers {
        /// In the place of those of `Joined`.
        ice_servers: &'a [IceServer],
    },
    /// To the device.
    ViewerJoined {
        /// Who.
        id: &'a str,
    },
    /// To the device.
    ViewerLeft {
        /// Who.
        id: &'a str,
        /// `bye` or `lost`.
        reason: &'static str,
    },
    /// To viewers.
    DeviceJoined {
        /// Which process of the device.
        instance: &'a str,
    },
    /// To viewers.
    DeviceLeft,
    /// To the device.
    Call {
        /// The viewer.
        from: &'a str,
    },
    /// To either.
    Offer {
        /// The viewer, or `device`.
        from: &'a str,
        /// The description.
        offer: &'a Description,
    },
    /// To either.
    Answer {
        /// The viewer, or `device`.
        from: &'a str,
        /// The description.
        answer: &'a Description,
    },
    /// To either.
    Candidate {
        /// The viewer, or `device`.
        from: &'a str,
        /// `None` ends them.
        candidate: Option<&'a CandidateInit>,
    },
    /// To a viewer.
    Connected {
        /// `device`.
        from: &'a str,
    },
    /// To a viewer.
    Ended {
        /// `device`.
        from: &'a str,
    },
    /// To either.
    Error {
        /// Machine-readable.
        code: &'a str,
        /// For people.
        message: &'a str,
        /// `device`, if it comes from there.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
    },
}

/// Who a newcomer finds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inside<'a> {
    /// For a viewer: the device's instance.
    Device(Option<&'a str>),
    /// For a device: the viewers.
    Viewers(Vec<String>),
}

impl ServerMessage<'_> {
    /// Returns the text to send.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Reads a client's message.
///
/// # Errors
///
/// What to tell the client: `bad-message`, `unsupported-protocol` or `bad-room`.
pub fn parse(message: &[u8]) -> Result<ClientMessage, Refusal> {
    let value: Value = serde_json::from_slice(message)
        .map_err(|e| Refusal::bad_message(format!("not JSON: {e}")))?;
    let Value::Object(fields) = &value else {
        return Err(Refusal::bad_message("not a JSON object"));
    };
    let Some(Value::String(kind)) = fields.get("type") else {
        return Err(Refusal::bad_message("`type` is missing, or is no text"));
    };
    let to = match fields.get("to") {
        None | Some(Value::Null) => None,
        Some(Value::String(to)) => Some(to.clone()),
        Some(_) => return Err(Refusal::bad_message("`to` is no text")),
    };
    let content = match kind.as_str() {
        "join" => return parse_join(&value).map(ClientMessage::Join),
        "bye" => return Ok(ClientMessage::Bye),
        "call" => Content::Call,
        "connected" => Content::Connected,
        "ended" => Content::Ended,
        "offer" => Content::Offer(description(&value, "offer")?),
        "answer" => Content::Answer(description(&value, "answer")?),
        "candidate" => Content::Candidate(candidate(&value)?),
        "error" => {
            let ErrorFields { code, message } = read(&value, "error")?;
            if code.len() > MAX_CODE_BYTES {
                return Err(Refusal::bad_message("`code` is longer than 64 bytes"));
            }
            Content::Error { code, message }
        }
        _ => return Err(Refusal::bad_message("unknown `type`")),
    };
    Ok(ClientMessage::Relay { to, content })
}

#[derive(Deserialize)]
struct JoinFields {
    role: String,
    room: String,
    key: String,
    instance: Option<String>,
}

#[derive(Deserialize)]
struct ErrorFields {
    code: String,
    message: String,
}

fn parse_join(value: &Value) -> Result<Join, Refusal> {
    match value.get("protocol").map(Value::as_u64) {
        Some(Some(PROTOCOL)) => {}
        Some(_) => {
            let message = "this server speaks protocol 1: update the older of the two";
            return Err(Refusal::new("unsupported-protocol", message));
        }
        None => return Err(Refusal::bad_message("join: `protocol` is missing")),
    }
    let fields: JoinFields = read(value, "join")?;
    let role = match (fields.role.as_str(), fields.instance) {
        ("viewer", _) => Role::Viewer,
        ("device", Some(instance)) if (1..=MAX_INSTANCE_BYTES).contains(&instance.len()) => {
            Role::Device { instance }
        }
        ("device", _) => {
            let message = "join: a device needs an `instance` of 1 to 64 bytes";
            return Err(Refusal::bad_message(message));
        }
        _ => {
            let message = "join: `role` is neither `viewer` nor `device`";
            return Err(Refusal::bad_message(message));
        }
    };
    if !is_room_name(&fields.room) {
        return Err(Refusal::new(
            "bad-room",
            format!("a room is called by {ROOM_NAME_RULE}"),
        ));
    }
    Ok(Join {
        role,
        room: fields.room,
        key: fields.key,
    })
}

fn description(value: &Value, kind: &str) -> Result<Description, Refusal> {
    let description: Description = read(value.get(kind).unwrap_or(&Value::Null), kind)?;
    if description.kind != kind {
        return Err(Refusal::bad_message(format!(
            "{kind}: its `type` is not `{kind}`"
        )));
    }
    Ok(description)
}

fn candidate(value: &Value) -> Result<Option<CandidateInit>, Refusal> {
    let Some(candidate) = value.get("candidate") else {
        return Err(Refusal::bad_message("candidate: `candidate` is missing"));
    };
    read(candidate, "candidate")
}

fn read<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, Refusal> {
    T::deserialize(value).map_err(|e| Refusal::bad_message(format!("{what}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (&'static str, String) {
        let refusal = parse(text.as_bytes()).unwrap_err();
        (refusal.code, refusal.message)
    }

    #[test]
    fn a_viewer_and_a_device_join() {
        let viewer = r#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"k","x":1}"#;
        let Ok(ClientMessage::Join(join)) = parse(viewer.as_bytes()) else {
            panic!("no join");
        };
        assert_eq!((join.role, join.key.as_str()), (Role::Viewer, "k"));
        let device =
            r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":"k","instance":"i"}"#;
        let Ok(ClientMessage::Join(join)) = parse(device.as_bytes()) else {
            panic!("no join");
        };
        let instance = "i".to_owned();
        assert_eq!(join.role, Role::Device { instance });
    }

    #[test]
    fn a_bad_message_is_told_what_is_wrong_with_it() {
        let bad = |message: &str| ("bad-message", message.to_owned());
        assert_eq!(refused("[]"), bad("not a JSON object"));
        assert_eq!(refused("{}"), bad("`type` is missing, or is no text"));
        assert_eq!(refused(r#"{"type":"shout"}"#), bad("unknown `type`"));
        assert_eq!(
            refused(r#"{"type":"offer","offer":{"type":"offer"}}"#),
            bad("offer: missing field `sdp`")
        );
        assert_eq!(
            refused(r#"{"type":"offer","offer":{"type":"answer","sdp":""}}"#),
            bad("offer: its `type` is not `offer`")
        );
        assert_eq!(
            refused(r#"{"type":"join","protocol":1,"role":"viewer","room":"cam"}"#),
            bad("join: missing field `key`")
        );
        assert_eq!(
            refused(r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":""}"#),
            bad("join: a device needs an `instance` of 1 to 64 bytes")
        );
        assert!(refused("hello").1.starts_with("not JSON"));
        assert_eq!(refused(&"[".repeat(100_000)).0, "bad-message");
        assert_eq!(refused(&r#"{"a":"#.repeat(20_000)).0, "bad-message");
    }

    #[test]
    fn another_protocol_is_told_before_anything_else() {
        let text = r#"{"type":"join","protocol":2,"who":"viewer"}"#;
        assert_eq!(refused(text).0, "unsupported-protocol");
    }

    #[test]
    fn a_room_name_is_checked() {
        let text = r#"{"type":"join","protocol":1,"role":"viewer","room":"../x","key":"k"}"#;
        assert_eq!(refused(text).0, "bad-room");
    }

    #[test]
    fn null_and_empty_candidates_both_pass() {
        let text = br#"{"type":"candidate","candidate":null,"to":"v-1"}"#;
        let expected = ClientMessage::Relay {
            to: Some("v-1".to_owned()),
            content: Content::Candidate(None),
        };
        assert_eq!(parse(text), Ok(expected));
        let text = br#"{"type":"candidate","candidate":{"candidate":"","sdpMid":null}}"#;
        let expected = ClientMessage::Relay {
            to: None,
            content: Content::Candidate(Some(CandidateInit::default())),
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(
            refused(r#"{"type":"candidate"}"#).1,
            "candidate: `candidate` is missing"
        );
    }

    #[test]
    fn a_key_is_never_shown() {
        let text = br#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"hunter2"}"#;
        assert!(!format!("{:?}", parse(text)).contains("hunter2"));
    }

    #[test]
    fn the_servers_texts() {
        let joined = ServerMessage::Joined {
            protocol: PROTOCOL,
            room: "cam",
            id: "v-1",
            ice_servers: &[],
            inside: Inside::Device(None),
        };
        assert_eq!(
            joined.to_text(),
            r#"{"type":"joined","protocol":1,"room":"cam","id":"v-1","ice_servers":[],"device":null}"#
        );
        let left = ServerMessage::ViewerLeft {
            id: "v-1",
            reason: "lost",
        };
        assert_eq!(
            left.to_text(),
            r#"{"type":"viewer-left","id":"v-1","reason":"lost"}"#
        );
        let end = ServerMessage::Candidate {
            from: "device",
            candidate: None,
        };
        assert_eq!(
            end.to_text(),
            r#"{"type":"candidate","from":"device","candidate":null}"#
        );
    }
}
