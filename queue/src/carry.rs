//! What is written again so that the log can give up its oldest records.
//!
//! A carry is no event of the shard: it has no LSN of its own, and says how
//! things stand at its position. Whoever replays a log that begins with it, or
//! somewhere before it, makes them so.

use std::marker::PhantomData;

use crate::codec::{DecodeError, Reader};
use crate::ids::{EPOCH_MAX, Epoch, Lsn, Nanos, RequestKey};
use crate::outcome::FenceReason;
use crate::record::LeaseRef;
use crate::snapshot::{ItemSnapshot, reason};

/// One thing as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry<'a> {
    /// An item that is in the shard.
    Item(ItemSnapshot<'a>),
    /// An item that was taken out, while the request that asked for it may be
    /// repeated.
    Drained {
        /// The request.
        request: RequestKey,
        /// The LSN of the drain, which orders the bundle.
        lsn: Lsn,
        /// When it was taken out.
        at: Nanos,
        /// As it was.
        snapshot: ItemSnapshot<'a>,
    },
    /// The shard as it was after its last record, whose LSN, epoch and time are
    /// this one's own.
    Header {
        /// Items that waited or were delayed.
        pending: u64,
        /// Items that were leased.
        active: u64,
        /// When the latest epochs began.
        epochs: Rows<'a, EpochStart>,
    },
    /// Since when items wait that may have got their turn by records which
    /// replay passes over.
    Turns(Rows<'a, Turn>),
    /// Drain requests that may be repeated.
    Drains(Rows<'a, DrainPart>),
    /// Request ids of enqueues.
    Dedupe(Rows<'a, Remembered>),
    /// Items that were restored.
    Restored(Rows<'a, Remembered>),
    /// How leases of items that are gone ended.
    Settled(Rows<'a, Ended>),
    /// The same, two bits an item, for a run of LSNs.
    SettledPage {
        /// Which page of LSNs.
        page: u64,
        /// When its last lease ended.
        last_at: Nanos,
        /// The page's word that `words` begins with.
        first_word: u16,
        /// Words of 64 bits.
        words: Rows<'a, u64>,
    },
}

/// The beginning of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// Its first LSN.
    pub lsn: Lsn,
    /// The epoch.
    pub epoch: Epoch,
}

/// Since when an item waits, where items of its resource take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The item.
    pub item: Lsn,
    /// Since when.
    pub since: Nanos,
}

/// A shard's part of a drain request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPart {
    /// The request.
    pub request: RequestKey,
    /// When the shard last did something for it.
    pub at: Nanos,
    /// The record of that.
    pub last_lsn: Lsn,
    /// Whether the part is complete.
    pub complete: bool,
}

/// A key that is remembered, and the record that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The fingerprint.
    pub key: RequestKey,
    /// The record.
    pub lsn: Lsn,
    /// Its time.
    pub at: Nanos,
}

/// How the last lease of an item that is gone ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The lease.
    pub lease: LeaseRef,
    /// How it ended.
    pub reason: FenceReason,
    /// When the item went.
    pub at: Nanos,
}

/// Rows of fixed length: as values when they are written, encoded when they
/// come from a record. Both compare by what they hold.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a, T> {
    /// Borrowed values.
    Values(&'a [T]),
    /// As encoded in a record; checked when it was decoded.
    Encoded(EncodedRows<'a, T>),
}

/// Rows as a record holds them, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRows<'a, T>(&'a [u8], PhantomData<T>);

/// A row of fixed length.
pub trait Row: Copy + PartialEq {
    /// Length of an encoded row in bytes.
    const LEN: usize;

    #[doc(hidden)]
    fn encode(&self, out: &mut Vec<u8>);

    #[doc(hidden)]
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

impl<'a, T: Row> Rows<'a, T> {
    /// The rows, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (values, encoded) = match *self {
            Rows::Values(values) => (values, &[][..]),
            Rows::Encoded(EncodedRows(bytes, _)) => (&[][..], bytes),
        };
        // The bytes were checked when they were decoded.
        let decoded = encoded
            .chunks_exact(T::LEN)
            .filter_map(|row| T::decode(row).ok());
        values.iter().copied().chain(decoded)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Values(values) => values.len(),
            Rows::Encoded(encoded) => encoded.0.len() / T::LEN,
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Rows::Values(values) => values.iter().for_each(|row| row.encode(out)),
            Rows::Encoded(encoded) => out.extend_from_slice(encoded.0),
        }
    }

    fn decode(bytes: &'a [u8]) -> Result<Rows<'a, T>, DecodeError> {
        let rows = bytes.chunks_exact(T::LEN);
        if !rows.remainder().is_empty() {
            return Err(DecodeError::Truncated);
        }
        for row in rows {
            T::decode(row)?;
        }
        Ok(Rows::Encoded(EncodedRows(bytes, PhantomData)))
    }
}

impl<T: Row> PartialEq for Rows<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Row> Eq for Rows<'_, T> {}

const ITEM: u8 = 1;
const DRAINED: u8 = 2;
const HEADER: u8 = 3;
const DRAINS: u8 = 4;
const DEDUPE: u8 = 5;
const RESTORED: u8 = 6;
const SETTLED: u8 = 7;
const SETTLED_PAGE: u8 = 8;
const TURNS: u8 = 9;

/// Bytes of a checkpoint's header, its rows aside.
pub(crate) const HEADER_BYTES: usize = 1 + 8 + 8;

/// Bytes before the words of a page of ended leases.
pub(crate) const PAGE_HEAD_BYTES: usize = 1 + 8 + 8 + 2;

impl<'a> Carry<'a> {
    /// The item that it carries.
    pub fn snapshot(&self) -> Option<&ItemSnapshot<'a>> {
        match self {
            Carry::Item(snapshot) | Carry::Drained { snapshot, .. } => Some(snapshot),
            _ => None,
        }
    }

    /// Whether an encoded carry holds an item.
    pub(crate) fn is_item(body: &[u8]) -> bool {
        matches!(body.first(), Some(&(ITEM | DRAINED)))
    }

    pub(crate) fn encoded_len(&self) -> usize {
        1 + match self {
            Carry::Item(snapshot) => snapshot.encoded_len(),
            Carry::Drained { snapshot, .. } => 16 + 8 + 8 + snapshot.encoded_len(),
            Carry::Header { epochs, .. } => HEADER_BYTES - 1 + epochs.len() * EpochStart::LEN,
            Carry::Turns(rows) => rows.len() * Turn::LEN,
            Carry::Drains(rows) => rows.len() * DrainPart::LEN,
            Carry::Dedupe(rows) | Carry::Restored(rows) => rows.len() * Remembered::LEN,
            Carry::Settled(rows) => rows.len() * Ended::LEN,
            Carry::SettledPage { words, .. } => PAGE_HEAD_BYTES - 1 + words.len() * u64::LEN,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Carry::Item(snapshot) => {
                out.push(ITEM);
                snapshot.encode(out);
            }
            Carry::Drained {
                request,
                lsn,
                at,
                snapshot,
            } => {
                out.push(DRAINED);
                put_key(out, request);
                out.extend_from_slice(&lsn.0.to_le_bytes());
                out.extend_from_slice(&at.0.to_le_bytes());
                snapshot.encode(out);
            }
            Carry::Header {
                pending,
                active,
                epochs,
            } => {
                out.push(HEADER);
                out.extend_from_slice(&pending.to_le_bytes());
                out.extend_from_slice(&active.to_le_bytes());
                epochs.encode(out);
            }
            Carry::Turns(rows) => put_rows(out, TURNS, rows),
            Carry::Drains(rows) => put_rows(out, DRAINS, rows),
            Carry::Dedupe(rows) => put_rows(out, DEDUPE, rows),
            Carry::Restored(rows) => put_rows(out, RESTORED, rows),
            Carry::Settled(rows) => put_rows(out, SETTLED, rows),
            Carry::SettledPage {
                page,
                last_at,
                first_word,
                words,
            } => {
                out.push(SETTLED_PAGE);
                out.extend_from_slice(&page.to_le_bytes());
                out.extend_from_slice(&last_at.0.to_le_bytes());
                out.extend_from_slice(&first_word.to_le_bytes());
                words.encode(out);
            }
        }
    }

    pub(crate) fn decode(mut reader: Reader<'a>) -> Result<Carry<'a>, DecodeError> {
        Ok(match reader.u8()? {
            ITEM => Carry::Item(ItemSnapshot::decode(reader.rest())?),
            DRAINED => Carry::Drained {
                request: [reader.u64()?, reader.u64()?],
                lsn: Lsn(reader.u64()?),
                at: Nanos(reader.u64()?),
                snapshot: ItemSnapshot::decode(reader.rest())?,
            },
            HEADER => Carry::Header {
                pending: reader.u64()?,
                active: reader.u64()?,
                epochs: Rows::decode(reader.rest())?,
            },
            TURNS => Carry::Turns(Rows::decode(reader.rest())?),
            DRAINS => Carry::Drains(Rows::decode(reader.rest())?),
            DEDUPE => Carry::Dedupe(Rows::decode(reader.rest())?),
            RESTORED => Carry::Restored(Rows::decode(reader.rest())?),
            SETTLED => Carry::Settled(Rows::decode(reader.rest())?),
            SETTLED_PAGE => {
                let (page, last_at) = (reader.u64()?, Nanos(reader.u64()?));
                let (first_word, words) = (reader.u16()?, Rows::decode(reader.rest())?);
                if usize::from(first_word) + words.len() > crate::marks::PAGE_WORDS {
                    return Err(DecodeError::OutOfRange("words"));
                }
                Carry::SettledPage {
                    page,
                    last_at,
                    first_word,
                    words,
                }
            }
            _ => return Err(DecodeError::OutOfRange("carry")),
        })
    }
}

fn put_rows<T: Row>(out: &mut Vec<u8>, tag: u8, rows: &Rows<'_, T>) {
    out.push(tag);
    rows.encode(out);
}

pub(crate) fn put_key(out: &mut Vec<u8>, key: &RequestKey) {
    for half in key {
        out.extend_from_slice(&half.to_le_bytes());
    }
}

impl Row for u64 {
    const LEN: usize = 8;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<u64, DecodeError> {
        Reader::new(bytes).u64()
    }
}

impl Row for EpochStart {
    const LEN: usize = 12;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<EpochStart, DecodeError> {
        let mut reader = Reader::new(bytes);
        let lsn = Lsn(reader.u64()?);
        match reader.u32()? {
            epoch if epoch <= EPOCH_MAX => Ok(EpochStart {
                lsn,
                epoch: Epoch(epoch),
            }),
            _ => Err(DecodeError::OutOfRange("epoch")),
        }
    }
}

impl Row for Turn {
    const LEN: usize = 16;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.item.0.to_le_bytes());
        out.extend_from_slice(&self.since.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Turn, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Turn {
            item: Lsn(reader.u64()?),
            since: Nanos(reader.u64()?),
        })
    }
}

impl Row for DrainPart {
    const LEN: usize = 33;

    fn encode(&self, out: &mut Vec<u8>) {
        put_key(out, &self.request);
        out.extend_from_slice(&self.at.0.to_le_bytes());
        out.extend_from_slice(&self.last_lsn.0.to_le_bytes());
        out.push(self.complete.into());
    }

    fn decode(bytes: &[u8]) -> Result<DrainPart, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(DrainPart {
            request: [reader.u64()?, reader.u64()?],
            at: Nanos(reader.u64()?),
            last_lsn: Lsn(reader.u64()?),
            complete: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::OutOfRange("complete")),
            },
        })
    }
}

impl Row for Remembered {
    const LEN: usize = 32;

    fn encode(&self, out: &mut Vec<u8>) {
        put_key(out, &self.key);
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Remembered, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Remembered {
            key: [reader.u64()?, reader.u64()?],
            lsn: Lsn(reader.u64()?),
            at: Nanos(reader.u64()?),
        })
    }
}

impl Row for Ended {
    const LEN: usize = 25;

    fn encode(&self, out: &mut Vec<u8>) {
        self.lease.encode(out);
        out.push(self.reason as u8);
        out.extend_from_slice(&self.at.0.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Ended, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Ended {
            lease: LeaseRef::decode(&mut reader)?,
            reason: reason(reader.u8()?)?,
            at: Nanos(reader.u64()?),
        })
    }
}
