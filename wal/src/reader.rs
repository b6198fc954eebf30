//! Reads bodies by position.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{Position, segment_name};
use crate::map::Mapping;
use crate::writer::Written;

/// How many of the newest segments are read through a mapping. Older bytes may
/// have left memory: touching them would stop the core for the disk.
const MAPPED_SEGMENTS_MAX: u32 = 4;

/// How many segments one reader keeps open.
const FILES_MAX: usize = 64;

/// Reads bodies. Each clone has files and mappings of its own, so clones on
/// different threads share nothing that is written to but the watermark.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    disk: D,
    written: Arc<Written>,
    files: RefCell<HashMap<u32, Open<D::File>>>,
}

#[derive(Debug)]
struct Open<F> {
    file: Arc<F>,
    map: Option<Arc<Mapping>>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Self::new(self.disk.clone(), Arc::clone(&self.written))
    }
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(disk: D, written: Arc<Written>) -> Self {
        Self {
            disk,
            written,
            files: RefCell::default(),
        }
    }

    /// The `len` bytes at a position if they can be had without waiting for
    /// the disk: recently written ones without a copy, others if they are in
    /// memory. `None` is no error: [`Reader::read`] says more.
    pub fn recent(&self, at: Position, len: usize) -> Option<Bytes> {
        if !self.is_written(at, len) {
            return None;
        }
        let end = self.written.end();
        let mapped = at.segment >= self.written.first_segment
            && end.segment - at.segment < MAPPED_SEGMENTS_MAX;
        if mapped && let Some(map) = self.map(at.segment) {
            return map.bytes(at.offset as usize, len);
        }
        let file = self.file(at.segment).ok()?;
        let mut buffer = vec![0; len];
        let read = file.read_nowait(&mut buffer, u64::from(at.offset));
        matches!(read, Ok(true)).then(|| buffer.into())
    }

    /// The `len` bytes at a position. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk said; an end of file if the bytes were never written.
    pub fn read(&self, at: Position, len: usize) -> io::Result<Bytes> {
        if !self.is_written(at, len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = self.file(at.segment)?;
        let mut buffer = vec![0; len];
        file.read_at(&mut buffer, u64::from(at.offset))?;
        Ok(buffer.into())
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
        };
        files.insert(segment, open);
        Ok(file)
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
            }
        }
        let open = files.get_mut(&segment)?;
        open.map = file.map().ok()?.map(Arc::new);
        open.map.clone()
    }
}
