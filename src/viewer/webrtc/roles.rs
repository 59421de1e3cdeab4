//! Who nominates, where both sides think the same of it (RFC 8445 §7.3.1.1, §7.2.5.1).
//!
//! A page that was called keeps the role of the one called for as long as its peer connection lives. Calls it
//! a device that was restarted, both are controlled. `rtc` repairs that badly: it answers every check
//! with 487 (Role Conflict) and changes its own role besides, so that both change; and it passes over
//! the 487 of others. So its 487 are not sent, and one of the viewer's is turned into what `rtc` does
//! understand: a check that wins against ours. Pure.

use crate::turn::message::{Message, Writer, attribute, class, is_stun, method};

const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;
const ROLE_CONFLICT: u16 = 487;

/// How often a viewer may make us change our role: once is enough.
const MAX_CHANGES: u8 = 4;

/// The two sides of one ICE session.
#[derive(Debug, Default)]
pub(super) struct Roles {
    ours: Option<Credentials>,
    theirs: Option<Credentials>,
    /// What our last check said.
    is_controlling: bool,
    changes: u8,
}

struct Credentials {
    ufrag: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Roles {
    /// Takes note of both descriptions.
    pub(super) fn handle_descriptions(&mut self, ours: &str, theirs: &str) {
        self.ours = credentials(ours);
        self.theirs = credentials(theirs);
    }

    /// Returns whether a datagram of `rtc`'s is to be sent.
    pub(super) fn may_send(&mut self, datagram: &[u8]) -> bool {
        let Some(message) = read(datagram) else {
            return true;
        };
        if message.kind == method::BINDING | class::REQUEST {
            self.is_controlling = message.attribute(ICE_CONTROLLING).is_some();
        }
        message.kind != method::BINDING | class::ERROR
    }

    /// Takes a datagram of the viewer's. Returns one to hand to `rtc` instead, if it is a 487.
    pub(super) fn handle_datagram(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let message = read(datagram)?;
        let (ours, theirs) = (self.ours.as_ref()?, self.theirs.as_ref()?);
        let is_conflict = message.kind == method::BINDING | class::ERROR
            && message.error_code() == Some(ROLE_CONFLICT)
            && message.is_signed_with(theirs.password.as_bytes());
        if !is_conflict || self.changes >= MAX_CHANGES {
            return None;
        }
        self.changes += 1;
        // The same role as ours, with the tie-breaker that makes us give ours up.
        let (role, tie_breaker) = if self.is_controlling {
            (ICE_CONTROLLING, u64::MAX)
        } else {
            (ICE_CONTROLLED, 0)
        };
        let user = format!("{}:{}", ours.ufrag, theirs.ufrag);
        let check = Writer::new(method::BINDING | class::REQUEST, message.transaction)
            .with(attribute::USERNAME, user.as_bytes())
            .with(role, &tie_breaker.to_be_bytes())
            .signed(ours.password.as_bytes());
        Some(check)
    }
}

fn read(datagram: &[u8]) -> Option<Message<'_>> {
    if is_stun(datagram) {
        Message::read(datagram)
    } else {
        None
    }
}

fn credentials(sdp: &str) -> Option<Credentials> {
    let attribute = |name| sdp.lines().find_map(|line| line.strip_prefix(name));
    Some(Credentials {
        ufrag: attribute("a=ice-ufrag:")?.to_owned(),
        password: attribute("a=ice-pwd:")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "a=ice-ufrag:us\r\na=ice-pwd:our password\r\n";
    const THEIRS: &str = "a=ice-ufrag:them\r\na=ice-pwd:their password\r\n";

    fn check(role: u16) -> Vec<u8> {
        Writer::new(method::BINDING | class::REQUEST, [1; 12])
            .with(role, &7_u64.to_be_bytes())
            .signed(b"their password")
    }

    fn conflict(password: &str) -> Vec<u8> {
        Writer::new(method::BINDING | class::ERROR, [1; 12])
            .with(attribute::ERROR_CODE, &[0, 0, 4, 87])
            .signed(password.as_bytes())
    }

    fn roles() -> Roles {
        let mut roles = Roles::default();
        roles.handle_descriptions(OURS, THEIRS);
        roles
    }

    #[test]
    fn a_487_becomes_a_check_that_wins() {
        for (role, tie_breaker) in [(ICE_CONTROLLED, 0), (ICE_CONTROLLING, u64::MAX)] {
            let mut roles = roles();
            assert!(roles.may_send(&check(role)));
            let check = roles.handle_datagram(&conflict("their password")).unwrap();
            let check = Message::read(&check).unwrap();
            assert_eq!(check.kind, method::BINDING | class::REQUEST);
            assert_eq!(check.attribute(role), Some(&tie_breaker.to_be_bytes()[..]));
            assert_eq!(check.attribute(attribute::USERNAME), Some(&b"us:them"[..]));
            assert!(check.is_signed_with(b"our password"));
        }
    }

    #[test]
    fn a_487_of_strangers_changes_nothing_and_one_of_the_viewers_little() {
        let mut roles = roles();
        assert_eq!(roles.handle_datagram(&conflict("a guess")), None);
        let conflict = conflict("their password");
        let changes = (0..100).filter(|_| roles.handle_datagram(&conflict).is_some());
        assert_eq!(changes.count(), usize::from(MAX_CHANGES));
        assert_eq!(Roles::default().handle_datagram(&conflict), None);
    }

    #[test]
    fn our_own_487_stay_here_and_all_else_goes_out() {
        let mut roles = roles();
        assert!(!roles.may_send(&conflict("our password")));
        assert!(roles.may_send(&check(ICE_CONTROLLED)));
        assert!(roles.may_send(&[0x80, 1, 2, 3]));
        assert!(roles.may_send(&[]));
    }
}
