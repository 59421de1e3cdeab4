//! Header fields of WHEP: keys (RFC 6750 §2.1, RFC 7617), media types, preconditions (RFC 9110 §13.1.1)
//! and links to ICE servers (RFC 9725 §4.6).
//!
//! Pure.

use data_encoding::BASE64;

use crate::signaling::IceServer;

/// How many entity tags are looked at; a player has one.
const MAX_TAGS: usize = 16;

/// What a request expects its session to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IfMatch {
    /// `*`: whatever it is.
    Any,
    /// One of these ICE generations. Strong ones: a weak one matches nothing.
    Tags(Vec<String>),
}

impl IfMatch {
    /// Reads an `If-Match` field. The draft's own example has the asterisk in quotes.
    #[must_use]
    pub fn parse(field: &str) -> Self {
        let tags: Vec<&str> = field.split(',').map(str::trim).take(MAX_TAGS).collect();
        if tags.contains(&"*") || tags.contains(&"\"*\"") {
            return Self::Any;
        }
        Self::Tags(tags.into_iter().map(str::to_owned).collect())
    }

    /// Returns whether the session with this entity tag is meant.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|t| t == tag),
        }
    }
}

/// Returns the key of an `Authorization` field: a Bearer token, or a Basic password, whoever's it is. There
/// are players that send what is in their URL, `http://somebody:KEY@…`, and know no tokens. `None` where it is
/// of another scheme.
#[must_use]
pub fn key(field: &str) -> Option<String> {
    let (scheme, token) = field.trim().split_once(' ')?;
    let token = token.trim_start();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        token.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(BASE64.decode(token.as_bytes()).ok()?).ok()?;
        decoded.split_once(':')?.1.to_owned()
    } else {
        return None;
    };
    (!key.is_empty()).then_some(key)
}

/// Returns whether a `Content-Type` field names `media_type`, whatever its parameters.
#[must_use]
pub fn is_media_type(field: &str, media_type: &str) -> bool {
    let named = field.split(';').next().unwrap_or_default();
    named.trim().eq_ignore_ascii_case(media_type)
}

/// Returns one `Link` field for each URL of the ICE servers.
pub fn links(servers: &[IceServer]) -> impl Iterator<Item = String> {
    servers.iter().flat_map(|server| {
        let credentials = server.username.as_deref().zip(server.credential.as_deref());
        let credentials = credentials.map(|(username, credential)| {
            let (username, credential) = (quoted(username), quoted(credential));
            format!("; username={username}; credential={credential}; credential-type=\"password\"")
        });
        let credentials = credentials.unwrap_or_default();
        let urls = server.urls.iter().filter(|url| is_plain(url));
        urls.map(move |url| format!("<{url}>; rel=\"ice-server\"{credentials}"))
    })
}

/// Whether `url` can stand between angle brackets.
fn is_plain(url: &str) -> bool {
    url.bytes()
        .all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b))
}

/// Returns a quoted string (RFC 9110 §5.6.4).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_bearer_token_or_a_basic_password() {
        for field in [
            "Bearer see",
            "bearer  see",
            "Basic OnNlZQ==",
            "basic d2hvZXZlcjpzZWU=",
        ] {
            assert_eq!(key(field).as_deref(), Some("see"), "{field}");
        }
        for other in [
            "Digest see",
            "Bearer",
            "Bearer ",
            "see",
            "",
            "Basic !",
            "Basic c2Vl",
            "Basic /w==",
        ] {
            assert_eq!(key(other), None, "{other}");
        }
    }

    #[test]
    fn a_media_type_may_have_parameters() {
        assert!(is_media_type("application/sdp", "application/sdp"));
        assert!(is_media_type(
            "Application/SDP; charset=utf-8",
            "application/sdp"
        ));
        assert!(!is_media_type("application/sdpx", "application/sdp"));
        assert!(!is_media_type("", "application/sdp"));
    }

    #[test]
    fn preconditions() {
        assert_eq!(IfMatch::parse("*"), IfMatch::Any);
        assert_eq!(IfMatch::parse("\"*\""), IfMatch::Any);
        let tags = IfMatch::parse("\"a\", \"b\"");
        assert!(tags.matches("\"a\"") && tags.matches("\"b\""));
        assert!(!tags.matches("\"c\""));
        assert!(!IfMatch::parse("W/\"a\"").matches("\"a\""), "weak");
        assert!(!IfMatch::parse("").matches("\"a\""));
    }

    #[test]
    fn ice_servers_become_links_with_their_credentials() {
        let stun = IceServer {
            urls: vec!["stun:stun.example.org".to_owned()],
            ..IceServer::default()
        };
        let turn = IceServer {
            urls: vec![
                "turn:turn.example.org?transport=udp".to_owned(),
                "turns:turn.example.org>; rel=\"evil".to_owned(),
            ],
            username: Some("u".to_owned()),
            credential: Some("p\"\\".to_owned()),
        };
        let links: Vec<String> = links(&[stun, turn]).collect();
        assert_eq!(
            links,
            [
                "<stun:stun.example.org>; rel=\"ice-server\"",
                "<turn:turn.example.org?transport=udp>; rel=\"ice-server\"; username=\"u\"; \
                 credential=\"p\\\"\\\\\"; credential-type=\"password\"",
            ]
        );
    }
}
