//! The network interfaces of this machine.

use std::net::IpAddr;

use crate::engine::gather;

/// Returns the addresses that others could reach, IPv4 first: on a home network it is the one that
/// always works. Loopback and container networks are left out; link-local addresses count where
/// there are no others, as on a cable between two machines.
#[must_use]
pub fn reachable_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = |is_wanted: fn(&str, IpAddr) -> bool| -> Vec<IpAddr> {
        let wanted = interfaces.iter().filter(|i| is_wanted(&i.name, i.ip()));
        wanted.map(if_addrs::Interface::ip).collect()
    };
    let mut addresses = Some(addresses(gather::is_useful))
        .filter(|routable| !routable.is_empty())
        .unwrap_or_else(|| addresses(gather::is_on_this_cable));
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}
