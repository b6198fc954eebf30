//! Events: what the replication stream is made of, and their JSON.

use omnirelay_net::grpc::replication as wire;
use omnirelay_net::messages::{ErrorInfo, OwnershipToken, Payload, PendingItem, Timestamp};
use omnirelay_queue::Nanos;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EventType {
    /// An item came in.
    Enqueue,
    /// An item was leased.
    LeaseGranted,
    /// A grant that reached nobody was taken back.
    LeaseReleased,
    /// A lease was renewed.
    Heartbeat,
    /// An item is done and gone.
    Completed,
    /// An attempt failed.
    Failed,
    /// A lease ran out.
    Expired,
    /// An item was taken out, or a drain has taken all that it will.
    DrainSnapshot,
    /// An item that was taken out came in.
    RestoreSnapshot,
    /// An item was taken away.
    Cancelled,
    /// A dead letter waits again.
    Redriven,
    /// An item outlived its time and is gone.
    ItemExpired,
    /// The shard was opened.
    EpochStarted,
    /// An item as it stood after the event of the same number.
    Snapshot,
}

impl EventType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            EventType::Enqueue => "Enqueue",
            EventType::LeaseGranted => "LeaseGranted",
            EventType::LeaseReleased => "LeaseReleased",
            EventType::Heartbeat => "Heartbeat",
            EventType::Completed => "Completed",
            EventType::Failed => "Failed",
            EventType::Expired => "Expired",
            EventType::DrainSnapshot => "DrainSnapshot",
            EventType::RestoreSnapshot => "RestoreSnapshot",
            EventType::Cancelled => "Cancelled",
            EventType::Redriven => "Redriven",
            EventType::ItemExpired => "ItemExpired",
            EventType::EpochStarted => "EpochStarted",
            EventType::Snapshot => "Snapshot",
        }
    }
}

/// One committed change of a shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The shard's LSN: one more than that of the event before, unless the shard skipped some when
    /// it was opened.
    pub sequence_number: u64,
    /// The shard.
    pub shard_id: u32,
    /// What happened.
    pub event_type: EventType,
    /// The shard's time.
    #[serde(serialize_with = "rfc3339")]
    pub timestamp: Nanos,
    /// Whose lease it is about, where that is known.
    pub peer_id: Option<String>,
    /// Who asked for it, where the log has it.
    pub principal: Option<String>,
    /// Of the lease it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership_token: Option<OwnershipToken>,
    /// What came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// The whole item, where one left, came in again, or is shown as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<PendingItem>,
    /// Why an attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// All the rest, as text.
    pub metadata: Metadata,
}

impl From<Event> for wire::Event {
    fn from(event: Event) -> wire::Event {
        let metadata = event.metadata.0.into_iter();
        wire::Event {
            sequence_number: event.sequence_number,
            shard_id: event.shard_id,
            event_type: event.event_type.name().to_owned(),
            timestamp: Some(timestamp(event.timestamp)),
            peer_id: event.peer_id,
            principal: event.principal,
            ownership_token: event.ownership_token,
            payload: event.payload,
            item: event.item,
            error: event.error,
            metadata: metadata
                .map(|(name, text)| (name.to_owned(), text))
                .collect(),
        }
    }
}

impl Event {
    /// Whether a reader that has seen it, and all before it, can go on after its number: not
    /// within a snapshot.
    pub fn can_resume(&self) -> bool {
        let number = |name| self.metadata.get(name).and_then(|text| text.parse().ok());
        let is_within = |(index, of): (u64, u64)| index + 1 < of;
        let at = number("snapshot.index").zip(number("snapshot.of"));
        !at.is_some_and(is_within)
    }

    /// How much of it is opaque body: most of what a large event weighs.
    pub(super) fn payload_bytes(&self) -> usize {
        let of_item = self.item.as_ref().and_then(|item| item.payload.as_ref());
        let payload = self.payload.as_ref().or(of_item);
        payload.map_or(0, |payload| payload.body.len())
    }
}

/// Texts by name, in the order in which they were put.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(&'static str, String)>);

impl Metadata {
    /// Adds a text.
    pub(super) fn put(&mut self, name: &'static str, text: impl ToString) {
        self.0.push((name, text.to_string()));
    }

    /// The text of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| text.as_str())
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, text) in &self.0 {
            map.serialize_entry(name, text)?;
        }
        map.end()
    }
}

pub(super) fn rfc3339<S: Serializer>(at: &Nanos, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&timestamp(*at))
}

/// The wire form of a time.
pub(super) fn timestamp(at: Nanos) -> Timestamp {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    Timestamp {
        seconds: i64::try_from(at.0 / NANOS_PER_SECOND).expect("u64 nanoseconds fit"),
        nanos: i32::try_from(at.0 % NANOS_PER_SECOND).expect("less than a second"),
    }
}
