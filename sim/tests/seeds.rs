//! The suite: a fixed range of seeds, and a crash at every step of short runs.

use omnirelay_sim::hits::Hits;
use omnirelay_sim::suite::{run_crashed_at, run_ordered, run_seed};

/// Seeds of the suite.
const SEEDS: u64 = 1_000;

#[test]
fn no_seed_breaks_a_rule_and_every_fault_happens() {
    let mut hits = Hits::default();
    for seed in 0..SEEDS {
        let report = run_seed(seed, false);
        if let Some(violation) = report.violation {
            panic!(
                "seed {seed}, event {}: {violation}\nagain: cargo run --release -p omnirelay-sim -- --seed {seed} -v",
                report.events
            );
        }
        hits.merge(&report.hits);
    }
    assert_eq!(
        hits.missing(),
        Vec::<&str>::new(),
        "faults that never happened in {SEEDS} seeds"
    );
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        let (one, two) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(
            (one.events, one.replies, one.hits),
            (two.events, two.replies, two.hits),
            "seed {seed}"
        );
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing() {
    for (seed, cores, logs) in [(1, 1, 1), (2, 2, 2)] {
        for event in 1.. {
            let Some(report) = run_crashed_at(seed, cores, logs, event) else {
                break;
            };
            if let Some(violation) = report.violation {
                panic!("seed {seed}, crash before event {event}: {violation}");
            }
        }
    }
}

#[test]
fn one_worker_drains_one_core_in_order() {
    for seed in 0..100 {
        let report = run_ordered(seed);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
