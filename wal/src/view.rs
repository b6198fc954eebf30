//! Looks at a log without opening it, also while a node writes to it.

use std::io;
use std::path::PathBuf;

use crate::batches::{Batches, ReadFrom};
use crate::disk::Disk;
use crate::error::Damaged;
use crate::format::{HeaderPage, Position, segment_name};
use crate::segment_file::{SegmentFile, Unreadable, segment_numbers};

/// A log's directory, to be looked at. Nothing is changed and nothing locked,
/// so segments may come and go.
#[derive(Clone, Debug)]
pub struct LogView<D> {
    pub(crate) disk: D,
    pub(crate) log: u16,
}

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u32,
    /// The size of the file.
    pub bytes: u64,
    /// What its header says.
    pub state: SegmentState,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Nothing: it is a spare, or is being given up.
    Unused,
    /// It has batches, or its first is being written.
    Begun {
        /// The number of its first batch.
        first_batch: u64,
        /// Random; seeds its checksums.
        generation: u64,
        /// It may hold bytes of an earlier use behind its last batch.
        recycled: bool,
    },
    /// Neither copy of it is whole.
    Broken,
    /// It is of a format that this build does not read.
    OtherFormat(u32),
    /// It is of another log, or of another segment than the file's name says.
    Foreign,
}

/// Why a log cannot be read there.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The disk refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The segment is no part of the log any more: it has been given up.
    #[error("segment {segment} is no part of the log any more; start with the oldest there is")]
    Trimmed {
        /// Which.
        segment: u32,
    },
    /// Bytes that are part of the log are damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl From<Unreadable> for ViewError {
    fn from(Unreadable { path, source }: Unreadable) -> Self {
        Self::Io { path, source }
    }
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
        let files = self.files()?;
        Ok(files.iter().map(|file| self.info(file)).collect())
    }

    /// Reads batches, up to `end` or else to the last one that is whole. A
    /// reader beside a running node gives [`Reader::end`](crate::Reader::end),
    /// so that it sees nothing that may yet be lost.
    ///
    /// # Errors
    /// If what it would start with is not there or cannot be read.
    pub fn read_from(
        &self,
        from: ReadFrom,
        end: Option<Position>,
    ) -> Result<Batches<D>, ViewError> {
        Batches::start(self.clone(), from, end)
    }

    pub(crate) fn info(&self, file: &SegmentFile<D::File>) -> SegmentInfo {
        let state = match file.page {
            HeaderPage::Unused => SegmentState::Unused,
            HeaderPage::Broken => SegmentState::Broken,
            HeaderPage::Other(version) => SegmentState::OtherFormat(version),
            HeaderPage::Valid(_) => match file.header(self.log) {
                None => SegmentState::Foreign,
                Some(header) => SegmentState::Begun {
                    first_batch: header.first_batch,
                    generation: header.generation,
                    recycled: header.recycled,
                },
            },
        };
        SegmentInfo {
            number: file.number,
            bytes: file.len,
            state,
        }
    }

    /// The segment files, but for those that vanish meanwhile.
    pub(crate) fn files(&self) -> Result<Vec<SegmentFile<D::File>>, ViewError> {
        let mut files = Vec::new();
        for number in segment_numbers(&self.disk)? {
            files.extend(self.file(number)?);
        }
        Ok(files)
    }

    /// A segment file, if it is there.
    pub(crate) fn file(&self, number: u32) -> Result<Option<SegmentFile<D::File>>, ViewError> {
        match SegmentFile::open(&self.disk, number) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            // It may be cut between the asking for its length and the reading.
            Err(error) if error.source.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn damaged(&self, segment: u32, offset: u64, reason: impl Into<String>) -> Damaged {
        Damaged {
            file: self.disk.path(&segment_name(segment)),
            offset,
            reason: reason.into(),
        }
    }

    pub(crate) fn unreadable(&self, segment: u32) -> impl FnOnce(io::Error) -> ViewError {
        let path = self.disk.path(&segment_name(segment));
        move |source| ViewError::Io { path, source }
    }
}
