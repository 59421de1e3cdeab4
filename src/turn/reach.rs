//! Which addresses somebody may make us talk to. A room server names STUN and TURN servers, and viewers
//! are told whether they work: it must not find out what listens on this machine.
//!
//! Pure.

use std::net::IpAddr;

/// Where the servers of a list may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// Whoever names them may know everything.
    Anywhere,
    /// Not on this machine, nor next to it alone.
    Elsewhere,
}

impl Reach {
    /// Returns whether a server may be at `ip`.
    #[must_use]
    pub fn includes(self, ip: IpAddr) -> bool {
        let is_elsewhere = match ip.to_canonical() {
            IpAddr::V4(v4) => {
                // All of 0.0.0.0/8 is "this host" (RFC 1122 §3.2.1.3).
                let is_here = v4.is_loopback() || v4.octets().starts_with(&[0]);
                !is_here && !v4.is_link_local() && !v4.is_multicast() && !v4.is_broadcast()
            }
            IpAddr::V6(v6) => {
                let is_here = v6.is_loopback() || v6.is_unspecified();
                !is_here && !v6.is_unicast_link_local() && !v6.is_multicast()
            }
        };
        self == Self::Anywhere || is_elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_on_this_machine_is_out_of_a_room_servers_reach() {
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.0.0.1",
            "169.254.169.254",
            "224.0.0.251",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "fe80::1",
            "ff02::fb",
        ] {
            let ip = ip.parse().unwrap();
            assert!(!Reach::Elsewhere.includes(ip), "{ip}");
            assert!(Reach::Anywhere.includes(ip), "{ip}");
        }
        for ip in ["192.168.1.2", "198.51.100.1", "2001:db8::1", "fd00::1"] {
            assert!(Reach::Elsewhere.includes(ip.parse().unwrap()), "{ip}");
        }
    }
}
