//! WebSockets of the room server's clients (RFC 6455): from sockets to [`Rooms`] and back.
//!
//! One task owns the rooms; each client's task moves texts between its socket and that one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::debug;

use super::rooms::{ClientId, Output, Rooms};
use crate::clock;
use crate::signaling::keepalive::{Due, KeepAlive};

/// How many texts may wait for one client: what 64 viewers say to a device when they all join.
const MAX_QUEUED_TEXTS: usize = 1024;

/// How many bytes of text may wait for one client: 8 texts of the largest size.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How many reports of clients may wait for the rooms; then their sockets wait.
pub const MAX_QUEUED_INPUTS: usize = 256;

/// How long a client may take to read one text.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to answer a close, so that it can read why.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same while the server shuts down.
const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// What a client's task reports to the rooms.
#[derive(Debug)]
pub enum Input {
    /// It is there.
    Opened {
        /// Its name.
        client: ClientId,
        /// Where it comes from.
        address: IpAddr,
        /// The way back.
        outgoing: Outgoing,
    },
    /// It said something.
    Message {
        /// Who.
        client: ClientId,
        /// What.
        bytes: Bytes,
    },
    /// It said more than is read.
    TooLarge {
        /// Who.
        client: ClientId,
    },
    /// It is gone.
    Closed {
        /// Who.
        client: ClientId,
    },
}

/// Texts on their way to one client. Dropping it closes the connection once they are sent.
#[derive(Debug)]
pub struct Outgoing {
    texts: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
}

#[derive(Debug)]
struct Queued {
    text: String,
    _budget: OwnedSemaphorePermit,
}

impl Outgoing {
    fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (texts, queue) = mpsc::channel(MAX_QUEUED_TEXTS);
        let budget = Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
        (Self { texts, budget }, queue)
    }

    /// Returns whether `text` could be queued.
    fn send(&self, text: String) -> bool {
        let Ok(size) = u32::try_from(text.len()) else {
            return false;
        };
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(size) else {
            return false;
        };
        let queued = Queued {
            text,
            _budget: permit,
        };
        self.texts.try_send(queued).is_ok() // full: ends the client
    }
}

/// Owns the rooms until the last client's task has ended.
pub async fn run_rooms(mut rooms: Rooms, mut inputs: mpsc::Receiver<Input>) {
    let mut clients: HashMap<ClientId, Outgoing> = HashMap::new();
    loop {
        while let Some(output) = rooms.poll_output() {
            match output {
                Output::Send { client, text } => {
                    if clients.get(&client).is_some_and(|c| !c.send(text)) {
                        debug!(?client, "does not read, closed");
                        clients.remove(&client);
                        rooms.handle_closed(client);
                    }
                }
                Output::Close { client } => {
                    clients.remove(&client);
                }
            }
        }
        let deadline = rooms.poll_timeout();
        tokio::select! {
            input = inputs.recv() => match input {
                Some(Input::Opened { client, address, outgoing }) => {
                    clients.insert(client, outgoing);
                    rooms.handle_opened(client, address, clock::now());
                }
                Some(Input::Message { client, bytes }) => {
                    rooms.handle_message(client, &bytes, clock::now());
                }
                Some(Input::TooLarge { client }) => rooms.handle_too_large(client),
                Some(Input::Closed { client }) => {
                    clients.remove(&client);
                    rooms.handle_closed(client);
                }
                None => return,
            },
            () = sleep_until(deadline.unwrap_or_else(clock::now).into()), if deadline.is_some() => {
                rooms.handle_timeout(clock::now());
            }
        }
    }
}

/// Moves one client's texts until either side closes.
pub async fn serve_client(
    mut socket: WebSocket,
    address: IpAddr,
    inputs: mpsc::Sender<Input>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Ok(random) = getrandom::u64() else {
        return;
    };
    let client = ClientId(random);
    let (outgoing, queue) = Outgoing::new();
    let opened = Input::Opened {
        client,
        address,
        outgoing,
    };
    if inputs.send(opened).await.is_err() {
        return; // The rooms are gone: the server is shutting down.
    }
    let farewell = tokio::select! {
        farewell = pump(&mut socket, client, &inputs, queue) => farewell,
        () = stopped(&mut shutdown) => Farewell::Close(SHUTDOWN_CLOSE_TIMEOUT),
    };
    // full: awaits. The rooms never wait for a client, so this ends.
    if inputs.send(Input::Closed { client }).await.is_err() {
        debug!(?client, "outlived the rooms");
    }
    if let Farewell::Close(patience) = farewell {
        // A client that does not close in time is dropped, as it would be anyway.
        timeout(patience, close(socket)).await.unwrap_or_default();
    }
}

/// Returns once the server is to stop: it was told so, or nobody is left to tell it.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        debug!("stops without having been told");
    }
}

/// How a connection ends.
enum Farewell {
    /// The client is gone.
    Gone,
    /// We close, and wait this long for the client to do so.
    Close(Duration),
}

async fn pump(
    socket: &mut WebSocket,
    client: ClientId,
    inputs: &mpsc::Sender<Input>,
    mut queue: mpsc::Receiver<Queued>,
) -> Farewell {
    let mut keepalive = KeepAlive::new(clock::now());
    let mut readable = true;
    loop {
        let outgoing = tokio::select! {
            queued = queue.recv() => match queued {
                Some(queued) => Message::Text(queued.text.into()),
                None => return Farewell::Close(CLOSE_TIMEOUT),
            },
            incoming = socket.next(), if readable => {
                keepalive.heard(clock::now());
                let input = match incoming {
                    Some(Ok(Message::Text(text))) => Input::Message { client, bytes: text.into() },
                    Some(Ok(Message::Binary(bytes))) => Input::Message { client, bytes },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Err(error)) if is_too_large(&error) => {
                        readable = false;
                        Input::TooLarge { client }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Farewell::Gone,
                };
                // full: awaits
                if inputs.send(input).await.is_err() {
                    return Farewell::Gone;
                }
                continue;
            }
            () = sleep_until(keepalive.poll_timeout().into()) => {
                match keepalive.handle_timeout(clock::now()) {
                    Due::Nothing => continue,
                    Due::Ping => Message::Ping(Bytes::new()),
                    Due::Dead => {
                        debug!(?client, "silent, closed");
                        return Farewell::Gone;
                    }
                }
            }
        };
        if !matches!(
            timeout(WRITE_TIMEOUT, socket.send(outgoing)).await,
            Ok(Ok(()))
        ) {
            debug!(?client, "does not read, closed");
            return Farewell::Gone;
        }
    }
}

/// Closes, and reads until the client has: unread data would reset the connection, and the client
/// might never see what it was told.
async fn close(mut socket: WebSocket) {
    if socket.send(Message::Close(None)).await.is_err() {
        return;
    }
    loop {
        match socket.next().await {
            Some(Ok(_)) => {}
            // The rest of a message that was too large is not read: give the client time instead.
            Some(Err(error)) if is_too_large(&error) => return std::future::pending().await,
            Some(Err(_)) | None => return,
        }
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|s| s.downcast_ref::<tungstenite::Error>());
    matches!(error, Some(tungstenite::Error::Capacity(_)))
}
