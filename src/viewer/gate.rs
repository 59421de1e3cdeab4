//! Decides, for one viewer, which frames it may receive.
//!
//! A decoder can only start at a keyframe. So a viewer that has just joined, or that fell behind
//! and missed a frame, must receive nothing until the next keyframe: anything else is grey mush on
//! the viewer's screen, and bytes wasted on a link that is already too slow. Pure.

/// What to do with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The viewer cannot decode it.
    Drop,
    /// Send it.
    Forward,
}

/// Per-viewer gate: closed until a keyframe, open until a loss.
#[derive(Debug, Default)]
pub struct KeyframeGate {
    open: bool,
    dropped: u64,
}

impl KeyframeGate {
    /// Creates the gate of a viewer that has received nothing yet: closed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            open: false,
            dropped: 0,
        }
    }

    /// Takes the next frame of the stream, in order.
    pub const fn handle_frame(&mut self, is_keyframe: bool) -> Verdict {
        self.open |= is_keyframe;
        if self.open {
            return Verdict::Forward;
        }
        self.dropped += 1;
        Verdict::Drop
    }

    /// Records that `missed` frames never reached this viewer. Returns whether a keyframe is needed
    /// because of it.
    pub const fn handle_lag(&mut self, missed: u64) -> bool {
        self.dropped += missed;
        let was_open = self.open;
        self.open = false;
        was_open
    }

    /// Closes until the next keyframe: the stream was stopped on purpose.
    pub const fn close(&mut self) {
        self.open = false;
    }

    /// Returns whether the viewer is receiving.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Returns how many frames this viewer did not get since it joined.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Drop, Forward};
    use super::*;

    const KEY: bool = true;
    const DELTA: bool = false;

    fn feed(gate: &mut KeyframeGate, frames: &[bool]) -> Vec<Verdict> {
        frames.iter().map(|&f| gate.handle_frame(f)).collect()
    }

    #[test]
    fn a_new_viewer_starts_at_the_first_keyframe() {
        let mut gate = KeyframeGate::new();
        let verdicts = feed(&mut gate, &[DELTA, DELTA, KEY, DELTA]);
        assert_eq!(verdicts, [Drop, Drop, Forward, Forward]);
        assert_eq!(gate.dropped(), 2);
    }

    #[test]
    fn a_viewer_that_fell_behind_resumes_at_a_keyframe() {
        let mut gate = KeyframeGate::new();
        feed(&mut gate, &[KEY]);
        assert!(gate.handle_lag(7));
        assert!(!gate.handle_lag(1), "already waiting for one");
        assert_eq!(feed(&mut gate, &[DELTA, KEY]), [Drop, Forward]);
        assert_eq!(gate.dropped(), 9);
    }
}
