//! The network interfaces of this machine.

use std::net::IpAddr;

use crate::engine::gather;

/// Returns the addresses that others could reach, IPv4 first: on a home network it is the one that
/// always works. Loopback, link-local and container networks are left out.
#[must_use]
pub fn reachable_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = interfaces
        .iter()
        .filter(|interface| gather::is_useful(&interface.name, interface.ip()))
        .map(if_addrs::Interface::ip)
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}
