//! Reads a shard's events from its log, from any of them on.
//!
//! An event says how many items wait and are leased after it, so reading begins where that is
//! known: at the shard's first record; at a checkpoint, and from there back to the oldest record
//! that is kept; or where an earlier reader left off.

use std::sync::Arc;

use bytes::Bytes;
use omnirelay_queue::{Carry, DecodeError, Epoch, Event as QueueEvent, Lsn, Nanos, Record};
use omnirelay_wal::{Batches, Disk, Position, ReadFrom, RecordHeader, ViewError, ViewedBatch};

use super::anchors::Anchor;
use super::event::Event;
use super::log::CommittedLog;
use super::tally::Tally;
use super::translate::Shard;

/// How much of the log one call looks at, so that a reader that nobody wants any more ends soon.
const STEP_BYTES: u64 = 64 << 20;

/// Why a shard's events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They have been given up.
    #[error("events before {oldest} of the shard are no longer kept")]
    OutOfRange {
        /// The first that is kept.
        oldest: u64,
    },
    /// The log gave up what was being read; what is kept begins later.
    #[error("the log gave up the events while they were read")]
    Trimmed,
    /// The files cannot be read.
    #[error(transparent)]
    Log(ViewError),
    /// A record does not follow from those before it.
    #[error("the record {lsn} of the shard does not follow from those before it: {what}")]
    Unsound {
        /// Its LSN.
        lsn: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A record cannot be understood.
    #[error("the record {lsn} of the shard cannot be understood: {source}")]
    Record {
        /// Its LSN.
        lsn: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
}

impl From<ViewError> for ReadError {
    fn from(error: ViewError) -> ReadError {
        match error {
            ViewError::Trimmed { .. } => ReadError::Trimmed,
            error => ReadError::Log(error),
        }
    }
}

/// Some of a shard's events.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// In order.
    pub(super) events: Vec<Event>,
    /// All that is committed has been read.
    pub(super) at_end: bool,
}

/// Reads one shard's events in order. Every call blocks on the disk.
pub(super) struct ShardReader<D: Disk> {
    shard: Arc<Shard>,
    log: Arc<CommittedLog<D>>,
    batches: Batches<D>,
    /// What is being read, and how many of its records have been.
    open: Option<(ViewedBatch, usize)>,
    /// The LSN from which on events are not in the tally.
    next: u64,
    /// Events before this one are counted and not shown.
    from: u64,
    tally: Tally,
}

impl<D: Disk> ShardReader<D> {
    /// Goes on where somebody left off, with the event `from`, which is not before that.
    pub(super) fn resume(
        shard: Arc<Shard>,
        log: Arc<CommittedLog<D>>,
        anchor: Anchor,
        from: u64,
    ) -> Result<Self, ReadError> {
        let start = ReadFrom::Position(anchor.batch);
        let batches = log.view().read_from(start, Some(log.end()))?;
        Ok(ShardReader {
            shard,
            log,
            batches,
            open: None,
            from: from.max(anchor.next),
            next: anchor.next,
            tally: anchor.tally,
        })
    }

    /// Looks for the event `from`, or for the oldest that is kept, from the log's start on. Takes
    /// as long as reading what is kept.
    pub(super) fn search(
        shard: &Arc<Shard>,
        log: &Arc<CommittedLog<D>>,
        from: Option<u64>,
    ) -> Result<Self, ReadError> {
        let search = |start| Self::search_behind(start, Arc::clone(shard), Arc::clone(log), from);
        past_damage(search)
    }

    fn search_behind(
        start: ReadFrom,
        shard: Arc<Shard>,
        log: Arc<CommittedLog<D>>,
        from: Option<u64>,
    ) -> Result<Self, ReadError> {
        let mut search = Search::new(from);
        let mut batches = log.view().read_from(start, Some(log.end()))?;
        while !search.is_done() {
            let Some(batch) = batches.next_batch()? else {
                break;
            };
            for (header, _, body) in &batch.records {
                if header.shard == shard.spec.shard.0 && !search.is_done() {
                    search.take(batch.at, header, body)?;
                }
            }
        }
        let anchor = search.anchor(batches.position())?;
        Self::resume(shard, log, anchor, from.unwrap_or(0))
    }

    /// The next events, at most `max` and until they have `max_bytes` of payload; none if the
    /// search for them took long, or there are none yet.
    pub(super) fn read(&mut self, max: usize, max_bytes: usize) -> Result<Page, ReadError> {
        self.batches.set_end(self.log.end());
        let mut page = Page::default();
        let (mut bytes, mut seen) = (0, 0);
        while page.events.len() < max && (page.events.is_empty() || bytes < max_bytes) {
            let Some((batch, read)) = &mut self.open else {
                if seen >= STEP_BYTES {
                    return Ok(page);
                }
                match self.batches.next_batch()? {
                    Some(batch) => self.open = Some((batch, 0)),
                    None => {
                        page.at_end = true;
                        return Ok(page);
                    }
                }
                continue;
            };
            let Some((header, _, body)) = batch.records.get(*read) else {
                self.open = None;
                continue;
            };
            seen += body.len() as u64;
            // A carry shows the shard as it was after the event whose LSN it has.
            let is_past = match header.kind {
                omnirelay_queue::kind::CARRY => header.lsn + 1 < self.next,
                _ => header.lsn < self.next,
            };
            if header.shard != self.shard.spec.shard.0 || is_past {
                *read += 1;
                continue;
            }
            let record = record(header, body)?;
            let event = self.shard.event(&record, body, &mut self.tally);
            let event = event.map_err(|source| unreadable(header, source))?;
            *read += 1;
            if let Some(event) = event {
                self.next = header.lsn + 1;
                if header.lsn >= self.from {
                    bytes += body.len();
                    page.events.push(event);
                }
            }
        }
        Ok(page)
    }

    /// Where to go on another time.
    pub(super) fn anchor(&self) -> Anchor {
        let batch = match &self.open {
            Some((batch, _)) => batch.at,
            None => self.batches.position(),
        };
        Anchor {
            batch,
            next: self.next,
            tally: self.tally.clone(),
        }
    }

    /// The LSN of the next event, unless some are skipped there.
    pub(super) fn next(&self) -> u64 {
        self.next.max(self.from)
    }
}

/// Reads from the oldest record that is kept; or, if that fails, from the oldest that is needed:
/// nothing else reads what is older, so a disk can damage it unnoticed.
pub(super) fn past_damage<T>(
    read: impl Fn(ReadFrom) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    match read(ReadFrom::Oldest) {
        Err(ReadError::Log(_)) => read(ReadFrom::Needed),
        read => read,
    }
}

/// The record that these bytes are.
pub(super) fn record<'a>(header: &RecordHeader, body: &'a Bytes) -> Result<Record<'a>, ReadError> {
    let event = QueueEvent::decode(header.kind, body);
    Ok(Record {
        lsn: Lsn(header.lsn),
        epoch: Epoch(header.epoch),
        at: Nanos(header.at),
        event: event.map_err(|source| unreadable(header, source))?,
    })
}

fn unreadable(header: &RecordHeader, source: DecodeError) -> ReadError {
    ReadError::Record {
        lsn: header.lsn,
        source,
    }
}

/// The way through the kept log to where a reader begins.
struct Search {
    from: Option<u64>,
    /// The oldest event that can be told.
    oldest: Option<u64>,
    /// The log has the shard's very first record.
    is_whole: bool,
    /// What to add to the counts, which begin with the kept log.
    base: Option<(i64, i64)>,
    tally: Tally,
    found: Option<Anchor>,
    next: u64,
}

impl Search {
    fn new(from: Option<u64>) -> Search {
        Search {
            from,
            oldest: None,
            is_whole: false,
            base: None,
            tally: Tally::default(),
            found: None,
            next: 1,
        }
    }

    fn is_done(&self) -> bool {
        self.found.is_some() && self.base.is_some()
    }

    fn take(
        &mut self,
        batch: Position,
        header: &RecordHeader,
        body: &Bytes,
    ) -> Result<(), ReadError> {
        let record = record(header, body)?;
        if let QueueEvent::Carry(carry) = &record.event {
            self.tally.learn(carry);
            self.checkpoint(carry, header.lsn);
            return Ok(());
        }
        if self.oldest.is_none() {
            self.oldest = Some(header.lsn);
            let first = QueueEvent::EpochStarted { previous: Epoch(0) };
            self.is_whole = record.event == first;
            if self.is_whole {
                self.base = Some((0, 0));
            }
        }
        if self.found.is_none() && self.from.is_none_or(|from| header.lsn >= from) {
            self.found = Some(Anchor {
                batch,
                next: header.lsn,
                tally: self.tally.clone(),
            });
            if self.is_done() {
                return Ok(());
            }
        }
        self.tally.apply(record.lsn, &record.event);
        self.next = header.lsn + 1;
        Ok(())
    }

    /// A checkpoint has the counts that the events alone do not give.
    fn checkpoint(&mut self, carry: &Carry<'_>, lsn: u64) {
        let Carry::Header {
            pending, active, ..
        } = carry
        else {
            return;
        };
        if self.oldest.is_none() {
            self.oldest = Some(lsn + 1);
            self.next = lsn + 1;
        }
        let count = |count: u64| i64::try_from(count).expect("a shard holds fewer items");
        self.base.get_or_insert((
            count(*pending) - self.tally.pending,
            count(*active) - self.tally.active,
        ));
    }

    /// Where to begin; `end` is where the kept log ends.
    fn anchor(self, end: Position) -> Result<Anchor, ReadError> {
        let oldest = self.oldest.unwrap_or(1);
        let is_lost = self.oldest.is_some() && !self.is_whole;
        if is_lost && self.from.is_some_and(|from| from < oldest) {
            return Err(ReadError::OutOfRange { oldest });
        }
        let mut anchor = self.found.unwrap_or(Anchor {
            batch: end,
            next: self.next,
            tally: self.tally,
        });
        let (pending, active) = self.base.unwrap_or_default();
        anchor.tally.pending += pending;
        anchor.tally.active += active;
        Ok(anchor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirelay_queue::{LeaseRef, Rows, kind};

    /// A record as it lies in the log.
    fn bytes(lsn: u64, event: &QueueEvent<'_>) -> (RecordHeader, Bytes) {
        let mut body = Vec::new();
        event.encode(&mut body);
        let header = RecordHeader {
            shard: 0,
            epoch: 2,
            lsn,
            at: 7,
            kind: event.kind(),
        };
        (header, body.into())
    }

    fn completed(item: u64) -> QueueEvent<'static> {
        let lease = LeaseRef {
            item: Lsn(item),
            attempt: 1,
            grant: 1,
            epoch: Epoch(2),
        };
        QueueEvent::Completed { lease }
    }

    /// A log that has lost its first 9 records. Two items are done before there is a checkpoint,
    /// one after it.
    fn trimmed() -> Vec<(RecordHeader, Bytes)> {
        let epochs = Rows::Values(&[]);
        let header = QueueEvent::Carry(Carry::Header {
            pending: 5,
            active: 3,
            epochs,
        });
        let [first, second, third] = [completed(3), completed(4), completed(5)];
        let records = [(10, first), (11, second), (11, header), (12, third)];
        records
            .iter()
            .map(|(lsn, event)| bytes(*lsn, event))
            .collect()
    }

    fn search(from: Option<u64>, log: &[(RecordHeader, Bytes)]) -> Result<Anchor, ReadError> {
        let mut search = Search::new(from);
        for (offset, (header, body)) in (0..).zip(log) {
            let batch = Position { segment: 4, offset };
            if !search.is_done() {
                search.take(batch, header, body).unwrap();
            }
        }
        search.anchor(Position {
            segment: 4,
            offset: 99,
        })
    }

    fn found(from: Option<u64>) -> (u64, u32, i64, i64) {
        let anchor = search(from, &trimmed()).unwrap();
        let tally = &anchor.tally;
        (
            anchor.next,
            anchor.batch.offset,
            tally.pending,
            tally.active,
        )
    }

    #[test]
    fn counts_before_a_checkpoint_follow_from_it() {
        assert_eq!(found(None), (10, 0, 5, 5));
        assert_eq!(found(Some(10)), (10, 0, 5, 5));
        assert_eq!(found(Some(11)), (11, 1, 5, 4));
        assert_eq!(found(Some(12)), (12, 3, 5, 3));
        assert_eq!(found(Some(13)), (13, 99, 5, 2));
    }

    #[test]
    fn what_was_given_up_is_out_of_range() {
        let error = search(Some(9), &trimmed()).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { oldest: 10 }));
        // Of an idle shard only the checkpoint is left.
        let idle = &trimmed()[2..3];
        assert_eq!(search(Some(12), idle).unwrap().next, 12);
        let error = search(Some(11), idle).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { oldest: 12 }));
    }

    #[test]
    fn nothing_is_lost_before_a_shards_first_record() {
        let first = bytes(1_000, &QueueEvent::EpochStarted { previous: Epoch(0) });
        assert_eq!(first.0.kind, kind::EPOCH_STARTED);
        assert_eq!(search(Some(1), &[first]).unwrap().next, 1_000);
    }
}
