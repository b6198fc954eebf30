//! How soon work is found on other cores.

use omnirelay_sim::finding::{run_aging, run_backlog, run_light};

const SEEDS: u64 = 100;

#[test]
fn a_worker_on_any_core_gets_what_is_enqueued_on_any_other_within_10_ms() {
    for seed in 0..SEEDS {
        run_light(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[test]
fn a_local_backlog_hides_an_item_elsewhere_for_no_more_than_8_takes_a_log() {
    for seed in 0..SEEDS {
        run_backlog(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

#[test]
fn an_item_of_low_priority_elsewhere_gets_its_turn_by_waiting() {
    for seed in 0..SEEDS {
        run_aging(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}
