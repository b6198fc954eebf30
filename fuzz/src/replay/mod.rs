//! Records that passed the log's checksums, in any order and with any fields,
//! replayed into a shard.

mod forged;

use std::time::Duration;

use arbitrary::Unstructured;
use omnirelay_queue::{
    Attributes, EPOCH_MAX, Failure, LeaseWish, Log, Options, Place, Record, Secret, Shard, ShardId,
    ShardSpec, TIME_MAX,
};

use self::forged::Forged;

/// The most records of one input.
const RECORDS_MAX: usize = 200;

/// The most steps of time that a shard of [`RECORDS_MAX`] items may take: each
/// item's timer is brought closer at most once a level of the wheel, and each
/// of its attempts and delays may end.
const STEPS_MAX: usize = 40 * RECORDS_MAX;

/// Replays records into a shard, opens it, and works off what it holds.
///
/// # Panics
/// When a refused record changes the shard, or the shard panics.
pub fn replay(bytes: &[u8]) -> &'static str {
    let mut unstructured = Unstructured::new(bytes);
    let mut shard = shard();
    let (mut taken, mut refused) = (0, 0);
    while !unstructured.is_empty() && taken + refused < RECORDS_MAX {
        let Ok(forged) = Forged::make(&mut unstructured, &shard) else {
            break;
        };
        let Ok(record) = forged.record() else {
            refused += 1;
            continue;
        };
        let place = Place {
            segment: 1,
            offset: u32::try_from(taken).expect("few records"),
        };
        let before = shard.digest(shard.last_time());
        match shard.replay(&record, place) {
            Ok(()) => {
                assert_eq!(shard.last_lsn(), record.lsn);
                taken += 1;
            }
            Err(error) => {
                assert_eq!(error.lsn, record.lsn);
                assert_eq!(shard.digest(shard.last_time()), before, "{record:?}");
                refused += 1;
            }
        }
    }
    work_off(&mut shard);
    match (taken, refused) {
        (0, _) => "nothing taken",
        (_, 0) => "all taken",
        _ => "some refused",
    }
}

fn shard() -> Shard {
    let spec = ShardSpec {
        shard: ShardId(42),
        index: 2,
        count: 5,
        secret: Secret(*b"a shard's secret"),
        origin: [7; 16],
    };
    Shard::new(spec, Options::default())
}

/// Drops records: what they change is in the shard.
struct Void;

impl Log for Void {
    fn append(&mut self, record: &Record<'_>) -> Place {
        let mut body = Vec::new();
        record.event.encode(&mut body);
        assert_eq!(body.len(), record.event.encoded_len());
        Place::default()
    }
}

const WISH: LeaseWish<'_> = LeaseWish {
    owner: "ann",
    lease: None,
    partition_key: None,
};

/// What a node does with a shard once its log is replayed: opens it, lets time
/// pass, hands out what waits, and settles it.
fn work_off(shard: &mut Shard) {
    // A node whose clock were that late would not start.
    let too_late = TIME_MAX.0 - Duration::from_secs(86_400).as_nanos() as u64;
    if shard.epoch().0 >= EPOCH_MAX || shard.last_time().0 > too_late {
        return;
    }
    let mut now = shard.last_time();
    let _ = shard.handle_open(now, 0, &mut Void);
    for round in 0..4 {
        let steps = shard.handle_time(now, &mut Void, STEPS_MAX);
        assert!(steps < STEPS_MAX, "time does not come to an end");
        let mut grants = 0;
        while let Some(decision) = shard.handle_lease(now, &WISH, &mut Void) {
            let token = decision.outcome.token;
            let failure = Failure {
                reason: None,
                code: None,
                requeue: round < 2,
                delay: Some(Duration::from_secs(1)),
                metadata: Attributes::NONE,
            };
            let settled = match grants % 3 {
                0 => shard.handle_complete(now, &token, &mut Void).outcome,
                _ => {
                    let failed = shard.handle_fail(now, &token, &failure, &mut Void);
                    failed.outcome
                }
            };
            assert!(settled.is_ok(), "a live lease is refused: {settled:?}");
            grants += 1;
            assert!(grants <= RECORDS_MAX, "an item is handed out for ever");
        }
        let stats = shard.stats();
        assert_eq!(stats.pending, 0);
        let digest = shard.digest(now);
        let live = stats.pending + stats.active + stats.delayed + stats.dead;
        assert_eq!(live, digest.items.len() as u64);
        now = now.saturating_add(Duration::from_secs(60 * 60));
    }
}
