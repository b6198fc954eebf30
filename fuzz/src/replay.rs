//! Records that passed the log's checksums, in any order and with any fields,
//! replayed into a shard.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use omnirelay_queue::{
    Attributes, EPOCH_MAX, EnqueuedBody, Epoch, Event, FailedBody, Failure, LeaseRef, LeaseWish,
    Log, Lsn, Millis, Nanos, Options, PayloadRef, Place, Record, Secret, Shard, ShardId, ShardSpec,
};

/// The most records of one input.
const RECORDS_MAX: usize = 200;

/// The most steps of time that a shard of [`RECORDS_MAX`] items may take: each
/// item's timer is brought closer at most once a level of the wheel, and each
/// of its attempts and delays may end.
const STEPS_MAX: usize = 40 * RECORDS_MAX;

/// When everyday records are made.
const START: u64 = 1_790_000_000_000_000_000;

/// Replays records into a shard, opens it, and works off what it holds.
///
/// # Panics
/// When a refused record changes the shard, or the shard panics.
pub fn replay(bytes: &[u8]) -> &'static str {
    let mut unstructured = Unstructured::new(bytes);
    let mut shard = shard();
    let (mut taken, mut refused) = (0, 0);
    while !unstructured.is_empty() && taken + refused < RECORDS_MAX {
        let Ok(record) = record(&mut unstructured, &shard) else {
            break;
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
    if shard.epoch().0 >= EPOCH_MAX {
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

fn record<'a>(u: &mut Unstructured<'a>, shard: &Shard) -> Result<Record<'a>> {
    let odd: u8 = u.arbitrary()?;
    let event = event(u, shard)?;
    let is_start = matches!(event, Event::EpochStarted { .. });
    let next = shard.last_lsn().0.saturating_add(1);
    Ok(Record {
        lsn: match odd & 3 {
            3 => Lsn(u.arbitrary()?),
            _ => Lsn(next),
        },
        epoch: match (odd >> 2) & 3 {
            3 => Epoch(u.arbitrary::<u32>()? & EPOCH_MAX),
            _ => Epoch(shard.epoch().0 + u32::from(is_start)),
        },
        at: match (odd >> 4) & 3 {
            3 => Nanos(u.arbitrary()?),
            2 => shard.last_time().saturating_add(seconds(u)?),
            _ => Nanos(START),
        },
        event,
    })
}

fn event<'a>(u: &mut Unstructured<'a>, shard: &Shard) -> Result<Event<'a>> {
    Ok(match u.int_in_range(0..=11)? {
        0 => Event::EpochStarted {
            previous: shard.epoch(),
        },
        1..=3 => Event::Enqueued(enqueued(u)?),
        4 | 5 => Event::LeaseGranted {
            lease: lease(u, shard)?,
            duration: Millis(u.arbitrary()?),
            owner: text(u)?,
        },
        6 => Event::GrantReleased {
            lease: lease(u, shard)?,
            counted: u.arbitrary()?,
            dead: u.arbitrary()?,
        },
        7 => Event::Heartbeat {
            lease: lease(u, shard)?,
            duration: Millis(u.arbitrary()?),
        },
        8 => Event::Completed {
            lease: lease(u, shard)?,
        },
        9 => Event::Failed(FailedBody {
            lease: lease(u, shard)?,
            dead: u.arbitrary()?,
            ready_at: time(u)?,
            reason: None,
            code: u.arbitrary()?,
            metadata: Attributes::NONE,
        }),
        10 => Event::Expired {
            lease: lease(u, shard)?,
            dead: u.arbitrary()?,
        },
        _ => Event::ItemExpired {
            item: item(u, shard)?,
            last: None,
        },
    })
}

fn enqueued<'a>(u: &mut Unstructured<'a>) -> Result<EnqueuedBody<'a>> {
    Ok(EnqueuedBody {
        ready_at: time(u)?,
        ttl: u.arbitrary::<Option<u32>>()?.map(Millis),
        max_attempts: u.int_in_range(1..=3)?,
        priority: u.arbitrary()?,
        enqueued_by: "test",
        payload: PayloadRef {
            resource_type: "table",
            resource_id: text(u)?,
            partition_key: None,
            encoding: "json",
            body: b"{}",
            attributes: Attributes::NONE,
            request_id: match u.arbitrary()? {
                true => Some(text(u)?),
                false => None,
            },
        },
    })
}

/// A lease of one of the first items, mostly its first in this epoch.
fn lease(u: &mut Unstructured<'_>, shard: &Shard) -> Result<LeaseRef> {
    let odd: u8 = u.arbitrary()?;
    Ok(LeaseRef {
        item: item(u, shard)?,
        attempt: u16::from(odd & 3),
        grant: u16::from((odd >> 2) & 3),
        epoch: Epoch(shard.epoch().0.saturating_sub(u32::from(odd >> 6 == 3))),
    })
}

fn item(u: &mut Unstructured<'_>, shard: &Shard) -> Result<Lsn> {
    let back: u8 = u.arbitrary()?;
    Ok(Lsn(shard.last_lsn().0.saturating_sub(back.into())))
}

fn time(u: &mut Unstructured<'_>) -> Result<Nanos> {
    Ok(match u.arbitrary::<bool>()? {
        true => Nanos(u.arbitrary()?),
        false => Nanos(START).saturating_add(seconds(u)?),
    })
}

fn seconds(u: &mut Unstructured<'_>) -> Result<Duration> {
    Ok(Duration::from_secs(u64::from(u.arbitrary::<u16>()?)))
}

/// One of a few texts, so that they come twice.
fn text(u: &mut Unstructured<'_>) -> Result<&'static str> {
    u.choose(&["", "a", "b", "é"]).copied()
}
