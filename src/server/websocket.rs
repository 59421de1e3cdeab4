//! WebSockets of the room server's clients (RFC 6455): from sockets to [`Rooms`] and back.
//!
//! One task owns the rooms; each client's task moves texts between its socket and that one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::debug;

use super::places::Ticket;
use super::rooms::{ClientId, Output, Rooms};
use crate::clock;
use crate::signaling::keepalive::{Due, KeepAlive};

/// How many texts may wait for one client: what 64 viewers say to a device when they all join.
const MAX_QUEUED_TEXTS: usize = 1024;

/// How many bytes of text may wait for one client: 8 texts of the largest size.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How much of both is kept free of what viewers say: for the room's news, which has to fit or
/// the device is closed. 128 viewers come and go in it.
const RESERVED_TEXTS: usize = 256;
const RESERVED_BYTES: usize = 64 * 1024;

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
    /// Whether the client is in a room.
    inside: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Queued {
    text: String,
    _budget: OwnedSemaphorePermit,
}

impl Outgoing {
    fn new(inside: Arc<AtomicBool>) -> (Self, mpsc::Receiver<Queued>) {
        let (texts, queue) = mpsc::channel(MAX_QUEUED_TEXTS);
        let outgoing = Self {
            texts,
            budget: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            inside,
        };
        (outgoing, queue)
    }

    /// Returns whether `text`, which a viewer says, could be queued. Leaves the reserve alone.
    fn relay(&self, text: String) -> bool {
        self.texts.capacity() > RESERVED_TEXTS
            && self.budget.available_permits() >= text.len() + RESERVED_BYTES
            && self.send(text) // full: ends the viewer
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
                Output::Send {
                    client,
                    text,
                    viewer,
                } => {
                    let Some(outgoing) = clients.get(&client) else {
                        continue;
                    };
                    let inside = rooms.is_inside(client);
                    outgoing.inside.store(inside, Ordering::Relaxed);
                    let fits = match viewer {
                        Some(_) => outgoing.relay(text),
                        None => outgoing.send(text),
                    };
                    match viewer {
                        _ if fits => {}
                        Some(viewer) => {
                            debug!(?client, ?viewer, "does not keep up, closed the viewer");
                            rooms.handle_overflow(viewer);
                        }
                        None => {
                            debug!(?client, "does not read, closed");
                            clients.remove(&client);
                            rooms.handle_closed(client);
                        }
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
    mut ticket: Ticket,
    mut shutdown: watch::Receiver<bool>,
) {
    let Ok(random) = getrandom::u64() else {
        return;
    };
    let client = ClientId(random);
    let (outgoing, queue) = Outgoing::new(ticket.inside());
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
        () = ticket.is_withdrawn() => {
            debug!(?client, "had not joined, closed for a newcomer");
            Farewell::Gone
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// A client whose socket is never written to.
    async fn open(inputs: &mpsc::Sender<Input>, number: u64) -> mpsc::Receiver<Queued> {
        let (outgoing, queue) = Outgoing::new(Arc::default());
        let opened = Input::Opened {
            client: ClientId(number),
            address: IpAddr::from([127, 0, 0, 1]),
            outgoing,
        };
        inputs.send(opened).await.unwrap();
        queue
    }

    async fn say(inputs: &mpsc::Sender<Input>, number: u64, text: &str) {
        let message = Input::Message {
            client: ClientId(number),
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        inputs.send(message).await.unwrap();
    }

    async fn texts(mut queue: mpsc::Receiver<Queued>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(queued) = queue.recv().await {
            texts.push(queued.text);
        }
        texts
    }

    #[tokio::test]
    async fn viewers_that_fill_the_devices_queue_are_closed_and_the_device_stays() {
        let key = |text: &str| Secret::new(text.to_owned());
        let rooms = Rooms::new(key("see"), key("be seen"), Vec::new());
        let (inputs, queue) = mpsc::channel(MAX_QUEUED_INPUTS);
        let running = tokio::spawn(run_rooms(rooms, queue));
        let join = r#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"see"}"#;
        let device = join
            .replace("viewer", "device")
            .replace("see", r#"be seen","instance":"i"#);
        let told_device = open(&inputs, 0).await;
        say(&inputs, 0, &device).await;
        let offer = format!(
            r#"{{"type":"offer","offer":{{"type":"offer","sdp":"{}"}}}}"#,
            "v".repeat(100_000)
        );
        let mut told_viewers = Vec::new();
        for number in 1..=20 {
            told_viewers.push(open(&inputs, number).await);
            say(&inputs, number, join).await;
            say(&inputs, number, &offer).await;
        }
        drop(inputs);
        running.await.unwrap();

        let refused = |texts: &Vec<String>| texts.iter().any(|t| t.contains("too-fast"));
        let mut refusals = 0;
        for told in told_viewers {
            refusals += usize::from(refused(&texts(told).await));
        }
        let told = texts(told_device).await;
        let count = |what: &str| told.iter().filter(|t| t.contains(what)).count();
        assert_eq!(count("viewer-joined"), 20, "the device heard of everybody");
        assert_eq!(
            count(r#""type":"offer","from""#),
            9,
            "1 MiB less the reserve"
        );
        assert_eq!((count("viewer-left"), refusals), (11, 11));
    }
}
