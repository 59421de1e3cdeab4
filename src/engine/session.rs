//! One viewer's machine and its outgoing datagrams.
//!
//! A panic in the machine is our bug. It is caught here, ends this viewer and nobody else, and is
//! logged as what it is.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::demux::Via;
use super::network::Network;
use crate::turn::relays::Status;
use crate::viewer::roster::SessionId;
use crate::viewer::verdict::Verdict;
use crate::viewer::webrtc::Datagram;
use crate::viewer::{Ended, Viewer, ViewerEvent};

/// Most bytes of one send: what the kernel takes in one call (64 KiB less headers).
const MAX_BATCH_BYTES: usize = 60_000;

/// A timer that is due again at once would spin; nothing in WebRTC needs a finer one.
const MIN_TIMEOUT: Duration = Duration::from_micros(500);

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    viewer: Viewer,
    /// Input was given since the last drain.
    dirty: bool,
    timeout: Option<Instant>,
    panicked: bool,
    diagnosed: bool,
    batch: Batch,
}

/// Datagrams of equal size to one address: one system call.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    segment: usize,
    route: Option<(SocketAddr, SocketAddr)>,
    count: usize,
}

impl Session {
    pub(super) fn new(id: SessionId, viewer: Viewer) -> Self {
        Self {
            id,
            viewer,
            dirty: true,
            timeout: None,
            panicked: false,
            diagnosed: false,
            batch: Batch::default(),
        }
    }

    /// Gives the machine an input. `None` where it panicked, now or before.
    pub(super) fn with<T>(&mut self, input: impl FnOnce(&mut Viewer) -> T) -> Option<T> {
        if self.panicked {
            return None;
        }
        self.dirty = true;
        let viewer = &mut self.viewer;
        let outcome = catch_unwind(AssertUnwindSafe(|| input(viewer)));
        if outcome.is_err() {
            self.panicked = true;
            tracing::error!(
                viewer = self.id.0,
                "bug: a viewer's session panicked and ends"
            );
        }
        outcome.ok()
    }

    /// Collects what happened.
    pub(super) fn drain(&mut self, events: &mut Vec<(SessionId, ViewerEvent)>) {
        if self.panicked {
            events.push((self.id, ViewerEvent::Ended(Ended::Gone)));
            return;
        }
        if !self.dirty {
            return;
        }
        while let Some(Some(event)) = self.with(Viewer::poll_event) {
            events.push((self.id, event));
        }
    }

    /// Sends what the machine has to send, and learns when it wants to be woken.
    pub(super) fn transmit(
        &mut self,
        network: &mut Network,
        now: Instant,
        mut sent_to: impl FnMut(Via, SocketAddr),
    ) {
        if !self.dirty {
            return;
        }
        while let Some(Some(datagram)) = self.with(Viewer::poll_transmit) {
            let max_segments = network.max_segments(datagram.local, datagram.peer);
            if !self.batch.takes(&datagram, max_segments) {
                self.batch.send(network, now);
            }
            if self.batch.count == 0 {
                sent_to(network.via(datagram.local), datagram.peer);
            }
            self.batch.push(&datagram);
        }
        self.batch.send(network, now);
        let timeout = self.with(Viewer::poll_timeout).flatten();
        self.timeout = timeout.map(|at| at.max(now + MIN_TIMEOUT));
        self.dirty = false;
    }

    pub(super) const fn timeout(&self) -> Option<Instant> {
        self.timeout
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.viewer.is_connected()
    }

    /// Returns why it does not connect; `None` once it was told, or where it is connected.
    pub(super) fn diagnose(
        &mut self,
        relay: &Status,
        name_of: impl Fn(IpAddr) -> Option<String>,
    ) -> Option<Verdict> {
        if self.panicked || std::mem::replace(&mut self.diagnosed, true) {
            return None;
        }
        self.viewer.diagnosis(relay, name_of)
    }

    pub(super) const fn dropped_frames(&self) -> u64 {
        self.viewer.dropped_frames()
    }
}

impl Batch {
    /// Segmentation offload needs equal sizes; only the last may be shorter.
    fn takes(&self, datagram: &Datagram, max_segments: usize) -> bool {
        self.count == 0
            || (self.route == Some((datagram.local, datagram.peer))
                && datagram.bytes.len() <= self.segment
                && self.bytes.len() == self.segment * self.count
                && self.count < max_segments
                && self.bytes.len() + datagram.bytes.len() <= MAX_BATCH_BYTES)
    }

    fn push(&mut self, datagram: &Datagram) {
        if self.count == 0 {
            self.segment = datagram.bytes.len();
            self.route = Some((datagram.local, datagram.peer));
        }
        self.count += 1;
        self.bytes.extend_from_slice(&datagram.bytes);
    }

    fn send(&mut self, network: &mut Network, now: Instant) {
        if let Some((local, peer)) = self.route.take() {
            network.send(local, peer, self.segment, &self.bytes, now);
        }
        self.bytes.clear();
        self.count = 0;
    }
}
