//! Reading the logs as they are on disk, record by record, into histories.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;

use omnirelay_queue::{Epoch, Event, Lsn, Nanos, Record};
use omnirelay_wal::{Disk, DiskFile, LogOptions, Mapping, RecordHeader, open};

use crate::checker::Checker;
use crate::disk::{SimDisk, SimFile};
use crate::history::History;
use crate::node::SEGMENT_BYTES;
use crate::violation::Violation;

/// Every shard's history. The disks are left as they are.
///
/// # Errors
/// If a log cannot be read, or its records break a rule.
pub(crate) fn read_logs(
    disks: &[SimDisk],
    checker: &Checker,
) -> Result<BTreeMap<u32, History>, Violation> {
    let mut histories: BTreeMap<u32, History> = BTreeMap::new();
    for shard in 0.. {
        let Some(empty) = checker.empty_history(shard) else {
            break;
        };
        histories.insert(shard, empty);
    }
    for (log, disk) in (0u16..).zip(disks) {
        let mut violation = None;
        let mut on_record = |header: &RecordHeader, _, body: &[u8]| {
            let history = histories
                .get_mut(&header.shard)
                .ok_or("a record of no shard")?;
            let event = Event::decode(header.kind, body).map_err(|error| error.to_string())?;
            let record = Record {
                lsn: Lsn(header.lsn),
                epoch: Epoch(header.epoch),
                at: Nanos(header.at),
                event,
            };
            history
                .record(&record, fingerprint(header, body))
                .map_err(|broken| {
                    let text = broken.to_string();
                    violation = Some(broken);
                    text
                })
        };
        let options = LogOptions {
            log,
            segment_bytes: SEGMENT_BYTES,
        };
        let opened = open(Untouched(disk.clone()), options, &mut || 7, &mut on_record);
        if let Some(violation) = violation {
            return Err(violation);
        }
        if let Err(error) = opened {
            return Err(Violation::new(
                "a log opens after every crash",
                error.to_string(),
            ));
        }
    }
    Ok(histories)
}

/// FNV-1a over all of a record.
fn fingerprint(header: &RecordHeader, body: &[u8]) -> u64 {
    let head = [
        u64::from(header.kind),
        u64::from(header.epoch),
        header.lsn,
        header.at,
    ];
    let head = head.into_iter().flat_map(u64::to_le_bytes);
    head.chain(body.iter().copied())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
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
