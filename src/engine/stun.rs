//! Asks STUN servers how they see the media port (RFC 8489), and asks again to keep the mapping.
//!
//! A name that cannot be resolved is tried again: a Pi boots before its router does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::gather;
use super::room::GATHER_WAIT;
use crate::signaling::IceServer;
use crate::turn::reach::Reach;
use crate::turn::url::stun_host;

/// Most servers that are asked.
const MAX_SERVERS: usize = 4;

/// How often a server that answers is asked, and a failed name looked up: a NAT forgets an idle UDP
/// mapping after 30 s or more.
const INTERVAL: Duration = Duration::from_secs(20);

/// How often a server is asked that has not answered yet (RFC 8489 §6.2.1 doubles from 500 ms).
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is asked at that pace, before it counts as dead for a while.
const FIRST_REQUESTS: u32 = 5;

/// Our addresses as STUN servers see them.
#[derive(Debug)]
pub(super) struct Reflexive {
    servers: Vec<Server>,
    resolved: mpsc::Receiver<(String, Option<SocketAddr>)>,
    resolver: mpsc::Sender<(String, Option<SocketAddr>)>,
    news: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Server {
    /// `host:port`
    name: String,
    reach: Reach,
    address: Option<SocketAddr>,
    /// When to look the name up, or ask; `None` while it is being looked up.
    due: Option<Instant>,
    transaction: [u8; 12],
    unanswered: u32,
    added: Instant,
    mapped: Option<SocketAddr>,
}

impl Reflexive {
    pub(super) fn new() -> Self {
        // full: awaits, in the task that looked it up
        let (resolver, resolved) = mpsc::channel(MAX_SERVERS);
        Self {
            servers: Vec::new(),
            resolved,
            resolver,
            news: Vec::new(),
        }
    }

    /// Adds the `stun:` servers of a list, whose author may send us to `reach`; those known already
    /// are left alone.
    pub(super) fn add_servers(&mut self, servers: &[IceServer], reach: Reach, now: Instant) {
        let urls = servers.iter().flat_map(|server| &server.urls);
        for name in urls.filter_map(|url| stun_host(url)) {
            let is_known = self.servers.iter().any(|server| server.name == name);
            if is_known || self.servers.len() >= MAX_SERVERS {
                continue;
            }
            self.servers.push(Server {
                name,
                reach,
                address: None,
                due: Some(now),
                transaction: [0; 12],
                unanswered: 0,
                added: now,
                mapped: None,
            });
        }
    }

    /// Waits for an address of ours that was not known before. Cancel safe.
    pub(super) async fn next(&mut self) -> SocketAddr {
        loop {
            if let Some(address) = self.news.pop() {
                return address;
            }
            let Some((name, address)) = self.resolved.recv().await else {
                std::future::pending().await
            };
            let now = crate::clock::now();
            if let Some(server) = self.servers.iter_mut().find(|s| s.name == name) {
                server.address = address;
                let wait = if address.is_some() {
                    Duration::ZERO
                } else {
                    INTERVAL
                };
                server.due = Some(now + wait);
            }
        }
    }

    /// Returns when [`Self::poll_requests`] next has work.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.servers.iter().filter_map(|server| server.due).min()
    }

    /// Looks up the names that are due, and returns the requests that are, and to whom.
    ///
    /// Call it inside a runtime.
    pub(super) fn poll_requests(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut requests = Vec::new();
        for server in &mut self.servers {
            if server.due.is_none_or(|due| due > now) {
                continue;
            }
            let Some(address) = server.address else {
                server.due = None;
                let (name, resolver) = (server.name.clone(), self.resolver.clone());
                tokio::spawn(resolve(name, server.reach, resolver));
                continue;
            };
            server.unanswered = server.unanswered.saturating_add(1);
            let is_new = server.mapped.is_none() && server.unanswered <= FIRST_REQUESTS;
            server.due = Some(now + if is_new { FIRST_INTERVAL } else { INTERVAL });
            if getrandom::fill(&mut server.transaction).is_ok() {
                requests.push((address, gather::binding_request(server.transaction)));
            }
        }
        requests
    }

    /// Takes a datagram; returns whether it was for us.
    pub(super) fn handle_response(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> bool {
        let mut servers = self.servers.iter_mut();
        let Some((server, mapped)) = servers.find_map(|server| {
            let mapped = (server.address == Some(from))
                .then(|| gather::mapped_address(bytes, server.transaction))?;
            mapped.map(|mapped| (server, mapped))
        }) else {
            return false;
        };
        server.unanswered = 0;
        server.due = Some(now + INTERVAL);
        if server.mapped.replace(mapped) != Some(mapped) {
            tracing::debug!(server = server.name, %mapped, "STUN server told our address");
            self.news.push(mapped);
        }
        true
    }

    /// Returns until when it is worth to wait for an answer, or `None` once every server that is not
    /// slow has told.
    pub(super) fn gathering_until(&self) -> Option<Instant> {
        let pending = self.servers.iter().filter(|s| s.mapped.is_none());
        pending.map(|server| server.added + GATHER_WAIT).max()
    }

    /// Returns our addresses as they are known now, numbered.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, u16)> {
        let mut mapped: Vec<_> = self.servers.iter().filter_map(|s| s.mapped).collect();
        mapped.sort_unstable();
        mapped.dedup();
        mapped.into_iter().zip(0..)
    }
}

async fn resolve(name: String, reach: Reach, resolver: mpsc::Sender<(String, Option<SocketAddr>)>) {
    let address = match tokio::net::lookup_host(&name).await {
        Ok(mut addresses) => addresses.find(|a| a.is_ipv4() && reach.includes(a.ip())),
        Err(error) => {
            tracing::debug!(name, %error, "STUN server not found, trying again");
            None
        }
    };
    if resolver.send((name, address)).await.is_err() {
        tracing::debug!("the engine ended before a name was found");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(url: &str) -> [IceServer; 1] {
        [IceServer {
            urls: vec![url.to_owned()],
            ..IceServer::default()
        }]
    }

    /// What a STUN server answers to `request` that sees us at 192.0.2.1:32853.
    fn response(request: &[u8]) -> Vec<u8> {
        let mut bytes = request.to_vec();
        bytes[0] = 1;
        bytes[1] = 1;
        bytes[3] = 12;
        bytes.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        bytes
    }

    #[tokio::test]
    async fn a_room_server_makes_us_ask_nothing_on_this_machine() {
        let t0 = crate::clock::now();
        let mut reflexive = Reflexive::new();
        reflexive.add_servers(&servers("stun:127.0.0.1:3478"), Reach::Elsewhere, t0);
        assert!(reflexive.poll_requests(t0).is_empty());
        let (_, found) = reflexive.resolved.recv().await.unwrap();
        assert_eq!(found, None);
    }

    #[tokio::test]
    async fn a_server_of_the_configuration_is_asked_until_it_answers() {
        let t0 = crate::clock::now();
        let mut reflexive = Reflexive::new();
        reflexive.add_servers(&servers("stun:127.0.0.1:3478"), Reach::Anywhere, t0);
        reflexive.add_servers(&servers("stun:127.0.0.1:3478"), Reach::Anywhere, t0);
        assert_eq!(reflexive.servers.len(), 1);
        assert!(reflexive.poll_requests(t0).is_empty(), "looked up first");
        let found = reflexive.resolved.recv().await.unwrap();
        reflexive.resolver.try_send(found).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), reflexive.next());
        waiting.await.unwrap_err();

        let now = crate::clock::now();
        let first = reflexive.poll_requests(now);
        let again = reflexive.poll_requests(now + FIRST_INTERVAL);
        assert_eq!((first.len(), again.len()), (1, 1));
        let (server, request) = again[0].clone();
        let stranger = SocketAddr::from(([192, 0, 2, 9], 3478));
        assert!(!reflexive.handle_response(stranger, &response(&request), now));
        assert!(!reflexive.handle_response(server, &response(&first[0].1), now));
        assert!(reflexive.handle_response(server, &response(&request), now));
        let ours = SocketAddr::from(([192, 0, 2, 1], 32853));
        assert_eq!(reflexive.next().await, ours);
        assert_eq!(reflexive.addresses().collect::<Vec<_>>(), [(ours, 0)]);
        assert_eq!(reflexive.poll_timeout(), Some(now + INTERVAL));
    }
}
