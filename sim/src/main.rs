//! `sim`: runs seeds and says which rule a seed breaks.

use std::io::{IsTerminal, Write, stderr};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use omnirelay_sim::finding::{run_aging, run_backlog, run_light};
use omnirelay_sim::runner::{Range, SEEDS_FOR_ALL_FAULTS, Summary, all_jobs, run};
use omnirelay_sim::suite::{run_crashed_at, run_seed};

/// Runs simulated nodes and checks every reply and every record.
///
/// Exits 0 if no rule was broken and, from 1,000 seeds on, every kind of fault happened; 1 if not.
///
/// Example: cargo run --release -p sim -- --seeds 100000
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = SEEDS_FOR_ALL_FAULTS)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run only this one and print its every step.
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs", "keep_going", "every_step", "finding"])]
    seed: Option<u64>,
    /// With --seed: print only what it came to.
    #[arg(short, long, requires = "seed")]
    quiet: bool,
    /// Threads to run seeds on; all CPUs unless given.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Go on after a seed that breaks a rule.
    #[arg(long)]
    keep_going: bool,
    /// Instead: crash a short run before its every event, for this many seeds.
    #[arg(long, value_name = "SEEDS")]
    every_step: Option<u64>,
    /// Instead: how soon work is found on other cores, for this many seeds.
    #[arg(long, value_name = "SEEDS", conflicts_with = "every_step")]
    finding: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let is_good = match (args.seed, args.every_step, args.finding) {
        (Some(seed), ..) => replay(seed, args.quiet),
        (_, Some(seeds), _) => crash_at_every_step(args.from, seeds),
        (.., Some(seeds)) => find_work(args.from, seeds),
        _ => run_range(Range {
            from: args.from,
            seeds: args.seeds,
            jobs: args.jobs.unwrap_or_else(all_jobs),
            keep_going: args.keep_going,
        }),
    };
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(seed: u64, quiet: bool) -> bool {
    let report = run_seed(seed, !quiet);
    print!("{}", report.hits);
    println!(
        "seed {seed}: {} events, {} replies",
        report.events, report.replies
    );
    match &report.violation {
        Some(violation) => println!("event {}: {violation}", report.events),
        None => println!("no rule broken"),
    }
    report.violation.is_none()
}

fn run_range(range: Range) -> bool {
    let mut progress = Progress::new(range.seeds);
    let summary = run(range, &mut |so_far| progress.show(so_far));
    progress.clear();
    for failure in &summary.failures {
        let (seed, event) = (failure.seed, failure.event);
        println!("seed {seed}, event {event}: {}", failure.violation);
        println!("  again: cargo run --release -p sim -- --seed {seed}");
    }
    print!("{}", summary.hits);
    println!(
        "{} seeds from {} in {:.1} s, {} events, {} replies, {} failed",
        summary.seeds,
        range.from,
        progress.began.elapsed().as_secs_f64(),
        summary.events,
        summary.replies,
        summary.failures.len()
    );
    let missing = summary.missing();
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    summary.is_good()
}

fn crash_at_every_step(from: u64, seeds: u64) -> bool {
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
                return false;
            }
        }
    }
    println!("{seeds} seeds from {from}, {runs} runs, each with a crash at another event");
    true
}

fn find_work(from: u64, seeds: u64) -> bool {
    let (mut waits_ns, mut passed, mut aged_ns) = (Vec::new(), Vec::new(), Vec::new());
    for seed in from..from.saturating_add(seeds) {
        let found = run_light(seed)
            .map(|waits| waits_ns.extend(waits))
            .and_then(|()| run_backlog(seed).map(|takes| passed.extend(takes)))
            .and_then(|()| run_aging(seed).map(|took| aged_ns.push(took)));
        if let Err(violation) = found {
            println!("seed {seed}: {violation}");
            return false;
        }
    }
    waits_ns.sort_unstable();
    let ms = |ns: u64| ns as f64 / 1e6;
    let quantile = |share: f64| {
        let at = (share * waits_ns.len() as f64) as usize;
        waits_ns
            .get(at)
            .or(waits_ns.last())
            .map_or(0.0, |&ns| ms(ns))
    };
    println!(
        "{} items at light load: acknowledged to handed out p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        waits_ns.len(),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0),
    );
    println!(
        "{} items behind a backlog on another core: passed by at most {} takes",
        passed.len(),
        passed.iter().max().unwrap_or(&0)
    );
    println!(
        "{} items of lower priority on another core: at most {:.0} ms",
        aged_ns.len(),
        aged_ns.iter().max().map_or(0.0, |&ns| ms(ns))
    );
    true
}

/// A line on the terminal that says how far it is; nothing elsewhere.
struct Progress {
    began: Instant,
    shown: Option<Instant>,
    seeds: u64,
    is_terminal: bool,
}

/// How often the line is written anew.
const SHOW_EVERY: Duration = Duration::from_millis(200);

impl Progress {
    fn new(seeds: u64) -> Progress {
        Progress {
            began: Instant::now(),
            shown: None,
            seeds,
            is_terminal: stderr().is_terminal(),
        }
    }

    fn show(&mut self, so_far: &Summary) {
        let is_early = self.shown.is_some_and(|shown| shown.elapsed() < SHOW_EVERY);
        if !self.is_terminal || is_early {
            return;
        }
        let took = self.began.elapsed();
        self.shown = Some(self.began + took);
        let rate = so_far.seeds as f64 / took.as_secs_f64().max(0.001);
        let left = (self.seeds - so_far.seeds) as f64 / rate.max(0.001);
        eprint!(
            "\r\x1b[K{} of {} seeds, {rate:.0} a second, {left:.0} s left, {} faults, {} failed",
            so_far.seeds,
            self.seeds,
            so_far.hits.total(),
            so_far.failures.len()
        );
        // A line that cannot be shown is no reason to stop.
        let _ = stderr().flush();
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
