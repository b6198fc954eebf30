//! Waiting items: a first-in first-out list for each priority.
//!
//! Items are appended as they become ready, so each list is in the order of
//! `since`, and its head is its best. Waiting raises all of a list alike.

use std::time::Duration;

use crate::ids::Nanos;
use crate::item::Links;
use crate::outcome::Head;
use crate::slab::{NO_SLOT, Slab, Slot};

/// A doubly linked list through the items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: Slot,
    tail: Slot,
}

impl List {
    pub(crate) const EMPTY: List = List {
        head: NO_SLOT,
        tail: NO_SLOT,
    };

    pub(crate) fn push_back(&mut self, slab: &mut Slab, slot: Slot) {
        self.insert_before(slab, slot, NO_SLOT);
    }

    /// Inserts `slot` before `next`; at the back when that is `NO_SLOT`.
    fn insert_before(&mut self, slab: &mut Slab, slot: Slot, next: Slot) {
        let prev = match next {
            NO_SLOT => self.tail,
            next => slab[next].links().prev,
        };
        *slab[slot].links_mut() = Links { prev, next };
        match prev {
            NO_SLOT => self.head = slot,
            prev => slab[prev].links_mut().next = slot,
        }
        match next {
            NO_SLOT => self.tail = slot,
            next => slab[next].links_mut().prev = slot,
        }
    }

    pub(crate) fn remove(&mut self, slab: &mut Slab, slot: Slot) {
        let Links { prev, next } = slab[slot].links();
        match prev {
            NO_SLOT => self.head = next,
            prev => slab[prev].links_mut().next = next,
        }
        match next {
            NO_SLOT => self.tail = prev,
            next => slab[next].links_mut().prev = prev,
        }
        *slab[slot].links_mut() = Links::NONE;
    }

    pub(crate) fn iter<'a>(&self, slab: &'a Slab) -> impl Iterator<Item = Slot> + use<'a> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let slot = at;
            (slot != NO_SLOT).then(|| {
                at = slab[slot].links().next;
                slot
            })
        })
    }
}

#[derive(Debug)]
pub(crate) struct Ready {
    lists: Box<[List; 256]>,
    /// A bit for each list that is not empty.
    occupied: [u64; 4],
}

impl Ready {
    pub(crate) fn new() -> Ready {
        Ready {
            lists: Box::new([List::EMPTY; 256]),
            occupied: [0; 4],
        }
    }

    /// Appends an item that has become ready. Its `since` is raised to that of
    /// the item before it, which is later only when a delay's end was handled
    /// late.
    pub(crate) fn push_back(&mut self, slab: &mut Slab, slot: Slot) {
        let priority = slab[slot].priority;
        let list = &mut self.lists[usize::from(priority)];
        if list.tail != NO_SLOT {
            let since = slab[list.tail].since;
            let item = &mut slab[slot];
            item.since = item.since.max(since);
        }
        list.push_back(slab, slot);
        self.mark(priority);
    }

    /// Puts back an item whose grant was released: before all that became
    /// ready when it did or later, which is the front unless an older item was
    /// released before it.
    pub(crate) fn push_front(&mut self, slab: &mut Slab, slot: Slot) {
        let (priority, since) = (slab[slot].priority, slab[slot].since);
        let list = &mut self.lists[usize::from(priority)];
        let mut next = list.head;
        while next != NO_SLOT && slab[next].since < since {
            next = slab[next].links().next;
        }
        list.insert_before(slab, slot, next);
        self.mark(priority);
    }

    pub(crate) fn remove(&mut self, slab: &mut Slab, slot: Slot) {
        let priority = usize::from(slab[slot].priority);
        let list = &mut self.lists[priority];
        list.remove(slab, slot);
        if list.head == NO_SLOT {
            self.occupied[priority / 64] &= !(1 << (priority % 64));
        }
    }

    /// The item with the highest effective priority; of those, the oldest.
    pub(crate) fn head(&self, slab: &Slab, now: Nanos, aging: Duration) -> Option<(Slot, Head)> {
        let mut best: Option<(Slot, Head)> = None;
        for (word, bits) in self.occupied.into_iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let priority = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let slot = self.lists[priority].head;
                let ready_since = slab[slot].since;
                let head = Head {
                    effective_priority: aged(priority, now.since(ready_since), aging),
                    ready_since,
                };
                if best.is_none_or(|(_, best)| head.is_before(&best)) {
                    best = Some((slot, head));
                }
            }
        }
        best
    }

    fn mark(&mut self, priority: u8) {
        self.occupied[usize::from(priority) / 64] |= 1 << (priority % 64);
    }
}

impl Head {
    /// Whether this is leased before `other`, be it of another shard.
    pub fn is_before(&self, other: &Head) -> bool {
        (other.effective_priority, self.ready_since) < (self.effective_priority, other.ready_since)
    }
}

fn aged(priority: usize, waited: Duration, aging: Duration) -> u8 {
    // Most have not gained anything, and no aging is zero.
    if aging.is_zero() || waited < aging {
        return priority as u8;
    }
    let gained = waited.as_nanos() / aging.as_nanos();
    u8::try_from(gained.saturating_add(priority as u128)).unwrap_or(u8::MAX)
}
