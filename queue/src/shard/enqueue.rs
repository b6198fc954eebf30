//! Taking items in.

use std::time::Duration;

use crate::ids::{Millis, Nanos, RequestKey};
use crate::outcome::{Decision, EnqueueRefused, Enqueued};
use crate::payload::{NewItem, PayloadRef};
use crate::record::{EnqueuedBody, Event, Log};
use crate::slab::ITEMS_MAX;

use super::Shard;

impl Shard {
    /// Takes an item in, or finds that it was taken in before.
    ///
    /// A duplicate rests on the first item's enqueue, a refusal on all that
    /// went before.
    ///
    /// # Panics
    /// When a text is longer than [`crate::TEXT_BYTES_MAX`], `max_attempts` is
    /// 0, or the shard was not opened.
    pub fn handle_enqueue(
        &mut self,
        now: Nanos,
        item: &NewItem<'_>,
        log: &mut impl Log,
    ) -> Decision<Result<Enqueued, EnqueueRefused>> {
        let at = self.advance(now);
        let payload = &item.payload;
        if let Some(key) = self.request_key(payload) {
            if let Some(lsn) = self.dedupe.get(key, at) {
                return Decision {
                    outcome: Ok(Enqueued {
                        sequence_id: self.spec.sequence_id(lsn),
                        lsn,
                        duplicate: true,
                    }),
                    rests_on: Some(lsn),
                };
            }
            if !self.dedupe.has_room(self.options.dedupe_entries_max, at) {
                return self.refuse(Err(EnqueueRefused::DedupeFull));
            }
        }
        if self.is_full() {
            return self.refuse(Err(EnqueueRefused::CapacityReached));
        }
        let max_attempts = item.max_attempts.unwrap_or(self.options.max_attempts);
        assert!(max_attempts > 0, "an item needs at least one attempt");
        let body = EnqueuedBody {
            ready_at: after(at, item.delay),
            // A millisecond at least: zero is the mark of none.
            ttl: item.ttl.map(|ttl| Millis::from(ttl).max(Millis(1))),
            max_attempts,
            priority: item.priority,
            enqueued_by: item.enqueued_by,
            payload: *payload,
        };
        let lsn = self.commit(Event::Enqueued(body), log);
        Decision {
            outcome: Ok(Enqueued {
                sequence_id: self.spec.sequence_id(lsn),
                lsn,
                duplicate: false,
            }),
            rests_on: Some(lsn),
        }
    }
}

impl Shard {
    /// The fingerprint of a payload's request id.
    pub(super) fn request_key(&self, payload: &PayloadRef<'_>) -> Option<RequestKey> {
        let id = payload.request_id?;
        let secret = &self.spec.secret;
        Some(secret.request_key(payload.resource_type, payload.resource_id, id))
    }

    /// Whether there is room for no further item.
    pub(super) fn is_full(&self) -> bool {
        let items = self.slab.len();
        // The counts are looked at only when they can matter.
        let is_near = u64::from(items) >= self.options.capacity;
        items >= ITEMS_MAX || is_near && self.stats.live() >= self.options.capacity
    }
}

/// When a delay ends: at a whole millisecond, as timers do, so that an item
/// which becomes ready is never older than one that was ready before it.
pub(super) fn after(at: Nanos, delay: Duration) -> Nanos {
    match delay.is_zero() {
        true => at,
        false => Nanos::from_millis(at.saturating_add(delay).millis_ceil()),
    }
}
