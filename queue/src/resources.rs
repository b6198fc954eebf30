//! Whose turn it is on each resource, where items of one resource are leased
//! one at a time in the order that they were enqueued.
//!
//! The items of a resource that are not dead letters are its chain, in the
//! order of their LSNs. While one of them is leased it is nobody's turn;
//! otherwise it is the first one's, even while that waits for its delay.
//!
//! A resource is known by a keyed 64-bit hash. Two resources with the same
//! hash, which nobody without the key can bring about, merely wait for each
//! other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::ids::Lsn;
use crate::item::{Links, State};
use crate::side::Side;
use crate::slab::{NO_SLOT, Slab, Slot};
use crate::split_table::SplitTable;

#[derive(Debug)]
pub(crate) struct Resources {
    chains: SplitTable<Chain>,
    members: Side<Member>,
    /// Members that joined behind a later one: redriven and carried items. They
    /// are in no chain's links, so that finding their place takes no walk.
    late: BTreeMap<(u64, Lsn), Slot>,
    passed: Option<Passed>,
}

/// A turn that passed from one item to another, or to or from nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) from: Option<Slot>,
    pub(crate) to: Option<Slot>,
}

#[derive(Debug)]
struct Chain {
    resource: u64,
    /// The linked members, by LSN.
    head: Slot,
    tail: Slot,
    leased: Slot,
    turn: Slot,
    /// Goes up with all that may put an item before others.
    version: u32,
}

/// What is kept of an item: its resource, and its neighbours in the chain.
#[derive(Clone, Copy, Debug)]
struct Member {
    resource: u64,
    links: Links,
}

/// In `prev`: not in the chain.
const OUT: Slot = NO_SLOT - 1;

/// In `prev`: in the chain, among the late ones.
const LATE: Slot = NO_SLOT - 2;

impl Resources {
    pub(crate) fn new() -> Resources {
        let blank = Member {
            resource: 0,
            links: Links {
                prev: OUT,
                next: NO_SLOT,
            },
        };
        Resources {
            chains: SplitTable::new(),
            members: Side::new(blank),
            late: BTreeMap::new(),
            passed: None,
        }
    }

    /// An item of the resource, in its chain from now on.
    pub(crate) fn insert(&mut self, slab: &Slab, slot: Slot, resource: u64) {
        self.members.get_mut(slot).resource = resource;
        self.join(slab, slot);
    }

    /// An item that was in no chain, being a dead letter, is in its chain again.
    ///
    /// # Panics
    /// When it is in the chain.
    pub(crate) fn join(&mut self, slab: &Slab, slot: Slot) {
        let Member { resource, links } = *self.members.get(slot);
        assert_eq!(links.prev, OUT, "an item is twice in its resource's chain");
        if self.find(resource).is_none() {
            let chain = Chain {
                resource,
                head: NO_SLOT,
                tail: NO_SLOT,
                leased: NO_SLOT,
                turn: NO_SLOT,
                version: 0,
            };
            self.chains.insert(resource, chain, |chain| chain.resource);
        }
        let lsn = slab[slot].lsn;
        let chain = self.find_mut(resource);
        let tail = chain.tail;
        if tail != NO_SLOT && slab[tail].lsn > lsn {
            chain.version = chain.version.wrapping_add(1);
            self.late.insert((resource, lsn), slot);
            self.members.get_mut(slot).links.prev = LATE;
        } else {
            chain.tail = slot;
            if tail == NO_SLOT {
                chain.head = slot;
            } else {
                self.members.get_mut(tail).links.next = slot;
            }
            self.members.get_mut(slot).links = Links {
                prev: tail,
                next: NO_SLOT,
            };
        }
        self.decide(slab, resource);
    }

    /// Takes an item out of its chain, if it is in.
    pub(crate) fn leave(&mut self, slab: &Slab, slot: Slot) {
        let Member { resource, links } = *self.members.get(slot);
        match links.prev {
            OUT => return,
            LATE => {
                let late = self.late.remove(&(resource, slab[slot].lsn));
                assert_eq!(late, Some(slot), "a late item is not where it joined");
            }
            prev => {
                let next = links.next;
                let chain = self.find_mut(resource);
                if prev == NO_SLOT {
                    chain.head = next;
                }
                if next == NO_SLOT {
                    chain.tail = prev;
                }
                if prev != NO_SLOT {
                    self.members.get_mut(prev).links.next = next;
                }
                if next != NO_SLOT {
                    self.members.get_mut(next).links.prev = prev;
                }
            }
        }
        self.members.get_mut(slot).links = Links {
            prev: OUT,
            next: NO_SLOT,
        };
        let chain = self.find_mut(resource);
        if chain.leased == slot {
            chain.leased = NO_SLOT;
        }
        self.decide(slab, resource);
    }

    pub(crate) fn begin_lease(&mut self, slab: &Slab, slot: Slot) {
        let resource = self.members.get(slot).resource;
        let chain = self.find_mut(resource);
        chain.leased = slot;
        chain.version = chain.version.wrapping_add(1);
        self.decide(slab, resource);
    }

    /// The item is not leased any more; it is still in the chain.
    pub(crate) fn end_lease(&mut self, slab: &Slab, slot: Slot) {
        let resource = self.members.get(slot).resource;
        let chain = self.find_mut(resource);
        chain.version = chain.version.wrapping_add(1);
        if chain.leased == slot {
            chain.leased = NO_SLOT;
        }
        self.decide(slab, resource);
    }

    pub(crate) fn has_turn(&self, slot: Slot) -> bool {
        let chain = self.find(self.members.get(slot).resource);
        chain.is_some_and(|chain| chain.turn == slot)
    }

    /// The item that an item which does not have the turn waits for: the one
    /// that is leased, else the one that has the turn.
    pub(crate) fn ahead_of(&self, slot: Slot) -> Option<Slot> {
        let ahead = self.served(self.members.get(slot).resource)?;
        (ahead != slot).then_some(ahead)
    }

    /// The item of a resource that is leased, else the one that has the turn.
    pub(crate) fn served(&self, resource: u64) -> Option<Slot> {
        let chain = self.find(resource)?;
        let served = match chain.leased {
            NO_SLOT => chain.turn,
            leased => leased,
        };
        (served != NO_SLOT).then_some(served)
    }

    pub(crate) fn resource_of(&self, slot: Slot) -> u64 {
        self.members.get(slot).resource
    }

    /// The items of a resource's chain that are not leased, in their order.
    pub(crate) fn line<'a>(
        &'a self,
        slab: &'a Slab,
        resource: u64,
    ) -> impl Iterator<Item = Slot> + 'a {
        let head = self.find(resource).map_or(NO_SLOT, |chain| chain.head);
        let linked =
            std::iter::successors(some(head), |slot| some(self.members.get(*slot).links.next));
        let late = self.late.range(of_resource(resource));
        let mut linked = linked.peekable();
        let mut late = late.map(|(_, slot)| *slot).peekable();
        let merged = std::iter::from_fn(move || {
            let is_late = match (late.peek(), linked.peek()) {
                (Some(late), Some(linked)) => slab[*late].lsn < slab[*linked].lsn,
                (late, _) => late.is_some(),
            };
            if is_late { late.next() } else { linked.next() }
        });
        merged.filter(|slot| !matches!(slab[*slot].state, State::Leased { .. }))
    }

    /// Whether an item, which is not leased, is the first such in its chain.
    pub(crate) fn is_first_in_line(&self, slab: &Slab, slot: Slot) -> bool {
        let Member { resource, links } = *self.members.get(slot);
        // Most have another before them, which takes no look at the chain.
        let is_behind = !matches!(links.prev, NO_SLOT | OUT | LATE)
            && !matches!(slab[links.prev].state, State::Leased { .. });
        !is_behind && self.line(slab, resource).next() == Some(slot)
    }

    /// A number that stays the same as long as no item may have come to stand
    /// before another in the item's chain that did not before: none was leased,
    /// and none joined but at the back. 0 when it is in no chain.
    pub(crate) fn chain_version(&self, slot: Slot) -> u32 {
        let Member { resource, links } = *self.members.get(slot);
        match links.prev {
            OUT => 0,
            _ => self.find(resource).map_or(0, |chain| chain.version),
        }
    }

    /// Whether a turn passed since this was last called, between which items
    /// in the end. Only changes of one resource may lie between two calls.
    pub(crate) fn take_passed(&mut self) -> Option<Passed> {
        self.passed.take().filter(|passed| passed.from != passed.to)
    }

    /// Gives the turn to whom it is due, and forgets a chain without members.
    fn decide(&mut self, slab: &Slab, resource: u64) {
        let late = match self.late.is_empty() {
            true => None,
            false => {
                let mut of_this = self.late.range(of_resource(resource));
                of_this.next().map(|(_, slot)| *slot)
            }
        };
        let chain = self.find_mut(resource);
        let first = match (late, chain.head) {
            (None, head) => head,
            (Some(late), NO_SLOT) => late,
            (Some(late), head) if slab[late].lsn < slab[head].lsn => late,
            (Some(_), head) => head,
        };
        let turn = match chain.leased {
            NO_SLOT => first,
            _ => NO_SLOT,
        };
        let from = std::mem::replace(&mut chain.turn, turn);
        if first == NO_SLOT {
            self.chains
                .remove(resource, |chain| chain.resource == resource);
        }
        let passed = self.passed.get_or_insert(Passed {
            from: some(from),
            to: None,
        });
        passed.to = some(turn);
    }

    fn find(&self, resource: u64) -> Option<&Chain> {
        self.chains
            .find(resource, |chain| chain.resource == resource)
    }

    /// # Panics
    /// When the resource has no chain: the caller knows of a member.
    fn find_mut(&mut self, resource: u64) -> &mut Chain {
        self.chains
            .find_mut(resource, |chain| chain.resource == resource)
            .expect("an item's resource has a chain")
    }
}

fn of_resource(resource: u64) -> RangeInclusive<(u64, Lsn)> {
    (resource, Lsn(0))..=(resource, Lsn(u64::MAX))
}

fn some(slot: Slot) -> Option<Slot> {
    (slot != NO_SLOT).then_some(slot)
}
