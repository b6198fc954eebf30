//! Showing items to people, a page at a time.
//!
//! Items that wait are shown list by list, in the order of the lists. A cursor
//! names the item that was shown last by its rank, so the next page goes on
//! behind it; when that item is gone, behind where it was. Items that are held
//! back or delayed are in no list and are shown in the order of their slots.

use std::ops::Bound;

use crate::ids::{Lsn, Nanos, SequenceId};
use crate::item::State;
use crate::list::{List, Rank, Rows};
use crate::outcome::{Cursor, FenceReason, ItemState, ItemView, Listed, Listing};
use crate::slab::Slot;

use super::Shard;

impl Shard {
    /// At most `max` items, after a cursor or from the beginning. Looks at no
    /// more than `budget` items, so a page may be short although more follow.
    ///
    /// An item whose state stays the same from the first page to the last is
    /// shown exactly once, whatever comes and goes around it. Only where the
    /// last item shown is gone and its place is further than the budget from
    /// its list's front may those be shown again that became ready in the same
    /// nanosecond.
    ///
    /// # Panics
    /// When `max` or `budget` is 0: no page would ever end.
    pub fn list(&self, which: Listing, after: Option<Cursor>, max: usize, budget: usize) -> Listed {
        assert!(max > 0 && budget > 0, "a page needs room for an item");
        let mut page = Page {
            shard: self,
            items: Vec::new(),
            max,
            budget,
        };
        let mut position = Some(match after {
            Some(cursor) => Position::decode(cursor, which),
            None => Position::first(which),
        });
        while let Some(at) = position {
            if page.is_full() {
                break;
            }
            position = page.turn(at);
        }
        Listed {
            items: page.items,
            next: position.map(Position::encode),
        }
    }

    /// An item as it is now; `None` when it is not there.
    pub fn view(&self, id: SequenceId) -> Option<ItemView> {
        self.slot_of(id).map(|slot| self.view_slot(slot))
    }

    fn view_slot(&self, slot: Slot) -> ItemView {
        let item = &self.slab[slot];
        let (owner, expires_at) = match &item.state {
            State::Leased { owner, lease } => {
                let owner = self.owners.name(*owner).to_owned();
                (Some(owner), Some(lease.expires_at))
            }
            _ => (None, None),
        };
        let was_taken_back = owner.is_none() && item.last_end == Some(FenceReason::Superseded);
        let has_token = item.lease_epoch.0 > 0 && !was_taken_back;
        ItemView {
            sequence_id: self.spec.sequence_id(item.lsn),
            lsn: item.lsn,
            state: self.state_of(slot),
            attempt: item.attempt,
            max_attempts: item.max_attempts,
            priority: item.priority,
            enqueued_at: item.enqueued_at,
            ready_at: item.since,
            ttl_end: item.ttl_end(),
            body: item.body,
            body_len: item.body_len,
            last_error: item.last_error(),
            owner,
            expires_at,
            last_token: has_token.then(|| self.issue(&item.last_lease())),
        }
    }

    /// # Panics
    /// When the slot holds no item.
    pub(super) fn state_of(&self, slot: Slot) -> ItemState {
        match self.slab[slot].state {
            State::Waiting(_) => ItemState::Waiting,
            State::Blocked => ItemState::Blocked,
            State::Delayed => ItemState::Delayed,
            State::Leased { .. } => ItemState::Leased,
            State::Dead => ItemState::Dead,
            State::Vacant(_) => panic!("slot {slot} holds no item"),
        }
    }
}

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Behind a waiting item of this priority and rank.
    Ready(u8, Rank),
    /// At the first waiting item beyond this rank, which is behind this item.
    Seeking(u8, Lsn, Rank),
    /// At the first blocked item that has this slot or a higher one.
    Blocked(Slot),
    /// At the first delayed item that has this slot or a higher one.
    Delayed(Slot),
    /// Behind a dead letter of this rank.
    Dead(Rank),
}

/// A rank before all others: LSN 0 is no item's.
const FRONT: Rank = (Nanos(0), Lsn(0));

/// Bits of an LSN in a cursor: no sequence id has more.
const LSN_BITS: u32 = 53;
const PRIORITY_BITS: u32 = 8;

impl Position {
    fn first(which: Listing) -> Position {
        match which {
            Listing::Waiting => Position::Ready(u8::MAX, FRONT),
            Listing::Dead => Position::Dead(FRONT),
        }
    }

    /// What kind of position (3 bits), priority, LSN; then time or slot.
    fn encode(self) -> Cursor {
        let head = |kind: u64, priority: u8, lsn: Lsn| {
            (kind << (LSN_BITS + PRIORITY_BITS)) | (u64::from(priority) << LSN_BITS) | lsn.0
        };
        match self {
            Position::Ready(priority, (since, lsn)) => Cursor(head(0, priority, lsn), since.0),
            Position::Seeking(priority, from, (since, _)) => {
                Cursor(head(1, priority, from), since.0)
            }
            Position::Blocked(slot) => Cursor(head(2, 0, Lsn(0)), slot.into()),
            Position::Delayed(slot) => Cursor(head(3, 0, Lsn(0)), slot.into()),
            Position::Dead((since, lsn)) => Cursor(head(4, 0, lsn), since.0),
        }
    }

    /// A cursor of the other listing, or of none, is as good as none.
    fn decode(Cursor(head, tail): Cursor, which: Listing) -> Position {
        let lsn = Lsn(head & ((1 << LSN_BITS) - 1));
        let priority = (head >> LSN_BITS) as u8;
        let slot = Slot::try_from(tail).unwrap_or(Slot::MAX);
        match (head >> (LSN_BITS + PRIORITY_BITS), which) {
            (0, Listing::Waiting) => Position::Ready(priority, (Nanos(tail), lsn)),
            (1, Listing::Waiting) => Position::Seeking(priority, lsn, (Nanos(tail), Lsn(0))),
            (2, Listing::Waiting) => Position::Blocked(slot),
            (3, Listing::Waiting) => Position::Delayed(slot),
            (4, Listing::Dead) => Position::Dead((Nanos(tail), lsn)),
            _ => Position::first(which),
        }
    }
}

/// A page that is being filled.
struct Page<'a> {
    shard: &'a Shard,
    items: Vec<ItemView>,
    max: usize,
    budget: usize,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.items.len() == self.max || self.budget == 0
    }

    fn add(&mut self, slot: Slot) {
        self.budget -= 1;
        self.items.push(self.shard.view_slot(slot));
    }

    /// Shows what is at a position, and says where to go on.
    fn turn(&mut self, at: Position) -> Option<Position> {
        let ready = &self.shard.ready;
        match at {
            Position::Ready(priority, FRONT) => match ready.occupied_from(priority) {
                Some(priority) => self.ready(priority, ready.list(priority).head()),
                None => self.blocked(),
            },
            Position::Ready(priority, rank) => match self.waiting(priority, rank.1) {
                Some(slot) if self.shard.slab.rank(slot) == rank => {
                    let next = List::behind(&self.shard.slab, slot).next();
                    self.ready(priority, next)
                }
                _ => self.seek(priority, None, rank),
            },
            Position::Seeking(priority, from, rank) => self.seek(priority, Some(from), rank),
            Position::Blocked(slot) => self.scan(slot, ItemState::Blocked),
            Position::Delayed(slot) => self.scan(slot, ItemState::Delayed),
            Position::Dead(rank) => self.dead(rank),
        }
    }

    /// A waiting item of this priority.
    fn waiting(&self, priority: u8, lsn: Lsn) -> Option<Slot> {
        let slot = self.shard.index.get(&self.shard.slab, lsn)?;
        let item = &self.shard.slab[slot];
        let waits = matches!(item.state, State::Waiting(_)) && item.priority == priority;
        waits.then_some(slot)
    }

    /// Looks for the first waiting item beyond a rank, from an item known to
    /// be before that or from the front, and shows the list from there.
    fn seek(&mut self, priority: u8, from: Option<Lsn>, rank: Rank) -> Option<Position> {
        let slab = &self.shard.slab;
        let from = from.and_then(|lsn| self.waiting(priority, lsn));
        let from = from.filter(|slot| slab.rank(*slot) <= rank);
        let mut at = from.or(self.shard.ready.list(priority).head());
        while let Some(slot) = at
            && slab.rank(slot) <= rank
        {
            if self.budget == 0 {
                return Some(Position::Seeking(priority, slab[slot].lsn, rank));
            }
            self.budget -= 1;
            at = List::behind(slab, slot).next();
        }
        self.ready(priority, at)
    }

    /// Shows waiting items of a priority from one on.
    fn ready(&mut self, priority: u8, from: Option<Slot>) -> Option<Position> {
        let slab = &self.shard.slab;
        let mut at = from;
        while let Some(slot) = at {
            if self.is_full() {
                let last = List::before(slab, slot).next();
                let rank = last.map_or(FRONT, |last| slab.rank(last));
                return Some(Position::Ready(priority, rank));
            }
            self.add(slot);
            at = List::behind(slab, slot).next();
        }
        match priority.checked_sub(1) {
            Some(priority) => Some(Position::Ready(priority, FRONT)),
            None => self.blocked(),
        }
    }

    fn blocked(&self) -> Option<Position> {
        match self.shard.blocked {
            0 => self.delayed(),
            _ => Some(Position::Blocked(0)),
        }
    }

    fn delayed(&self) -> Option<Position> {
        (self.shard.stats.delayed > 0).then_some(Position::Delayed(0))
    }

    /// Shows items of a state that are in no list, from a slot on.
    fn scan(&mut self, from: Slot, state: ItemState) -> Option<Position> {
        let slab = &self.shard.slab;
        for slot in from..slab.slots() {
            if self.is_full() {
                return Some(match state {
                    ItemState::Blocked => Position::Blocked(slot),
                    _ => Position::Delayed(slot),
                });
            }
            let is_vacant = matches!(slab[slot].state, State::Vacant(_));
            match !is_vacant && self.shard.state_of(slot) == state {
                true => self.add(slot),
                false => self.budget -= 1,
            }
        }
        match state {
            ItemState::Blocked => self.delayed(),
            _ => None,
        }
    }

    fn dead(&mut self, after: Rank) -> Option<Position> {
        let mut last = after;
        for (rank, slot) in self
            .shard
            .dead
            .range((Bound::Excluded(after), Bound::Unbounded))
        {
            if self.is_full() {
                return Some(Position::Dead(last));
            }
            self.add(*slot);
            last = *rank;
        }
        None
    }
}
