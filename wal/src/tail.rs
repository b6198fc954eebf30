//! The end of a log, found without reading what is before it.

use std::io;
use std::sync::Arc;

use crate::batches::ViewedBatch;
use crate::disk::Disk;
use crate::format::{Position, SECTOR_BYTES, SegmentHeader};
use crate::scan::Window;
use crate::segment_file::{START, SegmentFile, UNSOUND, position, records_of, segment_numbers};
use crate::view::{LogView, ViewError};

/// How many segments a tail reaches over: after a crash or two the newest ones are short.
const SEGMENTS_MAX: usize = 4;

/// Where no batch begins in the bytes that are wanted, this many times as many are looked at, so
/// that a large batch does not hide those before it.
const REACH_MAX: u64 = 16;

impl<D: Disk> LogView<D> {
    /// The log's last whole batches before `end`, in order: those that begin in about the last
    /// `bytes`. A batch has a checksum of its own, so where one begins is seen without knowing
    /// the one before. Costs the same however long the log is: at most 16 times `bytes` and a
    /// batch are read of each of the last few segments. What is damaged or given up meanwhile
    /// ends the tail early instead of failing it.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub fn tail(&self, end: Position, bytes: u32) -> Result<Vec<ViewedBatch>, ViewError> {
        let mut parts = Vec::new();
        let mut left = u64::from(bytes);
        // After a crash the log's last batch is in two segments.
        let mut until = u64::MAX;
        let numbers = segment_numbers(&self.disk)?.into_iter().rev();
        for number in numbers
            .filter(|&number| number <= end.segment)
            .take(SEGMENTS_MAX)
        {
            let Some(file) = self.file(number)? else {
                continue;
            };
            let Some(header) = file.header(self.log) else {
                continue;
            };
            let limit = match number == end.segment {
                true => file.len.min(end.offset.into()),
                false => file.len,
            };
            let Some(part) = self.tail_of(&file, header, limit, until, left)? else {
                break;
            };
            let is_cut = part.last().is_some_and(|last| last.number + 1 < until);
            if is_cut && until != u64::MAX {
                break;
            }
            let start = part.first().map(|batch| batch.at);
            parts.push(part);
            match start {
                // Nothing in it counts.
                None => {}
                Some(start) if u64::from(start.offset) == START => {
                    until = header.first_batch;
                    left = left.saturating_sub(limit - START);
                }
                Some(_) => break,
            }
            if left == 0 {
                break;
            }
        }
        Ok(parts.into_iter().rev().flatten().collect())
    }

    /// The last batches of a segment that begin before `limit`; `None` if none was found although
    /// some may be there.
    fn tail_of(
        &self,
        file: &SegmentFile<D::File>,
        header: SegmentHeader,
        limit: u64,
        until: u64,
        bytes: u64,
    ) -> Result<Option<Vec<ViewedBatch>>, ViewError> {
        let (seed, mut batches) = (header.crc_seed(), Vec::new());
        let first = first_of(file, header, limit, bytes);
        let Some((mut offset, mut number)) = first.map_err(self.unreadable(file.number))? else {
            return Ok(None);
        };
        let mut window = Window::small(Arc::clone(&file.file), limit);
        while offset < limit && number < until {
            let (batch, payload) = match window.batch(seed, offset, number) {
                Ok(Some(batch)) if !batch.0.is_marker() => batch,
                Ok(_) => break,
                // Its unused end was cut off since it was opened.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(self.unreadable(file.number)(error)),
            };
            let mut viewed = ViewedBatch {
                number,
                at: position(file.number, offset),
                records: Vec::new(),
            };
            if !records_of(&batch, payload, viewed.at, |_| true, &mut viewed.records) {
                return Err(self.damaged(file.number, offset, UNSOUND).into());
            }
            batches.push(viewed);
            offset += batch.batch_bytes();
            number += 1;
        }
        Ok(Some(batches))
    }
}

/// Where the first batch of a segment's last `bytes` before `limit` is, and its number.
fn first_of<F: crate::disk::DiskFile>(
    file: &SegmentFile<F>,
    header: SegmentHeader,
    limit: u64,
    bytes: u64,
) -> io::Result<Option<(u64, u64)>> {
    let mut high = limit;
    let mut reach = bytes.max(SECTOR_BYTES.into());
    while reach <= bytes * REACH_MAX {
        let low = limit.saturating_sub(reach) / u64::from(SECTOR_BYTES) * u64::from(SECTOR_BYTES);
        if low <= START {
            return Ok(Some((START, header.first_batch)));
        }
        let mut window = Window::small(Arc::clone(&file.file), high);
        let found = window.beyond(header.crc_seed(), low, header.first_batch)?;
        if found.later.is_some() {
            return Ok(found.later);
        }
        high = low;
        reach *= 4;
    }
    Ok(None)
}
