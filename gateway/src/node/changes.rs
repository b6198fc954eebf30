//! Cancelling and redriving items by their numbers.

use omnirelay_net::rpc::Error;
use omnirelay_queue::{ItemRefused, Nanos, SequenceId, ShardId};
use omnirelay_wal::Disk;

use super::calls::CallId;
use super::core::Core;
use super::errors;
use super::execute::Decided;
use super::layout::NamespaceId;
use super::part::{ItemResult, Part};
use super::split::Split;

/// What to do with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is taken away.
    Cancel,
    /// A dead letter waits again.
    Redrive,
}

/// One item of a change, already routed.
#[derive(Debug)]
pub(super) struct ChangeEntry {
    /// Its place in the call.
    pub(super) index: u32,
    pub(super) shard: ShardId,
    pub(super) item: SequenceId,
}

impl<D: Disk> Core<D> {
    /// Splits a change by the logs of its items.
    pub(super) fn change(&mut self, now: Nanos, id: CallId, change: Change, items: &[u64]) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let mut split = Split::new(items.len(), self.layout.logs());
        for (index, &item) in (0u32..).zip(items) {
            let shard = self.layout.namespace(namespace).shard_of(SequenceId(item));
            let log = self.layout.log_of(shard);
            let entry = ChangeEntry {
                index,
                shard,
                item: SequenceId(item),
            };
            split.put(log, entry);
        }
        let parts = split.parts.into_iter();
        let parts = parts.map(|(log, entries)| (log, Part::Change(namespace, change, entries)));
        self.start(now, id, split.results, parts);
    }

    pub(super) fn decide_change(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        change: Change,
        entries: &[ChangeEntry],
    ) -> Decided {
        let durable = self.is_durable(namespace);
        let mut decided = Decided::with_capacity(entries.len());
        for entry in entries {
            let slot = self.locate(log, entry.shard);
            let decision = self.logs[log].with_shard(slot, |shard, out| match change {
                Change::Cancel => shard.handle_cancel(now, entry.item, out),
                Change::Redrive => shard.handle_redrive(now, entry.item, out),
            });
            let shard = entry.shard;
            let result = match self.rest(&mut decided, durable, log, slot, decision) {
                Ok(lsn) => ItemResult::Settled { shard, lsn },
                Err(why) => ItemResult::refused(refused(why)),
            };
            decided.push(entry.index, result);
        }
        decided
    }
}

fn refused(why: ItemRefused) -> Error {
    match why {
        ItemRefused::NotFound => errors::item_not_found(),
        ItemRefused::NotDead => Error::item_not_dead(why.to_string()),
        ItemRefused::AttemptsUsedUp => Error::item_attempts_used_up(why.to_string()),
    }
}
