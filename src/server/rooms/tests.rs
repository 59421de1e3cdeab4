use super::*;
use crate::config::{Turn, WebRtc};
use crate::signaling::IceServer;

const V: ClientId = ClientId(1);
const W: ClientId = ClientId(2);
const D: ClientId = ClientId(0xd);
const E: ClientId = ClientId(0xe);

const V_ID: &str = "v-0000000000000001";

/// A server with its own time.
struct World {
    rooms: Rooms,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let key = |text: &str| Secret::new(text.to_owned());
        Self {
            rooms: Rooms::new(key("see"), key("be seen"), Vec::new()),
            now: crate::clock::now(),
        }
    }

    fn open(&mut self, client: ClientId) {
        let address = IpAddr::from([192, 0, 2, 1]);
        self.rooms.handle_opened(client, address, self.now);
    }

    /// Lets `client` say `text`; returns everything that comes of it.
    fn say(&mut self, client: ClientId, text: &str) -> Vec<String> {
        self.rooms.handle_message(client, text.as_bytes(), self.now);
        self.drain()
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.rooms.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let outputs = std::iter::from_fn(|| self.rooms.poll_output());
        outputs
            .map(|output| match output {
                Output::Send { client, text, .. } => format!("{:x} {text}", client.0),
                Output::Close { client } => format!("{:x} closed", client.0),
            })
            .collect()
    }

    fn viewer(&mut self, client: ClientId) -> Vec<String> {
        self.open(client);
        self.say(client, &viewer_join("see"))
    }

    fn device(&mut self, client: ClientId, instance: &str) -> Vec<String> {
        self.open(client);
        self.say(client, &device_join("be seen", instance))
    }
}

fn viewer_join(key: &str) -> String {
    format!(r#"{{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"{key}"}}"#)
}

fn device_join(key: &str, instance: &str) -> String {
    format!(
        r#"{{"type":"join","protocol":1,"role":"device","room":"cam","key":"{key}","instance":"{instance}"}}"#
    )
}

const OFFER: &str = r#"{"type":"offer","offer":{"type":"offer","sdp":"v=0"}}"#;
const CANDIDATE: &str = r#"{"type":"candidate","candidate":{"candidate":"candidate:1"}}"#;

const WRONG_KEY: &str =
    r#"1 {"type":"error","code":"wrong-key","message":"no such room for this key"}"#;

#[test]
fn a_viewer_and_a_device_hear_of_each_other_whoever_comes_first() {
    let mut w = World::new();
    let joined = r#"1 {"type":"joined","protocol":1,"room":"cam","id":"v-0000000000000001","ice_servers":[],"device":null}"#;
    assert_eq!(w.viewer(V), [joined]);
    let expected = [
        r#"d {"type":"joined","protocol":1,"room":"cam","id":"d-000000000000000d","ice_servers":[],"viewers":["v-0000000000000001"]}"#,
        r#"1 {"type":"device-joined","instance":"i"}"#,
    ];
    assert_eq!(w.device(D, "i"), expected);
    let expected = [
        r#"2 {"type":"joined","protocol":1,"room":"cam","id":"v-0000000000000002","ice_servers":[],"device":"i"}"#,
        r#"d {"type":"viewer-joined","id":"v-0000000000000002"}"#,
    ];
    assert_eq!(w.viewer(W), expected);
}

#[test]
fn ice_servers_are_for_those_who_are_inside() {
    let turn = IceServer {
        urls: vec!["turn:turn.example".to_owned()],
        username: Some("u".to_owned()),
        credential: Some("p".to_owned()),
    };
    let mut w = World::new();
    w.rooms.ice_servers = vec![turn].into();
    w.open(V);
    assert_eq!(w.say(V, &viewer_join("no")), [WRONG_KEY, "1 closed"]);
    let joined = w.device(D, "i").concat();
    let expected =
        r#""ice_servers":[{"urls":["turn:turn.example"],"username":"u","credential":"p"}]"#;
    assert!(joined.contains(expected), "{joined}");
}

#[test]
fn who_stays_is_handed_new_credentials_before_the_old_ones_expire() {
    let mut w = World::new();
    let turn = Turn {
        urls: vec!["turn:turn.example".to_owned()],
        secret: Secret::new("north".to_owned()),
        lifetime_s: 600,
        ..Turn::default()
    };
    let webrtc = WebRtc {
        turn,
        ..WebRtc::default()
    };
    w.rooms.ice_servers = IceServers::new(&webrtc, || Duration::from_secs(5_000));
    w.device(D, "i");
    let joined = w.viewer(V).concat();
    assert!(
        joined.contains(r#""username":"5600:v-0000000000000001""#),
        "{joined}"
    );
    assert!(w.pass(Duration::from_secs(299)).is_empty());
    for _ in 0..3 {
        let renewed = w.pass(Duration::from_secs(300)).join(" ");
        for id in ["d-000000000000000d", "v-0000000000000001"] {
            assert!(renewed.contains(&format!("5600:{id}")), "{renewed}");
        }
    }
    w.rooms.handle_closed(V);
    w.rooms.handle_closed(D);
    w.pass(Duration::from_secs(300));
    assert_eq!(w.rooms.poll_timeout(), None, "nobody is there");
}

#[test]
fn offers_answers_and_candidates_find_their_way() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    let offer =
        r#"d {"type":"offer","from":"v-0000000000000001","offer":{"type":"offer","sdp":"v=0"}}"#;
    assert_eq!(w.say(V, OFFER), [offer]);
    let answer = format!(
        r#"{{"type":"answer","to":"{V_ID}","x":1,"answer":{{"type":"answer","sdp":"v=0"}}}}"#
    );
    let expected = r#"1 {"type":"answer","from":"device","answer":{"type":"answer","sdp":"v=0"}}"#;
    assert_eq!(w.say(D, &answer), [expected]);
    let candidate = r#"{"type":"candidate","candidate":{"candidate":"candidate:1 …","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"Zs"}}"#;
    let expected = r#"d {"type":"candidate","from":"v-0000000000000001","candidate":{"candidate":"candidate:1 …","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"Zs"}}"#;
    assert_eq!(w.say(V, candidate), [expected]);
    let end = format!(r#"{{"type":"candidate","to":"{V_ID}","candidate":null}}"#);
    let expected = r#"1 {"type":"candidate","from":"device","candidate":null}"#;
    assert_eq!(w.say(D, &end), [expected]);
    let full = format!(r#"{{"type":"error","to":"{V_ID}","code":"room-full","message":"8"}}"#);
    let expected = r#"1 {"type":"error","code":"room-full","message":"8","from":"device"}"#;
    assert_eq!(w.say(D, &full), [expected]);
}

#[test]
fn nothing_is_relayed_between_viewers_or_into_another_room() {
    let mut w = World::new();
    w.viewer(V);
    w.viewer(W);
    assert_eq!(w.say(V, CANDIDATE), [""; 0]);
    w.open(D);
    w.say(D, &device_join("be seen", "i").replace("cam", "other"));
    let answer =
        format!(r#"{{"type":"answer","to":"{V_ID}","answer":{{"type":"answer","sdp":""}}}}"#);
    assert_eq!(w.say(D, &answer), [""; 0]);
}

#[test]
fn a_message_to_someone_who_is_gone_is_dropped_but_an_offer_is_told() {
    let mut w = World::new();
    w.viewer(V);
    let none = r#"1 {"type":"error","code":"no-device","message":"no device is in this room"}"#;
    assert_eq!(w.say(V, OFFER), [none]);
    assert_eq!(w.say(V, CANDIDATE), [""; 0]);
    w.device(D, "i");
    let answer = OFFER
        .replace("offer", "answer")
        .replacen('{', r#"{"to":"v-9","#, 1);
    assert_eq!(w.say(D, &answer), [""; 0]);
}

#[test]
fn a_viewer_that_calls_is_offered_and_told_of_its_media() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    let called = w.say(V, r#"{"type":"call"}"#);
    let id = called[0].split('"').nth(7).unwrap().to_owned();
    assert_eq!(called, [format!(r#"d {{"type":"call","from":"{id}"}}"#)]);
    let to_viewer = |text: &str| text.replacen('{', &format!(r#"{{"to":"{id}","#), 1);
    let answer = OFFER.replace("offer", "answer");
    let relayed = |who: &str, from: &str, text: &str| {
        [format!(
            "{who} {}",
            text.replacen(',', &format!(r#","from":"{from}","#), 1)
        )]
    };
    assert_eq!(w.say(D, &to_viewer(OFFER)), relayed("1", "device", OFFER));
    assert_eq!(w.say(V, &answer), relayed("d", &id, &answer));
    for news in ["connected", "ended"] {
        let told = w.say(D, &to_viewer(&format!(r#"{{"type":"{news}"}}"#)));
        assert_eq!(told, [format!(r#"1 {{"type":"{news}","from":"device"}}"#)]);
    }
}

#[test]
fn each_side_says_only_what_is_its_to_say() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    let wrong = |who, what| {
        [format!(
            r#"{who} {{"type":"error","code":"bad-message","message":"{what}"}}"#
        )]
    };
    let call = r#"{"type":"call"}"#;
    assert_eq!(w.say(D, call), wrong("d", "only a viewer calls"));
    let ended = r#"{"type":"ended"}"#;
    assert_eq!(w.say(V, ended), wrong("1", "only a device says this"));
    let answer = OFFER.replace("offer", "answer");
    assert_eq!(w.say(D, &answer), wrong("d", "`to` is missing"));
    assert_eq!(
        w.say(V, "{"),
        wrong(
            "1",
            "not JSON: EOF while parsing an object at line 1 column 1"
        )
    );
    assert_eq!(w.say(V, r#"{"type":"x"}"#), wrong("1", "unknown `type`"));
    let again = viewer_join("see");
    assert_eq!(w.say(V, &again), wrong("1", "join: joined already"));
}

#[test]
fn a_wrong_key_opens_nothing_whether_the_room_exists_or_not() {
    let mut w = World::new();
    w.open(V);
    assert_eq!(w.say(V, &viewer_join("be seen")), [WRONG_KEY, "1 closed"]);
    let mut w = World::new();
    w.device(D, "i");
    w.open(V);
    assert_eq!(w.say(V, &viewer_join("")), [WRONG_KEY, "1 closed"]);
    w.open(E);
    let expected = [WRONG_KEY.replacen('1', "e", 1), "e closed".to_owned()];
    assert_eq!(w.say(E, &device_join("see", "j")), expected);
}

#[test]
fn after_a_wrong_key_even_a_right_one_waits_and_nothing_said_meanwhile_counts() {
    let mut w = World::new();
    w.open(V);
    w.say(V, &viewer_join("wrong"));
    w.open(W);
    assert_eq!(w.say(W, &viewer_join("see")), [""; 0]);
    assert_eq!(w.say(W, OFFER), [""; 0]);
    assert_eq!(
        w.rooms.poll_timeout(),
        Some(w.now + Duration::from_millis(100))
    );
    assert_eq!(w.pass(Duration::from_millis(99)), [""; 0]);
    assert!(w.pass(Duration::from_millis(1))[0].starts_with(r#"2 {"type":"joined""#));
    w.open(D);
    let joined = w.say(D, &device_join("be seen", "i"));
    assert!(
        joined[0].starts_with(r#"d {"type":"joined""#),
        "devices wait apart"
    );
}

#[test]
fn whoever_leaves_is_missed_with_the_reason() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    w.viewer(W);
    let left = r#"d {"type":"viewer-left","id":"v-0000000000000001","reason":"bye"}"#;
    assert_eq!(w.say(V, r#"{"type":"bye"}"#), [left, "1 closed"]);
    w.rooms.handle_closed(V);
    assert_eq!(w.drain(), [""; 0]);
    w.rooms.handle_closed(W);
    let lost = r#"d {"type":"viewer-left","id":"v-0000000000000002","reason":"lost"}"#;
    assert_eq!(w.drain(), [lost]);
    w.viewer(V);
    w.rooms.handle_closed(D);
    assert_eq!(w.drain(), [r#"1 {"type":"device-left"}"#]);
    w.rooms.handle_closed(V);
    assert!(w.rooms.rooms.is_empty() && w.rooms.clients.is_empty());
}

#[test]
fn a_second_device_is_refused_and_the_same_one_takes_its_own_place() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    let refused =
        r#"e {"type":"error","code":"room-has-device","message":"there is a device in this room"}"#;
    assert_eq!(w.device(E, "j"), [refused, "e closed"]);
    w.rooms.handle_closed(E);
    let back = w.device(E, "i");
    assert!(back[0].starts_with(r#"e {"type":"joined""#));
    let expected = [r#"1 {"type":"device-joined","instance":"i"}"#, "d closed"];
    assert_eq!(back[1..], expected);
    w.rooms.handle_closed(D);
    assert_eq!(w.drain(), [""; 0], "the old connection is not missed");
    assert!(w.say(V, OFFER)[0].starts_with("e "));
}

#[test]
fn a_room_takes_64_viewers() {
    let mut w = World::new();
    for n in 0..64 {
        assert!(w.viewer(ClientId(100 + n))[0].contains("joined"));
    }
    let full = r#"1 {"type":"error","code":"room-full","message":"the room is full"}"#;
    assert_eq!(w.viewer(V), [full, "1 closed"]);
}

#[test]
fn whoever_does_not_join_within_5_s_or_says_something_else_is_closed() {
    let mut w = World::new();
    w.open(V);
    assert_eq!(w.pass(Duration::from_millis(4999)), [""; 0]);
    let late = r#"1 {"type":"error","code":"join-timeout","message":"no `join` within 5 seconds"}"#;
    assert_eq!(w.pass(Duration::from_millis(1)), [late, "1 closed"]);
    assert_eq!(w.rooms.poll_timeout(), None);
    w.open(W);
    let first =
        r#"2 {"type":"error","code":"bad-message","message":"the first message is a `join`"}"#;
    assert_eq!(w.say(W, OFFER), [first, "2 closed"]);
    assert_eq!(w.say(W, &viewer_join("see")), [""; 0]);
}

#[test]
fn the_51st_message_in_a_second_closes_and_a_slower_sender_stays() {
    let mut w = World::new();
    w.viewer(V);
    for _ in 0..49 {
        assert_eq!(w.say(V, CANDIDATE), [""; 0]);
    }
    let fast =
        r#"1 {"type":"error","code":"too-fast","message":"more than 50 messages in a second"}"#;
    assert_eq!(w.say(V, CANDIDATE), [fast, "1 closed"]);
    w.viewer(W);
    for _ in 0..500 {
        assert!(w.say(W, OFFER)[0].contains("no-device"));
        w.pass(Duration::from_millis(21));
    }
}

/// An offer of so many bytes.
fn large_offer(bytes: usize) -> String {
    OFFER.replace("v=0", &"v".repeat(bytes + 3 - OFFER.len()))
}

#[test]
fn a_viewer_that_says_more_than_256_kib_in_a_second_is_closed_and_a_slower_one_stays() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    for _ in 0..20 {
        w.pass(Duration::from_secs(1));
        for _ in 0..2 {
            let relayed = w.say(V, &large_offer(100_000));
            assert!(relayed[0].starts_with(r#"d {"type":"offer""#));
        }
    }
    let fast =
        r#"1 {"type":"error","code":"too-fast","message":"more than 262144 bytes in a second"}"#;
    let left = format!(r#"d {{"type":"viewer-left","id":"{V_ID}","reason":"lost"}}"#);
    assert_eq!(
        w.say(V, &large_offer(100_000)),
        [fast, &left, "1 closed"],
        "and the device stays"
    );
}

#[test]
fn a_device_that_is_flooded_stays_in_its_room_and_the_viewer_leaves() {
    let mut w = World::new();
    w.device(D, "i");
    w.viewer(V);
    w.rooms.handle_message(V, OFFER.as_bytes(), w.now);
    let Some(Output::Send { viewer, .. }) = w.rooms.poll_output() else {
        panic!("the offer is not relayed");
    };
    w.rooms.handle_overflow(viewer.unwrap());
    let told = w.drain();
    assert!(told[0].starts_with(r#"1 {"type":"error","code":"too-fast""#));
    assert!(told[1].starts_with(r#"d {"type":"viewer-left""#));
    assert_eq!(told[2..], ["1 closed"]);
    assert!(w.rooms.is_inside(D) && !w.rooms.is_inside(V));
}

#[test]
fn a_device_may_say_50_messages_for_each_of_its_viewers() {
    let mut w = World::new();
    for n in 0..8 {
        w.viewer(ClientId(100 + n));
    }
    w.device(D, "i");
    let end = format!(r#"{{"type":"candidate","to":"{V_ID}","candidate":null}}"#);
    for _ in 0..399 {
        assert_eq!(w.say(D, &end), [""; 0]);
    }
    assert!(w.say(D, &end)[0].contains("too-fast"));
}

#[test]
fn two_hundred_candidates_are_enough_for_one_offer() {
    let mut w = World::new();
    w.viewer(V);
    let mut say = |text: &str| {
        w.pass(Duration::from_millis(30));
        w.say(V, text).concat()
    };
    for _ in 0..2 {
        say(OFFER);
        for _ in 0..200 {
            assert_eq!(say(CANDIDATE), "");
        }
    }
    assert!(say(CANDIDATE).contains("too-fast"));
}

#[test]
fn a_message_that_is_too_large_closes() {
    let mut w = World::new();
    w.viewer(V);
    w.rooms.handle_too_large(V);
    let large = r#"1 {"type":"error","code":"too-large","message":"over 131072 bytes"}"#;
    assert_eq!(w.drain(), [large, "1 closed"]);
}

#[test]
fn a_message_that_the_device_could_not_read_closes_its_viewer_and_not_the_device() {
    let mut world = World::new();
    world.device(D, "i");
    world.viewer(V);
    let largest = MAX_MESSAGE_BYTES - r#","from":"""#.len() - V_ID.len();
    let told = world.say(V, &large_offer(largest));
    assert_eq!(told[0].len(), "d ".len() + MAX_MESSAGE_BYTES);
    world.now += Duration::from_secs(1);
    assert_eq!(
        world.say(V, &large_offer(largest + 1)),
        [
            r#"1 {"type":"error","code":"too-large","message":"over 131072 bytes"}"#.to_owned(),
            format!(r#"d {{"type":"viewer-left","id":"{V_ID}","reason":"lost"}}"#),
            "1 closed".to_owned(),
        ]
    );
}

#[test]
fn any_bytes_leave_the_server_standing() {
    let mut w = World::new();
    let mut seed = 1_u64;
    for n in 0..20_000 {
        let client = ClientId(n % 7);
        if n % 11 < 2 {
            w.rooms.handle_closed(client);
            w.open(client);
        }
        let mut bytes = viewer_join("see").into_bytes();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
        bytes[at] = seed.to_le_bytes()[3];
        w.rooms.handle_message(client, &bytes, w.now);
        w.pass(Duration::from_millis(7));
    }
    assert!(w.rooms.clients.len() <= 7);
}
