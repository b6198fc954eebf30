//! Reads a closed segment once more, so that what still counts in it can be
//! appended again before the segment is given up.

use std::io;

use bytes::Bytes;

use crate::disk::Disk;
use crate::format::{Position, RecordHeader};

/// Reads closed segments. Every call blocks on the disk.
#[derive(Clone, Debug)]
pub struct Cleaner<D> {
    disk: D,
}

/// How far a segment has been read; the default is its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<Place>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u32,
    batch: u64,
}

/// What one call has read.
#[derive(Debug)]
pub struct Scanned {
    /// The wanted records, in order, with where their bodies are, and those.
    pub records: Vec<(RecordHeader, Position, Bytes)>,
    /// Where to go on; `None` at the end of the segment.
    pub next: Option<Cursor>,
}

impl<D: Disk> Cleaner<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk }
    }

    /// Reads whole batches of a closed segment, up to `max_bytes` of them but
    /// at least one, and gives back those of their records whose kind is
    /// wanted. The log's own records are not among them.
    ///
    /// # Errors
    /// What the disk said, or that a batch is damaged, with its file and place.
    /// The segment must then be kept.
    pub fn scan(
        &self,
        segment: u32,
        from: Cursor,
        wanted: fn(u8) -> bool,
        max_bytes: usize,
    ) -> io::Result<Scanned> {
        let _ = (segment, from, wanted, max_bytes, &self.disk);
        Err(io::ErrorKind::Unsupported.into())
    }
}
