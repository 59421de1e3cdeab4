//! Who may watch, how many, and which of a viewer's peer connections counts.
//!
//! A viewer may make a new peer connection while an old one still lives: it reloads, restarts or
//! was cut off. Each offer with a session id of its own gets a session of its own; the first to
//! connect wins, and its siblings are closed. Pure.

use std::collections::{BTreeMap, HashMap};

use super::offer::{MAX_CANDIDATES, Offer};
use crate::signaling::{CandidateInit, ViewerId};

/// Most sessions of one viewer: a running one and two attempts to replace it.
pub const MAX_SESSIONS_PER_VIEWER: usize = 3;

/// Most viewers with parked candidates.
const MAX_PARKING_VIEWERS: usize = 256;

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

/// All sessions.
#[derive(Debug)]
pub struct Roster {
    max_viewers: usize,
    next: u64,
    sessions: BTreeMap<SessionId, Entry>,
    parked: HashMap<ViewerId, Vec<CandidateInit>>,
    has_failed: bool,
}

#[derive(Debug)]
struct Entry {
    viewer: ViewerId,
    offer: Offer,
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
            parked: HashMap::new(),
            has_failed: false,
        }
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
    pub fn handle_offer(&mut self, viewer: &ViewerId, offer: Offer) -> Admitted {
        if let Some((&session, entry)) = self
            .sessions
            .iter_mut()
            .find(|(_, e)| e.viewer == *viewer && e.offer.session == offer.session)
        {
            if entry.offer.ufrag != offer.ufrag {
                entry.candidates = 0;
            }
            entry.offer = offer;
            return Admitted::Renegotiate(session);
        }
        let own = self.sessions_of(viewer);
        // It tries again before the first attempt is up: perhaps for want of common cryptography.
        self.has_failed |= own
            .iter()
            .any(|id| self.sessions.get(id).is_some_and(|e| !e.connected));
        if own.is_empty() && self.viewers() >= self.max_viewers {
            self.parked.remove(viewer);
            return Admitted::Full;
        }
        let too_many = (own.len() + 1).saturating_sub(MAX_SESSIONS_PER_VIEWER);
        // A running session is displaced last.
        let (running, attempts): (Vec<_>, Vec<_>) = own
            .into_iter()
            .partition(|id| self.sessions.get(id).is_some_and(|e| e.connected));
        let displaced: Vec<_> = attempts.into_iter().chain(running).take(too_many).collect();
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
                candidates: 0,
                connected: false,
            },
        );
        Admitted::New { session, displaced }
    }

    /// Returns the session a candidate belongs to, and keeps it for later where there is none yet.
    pub fn handle_candidate(
        &mut self,
        viewer: &ViewerId,
        candidate: &CandidateInit,
    ) -> Option<SessionId> {
        let ufrag = candidate
            .username_fragment
            .as_deref()
            .or_else(|| ufrag_of_line(&candidate.candidate));
        let own = || self.sessions.iter().filter(|(_, e)| e.viewer == *viewer);
        let by_ufrag = own().find(|(_, e)| ufrag == Some(e.offer.ufrag.as_str()));
        let session = match ufrag {
            Some(_) => by_ufrag,
            None => own().next_back(),
        };
        if let Some((&id, _)) = session {
            let entry = self.sessions.get_mut(&id)?;
            entry.candidates += 1;
            return (entry.candidates <= MAX_CANDIDATES).then_some(id);
        }
        let parking = self.parked.len();
        let parked = match self.parked.get_mut(viewer) {
            Some(parked) => parked,
            None if parking < MAX_PARKING_VIEWERS => self.parked.entry(viewer.clone()).or_default(),
            None => return None,
        };
        if parked.len() < MAX_CANDIDATES {
            parked.push(candidate.clone());
        }
        None
    }

    /// Returns the candidates that came before the viewer's offer.
    pub fn take_parked(&mut self, viewer: &ViewerId) -> Vec<CandidateInit> {
        self.parked.remove(viewer).unwrap_or_default()
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

    /// Records that a session is over.
    pub fn handle_ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Records that a viewer left the room. Returns the sessions that are over with it: all of them
    /// where it said goodbye, otherwise those without media.
    pub fn handle_left(&mut self, viewer: &ViewerId, on_purpose: bool) -> Vec<SessionId> {
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
    pub fn viewer_of(&self, session: SessionId) -> Option<&ViewerId> {
        self.sessions.get(&session).map(|e| &e.viewer)
    }

    /// Returns how many viewers there are, connected or connecting.
    #[must_use]
    pub fn viewers(&self) -> usize {
        let mut viewers: Vec<_> = self.sessions.values().map(|e| &e.viewer).collect();
        viewers.sort_unstable();
        viewers.dedup();
        viewers.len()
    }

    /// Returns how many viewers receive media.
    #[must_use]
    pub fn connected_viewers(&self) -> usize {
        self.sessions.values().filter(|e| e.connected).count()
    }

    fn sessions_of(&self, viewer: &ViewerId) -> Vec<SessionId> {
        self.sessions
            .iter()
            .filter(|(_, e)| e.viewer == *viewer)
            .map(|(&id, _)| id)
            .collect()
    }
}

/// The ` ufrag X` of a candidate line (RFC 8839 §5.1).
fn ufrag_of_line(candidate: &str) -> Option<&str> {
    let mut words = candidate.split(' ');
    words.find(|&word| word == "ufrag")?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(name: &str) -> ViewerId {
        ViewerId(name.to_owned())
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
        assert_eq!(roster.handle_connected(second), [first]);
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
        assert_eq!(roster.handle_candidate(&a, &candidate(Some("u1"))), None);
        let first = admit(&mut roster, "a", "1");
        let second = admit(&mut roster, "a", "2");
        assert_eq!(roster.take_parked(&a).len(), 1);
        let session = |roster: &mut Roster, c| roster.handle_candidate(&a, &c);
        assert_eq!(session(&mut roster, candidate(Some("u1"))), Some(first));
        assert_eq!(session(&mut roster, candidate(None)), Some(second));
        let mut in_line = candidate(None);
        in_line
            .candidate
            .push_str(" generation 0 ufrag u1 network-cost 999");
        assert_eq!(session(&mut roster, in_line), Some(first));
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
        assert_eq!(roster.take_parked(&viewer("0")).len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_flood_of_late_candidates_is_bounded_until_a_restart() {
        let mut roster = Roster::new(8);
        let session = admit(&mut roster, "a", "1");
        let a = viewer("a");
        let taken = |roster: &mut Roster, ufrag: &str| {
            (0..10_000)
                .filter(|_| {
                    roster
                        .handle_candidate(&a, &candidate(Some(ufrag)))
                        .is_some()
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
