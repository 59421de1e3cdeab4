//! The Socket.IO client with a server of others, of Engine.IO 4 and 3.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::clock;
use roomcam::config::Dialect;
use roomcam::signaling::server_url::parse_server_url;
use roomcam::signaling::socketio::{self, SocketIo, SocketIoEvent};
use serde_json::{Value, json};
use socketioxide::extract::{Data, SocketRef, TryData};
use socketioxide::handler::ConnectHandler as _;
use socketioxide::socket::DisconnectReason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of the Socket.IO machine: the boring part around it.
struct SocketIoClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    machine: SocketIo,
    /// Texts in both directions.
    heard: Vec<String>,
    said: Vec<String>,
}

impl SocketIoClient {
    async fn connect(url: &str, auth: Option<Value>) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        Self {
            socket,
            machine: SocketIo::new(auth),
            heard: Vec::new(),
            said: Vec::new(),
        }
    }

    async fn say(&mut self, text: String) {
        self.said.push(text.clone());
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn emit(&mut self, name: &str, args: &[Value]) {
        self.say(socketio::event(name, args)).await;
    }

    /// Does one thing: a text, or a timeout.
    async fn step(&mut self) {
        while let Some(text) = self.machine.poll_send() {
            self.say(text).await;
        }
        let wake = self.machine.poll_timeout();
        tokio::select! {
            message = self.socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    self.heard.push(text.to_string());
                    self.machine.handle_text(&text, clock::now());
                }
                Some(Ok(_)) => {}
                ended => panic!("{ended:?} after {:?}", self.heard),
            },
            () = tokio::time::sleep_until(wake.unwrap_or_else(clock::now).into()),
                if wake.is_some() => self.machine.handle_timeout(clock::now()),
        }
    }

    async fn next(&mut self) -> SocketIoEvent {
        soon(async {
            loop {
                if let Some(event) = self.machine.poll_event() {
                    return event;
                }
                self.step().await;
            }
        })
        .await
    }

    /// Goes on until a text was said or heard `times` times.
    async fn until(&mut self, times: usize, text: &str, said: bool) {
        soon(async {
            loop {
                let texts = if said { &self.said } else { &self.heard };
                if texts.iter().filter(|t| *t == text).count() >= times {
                    return;
                }
                self.step().await;
            }
        })
        .await;
    }

    async fn hear(&mut self, name: &str) -> Vec<Value> {
        match self.next().await {
            SocketIoEvent::Event { name: heard, args } if heard == name => args,
            other => panic!("{other:?} instead of {name}"),
        }
    }
}

/// A Socket.IO server that wants a token, echoes, and says who left.
struct SocketIoServer {
    address: SocketAddr,
    left: mpsc::UnboundedReceiver<DisconnectReason>,
    _tasks: JoinSet<()>,
}

impl SocketIoServer {
    async fn start() -> Self {
        let (layer, io) = socketioxide::SocketIo::builder()
            .ping_interval(Duration::from_millis(200))
            .ping_timeout(Duration::from_secs(2))
            .build_layer();
        let (gone, left) = mpsc::unbounded_channel();
        let connected = async move |socket: SocketRef| {
            let id = socket.id.to_string();
            socket.on("who", async move |socket: SocketRef| {
                socket.emit("you", &id).unwrap();
            });
            socket.on(
                "echo",
                async |socket: SocketRef, Data(sent): Data<Value>| {
                    socket.emit("ready", &[(); 0]).unwrap();
                    socket.emit("echo", &sent).unwrap();
                },
            );
            socket.on("end", async |socket: SocketRef| {
                socket.disconnect().unwrap();
            });
            socket.on_disconnect(async move |reason: DisconnectReason| {
                gone.send(reason).unwrap();
            });
        };
        let check = async |socket: SocketRef, TryData(auth): TryData<Value>| {
            let is_old = socket.protocol() == socketioxide::ProtocolVersion::V4;
            if is_old || auth.is_ok_and(|auth| auth["token"] == "right") {
                Ok(())
            } else {
                Err("wrong token")
            }
        };
        io.ns("/", connected.with(check));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let router = axum::Router::new().layer(layer);
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            address,
            left,
            _tasks: tasks,
        }
    }

    fn url(&self) -> String {
        let url = format!("http://{}", self.address);
        let url = parse_server_url(&url, Dialect::SocketioRooms).unwrap();
        url.to_string()
    }
}

#[tokio::test]
async fn socketio_is_spoken_with_servers_of_engine_io_4() {
    let mut server = SocketIoServer::start().await;
    let auth = Some(json!({"token": "right"}));
    let mut client = SocketIoClient::connect(&server.url(), auth).await;
    let SocketIoEvent::Connected { sid } = client.next().await else {
        panic!("not connected: {:?}", client.heard);
    };
    client.emit("who", &[]).await;
    assert_eq!(client.hear("you").await, [json!(sid)]);
    client.until(3, "3", true).await;
    let sent = json!({"type": "offer", "sdp": "v=0\r\n\u{e9}"});
    client.emit("echo", std::slice::from_ref(&sent)).await;
    assert_eq!(client.hear("ready").await, [] as [Value; 0]);
    assert_eq!(client.hear("echo").await, [sent]);
    client.say(socketio::disconnect()).await;
    let reason = soon(server.left.recv()).await.unwrap();
    assert_eq!(reason, DisconnectReason::ClientNSDisconnect);
}

#[tokio::test]
async fn a_socketio_server_can_end_it() {
    let server = SocketIoServer::start().await;
    let auth = Some(json!({"token": "right"}));
    let mut client = SocketIoClient::connect(&server.url(), auth).await;
    assert!(matches!(
        client.next().await,
        SocketIoEvent::Connected { .. }
    ));
    client.emit("end", &[]).await;
    assert!(matches!(
        client.next().await,
        SocketIoEvent::Disconnected { .. }
    ));
}

#[tokio::test]
async fn a_socketio_server_that_wants_another_token_says_so() {
    let server = SocketIoServer::start().await;
    for auth in [None, Some(json!({"token": "wrong"}))] {
        let mut client = SocketIoClient::connect(&server.url(), auth).await;
        let message = "wrong token".to_owned();
        assert_eq!(client.next().await, SocketIoEvent::Refused { message });
    }
}

#[tokio::test]
async fn socketio_is_spoken_with_servers_of_engine_io_3() {
    let mut server = SocketIoServer::start().await;
    // This server speaks both, and the elder only to who asks for it.
    let url = server.url().replace("EIO=4", "EIO=3");
    let mut client = SocketIoClient::connect(&url, None).await;
    let SocketIoEvent::Connected { sid } = client.next().await else {
        panic!("not connected: {:?}", client.heard);
    };
    client.emit("who", &[]).await;
    assert_eq!(client.hear("you").await, [json!(sid)]);
    client.until(3, "3", false).await;
    client.emit("echo", &[json!(7)]).await;
    assert_eq!(client.hear("ready").await, [] as [Value; 0]);
    assert_eq!(client.hear("echo").await, [json!(7)]);
    client.say(socketio::disconnect()).await;
    let reason = soon(server.left.recv()).await.unwrap();
    assert_eq!(reason, DisconnectReason::ClientNSDisconnect);
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap()
}
