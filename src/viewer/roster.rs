//! Who may watch, how many, and which of a viewer's peer connections counts.
//!
//! A viewer may make a new peer connection while an old one still lives: it reloads, restarts or
//! was cut off, or both sides offered at once. Each offer of ours, and each of theirs with a session id
//! of its own, gets a session of its own; the first to connect wins, and its siblings are closed. So
//! nothing is ever rolled back: where offers cross, one of the two comes to nothing.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::offer::{MAX_CANDIDATES, Offer};
use crate::signaling::{CandidateInit, Seat};

/// Most sessions of one viewer: a running one and two attempts to replace it.
pub const MAX_SESSIONS_PER_VIEWER: usize = 3;

/// Most viewers with parked candidates; the one that began longest ago makes room.
const MAX_PARKING_VIEWERS: usize = 256;

/// Longest candidate that is looked at, in bytes. The longest of Chromium's have 250.
const MAX_CANDIDATE_BYTES: usize = 1_024;

/// Most offers of ours on the chance that wait to be answered; the oldest makes room.
const MAX_UNANSWERED: usize = 16;

/// Names one session, for as long as the process runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u64);

/// What to do with an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Give it to this running session.
    Renegotiate(SessionId),
    /// Make a session; close those it displaces.
    New {
        /// The session to make.
        session: SessionId,
        /// Sessions of the same viewer that are over with it.
        displaced: Vec<SessionId>,
    },
    /// As many watch as may.
    Full,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Give it to this session.
    Taken(SessionId),
    /// As many watch as may: end this session.
    Full(SessionId),
    /// Nobody asked: not even an error.
    Unasked,
}

/// All sessions.
#[derive(Debug)]
pub struct Roster {
    max_viewers: usize,
    next: u64,
    sessions: BTreeMap<SessionId, Entry>,
    /// Who has ever had candidates parked, counted.
    parkings: u64,
    /// With the number of those before it.
    parked: HashMap<Seat, (u64, Vec<CandidateInit>)>,
    has_failed: bool,
}

#[derive(Debug)]
struct Entry {
    viewer: Seat,
    /// The viewer's offer, or its answer; `None` while ours waits for one.
    offer: Option<Offer>,
    /// It is there for sure, and counts.
    is_present: bool,
    /// Candidates that came behind the offer.
    candidates: usize,
    connected: bool,
}

impl Roster {
    /// Creates the roster of a device that nobody watches.
    #[must_use]
    pub fn new(max_viewers: usize) -> Self {
        Self {
            max_viewers,
            next: 1,
            sessions: BTreeMap::new(),
            parkings: 0,
            parked: HashMap::new(),
            has_failed: false,
        }
    }

    /// Takes another limit. Those who are here stay.
    pub const fn set_max_viewers(&mut self, max_viewers: usize) {
        self.max_viewers = max_viewers;
    }

    /// Records that a connection failed before it was up, perhaps for want of common cryptography.
    pub const fn handle_failed(&mut self) {
        self.has_failed = true;
    }

    /// Returns whether some connection failed before it was up: be generous from then on.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Takes an offer.
    pub fn handle_offer(&mut self, viewer: &Seat, offer: Offer) -> Admitted {
        // Where offers crossed, two sessions may share the id for a moment: the one that is up counts.
        let known = self
            .sessions
            .iter_mut()
            .filter(|(_, e)| e.viewer == *viewer && e.is_of(&offer.session))
            .max_by_key(|(_, e)| e.connected);
        if let Some((&session, entry)) = known {
            if entry.ufrag() != Some(offer.ufrag.as_str()) {
                entry.candidates = 0;
            }
            entry.offer = Some(offer);
            return Admitted::Renegotiate(session);
        }
        // It tries again before the first attempt is up: perhaps for want of common cryptography.
        let tried = |e: &Entry| e.offer.is_some() && !e.connected;
        if self.entries_of(viewer).any(tried) {
            self.has_failed = true;
        }
        self.admit(viewer, Some(offer), true)
    }

    /// Makes room for a session that we offer. One for somebody who may not be there counts once it
    /// is answered.
    pub fn handle_call(&mut self, viewer: &Seat, is_present: bool) -> Admitted {
        self.admit(viewer, None, is_present)
    }

    /// Takes an answer: to our newest offer that has none.
    pub fn handle_answer(&mut self, viewer: &Seat, answer: Offer) -> Answered {
        let is_full = self.viewers() >= self.max_viewers && !self.counts(viewer);
        let asked = self
            .sessions
            .iter_mut()
            .rfind(|(_, e)| e.viewer == *viewer && e.offer.is_none());
        let Some((&session, entry)) = asked else {
            return Answered::Unasked;
        };
        if is_full {
            self.sessions.remove(&session);
            return Answered::Full(session);
        }
        entry.offer = Some(answer);
        entry.is_present = true;
        Answered::Taken(session)
    }

    fn admit(&mut self, viewer: &Seat, offer: Option<Offer>, is_present: bool) -> Admitted {
        if is_present && !self.counts(viewer) && self.viewers() >= self.max_viewers {
            self.parked.remove(viewer);
            return Admitted::Full;
        }
        let own = self.sessions_of(viewer);
        let too_many = (own.len() + 1).saturating_sub(MAX_SESSIONS_PER_VIEWER);
        // A running session is displaced last.
        let (running, attempts): (Vec<_>, Vec<_>) = own
            .into_iter()
            .partition(|id| self.sessions.get(id).is_some_and(|e| e.connected));
        let mut displaced: Vec<_> = attempts.into_iter().chain(running).take(too_many).collect();
        let waits = |(_, e): &(&SessionId, &Entry)| e.offer.is_none() && !e.is_present;
        if !is_present && self.sessions.iter().filter(waits).count() >= MAX_UNANSWERED {
            let oldest = self.sessions.iter().find(waits).map(|(&id, _)| id);
            displaced.extend(oldest.filter(|id| !displaced.contains(id)));
        }
        for id in &displaced {
            self.sessions.remove(id);
        }
        let session = SessionId(self.next);
        self.next += 1;
        self.sessions.insert(
            session,
            Entry {
                viewer: viewer.clone(),
                offer,
                is_present,
                candidates: 0,
                connected: false,
            },
        );
        Admitted::New { session, displaced }
    }

    /// Returns the sessions a candidate belongs to, and keeps it for later where there is none yet.
    pub fn handle_candidate(&mut self, viewer: &Seat, candidate: &CandidateInit) -> Vec<SessionId> {
        let texts = [&candidate.sdp_mid, &candidate.username_fragment];
        let texts = texts.into_iter().flatten().map(String::len);
        if candidate.candidate.len() + texts.sum::<usize>() > MAX_CANDIDATE_BYTES {
            return Vec::new();
        }
        let ufrag = candidate.ufrag();
        let own = self.sessions.iter_mut();
        let mut own = own.filter(|(_, e)| e.viewer == *viewer && e.offer.is_some());
        let theirs: Vec<_> = match ufrag {
            Some(_) => own.filter(|(_, e)| e.ufrag() == ufrag).collect(),
            None => own.next_back().into_iter().collect(),
        };
        if !theirs.is_empty() {
            let mut taken = Vec::new();
            for (&id, entry) in theirs {
                entry.candidates += 1;
                if entry.candidates <= MAX_CANDIDATES {
                    taken.push(id);
                }
            }
            return taken;
        }
        if !self.parked.contains_key(viewer) && self.parked.len() >= MAX_PARKING_VIEWERS {
            let oldest = self.parked.iter().min_by_key(|(_, (began, _))| *began);
            if let Some(oldest) = oldest.map(|(seat, _)| seat.clone()) {
                self.parked.remove(&oldest);
            }
        }
        let began = self.parkings;
        let entry = self.parked.entry(viewer.clone()).or_insert_with(|| {
            self.parkings += 1;
            (began, Vec::new())
        });
        let (_, parked) = entry;
        if parked.len() < MAX_CANDIDATES {
            parked.push(candidate.clone());
        }
        Vec::new()
    }

    /// Returns the candidates of `session` that came before the viewer's description.
    pub fn take_parked(&mut self, session: SessionId) -> Vec<CandidateInit> {
        let Some(entry) = self.sessions.get(&session) else {
            return Vec::new();
        };
        let Some((_, parked)) = self.parked.get_mut(&entry.viewer) else {
            return Vec::new();
        };
        let is_its = |candidate: &mut CandidateInit| {
            let ufrag = candidate.ufrag();
            ufrag.is_none() || ufrag == entry.ufrag()
        };
        let taken: Vec<_> = parked.extract_if(.., is_its).collect();
        if parked.is_empty() {
            self.parked.remove(&entry.viewer);
        }
        taken
    }

    /// Records that a session is up. Returns the sessions of the same viewer that are over with it.
    pub fn handle_connected(&mut self, session: SessionId) -> Vec<SessionId> {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return Vec::new();
        };
        entry.connected = true;
        let viewer = entry.viewer.clone();
        let siblings: Vec<_> = self
            .sessions_of(&viewer)
            .into_iter()
            .filter(|&id| id != session)
            .collect();
        for id in &siblings {
            self.sessions.remove(id);
        }
        siblings
    }

    /// Records that a session is over. Returns whose it was, if it was its last.
    pub fn handle_ended(&mut self, session: SessionId) -> Option<Seat> {
        let viewer = self.sessions.remove(&session)?.viewer;
        let was_last = self.entries_of(&viewer).next().is_none();
        if was_last {
            self.parked.remove(&viewer);
        }
        was_last.then_some(viewer)
    }

    /// Records that a viewer left the room. Returns the sessions that are over with it: all of them
    /// where it said goodbye, otherwise those without media.
    pub fn handle_left(&mut self, viewer: &Seat, on_purpose: bool) -> Vec<SessionId> {
        self.parked.remove(viewer);
        let over: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, e)| e.viewer == *viewer && (on_purpose || !e.connected))
            .map(|(&id, _)| id)
            .collect();
        for id in &over {
            self.sessions.remove(id);
        }
        over
    }

    /// Returns whose session this is.
    #[must_use]
    pub fn viewer_of(&self, session: SessionId) -> Option<&Seat> {
        self.sessions.get(&session).map(|e| &e.viewer)
    }

    /// Returns whether a viewer receives media; `None` where it has no session at all.
    #[must_use]
    pub fn is_connected(&self, viewer: &Seat) -> Option<bool> {
        let connected = self.entries_of(viewer).map(|entry| entry.connected);
        connected.max()
    }

    /// Returns how many viewers there are, connected or connecting.
    #[must_use]
    pub fn viewers(&self) -> usize {
        let present = self.sessions.values().filter(|e| e.is_present);
        let viewers: BTreeSet<_> = present.map(|e| &e.viewer).collect();
        viewers.len()
    }

    fn counts(&self, viewer: &Seat) -> bool {
        self.entries_of(viewer).any(|e| e.is_present)
    }

    fn entries_of(&self, viewer: &Seat) -> impl Iterator<Item = &Entry> {
        self.sessions.values().filter(move |e| e.viewer == *viewer)
    }

    /// Returns how many viewers receive media.
    #[must_use]
    pub fn connected_viewers(&self) -> usize {
        self.sessions.values().filter(|e| e.connected).count()
    }

    fn sessions_of(&self, viewer: &Seat) -> Vec<SessionId> {
        self.sessions
            .iter()
            .filter(|(_, e)| e.viewer == *viewer)
            .map(|(&id, _)| id)
            .collect()
    }
}

impl Entry {
    fn is_of(&self, session: &str) -> bool {
        self.offer.as_ref().is_some_and(|o| o.session == session)
    }

    fn ufrag(&self) -> Option<&str> {
        self.offer.as_ref().map(|o| o.ufrag.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::{RoomIndex, ViewerId};

    fn viewer(name: &str) -> Seat {
        Seat {
            room: RoomIndex(0),
            viewer: ViewerId(name.to_owned()),
        }
    }

    fn offer(session: &str) -> Offer {
        Offer {
            session: session.to_owned(),
            ufrag: format!("u{session}"),
        }
    }

    fn candidate(ufrag: Option<&str>) -> CandidateInit {
        CandidateInit {
            candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".to_owned(),
            username_fragment: ufrag.map(str::to_owned),
            ..CandidateInit::default()
        }
    }

    fn admit(roster: &mut Roster, name: &str, session: &str) -> SessionId {
        match roster.handle_offer(&viewer(name), offer(session)) {
            Admitted::New { session, .. } | Admitted::Renegotiate(session) => session,
            Admitted::Full => panic!("full"),
        }
    }

    #[test]
    fn the_same_session_id_renegotiates_another_starts_anew() {
        let mut roster = Roster::new(8);
        let first = admit(&mut roster, "a", "1");
        let again = roster.handle_offer(&viewer("a"), offer("1"));
        assert_eq!(again, Admitted::Renegotiate(first));
        assert_ne!(admit(&mut roster, "a", "2"), first);
        assert_ne!(admit(&mut roster, "b", "1"), first, "ids are per viewer");
    }

    #[test]
    fn the_first_session_to_connect_wins() {
        let mut roster = Roster::new(8);
        let first = admit(&mut roster, "a", "1");
        let second = admit(&mut roster, "a", "2");
        assert_eq!(roster.is_connected(&viewer("a")), Some(false));
        assert_eq!(roster.handle_connected(second), [first]);
        assert_eq!(roster.is_connected(&viewer("a")), Some(true));
        assert_eq!(roster.is_connected(&viewer("b")), None);
        assert_eq!((roster.viewers(), roster.connected_viewers()), (1, 1));
    }

    #[test]
    fn a_viewer_that_offers_and_offers_holds_three_sessions_and_keeps_the_running_one() {
        let mut roster = Roster::new(8);
        let running = admit(&mut roster, "a", "0");
        roster.handle_connected(running);
        let attempts: Vec<_> = (1..=2)
            .map(|n| admit(&mut roster, "a", &n.to_string()))
            .collect();
        let third = roster.handle_offer(&viewer("a"), offer("3"));
        let Admitted::New { displaced, .. } = third else {
            panic!("{third:?}");
        };
        assert_eq!(displaced, [attempts[0]]);
    }

    #[test]
    fn one_too_many_is_refused_until_someone_leaves() {
        let mut roster = Roster::new(2);
        admit(&mut roster, "a", "1");
        admit(&mut roster, "b", "1");
        let refused = roster.handle_offer(&viewer("c"), offer("1"));
        assert_eq!(refused, Admitted::Full);
        assert_eq!(roster.handle_left(&viewer("a"), true).len(), 1);
        admit(&mut roster, "c", "1");
    }

    #[test]
    fn candidates_find_their_session_by_ufrag_even_before_the_offer() {
        let mut roster = Roster::new(8);
        let a = viewer("a");
        assert_eq!(roster.handle_candidate(&a, &candidate(Some("u1"))), []);
        let first = admit(&mut roster, "a", "1");
        let second = admit(&mut roster, "a", "2");
        assert_eq!(roster.take_parked(second).len(), 0, "not its own");
        assert_eq!(roster.take_parked(first).len(), 1);
        let session = |roster: &mut Roster, c| roster.handle_candidate(&a, &c);
        assert_eq!(session(&mut roster, candidate(Some("u1"))), [first]);
        assert_eq!(session(&mut roster, candidate(None)), [second]);
        let mut in_line = candidate(None);
        in_line
            .candidate
            .push_str(" generation 0 ufrag u1 network-cost 999");
        assert_eq!(session(&mut roster, in_line), [first]);
    }

    #[test]
    fn a_flood_of_early_candidates_is_bounded() {
        let mut roster = Roster::new(8);
        for v in 0..MAX_PARKING_VIEWERS * 2 {
            for _ in 0..MAX_CANDIDATES * 2 {
                roster.handle_candidate(&viewer(&v.to_string()), &candidate(None));
            }
        }
        assert_eq!(roster.parked.len(), MAX_PARKING_VIEWERS);
        let first = admit(&mut roster, "0", "1");
        assert_eq!(roster.take_parked(first).len(), 0, "made room");
        let last = (MAX_PARKING_VIEWERS * 2 - 1).to_string();
        let last = admit(&mut roster, &last, "1");
        assert_eq!(roster.take_parked(last).len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_flood_of_late_candidates_is_bounded_until_a_restart() {
        let mut roster = Roster::new(8);
        let session = admit(&mut roster, "a", "1");
        let a = viewer("a");
        let taken = |roster: &mut Roster, ufrag: &str| {
            (0..10_000)
                .filter(|_| {
                    !roster
                        .handle_candidate(&a, &candidate(Some(ufrag)))
                        .is_empty()
                })
                .count()
        };
        assert_eq!(taken(&mut roster, "u1"), MAX_CANDIDATES);
        let restart = Offer {
            session: "1".to_owned(),
            ufrag: "restarted".to_owned(),
        };
        let again = roster.handle_offer(&a, restart);
        assert_eq!(again, Admitted::Renegotiate(session));
        assert_eq!(taken(&mut roster, "restarted"), MAX_CANDIDATES);
    }

    #[test]
    fn a_viewer_that_tries_again_at_once_is_met_with_any_cryptography() {
        let mut roster = Roster::new(8);
        admit(&mut roster, "a", "1");
        admit(&mut roster, "b", "1");
        assert!(!roster.has_failed());
        admit(&mut roster, "a", "2");
        assert!(roster.has_failed());
    }

    #[test]
    fn where_offers_cross_both_stand_and_the_first_to_connect_wins() {
        let mut roster = Roster::new(1);
        let a = viewer("a");
        let Admitted::New { session: ours, .. } = roster.handle_call(&a, true) else {
            panic!("full");
        };
        let theirs = admit(&mut roster, "a", "1");
        assert!(!roster.has_failed(), "crossing is no failure");
        assert_eq!(roster.handle_answer(&a, offer("1")), Answered::Taken(ours));
        assert_eq!(roster.handle_answer(&a, offer("1")), Answered::Unasked);
        assert_eq!(
            roster.handle_candidate(&a, &candidate(Some("u1"))),
            [ours, theirs]
        );
        assert_eq!(roster.handle_connected(ours), [theirs]);
        let again = roster.handle_offer(&a, offer("1"));
        assert_eq!(again, Admitted::Renegotiate(ours));
    }

    #[test]
    fn an_offer_on_the_chance_counts_once_it_is_answered() {
        let mut roster = Roster::new(1);
        let Admitted::New { session, .. } = roster.handle_call(&viewer("a"), false) else {
            panic!("full");
        };
        assert_eq!(roster.viewers(), 0);
        admit(&mut roster, "b", "1");
        let answered = roster.handle_answer(&viewer("a"), offer("2"));
        assert_eq!(answered, Answered::Full(session));
    }

    #[test]
    fn a_huge_candidate_is_not_looked_at() {
        let mut roster = Roster::new(1);
        let session = admit(&mut roster, "a", "1");
        let mut huge = candidate(None);
        assert_eq!(roster.handle_candidate(&viewer("a"), &huge), [session]);
        huge.candidate.push_str(&"x".repeat(MAX_CANDIDATE_BYTES));
        assert_eq!(roster.handle_candidate(&viewer("a"), &huge), []);
        roster.handle_candidate(&viewer("b"), &huge);
        assert!(roster.parked.is_empty());
    }

    #[test]
    fn offers_on_the_chance_make_room_for_each_other() {
        let mut roster = Roster::new(1);
        let mut displaced = 0;
        for n in 0..100 {
            let admitted = roster.handle_call(&viewer(&n.to_string()), false);
            let Admitted::New { displaced: d, .. } = admitted else {
                panic!("{admitted:?}");
            };
            displaced += d.len();
        }
        assert_eq!(displaced, 100 - MAX_UNANSWERED);
        admit(&mut roster, "somebody", "1");
    }

    #[test]
    fn running_media_survives_a_lost_signaling_connection() {
        let mut roster = Roster::new(8);
        let running = admit(&mut roster, "a", "1");
        roster.handle_connected(running);
        let attempt = admit(&mut roster, "a", "2");
        assert_eq!(roster.handle_left(&viewer("a"), false), [attempt]);
        assert_eq!(roster.handle_left(&viewer("a"), true), [running]);
        assert_eq!(roster.viewers(), 0);
    }
}
