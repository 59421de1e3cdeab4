//! Our place in the room, kept for months: connect, join, keep alive, come back.
//!
//! The driver reports what happens (`handle_*`) and then drains [`Link::poll_output`] until it
//! returns `None`; it sleeps until [`Link::poll_timeout`] or the next input.
//!
//! ```text
//!    ┌──────────── retry at once, then ever later ────────────┐
//!    ▼                                                        │
//! Connecting ──connected──▶ Joining ──joined──▶ Joined ──┐    │
//!    │ failed                  │ refused         lost │  │    │
//!    └─────────────────────────┴──────────────────────┴──┼▶ Waiting
//!                                     handle_leave, from │
//!                                     any state          └▶ Left
//! ```
//!
//! Pure: no sockets, no clock; the jitter comes from a seed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::dialect::{self, Adapter};
use super::keepalive::{Due, KeepAlive};
use super::{RoomEvent, RoomMessage};

/// Ceiling of the first retry's delay: a room server that restarts is back within a second.
const FIRST_RETRY: Duration = Duration::from_millis(300);

/// Ceiling of all later ones: a server that is down for a day is not hammered by a fleet, and half a
/// minute is soon enough for a person who just plugged in the router.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Ceiling while the room is full: someone else's seat in it may be our own of before, which the server
/// has not missed yet.
const MAX_FULL_RETRY: Duration = Duration::from_secs(5);

/// How long a server that does not confirm a join must keep us before people are told that we are in.
const SILENT_CONSENT: Duration = Duration::from_secs(1);

/// How long connecting (name, TCP, TLS, upgrade) and then joining may take, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a place in the room must last to count as a good one. A server that lets us in and
/// throws us out again must not be asked three times a second.
const STABLE: Duration = Duration::from_secs(5);

/// How many reasons for being out of the room are told, until we are in it again.
const MAX_TOLD: usize = 8;

/// How long something that the server found wrong may be why it closes.
const COMPLAINT_COUNTS: Duration = Duration::from_secs(5);

/// How much of a server's error is passed on, in characters.
const MAX_REASON_CHARS: usize = 200;

/// Something the driver must do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Connect; report with [`Link::handle_connected`] or [`Link::handle_closed`].
    Connect,
    /// Send a text.
    Send(String),
    /// Send a ping.
    Ping,
    /// Close the connection, or give up making it. Nothing is to be reported.
    Close,
    /// Tell the engine.
    Event(RoomEvent),
    /// Tell people.
    Report(Report),
}

/// What a person cares about, once per change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// The device is in the room.
    Joined,
    /// The room server cannot be reached, or was lost.
    Lost {
        /// What is known of why.
        reason: String,
    },
    /// The room server will not have us, and says why.
    Refused {
        /// From the protocol's list.
        code: String,
        /// For people.
        message: String,
    },
}

/// Our connection to one room server.
#[derive(Debug)]
pub struct Link {
    adapter: Adapter,
    state: State,
    backoff: Backoff,
    random: u64,
    /// What people were told since we were last in the room.
    told: Vec<Report>,
    /// What the server found wrong last, and when: it may be why it closes.
    complaint: Option<(String, Instant)>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    Connecting {
        deadline: Instant,
    },
    Joining {
        deadline: Instant,
    },
    Joined {
        since: Instant,
        keepalive: KeepAlive,
        /// Whether people were told, or when they will be.
        announce_at: Option<Instant>,
    },
    Waiting {
        until: Instant,
    },
    Left,
}

impl Link {
    /// Creates a link that wants to be connected. `seed` makes its jitter another than that of
    /// the cameras next door.
    #[must_use]
    pub fn new(adapter: Adapter, seed: u64, now: Instant) -> Self {
        Self {
            adapter,
            state: State::Connecting {
                deadline: now + STEP_TIMEOUT,
            },
            backoff: Backoff::new(FIRST_RETRY, MAX_RETRY),
            random: seed,
            told: Vec::new(),
            complaint: None,
            outputs: VecDeque::from([Output::Connect]),
        }
    }

    /// Returns whether we are in the room: others may be heard.
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        matches!(self.state, State::Joined { .. })
    }

    /// Takes note that the connection is up.
    pub fn handle_connected(&mut self, now: Instant) {
        if matches!(self.state, State::Connecting { .. }) {
            self.state = State::Joining {
                deadline: now + STEP_TIMEOUT,
            };
            self.adapter.handle_connected(now);
            self.drain_adapter(now);
        }
    }

    /// Takes note that the connection could not be made, or ended.
    pub fn handle_closed(&mut self, reason: &str, now: Instant) {
        if matches!(self.state, State::Waiting { .. } | State::Left) {
            return;
        }
        let complaint = self.complaint.take();
        let recent = complaint.filter(|(_, at)| now.duration_since(*at) <= COMPLAINT_COUNTS);
        let reason = match recent {
            Some((complaint, _)) => complaint,
            None => shortened(reason),
        };
        self.retry(Some(Report::Lost { reason }), MAX_RETRY, now);
    }

    /// Takes note that anything arrived, be it a pong.
    pub const fn handle_heard(&mut self, now: Instant) {
        if let State::Joined { keepalive, .. } = &mut self.state {
            keepalive.heard(now);
        }
    }

    /// Takes a binary message of the server. Some relay texts that way; Socket.IO means attachments.
    pub fn handle_binary(&mut self, bytes: &[u8], now: Instant) {
        match std::str::from_utf8(bytes) {
            Ok(text) if self.adapter.reads_binary() => self.handle_text(text, now),
            _ => self.handle_heard(now),
        }
    }

    /// Takes a text of the server.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        self.handle_heard(now);
        if matches!(self.state, State::Joining { .. } | State::Joined { .. }) {
            self.adapter.handle_text(text, now);
            self.drain_adapter(now);
        }
    }

    /// Takes a message of the engine. While we are out of the room nobody can be told anything:
    /// it is dropped, and viewers begin anew when the device is back.
    pub fn handle_message(&mut self, message: &RoomMessage, now: Instant) {
        if matches!(self.state, State::Joined { .. }) {
            self.adapter.handle_message(message, now);
            self.drain_adapter(now);
        } else if matches!(
            message,
            RoomMessage::Connected { .. } | RoomMessage::Ended { .. }
        ) {
            // Whose media runs matters once we are back; nothing can be said of it now.
            self.adapter.handle_message(message, now);
            while self.adapter.poll_output().is_some() {}
        }
    }

    /// Leaves the room for good.
    pub fn handle_leave(&mut self) {
        if matches!(self.state, State::Joined { .. }) {
            self.adapter.handle_leave();
            while let Some(output) = self.adapter.poll_output() {
                if let dialect::Output::Send(text) = output {
                    self.outputs.push_back(Output::Send(text));
                }
            }
        }
        self.outputs.push_back(Output::Close);
        self.state = State::Left;
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Connecting { deadline } if *deadline <= now => {
                self.give_up("no connection within 10 seconds", now);
            }
            State::Joining { deadline } if *deadline <= now => {
                self.give_up("no answer to join within 10 seconds", now);
            }
            State::Joined {
                keepalive,
                announce_at,
                ..
            } => {
                if announce_at.is_some_and(|at| at <= now) {
                    *announce_at = None;
                    self.told.clear();
                    self.outputs.push_back(Output::Report(Report::Joined));
                }
                match keepalive.handle_timeout(now) {
                    Due::Nothing => {}
                    Due::Ping => self.outputs.push_back(Output::Ping),
                    Due::Dead => self.give_up("silent for 40 seconds", now),
                }
            }
            State::Waiting { until } if *until <= now => {
                self.state = State::Connecting {
                    deadline: now + STEP_TIMEOUT,
                };
                self.outputs.push_back(Output::Connect);
            }
            _ => {}
        }
        if matches!(self.state, State::Joining { .. } | State::Joined { .. }) {
            self.adapter.handle_timeout(now);
            self.drain_adapter(now);
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work, or `None` once we left.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting { deadline: at } | State::Waiting { until: at } => Some(*at),
            State::Joining { deadline } => {
                let adapter = self.adapter.poll_timeout();
                Some(adapter.map_or(*deadline, |at| at.min(*deadline)))
            }
            State::Joined {
                keepalive,
                announce_at,
                ..
            } => [
                Some(keepalive.poll_timeout()),
                *announce_at,
                self.adapter.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min(),
            State::Left => None,
        }
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn drain_adapter(&mut self, now: Instant) {
        while let Some(output) = self.adapter.poll_output() {
            let is_joined = matches!(self.state, State::Joined { .. });
            match output {
                dialect::Output::Send(text) => self.outputs.push_back(Output::Send(text)),
                dialect::Output::Joined {
                    ice_servers,
                    is_confirmed,
                } if !is_joined => {
                    self.state = State::Joined {
                        since: now,
                        keepalive: KeepAlive::new(now),
                        announce_at: (!is_confirmed).then_some(now + SILENT_CONSENT),
                    };
                    if is_confirmed {
                        self.told.clear();
                        self.outputs.push_back(Output::Report(Report::Joined));
                    }
                    self.event(RoomEvent::Joined { ice_servers });
                }
                dialect::Output::Joined { .. } => {}
                dialect::Output::Refused { code, message } => {
                    let max = if code == dialect::ROOM_FULL {
                        MAX_FULL_RETRY
                    } else {
                        self.backoff.slow_down();
                        MAX_RETRY
                    };
                    let (code, message) = (shortened(&code), shortened(&message));
                    self.outputs.push_back(Output::Close);
                    self.retry(Some(Report::Refused { code, message }), max, now);
                    return;
                }
                dialect::Output::Complaint(complaint) => {
                    self.complaint = Some((shortened(&complaint), now));
                }
                dialect::Output::Event(event) => self.event(event),
                dialect::Output::Rejoin => {
                    // No loss that a person would care about.
                    self.outputs.push_back(Output::Close);
                    self.retry(None, MAX_RETRY, now);
                    return;
                }
                dialect::Output::Lost { reason } => {
                    self.outputs.push_back(Output::Close);
                    let reason = shortened(&reason);
                    self.retry(Some(Report::Lost { reason }), MAX_RETRY, now);
                    return;
                }
            }
        }
    }

    fn give_up(&mut self, reason: &str, now: Instant) {
        self.outputs.push_back(Output::Close);
        self.handle_closed(reason, now);
    }

    /// Tries again, after at most `max`.
    fn retry(&mut self, report: Option<Report>, max: Duration, now: Instant) {
        self.complaint = None;
        self.adapter.handle_closed();
        // What it still wanted to say is of the past.
        while self.adapter.poll_output().is_some() {}
        if let State::Joined { since, .. } = self.state {
            if now.duration_since(since) >= STABLE {
                self.backoff.reset();
            }
            self.event(RoomEvent::Disconnected);
        }
        // Somebody who mends one cause wants to hear of the next; but causes that take turns are said once.
        if let Some(report) = report
            && self.told.len() < MAX_TOLD
            && !self.told.iter().any(|told| told.is_like(&report))
        {
            self.told.push(report.clone());
            self.outputs.push_back(Output::Report(report));
        }
        let random = self.next_random();
        self.state = State::Waiting {
            until: now + self.backoff.next_delay(random).min(max),
        };
    }

    fn event(&mut self, event: RoomEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Returns the next number of `SplitMix64`, uniform in `[0, 1)`.
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let high = u32::try_from(z >> 32).unwrap_or_default();
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Report {
    /// Returns whether `other` is no news after this one.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lost { reason: a }, Self::Lost { reason: b })
            | (Self::Refused { code: a, .. }, Self::Refused { code: b, .. }) => a == b,
            (Self::Joined, Self::Joined) => true,
            _ => false,
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ViewerId;
    use super::super::dialect::Join;
    use super::*;
    use crate::config::{Dialect, Secret};

    const S: fn(u64) -> Duration = Duration::from_secs;

    const JOIN: &str =
        r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":"k","instance":"i"}"#;
    const WRONG_KEY: &str = r#"{"type":"error","code":"wrong-key","message":"no such room"}"#;

    fn link(now: Instant) -> Link {
        let join = Join {
            room: "cam".to_owned(),
            key: Secret::new("k".to_owned()),
            instance: "i".to_owned(),
            ..Join::default()
        };
        Link::new(Adapter::new(Dialect::Roomcam, join), 1, now)
    }

    fn drain(link: &mut Link) -> Vec<Output> {
        std::iter::from_fn(|| link.poll_output()).collect()
    }

    fn viewer(id: &str) -> ViewerId {
        ViewerId(id.to_owned())
    }

    fn joined(viewers: &str) -> String {
        format!(r#"{{"type":"joined","protocol":1,"viewers":[{viewers}]}}"#)
    }

    /// Answers everything well until the link is in the room with `viewers`.
    fn enter(link: &mut Link, viewers: &str, now: Instant) -> Vec<Output> {
        link.handle_connected(now);
        link.handle_text(&joined(viewers), now);
        drain(link)
    }

    fn lost(reason: &str) -> Output {
        let reason = reason.to_owned();
        Output::Report(Report::Lost { reason })
    }

    #[test]
    fn connects_joins_and_meets_who_is_there() {
        let now = crate::clock::now();
        let mut link = link(now);
        assert_eq!(drain(&mut link), [Output::Connect]);
        link.handle_connected(now);
        assert_eq!(drain(&mut link), [Output::Send(JOIN.to_owned())]);
        link.handle_text(&joined(r#""v-1""#), now);
        let expected = [
            Output::Report(Report::Joined),
            Output::Event(RoomEvent::Joined {
                ice_servers: Vec::new(),
            }),
            Output::Event(RoomEvent::ViewerJoined(viewer("v-1"))),
        ];
        assert_eq!(drain(&mut link), expected);
    }

    #[test]
    fn events_pass_in_and_messages_out() {
        let now = crate::clock::now();
        let mut link = link(now);
        enter(&mut link, "", now);
        link.handle_text(
            r#"{"type":"offer","from":"v-1","offer":{"type":"offer","sdp":"o"}}"#,
            now,
        );
        let offer = RoomEvent::Offer {
            viewer: viewer("v-1"),
            sdp: "o".to_owned(),
        };
        assert_eq!(drain(&mut link), [Output::Event(offer)]);
        link.handle_message(
            &RoomMessage::Answer {
                viewer: viewer("v-1"),
                sdp: "a".to_owned(),
            },
            now,
        );
        let text = r#"{"type":"answer","to":"v-1","answer":{"type":"answer","sdp":"a"}}"#;
        assert_eq!(drain(&mut link), [Output::Send(text.to_owned())]);
    }

    #[test]
    fn after_a_loss_it_comes_back_and_tells_who_came_and_left_meanwhile() {
        let mut now = crate::clock::now();
        let mut link = link(now);
        enter(&mut link, r#""v-1","v-2""#, now);
        link.handle_closed("reset", now);
        let expected = [Output::Event(RoomEvent::Disconnected), lost("reset")];
        assert_eq!(drain(&mut link), expected);
        link.handle_message(
            &RoomMessage::Answer {
                viewer: viewer("v-1"),
                sdp: String::new(),
            },
            now,
        );
        assert_eq!(drain(&mut link), [], "nobody to say it to");
        now = link.poll_timeout().unwrap();
        link.handle_timeout(now);
        assert_eq!(drain(&mut link), [Output::Connect]);
        let outputs = enter(&mut link, r#""v-2","v-3""#, now);
        let left = RoomEvent::ViewerLeft {
            viewer: viewer("v-1"),
            on_purpose: false,
        };
        let came = RoomEvent::ViewerJoined(viewer("v-3"));
        let stayed = RoomEvent::StillThere(viewer("v-2"));
        assert_eq!(outputs[3..], [left, came, stayed].map(Output::Event));
    }

    #[test]
    fn who_stayed_is_named_so_that_it_can_be_told_what_became_of_its_media() {
        let now = crate::clock::now();
        let mut link = link(now);
        enter(&mut link, r#""v-1","v-2""#, now);
        link.handle_closed("reset", now);
        let later = link.poll_timeout().unwrap();
        link.handle_timeout(later);
        let outputs = enter(&mut link, r#""v-2""#, later);
        let stayed = Output::Event(RoomEvent::StillThere(viewer("v-2")));
        assert_eq!(outputs.last(), Some(&stayed));
    }

    #[test]
    fn retries_ever_later_and_says_so_once() {
        let start = crate::clock::now();
        let mut now = start;
        let mut link = link(now);
        let mut reports = 0;
        let mut attempts = 0;
        while now < start + S(3600) {
            for output in drain(&mut link) {
                match output {
                    Output::Connect => {
                        attempts += 1;
                        link.handle_closed("connection refused", now);
                    }
                    Output::Report(_) => reports += 1,
                    other => panic!("{other:?}"),
                }
            }
            now = link.poll_timeout().unwrap();
            link.handle_timeout(now);
        }
        assert_eq!(reports, 1);
        // Uniform up to 30 s, that is 15 s on average: 240 attempts an hour.
        assert!((200..290).contains(&attempts), "{attempts}");
    }

    #[test]
    fn a_refusal_is_said_once_and_tried_again_at_the_slow_end() {
        let mut now = crate::clock::now();
        let mut link = link(now);
        let mut waits = Vec::new();
        let mut reports = Vec::new();
        for _ in 0..200 {
            drain(&mut link);
            link.handle_connected(now);
            link.handle_text(WRONG_KEY, now);
            let outputs = drain(&mut link);
            assert!(outputs.contains(&Output::Close));
            reports.extend(
                outputs
                    .into_iter()
                    .filter(|o| matches!(o, Output::Report(_))),
            );
            let until = link.poll_timeout().unwrap();
            waits.push(until - now);
            now = until;
            link.handle_timeout(now);
        }
        let refused = Report::Refused {
            code: "wrong-key".to_owned(),
            message: "no such room".to_owned(),
        };
        assert_eq!(reports, [Output::Report(refused)]);
        let average = waits.iter().sum::<Duration>() / 200;
        assert!((S(13)..S(17)).contains(&average), "{average:?}");
        assert!(waits.iter().all(|w| *w <= MAX_RETRY));
    }

    #[test]
    fn a_server_that_lets_us_in_and_throws_us_out_is_asked_ever_later() {
        let mut now = crate::clock::now();
        let mut link = link(now);
        let mut waits = Vec::new();
        for _ in 0..100 {
            enter(&mut link, "", now);
            link.handle_closed("closed", now);
            waits.push(link.poll_timeout().unwrap() - now);
            now = link.poll_timeout().unwrap();
            link.handle_timeout(now);
        }
        assert!(waits.iter().skip(10).sum::<Duration>() > S(900));
        enter(&mut link, "", now);
        now += STABLE;
        link.handle_closed("closed", now);
        assert!(link.poll_timeout().unwrap() - now <= FIRST_RETRY);
    }

    #[test]
    fn a_server_that_complains_and_closes_has_said_why() {
        let now = crate::clock::now();
        let mut link = link(now);
        enter(&mut link, "", now);
        link.handle_text(
            r#"{"type":"error","code":"too-fast","message":"calm down"}"#,
            now,
        );
        link.handle_closed("connection closed", now);
        assert!(drain(&mut link).contains(&lost("too-fast: calm down")));
    }

    #[test]
    fn a_silent_server_is_pinged_and_then_left() {
        let start = crate::clock::now();
        let mut link = link(start);
        enter(&mut link, "", start);
        let mut seen = Vec::new();
        while !matches!(link.state, State::Waiting { .. }) {
            let now = link.poll_timeout().unwrap();
            link.handle_timeout(now);
            seen.extend(drain(&mut link).into_iter().map(|o| (now - start, o)));
        }
        let expected = [
            (S(15), Output::Ping),
            (S(30), Output::Ping),
            (S(40), Output::Close),
            (S(40), Output::Event(RoomEvent::Disconnected)),
            (S(40), lost("silent for 40 seconds")),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up_after_10_s() {
        let start = crate::clock::now();
        let mut link = link(start);
        drain(&mut link);
        link.handle_timeout(start + S(10));
        let expected = [Output::Close, lost("no connection within 10 seconds")];
        assert_eq!(drain(&mut link), expected);
        let now = link.poll_timeout().unwrap();
        link.handle_timeout(now);
        link.handle_connected(now);
        drain(&mut link);
        assert_eq!(link.poll_timeout(), Some(now + S(10)));
        link.handle_timeout(now + S(10));
        let news = [Output::Close, lost("no answer to join within 10 seconds")];
        assert_eq!(drain(&mut link), news, "another reason");
    }

    #[test]
    fn leaves_with_a_bye_from_the_room_and_without_one_from_elsewhere() {
        let now = crate::clock::now();
        let mut inside = link(now);
        enter(&mut inside, "", now);
        inside.handle_leave();
        let bye = Output::Send(r#"{"type":"bye"}"#.to_owned());
        assert_eq!(drain(&mut inside), [bye, Output::Close]);
        assert_eq!(inside.poll_timeout(), None);
        let mut outside = link(now);
        drain(&mut outside);
        outside.handle_leave();
        assert_eq!(drain(&mut outside), [Output::Close]);
        outside.handle_connected(now);
        assert_eq!(drain(&mut outside), []);
    }

    #[test]
    fn junk_and_news_from_before_the_join_are_ignored() {
        let now = crate::clock::now();
        let mut link = link(now);
        drain(&mut link);
        link.handle_connected(now);
        drain(&mut link);
        let long = format!(r#"{{"type":"viewer-joined","id":"{}"}}"#, "v".repeat(65));
        for text in [
            "",
            "{}",
            r#"{"type":"viewer-joined","id":"v-1"}"#,
            r#"{"type":"offer","from":"v-1","offer":{"type":"offer","sdp":"o"}}"#,
            &long,
            &"{".repeat(1000),
        ] {
            link.handle_text(text, now);
        }
        assert_eq!(drain(&mut link), []);
        enter(&mut link, "", now);
        link.handle_text(&joined(r#""v-9""#), now);
        assert_eq!(drain(&mut link), [], "joined once");
    }

    fn link_of(dialect: Dialect, now: Instant) -> Link {
        let join = Join {
            room: "cam".to_owned(),
            ..Join::default()
        };
        Link::new(Adapter::new(dialect, join), 1, now)
    }

    /// Connects whenever the link wants to, hears `texts`, and loses the connection if `closes`.
    /// Returns what people were told, and how long each wait was.
    fn attempts(
        link: &mut Link,
        texts: &[&str],
        closes: bool,
        mut now: Instant,
    ) -> (Vec<Report>, Vec<Duration>) {
        let mut reports = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..50 {
            link.handle_connected(now);
            for text in texts {
                link.handle_text(text, now);
            }
            if closes {
                link.handle_closed("closed", now);
            }
            let outputs = drain(link);
            reports.extend(outputs.into_iter().filter_map(|output| match output {
                Output::Report(report) => Some(report),
                _ => None,
            }));
            let until = link.poll_timeout().unwrap();
            waits.push(until - now);
            now = until;
            link.handle_timeout(now);
        }
        (reports, waits)
    }

    const OPEN: &str = r#"0{"sid":"e","pingInterval":25000,"pingTimeout":20000,"maxPayload":9}"#;

    #[test]
    fn a_server_that_throws_us_out_is_told_once_with_its_reason() {
        let now = crate::clock::now();
        let mut link = link_of(Dialect::SocketioRooms, now);
        let texts = [OPEN, r#"40{"sid":"s"}"#, "41"];
        let (reports, waits) = attempts(&mut link, &texts, false, now);
        assert!(matches!(&reports[..], [Report::Lost { .. }]), "{reports:?}");
        assert!(
            waits.iter().skip(10).sum::<Duration>() > S(300),
            "{waits:?}"
        );
    }

    #[test]
    fn a_server_that_does_not_confirm_and_closes_is_never_said_to_be_joined() {
        let start = crate::clock::now();
        let mut link = link_of(Dialect::WsRooms, start);
        let (reports, _) = attempts(&mut link, &[], true, start);
        let reason = "closed".to_owned();
        assert_eq!(reports, [Report::Lost { reason }]);
        let now = start + S(3_600);
        link.handle_connected(now);
        assert!(!drain(&mut link).contains(&Output::Report(Report::Joined)));
        link.handle_timeout(now + SILENT_CONSENT);
        assert_eq!(drain(&mut link), [Output::Report(Report::Joined)]);
    }

    #[test]
    fn a_full_room_is_said_once_and_asked_again_within_5_s() {
        let now = crate::clock::now();
        let mut link = link_of(Dialect::SocketioRooms, now);
        let texts = [OPEN, r#"40{"sid":"s"}"#, r#"42["full"]"#];
        let (reports, waits) = attempts(&mut link, &texts, false, now);
        assert!(
            matches!(&reports[..], [Report::Refused { code, .. }] if code == dialect::ROOM_FULL)
        );
        assert!(waits.iter().all(|wait| *wait <= MAX_FULL_RETRY));
    }

    #[test]
    fn one_who_leaves_in_ayame_is_no_loss_to_speak_of() {
        let now = crate::clock::now();
        let mut link = link_of(Dialect::Ayame, now);
        let texts = [r#"{"type":"accept"}"#, r#"{"type":"bye"}"#];
        let (reports, _) = attempts(&mut link, &texts, false, now);
        assert!(reports.iter().all(|report| *report == Report::Joined));
    }

    #[test]
    fn reasons_that_take_turns_are_said_once_each() {
        let mut now = crate::clock::now();
        let mut link = link(now);
        let mut reports = 0;
        for n in 0..100 {
            link.handle_closed(["refused", "unreachable"][n % 2], now);
            let told = |o: &Output| matches!(o, Output::Report(_));
            reports += drain(&mut link).into_iter().filter(told).count();
            now = link.poll_timeout().unwrap();
            link.handle_timeout(now);
        }
        assert_eq!(reports, 2);
    }

    #[test]
    fn a_complaint_of_long_ago_is_not_why_a_connection_ends() {
        let now = crate::clock::now();
        let mut link = link(now);
        enter(&mut link, "", now);
        let complaint = r#"{"type":"error","code":"bad-message","message":"what"}"#;
        link.handle_text(complaint, now);
        link.handle_closed("reset", now + S(3_600));
        assert!(drain(&mut link).contains(&lost("reset")));
    }
}
