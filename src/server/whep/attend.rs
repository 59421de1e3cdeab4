//! The tasks that hold WHEP sessions, and their names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, warn};

use super::headers::IfMatch;
use super::sdpfrag::Fragment;
use super::session::{Output, Patched, Problem, Session};
use crate::clock;
use crate::server::clients::Guest;
use crate::server::guesses::network_of;

/// How many sessions there may be. Each is a viewer in its room, too, and limited there.
const MAX_SESSIONS: usize = 256;

/// How many of them from one network. Not for loopback, where a proxy brings everybody.
const MAX_SESSIONS_PER_NETWORK: usize = 32;

/// How many requests may wait for one session; then their connections wait.
const MAX_QUEUED_WISHES: usize = 4;

/// How long the rooms may take to see a viewer off.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Owns all sessions until it is dropped; their media goes on without them.
pub(super) async fn run_sessions(mut begun: mpsc::Receiver<Attendance>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            session = begun.recv() => match session {
                Some(session) => { sessions.spawn(session.attend()); }
                None => return,
            },
            Some(ended) = sessions.join_next() => if let Err(error) = ended {
                warn!(%error, "a WHEP session ended by a bug of ours");
            },
        }
    }
}

/// One session and its viewer.
#[derive(Debug)]
pub(super) struct Attendance {
    pub(super) session: Session,
    pub(super) guest: Guest,
    pub(super) place: (Place, mpsc::Receiver<Wish>),
}

/// What a player wants of its session.
#[derive(Debug)]
pub(super) enum Wish {
    Patch {
        condition: Option<IfMatch>,
        fragment: Fragment,
        tag: String,
        reply: oneshot::Sender<Result<Patched, Problem>>,
    },
    Delete {
        reply: oneshot::Sender<()>,
    },
}

/// Where a session takes wishes.
pub(super) type Wishes = mpsc::Sender<Wish>;

impl Attendance {
    async fn attend(self) {
        let Self {
            mut session,
            mut guest,
            place: (place, mut wishes),
        } = self;
        // A player that does not wait for its answer does not get it.
        let mut restarting: Option<oneshot::Sender<_>> = None;
        let mut deleting: Option<oneshot::Sender<()>> = None;
        loop {
            let mut patching = None;
            let wake_at = session.poll_timeout();
            tokio::select! {
                text = guest.hear() => match text {
                    Some(text) => session.handle_text(&text, clock::now()),
                    None => session.handle_closed(),
                },
                Some(wish) = wishes.recv() => match wish {
                    Wish::Patch { condition, fragment, tag, reply } => {
                        patching = Some(reply);
                        session.handle_patch(condition.as_ref(), fragment, tag, clock::now());
                    }
                    Wish::Delete { reply } => {
                        deleting = Some(reply);
                        session.handle_delete();
                    }
                },
                () = sleep_until(wake_at.unwrap_or_else(clock::now).into()), if wake_at.is_some() => {
                    session.handle_timeout(clock::now());
                }
            }
            while let Some(output) = session.poll_output(clock::now()) {
                match output {
                    Output::Say(text) => {
                        if !guest.say(text).await {
                            return;
                        }
                    }
                    Output::Patched(outcome) => {
                        if let Some(reply) = patching.take().or_else(|| restarting.take()) {
                            reply.send(outcome).ok();
                        }
                    }
                    Output::Over => {
                        debug!(client = ?guest.client(), "WHEP session ended");
                        drop(place);
                        // The goodbye counts once the rooms have closed the viewer.
                        let goodbye = async { while guest.hear().await.is_some() {} };
                        if let Some(reply) = deleting {
                            timeout(GOODBYE_TIMEOUT, goodbye).await.unwrap_or_default();
                            reply.send(()).ok();
                        }
                        return;
                    }
                }
            }
            restarting = patching.or(restarting);
        }
    }
}

/// All sessions by name.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    room: String,
    network: IpAddr,
    wishes: Wishes,
}

/// A session's right to its name, which means nothing any more once this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    sessions: Arc<Sessions>,
    /// 128 random bits: who knows it may change the session.
    pub(super) name: String,
}

impl Sessions {
    /// Takes a place for a session of a player at `address`; `None` if there is none.
    pub(super) fn open(
        sessions: &Arc<Self>,
        room: &str,
        address: IpAddr,
    ) -> Option<(Place, mpsc::Receiver<Wish>)> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let network = network_of(address);
        let mut entries = sessions.entries();
        let same = entries.values().filter(|e| e.network == network).count();
        let is_crowded = !network.is_loopback() && same >= MAX_SESSIONS_PER_NETWORK;
        if is_crowded || entries.len() >= MAX_SESSIONS {
            return None;
        }
        let (wishes, queue) = mpsc::channel(MAX_QUEUED_WISHES);
        let entry = Entry {
            room: room.to_owned(),
            network,
            wishes,
        };
        entries.insert(name.clone(), entry);
        drop(entries);
        let sessions = Arc::clone(sessions);
        Some((Place { sessions, name }, queue))
    }

    pub(super) fn find(&self, room: &str, name: &str) -> Option<Wishes> {
        let entries = self.entries();
        let entry = entries.get(name).filter(|e| e.room == room)?;
        Some(entry.wishes.clone())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.entries().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_32_sessions_and_all_have_256() {
        let sessions = Arc::new(Sessions::default());
        let from = |a: u8, b: u8| IpAddr::from([192, 0, a, b]);
        let mut places = Vec::new();
        for _ in 0..32 {
            places.push(Sessions::open(&sessions, "cam", from(2, 1)).unwrap());
        }
        assert!(Sessions::open(&sessions, "cam", from(2, 1)).is_none());
        for n in 32..256 {
            let address = from(3, u8::try_from(n).unwrap());
            places.push(Sessions::open(&sessions, "cam", address).unwrap());
        }
        assert!(Sessions::open(&sessions, "cam", from(2, 2)).is_none());
        let name = places.pop().unwrap().0.name.clone();
        assert!(sessions.find("cam", &name).is_none());
        let again = Sessions::open(&sessions, "cam", from(2, 2)).unwrap();
        let name = again.0.name.clone();
        assert!(sessions.find("cam", &name).is_some() && name.len() == 32);
        assert!(sessions.find("attic", &name).is_none());
    }
}
