//! Asks STUN servers how they see the media port (RFC 8489), and asks again to keep the mapping.
//!
//! Names are resolved when the engine starts and when the room server hands out servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::gather;
use crate::signaling::IceServer;

/// Most servers that are asked.
const MAX_SERVERS: usize = 4;

/// How often a server is asked: a NAT forgets an idle UDP mapping after 30 s or more.
const INTERVAL: Duration = Duration::from_secs(20);

const DEFAULT_PORT: u16 = 3478;

/// Our addresses as STUN servers see them.
#[derive(Debug)]
pub(super) struct Reflexive {
    asked: Vec<String>,
    servers: BTreeMap<SocketAddr, Server>,
    resolved: mpsc::Receiver<SocketAddr>,
    resolver: mpsc::Sender<SocketAddr>,
    news: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Server {
    transaction: [u8; 12],
    ask_at: Option<Instant>,
    mapped: Option<SocketAddr>,
}

impl Reflexive {
    pub(super) fn new(servers: &[IceServer]) -> Self {
        let (resolver, resolved) = mpsc::channel(MAX_SERVERS * 2);
        let mut reflexive = Self {
            asked: Vec::new(),
            servers: BTreeMap::new(),
            resolved,
            resolver,
            news: Vec::new(),
        };
        reflexive.add_servers(servers);
        reflexive
    }

    /// Adds the `stun:` servers of a list; those known already are left alone.
    pub(super) fn add_servers(&mut self, servers: &[IceServer]) {
        let hosts = servers.iter().flat_map(|server| &server.urls);
        for host in hosts.filter_map(|url| stun_host(url)) {
            if self.asked.len() >= MAX_SERVERS || self.asked.contains(&host) {
                continue;
            }
            self.asked.push(host.clone());
            let resolver = self.resolver.clone();
            let resolve = async move {
                match tokio::net::lookup_host(&host).await {
                    Ok(mut addresses) => {
                        if let Some(address) = addresses.find(SocketAddr::is_ipv4) {
                            // full: dropped, these are more servers than are asked
                            let sent = resolver.try_send(address).is_ok();
                            tracing::debug!(host, %address, sent, "STUN server found");
                        }
                    }
                    Err(error) => tracing::warn!(host, %error, "STUN server not found"),
                }
            };
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                drop(runtime.spawn(resolve));
            }
        }
    }

    /// Waits for an address of ours that was not known before. Cancel safe.
    pub(super) async fn next(&mut self) -> SocketAddr {
        loop {
            if let Some(address) = self.news.pop() {
                return address;
            }
            match self.resolved.recv().await {
                Some(server) if self.servers.len() < MAX_SERVERS => {
                    self.servers.entry(server).or_insert(Server {
                        transaction: [0; 12],
                        ask_at: None,
                        mapped: None,
                    });
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Returns when [`Self::poll_requests`] next has work.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.servers.values().filter_map(|s| s.ask_at).min()
    }

    /// Returns the requests that are due, and to whom.
    pub(super) fn poll_requests(&mut self, now: Instant) -> Vec<(SocketAddr, [u8; 20])> {
        let mut requests = Vec::new();
        for (&address, server) in &mut self.servers {
            if server.ask_at.is_some_and(|at| at > now)
                || getrandom::fill(&mut server.transaction).is_err()
            {
                continue;
            }
            server.ask_at = Some(now + INTERVAL);
            requests.push((address, gather::binding_request(server.transaction)));
        }
        requests
    }

    /// Takes a datagram; returns whether it was for us.
    pub(super) fn handle_response(&mut self, from: SocketAddr, bytes: &[u8]) -> bool {
        let Some(server) = self.servers.get_mut(&from) else {
            return false;
        };
        let mapped = gather::mapped_address(bytes, server.transaction);
        if mapped.is_some() && mapped != server.mapped {
            server.mapped = mapped;
            self.news.extend(mapped);
        }
        mapped.is_some()
    }

    /// Returns our addresses as they are known now, numbered.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, u16)> {
        let mut mapped: Vec<_> = self.servers.values().filter_map(|s| s.mapped).collect();
        mapped.sort_unstable();
        mapped.dedup();
        mapped.into_iter().zip(0..)
    }
}

/// `stun:host`, `stun:host:port` → `host:port`.
fn stun_host(url: &str) -> Option<String> {
    let rest = url.strip_prefix("stun:")?;
    let host = rest.split('?').next()?;
    if host.is_empty() || host.len() > 255 {
        return None;
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(name, port)| port.parse::<u16>().is_ok() && !name.ends_with(':'));
    Some(if has_port {
        host.to_owned()
    } else {
        format!("{host}:{DEFAULT_PORT}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_host_of_stun_urls_alone() {
        assert_eq!(stun_host("stun:a.example").unwrap(), "a.example:3478");
        assert_eq!(stun_host("stun:a.example:99").unwrap(), "a.example:99");
        assert_eq!(
            stun_host("stun:[2001:db8::1]").unwrap(),
            "[2001:db8::1]:3478"
        );
        assert_eq!(stun_host("turn:a.example"), None);
        assert_eq!(stun_host("stun:"), None);
    }
}
