//! Segment files with anything in them, opened as a log.

mod forged;
mod written;

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use omnirelay_wal::fault::FaultDisk;
use omnirelay_wal::{
    Disk, Fill, LogOptions, LogView, OpenError, Opened, ReadFrom, RecordHeader, SECTOR_BYTES,
    SEGMENT_BYTES_MIN, open,
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

/// What was written is there from the floor up to some point, or the log is
/// refused. Without damage it is all there.
fn written(u: &mut Unstructured<'_>) -> Result<&'static str> {
    let log = written::write(u)?;
    let (files, damaged) = written::damage(u, log.files)?;
    let (outcome, found) = outcome(&files);
    let disk = disk_of(&files);
    match view(&disk, ReadFrom::Needed) {
        Ok(viewed) if outcome == "opened" => {
            assert!(viewed == found, "what is read beside the log differs");
        }
        Ok(_) => {}
        Err(error) => assert!(damaged, "an undamaged log cannot be viewed: {error}"),
    }
    match view(&disk, ReadFrom::Oldest) {
        Ok(viewed) => {
            assert!(
                damaged || viewed.ends_with(&found),
                "history hides a record"
            );
            let first = viewed
                .first()
                .map_or(0, |(header, _)| header.lsn as usize - 1);
            let is_run = log.records.get(first..);
            let is_run = is_run.is_some_and(|from| from.starts_with(&viewed));
            assert!(is_run, "history shows a record that was not written there");
        }
        Err(error) => assert!(
            damaged,
            "an undamaged log's history cannot be read: {error}"
        ),
    }
    let kept = &log.records[log.given_up..];
    let first = found
        .first()
        .map_or(log.given_up, |(header, _)| header.lsn as usize - 1);
    let is_run = log
        .records
        .get(first..)
        .is_some_and(|from| from.starts_with(&found));
    assert!(is_run, "a record comes up that was not written there");
    let is_whole = found.ends_with(kept);
    let is_exact = found == kept;
    assert!(
        damaged || is_exact,
        "a synced record is lost, or one is back"
    );
    Ok(match (outcome, damaged, is_whole) {
        ("opened", true, true) => "damaged and whole",
        ("opened", true, false) => "damaged and cut short",
        ("opened", false, _) => "undamaged",
        (refusal, ..) => refusal,
    })
}

/// Opens a log, checks what must hold then, and gives its records.
fn outcome(files: &Files) -> (&'static str, Records) {
    let disk = disk_of(files);
    // Whatever it shows of a forged log: it comes to an end.
    let _ = view(&disk, ReadFrom::Oldest);
    let _ = view(&disk, ReadFrom::Needed);
    let (mut opened, found, _) = match open_disk(&disk, written::LIVES_MAX + 1) {
        Ok(opened) => opened,
        Err(error) => {
            let what = match error {
                OpenError::Corrupt { .. } => "corrupt",
                OpenError::Foreign { .. } => "foreign",
                OpenError::Io { .. } | OpenError::Options(_) => {
                    panic!("a sound disk and options: {error}")
                }
                // The log's own records are read by the log.
                OpenError::Rejected { .. } => "rejected",
                _ => "another format",
            };
            assert!(
                used(&disk) == without_spares(files),
                "a log that is refused was changed"
            );
            return (what, Records::new());
        }
    };
    assert!(opened.recovery.records >= found.len() as u64);
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
    let (_, mut again, _) =
        open_disk(&disk, written::LIVES_MAX + 2).expect("a log that was opened opens again");
    let next = again.pop();
    assert_eq!(next, Some((NEXT, b"next".to_vec())));
    assert!(again == found, "a log that was opened has other records");
    ("opened", found)
}

fn disk_of(files: &Files) -> FaultDisk {
    let disk = FaultDisk::new();
    for (name, contents) in files {
        disk.put(name, contents);
    }
    disk
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

/// The records that are read without opening the log, or that it is damaged.
fn view(disk: &FaultDisk, from: ReadFrom) -> std::result::Result<Records, String> {
    let view = LogView::open(disk.clone(), OPTIONS.log);
    let segments = view.segments().expect("a sound disk");
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let batches_max = bytes / u64::from(SECTOR_BYTES) + 1;
    let mut found = Records::new();
    let batches = view.read_from(from, None);
    let mut batches = batches.map_err(|error| error.to_string())?;
    for _ in 0..batches_max {
        let Some(batch) = batches.next_batch().map_err(|error| error.to_string())? else {
            return Ok(found);
        };
        let records = batch.records.into_iter();
        found.extend(records.map(|(header, _, body)| (header, body.to_vec())));
    }
    panic!("there are more batches than sectors");
}

type OpenOutcome = std::result::Result<(Opened<FaultDisk>, Records, Vec<u32>), OpenError>;

/// Opens a log and gives its records and their segments; no two lives of it may have the same seed, nor do they outside.
fn open_disk(disk: &FaultDisk, seed: u64) -> OpenOutcome {
    let (mut found, mut places) = (Records::new(), Vec::new());
    let mut random = seed << 32;
    let opened = open(
        disk.clone(),
        OPTIONS,
        &mut || {
            random += 1;
            random
        },
        &mut |header, at, body| {
            found.push((*header, body.to_vec()));
            places.push(at.segment);
            Ok(())
        },
    )?;
    Ok((opened, found, places))
}

/// The file name of a segment.
fn name(number: u32) -> String {
    format!("{number:08}.seg")
}
