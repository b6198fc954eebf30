//! Loses power in every operation of a log that gives up its oldest segments.
//!
//! The log is used as a node uses it: records begin and end items, and before a
//! segment is given up, the items that live in it are written again.

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_wal::fault::{FaultCounts, FaultDisk, Faults};
use omnirelay_wal::{
    Cursor, Disk, FLOOR_BODY_BYTES, Fill, LogOptions, OpenError, Opened, Position, RecordHeader,
    Reuse,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const OPTIONS: LogOptions = LogOptions {
    log: 0,
    segment_bytes: 1 << 20,
};
const BEGIN: u8 = 2;
const END: u8 = 3;
const CARRY: u8 = 16;
/// More segments than this are one too many.
const SEGMENTS_MAX: usize = 3;

/// How many workloads each test runs; more find more, in a nightly run.
fn seeds() -> u64 {
    let seeds = std::env::var("OMNIRELAY_WAL_CRASH_SEEDS");
    seeds.map_or(1, |seeds| seeds.parse().expect("a number"))
}

type Items = BTreeMap<u64, Vec<u8>>;

/// What the outside knows: what was appended, in which batch, and which batch
/// is acknowledged.
#[derive(Default)]
struct Known {
    changes: Vec<(u64, Change)>,
    acknowledged: u64,
    next_item: u64,
    retired: u64,
    reused: u64,
}

#[derive(Clone)]
enum Change {
    Begun(u64, Vec<u8>),
    Ended(u64),
}

impl Known {
    /// The items there are when all up to a batch counts.
    fn items(&self, batch: u64) -> Items {
        let mut items = Items::new();
        for (_, change) in self.changes.iter().take_while(|(at, _)| *at <= batch) {
            match change {
                Change::Begun(item, body) => drop(items.insert(*item, body.clone())),
                Change::Ended(item) => drop(items.remove(item)),
            }
        }
        items
    }
}

/// A log and what its records add up to.
struct Life<'a> {
    disk: &'a FaultDisk,
    opened: Opened<FaultDisk>,
    roots: BTreeMap<u64, (Position, usize)>,
    known: &'a mut Known,
}

/// The disk has failed, and with it the process.
struct Dead;

impl<'a> Life<'a> {
    /// Opens the log and checks it against what is known. `None` if the process
    /// died while opening; `Err` is a log that refuses to open.
    fn begin(
        disk: &'a FaultDisk,
        known: &'a mut Known,
        rng: &mut SmallRng,
    ) -> Result<Option<Self>, OpenError> {
        let mut roots = BTreeMap::new();
        let mut bodies = Items::new();
        let opened = omnirelay_wal::open(
            disk.clone(),
            OPTIONS,
            &mut || rng.next_u64(),
            &mut |header, at, body| {
                if header.kind == END {
                    // One that began before the floor may be missing.
                    roots.remove(&header.lsn);
                    bodies.remove(&header.lsn);
                } else {
                    roots.insert(header.lsn, (at, body.len()));
                    bodies.insert(header.lsn, body.to_vec());
                }
                Ok(())
            },
        );
        let opened = match opened {
            Err(OpenError::Io { .. }) => return Ok(None),
            opened => opened?,
        };
        let last = opened.appender.open_batch() - 1;
        assert!(last >= known.acknowledged, "an acknowledged batch is lost");
        assert!(bodies == known.items(last), "other items than there were");
        known.changes.retain(|(batch, _)| *batch <= last);
        // What was replayed once must be there for ever.
        known.acknowledged = last;
        for (item, (at, len)) in &roots {
            assert_eq!(opened.reader.read(*at, *len).unwrap(), bodies[item]);
        }
        let life = Self {
            disk,
            opened,
            roots,
            known,
        };
        life.check_files();
        Ok(Some(life))
    }

    /// There is no file that the log does not know of.
    fn check_files(&self) {
        let appender = &self.opened.appender;
        let used: BTreeSet<String> = appender
            .segments()
            .map(|segment| format!("{:08}.seg", segment.number))
            .collect();
        let names: BTreeSet<String> = self.disk.list().unwrap().into_iter().collect();
        assert!(used.is_subset(&names));
        assert_eq!(names.len(), used.len() + appender.spares());
        let bytes: u64 = appender.segments().map(|segment| segment.bytes).sum();
        assert_eq!(appender.used_bytes(), bytes);
        let spares = appender.spares() as u64 * u64::from(OPTIONS.segment_bytes);
        assert_eq!(self.disk.bytes_used(), bytes + spares);
    }

    fn append(&mut self, kind: u8, item: u64, body: &[u8]) -> Result<Position, Dead> {
        self.make_room(body.len())?;
        let header = RecordHeader {
            shard: 1,
            epoch: 1,
            lsn: item,
            at: 1,
            kind,
        };
        let appender = &mut self.opened.appender;
        let at = appender.append(&header, body.len(), |into| into.extend_from_slice(body));
        Ok(at)
    }

    fn make_room(&mut self, len: usize) -> Result<(), Dead> {
        while !self.opened.appender.fits(len) {
            let spare = self.opened.allocator.allocate(Fill::Zeros);
            self.opened.appender.handle_spare(spare.map_err(|_| Dead)?);
        }
        Ok(())
    }

    fn begin_item(&mut self, rng: &mut SmallRng) -> Result<(), Dead> {
        let item = self.known.next_item;
        self.known.next_item += 1;
        let mut body = vec![0; rng.random_range(0..300_000)];
        rng.fill_bytes(&mut body);
        let at = self.append(BEGIN, item, &body)?;
        self.roots.insert(item, (at, body.len()));
        self.note(Change::Begun(item, body));
        Ok(())
    }

    fn end_item(&mut self, rng: &mut SmallRng) -> Result<(), Dead> {
        let items: Vec<u64> = self.roots.keys().copied().collect();
        if items.is_empty() {
            return Ok(());
        }
        let item = items[rng.random_range(0..items.len())];
        self.append(END, item, &[])?;
        self.roots.remove(&item);
        self.note(Change::Ended(item));
        Ok(())
    }

    fn note(&mut self, change: Change) {
        let batch = self.opened.appender.open_batch();
        self.known.changes.push((batch, change));
    }

    fn commit(&mut self) -> Result<(), Dead> {
        self.opened.appender.seal();
        while let Some(batch) = self.opened.appender.poll_batch() {
            self.opened.writer.write(&batch).map_err(|_| Dead)?;
            self.known.acknowledged = batch.number;
            self.opened.appender.handle_synced(batch.number);
        }
        Ok(())
    }

    /// Gives up the oldest segment.
    fn trim(&mut self, rng: &mut SmallRng) -> Result<(), Dead> {
        let mut segments = self.opened.appender.segments();
        let oldest = segments.next().expect("there are several").number;
        let needed = segments.next().expect("there are several").number;
        drop(segments);
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let cleaner = &self.opened.cleaner;
            let wanted = |kind| kind == BEGIN || kind == CARRY;
            let bytes = rng.random_range(1..1 << 20);
            let scanned = cleaner.scan(oldest, cursor, wanted, bytes);
            let scanned = scanned.map_err(|_| Dead)?;
            for (header, at, body) in scanned.records {
                if self.roots.get(&header.lsn).map(|root| root.0) == Some(at) {
                    let at = self.append(CARRY, header.lsn, &body)?;
                    self.roots.insert(header.lsn, (at, body.len()));
                }
            }
            from = scanned.next;
        }
        assert!(self.roots.values().all(|(at, _)| at.segment > oldest));
        self.commit()?;
        self.make_room(FLOOR_BODY_BYTES)?;
        let floor = self.opened.appender.append_floor(needed);
        if rng.random() {
            // The floor need not be a batch of its own.
            self.begin_item(rng)?;
        }
        self.commit()?;
        assert!(self.known.acknowledged >= floor);
        self.retire(oldest, rng)
    }

    fn retire(&mut self, segment: u32, rng: &mut SmallRng) -> Result<(), Dead> {
        self.opened.reader.forget(segment);
        assert!(!self.opened.reader.is_mapped_out(segment));
        let reuse = if rng.random_range(0..4) > 0 {
            Reuse::Yes
        } else {
            Reuse::No
        };
        let allocator = &mut self.opened.allocator;
        let spare = match allocator.retire(segment, reuse) {
            Err(_) => allocator.retire(segment, reuse).map_err(|_| Dead)?,
            Ok(spare) => spare,
        };
        self.known.retired += 1;
        self.known.reused += u64::from(spare.is_some());
        if let Some(spare) = spare {
            self.opened.appender.handle_spare(spare);
        }
        self.opened.appender.handle_retired(segment);
        Ok(())
    }

    fn work(&mut self, rng: &mut SmallRng) -> Result<(), Dead> {
        for _ in 0..rng.random_range(1..20) {
            for _ in 0..rng.random_range(1..4) {
                // As many end as begin, in the long run.
                if self.roots.len() < rng.random_range(0..12) {
                    self.begin_item(rng)?;
                } else {
                    self.end_item(rng)?;
                }
            }
            self.commit()?;
            if self.opened.appender.segments().count() > SEGMENTS_MAX {
                self.trim(rng)?;
                self.check_files();
            }
        }
        if rng.random() {
            self.opened.writer.close().map_err(|_| Dead)?;
        }
        Ok(())
    }
}

fn live(disk: &FaultDisk, known: &mut Known, rng: &mut SmallRng) -> Result<(), OpenError> {
    if let Some(mut life) = Life::begin(disk, known, rng)? {
        let _ = life.work(rng);
    }
    if rng.random() {
        disk.restart();
    } else {
        disk.lose_power(&mut || rng.next_u64());
    }
    Ok(())
}

const LIVES: usize = 3;

fn lives(seed: u64, faults: Faults) -> (FaultDisk, Known) {
    let (disk, mut known) = (FaultDisk::new(), Known::default());
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..LIVES {
        disk.set_faults(faults);
        live(&disk, &mut known, &mut rng).unwrap();
    }
    // Dying again, soon after or while recovering, must not make it worse.
    if faults.crash_at.is_some() {
        for _ in 0..2 {
            disk.set_faults(Faults {
                crash_at: Some(disk.operations() + rng.random_range(1..25)),
                ..faults
            });
            live(&disk, &mut known, &mut rng).unwrap();
        }
    }
    live(&disk, &mut known, &mut rng).unwrap();
    (disk, known)
}

/// What all runs of all workloads did together.
#[derive(Default)]
struct Sum {
    counts: FaultCounts,
    retired: u64,
    reused: u64,
}

/// Runs workloads, each once for each of its operations.
fn each_operation(seeds: std::ops::Range<u64>, faults: impl Fn(u64) -> Faults) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        let none = Faults {
            scribble_recycled: Some(seed),
            ..Faults::default()
        };
        let operations = lives(seed, none).0.operations();
        for at in 1..=operations {
            let (disk, known) = lives(seed, faults(at));
            let more = disk.counts();
            sum.counts.crashes += more.crashes;
            sum.counts.sectors_lost += more.sectors_lost;
            sum.counts.sectors_torn += more.sectors_torn;
            sum.counts.names_lost += more.names_lost;
            sum.counts.syncs_failed += more.syncs_failed;
            sum.counts.writes_failed += more.writes_failed;
            sum.counts.segments_scribbled += more.segments_scribbled;
            sum.retired += known.retired;
            sum.reused += known.reused;
        }
    }
    sum
}

#[test]
fn a_crash_in_any_operation_of_giving_up_loses_nothing_that_is_needed() {
    let sum = each_operation(0..seeds(), |at| Faults {
        crash_at: Some(at),
        tear_sectors: at % 2 == 0,
        scribble_recycled: Some(at),
        ..Faults::default()
    });
    let counts = sum.counts;
    assert!(
        counts.crashes > 60 * seeds() && counts.sectors_lost > 60 * seeds(),
        "{counts:?}"
    );
    assert!(
        counts.names_lost > 5 * seeds() && counts.sectors_torn > seeds(),
        "{counts:?}"
    );
    assert!(counts.segments_scribbled > 60, "{counts:?}");
    assert!(sum.retired > sum.reused && sum.reused > 60);
}

#[test]
fn a_failed_sync_or_write_while_giving_up_loses_nothing_that_is_needed() {
    let sum = each_operation(100..100 + seeds(), |at| Faults {
        fail_sync_at: Some(at),
        fail_write_at: Some(at),
        scribble_recycled: Some(at),
        ..Faults::default()
    });
    let counts = sum.counts;
    assert!(
        counts.syncs_failed > 10 * seeds() && counts.writes_failed > 10 * seeds(),
        "{counts:?}"
    );
    assert!(sum.retired > sum.reused && sum.reused > 60);
}

/// A disk that lies about syncs may lose what was acknowledged, after what it
/// rested on was given up. The log must then refuse, or be an earlier state of
/// itself: never show what never was.
#[test]
fn a_disk_that_lies_while_segments_are_given_up_is_found_out_or_sets_the_log_back() {
    let (mut refused, mut lied, mut retired) = (0, 0, 0);
    for seed in 0..seeds() * 40 {
        let (disk, mut known) = (FaultDisk::new(), Known::default());
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..2 {
            live(&disk, &mut known, &mut rng).unwrap();
        }
        disk.set_faults(Faults {
            lie_about_syncs: true,
            scribble_recycled: Some(seed),
            ..Faults::default()
        });
        if let Some(mut life) = Life::begin(&disk, &mut known, &mut rng).unwrap() {
            let _ = life.work(&mut rng);
        }
        disk.lose_power(&mut || rng.next_u64());
        lied += disk.counts().syncs_lied;
        retired += known.retired;
        known.acknowledged = 0;
        match Life::begin(&disk, &mut known, &mut rng) {
            Ok(_) => {}
            Err(OpenError::Corrupt { .. } | OpenError::Foreign { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        lied > 0 && refused > 0 && retired > 40,
        "{lied} {refused} {retired}"
    );
}
