//! The node's clock: wall time at the start, then the monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use omnirelay_queue::Nanos;

/// Unix time that never goes back while the process lives, and never behind what is in its logs.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Nanos,
    started: Instant,
}

impl Clock {
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
