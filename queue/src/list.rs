//! Doubly linked lists of waiting items, in the order in which they became
//! ready: by `since`, then by LSN.

use crate::ids::{Lsn, Nanos};
use crate::item::Links;
use crate::slab::{NO_SLOT, Slab, Slot};

/// Where a list's links are, and what its items go by.
pub(crate) trait Rows {
    fn links(&self, slot: Slot) -> Links;
    fn rank(&self, slot: Slot) -> Rank;
}

/// Rows whose links can be changed.
pub(crate) trait RowsMut: Rows {
    fn links_mut(&mut self, slot: Slot) -> &mut Links;
}

/// An item's place in line: since when it waits, and its LSN.
pub(crate) type Rank = (Nanos, Lsn);

impl Rows for Slab {
    #[inline]
    fn links(&self, slot: Slot) -> Links {
        self[slot].links()
    }

    #[inline]
    fn rank(&self, slot: Slot) -> Rank {
        (self[slot].since, self[slot].lsn)
    }
}

impl RowsMut for Slab {
    #[inline]
    fn links_mut(&mut self, slot: Slot) -> &mut Links {
        self[slot].links_mut()
    }
}

/// How far from either end an item's place is looked for.
const STEPS_MAX: usize = 64;

/// A list, always strictly ascending by rank.
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

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NO_SLOT
    }

    pub(crate) fn head(&self) -> Option<Slot> {
        some(self.head)
    }

    pub(crate) fn tail(&self) -> Option<Slot> {
        some(self.tail)
    }

    /// From when on an item that joins at the back must wait to keep the list
    /// in order: not before the last item, and after it when too many with
    /// higher LSNs became ready just then.
    #[inline]
    pub(crate) fn since_at_back(&self, rows: &impl Rows, slot: Slot) -> Nanos {
        let (since, lsn) = rows.rank(slot);
        if self.tail == NO_SLOT {
            return since;
        }
        let (last, last_lsn) = rows.rank(self.tail);
        if (last, last_lsn) < (since, lsn) {
            return since;
        }
        let since = since.max(last);
        match self.place_from_back(rows, (since, lsn)) {
            Some(_) => since,
            None => Nanos(since.0.saturating_add(1)),
        }
    }

    /// Puts an item in, looking for its place from the back.
    ///
    /// # Panics
    /// When that is further than an item with its `since` from
    /// [`since_at_back`](List::since_at_back) can be.
    #[inline]
    pub(crate) fn push_back(&mut self, rows: &mut impl RowsMut, slot: Slot) {
        let place = self.place_from_back(rows, rows.rank(slot));
        let next = place.expect("an item joined a list far from its back");
        self.insert_before(rows, slot, next);
    }

    /// Puts an item at the back, wherever its place is: until the list is made
    /// anew in order.
    pub(crate) fn push_unordered(&mut self, rows: &mut impl RowsMut, slot: Slot) {
        self.insert_before(rows, slot, NO_SLOT);
    }

    /// Since when an item that joins at the front must wait to keep the list in
    /// order: as it did, or before all others when its place is far from both
    /// ends.
    pub(crate) fn since_at_front(&self, rows: &impl Rows, slot: Slot) -> Nanos {
        let rank = rows.rank(slot);
        match self.place(rows, rank) {
            Some(_) => rank.0,
            None => Nanos(rows.rank(self.head).0.0.saturating_sub(1)),
        }
    }

    /// Puts an item in, looking for its place from the front, then the back.
    ///
    /// # Panics
    /// When that is further than an item with its `since` from
    /// [`since_at_front`](List::since_at_front) can be.
    pub(crate) fn push_front(&mut self, rows: &mut impl RowsMut, slot: Slot) {
        let place = self.place(rows, rows.rank(slot));
        let next = place.expect("an item joined a list far from its ends");
        self.insert_before(rows, slot, next);
    }

    fn place(&self, rows: &impl Rows, rank: Rank) -> Option<Slot> {
        let mut next = self.head;
        for _ in 0..=STEPS_MAX {
            if next == NO_SLOT || rows.rank(next) > rank {
                return Some(next);
            }
            next = rows.links(next).next;
        }
        self.place_from_back(rows, rank)
    }

    /// The item before which one of this rank belongs, `NO_SLOT` for the back;
    /// `None` when it is too far from there.
    #[inline]
    fn place_from_back(&self, rows: &impl Rows, rank: Rank) -> Option<Slot> {
        let (mut next, mut prev) = (NO_SLOT, self.tail);
        for _ in 0..=STEPS_MAX {
            if prev == NO_SLOT || rows.rank(prev) < rank {
                return Some(next);
            }
            (next, prev) = (prev, rows.links(prev).prev);
        }
        None
    }

    /// Inserts `slot` before `next`; at the back when that is `NO_SLOT`.
    #[inline]
    fn insert_before(&mut self, rows: &mut impl RowsMut, slot: Slot, next: Slot) {
        let prev = match next {
            NO_SLOT => self.tail,
            next => rows.links(next).prev,
        };
        *rows.links_mut(slot) = Links { prev, next };
        match prev {
            NO_SLOT => self.head = slot,
            prev => rows.links_mut(prev).next = slot,
        }
        match next {
            NO_SLOT => self.tail = slot,
            next => rows.links_mut(next).prev = slot,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, rows: &mut impl RowsMut, slot: Slot) {
        let Links { prev, next } = rows.links(slot);
        match prev {
            NO_SLOT => self.head = next,
            prev => rows.links_mut(prev).next = next,
        }
        match next {
            NO_SLOT => self.tail = prev,
            next => rows.links_mut(next).prev = prev,
        }
        *rows.links_mut(slot) = Links::NONE;
    }

    pub(crate) fn iter<'a, R: Rows>(&self, rows: &'a R) -> impl Iterator<Item = Slot> + use<'a, R> {
        std::iter::successors(self.head(), move |slot| some(rows.links(*slot).next))
    }

    /// The items before one of the list, the nearest first.
    pub(crate) fn before<'a, R: Rows>(
        rows: &'a R,
        slot: Slot,
    ) -> impl Iterator<Item = Slot> + use<'a, R> {
        let prev = move |slot: &Slot| some(rows.links(*slot).prev);
        std::iter::successors(prev(&slot), prev)
    }

    /// The items behind one of the list, the nearest first.
    pub(crate) fn behind<'a, R: Rows>(
        rows: &'a R,
        slot: Slot,
    ) -> impl Iterator<Item = Slot> + use<'a, R> {
        let next = move |slot: &Slot| some(rows.links(*slot).next);
        std::iter::successors(next(&slot), next)
    }
}

fn some(slot: Slot) -> Option<Slot> {
    (slot != NO_SLOT).then_some(slot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::item::State;
    use crate::slab::test_item;

    #[derive(Clone, Debug)]
    enum Op {
        /// A time that is mostly the one before, and an LSN.
        Back(u64, u64),
        Front(u64, u64),
        Remove(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let later = prop_oneof![3 => Just(0), 1 => 0..3_u64];
        prop_oneof![
            5 => (later, any::<u64>()).prop_map(|(later, lsn)| Op::Back(later, lsn)),
            1 => (0..40_u64, any::<u64>()).prop_map(|(since, lsn)| Op::Front(since, lsn)),
            2 => any::<usize>().prop_map(Op::Remove),
        ]
    }

    fn insert(slab: &mut Slab, since: u64, lsn: u64) -> Slot {
        let slot = slab.insert(test_item(State::Waiting(Links::NONE), Nanos(since)));
        slab[slot].lsn = Lsn(lsn);
        slot
    }

    proptest! {
        #[test]
        fn a_list_is_always_in_order(ops in prop::collection::vec(op(), 1..400)) {
            let (mut slab, mut list) = (Slab::new(), List::EMPTY);
            let (mut now, mut model) = (0, Vec::new());
            for op in ops {
                match op {
                    Op::Back(later, lsn) => {
                        now += later;
                        let slot = insert(&mut slab, now, lsn);
                        let since = list.since_at_back(&slab, slot);
                        prop_assert!(since.0 >= now);
                        slab[slot].since = since;
                        list.push_back(&mut slab, slot);
                        model.push(slot);
                    }
                    Op::Front(since, lsn) => {
                        let slot = insert(&mut slab, since, lsn);
                        slab[slot].since = list.since_at_front(&slab, slot);
                        list.push_front(&mut slab, slot);
                        model.push(slot);
                    }
                    Op::Remove(nth) if !model.is_empty() => {
                        let slot = model.swap_remove(nth % model.len());
                        list.remove(&mut slab, slot);
                        slab.remove(slot);
                    }
                    Op::Remove(_) => {}
                }
                model.sort_by_key(|slot| slab.rank(*slot));
                let there: Vec<Slot> = list.iter(&slab).collect();
                prop_assert_eq!(&there, &model);
                if let Some(middle) = there.get(there.len() / 2) {
                    let mut around: Vec<Slot> = List::before(&slab, *middle).collect();
                    around.reverse();
                    around.push(*middle);
                    around.extend(List::behind(&slab, *middle));
                    prop_assert_eq!(&around, &model);
                }
            }
        }
    }

    #[test]
    fn an_item_whose_place_is_far_from_both_ends_goes_to_the_front() {
        let (mut slab, mut list) = (Slab::new(), List::EMPTY);
        for since in 1000..2000 {
            let slot = insert(&mut slab, since, since);
            list.push_back(&mut slab, slot);
        }
        for (since, expected) in [(1010, 1010), (1990, 1990), (1500, 999)] {
            let slot = insert(&mut slab, since, 0);
            slab[slot].since = list.since_at_front(&slab, slot);
            assert_eq!(slab[slot].since, Nanos(expected));
            list.push_front(&mut slab, slot);
        }
        let there: Vec<Slot> = list.iter(&slab).collect();
        assert!(there.is_sorted_by_key(|slot| slab.rank(*slot)));
    }

    #[test]
    fn many_that_became_ready_at_once_are_put_in_within_a_bound() {
        let (mut slab, mut list) = (Slab::new(), List::EMPTY);
        for lsn in (0..1000).rev() {
            let slot = insert(&mut slab, 5, lsn);
            slab[slot].since = list.since_at_back(&slab, slot);
            list.push_back(&mut slab, slot);
        }
        let there: Vec<Slot> = list.iter(&slab).collect();
        assert!(there.is_sorted_by_key(|slot| slab.rank(*slot)));
        let last = slab[*there.last().expect("a thousand")].since;
        assert!(last.0 < 5 + 1000 / STEPS_MAX as u64 + 1, "{last:?}");
    }
}
