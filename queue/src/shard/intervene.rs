//! What people do to single items: taking them away, reviving dead letters.

use crate::ids::{Lsn, Nanos, SequenceId};
use crate::item::State;
use crate::outcome::{Decision, ItemRefused};
use crate::record::{Event, Log};
use crate::slab::Slot;

use super::Shard;

impl Shard {
    /// Takes an item away, whatever its state. If it is leased, its lease is
    /// over and its token fenced as superseded.
    pub fn handle_cancel(
        &mut self,
        now: Nanos,
        id: SequenceId,
        log: &mut impl Log,
    ) -> Decision<Result<Lsn, ItemRefused>> {
        self.advance(now);
        let Some(slot) = self.slot_of(id) else {
            return self.refuse(Err(ItemRefused::NotFound));
        };
        let item = &self.slab[slot];
        let event = Event::Cancelled {
            item: item.lsn,
            last: item.cancelled(),
            leased: matches!(item.state, State::Leased { .. }),
            dead: matches!(item.state, State::Dead(_)),
        };
        let lsn = self.commit(event, log);
        Decision {
            outcome: Ok(lsn),
            rests_on: Some(lsn),
        }
    }

    /// Lets a dead letter wait again, at once, for as many further attempts as
    /// it had at first. Room is not asked for: it was admitted once. When its
    /// time to live is over, it lives on without one.
    pub fn handle_redrive(
        &mut self,
        now: Nanos,
        id: SequenceId,
        log: &mut impl Log,
    ) -> Decision<Result<Lsn, ItemRefused>> {
        self.advance(now);
        let Some(slot) = self.slot_of(id) else {
            return self.refuse(Err(ItemRefused::NotFound));
        };
        let item = &self.slab[slot];
        if !matches!(item.state, State::Dead(_)) {
            return self.refuse(Err(ItemRefused::NotDead));
        }
        if item.attempt == u16::MAX {
            return self.refuse(Err(ItemRefused::AttemptsUsedUp));
        }
        let event = Event::Redriven {
            item: item.lsn,
            max_attempts: item.attempt.saturating_add(self.attempts_at_first(slot)),
        };
        let lsn = self.commit(event, log);
        Decision {
            outcome: Ok(lsn),
            rests_on: Some(lsn),
        }
    }

    pub(super) fn slot_of(&self, id: SequenceId) -> Option<Slot> {
        let lsn = self.spec.lsn_of(id)?;
        self.index.get(&self.slab, lsn)
    }

    /// How many attempts an item had before it was first redriven.
    pub(super) fn attempts_at_first(&self, slot: Slot) -> u16 {
        let item = &self.slab[slot];
        let remembered = self.redriven.get(&item.lsn);
        remembered.copied().unwrap_or(item.max_attempts)
    }
}
