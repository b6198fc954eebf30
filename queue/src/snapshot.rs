//! An item with everything that is known of it, as it leaves a shard, comes
//! into one, or is written again at another place of the log.

use crate::codec::{DecodeError, Reader, put_text};
use crate::ids::{EPOCH_MAX, Epoch, Lsn, Millis, Nanos};
use crate::outcome::FenceReason;
use crate::record::{EnqueuedBody, FailedBody, LeaseRef};

/// An item and its state.
///
/// The bodies that it was enqueued and last failed with are copied as they
/// stand in the log: what reads payloads and errors need not know whether it
/// reads from a record of their own or from the middle of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemSnapshot<'a> {
    /// The LSN of its enqueue.
    pub lsn: Lsn,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it waits, when its delay ends, or when it was given up on.
    pub since: Nanos,
    /// From the enqueue until the item is dropped unless it is leased; not
    /// zero.
    pub ttl: Option<Millis>,
    /// Attempts that count, with the one that is leased.
    pub attempt: u16,
    /// Attempts until it becomes a dead letter.
    pub max_attempts: u16,
    /// The item's grant counter: counts released grants too.
    pub grant: u16,
    /// Higher first.
    pub priority: u8,
    /// How its last lease ended.
    pub last_end: Option<FenceReason>,
    /// The epoch of its last lease; 0 when it was never leased.
    pub lease_epoch: Epoch,
    /// Waiting, leased or dead.
    pub state: SnapshotState<'a>,
    /// The body of its last `Failed` record; empty when it never failed.
    pub error: &'a [u8],
    /// The body of its `Enqueued` record.
    pub body: &'a [u8],
}

/// What state an item is in, with what only that state needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState<'a> {
    /// It waits, or will wait once its delay is over.
    Waiting,
    /// It is leased.
    Leased {
        /// By whom.
        owner: &'a str,
        /// What a heartbeat extends by unless it says otherwise.
        duration: Millis,
        /// The longest duration on record.
        recorded: Millis,
    },
    /// It was given up on.
    Dead,
}

const WAITING: u8 = 0;
const LEASED: u8 = 1;
const DEAD: u8 = 2;

/// Checksum; state, end of the last lease, priority; attempts, most attempts,
/// grants; epoch; LSN and times; time to live; the error's length.
const FIXED_LEN: usize = 4 + 3 + 3 * 2 + 4 + 3 * 8 + 4 + 4;

impl<'a> ItemSnapshot<'a> {
    /// Length of the encoded snapshot in bytes.
    pub fn encoded_len(&self) -> usize {
        self.body_offset() + self.body.len()
    }

    /// Where the enqueue's body begins in the encoded snapshot. It is its end.
    pub(crate) fn body_offset(&self) -> usize {
        self.error_offset() + self.error.len()
    }

    /// Where the last failure's body begins in the encoded snapshot.
    pub(crate) fn error_offset(&self) -> usize {
        let leased = match self.state {
            SnapshotState::Leased { owner, .. } => 4 + 4 + 2 + owner.len(),
            SnapshotState::Waiting | SnapshotState::Dead => 0,
        };
        FIXED_LEN + leased
    }

    /// What the item was enqueued with. Time to live, most attempts and
    /// priority are the snapshot's: they may have changed since.
    ///
    /// # Errors
    /// When `body` is no body of an `Enqueued` record.
    pub fn enqueued(&self) -> Result<EnqueuedBody<'a>, DecodeError> {
        EnqueuedBody::decode(self.body)
    }

    /// What the item last failed with.
    ///
    /// # Errors
    /// When `error` is no body of a `Failed` record.
    pub fn failed(&self) -> Result<Option<FailedBody<'a>>, DecodeError> {
        match self.error.is_empty() {
            true => Ok(None),
            false => FailedBody::decode(self.error).map(Some),
        }
    }

    /// Its last lease and how that ended, if it is not leased and ever was.
    pub(crate) fn last_ended(&self) -> Option<(LeaseRef, FenceReason)> {
        let lease = LeaseRef {
            item: self.lsn,
            attempt: self.attempt,
            grant: self.grant,
            epoch: self.lease_epoch,
        };
        self.last_end.map(|reason| (lease, reason))
    }

    /// When it outlives its time.
    pub fn ttl_end(&self) -> Option<Nanos> {
        self.ttl
            .map(|ttl| self.enqueued_at.saturating_add_millis(ttl))
    }

    /// Appends the snapshot: exactly [`encoded_len`](ItemSnapshot::encoded_len)
    /// bytes.
    ///
    /// # Panics
    /// When the owner is longer than [`crate::TEXT_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let (state, leased) = match self.state {
            SnapshotState::Waiting => (WAITING, None),
            SnapshotState::Dead => (DEAD, None),
            SnapshotState::Leased {
                owner,
                duration,
                recorded,
            } => (LEASED, Some((owner, duration, recorded))),
        };
        out.extend_from_slice(&[
            state,
            self.last_end.map_or(0, |reason| reason as u8),
            self.priority,
        ]);
        for count in [self.attempt, self.max_attempts, self.grant] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.lease_epoch.0.to_le_bytes());
        for number in [self.lsn.0, self.enqueued_at.0, self.since.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.ttl.unwrap_or_default().0.to_le_bytes());
        if let Some((owner, duration, recorded)) = leased {
            out.extend_from_slice(&duration.0.to_le_bytes());
            out.extend_from_slice(&recorded.0.to_le_bytes());
            put_text(out, owner);
        }
        crate::codec::put_long(out, self.error);
        let check = crc32c::crc32c(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&check.to_le_bytes());
        out.extend_from_slice(self.body);
    }

    /// Reads a snapshot whose bytes are known to be as they were written.
    ///
    /// # Errors
    /// When it is not one that [`encode`](ItemSnapshot::encode) writes.
    pub fn decode(bytes: &'a [u8]) -> Result<ItemSnapshot<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        // For `decode_verified`.
        reader.u32()?;
        let state = reader.u8()?;
        let last_end = last_end(reader.u8()?)?;
        let priority = reader.u8()?;
        let (attempt, max_attempts, grant) = (reader.u16()?, reader.u16()?, reader.u16()?);
        if max_attempts == 0 {
            return Err(DecodeError::OutOfRange("max_attempts"));
        }
        let attempts = match state {
            // A lease is an attempt, and a waiting item has one left.
            LEASED => 1..=u16::MAX,
            WAITING => 0..=u16::MAX - 1,
            _ => 0..=u16::MAX,
        };
        if !attempts.contains(&attempt) {
            return Err(DecodeError::OutOfRange("attempt"));
        }
        let lease_epoch = match reader.u32()? {
            epoch if epoch <= EPOCH_MAX => Epoch(epoch),
            _ => return Err(DecodeError::OutOfRange("epoch")),
        };
        let (lsn, enqueued_at, since) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let ttl = Some(Millis(reader.u32()?)).filter(|ttl| ttl.0 > 0);
        let state = match state {
            WAITING => SnapshotState::Waiting,
            LEASED => SnapshotState::Leased {
                duration: Millis(reader.u32()?),
                recorded: Millis(reader.u32()?),
                owner: reader.text()?,
            },
            DEAD => SnapshotState::Dead,
            _ => return Err(DecodeError::OutOfRange("state")),
        };
        let snapshot = ItemSnapshot {
            lsn: Lsn(lsn),
            enqueued_at: Nanos(enqueued_at),
            since: Nanos(since),
            ttl,
            attempt,
            max_attempts,
            grant,
            priority,
            last_end,
            lease_epoch,
            state,
            error: reader.long_bytes()?,
            body: reader.rest(),
        };
        snapshot.failed()?;
        snapshot.enqueued()?;
        Ok(snapshot)
    }

    /// Reads a snapshot and checks that its bytes are as they were written:
    /// for what is read back from the log.
    ///
    /// # Errors
    /// As [`decode`](ItemSnapshot::decode), and when a checksum does not match.
    pub fn decode_verified(bytes: &'a [u8]) -> Result<ItemSnapshot<'a>, DecodeError> {
        let snapshot = ItemSnapshot::decode(bytes)?;
        let (check, checked) = bytes[..snapshot.body_offset()]
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*check) {
            return Err(DecodeError::Damaged);
        }
        EnqueuedBody::decode_verified(snapshot.body)?;
        Ok(snapshot)
    }
}

fn last_end(byte: u8) -> Result<Option<FenceReason>, DecodeError> {
    match byte {
        0 => Ok(None),
        byte => reason(byte).map(Some),
    }
}

/// A reason as records number it.
pub(crate) fn reason(byte: u8) -> Result<FenceReason, DecodeError> {
    match byte {
        1 => Ok(FenceReason::Completed),
        2 => Ok(FenceReason::Failed),
        3 => Ok(FenceReason::Expired),
        4 => Ok(FenceReason::Superseded),
        _ => Err(DecodeError::OutOfRange("reason")),
    }
}
