//! A configuration that was read again → what of it takes effect now, and what at the next start.
//!
//! Nothing of it ends what viewers look at: capture threads open their sources anew, rooms are left
//! and joined while media goes on, and limits count for whoever comes next. What cannot change without
//! that waits: the UDP port that they are connected to, and what only a start means. Pure.

use crate::config::{Config, Control, WebRtc};

/// What a new configuration means for a running daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// The sections that change now.
    pub now: Vec<&'static str>,
    /// The rooms are left, and joined as configured; the embedded server starts anew.
    pub rooms: bool,
    /// What else is different: it counts from the next start.
    pub at_next_start: Vec<&'static str>,
}

/// Compares the configuration that runs with the new one.
#[must_use]
pub fn plan(running: &Config, new: &Config) -> Plan {
    // Each key by name: one that is added must be thought of here.
    let Config {
        video,
        audio,
        room,
        server,
        webrtc,
        control,
        talkback,
    } = new;
    let WebRtc {
        udp_port,
        advertised_addresses,
        ice_servers,
        turn,
        interfaces,
        max_viewers,
        latency,
    } = webrtc;
    let Control {
        camera,
        muted,
        idle_timeout_s,
    } = control;
    let old = &running.webrtc;
    // The room server hands these out.
    let servers = (&old.ice_servers, &old.turn) != (ice_servers, turn);
    let viewers =
        (&old.interfaces, old.max_viewers, old.latency) != (interfaces, *max_viewers, *latency);
    let now = [
        ("video", running.video != *video),
        ("audio", running.audio != *audio),
        ("room", running.room != *room),
        ("server", running.server != *server),
        ("webrtc", servers || viewers),
        ("control", running.control.idle_timeout_s != *idle_timeout_s),
        ("talkback", running.talkback != *talkback),
    ];
    let at_next_start = [
        ("webrtc.udp_port", old.udp_port != *udp_port),
        (
            "webrtc.advertised_addresses",
            old.advertised_addresses != *advertised_addresses,
        ),
        ("control.camera", running.control.camera != *camera),
        ("control.muted", running.control.muted != *muted),
    ];
    let named = |(what, differs): (&'static str, bool)| differs.then_some(what);
    Plan {
        now: now.into_iter().filter_map(named).collect(),
        rooms: running.room != *room || running.server != *server || servers,
        at_next_start: at_next_start.into_iter().filter_map(named).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_for(change: impl FnOnce(&mut Config)) -> Plan {
        let running = Config::default();
        let mut new = running.clone();
        change(&mut new);
        plan(&running, &new)
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        assert_eq!(plan_for(|_| {}), Plan::default());
    }

    #[test]
    fn pictures_sound_and_limits_change_under_the_eyes_of_viewers() {
        let plan = plan_for(|config| {
            config.video.source = "none".to_owned();
            config.audio.source = "tone".to_owned();
            config.webrtc.max_viewers = 2;
            config.control.idle_timeout_s = 60;
        });
        assert_eq!(plan.now, ["video", "audio", "webrtc", "control"]);
        assert!(!plan.rooms);
        assert!(plan.at_next_start.is_empty());
    }

    #[test]
    fn another_room_is_joined_while_media_goes_on() {
        let plan = plan_for(|config| config.room.name = "attic".to_owned());
        assert!(plan.rooms);
        assert_eq!((plan.now, plan.at_next_start), (vec!["room"], vec![]));
    }

    #[test]
    fn the_room_server_hands_out_other_turn_servers_when_it_starts_anew() {
        let plan = plan_for(|config| config.webrtc.turn.username = "me".to_owned());
        assert!(plan.rooms);
        assert_eq!(plan.now, ["webrtc"]);
    }

    #[test]
    fn what_viewers_are_connected_to_waits_for_a_restart() {
        let plan = plan_for(|config| {
            config.webrtc.udp_port = 8081;
            config.control.muted = true;
        });
        assert!(plan.now.is_empty() && !plan.rooms);
        assert_eq!(plan.at_next_start, ["webrtc.udp_port", "control.muted"]);
    }
}
