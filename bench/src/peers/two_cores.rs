//! OmniRelay on two cores beside itself on one, at the same rate.

use std::path::Path;

use anyhow::Context;

use super::figures::Measured;
use super::results::TwoCoresRun;
use super::rows::{Row, Timing};
use super::sides::Side;
use super::sides::omnirelay::{self, Running, Work};

/// What of the highest rate of one core it is: the client shares a CPU with the second one, and
/// nothing is to be short of CPU time.
pub(crate) const RATE_SHARE: f64 = 1.0 / 3.0;

/// One run on one core, and one on two.
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
) -> anyhow::Result<TwoCoresRun> {
    let measured = async |cores: u16| -> anyhow::Result<Measured> {
        let way = side.way(row).context("only OmniRelay has cores")?;
        let dir = tempfile::tempdir_in(dir)?;
        let server = omnirelay::start_on(cores, &dir.path().join("data"), Vec::new()).await?;
        let work = Work {
            rate: Some(rate),
            ..Work::default()
        };
        let run = omnirelay::measure(&Running::from(&server), way, row, size, timing, work).await;
        let run = run.with_context(|| format!("{cores} cores at {rate:.0} items/s"))?;
        Ok(run.measured)
    };
    Ok(TwoCoresRun {
        one: measured(1).await?,
        two: measured(2).await?,
    })
}
