//! Slows down who tries keys.
//!
//! Every wrong key from a network makes the next join from there, right or wrong, wait longer
//! before it is looked at: otherwise a guesser would take a missing answer for a wrong key and
//! try the next. The wait stays short, for honest people share addresses with others.
//!
//! Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Wait after the first wrong key; it doubles with each.
const FIRST_HOLD: Duration = Duration::from_millis(100);

/// Longest wait. Short enough for a person who mistyped, long enough that the 32 connections of
/// one address try about ten keys a second.
const MAX_HOLD: Duration = Duration::from_secs(3);

/// How long a wrong key is remembered.
const MEMORY: Duration = Duration::from_secs(60);

/// How many networks are remembered; beyond, the oldest is forgotten.
const MAX_NETWORKS: usize = 1024;

/// Who is being slowed. Devices and viewers apart: a guesser of viewers' keys behind the same
/// proxy must not keep the camera out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Guesser {
    /// From [`network_of`].
    pub network: IpAddr,
    /// Whether it wants to be a device.
    pub device: bool,
}

/// Wrong keys of the last minute.
#[derive(Debug, Default)]
pub struct Guesses {
    wrong: HashMap<Guesser, Wrong>,
}

#[derive(Debug)]
struct Wrong {
    count: u32,
    last: Instant,
}

impl Guesses {
    /// Returns how long a join has to wait before it is looked at; zero for most.
    #[must_use]
    pub fn hold(&self, guesser: Guesser, now: Instant) -> Duration {
        match self.wrong.get(&guesser) {
            Some(wrong) if now < wrong.last + MEMORY => {
                let doublings = 2_u32.saturating_pow(wrong.count - 1);
                FIRST_HOLD.saturating_mul(doublings).min(MAX_HOLD)
            }
            _ => Duration::ZERO,
        }
    }

    /// Records a wrong key. Returns the how manyth in a row it is.
    pub fn wrong_key(&mut self, guesser: Guesser, now: Instant) -> u32 {
        if !self.wrong.contains_key(&guesser) && self.wrong.len() >= MAX_NETWORKS {
            let oldest = self.wrong.iter().min_by_key(|(_, wrong)| wrong.last);
            if let Some(oldest) = oldest.map(|(guesser, _)| *guesser) {
                self.wrong.remove(&oldest);
            }
        }
        let entry = self.wrong.entry(guesser).or_insert(Wrong {
            count: 0,
            last: now,
        });
        if entry.last + MEMORY <= now {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.count
    }

    /// Records a right key: whoever knows it has no need to guess.
    pub fn right_key(&mut self, guesser: Guesser) {
        self.wrong.remove(&guesser);
    }
}

/// Returns what counts as one sender: an IPv4 address, or the /64 of an IPv6 one, within which
/// anybody takes as many addresses as they like.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = u128::from(v6) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(last: u8) -> Guesser {
        Guesser {
            network: IpAddr::from([192, 0, 2, last]),
            device: false,
        }
    }

    #[test]
    fn each_wrong_key_doubles_the_wait_up_to_three_seconds() {
        let now = crate::clock::now();
        let mut guesses = Guesses::default();
        let mut holds = Vec::new();
        for _ in 0..7 {
            holds.push(guesses.hold(guesser(1), now).as_millis());
            guesses.wrong_key(guesser(1), now);
        }
        assert_eq!(holds, [0, 100, 200, 400, 800, 1600, 3000]);
        assert_eq!(guesses.hold(guesser(2), now), Duration::ZERO);
    }

    #[test]
    fn a_right_key_and_a_quiet_minute_end_the_wait() {
        let now = crate::clock::now();
        let mut guesses = Guesses::default();
        guesses.wrong_key(guesser(1), now);
        guesses.wrong_key(guesser(1), now);
        assert_eq!(guesses.hold(guesser(1), now + MEMORY), Duration::ZERO);
        guesses.wrong_key(guesser(1), now + MEMORY);
        assert_eq!(guesses.hold(guesser(1), now + MEMORY), FIRST_HOLD);
        guesses.right_key(guesser(1));
        assert_eq!(guesses.hold(guesser(1), now + MEMORY), Duration::ZERO);
    }

    #[test]
    fn remembers_a_bounded_number_of_networks() {
        let start = crate::clock::now();
        let mut guesses = Guesses::default();
        for n in 0..5000_u32 {
            let guesser = Guesser {
                network: IpAddr::from(n.to_be_bytes()),
                device: false,
            };
            guesses.wrong_key(guesser, start + Duration::from_micros(n.into()));
        }
        assert_eq!(guesses.wrong.len(), MAX_NETWORKS);
    }

    #[test]
    fn an_ipv6_sender_is_its_64_bit_network() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let (a, b) = (parse("2001:db8::1"), parse("2001:db8::ffff:0:0:2"));
        assert_eq!(network_of(a), network_of(b));
        let mapped = parse("::ffff:192.0.2.1");
        assert_eq!(network_of(mapped), parse("192.0.2.1"));
        assert_eq!(network_of(parse("::1")), parse("::1"));
    }
}
