//! Where a shard that was replayed is not what it was.

use std::fmt::Debug;

use omnirelay_queue::{Digest, Place};

use crate::world::MILLI;

/// What only one of two lists has.
fn odd<T: PartialEq + Debug>(what: &str, before: &[T], after: &[T]) -> String {
    let lost: Vec<_> = before.iter().filter(|one| !after.contains(one)).collect();
    let new: Vec<_> = after.iter().filter(|one| !before.contains(one)).collect();
    format!(
        "{what} lost {lost:?} new {new:?} same order {}",
        before == after
    )
}

/// How much later than on record an item may have become ready, because its timer was late and
/// others were ready in the meantime.
const LATENESS_NS_MAX: u64 = 10 * MILLI;

/// Where two digests of one shard part, if they do. Where bodies lie may change in recovery.
pub(crate) fn difference(mut before: Digest, mut after: Digest) -> Option<String> {
    for item in before.items.iter_mut().chain(&mut after.items) {
        item.body.0 = Place::default();
        item.error = item.error.map(|(_, len)| (Place::default(), len));
    }
    for drain in before.drains.iter_mut().chain(&mut after.drains) {
        drain
            .items
            .iter_mut()
            .for_each(|(place, _)| *place = Place::default());
    }
    // Their order is told by their times, and made when the epoch begins.
    before.dead.sort_unstable();
    after.dead.sort_unstable();
    for item in &mut before.items {
        let replayed = after.items.iter().find(|other| other.lsn == item.lsn);
        if let Some(replayed) = replayed
            && item.times.1 >= replayed.times.1
            && item.times.1.0 - replayed.times.1.0 < LATENESS_NS_MAX
        {
            item.times.1 = replayed.times.1;
        }
        if replayed != Some(item) {
            return Some(format!("{item:?}, replayed {replayed:?}"));
        }
    }
    let parts = [
        format!("{:?} {:?}", before.last_lsn, before.epoch),
        format!("dead {:?} {:?}", before.dead, after.dead),
        format!("owners {:?} {:?}", before.owners, after.owners),
        format!("live bytes {} {}", before.live_bytes, after.live_bytes),
        odd("requests", &before.dedupe, &after.dedupe),
        odd("restored", &before.restored, &after.restored),
        odd("drains", &before.drains, &after.drains),
    ];
    (before != after).then(|| parts.join("; "))
}
