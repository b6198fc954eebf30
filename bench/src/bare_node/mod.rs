//! A node of one core without sockets, threads, timers and waiting for a disk. What its drivers do
//! is done here by hand, one step after the other, so that each step can be counted or timed.
//!
//! Calls come as frames, and replies leave as such. Between them, the node's own code is at work
//! on its own log, in files that are never synced.

mod disk;
pub mod load;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use omnirelay::data_dir::{LogSettings, open_log};
use omnirelay::node::{
    Board, CallContext, CallId, Core, CoreId, Durability, Layout, LogId, LogParts, LogTask,
    Namespace, Outcome, ScanRequest, Watermarks,
};
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::frame::{Frame, FrameReader};
use omnirelay_net::rpc::{
    Call, Encoding, Procedure, REQUEST_BYTES_MAX, Request, RequestHead, decode_request,
};
use omnirelay_queue::{Nanos, Options, Secret, ShardId, Token};
use omnirelay_wal::{Allocator, Cleaner, Reader, Scanned, Spare, Writer};

pub use self::disk::{UnsyncedDisk, UnsyncedFile, Written};
pub use self::load::Shape;

/// Shards of its only namespace: the default.
pub const SHARDS: u32 = 16;
const LOG: LogId = LogId(0);
const SEGMENT_BYTES: u32 = 16 << 20;
const CAPACITY: u64 = 1_000_000;

/// What a step of a call's way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From a stream's bytes to requests.
    Decode,
    /// On the core: checking, routing, deciding, placing records, and joining results.
    Core,
    /// Beside the core: checksums and writing.
    Log,
    /// From results to a stream's bytes.
    Reply,
}

/// Watches the stages.
pub trait Meter {
    /// One begins.
    fn begin(&mut self);
    /// It is over.
    fn end(&mut self, stage: Stage);
}

/// Watches nothing.
impl Meter for () {
    fn begin(&mut self) {}
    fn end(&mut self, _: Stage) {}
}

/// What happened beside the core.
enum Done {
    Synced(u64),
    Spare(Spare),
    Read(u64, Result<Bytes, String>),
    Scanned(Scanned),
    Retired(u32, Option<Spare>),
}

/// The node.
pub struct BareNode {
    core: Core<UnsyncedDisk>,
    disk: UnsyncedDisk,
    writer: Writer<UnsyncedDisk>,
    allocator: Allocator<UnsyncedDisk>,
    cleaner: Cleaner<UnsyncedDisk>,
    reader: Reader<UnsyncedDisk>,
    now: Nanos,
    /// Calls on their way in.
    requests: VecDeque<(Request, CallContext)>,
    outcomes: VecDeque<(CallId, Outcome)>,
    done: VecDeque<Done>,
    replies: Vec<Bytes>,
    tokens: Vec<Token>,
}

impl BareNode {
    /// Opens a node in an empty directory.
    ///
    /// # Panics
    /// If no log can be made there.
    pub fn open(path: &Path) -> BareNode {
        let namespace = Namespace {
            name: "resourcelease".into(),
            first_shard: ShardId(0),
            shards: SHARDS,
            durability: Durability::Disk,
            options: Options {
                capacity: CAPACITY,
                ..Options::default()
            },
            watermarks: Watermarks::of(CAPACITY),
            origin: [1; 16],
            secret: Secret([2; 16]),
            skips: false,
        };
        let layout = Arc::new(Layout::new(vec![namespace], 1, 1));
        let board = Arc::new(Board::new(1, 1, 1));
        let disk = UnsyncedDisk::open(path).expect("a directory");
        let settings = LogSettings {
            segment_bytes: SEGMENT_BYTES,
            history_bytes: 0,
        };
        let mut entropy = 0;
        let mut entropy = || {
            entropy += 1;
            entropy
        };
        let opened = open_log(disk.clone(), path, settings, &layout, LOG, &mut entropy);
        let (log, _) = opened.expect("a new log");
        let parts = LogParts {
            id: LOG,
            appender: log.appender,
            reader: log.reader.clone(),
            shards: log.shards,
            segment_bytes: log.segment_bytes,
            history_bytes: log.history_bytes,
        };
        let mut node = BareNode {
            core: Core::new(CoreId(0), layout, board, vec![parts]),
            disk,
            writer: log.writer,
            allocator: log.allocator,
            cleaner: log.cleaner,
            reader: log.reader,
            now: Nanos(1_790_000_000_000_000_000),
            requests: VecDeque::new(),
            outcomes: VecDeque::new(),
            done: VecDeque::new(),
            replies: Vec::new(),
            tokens: Vec::new(),
        };
        node.core.handle_open(node.now);
        while !node.core.is_synced() {
            node.do_tasks();
            node.hear();
        }
        node
    }

    /// What was asked of its disk so far.
    pub fn written(&self) -> Written {
        self.disk.written()
    }

    /// Items that it holds, in whatever state.
    pub fn items(&self) -> u64 {
        let stats = self.core.shards().map(|(_, _, shard)| shard.stats());
        stats.map(|stats| stats.live() + stats.dead).sum()
    }

    /// Records of all its shards.
    pub fn records(&self) -> u64 {
        let shards = self.core.shards();
        shards.map(|(_, _, shard)| shard.last_lsn().0).sum()
    }

    /// Takes calls as a stream brings them, and answers each; see [`BareNode::replies`].
    ///
    /// # Panics
    /// If one makes no sense, is refused, or waits for something that nobody does.
    pub fn serve(&mut self, stream: Bytes, meter: &mut impl Meter) {
        self.replies.clear();
        self.tokens.clear();
        meter.begin();
        self.read(stream);
        meter.end(Stage::Decode);
        let calls = self.requests.len();
        meter.begin();
        self.take();
        meter.end(Stage::Core);
        while self.outcomes.len() < calls {
            meter.begin();
            let was_of_use = self.do_tasks();
            meter.end(Stage::Log);
            assert!(was_of_use, "a call waits though nothing is under way");
            meter.begin();
            self.hear();
            meter.end(Stage::Core);
        }
        for (_, outcome) in &self.outcomes {
            self.tokens.extend(outcome.grants.iter().map(|g| g.token));
        }
        self.replies.reserve(calls);
        meter.begin();
        self.write_replies();
        meter.end(Stage::Reply);
    }

    /// The frames that answered the last calls.
    pub fn replies(&self) -> &[Bytes] {
        &self.replies
    }

    /// The tokens of the leases among them.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Carries calls out up to their outcomes, which are not yet written.
    ///
    /// # Panics
    /// As [`BareNode::serve`].
    pub fn outcomes(&mut self, calls: Vec<Call>) -> Vec<Outcome> {
        let stream = load::frames(Encoding::Proto, &calls);
        self.read(stream);
        self.take();
        while self.outcomes.len() < calls.len() {
            assert!(self.do_tasks(), "a call waits though nothing is under way");
            self.hear();
        }
        let outcomes = self.outcomes.drain(..);
        outcomes.map(|(_, outcome)| outcome).collect()
    }

    #[inline(never)]
    fn read(&mut self, stream: Bytes) {
        let mut reader = FrameReader::default();
        reader.push(stream);
        while let Some(frame) = reader.next(REQUEST_BYTES_MAX).expect("whole frames") {
            let Ok(Frame::Call(frame)) = Frame::decode(&frame) else {
                panic!("a frame that is no call");
            };
            let head = RequestHead::from_frame(&frame, "worker-1", "resourcelease");
            let head = head.expect("a head that says all");
            let (name, procedure) = Procedure::parse(&head.procedure).expect("a procedure");
            assert_eq!(name, "resourcelease", "there is one namespace");
            let body = frame.body();
            let request = decode_request(procedure, head.encoding, &body).expect("a request");
            let ttl = u64::try_from(head.ttl.as_nanos()).expect("it has a maximum");
            let context = CallContext {
                namespace: omnirelay::node::NamespaceId(0),
                owner: head.caller.to_string(),
                shard_key: head.shard_key.as_deref().map(str::to_owned),
                reply_by: self
                    .now
                    .saturating_add(std::time::Duration::from_nanos(ttl)),
            };
            self.requests.push_back((request, context));
        }
    }

    #[inline(never)]
    fn take(&mut self) {
        while let Some((request, context)) = self.requests.pop_front() {
            self.core.handle_call(self.now, request, &context);
        }
        self.end_turn();
    }

    /// Does what the core wants done beside it; false if that is nothing.
    #[inline(never)]
    fn do_tasks(&mut self) -> bool {
        let mut was_of_use = false;
        while let Some(task) = self.core.poll_task() {
            was_of_use = true;
            let done = match task {
                LogTask::Write(_, batch) => {
                    self.writer.write(&batch).expect("a sound disk");
                    Done::Synced(batch.number)
                }
                LogTask::Allocate(_, fill) => {
                    Done::Spare(self.allocator.allocate(fill).expect("disk space"))
                }
                LogTask::Read(_, request) => {
                    let bytes = self.reader.read(request.at, request.len);
                    Done::Read(request.id, bytes.map_err(|error| error.to_string()))
                }
                LogTask::Scan(_, request) => {
                    let ScanRequest {
                        segment,
                        from,
                        bytes_max,
                    } = request;
                    let wanted = ScanRequest::is_wanted;
                    let scanned = self.cleaner.scan(segment, from, wanted, bytes_max);
                    Done::Scanned(scanned.expect("a sound disk"))
                }
                LogTask::Retire(_, segment, reuse) => {
                    self.reader.forget(segment);
                    let spare = self.allocator.retire(segment, reuse);
                    Done::Retired(segment, spare.expect("a sound disk"))
                }
            };
            self.done.push_back(done);
        }
        was_of_use
    }

    /// Tells the core what has been done.
    #[inline(never)]
    fn hear(&mut self) {
        self.now.0 += TURN_NANOS;
        let (core, now) = (&mut self.core, self.now);
        while let Some(done) = self.done.pop_front() {
            match done {
                Done::Synced(batch) => core.handle_synced(now, LOG, batch),
                Done::Spare(spare) => core.handle_spare(now, LOG, Ok(spare)),
                Done::Read(id, bytes) => core.handle_read(now, id, bytes),
                Done::Scanned(scanned) => core.handle_scanned(LOG, Ok(scanned)),
                Done::Retired(segment, spare) => {
                    core.handle_retired(now, LOG, segment, Ok(spare));
                }
            }
        }
        if core.next_deadline().is_some_and(|at| at <= now) {
            core.handle_time(now);
        }
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.core.finish_turn(self.now);
        while let Some(outcome) = self.core.poll_outcome() {
            self.outcomes.push_back(outcome);
        }
    }

    #[inline(never)]
    fn write_replies(&mut self) {
        for (id, outcome) in self.outcomes.drain(..) {
            let head = ReplyHead {
                id: u64::from(id.slot),
                shard: outcome.shard.map(|shard| shard.0),
                ..ReplyHead::default()
            };
            let reply = outcome.reply.expect("nothing is refused");
            self.replies
                .push(encode::reply(&head, Encoding::Proto, &reply));
        }
    }
}

/// From a turn to the next.
const TURN_NANOS: u64 = 50_000;

/// A node, and clients that put items in, lease and complete them, round after round.
pub struct Rounds {
    node: BareNode,
    shape: Shape,
    enqueues: Bytes,
    leases: Bytes,
}

impl Rounds {
    /// Opens a node in an empty directory.
    ///
    /// # Panics
    /// As [`BareNode::open`].
    pub fn open(path: &Path, shape: Shape) -> Rounds {
        Rounds {
            node: BareNode::open(path),
            shape,
            enqueues: load::frames(Encoding::Proto, &load::enqueues(shape)),
            leases: load::frames(Encoding::Proto, &load::leases(shape)),
        }
    }

    /// Goes through so many rounds of [`Shape::cycles`] cycles each.
    ///
    /// # Panics
    /// If an item is not put in, leased and completed.
    pub fn run(&mut self, rounds: usize, meter: &mut impl Meter) {
        for _ in 0..rounds {
            self.enqueue(meter);
            self.lease(meter);
            self.complete(meter);
        }
    }

    /// The first third of a round.
    pub fn enqueue(&mut self, meter: &mut impl Meter) {
        self.node.serve(self.enqueues.clone(), meter);
        let items = self.node.items();
        assert_eq!(items, self.shape.cycles() as u64, "all are put in");
    }

    /// The second.
    pub fn lease(&mut self, meter: &mut impl Meter) {
        self.node.serve(self.leases.clone(), meter);
        let leased = self.node.tokens().len();
        assert_eq!(leased, self.shape.cycles(), "all are leased");
    }

    /// The third.
    pub fn complete(&mut self, meter: &mut impl Meter) {
        let calls = load::completions(self.shape, self.node.tokens());
        let stream = load::frames(Encoding::Proto, &calls);
        self.node.serve(stream, meter);
        assert_eq!(self.node.items(), 0, "all are completed");
    }

    /// The node.
    pub fn node(&self) -> &BareNode {
        &self.node
    }
}
