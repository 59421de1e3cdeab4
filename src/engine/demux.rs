//! Which session a datagram belongs to: one UDP port serves all viewers.
//!
//! A STUN request names its session in USERNAME (RFC 8445 §7.2.2: our fragment, a colon, theirs);
//! everything else comes from an address that a request came from, or that we sent one to. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::viewer::roster::SessionId;

/// Most addresses one session may be reached at: interfaces × address families, twice over.
const MAX_ADDRESSES: usize = 64;

/// Which way a datagram goes. The same address may be two viewers': one next to us, one next to the
/// relay.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Via {
    /// Our UDP port.
    Port,
    /// The address that a TURN server lends us.
    Relay,
}

/// Routes datagrams to sessions.
#[derive(Debug, Default)]
pub struct Demux {
    by_ufrag: HashMap<String, SessionId>,
    by_address: HashMap<(Via, SocketAddr), SessionId>,
}

impl Demux {
    /// Starts with no sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a session by a user name fragment of ours. If it had another, ICE was restarted: that one is
    /// forgotten, with the addresses that the session was reached at.
    pub fn set_ufrag(&mut self, ufrag: &str, session: SessionId) {
        if self.by_ufrag.get(ufrag) != Some(&session) {
            self.remove(session);
            self.by_ufrag.insert(ufrag.to_owned(), session);
        }
    }

    /// Notes that `session` sends to `address`, so that the answer finds its way. An address that
    /// already belongs to a session stays with it.
    pub fn add_address(&mut self, via: Via, address: SocketAddr, session: SessionId) {
        if !self.by_address.contains_key(&(via, address)) {
            self.insert(via, address, session);
        }
    }

    /// Returns the session of a datagram from `address`; `None`: not ours, drop it.
    pub fn route(&mut self, via: Via, address: SocketAddr, datagram: &[u8]) -> Option<SessionId> {
        if let Some(ufrag) = local_ufrag(datagram) {
            let session = *self.by_ufrag.get(ufrag)?;
            if self.by_address.get(&(via, address)) != Some(&session) {
                self.insert(via, address, session);
            }
            return Some(session);
        }
        self.by_address.get(&(via, address)).copied()
    }

    /// Forgets a session.
    pub fn remove(&mut self, session: SessionId) {
        self.by_ufrag.retain(|_, s| *s != session);
        self.by_address.retain(|_, s| *s != session);
    }

    fn insert(&mut self, via: Via, address: SocketAddr, session: SessionId) {
        let own = self.by_address.values().filter(|s| **s == session).count();
        if own < MAX_ADDRESSES {
            self.by_address.insert((via, address), session);
        }
    }
}

/// Our user name fragment in a STUN request (RFC 8489 §5, §14.3).
fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    const USERNAME: u16 = 0x0006;
    if datagram.first()? & 0xc0 != 0 || datagram.get(4..8)? != MAGIC_COOKIE {
        return None;
    }
    let mut rest = datagram.get(20..)?;
    while let [t0, t1, l0, l1, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if u16::from_be_bytes([*t0, *t1]) == USERNAME {
            let name = std::str::from_utf8(tail.get(..length)?).ok()?;
            return name.split(':').next();
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(username: &str) -> Vec<u8> {
        let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        stun.extend_from_slice(&[7; 12]);
        stun.extend_from_slice(&[0x80, 0x22, 0, 3, 1, 2, 3, 0]); // SOFTWARE, padded
        stun.extend_from_slice(&[0, 6, 0, u8::try_from(username.len()).unwrap()]);
        stun.extend_from_slice(username.as_bytes());
        stun.resize(stun.len().next_multiple_of(4), 0);
        stun
    }

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const MEDIA: &[u8] = &[0x80, 111, 0, 1];

    #[test]
    fn a_request_claims_its_address_for_what_follows() {
        let mut demux = Demux::new();
        demux.set_ufrag("ours", A);
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), None);
        assert_eq!(
            demux.route(Via::Port, address(1), &request("ours:theirs")),
            Some(A)
        );
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), Some(A));
        assert_eq!(
            demux.route(Via::Port, address(2), &request("other:theirs")),
            None
        );
    }

    #[test]
    fn an_address_that_is_used_again_goes_to_the_new_session() {
        let mut demux = Demux::new();
        demux.set_ufrag("a", A);
        demux.set_ufrag("b", B);
        demux.route(Via::Port, address(1), &request("a:x"));
        assert_eq!(demux.route(Via::Port, address(1), &request("b:x")), Some(B));
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), Some(B));
        demux.remove(B);
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), None);
    }

    #[test]
    fn nobody_takes_over_the_address_of_another_by_sending_to_it() {
        let mut demux = Demux::new();
        demux.set_ufrag("a", A);
        demux.route(Via::Port, address(1), &request("a:x"));
        demux.add_address(Via::Port, address(1), B);
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), Some(A));
    }

    #[test]
    fn one_address_next_to_us_and_one_next_to_the_relay_are_two_viewers() {
        let mut demux = Demux::new();
        demux.set_ufrag("a", A);
        demux.set_ufrag("b", B);
        demux.route(Via::Port, address(1), &request("a:x"));
        demux.route(Via::Relay, address(1), &request("b:x"));
        assert_eq!(demux.route(Via::Port, address(1), MEDIA), Some(A));
        assert_eq!(demux.route(Via::Relay, address(1), MEDIA), Some(B));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let mut demux = Demux::new();
        demux.set_ufrag("a", A);
        for port in 1..10_000 {
            demux.route(Via::Port, address(port), &request("a:x"));
        }
        assert_eq!(demux.by_address.len(), MAX_ADDRESSES);
    }

    #[test]
    fn damaged_requests_are_no_panic() {
        let whole = request("ours:theirs");
        let mut demux = Demux::new();
        for end in 0..whole.len() {
            demux.route(Via::Port, address(1), &whole[..end]);
        }
    }

    #[test]
    fn a_thousand_ice_restarts_leave_one_name_and_the_addresses_since_the_last() {
        let mut demux = Demux::new();
        for n in 0..1000 {
            demux.set_ufrag(&format!("u{n}"), A);
            demux.set_ufrag(&format!("u{n}"), A);
            let request = request(&format!("u{n}:theirs"));
            assert_eq!(demux.route(Via::Port, address(n), &request), Some(A));
            assert_eq!(demux.route(Via::Port, address(n), MEDIA), Some(A));
        }
        assert_eq!((demux.by_ufrag.len(), demux.by_address.len()), (1, 1));
    }
}
