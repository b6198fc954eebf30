//! Cycles beside many waiting items, and without.

use std::time::Instant;

use omnirelay_loadgen::Load;

use super::meter::{CYCLES, Measured, Meter};
use super::probe::{self, Probe};
use super::{Failure, Setting, lease_load};
use crate::args::BacklogArgs;
use crate::report::{Figure, ItemCounts, Report, Step, Verdict};

/// What one of the two measurements found.
struct Part {
    cycles: u64,
    measured: Measured,
    steps: Vec<Step>,
    verdict: Verdict,
    interrupted: bool,
}

pub(super) async fn run(args: &BacklogArgs, mut setting: Setting) -> Result<Report, Failure> {
    lease_load::allow_files(&args.shape)?;
    let mut probe = Probe::open(&setting.target).await?;
    expect_empty(&mut probe, &setting).await?;
    let empty = measure_empty(args, &mut setting, &mut probe).await?;
    if empty.interrupted || !empty.verdict.is_good() {
        probe.close().await;
        return Ok(report(&empty, None));
    }
    let (full, filling) = measure_full(args, &mut setting, &mut probe).await?;
    probe.close().await;
    Ok(report(&empty, Some((&full, filling))))
}

/// Refuses to take a queue for empty that is not.
async fn expect_empty(probe: &mut Probe, setting: &Setting) -> Result<(), Failure> {
    let stats = probe.settled_stats().await;
    let stats = stats.map_err(|error| probe::of_call(&setting.target, error))?;
    let there = stats.pending_count + stats.delayed_count + stats.active_lease_count;
    match there {
        0 => Ok(()),
        _ => Err(Failure::Stopped(format!(
            "the namespace has {there} items already, so nothing can be measured without any\n\
             help: name an empty one with --namespace, or empty it with `omnirelay lease drain`"
        ))),
    }
}

/// Cycles as `cycle` does them.
async fn measure_empty(
    args: &BacklogArgs,
    setting: &mut Setting,
    probe: &mut Probe,
) -> Result<Part, Failure> {
    let pace = lease_load::short_queue(&args.shape);
    let mut load = Load::open(&setting.target, args.shape.shape(), pace).await?;
    let names = ["empty enqueue", "empty lease", "empty complete"];
    let part = cycles(args, setting, probe, &mut load, names).await;
    load.close().await;
    part
}

/// What the filling found: items a second, and the fewest that waited while cycles were measured.
struct Filling {
    items_per_s: f64,
    waiting: u64,
}

async fn measure_full(
    args: &BacklogArgs,
    setting: &mut Setting,
    probe: &mut Probe,
) -> Result<(Part, Filling), Failure> {
    let pace = lease_load::short_queue(&args.shape);
    let mut load = Load::open(&setting.target, args.shape.shape(), pace).await?;
    let began = Instant::now();
    load.start_filling(args.items)?;
    let interrupted = setting.fill(load.run(), args.items).await;
    let filled = load.run().ledger.borrow().acknowledged();
    let items_per_s = filled as f64 / began.elapsed().as_secs_f64();
    if interrupted || filled < args.items {
        let why = match load.run().first_error() {
            Some(error) => error,
            None if interrupted => "it was interrupted".to_owned(),
            None => "the connections ended".to_owned(),
        };
        load.close().await;
        return Err(Failure::Stopped(format!(
            "the queue was not filled, and what came of it is left there: {filled} of {} items: \
             {why}",
            args.items
        )));
    }
    load.run().reset_latencies();
    let names = ["enqueue", "lease", "complete"];
    let part = cycles(args, setting, probe, &mut load, names).await;
    let filling = Filling {
        items_per_s,
        waiting: args.items,
    };
    load.close().await;
    Ok((part?, filling))
}

/// Measures cycles of a load that may have items waiting already, and works everything off.
async fn cycles(
    args: &BacklogArgs,
    setting: &mut Setting,
    probe: &mut Probe,
    load: &mut Load,
    names: [&'static str; 3],
) -> Result<Part, Failure> {
    let meter = Meter::start(setting.server);
    load.start_workers()?;
    load.start_producers()?;
    let run = load.run();
    let mut interrupted = setting.measure_cycles(run, args.duration).await;
    let cycles = run.ledger.borrow().completed();
    let measured = meter.stop();
    let steps = lease_load::steps(run, names);
    load.stop_producers();
    interrupted |= setting.drain(run, args.drain.drain).await;
    if !interrupted && run.ledger.borrow().unfinished() == 0 {
        probe.wait_until_empty(run).await;
    }
    Ok(Part {
        cycles,
        measured,
        steps,
        verdict: lease_load::verdict(run),
        interrupted,
    })
}

fn report(empty: &Part, full: Option<(&Part, Filling)>) -> Report {
    let per_s = |part: &Part| part.measured.per_s(part.cycles);
    let mut rates = vec![Figure::real(
        "empty_cycles_per_s",
        "cycles/s, empty queue",
        per_s(empty),
        0,
    )];
    let Some((full, filling)) = full else {
        return Report {
            rates,
            steps: empty.steps.clone(),
            verdict: empty.verdict.clone(),
            costs: empty.measured.cpu(empty.cycles, &CYCLES),
        };
    };
    rates.extend([
        Figure::real("cycles_per_s", "cycles/s, items waiting", per_s(full), 0),
        Figure::real(
            "ratio",
            "the one to the other",
            per_s(full) / per_s(empty),
            3,
        ),
        Figure::count("waiting", "items waiting", filling.waiting),
        Figure::real(
            "filled_per_s",
            "items/s while filling",
            filling.items_per_s,
            0,
        ),
    ]);
    Report {
        rates,
        steps: [full.steps.clone(), empty.steps.clone()].concat(),
        verdict: both(&empty.verdict, &full.verdict),
        costs: full.measured.cpu(full.cycles, &CYCLES),
    }
}

fn both(one: &Verdict, other: &Verdict) -> Verdict {
    let (first, second) = (
        one.items.unwrap_or_default(),
        other.items.unwrap_or_default(),
    );
    Verdict {
        errors: one.errors + other.errors,
        first_error: one.first_error.clone().or(other.first_error.clone()),
        items: Some(ItemCounts {
            acknowledged: first.acknowledged + second.acknowledged,
            duplicates: first.duplicates + second.duplicates,
            lost: first.lost + second.lost,
        }),
    }
}
