//! The viewer's WebSocket to a room server.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::Url;

use crate::signaling::MAX_MESSAGE_BYTES;
use crate::signaling::websocket::choose_cryptography;

/// How long a server may take to accept a connection. A Pi on a bad Wi-Fi answers within one
/// second; a wrong address may not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection to a room server.
pub(super) struct RoomSocket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl RoomSocket {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Why the server cannot be reached, in words.
    pub(super) async fn connect(server: &Url) -> Result<Self, String> {
        choose_cryptography();
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        // Signaling is a handful of small texts: waiting to fill a segment would only delay them.
        let no_delay = true;
        let connecting =
            tokio_tungstenite::connect_async_with_config(server.as_str(), Some(config), no_delay);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((socket, _response))) => Ok(Self(socket)),
            Ok(Err(error)) => Err(in_words(&error)),
            Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    /// Sends one text.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(super) async fn send(&mut self, text: String) -> Result<(), tungstenite::Error> {
        // full: awaits
        self.0.send(Message::text(text)).await
    }

    /// Returns the next text; `None` once the connection is gone.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Binary(bytes)) => {
                    return Some(String::from_utf8_lossy(&bytes).into_owned());
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if let Err(error) = self.0.close(None).await {
            tracing::debug!(%error, "the room server was gone already");
        }
    }
}

fn in_words(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) if response.status().as_u16() == 404 => {
            "there is a web server, but no room server (404)".to_owned()
        }
        tungstenite::Error::Http(response) => format!("it answered {}", response.status()),
        tungstenite::Error::Io(error) => error.kind().to_string(),
        other => other.to_string(),
    }
}
