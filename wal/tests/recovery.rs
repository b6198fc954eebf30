//! What a log gives back after every kind of end.

use std::io::IoSlice;

use omnirelay_wal::fault::{FaultDisk, Faults};
use omnirelay_wal::{
    Disk, DiskFile, Fill, LogOptions, OpenError, Opened, Position, RealDisk, RecordHeader,
    body_bytes_max,
};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

const OPTIONS: LogOptions = LogOptions {
    log: 2,
    segment_bytes: 1 << 20,
};
const FIRST: &str = "00000001.seg";
const SECOND: &str = "00000002.seg";

type Records = Vec<(RecordHeader, Vec<u8>)>;

fn record(lsn: u64, len: usize) -> (RecordHeader, Vec<u8>) {
    let header = RecordHeader {
        shard: (lsn % 3) as u32,
        epoch: 1,
        lsn,
        at: lsn * 10,
        kind: 7,
    };
    let body = (0..len).map(|at| (lsn as usize + at) as u8).collect();
    (header, body)
}

struct Log<D: Disk> {
    opened: Opened<D>,
    records: Records,
    positions: Vec<Position>,
}

fn open_with<D: Disk>(disk: &D, options: LogOptions, seed: u64) -> Result<Log<D>, OpenError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut records, mut positions) = (Records::new(), Vec::new());
    let opened = omnirelay_wal::open(
        disk.clone(),
        options,
        &mut || rng.next_u64(),
        &mut |header, at, body| {
            records.push((*header, body.to_vec()));
            positions.push(at);
            Ok(())
        },
    )?;
    let log = Log {
        opened,
        records,
        positions,
    };
    for (at, (_, body)) in log.positions.iter().zip(&log.records) {
        let read = log.opened.reader.read(*at, body.len()).unwrap();
        assert_eq!(read, body);
    }
    Ok(log)
}

fn open<D: Disk>(disk: &D) -> Result<Log<D>, OpenError> {
    open_with(disk, OPTIONS, 1)
}

impl<D: Disk> Log<D> {
    fn append(&mut self, lsn: u64, len: usize) {
        let (header, body) = record(lsn, len);
        let appender = &mut self.opened.appender;
        while !appender.fits(len) {
            appender.handle_spare(self.opened.allocator.allocate(Fill::Zeros).unwrap());
        }
        let at = appender.append(&header, len, |into| into.extend_from_slice(&body));
        assert_eq!(appender.unwritten(at, len).unwrap(), body);
        self.positions.push(at);
        self.records.push((header, body));
    }

    fn commit(&mut self) {
        self.opened.appender.seal();
        while let Some(batch) = self.opened.appender.poll_batch() {
            self.opened.writer.write(&batch).unwrap();
            let number = batch.number;
            drop(batch);
            self.opened.appender.handle_synced(number);
        }
    }

    fn one_each(&mut self, lsns: std::ops::Range<u64>, len: usize) {
        for lsn in lsns {
            self.append(lsn, len);
            self.commit();
        }
    }
}

fn names(disk: &impl Disk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.sort();
    names
}

#[test]
fn what_was_committed_is_there_after_a_loss_of_power_and_the_log_goes_on() {
    let disk = FaultDisk::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut log = open(&disk).unwrap();
    assert!(log.opened.recovery.fresh);
    let mut lsn = 1;
    for round in 0..10 {
        let next = log.opened.appender.open_batch();
        log.one_each(lsn..lsn + 5, 300 + round);
        lsn += 5;
        let records = log.records.clone();
        disk.lose_power(&mut || rng.next_u64());
        log = open(&disk).unwrap();
        assert_eq!(log.records, records);
        assert_eq!(log.opened.appender.open_batch(), next + 5);
        assert_eq!(log.opened.recovery.last_at, (lsn - 1) * 10);
        assert!(!log.opened.recovery.clean && !log.opened.recovery.fresh);
    }
}

#[test]
fn a_log_that_was_closed_goes_on_in_the_same_segment() {
    let disk = FaultDisk::new();
    let mut lsn = 1;
    for round in 0..5 {
        let mut log = open(&disk).unwrap();
        assert_eq!(log.records.len() as u64, lsn - 1);
        assert_eq!(log.opened.recovery.clean, round > 0);
        log.one_each(lsn..lsn + 3, 100);
        lsn += 3;
        log.opened.writer.close().unwrap();
        log.opened.writer.close().unwrap();
    }
    assert_eq!(names(&disk), [FIRST]);
    // Opened and closed without a record in between, too.
    open(&disk).unwrap().opened.writer.close().unwrap();
    assert!(open(&disk).unwrap().opened.recovery.clean);
    assert_eq!(names(&disk), [FIRST]);
}

#[test]
fn segments_follow_one_another_and_a_record_never_spans_two() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    for lsn in 1..200 {
        log.append(lsn, 40_000);
        if lsn % 7 == 0 {
            log.commit();
        }
    }
    log.append(200, body_bytes_max(OPTIONS.segment_bytes));
    assert!(
        !log.opened
            .appender
            .fits(body_bytes_max(OPTIONS.segment_bytes) + 1)
    );
    assert!(!log.opened.appender.fits(usize::MAX));
    log.append(201, 0);
    log.commit();
    let records = log.records.clone();
    log.opened.writer.close().unwrap();
    let log = open(&disk).unwrap();
    assert_eq!(log.records, records);
    assert!(log.opened.recovery.segments > 8);
    for (at, (_, body)) in log.positions.iter().zip(&records) {
        assert!(at.offset as usize + body.len() <= OPTIONS.segment_bytes as usize);
    }
}

#[test]
fn what_was_being_written_is_cut_off_in_silence_and_reported() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    log.one_each(1..4, 2000);
    let kept = log.records[..2].to_vec();
    disk.flip_bit(FIRST, log.positions[2].offset as usize + 1000, 3);
    disk.restart();
    let log = open(&disk).unwrap();
    assert_eq!(log.records, kept);
    let torn = log.opened.recovery.torn.unwrap();
    assert_eq!(torn.segment, 1);
    assert!((1500..=2560).contains(&torn.bytes));
}

#[test]
fn damage_before_the_last_batch_is_refused_and_nothing_is_changed() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    log.one_each(1..60, 40_000);
    let positions = log.positions.clone();
    let last_of_first = positions.iter().rposition(|at| at.segment == 1).unwrap();
    for damaged in [0, 5, last_of_first - 1, last_of_first, last_of_first + 1] {
        let at = positions[damaged];
        let name = format!("{:08}.seg", at.segment);
        disk.restart();
        disk.flip_bit(&name, at.offset as usize + 77, 0);
        let before: Vec<_> = names(&disk)
            .iter()
            .map(|name| disk.contents(name))
            .collect();
        let operations = disk.operations();
        let error = open(&disk).err().expect("it is damaged");
        let OpenError::Corrupt { expected, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*expected, damaged as u64 + 1);
        assert!(error.to_string().contains(&name), "{error}");
        let after: Vec<_> = names(&disk)
            .iter()
            .map(|name| disk.contents(name))
            .collect();
        assert_eq!((after, disk.operations()), (before, operations));
        disk.flip_bit(&name, at.offset as usize + 77, 0);
    }
    // A whole segment that is gone is missed as well.
    disk.remove(SECOND).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Corrupt { .. })));
}

#[test]
fn after_a_clean_end_damage_in_the_last_batch_is_refused_too() {
    let pristine = FaultDisk::new();
    let mut log = open(&pristine).unwrap();
    log.one_each(1..6, 700);
    log.opened.writer.close().unwrap();
    let bytes = pristine.contents(FIRST).unwrap();
    let last = log.positions[4].offset as usize;
    let end = (last + 700).next_multiple_of(512);
    for at in (last - 29 - 32..end + 28).step_by(7) {
        let disk = FaultDisk::new();
        disk.put(FIRST, &bytes);
        disk.flip_bit(FIRST, at, (at % 8) as u8);
        match open(&disk) {
            // The zeros behind the batch's payload and header mean nothing.
            Ok(found) => {
                assert_eq!(found.records, log.records);
                let unused = last - 61 + 28..last - 61 + 32;
                assert!(at >= last + 700 || unused.contains(&at), "byte {at}");
            }
            Err(OpenError::Corrupt { expected, .. }) => {
                assert_eq!(expected, 5);
                assert!(at < last + 700, "byte {at}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_costs_the_last_batch_at_most() {
    let pristine = FaultDisk::new();
    let mut log = open(&pristine).unwrap();
    log.one_each(1..6, 700);
    let bytes = pristine.contents(FIRST).unwrap();
    let written = log.positions[4].offset as usize + 700;
    for at in (0..written).step_by(13) {
        let disk = FaultDisk::new();
        disk.put(FIRST, &bytes);
        disk.flip_bit(FIRST, at, (at % 8) as u8);
        match open(&disk) {
            Ok(found) => {
                assert!(found.records.len() >= 4, "byte {at}");
                assert_eq!(found.records, log.records[..found.records.len()]);
            }
            Err(OpenError::Corrupt { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_newer_format_and_a_stray_segment_are_refused_by_name() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    log.one_each(1..3, 10);
    disk.restart();
    let stray = open_with(&disk, LogOptions { log: 3, ..OPTIONS }, 1);
    assert!(matches!(stray, Err(OpenError::Foreign { .. })));
    disk.flip_bit(FIRST, 8, 0);
    disk.flip_bit(FIRST, 2048 + 8, 0);
    let operations = disk.operations();
    let newer = open(&disk).err().unwrap();
    let OpenError::NewerFormat {
        found, supported, ..
    } = newer
    else {
        panic!("{newer}");
    };
    assert_eq!((found, supported), (3, 2));
    assert!(newer.to_string().contains(FIRST));
    assert_eq!(disk.operations(), operations);
}

#[test]
fn a_record_that_is_refused_stops_the_opening() {
    let disk = FaultDisk::new();
    open(&disk).unwrap().one_each(1..4, 10);
    disk.restart();
    let opened = omnirelay_wal::open(disk, OPTIONS, &mut || 5, &mut |header, _, _| {
        if header.lsn == 2 {
            return Err("LSN 2 makes no sense".to_owned());
        }
        Ok(())
    });
    let error = opened.err().unwrap();
    assert!(matches!(error, OpenError::Rejected { .. }));
    assert!(error.to_string().contains("LSN 2 makes no sense"));
}

#[test]
fn fifty_crashes_do_not_fill_the_disk() {
    let disk = FaultDisk::new();
    let mut rng = SmallRng::seed_from_u64(3);
    for round in 0..50 {
        let mut log = open_with(&disk, OPTIONS, round).unwrap();
        if log.opened.appender.spares() < 1 {
            let spare = log.opened.allocator.allocate(Fill::Zeros).unwrap();
            log.opened.appender.handle_spare(spare);
        }
        log.one_each(round + 1..round + 2, 1000);
        if round % 2 == 0 {
            disk.lose_power(&mut || rng.next_u64());
        } else {
            disk.restart();
        }
    }
    for _ in 0..50 {
        assert_eq!(open(&disk).unwrap().records.len(), 50);
        disk.restart();
    }
    assert!(disk.bytes_used() <= 5 << 20, "{} bytes", disk.bytes_used());
    assert!(names(&disk).len() <= 53);
}

#[test]
fn a_full_disk_refuses_a_segment_leaves_nothing_behind_and_recovers() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    log.one_each(1..3, 10);
    disk.set_faults(Faults {
        capacity_bytes: Some(3 << 19),
        ..Faults::default()
    });
    let full = log.opened.allocator.allocate(Fill::Zeros).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(names(&disk), [FIRST]);
    log.one_each(3..5, 10);
    let stuck = open(&disk).err().unwrap().to_string();
    assert!(stuck.contains("free space"), "{stuck}");
    disk.set_faults(Faults::default());
    log.opened
        .appender
        .handle_spare(log.opened.allocator.allocate(Fill::Zeros).unwrap());
    log.one_each(5..60, 30_000);
    disk.restart();
    assert_eq!(open(&disk).unwrap().records.len(), 59);
}

#[test]
fn a_failed_sync_or_write_ends_the_log_for_ever() {
    for sync in [true, false] {
        let disk = FaultDisk::new();
        let mut log = open(&disk).unwrap();
        log.one_each(1..3, 10);
        let operations = disk.operations();
        let mut faults = Faults::default();
        if sync {
            faults.fail_sync_at = Some(operations + 2);
        } else {
            faults.fail_write_at = Some(operations + 1);
        }
        disk.set_faults(faults);
        log.append(3, 10);
        log.opened.appender.seal();
        let batch = log.opened.appender.poll_batch().unwrap();
        let first = log.opened.writer.write(&batch).unwrap_err().to_string();
        assert!(first.contains(FIRST), "{first}");
        let operations = disk.operations();
        assert_eq!(
            log.opened.writer.write(&batch).unwrap_err().to_string(),
            first
        );
        assert_eq!(log.opened.writer.close().unwrap_err().to_string(), first);
        assert_eq!(disk.operations(), operations);
        // The batch may look as if it had been written. Once it was replayed it
        // must stay, though the disk never had it.
        disk.restart();
        let seen = open(&disk).unwrap().records;
        assert!(seen.len() >= 2);
        disk.lose_power(&mut || 1);
        assert_eq!(open(&disk).unwrap().records, seen);
    }
}

#[test]
fn small_batches_cost_little_more_than_their_records() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    let before = disk.bytes_written();
    let mut lsn = 0;
    for _ in 0..32 {
        for _ in 0..64 {
            lsn += 1;
            log.append(lsn, 300);
        }
        log.commit();
    }
    let payload = lsn * 300;
    let written = disk.bytes_written() - before;
    assert!(written * 10 <= payload * 12, "{written} for {payload}");
}

#[test]
fn bodies_are_read_through_a_mapping_once_synced_and_from_memory_before() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let mut log = open(&disk).unwrap();
    log.append(1, 5000);
    let at = log.positions[0];
    let reader = log.opened.reader.clone();
    assert_eq!(reader.recent(at, 5000), None);
    assert!(reader.read(at, 5000).is_err());
    log.opened.appender.seal();
    let held = log.opened.appender.unwritten(at, 5000).unwrap();
    log.commit();
    assert_eq!(log.opened.appender.unwritten(at, 5000), None);
    let mapped = reader.recent(at, 5000).unwrap();
    assert_eq!(mapped, log.records[0].1);
    assert_eq!(reader.recent(at, 5000).unwrap().as_ptr(), mapped.as_ptr());
    let beyond = Position {
        offset: at.offset + 5000,
        ..at
    };
    assert_eq!(reader.recent(beyond, 5000), None);
    drop(reader);
    assert_eq!(mapped, held);
}

#[test]
fn a_real_directory_keeps_its_records_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let mut log = open(&disk).unwrap();
    log.one_each(1..40, 50_000);
    let records = log.records.clone();
    drop(log);
    let mut log = open(&disk).unwrap();
    assert_eq!(log.records, records);
    for (at, (_, body)) in log.positions.iter().zip(&records) {
        // Just written or read, so all of it is in the page cache.
        assert_eq!(log.opened.reader.recent(*at, body.len()).unwrap(), body);
    }
    log.opened.writer.close().unwrap();
    assert!(open(&disk).unwrap().opened.recovery.clean);
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = RealDisk::open(file.path()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
}

#[test]
fn options_out_of_bounds_are_refused() {
    for segment_bytes in [0, (1 << 20) - 4096, (1 << 20) + 512, (1 << 30) + 4096] {
        let options = LogOptions {
            segment_bytes,
            ..OPTIONS
        };
        let refused = open_with(&FaultDisk::new(), options, 1);
        assert!(matches!(refused, Err(OpenError::Options(_))));
    }
}

#[test]
fn a_log_made_with_larger_segments_opens_with_smaller_ones() {
    let disk = FaultDisk::new();
    let large = LogOptions {
        segment_bytes: 4 << 20,
        ..OPTIONS
    };
    let mut log = open_with(&disk, large, 1).unwrap();
    log.one_each(1..3, 3 << 20);
    let records = log.records.clone();
    disk.restart();
    let mut log = open(&disk).unwrap();
    assert_eq!(log.records, records);
    log.one_each(3..9, 900_000);
    let records = log.records.clone();
    disk.restart();
    assert_eq!(open_with(&disk, large, 2).unwrap().records, records);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_in_a_segment_make_the_opening_panic(
        start in prop::collection::vec(any::<u8>(), 0..6000),
        flips in prop::collection::vec((0_usize..9000, 0_u8..8), 0..6),
        random in any::<bool>(),
    ) {
        let disk = FaultDisk::new();
        if random {
            disk.put(FIRST, &start);
        } else {
            let mut log = open(&disk).unwrap();
            log.one_each(1..6, 600);
            log.opened.writer.close().unwrap();
            let file = disk.open(FIRST).unwrap();
            let some = start.len().min(700);
            file.write_at(&[IoSlice::new(&start[..some])], start.len() as u64 + 3000).unwrap();
            for (at, bit) in flips {
                disk.flip_bit(FIRST, at, bit);
            }
        }
        let _ = open(&disk);
    }
}
