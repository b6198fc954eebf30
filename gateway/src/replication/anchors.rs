//! Where readers left off, so that whoever goes on there does not search the log.

use std::collections::VecDeque;

use omnirelay_queue::ShardId;
use omnirelay_wal::Position;

use super::tally::Tally;

/// How many places are kept for all shards together: some for each of the readers there can be.
const ANCHORS_MAX: usize = 4 * super::READERS_MAX;

/// How many leases and dead letters all kept places may know together: at some 50 bytes each.
const ENTRIES_MAX: usize = 1 << 20;

/// A place in the log from which a shard's events can be told.
#[derive(Clone, Debug)]
pub(super) struct Anchor {
    /// A batch: the event is in it or in a later one.
    pub(super) batch: Position,
    /// The LSN from which on events are not in `tally`.
    pub(super) next: u64,
    /// The shard as it was before that.
    pub(super) tally: Tally,
}

/// The places that were left last.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// Those used last are at the end.
    kept: VecDeque<(ShardId, Anchor)>,
    entries: usize,
}

impl Anchors {
    /// The nearest place from which the event `from` can be told, for one who reads it.
    pub(super) fn find(&self, shard: ShardId, from: u64) -> Option<Anchor> {
        let known = self.kept.iter().filter(|(of, _)| *of == shard);
        let before = known.map(|(_, anchor)| anchor).filter(|a| a.next <= from);
        before.max_by_key(|anchor| anchor.next).cloned()
    }

    /// Keeps a place that somebody may come back to.
    pub(super) fn keep(&mut self, shard: ShardId, anchor: Anchor) {
        let same = |(of, known): &(ShardId, Anchor)| *of == shard && known.next == anchor.next;
        if let Some(at) = self.kept.iter().position(same) {
            self.remove(at);
        }
        self.entries += anchor.tally.entries();
        self.kept.push_back((shard, anchor));
        while self.kept.len() > ANCHORS_MAX || (self.entries > ENTRIES_MAX && !self.kept.is_empty())
        {
            self.remove(0);
        }
    }

    /// Forgets a shard's places up to this one: the log has given up what they lead to.
    pub(super) fn forget(&mut self, shard: ShardId, batch: Position) {
        let gone = |(of, known): &(ShardId, Anchor)| *of == shard && known.batch <= batch;
        while let Some(at) = self.kept.iter().position(gone) {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some((_, anchor)) = self.kept.remove(at) {
            self.entries -= anchor.tally.entries();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(next: u64) -> Anchor {
        let offset = u32::try_from(next).unwrap() * 512;
        Anchor {
            batch: Position { segment: 1, offset },
            next,
            tally: Tally::default(),
        }
    }

    fn found(anchors: &Anchors, shard: u32, from: u64) -> Option<u64> {
        anchors.find(ShardId(shard), from).map(|anchor| anchor.next)
    }

    #[test]
    fn the_nearest_place_before_an_event_is_found() {
        let mut anchors = Anchors::default();
        for next in [10, 30, 20] {
            anchors.keep(ShardId(1), anchor(next));
        }
        anchors.keep(ShardId(2), anchor(15));
        assert_eq!(found(&anchors, 1, 9), None);
        assert_eq!(found(&anchors, 1, 29), Some(20));
        assert_eq!(found(&anchors, 1, 30), Some(30));
        assert_eq!(found(&anchors, 2, 29), Some(15));
        anchors.forget(ShardId(1), anchor(20).batch);
        assert_eq!(found(&anchors, 1, 29), None);
        assert_eq!(found(&anchors, 1, 31), Some(30));
    }

    #[test]
    fn no_more_places_are_kept_than_there_may_be() {
        let mut anchors = Anchors::default();
        for next in 0..2 * ANCHORS_MAX as u64 {
            anchors.keep(ShardId(1), anchor(next));
        }
        assert_eq!(anchors.kept.len(), ANCHORS_MAX);
        assert_eq!(found(&anchors, 1, ANCHORS_MAX as u64 - 1), None);
    }
}
