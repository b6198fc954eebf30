//! The parts of a run that puts items through a queue.

use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_loadgen::{Pace, Run};
use tokio::signal::unix::Signal;
use tokio::time::Instant;

use super::Setting;
use crate::args::ShapeArgs;
use crate::progress::{Doing, End, Look};
use crate::report::{ItemCounts, Step, Verdict};

/// Items that are enqueued and not completed, as a multiple of what the workers hold at most:
/// enough that no worker waits, little enough that the queue stays short.
const BACKLOG_FACTOR: usize = 4;

/// The pace at which a queue stays short.
pub(super) fn short_queue(shape: &ShapeArgs) -> Pace {
    let calls_in_flight = shape.pipeline / shape.batch;
    Pace::Backlog(BACKLOG_FACTOR * shape.connections * calls_in_flight)
}

/// Of an open loop.
pub(super) fn at_rate(shape: &ShapeArgs, items_per_s: f64) -> Pace {
    Pace::Period(Duration::from_secs_f64(shape.batch as f64 / items_per_s))
}

/// Files that the connections of producers and workers take.
pub(super) fn allow_files(shape: &ShapeArgs) -> Result<(), super::Failure> {
    super::allow_connections(2 * shape.connections)
}

impl Setting {
    /// Measures cycles for a time; whether Ctrl-C ended it.
    pub(super) async fn measure_cycles(&mut self, run: &Run, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        let doing = Doing {
            what: "measuring",
            unit: "cycles",
            end: End::At(end),
        };
        let before = run.ledger.borrow().completed();
        let look = || {
            let ledger = run.ledger.borrow();
            Look {
                done: ledger.completed() - before,
                in_flight: ledger.unfinished(),
                p99_us: p99_us(&run.latencies.borrow().lease),
                errors: run.errors(),
            }
        };
        let has_workers = || run.producers.get() > 0 && run.workers.get() > 0;
        let measuring = wait_while(run, end, &mut self.interrupt, has_workers);
        self.progress.during(doing, look, measuring).await
    }

    /// Measures enqueues for a time; whether Ctrl-C ended it.
    pub(super) async fn measure_enqueues(&mut self, run: &Run, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        let doing = Doing {
            what: "measuring",
            unit: "items",
            end: End::At(end),
        };
        let look = || enqueued(run);
        let measuring = wait_while(run, end, &mut self.interrupt, || run.producers.get() > 0);
        self.progress.during(doing, look, measuring).await
    }

    /// Waits until `items` are enqueued, or one could not be; whether Ctrl-C ended it.
    pub(super) async fn fill(&mut self, run: &Run, items: u64) -> bool {
        let doing = Doing {
            what: "filling",
            unit: "items",
            end: End::Goal(items),
        };
        let filling = async {
            while run.producers.get() > 0 && run.errors() == 0 {
                tokio::select! {
                    () = run.progress.notified() => {}
                    () = tokio::time::sleep(ERROR_LOOK) => {}
                    _ = self.interrupt.recv() => return true,
                }
            }
            false
        };
        self.progress.during(doing, || enqueued(run), filling).await
    }

    /// Waits until every call of the producers is answered, at most for `patience`.
    pub(super) async fn settle(&mut self, run: &Run, patience: Duration) {
        let end = Instant::now() + patience;
        wait_while(run, end, &mut self.interrupt, || run.producers.get() > 0).await;
        count_unanswered(run);
    }

    /// Waits until every call of the producers is answered and every acknowledged item completed,
    /// as long as some are within each `patience`; whether Ctrl-C ended it. Calls that are not
    /// answered are errors.
    pub(super) async fn drain(&mut self, run: &Run, patience: Duration) -> bool {
        let (before, left) = {
            let ledger = run.ledger.borrow();
            (ledger.completed(), ledger.unfinished())
        };
        let doing = Doing {
            what: "working off",
            unit: "items",
            end: End::Goal(left),
        };
        let look = || {
            let ledger = run.ledger.borrow();
            Look {
                done: ledger.completed() - before,
                in_flight: ledger.unfinished(),
                p99_us: p99_us(&run.latencies.borrow().complete),
                errors: run.errors(),
            }
        };
        let interrupt = &mut self.interrupt;
        let draining = async {
            loop {
                let completed = run.all_completed();
                let is_unfinished =
                    || run.producers.get() > 0 || run.ledger.borrow().unfinished() > 0;
                let goes_on = || is_unfinished() && run.workers.get() > 0;
                let deadline = Instant::now() + patience;
                if wait_while(run, deadline, interrupt, goes_on).await {
                    return true;
                }
                if !goes_on() || run.all_completed() == completed {
                    return false;
                }
            }
        };
        let interrupted = self.progress.during(doing, look, draining).await;
        count_unanswered(run);
        interrupted
    }
}

fn count_unanswered(run: &Run) {
    let unanswered = run.producers.get();
    if unanswered > 0 {
        run.error(|| format!("enqueue: {unanswered} calls were not answered"));
    }
}

/// Between two looks for errors, of which nobody tells.
const ERROR_LOOK: Duration = Duration::from_millis(50);

/// Waits while it goes on, at most until a time; whether Ctrl-C ended it.
async fn wait_while(
    run: &Run,
    end: Instant,
    interrupt: &mut Signal,
    goes_on: impl Fn() -> bool,
) -> bool {
    while goes_on() {
        tokio::select! {
            () = tokio::time::sleep_until(end) => return false,
            _ = interrupt.recv() => return true,
            () = run.progress.notified() => {}
        }
    }
    false
}

fn enqueued(run: &Run) -> Look {
    Look {
        done: run.ledger.borrow().acknowledged(),
        in_flight: run.producers.get() as u64,
        p99_us: p99_us(&run.latencies.borrow().enqueue),
        errors: run.errors(),
    }
}

fn p99_us(histogram: &Histogram<u64>) -> u64 {
    histogram.value_at_quantile(0.99)
}

/// What became of a run's items.
pub(super) fn verdict(run: &Run) -> Verdict {
    let ledger = run.ledger.borrow();
    Verdict {
        errors: run.errors(),
        first_error: run.first_error(),
        items: Some(ItemCounts {
            acknowledged: ledger.acknowledged(),
            duplicates: ledger.duplicates(),
            lost: ledger.unfinished(),
        }),
    }
}

/// The latencies of a cycle's steps, under such names.
pub(super) fn steps(run: &Run, names: [&'static str; 3]) -> Vec<Step> {
    let latencies = run.latencies.borrow();
    let histograms = [&latencies.enqueue, &latencies.lease, &latencies.complete];
    let steps = names.into_iter().zip(histograms);
    steps
        .map(|(name, histogram)| Step {
            name,
            histogram: histogram.clone(),
        })
        .collect()
}
