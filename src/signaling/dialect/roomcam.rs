//! The `roomcam` protocol, version 1, as a device speaks it (`docs/signaling.md`).
//!
//! The one protocol that says everything: who is there, who left and how, who wants to be offered.
//!
//! A room server is not trusted: what is no message of the protocol, or too much of one, is
//! ignored. Descriptions and candidates are moved, not looked into.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Description, Join, Output, to_text};
use crate::signaling::{
    CandidateInit, IceServer, MAX_VIEWER_ID_BYTES, RoomEvent, RoomMessage, ViewerId,
};

/// How many ICE servers are taken from a room server; browsers warn from five.
const MAX_ICE_SERVERS: usize = 16;

/// How many viewers are followed; the engine serves far fewer.
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
    Call {
        from: ViewerId,
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
        offer: Description,
    },
    Answer {
        to: &'a ViewerId,
        answer: Description,
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
    Connected {
        to: &'a ViewerId,
    },
    Ended {
        to: &'a ViewerId,
    },
    Bye,
}

/// The device's side.
#[derive(Debug)]
pub struct Roomcam {
    join: Join,
    is_joined: bool,
    /// Who is in the room, as far as we know.
    viewers: BTreeSet<ViewerId>,
    outputs: VecDeque<Output>,
}

impl Roomcam {
    pub(super) fn new(join: Join) -> Self {
        Self {
            join,
            is_joined: false,
            viewers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, _now: Instant) {
        self.is_joined = false;
        let join = DeviceMessage::Join {
            protocol: 1,
            role: "device",
            room: &self.join.room,
            key: self.join.key.expose(),
            instance: &self.join.instance,
        };
        self.outputs.push_back(Output::Send(to_text(&join)));
    }

    pub(super) const fn handle_closed(&mut self) {
        self.is_joined = false;
    }

    pub(super) fn handle_text(&mut self, text: &str, _now: Instant) {
        let Ok(message) = serde_json::from_str(text) else {
            return;
        };
        match message {
            ServerMessage::Joined {
                ice_servers,
                viewers,
            } if !self.is_joined => {
                self.is_joined = true;
                self.outputs.push_back(Output::Joined {
                    ice_servers: read_ice_servers(&ice_servers),
                    is_confirmed: true,
                });
                self.meet(viewers);
            }
            ServerMessage::Error { code, message } => {
                self.outputs.push_back(if self.is_joined {
                    Output::Complaint(format!("{code}: {message}"))
                } else {
                    Output::Refused { code, message }
                });
            }
            // News from before the join, or a second one.
            ServerMessage::Joined { .. } => {}
            _ if !self.is_joined => {}
            ServerMessage::IceServers { ice_servers } => {
                self.event(RoomEvent::IceServers(read_ice_servers(&ice_servers)));
            }
            ServerMessage::ViewerJoined { id: viewer } => {
                let is_news = is_id(&viewer)
                    && self.viewers.len() < MAX_VIEWERS
                    && self.viewers.insert(viewer.clone());
                if is_news {
                    self.event(RoomEvent::ViewerJoined(viewer));
                }
            }
            ServerMessage::ViewerLeft { id: viewer, reason } => {
                let on_purpose = reason == "bye";
                if self.viewers.remove(&viewer) {
                    self.event(RoomEvent::ViewerLeft { viewer, on_purpose });
                }
            }
            ServerMessage::Call { from: viewer } if is_id(&viewer) => {
                let is_present = true;
                self.event(RoomEvent::Call { viewer, is_present });
            }
            ServerMessage::Offer {
                from: viewer,
                offer: Description { sdp, .. },
            } if is_id(&viewer) => self.event(RoomEvent::Offer { viewer, sdp }),
            ServerMessage::Answer {
                from: viewer,
                answer: Description { sdp, .. },
            } if is_id(&viewer) => self.event(RoomEvent::Answer { viewer, sdp }),
            ServerMessage::Candidate {
                from: viewer,
                candidate,
            } if is_id(&viewer) => {
                let candidate = candidate.unwrap_or_default();
                self.event(RoomEvent::Candidate { viewer, candidate });
            }
            _ => {}
        }
    }

    pub(super) fn handle_message(&mut self, message: &RoomMessage, _now: Instant) {
        let message = match message {
            RoomMessage::Answer { viewer, sdp } => DeviceMessage::Answer {
                to: viewer,
                answer: Description::answer(sdp),
            },
            RoomMessage::Offer { viewer, sdp } => DeviceMessage::Offer {
                to: viewer,
                offer: Description::offer(sdp),
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
            RoomMessage::Connected { viewer } => DeviceMessage::Connected { to: viewer },
            RoomMessage::Ended { viewer } => DeviceMessage::Ended { to: viewer },
        };
        self.outputs.push_back(Output::Send(to_text(&message)));
    }

    pub(super) fn handle_leave(&mut self) {
        let bye = to_text(&DeviceMessage::Bye);
        self.outputs.push_back(Output::Send(bye));
    }

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn handle_timeout(&mut self, _now: Instant) {}

    #[expect(clippy::unused_self, reason = "all adapters have the same methods")]
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Tells who came, who left and who stayed while we were away.
    fn meet(&mut self, present: Vec<ViewerId>) {
        let present = present.into_iter().filter(is_id).take(MAX_VIEWERS);
        let present: BTreeSet<ViewerId> = present.collect();
        let known = std::mem::replace(&mut self.viewers, present.clone());
        for viewer in known.difference(&present).cloned() {
            let on_purpose = false;
            self.event(RoomEvent::ViewerLeft { viewer, on_purpose });
        }
        for viewer in present.difference(&known).cloned() {
            self.event(RoomEvent::ViewerJoined(viewer));
        }
        for viewer in present.intersection(&known).cloned() {
            self.event(RoomEvent::StillThere(viewer));
        }
    }

    fn event(&mut self, event: RoomEvent) {
        self.outputs.push_back(Output::Event(event));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn viewer() -> ViewerId {
        ViewerId("v-1".to_owned())
    }

    fn device() -> Roomcam {
        Roomcam::new(Join {
            room: "cam".to_owned(),
            key: Secret::new("k\"ey".to_owned()),
            instance: "i".to_owned(),
            ..Join::default()
        })
    }

    fn drain(device: &mut Roomcam) -> Vec<Output> {
        std::iter::from_fn(|| device.poll_output()).collect()
    }

    /// A device in the room.
    fn inside() -> Roomcam {
        let mut device = device();
        hear(&mut device, r#"{"type":"joined","viewers":[]}"#);
        device
    }

    fn hear(device: &mut Roomcam, text: &str) -> Vec<Output> {
        device.handle_text(text, crate::clock::now());
        drain(device)
    }

    #[test]
    fn the_devices_texts() {
        let now = crate::clock::now();
        let mut device = device();
        device.handle_connected(now);
        let candidate = CandidateInit {
            candidate: "candidate:1".to_owned(),
            sdp_mid: Some("0".to_owned()),
            sdp_mline_index: Some(0),
            username_fragment: None,
        };
        let (sdp, viewer) = ("v=0\r\n".to_owned(), viewer());
        for message in [
            RoomMessage::Answer {
                viewer: viewer.clone(),
                sdp: sdp.clone(),
            },
            RoomMessage::Offer {
                viewer: viewer.clone(),
                sdp,
            },
            RoomMessage::Candidate {
                viewer: viewer.clone(),
                candidate,
            },
            RoomMessage::Error {
                viewer: viewer.clone(),
                code: "bad-offer",
                message: "no H.264".to_owned(),
            },
            RoomMessage::Ended { viewer },
        ] {
            device.handle_message(&message, now);
        }
        device.handle_leave();
        let expected = [
            r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":"k\"ey","instance":"i"}"#,
            r#"{"type":"answer","to":"v-1","answer":{"type":"answer","sdp":"v=0\r\n"}}"#,
            r#"{"type":"offer","to":"v-1","offer":{"type":"offer","sdp":"v=0\r\n"}}"#,
            r#"{"type":"candidate","to":"v-1","candidate":{"candidate":"candidate:1","sdpMid":"0","sdpMLineIndex":0}}"#,
            r#"{"type":"error","to":"v-1","code":"bad-offer","message":"no H.264"}"#,
            r#"{"type":"ended","to":"v-1"}"#,
            r#"{"type":"bye"}"#,
        ];
        assert_eq!(
            drain(&mut device),
            expected.map(|t| Output::Send(t.to_owned()))
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
        let mut device = device();
        let expected = [
            Output::Joined {
                ice_servers: vec![turn],
                is_confirmed: true,
            },
            Output::Event(RoomEvent::ViewerJoined(viewer())),
        ];
        assert_eq!(hear(&mut device, joined), expected);
        let sdp = || "v=0".to_owned();
        for (text, event) in [
            (
                r#"{"from":"v-1","type":"call"}"#,
                RoomEvent::Call {
                    viewer: viewer(),
                    is_present: true,
                },
            ),
            (
                r#"{"type":"offer","from":"v-1","offer":{"type":"offer","sdp":"v=0"}}"#,
                RoomEvent::Offer {
                    viewer: viewer(),
                    sdp: sdp(),
                },
            ),
            (
                r#"{"type":"answer","from":"v-1","answer":{"type":"answer","sdp":"v=0"}}"#,
                RoomEvent::Answer {
                    viewer: viewer(),
                    sdp: sdp(),
                },
            ),
        ] {
            assert_eq!(hear(&mut device, text), [Output::Event(event)], "{text}");
        }
        for (reason, on_purpose) in [("bye", true), ("lost", false), ("new", false)] {
            hear(&mut device, r#"{"type":"viewer-joined","id":"v-1"}"#);
            let left = format!(r#"{{"type":"viewer-left","id":"v-1","reason":"{reason}"}}"#);
            let viewer = viewer();
            let left_event = RoomEvent::ViewerLeft { viewer, on_purpose };
            assert_eq!(hear(&mut device, &left), [Output::Event(left_event)]);
        }
    }

    #[test]
    fn null_and_empty_both_end_the_candidates() {
        for end in ["null", r#"{"candidate":""}"#] {
            let text = format!(r#"{{"type":"candidate","from":"v-1","candidate":{end}}}"#);
            let expected = RoomEvent::Candidate {
                viewer: viewer(),
                candidate: CandidateInit::default(),
            };
            assert_eq!(hear(&mut inside(), &text), [Output::Event(expected)]);
        }
    }

    #[test]
    fn an_error_refuses_before_the_join_and_is_a_complaint_after_it() {
        let text = r#"{"type":"error","code":"wrong-key","message":"no"}"#;
        let refused = Output::Refused {
            code: "wrong-key".to_owned(),
            message: "no".to_owned(),
        };
        assert_eq!(hear(&mut device(), text), [refused]);
        let complaint = Output::Complaint("wrong-key: no".to_owned());
        assert_eq!(hear(&mut inside(), text), [complaint]);
    }

    #[test]
    fn anything_else_is_ignored() {
        let long = format!(r#"{{"type":"viewer-joined","id":"{}"}}"#, "v".repeat(65));
        let mut device = inside();
        for text in [
            "",
            "null",
            "[]",
            r#"{"type":"weather"}"#,
            r#"{"type":"offer","from":"v-1"}"#,
            r#"{"type":"viewer-joined","id":""}"#,
            r#"{"type":"viewer-joined","id":7}"#,
            r#"{"type":"viewer-left","id":"v-9","reason":"bye"}"#,
            r#"{"type":"joined","viewers":["v-9"]}"#,
            &long,
            &"[".repeat(100_000),
        ] {
            assert_eq!(hear(&mut device, text), [], "{text:.60}");
        }
    }

    #[test]
    fn a_server_cannot_hand_out_more_than_we_keep() {
        let many = vec![r#"{"urls":["stun:s"]}"#; 500].join(",");
        let text = format!(r#"{{"type":"joined","ice_servers":[{many}],"viewers":[]}}"#);
        let mut device = device();
        let outputs = hear(&mut device, &text);
        assert!(
            matches!(&outputs[..], [Output::Joined { ice_servers, .. }] if ice_servers.len() == MAX_ICE_SERVERS)
        );
        let mut joined = 0;
        for n in 0..10_000 {
            let text = format!(r#"{{"type":"viewer-joined","id":"v-{n}"}}"#);
            joined += hear(&mut device, &text).len() + hear(&mut device, &text).len();
        }
        assert_eq!(joined, MAX_VIEWERS);
    }
}
