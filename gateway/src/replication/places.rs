//! How many readers there may be, and where they are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirelay_queue::{Nanos, ShardId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{READERS_MAX, Reach};

/// How many may look for their beginning at once: that reads all of a log at the disk's speed.
const OPENING_MAX: usize = 2;
/// How many shards are held in memory at once to be told as a snapshot.
const SNAPSHOTS_MAX: usize = 1;
/// How long one waits for a turn before it is told to come back.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);

/// There are as many readers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Of any kind.
    #[error("{READERS_MAX} readers are there already; come back later")]
    Readers,
    /// Others look for their beginning.
    #[error("others look for their beginning, or get a snapshot; come back later")]
    Turn,
}

/// The readers of a node.
#[derive(Debug)]
pub struct Places {
    readers: Arc<Semaphore>,
    opening: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
    open: Mutex<Vec<Arc<Reading>>>,
    dropped: AtomicU64,
}

/// A reader's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    reading: Arc<Reading>,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

/// Leave to look for a beginning.
#[derive(Debug)]
pub struct Opening {
    _turn: OwnedSemaphorePermit,
    /// Leave to hold a snapshot.
    pub(super) snapshot: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Reading {
    shard: ShardId,
    next: AtomicU64,
    /// When the oldest event was that it has yet to take; 0 if it has all that was read.
    untaken: AtomicU64,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            opening: Arc::new(Semaphore::new(OPENING_MAX)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            open: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Places {
    /// A place for one more reader.
    ///
    /// # Errors
    /// [`Busy`] if there is none.
    pub fn take(self: &Arc<Places>, shard: ShardId) -> Result<Place, Busy> {
        let permit = Arc::clone(&self.readers).try_acquire_owned();
        let reading = Arc::new(Reading {
            shard,
            next: AtomicU64::new(0),
            untaken: AtomicU64::new(0),
        });
        let place = Place {
            _permit: permit.map_err(|_| Busy::Readers)?,
            reading: Arc::clone(&reading),
            places: Arc::clone(self),
        };
        self.open().push(reading);
        Ok(place)
    }

    /// Waits for a turn to look for a beginning.
    ///
    /// # Errors
    /// [`Busy`] if it does not come in time.
    pub async fn turn(&self, snapshot: bool) -> Result<Opening, Busy> {
        let turns = async {
            let snapshot = match snapshot {
                true => Some(turn(&self.snapshots).await),
                false => None,
            };
            Opening {
                snapshot,
                _turn: turn(&self.opening).await,
            }
        };
        timeout(TURN_TIME_MAX, turns).await.map_err(|_| Busy::Turn)
    }

    /// How many readers there are.
    pub fn readers(&self) -> u64 {
        (READERS_MAX - self.readers.available_permits()) as u64
    }

    /// How many readers were dropped because they took nothing.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// One more was dropped.
    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Each reader's shard, and the event it waits for; 0 while it looks for its beginning.
    pub fn positions(&self) -> Vec<(ShardId, u64)> {
        let open = self.open();
        let position = |one: &Arc<Reading>| (one.shard, one.next.load(Ordering::Relaxed));
        open.iter().map(position).collect()
    }

    /// The shards of readers that have yet to take events that were read for them, and when the
    /// oldest of those was.
    pub fn untaken(&self) -> Vec<(ShardId, Nanos)> {
        let open = self.open();
        let untaken = |one: &Arc<Reading>| (one.shard, Nanos(one.untaken.load(Ordering::Relaxed)));
        let behind = open.iter().map(untaken).filter(|(_, at)| at.0 > 0);
        behind.collect()
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Reading>>> {
        // Whoever panicked had added or removed one whole entry, or none.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes which event the reader waits for.
    pub fn at(&self, next: u64) {
        self.reading.next.store(next, Ordering::Relaxed);
    }

    /// A chunk was read for the reader, which has yet to take it.
    pub fn has_read(&self, reach: Reach) {
        if let Some(first) = reach.first {
            self.reading.untaken.store(first.0, Ordering::Relaxed);
        }
    }

    /// The reader has taken the chunk and waits for the event `next`.
    pub fn has_taken(&self, reach: Reach, next: u64) {
        self.at(next);
        // What follows is no older than the last of the chunk.
        let untaken = match (reach.at_end, reach.last) {
            (true, _) => 0,
            (false, Some(last)) => last.0,
            (false, None) => return,
        };
        self.reading.untaken.store(untaken, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open();
        open.retain(|one| !Arc::ptr_eq(one, &self.reading));
    }
}

async fn turn(turns: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_places_for_so_many_readers_and_each_is_given_back() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<Place> = (0..READERS_MAX)
            .map(|_| places.take(ShardId(3)).unwrap())
            .collect();
        assert_eq!(places.take(ShardId(3)).unwrap_err(), Busy::Readers);
        taken[0].at(7);
        assert_eq!(places.positions()[0], (ShardId(3), 7));
        taken.remove(0);
        assert_eq!(places.readers(), READERS_MAX as u64 - 1);
        assert_eq!(places.positions().len(), READERS_MAX - 1);
        places.take(ShardId(4)).unwrap();
    }

    #[test]
    fn a_reader_lags_from_when_events_are_read_until_it_has_taken_the_last() {
        let places = Arc::new(Places::default());
        let place = places.take(ShardId(3)).unwrap();
        let reach = |first: u64, at_end| Reach {
            first: Some(Nanos(first)),
            last: Some(Nanos(first + 5)),
            at_end,
        };
        assert_eq!(places.untaken(), []);
        place.has_read(reach(10, false));
        assert_eq!(places.untaken(), [(ShardId(3), Nanos(10))]);
        place.has_taken(reach(10, false), 7);
        assert_eq!(places.untaken(), [(ShardId(3), Nanos(15))]);
        place.has_read(reach(20, true));
        assert_eq!(places.untaken(), [(ShardId(3), Nanos(20))]);
        place.has_taken(reach(20, true), 9);
        assert_eq!(places.untaken(), []);
        assert_eq!(places.positions(), [(ShardId(3), 9)]);
        place.has_read(reach(30, true));
        drop(place);
        assert_eq!(places.untaken(), [], "who has gone has no lag");
    }

    #[tokio::test]
    async fn one_snapshot_is_held_at_a_time() {
        let places = Places::default();
        let mut first = places.turn(true).await.unwrap();
        let second = timeout(Duration::from_millis(1), places.turn(true)).await;
        assert!(second.is_err(), "it waits");
        let _beside = places.turn(false).await.unwrap();
        first.snapshot = None;
        drop(first);
        places.turn(true).await.unwrap();
    }
}
