//! A log in memory that is made of segments and can give up the oldest, and
//! items as they travel between shards.

use std::collections::VecDeque;

use omnirelay_queue::{
    Attributes, CARRIED_KINDS, Carried, Drained, Epoch, Event, ItemSnapshot, Log, Lsn, Nanos,
    Options, Origin, PayloadRef, Place, Record, RestoredError, RestoredItem, Secret, SequenceId,
    Shard, ShardId, ShardSpec,
};

pub(crate) const START: Nanos = Nanos(1_790_000_000_000_123_456);

pub(crate) const ORIGIN: Origin = *b"a shard's origin";

pub(crate) fn shard(options: Options) -> Shard {
    let spec = ShardSpec {
        shard: ShardId(42),
        index: 2,
        count: 5,
        secret: Secret(*b"a shard's secret"),
        origin: ORIGIN,
    };
    Shard::new(spec, options)
}

#[derive(Clone)]
pub(crate) struct Entry {
    lsn: Lsn,
    epoch: Epoch,
    at: Nanos,
    pub(crate) kind: u8,
    pub(crate) place: Place,
    len: usize,
}

#[derive(Clone, Default)]
struct Segment {
    number: u32,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Segments {
    segments: VecDeque<Segment>,
    segment_bytes: usize,
}

impl Entry {
    /// Length of its body in bytes.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.len).expect("a short record")
    }
}

impl Log for Segments {
    fn append(&mut self, record: &Record<'_>) -> Place {
        if self.last().bytes.len() >= self.segment_bytes {
            self.roll();
        }
        let segment = self.segments.back_mut().expect("there is one");
        // Whatever frames a record stands before its body.
        segment.bytes.extend_from_slice(&[0xee; 7]);
        let start = segment.bytes.len();
        record.event.encode(&mut segment.bytes);
        let len = segment.bytes.len() - start;
        assert_eq!(len, record.event.encoded_len());
        let place = Place {
            segment: segment.number,
            offset: u32::try_from(start).expect("a short segment"),
        };
        segment.entries.push(Entry {
            lsn: record.lsn,
            epoch: record.epoch,
            at: record.at,
            kind: record.event.kind(),
            place,
            len,
        });
        place
    }
}

impl Segments {
    pub(crate) fn new(segment_bytes: usize) -> Segments {
        let first = Segment {
            number: 3,
            ..Segment::default()
        };
        Segments {
            segments: [first].into(),
            segment_bytes,
        }
    }

    fn last(&self) -> &Segment {
        self.segments.back().expect("there is one")
    }

    pub(crate) fn roll(&mut self) {
        let number = self.last().number + 1;
        self.segments.push_back(Segment {
            number,
            ..Segment::default()
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn oldest(&self) -> u32 {
        self.segments[0].number
    }

    pub(crate) fn newest(&self) -> u32 {
        self.last().number
    }

    /// Bytes of the log; `None` when they have been given up.
    pub(crate) fn read(&self, place: Place, len: u32) -> Option<&[u8]> {
        let segment = self.segments.iter().find(|s| s.number == place.segment)?;
        let start = place.offset as usize;
        segment.bytes.get(start..start + len as usize)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.segments.iter().flat_map(|segment| &segment.entries)
    }

    /// Writes again what is still rooted in the oldest segment.
    pub(crate) fn carry_oldest(&mut self, shard: &mut Shard) {
        let oldest = self.segments[0].clone();
        if !shard.is_rooted_in(oldest.number) {
            return;
        }
        for entry in &oldest.entries {
            if !CARRIED_KINDS.contains(&entry.kind) {
                continue;
            }
            let start = entry.place.offset as usize;
            let body = &oldest.bytes[start..start + entry.len];
            let offered = shard.carry(entry.kind, entry.lsn, entry.place, body, None, self);
            if let Carried::NeedsError(place, len) = offered.expect("a body of the shard's") {
                let error = self.read(place, len).expect("no error is older").to_vec();
                let error = Some(&error[..]);
                let again = shard.carry(entry.kind, entry.lsn, entry.place, body, error, self);
                assert_eq!(again, Ok(Carried::Done));
            }
        }
    }

    pub(crate) fn drop_oldest(&mut self) {
        assert!(self.segments.len() > 1, "the newest segment is in use");
        self.segments.pop_front();
    }

    /// Takes a whole checkpoint in a segment that begins with it.
    pub(crate) fn checkpoint(&mut self, shard: &mut Shard) {
        self.roll();
        let mut checkpoint = shard.checkpoint();
        while !shard.handle_checkpoint(&mut checkpoint, 100, self) {}
    }

    /// Replays all that is left but the entry `without`.
    pub(crate) fn replay(&self, shard: &mut Shard, without: Option<usize>) -> Result<(), String> {
        for (nth, entry) in self.entries().enumerate() {
            if Some(nth) == without {
                continue;
            }
            let body = self
                .read(entry.place, entry.len as u32)
                .expect("it is left");
            let record = Record {
                lsn: entry.lsn,
                epoch: entry.epoch,
                at: entry.at,
                event: Event::decode(entry.kind, body).map_err(|error| error.to_string())?,
            };
            let applied = shard.replay(&record, entry.place);
            applied.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// An item on its way from one shard to another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Travelling {
    pub(crate) origin: Origin,
    pub(crate) drained: Drained,
    /// Its snapshot, as it lay in the log.
    pub(crate) snapshot: Vec<u8>,
}

impl Travelling {
    pub(crate) fn read(log: &Segments, drained: &Drained) -> Travelling {
        let snapshot = log.read(drained.place, drained.len).expect("it is there");
        Travelling {
            origin: ORIGIN,
            drained: *drained,
            snapshot: snapshot.to_vec(),
        }
    }

    pub(crate) fn snapshot(&self) -> ItemSnapshot<'_> {
        ItemSnapshot::decode_verified(&self.snapshot).expect("nothing has changed it")
    }

    pub(crate) fn payload(&self) -> PayloadRef<'_> {
        self.snapshot().enqueued().expect("it was enqueued").payload
    }

    pub(crate) fn sequence_id(&self) -> SequenceId {
        self.drained.sequence_id
    }

    pub(crate) fn restored(&self) -> RestoredItem<'_> {
        let failed = self.snapshot().failed().expect("it was written");
        RestoredItem {
            origin: self.origin,
            sequence_id: self.drained.sequence_id,
            payload: self.payload(),
            attempt: self.drained.attempt,
            max_attempts: Some(self.drained.max_attempts),
            priority: self.drained.priority,
            enqueued_at: self.drained.enqueued_at,
            ready_at: Some(self.drained.ready_at),
            ttl_end: self.drained.ttl_end,
            dead: self.drained.dead,
            last_error: failed.map(|failed| RestoredError {
                reason: failed.reason,
                code: failed.code,
                metadata: failed.metadata,
            }),
            restored_by: "test",
        }
    }
}

/// Takes out what a shard would give next, at most `max` items.
pub(crate) fn drain(
    shard: &mut Shard,
    now: Nanos,
    max: usize,
    request: Option<omnirelay_queue::RequestKey>,
    log: &mut Segments,
) -> Vec<Travelling> {
    let candidates = shard.drain_candidates(Default::default(), max);
    let mut taken = Vec::new();
    for candidate in candidates.found {
        let body = log
            .read(candidate.body, candidate.body_len)
            .expect("it is there")
            .to_vec();
        let error = candidate
            .error
            .map(|(place, len)| log.read(place, len).expect("it is there"));
        let error = error.unwrap_or_default().to_vec();
        let drained = shard.handle_drain(now, &candidate, &body, &error, request, log);
        match drained {
            Ok(decision) => taken.push(Travelling::read(log, &decision.outcome)),
            Err(omnirelay_queue::DrainRefused::Complete) => {}
            Err(refused) => panic!("nothing changed: {refused}"),
        }
    }
    taken
}

pub(crate) fn payload<'a>(resource_id: &'a str, request_id: Option<&'a str>) -> PayloadRef<'a> {
    PayloadRef {
        resource_type: "table",
        resource_id,
        partition_key: Some(resource_id),
        encoding: "json",
        body: b"{\"a body\": 1}",
        attributes: Attributes::Pairs(&[("k", "v"), ("", "w")]),
        request_id,
    }
}
