//! User names and passwords of TURN servers: fixed, or minted from a secret that the server shares.
//!
//! Minted ones are what coturn calls `use-auth-secret`, after the expired draft "A REST API For Access
//! To TURN Services" (draft-uberti-behave-turn-rest): the user name says until when it may be used,
//! the password is its HMAC-SHA1 under the secret. Nobody has to tell the server about them.
//!
//! Pure: the wall clock is an argument.

use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, Mac as _};
use sha1::Sha1;

use crate::config::{Secret, Turn, WebRtc};
use crate::signaling::IceServer;

/// The HMAC of `message` under `key`; keys of any length are fine.
pub(super) fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mac = Hmac::<Sha1>::new_from_slice(key).map(|mac| mac.chain_update(message));
    // The error is for algorithms with keys of one length; HMAC has none.
    mac.map(|mac| mac.finalize().into_bytes().into())
        .unwrap_or_default()
}

/// A user name and its password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// Sent in the clear.
    pub username: String,
    /// Never sent: requests are signed with it.
    pub password: Secret,
}

impl Credentials {
    /// Mints credentials for `name` that a server with the same `secret` takes until `expires`,
    /// seconds since 1970.
    #[must_use]
    pub fn mint(secret: &Secret, name: &str, expires: u64) -> Self {
        let username = format!("{expires}:{name}");
        let signature = hmac_sha1(secret.expose().as_bytes(), username.as_bytes());
        Self {
            username,
            password: Secret::new(BASE64.encode(&signature)),
        }
    }
}

/// Where credentials come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// From somebody else: used until they are refused.
    Given(Credentials),
    /// From the secret.
    Minted {
        /// What the server knows as well.
        secret: Secret,
        /// How long they are good for.
        lifetime: Duration,
    },
}

impl Source {
    /// Returns credentials for `name` that are good as of `unix_time`.
    #[must_use]
    pub fn credentials(&self, name: &str, unix_time: Duration) -> Credentials {
        match self {
            Self::Given(credentials) => credentials.clone(),
            Self::Minted { secret, lifetime } => {
                let expires = unix_time.saturating_add(*lifetime).as_secs();
                Credentials::mint(secret, name, expires)
            }
        }
    }

    /// Returns after how long credentials are to be replaced by new ones.
    #[must_use]
    pub fn renew_after(&self) -> Option<Duration> {
        match self {
            Self::Given(_) => None,
            // Who was given them last still has the other half.
            Self::Minted { lifetime, .. } => Some(*lifetime / 2),
        }
    }
}

impl Turn {
    /// Returns where the credentials of the configured servers come from.
    #[must_use]
    pub fn source(&self) -> Source {
        if self.secret.is_empty() {
            Source::Given(Credentials {
                username: self.username.clone(),
                password: self.password.clone(),
            })
        } else {
            Source::Minted {
                secret: self.secret.clone(),
                lifetime: Duration::from_secs(self.lifetime_s),
            }
        }
    }
}

/// The STUN and TURN servers that a room server hands out, with credentials as of the moment.
#[derive(Clone, Debug)]
pub struct IceServers {
    fixed: Vec<IceServer>,
    turn: Turn,
    unix_time: fn() -> Duration,
}

impl IceServers {
    /// Takes the servers of the configuration. `unix_time` tells seconds since 1970.
    #[must_use]
    pub fn new(webrtc: &WebRtc, unix_time: fn() -> Duration) -> Self {
        Self {
            fixed: webrtc.ice_servers.clone(),
            turn: webrtc.turn.clone(),
            unix_time,
        }
    }

    /// Returns the servers for the client called `name`.
    #[must_use]
    pub fn for_client(&self, name: &str) -> Vec<IceServer> {
        let mut servers = self.fixed.clone();
        if !self.turn.urls.is_empty() {
            let credentials = self.turn.source().credentials(name, (self.unix_time)());
            servers.push(IceServer {
                urls: self.turn.urls.clone(),
                username: Some(credentials.username),
                credential: Some(credentials.password.expose().to_owned()),
            });
        }
        servers
    }

    /// Returns after how long clients need new credentials.
    #[must_use]
    pub fn renew_after(&self) -> Option<Duration> {
        let renew_after = self.turn.source().renew_after();
        renew_after.filter(|_| !self.turn.urls.is_empty())
    }
}

impl From<Vec<IceServer>> for IceServers {
    fn from(fixed: Vec<IceServer>) -> Self {
        Self {
            fixed,
            turn: Turn::default(),
            unix_time: || Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new("north".to_owned())
    }

    #[test]
    fn minted_credentials_are_those_that_coturn_computes() {
        // printf '1700000000:cam' | openssl dgst -sha1 -hmac north -binary | base64
        let minted = Credentials::mint(&secret(), "cam", 1_700_000_000);
        assert_eq!(minted.username, "1700000000:cam");
        assert_eq!(minted.password.expose(), "g8Xv/4vQOZsH1I8JP0brYOZqoW0=");
    }

    fn servers(turn: Turn) -> IceServers {
        let stun = IceServer {
            urls: vec!["stun:stun.example".to_owned()],
            ..IceServer::default()
        };
        let webrtc = WebRtc {
            ice_servers: vec![stun],
            turn,
            ..WebRtc::default()
        };
        IceServers::new(&webrtc, || Duration::from_secs(1_000))
    }

    #[test]
    fn each_client_is_handed_credentials_of_its_own_that_are_good_from_now_on() {
        let servers = servers(Turn {
            urls: vec!["turn:turn.example".to_owned()],
            secret: secret(),
            lifetime_s: 600,
            ..Turn::default()
        });
        let handed = servers.for_client("v-1");
        assert_eq!(handed.len(), 2);
        assert_eq!(handed[1].username.as_deref(), Some("1600:v-1"));
        assert_eq!(servers.renew_after(), Some(Duration::from_secs(300)));
        assert!(!format!("{servers:?} {handed:?}").contains("north"));
    }

    #[test]
    fn fixed_credentials_are_handed_out_as_they_are() {
        let servers = servers(Turn {
            urls: vec!["turn:turn.example".to_owned()],
            username: "u".to_owned(),
            password: Secret::new("hunter2".to_owned()),
            ..Turn::default()
        });
        let handed = servers.for_client("v-1");
        assert_eq!(handed[1].username.as_deref(), Some("u"));
        assert_eq!(handed[1].credential.as_deref(), Some("hunter2"));
        assert_eq!(servers.renew_after(), None);
        assert!(!format!("{servers:?} {handed:?}").contains("hunter2"));
    }
}
