//! The room server and the link, over real sockets on loopback.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::clock;
use roomcam::config::{CallEvents, Dialect, Headers, Secret};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerError, ServerOptions};
use roomcam::signaling::server_url::parse_server_url;
use roomcam::signaling::websocket::{Authorities, LinkOptions, run_link};
use roomcam::signaling::{IceServer, RoomEvent, RoomIndex, RoomMessage, ViewerId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::program;

/// Longest wait for anything; only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A room server on a port of its own.
struct Host {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Host {
    async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    async fn start_at(listen: SocketAddr) -> Self {
        let server = Server::bind(options(listen)).await.unwrap();
        let address = server.local_addr();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(server.run(stopped));
        Self {
            address,
            stop,
            task,
        }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        soon(self.task).await.unwrap();
    }

    async fn connect(&self) -> Client {
        Client::open(self.address, None).await.unwrap()
    }

    async fn viewer(&self) -> Client {
        let mut viewer = self.connect().await;
        viewer.say(&viewer_join("see")).await;
        let joined = viewer.hear().await;
        assert_eq!(joined["type"], "joined", "{joined}");
        viewer.id = joined["id"].as_str().unwrap().to_owned();
        viewer
    }

    async fn device(&self, instance: &str) -> (Client, Value) {
        let mut device = self.connect().await;
        device.say(&device_join(instance)).await;
        let answer = device.hear().await;
        (device, answer)
    }

    fn link(&self, key: &str) -> TestLink {
        TestLink::start(&format!("http://{}", self.address), key)
    }

    /// Sends a request as it is written, and returns the whole response.
    async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(stream.read_to_string(&mut response)).await.unwrap();
        response
    }
}

fn options(listen: SocketAddr) -> ServerOptions {
    ServerOptions {
        listen,
        viewer_key: Secret::new("see".to_owned()),
        device_key: Secret::new("be seen".to_owned()),
        allowed_origins: vec!["https://example.org".to_owned()],
        ice_servers: vec![IceServer {
            urls: vec!["stun:stun.example.org".to_owned()],
            ..IceServer::default()
        }]
        .into(),
        tutorials: Tutorials::default(),
    }
}

/// One WebSocket, as some other program would hold it.
struct Client {
    socket: WebSocketStream<TcpStream>,
    id: String,
}

impl Client {
    async fn open(address: SocketAddr, origin: Option<&str>) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::upgrade(stream, address, origin).await
    }

    async fn upgrade(
        stream: TcpStream,
        address: SocketAddr,
        origin: Option<&str>,
    ) -> Result<Self, Error> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = format!("ws://{address}/ws").into_client_request()?;
        if let Some(origin) = origin {
            let origin = origin.parse().unwrap();
            request.headers_mut().insert("Origin", origin);
        }
        let (socket, _) = soon(client_async(request, stream)).await?;
        let id = String::new();
        Ok(Self { socket, id })
    }

    async fn say(&mut self, message: &Value) {
        let text = Message::text(message.to_string());
        self.socket.send(text).await.unwrap();
    }

    /// Waits for the next text.
    async fn hear(&mut self) -> Value {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?} instead of a text"),
            }
        }
    }

    /// Passes over everything until a message of this type.
    async fn hear_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Waits for an error that closes, and returns its code.
    async fn hear_refusal(&mut self) -> String {
        let error = self.hear().await;
        assert_eq!(error["type"], "error", "{error}");
        self.hear_close().await;
        error["code"].as_str().unwrap().to_owned()
    }

    async fn hear_close(&mut self) {
        loop {
            match soon(self.socket.next()).await {
                None | Some(Ok(Message::Close(_)) | Err(_)) => return,
                Some(Ok(Message::Text(text))) => panic!("{text} instead of a close"),
                Some(Ok(_)) => {}
            }
        }
    }
}

/// The daemon's side.
struct TestLink {
    events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
    messages: mpsc::Sender<RoomMessage>,
    task: JoinHandle<()>,
}

impl TestLink {
    fn start(server: &str, key: &str) -> Self {
        let options = LinkOptions {
            server: parse_server_url(server, Dialect::Roomcam).unwrap(),
            dialect: Dialect::Roomcam,
            room: "cam".to_owned(),
            room_is_secret: false,
            key: Secret::new(key.to_owned()),
            instance: "the-link".to_owned(),
            headers: Headers::default(),
            authorities: Authorities::default(),
            auth: Secret::default(),
            events: CallEvents::default(),
        };
        let (event_sender, events) = mpsc::channel(1);
        let (messages, message_receiver) = mpsc::channel(1);
        let task = tokio::spawn(run_link(
            options,
            RoomIndex(0),
            event_sender,
            message_receiver,
        ));
        Self {
            events,
            messages,
            task,
        }
    }

    async fn event(&mut self) -> RoomEvent {
        soon(self.events.recv()).await.unwrap().1
    }

    async fn stop(self) {
        drop(self.messages);
        soon(self.task).await.unwrap();
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap()
}

fn viewer_join(key: &str) -> Value {
    json!({"type": "join", "protocol": 1, "role": "viewer", "room": "cam", "key": key})
}

fn device_join(instance: &str) -> Value {
    json!({"type": "join", "protocol": 1, "role": "device", "room": "cam", "key": "be seen",
        "instance": instance})
}

fn offer(sdp: &str) -> Value {
    json!({"type": "offer", "offer": {"type": "offer", "sdp": sdp}})
}

#[tokio::test]
async fn the_page_comes_with_headers_that_keep_others_out() {
    let host = Host::start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/camera.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n");
        let response = host.http(&request).await;
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
        for header in [
            format!("content-type: {kind}").as_str(),
            "content-security-policy: default-src 'self'; \
             connect-src 'self' ws://localhost:1 wss://localhost:1; ",
            "frame-ancestors 'none'",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "cache-control: no-cache",
        ] {
            assert!(response.contains(header), "{header} is not in {response}");
        }
    }
    let health = "GET /healthz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n";
    assert!(host.http(health).await.ends_with("\r\n\r\nok"));
    let none = "GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(host.http(none).await.starts_with("HTTP/1.1 404"));
    host.stop().await;
}

#[tokio::test]
async fn a_foreign_name_or_page_is_refused() {
    let host = Host::start().await;
    let rebound = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let response = host.http(rebound).await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
    assert!(response.contains("server.allowed_origins"), "{response}");
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        match Client::open(host.address, Some(origin)).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 403),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{origin} was let in"),
        }
    }
    let own = format!("http://{}", host.address);
    for origin in [own.as_str(), "https://example.org"] {
        let mut viewer = Client::open(host.address, Some(origin)).await.unwrap();
        viewer.say(&viewer_join("see")).await;
        assert_eq!(viewer.hear().await["type"], "joined");
    }
    host.stop().await;
}

#[tokio::test]
async fn viewers_and_the_linked_device_talk() {
    let host = Host::start().await;
    let mut early = host.viewer().await;
    let mut link = host.link("be seen");
    let ice_servers = options(host.address).ice_servers.for_client("d-1");
    assert_eq!(link.event().await, RoomEvent::Joined { ice_servers });
    let early_id = ViewerId(early.id.clone());
    assert_eq!(link.event().await, RoomEvent::ViewerJoined(early_id));
    let came = json!({"type": "device-joined", "instance": "the-link"});
    assert_eq!(early.hear().await, came);

    let mut viewer = host.viewer().await;
    let id = ViewerId(viewer.id.clone());
    assert_eq!(link.event().await, RoomEvent::ViewerJoined(id.clone()));
    viewer.say(&offer("v=0")).await;
    let offered = RoomEvent::Offer {
        viewer: id.clone(),
        sdp: "v=0".to_owned(),
    };
    assert_eq!(link.event().await, offered);
    let binary = r#"{"type":"candidate","candidate":null}"#;
    viewer.socket.send(Message::binary(binary)).await.unwrap();
    let ended = RoomEvent::Candidate {
        viewer: id.clone(),
        candidate: Default::default(),
    };
    assert_eq!(link.event().await, ended);

    let answer = RoomMessage::Answer {
        viewer: id.clone(),
        sdp: "v=0".to_owned(),
    };
    link.messages.send(answer).await.unwrap();
    let expected =
        json!({"type": "answer", "from": "device", "answer": {"type": "answer", "sdp": "v=0"}});
    assert_eq!(viewer.hear().await, expected);
    let full = RoomMessage::Error {
        viewer: id.clone(),
        code: "room-full",
        message: "8 are watching".to_owned(),
    };
    link.messages.send(full).await.unwrap();
    let expected = json!({"type": "error", "from": "device", "code": "room-full",
        "message": "8 are watching"});
    assert_eq!(viewer.hear().await, expected);

    viewer.say(&json!({"type": "bye"})).await;
    let on_purpose = true;
    let left = RoomEvent::ViewerLeft {
        viewer: id,
        on_purpose,
    };
    assert_eq!(link.event().await, left);
    link.stop().await;
    assert_eq!(early.hear().await, json!({"type": "device-left"}));
    host.stop().await;
}

#[tokio::test]
async fn a_wrong_key_is_told_and_closed() {
    let host = Host::start().await;
    let mut viewer = host.connect().await;
    viewer.say(&viewer_join("peek")).await;
    assert_eq!(viewer.hear_refusal().await, "wrong-key");
    host.stop().await;
}

#[tokio::test]
async fn a_full_room_is_told_and_closed() {
    let host = Host::start().await;
    let mut inside = Vec::new();
    for _ in 0..64 {
        inside.push(host.viewer().await);
    }
    let mut viewer = host.connect().await;
    viewer.say(&viewer_join("see")).await;
    assert_eq!(viewer.hear_refusal().await, "room-full");
    host.stop().await;
}

#[tokio::test]
async fn a_peer_that_holds_260_idle_connections_keeps_nobody_out() {
    let host = Host::start().await;
    let (mut device, _) = host.device("one").await;
    let mut idle = Vec::new();
    for _ in 0..260 {
        idle.push(TcpStream::connect(host.address).await.unwrap());
    }
    let viewer = host.viewer().await;
    assert_eq!(device.hear().await["id"], viewer.id.as_str());
    let (_, joined) = host.device("one").await;
    assert_eq!(joined["type"], "joined");
    assert_eq!(soon(idle[0].read(&mut [0; 1])).await.unwrap(), 0, "closed");
    host.stop().await;
}

#[tokio::test]
async fn the_same_device_takes_its_own_place_and_another_is_refused() {
    let host = Host::start().await;
    let (mut old, joined) = host.device("one").await;
    assert_eq!(joined["type"], "joined");
    let mut other = host.connect().await;
    other.say(&device_join("two")).await;
    assert_eq!(other.hear_refusal().await, "room-has-device");
    let (mut new, joined) = host.device("one").await;
    assert_eq!(joined["type"], "joined");
    old.hear_close().await;
    let mut viewer = host.viewer().await;
    assert_eq!(new.hear().await["id"], viewer.id.as_str());
    viewer.say(&offer("v=0")).await;
    assert_eq!(new.hear().await["from"], viewer.id.as_str());
    host.stop().await;
}

#[tokio::test]
async fn junk_ends_its_sender_and_disturbs_nobody() {
    let host = Host::start().await;
    let (mut device, _) = host.device("one").await;
    let mut viewer = host.viewer().await;
    assert_eq!(device.hear().await["type"], "viewer-joined");
    for junk in [
        Message::text("hello"),
        Message::binary(vec![0xff; 1000]),
        Message::text("[".repeat(100_000)),
        Message::text(r#"{"type":"offer"}"#),
    ] {
        let mut stranger = host.connect().await;
        stranger.socket.send(junk).await.unwrap();
        assert_eq!(stranger.hear_refusal().await, "bad-message");
    }
    for size in [128 * 1024 + 1, 3_000_000] {
        let mut stranger = host.connect().await;
        // The server closes while this is being sent: that it fails is as good.
        let huge = Message::text("x".repeat(size));
        if stranger.socket.send(huge).await.is_ok() {
            assert_eq!(stranger.hear_refusal().await, "too-large");
        }
    }
    let flood = host.viewer().await;
    assert_eq!(device.hear().await["type"], "viewer-joined");
    let (mut sink, mut stream) = flood.socket.split();
    let flooding = tokio::spawn(async move {
        for _ in 0..10_000 {
            if sink.feed(Message::text("{}")).await.is_err() {
                break;
            }
        }
        // Flushed or refused, both are well.
        sink.flush().await.is_ok()
    });
    let mut codes = Vec::new();
    while let Some(Ok(Message::Text(text))) = soon(stream.next()).await {
        let error: Value = serde_json::from_str(&text).unwrap();
        codes.push(error["code"].as_str().unwrap().to_owned());
    }
    soon(flooding).await.unwrap();
    assert_eq!(codes.last().unwrap(), "too-fast");
    assert_eq!(device.hear().await["type"], "viewer-left");

    for junk in ["{", "{}", r#"{"type":"dance"}"#] {
        viewer.socket.send(Message::text(junk)).await.unwrap();
        assert_eq!(viewer.hear().await["code"], "bad-message");
    }
    viewer.say(&offer("v=0")).await;
    assert_eq!(device.hear().await["type"], "offer");
    host.stop().await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_is_closed_and_the_device_goes_on() {
    let host = Host::start().await;
    let (mut device, _) = host.device("one").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(host.address).await.unwrap();
    let mut lazy = Client::upgrade(stream, host.address, None).await.unwrap();
    lazy.say(&viewer_join("see")).await;
    let id = device.hear().await["id"].clone();
    let long = "x".repeat(120_000);
    let message = json!({"type": "answer", "to": id, "answer": {"type": "answer", "sdp": long}});
    let left = async {
        loop {
            device.say(&message).await;
            // Slower than 50 a second, or the device would be the one to go.
            if let Ok(heard) = timeout(Duration::from_millis(25), device.hear()).await {
                break heard;
            }
        }
    };
    let expected = json!({"type": "viewer-left", "id": id, "reason": "lost"});
    assert_eq!(soon(left).await, expected);
    host.stop().await;
}

#[tokio::test]
async fn a_watch_that_fails_says_goodbye_and_does_not_keep_its_place() {
    let host = Host::start().await;
    let (mut device, _) = host.device("one").await;
    let mut watching = program::roomcam()
        .arg("watch")
        .arg(format!("http://{}/#room=cam&key=see", host.address))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let offer = device.hear_of("offer").await;
    let full =
        json!({"type": "error", "to": offer["from"], "code": "room-full", "message": "full"});
    device.say(&full).await;
    assert_eq!(device.hear_of("viewer-left").await["reason"], "bye");
    let status = tokio::task::spawn_blocking(move || watching.wait());
    assert!(!soon(status).await.unwrap().unwrap().success());
    host.stop().await;
}

#[tokio::test]
async fn who_cannot_listen_says_what_to_do() {
    let host = Host::start().await;
    let error = Server::bind(options(host.address)).await.unwrap_err();
    let expected = format!(
        "cannot listen on {}: the port is in use, choose another with --listen",
        host.address
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.source().is_some());
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = Server::bind(options(elsewhere)).await.unwrap_err();
    assert!(error.to_string().contains("no such address"), "{error}");
    host.stop().await;
}

#[tokio::test]
async fn there_is_no_server_without_keys_or_with_one_for_both() {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut keyless = options(free);
    keyless.viewer_key = Secret::default();
    let error = Server::bind(keyless).await.unwrap_err();
    assert!(matches!(error, ServerError::EmptyKey { whose: "viewers" }));
    let mut keyless = options(free);
    keyless.device_key = Secret::default();
    let error = Server::bind(keyless).await.unwrap_err();
    assert!(matches!(error, ServerError::EmptyKey { whose: "devices" }));
    let mut same = options(free);
    same.device_key = same.viewer_key.clone();
    let error = Server::bind(same).await.unwrap_err();
    assert!(matches!(error, ServerError::SameKey));
    let mut odd = options(free);
    odd.allowed_origins = vec!["example.org".to_owned()];
    assert_eq!(
        Server::bind(odd).await.unwrap_err().to_string(),
        "\"example.org\" is no origin: write it as \"https://example.org\""
    );
}

#[tokio::test]
async fn the_link_comes_back_after_the_server_was_restarted() {
    let host = Host::start().await;
    let address = host.address;
    let mut link = host.link("be seen");
    assert!(matches!(link.event().await, RoomEvent::Joined { .. }));
    let viewer = host.viewer().await;
    let id = ViewerId(viewer.id.clone());
    assert_eq!(link.event().await, RoomEvent::ViewerJoined(id.clone()));
    host.stop().await;
    assert_eq!(link.event().await, RoomEvent::Disconnected);
    let host = Host::start_at(address).await;
    assert!(matches!(link.event().await, RoomEvent::Joined { .. }));
    let on_purpose = false;
    let left = RoomEvent::ViewerLeft {
        viewer: id,
        on_purpose,
    };
    assert_eq!(link.event().await, left, "the new server knows nobody");
    link.stop().await;
    host.stop().await;
}

#[tokio::test]
async fn a_link_that_is_refused_or_alone_still_leaves_at_once() {
    let host = Host::start().await;
    let refused = host.link("wrong");
    let tls_to_a_plain_server = TestLink::start(&format!("https://{}", host.address), "be seen");
    let nobody_there = TestLink::start("ws://127.0.0.1:1", "be seen");
    for mut link in [refused, tls_to_a_plain_server, nobody_there] {
        let early = timeout(Duration::from_millis(300), link.events.recv()).await;
        assert!(early.is_err(), "{early:?}");
        link.stop().await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_link_whose_events_nobody_takes_does_not_block_its_messages() {
    let host = Host::start().await;
    let link = host.link("be seen");
    let mut viewer = host.viewer().await;
    for _ in 0..40 {
        viewer.say(&offer("v=0")).await;
    }
    for _ in 0..100 {
        let message = RoomMessage::Answer {
            viewer: ViewerId("v-gone".to_owned()),
            sdp: String::new(),
        };
        soon(link.messages.send(message)).await.unwrap();
    }
    link.stop().await;
    host.stop().await;
}

#[tokio::test]
async fn shutdown_closes_everybody_even_who_does_not_read() {
    let host = Host::start().await;
    let (mut device, _) = host.device("one").await;
    let _silent = host.viewer().await;
    let _half = TcpStream::connect(host.address).await.unwrap();
    assert_eq!(device.hear().await["type"], "viewer-joined");
    let address = host.address;
    let before = clock::now();
    host.stop().await;
    // Half a second, on a machine that has time.
    assert!(clock::now() - before < Duration::from_secs(5));
    device.hear_close().await;
    assert!(TcpStream::connect(address).await.is_err());
}
