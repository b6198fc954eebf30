//! The one function that changes logged state.

use crate::ids::{EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Place, SEQUENCE_ID_MAX};
use crate::item::{Item, Lease, Links, NO_BUCKET, State};
use crate::list::List;
use crate::outcome::FenceReason;
use crate::ready::Ready;
use crate::record::{EnqueuedBody, Event, FailedBody, LeaseRef, Record};
use crate::slab::{ITEMS_MAX, NO_SLOT, Slot};
use crate::wheel::TIME_MAX;

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

pub(super) type Change = Result<(), &'static str>;

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

    /// Applies a record that was read from a log. The first may be any: the
    /// log has given up those before, and carries what is still needed of them
    /// further on. So records about items from before the first are passed
    /// over where the item is not there: either it is carried later, as it is
    /// then, or it was gone by then.
    ///
    /// # Errors
    /// When the record does not follow from the shard's state, which is
    /// unchanged then.
    pub fn replay(&mut self, record: &Record<'_>, place: Place) -> Result<(), ReplayError> {
        let is_first = self.last_lsn == Lsn(0);
        if is_first {
            self.begin(record);
        }
        if let Err(what) = self.change(record, place) {
            if is_first {
                self.begin_again();
            }
            let lsn = record.lsn;
            return Err(ReplayError { lsn, what });
        }
        self.last_lsn = record.lsn;
        self.clock = self.clock.max(record.at);
        Ok(())
    }

    fn change(&mut self, record: &Record<'_>, place: Place) -> Change {
        let at = record.at;
        ensure(at <= TIME_MAX, "its time is out of range")?;
        let lsns = 1..=SEQUENCE_ID_MAX;
        ensure(lsns.contains(&record.lsn.0), "its LSN is out of range")?;
        if let Event::EpochStarted { previous } = record.event {
            ensure(record.lsn > self.last_lsn, "its LSN goes back")?;
            ensure(previous == self.epoch, "its epoch follows another")?;
            ensure(record.epoch > self.epoch, "its epoch goes back")?;
            ensure(record.epoch.0 <= EPOCH_MAX, "its epoch is out of range")?;
            self.epoch_started(record);
            return Ok(());
        }
        ensure(record.epoch > Epoch(0), "its epoch is none")?;
        ensure(record.epoch == self.epoch, "it is of another epoch")?;
        if let Event::Carry(carry) = &record.event {
            ensure(record.lsn == self.last_lsn, "its LSN is not the last")?;
            let place = snapshot_place(&record.event, place);
            return self.carried(carry, at, place);
        }
        ensure(record.lsn.0 == self.last_lsn.0 + 1, "its LSN is not next")?;
        let began_late = self.unknown_to > Lsn(0);
        if began_late && self.is_about_unknown(&record.event) {
            self.skip(record, snapshot_place(&record.event, place));
            return Ok(());
        }
        self.change_item(record, place)?;
        self.pass_turn(at);
        Ok(())
    }

    // Its one caller is on the hot path, and it is long.
    #[inline(always)]
    fn change_item(&mut self, record: &Record<'_>, place: Place) -> Change {
        let at = record.at;
        match &record.event {
            Event::EpochStarted { .. } | Event::Carry(_) => unreachable!("handled above"),
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
                since,
            } => self.grant_released(lease, at, (*counted, *dead), *since),
            Event::Heartbeat { lease, duration } => self.heartbeat(lease, at, *duration),
            Event::Completed { lease } => self.completed(lease, at),
            Event::Failed(body) => {
                let len = record.event.encoded_len() as u32;
                self.failed(body, at, place, len)
            }
            Event::Expired { lease, dead } => self.expired(lease, at, *dead),
            Event::ItemExpired { item, last } => self.item_expired(*item, *last, at),
            Event::Cancelled {
                item,
                last,
                leased,
                dead,
            } => self.cancelled(*item, *last, (*leased, *dead), at),
            Event::Redriven { item, max_attempts } => self.redriven(*item, *max_attempts, at),
            Event::DrainSnapshot { request, snapshot } => {
                let place = snapshot_place(&record.event, place);
                self.drain_applied(record, *request, snapshot.as_ref(), place)
            }
            Event::RestoreSnapshot {
                origin,
                sequence_id,
                enters_request,
                snapshot,
            } => {
                let key = self.spec.secret.restored_key(origin, *sequence_id);
                let place = snapshot_place(&record.event, place);
                self.restore_applied(record, key, *enters_request, snapshot, place)
            }
        }
    }

    /// Begins an epoch. What depends on when timers were handled is made anew
    /// from what is on record: the lists, the wheel, the leases' ends.
    fn epoch_started(&mut self, record: &Record<'_>) {
        let at = record.at;
        self.epoch = record.epoch;
        self.settled.epoch_started(record.lsn, record.epoch);
        self.wheel.restart(at);
        // Lists that have no order yet are made anew when the shard is opened.
        let makes_lists = self.lists_are_ordered;
        if makes_lists {
            self.ready = Ready::new();
            self.keys.restart();
            self.dead = List::EMPTY;
        }
        self.dedupe.restore_order();
        self.restored.restore_order();
        self.settled.restore_order();
        let (mut waiting, mut dead) = (Vec::new(), Vec::new());
        for slot in 0..self.slab.slots() {
            let item = &mut self.slab[slot];
            let ranked = (item.since, item.lsn, slot);
            item.bucket = NO_BUCKET;
            match &mut item.state {
                State::Waiting(_) | State::Blocked if makes_lists => waiting.push(ranked),
                State::Delayed if item.since <= at => {
                    item.state = State::Blocked;
                    self.stats.delayed -= 1;
                    self.stats.pending += 1;
                    waiting.push(ranked);
                }
                State::Leased { lease, .. } => {
                    lease.expires_at = at.saturating_add_millis(lease.recorded);
                    lease.recorded_before = lease.recorded;
                }
                State::Dead(_) if makes_lists => dead.push(ranked),
                _ => {}
            }
            self.wheel.insert(&mut self.slab, slot);
        }
        waiting.sort_unstable();
        for (.., slot) in waiting {
            self.line_up(slot);
        }
        dead.sort_unstable();
        for (.., slot) in dead {
            self.dead.push_back(&mut self.slab, slot);
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
        self.ensure_room(lsn)?;
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
        self.item_bytes += u64::from(body_len);
        self.roots.add(place.segment);
        self.index.insert(&mut self.slab, slot);
        self.classify(slot, &body.payload);
        self.ready_at(slot, body.ready_at, at);
        if let Some(key) = self.request_key(&body.payload) {
            self.dedupe.insert(key, lsn, at);
        }
        self.dedupe.sweep(at, DEDUPE_SWEEP);
        Ok(())
    }

    /// Checks that an item with this LSN can be in the shard.
    pub(super) fn ensure_room(&self, lsn: Lsn) -> Change {
        ensure(self.slab.len() < ITEMS_MAX, "the shard is full")?;
        ensure(self.spec.has_id(lsn), "the sequence ids are used up")
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
        self.last_grant_at = at;
        self.keys.charge(slot);
        if let Some(resources) = &mut self.resources {
            resources.begin_lease(&self.slab, slot);
        }
        self.wheel.insert(&mut self.slab, slot);
        Ok(())
    }

    fn grant_released(
        &mut self,
        lease: &LeaseRef,
        at: Nanos,
        (counted, dead): (bool, bool),
        since: Option<Nanos>,
    ) -> Change {
        let slot = self.find_leased(lease)?;
        ensure(
            since.is_none_or(|since| since <= at),
            "it waits from later on",
        )?;
        self.end_lease(slot, FenceReason::Superseded);
        let item = &mut self.slab[slot];
        if !counted {
            item.attempt -= 1;
        }
        if dead {
            self.bury(slot, at);
            return Ok(());
        }
        if let Some(since) = since {
            item.since = since;
        }
        self.line_up_again(slot);
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
        self.item_bytes += u64::from(len);
        self.item_bytes -= u64::from(item.error_len);
        item.error = place;
        item.error_len = len;
        match body.dead {
            true => self.bury(slot, at),
            false => self.ready_at(slot, body.ready_at, at),
        }
        Ok(())
    }

    fn expired(&mut self, lease: &LeaseRef, at: Nanos, dead: bool) -> Change {
        let slot = self.find_leased(lease)?;
        self.end_lease(slot, FenceReason::Expired);
        match dead {
            true => self.bury(slot, at),
            false => self.ready_at(slot, at, at),
        }
        Ok(())
    }

    fn item_expired(
        &mut self,
        lsn: Lsn,
        last: Option<(LeaseRef, FenceReason)>,
        at: Nanos,
    ) -> Change {
        let slot = self.find(lsn)?;
        let item = &self.slab[slot];
        let waits = matches!(
            item.state,
            State::Waiting(_) | State::Blocked | State::Delayed
        );
        ensure(waits, "it ends an item that does not wait")?;
        ensure(
            item.last_ended() == last,
            "its lease is not the item's last",
        )?;
        if let Some((lease, reason)) = last {
            self.settled.insert(&lease, reason, at);
        }
        self.detach(slot);
        self.remove(slot);
        Ok(())
    }

    fn cancelled(
        &mut self,
        lsn: Lsn,
        last: Option<(LeaseRef, FenceReason)>,
        was: (bool, bool),
        at: Nanos,
    ) -> Change {
        let slot = self.find(lsn)?;
        let item = &self.slab[slot];
        ensure(item.cancelled() == last, "its lease is not the item's last")?;
        let is = (
            matches!(item.state, State::Leased { .. }),
            matches!(item.state, State::Dead(_)),
        );
        ensure(is == was, "its item is in another state")?;
        if let Some((lease, reason)) = last {
            self.settled.insert(&lease, reason, at);
        }
        self.detach(slot);
        self.remove(slot);
        Ok(())
    }

    fn redriven(&mut self, lsn: Lsn, max_attempts: u16, at: Nanos) -> Change {
        let slot = self.find(lsn)?;
        let item = &self.slab[slot];
        let is_dead = matches!(item.state, State::Dead(_));
        ensure(is_dead, "it revives an item that is no dead letter")?;
        ensure(item.attempt < max_attempts, "it leaves no attempt")?;
        self.detach(slot);
        let item = &mut self.slab[slot];
        self.redriven.entry(lsn).or_insert(item.max_attempts);
        item.max_attempts = max_attempts;
        if item.ttl_end().is_some_and(|end| end <= at) {
            item.ttl = Millis(0);
        }
        if let Some(resources) = &mut self.resources {
            resources.join(&self.slab, slot);
        }
        self.ready_at(slot, at, at);
        Ok(())
    }

    pub(super) fn find(&self, item: Lsn) -> Result<Slot, &'static str> {
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
        self.wait_since(slot, ready_at.max(at), at);
    }

    /// Lets an item, which is in no list and has no timer, wait as one that
    /// has waited since `since`, or is delayed until then.
    pub(super) fn wait_since(&mut self, slot: Slot, since: Nanos, at: Nanos) {
        let item = &mut self.slab[slot];
        item.since = since;
        if since > at {
            item.state = State::Delayed;
            self.stats.delayed += 1;
        } else {
            self.line_up(slot);
            self.stats.pending += 1;
        }
        self.wheel.insert(&mut self.slab, slot);
    }

    /// Gives up on an item, which is in no list and has no timer. Dead letters
    /// are kept in the order that this happened, by `since` and LSN.
    pub(super) fn bury(&mut self, slot: Slot, at: Nanos) {
        if let Some(resources) = &mut self.resources {
            resources.leave(&self.slab, slot);
        }
        let item = &mut self.slab[slot];
        item.since = at;
        item.state = State::Dead(Links::NONE);
        if self.lists_are_ordered {
            let since = self.dead.since_at_back(&self.slab, slot);
            self.slab[slot].since = since;
            self.dead.push_back(&mut self.slab, slot);
        } else {
            self.dead.push_unordered(&mut self.slab, slot);
        }
        self.stats.dead += 1;
    }

    /// Takes an item out of its list, the wheel and the counts. The caller
    /// gives it a new state or removes it.
    pub(super) fn detach(&mut self, slot: Slot) {
        self.wheel.remove(&mut self.slab, slot);
        match &self.slab[slot].state {
            State::Waiting(_) => {
                self.leave_line(slot);
                self.stats.pending -= 1;
            }
            State::Blocked => self.stats.pending -= 1,
            State::Delayed => self.stats.delayed -= 1,
            State::Leased { owner, .. } => {
                self.owners.release(*owner);
                self.stats.active -= 1;
                if let Some(resources) = &mut self.resources {
                    resources.end_lease(&self.slab, slot);
                }
            }
            State::Dead(_) => {
                self.dead.remove(&mut self.slab, slot);
                self.stats.dead -= 1;
            }
            State::Vacant(_) => panic!("slot {slot} holds no item"),
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let item = &self.slab[slot];
        self.item_bytes -= u64::from(item.body_len) + u64::from(item.error_len);
        self.roots.remove(item.body.segment);
        self.keys.remove(slot);
        if let Some(resources) = &mut self.resources {
            resources.leave(&self.slab, slot);
        }
        if !self.redriven.is_empty() {
            self.redriven.remove(&self.slab[slot].lsn);
        }
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

pub(super) fn ensure(holds: bool, what: &'static str) -> Change {
    if holds { Ok(()) } else { Err(what) }
}

/// Where a record's snapshot lies: at the body's end. The body's own place
/// when it has none.
fn snapshot_place(event: &Event<'_>, place: Place) -> Place {
    match event.snapshot() {
        Some(snapshot) => place.after(event.encoded_len() - snapshot.encoded_len()),
        None => place,
    }
}
