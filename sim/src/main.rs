//! `omnirelay-sim`: runs seeds and says which rule a seed breaks.

use std::process::ExitCode;

use clap::Parser;
use omnirelay_sim::hits::Hits;
use omnirelay_sim::suite::{run_crashed_at, run_seed};

/// Runs simulated nodes and checks every reply and every record.
///
/// Example: omnirelay-sim --seeds 1000
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step.
    #[arg(short, long)]
    verbose: bool,
    /// Go on after a seed that breaks a rule.
    #[arg(long)]
    keep_going: bool,
    /// Instead: crash a short run before its every event, for this many seeds.
    #[arg(long)]
    every_step: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seeds) = args.every_step {
        return crash_at_every_step(args.from, seeds);
    }
    let (from, seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let mut hits = Hits::default();
    let (mut events, mut replies, mut failed) = (0, 0, 0u64);
    for seed in from..from + seeds {
        let report = run_seed(seed, args.verbose);
        hits.merge(&report.hits);
        events += report.events;
        replies += report.replies;
        if let Some(violation) = report.violation {
            failed += 1;
            println!("seed {seed}, event {}: {violation}", report.events);
            println!("  again: cargo run --release -p omnirelay-sim -- --seed {seed} -v");
            if !args.keep_going {
                break;
            }
        }
    }
    print!("{hits}");
    println!("{seeds} seeds from {from}, {events} events, {replies} replies, {failed} failed");
    let missing = hits.missing();
    if !missing.is_empty() && args.seed.is_none() {
        println!("never happened: {}", missing.join(", "));
    }
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn crash_at_every_step(from: u64, seeds: u64) -> ExitCode {
    let mut runs = 0u64;
    for seed in from..from + seeds {
        let (cores, logs) = [(1, 1), (2, 2), (3, 2)][(seed % 3) as usize];
        for event in 1.. {
            let Some(report) = run_crashed_at(seed, cores, logs, event) else {
                break;
            };
            runs += 1;
            if let Some(violation) = report.violation {
                println!("seed {seed}, crash before event {event}: {violation}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds from {from}, {runs} runs, each with a crash at another event");
    ExitCode::SUCCESS
}
