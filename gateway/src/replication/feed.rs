//! What one reader gets: events from where it wants them, after a snapshot if it needs one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use omnirelay_queue::{Nanos, ShardId};
use omnirelay_wal::Disk;
use tokio::sync::OwnedSemaphorePermit;

use super::event::Event;
use super::log::CommittedLog;
use super::reader::{Page, ReadError, ShardReader};
use super::snapshot::Snapshot;
use super::{Opening, Replication};

/// How often a beginning is looked for before a reader is told that the log gives up segments
/// faster than they are read.
const TRIES_MAX: usize = 3;

/// Where a reader wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first event; the oldest that is kept if absent.
    pub from: Option<u64>,
    /// Begin with a snapshot if `from` is no longer kept, or absent.
    pub snapshot: bool,
}

/// A reader of one shard. Every call blocks on the disk.
pub struct Feed<D: Disk> {
    replication: Arc<Replication<D>>,
    shard: ShardId,
    snapshot: Option<(Snapshot<D>, Option<OwnedSemaphorePermit>)>,
    /// The snapshot has no items, which has not been told yet.
    is_empty: bool,
    reader: ShardReader<D>,
}

/// What comes next.
#[derive(Debug, Default)]
pub struct Chunk {
    /// In order.
    pub events: Vec<Event>,
    /// There is nothing more for now.
    pub at_end: bool,
}

impl Chunk {
    /// How much of the events is opaque bodies: most of what large ones weigh.
    pub fn payload_bytes(&self) -> usize {
        self.events.iter().map(Event::payload_bytes).sum()
    }

    /// From when to when it tells.
    pub fn reach(&self) -> Reach {
        let at = |event: &Event| event.timestamp;
        Reach {
            first: self.events.first().map(at),
            last: self.events.last().map(at),
            at_end: self.at_end,
        }
    }
}

/// From when to when a chunk tells.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// The time of its first event.
    pub first: Option<Nanos>,
    /// The time of its last event.
    pub last: Option<Nanos>,
    /// There is nothing more for now.
    pub at_end: bool,
}

impl<D: Disk> Feed<D> {
    /// Finds the beginning, which may take as long as reading all that is kept.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Panics
    /// If the node does not have the shard.
    pub fn open(
        replication: Arc<Replication<D>>,
        shard: ShardId,
        start: Start,
        opening: Opening,
    ) -> Result<Feed<D>, ReadError> {
        let reader = match start {
            Start {
                from: None,
                snapshot: true,
            } => None,
            Start { from, snapshot } => match replication.reader(shard, from) {
                Err(ReadError::OutOfRange { .. }) if snapshot => None,
                reader => Some(reader?),
            },
        };
        let (snapshot, reader) = match reader {
            Some(reader) => (None, reader),
            None => {
                let (snapshot, reader) = replication.snapshot(shard)?;
                (Some(snapshot), reader)
            }
        };
        Ok(Feed {
            is_empty: snapshot.as_ref().is_some_and(Snapshot::is_done),
            snapshot: snapshot.map(|snapshot| (snapshot, opening.snapshot)),
            replication,
            shard,
            reader,
        })
    }

    /// The next events, at most `max` and until they have `max_bytes` of payload. None are there
    /// if all that is committed has been read, or finding the next takes longer.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing comes after one.
    pub fn next(&mut self, max: usize, max_bytes: usize) -> Result<Chunk, ReadError> {
        let mut chunk = Chunk::default();
        if let Some((snapshot, _)) = &mut self.snapshot {
            if std::mem::take(&mut self.is_empty) {
                chunk.events.push(snapshot.empty());
            }
            let mut bytes = 0;
            while chunk.events.len() < max && bytes < max_bytes {
                let Some(event) = snapshot.next()? else {
                    break;
                };
                bytes += event.payload_bytes();
                chunk.events.push(event);
            }
            snapshot.confirm()?;
            if snapshot.is_done() {
                self.snapshot = None;
            }
        } else {
            let page = self.read(max, max_bytes)?;
            chunk = Chunk {
                events: page.events,
                at_end: page.at_end,
            };
        }
        let events = chunk.events.len() as u64;
        self.replication.events.fetch_add(events, Ordering::Relaxed);
        Ok(chunk)
    }

    /// Reads on. Where it began to look for what it wants, the history may be damaged: then what
    /// is wanted may still be found from a later beginning.
    fn read(&mut self, max: usize, max_bytes: usize) -> Result<Page, ReadError> {
        let error = match self.reader.read(max, max_bytes) {
            Err(ReadError::Log(error)) => error,
            read => return read,
        };
        let damaged = self.reader.anchor().batch;
        self.replication.anchors().forget(self.shard, damaged);
        let (known, _) = self.replication.shard(self.shard);
        let wanted = Some(self.reader.next());
        match ShardReader::search(&known, &self.log(), wanted) {
            Ok(reader) => self.reader = reader,
            Err(_) => return Err(ReadError::Log(error)),
        }
        self.reader.read(max, max_bytes)
    }

    /// Whether a snapshot is under way.
    pub fn is_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The LSN to ask for next, once there is no snapshot under way.
    pub fn position(&self) -> u64 {
        self.reader.next()
    }

    /// The log that is read.
    pub fn log(&self) -> Arc<CommittedLog<D>> {
        self.replication.log_of(self.shard)
    }

    /// Notes where the reader is, for when it comes back.
    pub fn leave(&self) {
        self.replication.keep(self.shard, self.reader.anchor());
    }
}

impl<D: Disk> Replication<D> {
    /// Reads a shard's events from one of them on, or from the oldest.
    fn reader(&self, shard: ShardId, from: Option<u64>) -> Result<ShardReader<D>, ReadError> {
        let (known, _) = self.shard(shard);
        let log = self.log_of(shard);
        let anchor = from.and_then(|from| self.anchors().find(shard, from));
        if let (Some(anchor), Some(from)) = (anchor, from) {
            let batch = anchor.batch;
            match ShardReader::resume(Arc::clone(&known), Arc::clone(&log), anchor, from) {
                Err(ReadError::Trimmed) => self.anchors().forget(shard, batch),
                resumed => return resumed,
            }
        }
        let mut tries = 1;
        loop {
            match ShardReader::search(&known, &log, from) {
                Err(ReadError::Trimmed) if tries < TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
                Ok(reader) => {
                    self.keep(shard, reader.anchor());
                    return Ok(reader);
                }
            }
        }
    }

    /// A shard as it stands, and the events after that.
    fn snapshot(&self, shard: ShardId) -> Result<(Snapshot<D>, ShardReader<D>), ReadError> {
        let mut tries = 1;
        loop {
            let (known, options) = self.shard(shard);
            let log = self.log_of(shard);
            let taken = Snapshot::take(Arc::clone(&known), options, Arc::clone(&log)).and_then(
                |(snapshot, anchor)| Ok((snapshot, ShardReader::resume(known, log, anchor, 0)?)),
            );
            match taken {
                Err(ReadError::Trimmed) if tries < TRIES_MAX => tries += 1,
                taken => return taken,
            }
        }
    }
}
