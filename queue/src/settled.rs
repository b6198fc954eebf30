//! How the leases of items that are gone ended, so that a retry after a lost
//! reply can be told. Kept for at least the dedupe window.
//!
//! Most items go with their first grant, in the epoch that they came in. Two
//! bits each, in pages of LSNs, remember those; a table remembers the others.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::carry::{Ended, EpochStart, PAGE_HEAD_BYTES, Row, Rows};
use crate::chunks::ChunkQueue;
use crate::ids::{Epoch, Lsn, Nanos};
use crate::marks::Marks;
use crate::outcome::FenceReason;
use crate::record::LeaseRef;
use crate::split_table::{SplitTable, mix};

/// Most entries of the table, about 250 MB. Beyond, the oldest go early, and
/// their leases are fenced without a reason.
const ENTRIES_MAX: usize = 4_000_000;

/// Most epochs whose beginnings are remembered. Items from before them are
/// remembered in the table.
pub(crate) const EPOCHS_MAX: usize = 1024;

/// Entries and pages that one settle may make room by.
const SWEEP_MAX: usize = 4;

/// How an item's last lease ended.
#[derive(Clone, Copy, Debug)]
struct Entry {
    item: Lsn,
    attempt: u16,
    grant: u16,
    reason: FenceReason,
    epoch: Epoch,
}

#[derive(Debug)]
pub(crate) struct Settled {
    /// Reasons by the LSN of the item's enqueue.
    marks: Marks,
    entries: SplitTable<Entry>,
    /// By time.
    queue: ChunkQueue<(Nanos, Lsn)>,
    /// The first LSN of each epoch, ascending.
    epochs: VecDeque<(Lsn, Epoch)>,
    window: Duration,
    /// The queue may not be in the order of time.
    is_unordered: bool,
}

impl Settled {
    pub(crate) fn new(window: Duration) -> Settled {
        Settled {
            marks: Marks::new(),
            entries: SplitTable::new(),
            queue: ChunkQueue::new(),
            epochs: VecDeque::new(),
            window,
            is_unordered: false,
        }
    }

    pub(crate) fn epoch_started(&mut self, lsn: Lsn, epoch: Epoch) {
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.pop_front();
        }
        self.epochs.push_back((lsn, epoch));
    }

    /// Remembers how the last lease of an item that is gone ended.
    pub(crate) fn insert(&mut self, lease: &LeaseRef, reason: FenceReason, at: Nanos) {
        self.sweep(at);
        let item = lease.item;
        let is_common = (lease.attempt, lease.grant) == (1, 1)
            && self.epoch_of(item) == Some(lease.epoch)
            && reason != FenceReason::Superseded;
        if !is_common || !self.marks.set(item, reason as u8, at) {
            self.insert_entry(lease, reason, at);
        }
    }

    fn insert_entry(&mut self, lease: &LeaseRef, reason: FenceReason, at: Nanos) {
        let entry = Entry {
            item: lease.item,
            attempt: lease.attempt,
            grant: lease.grant,
            reason,
            epoch: lease.epoch,
        };
        if self.entries.len() >= ENTRIES_MAX {
            self.forget_oldest();
        }
        self.queue.push((at, entry.item));
        self.entries
            .insert(mix(entry.item.0), entry, |entry| mix(entry.item.0));
    }

    /// Remembers what a trimmed log carries, which may come in any order.
    pub(crate) fn carried(&mut self, row: &Ended) {
        if self
            .entries
            .find(mix(row.lease.item.0), |entry| entry.item == row.lease.item)
            .is_none()
        {
            self.is_unordered = true;
            self.insert_entry(&row.lease, row.reason, row.at);
        }
    }

    /// Remembers a page that a trimmed log carries.
    pub(crate) fn carried_page(
        &mut self,
        number: u64,
        last_at: Nanos,
        first_word: u16,
        words: impl Iterator<Item = u64>,
    ) {
        self.marks.add(number, last_at, first_word, words);
    }

    /// Brings the queues into the order of time, if they are not.
    pub(crate) fn restore_order(&mut self) {
        if std::mem::take(&mut self.is_unordered) {
            self.queue.sort();
        }
        self.marks.restore_order();
    }

    /// When the epochs began.
    pub(crate) fn epochs(&self) -> Vec<EpochStart> {
        let starts = self.epochs.iter();
        starts
            .map(|&(lsn, epoch)| EpochStart { lsn, epoch })
            .collect()
    }

    /// Adds beginnings of epochs that a trimmed log carries. False when they
    /// contradict those that are known; nothing has changed then.
    #[must_use]
    pub(crate) fn carried_epochs(&mut self, epochs: &Rows<'_, EpochStart>) -> bool {
        let known = self.epochs.iter().copied();
        let carried = epochs.iter().map(|start| (start.lsn, start.epoch));
        let mut all: Vec<(Lsn, Epoch)> = known.chain(carried).collect();
        all.sort_unstable();
        all.dedup();
        let follows = |pair: &[(Lsn, Epoch)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        if !all.windows(2).all(follows) {
            return false;
        }
        let from = all.len().saturating_sub(EPOCHS_MAX);
        self.epochs = all[from..].iter().copied().collect();
        true
    }

    /// Bytes that a checkpoint of it takes, but for what frames its rows.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        let epochs = self.epochs.len() * EpochStart::LEN;
        let rows = self.entries.len() * Ended::LEN;
        let pages = self.marks.len() * PAGE_HEAD_BYTES + self.marks.words() * u64::LEN;
        (epochs + rows + pages) as u64
    }

    /// Where the queue's entries begin and end. They move up only when the
    /// order is restored.
    pub(crate) fn queued(&self) -> Range<u64> {
        self.queue.range()
    }

    /// What is remembered by the `nth` entry of the queue at `now`.
    pub(crate) fn row(&self, nth: u64, now: Nanos) -> Option<Ended> {
        let (at, item) = self.queue.get(nth)?;
        let entry = self.entries.find(mix(item.0), |entry| entry.item == item)?;
        (!is_over(at, self.window, now)).then_some(Ended {
            lease: LeaseRef {
                item,
                attempt: entry.attempt,
                grant: entry.grant,
                epoch: entry.epoch,
            },
            reason: entry.reason,
            at,
        })
    }

    /// The numbers of the pages.
    pub(crate) fn page_numbers(&self) -> Vec<u64> {
        self.marks.page_numbers().collect()
    }

    /// When the last lease of a page ended, and its words from the first to
    /// the last that is not zero; `None` when the page is over at `now`.
    pub(crate) fn page(&self, number: u64, now: Nanos) -> Option<(Nanos, u16, &[u64])> {
        let (last_at, bits) = self.marks.page(number)?;
        if is_over(last_at, self.window, now) {
            return None;
        }
        let first = bits.iter().position(|word| *word != 0)?;
        let last = bits.iter().rposition(|word| *word != 0)?;
        Some((last_at, first as u16, &bits[first..=last]))
    }

    /// How this lease of an item that is gone ended, if that is remembered.
    pub(crate) fn reason(&self, lease: &LeaseRef) -> Option<FenceReason> {
        let eq = |entry: &Entry| entry.item == lease.item;
        if let Some(entry) = self.entries.find(mix(lease.item.0), eq) {
            let is_last = (entry.attempt, entry.grant) == (lease.attempt, lease.grant)
                && entry.epoch == lease.epoch;
            return Some(match is_last {
                true => entry.reason,
                false => FenceReason::Superseded,
            });
        }
        let reason = self.marked(lease.item)?;
        let is_last = (lease.attempt, lease.grant) == (1, 1)
            && self.epoch_of(lease.item) == Some(lease.epoch);
        is_last.then_some(reason)
    }

    /// How the last lease of an item that is gone ended, if that is remembered.
    pub(crate) fn last_reason(&self, item: Lsn) -> Option<FenceReason> {
        let entry = self.entries.find(mix(item.0), |entry| entry.item == item);
        entry
            .map(|entry| entry.reason)
            .or_else(|| self.marked(item))
    }

    fn marked(&self, item: Lsn) -> Option<FenceReason> {
        match self.marks.get(item) {
            1 => Some(FenceReason::Completed),
            2 => Some(FenceReason::Failed),
            3 => Some(FenceReason::Expired),
            _ => None,
        }
    }

    #[inline]
    fn epoch_of(&self, item: Lsn) -> Option<Epoch> {
        match self.epochs.back() {
            Some((first, epoch)) if *first <= item => return Some(*epoch),
            _ => {}
        }
        let after = self.epochs.partition_point(|(first, _)| *first <= item);
        Some(self.epochs[after.checked_sub(1)?].1)
    }

    #[inline]
    fn sweep(&mut self, now: Nanos) {
        for _ in 0..SWEEP_MAX {
            match self.queue.front() {
                Some((at, _)) if is_over(at, self.window, now) => self.forget_oldest(),
                _ => break,
            }
        }
        for _ in 0..SWEEP_MAX {
            let window = self.window;
            if !self.marks.sweep(|at| is_over(at, window, now)) {
                break;
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, item)) = self.queue.pop() {
            let entry = self.entries.remove(mix(item.0), |entry| entry.item == item);
            assert!(entry.is_some(), "item {item} is queued and not remembered");
        }
    }
}

fn is_over(at: Nanos, window: Duration, now: Nanos) -> bool {
    at.saturating_add(window) <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::PAGE_LSNS;

    fn lease(item: u64, attempt: u16, grant: u16, epoch: u32) -> LeaseRef {
        LeaseRef {
            item: Lsn(item),
            attempt,
            grant,
            epoch: Epoch(epoch),
        }
    }

    fn settled() -> Settled {
        let mut settled = Settled::new(Duration::from_nanos(10));
        settled.epoch_started(Lsn(1), Epoch(1));
        settled
    }

    fn complete(settled: &mut Settled, lease: LeaseRef, at: u64) {
        settled.insert(&lease, FenceReason::Completed, Nanos(at));
    }

    #[test]
    fn the_common_case_takes_no_entry() {
        let mut settled = settled();
        complete(&mut settled, lease(5, 1, 1, 1), 0);
        assert_eq!(settled.entries.len(), 0);
        let reason = settled.reason(&lease(5, 1, 1, 1));
        assert_eq!(reason, Some(FenceReason::Completed));
        assert_eq!(settled.reason(&lease(6, 1, 1, 1)), None);
    }

    #[test]
    fn an_earlier_lease_is_superseded() {
        let mut settled = settled();
        complete(&mut settled, lease(5, 2, 3, 1), 0);
        let reason = |lease| settled.reason(&lease);
        assert_eq!(reason(lease(5, 2, 3, 1)), Some(FenceReason::Completed));
        assert_eq!(reason(lease(5, 1, 1, 1)), Some(FenceReason::Superseded));
    }

    #[test]
    fn a_lost_grant_of_an_earlier_epoch_did_not_complete_the_item() {
        let mut settled = settled();
        settled.epoch_started(Lsn(100), Epoch(2));
        complete(&mut settled, lease(5, 1, 1, 2), 0);
        let reason = |lease| settled.reason(&lease);
        assert_eq!(reason(lease(5, 1, 1, 1)), Some(FenceReason::Superseded));
        assert_eq!(reason(lease(5, 1, 1, 2)), Some(FenceReason::Completed));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten_in_time() {
        let mut settled = settled();
        complete(&mut settled, lease(5, 1, 1, 1), 0);
        complete(&mut settled, lease(6, 2, 2, 1), 0);
        complete(&mut settled, lease(7 + PAGE_LSNS, 1, 1, 1), 10);
        assert_eq!(settled.reason(&lease(5, 1, 1, 1)), None);
        assert_eq!(settled.reason(&lease(6, 2, 2, 1)), None);
        let reason = settled.reason(&lease(7 + PAGE_LSNS, 1, 1, 1));
        assert_eq!(reason, Some(FenceReason::Completed));
    }
}
