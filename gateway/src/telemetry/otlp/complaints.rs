//! What is said in the log of a collector that does not take what it is sent: seldom.

use std::time::{Duration, Instant};

/// The least time between two warnings.
const SILENCE: Duration = Duration::from_secs(60);

/// Failures since something was last said about them.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
    /// It was warned, and not yet said that all is well again.
    is_open: bool,
}

impl Complaints {
    /// Notes a failure; how many there were since the last warning, this one included, if it is
    /// time for another.
    pub(super) fn fail(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        let is_time = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= SILENCE);
        is_time.then(|| {
            self.last = Some(now);
            self.is_open = true;
            std::mem::take(&mut self.unsaid)
        })
    }

    /// Notes a success; true for the first after a warning.
    pub(super) fn succeed(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_one_warning_however_often_it_fails() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut complaints = Complaints::default();
        assert_eq!(complaints.fail(at(0)), Some(1));
        assert!((1..60).all(|second| complaints.fail(at(second)).is_none()));
        assert_eq!(complaints.fail(at(60)), Some(60));
        assert!(complaints.succeed() && !complaints.succeed());
        for _ in 0..10 {
            assert_eq!(
                complaints.fail(at(61)),
                None,
                "flapping is no reason for more"
            );
            assert!(!complaints.succeed());
        }
    }
}
