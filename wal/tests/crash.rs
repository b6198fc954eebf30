//! Loses power in every operation of a workload, and looks what is left.

use omnirelay_wal::fault::{FaultDisk, Faults};
use omnirelay_wal::{Fill, LogOptions, OpenError, RecordHeader};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const OPTIONS: LogOptions = LogOptions {
    log: 0,
    segment_bytes: 1 << 20,
};

/// How many workloads each test runs; more find more, in a nightly run.
fn seeds() -> u64 {
    let seeds = std::env::var("OMNIRELAY_WAL_CRASH_SEEDS");
    seeds.map_or(8, |seeds| seeds.parse().expect("a number"))
}

/// What the outside knows of a log: records in the order they were appended,
/// each with its batch, and how many of them are acknowledged.
#[derive(Default)]
struct Known {
    records: Vec<(u64, RecordHeader, Vec<u8>)>,
    acknowledged: usize,
}

/// Opens the log, checks it against what is known, writes to it until the disk
/// fails or the script is done. `Err` is a log that refuses to open.
fn live(disk: &FaultDisk, known: &mut Known, rng: &mut SmallRng) -> Result<(), OpenError> {
    let mut found = Vec::new();
    let mut entropy = SmallRng::seed_from_u64(rng.next_u64());
    let opened = omnirelay_wal::open(
        disk.clone(),
        OPTIONS,
        &mut || entropy.next_u64(),
        &mut |header, _, body| {
            found.push((*header, body.to_vec()));
            Ok(())
        },
    );
    let mut opened = match opened {
        // The process died while opening.
        Err(OpenError::Io { .. }) => return Ok(()),
        opened => opened?,
    };
    assert!(
        found.len() >= known.acknowledged,
        "an acknowledged record is lost"
    );
    assert!(found.len() <= known.records.len(), "a record from nowhere");
    for ((_, header, body), found) in known.records.iter().zip(&found) {
        assert_eq!((header, body), (&found.0, &found.1));
    }
    if let Some((batch, ..)) = known.records.get(found.len()) {
        let last = found.len().checked_sub(1).map(|at| known.records[at].0);
        assert_ne!(Some(*batch), last, "half a batch was replayed");
    }
    let next = found
        .len()
        .checked_sub(1)
        .map_or(1, |at| known.records[at].0 + 1);
    assert_eq!(opened.appender.open_batch(), next);
    known.records.truncate(found.len());
    // What was replayed once must be there for ever.
    known.acknowledged = found.len();

    for _ in 0..rng.random_range(1..8) {
        for _ in 0..rng.random_range(1..4) {
            let len = match rng.random_range(0..8) {
                0 => rng.random_range(0..400_000),
                _ => rng.random_range(0..2_000),
            };
            while !opened.appender.fits(len) {
                match opened.allocator.allocate(Fill::Zeros) {
                    Ok(spare) => opened.appender.handle_spare(spare),
                    Err(_) => return Ok(()),
                }
            }
            let header = RecordHeader {
                shard: rng.random(),
                epoch: rng.random(),
                lsn: rng.random(),
                at: rng.random(),
                kind: rng.random(),
            };
            let mut body = vec![0; len];
            rng.fill_bytes(&mut body);
            opened
                .appender
                .append(&header, len, |into| into.extend_from_slice(&body));
            known
                .records
                .push((opened.appender.open_batch(), header, body));
        }
        opened.appender.seal();
        while let Some(batch) = opened.appender.poll_batch() {
            if opened.writer.write(&batch).is_err() {
                return Ok(());
            }
            let written = |record: &&(u64, _, _)| record.0 <= batch.number;
            known.acknowledged = known.records.iter().take_while(written).count();
            opened.appender.handle_synced(batch.number);
        }
        if rng.random_range(0..4) == 0 && opened.appender.spares() == 0 {
            match opened.allocator.allocate(Fill::Zeros) {
                Ok(spare) => opened.appender.handle_spare(spare),
                Err(_) => return Ok(()),
            }
        }
    }
    if rng.random() {
        let _ = opened.writer.close();
    }
    Ok(())
}

fn end(disk: &FaultDisk, rng: &mut SmallRng) {
    if rng.random() {
        disk.restart();
    } else {
        disk.lose_power(&mut || rng.next_u64());
    }
}

/// Three lives without faults take this many operations.
fn operations(seed: u64) -> u64 {
    let (disk, mut known) = (FaultDisk::new(), Known::default());
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..3 {
        live(&disk, &mut known, &mut rng).unwrap();
        end(&disk, &mut rng);
    }
    disk.operations()
}

fn lives_with(seed: u64, faults: Faults) -> FaultDisk {
    let (disk, mut known) = (FaultDisk::new(), Known::default());
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..3 {
        disk.set_faults(faults);
        live(&disk, &mut known, &mut rng).unwrap();
        end(&disk, &mut rng);
    }
    // Dying again, soon after or while recovering, must not make it worse.
    for _ in 0..3 {
        disk.set_faults(Faults {
            crash_at: Some(disk.operations() + rng.random_range(1..25)),
            ..faults
        });
        live(&disk, &mut known, &mut rng).unwrap();
        end(&disk, &mut rng);
    }
    live(&disk, &mut known, &mut rng).unwrap();
    disk
}

#[test]
fn a_crash_in_any_operation_loses_nothing_that_was_acknowledged() {
    let (mut crashes, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..seeds() {
        for at in 1..=operations(seed) {
            let faults = Faults {
                crash_at: Some(at),
                tear_sectors: seed % 2 == 0,
                ..Faults::default()
            };
            let counts = lives_with(seed, faults).counts();
            crashes += counts.crashes;
            lost += counts.sectors_lost;
            torn += counts.sectors_torn;
        }
    }
    assert!(
        crashes >= 60 * seeds() && lost >= 60 * seeds() && torn >= seeds(),
        "{crashes} {lost} {torn}"
    );
}

#[test]
fn a_failed_sync_or_write_in_any_operation_loses_nothing_that_was_acknowledged() {
    let mut failed = (0, 0);
    for seed in 100..100 + seeds() {
        for at in 1..=operations(seed) {
            let faults = Faults {
                fail_sync_at: Some(at),
                fail_write_at: Some(at),
                ..Faults::default()
            };
            let counts = lives_with(seed, faults).counts();
            failed.0 += counts.syncs_failed;
            failed.1 += counts.writes_failed;
        }
    }
    assert!(
        failed.0 >= 10 * seeds() && failed.1 >= 10 * seeds(),
        "{failed:?}"
    );
}

/// A disk that lies about syncs may lose what was acknowledged. The log must
/// then refuse, or be an earlier state of itself: never show what never was.
#[test]
fn a_disk_that_lies_is_found_out_or_sets_the_log_back() {
    let (mut refused, mut set_back, mut lied) = (0, 0, 0);
    for seed in 0..seeds() * 10 {
        let (disk, mut known) = (FaultDisk::new(), Known::default());
        let mut rng = SmallRng::seed_from_u64(seed);
        disk.set_faults(Faults {
            lie_about_syncs: true,
            ..Faults::default()
        });
        live(&disk, &mut known, &mut rng).unwrap();
        disk.lose_power(&mut || rng.next_u64());
        lied += disk.counts().syncs_lied;
        let before = std::mem::take(&mut known.acknowledged);
        match live(&disk, &mut known, &mut rng) {
            Ok(()) => set_back += u64::from(known.acknowledged < before),
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lied > 0 && refused > 0, "{lied} {refused} {set_back}");
}
