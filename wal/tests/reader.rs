//! Reading bodies back on a real disk.

use omnirelay_wal::{Fill, LogOptions, Position, RealDisk, RecordHeader, SEGMENT_BYTES_MIN, open};

const BODY_BYTES: usize = 300_000;

/// Mappings of files in a directory that this process has.
fn mappings(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let dir = dir.to_str().unwrap();
    maps.lines().filter(|line| line.contains(dir)).count()
}

#[test]
fn old_segments_are_read_but_not_kept_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..LogOptions::default()
    };
    let mut entropy = 0;
    let mut log = open(
        RealDisk::open(dir.path()).unwrap(),
        options,
        &mut || {
            entropy += 1;
            entropy
        },
        &mut |_, _, _| Ok(()),
    )
    .unwrap();
    let mut places: Vec<(Position, u8)> = Vec::new();
    for lsn in 1..=40_u8 {
        while !log.appender.fits(BODY_BYTES) {
            let spare = log.allocator.allocate(Fill::Reserved).unwrap();
            log.appender.handle_spare(spare);
        }
        let header = RecordHeader {
            shard: 0,
            epoch: 1,
            lsn: u64::from(lsn),
            at: 1,
            kind: 2,
        };
        let at = log.appender.append(&header, BODY_BYTES, |out| {
            out.resize(out.len() + BODY_BYTES, lsn);
        });
        places.push((at, lsn));
        log.appender.seal();
        while let Some(batch) = log.appender.poll_batch() {
            log.writer.write(&batch).unwrap();
            let number = batch.number;
            drop(batch);
            log.appender.handle_synced(number);
        }
        let newest = log.reader.recent(at, BODY_BYTES).expect("just written");
        assert!(newest.iter().all(|&byte| byte == lsn));
    }
    let segments = places.last().unwrap().0.segment - places[0].0.segment + 1;
    assert!(segments > 8, "the test is about many segments: {segments}");
    assert!(mappings(dir.path()) <= 5, "{}", mappings(dir.path()));
    for (at, lsn) in places {
        let body = log.reader.read(at, BODY_BYTES).unwrap();
        assert!(body.iter().all(|&byte| byte == lsn), "record {lsn}");
    }
    assert!(mappings(dir.path()) <= 5, "{}", mappings(dir.path()));
}
