//! Where a room server is, as people write it: `http://pi:8080` means `ws://pi:8080/ws`, or another
//! path, by dialect.
//!
//! Pure.

use url::Url;

use crate::config::Dialect;

/// How much of a text that is no address is quoted, in characters.
const MAX_QUOTE_CHARS: usize = 100;

/// Schemes that mean a WebSocket, and what that is called.
const SCHEMES: [(&str, &str); 4] = [
    ("ws", "ws"),
    ("wss", "wss"),
    ("http", "ws"),
    ("https", "wss"),
];

/// A text that is no address of a room server.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no room server: write it as \"ws://HOST:PORT\", \"wss://HOST\" or \"http://HOST:PORT\""
)]
pub struct BadServerUrl(
    /// The text, without user, password and query.
    pub String,
);

/// Returns the WebSocket (`ws` or `wss`) of the room server at `text`: `ws`, `wss`, `http`, `https`, or
/// just `HOST:PORT`.
///
/// A path and a query stay as they are written; without a path it is the dialect's. A fragment is
/// dropped, for the page's has the key in it. For Socket.IO the query says that it is a WebSocket.
///
/// # Errors
///
/// Anything else; the message says how to write it.
pub fn parse_server_url(text: &str, dialect: Dialect) -> Result<Url, BadServerUrl> {
    let bad = || BadServerUrl(quotable(text));
    let written = text.trim();
    let whole = if written.contains("://") {
        written.to_owned()
    } else if is_host_and_port(written) {
        format!("ws://{written}")
    } else {
        return Err(bad());
    };
    let mut url = Url::parse(&whole).map_err(|_| bad())?;
    let scheme = SCHEMES.iter().find(|(scheme, _)| *scheme == url.scheme());
    let (_, scheme) = scheme.ok_or_else(bad)?;
    url.set_scheme(scheme).map_err(|()| bad())?;
    url.set_fragment(None);
    if matches!(url.path(), "" | "/") {
        url.set_path(default_path(dialect));
    }
    if matches!(dialect, Dialect::SocketioRooms | Dialect::SocketioCalls) {
        ask_for_socketio(&mut url);
    }
    Ok(url)
}

/// Returns the path of a server that was given none.
#[must_use]
pub const fn default_path(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Roomcam => "/ws",
        Dialect::WsRooms | Dialect::WsBroadcast => "/",
        Dialect::SocketioRooms | Dialect::SocketioCalls => "/socket.io/",
        Dialect::Ayame => "/signaling",
    }
}

/// Returns host and port of a server, for logs: the rest of its address may hold a password or a token.
#[must_use]
pub fn server_name(server: &Url) -> String {
    let host = server.host_str().unwrap_or_default();
    match server.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether `text` starts with a host and a port, and not with a scheme.
fn is_host_and_port(text: &str) -> bool {
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((host, port)) = authority.rsplit_once(':') else {
        return false;
    };
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_scheme = SCHEMES.iter().any(|(scheme, _)| *scheme == host);
    is_port && !is_scheme && !host.is_empty()
}

/// Asks for Engine.IO 4 on a WebSocket, in the way of the browsers' client, which ends the path in a
/// slash. Servers of Engine.IO 3 do not look at the version.
fn ask_for_socketio(url: &mut Url) {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let mut query = "EIO=4&transport=websocket".to_owned();
    for pair in url.query().unwrap_or_default().split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        if !matches!(name, "" | "EIO" | "transport") {
            query.push('&');
            query.push_str(pair);
        }
    }
    url.set_query(Some(&query));
}

/// Returns what of `text` a log may show.
fn quotable(text: &str) -> String {
    // A password may itself hold what would end the address.
    let shown = match text.rsplit_once('@') {
        Some((before, after)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{after}"),
            None => format!("…@{after}"),
        },
        None => text.to_owned(),
    };
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    shown.chars().take(MAX_QUOTE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dialect: Dialect) -> String {
        parse_server_url(text, dialect).unwrap().to_string()
    }

    #[test]
    fn what_people_write() {
        for (written, meant) in [
            ("ws://pi:8080/ws", "ws://pi:8080/ws"),
            ("http://pi:8080", "ws://pi:8080/ws"),
            ("https://example.org/", "wss://example.org/ws"),
            ("wss://example.org/rooms?x=1", "wss://example.org/rooms?x=1"),
            ("http://[::1]:8080/#room=cam&key=k", "ws://[::1]:8080/ws"),
            (" ws://10.0.0.1 ", "ws://10.0.0.1/ws"),
            ("HTTPS://Example.org", "wss://example.org/ws"),
            ("wss://u:p@example.org", "wss://u:p@example.org/ws"),
        ] {
            assert_eq!(read(written, Dialect::Roomcam), meant);
        }
    }

    #[test]
    fn a_host_and_a_port_are_enough() {
        for (written, meant) in [
            ("pi:8080", "ws://pi:8080/ws"),
            ("10.0.0.1:4000/rooms?x=1", "ws://10.0.0.1:4000/rooms?x=1"),
            ("[fe80::1]:8080", "ws://[fe80::1]:8080/ws"),
            ("localhost:80", "ws://localhost/ws"),
        ] {
            assert_eq!(read(written, Dialect::Roomcam), meant);
        }
    }

    #[test]
    fn each_dialect_has_its_own_path() {
        for (dialect, meant) in [
            (Dialect::Roomcam, "ws://pi:1/ws"),
            (Dialect::WsRooms, "ws://pi:1/"),
            (Dialect::WsBroadcast, "ws://pi:1/"),
            (
                Dialect::SocketioRooms,
                "ws://pi:1/socket.io/?EIO=4&transport=websocket",
            ),
            (
                Dialect::SocketioCalls,
                "ws://pi:1/socket.io/?EIO=4&transport=websocket",
            ),
            (Dialect::Ayame, "ws://pi:1/signaling"),
        ] {
            assert_eq!(read("http://pi:1", dialect), meant);
            assert_eq!(read("http://pi:1/", dialect), meant);
        }
    }

    #[test]
    fn path_and_query_of_the_user_stay() {
        for (dialect, written, meant) in [
            (Dialect::WsRooms, "pi:1/a/b?c=d", "ws://pi:1/a/b?c=d"),
            (Dialect::Ayame, "wss://pi/ws?x", "wss://pi/ws?x"),
            (
                Dialect::SocketioRooms,
                "https://pi/chat?token=a%26b&EIO=3&transport=polling&&x",
                "wss://pi/chat/?EIO=4&transport=websocket&token=a%26b&x",
            ),
            (
                Dialect::SocketioCalls,
                "http://pi/socket.io/",
                "ws://pi/socket.io/?EIO=4&transport=websocket",
            ),
        ] {
            assert_eq!(read(written, dialect), meant);
        }
    }

    #[test]
    fn what_is_no_room_server_says_how_to_write_one() {
        for text in [
            "",
            "pi",
            "pi:",
            ":8080",
            "pi:http",
            "pi:99999",
            "http:8080",
            "user@pi",
            "ftp://pi",
            "ws://",
            "ws:",
            "http://:80",
            "mailto:x",
            "a b:80",
        ] {
            let error = parse_server_url(text, Dialect::Roomcam).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("write it as \"ws://HOST:PORT\""), "{error}");
        }
    }

    #[test]
    fn a_wrong_address_is_quoted_without_its_secrets() {
        for text in [
            "ftp://me:hunter2@pi/x",
            "me:hunter2@pi:99999",
            "ftp://pi?token=hunter2",
            "ftp://pi#key=hunter2",
            "ftp://me:hun@hunter2@pi",
        ] {
            let error = parse_server_url(text, Dialect::Roomcam).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.to_string().contains("pi"), "{error}");
        }
    }

    #[test]
    fn a_server_is_named_without_user_path_and_query() {
        for (url, name) in [
            ("wss://me:hunter2@example.org/x?t=hunter2", "example.org"),
            ("ws://[::1]:8080/", "[::1]:8080"),
        ] {
            assert_eq!(server_name(&Url::parse(url).unwrap()), name);
        }
    }
}
