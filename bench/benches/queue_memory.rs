//! What ten million waiting items take: the anonymous memory of the whole
//! process and its share for each item, from `/proc/self/smaps_rollup`.
//!
//! `cargo bench -p bench --bench queue_memory [-- ITEMS]`

use std::time::Duration;

use omnirelay_queue::{
    Attributes, Log, Nanos, NewItem, Options, PayloadRef, Place, Record, Secret, Shard, ShardId,
    ShardSpec,
};

const ITEMS: u64 = 10_000_000;

const BODY_BYTES: usize = 256;

/// Hands out the places that records would have one after the other.
struct Places {
    segment_bytes: u64,
    at: u64,
}

impl Log for Places {
    fn append(&mut self, record: &Record<'_>) -> Place {
        let place = Place {
            segment: (self.at / self.segment_bytes) as u32,
            offset: (self.at % self.segment_bytes) as u32,
        };
        self.at += record.event.encoded_len() as u64;
        place
    }
}

fn main() {
    // Cargo passes `--bench`.
    let mut given = std::env::args().filter_map(|argument| argument.parse().ok());
    let items = given.next().unwrap_or(ITEMS);
    let spec = ShardSpec {
        shard: ShardId(0),
        index: 0,
        count: 1,
        secret: Secret([1; 16]),
        origin: [0; 16],
    };
    let options = Options {
        capacity: items,
        ..Options::default()
    };
    let mut log = Places {
        segment_bytes: 64 << 20,
        at: 0,
    };
    let mut shard = Shard::new(spec, options);
    let mut now = Nanos(1_790_000_000_000_000_000);
    let _ = shard.handle_open(now, 0, &mut log);
    let before = anonymous_bytes();
    let body = [7; BODY_BYTES];
    for _ in 0..items {
        now.0 += 200;
        let enqueued = shard.handle_enqueue(now, &item(&body), &mut log);
        enqueued.outcome.expect("there is room");
    }
    let after = anonymous_bytes();
    assert_eq!(shard.stats().pending, items);
    println!(
        "{items} waiting items of {BODY_BYTES} B bodies: {:.2} GB anonymous memory in the whole process, \
         {:.1} bytes an item",
        after as f64 / 1e9,
        (after - before) as f64 / items as f64,
    );
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

fn anonymous_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux 4.14 or newer");
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:"));
    let line = line.expect("anonymous memory is counted");
    let kib = line.split_whitespace().nth(1).expect("a number of kB");
    kib.parse::<u64>().expect("a number of kB") * 1024
}
