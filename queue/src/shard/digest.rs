//! All of a shard's logged state in a form that can be compared: what tests
//! hold replay against.

use crate::ids::{Epoch, Lsn, Millis, Nanos, Place, RequestKey};
use crate::item::State;
use crate::outcome::FenceReason;
use crate::slab::Slot;

use super::Shard;

/// A shard's logged state at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The last record.
    pub last_lsn: Lsn,
    /// The epoch.
    pub epoch: Epoch,
    /// Items in the order of their LSNs.
    pub items: Vec<ItemDigest>,
    /// Dead letters, in their order.
    pub dead: Vec<Lsn>,
    /// Remembered request ids.
    pub dedupe: Vec<(Lsn, RequestKey)>,
    /// Remembered restored items.
    pub restored: Vec<(Lsn, RequestKey)>,
    /// Drain requests that may be repeated.
    pub drains: Vec<DrainDigest>,
    /// Bytes of the log that items and bundles take.
    pub live_bytes: u64,
    /// Owners and their leases.
    pub owners: Vec<(String, u64)>,
}

/// A drain request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DrainDigest {
    /// The request.
    pub request: RequestKey,
    /// Whether it has got all that it will.
    pub complete: bool,
    /// Where its items lie.
    pub items: Vec<(Place, u32)>,
}

/// An item's logged state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemDigest {
    /// Its enqueue.
    pub lsn: Lsn,
    /// Waiting, delayed, leased or dead.
    pub state: &'static str,
    /// When it came in, and when it is ready.
    pub times: (Nanos, Nanos),
    /// Its record's body.
    pub body: (Place, u32),
    /// Its last failure's record's body.
    pub error: Option<(Place, u32)>,
    /// Its time to live.
    pub ttl: Millis,
    /// Attempt, most attempts, grants.
    pub counts: (u16, u16, u16),
    /// Most attempts before it was redriven.
    pub attempts_at_first: u16,
    /// Its priority.
    pub priority: u8,
    /// How its last lease ended.
    pub last_end: Option<FenceReason>,
    /// The epoch of its last lease.
    pub lease_epoch: Epoch,
    /// Owner, duration and longest recorded duration of its lease.
    pub lease: Option<(String, Millis, Millis)>,
}

impl Shard {
    /// The shard's logged state, as it is at `at`, which is not before its
    /// own time.
    #[doc(hidden)]
    pub fn digest(&self, at: Nanos) -> Digest {
        let slots = 0..self.slab.slots();
        let held = slots.filter(|slot| !matches!(self.slab[*slot].state, State::Vacant(_)));
        let mut items: Vec<ItemDigest> = held.map(|slot| self.item_digest(slot, at)).collect();
        items.sort_unstable_by_key(|item| item.lsn);
        let owners = self.owners.iter();
        let mut owners: Vec<_> = owners.map(|(name, n)| (name.to_owned(), n)).collect();
        owners.sort_unstable();
        let dead = self.dead.iter(&self.slab);
        let drains = self.drains.live(at);
        let drains: Vec<_> = drains
            .map(|bundle| DrainDigest {
                request: bundle.request,
                complete: bundle.complete,
                items: bundle.items.clone(),
            })
            .collect();
        let drained = drains.iter().flat_map(|drain| &drain.items);
        let drained_bytes: u64 = drained.map(|(_, len)| u64::from(*len)).sum();
        Digest {
            last_lsn: self.last_lsn,
            epoch: self.epoch,
            items,
            dead: dead.map(|slot| self.slab[slot].lsn).collect(),
            dedupe: self.dedupe.snapshot(at),
            restored: self.restored.snapshot(at),
            drains,
            live_bytes: self.item_bytes + drained_bytes,
            owners,
        }
    }

    fn item_digest(&self, slot: Slot, at: Nanos) -> ItemDigest {
        let item = &self.slab[slot];
        let (state, lease) = match &item.state {
            State::Waiting(_) | State::Blocked => ("waiting", None),
            State::Delayed if item.since <= at => ("waiting", None),
            State::Delayed => ("delayed", None),
            State::Leased { owner, lease } => {
                let owner = self.owners.name(*owner).to_owned();
                let lease = (owner, lease.duration, lease.recorded);
                ("leased", Some(lease))
            }
            State::Dead(_) => ("dead", None),
            State::Vacant(_) => ("vacant", None),
        };
        ItemDigest {
            lsn: item.lsn,
            state,
            times: (item.enqueued_at, item.since),
            body: (item.body, item.body_len),
            error: item.last_error(),
            ttl: item.ttl,
            counts: (item.attempt, item.max_attempts, item.grant),
            attempts_at_first: self.attempts_at_first(slot),
            priority: item.priority,
            last_end: item.last_end,
            lease_epoch: item.lease_epoch,
            lease,
        }
    }
}
