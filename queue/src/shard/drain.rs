//! Taking items out, to be put back here or elsewhere.
//!
//! An item leaves in two steps, because its payload is read off the core:
//! [`drain_candidates`](Shard::drain_candidates) says which items are next and
//! where their bytes lie; [`handle_drain`](Shard::handle_drain) gets the bytes
//! and takes the item out, unless it changed meanwhile.

use crate::codec::DecodeError;
use crate::drains::NoRoom;
use crate::ids::{Lsn, Nanos, Place, RequestKey, SequenceId};
use crate::item::{Item, State};
use crate::outcome::{Decision, FenceReason};
use crate::record::{EnqueuedBody, Event, Log, Record};
use crate::slab::Slot;
use crate::snapshot::{ItemSnapshot, SnapshotState};
use crate::token::Token;

use super::Shard;
use super::apply::{Change, ensure};

/// Slots that one look for items that are held back takes in: well within a
/// millisecond.
const SLOTS_LOOKED_AT_MAX: u32 = 16_384;

/// An item that could be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The LSN of its enqueue.
    pub lsn: Lsn,
    /// What it looked like.
    stamp: Stamp,
    /// The version of its resource's chain.
    chain_version: u32,
    /// The body of its enqueue, which holds its payload.
    pub body: Place,
    /// Length of that body in bytes.
    pub body_len: u32,
    /// The body of its last failure, and its length in bytes.
    pub error: Option<(Place, u32)>,
}

/// What changes when an item gets another error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    attempt: u16,
    grant: u16,
}

/// Where a walk over the items to be drained goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainCursor {
    /// Where items that are held back are looked for next.
    slot: Slot,
    /// The resource of which not all items fitted before.
    cut: Option<u64>,
}

/// Some of the items that could be taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// In the order in which they should go.
    pub found: Vec<Candidate>,
    /// Where the walk goes on when these have gone; `None` when there are no
    /// others now. There may be a next without any found: looking takes time,
    /// and each call takes only so much of it.
    pub next: Option<DrainCursor>,
}

/// An item that was taken out, as whoever takes it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Where its [`ItemSnapshot`] lies in the log.
    pub place: Place,
    /// Length of the snapshot in bytes.
    pub len: u32,
    /// The item.
    pub sequence_id: SequenceId,
    /// Attempts that counted.
    pub attempt: u16,
    /// Attempts until it would have become a dead letter.
    pub max_attempts: u16,
    /// Higher first.
    pub priority: u8,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it waited, or when its delay would have ended.
    pub ready_at: Nanos,
    /// When it would have outlived its time.
    pub ttl_end: Option<Nanos>,
    /// Whether it had been given up on.
    pub dead: bool,
    /// The token of its last lease, unless that was taken back.
    pub last_token: Option<Token>,
}

/// Why an item was not taken out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainRefused {
    /// It is gone, is leased, or failed again since it was looked at, or another
    /// of its resource may have to go first now.
    #[error("the item changed while it was read")]
    Changed,
    /// Its bytes are not those that were written.
    #[error("the item cannot be read back: {0}")]
    Unreadable(#[from] DecodeError),
    /// The shard remembers as many bundles, or this one is as large, as may be.
    #[error("the shard remembers as many drained items as it may; try again later")]
    Full,
    /// The shard's part of the request is complete.
    #[error("the request's bundle is complete")]
    Complete,
}

/// What a shard gave to a drain request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainedPart<'a> {
    /// Whether that was all.
    pub complete: bool,
    /// Where the [`ItemSnapshot`]s lie in the log, and their lengths in bytes,
    /// in the order in which the items went.
    pub items: &'a [(Place, u32)],
    /// The LSN that must be committed before anyone may learn of it.
    pub rests_on: Lsn,
}

/// Slots that are to be candidates.
struct Page {
    found: Vec<Slot>,
    max: usize,
    cut: Option<u64>,
}

impl Page {
    fn is_full(&self) -> bool {
        self.found.len() >= self.max
    }
}

impl Shard {
    /// At most `max` items that could be taken out: those that wait, best
    /// first as far as priorities go, then those that are held back, then dead
    /// letters. Where items of one resource are leased one at a time, all that
    /// are not leased come one behind the other, in their order, and go in no
    /// other. Items that went since do not come again; those that did not go,
    /// because they could not be read, do, before the others.
    pub fn drain_candidates(&self, cursor: DrainCursor, max: usize) -> Candidates {
        let mut page = Page {
            found: Vec::new(),
            max,
            cut: None,
        };
        for slot in self.ready.iter(&self.slab) {
            if page.is_full() {
                break;
            }
            self.add_line(slot, &mut page);
        }
        let left_cut = cursor.cut.filter(|_| page.is_full());
        self.add_rest(cursor.cut, &mut page);
        let (held_back, is_at_end) = self.add_held_back(cursor, &mut page);
        if is_at_end {
            let dead = self.dead.iter(&self.slab);
            page.found.extend(dead.take(max - page.found.len()));
        }
        // Only one resource is remembered: with two, the look begins anew.
        let is_anew = left_cut.is_some() && page.cut.is_some_and(|cut| Some(cut) != left_cut);
        let next = DrainCursor {
            slot: if is_anew { 0 } else { held_back },
            cut: page.cut.or(cursor.cut),
        };
        let may_be_more = !is_at_end || page.is_full();
        let found = page.found.into_iter();
        Candidates {
            next: may_be_more.then_some(next),
            found: found.map(|slot| self.candidate(slot)).collect(),
        }
    }

    /// Adds an item, and those of its resource that it holds back.
    fn add_line(&self, slot: Slot, page: &mut Page) {
        let Some(resources) = &self.resources else {
            page.found.push(slot);
            return;
        };
        let resource = resources.resource_of(slot);
        for slot in resources.line(&self.slab, resource) {
            if page.is_full() {
                page.cut = Some(resource);
                return;
            }
            page.found.push(slot);
        }
    }

    /// Adds what is left of a resource whose first item does not wait: one
    /// that does has come with those that wait.
    fn add_rest(&self, cut: Option<u64>, page: &mut Page) {
        if let Some(resources) = &self.resources
            && let Some(resource) = cut
            && !page.is_full()
            && let Some(first) = resources.line(&self.slab, resource).next()
            && self.is_held_back_or_delayed(first)
        {
            self.add_line(first, page);
        }
    }

    /// Adds items that are held back and come behind none that waits. The slot
    /// of the first, or where the look ended, and whether that was the end.
    fn add_held_back(&self, cursor: DrainCursor, page: &mut Page) -> (Slot, bool) {
        if self.stats.delayed == 0 && self.resources.is_none() {
            return (cursor.slot, true);
        }
        let end = cursor.slot.saturating_add(SLOTS_LOOKED_AT_MAX);
        let end = end.min(self.slab.slots());
        let mut next = cursor.slot;
        let mut first = None;
        while next < end && !page.is_full() {
            if self.is_held_back_or_delayed(next) && self.begins_a_line(next, cursor.cut) {
                // If it does not go it is found again.
                first = first.or(Some(next));
                self.add_line(next, page);
            }
            next += 1;
        }
        (first.unwrap_or(next), next >= self.slab.slots())
    }

    fn is_held_back_or_delayed(&self, slot: Slot) -> bool {
        matches!(self.slab[slot].state, State::Delayed | State::Blocked)
    }

    /// Whether no other item must go before this one, and it is not of the
    /// resource whose items were added already.
    fn begins_a_line(&self, slot: Slot, added: Option<u64>) -> bool {
        self.resources.as_ref().is_none_or(|resources| {
            Some(resources.resource_of(slot)) != added
                && resources.is_first_in_line(&self.slab, slot)
        })
    }

    fn chain_version(&self, slot: Slot) -> u32 {
        let resources = self.resources.as_ref();
        resources.map_or(0, |resources| resources.chain_version(slot))
    }

    fn candidate(&self, slot: Slot) -> Candidate {
        let item = &self.slab[slot];
        Candidate {
            lsn: item.lsn,
            stamp: Stamp::of(item),
            chain_version: self.chain_version(slot),
            body: item.body,
            body_len: item.body_len,
            error: item.last_error(),
        }
    }

    /// Takes an item out. `body` and `error` are what lies at the candidate's
    /// places; `error` is empty when it never failed.
    ///
    /// # Errors
    /// When the item is not as it was, its bytes are not what was written, or
    /// the request can get no further item. Nothing has changed then.
    pub fn handle_drain(
        &mut self,
        now: Nanos,
        candidate: &Candidate,
        body: &[u8],
        error: &[u8],
        request: Option<RequestKey>,
        log: &mut impl Log,
    ) -> Result<Decision<Drained>, DrainRefused> {
        let at = self.advance(now);
        let slot = self.index.get(&self.slab, candidate.lsn);
        let slot = slot.ok_or(DrainRefused::Changed)?;
        let item = &self.slab[slot];
        if matches!(item.state, State::Leased { .. }) || Stamp::of(item) != candidate.stamp {
            return Err(DrainRefused::Changed);
        }
        // One that was leased then may have come to stand before it.
        if self.chain_version(slot) != candidate.chain_version {
            return Err(DrainRefused::Changed);
        }
        if (body.len(), error.len()) != (item.body_len as usize, item.error_len as usize) {
            return Err(DecodeError::Truncated.into());
        }
        EnqueuedBody::decode_verified(body)?;
        let snapshot = self.snapshot(slot, "", error, body);
        snapshot.failed()?;
        if let Some(request) = request {
            self.drains.make_room(request, at)?;
        }
        let event = Event::DrainSnapshot {
            request,
            snapshot: Some(snapshot),
        };
        let (lsn, place) = self.commit_at(event, log);
        let len = snapshot.encoded_len();
        let place = place.after(event.encoded_len() - len);
        Ok(Decision {
            outcome: self.drained_item(&snapshot, place, len as u32),
            rests_on: Some(lsn),
        })
    }

    /// Notes that the shard's part of a request is complete: from now on the
    /// request gets what it got.
    ///
    /// # Errors
    /// When it was complete already, or too many requests are remembered.
    pub fn handle_drain_complete(
        &mut self,
        now: Nanos,
        request: RequestKey,
        log: &mut impl Log,
    ) -> Result<Decision<()>, DrainRefused> {
        let at = self.advance(now);
        self.drains.make_room_to_complete(request, at)?;
        let event = Event::DrainSnapshot {
            request: Some(request),
            snapshot: None,
        };
        let lsn = self.commit(event, log);
        Ok(Decision {
            outcome: (),
            rests_on: Some(lsn),
        })
    }

    /// What this shard gave to a request within the dedupe window.
    pub fn drained(&self, request: RequestKey, now: Nanos) -> Option<DrainedPart<'_>> {
        let bundle = self.drains.get(request, self.clock.max(now))?;
        Some(DrainedPart {
            complete: bundle.complete,
            items: &bundle.items,
            rests_on: bundle.last_lsn,
        })
    }

    /// What whoever takes the item is told, from its snapshot as it is read
    /// back from the log.
    pub fn drained_item(&self, snapshot: &ItemSnapshot<'_>, place: Place, len: u32) -> Drained {
        // The attempt of a grant that was taken back does not count: its token
        // cannot be made again, and nobody got it.
        let last = snapshot.last_ended();
        let last = last.filter(|(_, reason)| *reason != FenceReason::Superseded);
        Drained {
            place,
            len,
            sequence_id: self.spec.sequence_id(snapshot.lsn),
            attempt: snapshot.attempt,
            max_attempts: snapshot.max_attempts,
            priority: snapshot.priority,
            enqueued_at: snapshot.enqueued_at,
            ready_at: snapshot.since,
            ttl_end: snapshot.ttl_end(),
            dead: snapshot.state == SnapshotState::Dead,
            last_token: last.map(|(lease, _)| self.issue(&lease)),
        }
    }

    /// An item as it is. `owner` is the name of who leases it, if somebody
    /// does.
    pub(super) fn snapshot<'a>(
        &self,
        slot: Slot,
        owner: &'a str,
        error: &'a [u8],
        body: &'a [u8],
    ) -> ItemSnapshot<'a> {
        let item = &self.slab[slot];
        ItemSnapshot {
            lsn: item.lsn,
            enqueued_at: item.enqueued_at,
            since: item.since,
            ttl: Some(item.ttl).filter(|ttl| ttl.0 > 0),
            attempt: item.attempt,
            max_attempts: item.max_attempts,
            grant: item.grant,
            priority: item.priority,
            last_end: item.last_end,
            lease_epoch: item.lease_epoch,
            state: match &item.state {
                State::Waiting(_) | State::Blocked | State::Delayed => SnapshotState::Waiting,
                State::Leased { lease, .. } => SnapshotState::Leased {
                    owner,
                    duration: lease.duration,
                    recorded: lease.recorded,
                },
                State::Dead(_) => SnapshotState::Dead,
                State::Vacant(_) => panic!("slot {slot} holds no item"),
            },
            error,
            body,
        }
    }

    /// Applies a record of a drain. `place` is that of the snapshot.
    pub(super) fn drain_applied(
        &mut self,
        record: &Record<'_>,
        request: Option<RequestKey>,
        snapshot: Option<&ItemSnapshot<'_>>,
        place: Place,
    ) -> Change {
        let Some(snapshot) = snapshot else {
            let request = request.ok_or("it completes no request")?;
            self.drains.complete(request, record.lsn, record.at);
            return Ok(());
        };
        let slot = self.find(snapshot.lsn)?;
        let is_leased = matches!(self.slab[slot].state, State::Leased { .. });
        ensure(!is_leased, "it takes an item out that is leased")?;
        self.ensure_same(slot, snapshot)?;
        if let Some((lease, reason)) = snapshot.last_ended() {
            self.settled.insert(&lease, reason, record.at);
        }
        self.detach(slot);
        self.remove(slot);
        self.remember_drained(record, request, snapshot, place);
        Ok(())
    }

    /// Remembers the item for the request that took it out, if it has one.
    pub(super) fn remember_drained(
        &mut self,
        record: &Record<'_>,
        request: Option<RequestKey>,
        snapshot: &ItemSnapshot<'_>,
        place: Place,
    ) {
        if let Some(request) = request {
            let item = (place, snapshot.encoded_len() as u32);
            self.drains.insert(request, record.lsn, record.at, item);
        }
    }

    /// Checks that an item is what a snapshot says, as far as that is on
    /// record: when delays end is told by the time alone.
    pub(super) fn ensure_same(&self, slot: Slot, snapshot: &ItemSnapshot<'_>) -> Change {
        let item = &self.slab[slot];
        let is_same_state = match (&item.state, snapshot.state) {
            (State::Waiting(_) | State::Blocked | State::Delayed, SnapshotState::Waiting) => true,
            (State::Dead(_), SnapshotState::Dead) => true,
            (
                State::Leased { owner: id, lease },
                SnapshotState::Leased {
                    owner,
                    duration,
                    recorded,
                },
            ) => {
                let lasts = (lease.duration, lease.recorded) == (duration, recorded);
                lasts && self.owners.name(*id) == owner
            }
            _ => false,
        };
        let counts = (item.attempt, item.max_attempts, item.grant);
        let lens = (item.body_len as usize, item.error_len as usize);
        let is_same = is_same_state
            && counts == (snapshot.attempt, snapshot.max_attempts, snapshot.grant)
            && lens == (snapshot.body.len(), snapshot.error.len())
            && item.last_end == snapshot.last_end
            && item.lease_epoch == snapshot.lease_epoch
            && item.enqueued_at == snapshot.enqueued_at
            && item.priority == snapshot.priority;
        ensure(is_same, "its item is not what it says")
    }
}

impl Stamp {
    fn of(item: &Item) -> Stamp {
        Stamp {
            attempt: item.attempt,
            grant: item.grant,
        }
    }
}

impl From<NoRoom> for DrainRefused {
    fn from(no_room: NoRoom) -> DrainRefused {
        match no_room {
            NoRoom::Full => DrainRefused::Full,
            NoRoom::Complete => DrainRefused::Complete,
        }
    }
}
