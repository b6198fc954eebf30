//! What the fields of calls about items outside a lease must be: listing them, changing them,
//! taking them out and in.

use super::Error;
use super::call::decode_json;
use super::validate::{
    ATTEMPTS_MAX, ATTRIBUTES_BYTES_MAX, BATCH_BYTES_MAX, ITEM_TTL_MS_MAX, NAME_BYTES_MAX,
    PRIORITY_MAX, REASON_BYTES_MAX, batch_items, max_items, name, pairs_bytes_of, payload_at,
    payload_bytes, within,
};
use crate::messages::{
    BATCH_ITEMS_MAX, DrainRequest, ErrorInfo, JSON_INTEGER_MAX, PendingItem, RestoreRequest,
    Timestamp,
};

/// Items in one page of `peek` or `deadLetters` that does not say how many it wants.
pub const PAGE_ITEMS_DEFAULT: u32 = 100;

/// Items taken out by a `drain` that does not say how many it wants.
pub const DRAIN_ITEMS_DEFAULT: u32 = BATCH_ITEMS_MAX as u32;

/// Hex digits of an origin.
pub const ORIGIN_DIGITS: usize = 32;

/// The latest time an item can carry, in seconds since 1970: the year 2262, with room for any
/// duration to be added to it in nanoseconds.
const TIME_SECONDS_MAX: i64 = i64::MAX / 1_000_000_000;

/// Checks what a page is asked for with. Whether the cursor is one the server knows.
///
/// # Errors
/// `rpc.body.malformed` or `resourcelease.payload.too_large` names the field.
pub(super) fn validate_page(items: Option<u32>, cursor: Option<&str>) -> Result<(), Error> {
    items.map_or(Ok(()), max_items)?;
    name("cursor", cursor)
}

/// Checks a list of items to change.
///
/// # Errors
/// `rpc.body.malformed` for none, `resourcelease.payload.too_large` for too many.
pub(super) fn validate_sequence_ids(sequence_ids: &[u64]) -> Result<(), Error> {
    if sequence_ids.is_empty() {
        return Err(Error::body_malformed("sequenceIds is empty"));
    }
    batch_items("sequenceIds", sequence_ids.len())
}

/// Checks a drain. Whether the shard is one of the namespace's the server knows.
///
/// # Errors
/// `rpc.body.malformed` or `resourcelease.payload.too_large` names the field.
pub(super) fn validate_drain(request: &DrainRequest) -> Result<(), Error> {
    request.max_items.map_or(Ok(()), max_items)?;
    if request.request_id.as_deref() == Some("") {
        return Err(Error::body_malformed(
            "requestId is empty; leave it out or make it one of a kind",
        ));
    }
    name("requestId", request.request_id.as_deref())
}

/// Checks a restore and every item in it: none is taken in where one is wrong.
///
/// # Errors
/// `resourcelease.restore.pending_item_required` for no items; else the first field that is
/// wrong, by its item's index.
pub(super) fn validate_restore(request: &RestoreRequest) -> Result<(), Error> {
    if request.items.is_empty() {
        return Err(Error::pending_item_required("items is empty"));
    }
    batch_items("items", request.items.len())?;
    let bytes = request.items.iter().map(pending_item_bytes).sum();
    within(&"items", bytes, BATCH_BYTES_MAX)?;
    for (index, item) in request.items.iter().enumerate() {
        validate_pending_item(&format!("items[{index}]."), item)?;
    }
    Ok(())
}

/// What an item weighs in a restore, and so in the drain that it comes from: its payload and its
/// last error. What surrounds them is small and fits beside the largest batch.
#[must_use]
pub fn pending_item_bytes(item: &PendingItem) -> usize {
    let error = item.last_error.as_ref().map_or(0, |error| {
        error.message.len()
            + error.code.as_ref().map_or(0, String::len)
            + pairs_bytes_of(&error.metadata)
    });
    let payload = item.payload.as_ref();
    payload.map_or(0, |payload| payload_bytes(&payload.view())) + error
}

/// Reads an origin, 32 hex digits in either case.
///
/// # Errors
/// What the form is.
pub fn parse_origin(text: &str) -> Result<[u8; 16], String> {
    let digits = text.as_bytes();
    if digits.len() != ORIGIN_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
        let shown: String = text.chars().take(40).collect();
        return Err(format!("`{shown}` is not {ORIGIN_DIGITS} hex digits"));
    }
    let number = u128::from_str_radix(text, 16).expect("32 hex digits");
    Ok(number.to_be_bytes())
}

/// Writes an origin as 32 hex digits.
#[must_use]
pub fn origin_text(origin: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(origin))
}

/// Reads one item from its JSON, as a line of a file holds it. Its fields are not checked yet: see
/// [`validate_pending_item`].
///
/// # Errors
/// `rpc.body.malformed` says where it stops making sense.
pub fn parse_pending_item(json: &[u8]) -> Result<PendingItem, Error> {
    decode_json(json)
}

/// Checks one item of a restore; `path` stands before the name of a field that is wrong.
///
/// # Errors
/// The first field that is wrong.
pub fn validate_pending_item(path: &str, item: &PendingItem) -> Result<(), Error> {
    let payload = item.payload.as_ref();
    let missing = || Error::payload_required(format!("{path}payload is missing"));
    let payload = payload.ok_or_else(missing)?;
    payload_at(&format_args!("{path}payload"), &payload.view())?;
    if !(1..=JSON_INTEGER_MAX).contains(&item.sequence_id) {
        return Err(Error::body_malformed(format!(
            "{path}sequenceId is {}; it takes 1 to {JSON_INTEGER_MAX}",
            item.sequence_id
        )));
    }
    parse_origin(&item.origin)
        .map_err(|why| Error::body_malformed(format!("{path}origin: {why}")))?;
    number(path, "attempt", item.attempt, 0, ATTEMPTS_MAX)?;
    number(
        path,
        "maxAttempts",
        item.max_attempts.unwrap_or(1),
        1,
        ATTEMPTS_MAX,
    )?;
    number(
        path,
        "priority",
        item.priority.unwrap_or(0),
        0,
        PRIORITY_MAX,
    )?;
    if item.enqueued_at.is_none() {
        return Err(Error::body_malformed(format!(
            "{path}enqueuedAt is missing"
        )));
    }
    time(path, "enqueuedAt", item.enqueued_at.as_ref())?;
    time(path, "readyAt", item.ready_at.as_ref())?;
    time(path, "expiresAt", item.expires_at.as_ref())?;
    lifetime(path, item)?;
    let lease_id = item
        .last_ownership_token
        .as_ref()
        .map(|token| token.lease_id.as_str());
    name(&format!("{path}lastOwnershipToken.leaseId"), lease_id)?;
    item.last_error
        .as_ref()
        .map_or(Ok(()), |error| validate_error(path, error))
}

fn validate_error(path: &str, error: &ErrorInfo) -> Result<(), Error> {
    let code_bytes = error.code.as_ref().map_or(0, String::len);
    let fields = [
        ("message", error.message.len(), REASON_BYTES_MAX),
        ("code", code_bytes, NAME_BYTES_MAX),
        (
            "metadata",
            pairs_bytes_of(&error.metadata),
            ATTRIBUTES_BYTES_MAX,
        ),
    ];
    for (field, bytes, bytes_max) in fields {
        within(&format_args!("{path}lastError.{field}"), bytes, bytes_max)?;
    }
    Ok(())
}

/// An item's time to live counts from its enqueue, whoever holds the item.
fn lifetime(path: &str, item: &PendingItem) -> Result<(), Error> {
    let (Some(from), Some(to)) = (&item.enqueued_at, &item.expires_at) else {
        return Ok(());
    };
    let nanos =
        |time: &Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let ms = (nanos(to) - nanos(from)).div_euclid(1_000_000);
    if (1..=i128::from(ITEM_TTL_MS_MAX)).contains(&ms) {
        return Ok(());
    }
    Err(Error::body_malformed(format!(
        "{path}expiresAt is {ms} ms after enqueuedAt; it takes 1 to {ITEM_TTL_MS_MAX} (49 days)"
    )))
}

fn number(path: &str, field: &str, found: u32, min: u32, max: u32) -> Result<(), Error> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(Error::body_malformed(format!(
        "{path}{field} is {found}; it takes {min} to {max}"
    )))
}

fn time(path: &str, field: &str, time: Option<&Timestamp>) -> Result<(), Error> {
    let Some(time) = time else { return Ok(()) };
    if (0..=TIME_SECONDS_MAX).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos) {
        return Ok(());
    }
    Err(Error::body_malformed(format!(
        "{path}{field} is not a time from 1970 to 2262"
    )))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::messages::{
        CancelRequest, DeadLettersRequest, Payload, PeekRequest, RedriveRequest,
    };
    use crate::rpc::{Call, codes, validate_call};

    fn refused(call: Call) -> (String, String) {
        let error = validate_call(&call).unwrap_err();
        (error.error_code.into_owned(), error.message)
    }

    #[test]
    fn a_page_and_a_list_of_ids_are_bounded() {
        let peek = |max_items, cursor: usize| {
            Call::Peek(PeekRequest {
                max_items,
                cursor: Some("c".repeat(cursor)),
                namespace: None,
            })
        };
        assert_eq!(validate_call(&peek(None, 512)), Ok(()));
        assert_eq!(validate_call(&peek(Some(1_000), 0)), Ok(()));
        let malformed = codes::BODY_MALFORMED.name.to_owned();
        let too_large = codes::PAYLOAD_TOO_LARGE.name.to_owned();
        let max_items = |n| format!("maxItems is {n}; it takes 1 to 1000");
        assert_eq!(refused(peek(Some(0), 0)), (malformed.clone(), max_items(0)));
        let dead = DeadLettersRequest {
            max_items: Some(1_001),
            ..DeadLettersRequest::default()
        };
        assert_eq!(
            refused(Call::DeadLetters(dead)),
            (malformed.clone(), max_items(1_001))
        );
        assert_eq!(
            refused(peek(None, 513)),
            (
                too_large,
                "cursor has 513 bytes; at most 512 are allowed".into()
            )
        );
        let empty = (malformed, "sequenceIds is empty".into());
        assert_eq!(refused(Call::Redrive(RedriveRequest::default())), empty);
        assert_eq!(refused(Call::Cancel(CancelRequest::default())), empty);
    }

    #[test]
    fn a_drain_is_bounded_and_its_request_id_says_something() {
        let drain = |max_items, request_id: &str| {
            Call::Drain(DrainRequest {
                max_items,
                request_id: Some(request_id.into()),
                ..DrainRequest::default()
            })
        };
        assert_eq!(validate_call(&Call::Drain(DrainRequest::default())), Ok(()));
        assert_eq!(validate_call(&drain(Some(1), "r")), Ok(()));
        assert!(refused(drain(Some(0), "r")).1.starts_with("maxItems is 0"));
        assert!(refused(drain(None, "")).1.starts_with("requestId is empty"));
        assert!(
            refused(drain(None, &"r".repeat(513)))
                .1
                .starts_with("requestId has 513")
        );
    }

    #[test]
    fn a_restore_is_bounded_by_what_its_payloads_and_errors_weigh() {
        let item = |body: usize, error: usize| PendingItem {
            payload: Some(Payload {
                body: Bytes::from(vec![0; body]),
                ..Payload::default()
            }),
            last_error: Some(ErrorInfo {
                message: "e".repeat(error),
                ..ErrorInfo::default()
            }),
            ..PendingItem::default()
        };
        assert_eq!(pending_item_bytes(&item(7, 5)), 12);
        let request = Call::Restore(RestoreRequest {
            items: vec![
                item(4 << 20, 0),
                item(4 << 20, 0),
                item(4 << 20, 0),
                item(4 << 20, 1),
            ],
            namespace: None,
        });
        assert_eq!(
            refused(request),
            (
                codes::PAYLOAD_TOO_LARGE.name.into(),
                "items has 16777217 bytes; at most 16777216 are allowed".into()
            )
        );
    }

    #[test]
    fn an_origin_reads_back_as_it_was_written() {
        let origin = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(parse_origin(&origin_text(origin)), Ok(origin));
        assert_eq!(
            parse_origin(&origin_text(origin).to_uppercase()),
            Ok(origin)
        );
        assert!(parse_origin("é00000000000000000000000000000").is_err());
    }
}
