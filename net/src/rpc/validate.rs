//! What a call's fields must be. Each error names the field as JSON spells it.
//!
//! A batch is checked as a whole here, its items one by one with [`validate_enqueue`] and
//! [`validate_settle_item`] by whoever serves it: one bad item fails alone.

use std::fmt::Display;

use super::pending::{validate_drain, validate_page, validate_restore, validate_sequence_ids};
use super::{Call, Error, codes};
use crate::messages::view::{EnqueueView, PayloadView, SettleView, TokenView};
use crate::messages::{
    BATCH_ITEMS_MAX, CompleteRequest, FailRequest, HeartbeatRequest, LeaseBatchRequest,
    LeaseRequest, OwnershipToken,
};

/// The most bytes of a type, an id, a key or a request id.
pub const NAME_BYTES_MAX: usize = 512;

/// The most bytes of an item's attributes and of a failure's metadata, names and values together.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1_024;

/// The most bytes of a failure's reason, which is kept with the item as long as it lives.
pub const REASON_BYTES_MAX: usize = 4 * 1_024;

/// The most bytes of an item's body.
pub const BODY_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// The most bytes of a batch's payloads together.
pub const BATCH_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// The most bytes of a request's body on the wire: the largest batch in base64, and room for
/// what surrounds the payloads.
pub const REQUEST_BYTES_MAX: usize = BATCH_BYTES_MAX / 3 * 4 + 2 * 1_024 * 1_024;

/// The most attempts that an item can be given.
pub const ATTEMPTS_MAX: u32 = u16::MAX as u32;

/// The longest time to live of an item, in ms.
pub const ITEM_TTL_MS_MAX: u64 = u32::MAX as u64;

/// The highest priority.
pub const PRIORITY_MAX: u32 = 255;

/// The longest time a field can ask for, in ms: what the range of a clock in nanoseconds can add
/// to any present.
const DURATION_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

const _: () = assert!(BODY_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(DURATION_MS_MAX < u64::MAX / 4 / 1_000_000);

/// What a settle entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettleAction {
    /// The work is done.
    Complete,
    /// The work is not done.
    Fail,
    /// The work goes on.
    Heartbeat,
}

impl SettleAction {
    /// The action of a settle entry.
    ///
    /// # Errors
    /// `rpc.body.malformed` lists the actions there are.
    pub fn parse(action: &str) -> Result<Self, Error> {
        match action {
            "complete" => Ok(Self::Complete),
            "fail" => Ok(Self::Fail),
            "heartbeat" => Ok(Self::Heartbeat),
            _ => {
                let shown: String = action.chars().take(64).collect();
                Err(Error::body_malformed(format!(
                    "action is `{shown}`; it takes complete, fail or heartbeat"
                )))
            }
        }
    }
}

/// Checks a call; a batch's items are left to be checked one by one.
///
/// # Errors
/// The first field that is wrong.
pub fn validate_call(call: &Call) -> Result<(), Error> {
    match call {
        Call::Enqueue(request) => validate_enqueue(&request.view()),
        Call::EnqueueBatch(request) => {
            let payloads = request
                .items
                .iter()
                .filter_map(|item| item.payload.as_ref());
            let bytes = payloads.map(|payload| payload_bytes(&payload.view()));
            validate_enqueue_batch(request.items.len(), bytes.sum())
        }
        Call::Lease(request) => validate_lease(request),
        Call::LeaseBatch(request) => validate_lease_batch(request),
        Call::Heartbeat(request) => validate_heartbeat(request),
        Call::Complete(request) => validate_complete(request),
        Call::Fail(request) => validate_fail(request),
        Call::Settle(request) => validate_settle(request.items.len()),
        Call::Stats(_) | Call::Explain(_) => Ok(()),
        Call::Peek(request) => validate_page(request.max_items, request.cursor.as_deref()),
        Call::DeadLetters(request) => validate_page(request.max_items, request.cursor.as_deref()),
        Call::Redrive(request) => validate_sequence_ids(&request.sequence_ids),
        Call::Cancel(request) => validate_sequence_ids(&request.sequence_ids),
        Call::Drain(request) => validate_drain(request),
        Call::Restore(request) => validate_restore(request),
    }
}

/// Checks an enqueue, alone or in a batch.
///
/// # Errors
/// The first field that is wrong.
pub fn validate_enqueue<'a>(
    request: &EnqueueView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> Result<(), Error> {
    let payload = request.payload.as_ref();
    let payload = payload.ok_or_else(|| Error::payload_required("payload is missing"))?;
    payload_at(&"payload", payload)?;
    if let Some(priority) = request.priority
        && priority > PRIORITY_MAX
    {
        return Err(Error::body_malformed(format!(
            "priority is {priority}; it takes 0 to 255"
        )));
    }
    if request.max_attempts == Some(0) {
        return Err(Error::body_malformed(
            "maxAttempts is 0; it takes 1 or more",
        ));
    }
    if request.max_attempts > Some(ATTEMPTS_MAX) {
        return Err(Error::body_malformed(format!(
            "maxAttempts is above {ATTEMPTS_MAX}"
        )));
    }
    if request.ttl_ms == Some(0) {
        return Err(Error::body_malformed("ttlMs is 0; it takes 1 or more"));
    }
    if request.ttl_ms > Some(ITEM_TTL_MS_MAX) {
        return Err(Error::body_malformed(format!(
            "ttlMs is above {ITEM_TTL_MS_MAX} (49 days)"
        )));
    }
    duration("delayMs", request.delay_ms)?;
    duration("ttlMs", request.ttl_ms)
}

/// Checks the payload that stands at `path` in its request.
pub(super) fn payload_at<'a>(
    path: &dyn Display,
    payload: &PayloadView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> Result<(), Error> {
    let required = [
        (
            "resourceType",
            payload.resource_type,
            codes::RESOURCE_TYPE_REQUIRED,
        ),
        (
            "resourceId",
            payload.resource_id,
            codes::RESOURCE_ID_REQUIRED,
        ),
        (
            "payloadEncoding",
            payload.payload_encoding,
            codes::ENCODING_REQUIRED,
        ),
    ];
    for (field, text, blank) in required {
        if text.trim().is_empty() {
            return Err(Error::new(blank, format!("{path}.{field} is blank")));
        }
        within(&format_args!("{path}.{field}"), text.len(), NAME_BYTES_MAX)?;
    }
    let optional = [
        ("partitionKey", payload.partition_key),
        ("requestId", payload.request_id),
    ];
    for (field, text) in optional {
        let bytes = text.map_or(0, str::len);
        within(&format_args!("{path}.{field}"), bytes, NAME_BYTES_MAX)?;
    }
    within(
        &format_args!("{path}.attributes"),
        pairs_bytes(payload.attributes.clone()),
        ATTRIBUTES_BYTES_MAX,
    )?;
    within(
        &format_args!("{path}.body"),
        payload.body.len(),
        BODY_BYTES_MAX,
    )
}

/// Checks a batch of enqueues as a whole: how many items it has, and how many bytes they have
/// together, see [`payload_bytes`].
///
/// # Errors
/// `resourcelease.payload.required` for no items, `resourcelease.payload.too_large` for too many
/// items or bytes.
pub fn validate_enqueue_batch(items: usize, bytes: usize) -> Result<(), Error> {
    if items == 0 {
        return Err(Error::payload_required("items is empty"));
    }
    batch_items("items", items)?;
    within(&"items", bytes, BATCH_BYTES_MAX)
}

/// Checks a lease request.
///
/// # Errors
/// `rpc.body.malformed` or `resourcelease.payload.too_large` names the field.
pub fn validate_lease(request: &LeaseRequest) -> Result<(), Error> {
    name("peerId", request.peer_id.as_deref())?;
    name("partitionKey", request.partition_key.as_deref())?;
    duration("waitMs", request.wait_ms)?;
    lease_duration("leaseMs", request.lease_ms)
}

/// Checks a request for many leases.
///
/// # Errors
/// As [`validate_lease`]; `maxItems` takes 1 to 1,000.
pub fn validate_lease_batch(request: &LeaseBatchRequest) -> Result<(), Error> {
    name("peerId", request.peer_id.as_deref())?;
    name("partitionKey", request.partition_key.as_deref())?;
    duration("waitMs", request.wait_ms)?;
    lease_duration("leaseMs", request.lease_ms)?;
    max_items(request.max_items)
}

pub(super) fn max_items(max_items: u32) -> Result<(), Error> {
    match usize::try_from(max_items) {
        Ok(1..=BATCH_ITEMS_MAX) => Ok(()),
        _ => Err(Error::body_malformed(format!(
            "maxItems is {max_items}; it takes 1 to {BATCH_ITEMS_MAX}"
        ))),
    }
}

/// Checks a heartbeat.
///
/// # Errors
/// As [`validate_token`] and [`validate_lease`].
pub fn validate_heartbeat(request: &HeartbeatRequest) -> Result<(), Error> {
    validate_token(token(&request.ownership_token))?;
    lease_duration("extendMs", request.extend_ms)
}

/// Checks a completion.
///
/// # Errors
/// As [`validate_token`].
pub fn validate_complete(request: &CompleteRequest) -> Result<(), Error> {
    validate_token(token(&request.ownership_token)).map(|_| ())
}

/// Checks a failure.
///
/// # Errors
/// As [`validate_token`]; `resourcelease.payload.too_large` where reason or metadata are.
pub fn validate_fail(request: &FailRequest) -> Result<(), Error> {
    validate_token(token(&request.ownership_token))?;
    within(
        &"reason",
        request.reason.as_ref().map_or(0, String::len),
        REASON_BYTES_MAX,
    )?;
    name("errorCode", request.error_code.as_deref())?;
    duration("delayMs", request.delay_ms)?;
    within(
        &"metadata",
        pairs_bytes_of(&request.metadata),
        ATTRIBUTES_BYTES_MAX,
    )
}

/// Checks a batch of settlements as a whole.
///
/// # Errors
/// `rpc.body.malformed` for no items, `resourcelease.payload.too_large` for too many.
pub fn validate_settle(items: usize) -> Result<(), Error> {
    if items == 0 {
        return Err(Error::body_malformed("items is empty"));
    }
    batch_items("items", items)
}

/// Checks one settlement of a batch and says what it asks for.
///
/// # Errors
/// As [`SettleAction::parse`], [`validate_fail`] and [`validate_heartbeat`].
pub fn validate_settle_item<'a>(
    item: &SettleView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> Result<SettleAction, Error> {
    let action = SettleAction::parse(item.action)?;
    validate_token(item.ownership_token)?;
    within(&"reason", item.reason.map_or(0, str::len), REASON_BYTES_MAX)?;
    name("errorCode", item.error_code)?;
    duration("delayMs", item.delay_ms)?;
    within(
        &"metadata",
        pairs_bytes(item.metadata.clone()),
        ATTRIBUTES_BYTES_MAX,
    )?;
    lease_duration("extendMs", item.extend_ms)?;
    Ok(action)
}

/// Checks that a token is there and could be one; whether it was issued the queue knows.
///
/// # Errors
/// `rpc.body.malformed`.
pub fn validate_token(token: Option<TokenView<'_>>) -> Result<TokenView<'_>, Error> {
    let token = token.ok_or_else(|| Error::body_malformed("ownershipToken is missing"))?;
    if token.lease_id.trim().is_empty() {
        return Err(Error::body_malformed("ownershipToken.leaseId is blank"));
    }
    name("ownershipToken.leaseId", Some(token.lease_id))?;
    Ok(token)
}

fn token(token: &Option<OwnershipToken>) -> Option<TokenView<'_>> {
    token.as_ref().map(OwnershipToken::view)
}

pub(super) fn name(field: &str, text: Option<&str>) -> Result<(), Error> {
    within(&field, text.map_or(0, str::len), NAME_BYTES_MAX)
}

pub(super) fn within(field: &dyn Display, bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::payload_too_large(format!(
        "{field} has {bytes} bytes; at most {bytes_max} are allowed"
    )))
}

fn duration(field: &str, wanted_ms: Option<u64>) -> Result<(), Error> {
    match wanted_ms {
        Some(wanted_ms) if wanted_ms > DURATION_MS_MAX => Err(Error::body_malformed(format!(
            "{field} is {wanted_ms}; at most {DURATION_MS_MAX} is allowed"
        ))),
        _ => Ok(()),
    }
}

fn lease_duration(field: &str, wanted_ms: Option<u64>) -> Result<(), Error> {
    if wanted_ms == Some(0) {
        return Err(Error::body_malformed(format!(
            "{field} is 0; it takes 1 or more"
        )));
    }
    duration(field, wanted_ms)
}

pub(super) fn batch_items(field: &str, items: usize) -> Result<(), Error> {
    if items > BATCH_ITEMS_MAX {
        return Err(too_many(field));
    }
    Ok(())
}

pub(super) fn too_many(field: &str) -> Error {
    Error::payload_too_large(format!("{field} has more than {BATCH_ITEMS_MAX} entries"))
}

fn pairs_bytes<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
    pairs.map(|(name, value)| name.len() + value.len()).sum()
}

pub(super) fn pairs_bytes_of(pairs: &std::collections::BTreeMap<String, String>) -> usize {
    pairs_bytes(pairs.iter().map(|(name, value)| (&**name, &**value)))
}

/// What a payload weighs in its batch.
pub fn payload_bytes<'a>(
    payload: &PayloadView<'a, impl Iterator<Item = (&'a str, &'a str)> + Clone>,
) -> usize {
    let optional = [payload.partition_key, payload.request_id];
    payload.resource_type.len()
        + payload.resource_id.len()
        + payload.payload_encoding.len()
        + optional.into_iter().flatten().map(str::len).sum::<usize>()
        + payload.body.len()
        + pairs_bytes(payload.attributes.clone())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::messages::{
        EnqueueBatchRequest, EnqueueRequest, Payload, SettleItem, SettleRequest,
    };
    use crate::rpc::ErrorCode;

    fn payload() -> Payload {
        Payload {
            resource_type: "table".into(),
            resource_id: "users/7".into(),
            payload_encoding: "application/json".into(),
            body: Bytes::from_static(b"{}"),
            ..Payload::default()
        }
    }

    fn enqueue(change: impl FnOnce(&mut EnqueueRequest)) -> EnqueueRequest {
        let mut request = EnqueueRequest {
            payload: Some(payload()),
            ..EnqueueRequest::default()
        };
        change(&mut request);
        request
    }

    fn refused(call: Call) -> (String, String) {
        let error = validate_call(&call).unwrap_err();
        (error.error_code.into_owned(), error.message)
    }

    fn refused_payload(change: impl FnOnce(&mut Payload)) -> (String, String) {
        refused(Call::Enqueue(enqueue(|request| {
            change(request.payload.as_mut().unwrap())
        })))
    }

    fn says(code: ErrorCode, message: &str) -> (String, String) {
        (code.name.to_owned(), message.to_owned())
    }

    fn token() -> Option<OwnershipToken> {
        Some(OwnershipToken {
            sequence_id: 1,
            attempt: 1,
            lease_id: "018f".into(),
        })
    }

    #[test]
    fn a_field_at_its_limit_is_taken() {
        let request = enqueue(|request| {
            request.priority = Some(PRIORITY_MAX);
            let payload = request.payload.as_mut().unwrap();
            payload.resource_id = "i".repeat(NAME_BYTES_MAX);
            payload.request_id = Some("r".repeat(NAME_BYTES_MAX));
            payload.attributes = [("k".into(), "v".repeat(ATTRIBUTES_BYTES_MAX - 1))].into();
            payload.body = Bytes::from(vec![0; BODY_BYTES_MAX]);
        });
        assert_eq!(validate_enqueue(&request.view()), Ok(()));
    }

    #[test]
    fn a_payload_that_is_not_allowed_is_refused_by_field() {
        assert_eq!(
            refused(Call::Enqueue(enqueue(|request| request.payload = None))),
            says(codes::PAYLOAD_REQUIRED, "payload is missing")
        );
        assert_eq!(
            refused_payload(|payload| payload.resource_type = " \t".into()),
            says(
                codes::RESOURCE_TYPE_REQUIRED,
                "payload.resourceType is blank"
            )
        );
        assert_eq!(
            refused_payload(|payload| payload.resource_id.clear()),
            says(codes::RESOURCE_ID_REQUIRED, "payload.resourceId is blank")
        );
        assert_eq!(
            refused_payload(|payload| payload.payload_encoding.clear()),
            says(codes::ENCODING_REQUIRED, "payload.payloadEncoding is blank")
        );
        assert_eq!(
            refused_payload(|payload| payload.partition_key = Some("p".repeat(513))),
            says(
                codes::PAYLOAD_TOO_LARGE,
                "payload.partitionKey has 513 bytes; at most 512 are allowed"
            )
        );
        assert_eq!(
            refused_payload(|payload| {
                payload.attributes = [("k".into(), "v".repeat(16_384))].into();
            }),
            says(
                codes::PAYLOAD_TOO_LARGE,
                "payload.attributes has 16385 bytes; at most 16384 are allowed"
            )
        );
        assert_eq!(
            refused_payload(|payload| payload.body = Bytes::from(vec![0; BODY_BYTES_MAX + 1])),
            says(
                codes::PAYLOAD_TOO_LARGE,
                "payload.body has 4194305 bytes; at most 4194304 are allowed"
            )
        );
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_field() {
        let priority = enqueue(|request| request.priority = Some(256));
        let attempts = enqueue(|request| request.max_attempts = Some(0));
        let delay = enqueue(|request| request.delay_ms = Some(u64::MAX));
        let refusals = [
            (
                Call::Enqueue(priority),
                "priority is 256; it takes 0 to 255",
            ),
            (
                Call::Enqueue(attempts),
                "maxAttempts is 0; it takes 1 or more",
            ),
            (
                Call::Enqueue(delay),
                "delayMs is 18446744073709551615; at most 3153600000000 is allowed",
            ),
            (
                Call::LeaseBatch(LeaseBatchRequest::default()),
                "maxItems is 0; it takes 1 to 1000",
            ),
            (
                Call::Lease(LeaseRequest {
                    lease_ms: Some(0),
                    ..LeaseRequest::default()
                }),
                "leaseMs is 0; it takes 1 or more",
            ),
            (
                Call::Complete(CompleteRequest::default()),
                "ownershipToken is missing",
            ),
            (
                Call::Heartbeat(HeartbeatRequest {
                    ownership_token: Some(OwnershipToken::default()),
                    ..HeartbeatRequest::default()
                }),
                "ownershipToken.leaseId is blank",
            ),
            (Call::Settle(SettleRequest::default()), "items is empty"),
        ];
        for (call, message) in refusals {
            assert_eq!(refused(call), says(codes::BODY_MALFORMED, message));
        }
    }

    #[test]
    fn a_batch_is_bounded_in_items_and_bytes() {
        let batch = |items| {
            Call::EnqueueBatch(EnqueueBatchRequest {
                items,
                namespace: None,
            })
        };
        assert_eq!(
            refused(batch(Vec::new())),
            says(codes::PAYLOAD_REQUIRED, "items is empty")
        );
        assert_eq!(
            refused(batch(vec![enqueue(|_| ()); BATCH_ITEMS_MAX + 1])),
            says(codes::PAYLOAD_TOO_LARGE, "items has more than 1000 entries")
        );
        let heavy = enqueue(|request| {
            request.payload.as_mut().unwrap().body = Bytes::from(vec![0; BODY_BYTES_MAX]);
        });
        let (code, message) = refused(batch(vec![heavy; 4]));
        assert_eq!(code, codes::PAYLOAD_TOO_LARGE.name);
        assert!(message.starts_with("items has 167"), "{message}");

        // What is wrong with one item is not the batch's affair.
        let blank = batch(vec![enqueue(|request| request.payload = None)]);
        assert_eq!(validate_call(&blank), Ok(()));
    }

    #[test]
    fn a_settlement_says_what_it_asks_for() {
        let item = |action: &str| SettleItem {
            ownership_token: token(),
            action: action.into(),
            ..SettleItem::default()
        };
        assert_eq!(
            validate_settle_item(&item("complete").view()),
            Ok(SettleAction::Complete)
        );
        assert_eq!(
            validate_settle_item(&item("fail").view()),
            Ok(SettleAction::Fail)
        );
        assert_eq!(
            validate_settle_item(&item("heartbeat").view()),
            Ok(SettleAction::Heartbeat)
        );
        let error = validate_settle_item(&item("Complete").view()).unwrap_err();
        assert_eq!(
            error.message,
            "action is `Complete`; it takes complete, fail or heartbeat"
        );
        let bare = SettleItem {
            ownership_token: None,
            ..item("complete")
        };
        assert!(
            validate_settle_item(&bare.view())
                .unwrap_err()
                .is(codes::BODY_MALFORMED)
        );
    }
}
