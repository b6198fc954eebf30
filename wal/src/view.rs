//! Reads a log without opening it, also while a node writes to it.

use std::path::PathBuf;

use bytes::Bytes;

use crate::disk::Disk;
use crate::format::{Position, RecordHeader};

/// A log's directory, to be looked at. Nothing is changed and nothing locked,
/// so segments may come and go.
#[derive(Clone, Debug)]
pub struct LogView<D> {
    disk: D,
    log: u16,
}

/// What a segment file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u32,
    /// The size of its file.
    pub bytes: u64,
    /// What its header says.
    pub state: SegmentState,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Nothing: a spare, or one that is being given up.
    Unused,
    /// It has batches, or its first is being written.
    Begun {
        /// The number of its first batch.
        first_batch: u64,
        /// Seeds its checksums.
        generation: u64,
        /// It may hold bytes of an earlier use behind its last batch.
        recycled: bool,
    },
    /// Neither copy of its header is whole.
    Broken,
    /// It is of a format that this build does not read.
    OtherFormat(u32),
    /// It is of another log, or not the segment its name says.
    Foreign,
}

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest batch that is needed.
    Oldest,
    /// With a segment's first batch.
    Segment(u32),
    /// With the batch that a record at this position is in, or that starts
    /// there.
    Position(Position),
}

/// Why a log could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The disk refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The segment has been given up by the log: what was there is not needed
    /// any more.
    #[error("segment {segment} of the log has been given up")]
    Trimmed {
        /// Which.
        segment: u32,
    },
    /// Bytes that are part of the log are damaged.
    #[error("{} is damaged at byte {offset}: {reason}", file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// A batch, verified.
#[derive(Debug)]
pub struct ViewedBatch {
    /// Its number.
    pub number: u64,
    /// Where it starts.
    pub at: Position,
    /// Its records, in order, with where their bodies are, and those. The log's
    /// own records are not among them.
    pub records: Vec<(RecordHeader, Position, Bytes)>,
}

/// Reads batch after batch.
#[derive(Debug)]
pub struct Batches<D: Disk> {
    view: LogView<D>,
}

impl<D: Disk> LogView<D> {
    /// Looks at the log of this number.
    pub fn open(disk: D, log: u16) -> Self {
        Self { disk, log }
    }

    /// The segment files, by number.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, ViewError> {
        let _ = (&self.disk, self.log);
        Ok(Vec::new())
    }

    /// Reads batches, up to `end` or else to the last one that is whole. A
    /// reader beside a running node gives [`Reader::end`](crate::Reader::end),
    /// so that it sees nothing that may yet be lost.
    ///
    /// # Errors
    /// If there is nothing to start with there.
    pub fn read_from(&self, from: From, end: Option<Position>) -> Result<Batches<D>, ViewError>
    where
        D: Clone,
    {
        let _ = (from, end);
        Ok(Batches { view: self.clone() })
    }
}

impl<D: Disk> Batches<D> {
    /// Reads on up to here, from the next call on.
    pub fn set_end(&mut self, end: Position) {
        let _ = end;
    }

    /// Where the next batch will be: to start from another time.
    pub fn position(&self) -> Position {
        let _ = &self.view;
        Position {
            segment: 0,
            offset: 0,
        }
    }

    /// The next batch; `None` at the end for now. Then, and after an error that
    /// passes, it can be asked again.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub fn next_batch(&mut self) -> Result<Option<ViewedBatch>, ViewError> {
        Ok(None)
    }
}
