//! Whether a snapshot, something written again, or a whole shard is what the records say.

use std::collections::BTreeSet;

use omnirelay_queue::{Carry, Digest, ItemSnapshot, LeaseRef, SnapshotState};

use crate::tape::digest;
use crate::violation::{Violation, broken};

use super::{History, NANOS_PER_MS, Phase, unknown_item};

impl History {
    /// What is written again is as it was.
    pub(super) fn carried(&self, carry: &Carry<'_>) -> Result<(), Violation> {
        const RULE: &str = "what is written again is as it was";
        match carry {
            Carry::Item(snapshot) => {
                self.agrees(snapshot)?;
                let there = self.items[&snapshot.lsn.0].phase.is_there();
                broken(!there, RULE, || "the item is gone".to_owned())
            }
            Carry::Drained {
                request, lsn, at, ..
            } => {
                let taken = self.taken.get(&lsn.0);
                // The time is that of the bundle, which later items prolong.
                let same =
                    taken.is_some_and(|taken| taken.request == Some(*request) && taken.at <= at.0);
                broken(!same, RULE, || format!("it was {taken:?}"))
            }
            Carry::Header { epochs, .. } => {
                let other = epochs
                    .iter()
                    .find(|e| self.epochs.get(&e.epoch.0).map(|known| known.0) != Some(e.lsn.0));
                broken(other.is_some(), RULE, || format!("{other:?}"))
            }
            Carry::Settled(rows) => {
                let other = rows
                    .iter()
                    .find(|row| !self.ended_so(&row.lease, row.reason.as_str()));
                broken(other.is_some(), RULE, || format!("{other:?}"))
            }
            Carry::Dedupe(rows) => {
                let other = rows.iter().find(|row| !self.items.contains_key(&row.lsn.0));
                broken(other.is_some(), RULE, || format!("{other:?}"))
            }
            Carry::Restored(rows) => {
                let is_known = |lsn, at| self.restored.values().any(|known| *known == (lsn, at));
                let other = rows.iter().find(|row| !is_known(row.lsn.0, row.at.0));
                broken(other.is_some(), RULE, || format!("{other:?}"))
            }
            Carry::Drains(_) | Carry::SettledPage { .. } | Carry::Turns(_) => Ok(()),
        }
    }

    /// Whether a lease ended so. What is remembered of one that did not count has the attempts
    /// that did.
    fn ended_so(&self, lease: &LeaseRef, reason: &str) -> bool {
        let of_item = (lease.item.0, 0, 0, 0)..(lease.item.0 + 1, 0, 0, 0);
        let mut ended = self.ended.range(of_item);
        ended.any(|(key, ended)| {
            (key.2, key.3) == (lease.grant, lease.epoch.0) && ended.how.reason() == reason
        })
    }

    /// Whether a snapshot says of an item what the records say.
    pub(super) fn agrees(&self, snapshot: &ItemSnapshot<'_>) -> Result<(), Violation> {
        let item = self.items.get(&snapshot.lsn.0).ok_or_else(unknown_item)?;
        let state = match item.phase {
            Phase::Leased(lease) => {
                matches!(snapshot.state, SnapshotState::Leased { .. })
                    && snapshot.lease_epoch.0 == lease.key.3
            }
            Phase::Dead => snapshot.state == SnapshotState::Dead,
            _ => snapshot.state == SnapshotState::Waiting,
        };
        let ttl_ns = snapshot.ttl.map(|ttl| u64::from(ttl.0) * NANOS_PER_MS);
        let counts = (item.attempts, item.max_attempts, item.grants);
        let same = state
            && counts == (snapshot.attempt, snapshot.max_attempts, snapshot.grant)
            && (item.enqueued_at, item.ttl_ns) == (snapshot.enqueued_at.0, ttl_ns)
            && item.priority == snapshot.priority
            && item.body == digest(snapshot.body)
            && item.error == digest(snapshot.error);
        broken(!same, "a snapshot says what the records say", || {
            format!("{item:?}")
        })
    }

    /// Where a shard's state is not what its records say, if it is not.
    pub fn difference(&self, digest: &Digest) -> Option<String> {
        if (digest.last_lsn.0, digest.epoch.0) != (self.last_lsn, self.epoch) {
            let (lsn, epoch) = (digest.last_lsn, digest.epoch);
            return Some(format!(
                "{} is at {lsn:?} of {epoch:?}, by its records at {} of {}",
                self.at(),
                self.last_lsn,
                self.epoch
            ));
        }
        let found: BTreeSet<u64> = digest.items.iter().map(|item| item.lsn.0).collect();
        if found != self.there {
            let odd: Vec<_> = found.symmetric_difference(&self.there).collect();
            return Some(format!("{} has items or has them not: {odd:?}", self.at()));
        }
        let wrong = digest.items.iter().find(|item| {
            let known = &self.items[&item.lsn.0];
            let state = match known.phase {
                Phase::Leased(_) => item.state == "leased",
                Phase::Dead => item.state == "dead",
                _ => matches!(item.state, "waiting" | "delayed"),
            };
            !state
                || item.counts != (known.attempts, known.max_attempts, known.grants)
                || (item.times.0.0, item.priority) != (known.enqueued_at, known.priority)
        });
        wrong.map(|item| format!("{} {item:?}, is {:?}", self.at(), self.items[&item.lsn.0]))
    }
}
