//! One viewer's machine against a browser over a simulated network.

use std::time::Duration;

use roomcam::control::protocol::{Command, MAX_MESSAGES_PER_SECOND};
use roomcam::rtp::{AudioFrame, SpeechPacket};
use roomcam::viewer::{Ended, ViewerEvent};

use crate::support::simulation::{AUDIO, FRAME, MICROPHONE, Simulation, UNIX_TIME, VIDEO, frame};

const SECOND: Duration = Duration::from_secs(1);

fn connected(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected) && s.channel_is_open();
    assert!(simulation.run_while_not(2 * SECOND, up), "connects");
    simulation
}

fn has_ended(simulation: &Simulation) -> bool {
    matches!(simulation.events.last(), Some(ViewerEvent::Ended(_)))
}

#[test]
fn a_viewer_connects_within_ten_round_trips() {
    let mut simulation = Simulation::new(1);
    let started = simulation.now;
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected);
    assert!(simulation.run_while_not(SECOND, up));
    let took = simulation.now - started;
    assert!(took <= simulation.path.delay * 20, "{took:?}");
}

#[test]
fn a_viewer_that_is_called_sees_hears_and_commands_like_one_that_offers() {
    let mut simulation = Simulation::called(20);
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected) && s.channel_is_open();
    assert!(simulation.run_while_not(2 * SECOND, up), "connects");
    simulation.stream(SECOND);
    simulation.send_pli();
    simulation.send_control(r#"{"id":1,"type":"set_muted","muted":true}"#);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
    assert!(simulation.events.contains(&ViewerEvent::KeyframeWanted));
    let commands = |e: &ViewerEvent| matches!(e, ViewerEvent::Command { id: 1, .. });
    assert!(simulation.events.iter().any(commands));
}

#[test]
fn a_viewer_that_was_called_can_renegotiate_and_restart_ice() {
    for restart_ice in [false, true] {
        let mut simulation = Simulation::called(21);
        let up = |s: &Simulation| s.channel_is_open();
        assert!(simulation.run_while_not(2 * SECOND, up), "connects");
        simulation.stream(SECOND);
        simulation.renegotiate(restart_ice);
        // The browser answered as DTLS's client, and stays it.
        assert!(!simulation.answer.contains("a=setup:active"));
        simulation.stream(10 * SECOND);
        simulation.run(SECOND);
        let (whole, sent) = (simulation.whole_frames(), simulation.frames_sent());
        assert!(
            whole + 10 >= sent,
            "{whole} of {sent}, restart {restart_ice}"
        );
        assert!(!has_ended(&simulation));
    }
}

#[test]
fn a_viewer_that_renegotiates_while_it_connects_connects() {
    for (seed, waits_ms) in [(24, 0), (25, 15), (26, 30), (27, 45), (28, 60), (29, 90)] {
        let mut simulation = Simulation::new(seed);
        simulation.run(Duration::from_millis(waits_ms));
        simulation.renegotiate(false);
        let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected) && s.channel_is_open();
        assert!(
            simulation.run_while_not(2 * SECOND, up),
            "after {waits_ms} ms"
        );
        simulation.stream(SECOND);
        simulation.run(SECOND);
        assert_eq!(simulation.whole_frames(), simulation.frames_sent());
    }
}

#[test]
fn a_viewer_that_would_send_its_own_picture_is_told_not_to() {
    let mut simulation = Simulation::strangers(23);
    let offer = simulation.browser_offers_with_tracks();
    assert_eq!(offer.matches("a=sendrecv").count(), 2, "{offer}");
    let answer = simulation.device_answers(&offer);
    assert_eq!(answer.matches("a=sendonly").count(), 2, "{answer}");
    assert_eq!(answer.matches("a=sendrecv").count(), 0, "{answer}");
    simulation.browser_accepts(answer);
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected);
    assert!(simulation.run_while_not(2 * SECOND, up), "connects");
    simulation.run(SECOND);
    simulation.stream(SECOND);
    simulation.renegotiate(false);
    simulation.stream(SECOND);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
}

/// A viewer with a microphone that is up.
fn with_microphone(seed: u64, talkback: bool) -> Simulation {
    let mut simulation = Simulation::with_microphone(seed, talkback);
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected) && s.channel_is_open();
    assert!(simulation.run_while_not(2 * SECOND, up), "connects");
    simulation.run(SECOND);
    simulation.events.clear();
    simulation
}

/// The browser says `packets`; returns those that came out of the viewer's machine.
fn heard(simulation: &mut Simulation, packets: std::ops::Range<u16>) -> Vec<SpeechPacket> {
    for n in packets {
        simulation.speak(n);
        simulation.run(Duration::from_millis(20));
    }
    simulation.run(SECOND);
    let events = simulation.events.drain(..);
    let speech = events.filter_map(|event| match event {
        ViewerEvent::Speech(packet) => Some(packet),
        _ => None,
    });
    speech.collect()
}

#[test]
fn a_viewer_is_heard_while_it_may_speak_and_not_before_nor_after() {
    let mut simulation = with_microphone(31, true);
    let answer = &simulation.answer;
    assert_eq!(answer.matches("a=sendrecv").count(), 1 + 1, "{answer}");
    assert_eq!(heard(&mut simulation, 0..50), []);
    simulation.viewer.set_talking(true);
    let speech = heard(&mut simulation, 50..100);
    let numbers: Vec<_> = speech.iter().map(|p| p.sequence_number).collect();
    assert_eq!(numbers, (50..100).collect::<Vec<_>>());
    assert!(speech.iter().all(|p| p.ssrc == MICROPHONE
        && p.timestamp == u32::from(p.sequence_number) * 960
        && p.payload[..] == [0x08, 1, 2, 3]));
    simulation.viewer.set_talking(false);
    assert_eq!(heard(&mut simulation, 100..150), []);
    simulation.stream(SECOND);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
}

#[test]
fn a_viewer_that_is_called_is_heard_while_it_may_speak_and_sees_all_the_while() {
    let mut simulation = Simulation::called_with_microphone(35);
    let up = |s: &Simulation| s.events.contains(&ViewerEvent::Connected) && s.channel_is_open();
    assert!(simulation.run_while_not(2 * SECOND, up), "connects");
    simulation.run(SECOND);
    simulation.events.clear();
    assert_eq!(heard(&mut simulation, 0..50), []);
    simulation.viewer.set_talking(true);
    assert_eq!(heard(&mut simulation, 50..100).len(), 50);
    simulation.viewer.set_talking(false);
    assert_eq!(heard(&mut simulation, 100..150), []);
    simulation.stream(SECOND);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
}

#[test]
fn a_viewer_that_renegotiates_is_still_heard() {
    let mut simulation = with_microphone(32, true);
    simulation.viewer.set_talking(true);
    assert_eq!(heard(&mut simulation, 0..10).len(), 10);
    simulation.renegotiate(false);
    simulation.run(SECOND);
    assert_eq!(heard(&mut simulation, 10..60).len(), 50);
}

#[test]
fn a_flood_of_speech_is_bounded() {
    let mut simulation = with_microphone(33, true);
    simulation.viewer.set_talking(true);
    for n in 0..1_000 {
        simulation.speak(n);
    }
    simulation.run(SECOND);
    let speech = |e: &&ViewerEvent| matches!(e, ViewerEvent::Speech(_));
    let heard = simulation.events.iter().filter(speech).count();
    assert!((1..=75).contains(&heard), "{heard}");
}

#[test]
fn without_talkback_a_viewer_is_told_to_send_nothing_and_is_not_heard() {
    let mut simulation = with_microphone(34, false);
    let answer = &simulation.answer;
    assert_eq!(answer.matches("a=sendonly").count(), 2, "{answer}");
    simulation.viewer.set_talking(true);
    assert_eq!(heard(&mut simulation, 0..50), []);
}

#[test]
fn nobody_who_takes_our_offer_is_no_failed_connection() {
    let mut simulation = Simulation::strangers(22);
    simulation.device_offers();
    assert!(simulation.run_while_not(61 * SECOND, has_ended));
    let ended = ViewerEvent::Ended(Ended::NeverAnswered);
    assert_eq!(simulation.events, [ended]);
}

#[test]
fn pictures_and_sound_arrive_whole_with_their_capture_times() {
    let mut simulation = connected(2);
    let start = simulation.now;
    simulation.stream(SECOND);
    for i in 0..50 {
        simulation.viewer.handle_audio(&AudioFrame {
            payload: vec![7; 80].into(),
            captured_at: start + Duration::from_millis(20) * i,
        });
    }
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
    let steps = |ssrc| {
        let packets = simulation.received.iter().filter(|p| p.ssrc == ssrc);
        let mut timestamps: Vec<_> = packets.map(|p| p.timestamp).collect();
        timestamps.dedup();
        let steps = timestamps.windows(2).map(|w| w[1].wrapping_sub(w[0]));
        steps.collect::<Vec<_>>()
    };
    assert!(steps(VIDEO).iter().all(|s| (2_999..=3_000).contains(s)));
    assert_eq!(steps(AUDIO), [960; 49]);
}

#[test]
fn picture_and_sound_of_one_moment_are_reported_as_such_however_long_each_was_on_its_way() {
    let mut simulation = connected(15);
    // An encoder that takes 90 ms, and a microphone that takes 30 ms.
    let (picture_takes, sound_takes) = (Duration::from_millis(90), Duration::from_millis(30));
    let step = Duration::from_millis(20);
    let began = (simulation.now - simulation.began_at + step).as_secs_f64();
    for i in 0..200 {
        simulation.run(step);
        let now = simulation.now;
        if i % 2 == 0 {
            let frame = frame(i == 0, 3_000, now - picture_takes);
            simulation.viewer.handle_video(&frame, now);
        }
        simulation.viewer.handle_audio(&AudioFrame {
            payload: vec![7; 80].into(),
            captured_at: now - sound_takes,
        });
    }
    simulation.run(SECOND);
    for (ssrc, rate_hz, takes) in [
        (VIDEO, 90_000.0, picture_takes),
        (AUDIO, 48_000.0, sound_takes),
    ] {
        let first = simulation.received.iter().find(|p| p.ssrc == ssrc).unwrap();
        let captured = began - takes.as_secs_f64();
        let reports = simulation.reported.iter().filter(|r| r.ssrc == ssrc);
        let reported: Vec<f64> = reports
            .map(|report| {
                let since = f64::from(report.timestamp.wrapping_sub(first.timestamp)) / rate_hz;
                seconds_since_the_beginning(report.ntp) - since
            })
            .collect();
        assert!(reported.len() >= 3, "{ssrc}: {reported:?}");
        let is_right = |at: &f64| (at - captured).abs() < 0.000_1;
        assert!(reported.iter().all(is_right), "{captured}: {reported:?}");
    }
}

/// Returns an NTP time, in seconds since a simulation began.
fn seconds_since_the_beginning(ntp: u64) -> f64 {
    let beginning = (UNIX_TIME.as_secs() + 2_208_988_800) << 32;
    (i128::from(ntp) - i128::from(beginning)) as f64 / 2_f64.powi(32)
}

#[test]
fn lost_packets_are_asked_for_and_sent_again() {
    let mut simulation = connected(3);
    simulation.stream(SECOND);
    simulation.path.loss_percent = 5;
    simulation.stream(10 * SECOND);
    simulation.path.loss_percent = 0;
    simulation.stream(SECOND);
    simulation.run(SECOND);
    let (whole, sent) = (simulation.whole_frames(), simulation.frames_sent());
    assert!(
        whole + 2 >= sent,
        "{whole} of {sent} frames are whole after 5 % loss"
    );
}

#[test]
fn a_keyframe_request_reaches_the_encoder() {
    let mut simulation = connected(4);
    simulation.stream(SECOND);
    simulation.events.clear();
    simulation.send_pli();
    simulation.run(SECOND);
    assert_eq!(simulation.events, [ViewerEvent::KeyframeWanted]);
}

#[test]
fn a_newcomer_gets_the_last_group_of_pictures_at_once_and_paced() {
    let mut simulation = connected(5);
    let now = simulation.now;
    // Five seconds of a camera that makes no keyframes on demand: 450 kB.
    let gop: Vec<_> = (0..150)
        .map(|i| frame(i == 0, 3_000, now - FRAME * (149 - i)))
        .collect();
    simulation.viewer.start_with(&gop, now);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), 150);
    let first = simulation.received.first().unwrap().clone();
    let last = simulation.received.last().unwrap().clone();
    let took = last.at - now;
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert!(
        last.at - first.at > Duration::from_millis(20),
        "not in one go"
    );
    let shown_over = last.timestamp.wrapping_sub(first.timestamp);
    assert_eq!(shown_over / 90, 149, "one millisecond a frame");
}

#[test]
fn a_viewer_that_missed_frames_resumes_at_a_keyframe() {
    let mut simulation = connected(6);
    simulation.stream(SECOND);
    simulation.run(SECOND);
    simulation.events.clear();
    simulation.viewer.handle_lag(3);
    simulation.viewer.handle_lag(3);
    let before = simulation.whole_frames();
    simulation.stream(SECOND);
    assert_eq!(
        simulation.events,
        [ViewerEvent::KeyframeWanted],
        "asked once"
    );
    assert_eq!(
        simulation.whole_frames(),
        before,
        "nothing it cannot decode"
    );
    let now = simulation.now;
    simulation
        .viewer
        .handle_video(&frame(true, 3_000, now), now);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), before + 1);
}

#[test]
fn the_picture_goes_on_through_renegotiation_and_ice_restart() {
    for restart_ice in [false, true] {
        let mut simulation = connected(14);
        simulation.stream(SECOND);
        simulation.renegotiate(restart_ice);
        simulation.stream(2 * SECOND);
        simulation.run(SECOND);
        let (whole, sent) = (simulation.whole_frames(), simulation.frames_sent());
        assert!(
            whole + 10 >= sent,
            "{whole} of {sent}, restart {restart_ice}"
        );
        assert!(!has_ended(&simulation));
        simulation.send_pli();
        simulation.events.clear();
        simulation.run(SECOND);
        assert_eq!(simulation.events, [ViewerEvent::KeyframeWanted]);
    }
}

#[test]
fn a_viewer_that_vanishes_is_noticed_within_15_seconds() {
    let mut simulation = connected(7);
    simulation.stream(SECOND);
    simulation.path.up = false;
    let lost_at = simulation.now;
    assert!(simulation.run_while_not(15 * SECOND, has_ended));
    let took = simulation.now - lost_at;
    assert!(took > 5 * SECOND, "not at once either: {took:?}");
    assert_eq!(
        simulation.events.last(),
        Some(&ViewerEvent::Ended(Ended::Gone))
    );
}

#[test]
fn a_short_outage_is_survived() {
    let mut simulation = connected(8);
    simulation.stream(SECOND);
    simulation.path.up = false;
    simulation.stream(3 * SECOND);
    simulation.path.up = true;
    let before = simulation.whole_frames();
    simulation.stream(2 * SECOND);
    assert!(simulation.whole_frames() > before + 55);
    assert!(!has_ended(&simulation));
}

#[test]
fn an_unreachable_viewer_is_given_up() {
    let mut simulation = Simulation::new(9);
    simulation.path.up = false;
    assert!(simulation.run_while_not(25 * SECOND, has_ended));
    assert_ne!(
        simulation.events.last(),
        Some(&ViewerEvent::Ended(Ended::Gone))
    );
}

#[test]
fn commands_are_handed_on_and_junk_is_answered() {
    let mut simulation = connected(10);
    simulation.run(SECOND);
    simulation.events.clear();
    simulation.send_control(r#"{"id":7,"type":"set_muted","muted":true}"#);
    simulation.send_control("junk");
    simulation.run(SECOND);
    let command = ViewerEvent::Command {
        id: 7,
        command: Command::SetMuted { muted: true },
    };
    assert_eq!(simulation.events, [command]);
    assert_eq!(simulation.control.len(), 1);
    assert!(simulation.control[0].contains("bad-command"));
}

#[test]
fn a_flood_of_commands_is_ignored_after_one_warning() {
    let mut simulation = connected(11);
    simulation.run(SECOND);
    simulation.events.clear();
    for id in 0..500 {
        simulation.send_control(&format!(r#"{{"id":{id},"type":"request_keyframe"}}"#));
    }
    simulation.run(Duration::from_millis(900));
    assert_eq!(simulation.events.len(), MAX_MESSAGES_PER_SECOND as usize);
    assert_eq!(simulation.control.len(), 1);
    assert!(simulation.control[0].contains("too-fast"));
}

#[test]
fn a_viewer_is_told_when_the_device_stops() {
    let mut simulation = connected(12);
    simulation.viewer.close();
    let closed = |s: &Simulation| !s.channel_is_open();
    assert!(simulation.run_while_not(SECOND, closed));
}

#[test]
fn junk_datagrams_end_nothing() {
    let mut simulation = connected(13);
    for length in 0..200_usize {
        for first in [0_u8, 1, 20, 22, 63, 64, 128, 191, 200, 255] {
            let mut junk = vec![0xa5; length];
            if let Some(byte) = junk.first_mut() {
                *byte = first;
            }
            simulation.inject(&junk);
        }
    }
    simulation.stream(SECOND);
    simulation.run(SECOND);
    assert_eq!(simulation.whole_frames(), simulation.frames_sent());
}

#[test]
fn a_file_arrives_whole_beside_pictures_that_are_not_late_for_it() {
    for (seed, loss_percent) in [(30, 0), (31, 5)] {
        let mut simulation = connected(seed);
        let file: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let now = simulation.now;
        simulation.path.loss_percent = loss_percent;
        simulation
            .viewer
            .send_file("announced", file.clone().into(), now);
        assert!(simulation.viewer.is_receiving());
        simulation.stream(2 * SECOND);
        let delay = simulation.path.delay;
        let lates = simulation
            .received
            .iter()
            .filter(|p| p.marker && p.ssrc == VIDEO);
        let count = lates.count();
        assert!(count >= 55, "{count} pictures in two seconds");
        assert!(delay < FRAME);
        simulation.stream(8 * SECOND);
        simulation.run(SECOND);
        assert_eq!(simulation.control, ["announced"]);
        assert!(simulation.file == file, "{} bytes", simulation.file.len());
        assert!(!simulation.viewer.is_receiving());
    }
}

#[test]
fn a_file_waits_while_nothing_gets_through_and_does_not_pile_up() {
    let mut simulation = connected(32);
    let now = simulation.now;
    let file = vec![7; 100_000];
    simulation.viewer.send_file("announced", file.into(), now);
    simulation.path.up = false;
    simulation.run(SECOND);
    assert!(simulation.viewer.is_receiving());
    simulation.path.up = true;
    let is_whole = |s: &Simulation| s.file.len() == 100_000;
    assert!(simulation.run_while_not(20 * SECOND, is_whole));
}
