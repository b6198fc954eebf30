//! Enqueue alone.

use omnirelay_loadgen::{Load, Pace, Run};

use super::meter::{ITEMS, Meter};
use super::probe::{self, Probe};
use super::{Failure, Setting, lease_load};
use crate::args::EnqueueOnlyArgs;
use crate::report::{Figure, ItemCounts, Report, Verdict};

pub(super) async fn run(args: &EnqueueOnlyArgs, mut setting: Setting) -> Result<Report, Failure> {
    lease_load::allow_files(&args.shape)?;
    let mut probe = Probe::open(&setting.target).await?;
    let before = counted(&mut probe, &setting).await?;
    let pace = match args.rate {
        None => Pace::Unbounded,
        Some(rate) => lease_load::at_rate(&args.shape, rate),
    };
    let mut load = Load::open(&setting.target, args.shape.shape(), pace).await?;
    let meter = Meter::start(setting.server);
    load.start_producers()?;
    let run = load.run();
    setting.measure_enqueues(run, args.duration).await;
    let items = run.ledger.borrow().acknowledged();
    let measured = meter.stop();
    let steps = lease_load::steps(run, ["enqueue", "lease", "complete"])
        .into_iter()
        .take(1)
        .collect();
    load.stop_producers();
    let verdict = if args.leave {
        setting.settle(load.run(), args.drain.drain).await;
        let after = counted(&mut probe, &setting).await?;
        left_behind(load.run(), after.saturating_sub(before))
    } else {
        load.start_workers()?;
        let interrupted = setting.drain(load.run(), args.drain.drain).await;
        if !interrupted && load.run().ledger.borrow().unfinished() == 0 {
            probe.wait_until_empty(load.run()).await;
        }
        lease_load::verdict(load.run())
    };
    load.close().await;
    probe.close().await;
    Ok(Report {
        rates: vec![Figure::real(
            "items_per_s",
            "items/s",
            measured.per_s(items),
            0,
        )],
        steps,
        verdict,
        costs: measured.cpu(items, &ITEMS),
    })
}

/// Items that wait for a worker.
async fn counted(probe: &mut Probe, setting: &Setting) -> Result<u64, Failure> {
    let stats = probe.settled_stats().await;
    let stats = stats.map_err(|error| probe::of_call(&setting.target, error))?;
    Ok(stats.pending_count + stats.delayed_count)
}

/// What can be said of items that stay: how many of them are there.
fn left_behind(run: &Run, grown: u64) -> Verdict {
    let acknowledged = run.ledger.borrow().acknowledged();
    if grown > acknowledged {
        run.error(|| format!("the queue has grown by {grown} items, not by {acknowledged}"));
    }
    Verdict {
        errors: run.errors(),
        first_error: run.first_error(),
        items: Some(ItemCounts {
            acknowledged,
            duplicates: 0,
            lost: acknowledged.saturating_sub(grown),
        }),
    }
}
