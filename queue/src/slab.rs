//! Items by slot, in chunks: growing never moves what is there.

use std::ops::{Index, IndexMut};

use crate::ids::{Epoch, Lsn, Millis, Nanos, Place};
use crate::item::{Item, Links, NO_BUCKET, State};

/// Where an item is in memory.
pub(crate) type Slot = u32;

/// No item.
pub(crate) const NO_SLOT: Slot = u32::MAX;

/// Most items that a shard can hold, dead letters included.
pub(crate) const ITEMS_MAX: u32 = u32::MAX - CHUNK_ITEMS as u32;

/// 512 KiB a chunk: filled within a millisecond.
const CHUNK_ITEMS: usize = 4096;

const VACANT: Item = Item {
    lsn: Lsn(0),
    enqueued_at: Nanos(0),
    since: Nanos(0),
    body: Place {
        segment: 0,
        offset: 0,
    },
    body_len: 0,
    error_len: 0,
    error: Place {
        segment: 0,
        offset: 0,
    },
    ttl: Millis(0),
    timer: Links::NONE,
    next_in_index: NO_SLOT,
    bucket: NO_BUCKET,
    max_attempts: 0,
    attempt: 0,
    grant: 0,
    priority: 0,
    last_end: None,
    lease_epoch: Epoch(0),
    state: State::Vacant(NO_SLOT),
};

#[derive(Debug)]
pub(crate) struct Slab {
    chunks: Vec<Vec<Item>>,
    /// The first vacant slot of those used before.
    vacant: Slot,
    len: u32,
}

impl Slab {
    pub(crate) fn new() -> Slab {
        Slab {
            chunks: Vec::new(),
            vacant: NO_SLOT,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// How many slots were ever used: all items are in slots below.
    pub(crate) fn slots(&self) -> Slot {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_ITEMS;
        (full + self.chunks.last().map_or(0, Vec::len)) as Slot
    }

    /// # Panics
    /// When there are [`ITEMS_MAX`] items already.
    // Inlined so that the item is made where it stays.
    #[inline]
    pub(crate) fn insert(&mut self, item: Item) -> Slot {
        let slot = self.take();
        self[slot] = item;
        slot
    }

    fn take(&mut self) -> Slot {
        assert!(self.len < ITEMS_MAX, "the shard holds too many items");
        self.len += 1;
        let slot = self.vacant;
        if slot == NO_SLOT {
            return self.push();
        }
        let State::Vacant(next) = self[slot].state else {
            panic!("slot {slot} is listed as vacant and is not");
        };
        self.vacant = next;
        slot
    }

    /// Takes a slot that was never used.
    fn push(&mut self) -> Slot {
        if self.chunks.last().is_none_or(|c| c.len() == CHUNK_ITEMS) {
            self.chunks.push(Vec::with_capacity(CHUNK_ITEMS));
        }
        let chunk = self.chunks.len() - 1;
        let offset = self.chunks[chunk].len();
        self.chunks[chunk].push(VACANT);
        (chunk * CHUNK_ITEMS + offset) as Slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let vacant = State::Vacant(self.vacant);
        let item = &mut self[slot];
        assert!(
            !matches!(item.state, State::Vacant(_)),
            "slot {slot} is vacant already"
        );
        item.state = vacant;
        self.vacant = slot;
        self.len -= 1;
    }
}

impl Index<Slot> for Slab {
    type Output = Item;

    #[inline]
    fn index(&self, slot: Slot) -> &Item {
        let slot = slot as usize;
        &self.chunks[slot / CHUNK_ITEMS][slot % CHUNK_ITEMS]
    }
}

impl IndexMut<Slot> for Slab {
    #[inline]
    fn index_mut(&mut self, slot: Slot) -> &mut Item {
        let slot = slot as usize;
        &mut self.chunks[slot / CHUNK_ITEMS][slot % CHUNK_ITEMS]
    }
}

#[cfg(test)]
pub(crate) fn test_item(state: State, since: Nanos) -> Item {
    Item {
        state,
        since,
        ..VACANT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vacant_slot_is_used_again() {
        let mut slab = Slab::new();
        let item = |n| test_item(State::Delayed, Nanos(n));
        let slots: Vec<Slot> = (0..5000).map(|n| slab.insert(item(n))).collect();
        assert_eq!(slab[slots[4999]].since, Nanos(4999));
        slab.remove(slots[7]);
        slab.remove(slots[4500]);
        assert_eq!(slab.insert(item(1)), slots[4500]);
        assert_eq!(slab.insert(item(2)), slots[7]);
        assert_eq!(slab.insert(item(3)), 5000);
        assert_eq!(slab.len(), 5001);
    }
}
