//! Many runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

fn guarded(run: impl FnOnce() -> Report) -> Report {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        let violation = Violation::new("no input makes a node panic", text.unwrap_or_default());
        Report {
            hits: Hits::default(),
            events: 0,
            replies: 0,
            violation: Some(violation),
        }
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
