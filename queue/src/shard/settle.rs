//! Ending leases: completion and failure.

use std::time::Duration;

use crate::ids::{Lsn, Nanos};
use crate::outcome::{Decision, TokenRefused};
use crate::payload::Failure;
use crate::record::{Event, FailedBody, Log};
use crate::token::Token;

use super::Shard;
use super::enqueue::after;

/// How far a failed item's delay may be off, as a share of it.
const JITTER: f64 = 0.1;

impl Shard {
    /// Completes an item: it is done and gone.
    pub fn handle_complete(
        &mut self,
        now: Nanos,
        token: &Token,
        log: &mut impl Log,
    ) -> Decision<Result<Lsn, TokenRefused>> {
        self.advance(now);
        let slot = match self.check(token) {
            Ok(slot) => slot,
            Err(refused) => return self.refuse_token(refused),
        };
        let lease = self.slab[slot].last_lease();
        let lsn = self.commit(Event::Completed { lease }, log);
        Decision {
            outcome: Ok(lsn),
            rests_on: Some(lsn),
        }
    }

    /// Fails an attempt: the item waits again after a delay, or is a dead
    /// letter when it should not be tried again or its attempts are used up.
    ///
    /// # Panics
    /// When the failure's code is longer than [`crate::TEXT_BYTES_MAX`].
    pub fn handle_fail(
        &mut self,
        now: Nanos,
        token: &Token,
        failure: &Failure<'_>,
        log: &mut impl Log,
    ) -> Decision<Result<Lsn, TokenRefused>> {
        let at = self.advance(now);
        let slot = match self.check(token) {
            Ok(slot) => slot,
            Err(refused) => return self.refuse_token(refused),
        };
        let lease = self.slab[slot].last_lease();
        let delay = failure
            .delay
            .unwrap_or_else(|| self.requeue_delay(lease.attempt));
        let body = FailedBody {
            lease,
            dead: !failure.requeue || lease.attempt >= self.slab[slot].max_attempts,
            ready_at: after(at, delay),
            reason: failure.reason,
            code: failure.code,
            metadata: failure.metadata,
        };
        let lsn = self.commit(Event::Failed(body), log);
        Decision {
            outcome: Ok(lsn),
            rests_on: Some(lsn),
        }
    }

    /// The delay after this attempt's failure. Jitter keeps items that failed
    /// together from coming back together; it is decided here, before the
    /// record, so that replay computes nothing with fractions.
    fn requeue_delay(&self, attempt: u16) -> Duration {
        let options = &self.options;
        if options.requeue_delay.is_zero() {
            return Duration::ZERO;
        }
        let longest = options.requeue_delay_max.as_secs_f64();
        let factor = options.requeue_backoff.powi(i32::from(attempt) - 1);
        let delay = (options.requeue_delay.as_secs_f64() * factor).min(longest);
        let random = self.spec.secret.jitter(self.last_lsn, attempt.into());
        let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let jittered = delay * (1.0 - JITTER + 2.0 * JITTER * unit);
        Duration::from_secs_f64(jittered.min(longest))
    }
}
