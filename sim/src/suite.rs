//! Many runs.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::hits::Hits;
use crate::plan::Plan;
use crate::violation::Violation;
use crate::world::{Report, World};

/// Runs one seed. A panic of the node is a violation like any other.
pub fn run_seed(seed: u64, verbose: bool) -> Report {
    guarded(|| World::new(seed, verbose).run())
}

thread_local! {
    /// Some while a run is under way on this thread: what it panicked with.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of runs are kept for the report, with their place; all others are as usual.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_kept = PANIC.with_borrow_mut(|kept| {
                kept.as_mut().map(|text| *text = info.to_string()).is_some()
            });
            if !is_kept {
                usual(info);
            }
        }));
    });
}

fn guarded(run: impl FnOnce() -> Report) -> Report {
    keep_panics();
    PANIC.set(Some(String::new()));
    let report = catch_unwind(AssertUnwindSafe(run));
    let text = PANIC.take().unwrap_or_default();
    report.unwrap_or_else(|_| Report {
        hits: Hits::default(),
        events: 0,
        replies: 0,
        violation: Some(Violation::new("no input makes a node panic", text)),
    })
}

/// A short run of one producer and one worker in which the power fails before the given event.
/// `None` when the run was over before.
pub fn run_crashed_at(seed: u64, cores: u16, logs: u16, event: u64) -> Option<Report> {
    let report = guarded(|| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::quiet(cores, logs, &mut rng);
        let mut world = World::with_plan(plan, rng, false);
        world.crash_at(event);
        world.run()
    });
    (report.violation.is_some() || report.events >= event).then_some(report)
}

/// A run in which one worker drains one core in order.
pub fn run_ordered(seed: u64) -> Report {
    guarded(|| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::ordered(&mut rng);
        World::with_plan(plan, rng, false).run()
    })
}
