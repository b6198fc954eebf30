//! One segment file: what its header page says, and what it holds.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cleaner::ReadRecord;
use crate::disk::{Disk, DiskFile};
use crate::floor::{Floor, LOG_SHARD};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, HeaderPage, Position, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, segment_name, segment_number,
};
use crate::scan::{Kept, Window};

/// A file or directory that the disk does not give.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// A segment file.
#[derive(Debug)]
pub(crate) struct SegmentFile<F> {
    pub(crate) number: u32,
    pub(crate) file: Arc<F>,
    pub(crate) len: u64,
    pub(crate) page: HeaderPage,
}

/// The numbers of the segment files there are, in order.
pub(crate) fn segment_numbers(disk: &impl Disk) -> Result<Vec<u32>, Unreadable> {
    let names = disk.list().map_err(|source| Unreadable {
        path: disk.path(""),
        source,
    })?;
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl<F: DiskFile> SegmentFile<F> {
    /// Opens a segment file and reads its header page.
    pub(crate) fn open<D: Disk<File = F>>(disk: &D, number: u32) -> Result<Self, Unreadable> {
        let name = segment_name(number);
        let open = || -> io::Result<_> {
            let file = Arc::new(disk.open(&name)?);
            let len = file.len()?;
            let page = usize::try_from(len.min(SEGMENT_HEADER_BYTES.into()));
            let mut page = vec![0; page.expect("a page")];
            file.read_at(&mut page, 0)?;
            let page = HeaderPage::decode(&page);
            Ok(Self {
                number,
                file,
                len,
                page,
            })
        };
        open().map_err(|source| Unreadable {
            path: disk.path(&name),
            source,
        })
    }

    /// Its header, if it is whole and this log's.
    pub(crate) fn header(&self, log: u16) -> Option<SegmentHeader> {
        match self.page {
            HeaderPage::Valid(header) => {
                (header.segment == self.number && header.log == log).then_some(header)
            }
            _ => None,
        }
    }

    /// A window over it that is moved from its start to its end.
    pub(crate) fn window(&self) -> Window<F> {
        Window::reading_ahead(Arc::clone(&self.file), self.len)
    }

    /// Its header, if its first batch is there too: else nothing in it counts.
    pub(crate) fn counting<D: Disk<File = F>>(
        &self,
        disk: &D,
        log: u16,
    ) -> Result<Option<SegmentHeader>, Unreadable> {
        let Some(header) = self.header(log) else {
            return Ok(None);
        };
        let mut window = Window::small(Arc::clone(&self.file), self.len);
        let first = window.batch(header.crc_seed(), START, header.first_batch);
        match first {
            Ok(first) => Ok(first.is_some().then_some(header)),
            Err(source) => Err(Unreadable {
                path: disk.path(&segment_name(self.number)),
                source,
            }),
        }
    }
}

/// Where a segment's first batch starts.
pub(crate) const START: u64 = SEGMENT_HEADER_BYTES as u64;

/// Where in `files`, which are in order, those start that can still be read: segments below the
/// floor are kept as history for as long as there is room for them. They are given up oldest
/// first, so what is before one that is not whole is history no more.
pub(crate) fn oldest_kept<D: Disk>(
    disk: &D,
    log: u16,
    files: &[SegmentFile<D::File>],
    floor: Floor,
) -> usize {
    let mut oldest = files.partition_point(|file| file.number < floor.segment);
    let mut next_batch = floor.first_batch;
    while let Some(before) = oldest.checked_sub(1) {
        // What cannot be read is no longer needed, so that it cannot be is no error.
        match files[before].counting(disk, log) {
            Ok(Some(header)) if header.first_batch < next_batch => {
                (oldest, next_batch) = (before, header.first_batch);
            }
            _ => break,
        }
    }
    oldest
}

/// The newest floor there is a record of. Each segment's header has the one
/// that was newest when it was begun, so only the newest segment is read; what
/// is before the floor need not be readable. With it comes the number of the
/// segment that says so.
pub(crate) fn newest_floor<D: Disk>(
    disk: &D,
    log: u16,
    files: &[SegmentFile<D::File>],
) -> Result<(Floor, u32), Unreadable> {
    for one in files.iter().rev() {
        let Some(header) = one.counting(disk, log)? else {
            continue;
        };
        let floor = last_floor(one, &header).map_err(|source| Unreadable {
            path: disk.path(&segment_name(one.number)),
            source,
        })?;
        return Ok((floor, one.number));
    }
    Ok((Floor::NONE, 0))
}

/// The floor as of a segment's last batch.
fn last_floor<F: DiskFile>(file: &SegmentFile<F>, header: &SegmentHeader) -> io::Result<Floor> {
    let (seed, mut floor) = (header.crc_seed(), header.floor);
    let (mut offset, mut number) = (START, header.first_batch);
    let mut window = file.window();
    while let Some((batch, payload)) = window.batch(seed, offset, number)? {
        let mut rest = payload.as_slice();
        while let Some((record, body)) = RecordHeader::split(&mut rest) {
            if record.shard == LOG_SHARD
                && let Some(newer) = Floor::decode(&record, body)
            {
                floor = newer;
            }
        }
        if batch.is_marker() {
            break;
        }
        offset += batch.batch_bytes();
        number += 1;
    }
    Ok(floor)
}

/// Where something is in a segment.
pub(crate) fn position(segment: u32, offset: u64) -> Position {
    Position {
        segment,
        offset: u32::try_from(offset).expect("segments have 32-bit lengths"),
    }
}

/// What is wrong with a batch that is whole and yet none.
pub(crate) const UNSOUND: &str = "its records do not add up to its length";

/// Takes a batch's records apart, and keeps those of wanted kinds that are not
/// the log's own. `false` if they are not as long together as the batch.
pub(crate) fn records_of(
    header: &BatchHeader,
    payload: Kept,
    at: Position,
    wanted: impl Fn(u8) -> bool,
    into: &mut Vec<ReadRecord>,
) -> bool {
    let payload = payload.into_bytes();
    let mut rest = &payload[..];
    for _ in 0..header.records {
        let start = payload.len() - rest.len() + RECORD_HEADER_BYTES;
        let Some((record, body)) = RecordHeader::split(&mut rest) else {
            return false;
        };
        if record.shard == LOG_SHARD || !wanted(record.kind) {
            continue;
        }
        let offset = u32::try_from(BATCH_HEADER_BYTES + start).expect("within a segment");
        let place = Position {
            offset: at.offset + offset,
            ..at
        };
        into.push((record, place, payload.slice(start..start + body.len())));
    }
    rest.is_empty()
}
