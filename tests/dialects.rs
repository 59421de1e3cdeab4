//! The room servers of others and pages for them, which know nothing of the device.
//!
//! First each kind by itself, page against page, to know that the test equipment is sound.

mod device;

use crate::support::peers::{Browser, Page, Report, RoomServer};

/// Two pages of one kind in a room, both in it.
async fn two_pages<'b>(
    browser: &'b Browser,
    server: &RoomServer,
    pages: [&str; 2],
) -> (Page<'b>, Page<'b>) {
    let first = browser.open(&server.page(pages[0])).await;
    first.join("cam").await;
    let second = browser.open(&server.page(pages[1])).await;
    second.join("cam").await;
    (first, second)
}

async fn both_see_and_hear(kind: &[&str], pages: [&str; 2]) {
    let server = RoomServer::start(kind).await;
    let browser = Browser::start().await;
    let (first, second) = two_pages(&browser, &server, pages).await;
    first.sees_and_hears().await;
    second.sees_and_hears().await;
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn two_pages_of_ws_rooms_see_each_other_when_the_first_or_the_second_offers() {
    const OFFERS: &str = "ws-rooms.html?offers=yes";
    both_see_and_hear(&["ws-rooms"], [OFFERS, "ws-rooms.html"]).await;
    both_see_and_hear(&["ws-rooms", "--version", "7"], ["ws-rooms.html", OFFERS]).await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_killed_room_server_disturbs_no_call_and_is_joined_again_once_it_is_back() {
    let server = RoomServer::start(&["ws-rooms"]).await;
    let browser = Browser::start().await;
    let pages = ["ws-rooms.html", "ws-rooms.html?offers=yes"];
    let (first, second) = two_pages(&browser, &server, pages).await;
    first.sees_and_hears().await;
    let server = server.start_again().await;
    first.sees_and_hears().await;
    second.sees_and_hears().await;

    let (first, second) = two_pages(&browser, &server, pages).await;
    first.sees_and_hears().await;
    second.sees_and_hears().await;
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_page_that_stays_sees_who_comes_next_in_a_new_connection_or_in_the_one_it_keeps() {
    let browser = Browser::start().await;
    for page in [
        "ws-rooms.html?offers=yes",
        "ws-rooms.html?offers=yes&keeps=yes",
    ] {
        let server = RoomServer::start(&["ws-rooms"]).await;
        let (stays, goes) = two_pages(&browser, &server, [page, "ws-rooms.html"]).await;
        stays.sees_and_hears().await;
        goes.close().await;
        let next = browser.open(&server.page("ws-rooms.html")).await;
        next.join("cam").await;
        next.sees_and_hears().await;
        stays.sees_and_hears().await;
    }
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn two_pages_of_ws_broadcast_see_each_other() {
    for version in ["7", "8"] {
        let kind = ["ws-broadcast", "--version", version];
        both_see_and_hear(&kind, ["ws-broadcast.html"; 2]).await;
    }
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn two_pages_of_socketio_rooms_see_each_other_and_a_third_hears_that_it_is_full() {
    let browser = Browser::start().await;
    for version in ["2", "3", "4"] {
        let server = RoomServer::start(&["socketio-rooms", "--leave", "--version", version]).await;
        let (first, second) = two_pages(&browser, &server, ["socketio-rooms.html"; 2]).await;
        first.sees_and_hears().await;
        second.sees_and_hears().await;

        let third = browser.open(&server.page("socketio-rooms.html")).await;
        assert_eq!(third.join("cam").await, "full");

        second.leave().await;
        assert_eq!(third.join("cam").await, "joined");
        third.sees_and_hears().await;
        first.sees_and_hears().await;
        for page in [first, second, third] {
            page.close().await;
        }
    }
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_page_of_socketio_rooms_fails_at_the_null_that_ends_candidates_and_may_drop_them_all() {
    let server = RoomServer::start(&["socketio-rooms"]).await;
    let browser = Browser::start().await;
    let pages = [
        "socketio-rooms.html?nulls=sent",
        "socketio-rooms.html?candidates=dropped",
    ];
    // The other's candidates are enough for both.
    let (sends_null, drops) = two_pages(&browser, &server, pages).await;
    sends_null.sees_and_hears().await;
    drops.sees_and_hears().await;

    drops.close().await;
    let usual = browser.open(&server.page("socketio-rooms.html")).await;
    usual.join("cam").await;
    let has_failed = |page: &Report| page.errors.iter().any(|error| error.contains("null"));
    usual.wait_until("it has failed", has_failed).await;
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn two_pages_of_socketio_calls_see_each_other_once_both_have_sent() {
    let server = RoomServer::start(&["socketio-calls"]).await;
    let browser = Browser::start().await;
    let (first, second) = two_pages(&browser, &server, ["socketio-calls.html"; 2]).await;
    first.run("await call()").await;
    second.sees_and_hears().await;
    second.run("sendStreams()").await;
    first.sees_and_hears().await;
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn two_pages_of_ayame_see_each_other_with_the_right_key_until_one_goes() {
    let server = RoomServer::start(&["ayame", "--key", "right"]).await;
    let browser = Browser::start().await;
    let (first, second) = two_pages(&browser, &server, ["ayame.html?key=right"; 2]).await;
    first.sees_and_hears().await;
    second.sees_and_hears().await;

    second.leave().await;
    first
        .wait_until("its call has ended", |page| {
            page.connections.iter().all(|state| state == "closed")
        })
        .await;

    let stranger = browser.open(&server.page("ayame.html?key=wrong")).await;
    let refused = "try { await join('cam') } catch (reason) { return reason }";
    assert_eq!(stranger.run(refused).await, "REJECTED");
    browser.close().await;
}
