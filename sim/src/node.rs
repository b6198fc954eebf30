//! A node in one of its lives: the product's cores, with rings that delay, log threads that take
//! their time, and timers that are late. It does what the product's own driver does, step by step
//! in an order that the seed decides.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use omnirelay::data_dir::{LogSettings, open_log};
use omnirelay::node::{
    Board, CallId, Core, CoreId, Layout, LogId, LogParts, LogSize, LogTask, Message, Outcome,
    ReadRequest, ScanRequest,
};
use omnirelay_queue::{Digest, Nanos, Shard};
use omnirelay_wal::{
    Allocator, Batch, Cleaner, Fill, OpenError, Reader, Reuse, Scanned, Spare, Writer,
};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::clock::NodeClock;
use crate::disk::SimDisk;
use crate::hits::{Fault, Hits};
use crate::schedule::Schedule;
use crate::tape::SharedTape;
use crate::world::Event;

/// The smallest segments there are, so that logs go through many.
pub const SEGMENT_BYTES: u32 = 1 << 20;
/// How long a log thread waits before it asks a full disk again.
const ALLOCATE_RETRY_NS: u64 = 1_000_000_000;
/// A ring delay that counts as a fault.
const LONG_DELAY_NS: u64 = 2_000_000;

/// How quick the node's surroundings are: upper bounds of delays in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Tempo {
    /// From an input to the end of the turn.
    pub turn: u64,
    /// In a ring.
    pub ring: u64,
    /// To write and sync a batch, and to say so.
    pub sync: u64,
    /// By which a timer is late.
    pub timer: u64,
    /// Messages that fit a ring.
    pub ring_slots: usize,
}

/// A step that the node takes by itself.
#[derive(Debug)]
pub enum Step {
    /// A core ends its turn.
    Turn(usize),
    /// A core takes a message out of a ring.
    Deliver {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
    },
    /// A log thread writes and syncs a batch.
    Write(usize),
    /// A core learns of it.
    Synced(usize, u64),
    /// A core learns that its log has failed.
    LogFailed(usize, String),
    /// The allocator tries to make a spare segment.
    Allocate(usize),
    /// A core is given one, or learns that there is none.
    Spare(usize, Result<Spare, String>),
    /// The reader reads a record.
    Read(usize, ReadRequest),
    /// A core is given it.
    ReadDone(usize, u64, Result<bytes::Bytes, String>),
    /// The reader reads a part of a segment that is given up.
    Scan(usize, ScanRequest),
    /// A core is given it.
    ScanDone(usize, Result<Scanned, String>),
    /// The allocator gives up a segment.
    Retire(usize, u32, Reuse),
    /// A core learns of it.
    Retired(usize, u32, Result<Option<Spare>, String>),
    /// A core's earliest deadline, planned for this time, has come.
    Timer(usize, u64),
}

struct SimCore {
    core: Core<SimDisk>,
    turn_planned: bool,
    timer_at: Option<u64>,
}

struct SimLog {
    disk: SimDisk,
    tape: SharedTape,
    core: usize,
    writer: Writer<SimDisk>,
    allocator: Allocator<SimDisk>,
    cleaner: Cleaner<SimDisk>,
    reader: Reader<SimDisk>,
    batches: VecDeque<Batch>,
    /// When the core has heard of everything that the allocator has done: it does one thing after
    /// the other.
    allocator_heard_at: u64,
    owed: usize,
    refused: bool,
}

/// A node.
pub struct Node {
    /// Counts from 1.
    pub life: u32,
    /// Its clock.
    pub clock: NodeClock,
    /// How quick things are.
    pub tempo: Tempo,
    /// What its cores tell each other of their shards.
    pub board: Arc<Board>,
    cores: Vec<SimCore>,
    logs: Vec<SimLog>,
    rings: Vec<VecDeque<Message>>,
    /// Messages taken out of rings.
    pub delivered: u64,
}

/// What a node is started with.
pub struct Boot<'a> {
    /// Which life this is.
    pub life: u32,
    /// Its layout.
    pub layout: Arc<Layout>,
    /// One for each log, for this life.
    pub disks: &'a [SimDisk],
    /// One for each log, for all lives.
    pub tapes: &'a [SharedTape],
    /// What each log keeps beyond what lives in it.
    pub history_bytes: u64,
    /// The wall clock's time.
    pub wall: Nanos,
    /// Its monotonic clock's drift.
    pub drift_ppm: i64,
    /// How its clock stands still and leaps.
    pub stutter_ns: u64,
    /// How quick things are.
    pub tempo: Tempo,
}

impl Node {
    /// Opens the logs and the cores; the new epochs are not yet on disk.
    ///
    /// # Errors
    /// If a log cannot be opened.
    pub fn boot(
        boot: Boot<'_>,
        schedule: &mut Schedule<Event>,
        rng: &mut SmallRng,
        replayed: &mut dyn FnMut(&Shard),
    ) -> Result<Node, OpenError> {
        let layout = boot.layout;
        let mut last_at = Nanos(0);
        let mut opened = Vec::new();
        for (log, disk) in (0u16..).zip(boot.disks) {
            let settings = LogSettings {
                segment_bytes: SEGMENT_BYTES,
                history_bytes: boot.history_bytes,
            };
            let mut entropy = || rng.random();
            let (log, recovery) = open_log(
                disk.clone(),
                Path::new("/simulated"),
                settings,
                &layout,
                LogId(log),
                &mut entropy,
            )?;
            last_at = last_at.max(Nanos(recovery.recovery.last_at));
            opened.push(log);
        }
        opened.iter().flat_map(|log| &log.shards).for_each(replayed);
        let clock = NodeClock::start(boot.wall, last_at, schedule.now(), boot.drift_ppm)
            .with_stutter(boot.stutter_ns);
        let board = Arc::new(Board::new(
            layout.namespaces().len(),
            layout.logs(),
            layout.cores(),
        ));
        let mut parts: Vec<Vec<LogParts<SimDisk>>> =
            (0..layout.cores()).map(|_| Vec::new()).collect();
        let mut logs = Vec::new();
        for (log, (disk, tape)) in opened.into_iter().zip(boot.disks.iter().zip(boot.tapes)) {
            let core = usize::from(layout.core_of(log.id).0);
            logs.push(SimLog {
                disk: disk.clone(),
                tape: SharedTape::clone(tape),
                core,
                writer: log.writer,
                allocator: log.allocator,
                cleaner: log.cleaner,
                reader: log.reader.clone(),
                batches: VecDeque::new(),
                allocator_heard_at: 0,
                owed: 0,
                refused: false,
            });
            parts[core].push(LogParts {
                id: log.id,
                appender: log.appender,
                reader: log.reader,
                shards: log.shards,
                segment_bytes: log.segment_bytes,
                history_bytes: log.history_bytes,
            });
        }
        let cores: Vec<SimCore> = (0u16..)
            .zip(parts)
            .map(|(id, parts)| {
                let core = Core::new(CoreId(id), Arc::clone(&layout), Arc::clone(&board), parts);
                SimCore {
                    core,
                    turn_planned: false,
                    timer_at: None,
                }
            })
            .collect();
        let rings = (0..cores.len() * cores.len())
            .map(|_| VecDeque::new())
            .collect();
        let mut node = Node {
            life: boot.life,
            clock,
            tempo: boot.tempo,
            board,
            cores,
            logs,
            rings,
            delivered: 0,
        };
        let now = node.now(schedule);
        for core in 0..node.cores.len() {
            node.cores[core].core.handle_open(now);
            node.dirty(core, schedule, rng);
        }
        Ok(node)
    }

    /// Its time.
    pub fn now(&self, schedule: &Schedule<Event>) -> Nanos {
        self.clock.at(schedule.now())
    }

    /// How many cores it has.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// A core, to be called; [`Node::dirty`] must follow.
    pub fn core(&mut self, core: usize) -> &mut Core<SimDisk> {
        &mut self.cores[core].core
    }

    /// All cores.
    pub fn all_cores(&self) -> impl Iterator<Item = &Core<SimDisk>> {
        self.cores.iter().map(|core| &core.core)
    }

    /// Whether everything that was decided is on disk.
    pub fn is_synced(&self) -> bool {
        self.all_cores().all(Core::is_synced)
    }

    /// Whether a log has failed.
    pub fn has_failed(&self) -> bool {
        self.all_cores().any(|core| core.failure().is_some())
    }

    /// How much later than planned things may be noticed.
    pub fn slack_ns(&self) -> u64 {
        2 * (self.tempo.turn + self.tempo.timer + self.clock.stutter_ns()) + 1_000_000
    }

    /// How large each log is.
    pub fn log_sizes(&self) -> Vec<LogSize> {
        let sizes = self.all_cores().flat_map(Core::log_sizes);
        sizes.map(|(_, size)| size).collect()
    }

    /// Whether anything is under way between cores.
    pub fn rings_are_empty(&self) -> bool {
        self.rings.iter().all(VecDeque::is_empty)
    }

    /// All shards' logged state, and the time for which it is given.
    pub fn digests(&self) -> BTreeMap<u32, (Nanos, Digest)> {
        let shards = self.all_cores().flat_map(|core| core.shards());
        shards
            .map(|(_, _, shard)| {
                (
                    shard.spec().shard.0,
                    (shard.last_time(), shard.digest(shard.last_time())),
                )
            })
            .collect()
    }

    /// Ends the logs in order. Everything must be synced.
    pub fn close(&mut self) -> bool {
        self.logs.iter_mut().all(|log| log.writer.close().is_ok())
    }

    fn plan(&self, schedule: &mut Schedule<Event>, delay: u64, step: Step) {
        schedule.after(delay, Event::Node(self.life, step));
    }

    /// A core was given something: its turn must end soon.
    pub fn dirty(&mut self, core: usize, schedule: &mut Schedule<Event>, rng: &mut SmallRng) {
        if !self.cores[core].turn_planned {
            self.cores[core].turn_planned = true;
            self.plan(
                schedule,
                rng.random_range(0..=self.tempo.turn),
                Step::Turn(core),
            );
        }
    }

    /// Takes a step; gives the replies that leave, with their cores.
    pub fn step(
        &mut self,
        step: Step,
        schedule: &mut Schedule<Event>,
        rng: &mut SmallRng,
        hits: &mut Hits,
    ) -> Vec<(usize, CallId, Outcome)> {
        let now = self.now(schedule);
        let log_id = |log: usize| LogId(u16::try_from(log).expect("few logs"));
        let core = match step {
            Step::Turn(core) => return self.turn(core, schedule, rng, hits),
            Step::Write(log) => {
                self.write(log, schedule, rng);
                return Vec::new();
            }
            Step::Allocate(log) => {
                self.allocate(log, schedule, rng, hits);
                return Vec::new();
            }
            Step::Read(log, request) => {
                let bytes = self.logs[log]
                    .reader
                    .read(request.at, request.len)
                    .map_err(|error| error.to_string());
                hits.hit(Fault::SlowRead);
                self.plan(
                    schedule,
                    rng.random_range(0..=self.tempo.ring),
                    Step::ReadDone(log, request.id, bytes),
                );
                return Vec::new();
            }
            Step::Scan(log, request) => {
                let ScanRequest {
                    segment,
                    from,
                    bytes_max,
                } = request;
                let scanned = self.logs[log]
                    .cleaner
                    .scan(segment, from, ScanRequest::is_wanted, bytes_max)
                    .map_err(|error| error.to_string());
                let soon = rng.random_range(0..=self.tempo.ring);
                self.plan(schedule, soon, Step::ScanDone(log, scanned));
                return Vec::new();
            }
            Step::Retire(log, segment, reuse) => {
                self.retire(log, segment, reuse, schedule, rng, hits);
                return Vec::new();
            }
            Step::Deliver { from, to } => {
                let ring = from * self.cores.len() + to;
                let message = self.rings[ring]
                    .pop_front()
                    .expect("a delivery for each message");
                self.delivered += 1;
                self.cores[to].core.handle_message(now, message);
                to
            }
            Step::Synced(log, batch) => {
                let core = self.logs[log].core;
                self.cores[core].core.handle_synced(now, log_id(log), batch);
                core
            }
            Step::LogFailed(log, why) => {
                let core = self.logs[log].core;
                self.cores[core]
                    .core
                    .handle_log_failed(now, log_id(log), why);
                core
            }
            Step::Spare(log, spare) => {
                let core = self.logs[log].core;
                self.cores[core].core.handle_spare(now, log_id(log), spare);
                core
            }
            Step::ReadDone(log, id, bytes) => {
                let core = self.logs[log].core;
                self.cores[core].core.handle_read(now, id, bytes);
                core
            }
            Step::ScanDone(log, scanned) => {
                let core = self.logs[log].core;
                self.cores[core].core.handle_scanned(log_id(log), scanned);
                core
            }
            Step::Retired(log, segment, retired) => {
                let core = self.logs[log].core;
                self.cores[core]
                    .core
                    .handle_retired(now, log_id(log), segment, retired);
                core
            }
            Step::Timer(core, planned) => {
                if self.cores[core].timer_at != Some(planned) {
                    return Vec::new();
                }
                self.cores[core].timer_at = None;
                if self.cores[core]
                    .core
                    .next_deadline()
                    .is_some_and(|at| at <= now)
                {
                    self.cores[core].core.handle_time(now);
                }
                core
            }
        };
        self.dirty(core, schedule, rng);
        Vec::new()
    }

    /// Ends a core's turn as the product's pump does.
    fn turn(
        &mut self,
        core: usize,
        schedule: &mut Schedule<Event>,
        rng: &mut SmallRng,
        hits: &mut Hits,
    ) -> Vec<(usize, CallId, Outcome)> {
        let now = self.now(schedule);
        self.cores[core].turn_planned = false;
        self.cores[core].core.finish_turn(now);
        let mut outcomes = Vec::new();
        while let Some((id, outcome)) = self.cores[core].core.poll_outcome() {
            outcomes.push((core, id, outcome));
        }
        while let Some((to, message)) = self.cores[core].core.poll_message() {
            let ring = core * self.cores.len() + usize::from(to.0);
            if self.rings[ring].len() >= self.tempo.ring_slots {
                hits.hit(Fault::RingFull);
                self.cores[core].core.return_message(to, message);
                self.dirty(core, schedule, rng);
                break;
            }
            self.rings[ring].push_back(message);
            let delay = rng.random_range(0..=self.tempo.ring);
            hits.add(Fault::RingDelay, u64::from(delay > LONG_DELAY_NS));
            self.plan(
                schedule,
                delay,
                Step::Deliver {
                    from: core,
                    to: usize::from(to.0),
                },
            );
        }
        while let Some(task) = self.cores[core].core.poll_task() {
            self.begin(task, schedule, rng);
        }
        if self.cores[core].core.has_more() {
            self.dirty(core, schedule, rng);
        }
        self.arm(core, schedule, rng);
        outcomes
    }

    fn begin(&mut self, task: LogTask, schedule: &mut Schedule<Event>, rng: &mut SmallRng) {
        match task {
            LogTask::Write(log, batch) => {
                let log = usize::from(log.0);
                self.logs[log].tape.borrow_mut().write(&batch);
                self.logs[log].batches.push_back(batch);
                self.plan(
                    schedule,
                    rng.random_range(0..=self.tempo.sync),
                    Step::Write(log),
                );
            }
            LogTask::Allocate(log, _) => {
                let log = usize::from(log.0);
                self.logs[log].owed += 1;
                if self.logs[log].owed == 1 {
                    self.plan(
                        schedule,
                        rng.random_range(0..=self.tempo.sync),
                        Step::Allocate(log),
                    );
                }
            }
            LogTask::Read(log, request) => {
                let soon = rng.random_range(0..=self.tempo.ring);
                self.plan(schedule, soon, Step::Read(usize::from(log.0), request));
            }
            LogTask::Scan(log, request) => {
                let soon = rng.random_range(0..=self.tempo.sync);
                self.plan(schedule, soon, Step::Scan(usize::from(log.0), request));
            }
            LogTask::Retire(log, segment, reuse) => {
                let log = usize::from(log.0);
                self.logs[log].reader.forget(segment);
                let soon = rng.random_range(0..=self.tempo.sync);
                self.plan(schedule, soon, Step::Retire(log, segment, reuse));
            }
        }
    }

    /// Sets the core's timer if its earliest deadline came nearer.
    pub fn arm(&mut self, core: usize, schedule: &mut Schedule<Event>, rng: &mut SmallRng) {
        let Some(next) = self.cores[core].core.next_deadline() else {
            return;
        };
        let at = self.clock.true_time(next).max(schedule.now());
        if self.cores[core].timer_at.is_none_or(|planned| at < planned) {
            self.cores[core].timer_at = Some(at);
            let late = rng.random_range(1..=self.tempo.timer);
            schedule.at(at + late, Event::Node(self.life, Step::Timer(core, at)));
        }
    }

    fn write(&mut self, log: usize, schedule: &mut Schedule<Event>, rng: &mut SmallRng) {
        let sim = &mut self.logs[log];
        let batch = sim.batches.pop_front().expect("a write for each batch");
        let result = sim.writer.write(&batch);
        let number = batch.number;
        drop(batch);
        if sim.disk.is_dead() {
            return;
        }
        let step = match result {
            Ok(()) => {
                sim.tape.borrow_mut().synced(number);
                Step::Synced(log, number)
            }
            Err(poisoned) => Step::LogFailed(log, poisoned.to_string()),
        };
        self.plan(schedule, rng.random_range(0..=self.tempo.sync / 4), step);
    }

    /// In how long the core hears of what the allocator has just done.
    fn allocator_is_heard(
        &mut self,
        log: usize,
        schedule: &Schedule<Event>,
        rng: &mut SmallRng,
    ) -> u64 {
        let soon = rng.random_range(0..=self.tempo.sync / 4);
        let heard_at = &mut self.logs[log].allocator_heard_at;
        *heard_at = (schedule.now() + soon).max(*heard_at + 1);
        *heard_at - schedule.now()
    }

    fn retire(
        &mut self,
        log: usize,
        segment: u32,
        reuse: Reuse,
        schedule: &mut Schedule<Event>,
        rng: &mut SmallRng,
        hits: &mut Hits,
    ) {
        let sim = &mut self.logs[log];
        let retired = sim.allocator.retire(segment, reuse);
        if sim.disk.is_dead() {
            return;
        }
        let done = match retired {
            Ok(Some(_)) => Fault::Recycled,
            Ok(None) => Fault::Trimmed,
            Err(_) => Fault::FailedRetire,
        };
        hits.hit(done);
        let retired = retired.map_err(|error| error.to_string());
        let soon = self.allocator_is_heard(log, schedule, rng);
        self.plan(schedule, soon, Step::Retired(log, segment, retired));
    }

    fn allocate(
        &mut self,
        log: usize,
        schedule: &mut Schedule<Event>,
        rng: &mut SmallRng,
        hits: &mut Hits,
    ) {
        let sim = &mut self.logs[log];
        let made = sim.allocator.allocate(Fill::Zeros);
        if sim.disk.is_dead() {
            return;
        }
        let soon = self.allocator_is_heard(log, schedule, rng);
        let sim = &mut self.logs[log];
        match made {
            Ok(spare) => {
                sim.refused = false;
                sim.owed -= 1;
                let more = sim.owed > 0;
                self.plan(schedule, soon, Step::Spare(log, Ok(spare)));
                if more {
                    self.plan(schedule, soon, Step::Allocate(log));
                }
            }
            Err(error) => {
                hits.hit(Fault::DiskFull);
                let first = !std::mem::replace(&mut sim.refused, true);
                if first {
                    self.plan(schedule, soon, Step::Spare(log, Err(error.to_string())));
                }
                self.plan(schedule, ALLOCATE_RETRY_NS, Step::Allocate(log));
            }
        }
    }
}
