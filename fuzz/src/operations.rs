//! Queue operations spelled by bytes, on a shard and on the naive model of the
//! queue's own tests.

use arbitrary::{Result, Unstructured};

use self::model::{Op, World, options};

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
    let mut world = World::new();
    let start = world.now;
    let mut done = 0;
    while !unstructured.is_empty() && done < OPERATIONS_MAX {
        let Ok(op) = op(&mut unstructured) else {
            break;
        };
        let outcome = world.run(&op);
        outcome.unwrap_or_else(|error| panic!("operation {done}, {op:?}: {error}"));
        world.lax_reasons = world.now.since(start) >= options().dedupe_window;
        done += 1;
    }
    let outcome = world.replays();
    outcome.unwrap_or_else(|error| panic!("replay after {done} operations: {error}"));
    match (done, world.lax_reasons) {
        (0, _) => "nothing",
        (_, false) => "within the window",
        (_, true) => "beyond the window",
    }
}

/// The next operation. What is likely in a queue's life takes few bytes.
fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    let op = match u.arbitrary::<u8>()? % 16 {
        0..=3 => enqueue(u)?,
        4..=6 => Op::Lease {
            lease_ms: option(u, 40_000)?,
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
