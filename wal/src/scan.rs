//! Reads segment files front to back, and looks for batches where their bytes
//! cannot be trusted.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, SECTOR_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader,
};

/// How much of a file is read at once: little enough to be still in the CPU's
/// cache when it is checked and handed out.
const WINDOW_BYTES: usize = 1 << 20;

/// How much is read at once of a file of which one batch is asked for.
const SMALL_BYTES: usize = 32 << 10;

/// How much of a file the disk is told ahead: what it reads while that much is
/// being worked on. Enough for a disk that answers in bursts.
const AHEAD_BYTES: u64 = 32 << 20;

/// A batch is looked for this far ahead of the expected one where a broken
/// segment header leaves only plausibility: more batches than this do not fit
/// the largest segment.
const BATCHES_AHEAD_MAX: u64 = 1 << 22;

/// Reads a file front to back through a buffer.
#[derive(Debug)]
pub(crate) struct Window<F> {
    file: Arc<F>,
    len: u64,
    /// Where in the file the buffer's bytes are from, and how many they are.
    start: u64,
    filled: usize,
    buffer: Arc<Vec<u8>>,
    /// The buffer before, of which something may still be kept.
    other: Arc<Vec<u8>>,
    /// How much is read at once.
    step: usize,
    /// Up to where the disk was told to read ahead; `None` if it is not to.
    told: Option<u64>,
    /// The file that is read after this one, until the disk has been told so.
    next: Option<Arc<F>>,
}

/// Bytes of a window that outlive it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Kept {
    /// The first `len` bytes of a buffer.
    pub(crate) fn of(buffer: Arc<Vec<u8>>, len: usize) -> Self {
        let range = 0..len;
        Self { buffer, range }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// What lies behind the last batch of a segment.
#[derive(Debug, Default)]
pub(crate) struct Beyond {
    /// The batch that was begun right there.
    pub(crate) begun: Option<BatchHeader>,
    /// Where a batch with a later number starts, and its number.
    pub(crate) later: Option<(u64, u64)>,
    /// Bytes up to the last sector that is not zero.
    pub(crate) bytes: u64,
}

impl Beyond {
    /// Bytes of a batch that was being written when the log ended, in a segment
    /// with this header.
    pub(crate) fn torn_bytes(&self, header: Option<SegmentHeader>) -> u64 {
        if header.is_none_or(|header| !header.recycled) {
            return self.bytes;
        }
        // What is there may be of an earlier use, but for a batch that was begun.
        let begun = self.begun.map_or(0, |batch| batch.batch_bytes());
        begun.min(self.bytes)
    }
}

impl<F: DiskFile> Window<F> {
    /// One over a file of which little will be read.
    pub(crate) fn small(file: Arc<F>, len: u64) -> Self {
        Self {
            file,
            len,
            start: 0,
            filled: 0,
            buffer: Arc::default(),
            other: Arc::default(),
            step: SMALL_BYTES,
            told: None,
            next: None,
        }
    }

    /// Has the disk read the beginning of the next file while the end of this
    /// one is being worked on.
    pub(crate) fn followed_by(self, next: Option<Arc<F>>) -> Self {
        Self { next, ..self }
    }

    /// One over a file all of which will be read.
    pub(crate) fn reading_ahead(file: Arc<F>, len: u64) -> Self {
        Self {
            step: WINDOW_BYTES,
            told: Some(0),
            ..Self::small(file, len)
        }
    }

    /// Reads anew what is asked for next: others may have written it meanwhile,
    /// or cut off the file's unused end.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        self.filled = 0;
        self.len = self.file.len()?;
        Ok(())
    }

    /// The bytes at an offset; `None` if the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let range = self.load(offset, len)?;
        Ok(range.map(|range| &self.buffer[range]))
    }

    /// Has the buffer hold these bytes of the file, and says where in it.
    fn load(&mut self, offset: u64, len: usize) -> io::Result<Option<Range<usize>>> {
        let Some(end) = offset
            .checked_add(len as u64)
            .filter(|&end| end <= self.len)
        else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.filled as u64 {
            self.refill(offset, len)?;
        }
        let at = usize::try_from(offset - self.start).expect("within the buffer");
        Ok(Some(at..at + len))
    }

    fn refill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let read = (self.len - offset).min(len.max(self.step) as u64);
        if let Some(told) = &mut self.told
            && offset + read + AHEAD_BYTES / 2 > *told
            && *told < self.len
        {
            self.file.will_read((*told).max(offset), AHEAD_BYTES);
            *told = (*told).max(offset) + AHEAD_BYTES;
            if *told >= self.len
                && let Some(next) = self.next.take()
            {
                next.will_read(0, AHEAD_BYTES);
            }
        }
        let read = usize::try_from(read).expect("a segment fits memory");
        self.filled = 0;
        if Arc::get_mut(&mut self.buffer).is_none() {
            std::mem::swap(&mut self.buffer, &mut self.other);
        }
        if Arc::get_mut(&mut self.buffer).is_none_or(|buffer| buffer.len() < read) {
            self.buffer = Arc::new(vec![0; read]);
        }
        let buffer = Arc::get_mut(&mut self.buffer).expect("nobody keeps anything of it");
        self.file.read_at(&mut buffer[..read], offset)?;
        (self.start, self.filled) = (offset, read);
        Ok(())
    }

    /// The header of the batch at an offset, if it has this number.
    pub(crate) fn header(
        &mut self,
        seed: u32,
        offset: u64,
        number: u64,
    ) -> io::Result<Option<BatchHeader>> {
        let header = self.bytes(offset, BATCH_HEADER_BYTES)?;
        let header = header.and_then(|bytes| BatchHeader::decode(seed, bytes));
        Ok(header.filter(|header| header.number == number))
    }

    /// The batch at an offset, if it has this number and is whole.
    pub(crate) fn batch(
        &mut self,
        seed: u32,
        offset: u64,
        number: u64,
    ) -> io::Result<Option<(BatchHeader, Kept)>> {
        let Some(header) = self.header(seed, offset, number)? else {
            return Ok(None);
        };
        let payload = offset + BATCH_HEADER_BYTES as u64;
        let Some(range) = self.load(payload, header.payload_bytes as usize)? else {
            return Ok(None);
        };
        let payload = &self.buffer[range.clone()];
        if BatchHeader::of(seed, number, header.records, payload) != header {
            return Ok(None);
        }
        let buffer = Arc::clone(&self.buffer);
        Ok(Some((header, Kept { buffer, range })))
    }

    /// Looks for batches later than `number` from an offset to the end. The
    /// header of one is enough: it was written after `number` was durable.
    pub(crate) fn beyond(&mut self, seed: u32, offset: u64, number: u64) -> io::Result<Beyond> {
        let begun = self.header(seed, offset, number)?;
        let beyond = self.sectors(offset, |sector| {
            let header = BatchHeader::decode(seed, sector)?;
            (header.number > number).then_some(header.number)
        })?;
        Ok(Beyond { begun, ..beyond })
    }

    /// The same behind the first batch of a segment whose header is broken, so
    /// that no checksum can be verified.
    pub(crate) fn beyond_unverified(&mut self, number: u64) -> io::Result<Beyond> {
        let first = u64::from(SEGMENT_HEADER_BYTES + SECTOR_BYTES);
        self.sectors(first, |sector| {
            let ahead = BatchHeader::unverified_number(sector)?.checked_sub(number)?;
            (1..BATCHES_AHEAD_MAX)
                .contains(&ahead)
                .then_some(number + ahead)
        })
    }

    fn sectors(&mut self, from: u64, later: impl Fn(&[u8]) -> Option<u64>) -> io::Result<Beyond> {
        const ZEROS: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];
        let sector_bytes = u64::from(SECTOR_BYTES);
        let mut beyond = Beyond::default();
        let mut offset = from;
        while offset < self.len {
            if (offset - from).is_multiple_of(WINDOW_BYTES as u64) {
                // Space that is only reserved is not worth reading.
                let data = self.file.data_from(offset)?;
                offset = offset.max(data / sector_bytes * sector_bytes);
            }
            let len = self.len.saturating_sub(offset).min(sector_bytes);
            let len = usize::try_from(len).expect("a sector");
            let Some(sector) = self.bytes(offset, len)? else {
                break;
            };
            if sector != &ZEROS[..len] {
                if let Some(number) = later(sector) {
                    beyond.later = Some((offset, number));
                    break;
                }
                beyond.bytes = offset + len as u64 - from;
            }
            offset += len as u64;
        }
        Ok(beyond)
    }
}
