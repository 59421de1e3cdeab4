//! Where viewers find the page: its address, the room and the key → a link.
//!
//! Room and key stand behind the `#` (`docs/signaling.md`), which browsers send to no server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Secret;
use crate::interfaces;

/// A link to the page of one room.
pub struct Page {
    /// With the key: whoever has it can watch. Not for logs.
    pub url: String,
    /// The same without the key.
    pub public_url: String,
}

impl Page {
    /// Returns the page of `room` on a server that listens at `address`: of "any address", it is the
    /// first one by which others reach this machine.
    #[must_use]
    pub fn at(address: SocketAddr, room: &str, key: &Secret) -> Self {
        let ip = if address.ip().is_unspecified() {
            let first = interfaces::reachable_addresses().into_iter().next();
            first.unwrap_or_else(|| from_here(address.ip()))
        } else {
            address.ip()
        };
        let origin = SocketAddr::new(ip, address.port());
        let public_url = format!("http://{origin}/#room={room}");
        Self {
            url: format!("{public_url}&key={}", encoded(key)),
            public_url,
        }
    }

    /// Adds the key of those who may speak: whoever has the link can then do so, too.
    pub fn add_talk_key(&mut self, key: &Secret) {
        self.url.push_str("&talk=");
        self.url.push_str(&encoded(key));
    }

    /// Returns the address alone, without room and key.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.public_url.split("/#").next().unwrap_or_default()
    }
}

fn encoded(key: &Secret) -> String {
    url::form_urlencoded::byte_serialize(key.expose().as_bytes()).collect()
}

/// Returns where this machine itself reaches a server that listens at `ip`.
#[must_use]
pub const fn from_here(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.public_url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_carries_room_and_key_and_is_never_shown_whole_by_accident() {
        let address = SocketAddr::from(([192, 0, 2, 7], 8080));
        let page = Page::at(address, "cam", &Secret::new("a b&c".to_owned()));
        assert_eq!(page.url, "http://192.0.2.7:8080/#room=cam&key=a+b%26c");
        assert_eq!(page.public_url, "http://192.0.2.7:8080/#room=cam");
        assert_eq!(format!("{page:?}"), page.public_url);
    }
}
