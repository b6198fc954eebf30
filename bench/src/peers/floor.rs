//! What a cycle costs however fast a queue is: QUIC, TLS, the kernel and the device.

use std::path::Path;

use anyhow::Context;

use super::bare::Bare;
use super::figures::Measured;
use super::rows::{Row, Timing};
use super::sides::Side;
use super::sides::omnirelay::{self, Work};

/// One run of the load that OmniRelay gets over QUIC, with a list in memory behind it.
///
/// # Errors
/// If it fails, or an item that was acknowledged did not come and go exactly once.
pub(crate) async fn run(
    dir: &Path,
    row: Row,
    size: usize,
    timing: Timing,
) -> anyhow::Result<Measured> {
    let dir = tempfile::tempdir_in(dir)?;
    let way = Side::Quic.way(row).expect("OmniRelay has one");
    let mut bare = Bare::start(dir.path(), &["--queue"]).await?;
    let run = omnirelay::measure(&bare.running, way, row, size, timing, Work::default()).await;
    // A server that has ended says more than a connection that has.
    bare.process.check()?;
    Ok(run.context("the floor")?.measured)
}
