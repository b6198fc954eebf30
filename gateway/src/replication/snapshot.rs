//! A shard as it stands, one event for each of its items.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use omnirelay_queue::{self as queue, DecodeError, EnqueuedBody, ItemView, Lsn, Nanos, Options};
use omnirelay_wal::{Disk, Position, ReadFrom, Reader, SegmentState, ViewError};

use super::anchors::Anchor;
use super::event::Event;
use super::log::CommittedLog;
use super::reader::{ReadError, record};
use super::tally::Tally;
use super::translate::Shard;

/// The items of a shard after one of its events. It takes the memory that the shard takes on its
/// core: some 130 bytes an item, payloads aside.
pub(super) struct Snapshot<D: Disk> {
    shard: Arc<Shard>,
    state: queue::Shard,
    items: std::vec::IntoIter<Lsn>,
    /// How many items there were.
    of: usize,
    at: Nanos,
    tally: Tally,
    log: Arc<CommittedLog<D>>,
    places: Reader<D>,
    /// The segments that items lie in, and what makes each unlike a later use of its file.
    generations: BTreeMap<u32, u64>,
    /// Of those, the ones read since they were last confirmed.
    touched: BTreeSet<u32>,
}

impl<D: Disk> Snapshot<D> {
    /// Replays what the log has of the shard, up to where it is durable now. Also says where
    /// reading goes on from there.
    pub(super) fn take(
        shard: Arc<Shard>,
        options: Options,
        log: Arc<CommittedLog<D>>,
    ) -> Result<(Self, Anchor), ReadError> {
        let mut state = queue::Shard::new(shard.spec, options);
        let mut tally = Tally::default();
        let mut batches = log.view().read_from(ReadFrom::Needed, Some(log.end()))?;
        while let Some(batch) = batches.next_batch()? {
            for (header, at, body) in &batch.records {
                if header.shard != shard.spec.shard.0 {
                    continue;
                }
                let record = record(header, body)?;
                let unsound = |error: queue::ReplayError| ReadError::Unsound {
                    lsn: error.lsn.0,
                    what: error.what,
                };
                state.replay(&record, place(*at)).map_err(unsound)?;
                match &record.event {
                    queue::Event::Carry(carry) => tally.learn(carry),
                    event => drop(tally.apply(record.lsn, event)),
                }
            }
        }
        let stats = state.stats();
        let count = |count: u64| i64::try_from(count).expect("a shard holds fewer items");
        tally.pending = count(stats.pending + stats.delayed);
        tally.active = count(stats.active);
        let anchor = Anchor {
            batch: batches.position(),
            next: state.last_lsn().0 + 1,
            tally: tally.clone(),
        };
        let items = state.items();
        let snapshot = Snapshot {
            of: items.len(),
            items: items.into_iter(),
            at: state.last_time(),
            shard,
            state,
            tally,
            places: log.places(),
            generations: generations(&log)?,
            touched: BTreeSet::new(),
            log,
        };
        Ok((snapshot, anchor))
    }

    /// Whether all of it has been told.
    pub(super) fn is_done(&self) -> bool {
        self.items.len() == 0
    }

    /// The event that tells of no item, where there is none.
    pub(super) fn empty(&self) -> Event {
        self.shard
            .snapshot_of_nothing((self.state.last_lsn(), self.at), &self.tally)
    }

    /// The next item.
    pub(super) fn next(&mut self) -> Result<Option<Event>, ReadError> {
        let Some(lsn) = self.items.next() else {
            return Ok(None);
        };
        let index = self.of - self.items.len() - 1;
        let id = self.shard.spec.sequence_id(lsn);
        let view = self.state.view(id).expect("an item that is there");
        let (body, error) = self.bytes(&view)?;
        let snapshot = self.state.item_snapshot(lsn, &error, &body);
        let snapshot = snapshot.expect("an item that is there");
        let event = self.shard.snapshot(
            (self.state.last_lsn(), self.at),
            &self.tally,
            &snapshot,
            view.expires_at,
            &body,
            (index, self.of),
        );
        let event = event.map_err(|source| unreadable(lsn, source))?;
        Ok(Some(event))
    }

    /// What the item was enqueued with and last failed with, as the log has it.
    fn bytes(&mut self, view: &ItemView) -> Result<(Bytes, Bytes), ReadError> {
        let body = self.read(view.body, view.body_len)?;
        let error = match view.last_error {
            Some((at, len)) => self.read(at, len)?,
            None => Bytes::new(),
        };
        if let Err(source) = EnqueuedBody::decode_verified(&body) {
            // Either the log has given it up, or it is damaged.
            self.confirm()?;
            return Err(unreadable(view.lsn, source));
        }
        Ok((body, error))
    }

    fn read(&mut self, at: queue::Place, len: u32) -> Result<Bytes, ReadError> {
        self.touched.insert(at.segment);
        let at = Position {
            segment: at.segment,
            offset: at.offset,
        };
        self.places.read(at, len as usize).map_err(|source| {
            // The segment may have been given up since, because its items were carried elsewhere.
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ReadError::Trimmed,
                _ => ReadError::Log(ViewError::Io {
                    path: format!("segment {}", at.segment).into(),
                    source,
                }),
            }
        })
    }

    /// Makes sure that what was read since the last time was not given up before it was read: the
    /// file may then hold something else.
    pub(super) fn confirm(&mut self) -> Result<(), ReadError> {
        if self.touched.is_empty() {
            return Ok(());
        }
        let now = generations(&self.log)?;
        let is_same = |segment: &u32| now.get(segment) == self.generations.get(segment);
        match self.touched.iter().all(is_same) {
            true => self.touched.clear(),
            false => return Err(ReadError::Trimmed),
        }
        Ok(())
    }
}

fn generations<D: Disk>(log: &CommittedLog<D>) -> Result<BTreeMap<u32, u64>, ReadError> {
    let segments = log.view().segments()?.into_iter();
    let generation = |segment: omnirelay_wal::SegmentInfo| match segment.state {
        SegmentState::Begun { generation, .. } => Some((segment.number, generation)),
        _ => None,
    };
    Ok(segments.filter_map(generation).collect())
}

fn place(at: Position) -> queue::Place {
    queue::Place {
        segment: at.segment,
        offset: at.offset,
    }
}

fn unreadable(lsn: Lsn, source: DecodeError) -> ReadError {
    ReadError::Record { lsn: lsn.0, source }
}
