//! Why a viewer does not connect: what each side offered, what was tried, and what is missing.
//!
//! [`Attempt`] watches the candidates and the datagrams of one connection until it is up;
//! [`Attempt::verdict`] puts them in one sentence with a remedy. `rtc` counts only the checks of the
//! pair that was chosen, so they are counted here. Addresses of viewers are told as far as it takes to
//! compare networks: never the last part, and nothing of public ones. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::turn::message::{Message, class, is_stun, method};
use crate::turn::relays::Status;

/// Most candidates of a side that are kept: what a viewer may send.
const MAX_CANDIDATES: usize = super::offer::MAX_CANDIDATES;

/// Most pairs that are followed. Ours, at most ten, times theirs is more, but they tell no more.
const MAX_PAIRS: usize = 256;

/// Most candidates of a side that are listed: a laptop with a VPN has six.
const MAX_LISTED: usize = 10;

/// How a candidate was found (RFC 8445 §5.1.1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    Host,
    Reflexive,
    Relayed,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Reach {
    /// A `.local` name: browsers hide their addresses from pages without a camera.
    Hidden,
    Loopback,
    LinkLocal,
    /// RFC 1918, and its first 24 bits.
    Private([u8; 3]),
    /// RFC 6598: carriers' NATs, and VPNs.
    Shared,
    PrivateV6,
    PublicV4,
    PublicV6,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Candidate {
    kind: Kind,
    reach: Reach,
    ip: Option<IpAddr>,
}

/// What became of the checks between two addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Pair {
    /// How many checks we sent.
    sent: u32,
    /// One of them was answered.
    answered: bool,
    /// A check of the viewer's arrived.
    asked: bool,
}

/// What was seen of one connection that is not up yet.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    ours: Vec<Candidate>,
    theirs: Vec<Candidate>,
    pairs: BTreeMap<(SocketAddr, SocketAddr), Pair>,
}

/// What is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// `no-path` or `no-encryption` (`docs/signaling.md`).
    pub code: &'static str,
    /// For people on both sides: what was seen, and a remedy.
    pub sentence: String,
    /// Our candidates.
    pub ours: String,
    /// The viewer's.
    pub theirs: String,
    /// How many pairs of addresses were tried.
    pub pairs: usize,
    /// On how many of them the viewer's checks arrived.
    pub asked: usize,
    /// On how many of them ours were answered.
    pub answered: usize,
}

impl Attempt {
    /// Takes a candidate of ours: `candidate:…`.
    pub fn add_ours(&mut self, line: &str) {
        add(&mut self.ours, line);
    }

    /// Takes a candidate of the viewer's.
    pub fn add_theirs(&mut self, line: &str) {
        add(&mut self.theirs, line);
    }

    /// Takes the candidates in the viewer's description.
    pub fn add_description(&mut self, sdp: &str) {
        for line in sdp.lines().filter_map(|line| line.strip_prefix("a=")) {
            self.add_theirs(line);
        }
    }

    /// Takes note of a datagram to the viewer.
    pub fn sent(&mut self, local: SocketAddr, peer: SocketAddr, datagram: &[u8]) {
        if kind_of(datagram) == Some(method::BINDING | class::REQUEST)
            && let Some(pair) = self.pair(local, peer)
        {
            pair.sent += 1;
        }
    }

    /// Takes note of a datagram of the viewer's.
    pub fn received(&mut self, local: SocketAddr, peer: SocketAddr, datagram: &[u8]) {
        let kind = kind_of(datagram);
        if let Some(pair) = self.pair(local, peer) {
            pair.answered |= kind == Some(method::BINDING | class::SUCCESS);
            pair.asked |= kind == Some(method::BINDING | class::REQUEST);
        }
    }

    /// Returns what is wrong. `relay` is what TURN has to offer, `name_of` the network interface of an
    /// address of ours.
    #[must_use]
    pub fn verdict(&self, relay: &Status, name_of: impl Fn(IpAddr) -> Option<String>) -> Verdict {
        let answered = self.count(|pair| pair.answered);
        let (code, what, remedy) = if answered > 0 {
            let what = "checks pass between the viewer and the device, but no encrypted connection \
                        (DTLS) comes about";
            let remedy = "update the browser, or look for a firewall that lets only small \
                          packets through";
            ("no-encryption", what.to_owned(), remedy.to_owned())
        } else {
            let (what, hint) = self.what_is_missing();
            ("no-path", what, format!("{hint}{}", remedy(relay)))
        };
        Verdict {
            code,
            sentence: format!("{what}: {remedy}"),
            ours: list(&self.ours, name_of),
            theirs: list(&self.theirs, |_| None),
            pairs: self.pairs.len(),
            asked: self.count(|pair| pair.asked),
            answered,
        }
    }

    /// What was seen, and what it hints at.
    fn what_is_missing(&self) -> (String, &'static str) {
        let ours = list(&self.ours, |_| None);
        let theirs = list(&self.theirs, |_| None);
        let asked = self.count(|pair| pair.asked) > 0;
        let has = |side: &[Candidate], reach: &[Reach]| {
            side.iter()
                .any(|candidate| reach.contains(&candidate.reach))
        };
        let only = |side: &[Candidate], reach| side.iter().all(|c| c.reach == reach);
        let in_same_network = self.ours.iter().find(|candidate| {
            matches!(candidate.reach, Reach::Private(_)) && has(&self.theirs, &[candidate.reach])
        });
        let public = [Reach::PublicV4, Reach::PublicV6];
        if asked {
            let what = format!(
                "the viewer's checks arrive, but nothing of the device's reaches it (ours: {ours}; the \
                 viewer's: {theirs})"
            );
            (what, "a firewall lets UDP through one way only? ")
        } else if self.theirs.is_empty() {
            let what =
                "the viewer told no address of its own, and no check of it arrived".to_owned();
            (
                what,
                "an extension or a policy of the browser forbids WebRTC? ",
            )
        } else if only(&self.ours, Reach::Loopback) {
            let what = format!(
                "the device has no network but itself (ours: {ours}; the viewer's: {theirs})"
            );
            (what, "check its network, and webrtc.interfaces; ")
        } else if only(&self.theirs, Reach::Hidden) {
            let what = format!(
                "the viewer told only hidden addresses (mDNS), and no check of it arrived; ours are {ours}"
            );
            (what, "different networks? ")
        } else if let Some(same) = in_same_network {
            let what = format!(
                "viewer and device are both in {}, but no check arrived",
                Reach::words(same.reach)
            );
            (
                what,
                "a firewall, an access point that keeps its clients apart, or two networks that are numbered alike? ",
            )
        } else if has(&self.ours, &public) && has(&self.theirs, &public) {
            let what = format!(
                "viewer and device have public addresses, but no check arrived (ours: {ours}; the viewer's: \
                 {theirs})"
            );
            (what, "a firewall or NAT blocks UDP? ")
        } else {
            let what =
                format!("no check of the viewer arrived; ours are {ours}, the viewer's {theirs}");
            (what, "different networks? ")
        }
    }

    fn pair(&mut self, local: SocketAddr, peer: SocketAddr) -> Option<&mut Pair> {
        let is_new = !self.pairs.contains_key(&(local, peer));
        if is_new && self.pairs.len() >= MAX_PAIRS {
            return None;
        }
        Some(self.pairs.entry((local, peer)).or_default())
    }

    fn count(&self, is_counted: impl Fn(&Pair) -> bool) -> usize {
        self.pairs.values().filter(|pair| is_counted(pair)).count()
    }
}

fn kind_of(datagram: &[u8]) -> Option<u16> {
    if !is_stun(datagram) {
        return None;
    }
    Message::read(datagram).map(|message| message.kind)
}

fn remedy(relay: &Status) -> String {
    match relay {
        Status::NotConfigured => "set webrtc.turn (docs/network.md)".to_owned(),
        Status::HandedFailed => {
            "the room server's TURN server fails: the device's log says why, or set webrtc.turn \
             (docs/network.md)"
                .to_owned()
        }
        Status::None => "the TURN server has not answered yet".to_owned(),
        Status::Lent => {
            "the device has a relay, but the viewer does not reach it: open the TURN server's relay ports (UDP \
             49152 to 65535), set its external-ip if it is behind a router, or give webrtc.turn.urls one with \
             ?transport=tcp, or turns:, for the viewer's firewall (docs/network.md)"
                .to_owned()
        }
        Status::Failed {
            server,
            reason,
            remedy,
        } => format!("the TURN server {server} {reason}: {remedy}"),
    }
}

fn add(side: &mut Vec<Candidate>, line: &str) {
    if let Some(candidate) = Candidate::read(line)
        && side.len() < MAX_CANDIDATES
        && !side.contains(&candidate)
    {
        side.push(candidate);
    }
}

/// E.g. `host 192.168.1.x (eth0), srflx public IPv4`.
fn list(side: &[Candidate], name_of: impl Fn(IpAddr) -> Option<String>) -> String {
    let mut words: Vec<String> = Vec::new();
    for candidate in side {
        let mut word = format!("{} {}", candidate.kind.word(), candidate.reach.words());
        if let Some(name) = candidate.ip.and_then(&name_of) {
            write!(word, " ({name})").unwrap_or_default();
        }
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() {
        return "none".to_owned();
    }
    let more = words.len().saturating_sub(MAX_LISTED);
    words.truncate(MAX_LISTED);
    let listed = words.join(", ");
    match more {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

impl Candidate {
    /// RFC 8839 §5.1. Candidates of TCP are left out: nobody can connect to a browser.
    fn read(line: &str) -> Option<Self> {
        let line = line.strip_prefix("candidate:")?;
        let words: Vec<&str> = line.split(' ').collect();
        let [_, _, transport, _, address, _, "typ", kind, ..] = words.as_slice() else {
            return None;
        };
        if !transport.eq_ignore_ascii_case("udp") {
            return None;
        }
        let kind = match *kind {
            "host" => Kind::Host,
            "srflx" | "prflx" => Kind::Reflexive,
            "relay" => Kind::Relayed,
            _ => return None,
        };
        let ip: Option<IpAddr> = address.parse().ok();
        let reach = match ip {
            Some(ip) => Reach::of(ip),
            None if address.ends_with(".local") => Reach::Hidden,
            None => return None,
        };
        Some(Self { kind, reach, ip })
    }
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Reflexive => "srflx",
            Self::Relayed => "relay",
        }
    }
}

impl Reach {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                match (a, b) {
                    _ if v4.is_private() => Self::Private([a, b, c]),
                    _ if v4.is_link_local() => Self::LinkLocal,
                    (100, 64..=127) => Self::Shared,
                    _ => Self::PublicV4,
                }
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::LinkLocal,
            IpAddr::V6(v6) if v6.is_unique_local() => Self::PrivateV6,
            IpAddr::V6(_) => Self::PublicV6,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Hidden => "hidden (mDNS)".to_owned(),
            Self::Loopback => "loopback".to_owned(),
            Self::LinkLocal => "link-local".to_owned(),
            Self::Private([a, b, c]) => format!("{a}.{b}.{c}.x"),
            Self::Shared => "100.64.0.0/10 (carrier's NAT or VPN)".to_owned(),
            Self::PrivateV6 => "private IPv6".to_owned(),
            Self::PublicV4 => "public IPv4".to_owned(),
            Self::PublicV6 => "public IPv6".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::message::Writer;

    const HOME: &str = "192.168.1.5";

    fn line(kind: &str, address: &str) -> String {
        format!("candidate:1 1 udp 1 {address} 5000 typ {kind} raddr 0.0.0.0 rport 0")
    }

    fn attempt(ours: &[(&str, &str)], theirs: &[(&str, &str)]) -> Attempt {
        let mut attempt = Attempt::default();
        for (kind, address) in ours {
            attempt.add_ours(&line(kind, address));
        }
        for (kind, address) in theirs {
            attempt.add_theirs(&line(kind, address));
        }
        attempt
    }

    fn verdict(attempt: &Attempt) -> Verdict {
        attempt.verdict(&Status::NotConfigured, |_| None)
    }

    fn address(port: u16) -> SocketAddr {
        ([203, 0, 113, 77], port).into()
    }

    fn stun(kind: u16) -> Vec<u8> {
        Writer::new(kind, [1; 12]).unsigned()
    }

    #[test]
    fn hidden_addresses_alone_hint_at_different_networks() {
        let attempt = attempt(&[("host", HOME)], &[("host", "0f3a-1b.local")]);
        let expected = "the viewer told only hidden addresses (mDNS), and no check of it arrived; ours are \
                        host 192.168.1.x: different networks? set webrtc.turn (docs/network.md)";
        assert_eq!(verdict(&attempt).sentence, expected);
        assert_eq!(verdict(&attempt).code, "no-path");
    }

    #[test]
    fn two_lans_are_told_by_their_addresses() {
        let attempt = attempt(
            &[("host", HOME)],
            &[("host", "10.0.0.9"), ("srflx", "203.0.113.77")],
        );
        let expected = "no check of the viewer arrived; ours are host 192.168.1.x, the viewer's host \
                        10.0.0.x, srflx public IPv4: different networks? set webrtc.turn \
                        (docs/network.md)";
        assert_eq!(verdict(&attempt).sentence, expected);
    }

    #[test]
    fn in_one_lan_something_else_is_in_the_way() {
        let attempt = attempt(&[("host", HOME)], &[("host", "192.168.1.77")]);
        let sentence = verdict(&attempt).sentence;
        assert!(sentence.contains("both in 192.168.1.x"), "{sentence}");
        assert!(sentence.contains("access point"), "{sentence}");
    }

    #[test]
    fn public_addresses_between_which_nothing_passes_mean_blocked_udp() {
        let attempt = attempt(
            &[("host", HOME), ("srflx", "198.51.100.3")],
            &[("host", "10.0.0.9"), ("srflx", "203.0.113.77")],
        );
        assert!(verdict(&attempt).sentence.contains("blocks UDP?"));
    }

    #[test]
    fn a_viewer_without_addresses_is_told_so() {
        let attempt = attempt(&[("host", HOME)], &[]);
        let verdict = verdict(&attempt);
        assert!(verdict.sentence.contains("told no address of its own"));
        assert_eq!((verdict.theirs.as_str(), verdict.pairs), ("none", 0));
    }

    #[test]
    fn a_device_without_network_is_told_so() {
        let attempt = attempt(&[("host", "127.0.0.1")], &[("host", "a.local")]);
        assert!(verdict(&attempt).sentence.contains("no network but itself"));
    }

    #[test]
    fn checks_that_arrive_but_are_not_answered_mean_one_way() {
        let mut attempt = attempt(&[("host", HOME)], &[("host", "a.local")]);
        attempt.sent(address(1), address(2), &stun(0x0001));
        attempt.received(address(1), address(2), &stun(0x0001));
        let verdict = verdict(&attempt);
        assert!(verdict.sentence.contains("one way only"), "{verdict:?}");
        assert_eq!((verdict.pairs, verdict.asked, verdict.answered), (1, 1, 0));
    }

    #[test]
    fn where_checks_pass_it_is_the_encryption() {
        let mut attempt = attempt(&[("host", HOME)], &[("host", "192.168.1.77")]);
        attempt.sent(address(1), address(2), &stun(0x0001));
        attempt.received(address(1), address(2), &stun(0x0101));
        let verdict = verdict(&attempt);
        assert_eq!(verdict.code, "no-encryption");
        assert!(verdict.sentence.contains("DTLS"));
    }

    #[test]
    fn what_the_relay_has_to_say_is_the_remedy() {
        let attempt = attempt(&[("host", HOME)], &[("host", "a.local")]);
        let refused = Status::Failed {
            server: "turn:t.example:3478?transport=udp".to_owned(),
            reason: "refused the credentials (401)".to_owned(),
            remedy: "check webrtc.turn.secret",
        };
        let verdict = attempt.verdict(&refused, |_| Some("eth0".to_owned()));
        let remedy = "the TURN server turn:t.example:3478?transport=udp refused the credentials (401): \
                      check webrtc.turn.secret";
        assert!(verdict.sentence.ends_with(remedy), "{verdict:?}");
        assert_eq!(verdict.ours, "host 192.168.1.x (eth0)");
        let lent = attempt.verdict(&Status::Lent, |_| None).sentence;
        assert!(lent.contains("?transport=tcp"), "{lent}");
    }

    #[test]
    fn no_address_of_a_viewer_is_told_in_full() {
        let theirs = [
            ("host", "10.1.2.99"),
            ("host", "2001:db8::99"),
            ("host", "fd00::99"),
            ("srflx", "203.0.113.99"),
            ("relay", "100.64.3.99"),
        ];
        let verdict = verdict(&attempt(&[("host", HOME)], &theirs));
        assert!(!format!("{verdict:?}").contains("99"), "{verdict:?}");
        assert_eq!(
            verdict.theirs,
            "host 10.1.2.x, host public IPv6, host private IPv6, srflx public IPv4, \
             relay 100.64.0.0/10 (carrier's NAT or VPN)"
        );
    }

    #[test]
    fn no_usual_sentence_is_so_long_that_the_page_cuts_off_its_remedy() {
        let side = [
            ("host", HOME),
            ("host", "10.8.0.2"),
            ("host", "2001:db8::1"),
            ("host", "fd00::1"),
            ("host", "100.64.0.3"),
            ("srflx", "203.0.113.77"),
            ("srflx", "2001:db8::1"),
            ("relay", "198.51.100.7"),
        ];
        let other: Vec<_> = side[1..]
            .iter()
            .map(|&(kind, address)| match address {
                "10.8.0.2" => (kind, "10.9.0.2"),
                _ => (kind, address),
            })
            .collect();
        let sentence = attempt(&side, &other)
            .verdict(&Status::Lent, |_| None)
            .sentence;
        let page = include_str!("../../web/app.js");
        let limit = page
            .lines()
            .find_map(|line| line.strip_prefix("const MAX_WORDS = "));
        let limit: usize = limit.unwrap().trim_end_matches(';').parse().unwrap();
        assert!(sentence.len() <= limit, "{} {sentence}", sentence.len());
    }

    #[test]
    fn floods_and_junk_are_bounded_and_no_panic() {
        let mut attempt = Attempt::default();
        attempt.add_description("v=0\r\na=candidate:\r\na=candidate:1 1 udp 1 x 1 typ host\r\na=x");
        for port in 0..10_000 {
            attempt.add_theirs(&line(
                "host",
                &format!("10.{}.{}.1", port / 256, port % 256),
            ));
            attempt.sent(address(1), address(port), &stun(0x0001));
            attempt.received(address(1), address(port), b"\x00");
        }
        assert_eq!(attempt.theirs.len(), MAX_CANDIDATES);
        assert_eq!(attempt.pairs.len(), MAX_PAIRS);
        assert!(verdict(&attempt).sentence.len() < 1_000);
    }
}
