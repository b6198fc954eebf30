//! What a log was given to write, in all lives: every batch as it went to the writer, record by
//! record. After a crash it says which of them the disk must still have, and it keeps what the
//! log itself gives up in time.

use std::cell::RefCell;
use std::rc::Rc;

use omnirelay_wal::{Batch, LOG_SHARD, RecordHeader};

use crate::violation::{Violation, broken};

/// A tape that a node writes to and the world keeps.
pub type SharedTape = Rc<RefCell<Tape>>;

/// One log's tape.
#[derive(Debug, Default)]
pub struct Tape {
    /// From batch 1 on without a gap.
    batches: Vec<Taped>,
    /// The last batch that the node was told is on disk.
    synced: u64,
}

/// A batch.
#[derive(Debug)]
pub struct Taped {
    /// Its number.
    pub number: u64,
    /// Its records, without those of the log itself.
    pub records: Vec<TapedRecord>,
    /// If it raises the floor: the first batch that is needed from then on.
    floor: Option<u64>,
}

/// A record.
#[derive(Debug)]
pub struct TapedRecord {
    /// Its header.
    pub header: RecordHeader,
    /// Its body.
    pub body: Vec<u8>,
    print: u64,
}

/// What was found in a log.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Its records, in order.
    pub records: Vec<Found>,
    /// The number of its last batch; 0 without one.
    pub last: u64,
}

/// A record that was found in a log.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its header.
    pub header: RecordHeader,
    /// Stands for all its bytes.
    pub print: u64,
}

impl Tape {
    /// A batch goes to the writer. Whatever was written under its number or a higher one in an
    /// earlier life has been found lost since.
    pub fn write(&mut self, batch: &Batch) {
        let lost = usize::try_from(batch.number - 1).expect("few batches");
        assert!(lost <= self.batches.len(), "batches have no gaps");
        self.batches.truncate(lost);
        self.synced = self.synced.min(batch.number - 1);
        let mut taped = Taped {
            number: batch.number,
            records: Vec::with_capacity(batch.records() as usize),
            floor: None,
        };
        for (header, body) in batch.entries() {
            if header.shard == LOG_SHARD {
                let first_batch = body[4..12].try_into().expect("eight bytes");
                taped.floor = Some(u64::from_le_bytes(first_batch));
                continue;
            }
            taped.records.push(TapedRecord {
                header,
                body: body.to_vec(),
                print: print(&header, body),
            });
        }
        self.batches.push(taped);
    }

    /// The node learns that a batch is on disk.
    pub fn synced(&mut self, number: u64) {
        self.synced = number;
    }

    /// What comes after a batch is lost, whatever the node was told.
    pub fn lose_after(&mut self, kept: u64) {
        self.batches
            .truncate(usize::try_from(kept).expect("few batches"));
        self.synced = self.synced.min(kept);
    }

    /// The last batch that the node was told is on disk.
    pub fn last_synced(&self) -> u64 {
        self.synced
    }

    /// The batches behind `after`, up to and with `last`.
    pub fn batches(&self, after: u64, last: u64) -> &[Taped] {
        let at = |number| usize::try_from(number).expect("few batches");
        &self.batches[at(after)..at(last)]
    }

    /// Judges what was `found` in the log: it must be what is left of the tape, everything from
    /// the floor on without a gap, to the end of its last batch, and at least up to batch `least`.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(&self, found: &Contents, least: u64) -> Result<(), Violation> {
        let last = usize::try_from(found.last).expect("few batches");
        let written = self.batches.get(..last);
        let is_left = written.is_some_and(|written| {
            let firsts = 0..usize::try_from(floor_of(written)).expect("few batches");
            firsts
                .into_iter()
                .any(|first| is_found(written.get(first..).unwrap_or_default(), &found.records))
        });
        broken(
            !is_left || found.last < least,
            "what was durable stays as it was",
            || {
                format!(
                    "{} records found, the last of them {:?}, up to batch {}; {} batches written, \
                     {least} of them durable, needed from batch {} on",
                    found.records.len(),
                    found.records.last().map(|found| found.header),
                    found.last,
                    self.batches.len(),
                    floor_of(&self.batches),
                )
            },
        )
    }

    /// Whether a floor was written that gives up everything up to batch `last`.
    pub fn gives_up(&self, last: u64) -> bool {
        floor_of(&self.batches) > last
    }
}

/// Whether these batches have just these records.
fn is_found(batches: &[Taped], found: &[Found]) -> bool {
    let written = batches.iter().flat_map(|batch| &batch.records);
    written
        .map(|record| (record.print, record.header))
        .eq(found.iter().map(|found| (found.print, found.header)))
}

/// The first batch that is needed, as these say, which begin with the first.
fn floor_of(batches: &[Taped]) -> u64 {
    let floors = batches.iter().rev().filter_map(|batch| batch.floor);
    floors.into_iter().next().unwrap_or(1)
}

/// Stands for all bytes of a record.
pub fn print(header: &RecordHeader, body: &[u8]) -> u64 {
    let head = [
        u64::from(header.kind),
        u64::from(header.shard),
        u64::from(header.epoch),
        header.lsn,
        header.at,
    ];
    head.into_iter().fold(digest(body), mix)
}

/// Stands for some bytes: a word at a time, multiplied and folded.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let hash = words
        .by_ref()
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .fold(mix(0xcbf2_9ce4_8422_2325, bytes.len() as u64), mix);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(hash, u64::from_le_bytes(last))
}

fn mix(hash: u64, word: u64) -> u64 {
    let wide = u128::from(hash ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    // Both halves, so that no bit of the word is lost.
    (wide as u64) ^ ((wide >> 64) as u64).rotate_left(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(batches: &[(&[u64], Option<u64>)], synced: u64) -> Tape {
        let record = |&lsn: &u64| {
            let header = RecordHeader {
                shard: 0,
                epoch: 1,
                lsn,
                at: 0,
                kind: 2,
            };
            TapedRecord {
                header,
                body: Vec::new(),
                print: print(&header, &[]),
            }
        };
        let batches = batches
            .iter()
            .zip(1..)
            .map(|(&(lsns, floor), number)| Taped {
                number,
                records: lsns.iter().map(record).collect(),
                floor,
            });
        Tape {
            batches: batches.collect(),
            synced,
        }
    }

    fn found(tape: &Tape, lsns: &[u64], last: u64) -> Contents {
        let all = tape.batches.iter().flat_map(|batch| &batch.records);
        let all: Vec<Found> = all
            .map(|record| Found {
                header: record.header,
                print: record.print,
            })
            .collect();
        let records = lsns
            .iter()
            .map(|lsn| *all.iter().find(|found| found.header.lsn == *lsn).unwrap());
        Contents {
            records: records.collect(),
            last,
        }
    }

    fn assert_left(tape: &Tape, lsns: &[u64], last: u64, is_left: bool) {
        let found = found(tape, lsns, last);
        let checked = tape.check(&found, tape.synced);
        assert_eq!(checked.is_ok(), is_left, "{lsns:?} up to batch {last}");
    }

    #[test]
    fn a_log_may_lose_what_was_not_synced_and_nothing_else() {
        let tape = tape(&[(&[1, 2], None), (&[3], None), (&[4, 5], None)], 2);
        for (lsns, last, is_left) in [
            (&[1, 2, 3, 4, 5][..], 3, true),
            (&[1, 2, 3], 2, true),
            (&[1, 2, 3], 3, false),
            (&[1, 2, 3, 4, 5], 4, false),
            (&[1, 2], 1, false),
            (&[1, 2, 3, 4], 3, false),
            (&[2, 3], 2, false),
            (&[3], 2, false),
            (&[], 0, false),
        ] {
            assert_left(&tape, lsns, last, is_left);
        }
    }

    #[test]
    fn a_log_may_give_up_whole_batches_below_its_floor() {
        let batches: &[(&[u64], _)] = &[(&[1], None), (&[2], None), (&[3], None), (&[], Some(3))];
        let tape = tape(batches, 4);
        for (lsns, last, is_left) in [
            (&[1, 2, 3][..], 4, true),
            (&[2, 3], 4, true),
            (&[3], 4, true),
            // Without the batch that says so, nothing is given up.
            (&[3], 3, false),
            (&[], 4, false),
            (&[1, 3], 4, false),
        ] {
            assert_left(&tape, lsns, last, is_left);
        }
        assert!(tape.gives_up(2));
        assert!(!tape.gives_up(3), "batch 3 is needed");
    }

    #[test]
    fn what_was_lost_is_written_again_behind_what_the_log_has() {
        // The last batch has no records but the log's own: that it is there shows in no record.
        let mut tape = tape(&[(&[1], None), (&[], Some(1)), (&[2], None)], 3);
        let found = found(&tape, &[1], 2);
        tape.check(&found, 1).unwrap();
        tape.lose_after(found.last);
        assert_eq!((tape.batches.len(), tape.last_synced()), (2, 2));
    }
}
