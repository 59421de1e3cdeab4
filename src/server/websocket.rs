//! WebSockets of the room server's clients (RFC 6455): from sockets to the rooms and back.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::debug;

use super::clients::{Entrance, Guest};
use super::places::Ticket;
use crate::clock;
use crate::signaling::keepalive::{Due, KeepAlive};

/// How long a client may take to read one text.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to answer a close, so that it can read why.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The same while the server shuts down.
const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// Moves the texts of a client of the rooms until either side closes.
pub async fn serve_client(
    socket: WebSocket,
    address: IpAddr,
    entrance: Entrance,
    ticket: Ticket,
    shutdown: watch::Receiver<bool>,
) {
    if let Some(guest) = entrance.enter(address, ticket.inside()).await {
        serve_guest(socket, guest, ticket, shutdown).await;
    }
}

/// Moves a guest's texts until either side closes.
pub async fn serve_guest(
    mut socket: WebSocket,
    mut guest: Guest,
    mut ticket: Ticket,
    mut shutdown: watch::Receiver<bool>,
) {
    let farewell = tokio::select! {
        farewell = pump(&mut socket, &mut guest) => farewell,
        () = ticket.is_withdrawn() => {
            debug!(client = ?guest.client(), "had not joined, closed for a newcomer");
            Farewell::Gone
        }
        () = stopped(&mut shutdown) => Farewell::Close(SHUTDOWN_CLOSE_TIMEOUT),
    };
    drop(guest);
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

async fn pump(socket: &mut WebSocket, guest: &mut Guest) -> Farewell {
    let client = guest.client();
    let mut keepalive = KeepAlive::new(clock::now());
    let mut readable = true;
    loop {
        let outgoing = tokio::select! {
            text = guest.hear() => match text {
                Some(text) => Message::Text(text.into()),
                None => return Farewell::Close(CLOSE_TIMEOUT),
            },
            incoming = socket.next(), if readable => {
                keepalive.heard(clock::now());
                let bytes = match incoming {
                    Some(Ok(Message::Text(text))) => text.into(),
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Err(error)) if is_too_large(&error) => {
                        readable = false;
                        if !guest.said_too_much().await {
                            return Farewell::Gone;
                        }
                        continue;
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Farewell::Gone,
                };
                if !guest.say(bytes).await {
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
