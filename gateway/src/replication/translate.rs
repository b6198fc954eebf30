//! From a record of the log to an event of the stream.

use bytes::Bytes;
use omnirelay_net::messages::{ErrorInfo, OwnershipToken, Payload, PendingItem};
use omnirelay_net::rpc::origin_text;
use omnirelay_queue as queue;
use omnirelay_queue::{
    DecodeError, EnqueuedBody, FailedBody, ItemSnapshot, LeaseRef, Lsn, Millis, Nanos, PayloadRef,
    Record, ShardSpec, SnapshotState, Token,
};

use super::event::{Event, EventType, Metadata, timestamp};
use super::tally::Tally;

/// Whose events these are.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) spec: ShardSpec,
    /// The namespace's name.
    pub(super) namespace: String,
}

impl Shard {
    /// The event that a record is, after which the shard is as `tally` says on return; `None` for
    /// one that is no event. `body` is the record's body, of which the event keeps parts.
    pub(super) fn event(
        &self,
        record: &Record<'_>,
        body: &Bytes,
        tally: &mut Tally,
    ) -> Result<Option<Event>, DecodeError> {
        let owner = match &record.event {
            queue::Event::Carry(carry) => {
                tally.learn(carry);
                return Ok(None);
            }
            event => tally.apply(record.lsn, event),
        };
        let mut event = self.blank(record.lsn, record.at, tally);
        event.peer_id = owner.map(|owner| owner.to_string());
        event.metadata.put("shard.epoch", record.epoch);
        self.describe(record, body, &mut event)?;
        Ok(Some(event))
    }

    /// An item as it stood at a time, after the event `lsn`: the `index`th `of` all. Parts of
    /// `body`, in which its payload lies, are kept.
    pub(super) fn snapshot(
        &self,
        (lsn, at): (Lsn, Nanos),
        tally: &Tally,
        snapshot: &ItemSnapshot<'_>,
        expires_at: Option<Nanos>,
        body: &Bytes,
        (index, of): (usize, usize),
    ) -> Result<Event, DecodeError> {
        let mut event = self.blank(lsn, at, tally);
        event.event_type = EventType::Snapshot;
        self.item(snapshot.lsn, &mut event.metadata);
        event.metadata.put("snapshot.index", index);
        event.metadata.put("snapshot.of", of);
        let item = self.pending_item(at, snapshot, body)?;
        if let SnapshotState::Leased {
            owner, recorded, ..
        } = snapshot.state
        {
            event.peer_id = Some(owner.to_owned());
            event.ownership_token = item.last_ownership_token.clone();
            event.metadata.put("lease.durationMs", recorded.0);
            if let Some(expires_at) = expires_at {
                let expires_at = timestamp(expires_at);
                event.metadata.put("lease.expiresAt", expires_at);
            }
        }
        event.item = Some(item);
        Ok(event)
    }

    /// The snapshot of a shard without items.
    pub(super) fn snapshot_of_nothing(&self, (lsn, at): (Lsn, Nanos), tally: &Tally) -> Event {
        let mut event = self.blank(lsn, at, tally);
        event.event_type = EventType::Snapshot;
        event.metadata.put("snapshot.of", 0);
        event
    }

    /// An event without what its type adds.
    fn blank(&self, lsn: Lsn, at: Nanos, tally: &Tally) -> Event {
        let mut metadata = Metadata::default();
        metadata.put("queue.pending", tally.pending);
        metadata.put("queue.active", tally.active);
        metadata.put("shard.id", self.spec.shard);
        metadata.put("namespace", &self.namespace);
        Event {
            sequence_number: lsn.0,
            shard_id: self.spec.shard.0,
            event_type: EventType::EpochStarted,
            timestamp: at,
            peer_id: None,
            principal: None,
            ownership_token: None,
            payload: None,
            item: None,
            error: None,
            metadata,
        }
    }

    fn describe(
        &self,
        record: &Record<'_>,
        body: &Bytes,
        event: &mut Event,
    ) -> Result<(), DecodeError> {
        let at = record.at;
        event.event_type = match &record.event {
            queue::Event::EpochStarted { previous } => {
                event.metadata.put("shard.previousEpoch", previous);
                EventType::EpochStarted
            }
            queue::Event::Enqueued(enqueued) => {
                self.enqueued(record, enqueued, body, event);
                EventType::Enqueue
            }
            queue::Event::LeaseGranted {
                lease, duration, ..
            } => {
                self.lease(lease, event);
                put_duration(at, *duration, &mut event.metadata);
                EventType::LeaseGranted
            }
            queue::Event::GrantReleased {
                lease,
                counted,
                dead,
                ..
            } => {
                self.lease(lease, event);
                event.metadata.put("attempt.counted", counted);
                event.metadata.put("item.deadLetter", dead);
                EventType::LeaseReleased
            }
            queue::Event::Heartbeat { lease, duration } => {
                self.lease(lease, event);
                put_duration(at, *duration, &mut event.metadata);
                EventType::Heartbeat
            }
            queue::Event::Completed { lease } => {
                self.lease(lease, event);
                EventType::Completed
            }
            queue::Event::Failed(failed) => {
                self.lease(&failed.lease, event);
                event.error = Some(error_info(failed));
                event.metadata.put("item.deadLetter", failed.dead);
                if !failed.dead {
                    put_ready_at(at, failed.ready_at, &mut event.metadata);
                }
                EventType::Failed
            }
            queue::Event::Expired { lease, dead } => {
                self.lease(lease, event);
                event.metadata.put("item.deadLetter", dead);
                EventType::Expired
            }
            queue::Event::ItemExpired { item, .. } => {
                self.item(*item, &mut event.metadata);
                EventType::ItemExpired
            }
            queue::Event::Cancelled { item, .. } => {
                self.item(*item, &mut event.metadata);
                EventType::Cancelled
            }
            queue::Event::Redriven { item, max_attempts } => {
                self.item(*item, &mut event.metadata);
                event.metadata.put("item.maxAttempts", max_attempts);
                EventType::Redriven
            }
            queue::Event::DrainSnapshot { request, snapshot } => {
                if let Some([high, low]) = request {
                    let key = format!("{high:016x}{low:016x}");
                    event.metadata.put("drain.request", key);
                }
                event.metadata.put("drain.complete", snapshot.is_none());
                if let Some(snapshot) = snapshot {
                    self.item(snapshot.lsn, &mut event.metadata);
                    event.item = Some(self.pending_item(at, snapshot, body)?);
                }
                EventType::DrainSnapshot
            }
            queue::Event::RestoreSnapshot {
                origin,
                sequence_id,
                snapshot,
                ..
            } => {
                self.item(record.lsn, &mut event.metadata);
                event.metadata.put("restore.origin", origin_text(*origin));
                event.metadata.put("restore.sequenceId", sequence_id);
                let here = ItemSnapshot {
                    lsn: record.lsn,
                    ..*snapshot
                };
                event.item = Some(self.pending_item(at, &here, body)?);
                EventType::RestoreSnapshot
            }
            queue::Event::Carry(_) => unreachable!("a carry is no event"),
        };
        Ok(())
    }

    fn enqueued(
        &self,
        record: &Record<'_>,
        enqueued: &EnqueuedBody<'_>,
        body: &Bytes,
        event: &mut Event,
    ) {
        self.item(record.lsn, &mut event.metadata);
        event.principal = Some(enqueued.enqueued_by.to_owned()).filter(|by| !by.is_empty());
        event.payload = Some(payload(&enqueued.payload, body));
        let metadata = &mut event.metadata;
        metadata.put("item.priority", enqueued.priority);
        metadata.put("item.maxAttempts", enqueued.max_attempts);
        put_ready_at(record.at, enqueued.ready_at, metadata);
        if let Some(ttl) = enqueued.ttl {
            let end = record.at.saturating_add_millis(ttl);
            metadata.put("item.expiresAt", timestamp(end));
        }
    }

    fn item(&self, lsn: Lsn, metadata: &mut Metadata) {
        metadata.put("item.sequenceId", self.spec.sequence_id(lsn));
    }

    fn lease(&self, lease: &LeaseRef, event: &mut Event) {
        self.item(lease.item, &mut event.metadata);
        event.ownership_token = Some(self.token(lease));
    }

    fn token(&self, lease: &LeaseRef) -> OwnershipToken {
        let Token {
            sequence_id,
            attempt,
            lease_id,
        } = self.spec.token(lease);
        OwnershipToken {
            sequence_id: sequence_id.0,
            attempt,
            lease_id: lease_id.to_string(),
        }
    }

    /// An item as it stood at a time, in the form that restore takes. Parts of `record`, in which
    /// the snapshot lies, are kept.
    fn pending_item(
        &self,
        at: Nanos,
        snapshot: &ItemSnapshot<'_>,
        record: &Bytes,
    ) -> Result<PendingItem, DecodeError> {
        let enqueued = snapshot.enqueued()?;
        let failed = snapshot.failed()?;
        let last_lease = (snapshot.lease_epoch.0 > 0).then_some(LeaseRef {
            item: snapshot.lsn,
            attempt: snapshot.attempt,
            grant: snapshot.grant,
            epoch: snapshot.lease_epoch,
        });
        let (state, delayed) = match snapshot.state {
            SnapshotState::Waiting if snapshot.since > at => ("delayed", true),
            SnapshotState::Waiting => ("waiting", false),
            SnapshotState::Leased { .. } => ("leased", false),
            SnapshotState::Dead => ("dead", false),
        };
        Ok(PendingItem {
            payload: Some(payload(&enqueued.payload, record)),
            attempt: snapshot.attempt.into(),
            enqueued_at: Some(timestamp(snapshot.enqueued_at)),
            last_error: failed.as_ref().map(error_info),
            sequence_id: self.spec.sequence_id(snapshot.lsn).0,
            last_ownership_token: last_lease.map(|lease| self.token(&lease)),
            dead_letter: state == "dead",
            origin: origin_text(self.spec.origin),
            priority: Some(snapshot.priority.into()),
            max_attempts: Some(snapshot.max_attempts.into()),
            ready_at: delayed.then(|| timestamp(snapshot.since)),
            expires_at: snapshot
                .ttl
                .map(|ttl| timestamp(snapshot.enqueued_at.saturating_add_millis(ttl))),
            state: Some(state.to_owned()),
            since: matches!(state, "waiting" | "dead").then(|| timestamp(snapshot.since)),
        })
    }
}

fn put_duration(at: Nanos, duration: Millis, metadata: &mut Metadata) {
    metadata.put("lease.durationMs", duration.0);
    let end = at.saturating_add_millis(duration);
    metadata.put("lease.expiresAt", timestamp(end));
}

fn put_ready_at(at: Nanos, ready_at: Nanos, metadata: &mut Metadata) {
    if ready_at > at {
        metadata.put("item.readyAt", timestamp(ready_at));
    }
}

/// `record` is where the payload's body lies: it is not copied.
pub(super) fn payload(payload: &PayloadRef<'_>, record: &Bytes) -> Payload {
    let attributes = payload.attributes.iter();
    Payload {
        resource_type: payload.resource_type.to_owned(),
        resource_id: payload.resource_id.to_owned(),
        partition_key: payload.partition_key.map(str::to_owned),
        payload_encoding: payload.encoding.to_owned(),
        body: record.slice_ref(payload.body),
        attributes: attributes
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect(),
        request_id: payload.request_id.map(str::to_owned),
    }
}

pub(super) fn error_info(failed: &FailedBody<'_>) -> ErrorInfo {
    let metadata = failed.metadata.iter();
    ErrorInfo {
        message: failed.reason.unwrap_or_default().to_owned(),
        code: failed.code.map(str::to_owned),
        metadata: metadata
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect(),
    }
}
