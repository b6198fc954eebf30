//! Request ids seen within the window, by fingerprint.

use std::ops::Range;
use std::time::Duration;

use crate::carry::Remembered;
use crate::chunks::ChunkQueue;
use crate::ids::{Lsn, Nanos, RequestKey};
use crate::split_table::SplitTable;

/// Entries that may be forgotten to make room for one when there are too many.
const SWEEP_WHEN_FULL: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: RequestKey,
    /// The LSN of the first enqueue, and its time.
    lsn: Lsn,
    at: Nanos,
}

#[derive(Debug)]
pub(crate) struct Dedupe {
    entries: SplitTable<Entry>,
    /// By time.
    queue: ChunkQueue<(Nanos, RequestKey)>,
    window: Duration,
    /// The queue may not be in the order of time.
    is_unordered: bool,
}

impl Dedupe {
    pub(crate) fn new(window: Duration) -> Dedupe {
        Dedupe {
            entries: SplitTable::new(),
            queue: ChunkQueue::new(),
            window,
            is_unordered: false,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The enqueue with this key within the window before `now`.
    pub(crate) fn get(&self, key: RequestKey, now: Nanos) -> Option<Lsn> {
        let entry = self.entries.find(key[0], |entry| entry.key == key)?;
        (!self.is_over(entry.at, now)).then_some(entry.lsn)
    }

    /// Remembers an enqueue.
    pub(crate) fn insert(&mut self, key: RequestKey, lsn: Lsn, at: Nanos) {
        self.queue.push((at, key));
        match self.entries.find_mut(key[0], |entry| entry.key == key) {
            Some(entry) => (entry.lsn, entry.at) = (lsn, at),
            None => {
                let entry = Entry { key, lsn, at };
                self.entries.insert(key[0], entry, |entry| entry.key[0]);
            }
        }
    }

    /// Whether one more can be remembered. Forgets some whose window is over
    /// when not.
    pub(crate) fn has_room(&mut self, entries_max: u64, now: Nanos) -> bool {
        if self.len() >= entries_max {
            self.sweep(now, SWEEP_WHEN_FULL);
        }
        self.len() < entries_max
    }

    /// Forgets up to `budget` entries whose window is over.
    pub(crate) fn sweep(&mut self, now: Nanos, budget: usize) {
        for _ in 0..budget {
            match self.queue.front() {
                Some((at, key)) if self.is_over(at, now) => {
                    self.queue.pop();
                    // The key may have been seen again since.
                    let eq = |entry: &Entry| entry.key == key && entry.at == at;
                    self.entries.remove(key[0], eq);
                }
                _ => return,
            }
        }
    }

    /// Remembers what a trimmed log carries, which may come in any order.
    pub(crate) fn carried(&mut self, row: &Remembered) {
        let known = self.entries.find(row.key[0], |entry| entry.key == row.key);
        if known.is_none_or(|known| known.at < row.at) {
            self.is_unordered = true;
            self.insert(row.key, row.lsn, row.at);
        }
    }

    /// Brings the queue into the order of time, if it is not.
    pub(crate) fn restore_order(&mut self) {
        if std::mem::take(&mut self.is_unordered) {
            self.queue.sort();
        }
    }

    /// Where the queue's entries begin and end.
    pub(crate) fn queued(&self) -> Range<u64> {
        self.queue.range()
    }

    /// What is remembered by the `nth` entry of the queue at `now`.
    pub(crate) fn row(&self, nth: u64, now: Nanos) -> Option<Remembered> {
        let (at, key) = self.queue.get(nth)?;
        let is_current = |entry: &Entry| entry.key == key && entry.at == at;
        let entry = self.entries.find(key[0], is_current)?;
        (!self.is_over(at, now)).then_some(Remembered {
            key,
            lsn: entry.lsn,
            at,
        })
    }

    /// What is remembered at `now`, in the order of the enqueues.
    pub(crate) fn snapshot(&self, now: Nanos) -> Vec<(Lsn, RequestKey)> {
        let live = self.entries.iter().filter(|e| !self.is_over(e.at, now));
        let mut live: Vec<_> = live.map(|entry| (entry.lsn, entry.key)).collect();
        live.sort_unstable();
        live
    }

    fn is_over(&self, at: Nanos, now: Nanos) -> bool {
        at.saturating_add(self.window) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_the_window_and_no_longer() {
        let mut dedupe = Dedupe::new(Duration::from_nanos(10));
        dedupe.insert([1, 1], Lsn(1), Nanos(0));
        assert_eq!(dedupe.get([1, 1], Nanos(9)), Some(Lsn(1)));
        assert_eq!(dedupe.get([1, 1], Nanos(10)), None);
        assert_eq!(dedupe.get([1, 2], Nanos(0)), None);
    }

    #[test]
    fn sweeping_keeps_a_key_that_was_seen_again() {
        let mut dedupe = Dedupe::new(Duration::from_nanos(10));
        dedupe.insert([1, 1], Lsn(1), Nanos(0));
        dedupe.insert([1, 1], Lsn(2), Nanos(12));
        dedupe.insert([2, 2], Lsn(3), Nanos(13));
        dedupe.sweep(Nanos(15), 10);
        assert_eq!(dedupe.get([1, 1], Nanos(15)), Some(Lsn(2)));
        assert_eq!(dedupe.len(), 2);
        dedupe.sweep(Nanos(23), 10);
        assert_eq!(dedupe.len(), 0);
    }
}
