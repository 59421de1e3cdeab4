//! JSON over a plain WebSocket without rooms: what one says goes to all others, as it is.
//!
//! Pure.

use std::collections::{BTreeSet, VecDeque};

use super::{MAX_MEMBERS, Member, Output, send};

/// The server.
#[derive(Debug, Default)]
pub struct WsBroadcast {
    members: BTreeSet<Member>,
    pub(super) outputs: VecDeque<Output>,
}

impl WsBroadcast {
    pub(super) fn handle_opened(&mut self, member: Member) {
        if self.members.len() < MAX_MEMBERS {
            self.members.insert(member);
        }
    }

    pub(super) fn handle_text(&mut self, from: Member, text: &str) {
        for &other in self.members.iter().filter(|&&member| member != from) {
            send(&mut self.outputs, other, text);
        }
    }

    pub(super) fn handle_closed(&mut self, member: Member) {
        self.members.remove(&member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_to_everyone_else_who_is_there() {
        let mut server = WsBroadcast::default();
        (0..4).for_each(|member| server.handle_opened(Member(member)));
        server.handle_closed(Member(2));
        server.handle_text(Member(1), "anything");
        let text = "anything".to_owned();
        let told = |member| Output::Send {
            to: Member(member),
            text: text.clone(),
        };
        assert_eq!(server.outputs, [told(0), told(3)]);
    }
}
