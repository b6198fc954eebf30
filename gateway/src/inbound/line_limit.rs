//! How many lines of one kind a core writes, whatever happens.

use std::time::{Duration, Instant};

/// Lines in [`PERIOD`]: each is written by the core itself.
const LINES_MAX: u32 = 10;
/// From the first of them on.
const PERIOD: Duration = Duration::from_secs(10);

/// Counts lines, and those that were not written.
#[derive(Debug, Default)]
pub(super) struct LineLimit {
    since: Option<Instant>,
    written: u32,
    untold: u64,
}

impl LineLimit {
    /// Whether another line may be written now; how many were not since the last one that was.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_over = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= PERIOD);
        if is_over {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == LINES_MAX {
            self.untold += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_a_few_and_the_number_of_the_others() {
        let start = Instant::now();
        let mut limit = LineLimit::default();
        let written = (0..1_000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(limit.admit(start + PERIOD / 2), None);
        assert_eq!(limit.admit(start + PERIOD), Some(991));
        assert_eq!(limit.admit(start + PERIOD), Some(0));
    }
}
