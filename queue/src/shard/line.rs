//! The line of waiting items: who joins it, who is held back, who is next.
//!
//! Where items of one resource are leased one at a time, only the item whose
//! turn it is stands in line; those behind it are blocked. Turns pass by
//! records alone, so replay comes to the same: an item that gets its turn when
//! its time has come already joins the line as of that record, like one whose
//! delay ends just then. Its priority grows from there.

use crate::ids::Nanos;
use crate::item::{Links, State};
use crate::options::Fairness;
use crate::outcome::Head;
use crate::payload::PayloadRef;
use crate::resources::{Passed, Resources};
use crate::slab::Slot;

use super::Shard;

impl Shard {
    /// The item that is leased next to a worker that asks for this partition
    /// key, or for any.
    #[inline]
    pub(super) fn best(&self, now: Nanos, partition_key: Option<&str>) -> Option<(Slot, Head)> {
        let aging = self.options.priority_aging;
        if let Some(name) = partition_key {
            return self.keys.best_of(name, &self.slab, now, aging);
        }
        if self.options.fairness == Fairness::Fifo {
            return self.ready.head(&self.slab, now, aging);
        }
        let (slot, head) = self.keys.first(&self.slab, now, aging)?;
        // Shards take turns like keys: priorities count within a key only.
        let head = Head {
            effective_priority: 0,
            ready_since: head.ready_since.max(self.last_grant_at),
        };
        Some((slot, head))
    }

    /// Notes the partition key and the resource of an item that came in and is
    /// in no list yet.
    #[inline]
    pub(super) fn classify(&mut self, slot: Slot, payload: &PayloadRef<'_>) {
        self.keys
            .insert(slot, payload.partition_key, &self.options.weights);
        if let Some(resources) = &mut self.resources {
            let secret = &self.spec.secret;
            let resource = secret.resource_key(payload.resource_type, payload.resource_id);
            resources.insert(&self.slab, slot, resource);
        }
    }

    /// An item whose time has come joins the line at the back, or is held back.
    /// It is in no list; timer and counts are the caller's.
    #[inline]
    pub(super) fn line_up(&mut self, slot: Slot) {
        if self.is_held_back(slot) {
            self.slab[slot].state = State::Blocked;
            return;
        }
        self.slab[slot].state = State::Waiting(Links::NONE);
        if !self.lists_are_ordered {
            return self.join_anywhere(slot);
        }
        self.ready.push_back(&mut self.slab, slot);
        self.keys.push_back(&self.slab, slot);
    }

    /// An item whose grant was taken back goes to where it was in line, unless
    /// an older one of its resource was redriven meanwhile.
    pub(super) fn line_up_again(&mut self, slot: Slot) {
        if self.is_held_back(slot) {
            self.slab[slot].state = State::Blocked;
            return;
        }
        self.slab[slot].state = State::Waiting(Links::NONE);
        if !self.lists_are_ordered {
            return self.join_anywhere(slot);
        }
        self.ready.push_front(&mut self.slab, slot);
        self.keys.push_front(&self.slab, slot);
    }

    /// Of the items that wait, some come later than their place in line would
    /// have them, and some are in line only because those before them have not
    /// come yet: no item is given another `since` to keep that in order.
    fn join_anywhere(&mut self, slot: Slot) {
        self.ready.push_unordered(&mut self.slab, slot);
        self.keys.push_unordered(&self.slab, slot);
    }

    #[inline]
    pub(super) fn leave_line(&mut self, slot: Slot) {
        self.keys.leave(&self.slab, slot);
        self.ready.remove(&mut self.slab, slot);
    }

    /// After each record: whoever lost the turn on a resource steps out of the
    /// line, and whoever got it joins.
    #[inline]
    pub(super) fn pass_turn(&mut self, at: Nanos) {
        let passed = self.resources.as_deref_mut();
        if let Some(passed) = passed.and_then(Resources::take_passed) {
            self.pass_turn_on(passed, at);
        }
    }

    fn pass_turn_on(&mut self, passed: Passed, at: Nanos) {
        if let Some(from) = passed.from
            && matches!(self.slab[from].state, State::Waiting(_))
        {
            self.leave_line(from);
            self.slab[from].state = State::Blocked;
        }
        let Some(to) = passed.to else {
            return;
        };
        match self.slab[to].state {
            State::Blocked => {}
            State::Delayed if self.slab[to].since <= at => {
                self.stats.delayed -= 1;
                self.stats.pending += 1;
            }
            // It has joined the line already, or will when its delay ends.
            _ => return,
        }
        self.wheel.remove(&mut self.slab, to);
        self.slab[to].since = at;
        self.line_up(to);
        self.wheel.insert(&mut self.slab, to);
    }

    /// After an item is carried in: whoever lost its turn to it steps out of the
    /// line. The item itself is in no line yet.
    pub(super) fn step_back(&mut self) {
        let passed = self.resources.as_deref_mut();
        if let Some(from) = passed.and_then(Resources::take_passed).and_then(|p| p.from)
            && matches!(self.slab[from].state, State::Waiting(_))
        {
            self.leave_line(from);
            self.slab[from].state = State::Blocked;
        }
    }

    #[inline]
    fn is_held_back(&self, slot: Slot) -> bool {
        let resources = self.resources.as_deref();
        resources.is_some_and(|resources| !resources.has_turn(slot))
    }
}
