//! The newest events of the whole node, for people who watch it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use omnirelay_net::messages::ErrorInfo;
use omnirelay_queue::{Event as QueueEvent, Nanos, ShardId, kind};
use omnirelay_wal::{Disk, RecordHeader, ViewError};
use serde::Serialize;

use super::event::{Event, EventType};
use super::log::CommittedLog;
use super::reader::{ReadError, record};
use super::tally::Tally;
use super::translate::Shard;
use super::{Replication, event};

/// How much of the ends of all logs together is looked at.
const TAILS_BYTES: u32 = 1 << 20;
/// The least that is looked at of a log's end.
const TAIL_BYTES_MIN: u32 = 32 << 10;

/// One committed change in short: without what only a reader of the whole stream knows, and
/// without bodies, attributes and error metadata.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentEvent {
    /// Of its shard.
    pub sequence_number: u64,
    /// The shard.
    pub shard_id: u32,
    /// The shard's namespace.
    pub namespace: String,
    /// What happened.
    pub event_type: EventType,
    /// The shard's time.
    #[serde(serialize_with = "event::rfc3339")]
    pub timestamp: Nanos,
    /// The item it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_id: Option<u64>,
    /// Whose lease it is about, if that began not long before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,
    /// Of the lease it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What the item is about, where it came in or left whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// See `resource_type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// Why an attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// The item was given up on.
    pub dead_letter: bool,
}

impl RecentEvent {
    fn of(mut event: Event, namespace: &str) -> RecentEvent {
        if let Some(error) = &mut event.error {
            error.metadata.clear();
        }
        let of_item = event.item.and_then(|item| item.payload);
        let (resource_type, resource_id) = event
            .payload
            .or(of_item)
            .map(|payload| (payload.resource_type, payload.resource_id))
            .unzip();
        let number = |name| event.metadata.get(name).and_then(|text| text.parse().ok());
        RecentEvent {
            sequence_number: event.sequence_number,
            shard_id: event.shard_id,
            namespace: namespace.to_owned(),
            event_type: event.event_type,
            timestamp: event.timestamp,
            sequence_id: number("item.sequenceId"),
            peer_id: event.peer_id,
            attempt: event.ownership_token.map(|token| token.attempt),
            resource_type,
            resource_id,
            error: event.error,
            dead_letter: event.metadata.get("item.deadLetter") == Some("true"),
        }
    }
}

impl<D: Disk> Replication<D> {
    /// The newest `limit` events over all shards by their time, newest first. Only the ends of the
    /// logs are read, about a MiB together however long they are, so fewer may be told than there
    /// are: those of a log whose last MiB has few.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn recent(&self, limit: usize) -> Result<Vec<RecentEvent>, ReadError> {
        let logs = u32::try_from(self.logs.len()).expect("few logs");
        let bytes = (TAILS_BYTES / logs.max(1)).max(TAIL_BYTES_MIN);
        let mut events = Vec::new();
        for log in &self.logs {
            events.extend(self.recent_of(log, bytes, limit)?);
        }
        events.sort_by(|a, b| {
            let key =
                |event: &RecentEvent| (event.timestamp, event.shard_id, event.sequence_number);
            key(b).cmp(&key(a))
        });
        events.truncate(limit);
        Ok(events)
    }

    /// The last events of one log, in order.
    fn recent_of(
        &self,
        log: &CommittedLog<D>,
        bytes: u32,
        limit: usize,
    ) -> Result<Vec<RecentEvent>, ReadError> {
        let batches = match log.view().tail(log.end(), bytes) {
            // A segment was given up meanwhile: another look tells more.
            Err(ViewError::Trimmed { .. }) => return Ok(Vec::new()),
            batches => batches?,
        };
        let records = || batches.iter().flat_map(|batch| &batch.records);
        let is_event = |header: &RecordHeader| header.kind != kind::CARRY;
        let mut left = records().filter(|(header, ..)| is_event(header)).count();
        let mut shards: BTreeMap<u32, (Arc<Shard>, Tally)> = BTreeMap::new();
        let mut events = Vec::new();
        for (header, _, body) in records() {
            // Grants before those that are shown say whose leases they are.
            let is_shown = left <= limit;
            left -= usize::from(is_event(header));
            if !self.has(ShardId(header.shard)) {
                continue;
            }
            let (shard, tally) = match shards.entry(header.shard) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let (shard, _) = self.shard(ShardId(header.shard));
                    new.insert((shard, Tally::default()))
                }
            };
            let record = record(header, body)?;
            if !is_shown {
                match &record.event {
                    QueueEvent::Carry(carry) => tally.learn(carry),
                    event => drop(tally.apply(record.lsn, event)),
                }
                continue;
            }
            let event = shard.event(&record, body, tally);
            let event = event.map_err(|source| ReadError::Record {
                lsn: header.lsn,
                source,
            })?;
            events.extend(event.map(|event| RecentEvent::of(event, &shard.namespace)));
        }
        Ok(events)
    }
}
