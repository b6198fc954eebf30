//! What the log hands to its disk for the records that it is given.

use omnirelay_wal::fault::FaultDisk;
use omnirelay_wal::{Fill, LogOptions, RECORD_HEADER_BYTES, RecordHeader, open};

const BODY: [u8; 256] = [7; 256];
const BATCHES: u64 = 50;

/// Bytes written for each byte of records, in hundredths, and operations of a batch.
fn measure(records: u64) -> (u64, u64) {
    let disk = FaultDisk::new();
    let options = LogOptions {
        segment_bytes: 32 << 20,
        ..LogOptions::default()
    };
    let opened = open(disk.clone(), options, &mut || 1, &mut |_, _, _| Ok(()));
    let mut opened = opened.expect("a fresh log");
    let spare = opened.allocator.allocate(Fill::Reserved);
    opened.appender.handle_spare(spare.expect("disk space"));
    let (mut lsn, mut before) = (0, (0, 0));
    for batch in 0..=BATCHES {
        if batch == 1 {
            // The first one begins the segment.
            before = (disk.bytes_written(), disk.operations());
        }
        for _ in 0..records {
            lsn += 1;
            let header = RecordHeader {
                shard: 0,
                epoch: 1,
                lsn,
                at: lsn,
                kind: 2,
            };
            let appender = &mut opened.appender;
            appender.append(&header, BODY.len(), |out| out.extend_from_slice(&BODY));
        }
        opened.appender.seal();
        let batch = opened.appender.poll_batch().expect("a sealed batch");
        opened.writer.write(&batch).expect("a sound disk");
        let number = batch.number;
        drop(batch);
        opened.appender.handle_synced(number);
    }
    let bytes = disk.bytes_written() - before.0;
    let payload = BATCHES * records * (RECORD_HEADER_BYTES + BODY.len()) as u64;
    let operations = disk.operations() - before.1;
    (bytes * 100 / payload, operations / BATCHES)
}

#[test]
fn a_batch_is_one_write_and_one_sync_of_little_more_than_its_records() {
    // A batch takes whole sectors of 512 bytes; a device with pages of 4 KiB writes more.
    for (records, hundredths_max) in [(1, 179), (16, 101), (64, 101), (256, 100), (1_024, 100)] {
        let (hundredths, operations) = measure(records);
        println!("{records}: {hundredths}");
        assert!(
            hundredths <= hundredths_max,
            "{records} records a batch: {hundredths} % of their bytes are written, at most {hundredths_max} %"
        );
        assert_eq!(operations, 2, "{records} records a batch");
    }
}
