//! What waits for a TURN server. A stream to a slow one takes less than we have to say; media that waited
//! for too long is of no use to a viewer and delays what comes behind it.
//!
//! Pure but for the channel.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock;
use crate::turn::message::{Message, class};

/// How many messages may wait for one server: a keyframe for 16 viewers.
const MAX_MESSAGES: usize = 2_048;

/// How many of them are kept for requests: on a stream they are not repeated, and one that is lost looks
/// like a server that is gone. Each address of a viewer has two, and all may be due at once.
const RESERVED_MESSAGES: usize = 512;

/// How long media may wait. Viewers have asked for it again by then, and a jitter buffer that waits for
/// longer is a picture that stands.
const MAX_MEDIA_AGE: Duration = Duration::from_millis(500);

/// The engine's end.
#[derive(Debug)]
pub(super) struct Sender(mpsc::Sender<Queued>);

/// The connection's end.
#[derive(Debug)]
pub(super) struct Outgoing(mpsc::Receiver<Queued>);

#[derive(Debug)]
struct Queued {
    message: Vec<u8>,
    is_request: bool,
    at: Instant,
}

pub(super) fn queue() -> (Sender, Outgoing) {
    let (sender, receiver) = mpsc::channel(MAX_MESSAGES);
    (Sender(sender), Outgoing(receiver))
}

impl Sender {
    /// Returns whether there is room for `message`.
    pub(super) fn post(&self, message: Vec<u8>, now: Instant) -> bool {
        const CLASS: u16 = 0x110;
        let is_request =
            Message::read(&message).is_some_and(|message| message.kind & CLASS == class::REQUEST);
        let reserved = if is_request { 0 } else { RESERVED_MESSAGES };
        let queued = Queued {
            message,
            is_request,
            at: now,
        };
        // full: newest lost; viewers ask for packets again
        self.0.capacity() > reserved && self.0.try_send(queued).is_ok()
    }
}

impl Outgoing {
    /// Waits for the next message that is worth sending; `None` once the engine has closed the queue and
    /// it is empty. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let mut dropped = 0;
        loop {
            let queued = self.0.recv().await?;
            if !queued.is_stale(clock::now()) {
                if dropped > 0 {
                    tracing::debug!(dropped, "the TURN server is too slow");
                }
                return Some(queued.message);
            }
            dropped += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Queued {
    fn is_stale(&self, now: Instant) -> bool {
        !self.is_request && now.saturating_duration_since(self.at) > MAX_MEDIA_AGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::message::{Writer, channel_data, method};

    fn media() -> Vec<u8> {
        channel_data(0x4000, &[0x80; 1_200], true)
    }

    fn check() -> Vec<u8> {
        Writer::new(method::SEND | class::INDICATION, [1; 12]).unsigned()
    }

    fn refresh() -> Vec<u8> {
        Writer::new(method::REFRESH | class::REQUEST, [1; 12]).unsigned()
    }

    #[test]
    fn requests_find_room_where_media_does_not() {
        let now = clock::now();
        let (sender, _outgoing) = queue();
        while sender.post(media(), now) {}
        assert_eq!(sender.0.capacity(), RESERVED_MESSAGES);
        assert!(!sender.post(check(), now));
        assert!(sender.post(refresh(), now));
    }

    #[test]
    fn media_that_waited_too_long_is_dropped_and_requests_are_not() {
        let now = clock::now();
        let (sender, mut outgoing) = queue();
        for (message, goes_stale) in [(media(), true), (check(), true), (refresh(), false)] {
            assert!(sender.post(message, now));
            let queued = outgoing.0.try_recv().unwrap();
            assert!(!queued.is_stale(now + MAX_MEDIA_AGE));
            let late = now + MAX_MEDIA_AGE + Duration::from_millis(1);
            assert_eq!(queued.is_stale(late), goes_stale);
        }
    }

    #[tokio::test]
    async fn what_is_worth_sending_comes_in_order() {
        let now = clock::now();
        let (sender, mut outgoing) = queue();
        for message in [media(), refresh(), check()] {
            assert!(sender.post(message, now));
        }
        drop(sender);
        for message in [media(), refresh(), check()] {
            assert_eq!(outgoing.next().await, Some(message));
        }
        assert_eq!(outgoing.next().await, None);
    }
}
