//! OmniRelay with very many items waiting, and with none.

use std::path::Path;

use anyhow::Context;

use super::rows::{Row, Timing};
use super::sides::Side;
use super::sides::omnirelay::{self, Running, Work};

/// One run: cycles a second with an empty queue, then with so many items in it. All of them come
/// and go.
///
/// # Errors
/// If it fails, or an item that was acknowledged did not come and go exactly once.
pub(crate) async fn run(
    side: Side,
    dir: &Path,
    row: Row,
    size: usize,
    timing: Timing,
    items: u64,
) -> anyhow::Result<[f64; 2]> {
    let way = side.way(row).context("only OmniRelay has a long queue")?;
    let dir = tempfile::tempdir_in(dir)?;
    // Producers are held back below that.
    let capacity = 2 * items.max(1_000_000);
    let settings = vec![format!("namespaces.resourcelease.capacity={capacity}")];
    let server = omnirelay::start(&dir.path().join("data"), settings).await?;
    let mut rates = [0.0; 2];
    for (rate, waiting) in rates.iter_mut().zip([0, items]) {
        let work = Work {
            waiting,
            ..Work::default()
        };
        let run = omnirelay::measure(&Running::from(&server), way, row, size, timing, work).await;
        let run = run.with_context(|| format!("{waiting} items waiting"))?;
        *rate = run.measured.cycles_per_s();
    }
    Ok(rates)
}
