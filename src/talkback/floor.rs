//! Who may speak, how many at once and for how long, and when the microphone is silent meanwhile.
//!
//! ```text
//!   listening ──ask, may speak──▶ speaking ──release, gone, MAX_SPEECH──▶ listening
//! ```
//!
//! Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{Duplex, Secret, Talkback};
use crate::viewer::roster::SessionId;

/// Most viewers who are heard at once. More are not understood.
pub const MAX_SPEAKERS: usize = 4;

/// A button that is held longer than two minutes is stuck, or forgotten.
pub const MAX_SPEECH: Duration = Duration::from_secs(120);

/// How long a viewer's next key is not looked at after a wrong one.
pub const WRONG_KEY_WAIT: Duration = Duration::from_secs(1);

/// How long the microphone stays silent after the last word: what waits in the jitter buffer (up to
/// 200 ms) and in the loudspeaker's (80 ms), and the room's echo of it.
pub const DUCK_RELEASE: Duration = Duration::from_millis(500);

/// Why a viewer may not speak. The messages are shown to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No loudspeaker is configured.
    #[error("nobody can speak here: talkback.sink names no loudspeaker")]
    Off,
    /// Speaking needs a key, and this is not it.
    #[error("speaking needs a key of its own, in the link as &talk=KEY")]
    WrongKey,
    /// As many speak as may.
    #[error("{MAX_SPEAKERS} others are speaking: wait until one of them has finished")]
    Taken,
    /// The loudspeaker's thread does not keep up.
    #[error("the loudspeaker does not answer")]
    Stuck,
}

impl Refusal {
    /// Returns the machine-readable code of `docs/control.md`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Off => "no-talkback",
            Self::WrongKey => "wrong-talk-key",
            Self::Taken => "floor-taken",
            Self::Stuck => "no-speaker",
        }
    }
}

/// Those who speak.
#[derive(Debug)]
pub struct Floor {
    settings: Talkback,
    /// Until when each may speak.
    speakers: BTreeMap<SessionId, Instant>,
    /// From when on a key is looked at again.
    barred: BTreeMap<SessionId, Instant>,
    /// Until when the microphone is silent after the last word.
    echo_until: Option<Instant>,
}

impl Floor {
    /// Creates the floor of a device where nobody speaks.
    #[must_use]
    pub const fn new(settings: Talkback) -> Self {
        Self {
            settings,
            speakers: BTreeMap::new(),
            barred: BTreeMap::new(),
            echo_until: None,
        }
    }

    /// Takes other settings. Those who spoke by the old ones are to be stopped by the caller, if this
    /// returns true.
    pub fn configure(&mut self, settings: &Talkback) -> bool {
        let changed = self.settings != *settings;
        self.settings.clone_from(settings);
        changed
    }

    /// Returns the settings.
    #[must_use]
    pub const fn settings(&self) -> &Talkback {
        &self.settings
    }

    /// A viewer wants to speak. Returns whether it is news that it does.
    ///
    /// # Errors
    ///
    /// [`Refusal`], for the viewer to be told.
    pub fn ask(&mut self, viewer: SessionId, key: &Secret, now: Instant) -> Result<bool, Refusal> {
        if !self.settings.is_there() {
            return Err(Refusal::Off);
        }
        if self.speakers.contains_key(&viewer) {
            return Ok(false);
        }
        if !self.settings.key.is_empty() {
            let is_barred = self.barred.get(&viewer).is_some_and(|until| now < *until);
            if is_barred {
                return Err(Refusal::WrongKey);
            }
            if !self.settings.key.matches(key.expose()) {
                self.barred.insert(viewer, now + WRONG_KEY_WAIT);
                return Err(Refusal::WrongKey);
            }
        }
        if self.speakers.len() >= MAX_SPEAKERS {
            return Err(Refusal::Taken);
        }
        self.speakers.insert(viewer, now + MAX_SPEECH);
        Ok(true)
    }

    /// A viewer has finished. Returns whether it spoke.
    pub fn release(&mut self, viewer: SessionId, now: Instant) -> bool {
        let spoke = self.speakers.remove(&viewer).is_some();
        if spoke && self.speakers.is_empty() {
            self.echo_until = Some(now + DUCK_RELEASE);
        }
        spoke
    }

    /// A viewer is gone. Returns whether it spoke.
    pub fn forget(&mut self, viewer: SessionId, now: Instant) -> bool {
        self.barred.remove(&viewer);
        self.release(viewer, now)
    }

    /// Returns those who have spoken for too long; they are to be released.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<SessionId> {
        let speakers = self.speakers.iter();
        let overdue = speakers.filter(|(_, until)| **until <= now);
        overdue.map(|(viewer, _)| *viewer).collect()
    }

    /// Returns those who speak.
    #[must_use]
    pub fn speakers(&self) -> Vec<SessionId> {
        self.speakers.keys().copied().collect()
    }

    /// Returns how many speak.
    #[must_use]
    pub fn speaking(&self) -> usize {
        self.speakers.len()
    }

    /// Returns whether the microphone is to be silent.
    #[must_use]
    pub fn is_ducked(&self, now: Instant) -> bool {
        let echoes = self.echo_until.is_some_and(|until| now < until);
        self.settings.duplex == Duplex::Half && (!self.speakers.is_empty() || echoes)
    }

    /// Returns when [`Self::overdue`] or [`Self::is_ducked`] changes by itself, and forgets what is
    /// over by `now`.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        self.echo_until = self.echo_until.filter(|until| now < *until);
        let speakers = self.speakers.values().copied();
        speakers.chain(self.echo_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn settings(key: &str, duplex: Duplex) -> Talkback {
        Talkback {
            sink: "auto".to_owned(),
            duplex,
            key: Secret::new(key.to_owned()),
        }
    }

    fn floor() -> Floor {
        Floor::new(settings("", Duplex::Half))
    }

    fn no_key() -> Secret {
        Secret::default()
    }

    #[test]
    fn nobody_speaks_where_it_is_not_configured() {
        let mut floor = Floor::new(Talkback::default());
        let refused = floor.ask(SessionId(1), &no_key(), clock::now());
        assert_eq!(refused, Err(Refusal::Off));
        assert!(!floor.is_ducked(clock::now()));
    }

    #[test]
    fn who_knows_the_key_may_speak_and_nobody_tries_many() {
        let t0 = clock::now();
        let mut floor = Floor::new(settings("open sesame", Duplex::Half));
        let right = Secret::new("open sesame".to_owned());
        let wrong = Secret::new("open simsim".to_owned());
        assert_eq!(floor.ask(SessionId(1), &right, t0), Ok(true));
        let (viewer, refused) = (SessionId(2), Err(Refusal::WrongKey));
        assert_eq!(floor.ask(viewer, &no_key(), t0), refused);
        assert_eq!(floor.ask(viewer, &right, t0), refused, "not looked at");
        assert_eq!(floor.ask(SessionId(3), &wrong, t0), refused);
        let later = t0 + WRONG_KEY_WAIT;
        assert_eq!(floor.ask(viewer, &right, later), Ok(true));
        assert_eq!(floor.speaking(), 2);
    }

    #[test]
    fn four_speak_at_once_and_the_fifth_waits() {
        let t0 = clock::now();
        let mut floor = floor();
        for n in 0..4 {
            assert_eq!(floor.ask(SessionId(n), &no_key(), t0), Ok(true));
            assert_eq!(floor.ask(SessionId(n), &no_key(), t0), Ok(false), "twice");
        }
        assert_eq!(floor.ask(SessionId(9), &no_key(), t0), Err(Refusal::Taken));
        assert!(floor.release(SessionId(2), t0));
        assert!(!floor.release(SessionId(2), t0));
        assert_eq!(floor.ask(SessionId(9), &no_key(), t0), Ok(true));
    }

    #[test]
    fn the_microphone_is_silent_while_somebody_speaks_and_a_little_longer() {
        let t0 = clock::now();
        let mut floor = floor();
        for n in 0..2 {
            floor.ask(SessionId(n), &no_key(), t0).unwrap();
        }
        floor.forget(SessionId(0), t0);
        assert!(floor.is_ducked(t0 + DUCK_RELEASE));
        floor.release(SessionId(1), t0);
        let over = t0 + DUCK_RELEASE;
        assert_eq!(floor.poll_timeout(t0), Some(over));
        assert!(floor.is_ducked(t0) && !floor.is_ducked(over));
        assert_eq!(floor.poll_timeout(over), None);
        floor.configure(&settings("", Duplex::Full));
        floor.ask(SessionId(1), &no_key(), t0).unwrap();
        assert!(!floor.is_ducked(t0));
    }

    #[test]
    fn a_stuck_button_is_released() {
        let t0 = clock::now();
        let mut floor = floor();
        floor.ask(SessionId(1), &no_key(), t0).unwrap();
        let until = t0 + MAX_SPEECH;
        assert_eq!(floor.poll_timeout(t0), Some(until));
        assert!(floor.overdue(until - Duration::from_millis(1)).is_empty());
        assert_eq!(floor.overdue(until), [SessionId(1)]);
    }
}
