//! Whole transcripts of a page's world: what goes in, and everything that comes out.

use super::*;
use std::net::IpAddr;

const RIGHT: &str = "a-room-name-that-nobody-guesses";

/// A page's world, and what a person would note of it.
struct World {
    pairing: Pairing,
    guesses: Guesses,
    now: Instant,
}

impl World {
    fn new(dialects: &[Dialect], endpoint: Endpoint) -> Self {
        let tutorials = Tutorials {
            dialects: dialects.to_vec(),
            rooms: vec![Secret::new(RIGHT.to_owned())],
            events: CallEvents::default(),
        };
        let guesser = Guesser {
            network: IpAddr::from([192, 0, 2, 1]),
            device: false,
        };
        let now = crate::clock::now();
        let opening = Opening::websocket("page".to_owned());
        Self {
            pairing: Pairing::new(Arc::new(tutorials), endpoint, opening, guesser, now),
            guesses: Guesses::default(),
            now,
        }
    }

    fn drain(&mut self) -> Vec<String> {
        let outputs = std::iter::from_fn(|| self.pairing.poll_output());
        let notes = outputs.map(|output| match output {
            Output::ToPage(text) => format!("to page: {text}"),
            Output::ClosePage => "close page".to_owned(),
            Output::Enter { room } => format!("enter {room}"),
            Output::ToRoom(text) => format!("to room: {text}"),
            Output::Leave => "leave".to_owned(),
        });
        notes.map(|n| n.replace(RIGHT, "ROOM")).collect()
    }

    fn page(&mut self, text: &str) -> Vec<String> {
        assert!(self.pairing.may_read(), "it waits");
        let text = text.replace("ROOM", RIGHT);
        self.pairing.handle_page(&text, &mut self.guesses, self.now);
        self.drain()
    }

    fn room(&mut self, text: &str) -> Vec<String> {
        self.pairing.handle_room(text, self.now);
        self.drain()
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        self.now += Duration::from_millis(ms);
        self.pairing.handle_timeout(&mut self.guesses, self.now);
        self.drain()
    }
}

const NONE: [&str; 0] = [];
const JOINED: &str = r#"{"type":"joined","device":"d1"}"#;
const ALONE: &str = r#"{"type":"joined","device":null}"#;
const OFFER: &str = r#"{"type":"offer","offer":{"type":"offer","sdp":"theirs"}}"#;
const ANSWER: &str = r#"{"type":"answer","answer":{"type":"answer","sdp":"theirs"}}"#;
const CALL: &str = r#"to room: {"type":"call"}"#;
const BYE: [&str; 3] = [r#"to room: {"type":"bye"}"#, "leave", "enter ROOM"];

/// Sets the world of a page up that has joined, and whose room has the device.
fn socketio_rooms() -> World {
    let mut world = World::new(&[Dialect::SocketioRooms], Endpoint::SocketIo);
    assert_eq!(
        world.drain(),
        [
            r#"to page: 0{"maxPayload":131072,"pingInterval":25000,"pingTimeout":20000,"sid":"page","upgrades":[]}"#
        ]
    );
    assert_eq!(world.page("40"), [r#"to page: 40{"sid":"page"}"#]);
    assert_eq!(world.page(r#"42["join","ROOM"]"#), ["enter ROOM"]);
    assert!(!world.pairing.may_read());
    assert_eq!(world.room(JOINED), [r#"to page: 42["joined"]"#]);
    world
}

#[test]
fn a_page_of_socketio_rooms_comes_second_and_is_offered() {
    let mut world = socketio_rooms();
    assert_eq!(world.page(r#"42["ready","ROOM"]"#), [CALL]);
    assert_eq!(
        world.room(OFFER),
        [r#"to page: 42["offer",{"sdp":"theirs","type":"offer"}]"#]
    );
    assert_eq!(
        world.page(r#"42["answer",{"type":"answer","sdp":"mine"},"ROOM"]"#),
        [r#"to room: {"answer":{"sdp":"mine","type":"answer"},"type":"answer"}"#]
    );
    let candidate = r#"{"type":"candidate","candidate":{"candidate":"candidate:1","sdpMid":"0"}}"#;
    assert_eq!(
        world.room(candidate),
        [r#"to page: 42["candidate",{"candidate":"candidate:1","sdpMid":"0"}]"#]
    );
    let candidate = r#"42["candidate",{"candidate":"candidate:2","sdpMid":"0"},"ROOM"]"#;
    assert_eq!(
        world.page(candidate),
        [r#"to room: {"candidate":{"candidate":"candidate:2","sdpMid":"0"},"type":"candidate"}"#]
    );
    assert_eq!(world.page(r#"42["candidate",null,"ROOM"]"#), NONE);
}

#[test]
fn a_page_that_leaves_and_joins_again_is_another_viewer() {
    let mut world = socketio_rooms();
    world.page(r#"42["ready","ROOM"]"#);
    world.wait(1_000);
    assert_eq!(world.page(r#"42["leave","ROOM"]"#), BYE);
    assert_eq!(world.room(JOINED), NONE);
    let joined = [r#"to page: 42["joined"]"#];
    assert_eq!(world.page(r#"42["join","ROOM"]"#), joined);
    assert_eq!(world.page(r#"42["ready","ROOM"]"#), [CALL]);
    assert_eq!(world.page(r#"42["ready","ROOM"]"#), [CALL], "once more");
}

#[test]
fn a_device_that_was_restarted_leaves_the_page_and_enters_anew() {
    let mut world = socketio_rooms();
    world.page(r#"42["ready","ROOM"]"#);
    world.room(r#"{"type":"connected","from":"device"}"#);
    assert_eq!(world.room(r#"{"type":"device-left"}"#), NONE);
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d2"}"#),
        [r#"to page: 42["leave"]"#, r#"to page: 42["ready"]"#]
    );
    assert_eq!(world.room(r#"{"type":"joined","device":"d2"}"#), NONE);
    assert_eq!(
        world.page(r#"42["offer",{"type":"offer","sdp":"mine"},"ROOM"]"#),
        [r#"to room: {"offer":{"sdp":"mine","type":"offer"},"type":"offer"}"#]
    );
}

#[test]
fn a_device_whose_connection_came_back_disturbs_no_page_that_sees_it() {
    let mut world = socketio_rooms();
    world.page(r#"42["ready","ROOM"]"#);
    world.room(r#"{"type":"connected","from":"device"}"#);
    world.room(r#"{"type":"device-left"}"#);
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d1"}"#),
        NONE
    );
    world.room(r#"{"type":"ended","from":"device"}"#);
    world.room(r#"{"type":"device-left"}"#);
    let told = world.room(r#"{"type":"device-joined","instance":"d1"}"#);
    assert_eq!(told.last().unwrap(), r#"to page: 42["ready"]"#);
}

#[test]
fn a_page_that_came_before_the_device_is_met_by_it() {
    let mut world = World::new(&[Dialect::SocketioRooms], Endpoint::SocketIo);
    world.page("40");
    world.page(r#"42["join","ROOM"]"#);
    assert_eq!(world.room(ALONE), [r#"to page: 42["created"]"#]);
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d1"}"#),
        [r#"to page: 42["ready"]"#]
    );
    assert_eq!(world.wait(4_000), [CALL], "the page did not offer");
}

#[test]
fn a_page_that_is_stuck_is_left_and_met_anew_once() {
    let mut world = World::new(&[Dialect::SocketioRooms], Endpoint::SocketIo);
    world.page("40");
    world.page(r#"42["join","ROOM"]"#);
    world.room(ALONE);
    world.room(r#"{"type":"device-joined","instance":"d1"}"#);
    world.wait(4_000);
    assert_eq!(
        world.wait(5_000),
        [r#"to page: 42["leave"]"#, r#"to page: 42["ready"]"#]
    );
    assert_eq!(world.wait(4_000), [CALL]);
    assert_eq!(world.wait(9_000), NONE, "it is left alone now");
}

#[test]
fn a_wrong_name_finds_nobody_and_makes_the_next_one_wait() {
    let mut world = World::new(&[Dialect::SocketioRooms], Endpoint::SocketIo);
    world.page("40");
    assert_eq!(
        world.page(r#"42["join","cam"]"#),
        [r#"to page: 42["created"]"#]
    );
    assert!(!world.pairing.is_inside());
    assert_eq!(world.page(r#"42["join","ROOM"]"#), NONE);
    assert!(!world.pairing.may_read(), "held");
    assert_eq!(world.wait(99), NONE);
    assert_eq!(world.wait(1), ["enter ROOM"]);
    assert_eq!(world.room(JOINED), [r#"to page: 42["joined"]"#]);
    assert!(world.pairing.is_inside());
}

#[test]
fn a_page_of_ws_rooms_may_offer_and_is_offered_where_it_does_not() {
    let mut world = World::new(
        &[Dialect::WsRooms, Dialect::WsBroadcast],
        Endpoint::WebSocket,
    );
    assert_eq!(world.page("junk"), NONE);
    assert_eq!(
        world.page(r#"{"type":"join","room":"ROOM"}"#),
        ["enter ROOM"]
    );
    let ready = r#"to page: {"room":"ROOM","type":"ready"}"#;
    assert_eq!(world.room(JOINED), [ready]);
    assert_eq!(world.wait(2_500), [CALL]);
    let offer = r#"{"type":"offer","offer":{"type":"offer","sdp":"mine"},"room":"ROOM"}"#;
    assert_eq!(
        world.page(offer),
        [r#"to room: {"offer":{"sdp":"mine","type":"offer"},"type":"offer"}"#]
    );
    assert_eq!(
        world.room(ANSWER),
        [r#"to page: {"answer":{"sdp":"theirs","type":"answer"},"room":"ROOM","type":"answer"}"#]
    );
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d2"}"#),
        [ready]
    );
}

#[test]
fn a_page_of_ws_broadcast_offers_and_is_offered_by_a_device_that_comes_later() {
    let both = [Dialect::WsRooms, Dialect::WsBroadcast];
    let mut world = World::new(&both, Endpoint::WebSocket);
    let offer = r#"{"sdp":{"type":"offer","sdp":"v=0\r\no=- 7 1 IN IP4 0.0.0.0\r\n"}}"#;
    assert_eq!(world.page(offer), ["enter ROOM"]);
    assert_eq!(
        world.room(JOINED),
        [
            r#"to room: {"offer":{"sdp":"v=0\r\no=- 7 1 IN IP4 0.0.0.0\r\n","type":"offer"},"type":"offer"}"#
        ],
        "the device had offered to nobody"
    );
    assert_eq!(
        world.room(ANSWER),
        [r#"to page: {"sdp":{"sdp":"theirs","type":"answer"}}"#]
    );
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d2"}"#),
        [CALL]
    );
    assert!(!world.pairing.is_inside(), "anybody could say that");
    world.room(r#"{"type":"connected","from":"device"}"#);
    assert!(world.pairing.is_inside());

    let mut world = World::new(&[Dialect::WsBroadcast], Endpoint::WebSocket);
    assert_eq!(world.drain(), ["enter ROOM"], "the page need not speak");
    assert_eq!(world.room(ALONE), NONE);
    assert_eq!(
        world.room(r#"{"type":"device-joined","instance":"d1"}"#),
        [CALL]
    );
}

#[test]
fn a_page_of_socketio_calls_is_called_and_told_from_one_of_rooms_by_its_first_event() {
    let both = [Dialect::SocketioRooms, Dialect::SocketioCalls];
    let mut world = World::new(&both, Endpoint::SocketIo);
    world.page("40");
    let join = r#"42["room:join",{"email":"e","room":"ROOM"}]"#;
    assert_eq!(world.page(join), ["enter ROOM"]);
    let echo = r#"to page: 42["room:join",{"email":"e","room":"ROOM"}]"#;
    assert_eq!(world.room(JOINED), [echo, CALL]);
    assert_eq!(
        world.room(OFFER),
        [
            r#"to page: 42["incomming:call",{"from":"device-1","offer":{"sdp":"theirs","type":"offer"}}]"#
        ]
    );
    assert_eq!(
        world.page(r#"42["call:accepted",{"to":"device-1","ans":{"type":"answer","sdp":"mine"}}]"#),
        [r#"to room: {"answer":{"sdp":"mine","type":"answer"},"type":"answer"}"#]
    );
}

#[test]
fn a_dialect_that_is_not_configured_is_not_heard() {
    let mut world = World::new(&[Dialect::WsRooms], Endpoint::WebSocket);
    assert_eq!(world.page(r#"{"sdp":{"type":"offer","sdp":"x"}}"#), NONE);
    let mut world = World::new(&[Dialect::SocketioCalls], Endpoint::SocketIo);
    world.page("40");
    assert_eq!(world.page(r#"42["join","ROOM"]"#), NONE);
}

#[test]
fn a_viewer_that_is_thrown_out_takes_its_page_along_and_one_that_is_not_let_in_does_not() {
    let mut world = socketio_rooms();
    world.pairing.handle_room_closed(world.now);
    assert_eq!(world.drain(), ["close page"]);

    let mut world = World::new(&[Dialect::WsRooms], Endpoint::WebSocket);
    world.page(r#"{"type":"join","room":"ROOM"}"#);
    world.room(r#"{"type":"error","code":"room-full","message":"full"}"#);
    world.pairing.handle_room_closed(world.now);
    assert_eq!(world.drain(), NONE);
    assert!(world.pairing.may_read());
}

#[test]
fn a_page_that_says_too_much_in_a_second_is_closed() {
    let mut world = World::new(&[Dialect::WsRooms], Endpoint::WebSocket);
    for _ in 0..MAX_MESSAGES_PER_SECOND {
        assert_eq!(world.page("junk"), NONE);
    }
    assert_eq!(world.page("junk"), ["close page"]);
    world.now += Duration::from_secs(1);
    let large = "x".repeat(100_000);
    assert_eq!(world.page(&large), NONE);
    world.page(&large);
    assert_eq!(world.page(&large), ["close page"]);
}

const FULL: &str = r#"{"type":"error","from":"device","code":"room-full","message":"full"}"#;

#[test]
fn a_page_for_which_there_is_no_place_is_left_and_met_again_until_there_is_one() {
    let mut world = socketio_rooms();
    world.page(r#"42["ready","ROOM"]"#);
    assert_eq!(world.room(FULL), [r#"to page: 42["leave"]"#]);
    for _ in 0..3 {
        assert_eq!(world.wait(4_999), NONE);
        assert_eq!(world.wait(1), [r#"to page: 42["ready"]"#]);
        let offer = r#"42["offer",{"type":"offer","sdp":"mine"},"ROOM"]"#;
        assert_eq!(world.page(offer).len(), 1);
        assert_eq!(world.room(FULL), [r#"to page: 42["leave"]"#]);
    }
    world.wait(5_000);
    world.room(r#"{"type":"connected","from":"device"}"#);
    assert_eq!(world.wait(4_000), NONE, "it has a place");
    assert_eq!(world.room(FULL), NONE, "that was about something else");
}

#[test]
fn a_page_of_ws_rooms_for_which_there_was_no_place_is_called_5_s_later() {
    let mut world = World::new(&[Dialect::WsRooms], Endpoint::WebSocket);
    world.page(r#"{"type":"join","room":"ROOM"}"#);
    world.room(JOINED);
    assert_eq!(world.wait(2_500), [CALL]);
    assert_eq!(world.room(FULL), NONE);
    let ready = r#"to page: {"room":"ROOM","type":"ready"}"#;
    assert_eq!(world.wait(5_000), [ready]);
    assert_eq!(world.wait(2_500), [CALL]);
}

#[test]
fn a_page_whose_viewer_was_not_let_in_meets_the_device_once_it_is() {
    let mut world = World::new(&[Dialect::SocketioRooms], Endpoint::SocketIo);
    world.page("40");
    world.page(r#"42["join","ROOM"]"#);
    let mut told = vec![r#"to page: 42["created"]"#];
    for _ in 0..3 {
        world.room(r#"{"type":"error","code":"room-full","message":"full"}"#);
        world.pairing.handle_room_closed(world.now);
        assert_eq!(world.drain(), told);
        told.clear();
        assert_eq!(world.wait(5_000), ["enter ROOM"]);
    }
    assert_eq!(world.room(JOINED), [r#"to page: 42["ready"]"#]);
}

#[test]
fn a_page_whose_media_ended_while_the_device_was_away_is_met_anew() {
    let connected = r#"{"type":"connected","from":"device"}"#;
    let ended = r#"{"type":"ended","from":"device"}"#;
    let left = r#"{"type":"device-left"}"#;
    let back = r#"{"type":"device-joined","instance":"d1"}"#;

    let mut world = World::new(&[Dialect::WsRooms], Endpoint::WebSocket);
    world.page(r#"{"type":"join","room":"ROOM"}"#);
    world.room(JOINED);
    world.wait(2_500);
    world.room(connected);
    world.room(left);
    assert_eq!(world.room(back), NONE);
    let ready = r#"to page: {"room":"ROOM","type":"ready"}"#;
    assert_eq!(world.room(ended), [ready]);
    assert_eq!(world.wait(2_500), [CALL]);

    world.room(connected);
    world.room(left);
    world.room(back);
    assert_eq!(world.room(connected), NONE, "it ran on");
    assert_eq!(world.room(ended), NONE, "the page hung up");

    let mut world = socketio_rooms();
    world.page(r#"42["ready","ROOM"]"#);
    world.room(connected);
    world.room(left);
    world.room(back);
    let anew = [r#"to page: 42["leave"]"#, r#"to page: 42["ready"]"#];
    assert_eq!(world.room(ended), anew);
}

#[test]
fn a_page_that_leaves_and_joins_in_a_loop_enters_our_rooms_once_a_second() {
    let mut world = socketio_rooms();
    assert_eq!(world.page(r#"42["ready","ROOM"]"#), [CALL]);
    let offer = |n: i32| format!(r#"42["offer",{{"type":"offer","sdp":"{n}"}},"ROOM"]"#);
    assert_eq!(world.page(&offer(0)).len(), 1);
    assert_eq!(world.page(r#"42["leave","ROOM"]"#), BYE[..2]);
    let joined = [r#"to page: 42["joined"]"#];
    for n in 1..=9 {
        assert_eq!(world.page(r#"42["join","ROOM"]"#), joined);
        assert_eq!(world.page(&offer(n)), NONE);
        assert_eq!(world.page(r#"42["leave","ROOM"]"#), NONE);
    }
    world.page(r#"42["join","ROOM"]"#);
    world.page(r#"42["ready","ROOM"]"#);
    assert_eq!(world.wait(999), NONE);
    let last = ["enter ROOM", CALL];
    assert_eq!(world.wait(1), last, "the last wish wins");
    assert_eq!(world.room(JOINED), NONE);
    assert_eq!(world.page(r#"42["leave","ROOM"]"#), BYE[..2]);
    assert_eq!(world.wait(1_000), ["enter ROOM"]);
}
