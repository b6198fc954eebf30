//! Queue operations spelled by bytes, on a shard and on the naive model of the
//! queue's own tests.

use arbitrary::{Result, Unstructured};

use omnirelay_queue::{Fairness, Options, Ordering};

use self::model::{Op, World, plain};

#[path = "../../queue/tests/model.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "what only the queue's property tests use"
)]
mod model;

/// The most operations of one input: the model goes through every item ever
/// made for each.
const OPERATIONS_MAX: usize = 400;

/// Runs operations on a shard and on the model of one. Both must say the same
/// all the way, and a shard replayed from the log must be equal in the end.
///
/// # Panics
/// When they differ.
pub fn operations(bytes: &[u8]) -> &'static str {
    let mut unstructured = Unstructured::new(bytes);
    let options = options(unstructured.arbitrary().unwrap_or(0));
    let mut world = World::new(&options);
    let start = world.now;
    let mut done = 0;
    while !unstructured.is_empty() && done < OPERATIONS_MAX {
        let Ok(op) = op(&mut unstructured) else {
            break;
        };
        let outcome = world.run(&op);
        outcome.unwrap_or_else(|error| panic!("operation {done}, {op:?}: {error}"));
        world.lax_reasons = world.now.since(start) >= options.dedupe_window;
        done += 1;
    }
    let outcome = world.replays(&options);
    outcome.unwrap_or_else(|error| panic!("replay after {done} operations: {error}"));
    match (done, world.lax_reasons) {
        (0, _) => "nothing",
        (_, false) => "within the window",
        (_, true) => "beyond the window",
    }
}

/// The ways in which a namespace may order its items.
fn options(byte: u8) -> Options {
    let mut options = plain();
    if byte & 1 != 0 {
        options.ordering = Ordering::PerResource;
    }
    if byte & 2 != 0 {
        options.fairness = Fairness::PartitionKey;
        options.weights = [("a".to_owned(), 3), ("b".to_owned(), 2)].into();
    }
    options
}

/// The next operation. What is likely in a queue's life takes few bytes.
fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    let op = match u.arbitrary::<u8>()? % 18 {
        0..=3 => enqueue(u)?,
        4..=6 => Op::Lease {
            lease_ms: option(u, 40_000)?,
            key: match u.ratio(1, 4)? {
                true => Some(u.int_in_range(0..=3)?),
                false => None,
            },
        },
        7 => Op::Release(token(u)?),
        8 | 9 => Op::Heartbeat(token(u)?, option(u, 40_000)?),
        10 => Op::Complete(token(u)?),
        11 | 12 => Op::Fail {
            token: token(u)?,
            requeue: u.ratio(7, 8)?,
            delay_ms: option(u, 100_000)?,
        },
        13 => Op::Pass {
            ms: u.int_in_range(0..=1_500)?,
            nanos: u.int_in_range(0..=1_000_000)?,
        },
        14 => Op::Pass {
            ms: u.int_in_range(0..=30_000)?,
            nanos: 0,
        },
        15 => Op::Cancel(token(u)?),
        16 => Op::Redrive(token(u)?),
        _ => Op::Open {
            skip: u.int_in_range(0..=2)?,
        },
    };
    // An operation that is added to the model does not compile before it is
    // made above.
    match op {
        Op::Enqueue { .. }
        | Op::Lease { .. }
        | Op::Release(_)
        | Op::Heartbeat(..)
        | Op::Complete(_)
        | Op::Fail { .. }
        | Op::Cancel(_)
        | Op::Redrive(_)
        | Op::Pass { .. }
        | Op::Open { .. } => Ok(op),
    }
}

fn enqueue(u: &mut Unstructured<'_>) -> Result<Op> {
    let has: u8 = u.arbitrary()?;
    let or_none = |bit: u8| has & bit != 0;
    Ok(Op::Enqueue {
        request: match or_none(1) {
            true => Some(u.int_in_range(0..=5)?),
            false => None,
        },
        resource: u.int_in_range(0..=3)?,
        key: match or_none(32) {
            true => Some(u.int_in_range(0..=2)?),
            false => None,
        },
        delay_ms: match or_none(2) {
            true => u.int_in_range(0..=100_000)?,
            false => 0,
        },
        priority: match or_none(4) {
            true => u.arbitrary()?,
            false => 0,
        },
        max_attempts: match or_none(8) {
            true => Some(u.int_in_range(1..=3)?),
            false => None,
        },
        ttl_ms: match or_none(16) {
            true => Some(u.int_in_range(0..=20_000)?),
            false => None,
        },
    })
}

/// Which of the tokens that were ever granted.
fn token(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(usize::from(u.arbitrary::<u8>()?))
}

fn option(u: &mut Unstructured<'_>, most: u64) -> Result<Option<u64>> {
    match u.arbitrary::<bool>()? {
        true => u.int_in_range(0..=most).map(Some),
        false => Ok(None),
    }
}
