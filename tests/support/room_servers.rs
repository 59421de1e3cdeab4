//! Room servers of the kinds that tutorials build, in this process: quick to start, to be killed and
//! started again on the same port, and able to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::clock;
use roomcam::config::{CallEvents, Dialect};
use roomcam::server::pairing::{Member, Opening, Output, RoomServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep_until;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};

/// What a server does instead of its work.
#[derive(Clone, Debug, Default)]
pub(crate) enum Misbehavior {
    /// It works.
    #[default]
    None,
    /// Takes connections and says nothing.
    Silent,
    /// Closes every connection at once.
    Closes,
    /// Works, and says these to each member whenever that one has said something; where members need
    /// not speak first, also when it comes.
    Adds(Vec<Message>),
}

/// A running server.
#[derive(Debug)]
pub(crate) struct InProcessServer {
    dialect: Dialect,
    address: SocketAddr,
    task: JoinHandle<()>,
    accepted: mpsc::Receiver<std::time::Instant>,
}

impl InProcessServer {
    /// Starts one on a free port.
    pub(crate) async fn start(dialect: Dialect, misbehavior: Misbehavior) -> Self {
        Self::launch(dialect, misbehavior, ([127, 0, 0, 1], 0).into()).await
    }

    /// Kills it, and starts it again on the same port: it remembers nothing.
    pub(crate) async fn start_again(mut self, misbehavior: Misbehavior) -> Self {
        self.kill().await;
        Self::launch(self.dialect, misbehavior, self.address).await
    }

    /// Ends it and all its connections without a word.
    pub(crate) async fn kill(&mut self) {
        self.task.abort();
        // It ends by being cancelled.
        (&mut self.task).await.unwrap_or_default();
    }

    /// Returns where it is, as a person would write it.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn url(&self) -> String {
        let path = match self.dialect {
            Dialect::SocketioRooms | Dialect::SocketioCalls => {
                "socket.io/?EIO=4&transport=websocket"
            }
            _ => "",
        };
        format!("ws://{}/{path}", self.address)
    }

    /// Waits for the next connection, and returns when it came.
    pub(crate) async fn connected(&mut self) -> std::time::Instant {
        self.accepted.recv().await.expect("it runs")
    }

    async fn launch(dialect: Dialect, misbehavior: Misbehavior, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (accepts, accepted) = mpsc::channel(1_000);
        let task = tokio::spawn(run(listener, dialect, misbehavior, accepts));
        Self {
            dialect,
            address,
            task,
            accepted,
        }
    }
}

impl Drop for InProcessServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a member's task reports.
enum Report {
    Opened(Member, mpsc::UnboundedSender<Message>),
    Text(Member, String),
    Closed(Member),
}

async fn run(
    listener: TcpListener,
    dialect: Dialect,
    misbehavior: Misbehavior,
    accepts: mpsc::Sender<std::time::Instant>,
) {
    let mut server = RoomServer::new(dialect, CallEvents::default()).expect("a tutorial's");
    let mut members = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let (reports, mut queue) = mpsc::channel(64);
    let mut count = 0;
    loop {
        while let Some(output) = server.poll_output() {
            match output {
                Output::Send { to, text } => tell(&members, to, Message::text(text)),
                Output::Close { member } => {
                    members.remove(&member);
                }
            }
        }
        let deadline = server.poll_timeout();
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    continue;
                };
                accepts.try_send(clock::now()).ok();
                if !matches!(misbehavior, Misbehavior::Closes) {
                    count += 1;
                    tasks.spawn(serve(stream, Member(count), reports.clone()));
                }
            }
            Some(report) = queue.recv() => match report {
                Report::Opened(member, way_back) => {
                    members.insert(member, way_back);
                    if !matches!(misbehavior, Misbehavior::Silent) {
                        let opening = Opening::websocket(format!("sid-{}", member.0));
                        server.handle_opened(member, &opening, clock::now());
                    }
                    if matches!(dialect, Dialect::WsRooms | Dialect::WsBroadcast) {
                        add(&members, member, &misbehavior);
                    }
                }
                Report::Text(member, text) => {
                    server.handle_text(member, &text, clock::now());
                    add(&members, member, &misbehavior);
                }
                Report::Closed(member) => {
                    members.remove(&member);
                    server.handle_closed(member);
                }
            },
            () = sleep_until(deadline.unwrap_or_else(clock::now).into()), if deadline.is_some() => {
                server.handle_timeout(clock::now());
            }
        }
    }
}

fn add(
    members: &BTreeMap<Member, mpsc::UnboundedSender<Message>>,
    to: Member,
    misbehavior: &Misbehavior,
) {
    if let Misbehavior::Adds(messages) = misbehavior {
        for message in messages {
            tell(members, to, message.clone());
        }
    }
}

fn tell(members: &BTreeMap<Member, mpsc::UnboundedSender<Message>>, to: Member, message: Message) {
    if let Some(member) = members.get(&to) {
        member.send(message).ok(); // It may have gone.
    }
}

async fn serve(stream: TcpStream, member: Member, reports: mpsc::Sender<Report>) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    let (way_back, mut texts) = mpsc::unbounded_channel();
    reports.send(Report::Opened(member, way_back)).await.ok();
    pump(&mut socket, member, &reports, &mut texts).await.ok();
    reports.send(Report::Closed(member)).await.ok();
}

async fn pump(
    socket: &mut WebSocketStream<TcpStream>,
    member: Member,
    reports: &mpsc::Sender<Report>,
    texts: &mut mpsc::UnboundedReceiver<Message>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            text = texts.recv() => match text {
                Some(text) => socket.send(text).await?,
                None => return Ok(()),
            },
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => {
                    reports.send(Report::Text(member, text.to_string())).await.ok();
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
        }
    }
}

/// A page without a browser: one WebSocket to such a server.
#[derive(Debug)]
pub(crate) struct RawPage(WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>);

impl RawPage {
    /// Connects, and enters the room `cam`.
    pub(crate) async fn join(server: &InProcessServer) -> Self {
        let (socket, _) = tokio_tungstenite::connect_async(server.url())
            .await
            .expect("it listens");
        let mut page = Self(socket);
        match server.dialect {
            Dialect::WsRooms => page.say(r#"{"type":"join","room":"cam"}"#).await,
            Dialect::SocketioRooms => page.enter(r#"42["join","cam"]"#).await,
            Dialect::SocketioCalls => {
                page.enter(r#"42["room:join",{"email":"e","room":"cam"}]"#)
                    .await;
            }
            _ => {}
        }
        page
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("it is open");
    }

    /// Passes over texts until one has these words.
    pub(crate) async fn hear(&mut self, words: &str) -> String {
        let patience = Duration::from_secs(20);
        let heard = tokio::time::timeout(patience, async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) if text.contains(words) => {
                        return text.to_string();
                    }
                    Some(Ok(_)) => {}
                    other => panic!("waited for {words}, and it closed: {other:?}"),
                }
            }
        });
        heard
            .await
            .unwrap_or_else(|_| panic!("nobody said {words}"))
    }

    async fn enter(&mut self, join: &str) {
        self.hear("pingInterval").await;
        self.say("40").await;
        self.hear("40{").await;
        self.say(join).await;
    }
}
