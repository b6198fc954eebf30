//! Putting items back that were taken out, here or elsewhere.

use crate::ids::{Epoch, Lsn, Millis, Nanos, Origin, Place, RequestKey, SequenceId};
use crate::item::{Item, Links, NO_BUCKET, State};
use crate::outcome::Decision;
use crate::payload::{Attributes, PayloadRef};
use crate::record::{EnqueuedBody, Event, FailedBody, LeaseRef, Log, Record};
use crate::slab::{ITEMS_MAX, NO_SLOT, Slot};
use crate::snapshot::{ItemSnapshot, SnapshotState};

use super::Shard;
use super::apply::{Change, ensure};

/// Remembered entries that each restore may make room by.
const SWEEP: usize = 4;

/// No item is put back as one that has waited since before then, so that others
/// can come to stand before it.
const SINCE_MIN: Nanos = Nanos(1_000_000_000);

/// An item to be put back. Texts must not be longer than
/// [`crate::TEXT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredItem<'a> {
    /// The namespace that it was taken out of.
    pub origin: Origin,
    /// Its number there.
    pub sequence_id: SequenceId,
    /// What it carries.
    pub payload: PayloadRef<'a>,
    /// Attempts that counted.
    pub attempt: u16,
    /// Attempts until it becomes a dead letter; the shard's default if absent.
    pub max_attempts: Option<u16>,
    /// Higher first.
    pub priority: u8,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it waited, or when its delay ends; now if absent.
    pub ready_at: Option<Nanos>,
    /// When it outlives its time.
    pub ttl_end: Option<Nanos>,
    /// Whether it was given up on.
    pub dead: bool,
    /// Why its last attempt failed.
    pub last_error: Option<RestoredError<'a>>,
    /// Who puts it back.
    pub restored_by: &'a str,
}

/// Why an item's last attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredError<'a> {
    /// For people.
    pub reason: Option<&'a str>,
    /// For programs; not longer than [`crate::TEXT_BYTES_MAX`].
    pub code: Option<&'a str>,
    /// Free text by name.
    pub metadata: Attributes<'a>,
}

/// An item that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its number here.
    pub sequence_id: SequenceId,
    /// The LSN of its record here.
    pub lsn: Lsn,
    /// It was here already, or was put back within the window.
    pub duplicate: bool,
}

/// Why an item was not put back. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreRefused {
    /// The shard holds as many items as it may.
    #[error("the shard is at capacity; try again when items have been completed")]
    CapacityReached,
    /// The shard remembers as many request ids as it may.
    #[error("the shard remembers as many request ids as it may; try again later")]
    DedupeFull,
    /// The shard remembers as many restored items as it may.
    #[error("the shard remembers as many restored items as it may; try again later")]
    RestoresFull,
}

impl Shard {
    /// Puts an item back, or finds that it was put back, or never left. It
    /// keeps its attempts, priority and times; one whose attempts are used up
    /// comes in as a dead letter.
    ///
    /// Items of this shard's own namespace must come to the shard that their
    /// number names: only there is it known whether they are still there.
    ///
    /// # Panics
    /// When a text is longer than [`crate::TEXT_BYTES_MAX`], `max_attempts` is
    /// 0, or the shard was not opened.
    pub fn handle_restore(
        &mut self,
        now: Nanos,
        item: &RestoredItem<'_>,
        log: &mut impl Log,
    ) -> Decision<Result<Restored, RestoreRefused>> {
        let at = self.advance(now);
        if let Some(lsn) = self.restored_before(item, at) {
            return self.restored(lsn, true);
        }
        let attempts_max = item.max_attempts.unwrap_or(self.options.max_attempts);
        assert!(attempts_max > 0, "an item needs at least one attempt");
        let dead = item.dead || item.attempt >= attempts_max;
        let request = self.request_key(&item.payload);
        let new_request = request.filter(|key| self.dedupe.get(*key, at).is_none());
        if let Err(refused) = self.ensure_restorable(dead, new_request, at) {
            return self.refuse(Err(refused));
        }
        let lsn = Lsn(self.last_lsn.0 + 1);
        let since = self.restored_since(item, dead, at);
        let ttl = item.ttl_end.map(|end| end.since(item.enqueued_at));
        // A millisecond at least: zero is the mark of none.
        let ttl = ttl.map(|ttl| Millis::from(ttl).max(Millis(1)));
        let (mut error, mut body) = (Vec::new(), Vec::new());
        if let Some(failure) = &item.last_error {
            failure.encode(lsn, item.attempt, since, dead, &mut error);
        }
        let enqueued = EnqueuedBody {
            ready_at: since,
            ttl,
            max_attempts: attempts_max,
            priority: item.priority,
            enqueued_by: item.restored_by,
            payload: item.payload,
        };
        enqueued.encode(&mut body);
        let snapshot = ItemSnapshot {
            lsn,
            enqueued_at: item.enqueued_at,
            since,
            ttl,
            attempt: item.attempt,
            max_attempts: attempts_max,
            grant: 0,
            priority: item.priority,
            last_end: None,
            lease_epoch: Epoch(0),
            state: match dead {
                true => SnapshotState::Dead,
                false => SnapshotState::Waiting,
            },
            error: &error,
            body: &body,
        };
        let event = Event::RestoreSnapshot {
            origin: item.origin,
            sequence_id: item.sequence_id,
            enters_request: new_request.is_some(),
            snapshot,
        };
        let lsn = self.commit(event, log);
        self.restored(lsn, false)
    }

    fn restored(&self, lsn: Lsn, duplicate: bool) -> Decision<Result<Restored, RestoreRefused>> {
        Decision {
            outcome: Ok(Restored {
                sequence_id: self.spec.sequence_id(lsn),
                lsn,
                duplicate,
            }),
            rests_on: Some(lsn),
        }
    }

    /// Whether an item was put back within the window, or never left.
    pub fn has_restored(&self, item: &RestoredItem<'_>, now: Nanos) -> bool {
        self.restored_before(item, self.clock.max(now)).is_some()
    }

    /// The record that put the item back within the window, or that of its
    /// enqueue if it never left.
    fn restored_before(&self, item: &RestoredItem<'_>, at: Nanos) -> Option<Lsn> {
        if item.origin == self.spec.origin
            && let Some(lsn) = self.spec.lsn_of(item.sequence_id)
            && self.index.get(&self.slab, lsn).is_some()
        {
            return Some(lsn);
        }
        let secret = &self.spec.secret;
        let key = secret.restored_key(&item.origin, item.sequence_id);
        self.restored.get(key, at)
    }

    fn ensure_restorable(
        &mut self,
        dead: bool,
        new_request: Option<RequestKey>,
        at: Nanos,
    ) -> Result<(), RestoreRefused> {
        let entries_max = self.options.dedupe_entries_max;
        if !self.restored.has_room(entries_max, at) {
            return Err(RestoreRefused::RestoresFull);
        }
        if new_request.is_some() && !self.dedupe.has_room(entries_max, at) {
            return Err(RestoreRefused::DedupeFull);
        }
        let is_full = !dead && self.stats.live() >= self.options.capacity;
        if is_full || self.slab.len() >= ITEMS_MAX {
            return Err(RestoreRefused::CapacityReached);
        }
        Ok(())
    }

    /// Since when the item waits here, or is given up on: since it did there,
    /// but not before those that do here already, so that their list stays in
    /// order.
    fn restored_since(&self, item: &RestoredItem<'_>, dead: bool, at: Nanos) -> Nanos {
        let ready_at = item.ready_at.unwrap_or(at).max(SINCE_MIN);
        if dead {
            let last = self.dead.tail();
            let last_since = last.map_or(Nanos(0), |slot| self.slab[slot].since);
            ready_at.min(at).max(last_since)
        } else if ready_at > at {
            Nanos::from_millis(ready_at.millis_ceil())
        } else {
            ready_at.max(self.ready.last_since(&self.slab, item.priority))
        }
    }

    /// Applies the record of a restore. `place` is that of the snapshot.
    pub(super) fn restore_applied(
        &mut self,
        record: &Record<'_>,
        key: RequestKey,
        enters_request: bool,
        snapshot: &ItemSnapshot<'_>,
        place: Place,
    ) -> Change {
        let (lsn, at) = (record.lsn, record.at);
        ensure(snapshot.lsn == lsn, "it restores another item")?;
        let is_leased = matches!(snapshot.state, SnapshotState::Leased { .. });
        ensure(!is_leased, "it restores a leased item")?;
        let enqueued = snapshot.enqueued().map_err(|_| "its item cannot be read")?;
        let request = self.request_key(&enqueued.payload);
        let enters = !enters_request || request.is_some();
        ensure(enters, "its item has no request id")?;
        let slot = self.insert_snapshot(snapshot, &enqueued.payload, place)?;
        match snapshot.state {
            SnapshotState::Dead => self.bury(slot, snapshot.since),
            _ => self.wait_since(slot, snapshot.since, at),
        }
        self.restored.insert(key, lsn, at);
        if let Some(key) = request.filter(|_| enters_request) {
            self.dedupe.insert(key, lsn, at);
        }
        self.restored.sweep(at, SWEEP);
        self.dedupe.sweep(at, SWEEP);
        Ok(())
    }

    /// Takes in an item as a snapshot says, in no list and without a timer.
    pub(super) fn insert_snapshot(
        &mut self,
        snapshot: &ItemSnapshot<'_>,
        payload: &PayloadRef<'_>,
        place: Place,
    ) -> Result<Slot, &'static str> {
        self.ensure_room(snapshot.lsn)?;
        let (body_len, error_len) = (snapshot.body.len() as u32, snapshot.error.len() as u32);
        let slot = self.slab.insert(Item {
            lsn: snapshot.lsn,
            enqueued_at: snapshot.enqueued_at,
            since: snapshot.since,
            body: place.after(snapshot.body_offset()),
            body_len,
            error_len,
            error: match error_len {
                0 => Place::default(),
                _ => place.after(snapshot.error_offset()),
            },
            ttl: snapshot.ttl.unwrap_or_default(),
            timer: Links::NONE,
            next_in_index: NO_SLOT,
            bucket: NO_BUCKET,
            max_attempts: snapshot.max_attempts,
            attempt: snapshot.attempt,
            grant: snapshot.grant,
            priority: snapshot.priority,
            last_end: snapshot.last_end,
            lease_epoch: snapshot.lease_epoch,
            state: State::Delayed,
        });
        self.item_bytes += u64::from(body_len) + u64::from(error_len);
        self.roots.add(place.segment);
        self.index.insert(&mut self.slab, slot);
        self.classify(slot, payload);
        Ok(slot)
    }
}

impl RestoredError<'_> {
    /// The lease that failed was another namespace's: of the record's lease
    /// only the attempt means anything.
    fn encode(&self, item: Lsn, attempt: u16, ready_at: Nanos, dead: bool, out: &mut Vec<u8>) {
        let lease = LeaseRef {
            item,
            attempt,
            grant: 0,
            epoch: Epoch(0),
        };
        let body = FailedBody {
            lease,
            dead,
            ready_at,
            reason: self.reason,
            code: self.code,
            metadata: self.metadata,
        };
        body.encode(out);
    }
}
