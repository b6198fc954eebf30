//! What the log's bytes say, in the messages' words.

use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::messages::{ErrorInfo, OwnershipToken, Payload, PendingItem, Timestamp};
use omnirelay_net::rpc::origin_text;
use omnirelay_queue::{
    EnqueuedBody, Event, FailedBody, ItemState, ItemView, Nanos, Origin, Token, kind,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The payload in the body of an item's enqueue.
pub(super) fn payload(record: &Bytes) -> Result<Payload, String> {
    let item = EnqueuedBody::decode_verified(record).map_err(|e| e.to_string())?;
    let payload = &item.payload;
    Ok(Payload {
        resource_type: payload.resource_type.to_owned(),
        resource_id: payload.resource_id.to_owned(),
        partition_key: payload.partition_key.map(str::to_owned),
        payload_encoding: payload.encoding.to_owned(),
        // A view of the log's own bytes: the body is not copied.
        body: record.slice_ref(payload.body),
        attributes: payload
            .attributes
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        request_id: payload.request_id.map(str::to_owned),
    })
}

/// What the body of a failure says.
pub(super) fn error_info(record: &[u8]) -> Result<Option<ErrorInfo>, String> {
    match Event::decode(kind::FAILED, record).map_err(|e| e.to_string())? {
        Event::Failed(failed) => Ok(Some(failure(&failed))),
        _ => Ok(None),
    }
}

fn failure(failed: &FailedBody<'_>) -> ErrorInfo {
    ErrorInfo {
        message: failed.reason.unwrap_or_default().to_owned(),
        code: failed.code.map(str::to_owned),
        metadata: failed
            .metadata
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    }
}

/// An item as it is listed, without its payload and last error.
pub(super) fn listed(view: &ItemView, origin: Origin) -> PendingItem {
    PendingItem {
        payload: None,
        attempt: u32::from(view.attempt),
        enqueued_at: Some(timestamp(view.enqueued_at)),
        last_error: None,
        sequence_id: view.sequence_id.0,
        last_ownership_token: view.last_token.as_ref().map(token),
        dead_letter: view.state == ItemState::Dead,
        origin: origin_text(origin),
        priority: Some(u32::from(view.priority)),
        max_attempts: Some(u32::from(view.max_attempts)),
        ready_at: Some(timestamp(view.ready_at)),
        expires_at: view.ttl_end.map(timestamp),
        state: Some(view.state.as_str().to_owned()),
        since: (view.state != ItemState::Delayed).then(|| timestamp(view.ready_at)),
    }
}

/// The wire form of a token.
pub(super) fn token(token: &Token) -> OwnershipToken {
    OwnershipToken {
        sequence_id: token.sequence_id.0,
        attempt: token.attempt,
        lease_id: token.lease_id.to_string(),
    }
}

/// The wire form of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The wire form of a time.
pub(super) fn timestamp(at: Nanos) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.0 / NANOS_PER_SECOND).expect("u64 nanoseconds fit"),
        nanos: i32::try_from(at.0 % NANOS_PER_SECOND).expect("less than a second"),
    }
}

/// The time in a message, which was checked to be between 1970 and 2262.
pub(super) fn nanos(time: &Timestamp) -> Nanos {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let nanos = u64::try_from(time.nanos).unwrap_or(0);
    Nanos(
        seconds
            .saturating_mul(NANOS_PER_SECOND)
            .saturating_add(nanos),
    )
}
