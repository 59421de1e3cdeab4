//! Packets as they come from a network → one after the other, as they were spoken.
//!
//! ```text
//!   gathering ──enough, or long enough──▶ playing ──nothing for MAX_CONCEALED──▶ gathering
//! ```
//!
//! Whoever plays pulls a [`Step`] whenever more sound is needed, so there is no clock here: a pull is
//! as long as what it gives. Loss is told from lateness by what is there: where a later packet is, the
//! one before it is lost and made up for; where none is, the last sound goes on for a moment
//! and the place is kept, so that a network that stutters delays what is said and swallows nothing.
//! A sender that pauses on purpose (DTX) leaves out timestamps, but no sequence number.
//!
//! What waits is kept near a target, which is a frame longer after each stutter and shorter after a
//! while without: frames are stretched a little, by which also the sender's clock and the
//! loudspeaker's are kept together. Beyond [`MAX_WAITING`] the oldest is dropped. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::packet;
use crate::rtp::SpeechPacket;

/// 20 ms, in samples.
const FRAME: i64 = 960;

/// What is gathered before the first word is played. Of a phone's Wi-Fi, nine packets of ten are less
/// than 40 ms late.
const FIRST_TARGET: i64 = 3 * FRAME;
const MIN_TARGET: i64 = 2 * FRAME;
const MAX_TARGET: i64 = 6 * FRAME;

/// Beyond 200 ms the oldest is dropped: who answers what was said must not be kept waiting.
pub const MAX_WAITING: i64 = 10 * FRAME;

/// Most packets that are kept: more than [`MAX_WAITING`] has of the shortest, of 2.5 ms.
pub const MAX_PACKETS: usize = 100;

/// How long the last sound is drawn out where nothing comes, and the longest loss that is made up for.
/// The decoder fades it out.
const MAX_CONCEALED: i64 = 5 * FRAME;

/// A timestamp further away than 2 s is not of the same stream: the sender began anew.
const MAX_JUMP: i64 = 100 * FRAME;

/// How long what waits is watched before frames are stretched, in pulls: a second.
const WINDOW: u32 = 50;

/// The target sinks by a frame after as many windows without a stutter: 10 s.
const CALM_WINDOWS: u32 = 10;

/// A frame is stretched by up to these: 0.4 %, which nobody hears, while what waits is less than
/// three frames off its target; 5 %, less than a semitone, beyond.
const LITTLE: i64 = 4;
const MUCH: i64 = 48;
const FAR_OFF: i64 = 3 * FRAME;

/// What is to be played next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing, for so many samples.
    Silence(u32),
    /// This packet.
    Packet {
        /// The Opus packet.
        payload: Bytes,
        /// How many samples it has.
        samples: u32,
        /// How many more it is to be played as; negative: fewer.
        stretch: i32,
    },
    /// What was lost before this packet, which itself comes next.
    Before {
        /// The Opus packet after it.
        payload: Bytes,
        /// How many samples are lost.
        samples: u32,
    },
    /// Something lost or late: so many samples like what was played last.
    Lost(u32),
}

/// The packets of one sender that wait to be played.
#[derive(Debug)]
pub struct Jitter {
    /// By the time of their first sample, which does not wrap.
    packets: BTreeMap<i64, Waiting>,
    ssrc: Option<u32>,
    /// The newest timestamp, and what it is without wrapping.
    newest: (u32, i64),
    /// Where playing has come to; `None` before the first packet was played.
    position: Option<i64>,
    last_sequence_number: u16,
    is_playing: bool,
    /// How long we have gathered, since there was something.
    gathered: i64,
    /// How much was made up at this position for want of a packet.
    concealed: i64,
    target: i64,
    stretch: i64,
    window: Window,
    calm_windows: u32,
}

#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    sequence_number: u16,
    samples: u32,
}

/// The least that waited lately.
#[derive(Debug)]
struct Window {
    pulls: u32,
    least: i64,
}

impl Window {
    const NEW: Self = Self {
        pulls: 0,
        least: i64::MAX,
    };
}

impl Default for Jitter {
    fn default() -> Self {
        Self {
            packets: BTreeMap::new(),
            ssrc: None,
            newest: (0, 0),
            position: None,
            last_sequence_number: 0,
            is_playing: false,
            gathered: 0,
            concealed: 0,
            target: FIRST_TARGET,
            stretch: 0,
            window: Window::NEW,
            calm_windows: 0,
        }
    }
}

impl Jitter {
    /// Takes a packet. One that is too late, is there already or is none is passed over.
    pub fn push(&mut self, packet: SpeechPacket) {
        let Some(samples) = packet::duration(&packet.payload) else {
            return;
        };
        let (stamp, at) = self.newest;
        let step = packet.timestamp.wrapping_sub(stamp).cast_signed();
        let mut at = at + i64::from(step);
        let near = self.position.unwrap_or(self.newest.1);
        if self.ssrc != Some(packet.ssrc) || (at - near).abs() > MAX_JUMP {
            let target = self.target;
            *self = Self {
                ssrc: Some(packet.ssrc),
                newest: (packet.timestamp, 0),
                target,
                ..Self::default()
            };
            at = 0;
        }
        if self.position.is_some_and(|position| at < position) {
            self.stuttered();
            return;
        }
        if at > self.newest.1 {
            self.newest = (packet.timestamp, at);
        }
        self.packets.entry(at).or_insert(Waiting {
            payload: packet.payload,
            sequence_number: packet.sequence_number,
            samples,
        });
        if self.waiting() > MAX_WAITING || self.packets.len() > MAX_PACKETS {
            self.drop_oldest();
        }
    }

    /// Returns what is to be played next.
    pub fn pull(&mut self) -> Step {
        if !self.is_playing {
            if self.packets.is_empty() {
                return silence(FRAME);
            }
            if self.waiting() < self.target && self.gathered < self.target {
                self.gathered += FRAME;
                return silence(FRAME);
            }
            self.is_playing = true;
            self.window = Window::NEW;
            self.stretch = 0;
            self.position = self.packets.keys().next().copied();
        }
        let position = self.position.unwrap_or_default();
        let Some((&at, next)) = self.packets.first_key_value() else {
            return self.starve();
        };
        // Played already, for want of it.
        let made_up = (at - position).clamp(0, self.concealed);
        self.concealed -= made_up;
        let position = position + made_up;
        let missing = at - position;
        let is_pause = next.sequence_number == self.last_sequence_number.wrapping_add(1);
        if missing <= 0 || missing > MAX_CONCEALED {
            return self.play(at);
        }
        let lost = missing.min(FRAME);
        self.position = Some(position + lost);
        if is_pause {
            return silence(lost);
        }
        if missing <= i64::from(next.samples) {
            self.position = Some(at);
            return Step::Before {
                payload: next.payload.clone(),
                samples: samples(missing),
            };
        }
        Step::Lost(samples(lost))
    }

    /// Returns whether there is nothing left to play.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Returns how long it takes to play what waits, in samples.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        let first = self.packets.keys().next();
        let (Some(first), Some((last, newest))) = (first, self.packets.last_key_value()) else {
            return 0;
        };
        let from = self.position.filter(|_| self.is_playing).unwrap_or(*first);
        last + i64::from(newest.samples) - from
    }

    fn play(&mut self, at: i64) -> Step {
        let Some(Waiting {
            payload,
            sequence_number,
            samples,
        }) = self.packets.remove(&at)
        else {
            return silence(FRAME);
        };
        self.last_sequence_number = sequence_number;
        self.position = Some(at + i64::from(samples));
        // Late, but the next one: nothing was lost.
        if std::mem::take(&mut self.concealed) > 0 {
            self.stuttered();
        }
        self.watch();
        let stretch = i32::try_from(self.stretch).unwrap_or_default();
        Step::Packet {
            payload,
            samples,
            stretch,
        }
    }

    /// Nothing is there: late, lost, or the sender has paused.
    fn starve(&mut self) -> Step {
        if self.concealed >= MAX_CONCEALED {
            self.is_playing = false;
            self.gathered = 0;
            self.concealed = 0;
            return silence(FRAME);
        }
        self.concealed += FRAME;
        Step::Lost(samples(FRAME))
    }

    fn stuttered(&mut self) {
        self.target = (self.target + FRAME).min(MAX_TARGET);
        self.calm_windows = 0;
    }

    /// Follows how much waits, and decides how the next frames are stretched.
    fn watch(&mut self) {
        let waiting = self.waiting();
        self.window.least = self.window.least.min(waiting);
        self.window.pulls += 1;
        if self.window.pulls < WINDOW {
            return;
        }
        // A frame was taken just now.
        let excess = self.window.least - (self.target - FRAME);
        self.window = Window::NEW;
        let most = if excess.abs() > FAR_OFF { MUCH } else { LITTLE };
        self.stretch = match excess {
            _ if excess > FRAME => -most,
            _ if excess <= -FRAME => most,
            // Back to the middle, where it stays.
            _ if self.stretch < 0 && excess > 0 => -LITTLE,
            _ if self.stretch > 0 && excess < 0 => LITTLE,
            _ => 0,
        };
        self.calm_windows += 1;
        if self.calm_windows >= CALM_WINDOWS {
            self.calm_windows = 0;
            self.target = (self.target - FRAME).max(MIN_TARGET);
        }
    }

    /// Goes on with the newest, as much as is to wait.
    fn drop_oldest(&mut self) {
        while self.packets.len() > 1
            && (self.waiting() > self.target || self.packets.len() > MAX_PACKETS)
        {
            self.packets.pop_first();
            if self.is_playing {
                self.position = self.packets.keys().next().copied();
            }
        }
    }
}

fn silence(length: i64) -> Step {
    Step::Silence(samples(length))
}

/// Lengths are at most [`MAX_CONCEALED`].
fn samples(length: i64) -> u32 {
    u32::try_from(length).unwrap_or_default()
}

#[cfg(test)]
mod tests;
