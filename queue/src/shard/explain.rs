//! Why an item is not being worked on.

use crate::ids::{Lsn, Nanos, SequenceId};
use crate::item::State;
use crate::options::Fairness;
use crate::outcome::{Explanation, FenceReason, Head, KeyShare};
use crate::slab::Slot;

use super::Shard;

/// Items and keys that are counted before one; beyond, there are more.
const AHEAD_MAX: usize = 1_000;

impl Shard {
    /// Why an item is not being worked on, as far as its shard knows: whether
    /// there are workers is for others to say.
    pub fn explain(&self, now: Nanos, id: SequenceId) -> Explanation {
        let Some(lsn) = self.spec.lsn_of(id) else {
            return Explanation::NotFound;
        };
        if lsn == Lsn(0) || lsn > self.last_lsn {
            return Explanation::NotFound;
        }
        let Some(slot) = self.index.get(&self.slab, lsn) else {
            let reason = self.settled.last_reason(lsn);
            return Explanation::Gone { reason };
        };
        let item = &self.slab[slot];
        match &item.state {
            State::Leased { owner, lease } => Explanation::Leased {
                owner: self.owners.name(*owner).to_owned(),
                expires_at: lease.expires_at,
            },
            State::Delayed => Explanation::Delayed {
                until: item.since,
                after_failure: item.last_end == Some(FenceReason::Failed),
            },
            State::Blocked => self.explain_blocked(slot),
            State::Waiting(_) => self.explain_waiting(slot, now.max(self.clock)),
            State::Dead(_) => Explanation::Dead {
                attempts: item.attempt,
            },
            State::Vacant(_) => panic!("slot {slot} is in the index and holds no item"),
        }
    }

    fn explain_blocked(&self, slot: Slot) -> Explanation {
        let resources = self.resources.as_deref();
        let ahead = resources.and_then(|resources| resources.ahead_of(slot));
        let ahead = ahead.expect("a blocked item is behind another one");
        Explanation::Blocked {
            behind: self.spec.sequence_id(self.slab[ahead].lsn),
            state: self.state_of(ahead),
        }
    }

    fn explain_waiting(&self, slot: Slot, now: Nanos) -> Explanation {
        let aging = self.options.priority_aging;
        let ahead = match self.options.fairness {
            Fairness::Fifo => self
                .ready
                .ahead(&self.slab, slot, now, aging, AHEAD_MAX + 1),
            Fairness::PartitionKey => self.keys.ahead(&self.slab, slot, now, aging, AHEAD_MAX + 1),
        };
        let standing = self.keys.standing(slot, AHEAD_MAX);
        Explanation::Waiting {
            ahead: ahead.min(AHEAD_MAX) as u64,
            ahead_is_cut: ahead > AHEAD_MAX,
            effective_priority: Head::of(&self.slab, slot, now, aging).effective_priority,
            share: standing.map(|standing| KeyShare {
                key: standing.name.to_owned(),
                weight: standing.weight,
                keys_waiting: standing.keys_waiting.into(),
                position: standing.position,
                position_is_cut: standing.is_cut,
            }),
        }
    }
}
