//! The URL of the page to what a viewer needs to join: the room server, the room and its key.
//!
//! Room and key stand in the fragment (`docs/signaling.md`), which is sent to no server.
//!
//! Pure.

use std::str::FromStr;

use url::{Host, Url, form_urlencoded};

use crate::config::{self, Secret};

/// Where to watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invitation {
    /// The room server's WebSocket.
    pub server: Url,
    /// The room.
    pub room: String,
    /// The key of its viewers.
    pub key: Secret,
    /// The key of those who may speak; empty where the URL has none.
    pub talk_key: Secret,
}

/// Why a text is not an invitation.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}; expected the page's URL, like http://host:8080/#room=cam&key=KEY")]
pub struct InvitationError(String);

impl Invitation {
    /// Returns whether the room server is on this machine by its very address, so that the device
    /// may be reachable there only.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.server.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        }
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let mut server = Url::parse(text).map_err(|e| InvitationError(e.to_string()))?;
        let (mut room, mut key, mut talk_key) = (None, None, String::new());
        for (name, value) in form_urlencoded::parse(server.fragment().unwrap_or("").as_bytes()) {
            match name.as_ref() {
                "room" => room = Some(value.into_owned()),
                "key" => key = Some(value.into_owned()),
                "talk" => talk_key = value.into_owned(),
                _ => {}
            }
        }
        server.set_fragment(None);
        let room = room.ok_or_else(|| InvitationError("the URL names no room".to_owned()))?;
        if !config::is_room_name(&room) {
            let rule = config::ROOM_NAME_RULE;
            return Err(InvitationError(format!("a room's name is {rule}")));
        }
        let key = key.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| InvitationError("the URL has no key".to_owned()))?;

        let scheme = match server.scheme() {
            "http" => "ws",
            "https" => "wss",
            other => return Err(InvitationError(format!("no page is at {other}:"))),
        };
        // `Url` refuses to exchange a web scheme for another only where there is no host.
        if server.host().is_none() || server.set_scheme(scheme).is_err() {
            return Err(InvitationError("the URL names no host".to_owned()));
        }
        let server = server
            .join("ws")
            .map_err(|e| InvitationError(e.to_string()))?;
        Ok(Self {
            server,
            room,
            key: Secret::new(key),
            talk_key: Secret::new(talk_key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_url_leads_to_the_websocket_beside_it() {
        for (page, socket) in [
            ("http://host:8080/#room=cam&key=K", "ws://host:8080/ws"),
            ("https://host/#key=K&room=cam", "wss://host/ws"),
            ("https://host/cams/#room=cam&key=K", "wss://host/cams/ws"),
            ("http://[::1]:1/#room=cam&key=K", "ws://[::1]:1/ws"),
        ] {
            let invitation: Invitation = page.parse().unwrap();
            assert_eq!(invitation.server.as_str(), socket);
            assert_eq!(invitation.room, "cam");
            assert_eq!(invitation.key.expose(), "K");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_the_key_is_not_shown() {
        for (text, reason) in [
            ("cam", "relative URL without a base"),
            ("http://host/", "the URL names no room"),
            ("http://host/#room=cam", "the URL has no key"),
            ("http://host/#room=cam&key=", "the URL has no key"),
            ("http://host/#room=a%20b&key=K7", "a room's name is"),
            ("ftp://host/#room=cam&key=K7", "no page is at ftp:"),
        ] {
            let error = text.parse::<Invitation>().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{text}: {error}");
            assert!(!error.contains("K7"), "{error}");
        }
    }

    #[test]
    fn a_key_with_escaped_letters_is_read() {
        let invitation: Invitation = "http://h/#room=cam&key=a%2Bb%26c".parse().unwrap();
        assert_eq!(invitation.key.expose(), "a+b&c");
        assert!(!format!("{invitation:?}").contains("a+b"));
    }

    #[test]
    fn only_this_machine_by_its_own_address_is_loopback() {
        for (page, loopback) in [
            ("http://127.0.0.1:8080/#room=cam&key=K", true),
            ("http://[::1]/#room=cam&key=K", true),
            ("http://localhost:1/#room=cam&key=K", true),
            ("http://192.168.1.7/#room=cam&key=K", false),
            ("https://example.org/#room=cam&key=K", false),
        ] {
            let invitation: Invitation = page.parse().unwrap();
            assert_eq!(invitation.is_loopback(), loopback, "{page}");
        }
    }
}
