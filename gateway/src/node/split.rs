//! A call's entries, split by the log that each belongs to.

use omnirelay_net::rpc::Error;
use smallvec::SmallVec;

use super::layout::LogId;
use super::part::ItemResult;

/// Entries for each log, and those that are refused before any log sees them.
pub(super) struct Split<E> {
    /// How many are to be expected for a log.
    room: usize,
    pub(super) parts: SmallVec<[(LogId, Vec<E>); 1]>,
    /// Refusals, each at its entry's place; nothing where none is refused.
    pub(super) results: Vec<Option<ItemResult>>,
}

impl<E> Split<E> {
    /// For so many entries, in a node of so many logs.
    pub(super) fn new(entries: usize, logs: u16) -> Split<E> {
        Split {
            room: entries.div_ceil(logs.into()),
            parts: SmallVec::new(),
            results: Vec::new(),
        }
    }

    /// Adds an entry of a log.
    pub(super) fn put(&mut self, log: LogId, entry: E) {
        if let Some((_, entries)) = self.parts.iter_mut().find(|(at, _)| *at == log) {
            return entries.push(entry);
        }
        let mut entries = Vec::with_capacity(self.room);
        entries.push(entry);
        self.parts.push((log, entries));
    }

    /// Refuses the entry at this place in the call.
    pub(super) fn refuse(&mut self, index: u32, error: Error) {
        let index = index as usize;
        if index >= self.results.len() {
            self.results.resize_with(index + 1, || None);
        }
        self.results[index] = Some(ItemResult::refused(error));
    }
}
