//! Room servers that misbehave, in every dialect of tutorials: the link bears with them, says so once,
//! and comes back.

use std::time::Duration;

use roomcam::config::{CallEvents, Dialect, Headers, Secret};
use roomcam::signaling::server_url::parse_server_url;
use roomcam::signaling::websocket::{Authorities, LinkOptions, run_link};
use roomcam::signaling::{RoomEvent, RoomIndex, RoomMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tracing::subscriber::DefaultGuard;

use crate::support::log::Log;
use crate::support::room_servers::{InProcessServer, Misbehavior, RawPage};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(20);

const ALL: [Dialect; 4] = [
    Dialect::WsRooms,
    Dialect::WsBroadcast,
    Dialect::SocketioRooms,
    Dialect::SocketioCalls,
];

/// A link to a room server, an engine that answers everybody, and what people read.
struct TestLink {
    dialect: Dialect,
    events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
    messages: mpsc::Sender<RoomMessage>,
    task: JoinHandle<()>,
    log: Log,
    _capturing: DefaultGuard,
}

impl TestLink {
    fn start(dialect: Dialect, server: &InProcessServer) -> Self {
        let (log, capturing) = Log::capture(tracing::Level::INFO);
        let options = LinkOptions {
            server: parse_server_url(&server.base_url(), dialect).unwrap(),
            dialect,
            room: "cam".to_owned(),
            room_is_secret: false,
            key: Secret::default(),
            instance: "i".to_owned(),
            headers: Headers::default(),
            authorities: Authorities::default(),
            auth: Secret::default(),
            events: CallEvents::default(),
        };
        let (event_sender, events) = mpsc::channel(16);
        let (messages, queue) = mpsc::channel(16);
        let task = tokio::spawn(run_link(options, RoomIndex(0), event_sender, queue));
        Self {
            dialect,
            events,
            messages,
            task,
            log,
            _capturing: capturing,
        }
    }

    async fn joined(&mut self) {
        while !matches!(self.event().await, RoomEvent::Joined { .. }) {}
    }

    async fn event(&mut self) -> RoomEvent {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("something happens").expect("it runs").1
    }

    /// Does what the engine would, until somebody was told our description. Returns how many candidates
    /// came before.
    async fn describe(&mut self) -> usize {
        let mut candidates = 0;
        let sdp = "ours".to_owned();
        let message = loop {
            match self.event().await {
                // Elsewhere it goes out on the chance that somebody is there.
                RoomEvent::Call { viewer, is_present }
                    if is_present || self.dialect == Dialect::SocketioCalls =>
                {
                    break RoomMessage::Offer { viewer, sdp };
                }
                RoomEvent::Offer { viewer, .. } => break RoomMessage::Answer { viewer, sdp },
                RoomEvent::Candidate { .. } => candidates += 1,
                _ => {}
            }
        };
        self.messages.send(message).await.unwrap();
        candidates
    }

    /// Lets a page come that offers, and gets our description. Returns what [`Self::describe`] does.
    async fn meets_a_page(&mut self, server: &InProcessServer) -> usize {
        let mut page = RawPage::join(server).await;
        match self.dialect {
            Dialect::WsRooms => {
                page.say(
                    r#"{"type":"offer","room":"cam","offer":{"type":"offer","sdp":"theirs"}}"#,
                )
                .await;
            }
            Dialect::WsBroadcast => page.say(r#"{"sdp":{"type":"offer","sdp":"theirs"}}"#).await,
            Dialect::SocketioRooms => {
                page.say(r#"42["offer",{"type":"offer","sdp":"theirs"},"cam"]"#)
                    .await;
            }
            _ => {} // It is called.
        }
        let candidates = self.describe().await;
        page.hear(r#""ours""#).await;
        candidates
    }

    /// Returns how many lines with these words people have read.
    fn lines(&self, words: &str) -> usize {
        let log = self.log.text();
        log.lines().filter(|line| line.contains(words)).count()
    }

    async fn has_logged(&self, words: &str) {
        let logged = async {
            while self.lines(words) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, logged).await.expect("it is logged");
    }

    async fn stop(self) {
        drop(self.messages);
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("it ends").expect("without a panic");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_is_joined_again() {
    for dialect in ALL {
        let server = InProcessServer::start(dialect, Misbehavior::None).await;
        let mut link = TestLink::start(dialect, &server);
        link.joined().await;
        assert_eq!(link.meets_a_page(&server).await, 0);
        let server = server.start_again(Misbehavior::None).await;
        link.joined().await;
        link.meets_a_page(&server).await;
        link.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_asked_ever_more_rarely_and_people_read_one_line() {
    for dialect in ALL {
        let mut server = InProcessServer::start(dialect, Misbehavior::Closes).await;
        let mut link = TestLink::start(dialect, &server);
        let mut before = server.connected().await;
        let mut ceiling = Duration::from_millis(300);
        for _ in 0..4 {
            let now = server.connected().await;
            let slack = Duration::from_secs(2);
            assert!(now - before < ceiling + slack, "{:?}", now - before);
            (before, ceiling) = (now, ceiling * 2);
        }
        assert_eq!(link.lines("trying again"), 1, "{}", link.log.text());
        assert_eq!(link.log.text().lines().count(), 1);

        let server = server.start_again(Misbehavior::None).await;
        link.joined().await;
        link.has_logged("joined the room").await;
        link.meets_a_page(&server).await;
        assert_eq!(link.log.text().lines().count(), 2, "{}", link.log.text());
        link.stop().await;
    }
}

#[tokio::test]
async fn a_socketio_server_that_says_nothing_is_given_up_after_ten_seconds() {
    let dialect = Dialect::SocketioRooms;
    let server = InProcessServer::start(dialect, Misbehavior::Silent).await;
    let link = TestLink::start(dialect, &server);
    link.has_logged("no answer to join within 10 seconds").await;
    link.stop().await;
}

#[tokio::test]
async fn junk_null_candidates_and_unasked_answers_are_passed_over() {
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"type":"answer","sdp":"{}"}}"#, "x".repeat(100_000));
    let texts = [
        "",
        "null",
        "[]",
        "{",
        "\u{0}",
        "7",
        "\"ready\"",
        "4",
        "42",
        "42[7]",
        "42{}",
        "9",
        "451-[]",
        "2",
        "3",
        "40",
        "44",
        "é",
        r#"{"type":7}"#,
        r#"{"type":"offer"}"#,
        r#"{"sdp":null}"#,
        r#"{"type":"ready","room":"another"}"#,
        r#"{"candidate":null}"#,
        r#"42["candidate",null]"#,
        r#"{"type":"candidate","candidate":null,"room":"cam"}"#,
        r#"{"type":"answer","answer":{"type":"answer","sdp":"unasked"},"room":"cam"}"#,
        r#"{"sdp":{"type":"answer","sdp":"unasked"}}"#,
        r#"42["answer",{"type":"answer","sdp":"unasked"}]"#,
        r#"42["call:accepted",{"from":"sid-99","ans":{"type":"answer","sdp":"unasked"}}]"#,
        r#"42["peer:ice:candidate",{"from":"sid-99","candidate":null}]"#,
        &deep,
        &long,
    ];
    let mut junk: Vec<Message> = texts.iter().map(|&text| Message::text(text)).collect();
    junk.push(Message::binary(vec![0xff; 1_000]));
    junk.push(Message::text("x".repeat(200_000)));
    for dialect in ALL {
        let server = InProcessServer::start(dialect, Misbehavior::Adds(junk.clone())).await;
        let mut link = TestLink::start(dialect, &server);
        link.joined().await;
        link.meets_a_page(&server).await;
        link.has_logged("joined the room").await;
        let other = link.log.text().lines().count() - link.lines("too much");
        assert_eq!(other, 1, "{}", link.log.text());
        link.stop().await;
    }
}

#[tokio::test]
async fn messages_that_are_far_too_large_end_the_connection_and_people_read_one_line() {
    let huge = Message::text("x".repeat(2_000_000));
    for dialect in ALL {
        let adds = Misbehavior::Adds(vec![huge.clone()]);
        let mut server = InProcessServer::start(dialect, adds).await;
        let mut link = TestLink::start(dialect, &server);
        for _ in 0..3 {
            let connected = server.connected();
            tokio::pin!(connected);
            loop {
                tokio::select! {
                    _ = &mut connected => break,
                    _ = link.event() => {}
                }
            }
        }
        assert_eq!(link.lines("trying again"), 1, "{}", link.log.text());
        let other = link.log.text().lines().count() - link.lines("too much");
        assert_eq!(other, 1, "{}", link.log.text());
        link.stop().await;
    }
}

#[tokio::test]
#[cfg_attr(
    any(target_arch = "aarch64", target_arch = "arm"),
    ignore = "measures its memory, which is QEMU's where that runs it"
)]
async fn ten_thousand_candidates_are_read_slowly_and_pile_up_nowhere() {
    for (dialect, candidate) in [
        (
            Dialect::WsRooms,
            r#"{"type":"candidate","room":"cam","candidate":{"candidate":"LINE"}}"#,
        ),
        (
            Dialect::WsBroadcast,
            r#"{"candidate":{"candidate":"LINE"}}"#,
        ),
        (
            Dialect::SocketioRooms,
            r#"42["candidate",{"candidate":"LINE"}]"#,
        ),
        (
            Dialect::SocketioCalls,
            r#"42["peer:ice:candidate",{"from":"sid-99","candidate":{"candidate":"LINE"}}]"#,
        ),
    ] {
        let line = format!(
            "candidate:1 1 udp 1 192.0.2.1 9 typ host {}",
            "x".repeat(10_000)
        );
        let flood = vec![Message::text(candidate.replace("LINE", &line)); 10_000];
        let server = InProcessServer::start(dialect, Misbehavior::Adds(flood)).await;
        let before = resident_bytes();
        let mut link = TestLink::start(dialect, &server);
        link.joined().await;
        // 100 MB are on their way to an engine that does not take them.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 50_000_000, "{dialect:?}: {grown} bytes");
        assert_eq!(link.lines("trying again"), 0, "{}", link.log.text());
        link.stop().await;
    }
}

/// Returns how much memory this process has.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = status.split(' ').nth(1).unwrap();
    4_096 * pages.parse::<u64>().unwrap()
}
