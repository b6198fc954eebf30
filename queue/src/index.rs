//! Hash tables that never rehash all at once: 64 parts, each of which grows by
//! itself, so that the longest pause is a 64th of the whole.

use hashbrown::HashTable;

use crate::ids::Lsn;
use crate::slab::{Slab, Slot};

const PARTS: usize = 64;

/// A table split in parts. Hashes must be well mixed in all their bits.
#[derive(Debug)]
pub(crate) struct SplitTable<T> {
    parts: Box<[HashTable<T>]>,
    len: usize,
}

/// The part of a hash: bits that a table itself uses for neither place nor tag.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

impl<T> SplitTable<T> {
    pub(crate) fn new() -> SplitTable<T> {
        SplitTable {
            parts: (0..PARTS).map(|_| HashTable::new()).collect(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn find(&self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&T> {
        self.parts[part(hash)].find(hash, eq)
    }

    pub(crate) fn find_mut(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.parts[part(hash)].find_mut(hash, eq)
    }

    /// Adds an entry; the caller knows that there is none equal to it.
    pub(crate) fn insert(&mut self, hash: u64, entry: T, hasher: impl Fn(&T) -> u64) {
        self.parts[part(hash)].insert_unique(hash, entry, hasher);
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<T> {
        let entry = self.parts[part(hash)].find_entry(hash, eq).ok()?;
        self.len -= 1;
        Some(entry.remove().0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

/// Mixes a number that nobody outside chooses.
pub(crate) fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// Finds an item's slot by the LSN of its enqueue.
#[derive(Debug)]
pub(crate) struct Index {
    table: SplitTable<Entry>,
}

/// Eight bytes an item; the slab's LSN decides between equal low halves.
#[derive(Clone, Copy, Debug)]
struct Entry {
    lsn_low: u32,
    slot: Slot,
}

fn hash(lsn_low: u32) -> u64 {
    mix(u64::from(lsn_low))
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            table: SplitTable::new(),
        }
    }

    pub(crate) fn get(&self, slab: &Slab, lsn: Lsn) -> Option<Slot> {
        let lsn_low = lsn.0 as u32;
        let eq = |entry: &Entry| entry.lsn_low == lsn_low && slab[entry.slot].lsn == lsn;
        self.table.find(hash(lsn_low), eq).map(|entry| entry.slot)
    }

    pub(crate) fn insert(&mut self, lsn: Lsn, slot: Slot) {
        let lsn_low = lsn.0 as u32;
        let entry = Entry { lsn_low, slot };
        self.table
            .insert(hash(lsn_low), entry, |entry| hash(entry.lsn_low));
    }

    /// # Panics
    /// When the item is not in the index.
    pub(crate) fn remove(&mut self, lsn: Lsn, slot: Slot) {
        let entry = self
            .table
            .remove(hash(lsn.0 as u32), |entry| entry.slot == slot);
        assert!(entry.is_some(), "item {lsn} is not in the index");
    }
}
