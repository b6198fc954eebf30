//! Replaying a log that has given up its oldest records.

use crate::ids::{Epoch, Lsn, Place};
use crate::record::{Event, Record};

use super::Shard;

impl Shard {
    /// Takes the shard's first record as the one after those that were given
    /// up. A shard's very first record says that there was no epoch before.
    pub(super) fn begin(&mut self, record: &Record<'_>) {
        let before = Lsn(record.lsn.0.saturating_sub(1));
        (self.unknown_to, self.last_lsn, self.epoch) = match record.event {
            Event::EpochStarted { previous: Epoch(0) } => return,
            Event::EpochStarted { previous } => (before, before, previous),
            Event::Carry(_) => (record.lsn, record.lsn, record.epoch),
            _ => (before, before, record.epoch),
        };
        self.lists_are_ordered = self.unknown_to == Lsn(0);
    }

    /// Undoes [`begin`](Shard::begin).
    pub(super) fn begin_again(&mut self) {
        (self.unknown_to, self.last_lsn, self.epoch) = (Lsn(0), Lsn(0), Epoch(0));
        self.lists_are_ordered = true;
    }

    /// Whether the record is about an item that came in with a record that was
    /// given up, and is not carried before this one.
    pub(super) fn is_about_unknown(&self, event: &Event<'_>) -> bool {
        event.item().is_some_and(|item| {
            item <= self.unknown_to && self.index.get(&self.slab, item).is_none()
        })
    }

    /// Passes over a record about an item that is not known. What is to be
    /// remembered once the item is gone is in the record that ends it.
    pub(super) fn skip(&mut self, record: &Record<'_>, place: Place) {
        let ended = match &record.event {
            Event::Completed { lease } => Some((*lease, crate::FenceReason::Completed)),
            Event::ItemExpired { last, .. } | Event::Cancelled { last, .. } => *last,
            Event::DrainSnapshot {
                request,
                snapshot: Some(snapshot),
            } => {
                self.remember_drained(record, *request, snapshot, place);
                snapshot.last_ended()
            }
            Event::LeaseGranted { .. } => {
                self.last_grant_at = record.at;
                None
            }
            _ => None,
        };
        if let Some((lease, reason)) = ended {
            self.settled.insert(&lease, reason, record.at);
        }
    }
}
