//! The device in the rooms of others, watched by their pages: every dialect, every situation.
//!
//! The situations are functions of a [`Kind`]; below, each kind lists those that its protocol has. What
//! it has not: on a bus nobody is third, for all hear everything; and Ayame closes both connections when
//! one goes, whereupon its pages end their call and have to join again.

use std::time::{Duration, Instant};

use crate::speaking::{KEPT, Loudspeaker};
use crate::support::device::Device;
use crate::support::peers::{Browser, Page, Report, RoomServer};

/// From joining to the first picture, beside what a protocol makes one wait.
const FIRST_PICTURE: Duration = Duration::from_millis(1_500);

/// The same where it is measured once, on a machine that is busy with other tests.
const FIRST_PICTURE_WHILE_BUSY: Duration = Duration::from_secs(5);

/// How often a page may try to see its first picture in time.
const ATTEMPTS: u32 = 4;

/// How long a device may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// A kind of room server, a page for it, and what they are to the device.
#[derive(Debug)]
struct Kind {
    server: &'static [&'static str],
    page: &'static str,
    dialect: &'static str,
    /// Further arguments of the device.
    arguments: &'static [&'static str],
    /// What the person at a page that is there already does when the device comes.
    greeting: &'static str,
    /// And what is to be remembered of the device when it goes.
    farewell: &'static str,
    waits: Waits,
}

/// What the protocol, or the browser, makes one wait for the first picture.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// Device or viewer is new.
    new: Duration,
    /// The device was stopped, and has returned to a viewer that stayed.
    stopped: Duration,
    /// The same after it was killed.
    killed: Duration,
}

impl Waits {
    const NONE: Self = Self::always(Duration::ZERO);

    const fn always(wait: Duration) -> Self {
        Self {
            new: wait,
            stopped: wait,
            killed: wait,
        }
    }

    const fn killed(wait: Duration) -> Self {
        Self {
            killed: wait,
            ..Self::NONE
        }
    }
}

/// How long a browser's connection holds on to the path to a device that was killed.
const DEAD_PATH: Duration = Duration::from_millis(2_500);

const WS_ROOMS: Kind = Kind {
    server: &["ws-rooms"],
    page: "ws-rooms.html",
    dialect: "ws-rooms",
    arguments: &[],
    greeting: "",
    farewell: "",
    // Nobody knows who offers: the device waits for the page to do it.
    waits: Waits::always(Duration::from_millis(2_500)),
};
const WS_ROOMS_WHOSE_PAGE_OFFERS: Kind = Kind {
    server: &["ws-rooms", "--version", "7"],
    page: "ws-rooms.html?offers=yes",
    waits: Waits::NONE,
    ..WS_ROOMS
};
const WS_ROOMS_WITH_ONE_CONNECTION: Kind = Kind {
    page: "ws-rooms.html?offers=yes&keeps=yes",
    waits: Waits::killed(DEAD_PATH),
    ..WS_ROOMS_WHOSE_PAGE_OFFERS
};
const WS_BROADCAST: Kind = Kind {
    server: &["ws-broadcast"],
    page: "ws-broadcast.html",
    dialect: "ws-broadcast",
    waits: Waits::killed(DEAD_PATH),
    ..WS_ROOMS
};
const SOCKETIO_ROOMS: Kind = Kind {
    server: &["socketio-rooms", "--leave"],
    page: "socketio-rooms.html",
    dialect: "socketio-rooms",
    // Who joined second, and heard of no leaving, offers to nobody.
    waits: Waits::killed(Duration::from_secs(4)),
    ..WS_ROOMS
};
const SOCKETIO_ROOMS_3: Kind = Kind {
    server: &["socketio-rooms", "--version", "3"],
    page: "socketio-rooms.html?candidates=dropped",
    ..SOCKETIO_ROOMS
};
const SOCKETIO_ROOMS_2: Kind = Kind {
    server: &["socketio-rooms", "--version", "2"],
    page: "socketio-rooms.html?nulls=sent",
    ..SOCKETIO_ROOMS
};
const SOCKETIO_CALLS: Kind = Kind {
    server: &["socketio-calls"],
    page: "socketio-calls.html",
    dialect: "socketio-calls",
    greeting: "while (other === window.gone) await new Promise((then) => setTimeout(then, 20)); \
               await call()",
    farewell: "window.gone = other",
    waits: Waits::killed(DEAD_PATH),
    ..WS_ROOMS
};
const AYAME: Kind = Kind {
    server: &["ayame", "--key", "right"],
    page: "ayame.html?key=right",
    dialect: "ayame",
    arguments: &["--key", "right"],
    waits: Waits::NONE,
    ..WS_ROOMS
};

impl Kind {
    /// Starts a device in these rooms of the server.
    fn device(&self, server: &RoomServer, rooms: &[&str]) -> Device {
        let url = server.url();
        let mut arguments = vec!["--server", &url, "--dialect", self.dialect];
        arguments.extend(self.arguments);
        arguments.extend(rooms.iter().flat_map(|room| ["--room", room]));
        Device::start(&arguments)
    }

    /// Starts a server and a device, which has entered its room, and a browser.
    async fn start(&self) -> (RoomServer, Device, Browser) {
        let mut server = RoomServer::start(self.server).await;
        let device = self.device(&server, &["cam"]);
        let browser = Browser::start().await;
        server.somebody_enters().await;
        (server, device, browser)
    }

    async fn open<'b>(&self, browser: &'b Browser, server: &RoomServer) -> Page<'b> {
        browser.open(&server.page(self.page)).await
    }

    /// Opens a page and joins.
    async fn join<'b>(&self, browser: &'b Browser, server: &mut RoomServer) -> Page<'b> {
        let page = self.open(browser, server).await;
        page.join("cam").await;
        server.somebody_enters().await;
        page
    }

    /// Opens a page, joins, and sees the device in time.
    async fn watch<'b>(&self, browser: &'b Browser, server: &mut RoomServer) -> Page<'b> {
        let page = self.join(browser, server).await;
        let since = page.joined();
        self.sees_in_time(&page, since, self.waits.new).await;
        page
    }

    /// Waits until the page sees and hears the device: the first picture since it joined, or since
    /// its count was started again, has come soon after that moment.
    async fn sees_in_time(&self, page: &Page<'_>, since: Instant, wait: Duration) {
        let report = sees_the_device(page).await;
        let took = report.first_picture_at() - since;
        let limit = FIRST_PICTURE_WHILE_BUSY + wait;
        assert!(took < limit, "{took:?}, not {limit:?}");
    }
}

/// Waits until it sees and hears the device, and no other page.
async fn sees_the_device(page: &Page<'_>) -> Report {
    let report = page.sees_and_hears().await;
    assert_eq!(report.video_codec.as_deref(), Some("video/H264"));
    report
}

fn is_connected(page: &Report) -> bool {
    page.transports.iter().any(|state| state == "connected")
}

async fn a_page_that_comes_after_the_device_sees_and_hears_it_in_time(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let mut fastest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        let page = kind.join(&browser, &mut server).await;
        let report = sees_the_device(&page).await;
        fastest = fastest.min(report.first_picture_at() - page.joined());
        if fastest < FIRST_PICTURE + kind.waits.new {
            break;
        }
        page.close().await;
    }
    assert!(fastest < FIRST_PICTURE + kind.waits.new, "{fastest:?}");
    browser.close().await;
}

async fn a_page_that_came_before_the_device_sees_and_hears_it(kind: &Kind) {
    let mut server = RoomServer::start(kind.server).await;
    let browser = Browser::start().await;
    let page = kind.join(&browser, &mut server).await;
    let device = kind.device(&server, &["cam"]);
    page.run(kind.greeting).await;
    kind.sees_in_time(&page, device.started(), kind.waits.new)
        .await;
    browser.close().await;
}

async fn a_viewer_that_leaves_can_join_again(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    page.leave().await;
    page.picture_stops().await;
    page.join("cam").await;
    kind.sees_in_time(&page, page.joined(), kind.waits.new)
        .await;
    browser.close().await;
}

async fn a_tab_that_is_closed_without_a_word_makes_room_for_the_next(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    kind.watch(&browser, &mut server).await.close().await;
    kind.watch(&browser, &mut server).await;
    browser.close().await;
}

async fn a_third_one_does_not_disturb_the_call(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    let third = kind.open(&browser, &server).await;
    third.run("try { await join('cam') } catch {}").await;
    let report = sees_the_device(&page).await;
    assert_eq!(report.connections, ["connected"]);
    browser.close().await;
}

async fn two_viewers_see_it_at_once(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let first = kind.watch(&browser, &mut server).await;
    kind.watch(&browser, &mut server).await;
    let report = sees_the_device(&first).await;
    assert_eq!(report.connections, ["connected"]);
    browser.close().await;
}

async fn a_viewer_that_stays_sees_the_device_again_that_was_killed(kind: &Kind) {
    let (mut server, mut device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    page.run(kind.farewell).await;
    device.kill();
    page.picture_stops().await;
    device.start_again();
    page.run(kind.greeting).await;
    kind.sees_in_time(&page, device.started(), kind.waits.killed)
        .await;
    browser.close().await;
}

async fn a_device_that_is_stopped_ends_the_call_and_returns(kind: &Kind) {
    let (mut server, mut device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    page.run(kind.farewell).await;
    let (took, status) = device.terminate();
    assert!(took < STOPS_WITHIN && status.success(), "{took:?} {status}");
    page.wait_until("the call has ended", |page| !is_connected(page))
        .await;
    page.picture_stops().await;
    device.start_again();
    page.run(kind.greeting).await;
    kind.sees_in_time(&page, device.started(), kind.waits.stopped)
        .await;
    browser.close().await;
}

async fn a_page_hears_of_a_stopped_device_that_it_left(kind: &Kind) {
    let (mut server, mut device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    device.terminate();
    let closed = |page: &Report| page.connections == ["closed"];
    page.wait_until("the page has closed its call", closed)
        .await;
    assert_eq!(page.run("return creator").await, true);
    browser.close().await;
}

async fn a_page_whose_call_ended_with_the_device_joins_again(kind: &Kind) {
    let (mut server, mut device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    device.kill();
    page.wait_until("the call has ended", |page| !is_connected(page))
        .await;
    device.start_again();
    page.join("cam").await;
    kind.sees_in_time(&page, page.joined(), Duration::ZERO)
        .await;
    browser.close().await;
}

async fn a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    let mut server = server.start_again().await;
    server.somebody_enters().await;
    let report = sees_the_device(&page).await;
    assert_eq!(report.connections, ["connected"]);
    page.close().await;
    kind.watch(&browser, &mut server).await;
    browser.close().await;
}

async fn a_killed_room_server_is_joined_again_by_the_device(kind: &Kind) {
    let (mut server, _device, browser) = kind.start().await;
    let page = kind.watch(&browser, &mut server).await;
    let mut server = server.start_again().await;
    server.somebody_enters().await;
    page.join("cam").await;
    kind.sees_in_time(&page, page.joined(), Duration::ZERO)
        .await;
    browser.close().await;
}

async fn a_full_room_is_entered_once_somebody_left(kind: &Kind) {
    let mut server = RoomServer::start(kind.server).await;
    let browser = Browser::start().await;
    let first = kind.join(&browser, &mut server).await;
    let second = kind.join(&browser, &mut server).await;
    let device = kind.device(&server, &["cam"]);
    device.has_logged("refused by the room server").await;
    second.close().await;
    server.somebody_enters().await;
    sees_the_device(&first).await;
    browser.close().await;
}

async fn a_device_in_two_rooms_has_a_viewer_in_each(kind: &Kind) {
    let mut server = RoomServer::start(kind.server).await;
    let _device = kind.device(&server, &["cam", "cam-2"]);
    let browser = Browser::start().await;
    server.somebody_enters().await;
    server.somebody_enters().await;
    let first = kind.watch(&browser, &mut server).await;
    let second = kind.open(&browser, &server).await;
    second.join("cam-2").await;
    sees_the_device(&second).await;
    sees_the_device(&first).await;
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn offers_that_cross_come_to_one_connection() {
    let (server, _device, browser) = WS_ROOMS.start().await;
    let page = browser
        .open(&server.page("ws-rooms.html?offers=crossing"))
        .await;
    page.join("cam").await;
    let watches = |now: &Report| now.frames >= 30 && now.audio_energy > 0.0;
    let report = page.wait_until("it sees and hears", watches).await;
    // That of the answer which came too late: the page was told to take it as it is.
    assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    assert!(report.errors[0].contains("stable"), "{:?}", report.errors);
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_page_that_the_device_calls_is_heard_once_it_asks_to_speak() {
    /// Keeps the channel that the device's offer brings.
    const KEEP: &str = "connection.ondatachannel = ({ channel }) => { window.control = channel; }";
    /// Sends a tone in place of the camera and the microphone.
    const SEND: &str = "const context = new AudioContext(); \
        const tone = new OscillatorNode(context, { frequency: 1000 }); \
        const out = context.createMediaStreamDestination(); \
        tone.connect(out); tone.start(); stream = out.stream; sendStreams()";
    const SPEAK: &str = "control.send('{\"id\":1,\"type\":\"set_talking\",\"on\":true}')";

    let loudspeaker = Loudspeaker::new();
    let mut server = RoomServer::start(SOCKETIO_CALLS.server).await;
    let url = server.url();
    let arguments = [
        "--server",
        &url,
        "--dialect",
        "socketio-calls",
        "--room",
        "cam",
    ];
    let alsa = loudspeaker.configuration();
    let environment = [("ALSA_CONFIG_PATH", alsa.as_path())];
    let _device = Device::configured(&arguments, KEPT, &environment);
    server.somebody_enters().await;
    let browser = Browser::start().await;
    let page = SOCKETIO_CALLS.open(&browser, &server).await;
    page.run(KEEP).await;
    page.join("cam").await;
    sees_the_device(&page).await;
    page.run(SEND).await;
    sees_the_device(&page).await;
    page.run(SPEAK).await;
    loudspeaker.wait_for_tone(10).await;
    sees_the_device(&page).await;
    browser.close().await;
}

/// Makes a module of tests for a kind: each one situation of above.
macro_rules! situations {
    ($module:ident, $kind:ident: $($situation:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                #[ignore = "needs the room servers of others: scripts/test"]
                async fn $situation() {
                    super::$situation(&super::$kind).await;
                }
            )*
        }
    };
}

situations! { ws_rooms, WS_ROOMS:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { ws_rooms_whose_page_offers, WS_ROOMS_WHOSE_PAGE_OFFERS:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_in_two_rooms_has_a_viewer_in_each
}

situations! { ws_rooms_with_one_connection, WS_ROOMS_WITH_ONE_CONNECTION:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { ws_broadcast, WS_BROADCAST:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { socketio_rooms, SOCKETIO_ROOMS:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
    a_full_room_is_entered_once_somebody_left
    a_page_hears_of_a_stopped_device_that_it_left
    a_device_in_two_rooms_has_a_viewer_in_each
}

situations! { socketio_rooms_3, SOCKETIO_ROOMS_3:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { socketio_rooms_2, SOCKETIO_ROOMS_2:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { socketio_calls, SOCKETIO_CALLS:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    two_viewers_see_it_at_once
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { ayame, AYAME:
    a_page_that_comes_after_the_device_sees_and_hears_it_in_time
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_page_whose_call_ended_with_the_device_joins_again
    a_killed_room_server_is_joined_again_by_the_device
}
