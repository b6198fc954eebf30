//! How many items are in which state.

/// A shard's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items that wait to be leased.
    pub pending: u64,
    /// Items that are leased.
    pub active: u64,
    /// Items whose delay has not ended.
    pub delayed: u64,
    /// Items that are given up on.
    pub dead: u64,
}

impl Stats {
    /// The items that count towards capacity: all but dead letters.
    pub fn live(&self) -> u64 {
        self.pending + self.active + self.delayed
    }
}
