//! Reads a closed segment once more, so that what still counts in it can be
//! appended again before the segment is given up.

use std::io;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::Damaged;
use crate::format::{Position, RecordHeader, segment_name};
use crate::segment_file::{START, SegmentFile, UNSOUND, position, records_of, segment_numbers};

/// Reads closed segments. Every call blocks on the disk.
#[derive(Clone, Debug)]
pub struct Cleaner<D> {
    disk: D,
    log: u16,
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
    pub(crate) fn new(disk: D, log: u16) -> Self {
        Self { disk, log }
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
        let damaged = |offset, reason: String| {
            let file = self.disk.path(&segment_name(segment));
            let damaged = Damaged {
                file,
                offset,
                reason,
            };
            io::Error::new(io::ErrorKind::InvalidData, damaged)
        };
        let file = SegmentFile::open(&self.disk, segment).map_err(|error| error.source)?;
        let Some(header) = file.header(self.log) else {
            return Err(damaged(0, "its header is unreadable".to_owned()));
        };
        let end = self.end_of(segment)?;
        let (seed, mut window) = (header.crc_seed(), file.window());
        let mut next = from.0.unwrap_or(Next {
            offset: START,
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
    fn end_of(&self, segment: u32) -> io::Result<u64> {
        let numbers = segment_numbers(&self.disk).map_err(|error| error.source)?;
        for number in numbers.into_iter().filter(|&number| number > segment) {
            let file = SegmentFile::open(&self.disk, number).map_err(|error| error.source)?;
            if let Some(header) = file.header(self.log) {
                return Ok(header.first_batch);
            }
        }
        Err(io::Error::other("the segment is still being written to"))
    }
}
