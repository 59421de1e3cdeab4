//! What the engine is asked for, and what becomes of it when that changes.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Engine, stun};
use crate::config;
use crate::signaling::websocket::Authorities;
use crate::signaling::{RoomIndex, RoomMessage};
use crate::turn::reach::Reach;

/// What the engine is asked for. It may change at any time, but for what says otherwise.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// `[webrtc]`; port and advertised addresses are those of the start.
    pub webrtc: config::WebRtc,
    /// `[control]`; the switches are those of the start.
    pub control: config::Control,
    /// `[talkback]`
    pub talkback: config::Talkback,
    /// Target of the video encoder, in bit/s.
    pub video_bitrate_bps: u32,
    /// Whether there is a video source at all.
    pub has_video: bool,
    /// Whether there is an audio source at all.
    pub has_audio: bool,
    /// Whose TLS certificates are believed.
    pub authorities: Authorities,
    /// Whether nobody in the rooms has our own page: picture and sound are then always one stream.
    pub one_stream: bool,
    /// Whether to offer the loopback address: the room server is on this machine, and may hand out
    /// servers that are.
    pub offer_loopback: bool,
    /// What we say in each room that the device is in. A room that is left out is left, once nobody
    /// else holds its sender; media goes on.
    pub rooms: BTreeMap<RoomIndex, mpsc::Sender<RoomMessage>>,
}

impl EngineOptions {
    /// Returns where the STUN and TURN servers may be that room servers hand out.
    pub(super) const fn reach_of_room_servers(&self) -> Reach {
        if self.offer_loopback {
            Reach::Anywhere
        } else {
            Reach::Elsewhere
        }
    }
}

impl Engine {
    /// The configuration was read again. What viewers are connected by stays as it is.
    pub(super) fn handle_options(&mut self, now: Instant) {
        let options = self.channels.options.borrow_and_update().clone();
        let running = std::mem::replace(&mut self.options, options);
        let options = &self.options;
        self.roster.set_max_viewers(options.webrtc.max_viewers);
        self.demand.set_idle_timeout(options.control.idle_timeout());
        self.rooms_joined
            .retain(|room| options.rooms.contains_key(room));
        self.handed
            .retain(|room, _| options.rooms.contains_key(room));
        let reach = options.reach_of_room_servers();
        let turn = &mut self.network.turn;
        turn.configure(&options.webrtc, options.authorities.clone(), reach);
        if options.webrtc.ice_servers != running.webrtc.ice_servers {
            self.reflexive = stun::Reflexive::new();
            let configured = &options.webrtc.ice_servers;
            self.reflexive.add_servers(configured, Reach::Anywhere, now);
            for handed in self.handed.values() {
                self.reflexive.add_servers(handed, reach, now);
            }
        }
        self.configure_talkback(now);
    }
}
