//! Records: what happened to a shard, in order, as the log keeps it.
//!
//! Bodies are little endian. Whoever frames a record keeps its shard, LSN,
//! epoch, time and kind beside the body. Kind numbers and layouts are a disk
//! format: a number is never used again for something else.

use std::ops::Range;

use bytes::BufMut;

use crate::carry::{Carry, put_key};
use crate::codec::{DecodeError, Reader, put_text};
use crate::ids::{EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Origin, Place, RequestKey, SequenceId};
use crate::outcome::FenceReason;
use crate::payload::{Attributes, PayloadRef};
use crate::snapshot::{ItemSnapshot, reason};

/// Numbers of the kinds of record. 12 and 15 are kept for `DeadLettered` and
/// `Snapshot`.
pub mod kind {
    /// [`Event::EpochStarted`](super::Event::EpochStarted).
    pub const EPOCH_STARTED: u8 = 1;
    /// [`Event::Enqueued`](super::Event::Enqueued).
    pub const ENQUEUED: u8 = 2;
    /// [`Event::LeaseGranted`](super::Event::LeaseGranted).
    pub const LEASE_GRANTED: u8 = 3;
    /// [`Event::GrantReleased`](super::Event::GrantReleased).
    pub const GRANT_RELEASED: u8 = 4;
    /// [`Event::Heartbeat`](super::Event::Heartbeat).
    pub const HEARTBEAT: u8 = 5;
    /// [`Event::Completed`](super::Event::Completed).
    pub const COMPLETED: u8 = 6;
    /// [`Event::Failed`](super::Event::Failed).
    pub const FAILED: u8 = 7;
    /// [`Event::Expired`](super::Event::Expired).
    pub const EXPIRED: u8 = 8;
    /// [`Event::ItemExpired`](super::Event::ItemExpired).
    pub const ITEM_EXPIRED: u8 = 9;
    /// [`Event::Cancelled`](super::Event::Cancelled).
    pub const CANCELLED: u8 = 10;
    /// [`Event::Redriven`](super::Event::Redriven).
    pub const REDRIVEN: u8 = 11;
    /// [`Event::DrainSnapshot`](super::Event::DrainSnapshot).
    pub const DRAIN_SNAPSHOT: u8 = 13;
    /// [`Event::RestoreSnapshot`](super::Event::RestoreSnapshot).
    pub const RESTORE_SNAPSHOT: u8 = 14;
    /// [`Event::Carry`](super::Event::Carry).
    pub const CARRY: u8 = 16;
}

/// Where the shard's records go.
pub trait Log {
    /// Encodes the record into the open batch and says where its body will
    /// lie. Never fails: whoever calls the shard makes sure that there is room.
    fn append(&mut self, record: &Record<'_>) -> Place;
}

/// One change of a shard's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// One more than the record before; `EpochStarted` may skip ahead. A
    /// `Carry` has the LSN of the record before.
    pub lsn: Lsn,
    /// The epoch that it was decided in.
    pub epoch: Epoch,
    /// The shard's time, which never goes back.
    pub at: Nanos,
    /// What happened.
    pub event: Event<'a>,
}

/// Which lease of which item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRef {
    /// The LSN of the item's enqueue.
    pub item: Lsn,
    /// From 1.
    pub attempt: u16,
    /// The item's grant counter: counts released grants too.
    pub grant: u16,
    /// The epoch of the grant.
    pub epoch: Epoch,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The shard was opened. Every active lease gets its full recorded
    /// duration from here.
    EpochStarted {
        /// The epoch before.
        previous: Epoch,
    },
    /// An item came in.
    Enqueued(EnqueuedBody<'a>),
    /// An item was leased.
    LeaseGranted {
        /// The lease that begins.
        lease: LeaseRef,
        /// How long it lasts unless it is renewed.
        duration: Millis,
        /// To whom.
        owner: &'a str,
    },
    /// A grant that could not be delivered was taken back; its attempt does
    /// not count, and the item is first in line again.
    GrantReleased {
        /// The lease that ends.
        lease: LeaseRef,
        /// The attempt counts after all, because the item's grant counter is
        /// used up.
        counted: bool,
        /// The item is a dead letter now.
        dead: bool,
        /// Since when the item waits now, if its place in line was too far
        /// from both ends to be looked for; else since when it did.
        since: Option<Nanos>,
    },
    /// A lease was renewed.
    Heartbeat {
        /// The lease that goes on.
        lease: LeaseRef,
        /// How long it lasts from here.
        duration: Millis,
    },
    /// An item is done and gone.
    Completed {
        /// The lease that ends.
        lease: LeaseRef,
    },
    /// An attempt failed.
    Failed(FailedBody<'a>),
    /// A lease ran out.
    Expired {
        /// The lease that ends.
        lease: LeaseRef,
        /// The item is a dead letter now; otherwise it waits again.
        dead: bool,
    },
    /// An item outlived its time and is gone.
    ItemExpired {
        /// The LSN of its enqueue.
        item: Lsn,
        /// Its last lease, if it ever had one, and how that ended: what is
        /// remembered of the item, also where nothing else of it is left.
        last: Option<(LeaseRef, FenceReason)>,
    },
    /// An item was taken away, whatever its state. If it was leased, that
    /// lease is over.
    Cancelled {
        /// The LSN of its enqueue.
        item: Lsn,
        /// Its last lease, if it ever had one, and how that ended: what is
        /// remembered of the item, also where nothing else of it is left.
        last: Option<(LeaseRef, FenceReason)>,
        /// It was leased.
        leased: bool,
        /// It was a dead letter.
        dead: bool,
    },
    /// A dead letter waits again, at once. Its attempts go on counting.
    Redriven {
        /// The LSN of its enqueue.
        item: Lsn,
        /// Attempts until it becomes a dead letter again.
        max_attempts: u16,
    },
    /// An item was taken out, or a drain has taken all that it will.
    DrainSnapshot {
        /// The request, if it may be repeated: it gets the same bundle again.
        request: Option<RequestKey>,
        /// The item; `None` when the shard's part of the request is complete.
        snapshot: Option<ItemSnapshot<'a>>,
    },
    /// An item that was taken out, here or elsewhere, came in. The record's
    /// LSN is the new item's.
    RestoreSnapshot {
        /// The namespace that it was taken out of.
        origin: Origin,
        /// Its number there.
        sequence_id: SequenceId,
        /// Its request id is remembered from here on: no other item's is it.
        enters_request: bool,
        /// As it is here.
        snapshot: ItemSnapshot<'a>,
    },
    /// Something is as it was, and is written again.
    Carry(Carry<'a>),
}

/// The body of an `Enqueued` record. It begins with a checksum of the rest;
/// the payload's opaque body is its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnqueuedBody<'a> {
    /// When the item can be leased; not after the record's time if at once.
    pub ready_at: Nanos,
    /// From the enqueue until the item is dropped unless it is leased.
    pub ttl: Option<Millis>,
    /// Attempts until it becomes a dead letter.
    pub max_attempts: u16,
    /// Higher first.
    pub priority: u8,
    /// Who enqueued it.
    pub enqueued_by: &'a str,
    /// What it carries.
    pub payload: PayloadRef<'a>,
}

/// The body of a `Failed` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedBody<'a> {
    /// The lease that ends.
    pub lease: LeaseRef,
    /// The item is a dead letter now.
    pub dead: bool,
    /// When the item can be leased again; not after the record's time if at
    /// once. Without meaning for a dead letter.
    pub ready_at: Nanos,
    /// For people.
    pub reason: Option<&'a str>,
    /// For programs.
    pub code: Option<&'a str>,
    /// Free text by name.
    pub metadata: Attributes<'a>,
}

const LEASE_LEN: usize = 16;

const HAS_TTL: u8 = 1;
const HAS_PARTITION_KEY: u8 = 2;
const HAS_REQUEST_ID: u8 = 4;

const IS_DEAD: u8 = 1;
const IS_COUNTED: u8 = 2;
const HAS_SINCE: u8 = 4;
const HAS_REASON: u8 = 2;
const HAS_CODE: u8 = 4;
const HAS_REQUEST: u8 = 1;
const HAS_ITEM: u8 = 2;
/// Beside the reason why an item's last lease ended.
const WAS_LEASED: u8 = 0x40;
const WAS_DEAD: u8 = 0x80;
const ENTERS_REQUEST: u8 = 1;

/// Length of the checksum that an `Enqueued` record's body begins with.
const CHECK_LEN: usize = 4;

impl<'a> Event<'a> {
    /// The event's kind, from [`kind`].
    pub fn kind(&self) -> u8 {
        match self {
            Event::EpochStarted { .. } => kind::EPOCH_STARTED,
            Event::Enqueued(_) => kind::ENQUEUED,
            Event::LeaseGranted { .. } => kind::LEASE_GRANTED,
            Event::GrantReleased { .. } => kind::GRANT_RELEASED,
            Event::Heartbeat { .. } => kind::HEARTBEAT,
            Event::Completed { .. } => kind::COMPLETED,
            Event::Failed(_) => kind::FAILED,
            Event::Expired { .. } => kind::EXPIRED,
            Event::ItemExpired { .. } => kind::ITEM_EXPIRED,
            Event::Cancelled { .. } => kind::CANCELLED,
            Event::Redriven { .. } => kind::REDRIVEN,
            Event::DrainSnapshot { .. } => kind::DRAIN_SNAPSHOT,
            Event::RestoreSnapshot { .. } => kind::RESTORE_SNAPSHOT,
            Event::Carry(_) => kind::CARRY,
        }
    }

    /// Length of the encoded body in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Event::EpochStarted { .. } => 4,
            Event::Enqueued(body) => body.encoded_len(),
            Event::LeaseGranted { owner, .. } => LEASE_LEN + 4 + 2 + owner.len(),
            Event::GrantReleased { since, .. } => LEASE_LEN + 1 + since.map_or(0, |_| 8),
            Event::Expired { .. } => LEASE_LEN + 1,
            Event::Heartbeat { .. } => LEASE_LEN + 4,
            Event::Completed { .. } => LEASE_LEN,
            Event::Failed(body) => body.encoded_len(),
            Event::Redriven { .. } => 8 + 2,
            Event::ItemExpired { last, .. } | Event::Cancelled { last, .. } => {
                8 + 1 + last.map_or(0, |_| 2 + 2 + 4)
            }
            Event::DrainSnapshot { request, snapshot } => {
                let snapshot = snapshot.as_ref().map_or(0, ItemSnapshot::encoded_len);
                1 + request.map_or(0, |_| 16) + snapshot
            }
            Event::RestoreSnapshot { snapshot, .. } => 16 + 8 + 1 + snapshot.encoded_len(),
            Event::Carry(carry) => carry.encoded_len(),
        }
    }

    /// Writes the body: exactly [`encoded_len`](Event::encoded_len) bytes.
    ///
    /// # Panics
    /// When a text is longer than [`crate::TEXT_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Event::EpochStarted { previous } => out.put_u32_le(previous.0),
            Event::Enqueued(body) => body.encode(out),
            Event::LeaseGranted {
                lease,
                duration,
                owner,
            } => {
                lease.encode(out);
                out.put_u32_le(duration.0);
                put_text(out, owner);
            }
            Event::GrantReleased {
                lease,
                counted,
                dead,
                since,
            } => {
                lease.encode(out);
                let has_since = flag(since.is_some(), HAS_SINCE);
                out.put_u8(flag(*dead, IS_DEAD) | flag(*counted, IS_COUNTED) | has_since);
                if let Some(since) = since {
                    out.put_u64_le(since.0);
                }
            }
            Event::Heartbeat { lease, duration } => {
                lease.encode(out);
                out.put_u32_le(duration.0);
            }
            Event::Completed { lease } => lease.encode(out),
            Event::Failed(body) => body.encode(out),
            Event::Expired { lease, dead } => {
                lease.encode(out);
                out.put_u8(flag(*dead, IS_DEAD));
            }
            Event::Redriven { item, max_attempts } => {
                out.put_u64_le(item.0);
                out.put_u16_le(*max_attempts);
            }
            Event::ItemExpired { item, last } => put_end(out, *item, *last, 0),
            Event::Cancelled {
                item,
                last,
                leased,
                dead,
            } => {
                let flags = flag(*leased, WAS_LEASED) | flag(*dead, WAS_DEAD);
                put_end(out, *item, *last, flags);
            }
            Event::DrainSnapshot { request, snapshot } => {
                out.put_u8(
                    flag(request.is_some(), HAS_REQUEST) | flag(snapshot.is_some(), HAS_ITEM),
                );
                if let Some(request) = request {
                    put_key(out, request);
                }
                if let Some(snapshot) = snapshot {
                    snapshot.encode(out);
                }
            }
            Event::RestoreSnapshot {
                origin,
                sequence_id,
                enters_request,
                snapshot,
            } => {
                out.put_slice(origin);
                out.put_u64_le(sequence_id.0);
                out.put_u8(flag(*enters_request, ENTERS_REQUEST));
                snapshot.encode(out);
            }
            Event::Carry(carry) => carry.encode(out),
        }
    }

    /// The LSN of the enqueue of the item that the record changes; `None` when
    /// it brings one in, or is not about an item.
    pub fn item(&self) -> Option<Lsn> {
        match self {
            Event::LeaseGranted { lease, .. }
            | Event::GrantReleased { lease, .. }
            | Event::Heartbeat { lease, .. }
            | Event::Completed { lease }
            | Event::Failed(FailedBody { lease, .. })
            | Event::Expired { lease, .. } => Some(lease.item),
            Event::ItemExpired { item, .. }
            | Event::Cancelled { item, .. }
            | Event::Redriven { item, .. } => Some(*item),
            Event::DrainSnapshot { snapshot, .. } => snapshot.as_ref().map(|item| item.lsn),
            Event::EpochStarted { .. }
            | Event::Enqueued(_)
            | Event::RestoreSnapshot { .. }
            | Event::Carry(_) => None,
        }
    }

    /// The item's snapshot, if the record holds one: it is the body's end.
    pub fn snapshot(&self) -> Option<&ItemSnapshot<'a>> {
        match self {
            Event::DrainSnapshot { snapshot, .. } => snapshot.as_ref(),
            Event::RestoreSnapshot { snapshot, .. } => Some(snapshot),
            Event::Carry(carry) => carry.snapshot(),
            _ => None,
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When the kind is not known, or the body is not one that
    /// [`encode`](Event::encode) writes.
    pub fn decode(kind: u8, body: &'a [u8]) -> Result<Event<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let event = match kind {
            kind::EPOCH_STARTED => Event::EpochStarted {
                previous: epoch(&mut reader)?,
            },
            kind::ENQUEUED => return EnqueuedBody::decode(body).map(Event::Enqueued),
            kind::LEASE_GRANTED => Event::LeaseGranted {
                lease: LeaseRef::decode(&mut reader)?,
                duration: Millis(reader.u32()?),
                owner: reader.text()?,
            },
            kind::GRANT_RELEASED => {
                let lease = LeaseRef::decode(&mut reader)?;
                let flags = flags(&mut reader, IS_DEAD | IS_COUNTED | HAS_SINCE)?;
                let has_since = flags & HAS_SINCE != 0;
                Event::GrantReleased {
                    lease,
                    counted: flags & IS_COUNTED != 0,
                    dead: flags & IS_DEAD != 0,
                    since: match has_since {
                        true => Some(Nanos(reader.u64()?)),
                        false => None,
                    },
                }
            }
            kind::HEARTBEAT => Event::Heartbeat {
                lease: LeaseRef::decode(&mut reader)?,
                duration: Millis(reader.u32()?),
            },
            kind::COMPLETED => Event::Completed {
                lease: LeaseRef::decode(&mut reader)?,
            },
            kind::FAILED => return FailedBody::decode(body).map(Event::Failed),
            kind::EXPIRED => Event::Expired {
                lease: LeaseRef::decode(&mut reader)?,
                dead: flags(&mut reader, IS_DEAD)? != 0,
            },
            kind::REDRIVEN => Event::Redriven {
                item: Lsn(reader.u64()?),
                max_attempts: reader.u16()?,
            },
            kind::ITEM_EXPIRED => {
                let (item, last, _) = item_end(&mut reader, 0)?;
                Event::ItemExpired { item, last }
            }
            kind::CANCELLED => {
                let (item, last, flags) = item_end(&mut reader, WAS_LEASED | WAS_DEAD)?;
                Event::Cancelled {
                    item,
                    last,
                    leased: flags & WAS_LEASED != 0,
                    dead: flags & WAS_DEAD != 0,
                }
            }
            kind::DRAIN_SNAPSHOT => return drain_snapshot(reader),
            kind::RESTORE_SNAPSHOT => {
                return Ok(Event::RestoreSnapshot {
                    origin: reader.id()?,
                    sequence_id: SequenceId(reader.u64()?),
                    enters_request: flags(&mut reader, ENTERS_REQUEST)? != 0,
                    snapshot: ItemSnapshot::decode(reader.rest())?,
                });
            }
            kind::CARRY => return Carry::decode(reader).map(Event::Carry),
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.end()?;
        Ok(event)
    }
}

type LastLease = Option<(LeaseRef, FenceReason)>;

/// Writes which item ends and how its last lease ended; `flags` are beside the
/// reason.
fn put_end(out: &mut Vec<u8>, item: Lsn, last: LastLease, flags: u8) {
    out.put_u64_le(item.0);
    match last {
        None => out.put_u8(flags),
        Some((lease, reason)) => {
            assert_eq!(lease.item, item, "an item ends with its own lease");
            out.put_u8(reason as u8 | flags);
            lease.encode_without_item(out);
        }
    }
}

fn item_end(reader: &mut Reader<'_>, known: u8) -> Result<(Lsn, LastLease, u8), DecodeError> {
    let item = Lsn(reader.u64()?);
    let byte = reader.u8()?;
    let last = match byte & !known {
        0 => None,
        number => {
            let reason = reason(number)?;
            Some((LeaseRef::decode_without_item(item, reader)?, reason))
        }
    };
    Ok((item, last, byte & known))
}

fn drain_snapshot<'a>(mut reader: Reader<'a>) -> Result<Event<'a>, DecodeError> {
    let flags = flags(&mut reader, HAS_REQUEST | HAS_ITEM)?;
    let request = match flags & HAS_REQUEST {
        0 => None,
        _ => Some([reader.u64()?, reader.u64()?]),
    };
    let snapshot = match flags & HAS_ITEM {
        0 => {
            reader.end()?;
            None
        }
        _ => Some(ItemSnapshot::decode(reader.rest())?),
    };
    Ok(Event::DrainSnapshot { request, snapshot })
}

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

fn flags(reader: &mut Reader<'_>, known: u8) -> Result<u8, DecodeError> {
    let flags = reader.u8()?;
    match flags & !known {
        0 => Ok(flags),
        _ => Err(DecodeError::OutOfRange("flags")),
    }
}

fn epoch(reader: &mut Reader<'_>) -> Result<Epoch, DecodeError> {
    match reader.u32()? {
        epoch if epoch <= EPOCH_MAX => Ok(Epoch(epoch)),
        _ => Err(DecodeError::OutOfRange("epoch")),
    }
}

impl LeaseRef {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.item.0);
        self.encode_without_item(out);
    }

    fn encode_without_item(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.attempt);
        out.put_u16_le(self.grant);
        out.put_u32_le(self.epoch.0);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<LeaseRef, DecodeError> {
        let item = Lsn(reader.u64()?);
        LeaseRef::decode_without_item(item, reader)
    }

    fn decode_without_item(item: Lsn, reader: &mut Reader<'_>) -> Result<LeaseRef, DecodeError> {
        Ok(LeaseRef {
            item,
            attempt: reader.u16()?,
            grant: reader.u16()?,
            epoch: epoch(reader)?,
        })
    }
}

fn optional_len(text: Option<&str>, length_len: usize) -> usize {
    text.map_or(0, |text| length_len + text.len())
}

impl<'a> EnqueuedBody<'a> {
    /// Where the payload's opaque body lies within the encoded record body, so
    /// that a reader can slice it out of a shared buffer without copying.
    pub fn body_range(&self) -> Range<usize> {
        let end = self.encoded_len();
        end - self.payload.body.len()..end
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let payload = &self.payload;
        // Checksum, time, attempts, priority, flags; lengths of four texts and of the attributes.
        let fixed = CHECK_LEN + 8 + 2 + 1 + 1 + 4 * 2 + 4;
        fixed
            + self.ttl.map_or(0, |_| 4)
            + self.enqueued_by.len()
            + payload.resource_type.len()
            + payload.resource_id.len()
            + payload.encoding.len()
            + optional_len(payload.partition_key, 2)
            + optional_len(payload.request_id, 2)
            + payload.attributes.encoded_len()
            + payload.body.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let payload = &self.payload;
        let start = out.len();
        out.put_slice(&[0; CHECK_LEN]);
        out.put_u64_le(self.ready_at.0);
        out.put_u16_le(self.max_attempts);
        out.put_u8(self.priority);
        out.put_u8(
            flag(self.ttl.is_some(), HAS_TTL)
                | flag(payload.partition_key.is_some(), HAS_PARTITION_KEY)
                | flag(payload.request_id.is_some(), HAS_REQUEST_ID),
        );
        if let Some(ttl) = self.ttl {
            out.put_u32_le(ttl.0);
        }
        put_text(out, self.enqueued_by);
        put_text(out, payload.resource_type);
        put_text(out, payload.resource_id);
        put_text(out, payload.encoding);
        for text in [payload.partition_key, payload.request_id]
            .into_iter()
            .flatten()
        {
            put_text(out, text);
        }
        put_attributes(out, &payload.attributes);
        out.put_slice(payload.body);
        let check = crc32c::crc32c(&out[start + CHECK_LEN..]);
        out[start..start + CHECK_LEN].copy_from_slice(&check.to_le_bytes());
    }

    /// Reads a body that is read back from the log, and checks that its bytes
    /// are as they were written: what a disk has changed since never becomes a
    /// payload.
    ///
    /// # Errors
    /// When it is not the body of an `Enqueued` record, or the checksum does
    /// not match.
    pub fn decode_verified(body: &'a [u8]) -> Result<EnqueuedBody<'a>, DecodeError> {
        EnqueuedBody::verify(body)?;
        EnqueuedBody::decode(body)
    }

    /// Checks that a body that is read back from the log is as it was written.
    /// That of an item in a shard can be decoded then: it was when the item
    /// came in, be it by an enqueue or by replay.
    ///
    /// # Errors
    /// When the checksum does not match.
    pub fn verify(body: &[u8]) -> Result<(), DecodeError> {
        let (check, checked) = body
            .split_first_chunk::<CHECK_LEN>()
            .ok_or(DecodeError::Truncated)?;
        match crc32c::crc32c(checked) == u32::from_le_bytes(*check) {
            true => Ok(()),
            false => Err(DecodeError::Damaged),
        }
    }

    /// Reads a body whose bytes are known to be as they were written.
    ///
    /// # Errors
    /// When it is not the body of an `Enqueued` record.
    pub fn decode(body: &'a [u8]) -> Result<EnqueuedBody<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        // For `decode_verified`.
        reader.u32()?;
        let ready_at = Nanos(reader.u64()?);
        let max_attempts = reader.u16()?;
        let priority = reader.u8()?;
        let flags = flags(&mut reader, HAS_TTL | HAS_PARTITION_KEY | HAS_REQUEST_ID)?;
        if max_attempts == 0 {
            return Err(DecodeError::OutOfRange("max_attempts"));
        }
        let ttl = match flags & HAS_TTL {
            0 => None,
            _ => Some(Millis(reader.u32()?)),
        };
        let enqueued_by = reader.text()?;
        let resource_type = reader.text()?;
        let resource_id = reader.text()?;
        let encoding = reader.text()?;
        let mut optional = |bit| match flags & bit {
            0 => Ok(None),
            _ => reader.text().map(Some),
        };
        let partition_key = optional(HAS_PARTITION_KEY)?;
        let request_id = optional(HAS_REQUEST_ID)?;
        let attributes = Attributes::decode(reader.long_bytes()?)?;
        Ok(EnqueuedBody {
            ready_at,
            ttl,
            max_attempts,
            priority,
            enqueued_by,
            payload: PayloadRef {
                resource_type,
                resource_id,
                partition_key,
                encoding,
                body: reader.rest(),
                attributes,
                request_id,
            },
        })
    }
}

impl<'a> FailedBody<'a> {
    fn encoded_len(&self) -> usize {
        LEASE_LEN
            + 1
            + 8
            + optional_len(self.reason, 4)
            + optional_len(self.code, 2)
            + 4
            + self.metadata.encoded_len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.lease.encode(out);
        out.put_u8(
            flag(self.dead, IS_DEAD)
                | flag(self.reason.is_some(), HAS_REASON)
                | flag(self.code.is_some(), HAS_CODE),
        );
        out.put_u64_le(self.ready_at.0);
        if let Some(reason) = self.reason {
            crate::codec::put_long(out, reason.as_bytes());
        }
        if let Some(code) = self.code {
            put_text(out, code);
        }
        put_attributes(out, &self.metadata);
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<FailedBody<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let lease = LeaseRef::decode(&mut reader)?;
        let flags = flags(&mut reader, IS_DEAD | HAS_REASON | HAS_CODE)?;
        let ready_at = Nanos(reader.u64()?);
        let reason = match flags & HAS_REASON {
            0 => None,
            _ => Some(reader.long_text()?),
        };
        let code = match flags & HAS_CODE {
            0 => None,
            _ => Some(reader.text()?),
        };
        let metadata = Attributes::decode(reader.long_bytes()?)?;
        reader.end()?;
        Ok(FailedBody {
            lease,
            dead: flags & IS_DEAD != 0,
            ready_at,
            reason,
            code,
            metadata,
        })
    }
}

fn put_attributes(out: &mut Vec<u8>, attributes: &Attributes<'_>) {
    let len = u32::try_from(attributes.encoded_len()).expect("attributes are 4 GiB or longer");
    out.put_u32_le(len);
    attributes.encode(out);
}
