//! The suite: a fixed range of seeds, and a crash at every step of short runs.

use omnirelay_sim::runner::{Range, SEEDS_FOR_ALL_FAULTS, all_jobs, run};
use omnirelay_sim::suite::{run_crashed_at, run_ordered, run_seed};

#[test]
fn no_seed_breaks_a_rule_and_every_fault_happens() {
    let range = Range {
        from: 0,
        seeds: SEEDS_FOR_ALL_FAULTS,
        jobs: all_jobs(),
        keep_going: false,
    };
    let summary = run(range, &mut |_| ());
    if let Some(failure) = summary.failures.first() {
        let (seed, event) = (failure.seed, failure.event);
        panic!(
            "seed {seed}, event {event}: {}\nagain: cargo run --release -p sim -- --seed {seed}",
            failure.violation
        );
    }
    assert_eq!(
        summary.missing(),
        Vec::<&str>::new(),
        "faults that never happened in {SEEDS_FOR_ALL_FAULTS} seeds"
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
