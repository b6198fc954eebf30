//! Many seeds on all cores, and what they came to together.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::hits::Hits;
use crate::suite::run_seed;
use crate::violation::Violation;
use crate::world::Report;

/// Seeds after which every kind of fault must have happened.
pub const SEEDS_FOR_ALL_FAULTS: u64 = 1_000;

/// Which seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads to run them on.
    pub jobs: NonZeroUsize,
    /// Go on after a seed that breaks a rule.
    pub keep_going: bool,
}

/// A seed that broke a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The event at which it did.
    pub event: u64,
    /// Which rule.
    pub violation: Violation,
}

/// What a range of seeds came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// How often each fault happened.
    pub hits: Hits,
    /// Events of all runs.
    pub events: u64,
    /// Replies of all runs.
    pub replies: u64,
    /// In the order in which they were found.
    pub failures: Vec<Failure>,
}

impl Summary {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.hits.merge(&report.hits);
        self.events += report.events;
        self.replies += report.replies;
        self.failures
            .extend(report.violation.map(|violation| Failure {
                seed,
                event: report.events,
                violation,
            }));
    }

    /// Kinds of fault that never happened, where so many seeds must have seen all.
    pub fn missing(&self) -> Vec<&'static str> {
        if self.seeds < SEEDS_FOR_ALL_FAULTS {
            return Vec::new();
        }
        self.hits.missing()
    }

    /// Whether nothing was found and everything was tried.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.missing().is_empty()
    }
}

/// As many threads as there are CPUs for this process.
pub fn all_jobs() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Runs a range of seeds. `progress` is told after each; it sees the sum so far.
pub fn run(range: Range, progress: &mut dyn FnMut(&Summary)) -> Summary {
    let next = AtomicU64::new(range.from);
    let stop = AtomicBool::new(false);
    let end = range.from.saturating_add(range.seeds);
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let (reports, done) = mpsc::sync_channel(2 * range.jobs.get());
        for _ in 0..range.jobs.get() {
            let (reports, next, stop) = (reports.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || reports.send((seed, run_seed(seed, false))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        for (seed, report) in done {
            summary.add(seed, report);
            progress(&summary);
            if !summary.failures.is_empty() && !range.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    summary
}
