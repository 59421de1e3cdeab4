//! `[webrtc]`: how media gets to viewers.
//!
//! Pure.

use std::net::IpAddr;

use serde::Deserialize;

use super::{ConfigError, Secret};
use crate::signaling::IceServer;
use crate::turn::url::{TurnUrl, stun_host};

/// `[webrtc]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct WebRtc {
    /// The UDP port of all viewers; 0: any free one.
    pub udp_port: u16,
    /// Addresses to offer instead of this machine's own (port forwarding, NAT 1:1).
    pub advertised_addresses: Vec<IpAddr>,
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// TURN servers of one's own.
    pub turn: Turn,
    /// Names of the network interfaces to offer; empty: all that lead anywhere.
    pub interfaces: Vec<String>,
    /// How many may watch at once.
    pub max_viewers: usize,
    /// What is traded for latency.
    pub latency: Latency,
}

/// `[webrtc.turn]`
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// `turn:host:port?transport=udp`, `turns:host:port`, …; empty: none.
    pub urls: Vec<String>,
    /// A user of these servers.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// Instead of both: the secret of coturn's `use-auth-secret`, from which they are minted.
    pub secret: Secret,
    /// How long minted credentials are good for, in seconds.
    pub lifetime_s: u64,
}

/// What the browser's jitter buffer is asked to do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// Show every picture at once (playout-delay 0/0); a bad network shows as stutter.
    Low,
    /// Picture and sound in streams of their own, each as early as its network allows.
    #[default]
    Balanced,
    /// One stream: lips and sound together, the earlier waits for the later.
    Smooth,
}

impl Default for WebRtc {
    fn default() -> Self {
        Self {
            udp_port: 0,
            advertised_addresses: Vec::new(),
            ice_servers: Vec::new(),
            turn: Turn::default(),
            interfaces: Vec::new(),
            max_viewers: 8,
            latency: Latency::Balanced,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            username: String::new(),
            password: Secret::default(),
            secret: Secret::default(),
            lifetime_s: 43_200,
        }
    }
}

impl Turn {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let error = |key, value: &str, legal| ConfigError::Range {
            key,
            value: value.to_owned(),
            legal,
        };
        if let Some(url) = self.urls.iter().find(|url| url.parse::<TurnUrl>().is_err()) {
            let legal =
                "\"turn:HOST\", \"turn:HOST:PORT?transport=udp\" (or tcp), \"turns:HOST:PORT\"";
            return Err(error("webrtc.turn.urls", shown(url), legal));
        }
        let is_user = !self.username.is_empty() && !self.password.is_empty();
        if !self.urls.is_empty() && is_user != self.secret.is_empty() {
            let legal = "either it, or a username and a password";
            return Err(error("webrtc.turn.secret", "…", legal));
        }
        if !(10..=604_800).contains(&self.lifetime_s) {
            let value = self.lifetime_s.to_string();
            return Err(error("webrtc.turn.lifetime_s", &value, "10 to 604800"));
        }
        Ok(())
    }
}

/// Checks an entry of `webrtc.ice_servers`. What cannot be used would be missed by nobody until a viewer
/// does not connect.
pub(super) fn check_ice_server(server: &IceServer) -> Result<(), ConfigError> {
    let is_given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let has_user = is_given(&server.username) && is_given(&server.credential);
    for url in &server.urls {
        // Browsers take no `?…` behind `stun:`.
        let is_stun = stun_host(url).is_some() && !url.contains('?');
        let is_turn = url.parse::<TurnUrl>().is_ok();
        let legal = match (is_stun, is_turn) {
            (true, _) => continue,
            (false, true) if has_user => continue,
            (false, true) => "a TURN server needs a username and a credential",
            (false, false) => {
                "\"stun:HOST\", \"stun:HOST:PORT\", \"turn:HOST:PORT?transport=udp\" (or tcp), \
                 \"turns:HOST:PORT\""
            }
        };
        return Err(ConfigError::Range {
            key: "webrtc.ice_servers",
            value: shown(url).to_owned(),
            legal,
        });
    }
    Ok(())
}

/// Returns a URL, unless somebody wrote a password into it.
fn shown(url: &str) -> &str {
    if url.contains('@') { "…@…" } else { url }
}
