//! What all connections of a run share.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::connection::CallError;
use crate::ledger::Ledger;

/// The longest latency that is told apart, µs.
const LATENCY_US_MAX: u64 = 10 * 60 * 1_000_000;

/// Items that are enqueued and not completed, as a multiple of what the workers hold at most:
/// enough that no worker waits, little enough that the queue stays short.
const BACKLOG_FACTOR: usize = 4;

/// How producers are held to their pace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Closed loop: as fast as the server, with a bounded backlog.
    Backlog,
    /// Open loop: a call every period, whatever the server does.
    Period(Duration),
}

/// Latencies of each step, µs.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) enqueue: Histogram<u64>,
    pub(crate) lease: Histogram<u64>,
    pub(crate) complete: Histogram<u64>,
}

/// A run: its settings and what has become of it so far. Everything is on one thread.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) start: Instant,
    pub(crate) batch: usize,
    pub(crate) body: Bytes,
    pub(crate) pace: Pace,
    /// Calls that producers may begin: for the backlog as completions make room, else by the clock.
    pub(crate) permits: Semaphore,
    /// Calls begun so far.
    pub(crate) calls: Cell<u64>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) latencies: RefCell<Latencies>,
    pub(crate) producers: Cell<usize>,
    pub(crate) workers: Cell<usize>,
    /// Told whenever the run may be over.
    pub(crate) progress: Notify,
    completed_since_permit: Cell<usize>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Run {
    /// A run that begins now. `calls` is how many all workers have in flight.
    pub(crate) fn new(batch: usize, size: usize, pace: Pace, calls: usize) -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants");
        Self {
            id: run_id(),
            start: Instant::now(),
            batch,
            body: (0..size)
                .map(|at| b'a' + u8::try_from(at % 26).unwrap_or(0))
                .collect(),
            pace,
            permits: Semaphore::new(match pace {
                Pace::Backlog => BACKLOG_FACTOR * calls,
                Pace::Period(_) => 0,
            }),
            calls: Cell::new(0),
            ledger: RefCell::default(),
            latencies: RefCell::new(Latencies {
                enqueue: histogram(),
                lease: histogram(),
                complete: histogram(),
            }),
            producers: Cell::new(0),
            workers: Cell::new(0),
            progress: Notify::new(),
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

    /// Items left the backlog.
    pub(crate) fn leave_backlog(&self, items: usize) {
        if let Pace::Backlog = self.pace {
            let items = self.completed_since_permit.get() + items;
            self.permits.add_permits(items / self.batch);
            self.completed_since_permit.set(items % self.batch);
        }
        if self.permits.is_closed() {
            self.progress.notify_one();
        }
    }

    /// Counts an error; the first one is kept to be shown.
    pub(crate) fn error(&self, what: impl FnOnce() -> String) {
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

    /// Errors so far.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// The first error.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.first_error.borrow().clone()
    }
}

/// Counts one more of something, and one less once dropped.
pub(crate) struct Present<'a> {
    count: &'a Cell<usize>,
    progress: &'a Notify,
}

impl<'a> Present<'a> {
    pub(crate) fn new(count: &'a Cell<usize>, progress: &'a Notify) -> Self {
        count.set(count.get() + 1);
        Self { count, progress }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.progress.notify_one();
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
