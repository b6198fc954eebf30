//! OmniRelay at a fixed rate, beside what the device takes for a small durable write.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use omnirelay_loadgen::Latency;

use super::device;
use super::results::OpenRun;
use super::rows::{Row, Timing};
use super::sides::Side;
use super::sides::omnirelay::{self, Running, Work};

/// How long the device is measured before each run, and again behind it.
const SYNC_TIME: Duration = Duration::from_millis(500);

/// What of the highest rate it is.
pub(crate) const RATE_SHARE: f64 = 0.3;

/// One run at so many items a second.
///
/// # Errors
/// If it fails, or an item that was acknowledged did not come and go exactly once.
pub(crate) async fn run(
    side: Side,
    dir: &Path,
    row: Row,
    size: usize,
    timing: Timing,
    rate: f64,
) -> anyhow::Result<OpenRun> {
    let way = side.way(row).context("only OmniRelay has an open loop")?;
    let dir = tempfile::tempdir_in(dir)?;
    let syncs = || device::sync_times(dir.path(), SYNC_TIME.min(timing.duration));
    let mut sync_us = syncs()?;
    let server = omnirelay::start(&dir.path().join("data"), Vec::new()).await?;
    let work = Work {
        rate: Some(rate),
        ..Work::default()
    };
    let run = omnirelay::measure(&Running::from(&server), way, row, size, timing, work).await;
    let run = run.with_context(|| format!("{} at {rate:.0} items/s", side.name()))?;
    sync_us.add(syncs()?).expect("all have the same bounds");
    Ok(OpenRun {
        cycles_per_s: run.measured.cycles_per_s(),
        enqueue_us: Latency::from(&run.latencies.enqueue),
        sync_us: Latency::from(&sync_us),
    })
}
