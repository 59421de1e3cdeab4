//! Tells the capture threads what to do, viewers what the device does, and systemd that we live.

use std::time::Instant;

use super::{Engine, HEARTBEAT, report};
use crate::control::Report;
use crate::control::protocol;

impl Engine {
    /// Tells the capture threads what to do, viewers what the device does, and systemd that we live.
    pub(super) fn publish(&mut self, now: Instant) {
        self.demand.handle_viewers(self.roster.viewers(), now);
        let wanted = self.demand.poll(now);
        let keyframe = self.keyframes.poll(now);
        let camera = self.device.camera;
        if !wanted {
            self.gop.clear();
        }
        let watched = self.roster.viewers() > 0;
        let off_since = self.off_since;
        // full: coalesced
        self.channels.video_request.send_if_modified(|request| {
            let run = wanted && camera;
            let changed = request.run != run
                || keyframe
                || request.watched != watched
                || request.off_since != off_since;
            request.run = run;
            request.watched = watched;
            request.off_since = off_since;
            request.bitrate_bps = self.options.video_bitrate_bps;
            request.keyframe_serial = request.keyframe_serial.wrapping_add(keyframe.into());
            changed
        });
        // While somebody speaks through the loudspeaker, the microphone would send it back.
        let muted = self.device.muted || self.floor.is_ducked(now);
        self.channels.audio_request.send_if_modified(|request| {
            let changed = request.run != wanted || request.muted != muted;
            request.run = wanted;
            request.muted = muted;
            changed
        });
        let report = self.report();
        if self.last_report.as_ref() != Some(&report) {
            let state = protocol::state(&report);
            for session in self.sessions.values_mut() {
                session.with(|viewer| viewer.send_control(&state, now));
            }
        }
        let rooms = (self.rooms_joined.len(), self.options.rooms.len());
        self.channels.pulse.send_if_modified(|pulse| {
            let due = now.saturating_duration_since(pulse.at) >= HEARTBEAT;
            let changed = due || self.last_report.as_ref() != Some(&report);
            if changed {
                pulse.at = now;
                pulse.summary = report::summary(&report, rooms);
            }
            changed
        });
        self.last_report = Some(report);
    }

    pub(super) fn report(&self) -> Report {
        let video = self.channels.video_status.borrow();
        let audio = self.channels.audio_status.borrow();
        report::report(
            self.device,
            self.roster.connected_viewers(),
            self.options.has_video.then_some(&*video),
            self.options.has_audio.then_some(&*audio),
            &self.floor,
        )
    }
}
