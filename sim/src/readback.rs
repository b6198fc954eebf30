//! Reading the logs as they are on disk, and building histories out of what is durable.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;

use omnirelay_queue::{Epoch, Event, Lsn, Nanos, Record};
use omnirelay_wal::{
    Batches, Disk, DiskFile, LogOptions, LogView, Mapping, OpenError, ReadFrom, RecordHeader,
    ViewError, open,
};

use crate::disk::{SimDisk, SimFile};
use crate::history::History;
use crate::node::SEGMENT_BYTES;
use crate::tape::{Contents, Found, TapedRecord, print};
use crate::violation::Violation;

/// What a log would be opened with. The disk is left as it is.
///
/// # Errors
/// If it would not open.
pub(crate) fn read_log(log: u16, disk: &SimDisk) -> Result<Contents, OpenError> {
    let mut records = Vec::new();
    let mut on_record = |header: &RecordHeader, _, body: &[u8]| {
        records.push(Found {
            header: *header,
            print: print(header, body),
        });
        Ok(())
    };
    let options = LogOptions {
        log,
        segment_bytes: SEGMENT_BYTES,
    };
    let opened = open(Untouched(disk.clone()), options, &mut || 7, &mut on_record)?;
    let last = opened.appender.open_batch() - 1;
    Ok(Contents { records, last })
}

/// What a reader gets who begins with the oldest that is kept: history, then what the log would
/// be opened with.
///
/// # Errors
/// If it gets none, or not all.
pub(crate) fn read_kept(log: u16, disk: &SimDisk) -> Result<Contents, ViewError> {
    let mut found = Contents::default();
    let mut batches = batches(log, disk)?;
    while let Some(batch) = batches.next_batch()? {
        found.last = batch.number;
        found
            .records
            .extend(batch.records.iter().map(|(header, _, body)| Found {
                header: *header,
                print: print(header, body),
            }));
    }
    Ok(found)
}

/// The segment that a log's last batch is in.
///
/// # Errors
/// If its batches cannot be read.
pub(crate) fn newest_segment(log: u16, disk: &SimDisk) -> Result<Option<u32>, ViewError> {
    let mut newest = None;
    let mut batches = batches(log, disk)?;
    while let Some(batch) = batches.next_batch()? {
        newest = Some(batch.at.segment);
    }
    Ok(newest)
}

fn batches(log: u16, disk: &SimDisk) -> Result<Batches<Untouched>, ViewError> {
    LogView::open(Untouched(disk.clone()), log).read_from(ReadFrom::Oldest, None)
}

/// Adds a record to its shard's history.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn add_record(
    histories: &mut BTreeMap<u32, History>,
    taped: &TapedRecord,
) -> Result<(), Violation> {
    let header = &taped.header;
    let no_record = |why: String| Violation::new("every record is one of the queue's", why);
    let history = histories
        .get_mut(&header.shard)
        .ok_or_else(|| no_record(format!("{header:?} is of no shard")))?;
    let event = Event::decode(header.kind, &taped.body)
        .map_err(|error| no_record(format!("{header:?}: {error}")))?;
    let record = Record {
        lsn: Lsn(header.lsn),
        epoch: Epoch(header.epoch),
        at: Nanos(header.at),
        event,
    };
    history.record(&record, &taped.body)
}

/// A disk that is read, and on which nothing is done: recovery replays before it relies on what
/// it wrote.
#[derive(Debug, Clone)]
struct Untouched(SimDisk);

/// A file of an [`Untouched`] disk; one that was only just made holds nothing.
#[derive(Debug)]
struct UntouchedFile(Option<SimFile>);

impl Disk for Untouched {
    type File = UntouchedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, _name: &str) -> io::Result<UntouchedFile> {
        Ok(UntouchedFile(None))
    }

    fn open(&self, name: &str) -> io::Result<UntouchedFile> {
        Ok(UntouchedFile(self.0.open(name).ok()))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

impl DiskFile for UntouchedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.as_ref().map_or(Ok(0), SimFile::len)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.0.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_at(buffer, offset)
    }

    fn write_at(&self, _slices: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_nowait(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_wal::{Fill, SEGMENT_HEADER_BYTES};

    use super::*;

    /// More than half a segment.
    const BODY_BYTES: usize = SEGMENT_BYTES as usize / 8 * 5;

    /// A log of two segments with a batch each.
    fn two_segments() -> SimDisk {
        let disk = SimDisk::new(1);
        let options = LogOptions {
            log: 0,
            segment_bytes: SEGMENT_BYTES,
        };
        let on_record = &mut |_: &RecordHeader, _, _: &[u8]| Ok(());
        let mut log = open(disk.clone(), options, &mut || 7, on_record).unwrap();
        for lsn in 1..=2 {
            while !log.appender.fits(BODY_BYTES) {
                let spare = log.allocator.allocate(Fill::Zeros).unwrap();
                log.appender.handle_spare(spare);
            }
            let header = RecordHeader {
                shard: 0,
                epoch: 1,
                lsn,
                at: 0,
                kind: 2,
            };
            let fill = |body: &mut Vec<u8>| body.resize(body.len() + BODY_BYTES, 7);
            log.appender.append(&header, BODY_BYTES, fill);
            log.appender.seal();
            let batch = log.appender.poll_batch().unwrap();
            log.writer.write(&batch).unwrap();
            log.appender.handle_synced(batch.number);
        }
        disk
    }

    #[test]
    fn a_segment_whose_first_batch_is_torn_is_not_the_newest() {
        let disk = two_segments();
        assert_eq!(newest_segment(0, &disk).unwrap(), Some(2));
        assert_eq!(read_log(0, &disk).unwrap().last, 2);
        let second = disk.open("00000002.seg").unwrap();
        let torn = IoSlice::new(&[0; 512]);
        second
            .write_at(&[torn], SEGMENT_HEADER_BYTES.into())
            .unwrap();
        assert_eq!(newest_segment(0, &disk).unwrap(), Some(1));
        assert_eq!(read_log(0, &disk).unwrap().last, 1);
    }
}
