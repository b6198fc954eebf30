//! Hash tables that never rehash all at once: 64 parts, each of which grows by
//! itself, so that the longest pause is a 64th of the whole.

use hashbrown::HashTable;

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
    let product = (number ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = (product ^ (product >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    product ^ (product >> 32)
}
