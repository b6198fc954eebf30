//! Showing items to people, a page at a time.
//!
//! Items that wait are shown list by list, in the order of the lists. A cursor
//! names the item that was shown last by its rank, so the next page goes on
//! behind it; when that item is gone, behind where it was. Items that are held
//! back or delayed are in no list and are shown in the order of their slots.

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
            State::Dead(_) => ItemState::Dead,
            State::Vacant(_) => panic!("slot {slot} holds no item"),
        }
    }
}

/// One of the lists that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Waiting items of a priority.
    Ready(u8),
    Dead,
}

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Behind an item of this rank; LSN 0 is no item's: from the front.
    Behind(Line, Rank),
    /// At the first item of at least this rank, which is behind this item.
    Seeking(Line, Lsn, Rank),
    /// At the first blocked item that has this slot or a higher one.
    Blocked(Slot),
    /// At the first delayed item that has this slot or a higher one.
    Delayed(Slot),
}

/// A rank before all others.
const FRONT: Rank = (Nanos(0), Lsn(0));

/// Bits of an LSN in a cursor: no sequence id has more.
const LSN_BITS: u32 = 53;
const PRIORITY_BITS: u32 = 8;

impl Position {
    fn first(which: Listing) -> Position {
        match which {
            Listing::Waiting => Position::Behind(Line::Ready(u8::MAX), FRONT),
            Listing::Dead => Position::Behind(Line::Dead, FRONT),
        }
    }

    /// What kind of position (3 bits), priority, LSN; then time or slot.
    fn encode(self) -> Cursor {
        let head = |kind: u64, line: Line, lsn: Lsn| {
            let priority = match line {
                Line::Ready(priority) => u64::from(priority),
                Line::Dead => 0,
            };
            (kind << (LSN_BITS + PRIORITY_BITS)) | (priority << LSN_BITS) | lsn.0
        };
        let is_dead = |line| u64::from(line == Line::Dead);
        match self {
            Position::Behind(line, (since, lsn)) => Cursor(head(is_dead(line), line, lsn), since.0),
            Position::Seeking(line, from, (since, _)) => {
                Cursor(head(2 + is_dead(line), line, from), since.0)
            }
            Position::Blocked(slot) => Cursor(head(4, Line::Dead, Lsn(0)), slot.into()),
            Position::Delayed(slot) => Cursor(head(5, Line::Dead, Lsn(0)), slot.into()),
        }
    }

    /// A cursor of the other listing, or of none, is as good as none.
    fn decode(Cursor(head, tail): Cursor, which: Listing) -> Position {
        let lsn = Lsn(head & ((1 << LSN_BITS) - 1));
        let line = match which {
            Listing::Waiting => Line::Ready((head >> LSN_BITS) as u8),
            Listing::Dead => Line::Dead,
        };
        let slot = Slot::try_from(tail).unwrap_or(Slot::MAX);
        match (head >> (LSN_BITS + PRIORITY_BITS), which) {
            (0, Listing::Waiting) | (1, Listing::Dead) => {
                Position::Behind(line, (Nanos(tail), lsn))
            }
            (2, Listing::Waiting) | (3, Listing::Dead) => {
                Position::Seeking(line, lsn, (Nanos(tail), Lsn(0)))
            }
            (4, Listing::Waiting) => Position::Blocked(slot),
            (5, Listing::Waiting) => Position::Delayed(slot),
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

    /// Shows what is at a position, and says where to go on.
    fn turn(&mut self, at: Position) -> Option<Position> {
        match at {
            Position::Behind(line, FRONT) => match self.list(line) {
                Some((line, list)) => self.show(line, list.head()),
                None => self.after_lists(line),
            },
            Position::Behind(line, rank) => match self.member(line, rank.1) {
                Some(slot) if self.shard.slab.rank(slot) == rank => {
                    let next = List::behind(&self.shard.slab, slot).next();
                    self.show(line, next)
                }
                _ => self.seek(line, None, rank),
            },
            Position::Seeking(line, from, rank) => self.seek(line, Some(from), rank),
            Position::Blocked(slot) => self.scan(slot, ItemState::Blocked),
            Position::Delayed(slot) => self.scan(slot, ItemState::Delayed),
        }
    }

    /// The list to be shown from the front: of priorities, the highest that is
    /// at most the line's.
    fn list(&self, line: Line) -> Option<(Line, &List)> {
        let shard = self.shard;
        match line {
            Line::Dead => Some((line, &shard.dead)),
            Line::Ready(priority) => {
                let priority = shard.ready.occupied_from(priority)?;
                Some((Line::Ready(priority), shard.ready.list(priority)))
            }
        }
    }

    /// An item, if it is in the line.
    fn member(&self, line: Line, lsn: Lsn) -> Option<Slot> {
        let slot = self.shard.index.get(&self.shard.slab, lsn)?;
        let item = &self.shard.slab[slot];
        let is_there = match (&item.state, line) {
            (State::Waiting(_), Line::Ready(priority)) => item.priority == priority,
            (State::Dead(_), Line::Dead) => true,
            _ => false,
        };
        is_there.then_some(slot)
    }

    /// Looks for the first item behind a rank, from an item known to be before
    /// that or from the front, and shows the list from there.
    fn seek(&mut self, line: Line, from: Option<Lsn>, rank: Rank) -> Option<Position> {
        let slab = &self.shard.slab;
        let front = match line {
            Line::Dead => self.shard.dead.head(),
            Line::Ready(priority) => self.shard.ready.list(priority).head(),
        };
        let from = from.and_then(|lsn| self.member(line, lsn));
        let mut at = from.filter(|slot| slab.rank(*slot) <= rank).or(front);
        while let Some(slot) = at
            && slab.rank(slot) <= rank
        {
            if self.budget == 0 {
                return Some(Position::Seeking(line, slab[slot].lsn, rank));
            }
            self.budget -= 1;
            at = List::behind(slab, slot).next();
        }
        self.show(line, at)
    }

    /// Shows a list from an item on.
    fn show(&mut self, line: Line, from: Option<Slot>) -> Option<Position> {
        let slab = &self.shard.slab;
        let mut at = from;
        while let Some(slot) = at {
            if self.is_full() {
                let last = List::before(slab, slot).next();
                let rank = last.map_or(FRONT, |last| slab.rank(last));
                return Some(Position::Behind(line, rank));
            }
            self.budget -= 1;
            self.items.push(self.shard.view_slot(slot));
            at = List::behind(slab, slot).next();
        }
        match line {
            Line::Ready(priority) if priority > 0 => {
                Some(Position::Behind(Line::Ready(priority - 1), FRONT))
            }
            line => self.after_lists(line),
        }
    }

    fn after_lists(&self, line: Line) -> Option<Position> {
        match line {
            Line::Dead => None,
            Line::Ready(_) if self.shard.resources.is_some() => Some(Position::Blocked(0)),
            Line::Ready(_) => self.delayed(),
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
            self.budget -= 1;
            let is_vacant = matches!(slab[slot].state, State::Vacant(_));
            if !is_vacant && self.shard.state_of(slot) == state {
                self.items.push(self.shard.view_slot(slot));
            }
        }
        match state {
            ItemState::Blocked => self.delayed(),
            _ => None,
        }
    }
}
