//! Reads a closed segment once more, so that what still counts in it can be
//! appended again before the segment is given up.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::error::Damaged;
use crate::floor::LOG_SHARD;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, HeaderPage, Position, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, segment_name, segment_number,
};
use crate::scan::{Kept, Window};

/// Reads closed segments. Every call blocks on the disk.
#[derive(Clone, Debug)]
pub struct Cleaner<D> {
    disk: D,
}

/// How far a segment has been read; the default is its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<Next>);

/// The next batch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    offset: u64,
    batch: u64,
}

/// A record, where its body is, and its body.
pub type ReadRecord = (RecordHeader, Position, Bytes);

/// What one call has read.
#[derive(Debug)]
pub struct Scanned {
    /// The wanted records, in order.
    pub records: Vec<ReadRecord>,
    /// Where to go on; `None` at the end of the segment.
    pub next: Option<Cursor>,
}

impl<D: Disk> Cleaner<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk }
    }

    /// Reads whole batches of a closed segment, up to `max_bytes` of them but
    /// at least one, and gives back those of their records whose kind is
    /// wanted. The log's own records are not among them. A segment is closed
    /// when a batch in the next one has been synced.
    ///
    /// # Errors
    /// What the disk said; or [`Damaged`], within an error of kind
    /// [`io::ErrorKind::InvalidData`]. The segment must then be kept.
    pub fn scan(
        &self,
        segment: u32,
        from: Cursor,
        wanted: fn(u8) -> bool,
        max_bytes: usize,
    ) -> io::Result<Scanned> {
        let file = Arc::new(self.disk.open(&segment_name(segment))?);
        let len = file.len()?;
        let damaged = |offset, reason: String| {
            let file = self.disk.path(&segment_name(segment));
            let damaged = Damaged {
                file,
                offset,
                reason,
            };
            io::Error::new(io::ErrorKind::InvalidData, damaged)
        };
        let Some(header) = header_of(&*file, segment)? else {
            return Err(damaged(0, "its header is unreadable".to_owned()));
        };
        let end = self.end_of(segment, header.log)?;
        let (seed, mut window) = (header.crc_seed(), Window::reading_ahead(file, len));
        let mut next = from.0.unwrap_or(Next {
            offset: SEGMENT_HEADER_BYTES.into(),
            batch: header.first_batch,
        });
        let mut records = Vec::new();
        let start = next.offset;
        let stop = start + max_bytes as u64;
        while next.batch < end {
            let batch = window.batch(seed, next.offset, next.batch)?;
            let Some((header, payload)) = batch.filter(|(header, _)| !header.is_marker()) else {
                let batch = next.batch;
                return Err(damaged(next.offset, format!("batch {batch} is unreadable")));
            };
            let batch_end = next.offset + header.batch_bytes();
            if batch_end > stop && next.offset > start {
                break;
            }
            let at = position(segment, next.offset);
            let whole = records_of(&header, payload, at, wanted, &mut records);
            if !whole {
                return Err(damaged(next.offset, UNSOUND.to_owned()));
            }
            next.offset = batch_end;
            next.batch += 1;
        }
        let next = (next.batch < end).then_some(Cursor(Some(next)));
        Ok(Scanned { records, next })
    }

    /// The number of the first batch that is not in a closed segment: the next
    /// segment's first.
    fn end_of(&self, segment: u32, log: u16) -> io::Result<u64> {
        let names = self.disk.list()?;
        let mut later: Vec<u32> = names
            .iter()
            .filter_map(|name| segment_number(name))
            .collect();
        later.retain(|&number| number > segment);
        later.sort_unstable();
        for number in later {
            let file = self.disk.open(&segment_name(number))?;
            if let Some(header) = header_of(&file, number)?
                && header.log == log
            {
                return Ok(header.first_batch);
            }
        }
        Err(io::Error::other("the segment is still being written to"))
    }
}

/// What is wrong with a batch that is whole and yet none.
pub(crate) const UNSOUND: &str = "its records do not add up to its length";

/// Where something is in a segment.
pub(crate) fn position(segment: u32, offset: u64) -> Position {
    Position {
        segment,
        offset: u32::try_from(offset).expect("segments have 32-bit lengths"),
    }
}

/// The header of a segment file, if it is whole and says that number.
pub(crate) fn header_of(file: &impl DiskFile, number: u32) -> io::Result<Option<SegmentHeader>> {
    let len = file.len()?.min(SEGMENT_HEADER_BYTES.into());
    let mut page = vec![0; usize::try_from(len).expect("a page")];
    file.read_at(&mut page, 0)?;
    Ok(match HeaderPage::decode(&page) {
        HeaderPage::Valid(header) if header.segment == number => Some(header),
        _ => None,
    })
}

/// Takes a batch's records apart, those of wanted kinds. `false` if they are
/// not as long together as the batch.
pub(crate) fn records_of(
    header: &BatchHeader,
    payload: Kept,
    at: Position,
    wanted: impl Fn(u8) -> bool,
    into: &mut Vec<ReadRecord>,
) -> bool {
    let payload = payload.into_bytes();
    let mut rest = &payload[..];
    for _ in 0..header.records {
        let start = payload.len() - rest.len() + RECORD_HEADER_BYTES;
        let Some((record, body)) = RecordHeader::split(&mut rest) else {
            return false;
        };
        if record.shard == LOG_SHARD || !wanted(record.kind) {
            continue;
        }
        let offset = u32::try_from(BATCH_HEADER_BYTES + start).expect("within a segment");
        let place = Position {
            offset: at.offset + offset,
            ..at
        };
        into.push((record, place, payload.slice(start..start + body.len())));
    }
    rest.is_empty()
}
