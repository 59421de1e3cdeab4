//! Datagrams of viewers, through the port or a relay, to the viewer they are of; and what viewers send.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;

use super::demux::{Demux, Via};
use super::network::Network;
use super::session::Session;
use super::udp::ReceiveBuffer;
use super::{Engine, turn};
use crate::viewer::roster::SessionId;
use crate::viewer::webrtc::Datagram;

impl Engine {
    pub(super) fn handle_datagrams(&mut self, buffer: &mut ReceiveBuffer, now: Instant) {
        let Self {
            network,
            demux,
            sessions,
            reflexive,
            ..
        } = self;
        let Network {
            port, advertised, ..
        } = network;
        port.exchange(buffer, |local, peer, bytes| {
            if reflexive.handle_response(peer, bytes, now) {
                return;
            }
            let local = advertised_for(advertised, local);
            deliver(demux, sessions, Via::Port, local, peer, bytes, now);
        });
    }

    pub(super) fn handle_relay(&mut self, incoming: turn::Incoming, now: Instant) {
        let Self {
            network,
            demux,
            sessions,
            ..
        } = self;
        network.turn.handle(incoming, now, |local, peer, bytes| {
            deliver(demux, sessions, Via::Relay, local, peer, bytes, now);
        });
    }

    pub(super) fn transmit(&mut self, now: Instant) {
        for (&id, session) in &mut self.sessions {
            session.transmit(&mut self.network, now, |via, peer| {
                self.demux.add_address(via, peer, id);
            });
        }
    }
}

/// Hands a datagram to its viewer. `local` is our address as the viewer knows it.
fn deliver(
    demux: &mut Demux,
    sessions: &mut BTreeMap<SessionId, Session>,
    via: Via,
    local: SocketAddr,
    peer: SocketAddr,
    bytes: &[u8],
    now: Instant,
) {
    let session = demux.route(via, peer, bytes);
    if let Some(session) = session.and_then(|session| sessions.get_mut(&session)) {
        let bytes = BytesMut::from(bytes);
        let datagram = Datagram { local, peer, bytes };
        session.with(|viewer| viewer.handle_datagram(datagram, now));
    }
}

/// The address that a viewer knows `local` by: with port forwarding it is a configured one.
fn advertised_for(advertised: &[IpAddr], local: SocketAddr) -> SocketAddr {
    advertised
        .iter()
        .find(|ip| ip.is_ipv4() == local.is_ipv4())
        .map_or(local, |&ip| SocketAddr::new(ip, local.port()))
}
