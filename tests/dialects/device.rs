//! The device in the rooms of others, watched by their pages: every dialect, every situation.

use std::time::Duration;

use crate::support::device::Device;
use crate::support::peers::{Browser, Page, Report, RoomServer};

/// From joining to the first picture, in milliseconds, beside what a protocol makes one wait.
const FIRST_PICTURE_MS: f64 = 1_500.0;

/// How long a device may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// A kind of room server, a page for it, and what it is to the device.
#[derive(Debug)]
struct Kind {
    server: &'static [&'static str],
    page: &'static str,
    dialect: &'static str,
    /// Of the URL that the device is given.
    path: &'static str,
    /// How long the device waits where the protocol leaves open who offers: whoever was first.
    waits_ms: f64,
}

const WS_ROOMS: Kind = Kind {
    server: &["ws-rooms"],
    page: "ws-rooms.html",
    dialect: "ws-rooms",
    path: "",
    waits_ms: 2_500.0,
};
const WS_ROOMS_PAGE_OFFERS: Kind = Kind {
    server: &["ws-rooms", "--version", "7"],
    page: "ws-rooms.html?offers=yes",
    waits_ms: 0.0,
    ..WS_ROOMS
};
const WS_ROOMS_PAGE_KEEPS: Kind = Kind {
    page: "ws-rooms.html?offers=yes&keeps=yes",
    waits_ms: 0.0,
    ..WS_ROOMS
};
const WS_BROADCAST: Kind = Kind {
    server: &["ws-broadcast"],
    page: "ws-broadcast.html",
    dialect: "ws-broadcast",
    path: "",
    waits_ms: 0.0,
};
const SOCKETIO_ROOMS: Kind = Kind {
    server: &["socketio-rooms", "--leave"],
    page: "socketio-rooms.html",
    dialect: "socketio-rooms",
    path: "",
    waits_ms: 0.0,
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
    path: "",
    waits_ms: 0.0,
};
const AYAME: Kind = Kind {
    server: &["ayame"],
    page: "ayame.html",
    dialect: "ayame",
    path: "/signaling",
    waits_ms: 0.0,
};

impl Kind {
    /// Starts a device in the server's room.
    fn device(&self, server: &RoomServer) -> Device {
        let url = server.page(self.path.trim_start_matches('/'));
        let arguments = ["--server", &url, "--dialect", self.dialect, "--room", "cam"];
        Device::start(&arguments, "")
    }

    async fn open<'b>(&self, browser: &'b Browser, server: &RoomServer) -> Page<'b> {
        browser.open(&server.page(self.page)).await
    }

    fn is_in_time(&self, milliseconds: f64) {
        let limit = FIRST_PICTURE_MS + self.waits_ms;
        assert!(milliseconds < limit, "{milliseconds} ms, not {limit} ms");
    }

    /// Opens a page, joins, and waits for the picture, which comes in time.
    async fn watch<'b>(&self, browser: &'b Browser, server: &RoomServer) -> Page<'b> {
        let page = self.open(browser, server).await;
        page.join("cam").await;
        let report = page.sees_and_hears().await;
        self.is_in_time(report.first_picture_after_ms.unwrap_or(f64::MAX));
        page
    }

    /// A server with its device, and a browser.
    async fn device_first(&self) -> (RoomServer, Device, Browser) {
        let server = RoomServer::start(self.server);
        let device = self.device(&server);
        let browser = Browser::start().await;
        device.has_joined(1).await;
        (server, device, browser)
    }
}

async fn a_page_that_comes_after_the_device_sees_and_hears_it(kind: &Kind) {
    let (server, _device, browser) = kind.device_first().await;
    kind.watch(&browser, &server).await;
    browser.close().await;
}

async fn a_page_that_came_before_the_device_sees_and_hears_it(kind: &Kind) {
    let server = RoomServer::start(kind.server);
    let browser = Browser::start().await;
    let page = kind.open(&browser, &server).await;
    page.join("cam").await;
    let device = kind.device(&server);
    let report = page.sees_and_hears().await;
    let ago = report.first_picture_ago_ms.unwrap_or_default();
    let since_start = device.started().elapsed().as_secs_f64() * 1_000.0;
    kind.is_in_time(since_start - ago);
    browser.close().await;
}

async fn a_viewer_that_leaves_can_join_again(kind: &Kind) {
    let (server, _device, browser) = kind.device_first().await;
    let page = kind.watch(&browser, &server).await;
    page.leave().await;
    page.join("cam").await;
    let report = page.sees_and_hears().await;
    kind.is_in_time(report.first_picture_after_ms.unwrap_or(f64::MAX));
    browser.close().await;
}

async fn a_tab_that_is_closed_without_a_word_makes_room_for_the_next(kind: &Kind) {
    let (server, _device, browser) = kind.device_first().await;
    kind.watch(&browser, &server).await.close().await;
    kind.watch(&browser, &server).await;
    browser.close().await;
}

async fn a_viewer_that_stays_sees_the_device_again_that_was_killed(kind: &Kind) {
    let (server, mut device, browser) = kind.device_first().await;
    let page = kind.watch(&browser, &server).await;
    device.kill();
    let _device = device.start_again();
    page.sees_and_hears().await;
    browser.close().await;
}

async fn a_device_that_is_stopped_ends_the_call_and_returns(kind: &Kind) {
    let (server, mut device, browser) = kind.device_first().await;
    let page = kind.watch(&browser, &server).await;
    let (took, status) = device.terminate();
    assert!(took < STOPS_WITHIN && status.success(), "{took:?} {status}");
    page.wait_until("the call has ended", |page| !is_connected(page))
        .await;
    let _device = device.start_again();
    page.sees_and_hears().await;
    browser.close().await;
}

async fn a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself(kind: &Kind) {
    let (server, device, browser) = kind.device_first().await;
    let page = kind.watch(&browser, &server).await;
    let server = server.start_again();
    page.sees_and_hears().await;
    device.has_joined(2).await;
    page.sees_and_hears().await;
    page.close().await;
    kind.watch(&browser, &server).await;
    browser.close().await;
}

async fn a_third_one_does_not_disturb_the_call(kind: &Kind) {
    let (server, _device, browser) = kind.device_first().await;
    let page = kind.watch(&browser, &server).await;
    let third = kind.open(&browser, &server).await;
    third.run("try { await join('cam') } catch {}").await;
    let report = page.sees_and_hears().await;
    assert_eq!(report.connections, ["connected"]);
    browser.close().await;
}

fn is_connected(page: &Report) -> bool {
    page.connections.iter().any(|state| state == "connected")
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
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { ws_rooms_page_offers, WS_ROOMS_PAGE_OFFERS:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { ws_rooms_page_keeps, WS_ROOMS_PAGE_KEEPS:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { ws_broadcast, WS_BROADCAST:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { socketio_rooms, SOCKETIO_ROOMS:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_viewer_that_stays_sees_the_device_again_that_was_killed
    a_device_that_is_stopped_ends_the_call_and_returns
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { socketio_rooms_3, SOCKETIO_ROOMS_3:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { socketio_rooms_2, SOCKETIO_ROOMS_2:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_stays_sees_the_device_again_that_was_killed
}

situations! { socketio_calls, SOCKETIO_CALLS:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
    a_killed_room_server_disturbs_no_media_and_the_device_is_back_by_itself
}

situations! { ayame, AYAME:
    a_page_that_comes_after_the_device_sees_and_hears_it
    a_page_that_came_before_the_device_sees_and_hears_it
    a_viewer_that_leaves_can_join_again
    a_tab_that_is_closed_without_a_word_makes_room_for_the_next
    a_third_one_does_not_disturb_the_call
}
