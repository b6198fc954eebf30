//! Records: what happened to a shard, in order, as the log keeps it.
//!
//! Bodies are little endian. Whoever frames a record keeps its shard, LSN,
//! epoch, time and kind beside the body. Kind numbers and layouts are a disk
//! format: a number is never used again for something else.

use std::ops::Range;

use bytes::BufMut;

use crate::codec::{DecodeError, Reader, put_text};
use crate::ids::{EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Place};
use crate::payload::{Attributes, PayloadRef};

/// Numbers of the kinds of record. 12 to 16 are kept for `DeadLettered`, `DrainSnapshot`, `RestoreSnapshot`, `Snapshot`
/// and `Carry`.
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
    /// One more than the record before; `EpochStarted` may skip ahead.
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
    },
    /// An item was taken away, whatever its state. If it was leased, that
    /// lease is over.
    Cancelled {
        /// The LSN of its enqueue.
        item: Lsn,
    },
    /// A dead letter waits again, at once. Its attempts go on counting.
    Redriven {
        /// The LSN of its enqueue.
        item: Lsn,
        /// Attempts until it becomes a dead letter again.
        max_attempts: u16,
    },
}

/// The body of an `Enqueued` record. The payload's opaque body is its end.
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
const HAS_REASON: u8 = 2;
const HAS_CODE: u8 = 4;

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
        }
    }

    /// Length of the encoded body in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Event::EpochStarted { .. } => 4,
            Event::Enqueued(body) => body.encoded_len(),
            Event::LeaseGranted { owner, .. } => LEASE_LEN + 4 + 2 + owner.len(),
            Event::GrantReleased { .. } | Event::Expired { .. } => LEASE_LEN + 1,
            Event::Heartbeat { .. } => LEASE_LEN + 4,
            Event::Completed { .. } => LEASE_LEN,
            Event::Failed(body) => body.encoded_len(),
            Event::ItemExpired { .. } | Event::Cancelled { .. } => 8,
            Event::Redriven { .. } => 8 + 2,
        }
    }

    /// Writes the body: exactly [`encoded_len`](Event::encoded_len) bytes.
    ///
    /// # Panics
    /// When a text is longer than [`crate::TEXT_BYTES_MAX`].
    pub fn encode(&self, out: &mut impl BufMut) {
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
            } => {
                lease.encode(out);
                out.put_u8(flag(*dead, IS_DEAD) | flag(*counted, IS_COUNTED));
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
            Event::ItemExpired { item } | Event::Cancelled { item } => out.put_u64_le(item.0),
            Event::Redriven { item, max_attempts } => {
                out.put_u64_le(item.0);
                out.put_u16_le(*max_attempts);
            }
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
            kind::ENQUEUED => return EnqueuedBody::decode(reader).map(Event::Enqueued),
            kind::LEASE_GRANTED => Event::LeaseGranted {
                lease: LeaseRef::decode(&mut reader)?,
                duration: Millis(reader.u32()?),
                owner: reader.text()?,
            },
            kind::GRANT_RELEASED => {
                let lease = LeaseRef::decode(&mut reader)?;
                let flags = flags(&mut reader, IS_DEAD | IS_COUNTED)?;
                Event::GrantReleased {
                    lease,
                    counted: flags & IS_COUNTED != 0,
                    dead: flags & IS_DEAD != 0,
                }
            }
            kind::HEARTBEAT => Event::Heartbeat {
                lease: LeaseRef::decode(&mut reader)?,
                duration: Millis(reader.u32()?),
            },
            kind::COMPLETED => Event::Completed {
                lease: LeaseRef::decode(&mut reader)?,
            },
            kind::FAILED => return FailedBody::decode(reader).map(Event::Failed),
            kind::EXPIRED => Event::Expired {
                lease: LeaseRef::decode(&mut reader)?,
                dead: flags(&mut reader, IS_DEAD)? != 0,
            },
            kind::ITEM_EXPIRED => Event::ItemExpired {
                item: Lsn(reader.u64()?),
            },
            kind::CANCELLED => Event::Cancelled {
                item: Lsn(reader.u64()?),
            },
            kind::REDRIVEN => Event::Redriven {
                item: Lsn(reader.u64()?),
                max_attempts: reader.u16()?,
            },
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.end()?;
        Ok(event)
    }
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
    fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.item.0);
        out.put_u16_le(self.attempt);
        out.put_u16_le(self.grant);
        out.put_u32_le(self.epoch.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<LeaseRef, DecodeError> {
        Ok(LeaseRef {
            item: Lsn(reader.u64()?),
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

    fn encoded_len(&self) -> usize {
        let payload = &self.payload;
        // Time, attempts, priority, flags; lengths of four texts and of the attributes.
        let fixed = 8 + 2 + 1 + 1 + 4 * 2 + 4;
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

    fn encode(&self, out: &mut impl BufMut) {
        let payload = &self.payload;
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
    }

    fn decode(mut reader: Reader<'a>) -> Result<EnqueuedBody<'a>, DecodeError> {
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

    fn encode(&self, out: &mut impl BufMut) {
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

    fn decode(mut reader: Reader<'a>) -> Result<FailedBody<'a>, DecodeError> {
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

fn put_attributes(out: &mut impl BufMut, attributes: &Attributes<'_>) {
    let len = u32::try_from(attributes.encoded_len()).expect("attributes are 4 GiB or longer");
    out.put_u32_le(len);
    attributes.encode(out);
}
