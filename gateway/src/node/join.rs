//! Accepting calls: splitting them into parts by log, and joining the parts' results into the
//! reply.

use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::messages::read::EnqueueItems;
use omnirelay_net::messages::view::{SettleView, TokenView};
use omnirelay_net::messages::{OwnershipToken, Stats, StatsResponse};
use omnirelay_net::rpc::{self, Call, Error, Reply, Request, SettleAction};
use omnirelay_queue::{LeaseId, Listing, Nanos, SequenceId, ShardId, Token};
use omnirelay_wal::Disk;

use super::answer::{Answer, Results};
use super::backpressure::Incoming;
use super::calls::{CallId, LeaseWish, Outcome, PendingCall, Seek, Walk};
use super::changes::Change;
use super::core::{CallContext, Core};
use super::errors;
use super::execute::record_bytes;
use super::layout::{LogId, NamespaceId};
use super::part::{Action, EnqueueEntry, Failure, ItemResult, Part, SettleEntry, Take, Ticket};
use super::split::Split;

impl<D: Disk> Core<D> {
    /// Accepts a call. Its outcome comes out of [`Core::poll_outcome`], exactly once, unless it is
    /// cancelled first.
    pub fn handle_call(&mut self, now: Nanos, request: Request, context: &CallContext) -> CallId {
        let id = self.calls.insert(PendingCall {
            procedure: request.procedure(),
            namespace: context.namespace,
            reply_by: context.reply_by,
            results: Vec::new(),
            outstanding: 0,
            lease: None,
            enqueue: None,
            walk: None,
            abandoned: false,
            dispatched_at: None,
        });
        if self.draining {
            self.answer(id, Err(errors::draining()));
            return id;
        }
        if let Err(error) = rpc::validate_request(&request) {
            self.answer(id, Err(error));
            return id;
        }
        match request {
            Request::Enqueue(items) | Request::EnqueueBatch(items) => {
                self.take_in(now, id, context, Incoming::Enqueue(items));
            }
            Request::Settle(items) => {
                let entries = items.iter().map(|item| {
                    let action = settle_action(&item)?;
                    Ok((item.ownership_token, action))
                });
                self.settle(now, id, entries);
            }
            Request::Call(call) => self.handle_other(now, id, call, context),
        }
        id
    }

    /// A call that carries one thing, or seldom comes.
    fn handle_other(&mut self, now: Nanos, id: CallId, call: Call, context: &CallContext) {
        match call {
            Call::Enqueue(_) | Call::EnqueueBatch(_) | Call::Settle(_) => {
                unreachable!("a request of a kind of its own")
            }
            Call::Restore(r) => self.take_in(now, id, context, Incoming::Restore(r.items)),
            Call::Lease(r) => self.lease(
                now,
                id,
                context,
                1,
                r.wait_ms,
                r.lease_ms,
                r.partition_key.as_deref(),
            ),
            Call::LeaseBatch(r) => {
                self.lease(
                    now,
                    id,
                    context,
                    r.max_items,
                    r.wait_ms,
                    r.lease_ms,
                    r.partition_key.as_deref(),
                );
            }
            Call::Heartbeat(r) => {
                let extend = r.extend_ms.map(Duration::from_millis);
                self.settle_one(now, id, &r.ownership_token, Action::Heartbeat { extend });
            }
            Call::Complete(r) => {
                self.settle_one(now, id, &r.ownership_token, Action::Complete);
            }
            Call::Fail(r) => {
                let failure = Failure {
                    reason: r.reason,
                    code: r.error_code,
                    requeue: r.requeue.unwrap_or(true),
                    delay: r.delay_ms.map(Duration::from_millis),
                    metadata: r.metadata.into_iter().collect(),
                };
                let action = Action::Fail(Box::new(failure));
                self.settle_one(now, id, &r.ownership_token, action);
            }
            Call::Stats(_) => {
                let stats = self.wire_stats(context.namespace);
                self.answer(id, Ok(Reply::Stats(StatsResponse { stats: Some(stats) })));
            }
            Call::Peek(r) => {
                self.list(now, id, Listing::Waiting, r.max_items, r.cursor.as_deref());
            }
            Call::DeadLetters(r) => {
                self.list(now, id, Listing::Dead, r.max_items, r.cursor.as_deref());
            }
            Call::Redrive(r) => self.change(now, id, Change::Redrive, &r.sequence_ids),
            Call::Cancel(r) => self.change(now, id, Change::Cancel, &r.sequence_ids),
            Call::Explain(r) => self.explain(now, id, r.sequence_id),
            Call::Drain(r) => {
                self.drain(now, id, r.max_items, r.shard, r.request_id.as_deref());
            }
        }
    }

    /// Checks, routes and sends on what an enqueue brings. What is beyond the `room` that its
    /// namespace has is refused.
    pub(super) fn enqueue(
        &mut self,
        now: Nanos,
        id: CallId,
        context: &CallContext,
        items: EnqueueItems,
        room: u64,
    ) {
        let namespace = context.namespace;
        let items = Arc::new(items);
        let mut left = room;
        let mut split = Split::new(items.len(), self.layout.logs());
        for (index, at) in (0u32..).zip(0..items.len()) {
            let item = items.get(at);
            if let Err(error) = rpc::validate_enqueue(&item) {
                split.refuse(index, error);
                continue;
            }
            let Some(after) = left.checked_sub(1) else {
                split.refuse(index, errors::at_capacity());
                continue;
            };
            left = after;
            let payload = item.payload.as_ref().expect("validated");
            let resource = (payload.resource_type, payload.resource_id);
            let key = context.shard_key.as_deref();
            let shard = self.layout.shard_for(context.namespace, key, resource);
            let log = self.layout.log_of(shard);
            let entry = EnqueueEntry {
                index,
                shard,
                record_bytes: record_bytes(payload),
            };
            split.put(log, entry);
        }
        let parts = split.parts.into_iter().map(|(log, entries)| {
            let part = Part::Enqueue(namespace, Arc::clone(&items), entries);
            (log, part)
        });
        self.start(now, id, split.results, parts);
    }

    fn settle_one(
        &mut self,
        now: Nanos,
        id: CallId,
        token: &Option<OwnershipToken>,
        action: Action,
    ) {
        let token = token.as_ref().map(OwnershipToken::view);
        self.settle(now, id, std::iter::once(Ok((token, action))));
    }

    fn settle<'a>(
        &mut self,
        now: Nanos,
        id: CallId,
        entries: impl Iterator<Item = Result<(Option<TokenView<'a>>, Action), Error>>,
    ) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let mut split = Split::new(entries.size_hint().0, self.layout.logs());
        for (index, entry) in (0u32..).zip(entries) {
            let parsed =
                entry.and_then(|(token, action)| Ok((action, self.parse_token(namespace, token)?)));
            let (action, (shard, token)) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    split.refuse(index, error);
                    continue;
                }
            };
            let log = self.layout.log_of(shard);
            let entry = SettleEntry {
                index,
                shard,
                token,
                action,
            };
            split.put(log, entry);
        }
        let parts = split.parts.into_iter();
        let parts = parts.map(|(log, entries)| (log, Part::Settle(namespace, entries)));
        self.start(now, id, split.results, parts);
    }

    /// Reads a token and finds its shard. Whether the token is genuine is the shard's to say.
    fn parse_token(
        &self,
        namespace: NamespaceId,
        token: Option<TokenView<'_>>,
    ) -> Result<(ShardId, Token), Error> {
        let token = token.ok_or_else(|| Error::body_malformed("ownershipToken is missing"))?;
        let lease_id: LeaseId = token
            .lease_id
            .parse()
            .map_err(|_| errors::unknown_token())?;
        let shard = lease_id.shard();
        if self.layout.namespace_of(shard) != Some(namespace) {
            return Err(errors::unknown_token());
        }
        Ok((
            shard,
            Token {
                sequence_id: SequenceId(token.sequence_id),
                attempt: token.attempt,
                lease_id,
            },
        ))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of two request messages that differ in one"
    )]
    fn lease(
        &mut self,
        now: Nanos,
        id: CallId,
        context: &CallContext,
        max: u32,
        wait_ms: Option<u64>,
        lease_ms: Option<u64>,
        partition_key: Option<&str>,
    ) {
        let lease = lease_ms.map(Duration::from_millis);
        let wait_until = match wait_ms {
            Some(ms) => {
                Nanos(now.0.saturating_add(ms.saturating_mul(1_000_000))).min(context.reply_by)
            }
            None => context.reply_by,
        };
        let take = Take {
            max,
            owner: context.owner.as_str().into(),
            lease,
            key: partition_key.map(str::to_owned),
        };
        let call = self.calls.get_mut(id).expect("just made");
        call.lease = Some(LeaseWish {
            take,
            seek: Seek::Parked,
            tried: Vec::new(),
            wait_until,
            turn: 0,
            look_after: Nanos(0),
            wake_at: wait_until,
        });
        self.seek(now, id);
    }

    pub(super) fn start(
        &mut self,
        now: Nanos,
        id: CallId,
        results: Vec<Option<ItemResult>>,
        parts: impl ExactSizeIterator<Item = (LogId, Part)>,
    ) {
        let call = self.calls.get_mut(id).expect("just made");
        call.results = results;
        call.outstanding = u32::try_from(parts.len()).expect("a call has few parts");
        if parts.len() == 0 {
            return self.finish(id);
        }
        for (log, part) in parts {
            let ticket = Ticket {
                core: self.id,
                call: id,
            };
            self.dispatch(now, ticket, log, part);
        }
    }

    /// Takes in a part's results.
    pub(super) fn join(
        &mut self,
        now: Nanos,
        id: CallId,
        log: LogId,
        results: Vec<(u32, ItemResult)>,
    ) {
        let Some(call) = self.calls.get_mut(id) else {
            return self.undo(now, results);
        };
        call.outstanding -= 1;
        if call.abandoned {
            let (namespace, walk) = (call.namespace, call.walk.take());
            if call.outstanding == 0 {
                self.calls.remove(id);
            }
            self.undo_walk(now, namespace, walk, results);
            return;
        }
        if let Some(walk) = call.walk.take() {
            let results = results.into_iter().map(|(_, result)| result).collect();
            return match *walk {
                Walk::List(walk) => self.handle_listed(id, walk, results),
                Walk::Drain(walk) => self.handle_drained(now, id, walk, results),
            };
        }
        if call.lease.is_some() && results.is_empty() {
            return self.handle_taken(now, id, log, true);
        }
        let (is_lease, is_done) = (call.lease.is_some(), call.outstanding == 0);
        // Nearly always one log has answered all of the call, in its order.
        let is_whole = |results: &[(u32, _)]| results.iter().zip(0..).all(|(one, at)| one.0 == at);
        if is_done && call.results.is_empty() && is_whole(&results) {
            let results = results.into_iter().map(|(_, result)| result).collect();
            if is_lease {
                self.handle_taken(now, id, log, false);
            }
            return self.finish_with(id, results);
        }
        for (index, result) in results {
            let index = index as usize;
            if index >= call.results.len() {
                call.results.resize_with(index + 1, || None);
            }
            call.results[index] = Some(result);
        }
        if is_done {
            if is_lease {
                self.handle_taken(now, id, log, false);
            }
            self.finish(id);
        }
    }

    /// Undoes what came for a caller that is gone: what was taken out and would be lost goes back.
    pub(super) fn undo_walk(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        walk: Option<Box<Walk>>,
        results: Vec<(u32, ItemResult)>,
    ) {
        let Some(Walk::Drain(walk)) = walk.map(|walk| *walk) else {
            return self.undo(now, results);
        };
        let items = walk.unremembered(results.into_iter().map(|(_, result)| result));
        self.put_back(now, namespace, items);
    }

    fn undo(&mut self, now: Nanos, results: Vec<(u32, ItemResult)>) {
        let grants = results
            .into_iter()
            .filter_map(|(_, result)| match result {
                ItemResult::Leased(granted) => Some(granted.reference()),
                _ => None,
            })
            .collect();
        self.handle_undelivered(now, grants);
    }

    /// All parts are there.
    fn finish(&mut self, id: CallId) {
        let call = self.calls.get_mut(id).expect("only open calls finish");
        let results = std::mem::take(&mut call.results);
        let answered = |result: Option<ItemResult>| result.expect("every entry was answered");
        self.finish_with(id, results.into_iter().map(answered).collect());
    }

    /// Makes the reply of all results.
    fn finish_with(&mut self, id: CallId, results: Vec<ItemResult>) {
        let call = self.calls.get_mut(id).expect("only open calls finish");
        let (procedure, namespace) = (call.procedure, call.namespace);
        let dispatched_at = call.dispatched_at;
        let shard = common_shard(&results);
        let grants = results
            .iter()
            .filter_map(|result| match result {
                ItemResult::Leased(granted) => Some(granted.reference()),
                _ => None,
            })
            .collect();
        let reply = self.reply(procedure, namespace, results);
        self.calls.remove(id);
        self.outcomes.push_back((
            id,
            Outcome {
                reply,
                shard,
                grants,
                dispatched_at,
            },
        ));
    }

    fn reply(
        &self,
        procedure: rpc::Procedure,
        namespace: NamespaceId,
        mut results: Vec<ItemResult>,
    ) -> Result<Answer, Error> {
        use rpc::Procedure;
        if procedure == Procedure::Restore {
            return super::restore::reply(results).map(Answer::from);
        }
        if procedure == Procedure::Explain
            && let Some(ItemResult::Explained(response)) =
                results.pop_if(|result| matches!(result, ItemResult::Explained(_)))
        {
            let reply = self.finish_explain(namespace, *response);
            return Ok(reply.into());
        }
        let has_entries = matches!(
            procedure,
            Procedure::EnqueueBatch | Procedure::Settle | Procedure::Cancel | Procedure::Redrive
        );
        // Among leases a refusal only counts if there is nothing else.
        if !has_entries
            && !results
                .iter()
                .any(|result| matches!(result, ItemResult::Leased(_)))
            && let Some(at) = results
                .iter()
                .rposition(|result| matches!(result, ItemResult::Refused(_)))
            && let ItemResult::Refused(error) = results.swap_remove(at)
        {
            return Err(*error);
        }
        // One look for all entries: what they say of the namespace is the same.
        let stats = matches!(procedure, Procedure::Enqueue | Procedure::EnqueueBatch)
            .then(|| self.wire_stats(namespace));
        Ok(Answer::Results(Results {
            procedure,
            results,
            durability: self.layout.namespace(namespace).durability.as_str(),
            stats,
        }))
    }

    /// Answers a call; what still comes for it is undone.
    pub(super) fn answer(&mut self, id: CallId, reply: Result<Reply, Error>) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        if call.abandoned {
            return;
        }
        self.forget_seeker(id);
        let call = self.calls.get_mut(id).expect("just seen");
        let dispatched_at = call.dispatched_at;
        if call.outstanding == 0 {
            self.calls.remove(id);
        } else {
            call.abandoned = true;
        }
        self.outcomes.push_back((
            id,
            Outcome {
                reply: reply.map(Answer::from),
                shard: None,
                grants: Vec::new(),
                dispatched_at,
            },
        ));
    }

    /// A call's or a wait's time is up.
    pub(super) fn expire_call(&mut self, now: Nanos, id: CallId) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        let parked = call
            .lease
            .as_ref()
            .is_some_and(|wish| wish.seek == Seek::Parked);
        if parked
            && call
                .lease
                .as_ref()
                .is_some_and(|wish| wish.wait_until > now)
        {
            return self.look_again(now, id);
        }
        let error = if parked {
            errors::none_available()
        } else if call.enqueue.is_some() {
            errors::backpressure("it stayed above its `low_watermark` until the call's deadline")
        } else {
            errors::deadline()
        };
        debug_assert!(
            parked || call.reply_by <= now,
            "only waits end before the deadline"
        );
        // Grants of an unfinished call that have come already go back, like those still to come.
        // A walk's are undone when its step comes.
        let come = std::mem::take(&mut call.results);
        let come = (0u32..)
            .zip(come)
            .filter_map(|(i, result)| Some((i, result?)))
            .collect();
        self.answer(id, Err(error));
        self.undo(now, come);
    }

    fn wire_stats(&self, namespace: NamespaceId) -> Stats {
        let stats = self.namespace_stats(namespace);
        Stats {
            pending_count: stats.pending,
            active_lease_count: stats.active,
            delayed_count: stats.delayed,
            dead_letter_count: stats.dead,
        }
    }
}

fn settle_action<'a>(
    item: &SettleView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> Result<Action, Error> {
    let text = |text: Option<&str>| text.map(str::to_owned);
    Ok(match rpc::validate_settle_item(item)? {
        SettleAction::Complete => Action::Complete,
        SettleAction::Heartbeat => Action::Heartbeat {
            extend: item.extend_ms.map(Duration::from_millis),
        },
        SettleAction::Fail => Action::Fail(Box::new(Failure {
            reason: text(item.reason),
            code: text(item.error_code),
            requeue: item.requeue.unwrap_or(true),
            delay: item.delay_ms.map(Duration::from_millis),
            metadata: item
                .metadata
                .clone()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })),
    })
}

/// The shard of all entries, if it is one and the same.
fn common_shard(results: &[ItemResult]) -> Option<ShardId> {
    let mut common = None;
    for result in results {
        let shard = match result {
            ItemResult::Enqueued { shard, .. }
            | ItemResult::Settled { shard, .. }
            | ItemResult::Extended { shard, .. } => *shard,
            ItemResult::Leased(granted) => granted.grant.token.lease_id.shard(),
            ItemResult::Explained(response) => match response.shard {
                Some(shard) => ShardId(shard),
                None => continue,
            },
            ItemResult::Refused(_)
            | ItemResult::Restored { .. }
            | ItemResult::Listed(_)
            | ItemResult::ListedTo(_)
            | ItemResult::Drained(_)
            | ItemResult::DrainedTo { .. } => continue,
        };
        if common.is_some_and(|c| c != shard) {
            return None;
        }
        common = Some(shard);
    }
    common
}
