//! Counts of a log's items, by namespace and in all, kept as they change.

use omnirelay_queue::Stats;

use super::layout::NamespaceId;

#[derive(Debug)]
pub(super) struct Totals {
    all: Stats,
    namespaces: Vec<Stats>,
}

impl Totals {
    /// Counts nothing yet.
    pub(super) fn new(namespaces: usize) -> Totals {
        Totals {
            all: Stats::default(),
            namespaces: vec![Stats::default(); namespaces],
        }
    }

    /// A shard's counts were `before` and are `after` now.
    pub(super) fn change(&mut self, namespace: NamespaceId, before: &Stats, after: &Stats) {
        for sum in [
            &mut self.all,
            &mut self.namespaces[usize::from(namespace.0)],
        ] {
            sum.pending = sum.pending + after.pending - before.pending;
            sum.active = sum.active + after.active - before.active;
            sum.delayed = sum.delayed + after.delayed - before.delayed;
            sum.dead = sum.dead + after.dead - before.dead;
        }
    }

    pub(super) fn of(&self, namespace: NamespaceId) -> Stats {
        self.namespaces[usize::from(namespace.0)]
    }

    /// Items waiting, delayed or leased.
    pub(super) fn live(&self) -> u64 {
        self.all.pending + self.all.active + self.all.delayed
    }

    /// Items leased.
    pub(super) fn active(&self) -> u64 {
        self.all.active
    }
}
