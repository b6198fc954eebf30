//! Taking items out, shard by shard: their bytes are read first, then they leave in one record
//! each, which carries them.
//!
//! With a request id every shard remembers what it gave, so that the same request gets the same
//! items again, in the same order. Without one, what was taken out for a caller that is gone by
//! then is put back.

use omnirelay_net::messages::{DrainResponse, PendingItem};
use omnirelay_net::rpc::{BATCH_BYTES_MAX, DRAIN_ITEMS_DEFAULT, Error, Reply, pending_item_bytes};
use omnirelay_queue::{
    Candidate, DrainCursor, DrainRefused, Drained, ItemSnapshot, Nanos, Origin, Place, RequestKey,
    ShardId,
};
use omnirelay_wal::Disk;

use super::calls::{CallId, Walk};
use super::core::Core;
use super::errors;
use super::execute::Decided;
use super::layout::{LogId, NamespaceId};
use super::owned_log::HeldResult;
use super::part::{ItemResult, Part, Ticket};
use super::reads::{RecordBytes, Then};
use super::records;

/// Items whose bytes are read at once.
const STEP_ITEMS_MAX: usize = 64;
/// Looks at a shard that found nothing, before it is left alone.
const EMPTY_LOOKS_MAX: u32 = 256;

/// How far a drain has come.
#[derive(Debug)]
pub(super) struct DrainWalk {
    /// Only this of the namespace's shards.
    only: Option<u32>,
    /// Which of them comes next.
    index: u32,
    max: usize,
    request: Option<RequestKey>,
    items: Vec<PendingItem>,
    bytes: usize,
    more: bool,
}

/// A shard's part of a drain.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainWish {
    shard: ShardId,
    max: usize,
    bytes_max: usize,
    request: Option<RequestKey>,
}

/// A shard's part under way.
pub(super) struct Draining {
    namespace: NamespaceId,
    log: usize,
    wish: DrainWish,
    cursor: DrainCursor,
    decided: Decided,
    /// Items that the request has been given, now and before.
    given: usize,
    bytes: usize,
    empty_looks: u32,
    /// The walk found nothing beyond this.
    is_over: bool,
    /// Why no further item can be taken out.
    refused: Option<Error>,
}

impl DrainWalk {
    /// What was taken out, with what has come last, and would be lost with the caller.
    pub(super) fn unremembered(
        mut self,
        results: impl IntoIterator<Item = ItemResult>,
    ) -> Vec<PendingItem> {
        if self.request.is_some() {
            return Vec::new();
        }
        for result in results {
            if let ItemResult::Drained(item) = result {
                self.items.push(*item);
            }
        }
        self.items
    }
}

impl Draining {
    /// Gives the shard up when too many looks at it have found nothing.
    fn found_nothing(&mut self, looks: u32) {
        self.empty_looks += looks;
        if self.empty_looks > EMPTY_LOOKS_MAX {
            self.is_over = true;
        }
    }
}

impl<D: Disk> Core<D> {
    pub(super) fn drain(
        &mut self,
        now: Nanos,
        id: CallId,
        max: Option<u32>,
        shard: Option<u32>,
        request_id: Option<&str>,
    ) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let namespace = self.layout.namespace(namespace);
        let only = match shard.map(|shard| shard.checked_sub(namespace.first_shard.0)) {
            None => None,
            Some(Some(index)) if index < namespace.shards => Some(index),
            Some(_) => {
                let first = namespace.first_shard.0;
                let last = first + namespace.shards - 1;
                let what =
                    format!("shard is not one of the namespace's, which are {first} to {last}");
                return self.answer(id, Err(Error::body_malformed(what)));
            }
        };
        let walk = DrainWalk {
            only,
            index: only.unwrap_or(0),
            max: max.unwrap_or(DRAIN_ITEMS_DEFAULT) as usize,
            request: request_id.map(|id| namespace.secret.drain_key(id)),
            items: Vec::new(),
            bytes: 0,
            more: false,
        };
        self.drain_on(now, id, walk);
    }

    /// Takes in a shard's part.
    pub(super) fn handle_drained(
        &mut self,
        now: Nanos,
        id: CallId,
        mut walk: DrainWalk,
        results: Vec<ItemResult>,
    ) {
        let mut refused = None;
        for result in results {
            match result {
                ItemResult::Drained(item) => {
                    walk.bytes += pending_item_bytes(&item);
                    walk.items.push(*item);
                }
                ItemResult::DrainedTo { more } => walk.more |= more,
                ItemResult::Refused(error) => refused = Some(error),
                _ => unreachable!("a shard's part of a drain has items"),
            }
        }
        match refused {
            // What a request has been given is remembered: the next try has it.
            Some(error) if walk.request.is_some() || walk.items.is_empty() => {
                let namespace = self.calls.get_mut(id).expect("it walks").namespace;
                self.answer(id, Err(*error));
                self.put_back(now, namespace, walk.unremembered([]));
            }
            Some(_) => {
                walk.more = true;
                self.answer_drain(id, walk);
            }
            None => {
                walk.index += 1;
                self.walk_later(id, Walk::Drain(walk));
            }
        }
    }

    pub(super) fn drain_on(&mut self, now: Nanos, id: CallId, walk: DrainWalk) {
        let call = self.calls.get_mut(id).expect("only open calls walk");
        let id_of_namespace = call.namespace;
        let namespace = self.layout.namespace(id_of_namespace);
        let is_over = match walk.only {
            Some(only) => walk.index > only,
            None => walk.index >= namespace.shards,
        };
        let is_full = walk.items.len() >= walk.max || walk.bytes >= BATCH_BYTES_MAX;
        if is_over || is_full {
            return self.answer_drain(id, walk);
        }
        let shard = ShardId(namespace.first_shard.0 + walk.index);
        let wish = DrainWish {
            shard,
            max: walk.max - walk.items.len(),
            bytes_max: BATCH_BYTES_MAX - walk.bytes,
            request: walk.request,
        };
        let call = self.calls.get_mut(id).expect("just seen");
        call.walk = Some(Box::new(Walk::Drain(walk)));
        call.outstanding = 1;
        let ticket = Ticket {
            core: self.id,
            call: id,
        };
        let log = self.layout.log_of(shard);
        self.dispatch(now, ticket, log, Part::Drain(id_of_namespace, wish));
    }

    fn answer_drain(&mut self, id: CallId, walk: DrainWalk) {
        let namespace = self.calls.get_mut(id).expect("it walks").namespace;
        let is_cut = walk.only.is_none() && walk.index < self.layout.namespace(namespace).shards;
        let stats = self.namespace_stats(namespace);
        let left = stats.pending + stats.delayed + stats.dead > 0;
        let response = DrainResponse {
            items: walk.items,
            more: walk.more || (is_cut && left),
        };
        self.answer(id, Ok(Reply::Drain(response)));
    }

    /// Begins a shard's part: what the request was given before, then what there is.
    pub(super) fn begin_draining(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        (namespace, log): (NamespaceId, usize),
        wish: DrainWish,
    ) {
        let slot = self.locate(log, wish.shard);
        let shard = &self.logs[log].shards[slot].shard;
        let draining = Draining {
            namespace,
            log,
            wish,
            cursor: DrainCursor::default(),
            decided: Decided::with_capacity(0),
            given: 0,
            bytes: 0,
            empty_looks: 0,
            is_over: false,
            refused: None,
        };
        let given = wish.request.and_then(|request| shard.drained(request, now));
        if given.is_some_and(|given| given.complete) {
            self.finish_draining(now, ticket, draining);
        } else {
            self.look_for_candidates(now, ticket, draining);
        }
    }

    /// Counts what the request has been given: before, and by another call with the same id that
    /// is under way, too.
    fn count_given(&self, now: Nanos, draining: &mut Draining) {
        let slot = self.locate(draining.log, draining.wish.shard);
        let shard = &self.logs[draining.log].shards[slot].shard;
        let request = draining.wish.request;
        if let Some(given) = request.and_then(|request| shard.drained(request, now)) {
            draining.given = given.items.len();
            draining.bytes = given.items.iter().map(|&(_, len)| len as usize).sum();
        }
    }

    /// Finds the next items of a part and has their bytes read.
    fn look_for_candidates(&mut self, now: Nanos, ticket: Ticket, mut draining: Draining) {
        let (log, wish) = (draining.log, draining.wish);
        let slot = self.locate(log, wish.shard);
        loop {
            self.count_given(now, &mut draining);
            let left = wish.max.saturating_sub(draining.given);
            let is_full = left == 0 || draining.bytes >= wish.bytes_max;
            if is_full || draining.is_over || draining.refused.is_some() {
                return self.complete_draining(now, ticket, draining);
            }
            let shard = &self.logs[log].shards[slot].shard;
            let found = shard.drain_candidates(draining.cursor, left.min(STEP_ITEMS_MAX));
            match found.next {
                Some(next) => draining.cursor = next,
                None => draining.is_over = true,
            }
            let mut bytes = draining.bytes;
            let fitting: Vec<(u32, HeldResult)> = found
                .found
                .into_iter()
                .take_while(|candidate| {
                    let is_first = bytes == 0;
                    bytes += candidate.body_len as usize
                        + candidate.error.map_or(0, |(_, len)| len as usize);
                    is_first || bytes <= wish.bytes_max
                })
                .map(|candidate| (0, HeldResult::Candidate(Box::new(candidate))))
                .collect();
            if !fitting.is_empty() {
                let then = Then::Drain(Box::new(draining));
                return self.gather(now, log, ticket, fitting, then);
            }
            draining.found_nothing(1);
        }
    }

    /// Takes the items out whose bytes are there now, and goes on.
    pub(super) fn go_on_draining(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        mut draining: Draining,
        candidates: Vec<(u32, HeldResult)>,
        bytes: Vec<RecordBytes>,
    ) {
        self.count_given(now, &mut draining);
        let before = draining.given;
        for ((_, held), bytes) in candidates.into_iter().zip(bytes) {
            let HeldResult::Candidate(candidate) = held else {
                unreachable!("only candidates are drained");
            };
            let wish = draining.wish;
            let is_full = draining.given >= wish.max || draining.bytes >= wish.bytes_max;
            if is_full || draining.refused.is_some() {
                break;
            }
            self.take_out(now, &mut draining, &candidate, &bytes);
        }
        let namespace = draining.namespace;
        if draining.given == before {
            // They cannot be read, or went elsewhere: looking again would find the same.
            draining.found_nothing(EMPTY_LOOKS_MAX / 4);
        }
        self.note_change(namespace, draining.log);
        self.look_for_candidates(now, ticket, draining);
    }

    fn take_out(
        &mut self,
        now: Nanos,
        draining: &mut Draining,
        candidate: &Candidate,
        bytes: &RecordBytes,
    ) {
        // What cannot be read stays: it becomes a dead letter when it is leased.
        let (Ok(body), Ok(payload), Ok(error_info)) =
            (bytes.item(), bytes.payload(), bytes.error_info())
        else {
            return;
        };
        let error = bytes.last_error.as_deref().unwrap_or_default();
        let (log, wish) = (draining.log, draining.wish);
        let size = body.len() + error.len();
        if let Some(why) = &self.logs[log].failed {
            draining.refused = Some(errors::durability_lost(why));
            return;
        }
        if !self.logs[log].can_take_out(size) {
            draining.refused = Some(self.no_room_to_drain(log));
            return;
        }
        let slot = self.locate(log, wish.shard);
        let drained = self.logs[log].with_shard(slot, |shard, out| {
            shard.handle_drain(now, candidate, body, error, wish.request, out)
        });
        match drained {
            Ok(decision) => {
                let durable = self.is_durable(draining.namespace);
                let drained = self.rest(&mut draining.decided, durable, log, slot, decision);
                let origin = self.layout.namespace(draining.namespace).origin;
                let mut item = pending_item(&drained, origin);
                item.payload = Some(payload);
                item.last_error = error_info;
                draining.bytes += size;
                draining.given += 1;
                if wish.request.is_none() {
                    let item = ItemResult::Drained(Box::new(item));
                    draining.decided.push_held(HeldResult::Ready(item));
                }
            }
            Err(DrainRefused::Changed | DrainRefused::Unreadable(_)) => {}
            Err(DrainRefused::Complete) => draining.is_over = true,
            Err(DrainRefused::Full) => {
                let why = "the shard remembers as many drained items as it may";
                draining.refused = Some(errors::backpressure(why));
            }
        }
    }

    /// The part has all that it will have: from now on the request gets just that.
    fn complete_draining(&mut self, now: Nanos, ticket: Ticket, mut draining: Draining) {
        let (log, wish) = (draining.log, draining.wish);
        if let (Some(request), None) = (wish.request, &draining.refused) {
            if self.logs[log].can_take_out(0) {
                let slot = self.locate(log, wish.shard);
                let noted = self.logs[log].with_shard(slot, |shard, out| {
                    shard.handle_drain_complete(now, request, out)
                });
                match noted {
                    Ok(decision) => {
                        let durable = self.is_durable(draining.namespace);
                        self.rest(&mut draining.decided, durable, log, slot, decision);
                    }
                    Err(DrainRefused::Complete) => {}
                    Err(_) => {
                        let why = "the shard remembers as many drained items as it may";
                        draining.refused = Some(errors::backpressure(why));
                    }
                }
            } else {
                draining.refused = Some(self.no_room_to_drain(log));
            }
        }
        self.finish_draining(now, ticket, draining);
    }

    fn no_room_to_drain(&self, log: usize) -> Error {
        let owned = &self.logs[log];
        match &owned.failed {
            Some(why) => errors::durability_lost(why),
            None if owned.disk_full => errors::storage_full(),
            None => errors::backpressure("the log takes nothing more right now"),
        }
    }

    fn finish_draining(&mut self, now: Nanos, ticket: Ticket, mut draining: Draining) {
        let slot = self.locate(draining.log, draining.wish.shard);
        let owned = &self.logs[draining.log].shards[slot];
        let stats = owned.shard.stats();
        let more = stats.pending + stats.delayed + stats.dead > 0;
        let end = match draining.refused.take() {
            Some(error) => ItemResult::refused(error),
            None => ItemResult::DrainedTo { more },
        };
        // A request gets what the shard remembers, all of it: another call with the same id may
        // have had its share in that.
        let wish = draining.wish;
        let given = wish.request.and_then(|id| owned.shard.drained(id, now));
        if let Some(given) = given.filter(|given| given.complete) {
            if self.is_durable(draining.namespace) {
                draining.decided.batch = owned.last_batch;
            }
            for &(place, len) in given.items {
                draining.decided.push_held(HeldResult::Bundled {
                    shard: wish.shard,
                    place,
                    len,
                });
            }
        }
        draining.decided.push_held(HeldResult::Ready(end));
        self.hold(now, ticket, draining.log, draining.decided);
    }

    /// An item of a bundle that was given before, from its record.
    pub(super) fn bundled(
        &self,
        (shard, place, len): (ShardId, Place, u32),
        bytes: &RecordBytes,
    ) -> ItemResult {
        match self.read_bundled((shard, place, len), bytes) {
            Ok(item) => ItemResult::Drained(Box::new(item)),
            Err(why) => ItemResult::refused(errors::unreadable(&why)),
        }
    }

    fn read_bundled(
        &self,
        (shard, place, len): (ShardId, Place, u32),
        bytes: &RecordBytes,
    ) -> Result<PendingItem, String> {
        let record = bytes.item()?;
        let snapshot = ItemSnapshot::decode_verified(record).map_err(|e| e.to_string())?;
        let log: LogId = self.layout.log_of(shard);
        let log = self
            .local_log(log)
            .expect("a bundle is read on its own core");
        let slot = self.locate(log, shard);
        let drained = self.logs[log].shards[slot]
            .shard
            .drained_item(&snapshot, place, len);
        let namespace = self.logs[log].shards[slot].namespace;
        let mut item = pending_item(&drained, self.layout.namespace(namespace).origin);
        item.payload = Some(records::payload(&record.slice_ref(snapshot.body))?);
        item.last_error = match snapshot.error {
            [] => None,
            error => records::error_info(error)?,
        };
        Ok(item)
    }
}

/// What a caller gets, without payload and last error.
fn pending_item(drained: &Drained, origin: Origin) -> PendingItem {
    PendingItem {
        payload: None,
        attempt: u32::from(drained.attempt),
        enqueued_at: Some(records::timestamp(drained.enqueued_at)),
        last_error: None,
        sequence_id: drained.sequence_id.0,
        last_ownership_token: drained.last_token.as_ref().map(records::token),
        dead_letter: drained.dead,
        origin: omnirelay_net::rpc::origin_text(origin),
        priority: Some(u32::from(drained.priority)),
        max_attempts: Some(u32::from(drained.max_attempts)),
        ready_at: Some(records::timestamp(drained.ready_at)),
        expires_at: drained.ttl_end.map(records::timestamp),
        state: None,
        since: None,
    }
}
