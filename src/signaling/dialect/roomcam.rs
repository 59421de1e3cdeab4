//! The `roomcam` protocol, version 1, as a device speaks it (`docs/signaling.md`).
//!
//! A room server is not trusted: what is no message of the protocol, or too much of one, is
//! ignored. Descriptions and candidates are moved, not looked into.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Incoming, Join};
use crate::signaling::{
    CandidateInit, IceServer, MAX_MESSAGE_BYTES, MAX_VIEWER_ID_BYTES, RoomEvent, RoomMessage,
    ViewerId,
};

/// How many ICE servers are taken from a room server; browsers warn from five.
const MAX_ICE_SERVERS: usize = 16;

/// How many viewers are taken from a room server.
const MAX_VIEWERS: usize = 256;

/// Messages of the server.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum ServerMessage {
    Joined {
        #[serde(default)]
        ice_servers: Vec<Value>,
        viewers: Vec<ViewerId>,
    },
    IceServers {
        ice_servers: Vec<Value>,
    },
    ViewerJoined {
        id: ViewerId,
    },
    ViewerLeft {
        id: ViewerId,
        reason: String,
    },
    Offer {
        from: ViewerId,
        offer: Description,
    },
    Answer {
        from: ViewerId,
        answer: Description,
    },
    Candidate {
        from: ViewerId,
        candidate: Option<CandidateInit>,
    },
    Error {
        code: String,
        message: String,
    },
}

/// Messages of a device.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum DeviceMessage<'a> {
    Join {
        protocol: u64,
        role: &'static str,
        room: &'a str,
        key: &'a str,
        instance: &'a str,
    },
    Offer {
        to: &'a ViewerId,
        offer: DescriptionRef<'a>,
    },
    Answer {
        to: &'a ViewerId,
        answer: DescriptionRef<'a>,
    },
    Candidate {
        to: &'a ViewerId,
        candidate: &'a CandidateInit,
    },
    Error {
        to: &'a ViewerId,
        code: &'a str,
        message: &'a str,
    },
    Bye,
}

#[derive(Deserialize)]
struct Description {
    sdp: String,
}

#[derive(Serialize)]
struct DescriptionRef<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    sdp: &'a str,
}

/// Returns the text that enters a room.
#[must_use]
pub fn join(join: &Join) -> String {
    to_text(&DeviceMessage::Join {
        protocol: 1,
        role: "device",
        room: &join.room,
        key: join.key.expose(),
        instance: &join.instance,
    })
}

/// Returns the text that leaves the room.
#[must_use]
pub fn bye() -> String {
    to_text(&DeviceMessage::Bye)
}

/// Returns the text of a message. This protocol's server does not relay offers of a device.
#[must_use]
pub fn encode(message: &RoomMessage) -> String {
    to_text(&match message {
        RoomMessage::Answer { viewer, sdp } => DeviceMessage::Answer {
            to: viewer,
            answer: DescriptionRef {
                kind: "answer",
                sdp,
            },
        },
        RoomMessage::Offer { viewer, sdp } => DeviceMessage::Offer {
            to: viewer,
            offer: DescriptionRef { kind: "offer", sdp },
        },
        RoomMessage::Candidate { viewer, candidate } => DeviceMessage::Candidate {
            to: viewer,
            candidate,
        },
        RoomMessage::Error {
            viewer,
            code,
            message,
        } => DeviceMessage::Error {
            to: viewer,
            code,
            message,
        },
    })
}

/// Reads a text of the server.
#[must_use]
pub fn decode(text: &str) -> Incoming {
    if text.len() > MAX_MESSAGE_BYTES {
        return Incoming::Ignored;
    }
    let Ok(message) = serde_json::from_str(text) else {
        return Incoming::Ignored;
    };
    let (viewer, event): (_, fn(ViewerId) -> RoomEvent) = match message {
        ServerMessage::Joined {
            ice_servers,
            viewers,
        } => {
            return Incoming::Joined {
                ice_servers: read_ice_servers(&ice_servers),
                viewers: viewers
                    .into_iter()
                    .filter(is_id)
                    .take(MAX_VIEWERS)
                    .collect(),
            };
        }
        ServerMessage::IceServers { ice_servers } => {
            let ice_servers = read_ice_servers(&ice_servers);
            return Incoming::Event(RoomEvent::IceServers(ice_servers));
        }
        ServerMessage::Error { code, message } => return Incoming::Error { code, message },
        ServerMessage::ViewerJoined { id } => (id, RoomEvent::ViewerJoined),
        ServerMessage::ViewerLeft { id, reason } => {
            let on_purpose = reason == "bye";
            return event_of(id, |viewer| RoomEvent::ViewerLeft { viewer, on_purpose });
        }
        ServerMessage::Offer { from, offer } => {
            let sdp = offer.sdp;
            return event_of(from, |viewer| RoomEvent::Offer { viewer, sdp });
        }
        ServerMessage::Answer { from, answer } => {
            let sdp = answer.sdp;
            return event_of(from, |viewer| RoomEvent::Answer { viewer, sdp });
        }
        ServerMessage::Candidate { from, candidate } => {
            let candidate = candidate.unwrap_or_default();
            return event_of(from, |viewer| RoomEvent::Candidate { viewer, candidate });
        }
    };
    event_of(viewer, event)
}

fn event_of(viewer: ViewerId, event: impl FnOnce(ViewerId) -> RoomEvent) -> Incoming {
    if is_id(&viewer) {
        Incoming::Event(event(viewer))
    } else {
        Incoming::Ignored
    }
}

fn is_id(viewer: &ViewerId) -> bool {
    (1..=MAX_VIEWER_ID_BYTES).contains(&viewer.0.len())
}

fn read_ice_servers(values: &[Value]) -> Vec<IceServer> {
    let servers = values.iter().filter_map(ice_server);
    servers.take(MAX_ICE_SERVERS).collect()
}

/// Reads an ICE server; fields we do not know are no reason to go without it.
fn ice_server(value: &Value) -> Option<IceServer> {
    let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let urls = value.get("urls")?.as_array()?.iter();
    Some(IceServer {
        urls: urls.filter_map(|u| u.as_str()).map(str::to_owned).collect(),
        username: text("username"),
        credential: text("credential"),
    })
}

fn to_text(message: &DeviceMessage<'_>) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn viewer() -> ViewerId {
        ViewerId("v-1".to_owned())
    }

    #[test]
    fn the_devices_texts() {
        let joins = join(&Join {
            room: "cam".to_owned(),
            key: Secret::new("k\"ey".to_owned()),
            instance: "i".to_owned(),
        });
        assert_eq!(
            joins,
            r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":"k\"ey","instance":"i"}"#
        );
        assert_eq!(bye(), r#"{"type":"bye"}"#);
        let answer = RoomMessage::Answer {
            viewer: viewer(),
            sdp: "v=0\r\n".to_owned(),
        };
        assert_eq!(
            encode(&answer),
            r#"{"type":"answer","to":"v-1","answer":{"type":"answer","sdp":"v=0\r\n"}}"#
        );
        let candidate = RoomMessage::Candidate {
            viewer: viewer(),
            candidate: CandidateInit {
                candidate: "candidate:1".to_owned(),
                sdp_mid: Some("0".to_owned()),
                sdp_mline_index: Some(0),
                username_fragment: None,
            },
        };
        assert_eq!(
            encode(&candidate),
            r#"{"type":"candidate","to":"v-1","candidate":{"candidate":"candidate:1","sdpMid":"0","sdpMLineIndex":0}}"#
        );
        let error = RoomMessage::Error {
            viewer: viewer(),
            code: "bad-offer",
            message: "no H.264".to_owned(),
        };
        assert_eq!(
            encode(&error),
            r#"{"type":"error","to":"v-1","code":"bad-offer","message":"no H.264"}"#
        );
    }

    #[test]
    fn the_servers_texts() {
        let joined = r#"{"type":"joined","protocol":1,"room":"cam","id":"d-1","viewers":["v-1"],
            "ice_servers":[{"urls":["turn:t"],"username":"u","credential":"p","x":1},{"urls":3}]}"#;
        let turn = IceServer {
            urls: vec!["turn:t".to_owned()],
            username: Some("u".to_owned()),
            credential: Some("p".to_owned()),
        };
        let expected = Incoming::Joined {
            ice_servers: vec![turn],
            viewers: vec![viewer()],
        };
        assert_eq!(decode(joined), expected);
        let event = |text: &str| match decode(text) {
            Incoming::Event(event) => event,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            event(r#"{"id":"v-1","type":"viewer-joined"}"#),
            RoomEvent::ViewerJoined(viewer())
        );
        for (reason, on_purpose) in [("bye", true), ("lost", false), ("new", false)] {
            let left = format!(r#"{{"type":"viewer-left","id":"v-1","reason":"{reason}"}}"#);
            let viewer = viewer();
            assert_eq!(event(&left), RoomEvent::ViewerLeft { viewer, on_purpose });
        }
        let offer = r#"{"type":"offer","from":"v-1","offer":{"type":"offer","sdp":"v=0"}}"#;
        let sdp = "v=0".to_owned();
        let viewer = viewer();
        assert_eq!(event(offer), RoomEvent::Offer { viewer, sdp });
    }

    #[test]
    fn null_and_empty_both_end_the_candidates() {
        for end in ["null", r#"{"candidate":""}"#] {
            let text = format!(r#"{{"type":"candidate","from":"v-1","candidate":{end}}}"#);
            let expected = RoomEvent::Candidate {
                viewer: viewer(),
                candidate: CandidateInit::default(),
            };
            assert_eq!(decode(&text), Incoming::Event(expected));
        }
    }

    #[test]
    fn an_error_is_told_from_an_event() {
        let text = r#"{"type":"error","code":"wrong-key","message":"no"}"#;
        let expected = Incoming::Error {
            code: "wrong-key".to_owned(),
            message: "no".to_owned(),
        };
        assert_eq!(decode(text), expected);
    }

    #[test]
    fn anything_else_is_ignored() {
        let long = format!(r#"{{"type":"viewer-joined","id":"{}"}}"#, "v".repeat(65));
        let huge = format!(
            r#"{{"type":"bye","x":"{}"}}"#,
            "x".repeat(MAX_MESSAGE_BYTES)
        );
        for text in [
            "",
            "null",
            "[]",
            r#"{"type":"weather"}"#,
            r#"{"type":"offer","from":"v-1"}"#,
            r#"{"type":"viewer-joined","id":""}"#,
            r#"{"type":"viewer-joined","id":7}"#,
            &long,
            &huge,
            &"[".repeat(100_000),
        ] {
            assert_eq!(decode(text), Incoming::Ignored, "{text:.60}");
        }
    }

    #[test]
    fn a_server_cannot_hand_out_more_than_we_keep() {
        let many = vec![r#"{"urls":["stun:s"]}"#; 500].join(",");
        let text = format!(r#"{{"type":"joined","ice_servers":[{many}],"viewers":[]}}"#);
        let Incoming::Joined { ice_servers, .. } = decode(&text) else {
            panic!("not joined");
        };
        assert_eq!(ice_servers.len(), MAX_ICE_SERVERS);
    }
}
