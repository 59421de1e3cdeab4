//! The ways to viewers: our UDP port, or the address that a TURN server lends us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::demux::Via;
use super::turn::Turn;
use super::udp::UdpPort;

/// Most datagrams that are handed to a relay at once; each is one message of its own.
const RELAY_BATCH: usize = 64;

/// Everything that datagrams leave by.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) port: UdpPort,
    /// The configured addresses, which viewers know ours by; empty: they know the real ones.
    pub(super) advertised: Vec<IpAddr>,
    pub(super) turn: Turn,
}

impl Network {
    /// Returns which way a datagram from `local` goes.
    pub(super) fn via(&self, local: SocketAddr) -> Via {
        if self.turn.relays.is_lent(local) {
            Via::Relay
        } else {
            Via::Port
        }
    }

    /// Returns how many datagrams one call of [`Self::send`] can carry.
    pub(super) fn max_segments(&self, local: SocketAddr, peer: SocketAddr) -> usize {
        match self.via(local) {
            Via::Relay => RELAY_BATCH,
            Via::Port => self.port.max_segments(peer),
        }
    }

    /// Sends `contents`, cut into datagrams of `segment` bytes where it is longer.
    pub(super) fn send(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        segment: usize,
        contents: &[u8],
        now: Instant,
    ) {
        if self.via(local) == Via::Relay {
            let relays = &mut self.turn.relays;
            return relays.send(local, peer, segment, contents, now);
        }
        // An advertised address is none of this machine's: the kernel chooses.
        let from = if self.advertised.contains(&local.ip()) {
            match local {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            }
        } else if local.port() == self.port.port() {
            local.ip()
        } else {
            // Lent to us until just now.
            return;
        };
        self.port.send(from, peer, segment, contents);
    }
}
