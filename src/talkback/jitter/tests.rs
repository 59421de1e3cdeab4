use super::*;

/// An Opus packet of 20 ms by its first byte, that says which it is.
fn opus(n: u32) -> Bytes {
    Bytes::from([&[0x08][..], &n.to_be_bytes()].concat())
}

fn packet(n: u32) -> SpeechPacket {
    SpeechPacket {
        ssrc: 7,
        sequence_number: u16::try_from((65_530 + n) % 65_536).unwrap(),
        timestamp: (u32::MAX - 3_000).wrapping_add(n * 960),
        payload: opus(n),
    }
}

fn pushed(numbers: impl IntoIterator<Item = u32>) -> Jitter {
    let mut jitter = Jitter::default();
    for n in numbers {
        jitter.push(packet(n));
    }
    jitter
}

/// What was pulled: a packet's number, `b` for what was lost before one, `l` for lost, `s` for silence.
fn told(step: &Step) -> String {
    let number = |payload: &Bytes| u32::from_be_bytes(payload[1..5].try_into().unwrap());
    match step {
        Step::Silence(_) => "s".to_owned(),
        Step::Packet { payload, .. } => number(payload).to_string(),
        Step::Before { payload, .. } => format!("b{}", number(payload)),
        Step::Lost(_) => "l".to_owned(),
    }
}

fn pull(jitter: &mut Jitter, times: usize) -> String {
    let steps: Vec<_> = (0..times).map(|_| told(&jitter.pull())).collect();
    steps.join(" ")
}

/// Plays `frames` of a sender whose packet `n` arrives when `arrives(n)` frames were pulled; returns
/// what was played, and the most that waited.
fn run(
    jitter: &mut Jitter,
    frames: u32,
    mut arrives: impl FnMut(u32) -> Option<f64>,
) -> Vec<String> {
    let mut schedule: Vec<(f64, u32)> = (0..frames)
        .filter_map(|n| arrives(n).map(|at| (at, n)))
        .collect();
    schedule.sort_by(|a, b| a.0.total_cmp(&b.0));
    let end = schedule.last().map_or(0.0, |(at, _)| *at);
    let mut arriving = schedule.into_iter().peekable();
    let mut played = 0.0;
    let mut steps = Vec::new();
    while played < end {
        while let Some((_, n)) = arriving.next_if(|(at, _)| *at <= played) {
            jitter.push(packet(n));
        }
        let step = jitter.pull();
        assert!(jitter.waiting() <= MAX_WAITING);
        let samples = match &step {
            Step::Packet {
                samples, stretch, ..
            } => f64::from(*samples) + f64::from(*stretch),
            Step::Silence(n) | Step::Lost(n) | Step::Before { samples: n, .. } => f64::from(*n),
        };
        played += samples / 960.0;
        steps.push(told(&step));
    }
    steps
}

fn count(steps: &[String], what: &str) -> usize {
    steps.iter().filter(|step| step.as_str() == what).count()
}

fn count_played(steps: &[String]) -> usize {
    let is_number = |step: &&String| step.parse::<u32>().is_ok();
    steps.iter().filter(is_number).count()
}

#[test]
fn the_first_word_waits_for_60_ms_of_sound_and_no_longer() {
    let mut jitter = pushed([0]);
    assert_eq!(pull(&mut jitter, 5), "s s s 0 l", "alone, it waits as long");
    let mut jitter = pushed([0, 1, 2]);
    assert_eq!(pull(&mut jitter, 3), "0 1 2");
    assert!(jitter.is_empty());
    assert_eq!(pull(&mut Jitter::default(), 2), "s s");
}

#[test]
fn packets_are_played_in_the_order_they_were_spoken_and_once() {
    let mut jitter = pushed([1, 0, 2, 2, 4, 3, 0]);
    assert_eq!(pull(&mut jitter, 5), "0 1 2 3 4");
}

#[test]
fn one_lost_packet_is_heard_from_its_successor() {
    let mut jitter = pushed([0, 1, 3, 4]);
    assert_eq!(pull(&mut jitter, 5), "0 1 b3 3 4");
}

#[test]
fn several_lost_packets_are_concealed_but_for_the_last() {
    let mut jitter = pushed([0, 1, 5, 6]);
    assert_eq!(pull(&mut jitter, 7), "0 1 l l b5 5 6");
}

#[test]
fn after_a_long_loss_it_goes_on_with_what_is_there() {
    let mut jitter = pushed([0, 1, 2]);
    assert_eq!(pull(&mut jitter, 3), "0 1 2");
    jitter.push(packet(9));
    assert_eq!(pull(&mut jitter, 1), "9");
}

#[test]
fn where_nothing_comes_the_last_sound_goes_on_for_100_ms() {
    let mut jitter = pushed([0, 1, 2]);
    assert_eq!(pull(&mut jitter, 10), "0 1 2 l l l l l s s");
}

#[test]
fn a_stutter_of_the_network_delays_and_swallows_nothing() {
    let mut jitter = pushed([0, 1, 2]);
    assert_eq!(pull(&mut jitter, 5), "0 1 2 l l");
    for n in 3..7 {
        jitter.push(packet(n));
    }
    assert_eq!(pull(&mut jitter, 4), "3 4 5 6");
}

#[test]
fn a_packet_that_comes_after_its_place_was_filled_is_dropped() {
    let mut jitter = pushed([0, 1, 3, 4]);
    assert_eq!(pull(&mut jitter, 3), "0 1 b3");
    jitter.push(packet(2));
    assert_eq!(pull(&mut jitter, 2), "3 4");
    let target = jitter.target;
    assert_eq!(target, FIRST_TARGET + FRAME, "later ones get more time");
}

#[test]
fn a_sender_that_pauses_on_purpose_is_silent_and_not_concealed() {
    let mut jitter = pushed([0, 1, 2]);
    for n in 0..3 {
        let mut after = packet(5 + n);
        after.sequence_number = packet(3 + n).sequence_number;
        jitter.push(after);
    }
    assert_eq!(pull(&mut jitter, 7), "0 1 2 s s 5 6");
}

#[test]
fn a_pause_of_any_length_starts_a_new_word() {
    let mut jitter = pushed([0, 1, 2]);
    assert_eq!(pull(&mut jitter, 9), "0 1 2 l l l l l s");
    for n in 50..53 {
        let mut after = packet(n);
        after.sequence_number = packet(n - 47).sequence_number;
        jitter.push(after);
    }
    assert_eq!(pull(&mut jitter, 3), "50 51 52");
}

#[test]
fn a_sender_that_begins_anew_is_followed() {
    for change in [
        |p: &mut SpeechPacket| p.ssrc = 8,
        |p: &mut SpeechPacket| p.timestamp = p.timestamp.wrapping_add(1 << 30),
        |p: &mut SpeechPacket| p.timestamp = p.timestamp.wrapping_sub(1 << 30),
    ] {
        let mut jitter = pushed(0..5);
        assert_eq!(pull(&mut jitter, 2), "0 1");
        for n in 20..23 {
            let mut other = packet(n);
            change(&mut other);
            jitter.push(other);
        }
        assert_eq!(pull(&mut jitter, 3), "20 21 22");
    }
}

#[test]
fn a_burst_never_makes_more_wait_than_200_ms() {
    let mut jitter = pushed([0, 1, 2]);
    pull(&mut jitter, 1);
    for n in 3..60 {
        jitter.push(packet(n));
        assert!(jitter.waiting() <= MAX_WAITING);
    }
    let steps = pull(&mut jitter, 8);
    assert!(steps.contains("57 58 59"), "the newest is played: {steps}");
}

#[test]
fn a_flood_is_bounded_whatever_it_is_made_of() {
    let mut jitter = Jitter::default();
    let mut random = 1_u32;
    for n in 0..20_000_u32 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let payload = if n % 7 == 0 {
            Bytes::from(random.to_be_bytes().to_vec())
        } else {
            opus(n)
        };
        jitter.push(SpeechPacket {
            ssrc: random >> 31,
            sequence_number: u16::try_from(random >> 16).unwrap(),
            timestamp: if n % 1_000 < 500 { n } else { random },
            payload,
        });
        assert!(jitter.packets.len() <= MAX_PACKETS);
        if n % 3 == 0 {
            jitter.pull();
        }
    }
}

#[test]
fn a_steady_network_loses_nothing_and_is_not_stretched() {
    let mut jitter = Jitter::default();
    let steps = run(&mut jitter, 1_000, |n| Some(f64::from(n)));
    assert_eq!(count_played(&steps), 997, "all but those that wait");
    assert_eq!(count(&steps, "l"), 0);
    assert_eq!(jitter.stretch, 0);
}

#[test]
fn a_jittery_network_is_smoothed() {
    let mut random = 1_u32;
    let mut jitter = Jitter::default();
    let steps = run(&mut jitter, 3_000, |n| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Up to 60 ms late.
        Some(f64::from(n) + f64::from(random >> 16) / 65_536.0 * 3.0)
    });
    let missed = steps.iter().filter(|s| s.starts_with(['l', 'b'])).count();
    assert!(missed <= 20, "{missed} of {} frames", steps.len());
    assert!(count_played(&steps) >= 2_970, "{}", count_played(&steps));
}

#[test]
fn a_tenth_of_all_packets_lost_is_made_up_for() {
    let mut jitter = Jitter::default();
    let steps = run(&mut jitter, 1_000, |n| {
        (n % 10 != 5).then_some(f64::from(n))
    });
    let recovered = steps.iter().filter(|step| step.starts_with('b')).count();
    assert!(recovered >= 99, "{recovered}");
    assert!(count(&steps, "l") <= 1);
}

#[test]
fn a_sender_whose_clock_is_off_is_kept_up_with() {
    for ppm in [-500.0, -100.0, 100.0, 500.0] {
        let mut jitter = Jitter::default();
        // Ten minutes: uncompensated, 300 ms.
        let steps = run(&mut jitter, 30_000, |n| {
            Some(f64::from(n) * (1.0 - ppm / 1_000_000.0))
        });
        let lost = steps.iter().filter(|s| s.starts_with(['l', 'b'])).count();
        assert!(lost <= 2, "{ppm} ppm: {lost}");
        assert!(count_played(&steps) >= 29_980, "{ppm} ppm");
    }
}

#[test]
fn delay_that_a_stutter_left_is_made_up_within_seconds() {
    let mut jitter = Jitter::default();
    // Nothing comes for 120 ms, then all of it.
    let arrives = |n: u32| Some(f64::from(if (100..106).contains(&n) { 106 } else { n }));
    let steps = run(&mut jitter, 600, arrives);
    assert!(count_played(&steps) >= 595, "nothing is swallowed");
    assert!(jitter.waiting() <= 5 * FRAME, "{}", jitter.waiting());
}
