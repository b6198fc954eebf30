//! What the shard keeps of an item in memory.

use crate::ids::{Epoch, Lsn, Millis, Nanos, Place};
use crate::index::INDEX_BYTES_AN_ITEM;
use crate::outcome::FenceReason;
use crate::owners::OwnerId;
use crate::record::LeaseRef;
use crate::slab::{NO_SLOT, Slot};

/// An item. Its payload stays in the log, at `body`.
///
/// It takes two cache lines and no part of a third: where many items wait,
/// each line is a look at memory.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Item {
    /// The LSN of its enqueue.
    pub(crate) lsn: Lsn,
    pub(crate) enqueued_at: Nanos,
    /// Since when it waits, or when its delay ends; kept while it is leased,
    /// so that a released grant goes back to where it was.
    pub(crate) since: Nanos,
    /// The body of its `Enqueued` record.
    pub(crate) body: Place,
    pub(crate) body_len: u32,
    /// Length of its last `Failed` record's body; 0 when it never failed.
    pub(crate) error_len: u32,
    pub(crate) error: Place,
    /// From the enqueue; zero for none.
    pub(crate) ttl: Millis,
    /// Its neighbours in the timing wheel's bucket.
    pub(crate) timer: Links,
    /// The item after it in its bucket of the index.
    pub(crate) next_in_index: Slot,
    /// Where it is in the timing wheel, or `NO_BUCKET`.
    pub(crate) bucket: u16,
    pub(crate) max_attempts: u16,
    /// Attempts that count, with the one that is leased.
    pub(crate) attempt: u16,
    /// Grants, released ones too, since the counter last began.
    pub(crate) grant: u16,
    pub(crate) priority: u8,
    /// How its last lease ended.
    pub(crate) last_end: Option<FenceReason>,
    /// The epoch of its last lease, kept after that has ended, so that the
    /// token can be told, and made, again. 0 when it was never leased.
    pub(crate) lease_epoch: Epoch,
    pub(crate) state: State,
}

/// What state an item is in, with what only that state needs.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The slot holds no item; the next such slot.
    Vacant(Slot),
    Waiting(Links),
    /// Another item of its resource goes first.
    Blocked,
    Delayed,
    Leased {
        owner: OwnerId,
        lease: Lease,
    },
    Dead(Links),
}

/// An active lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) expires_at: Nanos,
    /// How long before `expires_at` the lease's last record is.
    pub(crate) recorded_before: Millis,
    /// What a heartbeat extends by unless it says otherwise.
    pub(crate) duration: Millis,
    /// The longest duration on record: what the lease gets after a restart.
    pub(crate) recorded: Millis,
}

/// Neighbours in a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    pub(crate) prev: Slot,
    pub(crate) next: Slot,
}

impl Links {
    pub(crate) const NONE: Links = Links {
        prev: NO_SLOT,
        next: NO_SLOT,
    };
}

/// The bucket of an item without a timer.
pub(crate) const NO_BUCKET: u16 = u16::MAX;

/// Bytes of heap that an item may cost, bodies aside.
const ITEM_BYTES_MAX: usize = 140;

const _: () = assert!(size_of::<Item>() + INDEX_BYTES_AN_ITEM <= ITEM_BYTES_MAX);

impl Item {
    /// When something happens to the item by time alone.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Leased { lease, .. } => Some(lease.expires_at),
            State::Delayed => Some(self.ttl_end().map_or(self.since, |end| end.min(self.since))),
            State::Waiting(_) | State::Blocked => self.ttl_end(),
            State::Dead(_) | State::Vacant(_) => None,
        }
    }

    /// Its last lease. Without meaning when it was never leased.
    pub(crate) fn last_lease(&self) -> LeaseRef {
        LeaseRef {
            item: self.lsn,
            attempt: self.attempt,
            grant: self.grant,
            epoch: self.lease_epoch,
        }
    }

    /// Its last lease, if it ever had one, and how that ended or ends if the
    /// item is cancelled now.
    pub(crate) fn cancelled(&self) -> Option<(LeaseRef, FenceReason)> {
        let reason = match &self.state {
            State::Leased { .. } => Some(FenceReason::Superseded),
            _ => self.last_end,
        };
        reason.map(|reason| (self.last_lease(), reason))
    }

    /// When it outlives its time.
    pub(crate) fn ttl_end(&self) -> Option<Nanos> {
        (self.ttl.0 > 0).then(|| self.enqueued_at.saturating_add_millis(self.ttl))
    }

    /// How its last lease ended, if it is not leased and ever was.
    pub(crate) fn last_ended(&self) -> Option<(LeaseRef, FenceReason)> {
        self.last_end.map(|reason| (self.last_lease(), reason))
    }

    pub(crate) fn last_error(&self) -> Option<(Place, u32)> {
        (self.error_len > 0).then_some((self.error, self.error_len))
    }

    /// # Panics
    /// When the item is in no list.
    #[inline]
    pub(crate) fn links_mut(&mut self) -> &mut Links {
        match &mut self.state {
            State::Waiting(links) | State::Dead(links) => links,
            state => panic!("an item in no list was linked: {state:?}"),
        }
    }

    /// # Panics
    /// When the item is in no list.
    #[inline]
    pub(crate) fn links(&self) -> Links {
        match &self.state {
            State::Waiting(links) | State::Dead(links) => *links,
            state => panic!("an item in no list was linked: {state:?}"),
        }
    }
}
