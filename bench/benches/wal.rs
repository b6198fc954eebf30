//! The log's part on the core: framing a record into the open batch, and sealing.
//!
//! `cargo bench -p omnirelay-bench --bench wal`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use omnirelay_wal::{Fill, LogOptions, RealDisk, RecordHeader, open};

/// Records of one batch.
const BATCH: u64 = 64;

fn append(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(dir.path()).expect("a disk");
    let mut entropy = 0;
    let mut opened = open(
        disk,
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
    opened
        .appender
        .handle_spare(opened.allocator.allocate(Fill::Zeros).expect("disk space"));
    let body = [7_u8; 256];
    let mut lsn = 0;
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("64 records of 256 B, written and synced", |b| {
        b.iter(|| {
            if !opened.appender.fits(BATCH as usize * 512) {
                opened
                    .appender
                    .handle_spare(opened.allocator.allocate(Fill::Zeros).expect("disk space"));
            }
            for _ in 0..BATCH {
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
            let number = batch.number;
            opened.writer.write(&batch).expect("a sound disk");
            drop(batch);
            opened.appender.handle_synced(number);
        });
    });
}

criterion_group!(benches, append);
criterion_main!(benches);
