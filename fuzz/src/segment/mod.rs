//! Segment files with anything in them, opened as a log.

mod forged;
mod written;

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use omnirelay_wal::fault::FaultDisk;
use omnirelay_wal::{
    Disk, Fill, LogOptions, OpenError, Opened, RecordHeader, SECTOR_BYTES, SEGMENT_BYTES_MIN, open,
};

const OPTIONS: LogOptions = LogOptions {
    log: 2,
    segment_bytes: SEGMENT_BYTES_MIN,
};

const SECTOR: usize = SECTOR_BYTES as usize;

/// The record that shows that a log goes on.
const NEXT: RecordHeader = RecordHeader {
    shard: 1,
    epoch: 2,
    lsn: 3,
    at: 4,
    kind: 5,
};

/// Segment files by name.
type Files = BTreeMap<String, Vec<u8>>;

/// Records in the order that they were written or found.
type Records = Vec<(RecordHeader, Vec<u8>)>;

/// Opens what the bytes make of a log's directory: arbitrary files, files that
/// are damaged only where checksums do not look, or a log that was written and
/// then damaged.
///
/// # Panics
/// When a log that is refused is changed, a log that opens does not go on from
/// there, or a record comes up that was never written.
pub fn segment(bytes: &[u8]) -> &'static str {
    let mut unstructured = Unstructured::new(bytes);
    let outcome = match unstructured.arbitrary::<u8>().unwrap_or(0) % 4 {
        0 => raw(&mut unstructured).map(|files| outcome(&files).0),
        1 | 2 => forged::files(&mut unstructured).map(|files| outcome(&files).0),
        _ => written(&mut unstructured),
    };
    outcome.unwrap_or("nothing")
}

/// Files of which nothing is right but the names.
fn raw(u: &mut Unstructured<'_>) -> Result<Files> {
    let mut files = Files::new();
    for number in 1..=u.int_in_range(1..=3)? {
        let contents = match u.is_empty() {
            true => Vec::new(),
            false => u.arbitrary::<&[u8]>()?.to_vec(),
        };
        files.insert(name(number), contents);
    }
    Ok(files)
}

/// What was written is there up to some point, or the log is refused. Without
/// damage it is all there.
fn written(u: &mut Unstructured<'_>) -> Result<&'static str> {
    let log = written::write(u)?;
    let (files, damaged) = written::damage(u, log.files)?;
    let (outcome, found) = outcome(&files);
    let is_prefix = log.records.starts_with(&found);
    assert!(is_prefix, "a record comes up that was not written there");
    let is_whole = found.len() >= log.acknowledged;
    assert!(damaged || is_whole, "an acknowledged record is lost");
    Ok(match (outcome, damaged, is_whole) {
        ("opened", true, true) => "damaged and whole",
        ("opened", true, false) => "damaged and cut short",
        ("opened", false, _) => "undamaged",
        (refusal, ..) => refusal,
    })
}

/// Opens a log, checks what must hold then, and gives its records.
fn outcome(files: &Files) -> (&'static str, Records) {
    let disk = FaultDisk::new();
    for (name, contents) in files {
        disk.put(name, contents);
    }
    let (mut opened, found) = match open_disk(&disk, written::LIVES_MAX + 1) {
        Ok(opened) => opened,
        Err(error) => {
            let what = match error {
                OpenError::Corrupt { .. } => "corrupt",
                OpenError::Foreign { .. } => "foreign",
                OpenError::Io { .. } | OpenError::Options(_) | OpenError::Rejected { .. } => {
                    panic!("a sound disk, options and reader: {error}")
                }
                _ => "another format",
            };
            assert!(
                used(&disk) == without_spares(files),
                "a log that is refused was changed"
            );
            return (what, Records::new());
        }
    };
    assert_eq!(opened.recovery.records, found.len() as u64);
    while !opened.appender.fits(4) {
        let spare = opened.allocator.allocate(Fill::Zeros);
        opened.appender.handle_spare(spare.expect("a sound disk"));
    }
    let append = |into: &mut Vec<u8>| into.extend_from_slice(b"next");
    opened.appender.append(&NEXT, 4, append);
    opened.appender.seal();
    while let Some(batch) = opened.appender.poll_batch() {
        opened.writer.write(&batch).expect("a sound disk");
        opened.appender.handle_synced(batch.number);
    }
    disk.lose_power(&mut || 0);
    let (_, mut again) =
        open_disk(&disk, written::LIVES_MAX + 2).expect("a log that was opened opens again");
    let next = again.pop();
    assert_eq!(next, Some((NEXT, b"next".to_vec())));
    assert!(again == found, "a log that was opened has other records");
    ("opened", found)
}

/// The files of a disk.
fn used(disk: &FaultDisk) -> Files {
    let names = disk.list().expect("a sound disk").into_iter();
    let files: Files = names
        .map(|name| (name.clone(), disk.contents(&name).expect("it was listed")))
        .collect();
    without_spares(&files)
}

/// Bytes up to the last sector that is not zero.
fn used_bytes(file: &[u8]) -> usize {
    // Compared at once: a loop over bytes is slow where each turn is counted.
    let zeros = [0; SECTOR];
    let last = file
        .chunks(SECTOR)
        .rposition(|sector| sector != &zeros[..sector.len()]);
    last.map_or(0, |last| file.len().min((last + 1) * SECTOR))
}

/// The files that something was written to.
fn without_spares(files: &Files) -> Files {
    let files = files.iter().filter(|(_, file)| used_bytes(file) > 0);
    files
        .map(|(name, file)| (name.clone(), file.clone()))
        .collect()
}

type OpenOutcome = std::result::Result<(Opened<FaultDisk>, Records), OpenError>;

/// Opens a log; no two lives of it may have the same seed, nor do they outside.
fn open_disk(disk: &FaultDisk, seed: u64) -> OpenOutcome {
    let mut found = Records::new();
    let mut random = seed << 32;
    let opened = open(
        disk.clone(),
        OPTIONS,
        &mut || {
            random += 1;
            random
        },
        &mut |header, _, body| {
            found.push((*header, body.to_vec()));
            Ok(())
        },
    )?;
    Ok((opened, found))
}

/// The file name of a segment.
fn name(number: u32) -> String {
    format!("{number:08}.seg")
}
