//! A core's whole state, without IO: calls and messages go in, replies, messages and log batches
//! come out. What reads sockets, clocks and disks is in [`crate::cores`]; the simulator drives the
//! same type with fakes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use omnirelay_queue::{Head, Nanos, Shard, ShardId, Stats};
use omnirelay_wal::{Appender, Batch, Disk, Fill, Reader, Reuse, Spare};

use super::backpressure::Waiting;
use super::board::Board;
use super::calls::{CallId, Calls, Outcome};
use super::layout::{CoreId, Layout, LogId, NamespaceId};
use super::owned_log::{OwnedLog, OwnedShard};
use super::part::{GrantRef, Message};
use super::reads::{Completed, Reads};
use super::totals::Totals;
use super::trim::{LogSize, ScanRequest, Trim};
use super::work::Work;

/// Due timers that one call of [`Core::handle_time`] handles for one shard, so that a burst of
/// expiries does not hold up calls.
pub(super) const TIMERS_PER_TURN: usize = 256;

/// What the core wants done with a log, off its thread.
#[derive(Debug)]
pub enum LogTask {
    /// Write and sync a batch, then [`Core::handle_synced`] or [`Core::handle_log_failed`].
    Write(LogId, Batch),
    /// Allocate a spare segment, then [`Core::handle_spare`]; on failure too, and try again until
    /// it succeeds.
    Allocate(LogId, Fill),
    /// Read a record's body, then [`Core::handle_read`].
    Read(LogId, ReadRequest),
    /// Read a part of a segment, then [`Core::handle_scanned`].
    Scan(LogId, ScanRequest),
    /// Give up a segment, which nobody reads any more, then [`Core::handle_retired`].
    Retire(LogId, u32, Reuse),
}

impl LogTask {
    /// Which log it is for.
    pub fn log(&self) -> LogId {
        match self {
            LogTask::Write(log, _)
            | LogTask::Allocate(log, _)
            | LogTask::Read(log, _)
            | LogTask::Scan(log, _)
            | LogTask::Retire(log, ..) => *log,
        }
    }
}

/// A record's body to be read where it may block.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    /// To be given back with the bytes.
    pub id: u64,
    /// Where the body lies.
    pub at: omnirelay_wal::Position,
    /// How many bytes it has.
    pub len: usize,
}

/// One log's pieces, opened and replayed.
pub struct LogParts<D: Disk> {
    /// Which log it is.
    pub id: LogId,
    /// Places records.
    pub appender: Appender,
    /// Reads them back.
    pub reader: Reader<D>,
    /// Its shards in the order of their ids, with what replay made of them.
    pub shards: Vec<Shard>,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Bytes of log kept beyond what lives in them.
    pub history_bytes: u64,
}

/// Who calls, and until when an answer is of use.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The namespace that the procedure names.
    pub namespace: NamespaceId,
    /// Owner of the leases that this call takes; empty if it takes none.
    pub owner: String,
    /// `Rpc-Shard-Key`: routes an enqueue instead of the resource.
    pub shard_key: Option<String>,
    /// The reply must have left by then.
    pub reply_by: Nanos,
}

/// One core of a node.
pub struct Core<D: Disk> {
    pub(super) id: CoreId,
    pub(super) layout: Arc<Layout>,
    pub(super) board: Arc<Board>,
    /// The logs served here, in order.
    pub(super) logs: Vec<OwnedLog>,
    pub(super) readers: Vec<Reader<D>>,
    pub(super) calls: Calls,
    pub(super) work: Work,
    /// Enqueues that wait for their namespace to have room.
    pub(super) waiting: Waiting,
    pub(super) reads: Reads,
    pub(super) outcomes: VecDeque<(CallId, Outcome)>,
    pub(super) messages: VecDeque<(CoreId, Message)>,
    pub(super) tasks: VecDeque<LogTask>,
    /// (namespace, index into `logs`) whose numbers on the board are out of date.
    pub(super) stale: Vec<(NamespaceId, usize)>,
    /// Room for the heads of a log's shards, empty between takes.
    pub(super) heads: Vec<(usize, Head)>,
    pub(super) draining: bool,
    /// The new epochs have been on disk.
    pub(super) has_opened: bool,
    /// Calls that go on to their next shard in the next turn.
    pub(super) walks: VecDeque<CallId>,
    /// There is something left to do that waits for nothing.
    has_more: bool,
}

impl<D: Disk> Core<D> {
    /// Joins a core's logs. [`Core::handle_open`] must follow before the first call.
    pub fn new(
        id: CoreId,
        layout: Arc<Layout>,
        board: Arc<Board>,
        parts: Vec<LogParts<D>>,
    ) -> Core<D> {
        let namespaces = layout.namespaces().len();
        let mut logs = Vec::with_capacity(parts.len());
        let mut readers = Vec::with_capacity(parts.len());
        for part in parts {
            readers.push(part.reader);
            logs.push(owned_log(
                &layout,
                part.id,
                part.appender,
                part.shards,
                part.segment_bytes,
                part.history_bytes,
            ));
        }
        let stale = (0..logs.len())
            .flat_map(|log| (0..namespaces).map(move |n| (namespace_id(n), log)))
            .collect();
        Core {
            id,
            layout,
            board,
            logs,
            readers,
            calls: Calls::default(),
            work: Work::new(namespaces),
            waiting: Waiting::new(namespaces),
            reads: Reads::default(),
            outcomes: VecDeque::new(),
            messages: VecDeque::new(),
            tasks: VecDeque::new(),
            stale,
            heads: Vec::new(),
            draining: false,
            has_opened: false,
            walks: VecDeque::new(),
            has_more: false,
        }
    }

    /// Raises every shard's epoch. The core may answer once [`Core::is_synced`] is true: a token
    /// of the new epoch must not leave before the epoch is on disk.
    pub fn handle_open(&mut self, now: Nanos) {
        for log in 0..self.logs.len() {
            for slot in 0..self.logs[log].shards.len() {
                let namespace = self.logs[log].shards[slot].namespace;
                let skip = match self.layout.namespace(namespace).skips {
                    true => super::MEMORY_LSN_SKIP,
                    false => 0,
                };
                // Nothing leaves before `is_synced`, so there is nothing to hold back here.
                let _epoch =
                    self.logs[log].with_shard(slot, |shard, out| shard.handle_open(now, skip, out));
            }
        }
        self.finish_turn(now);
    }

    /// True when everything decided so far is on disk.
    pub fn is_synced(&self) -> bool {
        self.logs.iter().all(|log| {
            let is_written = log.appender.unsynced() == 0 && log.appender.open_bytes() == 0;
            log.failed.is_none() && is_written
        })
    }

    /// True when no call is open.
    pub fn is_idle(&self) -> bool {
        self.calls.len() == 0
    }

    /// Open calls, waiting ones included.
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Enqueues that wait for their namespace to have room.
    pub fn held_back(&self) -> usize {
        self.waiting.len()
    }

    /// Why a log takes nothing more, if one does not.
    pub fn failure(&self) -> Option<(LogId, &str)> {
        self.logs
            .iter()
            .find_map(|log| Some((log.id, log.failed.as_deref()?)))
    }

    /// True while some log's disk has no room for new work.
    pub fn is_storage_full(&self) -> bool {
        self.logs.iter().any(|log| log.disk_full)
    }

    /// Takes no new calls and sends waiting workers away; calls in flight end as usual.
    pub fn handle_drain(&mut self, now: Nanos) {
        self.draining = true;
        for id in self.calls.ids() {
            if self.calls.is_parked(id) || self.calls.is_held_back(id) {
                self.answer(id, Err(super::errors::draining()));
            }
        }
        self.finish_turn(now);
    }

    /// A message from another core.
    pub fn handle_message(&mut self, now: Nanos, message: Message) {
        match message {
            Message::Execute(m) => {
                let log = self
                    .local_log(m.log)
                    .expect("parts are sent to the core of their log");
                self.execute(now, m.ticket, log, m.part);
            }
            Message::Done(m) => self.join(now, m.call, m.log, m.results),
            Message::Release(grants) => self.handle_undelivered(now, grants),
            Message::Interest(core, namespace) => self.handle_interest(now, core, namespace),
            Message::Offer {
                namespace,
                log,
                ready,
            } => self.handle_offer(now, namespace, log, ready),
            Message::Decline(namespace) => self.work.note_change(namespace),
        }
    }

    /// A batch is on disk: what waited for it may leave.
    pub fn handle_synced(&mut self, now: Nanos, log: LogId, batch: u64) {
        let index = self.local_log(log).expect("a log reports to its own core");
        let owned = &mut self.logs[index];
        let was_behind = owned.is_behind();
        owned.synced = batch;
        owned.in_flight = false;
        owned.appender.handle_synced(batch);
        while self.logs[index]
            .held
            .front()
            .is_some_and(|held| held.batch <= batch)
        {
            let held = self.logs[index].held.pop_front().expect("just seen");
            self.release_held(now, index, held.ticket, held.results);
        }
        self.retry_stalled(now, index);
        if was_behind {
            self.note_open_again();
        }
    }

    /// Tries again what the log had no room for.
    pub(super) fn retry_stalled(&mut self, now: Nanos, log: usize) {
        self.logs[log].short_of = 0;
        for (ticket, part) in std::mem::take(&mut self.logs[log].stalled) {
            self.execute(now, ticket, log, part);
        }
    }

    /// A log can no longer be written: nothing in it is acknowledged any more, for ever.
    pub fn handle_log_failed(&mut self, now: Nanos, log: LogId, why: String) {
        let index = self.local_log(log).expect("a log reports to its own core");
        let error = super::errors::durability_lost(&why);
        self.logs[index].failed = Some(why);
        for held in std::mem::take(&mut self.logs[index].held) {
            let results = held
                .results
                .iter()
                .map(|&(at, _)| (at, super::part::ItemResult::refused(error.clone())))
                .collect();
            self.deliver(now, log, held.ticket, results);
        }
        self.retry_stalled(now, index);
    }

    /// A spare segment is there, or the disk has refused one; whoever allocates goes on trying
    /// until there is room again.
    pub fn handle_spare(&mut self, now: Nanos, log: LogId, spare: Result<Spare, String>) {
        let index = self.local_log(log).expect("a log reports to its own core");
        let owned = &mut self.logs[index];
        match spare {
            Ok(spare) => {
                owned.spares_asked = owned.spares_asked.saturating_sub(1);
                owned.appender.handle_spare(spare);
                owned.disk_full = false;
            }
            Err(_) => owned.disk_full = true,
        }
        self.note_open_again();
        self.retry_stalled(now, index);
    }

    /// Bytes that had to be read off the core, or why they could not be.
    pub fn handle_read(&mut self, now: Nanos, id: u64, bytes: Result<Bytes, String>) {
        match self.reads.complete(id, bytes) {
            Some(Completed::Gathering(done)) => self.finish_gathering(now, done),
            Some(Completed::Error(log, bytes)) => self.handle_error_read(log, id, bytes),
            None => {}
        }
    }

    /// Ends delays, leases, waits and calls whose time has come.
    pub fn handle_time(&mut self, now: Nanos) {
        for log in 0..self.logs.len() {
            for slot in 0..self.logs[log].shards.len() {
                let due = self.logs[log].shards[slot].due;
                if due.is_none_or(|due| due > now) || !self.logs[log].can_write_small() {
                    continue;
                }
                self.logs[log].with_shard(slot, |shard, out| {
                    shard.handle_time(now, out, TIMERS_PER_TURN)
                });
                let namespace = self.logs[log].shards[slot].namespace;
                self.note_change(namespace, log);
            }
        }
        let mut due = Vec::new();
        self.calls.poll_due(now, &mut due);
        for id in due {
            self.expire_call(now, id);
        }
    }

    /// When [`Core::handle_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let shards = self
            .logs
            .iter()
            .filter(|log| log.can_write_small())
            .flat_map(|log| &log.shards)
            .filter_map(|s| s.due)
            .min();
        [
            shards,
            self.calls.next_deadline(),
            self.waiting.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends a turn, after any number of `handle_` calls: workers that wait get what became ready,
    /// the open batch goes to the log thread if that is free, and the board is brought up to date.
    pub fn finish_turn(&mut self, now: Nanos) {
        self.serve_enqueues(now);
        self.serve_walks(now);
        self.serve_waiting(now);
        for log in 0..self.logs.len() {
            self.trim(log);
        }
        for log in &mut self.logs {
            if !log.in_flight && log.failed.is_none() {
                if log.appender.open_bytes() > 0 {
                    log.appender.seal();
                }
                if let Some(batch) = log.appender.poll_batch() {
                    log.in_flight = true;
                    self.tasks.push_back(LogTask::Write(log.id, batch));
                }
            }
            for _ in 0..log.spares_wanted() {
                log.spares_asked += 1;
                let fill = log.choose_fill(now);
                self.tasks.push_back(LogTask::Allocate(log.id, fill));
            }
        }
        let trims = self.logs.iter();
        let mut trims = trims.filter(|log| !log.in_flight).map(|log| &log.trim);
        self.has_more = !self.walks.is_empty() || trims.any(|trim| trim.can_go_on);
        self.has_opened |= self.is_synced();
        if let Some(workers) = self.calls.poll_workers() {
            for (namespace, &workers) in workers.iter().enumerate() {
                let namespace = namespace_id(namespace);
                self.board.publish_workers(self.id, namespace, workers);
            }
        }
        for (namespace, log) in std::mem::take(&mut self.stale) {
            let stats = self.log_stats(namespace, log);
            let head = match self.logs[log].can_grant() {
                true => self.log_head(now, namespace, log, None),
                false => None,
            };
            self.board
                .publish(now, namespace, self.logs[log].id, stats, head);
            self.look_at_gate(now, namespace);
        }
    }

    /// True when another turn would come forward though nothing new has come in.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// The next reply to leave.
    pub fn poll_outcome(&mut self) -> Option<(CallId, Outcome)> {
        self.outcomes.pop_front()
    }

    /// The next message for another core.
    pub fn poll_message(&mut self) -> Option<(CoreId, Message)> {
        self.messages.pop_front()
    }

    /// Puts a message back that the other core had no room for.
    pub fn return_message(&mut self, to: CoreId, message: Message) {
        self.messages.push_front((to, message));
    }

    /// The next thing to do with a log.
    pub fn poll_task(&mut self) -> Option<LogTask> {
        self.tasks.pop_front()
    }

    /// The board that all cores of the node share.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// How large this core's logs are.
    pub fn log_sizes(&self) -> impl Iterator<Item = (LogId, LogSize)> {
        self.logs.iter().map(|log| (log.id, log.size()))
    }

    /// This core's shards and the state of each.
    pub fn shards(&self) -> impl Iterator<Item = (LogId, NamespaceId, &Shard)> {
        self.logs
            .iter()
            .flat_map(|log| log.shards.iter().map(|s| (log.id, s.namespace, &s.shard)))
    }

    /// Undoes grants whose replies did not reach their callers.
    pub fn handle_undelivered(&mut self, now: Nanos, grants: Vec<GrantRef>) {
        for grant in grants {
            let core = self.layout.core_of(grant.log);
            if core == self.id {
                self.release_grant(now, &grant);
            } else {
                self.messages
                    .push_back((core, Message::Release(vec![grant])));
            }
        }
    }

    /// The caller is gone: stop waiting for it, and undo what it would have been given.
    pub fn handle_cancel(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.abandoned = true;
        let is_over = call.outstanding == 0;
        self.forget_seeker(id);
        if is_over {
            self.calls.remove(id);
        }
    }

    pub(super) fn local_log(&self, log: LogId) -> Option<usize> {
        self.logs.iter().position(|owned| owned.id == log)
    }

    /// Where a shard stands: index into `logs`, index into its shards.
    pub(super) fn locate(&self, log: usize, shard: ShardId) -> usize {
        let slot = (shard.0 / u32::from(self.layout.logs())) as usize;
        debug_assert_eq!(self.logs[log].shards[slot].shard.spec().shard, shard);
        slot
    }

    /// Remembers that a namespace's items in a log changed: the board is out of date and waiting
    /// workers may have something to get.
    pub(super) fn note_change(&mut self, namespace: NamespaceId, log: usize) {
        if !self.stale.contains(&(namespace, log)) {
            self.stale.push((namespace, log));
        }
        self.work.note_change(namespace);
    }
}

pub(super) fn namespace_id(index: usize) -> NamespaceId {
    NamespaceId(u16::try_from(index).expect("fewer than 65,536 namespaces"))
}

fn owned_log(
    layout: &Layout,
    id: LogId,
    appender: Appender,
    shards: Vec<Shard>,
    segment_bytes: u64,
    history_bytes: u64,
) -> OwnedLog {
    let floor = appender.needed().next().map_or(0, |first| first.number);
    let trim = Trim::new(shards.len(), floor);
    let mut live_bytes = 0;
    let mut totals = Totals::new(layout.namespaces().len());
    let shards = shards
        .into_iter()
        .map(|shard| {
            let spec = shard.spec().shard;
            let stats = shard.stats();
            let namespace = layout
                .namespace_of(spec)
                .expect("a log holds shards of the layout");
            totals.change(namespace, &Stats::default(), &stats);
            live_bytes += shard.live_bytes();
            OwnedShard {
                namespace,
                last_batch: 0,
                due: shard.next_deadline(),
                counted: stats,
                counted_bytes: shard.live_bytes(),
                is_changed: false,
                shard,
            }
        })
        .collect();
    let synced = appender.open_batch() - 1;
    OwnedLog {
        id,
        appender,
        shards,
        changed: Vec::new(),
        totals,
        live_bytes,
        history_bytes,
        logs: layout.logs(),
        trim,
        held: VecDeque::new(),
        synced,
        in_flight: false,
        failed: None,
        disk_full: false,
        segment_bytes,
        spares_asked: 0,
        last_asked: None,
        short_of: 0,
        stalled: VecDeque::new(),
    }
}
