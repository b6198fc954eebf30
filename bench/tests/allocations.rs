//! How often a node asks for memory for a call, stage by stage. Alone in its file: the allocator is
//! that of the whole process.
//!
//! What it protects: requests are read where they lie and replies written from where their parts
//! lie, so that neither costs memory by the item; records go into buffers that are used again; and
//! what the core keeps of a call is a few lists, however many items it has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bench::bare_node::{Meter, Rounds, Shape, Stage};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

/// Allocations of a stage.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// For the only call of a turn, of one item.
    call: f64,
    /// For each further call of one item that comes with it.
    further_call: f64,
    /// For each further item of a call.
    further_item: f64,
}

const fn cost(call: f64, further_call: f64, further_item: f64) -> Cost {
    Cost {
        call,
        further_call,
        further_item,
    }
}

const CALLS: [&str; 3] = ["enqueue", "lease", "complete"];
const STAGES: [Stage; 4] = [Stage::Decode, Stage::Core, Stage::Log, Stage::Reply];

/// At most, by call and stage. Who makes it less writes that down here.
const BOUNDS: [[Cost; STAGES.len()]; CALLS.len()] = [
    [
        cost(2.0, 2.0, 0.0),
        cost(5.0, 4.0, 0.0),
        cost(4.0, 0.0, 0.0),
        cost(1.0, 1.0, 0.0),
    ],
    [
        cost(1.0, 1.0, 0.0),
        // A grant is boxed.
        cost(9.0, 7.0, 1.05),
        cost(4.0, 0.0, 0.0),
        cost(1.0, 1.0, 0.0),
    ],
    [
        cost(3.0, 2.0, 0.0),
        cost(4.0, 3.0, 0.0),
        cost(4.0, 0.0, 0.0),
        cost(1.0, 1.0, 0.0),
    ],
];

/// Lists and tables that grow now and then.
const SLACK: f64 = 0.05;

const ROUNDS: u32 = 400;

#[derive(Default)]
struct Allocations {
    before: u64,
    stages: [u64; STAGES.len()],
}

impl Meter for Allocations {
    fn begin(&mut self) {
        self.before = ALLOCATIONS.get();
    }

    fn end(&mut self, stage: Stage) {
        self.stages[stage as usize] += ALLOCATIONS.get() - self.before;
    }
}

/// Allocations of a round, by call and stage.
fn measure(calls: usize, items: usize) -> [[f64; STAGES.len()]; CALLS.len()] {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rounds = Rounds::open(dir.path(), Shape { calls, items });
    rounds.run(ROUNDS as usize, &mut ());
    let mut counts = [(); CALLS.len()].map(|()| Allocations::default());
    for _ in 0..ROUNDS {
        rounds.enqueue(&mut counts[0]);
        rounds.lease(&mut counts[1]);
        rounds.complete(&mut counts[2]);
    }
    counts.map(|count| count.stages.map(|n| n as f64 / f64::from(ROUNDS)))
}

#[test]
fn memory_is_asked_for_by_the_call_and_not_by_the_item() {
    const MANY: usize = 64;
    let one = measure(1, 1);
    let (calls, items) = (measure(MANY, 1), measure(1, MANY));
    let mut broken = Vec::new();
    for (at, call) in CALLS.into_iter().enumerate() {
        for (stage, name) in STAGES.into_iter().enumerate() {
            let further = |many: f64| (many - one[at][stage]) / (MANY - 1) as f64;
            let found = cost(
                one[at][stage],
                further(calls[at][stage]),
                further(items[at][stage]),
            );
            let bound = BOUNDS[at][stage];
            println!("{call} {name:?}: {found:?}");
            if found.call > bound.call + SLACK
                || found.further_call > bound.further_call + SLACK
                || found.further_item > bound.further_item + SLACK
            {
                broken.push(format!("{call}, {name:?}: {found:?}, at most {bound:?}"));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "more allocations than before:\n{}",
        broken.join("\n")
    );
}

#[test]
fn an_allocation_is_counted() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1_u8; 10]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
