//! Pages of tutorials at the embedded room server: each is alone with the device, and all see it.
//!
//! The pages come from room servers of others, whose rooms nobody uses here: like a tutorial's own
//! development server, they only serve the page and its libraries.

use std::net::SocketAddr;

use roomcam::config::{CallEvents, Dialect, Secret};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
