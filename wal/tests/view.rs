//! Reading a log beside whoever writes it.

use omnirelay_wal::fault::{FaultDisk, Faults};
use omnirelay_wal::{
    Batches, Disk, Fill, LogOptions, LogView, Opened, Position, ReadFrom, RealDisk, RecordHeader,
    Reuse, SegmentState, ViewError,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const OPTIONS: LogOptions = LogOptions {
    log: 2,
    segment_bytes: 1 << 20,
};

struct Log<D: Disk> {
    opened: Opened<D>,
    next_lsn: u64,
    /// The LSN of each record and where it is.
    places: Vec<(u64, Position)>,
}

fn open<D: Disk>(disk: &D, seed: u64) -> Log<D> {
    let mut places = Vec::new();
    let mut entropy = SmallRng::seed_from_u64(seed);
    let opened = omnirelay_wal::open(
        disk.clone(),
        OPTIONS,
        &mut || entropy.random(),
        &mut |header, at, _| {
            places.push((header.lsn, at));
            Ok(())
        },
    );
    Log {
        opened: opened.unwrap(),
        next_lsn: places.last().map_or(1, |(lsn, _)| lsn + 1),
        places,
    }
}

impl<D: Disk> Log<D> {
    fn append(&mut self, len: usize) {
        let appender = &mut self.opened.appender;
        while !appender.fits(len) {
            appender.handle_spare(self.opened.allocator.allocate(Fill::Reserved).unwrap());
        }
        let lsn = self.next_lsn;
        let header = RecordHeader {
            shard: 1,
            epoch: 1,
            lsn,
            at: lsn,
            kind: 7,
        };
        let at = appender.append(&header, len, |into| {
            into.resize(into.len() + len, (lsn % 251) as u8);
        });
        self.places.push((lsn, at));
        self.next_lsn += 1;
    }

    fn commit(&mut self) {
        self.opened.appender.seal();
        while let Some(batch) = self.opened.appender.poll_batch() {
            self.opened.writer.write(&batch).unwrap();
            self.opened.appender.handle_synced(batch.number);
        }
    }

    fn one_each(&mut self, records: usize, len: usize) {
        for _ in 0..records {
            self.append(len);
            self.commit();
        }
    }

    /// Gives up all but the newest segments.
    fn trim_to(&mut self, segments: usize, reuse: Reuse) {
        let used: Vec<u32> = self.opened.appender.segments().map(|s| s.number).collect();
        let Some(needed) = used.len().checked_sub(segments).filter(|&at| at > 0) else {
            return;
        };
        self.opened.appender.append_floor(used[needed]);
        self.commit();
        for &segment in &used[..needed] {
            let spare = self.opened.allocator.retire(segment, reuse).unwrap();
            self.opened.appender.handle_retired(segment);
            if let Some(spare) = spare {
                self.opened.appender.handle_spare(spare);
            }
        }
    }
}

/// The LSNs of what there is to read now.
fn read<D: Disk>(batches: &mut Batches<D>) -> Result<Vec<u64>, ViewError> {
    let mut lsns = Vec::new();
    while let Some(batch) = batches.next_batch()? {
        for (header, at, body) in &batch.records {
            assert!(body.iter().all(|&byte| u64::from(byte) == header.lsn % 251));
            assert!(*at > batch.at);
            lsns.push(header.lsn);
        }
    }
    Ok(lsns)
}

fn lsns(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn a_reader_follows_a_log_over_segments_up_to_its_end() {
    let disk = FaultDisk::new();
    let view = LogView::open(disk.clone(), 2);
    let mut log = open(&disk, 1);
    let reader = log.opened.reader.clone();
    let mut free = view.read_from(ReadFrom::Oldest, None).unwrap();
    let mut bound = view
        .read_from(ReadFrom::Oldest, Some(reader.end()))
        .unwrap();
    assert_eq!(read(&mut free).unwrap(), []);
    let mut rng = SmallRng::seed_from_u64(4);
    for _ in 0..30 {
        let first = log.next_lsn;
        for _ in 0..rng.random_range(1..4) {
            log.append(rng.random_range(0..300_000));
        }
        log.commit();
        let new = lsns(first..log.next_lsn);
        // The durable end as it was before: nothing new is seen.
        assert_eq!(read(&mut bound).unwrap(), []);
        bound.set_end(reader.end());
        assert_eq!(read(&mut bound).unwrap(), new);
        assert_eq!(read(&mut free).unwrap(), new);
        assert_eq!(bound.position(), reader.end());
        // And from there on it can be gone on with by another.
        let mut another = view
            .read_from(ReadFrom::Position(bound.position()), None)
            .unwrap();
        assert_eq!(read(&mut another).unwrap(), []);
        assert_eq!(another.position(), bound.position());
    }
    assert!(log.opened.appender.segments().count() > 5);
}

#[test]
fn a_reader_goes_on_over_crashes_and_clean_ends_without_reading_twice() {
    for seed in 0..20 {
        let disk = FaultDisk::new();
        let view = LogView::open(disk.clone(), 2);
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut batches = view.read_from(ReadFrom::Oldest, None).unwrap();
        for life in 0..6 {
            let mut log = open(&disk, life);
            let first = log.next_lsn;
            log.one_each(rng.random_range(1..8), rng.random_range(0..200_000));
            if rng.random() {
                log.opened.writer.close().unwrap();
            }
            let written = lsns(first..log.next_lsn);
            disk.restart();
            // Files of the process that is gone are dead; the place is not.
            let from = match batches.position().segment {
                0 => ReadFrom::Oldest,
                _ => ReadFrom::Position(batches.position()),
            };
            batches = view.read_from(from, None).unwrap();
            let found = read(&mut batches).unwrap();
            let (again, new) = found.split_at(found.len() - written.len());
            assert_eq!(new, written, "{seed} {life}");
            assert!(again.is_empty() || again == [first - 1], "{seed} {life}");
        }
        let mut all = view.read_from(ReadFrom::Oldest, None).unwrap();
        let all = read(&mut all).unwrap();
        assert_eq!(all, lsns(1..all.len() as u64 + 1));
    }
}

#[test]
fn reading_starts_with_the_batch_that_a_record_is_in() {
    let disk = FaultDisk::new();
    let mut log = open(&disk, 1);
    let mut batch_of = Vec::new();
    for _ in 0..20 {
        for _ in 0..3 {
            log.append(50_000);
            batch_of.push(log.opened.appender.open_batch());
        }
        log.commit();
    }
    let view = LogView::open(disk, 2);
    for (&(_, at), batch) in log.places.iter().zip(&batch_of) {
        let mut batches = view.read_from(ReadFrom::Position(at), None).unwrap();
        let first = batch_of.iter().position(|one| one == batch).unwrap() as u64 + 1;
        assert_eq!(read(&mut batches).unwrap(), lsns(first..61));
    }
    for segment in view.segments().unwrap() {
        let mut batches = view
            .read_from(ReadFrom::Segment(segment.number), None)
            .unwrap();
        let in_it = log
            .places
            .iter()
            .find(|(_, at)| at.segment == segment.number);
        assert_eq!(read(&mut batches).unwrap(), lsns(in_it.unwrap().0..61));
    }
    let nowhere = Position {
        segment: 9,
        offset: 4096,
    };
    let gone = view.read_from(ReadFrom::Position(nowhere), None);
    assert!(matches!(gone, Err(ViewError::Trimmed { segment: 9 })));
}

#[test]
fn a_segment_that_is_given_up_under_a_reader_is_reported_and_never_garbage() {
    let (mut trimmed, mut finished) = (0, 0);
    for seed in 0..60 {
        let disk = FaultDisk::new();
        disk.set_faults(Faults {
            scribble_recycled: Some(seed),
            ..Faults::default()
        });
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut log = open(&disk, seed);
        let view = LogView::open(disk.clone(), 2);
        log.one_each(12, 150_000);
        let mut batches = view.read_from(ReadFrom::Oldest, None).unwrap();
        let mut next = 1;
        for _ in 0..40 {
            match batches.next_batch() {
                Ok(None) => finished += 1,
                Ok(Some(batch)) => {
                    // The floor's own record is handed to nobody.
                    if let Some((header, ..)) = batch.records.first() {
                        assert_eq!(header.lsn, next);
                        next += 1;
                    }
                }
                Err(ViewError::Trimmed { segment }) => {
                    assert!(segment < log.opened.appender.segments().next().unwrap().number);
                    trimmed += 1;
                    batches = view.read_from(ReadFrom::Oldest, None).unwrap();
                    let oldest = log.opened.appender.segments().next().unwrap().number;
                    let place = log.places.iter().find(|(_, at)| at.segment >= oldest);
                    assert!(place.unwrap().0 >= next);
                    next = place.unwrap().0;
                }
                Err(error) => panic!("{error}"),
            }
            if rng.random_range(0..3) == 0 {
                log.one_each(rng.random_range(1..4), 150_000);
            }
            if rng.random_range(0..4) == 0 {
                let reuse = if rng.random() { Reuse::Yes } else { Reuse::No };
                log.trim_to(rng.random_range(1..3), reuse);
            }
        }
        assert!(view.verify().unwrap().is_sound());
    }
    assert!(trimmed > 30 && finished > 60, "{trimmed} {finished}");
}

#[test]
fn damage_is_named_where_reading_meets_it() {
    for end_known in [false, true] {
        let disk = FaultDisk::new();
        let mut log = open(&disk, 1);
        log.one_each(20, 150_000);
        let end = end_known.then(|| log.opened.reader.end());
        let view = LogView::open(disk.clone(), 2);
        for (damaged, at) in &log.places[..20] {
            let name = format!("{:08}.seg", at.segment);
            disk.flip_bit(&name, at.offset as usize + 9, 2);
            let mut read = 0;
            let error = match view.read_from(ReadFrom::Oldest, end) {
                Err(error) => Some(error),
                Ok(mut batches) => loop {
                    match batches.next_batch() {
                        Ok(Some(_)) => read += 1,
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                },
            };
            assert_eq!(read, damaged - 1);
            match error {
                Some(ViewError::Damaged(found)) => {
                    assert_eq!(found.offset, u64::from(at.offset) - 61);
                    assert!(found.to_string().contains(&name), "{found}");
                }
                // Only the durable end proves that the last batch was there.
                None => assert!(*damaged == 20 && !end_known),
                Some(error) => panic!("{error}"),
            }
            disk.flip_bit(&name, at.offset as usize + 9, 2);
        }
    }
}

#[test]
fn verifying_counts_what_is_there_and_names_the_first_problem_of_each_segment() {
    let disk = FaultDisk::new();
    let mut log = open(&disk, 1);
    log.one_each(20, 150_000);
    log.trim_to(3, Reuse::Yes);
    log.opened.writer.close().unwrap();
    let view = LogView::open(disk.clone(), 2);
    let found = view.verify().unwrap();
    assert!(found.is_sound() && found.clean);
    let used: Vec<_> = log.opened.appender.segments().collect();
    assert_eq!(found.floor, used[0].number);
    for (segment, used) in found.segments.iter().zip(&used) {
        assert_eq!(segment.info.number, used.number);
        let places = log.places.iter();
        let records = places.filter(|(_, at)| at.segment == used.number).count() as u64;
        assert_eq!(segment.records, records);
        assert_eq!(segment.bytes / 150_016, records);
    }
    // The floor's own record has a batch, and is no record of anybody's.
    let batches: u64 = found.segments.iter().map(|segment| segment.batches).sum();
    let records: u64 = found.segments.iter().map(|segment| segment.records).sum();
    assert_eq!(batches, records + 1);
    let spares = &found.segments[used.len()..];
    assert!(!spares.is_empty());
    assert!(
        spares
            .iter()
            .all(|one| one.info.state == SegmentState::Unused)
    );

    let damage = |lsn: u64| {
        let (_, at) = log.places[lsn as usize - 1];
        disk.flip_bit(&format!("{:08}.seg", at.segment), at.offset as usize + 5, 1);
        at
    };
    let first = log
        .places
        .iter()
        .find(|(_, at)| at.segment == used[0].number)
        .unwrap()
        .0;
    let places = [damage(first), damage(first + 2), damage(20)];
    let found = view.verify().unwrap();
    let problems: Vec<_> = found
        .problems()
        .map(|problem| problem.offset + 61)
        .collect();
    assert_eq!(
        problems,
        [u64::from(places[0].offset), u64::from(places[2].offset)]
    );
    assert!(!found.is_sound());
    // Looking has changed nothing.
    damage(first);
    damage(first + 2);
    damage(20);
    assert!(view.verify().unwrap().is_sound());
}

#[test]
fn a_log_can_be_read_in_a_directory_that_may_only_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    assert!(RealDisk::open_read_only(&path).is_err());
    assert!(!path.exists());
    let mut log = open(&RealDisk::open(&path).unwrap(), 1);
    log.one_each(30, 100_000);
    let disk = RealDisk::open_read_only(&path).unwrap();
    let view = LogView::open(disk.clone(), 2);
    let mut batches = view.read_from(ReadFrom::Oldest, None).unwrap();
    assert_eq!(read(&mut batches).unwrap(), lsns(1..31));
    log.one_each(10, 100_000);
    assert_eq!(read(&mut batches).unwrap(), lsns(31..41));
    assert!(view.verify().unwrap().is_sound());
    let info = view.segments().unwrap();
    assert!(matches!(
        info[0].state,
        SegmentState::Begun {
            first_batch: 1,
            recycled: false,
            ..
        }
    ));
    assert!(disk.create("x").is_err());
    assert!(disk.remove("00000001.seg").is_err());
    assert!(disk.rename("00000001.seg", "00000009.seg").is_err());
    let other = LogView::open(disk, 3).segments().unwrap();
    assert_eq!(other[0].state, SegmentState::Foreign);
}

/// Readers on threads of their own while one log is written, given up and used
/// again: each sees LSNs in order, with gaps only where it was told of one.
#[test]
fn readers_beside_a_busy_log_see_records_in_order_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let mut log = open(&disk, 1);
    log.one_each(1, 1_000);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let disk = RealDisk::open_read_only(dir.path().join("log")).unwrap();
                let done = &done;
                scope.spawn(move || follow(&LogView::open(disk, 2), done))
            })
            .collect();
        let mut rng = SmallRng::seed_from_u64(8);
        for _ in 0..300 {
            log.one_each(1, rng.random_range(0..90_000));
            if rng.random_range(0..8) == 0 {
                log.trim_to(rng.random_range(2..4), Reuse::Yes);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        for reader in readers {
            let last = reader.join().unwrap();
            assert_eq!(last, log.next_lsn - 1);
        }
    });
}

/// Reads until the writer is done; the last LSN.
fn follow<D: Disk>(view: &LogView<D>, done: &std::sync::atomic::AtomicBool) -> u64 {
    let mut batches = view.read_from(ReadFrom::Oldest, None).unwrap();
    let mut last = None;
    loop {
        let was_done = done.load(std::sync::atomic::Ordering::Acquire);
        match batches.next_batch() {
            Ok(Some(batch)) => {
                for (header, _, body) in batch.records {
                    assert!(last.is_none_or(|last| header.lsn == last + 1));
                    assert!(body.iter().all(|&byte| u64::from(byte) == header.lsn % 251));
                    last = Some(header.lsn);
                }
            }
            Ok(None) if was_done => return last.unwrap(),
            Ok(None) => {
                let verification = view.verify().unwrap();
                let problem = verification.problems().next();
                assert_eq!(problem, None);
            }
            Err(ViewError::Trimmed { .. }) => {
                batches = view.read_from(ReadFrom::Oldest, None).unwrap();
                last = None;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The LSNs of a tail.
fn tail<D: Disk>(view: &LogView<D>, end: Position, bytes: u32) -> Vec<u64> {
    let batches = view.tail(end, bytes).unwrap();
    let records = batches.iter().flat_map(|batch| &batch.records);
    records.map(|(header, _, _)| header.lsn).collect()
}

#[test]
fn a_tail_has_the_last_batches_before_the_durable_end_and_no_others() {
    let disk = FaultDisk::new();
    let view = LogView::open(disk.clone(), 2);
    let mut log = open(&disk, 1);
    assert_eq!(tail(&view, log.opened.reader.end(), 4_096), []);
    // Each takes a sector; some segments are filled.
    log.one_each(3, 400);
    assert_eq!(tail(&view, log.opened.reader.end(), 4_096), [1, 2, 3]);
    log.one_each(5_000, 400);
    let end = log.opened.reader.end();
    assert_eq!(tail(&view, end, 4_096), lsns(4_996..5_004));
    // What is written and not yet durable is not shown.
    log.append(400);
    log.opened.appender.seal();
    let batch = log.opened.appender.poll_batch().unwrap();
    log.opened.writer.write(&batch).unwrap();
    assert_eq!(tail(&view, end, 4_096), lsns(4_996..5_004));
}

#[test]
fn a_tail_reaches_over_segments_and_behind_a_large_batch() {
    let disk = FaultDisk::new();
    let view = LogView::open(disk.clone(), 2);
    let mut log = open(&disk, 1);
    let mut last = 0;
    while last < 3 {
        log.one_each(1, 400);
        last = log.opened.reader.end().segment;
    }
    let newest = log.next_lsn;
    let end = log.opened.reader.end();
    // A segment's end may be empty.
    let shown = tail(&view, end, 8_192);
    assert!(shown.len() >= 12, "{shown:?}");
    assert_eq!(shown, lsns(newest - shown.len() as u64..newest));
    // Nothing begins in the last 8 KiB.
    log.one_each(1, 60_000);
    assert_eq!(
        tail(&view, log.opened.reader.end(), 8_192).last(),
        Some(&newest)
    );
}

#[test]
fn a_tail_has_a_batch_once_that_was_written_again_after_a_crash() {
    let disk = FaultDisk::new();
    let mut log = open(&disk, 1);
    log.one_each(6, 400);
    drop(log);
    let again = open(&disk, 2);
    let end = again.opened.reader.end();
    assert_eq!(tail(&LogView::open(disk, 2), end, 8_192), lsns(1..7));
}
