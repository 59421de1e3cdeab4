//! A viewer's WebSocket to the room server and nothing behind it: says whatever a test wants.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use roomcam::watch::invitation::Invitation;
use roomcam::watch::protocol::ToRoom;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long the room server or the device may take to say something that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that has joined its room.
#[derive(Debug)]
pub(crate) struct RoomClient(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl RoomClient {
    /// Joins as a viewer.
    pub(crate) async fn join(url: &str) -> Self {
        let invitation: Invitation = url.parse().unwrap();
        let (socket, _) = connect_async(invitation.server.as_str()).await.unwrap();
        let mut client = Self(socket);
        let key = invitation.key.expose().to_owned();
        assert!(client.send(ToRoom::join(invitation.room, key).text()).await);
        client.expect("joined").await;
        client
    }

    /// Returns whether the server still takes what is said.
    pub(crate) async fn send(&mut self, text: impl Into<String>) -> bool {
        self.0.send(Message::text(text.into())).await.is_ok()
    }

    /// Returns the next message; `None` once the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let message = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Some(text),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        });
        let text = message.await.expect("the server says something, or closes");
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Passes over messages until one of this type comes.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        while let Some(message) = self.next().await {
            if message["type"] == kind {
                return message;
            }
        }
        panic!("the server closed before it sent {kind:?}");
    }
}
