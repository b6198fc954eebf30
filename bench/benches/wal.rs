//! The log: framing records of 256 bytes into a batch and sealing it, on the core; and writing and
//! syncing a batch, beside it.
//!
//! `append` is CPU time of the thread, `commit` is as long as it takes, most of it the device's.
//!
//! `cargo bench -p bench --bench wal`

mod thread_time;

use std::time::{Duration, Instant};

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omnirelay_wal::{Batch, Fill, LogOptions, Opened, RealDisk, RecordHeader, open};
use tempfile::TempDir;
use thread_time::ThreadTime;

/// Records of a batch.
const BATCHES: [u64; 2] = [1, 64];
const BODY: [u8; 256] = [7; 256];

struct Log {
    opened: Opened<RealDisk>,
    lsn: u64,
    _dir: TempDir,
}

impl Log {
    fn fresh() -> Log {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("a disk");
        let options = LogOptions {
            segment_bytes: 1 << 30,
            ..LogOptions::default()
        };
        let mut entropy = || 1;
        let opened = open(disk, options, &mut entropy, &mut |_, _, _| Ok(()));
        let mut opened = opened.expect("a fresh log");
        let spare = opened.allocator.allocate(Fill::Reserved);
        opened.appender.handle_spare(spare.expect("disk space"));
        Log {
            opened,
            lsn: 0,
            _dir: dir,
        }
    }

    fn fits(&self, records: u64) -> bool {
        self.opened.appender.room() > records * 512 + 8_192
    }

    fn append(&mut self, records: u64) -> Batch {
        let appender = &mut self.opened.appender;
        for _ in 0..records {
            self.lsn += 1;
            let header = RecordHeader {
                shard: 0,
                epoch: 1,
                lsn: self.lsn,
                at: self.lsn,
                kind: 2,
            };
            appender.append(&header, BODY.len(), |out| out.extend_from_slice(&BODY));
        }
        appender.seal();
        appender.poll_batch().expect("a sealed batch")
    }

    fn end(&mut self, batch: Batch) {
        let number = batch.number;
        drop(batch);
        self.opened.appender.handle_synced(number);
    }
}

fn append(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("append");
    for records in BATCHES {
        let mut log = Log::fresh();
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter_custom(|batches| {
                let (mut left, mut total) = (batches, Duration::ZERO);
                while left > 0 {
                    if !log.fits(records) {
                        log = Log::fresh();
                    }
                    let start = ThreadTime.start();
                    while left > 0 && log.fits(records) {
                        left -= 1;
                        let batch = log.append(records);
                        log.end(batch);
                    }
                    total += ThreadTime.end(start);
                }
                total
            });
        });
    }
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    for records in BATCHES {
        let mut log = Log::fresh();
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter_custom(|batches| {
                let mut total = Duration::ZERO;
                for _ in 0..batches {
                    if !log.fits(records) {
                        log = Log::fresh();
                    }
                    let batch = log.append(records);
                    let start = Instant::now();
                    log.opened.writer.write(&batch).expect("a sound disk");
                    total += start.elapsed();
                    log.end(batch);
                }
                total
            });
        });
    }
}

criterion_group! {
    name = on_core;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = append
}
criterion_group!(beside, commit);
criterion_main!(on_core, beside);
