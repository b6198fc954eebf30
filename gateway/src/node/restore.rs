//! Taking items in that were taken out here or elsewhere.

use omnirelay_net::messages::{ErrorInfo, PendingItem, RestoreResponse};
use omnirelay_net::rpc::{self, Error, Reply};
use omnirelay_queue::{
    Attributes, Nanos, Origin, PayloadRef, RestoreRefused, RestoredError, RestoredItem, SequenceId,
    ShardId, shard_index_of_resource,
};
use omnirelay_wal::Disk;

use super::calls::CallId;
use super::core::Core;
use super::errors;
use super::execute::Decided;
use super::layout::{LogId, NamespaceId};
use super::part::{ItemResult, Part, Ticket};
use super::records::nanos;
use super::split::Split;

/// One item of a restore, already checked and routed.
#[derive(Debug)]
pub(super) struct RestoreEntry {
    /// Its place in the call.
    pub(super) index: u32,
    pub(super) shard: ShardId,
    pub(super) item: PendingItem,
}

impl<D: Disk> Core<D> {
    /// Routes and sends on what a restore brings. What is new, and beyond the `room` that its
    /// namespace has, is refused.
    pub(super) fn restore(&mut self, now: Nanos, id: CallId, items: Vec<PendingItem>, room: u64) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let parts = self.restore_parts(namespace, room, items);
        self.start(now, id, Vec::new(), parts);
    }

    /// Puts back, for nobody in particular, what was taken out for a caller that is gone.
    pub(super) fn put_back(&mut self, now: Nanos, namespace: NamespaceId, items: Vec<PendingItem>) {
        let ticket = Ticket {
            core: self.id,
            call: CallId::NOBODY,
        };
        for (log, part) in self.restore_parts(namespace, u64::MAX, items) {
            self.dispatch(now, ticket, log, part);
        }
    }

    fn restore_parts(
        &self,
        namespace: NamespaceId,
        room: u64,
        items: Vec<PendingItem>,
    ) -> impl ExactSizeIterator<Item = (LogId, Part)> + use<D> {
        let mut split = Split::new(items.len(), self.layout.logs());
        for (index, item) in (0u32..).zip(items) {
            let shard = self.route_restored(namespace, &item);
            let log = self.layout.log_of(shard);
            let entry = RestoreEntry { index, shard, item };
            split.put(log, entry);
        }
        let parts = split.parts.into_iter();
        parts.map(move |(log, entries)| (log, Part::Restore(namespace, room, entries)))
    }

    /// An item of our own goes back to the shard that its number names, which knows whether it
    /// ever left; any other to the shard of its resource.
    fn route_restored(&self, namespace: NamespaceId, item: &PendingItem) -> ShardId {
        let namespace = self.layout.namespace(namespace);
        if origin(item) == namespace.origin {
            return namespace.shard_of(SequenceId(item.sequence_id));
        }
        let payload = item.payload.as_ref().expect("validated");
        let index = shard_index_of_resource(
            &payload.resource_type,
            &payload.resource_id,
            namespace.shards,
        );
        ShardId(namespace.first_shard.0 + index)
    }

    pub(super) fn decide_restore(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        (mut room, entries): (u64, &[RestoreEntry]),
    ) -> Decided {
        let durable = self.is_durable(namespace);
        let mut decided = Decided::with_capacity(entries.len());
        for entry in entries {
            let slot = self.locate(log, entry.shard);
            let decision = with_restored(&entry.item, |item| {
                self.logs[log].with_shard(slot, |shard, out| {
                    let is_taken = room > 0 || shard.has_restored(item, now);
                    is_taken.then(|| shard.handle_restore(now, item, out))
                })
            });
            let Some(decision) = decision else {
                let refused = ItemResult::refused(errors::at_capacity());
                decided.push(entry.index, refused);
                continue;
            };
            let result = match self.rest(&mut decided, durable, log, slot, decision) {
                Ok(restored) => {
                    room -= u64::from(!restored.duplicate);
                    ItemResult::Restored {
                        duplicate: restored.duplicate,
                    }
                }
                Err(why) => ItemResult::refused(refused(why)),
            };
            decided.push(entry.index, result);
        }
        decided
    }
}

/// The reply to a restore; a refusal says how far it came.
pub(super) fn reply(results: Vec<ItemResult>) -> Result<Reply, Error> {
    let mut response = RestoreResponse::default();
    let mut refused = None;
    for result in results {
        match result {
            ItemResult::Restored { duplicate: false } => response.restored_count += 1,
            ItemResult::Restored { duplicate: true } => response.duplicate_count += 1,
            ItemResult::Refused(error) => refused = Some(error),
            _ => unreachable!("a restore restores"),
        }
    }
    match refused {
        None => Ok(Reply::Restore(response)),
        Some(error) => Err(error
            .with("restoredCount", response.restored_count.to_string())
            .with("duplicateCount", response.duplicate_count.to_string())),
    }
}

fn refused(why: RestoreRefused) -> Error {
    match why {
        RestoreRefused::CapacityReached => {
            errors::backpressure("the shard's share of `capacity` is used up")
        }
        RestoreRefused::DedupeFull => errors::dedupe_full(),
        RestoreRefused::RestoresFull => errors::backpressure(
            "`dedupe_entries_max` restored items are remembered, each for 30 days",
        ),
    }
}

fn origin(item: &PendingItem) -> Origin {
    rpc::parse_origin(&item.origin).expect("validated")
}

/// Hands a message's item over in the queue's words.
fn with_restored<T>(item: &PendingItem, then: impl FnOnce(&RestoredItem<'_>) -> T) -> T {
    let payload = item.payload.as_ref().expect("validated");
    let attributes = pairs(&payload.attributes);
    let error = item.last_error.as_ref();
    let metadata = error.map_or(Vec::new(), |error| pairs(&error.metadata));
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    then(&RestoredItem {
        origin: origin(item),
        sequence_id: SequenceId(item.sequence_id),
        payload: PayloadRef {
            resource_type: &payload.resource_type,
            resource_id: &payload.resource_id,
            partition_key: payload.partition_key.as_deref(),
            encoding: &payload.payload_encoding,
            body: &payload.body,
            attributes: Attributes::Pairs(&attributes),
            request_id: payload.request_id.as_deref(),
        },
        attempt: small(item.attempt),
        max_attempts: item.max_attempts.map(small),
        priority: u8::try_from(item.priority.unwrap_or(0)).unwrap_or(u8::MAX),
        enqueued_at: nanos(item.enqueued_at.as_ref().expect("validated")),
        ready_at: item.ready_at.as_ref().map(nanos),
        ttl_end: item.expires_at.as_ref().map(nanos),
        dead: item.dead_letter,
        last_error: error.map(|error: &ErrorInfo| RestoredError {
            reason: Some(&error.message),
            code: error.code.as_deref(),
            metadata: Attributes::Pairs(&metadata),
        }),
        restored_by: "",
    })
}

fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<(&'a str, &'a str)> {
    let pairs = map.into_iter();
    pairs.map(|(k, v)| (k.as_str(), v.as_str())).collect()
}
