//! The lease queue alone: one cycle of enqueue, lease and complete, its records encoded into
//! memory, with more and less waiting already.
//!
//! `cargo bench -p omnirelay-bench --bench queue`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use omnirelay_queue::{
    Attributes, LeaseWish, Log, Nanos, NewItem, Options, PayloadRef, Place, Record, Secret, Shard,
    ShardId, ShardSpec,
};

const WISH: LeaseWish<'_> = LeaseWish {
    owner: "worker",
    lease: None,
    partition_key: None,
};

/// Keeps the encoding of records honest and their storage out of the measurement.
#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    offset: u32,
}

impl Log for Encoder {
    fn append(&mut self, record: &Record<'_>) -> Place {
        self.bytes.clear();
        record.event.encode(&mut self.bytes);
        black_box(&self.bytes);
        self.offset = self.offset.wrapping_add(1);
        Place {
            segment: 1,
            offset: self.offset,
        }
    }
}

fn item(body: &[u8]) -> NewItem<'_> {
    NewItem {
        payload: PayloadRef {
            resource_type: "table",
            resource_id: "orders",
            partition_key: None,
            encoding: "application/octet-stream",
            body,
            attributes: Attributes::NONE,
            request_id: None,
        },
        delay: Duration::ZERO,
        priority: 0,
        max_attempts: None,
        ttl: None,
        enqueued_by: "",
    }
}

fn cycle(c: &mut Criterion) {
    let body = [7; 256];
    let mut group = c.benchmark_group("cycle");
    group.sample_size(20);
    for waiting in [0_u64, 1_000_000] {
        let spec = ShardSpec {
            shard: ShardId(0),
            index: 0,
            count: 1,
            secret: Secret([1; 16]),
        };
        let mut shard = Shard::new(spec, Options::default());
        let mut log = Encoder::default();
        let mut now = 1_000_000_000_u64;
        let _ = shard.handle_open(Nanos(now), 0, &mut log);
        for _ in 0..waiting {
            let _ = shard.handle_enqueue(Nanos(now), &item(&body), &mut log);
        }
        group.bench_function(BenchmarkId::new("waiting", waiting), |b| {
            b.iter(|| {
                now += 1_000;
                let now = Nanos(now);
                shard.handle_time(now, &mut log, 64);
                shard
                    .handle_enqueue(now, &item(&body), &mut log)
                    .outcome
                    .expect("there is room");
                let grant = shard
                    .handle_lease(now, &WISH, &mut log)
                    .expect("an item waits")
                    .outcome;
                shard
                    .handle_complete(now, &grant.token, &mut log)
                    .outcome
                    .expect("the lease is live");
            });
        });
    }
}

criterion_group!(benches, cycle);
criterion_main!(benches);
