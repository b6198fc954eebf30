//! Each stage of a call's way through a node, with bodies of 256 bytes, one and 64 items at a time.
//!
//! `decode`, `route`, `ring`, `encode` and `reply` are stages by themselves; deciding and applying
//! is the benchmark `queue`, appending and committing is `wal`. `node` goes the whole way, from
//! frames to frames, without network and disk, and says where a cycle's time goes: the time it
//! gives is that of one cycle (an item is put in, leased and completed) in the stage that is named.
//!
//! All are CPU time of the thread but `ring/there and back`, which takes two.
//!
//! `cargo bench -p bench --bench stages`

mod thread_time;

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use bench::bare_node::{BareNode, Meter, Rounds, SHARDS, Shape, Stage, load};
use bytes::Bytes;
use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omnirelay::node::{Durability, Layout, Message, Namespace, NamespaceId, Watermarks};
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::frame::{Frame, FrameReader};
use omnirelay_net::ring::ring;
use omnirelay_net::rpc::{
    Call, Encoding, Procedure, REQUEST_BYTES_MAX, Request, RequestHead, decode_request,
    encode_call, validate_request,
};
use omnirelay_net::runtime::{self, CoreOptions, Notifier};
use omnirelay_queue::{
    Event, LeaseWish, Log, Nanos, Options, Place, Record, Secret, Shard, ShardId, Token,
};
use thread_time::ThreadTime;

/// Items at a time.
const ITEMS: [usize; 2] = [1, 64];

fn one_call(items: usize) -> Shape {
    Shape { calls: 1, items }
}

/// The calls that put items in, lease and complete them.
fn calls(node: &mut BareNode, items: usize) -> [Call; 3] {
    let shape = one_call(items);
    let only = |mut calls: Vec<Call>| calls.pop().expect("one call");
    let enqueue = only(load::enqueues(shape));
    let lease = only(load::leases(shape));
    node.outcomes(vec![enqueue.clone()]);
    let leased = node.outcomes(vec![lease.clone()]);
    let tokens: Vec<Token> = leased[0].grants.iter().map(|grant| grant.token).collect();
    let complete = only(load::completions(shape, &tokens));
    node.outcomes(vec![complete.clone()]);
    [enqueue, lease, complete]
}

fn name(encoding: Encoding, procedure: Procedure) -> String {
    format!("{} {}", procedure.name(), encoding.name())
}

fn decode(c: &mut Criterion<ThreadTime>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = BareNode::open(dir.path());
    let mut group = c.benchmark_group("decode");
    let head = load::frames(Encoding::Proto, &load::leases(one_call(1)));
    group.bench_function("head", |b| {
        b.iter(|| {
            let mut reader = FrameReader::default();
            reader.push(black_box(head.clone()));
            let frame = reader.next(REQUEST_BYTES_MAX).expect("a frame");
            let frame = Frame::decode(&frame.expect("a whole one")).expect("a frame");
            let Frame::Call(call) = frame else {
                unreachable!("a call was written");
            };
            let head = RequestHead::from_frame(&call, "worker-1", "resourcelease");
            let head = head.expect("a head that says all");
            let procedure = Procedure::parse(&head.procedure).expect("a procedure").1;
            black_box((head, procedure));
        });
    });
    for items in ITEMS {
        group.throughput(Throughput::Elements(items as u64));
        for call in calls(&mut node, items) {
            for encoding in [Encoding::Proto, Encoding::Json] {
                let procedure = call.procedure();
                let body = encode_call(encoding, &call).expect("not raw");
                let id = BenchmarkId::new(name(encoding, procedure), items);
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let request = decode_request(procedure, encoding, black_box(&body));
                        let request = request.expect("a request");
                        validate_request(&request).expect("all is well with it");
                        request
                    });
                });
            }
        }
    }
}

fn route(c: &mut Criterion<ThreadTime>) {
    let namespace = Namespace {
        name: "resourcelease".into(),
        first_shard: ShardId(0),
        shards: SHARDS,
        durability: Durability::Disk,
        options: Options::default(),
        watermarks: Watermarks::of(1_000_000),
        origin: [1; 16],
        secret: Secret([2; 16]),
        skips: false,
    };
    let layout = Layout::new(vec![namespace], 4, 4);
    let mut group = c.benchmark_group("route");
    for items in ITEMS {
        let body = encode_call(Encoding::Proto, &load::enqueues(one_call(items))[0]);
        let procedure = match items {
            1 => Procedure::Enqueue,
            _ => Procedure::EnqueueBatch,
        };
        let request = decode_request(procedure, Encoding::Proto, &body.expect("not raw"));
        let (Ok(Request::Enqueue(read)) | Ok(Request::EnqueueBatch(read))) = request else {
            unreachable!("an enqueue was written");
        };
        group.throughput(Throughput::Elements(items as u64));
        group.bench_function(BenchmarkId::from_parameter(items), |b| {
            b.iter(|| {
                for at in 0..items {
                    let item = black_box(&read).get(at);
                    let payload = item.payload.expect("an item has a payload");
                    let resource = (payload.resource_type, payload.resource_id);
                    let shard = layout.shard_for(NamespaceId(0), None, resource);
                    black_box(layout.core_of(layout.log_of(shard)));
                }
            });
        });
    }
}

fn message() -> Message {
    Message::Decline(NamespaceId(0))
}

fn ring_alone(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("ring");
    let (mut to, mut from) = ring(4_096);
    for messages in ITEMS {
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::new("in and out", messages), |b| {
            b.iter(|| {
                for _ in 0..messages {
                    to.push(black_box(message())).expect("there is room");
                }
                for _ in 0..messages {
                    black_box(from.pop().expect("it was put in"));
                }
            });
        });
    }
}

/// Between two cores that have nothing else to do, and so sleep until they are told.
fn ring_hop(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    for messages in ITEMS {
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::new("there and back", messages), |b| {
            b.iter_custom(|hops| there_and_back(hops, messages));
        });
    }
}

fn there_and_back(hops: u64, messages: usize) -> Duration {
    let (mut to, mut taken) = ring::<Message>(4_096);
    let (mut back, mut from) = ring::<Message>(4_096);
    let (there, mut is_there) = Notifier::pair();
    let (here, mut is_here) = Notifier::pair();
    let left = hops * messages as u64;
    let other = thread::spawn(move || {
        runtime::run(CoreOptions::default(), |_| async move {
            let mut left = left;
            while left > 0 {
                let before = left;
                while let Some(message) = taken.pop() {
                    back.push(message).expect("there is room");
                    left -= 1;
                }
                if left != before {
                    here.notify();
                } else {
                    is_there.notified().await;
                }
            }
        })
    });
    let took = runtime::run(CoreOptions::default(), |_| async move {
        let start = Instant::now();
        for _ in 0..hops {
            for _ in 0..messages {
                to.push(message()).expect("there is room");
            }
            there.notify();
            let mut left = messages;
            while left > 0 {
                match from.pop() {
                    Some(_) => left -= 1,
                    None => is_here.notified().await,
                }
            }
        }
        start.elapsed()
    });
    let ended = other.join().expect("the other core does not panic");
    ended.expect("a core");
    took.expect("a core")
}

/// Keeps what is appended.
#[derive(Default)]
struct Kept(Vec<(u8, Vec<u8>)>);

impl Log for Kept {
    fn append(&mut self, record: &Record<'_>) -> Place {
        let mut body = Vec::new();
        record.event.encode(&mut body);
        self.0.push((record.event.kind(), body));
        Place::default()
    }
}

fn encode_records(c: &mut Criterion<ThreadTime>) {
    let mut kept = Kept::default();
    let now = Nanos(1_790_000_000_000_000_000);
    let spec = omnirelay_queue::ShardSpec {
        shard: ShardId(0),
        index: 0,
        count: 1,
        secret: Secret([1; 16]),
        origin: [0; 16],
    };
    let mut shard = Shard::new(spec, Options::default());
    let _ = shard.handle_open(now, 0, &mut Kept::default());
    let item = omnirelay_queue::NewItem {
        payload: omnirelay_queue::PayloadRef {
            resource_type: "table",
            resource_id: "orders-1",
            partition_key: None,
            encoding: "application/octet-stream",
            body: &[7; load::BODY_BYTES],
            attributes: omnirelay_queue::Attributes::NONE,
            request_id: None,
        },
        delay: Duration::ZERO,
        priority: 0,
        max_attempts: None,
        ttl: None,
        enqueued_by: "",
    };
    let enqueued = shard.handle_enqueue(now, &item, &mut kept).outcome;
    enqueued.expect("there is room");
    let wish = LeaseWish {
        owner: "worker-1",
        lease: None,
        partition_key: None,
    };
    let grant = shard.handle_lease(now, &wish, &mut kept);
    let token = grant.expect("an item waits").outcome.token;
    let completed = shard.handle_complete(now, &token, &mut kept).outcome;
    completed.expect("the lease is live");
    let names = ["enqueued", "leased", "completed"];
    assert_eq!(kept.0.len(), names.len(), "a record of each");
    let mut group = c.benchmark_group("encode");
    let mut batch = Vec::with_capacity(64 << 10);
    for (name, (kind, body)) in names.iter().zip(&kept.0) {
        let event = Event::decode(*kind, body).expect("it was just written");
        for records in ITEMS {
            group.throughput(Throughput::Elements(records as u64));
            group.bench_function(BenchmarkId::new(*name, records), |b| {
                b.iter(|| {
                    batch.clear();
                    for _ in 0..records {
                        black_box(&event).encode(&mut batch);
                    }
                    black_box(&batch);
                });
            });
        }
    }
}

fn reply(c: &mut Criterion<ThreadTime>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = BareNode::open(dir.path());
    let mut group = c.benchmark_group("reply");
    let head = ReplyHead {
        id: 1,
        shard: Some(3),
        ..ReplyHead::default()
    };
    for items in ITEMS {
        let shape = one_call(items);
        let enqueued = node.outcomes(load::enqueues(shape));
        let leased = node.outcomes(load::leases(shape));
        let tokens: Vec<Token> = leased[0].grants.iter().map(|grant| grant.token).collect();
        let completed = node.outcomes(load::completions(shape, &tokens));
        group.throughput(Throughput::Elements(items as u64));
        for (what, outcomes) in [
            ("enqueue", enqueued),
            ("lease", leased),
            ("complete", completed),
        ] {
            let answer = outcomes[0].reply.as_ref().expect("nothing is refused");
            for encoding in [Encoding::Proto, Encoding::Json] {
                let id = BenchmarkId::new(format!("{what} {}", encoding.name()), items);
                group.bench_function(id, |b| {
                    b.iter(|| -> Bytes { encode::reply(&head, encoding, black_box(answer)) });
                });
            }
        }
    }
}

/// The thread's CPU time in one stage.
struct StageTime {
    stage: Stage,
    /// What it takes to look at the clock twice.
    clock: Duration,
    start: Duration,
    total: Duration,
}

impl StageTime {
    fn of(stage: Stage) -> StageTime {
        let mut looks: Vec<Duration> = (0..1_001)
            .map(|_| ThreadTime.end(ThreadTime.start()))
            .collect();
        looks.sort_unstable();
        StageTime {
            stage,
            clock: looks[looks.len() / 2],
            start: Duration::ZERO,
            total: Duration::ZERO,
        }
    }
}

impl Meter for StageTime {
    fn begin(&mut self) {
        self.start = ThreadTime.start();
    }

    fn end(&mut self, stage: Stage) {
        if stage == self.stage {
            self.total += ThreadTime.end(self.start).saturating_sub(self.clock);
        }
    }
}

fn node(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("node");
    let shapes = [(64, 1), (1, 64)].map(|(calls, items)| Shape { calls, items });
    for shape in shapes {
        let dir = tempfile::tempdir().expect("a directory");
        let mut rounds = Rounds::open(dir.path(), shape);
        for stage in [Stage::Decode, Stage::Core, Stage::Log, Stage::Reply] {
            let calls = format!("{} calls of {}", shape.calls, shape.items);
            group.bench_function(BenchmarkId::new(format!("{stage:?}"), calls), |b| {
                b.iter_custom(|cycles| {
                    let mut time = StageTime::of(stage);
                    let count = cycles.div_ceil(shape.cycles() as u64);
                    for _ in 0..count {
                        rounds.run(1, &mut time);
                    }
                    let done = (count * shape.cycles() as u64) as f64;
                    time.total.mul_f64(cycles as f64 / done)
                });
            });
        }
    }
}

criterion_group! {
    name = of_a_thread;
    config = Criterion::default().with_measurement(ThreadTime).sample_size(50);
    targets = decode, route, ring_alone, encode_records, reply, node
}
criterion_group!(of_two, ring_hop);
criterion_main!(of_a_thread, of_two);
