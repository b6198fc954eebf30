//! Granting leases, taking grants back, renewing leases.

use std::time::Duration;

use crate::ids::{Millis, Nanos};
use crate::options::{LEASE_MAX, LEASE_MIN};
use crate::outcome::{Decision, Extended, Grant, LeaseWish, TokenRefused};
use crate::record::{Event, Log};
use crate::token::Token;

use super::Shard;

impl Shard {
    /// Leases the best waiting item: the one with the highest effective
    /// priority; of those, the oldest. Where partition keys take turns, the
    /// best of the key whose turn it is. `None` when nothing waits. The lease
    /// is brought into [`LEASE_MIN`] to [`LEASE_MAX`].
    ///
    /// Delays, leases and items end in [`handle_time`](Shard::handle_time)
    /// only: call it first.
    ///
    /// # Panics
    /// When the owner is longer than [`crate::TEXT_BYTES_MAX`].
    pub fn handle_lease(
        &mut self,
        now: Nanos,
        wish: &LeaseWish<'_>,
        log: &mut impl Log,
    ) -> Option<Decision<Grant>> {
        let at = self.advance(now);
        let (slot, _) = self.best(at, wish.partition_key)?;
        self.index.expect(slot);
        let duration = wish
            .lease
            .map_or(self.options.lease_duration.into(), in_range);
        let next = self.slab[slot].next_lease(self.epoch);
        let lease = next.expect("an item without attempts left is a dead letter");
        let event = Event::LeaseGranted {
            lease,
            duration,
            owner: wish.owner,
        };
        let lsn = self.commit(event, log);
        let item = &self.slab[slot];
        let token = self.issue(&lease);
        Some(Decision {
            outcome: Grant {
                sequence_id: token.sequence_id,
                attempt: token.attempt,
                token,
                lsn,
                item: item.body,
                item_len: item.body_len,
                last_error: item.last_error(),
                enqueued_at: item.enqueued_at,
                expires_at: self.leased(slot).expires_at,
                lease: duration.into(),
            },
            rests_on: Some(lsn),
        })
    }

    /// Takes back a grant whose reply could not be delivered: its attempt does
    /// not count, the item goes back to where it was in line, and the token is
    /// fenced for ever. False when the lease was over already, or does not end
    /// at `granted_until`, as the grant said: it was renewed, so the reply was
    /// delivered. `None` for a reply that surely was not.
    pub fn handle_release(
        &mut self,
        now: Nanos,
        token: &Token,
        granted_until: Option<Nanos>,
        log: &mut impl Log,
    ) -> Decision<bool> {
        self.advance(now);
        let Ok(slot) = self.check(token) else {
            return self.refuse(false);
        };
        if granted_until.is_some_and(|until| self.leased(slot).expires_at != until) {
            return self.refuse(false);
        }
        let lease = self.slab[slot].last_lease();
        let counted = lease.grant == u16::MAX;
        let dead = counted && lease.attempt >= self.slab[slot].max_attempts;
        let event = Event::GrantReleased {
            lease,
            counted,
            dead,
            since: self.ready.moved_since(&self.slab, slot).filter(|_| !dead),
        };
        let lsn = self.commit(event, log);
        Decision {
            outcome: true,
            rests_on: Some(lsn),
        }
    }

    /// Renews a lease: it ends `extend` from now, or its own duration from now.
    /// `extend` is brought into [`LEASE_MIN`] to [`LEASE_MAX`].
    ///
    /// The end of the lease moves in memory, the only state that changes
    /// without a record: after a restart the lease gets its longest recorded
    /// duration anew, which is no shorter. So a record is made when the lease
    /// gets longer than any on record. Another is made, for those who read
    /// along, when the last one is older than a third of the heartbeat interval.
    ///
    /// The answer rests on what is on record whenever the lease gets longer
    /// than it was granted for: the record that says so may be that of an
    /// earlier heartbeat, and still be on its way to the disk.
    pub fn handle_heartbeat(
        &mut self,
        now: Nanos,
        token: &Token,
        extend: Option<Duration>,
        log: &mut impl Log,
    ) -> Decision<Result<Extended, TokenRefused>> {
        let at = self.advance(now);
        let slot = match self.check(token) {
            Ok(slot) => slot,
            Err(refused) => return self.refuse_token(refused),
        };
        let lease = self.slab[slot].last_lease();
        let current = self.leased(slot);
        let duration = extend.map_or(current.duration, in_range);
        let expires_at = at.saturating_add_millis(duration);
        let recorded_before = Duration::from(current.recorded_before);
        let recorded_at = Nanos(
            current
                .expires_at
                .0
                .saturating_sub(recorded_before.as_nanos() as u64),
        );
        let is_extended = duration > current.duration;
        let is_longer = duration > current.recorded;
        let is_stale = at.since(recorded_at) >= self.options.heartbeat_interval() / 3;
        let mut lsn = self.last_lsn;
        if is_longer || is_stale {
            lsn = self.commit(Event::Heartbeat { lease, duration }, log);
        } else {
            // Rounded down, so that the records never come too often.
            let before = expires_at.since(recorded_at).as_millis();
            let before = Millis(u32::try_from(before).unwrap_or(u32::MAX));
            self.extend(slot, expires_at, |lease| lease.recorded_before = before);
        }
        Decision {
            outcome: Ok(Extended {
                expires_at,
                lease: duration.into(),
                lsn,
            }),
            rests_on: is_extended.then_some(lsn),
        }
    }
}

fn in_range(lease: Duration) -> Millis {
    lease.clamp(LEASE_MIN, LEASE_MAX).into()
}
