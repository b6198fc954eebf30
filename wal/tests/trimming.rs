//! What a log is like that has given up its oldest segments.

use std::io;
use std::path::PathBuf;

use omnirelay_wal::fault::{FaultDisk, Faults};
use omnirelay_wal::{
    Cursor, Damaged, Disk, Fill, LogOptions, LogView, OpenError, Opened, Position, ReadFrom,
    RealDisk, RecordHeader, Reuse, ViewError,
};
use proptest::prelude::*;

const OPTIONS: LogOptions = LogOptions {
    log: 2,
    segment_bytes: 1 << 20,
};

struct Log<D: Disk> {
    opened: Opened<D>,
    /// The LSNs of the records, and where they are.
    places: Vec<(u64, Position)>,
}

fn open<D: Disk>(disk: &D) -> Result<Log<D>, OpenError> {
    let mut places = Vec::new();
    let mut random = 7_u64;
    let opened = omnirelay_wal::open(
        disk.clone(),
        OPTIONS,
        &mut || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random
        },
        &mut |header, at, body| {
            assert!(body.iter().all(|&byte| u64::from(byte) == header.lsn % 251));
            places.push((header.lsn, at));
            Ok(())
        },
    )?;
    Ok(Log { opened, places })
}

impl<D: Disk> Log<D> {
    fn append(&mut self, lsn: u64, kind: u8, len: usize) -> Position {
        let appender = &mut self.opened.appender;
        while !appender.fits(len) {
            appender.handle_spare(self.opened.allocator.allocate(Fill::Reserved).unwrap());
        }
        let header = RecordHeader {
            shard: 1,
            epoch: 1,
            lsn,
            at: lsn,
            kind,
        };
        let at = appender.append(&header, len, |into| {
            into.resize(into.len() + len, (lsn % 251) as u8);
        });
        self.places.push((lsn, at));
        at
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
            self.append(lsn, 7, len);
            self.commit();
        }
    }

    fn raise_floor(&mut self, segment: u32) {
        self.opened.appender.append_floor(segment);
        self.commit();
    }

    fn retire(&mut self, segment: u32, reuse: Reuse) {
        self.opened.reader.forget(segment);
        let spare = self.opened.allocator.retire(segment, reuse).unwrap();
        self.opened.appender.handle_retired(segment);
        if let Some(spare) = spare {
            self.opened.appender.handle_spare(spare);
        }
    }

    /// The LSNs of the records from a segment on.
    fn lsns_from(&self, segment: u32) -> Vec<u64> {
        let places = self.places.iter();
        let kept = places.filter(|(_, at)| at.segment >= segment);
        kept.map(|(lsn, _)| *lsn).collect()
    }

    fn used(&self) -> Vec<u32> {
        let used = self.opened.appender.segments();
        used.map(|segment| segment.number).collect()
    }
}

fn name(segment: u32) -> String {
    format!("{segment:08}.seg")
}

fn files(disk: &impl Disk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.sort();
    names
}

/// A log of five segments.
fn five(disk: &FaultDisk) -> Log<FaultDisk> {
    let mut log = open(disk).unwrap();
    log.one_each(1..22, 200_000);
    assert_eq!(log.used(), [1, 2, 3, 4, 5]);
    log
}

#[test]
fn a_missing_first_segment_is_refused_unless_a_floor_is_above_it() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    let kept = log.lsns_from(2);
    let all = log.lsns_from(1);
    let first = disk.contents(&name(1)).unwrap();
    disk.remove(&name(1)).unwrap();
    let refused = open(&disk).err().unwrap();
    assert!(matches!(refused, OpenError::Corrupt { expected: 1, .. }));

    disk.put(&name(1), &first);
    log.raise_floor(2);
    disk.restart();
    // It is there and intact, and not needed all the same: it is history.
    let found = open(&disk).unwrap();
    assert_eq!(found.lsns_from(0), kept);
    assert_eq!(found.opened.recovery.history, 1);
    assert_eq!(found.used(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(viewed(&disk, ReadFrom::Oldest), all);
    assert_eq!(viewed(&disk, ReadFrom::Needed), kept);
    disk.remove(&name(1)).unwrap();
    disk.restart();
    let found = open(&disk).unwrap();
    assert_eq!(found.lsns_from(0), kept);
    assert_eq!(found.opened.recovery.history, 0);
    assert_eq!(viewed(&disk, ReadFrom::Oldest), kept);
}

/// The LSNs of the records that are read without opening the log.
fn viewed(disk: &FaultDisk, from: ReadFrom) -> Vec<u64> {
    let mut batches = LogView::open(disk.clone(), 2)
        .read_from(from, None)
        .unwrap();
    let mut lsns = Vec::new();
    while let Some(batch) = batches.next_batch().unwrap() {
        lsns.extend(batch.records.iter().map(|(header, ..)| header.lsn));
    }
    lsns
}

#[test]
fn history_is_what_can_be_read_without_a_gap_and_survives_restarts() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    let all = log.lsns_from(1);
    log.raise_floor(4);
    assert_eq!(log.opened.appender.needed_bytes(), 2 << 20);
    assert_eq!(log.opened.appender.used_bytes(), 5 << 20);
    for _ in 0..3 {
        disk.restart();
        let found = open(&disk).unwrap();
        assert_eq!(found.opened.recovery.history, 3);
        assert_eq!(viewed(&disk, ReadFrom::Oldest), all);
        let verified = LogView::open(disk.clone(), 2).verify().unwrap();
        assert!(verified.is_sound());
        assert_eq!((verified.oldest, verified.floor), (1, 4));
    }
    // Without its header the second is none, and the first is on its own.
    let mut bytes = disk.contents(&name(2)).unwrap();
    bytes[..4096].fill(0);
    disk.put(&name(2), &bytes);
    let from_third = log.lsns_from(3);
    assert_eq!(viewed(&disk, ReadFrom::Oldest), from_third);
    disk.restart();
    let mut found = open(&disk).unwrap();
    assert_eq!(found.opened.recovery.history, 1);
    assert_eq!(found.opened.recovery.leftovers, 2);
    assert!(!files(&disk).contains(&name(1)) && !files(&disk).contains(&name(2)));
    assert_eq!(viewed(&disk, ReadFrom::Oldest), from_third);
    // What is history can be given up at any time.
    found.retire(3, Reuse::Yes);
    assert_eq!(viewed(&disk, ReadFrom::Oldest), log.lsns_from(4));
}

/// A disk that cannot open one of its files.
#[derive(Clone, Debug)]
struct Unreadable(FaultDisk, String);

impl Disk for Unreadable {
    type File = <FaultDisk as Disk>::File;

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.0.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        match name == self.1 {
            true => Err(io::Error::other("a sector cannot be read")),
            false => self.0.open(name),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

#[test]
fn history_before_a_gap_goes_so_that_no_interruption_hides_the_gap() {
    let mut interrupted = 0;
    for (at, seed) in (1..30).flat_map(|at| (0..6).map(move |seed| (at, seed))) {
        let disk = FaultDisk::new();
        let mut log = five(&disk);
        log.raise_floor(5);
        let all = log.lsns_from(1);
        disk.restart();
        disk.set_faults(Faults {
            crash_at: Some(disk.operations() + at),
            ..Faults::default()
        });
        interrupted += u32::from(open(&Unreadable(disk.clone(), name(3))).is_err());
        let mut random: u64 = seed;
        disk.lose_power(&mut || {
            random = random
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(seed + 1);
            random >> 7
        });
        // It can be read again: what is still there has no hole in it.
        let seen = viewed(&disk, ReadFrom::Oldest);
        assert!(all.ends_with(&seen), "{at} {seed}: {seen:?}");
        assert!(seen.ends_with(&log.lsns_from(4)), "{at} {seed}: {seen:?}");
    }
    assert!(interrupted > 50, "{interrupted}");
}

#[test]
fn damage_in_the_history_is_told_and_keeps_nothing_from_opening() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    log.raise_floor(4);
    let kept = log.lsns_from(4);
    disk.flip_bit(&name(2), 500_000, 3);
    disk.restart();
    let found = open(&disk).unwrap();
    assert_eq!(found.lsns_from(0), kept);
    assert_eq!(found.opened.recovery.history, 3);
    let view = LogView::open(disk.clone(), 2);
    let verified = view.verify().unwrap();
    let problems: Vec<&Damaged> = verified.problems().collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].file.ends_with(name(2)), "{:?}", problems[0]);
    let mut batches = view.read_from(ReadFrom::Oldest, None).unwrap();
    let damaged = std::iter::from_fn(|| batches.next_batch().transpose()).find_map(Result::err);
    assert!(
        matches!(damaged, Some(ViewError::Damaged(_))),
        "{damaged:?}"
    );
    assert_eq!(viewed(&disk, ReadFrom::Needed), kept);
}

#[test]
fn whatever_is_wrong_below_the_floor_hurts_nobody() {
    let zeroed = |disk: &FaultDisk| {
        let mut bytes = disk.contents(&name(1)).unwrap();
        bytes[..4096].fill(0);
        disk.put(&name(1), &bytes);
    };
    let torn = |disk: &FaultDisk| {
        disk.flip_bit(&name(1), 20, 3);
        disk.flip_bit(&name(1), 2048 + 30, 3);
    };
    let rotten = |disk: &FaultDisk| disk.flip_bit(&name(1), 300_000, 3);
    let newer = |disk: &FaultDisk| {
        disk.flip_bit(&name(1), 10, 3);
        disk.flip_bit(&name(1), 2048 + 10, 3);
    };
    let gone = |disk: &FaultDisk| disk.remove(&name(1)).unwrap();
    let cut = |disk: &FaultDisk| disk.put(&name(1), &[7; 1000]);
    let second_gone = |disk: &FaultDisk| disk.remove(&name(2)).unwrap();
    let damages: [&dyn Fn(&FaultDisk); 7] =
        [&zeroed, &torn, &rotten, &newer, &gone, &cut, &second_gone];
    for (at, damage) in damages.iter().enumerate() {
        for floor in [3, 2, 0] {
            let disk = FaultDisk::new();
            let mut log = five(&disk);
            if floor > 0 {
                log.raise_floor(floor);
            }
            let kept = log.lsns_from(floor);
            damage(&disk);
            disk.restart();
            let sound = LogView::open(disk.clone(), 2).verify().unwrap().is_sound();
            let above_second = floor == 3 || (floor == 2 && at < 6);
            match open(&disk) {
                Ok(found) if above_second => {
                    assert_eq!(found.lsns_from(0), kept);
                }
                Err(error) if !above_second => drop(error),
                Ok(_) => panic!("damage {at} with floor {floor} was not seen"),
                Err(error) => panic!("damage {at} with floor {floor}: {error}"),
            }
            // Of history, too, damage is told: rot in it, or a segment that is missing within.
            let is_told = !above_second || at == 2 || at == 6;
            assert_eq!(sound, !is_told, "damage {at} with floor {floor}");
        }
    }
}

#[test]
fn the_floor_outlives_the_segment_that_recorded_it() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    log.raise_floor(3);
    log.retire(1, Reuse::No);
    // Segments begun later know it from their headers.
    log.one_each(22..40, 200_000);
    let kept = log.lsns_from(3);
    log.opened.writer.close().unwrap();
    disk.restart();
    let mut log = open(&disk).unwrap();
    assert_eq!(log.lsns_from(0), kept);
    assert_eq!(log.used(), [2, 3, 4, 5, 6, 7, 8]);
    log.raise_floor(8);
    for segment in 2..8 {
        log.retire(segment, Reuse::No);
    }
    assert_eq!(log.used(), [8]);
    let kept = log.lsns_from(8);
    for _ in 0..3 {
        // Its last batch moves to another segment each time.
        disk.restart();
        log = open(&disk).unwrap();
        assert_eq!(log.lsns_from(0), kept);
    }
}

#[test]
fn a_floor_above_everything_but_the_last_batch_survives_that_batch_being_moved() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    // Fill the fifth, so that the floor is the sixth's first batch.
    while log.used().len() < 6 {
        log.append(100, 7, 200_000);
    }
    log.commit();
    let segment = log.used()[5];
    log.raise_floor(segment);
    for segment in 1..segment {
        log.retire(segment, Reuse::Yes);
    }
    let kept = log.lsns_from(segment);
    for _ in 0..4 {
        disk.restart();
        let found = open(&disk).unwrap();
        assert_eq!(found.lsns_from(0), kept);
        assert_eq!(
            files(&disk).len(),
            found.used().len() + found.opened.appender.spares()
        );
    }
}

#[test]
fn a_segment_that_is_used_again_shows_nothing_of_its_past() {
    for scribble in [None, Some(3)] {
        let disk = FaultDisk::new();
        disk.set_faults(Faults {
            scribble_recycled: scribble,
            ..Faults::default()
        });
        let mut log = five(&disk);
        log.raise_floor(4);
        for segment in 1..4 {
            log.retire(segment, Reuse::Yes);
        }
        assert_eq!(files(&disk).len(), 5);
        // The fifth is full soon; then an old one is used again.
        log.one_each(22..27, 200_000);
        assert_eq!(log.used(), [4, 5, 6]);
        let place = log.append(27, 7, 3_000);
        log.commit();
        assert_eq!(place.segment, 6);
        let kept = log.lsns_from(4);
        disk.restart();
        let found = open(&disk).unwrap();
        assert_eq!(found.lsns_from(0), kept);
        assert_eq!(
            found.opened.recovery.torn, None,
            "old bytes are no torn batch"
        );
        assert_eq!(disk.counts().segments_scribbled > 0, scribble.is_some());
    }
}

#[test]
fn a_batch_that_was_being_written_is_told_from_the_past_of_its_segment() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    log.raise_floor(4);
    for segment in 1..4 {
        log.retire(segment, Reuse::Yes);
    }
    log.one_each(22..27, 200_000);
    let place = log.append(27, 7, 3_000);
    log.commit();
    assert_eq!(place.segment, 6);
    let kept = log.lsns_from(4);
    disk.flip_bit(&name(6), place.offset as usize + 2_000, 1);
    disk.restart();
    let found = open(&disk).unwrap();
    assert_eq!(found.lsns_from(0), kept[..kept.len() - 1]);
    let torn = found.opened.recovery.torn.unwrap();
    assert_eq!((torn.segment, torn.bytes), (6, 3_072));
}

#[test]
fn a_segment_of_another_size_is_removed_instead_of_used_again() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    log.opened.writer.close().unwrap();
    disk.restart();
    let larger = LogOptions {
        segment_bytes: 2 << 20,
        ..OPTIONS
    };
    let opened = omnirelay_wal::open(disk.clone(), larger, &mut || 9, &mut |_, _, _| Ok(()));
    log.opened = opened.unwrap();
    log.raise_floor(2);
    log.retire(1, Reuse::Yes);
    assert_eq!(log.opened.appender.spares(), 0);
    assert!(!files(&disk).contains(&name(1)));
}

#[test]
fn a_retirement_that_failed_can_be_tried_again() {
    for fails in 1..6 {
        let disk = FaultDisk::new();
        let mut log = five(&disk);
        log.raise_floor(2);
        log.opened.reader.forget(1);
        disk.set_faults(Faults {
            fail_sync_at: Some(disk.operations() + fails),
            fail_write_at: Some(disk.operations() + fails),
            ..Faults::default()
        });
        let allocator = &mut log.opened.allocator;
        let first = allocator.retire(1, Reuse::Yes);
        assert_eq!(first.is_err(), fails < 3, "operation {fails}");
        if first.is_err() {
            let spare = allocator.retire(1, Reuse::Yes).unwrap();
            assert_eq!(spare.unwrap().segment(), 6);
        }
        log.opened.appender.handle_retired(1);
        assert_eq!(log.used(), [2, 3, 4, 5]);
    }
}

#[test]
#[should_panic(expected = "still needed")]
fn a_segment_that_is_needed_is_not_retired() {
    let disk = FaultDisk::new();
    let mut log = five(&disk);
    log.raise_floor(2);
    log.retire(1, Reuse::No);
    log.opened.appender.handle_retired(2);
}

#[test]
fn cleaning_refuses_damage_by_name_and_the_segment_being_written() {
    let disk = FaultDisk::new();
    let log = five(&disk);
    let scan = |segment| {
        let mut from = Some(Cursor::default());
        let mut lsns = Vec::new();
        while let Some(cursor) = from {
            let scanned = log.opened.cleaner.scan(segment, cursor, |_| true, 1)?;
            lsns.extend(scanned.records.iter().map(|(header, ..)| header.lsn));
            from = scanned.next;
        }
        Ok::<_, std::io::Error>(lsns)
    };
    assert_eq!(scan(2).unwrap(), [6, 7, 8, 9, 10]);
    assert!(
        scan(5)
            .unwrap_err()
            .to_string()
            .contains("still being written")
    );
    // In the middle, in the last batch, in the header of a batch.
    for (lsn, back) in [(8, 0), (10, -9), (10, 29 + 32 - 10)] {
        let at = log.places[lsn - 1].1.offset as i64 - back;
        let at = usize::try_from(at).unwrap();
        disk.flip_bit(&name(2), at, 2);
        let error = scan(2).unwrap_err();
        let damaged = error.get_ref().unwrap().downcast_ref::<Damaged>().unwrap();
        let start = u64::from(log.places[lsn - 1].1.offset) - 29 - 32;
        assert_eq!(damaged.offset, start);
        assert!(error.to_string().contains(&name(2)), "{error}");
        disk.flip_bit(&name(2), at, 2);
    }
}

#[test]
fn bytes_that_are_lent_out_are_known_until_they_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let mut log = open(&disk).unwrap();
    log.one_each(1..12, 200_000);
    let reader = log.opened.reader.clone();
    let (_, at) = log.places[0];
    assert!(!reader.is_mapped_out(at.segment));
    let lent = reader.recent(at, 100_000).unwrap();
    let more = lent.slice(5..10);
    assert!(reader.is_mapped_out(at.segment));
    reader.forget(at.segment);
    drop(lent);
    assert!(reader.is_mapped_out(at.segment));
    // So it is removed, though it could be used again; those bytes stay.
    log.raise_floor(2);
    log.retire(at.segment, Reuse::Yes);
    assert_eq!(log.opened.appender.spares(), 0);
    assert_eq!(&more[..], [1; 5]);
    assert_eq!(reader.recent(at, 5), None);
    drop(more);
    assert!(!reader.is_mapped_out(at.segment));
    reader.forget(at.segment);
    assert!(reader.read(at, 5).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cleaning_reads_every_wanted_record_once_whatever_the_chunks(
        lens in prop::collection::vec((0_usize..60_000, 0_u8..3, any::<bool>()), 1..40),
        chunks in prop::collection::vec(1_usize..300_000, 1..10),
    ) {
        let disk = FaultDisk::new();
        let mut log = open(&disk).unwrap();
        let mut written = Vec::new();
        for (lsn, (len, kind, commit)) in (1..).zip(&lens) {
            let at = log.append(lsn, *kind, *len);
            written.push((lsn, *kind, at, *len));
            if *commit {
                log.commit();
            }
        }
        // The floor's own record is in between, and not handed out.
        log.raise_floor(1);
        log.append(1_000, 1, 900_000);
        log.append(1_001, 1, 900_000);
        log.commit();
        let last = log.used().len() - 1;
        let mut read = Vec::new();
        for segment in &log.used()[..last] {
            let mut from = Some(Cursor::default());
            for chunk in chunks.iter().cycle() {
                let Some(cursor) = from else { break };
                let scanned = log.opened.cleaner.scan(*segment, cursor, |kind| kind > 0, *chunk);
                let scanned = scanned.unwrap();
                for (header, at, body) in scanned.records {
                    prop_assert!(body.iter().all(|&byte| u64::from(byte) == header.lsn % 251));
                    read.push((header.lsn, header.kind, at, body.len()));
                }
                from = scanned.next;
            }
        }
        written.retain(|(_, kind, ..)| *kind > 0);
        read.retain(|(lsn, ..)| *lsn < 1_000);
        prop_assert_eq!(read, written);
    }
}
