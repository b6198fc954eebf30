//! Reads bodies by position.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{Position, segment_name};
use crate::map::{Mapping, Mappings};
use crate::writer::Written;

/// How many of the newest segments are read through a mapping. Older bytes may
/// have left memory: touching them would stop the core for the disk.
const MAPPED_SEGMENTS_MAX: u32 = 4;

/// How many segments one reader keeps open.
const FILES_MAX: usize = 64;

/// Reads bodies. Each clone has files and mappings of its own: what clones on
/// different threads share is written to once a batch (the watermark) or once a
/// segment (which are mapped).
#[derive(Debug)]
pub struct Reader<D: Disk> {
    disk: D,
    written: Arc<Written>,
    mappings: Arc<Mappings>,
    files: RefCell<HashMap<u32, Open<D::File>>>,
}

#[derive(Debug)]
struct Open<F> {
    file: Arc<F>,
    map: Option<Arc<Mapping>>,
    /// What was written of it when it was last looked at, through the mapping: bytes that are lent
    /// out are parts of this.
    view: Bytes,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        let (written, mappings) = (Arc::clone(&self.written), Arc::clone(&self.mappings));
        Self::new(self.disk.clone(), written, mappings)
    }
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(disk: D, written: Arc<Written>, mappings: Arc<Mappings>) -> Self {
        Self {
            disk,
            written,
            mappings,
            files: RefCell::default(),
        }
    }

    /// The `len` bytes at a position if they can be had without waiting for
    /// the disk: recently written ones without a copy, others if they are in
    /// memory. `None` is no error: [`Reader::read`] says more.
    pub fn recent(&self, at: Position, len: usize) -> Option<Bytes> {
        if !self.is_written(at, len) || self.mappings.is_retired(at.segment) {
            return None;
        }
        let end = self.written.end();
        let mapped = at.segment >= self.written.first_segment
            && end.segment - at.segment < MAPPED_SEGMENTS_MAX;
        if mapped && let Some(bytes) = self.mapped(at, len, end) {
            return Some(bytes);
        }
        let file = self.file(at.segment).ok()?;
        let mut buffer = vec![0; len];
        let read = file.read_nowait(&mut buffer, u64::from(at.offset));
        matches!(read, Ok(true)).then(|| buffer.into())
    }

    /// The `len` bytes at a position. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk said; an end of file if the bytes were never written; not
    /// found if their segment has been retired.
    pub fn read(&self, at: Position, len: usize) -> io::Result<Bytes> {
        if !self.is_written(at, len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.mappings.is_retired(at.segment) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = self.file(at.segment)?;
        let mut buffer = vec![0; len];
        file.read_at(&mut buffer, u64::from(at.offset))?;
        Ok(buffer.into())
    }

    /// Up to where the log is durable: the end of the last synced batch. No
    /// stream of the log goes beyond.
    pub fn end(&self) -> Position {
        self.written.end()
    }

    /// Lets go of a segment that is about to be
    /// [retired](crate::Allocator::retire), and whose bytes are not asked for
    /// again.
    pub fn forget(&self, segment: u32) {
        self.files.borrow_mut().remove(&segment);
    }

    /// Whether a mapping of the segment still exists, held by a reader that has
    /// not forgotten it or by bytes that one has lent out. The segment can then
    /// be removed, but not used again.
    pub fn is_mapped_out(&self, segment: u32) -> bool {
        self.mappings.is_mapped(segment)
    }

    fn is_written(&self, at: Position, len: usize) -> bool {
        let end = self.written.end();
        let bytes_end = u64::from(at.offset) + len as u64;
        at.segment < end.segment
            || (at.segment == end.segment && bytes_end <= u64::from(end.offset))
    }

    fn file(&self, segment: u32) -> io::Result<Arc<D::File>> {
        let mut files = self.files.borrow_mut();
        if let Some(open) = files.get(&segment) {
            return Ok(Arc::clone(&open.file));
        }
        let file = Arc::new(self.disk.open(&segment_name(segment))?);
        if files.len() == FILES_MAX {
            // The oldest are asked for the least: most jobs are young.
            let oldest = *files.keys().min().expect("it is full");
            files.remove(&oldest);
        }
        let open = Open {
            file: Arc::clone(&file),
            map: None,
            view: Bytes::new(),
        };
        files.insert(segment, open);
        Ok(file)
    }

    /// Written bytes, through a mapping of their segment; `None` if that cannot be mapped.
    fn mapped(&self, at: Position, len: usize, end: Position) -> Option<Bytes> {
        let range = at.offset as usize..at.offset as usize + len;
        if let Some(open) = self.files.borrow().get(&at.segment)
            && range.end <= open.view.len()
        {
            return Some(open.view.slice(range));
        }
        let map = self.map(at.segment)?;
        // A segment that is not the last has no more to come.
        let written = match at.segment == end.segment {
            true => end.offset as usize,
            false => map.len(),
        };
        let view = map.bytes(0, written)?;
        let bytes = (range.end <= view.len()).then(|| view.slice(range))?;
        if let Some(open) = self.files.borrow_mut().get_mut(&at.segment) {
            open.view = view;
        }
        Some(bytes)
    }

    fn map(&self, segment: u32) -> Option<Arc<Mapping>> {
        let file = self.file(segment).ok()?;
        let mut files = self.files.borrow_mut();
        if let Some(map) = &files.get(&segment)?.map {
            return Some(Arc::clone(map));
        }
        // A new mapping is needed once a segment: the time to let go of those that have become old.
        let newest = self.written.end().segment;
        for (&number, open) in files.iter_mut() {
            if newest.saturating_sub(number) >= MAPPED_SEGMENTS_MAX {
                open.map = None;
                open.view = Bytes::new();
            }
        }
        let open = files.get_mut(&segment)?;
        open.map = self.mappings.map(segment, || file.map());
        open.map.clone()
    }
}
