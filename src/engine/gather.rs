//! Our ICE candidates: which addresses viewers can reach us at (RFC 8445 §5.1, RFC 8839 §5.1).
//!
//! Host candidates of this machine's interfaces or of the configured addresses, and the
//! server-reflexive ones that STUN servers tell (RFC 8489), and the relayed one that a TURN server lends
//! (`turn.rs`). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::turn::message::{Message, TransactionId, Writer, attribute, class, method};

/// Most host candidates that are offered. Each costs the viewer a series of checks.
pub const MAX_HOST_CANDIDATES: usize = 8;

/// How the names of interfaces begin that lead to containers and virtual machines on this host
/// alone. (Docker's bridges are `br-` and hexadecimal digits; OpenWrt's `br-lan` is a real one.)
const LOCAL_ONLY: [&str; 16] = [
    "docker", "veth", "virbr", "vnet", "vmnet", "vboxnet", "cni", "cali", "cilium", "flannel",
    "kube", "lxc", "lxd", "incusbr", "podman", "nerdctl",
];

/// Returns whether a viewer elsewhere could reach an interface.
#[must_use]
pub fn is_useful(interface: &str, address: IpAddr) -> bool {
    let routable = match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    };
    routable && !leads_nowhere(interface)
}

/// Returns whether a viewer at the other end of the cable could reach an interface that nobody gave
/// an address to (RFC 3927).
#[must_use]
pub fn is_on_this_cable(interface: &str, address: IpAddr) -> bool {
    let is_link_local = matches!(address, IpAddr::V4(v4) if v4.is_link_local());
    is_link_local && !leads_nowhere(interface)
}

fn leads_nowhere(interface: &str) -> bool {
    let is_docker_bridge = interface
        .strip_prefix("br-")
        .is_some_and(|id| id.chars().all(|c| c.is_ascii_hexdigit()));
    is_docker_bridge || LOCAL_ONLY.iter().any(|name| interface.starts_with(name))
}

/// Returns the `candidate:…` line of an address of ours. `index` orders them: 0 is tried first.
#[must_use]
pub fn host_candidate(address: SocketAddr, index: u16) -> String {
    const HOST_PREFERENCE: u32 = 126;
    format!(
        "candidate:{} 1 udp {} {} {} typ host",
        foundation(HOST_PREFERENCE, index),
        priority(HOST_PREFERENCE, index),
        address.ip(),
        address.port(),
    )
}

/// Returns the `candidate:…` line of the address that a STUN server sees us at.
#[must_use]
pub fn reflexive_candidate(address: SocketAddr, index: u16) -> String {
    const REFLEXIVE_PREFERENCE: u32 = 100;
    derived_candidate("srflx", REFLEXIVE_PREFERENCE, address, index)
}

/// Returns the `candidate:…` line of the address that a TURN server lends us.
#[must_use]
pub fn relayed_candidate(address: SocketAddr) -> String {
    // Last: a detour, and somebody pays for it.
    const RELAYED_PREFERENCE: u32 = 0;
    derived_candidate("relay", RELAYED_PREFERENCE, address, 0)
}

fn derived_candidate(kind: &str, preference: u32, address: SocketAddr, index: u16) -> String {
    // The base is not told (RFC 8839 §5.1 allows 0.0.0.0): it is nobody's business.
    let base = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    format!(
        "candidate:{} 1 udp {} {} {} typ {kind} raddr {base} rport 0",
        foundation(preference, index),
        priority(preference, index),
        address.ip(),
        address.port(),
    )
}

/// RFC 8445 §5.1.2.1.
const fn priority(type_preference: u32, index: u16) -> u32 {
    const COMPONENT: u32 = 1;
    (type_preference << 24) | ((u16::MAX - index) as u32) << 8 | (256 - COMPONENT)
}

const fn foundation(type_preference: u32, index: u16) -> u32 {
    type_preference << 16 | index as u32
}

/// Returns a STUN binding request.
#[must_use]
pub fn binding_request(transaction: TransactionId) -> Vec<u8> {
    Writer::new(method::BINDING | class::REQUEST, transaction).unsigned()
}

/// Returns the address in the response to the binding request of `transaction`; `None` where it is
/// anything else.
#[must_use]
pub fn mapped_address(response: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let message = Message::read(response)?;
    let is_ours =
        message.kind == method::BINDING | class::SUCCESS && message.transaction == transaction;
    is_ours.then(|| message.address(attribute::XOR_MAPPED_ADDRESS))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_has_the_highest_priority() {
        let address = SocketAddr::from(([192, 0, 2, 7], 5000));
        assert_eq!(
            host_candidate(address, 0),
            "candidate:8257536 1 udp 2130706431 192.0.2.7 5000 typ host"
        );
        assert!(priority(126, 0) > priority(126, 1) && priority(126, 9) > priority(100, 0));
    }

    #[test]
    fn containers_loopback_and_link_local_addresses_are_left_out() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_useful("wlan0", ip("192.168.1.5")));
        assert!(is_useful("tailscale0", ip("100.64.0.1")));
        assert!(is_useful("br-lan", ip("192.168.1.1")));
        for (name, address) in [
            ("docker0", "172.17.0.1"),
            ("br-12abf0c4d5e6", "172.18.0.1"),
            ("veth3f2a@if5", "172.18.0.2"),
            ("virbr0", "192.168.122.1"),
            ("cni0", "10.88.0.1"),
            ("podman0", "10.88.0.1"),
            ("lxcbr0", "10.0.3.1"),
            ("lxdbr0", "10.0.4.1"),
            ("lo", "127.0.0.1"),
            ("eth0", "169.254.3.4"),
            ("eth0", "fe80::1"),
        ] {
            assert!(!is_useful(name, ip(address)), "{name} {address}");
        }
    }

    #[test]
    fn on_a_bare_cable_link_local_addresses_count() {
        let address = IpAddr::from([169, 254, 3, 4]);
        assert!(is_on_this_cable("usb0", address));
        assert!(!is_on_this_cable("docker0", address));
        assert!(!is_on_this_cable("lo", IpAddr::from([127, 0, 0, 1])));
    }

    /// RFC 5769 §2.2 and §2.3.
    #[test]
    fn reads_the_addresses_of_the_test_vectors() {
        let id = [
            0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
        ];
        let response = |attribute: &[u8]| {
            let mut bytes = vec![1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(attribute);
            bytes[3] = u8::try_from(attribute.len()).unwrap();
            bytes
        };
        let v4 = response(&[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let expected = SocketAddr::from(([192, 0, 2, 1], 32853));
        assert_eq!(mapped_address(&v4, id), Some(expected));
        let v6 = response(&[
            0, 0x20, 0, 0x14, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
            0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ]);
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
        assert_eq!(mapped_address(&v6, id), Some(expected.parse().unwrap()));

        assert_eq!(mapped_address(&v4, [0; 12]), None, "not our transaction");
        for end in 0..v4.len() {
            assert_eq!(mapped_address(&v4[..end], id), None);
        }
    }
}
