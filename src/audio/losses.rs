//! When to tell of sound that was lost: at once, and after that once a minute at most. Pure.

use std::time::{Duration, Instant};

/// Between two lines in the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What was lost and not told of yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    untold: Lost,
    told_at: Option<Instant>,
}

/// So many gaps, of this much sound in all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Lost {
    pub(super) gaps: u64,
    pub(super) missing: Duration,
}

impl Losses {
    /// Counts a gap.
    pub(super) const fn add(&mut self, missing: Duration) {
        self.untold.gaps += 1;
        self.untold.missing = self.untold.missing.saturating_add(missing);
    }

    /// Returns what is to be told now, if anything.
    pub(super) fn due(&mut self, now: Instant) -> Option<Lost> {
        let told = |at| now.saturating_duration_since(at) < TELL_EVERY;
        if self.untold.gaps == 0 || self.told_at.is_some_and(told) {
            return None;
        }
        self.told_at = Some(now);
        self.rest()
    }

    /// Returns what was not told of, for the end.
    pub(super) fn rest(&mut self) -> Option<Lost> {
        let lost = std::mem::take(&mut self.untold);
        (lost.gaps > 0).then_some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_first_loss_is_told_at_once_and_further_ones_together_after_a_minute() {
        let t0 = clock::now();
        let mut losses = Losses::default();
        assert_eq!(losses.due(t0), None);
        let mut told = Vec::new();
        for second in 0..61 {
            losses.add(30 * MS);
            told.extend(losses.due(t0 + second * 1_000 * MS));
        }
        let lost = |gaps, missing| Lost { gaps, missing };
        assert_eq!(told, [lost(1, 30 * MS), lost(60, 1_800 * MS)]);
        assert_eq!(losses.rest(), None);
        losses.add(MS);
        assert_eq!(losses.due(t0 + 61_000 * MS), None);
        assert_eq!(losses.rest(), Some(lost(1, MS)));
    }
}
