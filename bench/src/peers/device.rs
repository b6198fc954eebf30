//! What one small durable write takes on the device, with nothing in between.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use omnirelay_loadgen::latency_histogram;

const BLOCK_BYTES: usize = 4096;
/// What is written again and again.
const FILE_BLOCKS: usize = 256;

/// Writes 4 KiB and waits for `fdatasync`, again and again for a time; how long each took, µs. The
/// blocks are written beforehand, so that no metadata is in it.
pub(crate) fn sync_times(dir: &Path, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let path = dir.join("fdatasync");
    let measured = sync_times_in(&path, time).with_context(|| path.display().to_string());
    // It may never have been made.
    let _ = std::fs::remove_file(&path);
    measured
}

fn sync_times_in(path: &Path, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&vec![1; FILE_BLOCKS * BLOCK_BYTES], 0)?;
    file.sync_all()?;
    let mut times = latency_histogram();
    let end = Instant::now() + time;
    for block in (0..FILE_BLOCKS).cycle() {
        let began = Instant::now();
        if began > end && !times.is_empty() {
            break;
        }
        file.write_all_at(&[2; BLOCK_BYTES], (block * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        times.saturating_record(us);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_timed_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let times = sync_times(dir.path(), Duration::ZERO).unwrap();
        assert_eq!(times.len(), 1);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
