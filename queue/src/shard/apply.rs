//! The one function that changes logged state.

use crate::ids::{EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Place};
use crate::item::{Item, Lease, Links, NO_BUCKET, State};
use crate::outcome::FenceReason;
use crate::ready::Ready;
use crate::record::{EnqueuedBody, Event, FailedBody, LeaseRef, Record};
use crate::slab::{ITEMS_MAX, NO_SLOT, Slot};

use super::Shard;

/// Request ids that each enqueue may make room by.
const DEDUPE_SWEEP: usize = 4;

/// A record does not follow from the shard's state: the log is damaged, or it
/// is not this shard's. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {lsn} does not follow from those before it: {what}")]
pub struct ReplayError {
    /// The record's LSN.
    pub lsn: Lsn,
    /// What is wrong with it.
    pub what: &'static str,
}

type Change = Result<(), &'static str>;

impl Shard {
    /// Applies a record of the shard's own making, or of its leader's.
    /// `place` is where the record's body lies.
    ///
    /// # Panics
    /// When the record does not follow from the shard's state.
    pub fn apply(&mut self, record: &Record<'_>, place: Place) {
        if let Err(error) = self.replay(record, place) {
            panic!("{error}");
        }
    }

    /// Applies a record that was read from a log.
    ///
    /// # Errors
    /// When the record does not follow from the shard's state, which is
    /// unchanged then.
    pub fn replay(&mut self, record: &Record<'_>, place: Place) -> Result<(), ReplayError> {
        self.change(record, place).map_err(|what| ReplayError {
            lsn: record.lsn,
            what,
        })?;
        self.last_lsn = record.lsn;
        self.clock = self.clock.max(record.at);
        Ok(())
    }

    fn change(&mut self, record: &Record<'_>, place: Place) -> Change {
        let at = record.at;
        if let Event::EpochStarted { previous } = record.event {
            ensure(record.lsn > self.last_lsn, "its LSN goes back")?;
            ensure(previous == self.epoch, "its epoch follows another")?;
            ensure(record.epoch > self.epoch, "its epoch goes back")?;
            ensure(record.epoch.0 <= EPOCH_MAX, "its epoch is out of range")?;
            self.epoch_started(record);
            return Ok(());
        }
        ensure(record.lsn.0 == self.last_lsn.0 + 1, "its LSN is not next")?;
        ensure(record.epoch == self.epoch, "it is of another epoch")?;
        match &record.event {
            Event::EpochStarted { .. } => unreachable!("handled above"),
            Event::Enqueued(body) => {
                let len = record.event.encoded_len() as u32;
                self.enqueued(record.lsn, at, body, place, len)
            }
            Event::LeaseGranted {
                lease,
                duration,
                owner,
            } => self.lease_granted(lease, at, *duration, owner),
            Event::GrantReleased {
                lease,
                counted,
                dead,
            } => self.grant_released(lease, *counted, *dead),
            Event::Heartbeat { lease, duration } => self.heartbeat(lease, at, *duration),
            Event::Completed { lease } => self.completed(lease, at),
            Event::Failed(body) => {
                let len = record.event.encoded_len() as u32;
                self.failed(body, at, place, len)
            }
            Event::Expired { lease, dead } => self.expired(lease, at, *dead),
            Event::ItemExpired { item } => self.item_expired(*item, at),
        }
    }

    /// Begins an epoch. What depends on when timers were handled is made anew
    /// from what is on record: the lists, the wheel, the leases' ends.
    fn epoch_started(&mut self, record: &Record<'_>) {
        let at = record.at;
        self.epoch = record.epoch;
        self.settled.epoch_started(record.lsn, record.epoch);
        self.wheel.restart(at);
        self.ready = Ready::new();
        let mut waiting = Vec::new();
        for slot in 0..self.slab.slots() {
            let item = &mut self.slab[slot];
            item.bucket = NO_BUCKET;
            match &mut item.state {
                State::Waiting(_) => waiting.push(slot),
                State::Delayed if item.since <= at => {
                    item.state = State::Waiting(Links::NONE);
                    self.stats.delayed -= 1;
                    self.stats.pending += 1;
                    waiting.push(slot);
                }
                State::Leased { lease, .. } => {
                    lease.expires_at = at.saturating_add_millis(lease.recorded);
                    lease.recorded_before = lease.recorded;
                }
                State::Delayed | State::Dead(_) | State::Vacant(_) => {}
            }
            self.wheel.insert(&mut self.slab, slot);
        }
        waiting.sort_unstable_by_key(|slot| (self.slab[*slot].since, self.slab[*slot].lsn));
        for slot in waiting {
            self.ready.push_back(&mut self.slab, slot);
        }
    }

    fn enqueued(
        &mut self,
        lsn: Lsn,
        at: Nanos,
        body: &EnqueuedBody<'_>,
        place: Place,
        body_len: u32,
    ) -> Change {
        ensure(self.slab.len() < ITEMS_MAX, "the shard is full")?;
        ensure(self.spec.has_id(lsn), "the sequence ids are used up")?;
        let slot = self.slab.insert(Item {
            lsn,
            enqueued_at: at,
            since: at,
            body: place,
            body_len,
            error_len: 0,
            error: Place::default(),
            ttl: body.ttl.unwrap_or_default(),
            timer: Links::NONE,
            next_in_index: NO_SLOT,
            bucket: NO_BUCKET,
            max_attempts: body.max_attempts,
            attempt: 0,
            grant: 0,
            priority: body.priority,
            last_end: None,
            lease_epoch: Epoch(0),
            state: State::Delayed,
        });
        self.index.insert(&mut self.slab, slot);
        self.ready_at(slot, body.ready_at, at);
        let payload = &body.payload;
        if let Some(id) = payload.request_id {
            let secret = &self.spec.secret;
            let key = secret.request_key(payload.resource_type, payload.resource_id, id);
            self.dedupe.insert(key, lsn, at);
        }
        self.dedupe.sweep(at, DEDUPE_SWEEP);
        Ok(())
    }

    fn lease_granted(
        &mut self,
        lease: &LeaseRef,
        at: Nanos,
        duration: Millis,
        owner: &str,
    ) -> Change {
        let slot = self.find(lease.item)?;
        let item = &self.slab[slot];
        let waits = matches!(item.state, State::Waiting(_) | State::Delayed);
        ensure(waits, "it leases an item that does not wait")?;
        ensure(
            item.next_lease(lease.epoch) == Some(*lease) && lease.epoch == self.epoch,
            "its lease is not the item's next",
        )?;
        self.detach(slot);
        let owner = self.owners.acquire(owner);
        let item = &mut self.slab[slot];
        item.attempt = lease.attempt;
        item.grant = lease.grant;
        item.lease_epoch = lease.epoch;
        item.state = State::Leased {
            owner,
            lease: Lease {
                expires_at: at.saturating_add_millis(duration),
                recorded_before: duration,
                duration,
                recorded: duration,
            },
        };
        self.stats.active += 1;
        self.wheel.insert(&mut self.slab, slot);
        Ok(())
    }

    fn grant_released(&mut self, lease: &LeaseRef, counted: bool, dead: bool) -> Change {
        let slot = self.find_leased(lease)?;
        self.end_lease(slot, FenceReason::Superseded);
        let item = &mut self.slab[slot];
        if !counted {
            item.attempt -= 1;
        }
        if dead {
            self.bury(slot);
            return Ok(());
        }
        item.state = State::Waiting(Links::NONE);
        self.ready.push_front(&mut self.slab, slot);
        self.stats.pending += 1;
        self.wheel.insert(&mut self.slab, slot);
        Ok(())
    }

    fn heartbeat(&mut self, lease: &LeaseRef, at: Nanos, duration: Millis) -> Change {
        let slot = self.find_leased(lease)?;
        self.extend(slot, at.saturating_add_millis(duration), |lease| {
            lease.recorded_before = duration;
            lease.recorded = lease.recorded.max(duration);
        });
        Ok(())
    }

    /// Moves the end of a lease.
    pub(super) fn extend(
        &mut self,
        slot: Slot,
        expires_at: Nanos,
        change: impl FnOnce(&mut Lease),
    ) {
        self.wheel.remove(&mut self.slab, slot);
        match &mut self.slab[slot].state {
            State::Leased { lease, .. } => {
                lease.expires_at = expires_at;
                change(lease);
            }
            state => panic!("an item that is not leased was extended: {state:?}"),
        }
        self.wheel.insert(&mut self.slab, slot);
    }

    fn completed(&mut self, lease: &LeaseRef, at: Nanos) -> Change {
        let slot = self.find_leased(lease)?;
        self.detach(slot);
        self.settled.insert(lease, FenceReason::Completed, at);
        self.remove(slot);
        Ok(())
    }

    fn failed(&mut self, body: &FailedBody<'_>, at: Nanos, place: Place, len: u32) -> Change {
        let slot = self.find_leased(&body.lease)?;
        self.end_lease(slot, FenceReason::Failed);
        let item = &mut self.slab[slot];
        item.error = place;
        item.error_len = len;
        match body.dead {
            true => self.bury(slot),
            false => self.ready_at(slot, body.ready_at, at),
        }
        Ok(())
    }

    fn expired(&mut self, lease: &LeaseRef, at: Nanos, dead: bool) -> Change {
        let slot = self.find_leased(lease)?;
        self.end_lease(slot, FenceReason::Expired);
        match dead {
            true => self.bury(slot),
            false => self.ready_at(slot, at, at),
        }
        Ok(())
    }

    fn item_expired(&mut self, lsn: Lsn, at: Nanos) -> Change {
        let slot = self.find(lsn)?;
        let item = &self.slab[slot];
        let waits = matches!(item.state, State::Waiting(_) | State::Delayed);
        ensure(waits, "it ends an item that does not wait")?;
        if let Some(reason) = item.last_end {
            self.settled.insert(&item.last_lease(), reason, at);
        }
        self.detach(slot);
        self.remove(slot);
        Ok(())
    }

    fn find(&self, item: Lsn) -> Result<Slot, &'static str> {
        let slot = self.index.get(&self.slab, item);
        slot.ok_or("its item is not there")
    }

    fn find_leased(&self, lease: &LeaseRef) -> Result<Slot, &'static str> {
        let slot = self.find(lease.item)?;
        let is_active = self.slab[slot].ended(lease).is_none();
        ensure(is_active, "its lease is not the item's")?;
        Ok(slot)
    }

    fn end_lease(&mut self, slot: Slot, reason: FenceReason) {
        self.detach(slot);
        self.slab[slot].last_end = Some(reason);
    }

    /// Lets an item, which is in no list and has no timer, wait from
    /// `ready_at`, at once if that is not after `at`.
    fn ready_at(&mut self, slot: Slot, ready_at: Nanos, at: Nanos) {
        let item = &mut self.slab[slot];
        item.since = ready_at.max(at);
        if ready_at > at {
            item.state = State::Delayed;
            self.stats.delayed += 1;
        } else {
            item.state = State::Waiting(Links::NONE);
            self.ready.push_back(&mut self.slab, slot);
            self.stats.pending += 1;
        }
        self.wheel.insert(&mut self.slab, slot);
    }

    fn bury(&mut self, slot: Slot) {
        self.slab[slot].state = State::Dead(Links::NONE);
        self.dead.push_back(&mut self.slab, slot);
        self.stats.dead += 1;
    }

    /// Takes an item out of its list, the wheel and the counts. The caller
    /// gives it a new state or removes it.
    fn detach(&mut self, slot: Slot) {
        self.wheel.remove(&mut self.slab, slot);
        match &self.slab[slot].state {
            State::Waiting(_) => {
                self.ready.remove(&mut self.slab, slot);
                self.stats.pending -= 1;
            }
            State::Delayed => self.stats.delayed -= 1,
            State::Leased { owner, .. } => {
                self.owners.release(*owner);
                self.stats.active -= 1;
            }
            State::Dead(_) => {
                self.dead.remove(&mut self.slab, slot);
                self.stats.dead -= 1;
            }
            State::Vacant(_) => panic!("slot {slot} holds no item"),
        }
    }

    fn remove(&mut self, slot: Slot) {
        self.index.remove(&mut self.slab, slot);
        self.slab.remove(slot);
    }
}

impl Item {
    /// The lease that the item's next grant begins; `None` when its attempts
    /// are used up.
    pub(super) fn next_lease(&self, epoch: crate::Epoch) -> Option<LeaseRef> {
        Some(LeaseRef {
            item: self.lsn,
            attempt: self.attempt.checked_add(1)?,
            // The attempt counts when the counter begins again, so that no
            // two grants are alike.
            grant: self.grant.checked_add(1).unwrap_or(1),
            epoch,
        })
    }
}

fn ensure(holds: bool, what: &'static str) -> Change {
    if holds { Ok(()) } else { Err(what) }
}
