//! A first-in first-out queue that grows by chunks, so that no append ever
//! copies what is already there.

use std::collections::VecDeque;
use std::ops::Range;

const CHUNK_ENTRIES: usize = 1024;

#[derive(Debug)]
pub(crate) struct ChunkQueue<T> {
    chunks: VecDeque<Vec<T>>,
    /// Entries of the front chunk that are already taken.
    taken: usize,
    /// How many entries were ever taken before the front chunk.
    first: u64,
    /// An empty chunk to be used again.
    spare: Option<Vec<T>>,
}

impl<T: Copy> ChunkQueue<T> {
    pub(crate) fn new() -> ChunkQueue<T> {
        ChunkQueue {
            chunks: VecDeque::new(),
            taken: 0,
            first: 0,
            spare: None,
        }
    }

    pub(crate) fn push(&mut self, entry: T) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_ENTRIES => chunk.push(entry),
            _ => {
                let spare = self.spare.take();
                let mut chunk = spare.unwrap_or_else(|| Vec::with_capacity(CHUNK_ENTRIES));
                chunk.push(entry);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub(crate) fn front(&self) -> Option<T> {
        self.chunks.front()?.get(self.taken).copied()
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.front()?;
        self.taken += 1;
        if self.taken == self.chunks[0].len() {
            self.first += self.taken as u64;
            self.taken = 0;
            if self.chunks.len() == 1 {
                // The only chunk is kept for the next entries.
                self.chunks[0].clear();
            } else {
                self.spare = self.chunks.pop_front();
                self.spare.iter_mut().for_each(Vec::clear);
            }
        }
        Some(entry)
    }

    /// The numbers of the entries, counted since the queue was made.
    pub(crate) fn range(&self) -> Range<u64> {
        let full = self.chunks.len().saturating_sub(1) * CHUNK_ENTRIES;
        let entries = full + self.chunks.back().map_or(0, Vec::len);
        self.first + self.taken as u64..self.first + entries as u64
    }

    /// An entry by its number.
    pub(crate) fn get(&self, number: u64) -> Option<T> {
        if !self.range().contains(&number) {
            return None;
        }
        let nth = (number - self.first) as usize;
        let chunk = self.chunks.get(nth / CHUNK_ENTRIES)?;
        chunk.get(nth % CHUNK_ENTRIES).copied()
    }

    /// Brings all entries into order. Their numbers stay those of before, as a
    /// whole.
    pub(crate) fn sort(&mut self)
    where
        T: Ord,
    {
        let first = self.range().start;
        let mut entries: Vec<T> = std::iter::from_fn(|| self.pop()).collect();
        entries.sort_unstable();
        *self = ChunkQueue {
            first,
            ..ChunkQueue::new()
        };
        for entry in entries {
            self.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_the_order_they_went_in() {
        let mut queue = ChunkQueue::new();
        let (mut pushed, mut popped) = (0, 0);
        for round in 1..80 {
            for _ in 0..round {
                queue.push(pushed);
                pushed += 1;
            }
            for _ in 0..round - 1 {
                assert_eq!(queue.pop(), Some(popped));
                popped += 1;
            }
        }
        while let Some(entry) = queue.pop() {
            assert_eq!(entry, popped);
            popped += 1;
        }
        assert_eq!(popped, pushed);
        assert_eq!(queue.front(), None);
    }

    #[test]
    fn an_entry_keeps_its_number_until_it_is_taken() {
        let mut queue = ChunkQueue::new();
        (0..5000).for_each(|entry| queue.push(entry));
        for taken in 0..5000 {
            assert_eq!(queue.range(), taken..5000);
            assert_eq!(queue.get(taken), Some(taken));
            assert_eq!(queue.get(4999), Some(4999));
            assert_eq!(
                (
                    queue.get(5000),
                    taken.checked_sub(1).and_then(|n| queue.get(n))
                ),
                (None, None)
            );
            if taken % 700 == 0 {
                queue.sort();
            }
            queue.pop();
        }
        queue.push(7);
        assert_eq!((queue.range(), queue.get(5000)), (5000..5001, Some(7)));
    }
}
