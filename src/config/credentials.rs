//! Secrets that are kept outside of the file; and what a room server may want to see of the device before
//! it talks to it: headers of the HTTP request that opens the WebSocket, and the payload of Socket.IO's
//! CONNECT packet.
//!
//! Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{Config, ConfigError, Secret};
use crate::keys::KeyError;

impl Config {
    /// Takes the secrets that the file leaves empty from elsewhere, as systemd hands them over
    /// (`LoadCredential=`): `hand` is asked for each by the name of its key.
    ///
    /// # Errors
    ///
    /// The first of `hand`.
    pub fn take_secrets(
        &mut self,
        mut hand: impl FnMut(&str) -> Result<Option<Secret>, KeyError>,
    ) -> Result<(), ConfigError> {
        let turn = &mut self.webrtc.turn;
        for (name, secret) in [
            ("room.key", &mut self.room.key),
            ("server.device_key", &mut self.server.device_key),
            ("talkback.key", &mut self.talkback.key),
            ("webrtc.turn.password", &mut turn.password),
            ("webrtc.turn.secret", &mut turn.secret),
        ] {
            if secret.is_empty() {
                *secret = hand(name)?.unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Headers that the handshake writes itself (RFC 6455 §4.1), or that would end the request early. All
/// of `Sec-WebSocket-…` belong to it as well.
const OWN_HEADERS: [&str; 5] = [
    "host",
    "upgrade",
    "connection",
    "content-length",
    "transfer-encoding",
];

/// `room.headers`: headers of the HTTP request that opens the WebSocket.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, Secret>);

impl Headers {
    /// Returns names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Checks that each can be sent (RFC 9110 §5) and is not the handshake's own.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Header`] for the first that is wrong. It does not show the value.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        for (name, value) in self.iter() {
            let lower = name.to_ascii_lowercase();
            let problem = if name.is_empty() || !name.bytes().all(is_token) {
                "a header's name is letters, digits and '-'"
            } else if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
                "it belongs to the WebSocket handshake: leave it out"
            } else if seen.contains(&lower) {
                "it is there twice, for upper and lower case are the same"
            } else if !is_header_value(value.expose()) {
                "its value must be one line of ASCII, without spaces around it"
            } else {
                seen.push(lower);
                continue;
            };
            let name = name.escape_debug().to_string();
            return Err(ConfigError::Header { name, problem });
        }
        Ok(())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(headers: T) -> Self {
        let headers = headers.into_iter();
        Self(
            headers
                .map(|(name, value)| (name.into(), Secret::new(value.into())))
                .collect(),
        )
    }
}

/// `room.auth`: the payload of Socket.IO's CONNECT packet, which servers see as `socket.handshake.auth`.
/// Never shown: `Debug` prints `***`.
#[derive(Clone, Default, PartialEq)]
pub struct Auth(serde_json::Map<String, Value>);

impl Auth {
    /// Returns the payload as JSON; empty where nothing was configured.
    #[must_use]
    pub fn to_json(&self) -> Secret {
        if self.0.is_empty() {
            return Secret::default();
        }
        Secret::new(Value::Object(self.0.clone()).to_string())
    }
}

impl<'de> Deserialize<'de> for Auth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        Ok(Self(json_object(table)))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "{}" } else { "***" })
    }
}

fn json_object(table: toml::Table) -> serde_json::Map<String, Value> {
    let items = table.into_iter();
    items.map(|(name, value)| (name, json(value))).collect()
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        // JSON has no times: as it was written.
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(json_object(table)),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_header_value(value: &str) -> bool {
    value.trim() == value && value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use serde_json::json;

    fn wrong(name: &str, value: &str) -> String {
        let headers = Headers::from_iter([(name, value)]);
        headers.check().unwrap_err().to_string()
    }

    #[test]
    fn secrets_that_the_file_leaves_empty_are_handed_over_and_no_others() {
        let mut config = Config::parse("[room]\nkey = \"mine\"").unwrap();
        let mut asked = Vec::new();
        let hand = |name: &str| {
            asked.push(name.to_owned());
            Ok((name != "webrtc.turn.secret").then(|| Secret::new(format!("the {name}"))))
        };
        config.take_secrets(hand).unwrap();
        assert!(config.room.key.matches("mine"));
        assert!(config.server.device_key.matches("the server.device_key"));
        assert!(config.talkback.key.matches("the talkback.key"));
        assert!(
            config
                .webrtc
                .turn
                .password
                .matches("the webrtc.turn.password")
        );
        assert!(config.webrtc.turn.secret.is_empty());
        assert_eq!(asked.len(), 4);
    }

    #[test]
    fn what_is_handed_over_is_checked_like_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let turn = "[talkback]\nsink = \"auto\"\n[webrtc.turn]\nurls = [\"turn:t.example\"]\n";
        std::io::Write::write_all(&mut file, turn.as_bytes()).unwrap();
        let with = |wanted: &'static str, secret: &'static str| {
            Config::load_with(file.path(), |config| {
                config.take_secrets(|name| {
                    Ok((name == wanted).then(|| Secret::new(secret.to_owned())))
                })
            })
        };
        let error = Config::load(file.path()).unwrap_err().to_string();
        assert!(error.starts_with("webrtc.turn.secret"), "{error}");
        with("webrtc.turn.secret", "s").unwrap();
        let both = Config::load_with(file.path(), |config| {
            config.take_secrets(|_| Ok(Some(Secret::new("short".to_owned()))))
        });
        let error = both.unwrap_err().to_string();
        assert!(error.starts_with("talkback.key"), "{error}");
        assert!(!error.contains("short"), "{error}");
    }

    #[test]
    fn headers_and_payload_are_read_from_the_file() {
        let config = Config::parse(
            "[room]\nheaders = { Authorization = \"Bearer x\" }\n\
             [room.auth]\ntoken = \"t\"\nn = 1\nnested = { since = 2020-01-01, list = [true, 0.5] }\n",
        )
        .unwrap();
        config.check().unwrap();
        let headers = Headers::from_iter([("Authorization", "Bearer x")]);
        assert_eq!(config.room.headers, headers);
        let payload: Value = serde_json::from_str(config.room.auth.to_json().expose()).unwrap();
        let expected =
            json!({"token": "t", "n": 1, "nested": {"since": "2020-01-01", "list": [true, 0.5]}});
        assert_eq!(payload, expected);
        assert!(Config::default().room.auth.to_json().is_empty());
        let shown = format!("{config:?}");
        assert!(!shown.contains("Bearer") && !shown.contains("2020"));
    }

    #[test]
    fn headers_of_the_handshake_are_refused() {
        for name in [
            "Host",
            "upgrade",
            "CONNECTION",
            "Sec-WebSocket-Key",
            "sec-websocket-protocol",
            "Content-Length",
            "Transfer-Encoding",
        ] {
            let error = wrong(name, "x");
            assert!(error.starts_with(&format!("room.headers: {name}: ")));
            assert!(error.contains("belongs to the WebSocket handshake"));
        }
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused_without_showing_the_value() {
        for (name, value) in [
            ("", "hunter2"),
            ("X Y", "hunter2"),
            ("X:", "hunter2"),
            ("X\r\nHost", "hunter2"),
            ("Ü", "hunter2"),
            ("X", "hunter2\r\nHost: elsewhere"),
            ("X", "hunter2\0"),
            ("X", " hunter2"),
            ("X", "hünter2 hunter2"),
        ] {
            let error = wrong(name, value);
            assert!(
                !error.contains("hunter2") && !error.contains('\n'),
                "{error}"
            );
        }
        let twice = Headers::from_iter([("Cookie", "a"), ("cookie", "b")]);
        let error = twice.check().unwrap_err().to_string();
        assert!(error.contains("there twice"), "{error}");
        let good = Headers::from_iter([("Authorization", "Bearer x="), ("Origin", "https://x")]);
        assert!(good.check().is_ok());
    }
}
