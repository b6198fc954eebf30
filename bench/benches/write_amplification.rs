//! Bytes that reach the device for each byte of records, in batches as a loaded node writes them.
//! Counts from `/proc/diskstats`, so nothing else should be writing to that disk.
//!
//! `cargo bench -p bench --bench write_amplification`

use std::os::linux::fs::MetadataExt;
use std::path::Path;

use omnirelay_wal::{Fill, LogOptions, RealDisk, RecordHeader, open};

/// What one run writes.
const RECORD_BYTES: usize = 256;
const BATCHES: u64 = 2_000;

fn main() {
    let dir = tempfile::tempdir_in(".").expect("a directory on the disk to be measured");
    for records in [1_u64, 16, 64, 256, 1_024] {
        let path = dir.path().join(records.to_string());
        std::fs::create_dir(&path).expect("a directory");
        let (payload, device) = write(&path, records);
        let Some(device) = device else {
            println!("this disk's writes are not in /proc/diskstats");
            return;
        };
        println!(
            "{records:>5} records of {RECORD_BYTES} B a batch: {payload:>11} B of records, {device:>11} B on the device, {:.2}x",
            device as f64 / payload as f64
        );
    }
}

/// Writes batches of `records` records; returns bytes of records and bytes on the device.
fn write(path: &Path, records: u64) -> (u64, Option<u64>) {
    let mut entropy = 0;
    let mut opened = open(
        RealDisk::open(path).expect("a disk"),
        LogOptions {
            segment_bytes: 1 << 30,
            ..LogOptions::default()
        },
        &mut || {
            entropy += 1;
            entropy
        },
        &mut |_, _, _| Ok(()),
    )
    .expect("a fresh log");
    opened.appender.handle_spare(
        opened
            .allocator
            .allocate(Fill::Zeros)
            .expect("a GiB of disk space"),
    );
    let body = [7_u8; RECORD_BYTES];
    let before = sectors_written(path);
    let mut lsn = 0;
    for _ in 0..BATCHES {
        for _ in 0..records {
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
                .append(&header, body.len(), |out| out.extend_from_slice(&body));
        }
        opened.appender.seal();
        let batch = opened.appender.poll_batch().expect("a sealed batch");
        opened.writer.write(&batch).expect("a sound disk");
        let number = batch.number;
        drop(batch);
        opened.appender.handle_synced(number);
    }
    let after = sectors_written(path);
    let payload = lsn * (RECORD_BYTES + omnirelay_wal::RECORD_HEADER_BYTES) as u64;
    (
        payload,
        before
            .zip(after)
            .map(|(before, after)| (after - before) * 512),
    )
}

/// Sectors of 512 bytes ever written to the device that holds `path`.
fn sectors_written(path: &Path) -> Option<u64> {
    let device = std::fs::metadata(path).ok()?.st_dev();
    // As the kernel's macros split a device number.
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    stats.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_it = fields.next()?.parse() == Ok(major) && fields.next()?.parse() == Ok(minor);
        is_it.then(|| fields.nth(7)?.parse().ok()).flatten()
    })
}
