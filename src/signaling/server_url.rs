//! Where a room server is, as people write it: `http://pi:8080` means `ws://pi:8080/ws`.
//!
//! Pure.

use url::Url;

/// A text that is no address of a room server.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no room server: write it as \"ws://HOST:PORT\" or \"wss://HOST\"")]
pub struct BadServerUrl(pub String);

/// Reads the address of a room server: `ws`, `wss`, `http` or `https`.
///
/// # Errors
///
/// Anything else; the message says how to write it.
pub fn parse_server_url(text: &str) -> Result<Url, BadServerUrl> {
    let bad = || BadServerUrl(text.to_owned());
    let url = websocket_url(Url::parse(text.trim()).map_err(|_| bad())?);
    match url.scheme() {
        "ws" | "wss" if url.has_host() => Ok(url),
        _ => Err(bad()),
    }
}

/// Returns the WebSocket at `url`: `ws` for `http`, `wss` for `https`, `/ws` where there is no
/// path, and no fragment, for the page's has the key in it.
#[must_use]
pub fn websocket_url(mut url: Url) -> Url {
    let scheme = match url.scheme() {
        "http" => "ws",
        "https" => "wss",
        _ => "",
    };
    // One special scheme can always be set for another: nothing else is asked for here.
    if !scheme.is_empty() && url.set_scheme(scheme).is_err() {
        return url;
    }
    url.set_fragment(None);
    if matches!(url.path(), "" | "/") && url.has_host() {
        url.set_path("/ws");
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (written, meant) in [
            ("ws://pi:8080/ws", "ws://pi:8080/ws"),
            ("http://pi:8080", "ws://pi:8080/ws"),
            ("https://example.org/", "wss://example.org/ws"),
            ("wss://example.org/rooms?x=1", "wss://example.org/rooms?x=1"),
            ("http://[::1]:8080/#room=cam&key=k", "ws://[::1]:8080/ws"),
            (" ws://10.0.0.1 ", "ws://10.0.0.1/ws"),
        ] {
            assert_eq!(parse_server_url(written).unwrap().as_str(), meant);
        }
    }

    #[test]
    fn what_is_no_room_server_says_how_to_write_one() {
        for text in ["", "pi", "pi:8080", "ftp://pi", "ws://", "ws:", "mailto:x"] {
            let error = parse_server_url(text).unwrap_err().to_string();
            assert!(error.contains("write it as \"ws://HOST:PORT\""), "{error}");
        }
    }
}
