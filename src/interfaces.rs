//! The network interfaces of this machine.

use std::net::IpAddr;

use crate::engine::gather;

/// One address of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// E.g. `eth0`.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// Returns the addresses that others could reach, IPv4 first: on a home network it is the one that
/// always works. Those of the interfaces called `only`, where any are named; otherwise loopback and
/// container networks are left out, and link-local addresses count where there are no others, as on a
/// cable between two machines.
#[must_use]
pub fn reachable(only: &[String]) -> Vec<Interface> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let all = all.into_iter().map(|interface| Interface {
        address: interface.ip(),
        name: interface.name,
    });
    choose(&all.collect::<Vec<_>>(), only)
}

/// Returns the addresses of [`reachable`] interfaces that nobody chose.
#[must_use]
pub fn reachable_addresses() -> Vec<IpAddr> {
    let reachable = reachable(&[]).into_iter();
    reachable.map(|interface| interface.address).collect()
}

fn choose(all: &[Interface], only: &[String]) -> Vec<Interface> {
    let those = |is_wanted: &dyn Fn(&str, IpAddr) -> bool| -> Vec<Interface> {
        let wanted = all.iter().filter(|i| is_wanted(&i.name, i.address));
        wanted.cloned().collect()
    };
    let mut chosen = if only.is_empty() {
        Some(those(&gather::is_useful))
            .filter(|useful| !useful.is_empty())
            .unwrap_or_else(|| those(&gather::is_on_this_cable))
    } else {
        // The link-local ones of IPv6 are no use without a scope, which candidates lack.
        let is_usable = |ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        those(&|name, ip| only.iter().any(|wanted| wanted == name) && is_usable(ip))
    };
    chosen.sort_by_key(|interface| interface.address.is_ipv6());
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, address: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            address: address.parse().unwrap(),
        }
    }

    fn chosen(all: &[Interface], only: &[&str]) -> Vec<String> {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        let chosen = choose(all, &only).into_iter();
        chosen.map(|interface| interface.name).collect()
    }

    #[test]
    fn containers_are_left_out_unless_they_are_named() {
        let all = [
            interface("lo", "127.0.0.1"),
            interface("docker0", "172.17.0.1"),
            interface("eth0", "2001:db8::1"),
            interface("eth0", "192.168.1.5"),
            interface("wlan0", "192.168.1.6"),
        ];
        assert_eq!(chosen(&all, &[]), ["eth0", "wlan0", "eth0"]);
        assert_eq!(chosen(&all, &["wlan0"]), ["wlan0"]);
        assert_eq!(chosen(&all, &["docker0", "lo"]), ["lo", "docker0"]);
        assert!(chosen(&all, &["eth9"]).is_empty());
    }

    #[test]
    fn on_a_bare_cable_the_link_local_address_is_better_than_none() {
        let all = [
            interface("lo", "127.0.0.1"),
            interface("docker0", "172.17.0.1"),
            interface("usb0", "169.254.3.4"),
        ];
        assert_eq!(chosen(&all, &[]), ["usb0"]);
    }
}
