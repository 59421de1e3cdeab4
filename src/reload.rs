//! A configuration that was read again → what of it takes effect now, and what at the next start.
//!
//! Pictures and sound change while viewers watch: the capture threads open their sources anew. The
//! rest is where viewers are connected to; it waits, rather than end what they look at. Pure.

use crate::config::Config;

/// What a new configuration means for a running daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// `[video]` changes now.
    pub video: bool,
    /// `[audio]` changes now.
    pub audio: bool,
    /// What else is different: it counts from the next start.
    pub at_next_start: Vec<&'static str>,
}

/// Compares the configuration that runs with the new one.
#[must_use]
pub fn plan(running: &Config, new: &Config) -> Plan {
    // Each section by name: one that is added must be thought of here.
    let Config {
        video,
        audio,
        room,
        server,
        webrtc,
        control,
    } = new;
    // A stream that viewers were not offered cannot appear, and an offered one cannot go.
    let is_there = |source: &str| source != "none";
    let same_streams = (
        is_there(&running.video.source) == is_there(&video.source),
        is_there(&running.audio.source) == is_there(&audio.source),
    );
    let waiting = [
        ("video.source", !same_streams.0),
        ("audio.source", !same_streams.1),
        ("room", running.room != *room),
        ("server", running.server != *server),
        ("webrtc", running.webrtc != *webrtc),
        ("control", running.control != *control),
    ];
    let waiting = waiting.into_iter().filter(|(_, differs)| *differs);
    Plan {
        video: same_streams.0 && running.video != *video,
        audio: same_streams.1 && running.audio != *audio,
        at_next_start: waiting.map(|(what, _)| what).collect(),
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
    fn pictures_and_sound_change_under_the_eyes_of_viewers() {
        let plan = plan_for(|config| {
            config.video.bitrate_kbps = 500;
            config.audio.source = "tone".to_owned();
        });
        assert!(plan.video && plan.audio);
        assert!(plan.at_next_start.is_empty());
    }

    #[test]
    fn what_viewers_are_connected_to_waits_for_a_restart() {
        let plan = plan_for(|config| {
            config.webrtc.max_viewers = 2;
            config.room.name = "attic".to_owned();
        });
        assert!(!plan.video && !plan.audio);
        assert_eq!(plan.at_next_start, ["room", "webrtc"]);
    }

    #[test]
    fn a_stream_that_was_not_offered_waits_for_a_restart() {
        let plan = plan_for(|config| config.audio.source = "none".to_owned());
        assert!(!plan.audio);
        assert_eq!(plan.at_next_start, ["audio.source"]);
    }
}
