//! The WebSocket to a room server (RFC 6455, over TLS where the address says so): drives [`Link`].
//!
//! Decides nothing. While the engine is busy, no more is read from the server; what the engine
//! says is always taken, so that the two can never wait for each other.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tracing::{debug, info, warn};
use url::Url;

use super::dialect::{Adapter, Join};
use super::flow::Flow;
use super::link::{Link, Output, Report};
use super::server_url::server_name;
use super::{RoomEvent, RoomIndex, RoomMessage};
use crate::clock;
use crate::config::{CallEvents, Dialect, Headers, Secret};

mod connect;
mod tls;

use connect::{ConnectError, Endpoint, Socket};
pub use tls::{Authorities, CaFileError};

/// How long a server may take to read one text.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long saying good-bye may take in all.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where to go, and as whom.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// The WebSocket, as [`super::server_url::parse_server_url`] returns it.
    pub server: Url,
    /// What is spoken there.
    pub dialect: Dialect,
    /// Which room.
    pub room: String,
    /// Whether its name lets in whoever knows it: logs then call it by its number.
    pub room_is_secret: bool,
    /// The key that the room server asks of devices.
    pub key: Secret,
    /// A random text that stays the same while this process runs.
    pub instance: String,
    /// What the server wants to see in the HTTP request.
    pub headers: Headers,
    /// Which certificates are believed on top of the system's.
    pub authorities: Authorities,
    /// Payload of Socket.IO's CONNECT packet: a JSON object, or empty.
    pub auth: Secret,
    /// Event names of `socketio-calls`.
    pub events: CallEvents,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, ConnectError>> + Send>>;

/// Keeps the device in `room` until `messages` is closed; then leaves, which takes at most a
/// second.
pub async fn run_link(
    options: LinkOptions,
    room: RoomIndex,
    events: mpsc::Sender<(RoomIndex, RoomEvent)>,
    mut messages: mpsc::Receiver<RoomMessage>,
) {
    choose_cryptography();
    let mut driver = Driver::new(options, room);
    loop {
        driver.perform().await;
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => driver.link.handle_message(&message, clock::now()),
                None => break,
            },
            permit = events.reserve(), if !driver.events.is_empty() => match permit {
                Ok(permit) => {
                    if let Some(event) = driver.events.pop_front() {
                        permit.send((room, event)); // full: awaits
                    }
                }
                Err(_) => break, // Nobody listens any more.
            },
            () = driver.next() => {}
        }
    }
    driver.link.handle_leave();
    if timeout(LEAVE_TIMEOUT, driver.perform()).await.is_err() {
        debug!("left without an answer");
    }
}

/// Why a room server will not have us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// From the protocol's list; empty where it was not the protocol's.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// Connects once and, if it `enters`, goes into the room and leaves it.
///
/// # Errors
///
/// [`Refused`], with what is known of why.
pub async fn try_once(options: LinkOptions, enters: bool) -> Result<(), Refused> {
    choose_cryptography();
    let mut driver = Driver::new(options, RoomIndex(0));
    let refused = |code: String, reason: String| Err(Refused { code, reason });
    if !enters {
        return match timeout(WRITE_TIMEOUT * 2, driver.endpoint.connect()).await {
            Ok(Ok(socket)) => {
                close(socket).await;
                Ok(())
            }
            Ok(Err(error)) => refused(String::new(), error.to_string()),
            Err(_) => refused(String::new(), "it does not answer".to_owned()),
        };
    }
    loop {
        while let Some(output) = driver.link.poll_output() {
            match output {
                // It is told when it has lasted; that it happened is enough.
                Output::Event(RoomEvent::Joined { .. }) => {
                    driver.link.handle_leave();
                    drop(timeout(LEAVE_TIMEOUT, driver.perform()).await);
                    return Ok(());
                }
                Output::Report(Report::Lost { reason }) => return refused(String::new(), reason),
                Output::Report(Report::Refused { code, message }) => return refused(code, message),
                other => driver.perform_one(other).await,
            }
        }
        driver.next().await;
    }
}

struct Driver {
    /// For logs.
    name: String,
    endpoint: Endpoint,
    link: Link,
    connecting: Option<Connecting>,
    socket: Option<Socket>,
    /// On their way to the engine.
    events: VecDeque<RoomEvent>,
    flow: Option<Flow>,
    was_slowed: bool,
}

impl Driver {
    fn new(options: LinkOptions, room: RoomIndex) -> Self {
        let join = Join {
            room: options.room,
            key: options.key,
            instance: options.instance,
            auth: options.auth,
            events: options.events,
        };
        let room_name = if options.room_is_secret {
            format!(" room #{}", room.0 + 1)
        } else {
            format!(" room {}", join.room)
        };
        let seed = getrandom::u64().unwrap_or_else(|_| clock::unix_time().as_secs());
        Self {
            name: format!("{}{}", server_name(&options.server), room_name),
            link: Link::new(Adapter::new(options.dialect, join), seed, clock::now()),
            endpoint: Endpoint::new(options.server, options.headers, options.authorities),
            connecting: None,
            socket: None,
            events: VecDeque::new(),
            // Our own server sees to it that nobody says too much.
            flow: (options.dialect != Dialect::Roomcam).then(|| Flow::new(clock::now())),
            was_slowed: false,
        }
    }

    /// Waits for the next thing to happen on the network, and reports it to the link. Can be
    /// dropped at any point without losing anything.
    async fn next(&mut self) {
        let deadline = self.link.poll_timeout();
        let slowed = self
            .flow
            .as_ref()
            .and_then(|flow| flow.poll_timeout(clock::now()));
        if slowed.is_some() && !self.was_slowed {
            self.was_slowed = true;
            warn!(
                server = self.name,
                "the room says too much: it is read slower"
            );
        }
        let may_read = self.events.is_empty() && slowed.is_none();
        let deadline = [deadline, slowed].into_iter().flatten().min();
        tokio::select! {
            connected = async { Some(self.connecting.as_mut()?.await) }, if self.connecting.is_some() => {
                self.connecting = None;
                match connected {
                    Some(Ok(socket)) => {
                        self.socket = Some(socket);
                        self.link.handle_connected(clock::now());
                    }
                    Some(Err(error)) => self.lost(&error.to_string()),
                    None => {}
                }
            }
            message = async { self.socket.as_mut()?.next().await }, if self.socket.is_some() && may_read => {
                self.take(message);
            }
            () = sleep_until(deadline.unwrap_or_else(clock::now).into()), if deadline.is_some() => {
                self.link.handle_timeout(clock::now());
            }
        }
    }

    fn take(&mut self, message: Option<Result<Message, tungstenite::Error>>) {
        let now = clock::now();
        if let Some(flow) = &mut self.flow
            && self.link.is_joined()
        {
            flow.handle_message(now);
        }
        match message {
            Some(Ok(Message::Text(text))) => self.link.handle_text(&text, now),
            Some(Ok(Message::Binary(bytes))) => self.link.handle_binary(&bytes, now),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.link.handle_heard(now);
            }
            Some(Ok(Message::Close(_))) | None => self.lost("closed by the room server"),
            Some(Err(error)) => self.lost(&error.to_string()),
        }
    }

    /// Does what the link wants.
    async fn perform(&mut self) {
        while let Some(output) = self.link.poll_output() {
            self.perform_one(output).await;
        }
    }

    async fn perform_one(&mut self, output: Output) {
        match output {
            Output::Connect => self.connecting = Some(Box::pin(self.endpoint.clone().connect())),
            Output::Send(text) => self.send(Message::text(text)).await,
            Output::Ping => self.send(Message::Ping(Bytes::new())).await,
            Output::Close => {
                self.connecting = None;
                if let Some(socket) = self.socket.take() {
                    close(socket).await;
                }
            }
            Output::Event(event) => self.events.push_back(event),
            Output::Report(report) => self.log(&report),
        }
    }

    async fn send(&mut self, message: Message) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        match timeout(WRITE_TIMEOUT, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.lost(&error.to_string()),
            Err(_) => self.lost("does not read"),
        }
    }

    fn lost(&mut self, reason: &str) {
        self.socket = None;
        debug!(server = self.name, reason, "connection ended");
        self.link.handle_closed(reason, clock::now());
    }

    fn log(&self, report: &Report) {
        let server = &self.name;
        match report {
            Report::Joined => info!(server, "joined the room"),
            Report::Lost { reason } => {
                warn!(
                    server,
                    ?reason,
                    "no connection to the room server, trying again"
                );
            }
            Report::Refused { code, message } => {
                warn!(
                    server,
                    ?code,
                    reason = ?message,
                    "refused by the room server, trying again"
                );
            }
        }
    }
}

/// Closes, and waits a little for the server to do so too: it then has read everything.
async fn close(mut socket: Socket) {
    let closed = async {
        socket.close(None).await?;
        while let Some(message) = socket.next().await {
            message?;
        }
        Ok::<(), tungstenite::Error>(())
    };
    match timeout(LEAVE_TIMEOUT, closed).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "closed badly"),
        Err(_) => debug!("the room server did not close"),
    }
}

/// Makes `ring` the process's TLS cryptography, unless somebody has chosen already. Were two built
/// in and none chosen, the first TLS connection would panic.
pub(crate) fn choose_cryptography() {
    let provider = rustls::crypto::ring::default_provider();
    if provider.install_default().is_err() {
        debug!("TLS cryptography was chosen before");
    }
}
