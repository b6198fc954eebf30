//! The node's clock: wall time at the start, then the monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use omnirelay_queue::{Nanos, TIME_MAX};

/// Unix time that never goes back while the process lives, and never behind what is in its logs.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Nanos,
    started: Instant,
}

/// How long a node can run before a clock that was let pass at its start is too late.
const UPTIME_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Clock {
    /// Whether it is so late, after the year 2099, that records could not hold the time for long:
    /// the machine's clock is wrong.
    pub fn is_too_late(&self) -> bool {
        self.now().saturating_add(UPTIME_MAX) > TIME_MAX
    }

    /// Starts at wall time, or at `not_before` if the wall clock has been set back since.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the product reads the clocks"
    )]
    pub fn start(not_before: Nanos) -> Clock {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let wall = Nanos(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        Clock {
            base: wall.max(not_before),
            started: Instant::now(),
        }
    }

    /// The time now.
    pub fn now(&self) -> Nanos {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.base.0.saturating_add(elapsed))
    }

    /// The instant at which [`Clock::now`] gives `at`.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.started + Duration::from_nanos(at.0.saturating_sub(self.base.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_told_from_one_that_is_not() {
        assert!(!Clock::start(Nanos(0)).is_too_late());
        assert!(Clock::start(TIME_MAX).is_too_late());
        let year_2095 = Nanos(125 * 365 * 86_400 * 1_000_000_000);
        assert!(!Clock::start(year_2095).is_too_late());
    }
}
