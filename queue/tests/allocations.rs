//! Work that goes on allocates nothing. Alone in its file: the allocator
//! counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use omnirelay_queue::{
    Attributes, LeaseWish, Log, Nanos, NewItem, Options, PayloadRef, Place, Record, Secret, Shard,
    ShardId, ShardSpec,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Places;

impl Log for Places {
    fn append(&mut self, _: &Record<'_>) -> Place {
        Place::default()
    }
}

const ITEM: NewItem<'_> = NewItem {
    payload: PayloadRef {
        resource_type: "table",
        resource_id: "users",
        partition_key: None,
        encoding: "json",
        body: b"{}",
        attributes: Attributes::NONE,
        request_id: None,
    },
    delay: Duration::ZERO,
    priority: 0,
    max_attempts: None,
    ttl: None,
    enqueued_by: "test",
};

fn wish(owner: &str) -> LeaseWish<'_> {
    LeaseWish {
        owner,
        lease: None,
        partition_key: None,
    }
}

/// Twenty items at a time, a second for each round.
fn work(shard: &mut Shard, now: &mut Nanos, rounds: u64) {
    for round in 0..rounds {
        now.0 += 1_000_000_000;
        shard.handle_time(*now, &mut Places, 1_000);
        for _ in 0..20 {
            let enqueued = shard.handle_enqueue(*now, &ITEM, &mut Places);
            enqueued.outcome.expect("there is room");
        }
        let owner = ["ann", "bob", "eve"][(round % 3) as usize];
        let mut tokens = [None; 20];
        for token in &mut tokens {
            let granted = shard.handle_lease(*now, &wish(owner), &mut Places);
            *token = Some(granted.expect("an item waits").outcome.token);
        }
        for token in tokens.into_iter().flatten() {
            let completed = shard.handle_complete(*now, &token, &mut Places);
            completed.outcome.expect("the lease is live");
        }
    }
}

#[test]
fn a_shard_at_work_allocates_nothing() {
    let options = Options {
        dedupe_window: Duration::from_secs(60),
        ..Options::default()
    };
    let spec = ShardSpec {
        shard: ShardId(42),
        index: 2,
        count: 5,
        secret: Secret(*b"a shard's secret"),
        origin: *b"a shard's origin",
    };
    let mut shard = Shard::new(spec, options);
    let mut now = Nanos(1_790_000_000_000_000_000);
    let _ = shard.handle_open(now, 0, &mut Places);
    // Past the window, and over the end of several pages of marks.
    work(&mut shard, &mut now, 10_000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work(&mut shard, &mut now, 10_000);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0);
    // A name that is new is counted.
    let enqueued = shard.handle_enqueue(now, &ITEM, &mut Places);
    enqueued.outcome.expect("there is room");
    let granted = shard.handle_lease(now, &wish("joe"), &mut Places);
    assert_eq!(granted.expect("an item waits").outcome.attempt, 1);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);
}
