//! The embedded room server and tutorial pages, text by text: transports, refusals, bounds.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::config::{CallEvents, Dialect, Secret};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const ROOM: &str = "a-room-that-nobody-guesses";

/// Longest wait for anything; only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a page comes from that may connect.
const ORIGIN: &str = "http://localhost:5173";

const ALL: [Dialect; 4] = [
    Dialect::WsRooms,
    Dialect::WsBroadcast,
    Dialect::SocketioRooms,
    Dialect::SocketioCalls,
];

/// A room server on a port of its own.
struct Host {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Host {
    async fn start(dialects: &[Dialect]) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(options(listen, dialects, ROOM)).await.unwrap();
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

    async fn connect(&self, path: &str, origin: &str) -> Result<Client, Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        let origin = origin.parse().unwrap();
        request.headers_mut().insert("Origin", origin);
        let (socket, _) = soon(client_async(request, stream)).await?;
        Ok(Client(socket))
    }

    /// Enters the room as the device.
    async fn device(&self) -> Client {
        let mut device = self.connect("/ws", &self.url()).await.unwrap();
        let join = json!({"type": "join", "protocol": 1, "role": "device", "room": ROOM,
            "key": "be seen", "instance": "i"});
        device.say(join.to_string()).await;
        assert_eq!(device.hear_json().await["type"], "joined");
        device
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns status, head and body.
    async fn http(&self, method: &str, target: &str, body: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nOrigin: {ORIGIN}\r\nConnection: close\r\n\
             Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(stream.read_to_string(&mut response)).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, head.to_lowercase(), body.to_owned())
    }

    /// Opens a session without a WebSocket; returns where it is polled.
    async fn session(&self, version: u8) -> String {
        let target = format!("/socket.io/?EIO={version}&transport=polling");
        let (status, _, body) = self.http("GET", &target, "").await;
        assert_eq!(status, "200", "{body}");
        let opening = body.split_once('{').unwrap().1;
        let opening = opening.split_once('}').unwrap().0;
        let opening: Value = serde_json::from_str(&format!("{{{opening}}}")).unwrap();
        assert_eq!(opening["upgrades"], json!(["websocket"]));
        format!("{target}&sid={}", opening["sid"].as_str().unwrap())
    }

    async fn get(&self, target: &str) -> String {
        let (status, _, body) = self.http("GET", target, "").await;
        assert_eq!(status, "200", "{body}");
        body
    }

    async fn post(&self, target: &str, body: &str) {
        let (status, _, body) = self.http("POST", target, body).await;
        assert_eq!((status.as_str(), body.as_str()), ("200", "ok"));
    }
}

fn options(listen: SocketAddr, dialects: &[Dialect], room: &str) -> ServerOptions {
    ServerOptions {
        listen,
        viewer_key: Secret::new("see".to_owned()),
        device_key: Secret::new("be seen".to_owned()),
        allowed_origins: vec![ORIGIN.to_owned()],
        ice_servers: Vec::new().into(),
        tutorials: Tutorials {
            dialects: dialects.to_vec(),
            rooms: vec![Secret::new(room.to_owned())],
            events: CallEvents::default(),
        },
    }
}

/// One WebSocket.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn say(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    /// Waits for the next text; `None` once the other side has closed.
    async fn hear(&mut self) -> Option<String> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    }

    async fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear().await.unwrap()).unwrap()
    }

    /// Passes over messages until one of this type comes.
    async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear_json().await;
            if message["type"] == kind {
                return message;
            }
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens soon")
}

fn join() -> String {
    json!({"type": "join", "room": ROOM}).to_string()
}

#[tokio::test]
async fn without_tutorial_dialects_pages_are_refused() {
    let host = Host::start(&[]).await;
    for path in ["/", "/socket.io/?EIO=4&transport=websocket"] {
        match host.connect(path, ORIGIN).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 404),
            other => panic!("{:?}", other.is_ok()),
        }
    }
    let target = "/socket.io/?EIO=4&transport=polling";
    let (status, _, body) = host.http("GET", target, "").await;
    assert_eq!(status, "404");
    assert!(body.contains("server.tutorial_dialects"), "{body}");
    assert_eq!(host.http("GET", "/", "").await.0, "200", "our own page");
    host.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_those_allowed_may_read() {
    let host = Host::start(&ALL).await;
    for path in ["/", "/socket.io/?EIO=4&transport=websocket"] {
        for origin in ["http://localhost:5174", "null"] {
            match host.connect(path, origin).await {
                Err(Error::Http(response)) => assert_eq!(response.status(), 403),
                other => panic!("{:?}", other.is_ok()),
            }
        }
        host.connect(path, ORIGIN).await.unwrap();
    }
    let target = "/socket.io/?EIO=4&transport=polling";
    let (status, head, _) = host.http("GET", target, "").await;
    assert_eq!(status, "200");
    assert!(head.contains(&format!("access-control-allow-origin: {ORIGIN}")));
    assert_eq!(host.http("OPTIONS", target, "").await.0, "204");
    host.stop().await;
}

#[tokio::test]
async fn beyond_loopback_short_names_of_rooms_and_the_bus_are_refused() {
    let listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let refusal = Server::bind(options(listen, &[Dialect::WsRooms], "fifteen-letters")).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(
        refusal.contains("room.name") && refusal.contains("16"),
        "{refusal}"
    );
    let refusal = Server::bind(options(listen, &ALL, ROOM)).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("server.tutorial_dialects"), "{refusal}");
    let sixteen = options(listen, &[Dialect::SocketioRooms], "sixteen-letters-");
    Server::bind(sixteen).await.unwrap();
    Server::bind(options(listen, &[], "cam")).await.unwrap();
}

#[tokio::test]
async fn socketio_works_without_a_websocket_and_goes_over_to_one() {
    let host = Host::start(&ALL).await;
    let mut device = host.device().await;
    let target = host.session(4).await;
    host.post(&target, "40").await;
    let connected = host.get(&target).await;
    assert!(connected.starts_with(r#"40{"sid":""#), "{connected}");
    let joins = format!(r#"42["join","{ROOM}"]"#);
    host.post(&target, &joins).await;
    assert_eq!(host.get(&target).await, r#"42["joined"]"#);
    device.expect("viewer-joined").await;

    let waits = host.get(&target);
    let changes = async {
        let websocket = target.replace("polling", "websocket");
        let mut page = host.connect(&websocket, ORIGIN).await.unwrap();
        page.say("2probe").await;
        assert_eq!(page.hear().await.unwrap(), "3probe");
        page
    };
    let (waited, mut page) = tokio::join!(waits, changes);
    assert_eq!(waited, "6");
    page.say("5").await;
    page.say(format!(r#"42["ready","{ROOM}"]"#)).await;
    let viewer = device.expect("call").await["from"].clone();
    let offer = json!({"type": "offer", "to": viewer, "offer": {"type": "offer", "sdp": "v=0"}});
    device.say(offer.to_string()).await;
    let offer = page.hear().await.unwrap();
    assert_eq!(offer, r#"42["offer",{"sdp":"v=0","type":"offer"}]"#);
    page.say("41").await;
    page.say("1").await;
    assert_eq!(page.hear().await, None);
    assert_eq!(device.expect("viewer-left").await["id"], viewer);
    assert_eq!(host.http("GET", &target, "").await.0, "400", "it is over");
    host.stop().await;
}

#[tokio::test]
async fn old_clients_are_connected_unasked_and_their_texts_have_lengths() {
    let host = Host::start(&ALL).await;
    let target = "/socket.io/?EIO=3&transport=polling";
    let body = host.get(target).await;
    let (length, opening) = body.split_once(':').unwrap();
    let (opening, greeting) = opening.split_at(length.parse().unwrap());
    assert_eq!(greeting, "2:40");
    let opening: Value = serde_json::from_str(&opening[1..]).unwrap();
    let target = format!("{target}&sid={}", opening["sid"].as_str().unwrap());
    let text = r#"42["join","nowhere"]"#;
    host.post(&target, &format!("{}:{text}", text.len())).await;
    assert_eq!(host.get(&target).await, r#"13:42["created"]"#);
    host.post(&target, "1:2").await;
    assert_eq!(host.get(&target).await, "1:3");
    host.stop().await;
}

#[tokio::test]
async fn a_session_refuses_junk_and_what_is_too_large_and_ends() {
    let host = Host::start(&ALL).await;
    for (target, body) in [
        ("/socket.io/", ""),
        ("/socket.io/?EIO=5&transport=polling", ""),
        ("/socket.io/?EIO=4&transport=carrier-pigeon", ""),
        ("/socket.io/?EIO=4&transport=polling&sid=unknown", ""),
        ("/socket.io/?EIO=4&transport=polling&j=0", ""),
    ] {
        assert_eq!(host.http("GET", target, body).await.0, "400", "{target}");
    }
    let target = "/socket.io/?EIO=4&transport=polling";
    assert_eq!(host.http("POST", target, "40").await.0, "400");
    for (body, status) in [("2\u{1e}".repeat(100), "400"), ("x".repeat(200_000), "413")] {
        let target = host.session(4).await;
        assert_eq!(host.http("POST", &target, &body).await.0, status);
        assert_eq!(host.http("GET", &target, "").await.0, "400", "it is over");
    }
    let target = host.session(3).await;
    assert_eq!(host.http("POST", &target, "9:40").await.0, "400");
    host.stop().await;
}

#[tokio::test]
async fn sessions_that_idle_give_way_and_one_that_is_in_a_room_stays() {
    let host = Host::start(&ALL).await;
    let mut device = host.device().await;
    let inside = host.session(4).await;
    host.post(&inside, "40").await;
    host.post(&inside, &format!(r#"42["join","{ROOM}"]"#)).await;
    device.expect("viewer-joined").await;
    let idle = host.session(4).await;
    for _ in 0..128 {
        host.session(4).await;
    }
    assert_eq!(host.http("POST", &idle, "40").await.0, "400", "it gave way");
    host.post(&inside, &format!(r#"42["ready","{ROOM}"]"#))
        .await;
    device.expect("call").await;
    host.stop().await;
}

#[tokio::test]
async fn a_wrong_name_is_answered_like_an_empty_room() {
    let host = Host::start(&ALL).await;
    let mut page = host
        .connect("/socket.io/?EIO=4&transport=websocket", ORIGIN)
        .await
        .unwrap();
    assert!(page.hear().await.unwrap().starts_with('0'));
    page.say("40").await;
    page.hear().await.unwrap();
    page.say(r#"42["join","wrong"]"#).await;
    assert_eq!(page.hear().await.unwrap(), r#"42["created"]"#);
    let mut right = host
        .connect("/socket.io/?EIO=4&transport=websocket", ORIGIN)
        .await
        .unwrap();
    right.hear().await.unwrap();
    right.say("40").await;
    right.hear().await.unwrap();
    right.say(format!(r#"42["join","{ROOM}"]"#)).await;
    assert_eq!(right.hear().await.unwrap(), r#"42["created"]"#);
    host.stop().await;
}

#[tokio::test]
async fn ten_thousand_candidates_end_their_page_and_neither_device_nor_other_pages() {
    let host = Host::start(&ALL).await;
    let mut device = host.device().await;
    let mut other = host.connect("/", ORIGIN).await.unwrap();
    other.say(join()).await;
    assert_eq!(other.hear_json().await["type"], "ready");
    device.expect("viewer-joined").await;

    let mut page = host.connect("/", ORIGIN).await.unwrap();
    page.say(join()).await;
    assert_eq!(page.hear_json().await["type"], "ready");
    let candidate = json!({"type": "candidate", "room": ROOM,
        "candidate": {"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0"}});
    let (mut says, mut hears) = page.0.split();
    let flood = async {
        for _ in 0..10_000 {
            let text = Message::text(candidate.to_string());
            if says.send(text).await.is_err() {
                break; // It is closed.
            }
        }
    };
    let closed = async { while let Some(Ok(_)) = hears.next().await {} };
    soon(async { tokio::join!(flood, closed) }).await;
    let mut candidates = 0;
    loop {
        match device.hear_json().await["type"].as_str().unwrap() {
            "candidate" => candidates += 1,
            "viewer-left" => break,
            _ => {}
        }
    }
    assert!(candidates <= 50, "{candidates} came through");
    let offer = json!({"type": "offer", "room": ROOM, "offer": {"type": "offer", "sdp": "v=0"}});
    other.say(offer.to_string()).await;
    device.expect("offer").await;
    host.stop().await;
}

#[tokio::test]
async fn a_page_that_never_reads_is_closed() {
    let host = Host::start(&ALL).await;
    let mut device = host.device().await;
    let mut page = host.connect("/", ORIGIN).await.unwrap();
    page.say(join()).await;
    let viewer = device.expect("viewer-joined").await["id"].clone();
    page.say(
        json!({"type": "offer", "room": ROOM, "offer": {"type": "offer", "sdp": "v=0"}})
            .to_string(),
    )
    .await;
    device.expect("offer").await;
    let sdp = "v".repeat(120_000);
    let answer = json!({"type": "answer", "to": viewer, "answer": {"type": "answer", "sdp": sdp}});
    let flood = async {
        loop {
            device.say(answer.to_string()).await;
            let heard = timeout(Duration::from_millis(25), device.0.next()).await;
            if let Ok(Some(Ok(Message::Text(text)))) = heard
                && text.contains("viewer-left")
            {
                break;
            }
        }
    };
    soon(flood).await;
    host.stop().await;
}

#[tokio::test]
async fn junk_of_a_page_changes_nothing() {
    let host = Host::start(&ALL).await;
    let mut device = host.device().await;
    let mut page = host.connect("/", ORIGIN).await.unwrap();
    for junk in [
        "",
        "null",
        "[]",
        "{",
        r#"{"type":7}"#,
        r#"{"type":"join"}"#,
        "\u{0}",
    ] {
        page.say(junk).await;
    }
    page.say(join()).await;
    assert_eq!(page.hear_json().await["type"], "ready");
    device.expect("viewer-joined").await;
    page.0.send(Message::binary(vec![0xff; 100])).await.unwrap();
    page.say("x".repeat(200_000)).await;
    assert_eq!(page.hear().await, None, "what is not read is not forgiven");
    assert_eq!(device.expect("viewer-left").await["reason"], "lost");
    host.stop().await;
}
