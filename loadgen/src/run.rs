//! What all connections of a run share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::connection::CallError;
use crate::latency::latency_histogram;
use crate::ledger::Ledger;

/// The most slow calls that are remembered one by one; far more than a run that is of use has.
const SLOW_CALLS_MAX: usize = 1_000_000;

/// How producers are held to their pace.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Closed loop: as fast as the server, with so many calls' items enqueued and not completed.
    Backlog(usize),
    /// Closed loop: as fast as the server, however much is enqueued and not completed.
    Unbounded,
    /// Open loop: a call every period, whatever the server does.
    Period(Duration),
}

/// Latencies of each step, µs.
#[derive(Debug)]
pub struct Latencies {
    /// Of the calls that enqueue, once for each item.
    pub enqueue: Histogram<u64>,
    /// From an item's enqueue, or a later call for work, to its lease.
    pub lease: Histogram<u64>,
    /// Of the calls that complete, once for each item.
    pub complete: Histogram<u64>,
}

/// When a call was made: from when it was meant to begin until its reply.
#[derive(Debug, Clone, Copy)]
pub struct CallTime {
    /// In an open loop this is the intended time, which may be before the call left.
    pub began: Instant,
    /// When the whole reply was there.
    pub ended: Instant,
}

/// A run: its settings and what has become of it so far. Everything is on one thread.
#[derive(Debug)]
pub struct Run {
    pub(crate) id: String,
    /// When it began.
    pub start: Instant,
    pub(crate) batch: usize,
    pub(crate) body: Bytes,
    pub(crate) pace: Pace,
    /// Calls that producers may begin: for the backlog as completions make room, else by the clock.
    pub(crate) permits: Semaphore,
    /// Calls begun so far.
    pub(crate) calls: Cell<u64>,
    /// What became of every item.
    pub ledger: RefCell<Ledger>,
    /// How long calls took.
    pub latencies: RefCell<Latencies>,
    /// Calls in flight that producers make, at most.
    pub producers: Cell<usize>,
    /// Calls in flight that workers make, at most.
    pub workers: Cell<usize>,
    /// Told whenever the run may be over.
    pub progress: Notify,
    /// Workers finish what they hold and take no more.
    pub(crate) workers_stop: Cell<bool>,
    /// Enqueue calls that take longer are remembered one by one.
    slow_after: Duration,
    slow_calls: RefCell<Vec<CallTime>>,
    /// Items of other runs that were taken away.
    pub(crate) others_completed: Cell<u64>,
    completed_since_permit: Cell<usize>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Run {
    /// A run that begins now.
    pub(crate) fn new(batch: usize, size: usize, pace: Pace, slow_after: Duration) -> Self {
        Self {
            id: run_id(),
            start: Instant::now(),
            batch,
            body: (0..size)
                .map(|at| b'a' + u8::try_from(at % 26).unwrap_or(0))
                .collect(),
            pace,
            permits: Semaphore::new(match pace {
                Pace::Backlog(calls) => calls,
                Pace::Unbounded => Semaphore::MAX_PERMITS,
                Pace::Period(_) => 0,
            }),
            calls: Cell::new(0),
            ledger: RefCell::default(),
            latencies: RefCell::new(Latencies {
                enqueue: latency_histogram(),
                lease: latency_histogram(),
                complete: latency_histogram(),
            }),
            producers: Cell::new(0),
            workers: Cell::new(0),
            progress: Notify::new(),
            workers_stop: Cell::new(false),
            slow_after,
            slow_calls: RefCell::default(),
            others_completed: Cell::new(0),
            completed_since_permit: Cell::new(0),
            errors: Cell::new(0),
            first_error: RefCell::new(None),
        }
    }

    /// Time since the run began, µs.
    pub(crate) fn us(&self, instant: Instant) -> u32 {
        let since = instant.saturating_duration_since(self.start);
        u32::try_from(since.as_micros()).unwrap_or(u32::MAX)
    }

    /// Forgets how long calls took so far.
    pub fn reset_latencies(&self) {
        let mut latencies = self.latencies.borrow_mut();
        let Latencies {
            enqueue,
            lease,
            complete,
        } = &mut *latencies;
        for histogram in [enqueue, lease, complete] {
            histogram.reset();
        }
    }

    /// Items left the backlog.
    pub(crate) fn leave_backlog(&self, items: usize) {
        if let Pace::Backlog(_) = self.pace {
            let items = self.completed_since_permit.get() + items;
            self.permits.add_permits(items / self.batch);
            self.completed_since_permit.set(items % self.batch);
        }
        if self.permits.is_closed() {
            self.progress.notify_one();
        }
    }

    /// Remembers an enqueue call if it was slow.
    pub(crate) fn enqueue_took(&self, call: CallTime) {
        let mut calls = self.slow_calls.borrow_mut();
        if call.ended - call.began > self.slow_after && calls.len() < SLOW_CALLS_MAX {
            calls.push(call);
        }
    }

    /// The enqueue calls that were slow, by their end; at most a million.
    pub fn slow_calls(&self) -> Vec<CallTime> {
        self.slow_calls.borrow().clone()
    }

    /// Counts an error; the first one is kept to be shown.
    pub fn error(&self, what: impl FnOnce() -> String) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(what);
    }

    /// Counts a failed call; whether the connection can go on.
    pub(crate) fn call_failed(&self, doing: &str, error: &CallError) -> bool {
        match error {
            CallError::Refused(error) => {
                self.error(|| format!("{doing}: {error}"));
                true
            }
            CallError::Broken(words) => {
                self.error(|| format!("{doing}: the connection failed: {words}"));
                false
            }
        }
    }

    /// Completions so far, those of items that other runs left behind among them.
    pub fn all_completed(&self) -> u64 {
        self.ledger.borrow().completed() + self.others_completed.get()
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// The first error.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.borrow().clone()
    }
}

/// One that takes part in a run: it is counted from when it is made, before its task first runs,
/// until it is dropped.
pub(crate) struct Present {
    run: Rc<Run>,
    count: fn(&Run) -> &Cell<usize>,
}

impl Present {
    /// A call in flight of a producer's.
    pub(crate) fn producer(run: &Rc<Run>) -> Self {
        Self::new(run, |run| &run.producers)
    }

    /// A call in flight of a worker's.
    pub(crate) fn worker(run: &Rc<Run>) -> Self {
        Self::new(run, |run| &run.workers)
    }

    fn new(run: &Rc<Run>, count: fn(&Run) -> &Cell<usize>) -> Self {
        let run = Rc::clone(run);
        count(&run).set(count(&run).get() + 1);
        Self { run, count }
    }

    pub(crate) fn run(&self) -> &Run {
        &self.run
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let count = (self.count)(&self.run);
        count.set(count.get() - 1);
        self.run.progress.notify_one();
    }
}

/// A name that no other run has: time and process.
#[allow(
    clippy::disallowed_methods,
    reason = "a load generator is a driver and reads clocks"
)]
fn run_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "{:x}.{:x}",
        now.unwrap_or_default().as_nanos(),
        std::process::id()
    )
}
