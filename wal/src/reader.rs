//! Reads bodies by position.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

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
    /// Mappings that were let go of here, while bytes of them may be lent out.
    lent: RefCell<HashMap<u32, Weak<Mapping>>>,
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
            lent: RefCell::default(),
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

    /// Up to where the log is durable: the end of the last synced batch. No
    /// stream of the log goes beyond.
    pub fn end(&self) -> Position {
        self.written.end()
    }

    /// Lets go of a segment that is about to be
    /// [retired](crate::Allocator::retire), and whose bytes are not asked for
    /// again.
    pub fn forget(&self, segment: u32) {
        if let Some(open) = self.files.borrow_mut().remove(&segment) {
            self.let_go(segment, open.map);
        }
    }

    /// Whether bytes that this reader lent out of a mapping of the segment
    /// still exist: it may then be removed, but not used again.
    pub fn is_mapped_out(&self, segment: u32) -> bool {
        let files = self.files.borrow();
        let held = files.get(&segment).and_then(|open| open.map.as_ref());
        let lent = self.lent.borrow();
        let lent = lent.get(&segment).is_some_and(|map| map.strong_count() > 0);
        lent || held.is_some_and(|map| Arc::strong_count(map) > 1)
    }

    fn let_go(&self, segment: u32, map: Option<Arc<Mapping>>) {
        let mut lent = self.lent.borrow_mut();
        lent.retain(|_, map| map.strong_count() > 0);
        if let Some(map) = map
            && Arc::strong_count(&map) > 1
        {
            lent.insert(segment, Arc::downgrade(&map));
        }
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
            let map = files.remove(&oldest).and_then(|open| open.map);
            self.let_go(oldest, map);
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
                self.let_go(number, open.map.take());
            }
        }
        let open = files.get_mut(&segment)?;
        open.map = file.map().ok()?.map(Arc::new);
        open.map.clone()
    }
}
