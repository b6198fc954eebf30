//! Checkpoints of what a shard remembers beside its items: so that the log can
//! give up the records which that came from.
//!
//! A checkpoint is taken in steps, between which the shard goes on. What is
//! forgotten meanwhile may be left out; what is added has a record of its own,
//! which is newer than the checkpoint's beginning.

use std::ops::Range;

use crate::carry::{Carry, DrainPart, EpochStart, HEADER_BYTES, Remembered, Row, Rows};
use crate::drains::Bundle;
use crate::ids::RequestKey;
use crate::record::Log;

use super::Shard;

/// Largest body of a checkpoint's record, in bytes: a page of ended leases is
/// 16 KiB.
pub const CHECKPOINT_RECORD_BYTES_MAX: usize = 17 << 10;

/// Bytes of rows in one record.
const ROWS_BYTES_MAX: usize = 16 << 10;

/// Drain requests in one record.
const DRAINS_A_RECORD: usize = ROWS_BYTES_MAX / DrainPart::LEN;

/// How far a checkpoint has come.
#[derive(Debug)]
pub struct Checkpoint {
    step: Step,
    /// The request whose part was written last.
    drained: Option<RequestKey>,
    /// Entries of the queues that are still to be written.
    dedupe: Range<u64>,
    restored: Range<u64>,
    settled: Range<u64>,
    pages: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Header,
    Drains,
    Dedupe,
    Restored,
    Settled,
    Pages,
    Done,
}

impl Shard {
    /// Begins a checkpoint: what [`handle_checkpoint`](Shard::handle_checkpoint)
    /// then appends lets the log give up all segments before the one that it
    /// is now at, as far as this shard's memory goes.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: Step::Header,
            drained: None,
            dedupe: self.dedupe.queued(),
            restored: self.restored.queued(),
            settled: self.settled.queued(),
            pages: self.settled.page_numbers(),
        }
    }

    /// Goes on with a checkpoint: appends one record, and others while their
    /// bodies together are within `budget_bytes`. No body is longer than
    /// [`CHECKPOINT_RECORD_BYTES_MAX`]. True when the checkpoint is complete.
    pub fn handle_checkpoint(
        &mut self,
        checkpoint: &mut Checkpoint,
        budget_bytes: usize,
        log: &mut impl Log,
    ) -> bool {
        let mut spent = 0;
        while checkpoint.step != Step::Done {
            if spent > 0 && spent + CHECKPOINT_RECORD_BYTES_MAX > budget_bytes {
                return false;
            }
            spent += self.checkpoint_step(checkpoint, log);
        }
        true
    }

    /// Bytes that a checkpoint would take now, but for what frames its rows.
    pub fn checkpoint_bytes(&self) -> u64 {
        let remembered = (self.dedupe.len() + self.restored.len()) * Remembered::LEN as u64;
        let drains = (self.drains.len() * DrainPart::LEN) as u64;
        HEADER_BYTES as u64 + remembered + drains + self.settled.checkpoint_bytes()
    }

    /// Appends at most one record, and returns what that, or looking for what
    /// would be in it, costs in bytes.
    fn checkpoint_step(&mut self, checkpoint: &mut Checkpoint, log: &mut impl Log) -> usize {
        let now = self.clock;
        match checkpoint.step {
            Step::Header => {
                checkpoint.step = Step::Drains;
                let epochs = self.settled.epochs();
                let header = Carry::Header {
                    pending: self.stats.pending + self.stats.delayed,
                    active: self.stats.active,
                    epochs: Rows::Values(&epochs),
                };
                self.commit_carry(header, log)
            }
            Step::Drains => {
                self.drains.sweep(now);
                let bundles = self.drains.after(checkpoint.drained).take(DRAINS_A_RECORD);
                let bundles: Vec<&Bundle> = bundles.collect();
                checkpoint.drained = bundles.last().map(|bundle| bundle.request);
                if bundles.len() < DRAINS_A_RECORD {
                    checkpoint.step = Step::Dedupe;
                }
                let looked = bundles.len();
                let live = bundles
                    .iter()
                    .filter(|bundle| !self.drains.is_over(bundle, now));
                let parts: Vec<DrainPart> = live.map(|bundle| bundle.part()).collect();
                self.carry_rows(&parts, looked, Carry::Drains, log)
            }
            Step::Dedupe => {
                let left = &mut checkpoint.dedupe;
                let (rows, looked) =
                    take_rows(left, self.dedupe.queued(), |nth| self.dedupe.row(nth, now));
                if left.is_empty() {
                    checkpoint.step = Step::Restored;
                }
                self.carry_rows(&rows, looked, Carry::Dedupe, log)
            }
            Step::Restored => {
                let left = &mut checkpoint.restored;
                let (rows, looked) = take_rows(left, self.restored.queued(), |nth| {
                    self.restored.row(nth, now)
                });
                if left.is_empty() {
                    checkpoint.step = Step::Settled;
                }
                self.carry_rows(&rows, looked, Carry::Restored, log)
            }
            Step::Settled => {
                let left = &mut checkpoint.settled;
                let (rows, looked) = take_rows(left, self.settled.queued(), |nth| {
                    self.settled.row(nth, now)
                });
                if left.is_empty() {
                    checkpoint.step = Step::Pages;
                }
                self.carry_rows(&rows, looked, Carry::Settled, log)
            }
            Step::Pages => match checkpoint.pages.pop() {
                Some(page) => self.carry_page(page, log),
                None => {
                    checkpoint.step = Step::Done;
                    0
                }
            },
            Step::Done => 0,
        }
    }

    fn carry_rows<'a, T: Row>(
        &mut self,
        rows: &'a [T],
        looked: usize,
        carry: fn(Rows<'a, T>) -> Carry<'a>,
        log: &mut impl Log,
    ) -> usize {
        let cost = looked * T::LEN;
        match rows.is_empty() {
            true => cost,
            false => cost.max(self.commit_carry(carry(Rows::Values(rows)), log)),
        }
    }

    fn carry_page(&mut self, page: u64, log: &mut impl Log) -> usize {
        let Some((last_at, first_word, words)) = self.settled.page(page, self.clock) else {
            return 0;
        };
        let words = words.to_vec();
        let carry = Carry::SettledPage {
            page,
            last_at,
            first_word,
            words: Rows::Values(&words),
        };
        self.commit_carry(carry, log)
    }
}

/// Reads the next entries of a queue, as many as fit one record: those that
/// are still remembered, and how many were looked at.
fn take_rows<T: Row>(
    left: &mut Range<u64>,
    queued: Range<u64>,
    row: impl Fn(u64) -> Option<T>,
) -> (Vec<T>, usize) {
    // Those before were forgotten since.
    left.start = left.start.max(queued.start).min(left.end);
    let until = left.end.min(left.start + (ROWS_BYTES_MAX / T::LEN) as u64);
    let looked = (until - left.start) as usize;
    let rows = (left.start..until).filter_map(row).collect();
    left.start = until;
    (rows, looked)
}

const _: () = {
    let rows = ROWS_BYTES_MAX + 64;
    assert!(rows <= CHECKPOINT_RECORD_BYTES_MAX);
    assert!(crate::marks::PAGE_WORDS * u64::LEN <= ROWS_BYTES_MAX);
    assert!(crate::settled::EPOCHS_MAX * EpochStart::LEN <= ROWS_BYTES_MAX);
};
