//! Records with any fields, mostly ones that could follow in a shard's log.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use omnirelay_queue::{
    Attributes, Carry, DecodeError, DrainPart, EPOCH_MAX, Ended, EnqueuedBody, Epoch, EpochStart,
    Event, FailedBody, FenceReason, ItemSnapshot, LeaseRef, Lsn, Millis, Nanos, PayloadRef, Record,
    Remembered, RequestKey, Rows, SequenceId, Shard, SnapshotState, Turn, kind,
};

/// When everyday records are made.
const START: u64 = 1_790_000_000_000_000_000;

/// A record as a log holds it.
pub(super) struct Forged {
    lsn: Lsn,
    epoch: Epoch,
    at: Nanos,
    kind: u8,
    body: Vec<u8>,
}

impl Forged {
    /// The next record, mostly one that could follow.
    pub(super) fn make(u: &mut Unstructured<'_>, shard: &Shard) -> Result<Forged> {
        let odd: u8 = u.arbitrary()?;
        let (kind, body) = encoded(u, shard)?;
        let is_start = kind == kind::EPOCH_STARTED;
        let next = match kind {
            kind::CARRY => shard.last_lsn().0,
            _ => shard.last_lsn().0.saturating_add(1),
        };
        Ok(Forged {
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
            kind,
            body,
        })
    }

    /// The record as it is read.
    pub(super) fn record(&self) -> std::result::Result<Record<'_>, DecodeError> {
        Ok(Record {
            lsn: self.lsn,
            epoch: self.epoch,
            at: self.at,
            event: Event::decode(self.kind, &self.body)?,
        })
    }
}

/// A kind and a body of that kind.
fn encoded(u: &mut Unstructured<'_>, shard: &Shard) -> Result<(u8, Vec<u8>)> {
    let (mut enqueued_bytes, mut failed_bytes) = (Vec::new(), Vec::new());
    let event = match u.int_in_range(0..=23)? {
        12..=15 => {
            bodies(u, shard, &mut enqueued_bytes, &mut failed_bytes)?;
            let snapshot = snapshot(u, shard, &failed_bytes, &enqueued_bytes)?;
            taken(u, shard, snapshot)?
        }
        16 => Event::DrainSnapshot {
            request: Some(key(u)?),
            snapshot: None,
        },
        17 => {
            let item = item(u, shard)?;
            Event::Cancelled {
                item,
                last: ended(u, shard, item)?,
                leased: u.arbitrary()?,
                dead: u.arbitrary()?,
            }
        }
        18 => Event::Redriven {
            item: item(u, shard)?,
            max_attempts: u.int_in_range(1..=4)?,
        },
        19..=21 => return rows(u, shard),
        choice => event(u, shard, choice)?,
    };
    Ok(written(&event))
}

fn written(event: &Event<'_>) -> (u8, Vec<u8>) {
    let mut body = Vec::new();
    event.encode(&mut body);
    assert_eq!(body.len(), event.encoded_len());
    (event.kind(), body)
}

/// What happens to an item in the course of its life.
fn event<'a>(u: &mut Unstructured<'a>, shard: &Shard, choice: u8) -> Result<Event<'a>> {
    Ok(match choice {
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
            since: u.arbitrary::<Option<u64>>()?.map(Nanos),
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
        _ => {
            let item = item(u, shard)?;
            Event::ItemExpired {
                item,
                last: ended(u, shard, item)?,
            }
        }
    })
}

/// What a snapshot is made of besides itself.
fn bodies(
    u: &mut Unstructured<'_>,
    shard: &Shard,
    enqueued_bytes: &mut Vec<u8>,
    failed_bytes: &mut Vec<u8>,
) -> Result<()> {
    *enqueued_bytes = written(&Event::Enqueued(enqueued(u)?)).1;
    if u.arbitrary()? {
        *failed_bytes = written(&event(u, shard, 9)?).1;
    }
    Ok(())
}

fn snapshot<'a>(
    u: &mut Unstructured<'_>,
    shard: &Shard,
    error: &'a [u8],
    body: &'a [u8],
) -> Result<ItemSnapshot<'a>> {
    let lease = lease(u, shard)?;
    Ok(ItemSnapshot {
        lsn: lease.item,
        enqueued_at: time(u)?,
        since: time(u)?,
        ttl: u.arbitrary::<Option<u32>>()?.map(Millis),
        attempt: lease.attempt,
        max_attempts: u.int_in_range(0..=3)?,
        grant: lease.grant,
        priority: u.arbitrary()?,
        last_end: match u.arbitrary()? {
            true => Some(reason(u)?),
            false => None,
        },
        lease_epoch: lease.epoch,
        state: match u.int_in_range(0..=2)? {
            0 => SnapshotState::Waiting,
            1 => SnapshotState::Dead,
            _ => SnapshotState::Leased {
                owner: text(u)?,
                duration: Millis(u.arbitrary()?),
                recorded: Millis(u.arbitrary()?),
            },
        },
        error,
        body,
    })
}

/// A snapshot that comes, goes, or is carried.
fn taken<'a>(
    u: &mut Unstructured<'_>,
    shard: &Shard,
    snapshot: ItemSnapshot<'a>,
) -> Result<Event<'a>> {
    Ok(match u.int_in_range(0..=4)? {
        0 => Event::DrainSnapshot {
            request: match u.arbitrary()? {
                true => Some(key(u)?),
                false => None,
            },
            snapshot: Some(snapshot),
        },
        1 => Event::RestoreSnapshot {
            origin: [u.arbitrary::<u8>()? % 2; 16],
            sequence_id: SequenceId(u.arbitrary::<u8>()?.into()),
            enters_request: u.arbitrary()?,
            snapshot: ItemSnapshot {
                lsn: Lsn(shard.last_lsn().0.saturating_add(1)),
                ..snapshot
            },
        },
        2 => Event::Carry(Carry::Drained {
            request: key(u)?,
            lsn: item(u, shard)?,
            at: time(u)?,
            snapshot,
        }),
        _ => Event::Carry(Carry::Item(snapshot)),
    })
}

/// What is carried besides items.
fn rows(u: &mut Unstructured<'_>, shard: &Shard) -> Result<(u8, Vec<u8>)> {
    fn some<T>(
        u: &mut Unstructured<'_>,
        mut row: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        (0..u.int_in_range(0..=4)?).map(|_| row(u)).collect()
    }
    let remembered = |u: &mut Unstructured<'_>| {
        Ok(Remembered {
            key: key(u)?,
            lsn: item(u, shard)?,
            at: time(u)?,
        })
    };
    let carry = |carry| written(&Event::Carry(carry));
    Ok(match u.int_in_range(0..=6)? {
        0 => carry(Carry::Header {
            pending: u.arbitrary()?,
            active: u.arbitrary()?,
            epochs: Rows::Values(&some(u, |u| {
                Ok(EpochStart {
                    lsn: item(u, shard)?,
                    epoch: Epoch(u.arbitrary::<u8>()?.into()),
                })
            })?),
        }),
        1 => carry(Carry::Turns(Rows::Values(&some(u, |u| {
            Ok(Turn {
                item: item(u, shard)?,
                since: time(u)?,
            })
        })?))),
        2 => carry(Carry::Drains(Rows::Values(&some(u, |u| {
            Ok(DrainPart {
                request: key(u)?,
                at: time(u)?,
                last_lsn: item(u, shard)?,
                complete: u.arbitrary()?,
            })
        })?))),
        3 => carry(Carry::Dedupe(Rows::Values(&some(u, remembered)?))),
        4 => carry(Carry::Restored(Rows::Values(&some(u, remembered)?))),
        5 => carry(Carry::Settled(Rows::Values(&some(u, |u| {
            Ok(Ended {
                lease: lease(u, shard)?,
                reason: reason(u)?,
                at: time(u)?,
            })
        })?))),
        _ => carry(Carry::SettledPage {
            page: match u.arbitrary()? {
                true => u.arbitrary()?,
                false => 0,
            },
            last_at: time(u)?,
            first_word: u.arbitrary()?,
            words: Rows::Values(&some(u, |u| u.arbitrary::<u64>())?),
        }),
    })
}

fn ended(
    u: &mut Unstructured<'_>,
    shard: &Shard,
    item: Lsn,
) -> Result<Option<(LeaseRef, FenceReason)>> {
    match u.arbitrary()? {
        true => {
            let lease = LeaseRef {
                item,
                ..lease(u, shard)?
            };
            Ok(Some((lease, reason(u)?)))
        }
        false => Ok(None),
    }
}

fn reason(u: &mut Unstructured<'_>) -> Result<FenceReason> {
    u.choose(&[
        FenceReason::Completed,
        FenceReason::Failed,
        FenceReason::Expired,
        FenceReason::Superseded,
    ])
    .copied()
}

/// One of a few keys, so that they come twice.
fn key(u: &mut Unstructured<'_>) -> Result<RequestKey> {
    Ok([u64::from(u.arbitrary::<u8>()? % 4), 5])
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
