//! The calls that a core has accepted and not yet answered.

use std::collections::BTreeSet;

use omnirelay_net::rpc::{self, Procedure};
use omnirelay_queue::{Nanos, ShardId};

use super::answer::Answer;
use super::backpressure::WaitingEnqueue;
use super::drain::DrainWalk;
use super::layout::{LogId, NamespaceId};
use super::listing::ListWalk;
use super::part::{GrantRef, ItemResult, Take};

/// Names a call on its core; never repeats while the slot's generation has not wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// Small and dense: usable as an index.
    pub slot: u32,
    generation: u32,
}

/// What leaves for a caller.
#[derive(Debug)]
pub struct Outcome {
    /// The reply, or why there is none.
    pub reply: Result<Answer, rpc::Error>,
    /// The shard that served, where it was one.
    pub shard: Option<ShardId>,
    /// Grants in the reply: to be handed to [`super::Core::handle_undelivered`] if it cannot be
    /// delivered.
    pub grants: Vec<GrantRef>,
    /// When the last part of it was handed out to be carried out and committed. What came before
    /// was waiting for work, or for room; `None` if nothing was.
    pub dispatched_at: Option<Nanos>,
}

/// What a lease call is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seek {
    /// Asked this log's core; no answer yet.
    Asked(LogId),
    /// Nothing was there: waits until its time is up.
    Parked,
}

/// A lease call's wish and where it stands.
#[derive(Debug)]
pub(super) struct LeaseWish {
    pub(super) take: Take,
    pub(super) seek: Seek,
    /// Logs that had nothing, though their published numbers said otherwise.
    pub(super) tried: Vec<LogId>,
    pub(super) wait_until: Nanos,
    /// Its place among those that wait for items of one partition key.
    pub(super) turn: u64,
    /// How long such a wait lasts until it looks at other cores' logs again.
    pub(super) look_after: Nanos,
    /// When it is looked at again; `wait_until` for a wait that others end.
    pub(super) wake_at: Nanos,
}

/// One accepted call.
#[derive(Debug)]
pub(super) struct PendingCall {
    pub(super) procedure: Procedure,
    pub(super) namespace: NamespaceId,
    /// The reply must have left by then.
    pub(super) reply_by: Nanos,
    pub(super) results: Vec<Option<ItemResult>>,
    /// Parts whose results are still to come.
    pub(super) outstanding: u32,
    pub(super) lease: Option<LeaseWish>,
    /// What an enqueue brings that waits for its namespace's gate.
    pub(super) enqueue: Option<Box<WaitingEnqueue>>,
    /// How far a call has come that goes from shard to shard.
    pub(super) walk: Option<Box<Walk>>,
    /// The caller is gone or has its answer: grants that still come are undone.
    pub(super) abandoned: bool,
    /// See [`Outcome::dispatched_at`].
    pub(super) dispatched_at: Option<Nanos>,
}

/// What a call does step by step, each at another shard.
#[derive(Debug)]
pub(super) enum Walk {
    List(ListWalk),
    Drain(DrainWalk),
}

impl CallId {
    /// Before every other.
    pub(super) const FIRST: CallId = CallId {
        slot: 0,
        generation: 0,
    };

    /// Nobody's: results for it are of no interest to anyone.
    pub(super) const NOBODY: CallId = CallId {
        slot: u32::MAX,
        generation: 0,
    };
}

impl PendingCall {
    /// Neither answered nor waiting for work.
    fn is_in_flight(&self) -> bool {
        let waits = self
            .lease
            .as_ref()
            .is_some_and(|wish| wish.seek == Seek::Parked);
        !self.abandoned && !waits
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    call: Option<PendingCall>,
}

/// All open calls of a core.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: usize,
    /// No open call, parked ones aside, must be answered before this.
    earliest: Option<Nanos>,
    /// Lease calls that wait, by the time their wait ends.
    parked: BTreeSet<(Nanos, CallId)>,
    /// How many of them there are by namespace, and whether that has changed since it was told.
    workers: Vec<u64>,
    workers_changed: bool,
}

impl Calls {
    /// How many calls are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn insert(&mut self, call: PendingCall) -> CallId {
        self.note_deadline(call.reply_by);
        self.open += 1;
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.call = Some(call);
            return CallId {
                slot,
                generation: entry.generation,
            };
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 calls at once");
        self.slots.push(Slot {
            generation: 0,
            call: Some(call),
        });
        CallId {
            slot,
            generation: 0,
        }
    }

    pub(super) fn get_mut(&mut self, id: CallId) -> Option<&mut PendingCall> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.call.as_mut()
    }

    /// Forgets a call; it may be gone already.
    pub(super) fn remove(&mut self, id: CallId) {
        let Some(slot) = self.slots.get_mut(id.slot as usize) else {
            return;
        };
        let Some(call) = slot
            .call
            .as_ref()
            .filter(|_| slot.generation == id.generation)
        else {
            return;
        };
        let namespace = call.namespace;
        let parked = call.lease.as_ref().map(|wish| (wish.wake_at, id));
        // Dropped where it lies.
        slot.call = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.open -= 1;
        if parked.is_some_and(|parked| self.parked.remove(&parked)) {
            self.count_worker(namespace, false);
        }
    }

    /// Notes that a lease call waits until `wake_at`.
    pub(super) fn park(&mut self, id: CallId, wake_at: Nanos) {
        let call = self.get_mut(id).expect("only an open call parks");
        call.dispatched_at = None;
        let wish = call.lease.as_mut().expect("only lease calls park");
        wish.seek = Seek::Parked;
        wish.tried.clear();
        wish.wake_at = wake_at;
        let namespace = call.namespace;
        self.parked.insert((wake_at, id));
        self.count_worker(namespace, true);
    }

    fn count_worker(&mut self, namespace: NamespaceId, more: bool) {
        let at = usize::from(namespace.0);
        if self.workers.len() <= at {
            self.workers.resize(at + 1, 0);
        }
        let workers = &mut self.workers[at];
        *workers = if more { *workers + 1 } else { *workers - 1 };
        self.workers_changed = true;
    }

    /// How many lease calls wait, by namespace, if that has changed since the last look.
    pub(super) fn poll_workers(&mut self) -> Option<&[u64]> {
        std::mem::take(&mut self.workers_changed).then_some(&self.workers[..])
    }

    /// Takes a call out of waiting, because somebody may have work for it: from here on its
    /// reply's deadline counts.
    pub(super) fn unpark(&mut self, id: CallId) {
        let Some(call) = self.get_mut(id) else { return };
        let (reply_by, namespace) = (call.reply_by, call.namespace);
        let wake_at = call.lease.as_ref().map(|wish| wish.wake_at);
        if wake_at.is_some_and(|at| self.parked.remove(&(at, id))) {
            self.count_worker(namespace, false);
        }
        self.note_deadline(reply_by);
    }

    fn note_deadline(&mut self, reply_by: Nanos) {
        self.earliest = Some(self.earliest.map_or(reply_by, |e| e.min(reply_by)));
    }

    /// How many calls wait for work.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// True while the call waits for work.
    pub(super) fn is_parked(&mut self, id: CallId) -> bool {
        self.get_mut(id).is_some_and(|call| {
            call.lease
                .as_ref()
                .is_some_and(|wish| wish.seek == Seek::Parked)
                && !call.abandoned
        })
    }

    /// True while the call is an enqueue that waits for its namespace to have room.
    pub(super) fn is_held_back(&mut self, id: CallId) -> bool {
        self.get_mut(id)
            .is_some_and(|call| call.enqueue.is_some() && !call.abandoned)
    }

    /// When some call may have to be answered for lack of time.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let parked = self.parked.first().map(|&(at, _)| at);
        match (parked, self.earliest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Calls whose time is up at `now`.
    ///
    /// Calls in flight are looked through only when the earliest of their deadlines has come,
    /// which under load is once in a deadline's length: most are answered long before.
    pub(super) fn poll_due(&mut self, now: Nanos, due: &mut Vec<CallId>) {
        while let Some(&(at, id)) = self.parked.first() {
            if at > now {
                break;
            }
            self.parked.pop_first();
            if let Some(namespace) = self.get_mut(id).map(|call| call.namespace) {
                self.count_worker(namespace, false);
            }
            due.push(id);
        }
        if self.earliest.is_none_or(|at| at > now) {
            return;
        }
        self.earliest = None;
        for (slot, entry) in (0u32..).zip(&self.slots) {
            let Some(call) = entry.call.as_ref().filter(|call| call.is_in_flight()) else {
                continue;
            };
            let id = CallId {
                slot,
                generation: entry.generation,
            };
            if call.reply_by <= now {
                due.push(id);
            } else {
                self.earliest = Some(
                    self.earliest
                        .map_or(call.reply_by, |e| e.min(call.reply_by)),
                );
            }
        }
    }

    /// Every open call.
    pub(super) fn ids(&self) -> Vec<CallId> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, entry)| entry.call.is_some())
            .map(|(slot, entry)| CallId {
                slot,
                generation: entry.generation,
            })
            .collect()
    }
}
