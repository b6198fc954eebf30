//! How fast a log is opened: read, verified and handed out record by record.
//!
//! `cargo bench -p bench --bench open -- 2` for 2 GiB; with `cold` behind it, the log is
//! dropped from the page cache before each run.

use std::path::Path;
use std::time::Instant;

use omnirelay_wal::{Fill, LogOptions, RealDisk, RecordHeader, open};

/// How often each log is opened.
const RUNS: usize = 5;
/// Batches that are put into one write, so that making the log does not take for ever.
const BATCH_BYTES: usize = 64 << 10;

fn main() {
    let gib = std::env::args().find_map(|arg| arg.parse::<u64>().ok());
    let bytes = gib.unwrap_or(1) << 30;
    let cold = std::env::args().any(|arg| arg == "cold");
    for body_bytes in [100, 1_000, 30_000] {
        let dir = tempfile::tempdir_in(".").expect("a directory on the disk to be measured");
        write(dir.path(), bytes, body_bytes);
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            if cold {
                forget(dir.path());
            }
            let (started, cpu) = (Instant::now(), cpu_seconds());
            let records = replay(dir.path());
            let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            rates.push((bytes as f64 / wall, bytes as f64 / cpu.max(0.001), records));
        }
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (wall, cpu, records) = rates[RUNS / 2];
        println!(
            "bodies of {body_bytes:>6} B, {records:>9} records: {:.2} GB/s, {:.2} GB a CPU second",
            wall / 1e9,
            cpu / 1e9
        );
    }
}

fn write(path: &Path, bytes: u64, body_bytes: usize) {
    let mut opened = opened(path, &mut 0);
    let body = vec![7_u8; body_bytes];
    let (mut written, mut lsn) = (0, 0);
    while written < bytes {
        if !opened.appender.fits(body_bytes) {
            let spare = opened.allocator.allocate(Fill::Reserved);
            opened.appender.handle_spare(spare.expect("disk space"));
        }
        lsn += 1;
        let header = RecordHeader {
            shard: 0,
            epoch: 1,
            lsn,
            at: lsn,
            kind: 2,
        };
        opened
            .appender
            .append(&header, body_bytes, |out| out.extend_from_slice(&body));
        if opened.appender.open_bytes() >= BATCH_BYTES {
            opened.appender.seal();
        }
        while let Some(batch) = opened.appender.poll_batch() {
            opened.writer.write(&batch).expect("a sound disk");
            written += batch.disk_bytes() as u64;
            let number = batch.number;
            drop(batch);
            opened.appender.handle_synced(number);
        }
    }
    opened.writer.close().expect("a sound disk");
}

/// Drops the log's files from the page cache.
fn forget(path: &Path) {
    for file in std::fs::read_dir(path).expect("a directory") {
        let file = file.expect("an entry").path();
        let mut of = std::ffi::OsString::from("of=");
        of.push(file);
        let dropped = std::process::Command::new("dd")
            .arg(of)
            .args([
                "oflag=nocache",
                "conv=notrunc,fdatasync",
                "count=0",
                "status=none",
            ])
            .status();
        assert!(dropped.expect("dd").success());
    }
}

/// Opens the log; how many records it has.
fn replay(path: &Path) -> u64 {
    let mut sum = 0;
    let opened = opened(path, &mut sum);
    assert!(sum > 0);
    opened.recovery.records
}

fn opened(path: &Path, sum: &mut u64) -> omnirelay_wal::Opened<RealDisk> {
    let mut entropy = 0;
    let disk = RealDisk::open(path).expect("a disk");
    let options = LogOptions::default();
    let opened = open(
        disk,
        options,
        &mut || {
            entropy += 1;
            entropy
        },
        &mut |header, _, body| {
            // What a shard at least does: looks at the record's start and end.
            let ends = body.first().zip(body.last());
            *sum += ends.map_or(0, |(first, last)| u64::from(*first) + u64::from(*last));
            *sum += header.lsn;
            Ok(())
        },
    );
    opened.expect("a sound log")
}

/// Seconds of CPU that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let mut ticks = fields.split(' ').skip(11).take(2);
    let mut next = || ticks.next().and_then(|n| n.parse::<f64>().ok());
    (next().expect("user time") + next().expect("system time")) / 100.0
}
