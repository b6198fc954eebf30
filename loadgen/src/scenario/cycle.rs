//! Enqueue, lease, complete.

use omnirelay_loadgen::Load;

use super::meter::{CYCLES, Meter};
use super::probe::Probe;
use super::{Failure, Setting, lease_load};
use crate::args::CycleArgs;
use crate::report::{Figure, Report};

pub(super) async fn run(args: &CycleArgs, mut setting: Setting) -> Result<Report, Failure> {
    lease_load::allow_files(&args.shape)?;
    let mut probe = Probe::open(&setting.target).await?;
    let pace = match args.rate {
        None => lease_load::short_queue(&args.shape),
        Some(rate) => lease_load::at_rate(&args.shape, rate),
    };
    let mut load = Load::open(&setting.target, args.shape.shape(), pace).await?;
    let meter = Meter::start(setting.server);
    load.start_workers()?;
    load.start_producers()?;
    let run = load.run();
    let mut interrupted = setting.measure_cycles(run, args.duration).await;
    let cycles = run.ledger.borrow().completed();
    let measured = meter.stop();
    load.stop_producers();
    interrupted |= setting.drain(run, args.drain.drain).await;
    if !interrupted && run.ledger.borrow().unfinished() == 0 {
        probe.wait_until_empty(run).await;
    }
    let report = Report {
        rates: vec![Figure::real(
            "cycles_per_s",
            "cycles/s",
            measured.per_s(cycles),
            0,
        )],
        steps: lease_load::steps(run, ["enqueue", "lease", "complete"]),
        verdict: lease_load::verdict(run),
        costs: measured.cpu(cycles, &CYCLES),
    };
    load.close().await;
    probe.close().await;
    Ok(report)
}
