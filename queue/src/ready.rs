//! Waiting items: a first-in first-out list for each priority.
//!
//! Items are appended as they become ready, so each list is in the order of
//! `since`, and its head is its best. Waiting raises all of a list alike.

use std::time::Duration;

use crate::ids::Nanos;
use crate::list::{List, Rows};
use crate::outcome::Head;
use crate::slab::{Slab, Slot};

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
        slab[slot].since = list.since_at_back(slab, slot);
        list.push_back(slab, slot);
        self.mark(priority);
    }

    /// Appends an item as it is, wherever its place is: until the lists are
    /// made anew in order.
    pub(crate) fn push_unordered(&mut self, slab: &mut Slab, slot: Slot) {
        let priority = slab[slot].priority;
        self.lists[usize::from(priority)].push_unordered(slab, slot);
        self.mark(priority);
    }

    /// Puts back an item whose grant was released: before all that became
    /// ready after it, which is the front unless an older item was released
    /// before it, or it was leased for its partition key.
    pub(crate) fn push_front(&mut self, slab: &mut Slab, slot: Slot) {
        let priority = slab[slot].priority;
        self.lists[usize::from(priority)].push_front(slab, slot);
        self.mark(priority);
    }

    /// Since when an item that is to be put back must wait, if that is not
    /// since when it did: its place is too far from both ends.
    pub(crate) fn moved_since(&self, slab: &Slab, slot: Slot) -> Option<Nanos> {
        let list = &self.lists[usize::from(slab[slot].priority)];
        let since = list.since_at_front(slab, slot);
        (since != slab[slot].since).then_some(since)
    }

    pub(crate) fn remove(&mut self, slab: &mut Slab, slot: Slot) {
        let priority = usize::from(slab[slot].priority);
        let list = &mut self.lists[priority];
        list.remove(slab, slot);
        if list.is_empty() {
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
                let slot = self.lists[priority].head();
                let slot = slot.expect("a list that is marked is not empty");
                let head = Head::of(slab, slot, now, aging);
                if best.is_none_or(|(_, best)| head.is_before(&best)) {
                    best = Some((slot, head));
                }
            }
        }
        best
    }

    /// Since when the last item of a priority waits; 0 when there is none.
    pub(crate) fn last_since(&self, slab: &Slab, priority: u8) -> Nanos {
        let last = self.list(priority).tail();
        last.map_or(Nanos(0), |slot| slab[slot].since)
    }

    /// The items, those of higher priority first.
    pub(crate) fn iter<'a>(&'a self, slab: &'a Slab) -> impl Iterator<Item = Slot> + 'a {
        self.lists.iter().rev().flat_map(|list| list.iter(slab))
    }

    pub(crate) fn list(&self, priority: u8) -> &List {
        &self.lists[usize::from(priority)]
    }

    /// Waiting items that go before a waiting item, at most `max` of them.
    pub(crate) fn ahead(
        &self,
        slab: &Slab,
        slot: Slot,
        now: Nanos,
        aging: Duration,
        max: usize,
    ) -> usize {
        let is_ahead = |other: &Slot| is_ahead(slab, *other, slot, now, aging);
        let lists = self.lists.iter();
        lists
            .flat_map(|list| list.iter(slab).take_while(is_ahead))
            .take(max)
            .count()
    }

    /// The highest priority that has a list and is at most this one.
    pub(crate) fn occupied_from(&self, priority: u8) -> Option<u8> {
        (0..=priority)
            .rev()
            .find(|p| self.occupied[usize::from(*p) / 64] & (1 << (p % 64)) != 0)
    }

    fn mark(&mut self, priority: u8) {
        self.occupied[usize::from(priority) / 64] |= 1 << (priority % 64);
    }
}

/// Whether a waiting item is leased before another one, in whose list or not.
pub(crate) fn is_ahead(slab: &Slab, item: Slot, other: Slot, now: Nanos, aging: Duration) -> bool {
    match slab[item].priority == slab[other].priority {
        true => slab.rank(item) < slab.rank(other),
        false => Head::of(slab, item, now, aging).is_before(&Head::of(slab, other, now, aging)),
    }
}

impl Head {
    /// How a waiting item compares.
    #[inline]
    pub(crate) fn of(slab: &Slab, slot: Slot, now: Nanos, aging: Duration) -> Head {
        let item = &slab[slot];
        Head {
            effective_priority: aged(item.priority, now.0.saturating_sub(item.since.0), aging),
            ready_since: item.since,
        }
    }

    /// What it is at `now`, if this is what it was at `then` and it has waited on.
    pub fn aged_on(self, then: Nanos, now: Nanos, aging: Duration) -> Head {
        let gained = |at: Nanos| aged(0, at.0.saturating_sub(self.ready_since.0), aging);
        let more = gained(now).saturating_sub(gained(then));
        Head {
            effective_priority: self.effective_priority.saturating_add(more),
            ..self
        }
    }

    /// Whether this is leased before `other`, be it of another shard.
    #[inline]
    pub fn is_before(&self, other: &Head) -> bool {
        (other.effective_priority, self.ready_since) < (self.effective_priority, other.ready_since)
    }
}

#[inline]
fn aged(priority: u8, waited_ns: u64, aging: Duration) -> u8 {
    let aging_ns = u64::try_from(aging.as_nanos()).unwrap_or(u64::MAX);
    // Most have not gained anything, and no aging is zero.
    if aging_ns == 0 || waited_ns < aging_ns {
        return priority;
    }
    let gained = waited_ns / aging_ns;
    u8::try_from(gained.saturating_add(priority.into())).unwrap_or(u8::MAX)
}
