//! The one UDP port of all viewers: IPv4 and IPv6, a frame per system call.
//!
//! Sends with generic segmentation offload (one call for the equal-sized packets of a frame) and
//! learns the local address of what it receives. What the kernel cannot take at once waits in a
//! bounded backlog.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::gather;
use crate::interfaces::{self, Interface};

/// Asked of the kernel for each direction, in bytes; it may give less. A keyframe for 16 viewers
/// is about 800 kB.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// Most that waits for the kernel, in bytes. Beyond it the newest packets are lost, as on any
/// full link; viewers ask for them again.
const MAX_BACKLOG_BYTES: usize = 2 << 20;

/// Most that waits for one viewer: nobody takes the place of all others.
const MAX_BACKLOG_BYTES_PER_PEER: usize = MAX_BACKLOG_BYTES / 4;

/// Buffers filled in one call.
const RECEIVE_BATCH: usize = 4;

/// What the kernel may put into one buffer, in bytes: it joins datagrams of one peer (GRO).
const RECEIVE_BUFFER_BYTES: usize = 65_536;

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open UDP port {port} for media: set webrtc.udp_port to a free one, or to 0")]
pub struct PortError {
    port: u16,
    source: io::Error,
}

/// The media port.
#[derive(Debug)]
pub struct UdpPort {
    v4: Family,
    v6: Option<Family>,
    port: u16,
}

#[derive(Debug)]
struct Family {
    socket: UdpSocket,
    state: UdpSocketState,
    backlog: VecDeque<Pending>,
    backlog_bytes: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Pending {
    to: SocketAddr,
    from: Option<IpAddr>,
    segment: Option<usize>,
    contents: Vec<u8>,
}

/// Datagrams of one call; reused.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Vec<u8>,
    meta: [RecvMeta; RECEIVE_BATCH],
}

impl ReceiveBuffer {
    /// Allocates the buffer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER_BYTES],
            meta: [RecvMeta::default(); RECEIVE_BATCH],
        }
    }
}

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl UdpPort {
    /// Opens `port`, or any free one for 0. A machine without IPv6 is served without it.
    ///
    /// # Errors
    ///
    /// [`PortError`] where the port is in use.
    pub fn bind(port: u16) -> Result<Self, PortError> {
        let error = |source| PortError { port, source };
        let v4 = Family::bind((Ipv4Addr::UNSPECIFIED, port).into()).map_err(error)?;
        let port = v4.socket.local_addr().map_err(error)?.port();
        let v6 = Family::bind((Ipv6Addr::UNSPECIFIED, port).into()).ok();
        Ok(Self { v4, v6, port })
    }

    /// Returns the port number.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until something can be received, or until what waits can be sent.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says about the sockets.
    pub async fn ready(&self) -> io::Result<()> {
        match &self.v6 {
            Some(v6) => tokio::select! {
                ready = self.v4.ready() => ready,
                ready = v6.ready() => ready,
            },
            None => self.v4.ready().await,
        }
    }

    /// Hands every datagram that has come to `each`: local address, peer, content. At most a few
    /// hundred, so that a flood does not keep frames waiting. Then sends what waits.
    pub fn exchange(
        &mut self,
        buffer: &mut ReceiveBuffer,
        mut each: impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) {
        const MAX_CALLS: usize = 32;
        for family in std::iter::once(&mut self.v4).chain(&mut self.v6) {
            for _ in 0..MAX_CALLS {
                if !family.receive(self.port, buffer, &mut each) {
                    break;
                }
            }
            family.flush();
        }
    }

    /// Sends `contents`, cut into datagrams of `segment` bytes where it is longer.
    pub fn send(&mut self, from: IpAddr, to: SocketAddr, segment: usize, contents: &[u8]) {
        let family = match to {
            SocketAddr::V4(_) => Some(&mut self.v4),
            SocketAddr::V6(_) => self.v6.as_mut(),
        };
        if let Some(family) = family {
            let from = (!from.is_unspecified()).then_some(from);
            family.send(from, to, segment, contents);
        }
    }

    /// Returns whether something waits for the kernel.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        std::iter::once(&self.v4)
            .chain(&self.v6)
            .any(|family| !family.backlog.is_empty())
    }

    /// Returns how many datagrams one call to `peer` can carry.
    #[must_use]
    pub fn max_segments(&self, peer: SocketAddr) -> usize {
        let family = match &self.v6 {
            Some(v6) if peer.is_ipv6() => v6,
            _ => &self.v4,
        };
        family.state.max_gso_segments()
    }

    /// Returns the addresses that viewers could reach, in the order of preference; those of the
    /// interfaces called `only`, where any are named.
    #[must_use]
    pub fn interfaces(&self, only: &[String], include_loopback: bool) -> Vec<Interface> {
        let mut interfaces = interfaces::reachable(only);
        interfaces.retain(|i| i.address.is_ipv4() || self.v6.is_some());
        interfaces.truncate(gather::MAX_HOST_CANDIDATES);
        if include_loopback || interfaces.is_empty() {
            interfaces.push(Interface {
                name: "lo".to_owned(),
                address: Ipv4Addr::LOCALHOST.into(),
            });
        }
        interfaces
    }
}

impl Family {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        // Less is no error: the kernel's limits apply.
        drop(state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES));
        drop(state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES));
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            state,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            dropped: 0,
        })
    }

    async fn ready(&self) -> io::Result<()> {
        let interest = if self.backlog.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        self.socket.ready(interest).await.map(drop)
    }

    /// Returns whether there may be more.
    fn receive(
        &self,
        port: u16,
        buffer: &mut ReceiveBuffer,
        each: &mut impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) -> bool {
        let mut slices: [io::IoSliceMut<'_>; RECEIVE_BATCH] = {
            let mut chunks = buffer.bytes.chunks_mut(RECEIVE_BUFFER_BYTES);
            std::array::from_fn(|_| io::IoSliceMut::new(chunks.next().unwrap_or_default()))
        };
        let meta = &mut buffer.meta;
        let received = self.socket.try_io(Interest::READABLE, || {
            self.state.recv((&self.socket).into(), &mut slices, meta)
        });
        // An error is that of an earlier send (port unreachable) or "nothing there".
        let Ok(count) = received else {
            return false;
        };
        for (slice, meta) in slices.iter().zip(meta.iter()).take(count) {
            let Some(all) = slice.get(..meta.len) else {
                continue;
            };
            let unspecified = || match meta.addr {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let local = SocketAddr::new(meta.dst_ip.unwrap_or_else(unspecified), port);
            for datagram in all.chunks(meta.stride.max(1)) {
                each(local, meta.addr, datagram);
            }
        }
        count > 0
    }

    fn send(&mut self, from: Option<IpAddr>, to: SocketAddr, segment: usize, contents: &[u8]) {
        let pending = Pending {
            to,
            from,
            segment: (contents.len() > segment).then_some(segment),
            contents: Vec::new(),
        };
        if self.backlog.is_empty() && self.try_send(&pending, contents) {
            return;
        }
        // full: newest lost, the viewer asks for it again
        let own: usize = self
            .backlog
            .iter()
            .filter(|pending| pending.to == to)
            .map(|pending| pending.contents.len())
            .sum();
        if self.backlog_bytes + contents.len() > MAX_BACKLOG_BYTES
            || own + contents.len() > MAX_BACKLOG_BYTES_PER_PEER
        {
            self.dropped += 1;
            tracing::debug!(dropped = self.dropped, "the network cannot take more");
            return;
        }
        self.backlog_bytes += contents.len();
        self.backlog.push_back(Pending {
            contents: contents.to_vec(),
            ..pending
        });
    }

    fn flush(&mut self) {
        while let Some(pending) = self.backlog.pop_front() {
            if !self.try_send(&pending, &pending.contents) {
                self.backlog.push_front(pending);
                return;
            }
            self.backlog_bytes -= pending.contents.len();
        }
    }

    /// Returns false where the kernel asks to try later.
    fn try_send(&self, pending: &Pending, contents: &[u8]) -> bool {
        match self.send_once(pending, pending.segment, contents) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                // Some network cards refuse segmentation offload: one by one, then. A lost single
                // means no route, or a gone address: ICE notices and tries another pair.
                tracing::debug!(%error, to = %pending.to, "could not send");
                if let Some(segment) = pending.segment {
                    for datagram in contents.chunks(segment) {
                        if self.send_once(pending, None, datagram).is_err() {
                            break;
                        }
                    }
                }
                true
            }
            Ok(()) => true,
        }
    }

    fn send_once(
        &self,
        pending: &Pending,
        segment_size: Option<usize>,
        contents: &[u8],
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: pending.to,
            ecn: None,
            contents,
            segment_size,
            src_ip: pending.from,
        };
        self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), &transmit)
        })
    }
}
