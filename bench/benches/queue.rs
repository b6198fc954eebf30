//! The lease queue alone: one cycle is an enqueue, a lease and a completion,
//! and the time told as a core does, once every few cycles.
//!
//! `places` has a log that only hands out places: what the queue itself costs,
//! with nothing, a million and ten million items waiting already. `encoded`
//! has the records encoded into memory. Times are the thread's CPU time, so
//! that what else the machine does hardly counts.
//!
//! `cargo bench -p bench --bench queue`

mod thread_time;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use omnirelay_queue::{
    Attributes, LeaseWish, Log, Nanos, NewItem, Options, PayloadRef, Place, Record, Secret, Shard,
    ShardId, ShardSpec,
};
use thread_time::ThreadTime;

const WISH: LeaseWish<'_> = LeaseWish {
    owner: "worker",
    lease: None,
    partition_key: None,
};

/// Cycles between two calls of `handle_time`.
const CYCLES_A_TURN: u64 = 8;

/// Nanoseconds that a cycle moves the clock by.
const CYCLE_NANOS: u64 = 200;

/// Hands out places.
#[derive(Default)]
struct Places {
    offset: u32,
}

impl Log for Places {
    fn append(&mut self, record: &Record<'_>) -> Place {
        black_box(record);
        self.offset = self.offset.wrapping_add(1);
        Place {
            segment: 1,
            offset: self.offset,
        }
    }
}

/// Keeps the encoding of records honest and their storage out of the measurement.
#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    places: Places,
}

impl Log for Encoder {
    fn append(&mut self, record: &Record<'_>) -> Place {
        self.bytes.clear();
        record.event.encode(&mut self.bytes);
        black_box(&self.bytes);
        self.places.append(record)
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

fn cycles(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("cycle");
    group.sample_size(20);
    for waiting in [0, 1_000_000, 10_000_000] {
        cycle(&mut group, "places", Places::default(), waiting);
    }
    cycle(&mut group, "encoded", Encoder::default(), 0);
}

fn cycle(group: &mut BenchmarkGroup<'_, ThreadTime>, name: &str, mut log: impl Log, waiting: u64) {
    let body = [7; 256];
    let mut now = Nanos(1_790_000_000_000_000_000);
    // Filled when the benchmark is really run, and once.
    let mut shard = None;
    let mut turn = 0;
    group.bench_function(BenchmarkId::new(name, waiting), |b| {
        let shard = shard.get_or_insert_with(|| filled(now, &item(&body), waiting, &mut log));
        b.iter(|| {
            now.0 += CYCLE_NANOS;
            turn += 1;
            if turn % CYCLES_A_TURN == 0 {
                shard.handle_time(now, &mut log, 64);
            }
            shard
                .handle_enqueue(now, black_box(&item(&body)), &mut log)
                .outcome
                .expect("there is room");
            let grant = shard
                .handle_lease(now, black_box(&WISH), &mut log)
                .expect("an item waits");
            shard
                .handle_complete(now, black_box(&grant.outcome.token), &mut log)
                .outcome
                .expect("the lease is live");
        });
    });
}

fn filled(now: Nanos, item: &NewItem<'_>, waiting: u64, log: &mut impl Log) -> Shard {
    let spec = ShardSpec {
        shard: ShardId(0),
        index: 0,
        count: 1,
        secret: Secret([1; 16]),
        origin: [0; 16],
    };
    let options = Options {
        capacity: waiting + 1,
        ..Options::default()
    };
    let mut shard = Shard::new(spec, options);
    let _ = shard.handle_open(now, 0, log);
    for _ in 0..waiting {
        let enqueued = shard.handle_enqueue(now, item, log).outcome;
        enqueued.expect("there is room");
    }
    shard
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = cycles
}
criterion_main!(benches);
