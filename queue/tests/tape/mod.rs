//! A log in memory, as encoded as a real one, and a shard's everyday items.

use std::time::Duration;

use omnirelay_queue::{
    Attributes, Epoch, Event, LeaseWish, Log, Lsn, Nanos, NewItem, Options, PayloadRef, Place,
    Record, Secret, Shard, ShardId, ShardSpec,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const START: Nanos = Nanos(1_790_000_000 * SECOND + 123_456);

pub(crate) const WISH: LeaseWish<'_> = LeaseWish {
    owner: "ann",
    lease: None,
    partition_key: None,
};

pub(crate) struct Entry {
    pub(crate) lsn: Lsn,
    pub(crate) epoch: Epoch,
    pub(crate) at: Nanos,
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

impl Entry {
    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            lsn: self.lsn,
            epoch: self.epoch,
            at: self.at,
            event: Event::decode(self.kind, &self.body).expect("it was encoded"),
        }
    }
}

#[derive(Default)]
pub(crate) struct Tape {
    pub(crate) entries: Vec<Entry>,
}

impl Log for Tape {
    fn append(&mut self, record: &Record<'_>) -> Place {
        let mut body = Vec::new();
        record.event.encode(&mut body);
        assert_eq!(body.len(), record.event.encoded_len());
        self.entries.push(Entry {
            lsn: record.lsn,
            epoch: record.epoch,
            at: record.at,
            kind: record.event.kind(),
            body,
        });
        place(self.entries.len() - 1)
    }
}

pub(crate) fn place(nth: usize) -> Place {
    Place {
        segment: 7,
        offset: u32::try_from(nth).expect("a short tape"),
    }
}

pub(crate) fn shard(options: Options) -> Shard {
    let spec = ShardSpec {
        shard: ShardId(42),
        index: 2,
        count: 5,
        secret: Secret(*b"a shard's secret"),
        origin: *b"a shard's origin",
    };
    Shard::new(spec, options)
}

pub(crate) fn open(options: Options) -> (Shard, Tape) {
    let (mut shard, mut tape) = (shard(options), Tape::default());
    let _ = shard.handle_open(START, 0, &mut tape);
    (shard, tape)
}

/// A shard made from the first `len` records of the tape.
pub(crate) fn replay(options: Options, tape: &Tape, len: usize) -> Shard {
    let mut copy = shard(options);
    for (nth, entry) in tape.entries[..len].iter().enumerate() {
        let applied = copy.replay(&entry.record(), place(nth));
        applied.expect("a record that the shard made");
    }
    copy
}

pub(crate) fn item(request_id: Option<&str>) -> NewItem<'_> {
    NewItem {
        payload: PayloadRef {
            resource_type: "table",
            resource_id: "users",
            partition_key: None,
            encoding: "json",
            body: b"{}",
            attributes: Attributes::Pairs(&[("k", "v")]),
            request_id,
        },
        delay: Duration::ZERO,
        priority: 0,
        max_attempts: None,
        ttl: None,
        enqueued_by: "test",
    }
}
