//! What the stream has to know of a shard to describe its next event: how many items wait, how
//! many are leased, and by whom.

use std::sync::Arc;

use hashbrown::HashMap;
use omnirelay_queue::{Carry, Event, LeaseRef, Lsn, SnapshotState};

/// Counts and owners as they stand after some event of a shard.
///
/// The counts follow from the events alone, so they are as exact as what they started with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Items that wait, are held back, or are delayed.
    pub(super) pending: i64,
    /// Items that are leased.
    pub(super) active: i64,
    /// Who holds the lease of an item.
    owners: HashMap<Lsn, Arc<str>>,
}

/// Where an item is, as far as counting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pending,
    Active,
    Dead,
    /// Not in the shard.
    Away,
}

impl Tally {
    /// What is kept for single items: how much a copy weighs.
    pub(super) fn entries(&self) -> usize {
        self.owners.len()
    }

    /// Takes in what happened next. Says whose lease it was about.
    pub(super) fn apply(&mut self, lsn: Lsn, event: &Event<'_>) -> Option<Arc<str>> {
        use Place::{Active, Away, Dead, Pending};
        let dead_or_pending = |dead: bool| if dead { Dead } else { Pending };
        match event {
            Event::EpochStarted { .. } => None,
            Event::Enqueued(_) => self.shift(lsn, Away, Pending),
            Event::LeaseGranted { lease, owner, .. } => {
                self.shift(lease.item, Pending, Active);
                let owner: Arc<str> = Arc::from(*owner);
                self.owners.insert(lease.item, Arc::clone(&owner));
                Some(owner)
            }
            Event::Heartbeat { lease, .. } => self.owner(lease),
            Event::Completed { lease } => self.shift(lease.item, Active, Away),
            Event::GrantReleased { lease, dead, .. } | Event::Expired { lease, dead } => {
                self.shift(lease.item, Active, dead_or_pending(*dead))
            }
            Event::Failed(body) => self.shift(body.lease.item, Active, dead_or_pending(body.dead)),
            Event::ItemExpired { item, .. } => self.shift(*item, Pending, Away),
            Event::Cancelled {
                item, leased, dead, ..
            } => {
                let from = match leased {
                    true => Active,
                    false => dead_or_pending(*dead),
                };
                self.shift(*item, from, Away)
            }
            Event::Redriven { item, .. } => self.shift(*item, Dead, Pending),
            Event::DrainSnapshot { snapshot, .. } => {
                let snapshot = snapshot.as_ref()?;
                self.shift(snapshot.lsn, place(&snapshot.state), Away)
            }
            Event::RestoreSnapshot { snapshot, .. } => {
                self.shift(lsn, Away, place(&snapshot.state))
            }
            Event::Carry(_) => None,
        }
    }

    /// Learns of an item that was written again: it may have come in before the history begins.
    /// The counts stay, they are about events.
    pub(super) fn learn(&mut self, carry: &Carry<'_>) {
        let Carry::Item(snapshot) = carry else {
            return;
        };
        if let SnapshotState::Leased { owner, .. } = snapshot.state {
            self.owners.insert(snapshot.lsn, Arc::from(owner));
        }
    }

    fn owner(&self, lease: &LeaseRef) -> Option<Arc<str>> {
        self.owners.get(&lease.item).cloned()
    }

    /// Moves an item. Says whose lease ended by that.
    fn shift(&mut self, item: Lsn, from: Place, to: Place) -> Option<Arc<str>> {
        self.pending += i64::from(to == Place::Pending) - i64::from(from == Place::Pending);
        self.active += i64::from(to == Place::Active) - i64::from(from == Place::Active);
        match from {
            Place::Active => self.owners.remove(&item),
            _ => None,
        }
    }
}

fn place(state: &SnapshotState<'_>) -> Place {
    match state {
        SnapshotState::Waiting => Place::Pending,
        SnapshotState::Leased { .. } => Place::Active,
        SnapshotState::Dead => Place::Dead,
    }
}
