//! Looks for batches in a segment file whose bytes cannot be trusted.

use std::io;

use crate::disk::DiskFile;
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, SECTOR_BYTES, SEGMENT_HEADER_BYTES};

/// How much of a file is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A batch is looked for this far ahead of the expected one where a broken
/// segment header leaves only plausibility: more batches than this do not fit
/// the largest segment.
const BATCHES_AHEAD_MAX: u64 = 1 << 22;

/// Reads a file front to back through a buffer.
pub(crate) struct Window<'a, F> {
    file: &'a F,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
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

impl<'a, F: DiskFile> Window<'a, F> {
    pub(crate) fn new(file: &'a F, len: u64) -> Self {
        Self {
            file,
            len,
            start: 0,
            buffer: Vec::new(),
        }
    }

    /// The bytes at an offset; `None` if the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset
            .checked_add(len as u64)
            .filter(|&end| end <= self.len)
        else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let ahead = (self.len - offset).min(len.max(WINDOW_BYTES) as u64);
            let ahead = usize::try_from(ahead).expect("a segment fits memory");
            self.start = offset;
            if self.buffer.len() < ahead {
                self.buffer = vec![0; ahead];
            }
            self.buffer.truncate(ahead);
            let read = self.file.read_at(&mut self.buffer, offset);
            if read.is_err() {
                self.buffer.clear();
            }
            read?;
        }
        let at = usize::try_from(offset - self.start).expect("within the buffer");
        Ok(Some(&self.buffer[at..at + len]))
    }

    /// The batch at an offset, if it has this number and is whole.
    pub(crate) fn batch(
        &mut self,
        seed: u32,
        offset: u64,
        number: u64,
    ) -> io::Result<Option<(BatchHeader, &[u8])>> {
        let header = self.bytes(offset, BATCH_HEADER_BYTES)?;
        let header = header.and_then(|bytes| BatchHeader::decode(seed, bytes));
        let Some(header) = header.filter(|header| header.number == number) else {
            return Ok(None);
        };
        let payload = offset + BATCH_HEADER_BYTES as u64;
        let payload = self.bytes(payload, header.payload_bytes as usize)?;
        Ok(payload
            .filter(|payload| BatchHeader::of(seed, number, header.records, payload) == header)
            .map(|payload| (header, payload)))
    }

    /// Looks for batches later than `number` from an offset to the end. The
    /// header of one is enough: it was written after `number` was durable.
    pub(crate) fn beyond(&mut self, seed: u32, offset: u64, number: u64) -> io::Result<Beyond> {
        let begun = self.bytes(offset, BATCH_HEADER_BYTES)?;
        let begun = begun.and_then(|bytes| BatchHeader::decode(seed, bytes));
        let beyond = self.sectors(offset, |sector| {
            let header = BatchHeader::decode(seed, sector)?;
            (header.number > number).then_some(header.number)
        })?;
        Ok(Beyond {
            begun: begun.filter(|begun| begun.number == number),
            ..beyond
        })
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
        let mut beyond = Beyond::default();
        let mut offset = from;
        while offset < self.len {
            let len = (self.len - offset).min(u64::from(SECTOR_BYTES));
            let len = usize::try_from(len).expect("a sector");
            let sector = self.bytes(offset, len)?.expect("within the file");
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
