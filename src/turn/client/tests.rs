use super::*;
use crate::config::Secret;

const RELAYED: &str = "198.51.100.7:50000";
const REALM: &[u8] = b"example.org";

fn peer(port: u16) -> SocketAddr {
    ([203, 0, 113, 9], port).into()
}

const CHECK: &[u8] = &[0, 1, 0, 0];
const MEDIA: &[u8] = &[0x80, 111, 0, 1];

/// A server that grants what is asked for, and its client.
struct World {
    client: Client,
    now: Instant,
    password: &'static str,
    nonce: &'static [u8],
    /// What the client asked for, as `method` or `method:signed`.
    heard: Vec<String>,
    /// Error for each request of this method.
    errors: Vec<(u16, u16)>,
    silent: bool,
    told: Vec<Output>,
    relayed: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(is_stream: bool) -> Self {
        let credentials = Credentials {
            username: "u".to_owned(),
            password: Secret::new("p".to_owned()),
        };
        let now = crate::clock::now();
        Self {
            client: Client::new(credentials, is_stream, [3; 16], now),
            now,
            password: "p",
            nonce: b"first",
            heard: Vec::new(),
            errors: Vec::new(),
            silent: false,
            told: Vec::new(),
            relayed: Vec::new(),
        }
    }

    /// A client with an allocation.
    fn allocated() -> Self {
        let mut world = Self::new();
        world.run();
        assert_eq!(world.client.relayed(), Some(RELAYED.parse().unwrap()));
        world.heard.clear();
        world.told.clear();
        world
    }

    /// Lets both talk until nothing more comes of it.
    fn run(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(message) => {
                    if let Some(answer) = self.serve(&message) {
                        self.client.handle_message(&answer, self.now);
                    }
                }
                other => self.told.push(other),
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.client.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.client.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    fn key(&self) -> [u8; 16] {
        let credentials = Credentials {
            username: "u".to_owned(),
            password: Secret::new(self.password.to_owned()),
        };
        long_term_key(&credentials, REALM)
    }

    fn serve(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(message) = Message::read(bytes) else {
            self.relayed.push(bytes.to_vec());
            self.heard.push("channel".to_owned());
            return None;
        };
        let name = match message.kind {
            method::ALLOCATE => "allocate",
            method::REFRESH => "refresh",
            method::CREATE_PERMISSION => "permit",
            method::CHANNEL_BIND => "bind",
            _ => {
                self.relayed.push(bytes.to_vec());
                self.heard.push("indication".to_owned());
                return None;
            }
        };
        let lifetime = message.number(attribute::LIFETIME);
        let given_back = if lifetime == Some(0) { " 0" } else { "" };
        self.heard.push(format!("{name}{given_back}"));
        if self.silent {
            return None;
        }
        let fail = |code: u16| {
            let number = u8::try_from(code % 100).unwrap();
            Writer::new(message.kind | class::ERROR, message.transaction).with(
                attribute::ERROR_CODE,
                &[0, 0, u8::try_from(code / 100).unwrap(), number],
            )
        };
        let challenge = |code| {
            fail(code)
                .with(attribute::REALM, REALM)
                .with(attribute::NONCE, self.nonce)
                .unsigned()
        };
        if !message.is_signed_with(&self.key()) {
            return Some(challenge(401));
        }
        if message.attribute(attribute::NONCE) != Some(self.nonce) {
            return Some(challenge(438));
        }
        if let Some((_, code)) = self.errors.iter().find(|(m, _)| *m == message.kind) {
            return Some(fail(*code).unsigned());
        }
        let granted = Writer::new(message.kind | class::SUCCESS, message.transaction)
            .with(attribute::LIFETIME, &600_u32.to_be_bytes())
            .with_address(attribute::XOR_RELAYED_ADDRESS, RELAYED.parse().unwrap());
        Some(granted.signed(&self.key()))
    }

    fn ended(&self) -> Option<Ended> {
        self.told.iter().find_map(|output| match output {
            Output::Ended(ended) => Some(*ended),
            _ => None,
        })
    }
}

#[test]
fn an_address_is_lent_once_the_request_is_signed() {
    let mut w = World::new();
    w.run();
    assert_eq!(w.heard, ["allocate", "allocate"]);
    assert_eq!(w.told, [Output::Allocated(RELAYED.parse().unwrap())]);
}

#[test]
fn a_wrong_password_ends_it_after_one_signed_request() {
    let mut w = World::new();
    w.password = "another";
    w.run();
    assert_eq!(w.heard, ["allocate", "allocate"]);
    assert_eq!(w.ended(), Some(Ended::WrongCredentials { code: 401 }));
}

#[test]
fn a_full_server_is_told_from_one_that_refuses() {
    for (code, ended) in [
        (486, Ended::Quota { code: 486 }),
        (508, Ended::Quota { code: 508 }),
        (403, Ended::WrongCredentials { code: 403 }),
        (437, Ended::Forgotten),
        (300, Ended::Refused { code: 300 }),
    ] {
        let mut w = World::new();
        w.errors.push((method::ALLOCATE, code));
        w.run();
        assert_eq!(w.ended(), Some(ended));
        assert_eq!(w.client.poll_timeout(), None);
    }
}

#[test]
fn a_silent_server_is_asked_five_times_on_udp_and_once_on_a_stream() {
    for (is_stream, asked) in [(false, 5), (true, 1)] {
        let mut w = World::with(is_stream);
        w.silent = true;
        w.run();
        w.pass(Duration::from_secs(60));
        assert_eq!(w.heard.len(), asked);
        assert_eq!(w.ended(), Some(Ended::Silent));
    }
}

#[test]
fn the_first_datagrams_wait_for_the_permission_and_leave_in_order() {
    let mut w = World::allocated();
    w.client.send(peer(1), b"\x00one", w.now);
    w.client.send(peer(2), b"\x00two", w.now);
    assert_eq!(w.heard, [""; 0]);
    w.run();
    assert_eq!(w.heard, ["permit", "indication", "indication"]);
    let sent = |at: usize| {
        let message = Message::read(&w.relayed[at]).unwrap();
        let data = message.attribute(attribute::DATA).unwrap().to_vec();
        (message.address(attribute::XOR_PEER_ADDRESS).unwrap(), data)
    };
    assert_eq!(sent(0), (peer(1), b"\x00one".to_vec()));
    assert_eq!(sent(1), (peer(2), b"\x00two".to_vec()));
}

#[test]
fn checks_need_no_channel_and_media_gets_one() {
    let mut w = World::allocated();
    w.client.send(peer(1), CHECK, w.now);
    w.run();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    w.client.send(peer(1), MEDIA, w.now);
    w.client.send(peer(1), CHECK, w.now);
    w.run();
    let heard = [
        "permit",
        "indication",
        "bind",
        "indication",
        "channel",
        "channel",
    ];
    assert_eq!(w.heard, heard);
    assert_eq!(w.relayed[2], [0x40, 0, 0, 4, 0x80, 111, 0, 1]);
}

#[test]
fn what_peers_send_is_handed_over() {
    let mut w = World::allocated();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    let indication = Writer::new(method::DATA | class::INDICATION, [9; 12])
        .with_address(attribute::XOR_PEER_ADDRESS, peer(7))
        .with(attribute::DATA, b"hello")
        .unsigned();
    let mut handed = |bytes: &[u8]| {
        let handed = w.client.handle_message(bytes, w.now);
        handed.map(|(peer, datagram)| (peer, datagram.to_vec()))
    };
    assert_eq!(handed(&indication), Some((peer(7), b"hello".to_vec())));
    let on_channel = channel_data(0x4000, b"hello", false);
    assert_eq!(handed(&on_channel), Some((peer(1), b"hello".to_vec())));
    assert_eq!(handed(&channel_data(0x4001, b"hello", false)), None);
    assert_eq!(handed(b"junk"), None);
    assert_eq!(handed(b""), None);
}

#[test]
fn an_answer_that_the_server_did_not_sign_is_no_answer() {
    let mut w = World::allocated();
    w.client.send(peer(1), CHECK, w.now);
    let Some(Output::Send(request)) = w.client.poll_output() else {
        panic!("no request");
    };
    let id = Message::read(&request).unwrap().transaction;
    let granted = Writer::new(method::CREATE_PERMISSION | class::SUCCESS, id);
    w.client.handle_message(&granted.clone().unsigned(), w.now);
    w.client
        .handle_message(&granted.clone().signed(b"guess"), w.now);
    w.run();
    assert_eq!(w.heard, [""; 0]);
    w.client.handle_message(&granted.signed(&w.key()), w.now);
    w.run();
    assert_eq!(w.heard, ["indication"]);
}

#[test]
fn an_allocation_is_kept_for_days_through_changing_nonces() {
    let mut w = World::allocated();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    for nonce in [b"first".as_slice(), b"second", b"third"] {
        w.nonce = nonce;
        for _ in 0..300 {
            w.client.send(peer(1), MEDIA, w.now);
            w.run();
            w.pass(Duration::from_secs(60));
        }
    }
    assert_eq!((w.ended(), w.client.relayed().is_some()), (None, true));
    let count = |what: &str| w.heard.iter().filter(|heard| *heard == what).count();
    let minutes = 3 * 300;
    assert!(
        (2_600..2_800).contains(&count("refresh")),
        "{}",
        count("refresh")
    );
    assert_eq!(count("channel"), minutes);
    assert!(
        (minutes / 4 - 3..minutes / 4 + 6).contains(&count("permit")),
        "{}",
        count("permit")
    );
    assert!(
        (minutes / 4 - 3..minutes / 4 + 6).contains(&count("bind")),
        "{}",
        count("bind")
    );
}

#[test]
fn requests_that_were_under_way_when_the_nonce_changed_are_all_signed_anew() {
    let mut w = World::allocated();
    w.nonce = b"second";
    for ip in 1..=3 {
        let peer = SocketAddr::from(([203, 0, 113, ip], 9));
        w.client.send(peer, CHECK, w.now);
    }
    w.client.request(Request::Refresh, 0, w.now);
    w.run();
    assert_eq!(w.ended(), None);
    assert_eq!(w.relayed.len(), 3, "{:?}", w.heard);
}

#[test]
fn who_is_gone_is_forgotten() {
    let mut w = World::allocated();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    w.pass(Duration::from_secs(3_600));
    assert!(w.client.permissions.is_empty() && w.client.channels.is_empty());
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    assert_eq!(w.relayed.last().unwrap()[..2], [0x40, 1], "another number");
}

#[test]
fn an_address_that_the_server_forbids_is_left_alone_for_a_minute() {
    let mut w = World::allocated();
    w.errors.push((method::CREATE_PERMISSION, 403));
    for _ in 0..50 {
        w.client.send(peer(1), CHECK, w.now);
        w.run();
        w.pass(Duration::from_secs(1));
    }
    assert_eq!(w.heard.iter().filter(|h| *h == "permit").count(), 1);
    assert_eq!(w.ended(), None, "others may still be reached");
    w.errors.clear();
    w.pass(Duration::from_secs(11));
    w.client.send(peer(1), CHECK, w.now);
    w.run();
    assert_eq!(w.heard.last().unwrap(), "indication");
}

#[test]
fn a_server_that_was_restarted_is_noticed_within_twenty_seconds() {
    let mut w = World::allocated();
    w.nonce = b"of the new process";
    w.errors.push((method::REFRESH, 437));
    w.pass(Duration::from_secs(20));
    assert_eq!(w.ended(), Some(Ended::Forgotten));
    assert_eq!(w.client.relayed(), None);
}

#[test]
fn a_server_that_is_gone_is_noticed_at_once_where_the_network_says_so() {
    let mut w = World::allocated();
    w.silent = true;
    w.client.handle_unreachable(w.now);
    w.run();
    assert_eq!(w.heard, ["refresh"]);
    w.client.handle_unreachable(w.now);
    assert_eq!(w.ended(), None, "that may have been an older one");
    w.pass(Duration::from_millis(250));
    w.client.handle_unreachable(w.now);
    w.run();
    assert_eq!(w.ended(), Some(Ended::Silent));

    let mut w = World::new();
    w.silent = true;
    w.run();
    w.client.handle_unreachable(w.now);
    w.run();
    assert_eq!(
        w.ended(),
        Some(Ended::Silent),
        "another server may be there"
    );
}

#[test]
fn a_silent_one_is_noticed_within_half_a_minute() {
    let mut w = World::allocated();
    w.silent = true;
    w.pass(Duration::from_secs(30));
    assert_eq!(w.ended(), Some(Ended::Silent));
}

#[test]
fn what_is_not_needed_is_given_back() {
    let mut w = World::allocated();
    w.client.release();
    w.run();
    assert_eq!(w.heard, ["refresh 0"]);
    assert_eq!((w.ended(), w.client.poll_timeout()), (None, None));
}

#[test]
fn a_flood_of_addresses_is_bounded() {
    let mut w = World::allocated();
    w.silent = true;
    for n in 0..10_000_u32 {
        let peer = SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 9);
        for _ in 0..MAX_WAITING * 2 {
            w.client.send(peer, MEDIA, w.now);
        }
    }
    assert_eq!(w.client.permissions.len(), MAX_PERMISSIONS);
    assert_eq!(w.client.transactions.len(), MAX_PERMISSIONS);
    w.silent = false;
    w.run();
    assert!(w.relayed.len() <= MAX_PERMISSIONS * MAX_WAITING);
    for port in 1..2_000 {
        w.client
            .send(SocketAddr::new([10, 0, 0, 1].into(), port), MEDIA, w.now);
        w.run();
    }
    assert_eq!(w.client.channels.len(), MAX_CHANNELS);
}

#[test]
fn a_viewer_with_hundreds_of_addresses_keeps_no_other_from_connecting_or_watching() {
    let mut w = World::allocated();
    w.client.send(peer(1), MEDIA, w.now);
    w.run();
    for n in 0..1_000_u32 {
        let flood = SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 9);
        w.client.send(flood, CHECK, w.now);
        w.pass(Duration::from_millis(1));
        assert!(w.client.transactions.len() <= MAX_PERMISSIONS);
    }
    w.run();
    assert_eq!(w.client.permissions.len(), MAX_PERMISSIONS);
    assert!(w.client.permissions.contains_key(&peer(1).ip()));
    w.heard.clear();
    w.client
        .send(([203, 0, 113, 10], 1).into(), b"\x00last", w.now);
    w.run();
    assert_eq!(w.heard, ["permit", "indication"]);
}

#[test]
fn the_key_is_not_shown() {
    let w = World::allocated();
    assert!(!format!("{:?}", w.client).contains(&format!("{:?}", w.key())));
}
