//! `turn:` and `turns:` URLs (RFC 7065), and `stun:` ones (RFC 7064). Pure.

use std::fmt;
use std::str::FromStr;

/// Longest host that is accepted, in bytes (RFC 1035 §2.3.4).
const MAX_HOST_BYTES: usize = 255;

/// How we talk to a TURN server, in the order of preference: what arrives late is of no use to
/// media, and TLS passes firewalls that let nothing else through.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A plain stream.
    Tcp,
    /// An encrypted stream.
    Tls,
}

/// Where a TURN server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TurnUrl {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How to reach it.
    pub transport: Transport,
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadTurnUrl {
    /// Another scheme.
    #[error("does not begin with \"turn:\" or \"turns:\"")]
    Scheme,
    /// No host, or a port that is none.
    #[error("has no host, or a port that is none")]
    Host,
    /// `transport=` is neither, or `turns:` over UDP.
    #[error("has another transport than udp or tcp, or is turns: over udp")]
    Transport,
}

impl FromStr for TurnUrl {
    type Err = BadTurnUrl;

    /// Reads `turn:host`, `turn:host:port?transport=udp` and the like.
    fn from_str(url: &str) -> Result<Self, BadTurnUrl> {
        let (scheme, rest) = url.split_once(':').ok_or(BadTurnUrl::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "turn" => false,
            "turns" => true,
            _ => return Err(BadTurnUrl::Scheme),
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match (secure, query.to_ascii_lowercase().as_str()) {
            (false, "" | "transport=udp") => Transport::Udp,
            (false, "transport=tcp") => Transport::Tcp,
            (true, "" | "transport=tcp") => Transport::Tls,
            _ => return Err(BadTurnUrl::Transport),
        };
        let default_port = if secure { 5349 } else { 3478 };
        let (host, port) = split(authority, default_port).ok_or(BadTurnUrl::Host)?;
        if !is_host(host) {
            return Err(BadTurnUrl::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            transport,
        })
    }
}

/// Returns the `host:port` of a `stun:` URL; `None`: it is none.
#[must_use]
pub fn stun_host(url: &str) -> Option<String> {
    let authority = url.strip_prefix("stun:")?.split('?').next()?;
    let (host, port) = split(authority, 3478).filter(|(host, _)| is_host(host))?;
    Some(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

fn is_host(host: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (1..=MAX_HOST_BYTES).contains(&host.len()) && host.chars().all(is_name)
}

fn split(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(text) => Some((host, port(text)?)),
            None => rest.is_empty().then_some((host, default_port)),
        };
    }
    match authority.split_once(':') {
        Some((host, text)) => Some((host, port(text)?)),
        None => Some((authority, default_port)),
    }
}

impl fmt::Display for TurnUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, query) = match self.transport {
            Transport::Udp => ("turn", "?transport=udp"),
            Transport::Tcp => ("turn", "?transport=tcp"),
            Transport::Tls => ("turns", "?transport=tcp"),
        };
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}{query}")
        } else {
            write!(f, "{scheme}:{host}:{port}{query}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_browsers_read_them() {
        for (url, read) in [
            ("turn:a.example", "turn:a.example:3478?transport=udp"),
            (
                "TURN:a.example:99?transport=TCP",
                "turn:a.example:99?transport=tcp",
            ),
            ("turns:a.example", "turns:a.example:5349?transport=tcp"),
            (
                "turn:[2001:db8::1]",
                "turn:[2001:db8::1]:3478?transport=udp",
            ),
            (
                "turn:[2001:db8::1]:7?transport=udp",
                "turn:[2001:db8::1]:7?transport=udp",
            ),
        ] {
            assert_eq!(url.parse::<TurnUrl>().unwrap().to_string(), read);
        }
    }

    #[test]
    fn what_is_no_turn_url_is_refused() {
        for (url, error) in [
            ("stun:a.example", BadTurnUrl::Scheme),
            ("a.example", BadTurnUrl::Scheme),
            ("turn:", BadTurnUrl::Host),
            ("turn://a.example", BadTurnUrl::Host),
            ("turn:user@a.example", BadTurnUrl::Host),
            ("turn:a.example:0", BadTurnUrl::Host),
            ("turn:a.example:x", BadTurnUrl::Host),
            ("turn:a.example?transport=sctp", BadTurnUrl::Transport),
            ("turns:a.example?transport=udp", BadTurnUrl::Transport),
        ] {
            assert_eq!(url.parse::<TurnUrl>(), Err(error), "{url}");
        }
    }

    #[test]
    fn reads_the_host_of_stun_urls_alone() {
        assert_eq!(stun_host("stun:a.example").unwrap(), "a.example:3478");
        assert_eq!(stun_host("stun:a.example:99").unwrap(), "a.example:99");
        assert_eq!(
            stun_host("stun:[2001:db8::1]").unwrap(),
            "[2001:db8::1]:3478"
        );
        for url in ["turn:a.example", "stun:", "stun:a b", "stun:a.example:x"] {
            assert_eq!(stun_host(url), None, "{url}");
        }
    }

    #[test]
    fn udp_is_preferred_to_tcp_and_tcp_to_tls() {
        assert!(Transport::Udp < Transport::Tcp && Transport::Tcp < Transport::Tls);
    }
}
