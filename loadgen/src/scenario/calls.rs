//! Small calls, and how long they take.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_loadgen::{CallError, Caller, intended, latency_histogram, pace};
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::probe;
use crate::progress::Look;
use crate::report::Verdict;

/// How long a caller holds back after a refusal, so that it does not spin.
const REFUSAL_PAUSE: Duration = Duration::from_millis(10);

/// What all callers of a run share.
pub(super) struct Calls {
    start: Instant,
    /// Of an open loop.
    period: Option<Duration>,
    /// Calls that may begin.
    permits: Semaphore,
    begun: Cell<u64>,
    in_flight: Cell<u64>,
    histogram: RefCell<Histogram<u64>>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Calls {
    /// A run that begins now: as fast as the server, or so many calls a second.
    pub(super) fn new(rate: Option<f64>) -> Self {
        let permits = match rate {
            None => Semaphore::MAX_PERMITS,
            Some(_) => 0,
        };
        Self {
            start: Instant::now(),
            period: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            permits: Semaphore::new(permits),
            begun: Cell::default(),
            in_flight: Cell::default(),
            histogram: RefCell::new(latency_histogram()),
            errors: Cell::default(),
            first_error: RefCell::default(),
        }
    }

    /// The open loop's clock, until the run is stopped.
    pub(super) async fn keep_pace(&self) {
        let Some(period) = self.period else {
            return;
        };
        if let Err(error) = pace(&self.permits, self.start, period).await {
            self.error(|| format!("the clock of the open loop failed: {error}"));
            self.stop();
        }
    }

    /// Waits until the next call may begin, and says when it was meant to; `None` once the run is
    /// stopped.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.permits.acquire().await.ok()?.forget();
        let number = self.begun.get();
        self.begun.set(number + 1);
        Some(match self.period {
            Some(period) => intended(self.start, period, number),
            None => Instant::now(),
        })
    }

    /// Makes a call; whether the connection can go on.
    pub(super) async fn make(&self, caller: &mut Caller, began: Instant) -> bool {
        self.in_flight.set(self.in_flight.get() + 1);
        let result = probe::stats(caller).await;
        self.in_flight.set(self.in_flight.get() - 1);
        match result {
            Ok(_) => {
                self.record(began);
                true
            }
            Err(CallError::Refused(error)) => {
                self.error(|| format!("stats: {error}"));
                tokio::time::sleep(REFUSAL_PAUSE).await;
                true
            }
            Err(CallError::Broken(words)) => {
                self.error(|| format!("stats: the connection failed: {words}"));
                false
            }
        }
    }

    fn record(&self, began: Instant) {
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.histogram.borrow_mut().saturating_record(took_us);
    }

    /// Lets no more calls begin.
    pub(super) fn stop(&self) {
        self.permits.close();
    }

    /// Counts an error; the first one is kept to be shown.
    pub(super) fn error(&self, what: impl FnOnce() -> String) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(what);
    }

    /// Calls that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.histogram.borrow().len()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    pub(super) fn histogram(&self) -> Histogram<u64> {
        self.histogram.borrow().clone()
    }

    pub(super) fn look(&self) -> Look {
        Look {
            done: self.answered(),
            in_flight: self.in_flight.get(),
            p99_us: self.histogram.borrow().value_at_quantile(0.99),
            errors: self.errors.get(),
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        Verdict {
            errors: self.errors.get(),
            first_error: self.first_error.borrow().clone(),
            items: None,
        }
    }
}

/// Waits until a time, or Ctrl-C.
pub(super) async fn wait_until(end: Instant, interrupt: &mut Signal) {
    tokio::select! {
        () = tokio::time::sleep_until(end) => {}
        _ = interrupt.recv() => {}
    }
}
