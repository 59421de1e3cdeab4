//! Pages of tutorials at the embedded room server: each is alone with the device, and all see it.
//!
//! The pages come from room servers of others, whose rooms nobody uses here: like a tutorial's own
//! development server, they only serve the page and its libraries.

mod connections;

use std::net::SocketAddr;

use roomcam::config::{CallEvents, Dialect, Secret};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::demo::Demo;
use crate::support::device::Device;
use crate::support::peers::{Browser, Page, RoomServer};

/// What a page must know.
const ROOM: &str = "a-room-that-nobody-guesses";

/// A room server of ours that pages of tutorials may use, a device in its room, and where pages come
/// from.
struct Stage {
    address: SocketAddr,
    pages: RoomServer,
    device: Device,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Stage {
    async fn start(pages: &[&str], dialects: &[Dialect]) -> Self {
        let pages = RoomServer::start(pages).await;
        let server = Server::bind(ServerOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            viewer_key: Secret::new("see".to_owned()),
            device_key: Secret::new("be seen".to_owned()),
            allowed_origins: vec![pages.url()],
            ice_servers: Vec::new().into(),
            tutorials: Tutorials {
                dialects: dialects.to_vec(),
                rooms: vec![Secret::new(ROOM.to_owned())],
                events: CallEvents::default(),
            },
        });
        let server = server.await.unwrap();
        let address = server.local_addr();
        let (stop, stopped) = watch::channel(false);
        let url = format!("ws://{address}/ws");
        let device = ["--server", &url, "--room", ROOM, "--key", "be seen"];
        Self {
            address,
            pages,
            device: Device::start(&device),
            stop,
            server: tokio::spawn(server.run(stopped)),
        }
    }

    /// Opens a page that comes from elsewhere and uses the room server here.
    async fn open<'b>(&self, browser: &'b Browser, page: &str) -> Page<'b> {
        let mark = if page.contains('?') { '&' } else { '?' };
        let page = format!("{page}{mark}server={}", self.address);
        browser.open(&self.pages.page(&page)).await
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.server.await.unwrap();
    }
}

/// Two pages in one room both see the device; one leaves, the other goes on, and sees it again when it
/// comes back.
async fn two_pages_see_the_device(pages: &[&str], page: &str, dialects: &[Dialect]) {
    let stage = Stage::start(pages, dialects).await;
    let browser = Browser::start().await;
    stage.device.has_logged("joined the room").await;
    let first = stage.open(&browser, page).await;
    first.join(ROOM).await;
    let second = stage.open(&browser, page).await;
    second.join(ROOM).await;
    first.sees_and_hears().await;
    second.sees_and_hears().await;
    if page.starts_with("socketio") {
        let polls = page.contains("polling");
        let transport = if polls { "polling" } else { "websocket" };
        let used = first.run("return socket.io.engine.transport.name").await;
        assert_eq!(used, transport);
    }

    let stays = if pages.contains(&"socketio-calls") {
        first.close().await;
        second
    } else {
        second.leave().await;
        first.sees_and_hears().await;
        if pages.contains(&"--leave") {
            second.join(ROOM).await;
            second.sees_and_hears().await;
        }
        first
    };
    let next = stage.open(&browser, page).await;
    next.join(ROOM).await;
    next.sees_and_hears().await;
    stays.sees_and_hears().await;
    browser.close().await;
    stage.stop().await;
}

const PLAIN: [Dialect; 2] = [Dialect::WsRooms, Dialect::WsBroadcast];
const SOCKETIO: [Dialect; 2] = [Dialect::SocketioRooms, Dialect::SocketioCalls];

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_ws_rooms_see_the_device_whether_they_offer_or_not() {
    two_pages_see_the_device(&["ws-rooms"], "ws-rooms.html", &PLAIN).await;
    let offers = "ws-rooms.html?offers=yes&keeps=yes";
    two_pages_see_the_device(&["ws-rooms"], offers, &[Dialect::WsRooms]).await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_ws_broadcast_see_the_device_and_not_each_other() {
    two_pages_see_the_device(&["ws-broadcast"], "ws-broadcast.html", &PLAIN).await;
    let alone = [Dialect::WsBroadcast];
    two_pages_see_the_device(&["ws-broadcast"], "ws-broadcast.html", &alone).await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_socketio_rooms_see_the_device_with_every_version_of_their_client() {
    for version in ["2", "3", "4"] {
        let pages = ["socketio-rooms", "--leave", "--version", version];
        two_pages_see_the_device(&pages, "socketio-rooms.html", &SOCKETIO).await;
    }
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_socketio_rooms_see_the_device_without_any_websocket() {
    for version in ["2", "4"] {
        let pages = ["socketio-rooms", "--leave", "--version", version];
        let page = "socketio-rooms.html?transports=polling";
        two_pages_see_the_device(&pages, page, &[Dialect::SocketioRooms]).await;
    }
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_socketio_calls_are_called_by_the_device() {
    for version in ["2", "4"] {
        let pages = ["socketio-calls", "--version", version];
        two_pages_see_the_device(&pages, "socketio-calls.html", &SOCKETIO).await;
    }
}

/// The device is killed and started again: the page, which has stayed, sees it again.
async fn a_restarted_device_is_seen_again(pages: &[&str], page: &str) {
    let mut stage = Stage::start(pages, &[PLAIN, SOCKETIO].concat()).await;
    let browser = Browser::start().await;
    stage.device.has_logged("joined the room").await;
    let page = stage.open(&browser, page).await;
    page.join(ROOM).await;
    page.sees_and_hears().await;
    stage.device.kill();
    page.picture_stops().await;
    stage.device.start_again();
    page.sees_and_hears().await;
    browser.close().await;
    stage.stop().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_ws_rooms_see_a_restarted_device() {
    a_restarted_device_is_seen_again(&["ws-rooms"], "ws-rooms.html").await;
    let offers = "ws-rooms.html?offers=yes";
    a_restarted_device_is_seen_again(&["ws-rooms"], offers).await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_ws_broadcast_see_a_restarted_device() {
    a_restarted_device_is_seen_again(&["ws-broadcast"], "ws-broadcast.html").await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_socketio_rooms_see_a_restarted_device() {
    a_restarted_device_is_seen_again(&["socketio-rooms"], "socketio-rooms.html").await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn pages_of_socketio_calls_hear_of_a_restarted_device_and_are_called_once_loaded_again() {
    let mut stage = Stage::start(&["socketio-calls"], &SOCKETIO).await;
    let browser = Browser::start().await;
    stage.device.has_logged("joined the room").await;
    let page = stage.open(&browser, "socketio-calls.html").await;
    page.join(ROOM).await;
    page.sees_and_hears().await;
    page.run("window.gone = other").await;
    stage.device.kill();
    stage.device.start_again();
    page.run("while (other === gone) await new Promise((then) => setTimeout(then, 20))")
        .await;
    page.close().await;
    let page = stage.open(&browser, "socketio-calls.html").await;
    page.join(ROOM).await;
    page.sees_and_hears().await;
    browser.close().await;
    stage.stop().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_page_that_came_before_the_device_sees_it_once_it_is_there() {
    for (pages, page, presses) in [
        ("ws-rooms", "ws-rooms.html", ""),
        ("ws-broadcast", "ws-broadcast.html", ""),
        ("socketio-rooms", "socketio-rooms.html", ""),
        (
            "socketio-calls",
            "socketio-calls.html",
            "while (!other) await new Promise((then) => setTimeout(then, 20)); await call()",
        ),
    ] {
        let mut stage = Stage::start(&[pages], &[PLAIN, SOCKETIO].concat()).await;
        stage.device.kill();
        let browser = Browser::start().await;
        let page = stage.open(&browser, page).await;
        page.join(ROOM).await;
        stage.device.start_again();
        page.run(presses).await;
        page.sees_and_hears().await;
        browser.close().await;
        stage.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn a_page_with_a_wrong_room_is_alone_and_sees_the_device_once_it_knows_the_right_one() {
    let stage = Stage::start(&["socketio-rooms", "--leave"], &SOCKETIO).await;
    let browser = Browser::start().await;
    stage.device.has_logged("joined the room").await;
    let page = stage.open(&browser, "socketio-rooms.html").await;
    assert_eq!(page.join("cam").await, "created");
    let next = stage.open(&browser, "socketio-rooms.html").await;
    next.join(ROOM).await;
    next.sees_and_hears().await;
    let report = page.report().await;
    assert_eq!((report.frames, report.connections.len()), (0, 0));
    page.leave().await;
    assert_eq!(page.join(ROOM).await, "joined");
    page.sees_and_hears().await;
    browser.close().await;
    stage.stop().await;
}

#[tokio::test]
#[ignore = "needs the room servers of others: scripts/test"]
async fn the_daemon_lets_pages_watch_that_its_configuration_lists() {
    let pages = RoomServer::start(&["socketio-rooms"]).await;
    let config = format!(
        "[server]\nallowed_origins = [\"{}\"]\ntutorial_dialects = [\"socketio-rooms\"]\n",
        pages.url()
    );
    let demo = Demo::configured(&[], &config);
    let server = demo.url().split('/').nth(2).unwrap();
    let browser = Browser::start().await;
    let page = pages.page(&format!("socketio-rooms.html?server={server}"));
    let page = browser.open(&page).await;
    assert_eq!(page.join("cam").await, "joined");
    page.sees_and_hears().await;
    browser.close().await;
}
