//! Finds an item by the LSN of its enqueue: a hash table whose chains go
//! through the items and which grows by linear hashing (Litwin, 1980), a block
//! of buckets at a time, so that no insert ever waits for the whole.
//!
//! A block takes a run of neighbouring LSNs together. What is enqueued
//! together is looked up together, so work in order goes through the table in
//! order, however large it is. Each run begins at its own bucket of its block,
//! so that items which are left over at regular distances spread all the same.

use crate::ids::Lsn;
use crate::slab::{NO_SLOT, Slab, Slot};
use crate::split_table::mix;

/// Buckets of a block, and LSNs of a run: 1 KiB. Growing by a block visits as
/// many short chains: some microseconds.
const BLOCK: usize = 256;

/// Blocks that are allocated together: 16 KiB.
const CHUNK_BLOCKS: usize = 16;

/// Buckets for each item: two items seldom share one, because a look at an
/// item that is not meant is a cache miss.
const BUCKETS_AN_ITEM: usize = 3;

/// What the table costs for each item: the links are in the items.
pub(crate) const INDEX_BYTES_AN_ITEM: usize = size_of::<Slot>() * BUCKETS_AN_ITEM;

/// Begins with a cache line, so that a block shares none.
#[derive(Debug)]
#[repr(align(64))]
struct Chunk([[Slot; BLOCK]; CHUNK_BLOCKS]);

#[derive(Debug)]
pub(crate) struct Index {
    /// For each bucket, the first item of its chain.
    chunks: Vec<Box<Chunk>>,
    /// Blocks in use, the first ones of all.
    blocks: usize,
    len: usize,
    /// An item that was just found, or `NO_SLOT`: who decides about an item
    /// finds it, and so does the change that is decided on.
    recent: Slot,
}

/// Where an LSN's chain begins.
#[derive(Clone, Copy)]
struct Bucket {
    block: usize,
    nth: usize,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            chunks: Vec::new(),
            blocks: 0,
            len: 0,
            recent: NO_SLOT,
        }
    }

    /// Makes this item the quickest to find.
    pub(crate) fn expect(&mut self, slot: Slot) {
        self.recent = slot;
    }

    pub(crate) fn get(&self, slab: &Slab, lsn: Lsn) -> Option<Slot> {
        if self.recent != NO_SLOT && slab[self.recent].lsn == lsn {
            return Some(self.recent);
        }
        if self.blocks == 0 {
            return None;
        }
        let mut slot = self.first(bucket(lsn, self.blocks));
        while slot != NO_SLOT {
            let item = &slab[slot];
            if item.lsn == lsn {
                return Some(slot);
            }
            slot = item.next_in_index;
        }
        None
    }

    /// Adds an item; the caller knows that there is none with its LSN.
    pub(crate) fn insert(&mut self, slab: &mut Slab, slot: Slot) {
        if self.len * BUCKETS_AN_ITEM >= self.blocks * BLOCK {
            self.grow(slab);
        }
        self.len += 1;
        self.push(slab, bucket(slab[slot].lsn, self.blocks), slot);
    }

    /// # Panics
    /// When the item is not in the index.
    pub(crate) fn remove(&mut self, slab: &mut Slab, slot: Slot) {
        let item = &slab[slot];
        let (lsn, next) = (item.lsn, item.next_in_index);
        assert!(self.len > 0, "item {lsn} is not in the index");
        self.len -= 1;
        if self.recent == slot {
            self.recent = NO_SLOT;
        }
        let first = self.first_mut(bucket(lsn, self.blocks));
        if *first == slot {
            *first = next;
            return;
        }
        let mut at = *first;
        while at != NO_SLOT {
            let item = &mut slab[at];
            if item.next_in_index == slot {
                item.next_in_index = next;
                return;
            }
            at = item.next_in_index;
        }
        panic!("item {lsn} is not in the index");
    }

    /// Adds a block, and shares out to it what was in the block that stood for
    /// it so far.
    fn grow(&mut self, slab: &mut Slab) {
        let added = self.blocks;
        if added == self.chunks.len() * CHUNK_BLOCKS {
            let chunk = Chunk([[NO_SLOT; BLOCK]; CHUNK_BLOCKS]);
            self.chunks.push(Box::new(chunk));
        }
        self.blocks += 1;
        if added == 0 {
            return;
        }
        let block = added - (1 << added.ilog2());
        for nth in 0..BLOCK {
            let first = self.first_mut(Bucket { block, nth });
            let mut slot = std::mem::replace(first, NO_SLOT);
            while slot != NO_SLOT {
                let item = &slab[slot];
                let (lsn, next) = (item.lsn, item.next_in_index);
                self.push(slab, bucket(lsn, self.blocks), slot);
                slot = next;
            }
        }
    }

    /// Puts an item behind the first of its chain: the oldest is likely to be
    /// looked for first.
    fn push(&mut self, slab: &mut Slab, bucket: Bucket, slot: Slot) {
        let first = self.first_mut(bucket);
        let next = match *first {
            NO_SLOT => std::mem::replace(first, slot),
            first => std::mem::replace(&mut slab[first].next_in_index, slot),
        };
        slab[slot].next_in_index = next;
    }

    fn first(&self, Bucket { block, nth }: Bucket) -> Slot {
        self.chunks[block / CHUNK_BLOCKS].0[block % CHUNK_BLOCKS][nth]
    }

    fn first_mut(&mut self, Bucket { block, nth }: Bucket) -> &mut Slot {
        &mut self.chunks[block / CHUNK_BLOCKS].0[block % CHUNK_BLOCKS][nth]
    }
}

/// The bucket of an LSN when there are `blocks` blocks.
fn bucket(lsn: Lsn, blocks: usize) -> Bucket {
    let run = lsn.0 / BLOCK as u64;
    // Blocks beyond the last are not split off yet from those that have the
    // same number but for its highest bit.
    let mask = blocks.next_power_of_two() - 1;
    let block = spread(run) as usize & mask;
    let block = if block < blocks {
        block
    } else {
        block & (mask >> 1)
    };
    let begin = (mix(run) >> 56) as usize;
    Bucket {
        block,
        nth: (lsn.0 as usize).wrapping_add(begin) % BLOCK,
    }
}

/// Numbers the blocks of runs so that, for any power of two, that many runs in
/// a row (from a multiple of it) have as many different blocks: bits are
/// changed by higher bits only. So items in line hardly ever meet, and those
/// at regular distances still spread.
fn spread(run: u64) -> u64 {
    let run = run ^ (run >> 7);
    let run = run ^ (run >> 13);
    run ^ (run >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Nanos;
    use crate::item::State;
    use crate::slab::test_item;

    fn insert(index: &mut Index, slab: &mut Slab, lsn: u64) -> Slot {
        let mut item = test_item(State::Delayed, Nanos(0));
        item.lsn = Lsn(lsn);
        let slot = slab.insert(item);
        index.insert(slab, slot);
        slot
    }

    /// Items that a lookup of each of these LSNs looks at, in the mean.
    fn looks(index: &Index, slab: &Slab, lsns: impl Iterator<Item = u64>) -> f64 {
        let (mut count, mut looks) = (0_u32, 0_u32);
        for lsn in lsns {
            count += 1;
            let mut slot = index.first(bucket(Lsn(lsn), index.blocks));
            looks += 1;
            while slab[slot].lsn != Lsn(lsn) {
                slot = slab[slot].next_in_index;
                looks += 1;
            }
        }
        f64::from(looks) / f64::from(count)
    }

    proptest! {
        #[test]
        fn an_index_finds_what_a_map_finds(
            ops in prop::collection::vec((0..3_u8, 0..5_u32, 0..400_u64), 1..2000),
        ) {
            let (mut index, mut slab) = (Index::new(), Slab::new());
            let mut model = BTreeMap::new();
            for (op, shift, number) in ops {
                let lsn = number << (shift * 4);
                prop_assert_eq!(index.get(&slab, Lsn(lsn)), model.get(&lsn).copied());
                match model.remove(&lsn) {
                    Some(slot) if op == 0 => {
                        index.remove(&mut slab, slot);
                        slab.remove(slot);
                    }
                    Some(slot) => {
                        model.insert(lsn, slot);
                    }
                    None => {
                        model.insert(lsn, insert(&mut index, &mut slab, lsn));
                    }
                }
                prop_assert_eq!(index.len, model.len());
            }
            for (lsn, slot) in model {
                prop_assert_eq!(index.get(&slab, Lsn(lsn)), Some(slot));
            }
        }
    }

    #[test]
    fn lookups_are_short_whatever_the_distance_between_items() {
        let powers = (0..32).flat_map(|power| [1, 3, 5, 21].map(|odd| odd << power));
        for distance in powers.chain([7, 10, 100, 1_000, 10_000, 1_000_000]) {
            let (mut index, mut slab) = (Index::new(), Slab::new());
            let lsns = || (1..=20_000).map(|n| n * distance);
            for lsn in lsns() {
                insert(&mut index, &mut slab, lsn);
            }
            let looks = looks(&index, &slab, lsns());
            assert!(looks < 1.25, "{looks} looks at distance {distance}");
        }
    }

    #[test]
    fn items_in_line_do_not_meet() {
        for distance in [1, 2, 3, 10] {
            let (mut index, mut slab) = (Index::new(), Slab::new());
            let lsns = || (1..=50_000 / distance).map(|n| n * distance);
            for lsn in lsns() {
                insert(&mut index, &mut slab, lsn);
            }
            let looks = looks(&index, &slab, lsns());
            let most = if distance <= 3 { 1.001 } else { 1.25 };
            assert!(looks < most, "{looks} looks at distance {distance}");
        }
    }

    #[test]
    fn the_table_costs_what_it_says() {
        let (mut index, mut slab) = (Index::new(), Slab::new());
        for lsn in 1..=100_000 {
            insert(&mut index, &mut slab, lsn);
        }
        let bytes = (index.blocks - 1) * BLOCK * size_of::<Slot>();
        assert!(bytes <= index.len * INDEX_BYTES_AN_ITEM, "{bytes} bytes");
    }

    #[test]
    #[should_panic(expected = "item 6 is not in the index")]
    fn removing_what_is_not_there_is_a_broken_invariant() {
        let (mut index, mut slab) = (Index::new(), Slab::new());
        insert(&mut index, &mut slab, 5);
        let mut item = test_item(State::Delayed, Nanos(0));
        item.lsn = Lsn(6);
        let slot = slab.insert(item);
        index.remove(&mut slab, slot);
    }
}
