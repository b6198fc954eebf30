//! What every core may know of every log's shards without asking: counts and the oldest waiting
//! item, published with plain stores by the log's core and read by the others.
//!
//! The values are hints. A reader may see a log's numbers a turn late and each on its own; nothing
//! is decided by them but where to ask next, and what `stats` shows of other cores.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use omnirelay_queue::{Head, Nanos, Stats};

use super::gate::{Gate, GateCell, Transition};
use super::layout::{CoreId, LogId, NamespaceId};

#[derive(Debug, Default)]
struct Cell {
    pending: AtomicU64,
    active: AtomicU64,
    delayed: AtomicU64,
    dead: AtomicU64,
    /// `ready_since` of the best waiting item, or [`NO_HEAD`].
    head_since: AtomicU64,
    /// Its effective priority at `published_at`.
    head_priority: AtomicU64,
    published_at: AtomicU64,
}

const NO_HEAD: u64 = u64::MAX;

/// How many workers wait on each core, by namespace.
type Workers = Vec<CachePadded<Box<[AtomicU64]>>>;

/// One cell for each (namespace, log), one gate for each namespace.
#[derive(Debug)]
pub struct Board {
    logs: usize,
    cells: Vec<CachePadded<Cell>>,
    gates: Vec<CachePadded<GateCell>>,
    workers: Workers,
}

impl Board {
    /// A board on which nothing waits yet.
    pub fn new(namespaces: usize, logs: u16, cores: u16) -> Board {
        let logs = usize::from(logs);
        let empty = || {
            CachePadded::new(Cell {
                head_since: AtomicU64::new(NO_HEAD),
                ..Cell::default()
            })
        };
        Board {
            logs,
            cells: (0..namespaces * logs).map(|_| empty()).collect(),
            workers: (0..cores)
                .map(|_| (0..namespaces).map(|_| AtomicU64::new(0)).collect())
                .map(CachePadded::new)
                .collect(),
            gates: (0..namespaces).map(|_| CachePadded::default()).collect(),
        }
    }

    fn cell(&self, namespace: NamespaceId, log: LogId) -> &Cell {
        &self.cells[usize::from(namespace.0) * self.logs + usize::from(log.0)]
    }

    /// Publishes a log's numbers. Called by the log's core only.
    pub(super) fn publish(
        &self,
        now: Nanos,
        namespace: NamespaceId,
        log: LogId,
        stats: Stats,
        head: Option<Head>,
    ) {
        let cell = self.cell(namespace, log);
        cell.pending.store(stats.pending, Relaxed);
        cell.active.store(stats.active, Relaxed);
        cell.delayed.store(stats.delayed, Relaxed);
        cell.dead.store(stats.dead, Relaxed);
        cell.head_since
            .store(head.map_or(NO_HEAD, |h| h.ready_since.0), Relaxed);
        cell.head_priority
            .store(head.map_or(0, |h| u64::from(h.effective_priority)), Relaxed);
        cell.published_at.store(now.0, Relaxed);
    }

    /// The best waiting item of a log as it was published last, and when that was.
    pub(super) fn head(&self, namespace: NamespaceId, log: LogId) -> Option<(Head, Nanos)> {
        let cell = self.cell(namespace, log);
        let since = cell.head_since.load(Relaxed);
        let head = Head {
            effective_priority: u8::try_from(cell.head_priority.load(Relaxed)).unwrap_or(u8::MAX),
            ready_since: Nanos(since),
        };
        (since != NO_HEAD).then(|| (head, Nanos(cell.published_at.load(Relaxed))))
    }

    /// A log's counts as they were published last.
    pub fn log_stats(&self, namespace: NamespaceId, log: LogId) -> Stats {
        let cell = self.cell(namespace, log);
        Stats {
            pending: cell.pending.load(Relaxed),
            active: cell.active.load(Relaxed),
            delayed: cell.delayed.load(Relaxed),
            dead: cell.dead.load(Relaxed),
        }
    }

    /// Whether a namespace holds enqueues back.
    pub fn gate(&self, namespace: NamespaceId) -> Gate {
        self.gate_cell(namespace).gate()
    }

    /// Publishes how many workers wait on a core. Called by that core only.
    pub(super) fn publish_workers(&self, core: CoreId, namespace: NamespaceId, workers: u64) {
        self.workers[usize::from(core.0)][usize::from(namespace.0)].store(workers, Relaxed);
    }

    /// Lease calls that wait for an item, on all cores.
    pub fn workers(&self, namespace: NamespaceId) -> u64 {
        let cores = 0..u16::try_from(self.workers.len()).expect("fewer than 65,536 cores");
        cores
            .map(|core| self.workers_on(CoreId(core), namespace))
            .sum()
    }

    /// Lease calls that wait on a core for an item.
    pub fn workers_on(&self, core: CoreId, namespace: NamespaceId) -> u64 {
        self.workers[usize::from(core.0)][usize::from(namespace.0)].load(Relaxed)
    }

    /// How often a namespace's gate has moved.
    pub fn gate_transitions(&self, namespace: NamespaceId) -> u64 {
        self.gate_cell(namespace).transitions()
    }

    /// How a namespace's gate has moved since its transition `seen`, in order; the oldest are
    /// missing where there were more than [`TRANSITIONS_KEPT`](super::gate::TRANSITIONS_KEPT).
    pub fn gate_transitions_after(&self, namespace: NamespaceId, seen: u64) -> Vec<Transition> {
        self.gate_cell(namespace).transitions_after(seen)
    }

    /// Moves a gate because so many items are live, unless another core has moved it meanwhile.
    pub(super) fn move_gate(&self, namespace: NamespaceId, from: Gate, to: Gate, live: u64) {
        self.gate_cell(namespace).step(from, to, live);
    }

    fn gate_cell(&self, namespace: NamespaceId) -> &GateCell {
        &self.gates[usize::from(namespace.0)]
    }

    /// A namespace's counts over all logs.
    pub fn stats(&self, namespace: NamespaceId) -> Stats {
        let mut sum = Stats::default();
        for log in 0..self.logs {
            let log = LogId(u16::try_from(log).expect("fewer than 65,536 logs"));
            let part = self.log_stats(namespace, log);
            sum.pending += part.pending;
            sum.active += part.active;
            sum.delayed += part.delayed;
            sum.dead += part.dead;
        }
        sum
    }
}
