use super::*;
use crate::config::Turn;
use crate::turn::message::{Message, Writer, attribute, class, method};

const MEDIA: &[u8] = &[0x80, 111, 0, 1];

/// TURN servers that lend an address each, unless they are down or refuse.
struct World {
    relays: Relays,
    now: Instant,
    unix_time: Duration,
    /// Parts of the URLs of servers that answer nothing.
    down: Vec<&'static str>,
    /// Those that refuse, and how.
    refusing: Vec<(&'static str, u16)>,
    lines: HashMap<LineId, String>,
    opened: Vec<String>,
    usernames: Vec<String>,
    closed: usize,
    lent: Vec<SocketAddr>,
    reports: Vec<Report>,
    relayed: usize,
}

fn own(urls: &[&str]) -> WebRtc {
    let turn = Turn {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        secret: Secret::new("north".to_owned()),
        lifetime_s: 600,
        ..Turn::default()
    };
    WebRtc {
        turn,
        ..WebRtc::default()
    }
}

fn viewer() -> SocketAddr {
    ([203, 0, 113, 9], 4000).into()
}

impl World {
    fn new(urls: &[&str]) -> Self {
        Self {
            relays: Relays::new(&own(urls)),
            now: crate::clock::now(),
            unix_time: Duration::from_secs(1_000),
            down: Vec::new(),
            refusing: Vec::new(),
            lines: HashMap::new(),
            opened: Vec::new(),
            usernames: Vec::new(),
            closed: 0,
            lent: Vec::new(),
            reports: Vec::new(),
            relayed: 0,
        }
    }

    fn want(&mut self) {
        self.relays.want(self.now);
        self.run();
    }

    fn run(&mut self) {
        while let Some(output) = self.relays.poll_output() {
            match output {
                Output::Open { line, url, .. } => {
                    self.lines.insert(line, url.to_string());
                    self.opened.push(url.to_string());
                    self.relays
                        .handle_opened(line, [1; 16], self.unix_time, self.now);
                }
                Output::Write { line, message } => {
                    if let Some(answer) = self.serve(line, &message) {
                        self.relays.handle_message(line, &answer, self.now);
                    }
                }
                Output::Close(_) => self.closed += 1,
                Output::Lent(address) => self.lent.push(address),
                Output::Report(report) => self.reports.push(report),
            }
        }
    }

    fn serve(&mut self, line: LineId, bytes: &[u8]) -> Option<Vec<u8>> {
        let url = &self.lines[&line];
        let Some(message) = Message::read(bytes) else {
            self.relayed += 1;
            return None;
        };
        if self.down.iter().any(|part| url.contains(part)) {
            return None;
        }
        if message.kind == method::SEND | class::INDICATION {
            self.relayed += 1;
            return None;
        }
        let refusing = self.refusing.iter().find(|(part, _)| url.contains(part));
        let Some(username) = message.attribute(attribute::USERNAME) else {
            let challenge = Writer::new(message.kind | class::ERROR, message.transaction)
                .with(attribute::ERROR_CODE, &[0, 0, 4, 1])
                .with(attribute::REALM, b"r")
                .with(attribute::NONCE, b"n");
            return Some(challenge.unsigned());
        };
        let username = String::from_utf8(username.to_vec()).unwrap();
        if let Some((_, code)) = refusing {
            let number = u8::try_from(code % 100).unwrap();
            let class_ = u8::try_from(code / 100).unwrap();
            let error = Writer::new(message.kind | class::ERROR, message.transaction)
                .with(attribute::ERROR_CODE, &[0, 0, class_, number]);
            return Some(error.unsigned());
        }
        let secret = Secret::new("north".to_owned());
        let expires = username.split(':').next().unwrap().parse();
        let credentials = match expires {
            Ok(expires) => Credentials::mint(&secret, DEVICE, expires),
            Err(_) => Credentials {
                username: username.clone(),
                password: Secret::new("p".to_owned()),
            },
        };
        if message.kind == method::ALLOCATE {
            self.usernames.push(username);
        }
        let port = 50_000 + u16::try_from(line.0).unwrap();
        let granted = Writer::new(message.kind | class::SUCCESS, message.transaction)
            .with(attribute::LIFETIME, &600_u32.to_be_bytes())
            .with_address(
                attribute::XOR_RELAYED_ADDRESS,
                ([198, 51, 100, 1], port).into(),
            );
        let key = crate::turn::message::long_term_key(&credentials, b"r");
        Some(granted.signed(&key))
    }

    /// Somebody watches; `media` goes through the relay.
    fn watched_for(&mut self, time: Duration, from: Option<SocketAddr>) {
        let end = self.now + time;
        while self.now < end {
            self.relays.want(self.now);
            if let Some(from) = from {
                self.relays
                    .send(from, viewer(), MEDIA.len(), MEDIA, self.now);
            }
            self.pass(Duration::from_secs(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.run();
        let end = self.now + time;
        while let Some(due) = self.relays.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.relays.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    fn failures(&self) -> usize {
        let failed = |report: &&Report| matches!(report, Report::Failed { .. });
        self.reports.iter().filter(failed).count()
    }
}

#[test]
fn nothing_is_asked_until_a_viewer_comes_and_all_is_given_back_when_nobody_does() {
    let mut w = World::new(&["turn:a.example"]);
    assert_eq!(w.relays.poll_timeout(), None);
    w.want();
    assert_eq!((w.lent.len(), w.relays.current()), (1, Some(w.lent[0])));
    w.watched_for(Duration::from_secs(100), None);
    assert_eq!((w.opened.len(), w.closed), (1, 0));
    w.pass(LINGER);
    assert_eq!((w.closed, w.relays.current()), (1, None));
    assert_eq!(w.relays.poll_timeout(), None);
    w.want();
    assert_eq!(w.lent.len(), 2);
    assert_eq!(w.reports.len(), 1, "a month of viewers is no news");
}

#[test]
fn without_servers_there_is_nothing_to_do_or_to_wait_for() {
    let mut w = World::new(&[]);
    w.want();
    assert!(w.opened.is_empty());
    assert_eq!(w.relays.gathering_until(), None);
    assert_eq!(w.relays.status(), Status::NotConfigured);
}

#[test]
fn udp_is_tried_before_tcp_and_tls_and_the_first_that_works_is_kept() {
    let mut w = World::new(&[
        "turns:c.example",
        "turn:b.example?transport=tcp",
        "turn:a.example",
    ]);
    w.down = vec!["udp", "b.example"];
    w.want();
    w.pass(Duration::from_secs(10));
    let tried = [
        "turn:a.example:3478?transport=udp",
        "turn:b.example:3478?transport=tcp",
        "turns:c.example:5349?transport=tcp",
    ];
    assert_eq!(w.opened, tried);
    assert_eq!((w.lent.len(), w.failures()), (1, 2));
    // The next viewer does not wait for those that failed.
    w.pass(LINGER);
    w.opened.clear();
    w.want();
    assert_eq!(w.opened, tried[2..]);
    assert_eq!(w.lent.len(), 2);
}

#[test]
fn a_description_waits_half_a_second_at_most_and_not_for_the_hopeless() {
    let mut w = World::new(&["turn:a.example"]);
    w.down = vec!["a.example"];
    w.want();
    assert_eq!(w.relays.gathering_until(), Some(w.now + GATHER_TIMEOUT));
    w.pass(GATHER_TIMEOUT);
    assert_eq!(w.relays.gathering_until(), None);
    w.pass(Duration::from_secs(40));
    w.want();
    assert_eq!(w.relays.gathering_until(), None, "it failed before");
}

#[test]
fn a_server_that_is_down_is_asked_ever_more_rarely_and_told_of_once() {
    let mut w = World::new(&["turn:a.example"]);
    w.down = vec!["a.example"];
    w.watched_for(Duration::from_secs(600), None);
    assert_eq!((w.reports.len(), w.failures()), (1, 1));
    assert!((12..20).contains(&w.opened.len()), "{}", w.opened.len());
    assert!(matches!(w.relays.status(), Status::Failed { .. }));
    w.down.clear();
    w.watched_for(Duration::from_secs(62), None);
    assert!(matches!(w.reports.last(), Some(Report::Works { .. })));
    assert_eq!(w.relays.status(), Status::Lent);
}

#[test]
fn what_a_server_says_comes_with_a_remedy() {
    for (code, words) in [
        (401, "secret"),
        (486, "quota"),
        (508, "quota"),
        (300, "log"),
    ] {
        let mut w = World::new(&["turn:a.example"]);
        w.refusing = vec![("a.example", code)];
        w.want();
        let [
            Report::Failed {
                server,
                reason,
                remedy,
            },
        ] = w.reports.as_slice()
        else {
            panic!("{:?}", w.reports);
        };
        assert_eq!(server, "turn:a.example:3478?transport=udp");
        assert!(
            reason.contains(&code.to_string()) && remedy.contains(words),
            "{reason} {remedy}"
        );
    }
}

#[test]
fn a_web_server_at_the_port_is_told_as_one() {
    let mut relays = Relays::new(&own(&["turn:a.example:443?transport=tcp"]));
    let t0 = crate::clock::now();
    relays.want(t0);
    relays.handle_opened(LineId(0), [1; 16], Duration::ZERO, t0);
    relays.handle_not_turn(LineId(0), t0);
    let status = relays.status();
    assert!(
        matches!(&status, Status::Failed { reason, remedy, .. }
            if reason == "answers, but not as a TURN server" && remedy.contains("port")),
        "{status:?}"
    );
}

#[test]
fn a_lost_address_is_replaced_at_once() {
    let mut w = World::new(&["turn:a.example"]);
    w.want();
    w.refusing = vec![("a.example", 437)];
    w.watched_for(Duration::from_secs(20), None);
    w.refusing.clear();
    w.watched_for(Duration::from_secs(11), None);
    assert_eq!(w.lent.len(), 2);
    assert!(!w.relays.is_lent(w.lent[0]) && w.relays.is_lent(w.lent[1]));
}

#[test]
fn credentials_are_renewed_before_they_expire_and_media_stays_where_it_is() {
    let mut w = World::new(&["turn:a.example"]);
    w.want();
    let first = w.lent[0];
    w.unix_time += Duration::from_secs(300);
    w.watched_for(Duration::from_secs(310), Some(first));
    assert_eq!(w.usernames, ["1600:device", "1900:device"]);
    assert_eq!(w.relays.current(), Some(w.lent[1]));
    assert!(w.relays.is_lent(first), "somebody watches through it");
    let relayed = w.relayed;
    w.watched_for(Duration::from_secs(60), Some(first));
    assert_eq!(w.relayed, relayed + 60);
    w.watched_for(RETIRES_AFTER + Duration::from_secs(2), None);
    assert!(!w.relays.is_lent(first));
    assert_eq!(w.closed, 1);
}

#[test]
fn servers_of_the_room_are_used_with_the_credentials_that_came_last() {
    let mut w = World::new(&[]);
    for username in ["old", "new"] {
        let list = [handed("turn:h.example", username)];
        w.relays.handle_ice_servers(&list, w.now);
    }
    w.want();
    assert_eq!(w.usernames, ["new"]);
    assert_eq!(w.opened, ["turn:h.example:3478?transport=udp"]);
}

fn handed(url: &str, username: &str) -> IceServer {
    IceServer {
        urls: vec!["stun:s.example".to_owned(), url.to_owned()],
        username: Some(username.to_owned()),
        credential: Some("p".to_owned()),
    }
}

#[test]
fn credentials_that_a_room_server_renews_are_used_at_once_and_media_stays_where_it_is() {
    let mut w = World::new(&[]);
    let hand = |w: &mut World, username: &str| {
        let list = [handed("turn:h.example", username)];
        w.relays.handle_ice_servers(&list, w.now);
    };
    hand(&mut w, "first");
    w.want();
    let first = w.lent[0];
    w.watched_for(Duration::from_secs(60), Some(first));
    hand(&mut w, "first");
    w.watched_for(Duration::from_secs(60), Some(first));
    assert_eq!(w.usernames, ["first"], "they are good");
    hand(&mut w, "second");
    w.watched_for(Duration::from_secs(60), Some(first));
    assert_eq!(w.usernames, ["first", "second"]);
    assert_eq!(w.relays.current(), Some(w.lent[1]));
    assert!(w.relays.is_lent(first), "somebody watches through it");
    assert_eq!((w.reports.len(), w.failures()), (1, 0));
    for n in 0..60 {
        hand(&mut w, &n.to_string());
        w.watched_for(Duration::from_secs(1), Some(first));
    }
    assert!(w.lent.len() <= 15, "{}", w.lent.len());
    assert!(w.relays.is_lent(first), "somebody watches through it");
}

#[test]
fn a_room_server_does_not_learn_from_viewers_what_its_servers_do() {
    let mut w = World::new(&["turn:own.example?transport=tcp"]);
    w.down = vec!["example"];
    w.relays
        .handle_ice_servers(&[handed("turn:h.example", "u")], w.now);
    w.relays.want(w.now);
    let first = w.relays.outputs.front();
    assert!(matches!(
        first,
        Some(Output::Open {
            is_handed: true,
            ..
        })
    ));
    w.pass(Duration::from_secs(2));
    assert_eq!(w.relays.status(), Status::HandedFailed);
    assert_eq!(w.failures(), 1, "the log is told");
    w.pass(Duration::from_secs(3));
    let status = w.relays.status();
    assert!(matches!(&status, Status::Failed { server, .. } if server.contains("own")));
}

#[test]
fn a_room_server_does_not_set_the_pace_at_which_its_servers_are_tried() {
    let mut w = World::new(&[]);
    w.down = vec!["example"];
    let mut opened = Vec::new();
    for changes in [false, true] {
        w.opened.clear();
        for n in 0..300 {
            let username = if changes { n } else { 0 };
            let list = [handed("turn:h.example", &username.to_string())];
            w.relays.handle_ice_servers(&list, w.now);
            w.watched_for(Duration::from_secs(1), None);
        }
        opened.push(w.opened.len());
    }
    assert!(opened[0] <= 12 && opened[1] <= 60, "{opened:?}");
}

#[test]
fn a_flood_of_servers_is_bounded() {
    let mut w = World::new(&["turn:own.example"]);
    let urls = (0..10_000).map(|n| format!("turn:{n}.example")).collect();
    let flood = IceServer {
        urls,
        username: Some("u".to_owned()),
        credential: Some("p".to_owned()),
    };
    w.down = vec!["example"];
    w.relays.handle_ice_servers(&[flood], w.now);
    w.watched_for(Duration::from_secs(60), None);
    assert!(w.opened[0].contains("own"));
    assert!(w.opened.len() <= 60 && w.relays.lines.len() <= MAX_LINES);
    assert!(w.relays.told.len() <= MAX_SERVERS * 4);
}

#[test]
fn running_media_stays_on_its_address_through_many_renewals() {
    let mut webrtc = own(&["turn:a.example"]);
    webrtc.turn.lifetime_s = 20;
    let mut w = World::new(&[]);
    w.relays = Relays::new(&webrtc);
    w.want();
    let first = w.lent[0];
    w.watched_for(Duration::from_secs(120), Some(first));
    assert!(w.lent.len() > 4);
    assert!(w.relays.is_lent(first), "somebody watches through it");
}

#[test]
fn a_server_that_lends_and_drops_again_is_asked_ever_more_rarely() {
    let mut w = World::new(&["turn:a.example", "turn:a.example?transport=tcp"]);
    w.want();
    for _ in 0..120 {
        let newest = w.relays.lines.last().map(|line| line.id);
        if let Some(line) = newest {
            w.relays.lose(line, "forgot our relay", "", w.now);
        }
        w.watched_for(Duration::from_secs(1), None);
    }
    assert!(w.opened.len() <= 8, "{}", w.opened.len());
}

#[test]
fn a_name_that_is_looked_up_for_too_long_is_told_from_a_server_that_is_silent() {
    let mut relays = Relays::new(&own(&["turn:a.example"]));
    let t0 = crate::clock::now();
    relays.want(t0);
    relays.handle_timeout(t0 + Duration::from_secs(2));
    let status = relays.status();
    assert!(
        matches!(&status, Status::Failed { reason, remedy, .. }
            if reason == "cannot be reached in time" && remedy.contains("name servers")),
        "{status:?}"
    );
}
