//! Partition keys: whose items wait, and, where keys take turns, whose turn it
//! is.
//!
//! # Fairness
//!
//! Keys with waiting items stand in a circle. The first one is served until it
//! had as many grants as its weight, then goes to the end; so does a key whose
//! items are leased out of turn, by workers that ask for that key alone, once
//! these are as many as its weight. A key that runs out of waiting items leaves
//! the circle, and joins at the end when it has some again.
//!
//! So while a key has waiting items, between two grants of it, and before its
//! first, every other key gets at most as many grants in turn as its weight:
//! it uses up its turn, or leaves and joins again, behind the one that waits.
//! In all these are at most the sum of the other waiting keys' weights. This is
//! deficit round robin (Shreedhar and Varghese, 1995) where every item costs
//! one, so that no key ever keeps a deficit beyond its turn.
//!
//! Grants out of turn to other keys come on top: they go to workers that would
//! take nothing else. A grant that is taken back counts all the same.
//!
//! Whose turn it is lasts as long as the epoch. A new one begins with the keys
//! in the order of their oldest waiting items.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Nanos, Secret};
use crate::item::Links;
use crate::list::{List, Rank, Rows, RowsMut};
use crate::outcome::Head;
use crate::ready;
use crate::side::Side;
use crate::slab::{Slab, Slot};
use crate::split_table::SplitTable;

/// A key's number while any item has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(u32);

const NO_KEY: KeyId = KeyId(u32::MAX);

#[derive(Debug)]
pub(crate) struct Keys {
    takes_turns: bool,
    secret: Secret,
    table: SplitTable<KeyId>,
    keys: Side<Key>,
    /// Numbers below were used before.
    used: u32,
    /// The first number that is free again; the next is its `next`.
    free: KeyId,
    /// By item.
    members: Side<Member>,
    circle: Circle,
}

#[derive(Clone, Debug)]
struct Key {
    name: Box<str>,
    /// Items that have it, whatever their state; 0 when the number is free.
    items: u32,
    weight: u32,
    /// Grants since it joined the circle or went to its end.
    spent: u32,
    /// Its neighbours in the circle.
    prev: KeyId,
    next: KeyId,
    /// Its waiting items by priority; none of the lists is empty.
    lists: Vec<(u8, List)>,
}

/// What is kept of an item.
#[derive(Clone, Copy, Debug)]
struct Member {
    key: KeyId,
    links: Links,
}

/// Keys with waiting items, the first one served next.
#[derive(Clone, Copy, Debug)]
struct Circle {
    first: KeyId,
    last: KeyId,
    len: u32,
}

impl Circle {
    const EMPTY: Circle = Circle {
        first: NO_KEY,
        last: NO_KEY,
        len: 0,
    };
}

/// Members' links, with the slab to compare items by.
struct Line<'a, M> {
    members: M,
    slab: &'a Slab,
}

impl<M: Borrow<Side<Member>>> Rows for Line<'_, M> {
    fn links(&self, slot: Slot) -> Links {
        self.members.borrow().get(slot).links
    }

    fn rank(&self, slot: Slot) -> Rank {
        self.slab.rank(slot)
    }
}

impl RowsMut for Line<'_, &mut Side<Member>> {
    fn links_mut(&mut self, slot: Slot) -> &mut Links {
        &mut self.members.get_mut(slot).links
    }
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing<'a> {
    pub(crate) name: &'a str,
    pub(crate) weight: u32,
    pub(crate) keys_waiting: u32,
    /// Keys before it in the circle.
    pub(crate) position: u64,
    /// There are more than `position`.
    pub(crate) is_cut: bool,
}

impl Keys {
    pub(crate) fn new(secret: Secret, takes_turns: bool) -> Keys {
        Keys {
            takes_turns,
            secret,
            table: SplitTable::new(),
            keys: Side::new(Key {
                name: Box::default(),
                items: 0,
                weight: 1,
                spent: 0,
                prev: NO_KEY,
                next: NO_KEY,
                lists: Vec::new(),
            }),
            used: 0,
            free: NO_KEY,
            members: Side::new(Member {
                key: NO_KEY,
                links: Links::NONE,
            }),
            circle: Circle::EMPTY,
        }
    }

    /// The item has this key from now on. Where keys take turns, no key is the
    /// key `""`.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        slot: Slot,
        name: Option<&str>,
        weights: &BTreeMap<String, u32>,
    ) {
        if let Some(name) = name.or(self.takes_turns.then_some("")) {
            self.insert_named(slot, name, weights);
        }
    }

    fn insert_named(&mut self, slot: Slot, name: &str, weights: &BTreeMap<String, u32>) {
        let id = self.find(name).unwrap_or_else(|| self.add(name, weights));
        self.keys.get_mut(id.0).items += 1;
        *self.members.get_mut(slot) = Member {
            key: id,
            links: Links::NONE,
        };
    }

    /// The item, which does not wait, is gone; so is its key when no other
    /// item has it.
    #[inline]
    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(id) = self.key_of(slot) {
            self.remove_from(id, slot);
        }
    }

    fn remove_from(&mut self, id: KeyId, slot: Slot) {
        self.members.get_mut(slot).key = NO_KEY;
        let key = self.keys.get_mut(id.0);
        key.items -= 1;
        if key.items > 0 {
            return;
        }
        assert!(key.lists.is_empty(), "a key without items has waiting ones");
        let hash = self.secret.partition_key_hash(&key.name);
        key.name = Box::default();
        key.lists = Vec::new();
        key.next = self.free;
        self.free = id;
        self.table.remove(hash, |other| *other == id);
    }

    /// The item waits, behind those that became ready before it.
    pub(crate) fn push_back(&mut self, slab: &Slab, slot: Slot) {
        self.push(slab, slot, |list, line, slot| list.push_back(line, slot));
    }

    /// The item waits again where it did.
    pub(crate) fn push_front(&mut self, slab: &Slab, slot: Slot) {
        self.push(slab, slot, |list, line, slot| list.push_front(line, slot));
    }

    /// The item waits, wherever its place is: until the lists are made anew in
    /// order.
    pub(crate) fn push_unordered(&mut self, slab: &Slab, slot: Slot) {
        self.push(slab, slot, |list, line, slot| {
            list.push_unordered(line, slot)
        });
    }

    #[inline]
    fn push(
        &mut self,
        slab: &Slab,
        slot: Slot,
        push: fn(&mut List, &mut Line<'_, &mut Side<Member>>, Slot),
    ) {
        if let Some(id) = self.key_of(slot) {
            self.push_to(id, slab, slot, push);
        }
    }

    fn push_to(
        &mut self,
        id: KeyId,
        slab: &Slab,
        slot: Slot,
        push: fn(&mut List, &mut Line<'_, &mut Side<Member>>, Slot),
    ) {
        let key = self.keys.get_mut(id.0);
        let was_empty = key.lists.is_empty();
        let priority = slab[slot].priority;
        let nth = match key.lists.binary_search_by_key(&priority, |(p, _)| *p) {
            Ok(nth) => nth,
            Err(nth) => {
                key.lists.insert(nth, (priority, List::EMPTY));
                nth
            }
        };
        let members = &mut self.members;
        push(&mut key.lists[nth].1, &mut Line { members, slab }, slot);
        if was_empty && self.takes_turns {
            self.join(id);
        }
    }

    /// The item does not wait any more.
    #[inline]
    pub(crate) fn leave(&mut self, slab: &Slab, slot: Slot) {
        if let Some(id) = self.key_of(slot) {
            self.leave_list(id, slab, slot);
        }
    }

    fn leave_list(&mut self, id: KeyId, slab: &Slab, slot: Slot) {
        let key = self.keys.get_mut(id.0);
        let priority = slab[slot].priority;
        let nth = key.lists.binary_search_by_key(&priority, |(p, _)| *p);
        let nth = nth.expect("a waiting item is in a list of its key");
        let members = &mut self.members;
        key.lists[nth].1.remove(&mut Line { members, slab }, slot);
        if key.lists[nth].1.is_empty() {
            key.lists.remove(nth);
        }
        if key.lists.is_empty() && self.takes_turns {
            self.unlink(id);
        }
    }

    /// An item of the key was granted, in turn or not, and left the line.
    #[inline]
    pub(crate) fn charge(&mut self, slot: Slot) {
        if self.takes_turns
            && let Some(id) = self.key_of(slot)
        {
            self.charge_key(id);
        }
    }

    fn charge_key(&mut self, id: KeyId) {
        let key = self.keys.get_mut(id.0);
        key.spent += 1;
        if key.spent >= key.weight && !key.lists.is_empty() {
            self.unlink(id);
            self.join(id);
        }
    }

    /// The best item of the key whose turn it is.
    pub(crate) fn first(&self, slab: &Slab, now: Nanos, aging: Duration) -> Option<(Slot, Head)> {
        self.best(self.circle.first, slab, now, aging)
    }

    /// The best item of a key.
    pub(crate) fn best_of(
        &self,
        name: &str,
        slab: &Slab,
        now: Nanos,
        aging: Duration,
    ) -> Option<(Slot, Head)> {
        self.best(self.find(name)?, slab, now, aging)
    }

    fn best(&self, id: KeyId, slab: &Slab, now: Nanos, aging: Duration) -> Option<(Slot, Head)> {
        let heads = self.keys.get(id.0).lists.iter().map(|(_, list)| {
            let slot = list.head().expect("none of a key's lists is empty");
            (slot, Head::of(slab, slot, now, aging))
        });
        heads.reduce(|best, other| match other.1.is_before(&best.1) {
            true => other,
            false => best,
        })
    }

    /// Nothing waits, and it is nobody's turn: a new epoch begins.
    pub(crate) fn restart(&mut self) {
        for id in 0..self.used {
            self.keys.get_mut(id).lists.clear();
        }
        self.circle = Circle::EMPTY;
    }

    /// Where an item's key stands, looking at no more than so many others.
    pub(crate) fn standing(&self, slot: Slot, max: usize) -> Option<Standing<'_>> {
        let id = self.key_of(slot).filter(|_| self.takes_turns)?;
        let key = self.keys.get(id.0);
        let mut at = self.circle.first;
        let mut position = 0;
        while at != id && at != NO_KEY && position < max as u64 {
            at = self.keys.get(at.0).next;
            position += 1;
        }
        Some(Standing {
            name: &key.name,
            weight: key.weight,
            keys_waiting: self.circle.len,
            position,
            is_cut: at != id,
        })
    }

    /// Waiting items of the same key that go before a waiting item, at most
    /// `max` of them.
    pub(crate) fn ahead(
        &self,
        slab: &Slab,
        slot: Slot,
        now: Nanos,
        aging: Duration,
        max: usize,
    ) -> usize {
        let id = self.key_of(slot).unwrap_or(NO_KEY);
        let lists = self.keys.get(id.0).lists.iter().map(|(_, list)| list);
        let members = &self.members;
        let is_ahead = |other: &Slot| ready::is_ahead(slab, *other, slot, now, aging);
        let line = Line { members, slab };
        lists
            .flat_map(|list| list.iter(&line).take_while(is_ahead))
            .take(max)
            .count()
    }

    #[inline]
    fn key_of(&self, slot: Slot) -> Option<KeyId> {
        let key = self.members.get(slot).key;
        (key != NO_KEY).then_some(key)
    }

    fn find(&self, name: &str) -> Option<KeyId> {
        if self.table.len() == 0 {
            return None;
        }
        let hash = self.secret.partition_key_hash(name);
        let eq = |id: &KeyId| *self.keys.get(id.0).name == *name;
        self.table.find(hash, eq).copied()
    }

    fn add(&mut self, name: &str, weights: &BTreeMap<String, u32>) -> KeyId {
        let id = match self.free {
            NO_KEY => {
                self.used += 1;
                KeyId(self.used - 1)
            }
            free => {
                self.free = self.keys.get(free.0).next;
                free
            }
        };
        *self.keys.get_mut(id.0) = Key {
            name: name.into(),
            items: 0,
            weight: weights.get(name).copied().unwrap_or(1),
            spent: 0,
            prev: NO_KEY,
            next: NO_KEY,
            lists: Vec::new(),
        };
        let (secret, keys) = (&self.secret, &self.keys);
        let hash = secret.partition_key_hash(name);
        let hasher = |id: &KeyId| secret.partition_key_hash(&keys.get(id.0).name);
        self.table.insert(hash, id, hasher);
        id
    }

    /// Puts a key at the end of the circle, with its whole turn before it.
    fn join(&mut self, id: KeyId) {
        let prev = std::mem::replace(&mut self.circle.last, id);
        match prev {
            NO_KEY => self.circle.first = id,
            prev => self.keys.get_mut(prev.0).next = id,
        }
        self.circle.len += 1;
        let key = self.keys.get_mut(id.0);
        key.spent = 0;
        key.prev = prev;
        key.next = NO_KEY;
    }

    /// Takes a key out of the circle.
    fn unlink(&mut self, id: KeyId) {
        let Key { prev, next, .. } = *self.keys.get(id.0);
        match prev {
            NO_KEY => self.circle.first = next,
            prev => self.keys.get_mut(prev.0).next = next,
        }
        match next {
            NO_KEY => self.circle.last = prev,
            next => self.keys.get_mut(next.0).prev = prev,
        }
        self.circle.len -= 1;
    }
}
