//! Carrying out parts on the shards of a log, and letting their results go when they are
//! committed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::messages::PendingItem;
use omnirelay_net::messages::read::EnqueueItems;
use omnirelay_net::messages::view::PayloadView;
use omnirelay_net::rpc::{BATCH_BYTES_MAX, BODY_BYTES_MAX, payload_bytes, pending_item_bytes};
use omnirelay_queue as queue;
use omnirelay_queue::{EnqueueRefused, FenceReason, LeaseWish, Nanos, ShardId, TokenRefused};
use omnirelay_wal::Disk;

use super::core::Core;
use super::errors;
use super::layout::{Durability, LogId, NamespaceId};
use super::owned_log::{Admit, Held, HeldResult, Verdict};
use super::part::{
    Action, DoneMessage, EnqueueEntry, ExecuteMessage, GrantRef, Granted, ItemResult, Message,
    Part, SettleEntry, Take, Ticket,
};
use super::reads::Then;
use super::work::best_head;

/// Parts that may wait for a log's disk at once; more are refused.
const STALLED_PARTS_MAX: usize = 4_096;

/// A take ends with the item that brings its payloads above this: the largest item still leaves
/// it within what a batch may be.
const TAKE_BYTES_MAX: usize = BATCH_BYTES_MAX - 2 * BODY_BYTES_MAX;

/// No record of a settlement without a reason, of a cancel or a redrive is larger.
const SMALL_BYTES: usize = 64;

/// Bytes beside the strings and the body that an enqueued item's record may need.
const RECORD_SLACK_BYTES: usize = 256;

/// What deciding a part left behind: its results, and the batch they rest on.
pub(super) struct Decided {
    pub(super) results: Vec<(u32, HeldResult)>,
    /// 0 where nothing has to be on disk first.
    pub(super) batch: u64,
}

impl Decided {
    pub(super) fn with_capacity(entries: usize) -> Decided {
        Decided {
            results: Vec::with_capacity(entries),
            batch: 0,
        }
    }

    pub(super) fn push(&mut self, index: u32, result: ItemResult) {
        self.results.push((index, HeldResult::Ready(result)));
    }

    /// Adds a result behind those that are there.
    pub(super) fn push_held(&mut self, result: HeldResult) {
        let index = u32::try_from(self.results.len()).expect("a part has few results");
        self.results.push((index, result));
    }
}

impl<D: Disk> Core<D> {
    /// Sends a part to the core of its log, which may be this one.
    pub(super) fn dispatch(&mut self, now: Nanos, ticket: Ticket, log: LogId, part: Part) {
        if let Some(call) = self.calls.get_mut(ticket.call) {
            call.dispatched_at = Some(now);
        }
        let core = self.layout.core_of(log);
        if core == self.id {
            let index = self
                .local_log(log)
                .expect("the layout gave the log to this core");
            self.execute(now, ticket, index, part);
        } else {
            self.messages
                .push_back((core, Message::Execute(ExecuteMessage { ticket, log, part })));
        }
    }

    /// Carries out a part on one of this core's logs.
    pub(super) fn execute(&mut self, now: Nanos, ticket: Ticket, log: usize, part: Part) {
        if let Some(why) = &self.logs[log].failed {
            let error = errors::durability_lost(why);
            return self.refuse(now, ticket, log, &part, &error);
        }
        match self.admit(log, &part) {
            Verdict::Go => {}
            // Work finding asks again by itself when there is something to be had.
            _ if matches!(part, Part::Take(..)) => return self.deliver_nothing(now, ticket, log),
            Verdict::Wait if self.logs[log].stalled.len() < STALLED_PARTS_MAX => {
                return self.logs[log].stalled.push_back((ticket, part));
            }
            Verdict::Wait => {
                let error = errors::backpressure("too many calls wait for the disk already");
                return self.refuse(now, ticket, log, &part, &error);
            }
            Verdict::DiskFull => {
                return self.refuse(now, ticket, log, &part, &errors::storage_full());
            }
            Verdict::LogFull => {
                let error = errors::backpressure(
                    "all the space that is reserved for this log's work is used; `segment_bytes` sets how much that is",
                );
                return self.refuse(now, ticket, log, &part, &error);
            }
        }
        let (namespace, decided) = match part {
            Part::Enqueue(namespace, items, entries) => (
                namespace,
                self.decide_enqueue(now, namespace, log, (&items, &entries)),
            ),
            Part::Settle(namespace, entries) => {
                (namespace, self.decide_settle(now, namespace, log, &entries))
            }
            Part::Take(namespace, take) => {
                (namespace, self.decide_take(now, namespace, log, &take))
            }
            Part::Change(namespace, change, entries) => {
                let decided = self.decide_change(now, namespace, log, change, &entries);
                (namespace, decided)
            }
            Part::Restore(namespace, room, entries) => (
                namespace,
                self.decide_restore(now, namespace, log, (room, &entries)),
            ),
            Part::List(namespace, wish) => {
                let decided = self.decide_list(namespace, log, &wish);
                return self.hold(now, ticket, log, decided);
            }
            Part::Explain(namespace, shard, item) => {
                let decided = self.decide_explain(now, namespace, log, (shard, item));
                return self.hold(now, ticket, log, decided);
            }
            Part::Drain(namespace, wish) => {
                return self.begin_draining(now, ticket, (namespace, log), wish);
            }
        };
        self.note_change(namespace, log);
        self.hold(now, ticket, log, decided);
    }

    /// Keeps results back until what they rest on is on disk.
    pub(super) fn hold(&mut self, now: Nanos, ticket: Ticket, log: usize, decided: Decided) {
        if decided.batch <= self.logs[log].synced {
            return self.release_held(now, log, ticket, decided.results);
        }
        if let Some(why) = &self.logs[log].failed {
            // What it rests on will never be on disk.
            let error = errors::durability_lost(why);
            let results = decided.results.iter();
            let results = results
                .map(|&(at, _)| (at, ItemResult::refused(error.clone())))
                .collect();
            let id = self.logs[log].id;
            return self.deliver(now, id, ticket, results);
        }
        let held = Held {
            batch: decided.batch,
            ticket,
            results: decided.results,
        };
        let queue = &mut self.logs[log].held;
        // Nearly always the end: only a refusal may rest on an older batch than its predecessor.
        let at = queue
            .iter()
            .rposition(|h| h.batch <= held.batch)
            .map_or(0, |at| at + 1);
        queue.insert(at, held);
    }

    /// Tells whoever asked for work that there is none to be had here now.
    fn deliver_nothing(&mut self, now: Nanos, ticket: Ticket, log: usize) {
        let id = self.logs[log].id;
        self.deliver(now, id, ticket, Vec::new());
    }

    /// Whether a part may be carried out now.
    fn admit(&mut self, log: usize, part: &Part) -> Verdict {
        let (admit, sum, largest) = match part {
            Part::Enqueue(_, _, entries) => {
                let bytes = entries.iter().map(|e| e.record_bytes as usize);
                (Admit::Enqueue, bytes.clone().sum(), bytes.max())
            }
            Part::Settle(_, entries) => {
                let bytes = entries.iter().map(settle_bytes);
                (Admit::Settle, bytes.clone().sum(), bytes.max())
            }
            Part::Take(_, take) => {
                let bytes = take.owner.len() + RECORD_SLACK_BYTES;
                (Admit::Grant, bytes, Some(bytes))
            }
            Part::Change(_, _, entries) => {
                (Admit::Grant, entries.len() * SMALL_BYTES, Some(SMALL_BYTES))
            }
            Part::Restore(_, _, entries) => {
                let bytes = entries.iter().map(|e| restored_bytes(&e.item));
                (Admit::Enqueue, bytes.clone().sum(), bytes.max())
            }
            // They append nothing, or see for themselves whether there is room.
            Part::List(..) | Part::Explain(..) | Part::Drain(..) => return Verdict::Go,
        };
        self.logs[log].admit(admit, sum, largest.unwrap_or(0))
    }

    fn refuse(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        log: usize,
        part: &Part,
        error: &omnirelay_net::rpc::Error,
    ) {
        let indexes: Vec<u32> = match part {
            Part::Enqueue(_, _, entries) => entries.iter().map(|e| e.index).collect(),
            Part::Settle(_, entries) => entries.iter().map(|e| e.index).collect(),
            Part::Change(_, _, entries) => entries.iter().map(|e| e.index).collect(),
            Part::Restore(_, _, entries) => entries.iter().map(|e| e.index).collect(),
            Part::List(..) | Part::Explain(..) | Part::Drain(..) => vec![0],
            Part::Take(..) => Vec::new(),
        };
        let results = indexes
            .into_iter()
            .map(|index| (index, ItemResult::refused(error.clone())))
            .collect();
        let id = self.logs[log].id;
        self.deliver(now, id, ticket, results);
    }

    /// Notes what a decision's outcome waits for.
    pub(super) fn rest<T>(
        &self,
        decided: &mut Decided,
        durable: bool,
        log: usize,
        slot: usize,
        decision: queue::Decision<T>,
    ) -> T {
        if durable && decision.rests_on.is_some() {
            decided.batch = decided.batch.max(self.logs[log].shards[slot].last_batch);
        }
        decision.outcome
    }

    pub(super) fn is_durable(&self, namespace: NamespaceId) -> bool {
        self.layout.namespace(namespace).durability != Durability::Memory
    }

    fn decide_enqueue(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        (items, entries): (&EnqueueItems, &[EnqueueEntry]),
    ) -> Decided {
        let durable = self.is_durable(namespace);
        let mut decided = Decided::with_capacity(entries.len());
        let mut attributes = Vec::new();
        for entry in entries {
            let slot = self.locate(log, entry.shard);
            let request = items.get(entry.index as usize);
            let payload = request.payload.expect("checked before it was routed");
            attributes.clear();
            attributes.extend(payload.attributes);
            let item = queue::NewItem {
                payload: queue::PayloadRef {
                    resource_type: payload.resource_type,
                    resource_id: payload.resource_id,
                    partition_key: payload.partition_key,
                    encoding: payload.payload_encoding,
                    body: payload.body,
                    attributes: queue::Attributes::Pairs(&attributes),
                    request_id: payload.request_id,
                },
                delay: Duration::from_millis(request.delay_ms.unwrap_or(0)),
                priority: u8::try_from(request.priority.unwrap_or(0)).unwrap_or(u8::MAX),
                max_attempts: request
                    .max_attempts
                    .map(|n| u16::try_from(n).unwrap_or(u16::MAX)),
                ttl: request.ttl_ms.map(Duration::from_millis),
                enqueued_by: "",
            };
            let decision = self.logs[log]
                .with_shard_of_many(slot, |shard, out| shard.handle_enqueue(now, &item, out));
            let result = match self.rest(&mut decided, durable, log, slot, decision) {
                Ok(done) => ItemResult::Enqueued {
                    sequence_id: done.sequence_id,
                    duplicate: done.duplicate,
                    shard: entry.shard,
                    lsn: done.lsn,
                },
                Err(EnqueueRefused::CapacityReached) => ItemResult::refused(errors::backpressure(
                    "the shard's share of `capacity` is used up",
                )),
                Err(EnqueueRefused::DedupeFull) => ItemResult::refused(errors::dedupe_full()),
            };
            decided.push(entry.index, result);
        }
        self.logs[log].note_changed();
        decided
    }

    fn decide_settle(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        entries: &[SettleEntry],
    ) -> Decided {
        let durable = self.is_durable(namespace);
        let mut decided = Decided::with_capacity(entries.len());
        for entry in entries {
            let slot = self.locate(log, entry.shard);
            let (shard, token) = (entry.shard, &entry.token);
            let owned = &mut self.logs[log];
            let result = match &entry.action {
                Action::Complete => {
                    let decision =
                        owned.with_shard_of_many(slot, |s, out| s.handle_complete(now, token, out));
                    self.rest(&mut decided, durable, log, slot, decision)
                        .map(|lsn| ItemResult::Settled { shard, lsn })
                }
                Action::Fail(failure) => {
                    let metadata: Vec<(&str, &str)> = failure
                        .metadata
                        .iter()
                        .map(|(k, v)| (k.as_str(), v.as_str()))
                        .collect();
                    let failure = queue::Failure {
                        reason: failure.reason.as_deref(),
                        code: failure.code.as_deref(),
                        requeue: failure.requeue,
                        delay: failure.delay,
                        metadata: queue::Attributes::Pairs(&metadata),
                    };
                    let decision = owned.with_shard_of_many(slot, |s, out| {
                        s.handle_fail(now, token, &failure, out)
                    });
                    self.rest(&mut decided, durable, log, slot, decision)
                        .map(|lsn| ItemResult::Settled { shard, lsn })
                }
                // Heartbeats never end: they must not use up what settling needs.
                Action::Heartbeat { .. } if !owned.can_grant() => {
                    decided.push(entry.index, ItemResult::refused(errors::storage_full()));
                    continue;
                }
                Action::Heartbeat { extend } => {
                    let decision = owned
                        .with_shard(slot, |s, out| s.handle_heartbeat(now, token, *extend, out));
                    self.rest(&mut decided, durable, log, slot, decision)
                        .map(|done| ItemResult::Extended {
                            shard,
                            expires_at: done.expires_at,
                            lease: done.lease,
                        })
                }
            };
            decided.push(
                entry.index,
                result.unwrap_or_else(|why| ItemResult::refused(token_error(why))),
            );
        }
        self.logs[log].note_changed();
        decided
    }

    fn decide_take(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        take: &Take,
    ) -> Decided {
        let durable = self.is_durable(namespace);
        let waiting = self.log_stats(namespace, log).pending.min(take.max.into());
        let mut decided = Decided::with_capacity(usize::try_from(waiting).unwrap_or(0));
        let key = take.key.as_deref();
        let mut heads = std::mem::take(&mut self.heads);
        heads.extend(self.log_heads(now, namespace, log, key));
        let mut bytes = 0;
        for index in 0..take.max {
            if bytes > TAKE_BYTES_MAX {
                break;
            }
            let Some(best) = best_head(&heads).filter(|_| self.logs[log].can_grant()) else {
                break;
            };
            let (slot, _) = heads[best];
            let granted = self.logs[log].with_shard(slot, |s, out| {
                let wish = LeaseWish {
                    owner: &take.owner,
                    lease: take.lease,
                    partition_key: key,
                };
                let granted = s.handle_lease(now, &wish, out);
                (granted, s.head(now, key))
            });
            let (Some(decision), next) = granted else {
                break;
            };
            match next {
                Some(head) => heads[best].1 = head,
                None => drop(heads.swap_remove(best)),
            }
            let grant = self.rest(&mut decided, durable, log, slot, decision);
            bytes += grant.item_len as usize;
            let granted = Granted {
                log: self.logs[log].id,
                grant,
                owner: Arc::clone(&take.owner),
                record: Bytes::new(),
                last_error: None,
            };
            decided
                .results
                .push((index, HeldResult::Granted(Box::new(granted))));
        }
        heads.clear();
        self.heads = heads;
        decided
    }

    /// Lets results go whose batch is on disk: grants get their payloads first.
    pub(super) fn release_held(
        &mut self,
        now: Nanos,
        log: usize,
        ticket: Ticket,
        results: Vec<(u32, HeldResult)>,
    ) {
        if !results
            .iter()
            .all(|(_, result)| matches!(result, HeldResult::Ready(_)))
        {
            return self.gather(now, log, ticket, results, Then::Deliver);
        }
        let results = results
            .into_iter()
            .map(|(index, result)| match result {
                HeldResult::Ready(result) => (index, result),
                _ => unreachable!("all are ready"),
            })
            .collect();
        let id = self.logs[log].id;
        self.deliver(now, id, ticket, results);
    }

    /// Gives committed results to the call they belong to.
    pub(super) fn deliver(
        &mut self,
        now: Nanos,
        log: LogId,
        ticket: Ticket,
        results: Vec<(u32, ItemResult)>,
    ) {
        if ticket.core == self.id {
            self.join(now, ticket.call, log, results);
        } else {
            let done = DoneMessage {
                call: ticket.call,
                log,
                results,
            };
            self.messages.push_back((ticket.core, Message::Done(done)));
        }
    }

    /// Fails a grant whose payload cannot be read: it is tried again after a while, and becomes a
    /// dead letter if that goes on, so that it does not stand in front of sound items for ever.
    pub(super) fn fail_unreadable(&mut self, now: Nanos, grant: &GrantRef, why: &str) {
        let log = self
            .local_log(grant.log)
            .expect("a grant is failed on the core of its log");
        if !self.logs[log].can_write_small() {
            return;
        }
        let failure = queue::Failure {
            reason: Some(why),
            code: Some("omnirelay.unreadable"),
            requeue: true,
            delay: None,
            metadata: queue::Attributes::NONE,
        };
        let slot = self.locate(log, grant.token.lease_id.shard());
        // Nobody is told: if a crash undoes it the lease is left to expire.
        let _failed = self.logs[log].with_shard(slot, |s, out| {
            s.handle_fail(now, &grant.token, &failure, out)
        });
        let namespace = self.logs[log].shards[slot].namespace;
        self.note_change(namespace, log);
    }

    /// Undoes a grant on one of this core's logs.
    pub(super) fn release_grant(&mut self, now: Nanos, grant: &GrantRef) {
        let log = self
            .local_log(grant.log)
            .expect("grants go back to the core of their log");
        let shard: ShardId = grant.token.lease_id.shard();
        // Without room for the record the lease is left to expire.
        if !self.logs[log].can_write_small() {
            return;
        }
        let slot = self.locate(log, shard);
        // Nobody is told: a release that a crash undoes leaves a lease to expire.
        let _released = self.logs[log].with_shard(slot, |s, out| {
            s.handle_release(now, &grant.token, Some(grant.expires_at), out)
        });
        let namespace = self.logs[log].shards[slot].namespace;
        self.note_change(namespace, log);
    }
}

/// What an item's record may take.
pub(super) fn record_bytes<'a>(
    payload: &PayloadView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> u32 {
    let attributes = payload.attributes.clone().count();
    let bytes = RECORD_SLACK_BYTES + payload_bytes(payload) + 8 * attributes;
    // What is larger has been refused.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// An item's record as it is restored: its payload, its last error, and what is known beside.
fn restored_bytes(item: &PendingItem) -> usize {
    2 * RECORD_SLACK_BYTES + pending_item_bytes(item) + 8 * (attributes(item) + 8)
}

fn attributes(item: &PendingItem) -> usize {
    let payload = item.payload.as_ref().map_or(0, |p| p.attributes.len());
    payload + item.last_error.as_ref().map_or(0, |e| e.metadata.len())
}

fn settle_bytes(entry: &SettleEntry) -> usize {
    match &entry.action {
        Action::Complete | Action::Heartbeat { .. } => SMALL_BYTES,
        Action::Fail(failure) => {
            let metadata: usize = failure
                .metadata
                .iter()
                .map(|(k, v)| k.len() + v.len() + 8)
                .sum();
            RECORD_SLACK_BYTES
                + failure.reason.as_deref().map_or(0, str::len)
                + failure.code.as_deref().map_or(0, str::len)
                + metadata
        }
    }
}

fn token_error(why: TokenRefused) -> omnirelay_net::rpc::Error {
    match why {
        TokenRefused::Unknown => errors::unknown_token(),
        TokenRefused::NotMine => errors::not_owner(),
        TokenRefused::Fenced { reason } => errors::fenced(reason.map(|reason| match reason {
            FenceReason::Completed => "completed",
            FenceReason::Failed => "failed",
            FenceReason::Expired => "expired",
            FenceReason::Superseded => "superseded",
        })),
    }
}
