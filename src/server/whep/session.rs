//! One WHEP session: a viewer in a room, as a machine without I/O.
//!
//! It says what a viewer says (`docs/signaling.md`) and is told what a viewer hears; requests of the
//! player come in between. After each input the driver drains [`Session::poll_output`] until it returns
//! `None`.
//!
//! ```text
//!           PATCH with new credentials          answer, refusal, RESTART_TIMEOUT
//!   steady ────────────────────────▶ restarting ────────────────────────────────▶ steady
//!      └─────────────────────────────────┴──▶ over: DELETE, `ended`, another device,
//!                                             none for DEVICE_RETURNS_WITHIN
//! ```
//!
//! Pure. A player is told its errors as [`Problem`]s; which numbers they have is `whep.rs`'s business.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::headers::IfMatch;
use super::sdpfrag::{self, Credentials, Fragment};
use crate::signaling::{CandidateInit, MAX_MESSAGE_BYTES};
use crate::viewer::offer::MAX_CANDIDATES;
use crate::watch::protocol::{Description, FromRoom, Refusal, ToRoom};

/// How long the device may take to answer: it gathers candidates for half a second first, and may be far
/// away from the room server.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long the answer to a restart that was given up may still come. One that has not come by then
/// is lost.
const LATE_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How long a session outlives the device's connection to the room. Media that runs goes on meanwhile,
/// but whether it does is not known here.
pub const DEVICE_RETURNS_WITHIN: Duration = Duration::from_secs(300);

/// How many texts are said within a second: half of what the rooms take, whose seconds begin at other
/// times.
const MAX_TEXTS_PER_SECOND: usize = 20;

/// Largest text, in bytes: the device's connection takes [`MAX_MESSAGE_BYTES`], with the sender's name in
/// it.
const MAX_TEXT_BYTES: usize = MAX_MESSAGE_BYTES - 1024;

/// What went wrong, for the player.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Problem {
    /// No such room for this key.
    WrongKey,
    /// No device is in the room; one may come.
    NoDevice,
    /// No more viewers are served.
    Full(String),
    /// The device cannot answer this description.
    BadOffer(String),
    /// The description is more than can be handed on.
    TooLarge,
    /// The device did not answer.
    Silent,
    /// A precondition is needed.
    NoPrecondition,
    /// The precondition is of another ICE generation.
    OtherGeneration,
    /// An ICE restart is under way.
    Busy,
    /// Something else was refused.
    Refused(String),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal.code.as_str() {
            "wrong-key" => Self::WrongKey,
            "no-device" => Self::NoDevice,
            "room-full" => Self::Full(refusal.message),
            "bad-offer" => Self::BadOffer(refusal.message),
            _ => Self::Refused(refusal.message),
        }
    }
}

/// What became of a PATCH.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Patched {
    /// The candidates are on their way.
    Trickled,
    /// ICE was restarted.
    Restarted {
        /// Our side of it.
        fragment: String,
        /// The new generation's entity tag.
        tag: String,
    },
}

/// Something the driver must do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Say this in the room.
    Say(String),
    /// Answer the PATCH.
    Patched(Result<Patched, Problem>),
    /// Leave the room; nothing more will come.
    Over,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    /// Which process of the device the peer connection was made with.
    instance: String,
    /// The player's offer, with the credentials of the present ICE generation.
    offer: String,
    tag: String,
    restart: Option<Restart>,
    late: Option<Late>,
    /// Until when the device may come back.
    away_until: Option<Instant>,
    /// Candidates of this generation so far.
    candidates: usize,
    unsaid: VecDeque<String>,
    second: Second,
    outputs: VecDeque<Output>,
    is_over: bool,
}

#[derive(Debug)]
struct Restart {
    offer: String,
    tag: String,
    until: Instant,
}

/// Restarts that were given up. Answers name no offer, but come in the order of the offers.
#[derive(Debug)]
struct Late {
    /// How many may still be answered.
    count: usize,
    /// Until when.
    until: Instant,
}

/// The second in which texts are counted.
#[derive(Debug)]
struct Second {
    since: Instant,
    texts: usize,
}

impl Session {
    /// Creates the session whose `offer` the device of `instance` has just answered. `tag` is the entity
    /// tag of its first ICE generation.
    #[must_use]
    pub fn new(instance: String, offer: String, tag: String, now: Instant) -> Self {
        Self {
            instance,
            offer,
            tag,
            restart: None,
            late: None,
            away_until: None,
            candidates: 0,
            unsaid: VecDeque::new(),
            second: Second {
                since: now,
                texts: 0,
            },
            outputs: VecDeque::new(),
            is_over: false,
        }
    }

    /// Takes a text of the room.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        let Ok(heard) = serde_json::from_str(text) else {
            return;
        };
        match heard {
            FromRoom::Ended => self.end(),
            FromRoom::DeviceLeft => {
                self.away_until = Some(now + DEVICE_RETURNS_WITHIN);
                self.late = None;
            }
            FromRoom::DeviceJoined { instance } if instance != self.instance => self.end(),
            FromRoom::DeviceJoined { .. } => self.away_until = None,
            FromRoom::Answer { answer } => self.handle_answer(&answer.sdp, now),
            // News of the connection, which goes on trying; the answer comes as well.
            FromRoom::Error(Refusal { code, .. })
                if code == "no-path" || code == "no-encryption" => {}
            FromRoom::Error(refusal) => {
                if !self.is_late(now) && self.restart.take().is_some() {
                    let problem = Problem::from(refusal);
                    self.outputs.push_back(Output::Patched(Err(problem)));
                }
            }
            // What a player cannot be told, or has no use for.
            FromRoom::Joined { .. }
            | FromRoom::Candidate { .. }
            | FromRoom::Connected
            | FromRoom::Unknown => {}
        }
    }

    /// Takes note that the rooms have closed the viewer.
    pub fn handle_closed(&mut self) {
        self.end();
    }

    /// Takes a PATCH. One [`Output::Patched`] comes of it, at once or later. `tag` will be the entity tag
    /// of a new ICE generation, if one begins.
    pub fn handle_patch(
        &mut self,
        condition: Option<&IfMatch>,
        fragment: Fragment,
        tag: String,
        now: Instant,
    ) {
        let outcome = match condition {
            None => Err(Problem::NoPrecondition),
            Some(condition) if !condition.matches(&self.tag) => Err(Problem::OtherGeneration),
            Some(_) => match self.new_credentials(&fragment) {
                Some(new) => match self.begin_restart(&new, &fragment.candidates, tag, now) {
                    Ok(()) => return,
                    Err(problem) => Err(problem),
                },
                None => {
                    self.trickle(fragment);
                    Ok(Patched::Trickled)
                }
            },
        };
        self.outputs.push_back(Output::Patched(outcome));
    }

    /// Takes a DELETE: says goodbye, which ends the media at once.
    pub fn handle_delete(&mut self) {
        self.outputs.push_back(Output::Say(ToRoom::Bye.text()));
        self.end();
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.away_until.is_some_and(|at| at <= now) {
            self.end();
        }
        if self.restart.as_ref().is_some_and(|r| r.until <= now) {
            self.restart = None;
            let until = now + LATE_ANSWERS_WITHIN;
            self.late = match self.late.take() {
                None => Some(Late { count: 1, until }),
                // What was taken for a late answer may have been this one's.
                Some(late) if late.until <= now => None,
                Some(Late { count, until }) => Some(Late {
                    count: count + 1,
                    until,
                }),
            };
            self.outputs
                .push_back(Output::Patched(Err(Problem::Silent)));
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let restart = self.restart.as_ref().map(|r| r.until);
        let unsaid = (!self.unsaid.is_empty()).then(|| self.second.since + Duration::from_secs(1));
        [self.away_until, restart, unsaid]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if now.saturating_duration_since(self.second.since) >= Duration::from_secs(1) {
            self.second = Second {
                since: now,
                texts: 0,
            };
        }
        if self.is_over || self.second.texts >= MAX_TEXTS_PER_SECOND {
            return None;
        }
        let text = self.unsaid.pop_front()?;
        self.second.texts += 1;
        Some(Output::Say(text))
    }

    /// Returns the credentials of a fragment if they are not those of the present generation: then ICE is
    /// to be restarted, whatever the precondition was.
    fn new_credentials(&self, fragment: &Fragment) -> Option<Credentials> {
        let known = sdpfrag::credentials(&self.offer);
        let said = fragment.credentials.clone();
        said.filter(|said| known.as_ref() != Some(said))
    }

    fn begin_restart(
        &mut self,
        credentials: &Credentials,
        candidates: &[CandidateInit],
        tag: String,
        now: Instant,
    ) -> Result<(), Problem> {
        if self.restart.is_some() {
            return Err(Problem::Busy);
        }
        if self.away_until.is_some() {
            return Err(Problem::NoDevice);
        }
        let offer = sdpfrag::restart(&self.offer, credentials, candidates);
        let text = offer_text(offer.clone())?;
        if self.late.as_ref().is_some_and(|late| late.until <= now) {
            self.late = None;
        }
        // Candidates of the generation before are of no use any more.
        self.unsaid.clear();
        self.unsaid.push_back(text);
        self.restart = Some(Restart {
            offer,
            tag,
            until: now + ANSWER_TIMEOUT,
        });
        Ok(())
    }

    fn handle_answer(&mut self, answer: &str, now: Instant) {
        if self.is_late(now) {
            return;
        }
        let Some(restart) = self.restart.take() else {
            return;
        };
        self.late = None;
        self.offer = restart.offer;
        self.tag = restart.tag;
        self.candidates = 0;
        let patched = Patched::Restarted {
            fragment: sdpfrag::of_answer(answer),
            tag: self.tag.clone(),
        };
        self.outputs.push_back(Output::Patched(Ok(patched)));
    }

    /// Returns whether what the device says of an offer is about one that was given up.
    fn is_late(&mut self, now: Instant) -> bool {
        let late = self.late.as_mut().filter(|late| late.until > now);
        let Some(late) = late.filter(|late| late.count > 0) else {
            return false;
        };
        late.count -= 1;
        true
    }

    fn trickle(&mut self, fragment: Fragment) {
        let of_offer = sdpfrag::credentials(&self.offer);
        let ufrag = fragment.credentials.or(of_offer).map(|c| c.ufrag);
        for candidate in fragment.candidates {
            self.candidates += 1;
            if self.candidates > MAX_CANDIDATES {
                return;
            }
            let candidate = CandidateInit {
                username_fragment: ufrag.clone(),
                ..candidate
            };
            let said = ToRoom::Candidate {
                candidate: Some(candidate),
            };
            self.unsaid.push_back(said.text());
        }
    }

    fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.outputs.push_back(Output::Over);
        }
    }
}

/// Returns the text of an offer.
///
/// # Errors
///
/// [`Problem::TooLarge`].
pub fn offer_text(sdp: String) -> Result<String, Problem> {
    let kind = "offer".to_owned();
    let offer = Description { kind, sdp };
    let text = ToRoom::Offer { offer }.text();
    if text.len() > MAX_TEXT_BYTES {
        return Err(Problem::TooLarge);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::whep::sdpfrag::read;

    const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\nm=video 9 X 96\r\na=mid:0\r\n\
        a=ice-ufrag:old1\r\na=ice-pwd:0123456789012345678901\r\n";
    const ANSWER: &str = r#"{"type":"answer","from":"device","answer":{"type":"answer","sdp":"v=0\r\nm=video 9 X 96\r\na=ice-ufrag:ours\r\n"}}"#;

    fn session(now: Instant) -> Session {
        Session::new("i".to_owned(), OFFER.to_owned(), "\"1\"".to_owned(), now)
    }

    fn drain(session: &mut Session, now: Instant) -> Vec<Output> {
        std::iter::from_fn(|| session.poll_output(now)).collect()
    }

    fn hear(session: &mut Session, text: &str, now: Instant) -> Vec<Output> {
        session.handle_text(text, now);
        drain(session, now)
    }

    fn patch(session: &mut Session, condition: &str, fragment: &str, now: Instant) -> Vec<Output> {
        let condition = (!condition.is_empty()).then(|| IfMatch::parse(condition));
        let fragment = read(fragment).unwrap();
        session.handle_patch(condition.as_ref(), fragment, "\"2\"".to_owned(), now);
        drain(session, now)
    }

    const CANDIDATE: &str = "a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
    const NEW: &str = "a=ice-ufrag:new1\r\na=ice-pwd:9876543210987654321098\r\n";

    fn restart(session: &mut Session, now: Instant) -> Vec<Output> {
        patch(session, "*", NEW, now)
    }

    fn refused(problem: Problem) -> [Output; 1] {
        [Output::Patched(Err(problem))]
    }

    #[test]
    fn candidates_are_passed_on_with_the_generation_they_belong_to() {
        let now = crate::clock::now();
        let mut s = session(now);
        let said = patch(&mut s, "\"1\"", CANDIDATE, now);
        let candidate = r#"{"type":"candidate","candidate":{"candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host","sdpMid":"0","usernameFragment":"old1"}}"#;
        let expected = [
            Output::Patched(Ok(Patched::Trickled)),
            Output::Say(candidate.to_owned()),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_patch_needs_the_right_precondition() {
        let now = crate::clock::now();
        let mut s = session(now);
        let none = patch(&mut s, "", CANDIDATE, now);
        assert_eq!(none, refused(Problem::NoPrecondition));
        let other = patch(&mut s, "\"0\"", CANDIDATE, now);
        assert_eq!(other, refused(Problem::OtherGeneration));
    }

    #[test]
    fn new_credentials_restart_ice_and_the_answer_tells_ours() {
        let now = crate::clock::now();
        let mut s = session(now);
        let [Output::Say(offer)] = &restart(&mut s, now)[..] else {
            panic!("no offer");
        };
        assert!(offer.contains("o=- 1 2 IN") && offer.contains("a=ice-ufrag:new1"));
        assert_eq!(restart(&mut s, now), refused(Problem::Busy));
        let patched = Patched::Restarted {
            fragment: "m=video 9 X 96\r\na=ice-ufrag:ours\r\na=end-of-candidates\r\n".to_owned(),
            tag: "\"2\"".to_owned(),
        };
        assert_eq!(hear(&mut s, ANSWER, now), [Output::Patched(Ok(patched))]);
        assert_eq!(hear(&mut s, ANSWER, now), [], "nobody asked");

        let old = patch(&mut s, "\"1\"", CANDIDATE, now);
        assert_eq!(old, refused(Problem::OtherGeneration));
        let new = patch(&mut s, "\"2\"", CANDIDATE, now);
        assert_eq!(new.len(), 2, "{new:?}");
        let same = restart(&mut s, now);
        assert_eq!(same, [Output::Patched(Ok(Patched::Trickled))]);
    }

    #[test]
    fn a_restart_that_is_refused_or_not_answered_leaves_everything_as_it_was() {
        let mut now = crate::clock::now();
        let mut s = session(now);
        restart(&mut s, now);
        now = s.poll_timeout().unwrap();
        s.handle_timeout(now);
        assert_eq!(drain(&mut s, now), refused(Problem::Silent));
        now += LATE_ANSWERS_WITHIN;
        restart(&mut s, now);
        let error = r#"{"type":"error","code":"no-device","message":"m"}"#;
        assert_eq!(hear(&mut s, error, now), refused(Problem::NoDevice));
        let old = patch(&mut s, "\"1\"", CANDIDATE, now);
        assert_eq!(old[0], Output::Patched(Ok(Patched::Trickled)));
    }

    #[test]
    fn the_late_answer_to_a_restart_is_not_taken_for_that_to_the_next() {
        let error = r#"{"type":"error","from":"device","code":"bad-offer","message":"m"}"#;
        let given_up = |s: &mut Session, now: &mut Instant| {
            restart(s, *now);
            *now += ANSWER_TIMEOUT;
            s.handle_timeout(*now);
            assert_eq!(drain(s, *now), refused(Problem::Silent));
        };
        let mut now = crate::clock::now();
        let mut s = session(now);
        given_up(&mut s, &mut now);
        given_up(&mut s, &mut now);
        restart(&mut s, now);
        assert_eq!(hear(&mut s, error, now), [], "to the first");
        assert_eq!(hear(&mut s, ANSWER, now), [], "to the second");
        assert_eq!(hear(&mut s, ANSWER, now).len(), 1);

        let mut s = session(now);
        given_up(&mut s, &mut now);
        hear(&mut s, r#"{"type":"device-left"}"#, now);
        hear(&mut s, r#"{"type":"device-joined","instance":"i"}"#, now);
        restart(&mut s, now);
        let outcome = hear(&mut s, ANSWER, now);
        assert_eq!(outcome.len(), 1, "what was said before is lost");
    }

    #[test]
    fn an_answer_that_never_comes_does_not_spoil_every_restart_after_it() {
        let mut now = crate::clock::now();
        let mut s = session(now);
        let mut restarts = 0;
        restart(&mut s, now);
        while restarts < 100 {
            restarts += 1;
            now += ANSWER_TIMEOUT;
            s.handle_timeout(now);
            drain(&mut s, now);
            restart(&mut s, now);
            if !hear(&mut s, ANSWER, now).is_empty() {
                break;
            }
        }
        assert_eq!(
            ANSWER_TIMEOUT * restarts,
            ANSWER_TIMEOUT + LATE_ANSWERS_WITHIN
        );
    }

    #[test]
    fn a_restart_outlives_the_news_that_there_is_no_connection_yet() {
        let now = crate::clock::now();
        for code in ["no-path", "no-encryption"] {
            let mut s = session(now);
            restart(&mut s, now);
            let error = r#"{"type":"error","from":"device","code":"CODE","message":"m"}"#;
            assert_eq!(hear(&mut s, &error.replace("CODE", code), now), []);
            let [Output::Patched(Ok(Patched::Restarted { tag, .. }))] =
                &hear(&mut s, ANSWER, now)[..]
            else {
                panic!("the restart was given up");
            };
            assert_eq!(tag, "\"2\"");
        }
    }

    #[test]
    fn it_is_over_when_the_media_is_or_another_device_came() {
        let now = crate::clock::now();
        let over = [Output::Over];
        let ended = r#"{"type":"ended","from":"device"}"#;
        assert_eq!(hear(&mut session(now), ended, now), over);
        let other = r#"{"type":"device-joined","instance":"j"}"#;
        assert_eq!(hear(&mut session(now), other, now), over);
        let mut closed = session(now);
        closed.handle_closed();
        assert_eq!(drain(&mut closed, now), over);
        let mut deleted = session(now);
        deleted.handle_delete();
        let bye = Output::Say(r#"{"type":"bye"}"#.to_owned());
        assert_eq!(drain(&mut deleted, now), [bye, Output::Over]);
    }

    #[test]
    fn a_device_that_left_may_come_back_within_five_minutes() {
        let mut now = crate::clock::now();
        let mut s = session(now);
        let left = r#"{"type":"device-left"}"#;
        assert_eq!(hear(&mut s, left, now), []);
        assert_eq!(restart(&mut s, now), refused(Problem::NoDevice));
        let back = r#"{"type":"device-joined","instance":"i"}"#;
        assert_eq!(hear(&mut s, back, now), []);
        assert_eq!(s.poll_timeout(), None);
        hear(&mut s, left, now);
        now += DEVICE_RETURNS_WITHIN;
        s.handle_timeout(now);
        assert_eq!(drain(&mut s, now), [Output::Over]);
    }

    #[test]
    fn a_flood_of_candidates_is_slowed_and_bounded() {
        let mut now = crate::clock::now();
        let mut s = session(now);
        let many = CANDIDATE.to_owned() + &CANDIDATE.repeat(MAX_CANDIDATES - 1);
        let mut said = 0;
        for _ in 0..3 {
            said += patch(&mut s, "\"1\"", &many, now).len() - 1;
        }
        assert_eq!(said, MAX_TEXTS_PER_SECOND);
        while let Some(at) = s.poll_timeout() {
            now = at;
            s.handle_timeout(now);
            let texts = drain(&mut s, now).len();
            assert!(texts <= MAX_TEXTS_PER_SECOND);
            said += texts;
        }
        assert_eq!(said, MAX_CANDIDATES);
    }

    #[test]
    fn what_does_not_fit_into_one_message_is_refused() {
        assert!(offer_text("v".repeat(100_000)).is_ok());
        let escaped = offer_text("\n".repeat(100_000));
        assert_eq!(escaped, Err(Problem::TooLarge));
    }
}
