//! Finding each other: how viewers' offers reach the device and its answers reach them.
//!
//! `link.rs` keeps one connection to a room server alive; `dialect/` translates between that
//! server's texts and the two vocabularies below; `websocket.rs` moves the texts. A device in
//! several rooms has a link for each.

use serde::{Deserialize, Serialize};

pub mod backoff;
pub mod dialect;
pub mod flow;
pub mod keepalive;
pub mod link;
pub mod server_url;
pub mod socketio;
pub mod websocket;

/// Names one viewer within one room, as the room server does. Opaque, at most
/// [`MAX_VIEWER_ID_BYTES`] long.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ViewerId(pub String);

/// Which of the device's rooms: its place in the list of the configuration, from 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoomIndex(pub usize);

/// One viewer among those of all rooms.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seat {
    /// The room.
    pub room: RoomIndex,
    /// The viewer's name there.
    pub viewer: ViewerId,
}

/// Longest viewer id that is accepted from a room server, in bytes.
pub const MAX_VIEWER_ID_BYTES: usize = 64;

/// Longest signaling message that is accepted, in bytes. A browser's offer with every codec and
/// candidate is about 10 kB.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// A candidate as browsers trickle it (`RTCIceCandidateInit`, WebRTC §5.6.1).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateInit {
    /// `candidate:…`; empty marks the end of candidates.
    #[serde(default)]
    pub candidate: String,
    /// The m-line's mid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// The m-line's index.
    #[serde(
        default,
        rename = "sdpMLineIndex",
        skip_serializing_if = "Option::is_none"
    )]
    pub sdp_mline_index: Option<u16>,
    /// Which ICE generation it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

impl CandidateInit {
    /// Returns which ICE generation it belongs to, by its own field or by the ` ufrag X` of its line
    /// (RFC 8839 §5.1).
    #[must_use]
    pub fn ufrag(&self) -> Option<&str> {
        let of_line = || {
            let mut words = self.candidate.split(' ');
            words.find(|&word| word == "ufrag")?;
            words.next()
        };
        self.username_fragment.as_deref().or_else(of_line)
    }
}

/// A STUN or TURN server (`RTCIceServer`, WebRTC §4.2.4).
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:host:port`, `turn:host:port?transport=udp`, …
    pub urls: Vec<String>,
    /// TURN user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// TURN password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl std::fmt::Debug for IceServer {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What happened in the room, from the link to the engine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RoomEvent {
    /// The device is in the room.
    Joined {
        /// STUN and TURN servers that the room server hands out.
        ice_servers: Vec<IceServer>,
    },
    /// Other STUN and TURN servers, in the place of those of `Joined`: their passwords expire.
    IceServers(Vec<IceServer>),
    /// The connection to the room server is gone; the link is trying to get it back. Running media
    /// goes on.
    Disconnected,
    /// A viewer entered the room. It will offer, or ask for ours.
    ViewerJoined(ViewerId),
    /// A viewer was in the room before we were out of it, and still is. It may not have heard what became
    /// of its media.
    StillThere(ViewerId),
    /// A viewer is to be offered a new peer connection.
    Call {
        /// Whom.
        viewer: ViewerId,
        /// Somebody is there for sure; otherwise the offer goes out on the chance.
        is_present: bool,
    },
    /// A viewer left.
    ViewerLeft {
        /// Who.
        viewer: ViewerId,
        /// It said so; otherwise only its signaling connection was lost, and its media may go on.
        on_purpose: bool,
    },
    /// A viewer's offer (SDP).
    Offer {
        /// From whom.
        viewer: ViewerId,
        /// The description.
        sdp: String,
    },
    /// A viewer's answer to our offer (SDP).
    Answer {
        /// From whom.
        viewer: ViewerId,
        /// The description.
        sdp: String,
    },
    /// A viewer's candidate.
    Candidate {
        /// From whom.
        viewer: ViewerId,
        /// The candidate; empty text marks the end.
        candidate: CandidateInit,
    },
}

/// What the device says in the room, from the engine to the link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RoomMessage {
    /// Our answer (SDP).
    Answer {
        /// To whom.
        viewer: ViewerId,
        /// The description.
        sdp: String,
    },
    /// Our offer (SDP).
    Offer {
        /// To whom.
        viewer: ViewerId,
        /// The description.
        sdp: String,
    },
    /// Our candidate.
    Candidate {
        /// To whom.
        viewer: ViewerId,
        /// The candidate.
        candidate: CandidateInit,
    },
    /// Why a viewer is not served.
    Error {
        /// To whom.
        viewer: ViewerId,
        /// Machine-readable, from the list in `docs/signaling.md`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// A viewer sees us: its peer connection is up.
    Connected {
        /// Who.
        viewer: ViewerId,
    },
    /// A viewer's last peer connection is over.
    Ended {
        /// Whose.
        viewer: ViewerId,
    },
}

impl RoomMessage {
    /// Returns whom it concerns.
    #[must_use]
    pub const fn viewer(&self) -> &ViewerId {
        match self {
            Self::Answer { viewer, .. }
            | Self::Offer { viewer, .. }
            | Self::Candidate { viewer, .. }
            | Self::Error { viewer, .. }
            | Self::Connected { viewer }
            | Self::Ended { viewer } => viewer,
        }
    }
}
