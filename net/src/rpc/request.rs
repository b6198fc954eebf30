//! Calls as a server takes them: what comes in great numbers is read where it lies.

use bytes::Bytes;

use super::validate::{
    payload_bytes, validate_call, validate_enqueue, validate_enqueue_batch, validate_settle,
};
use super::{Call, Encoding, Error, Procedure, decode_call};
use crate::messages::read::{EnqueueItems, SettleItems};

/// A [`Call`] as a server takes it.
#[derive(Debug, Clone)]
pub enum Request {
    /// One item to be enqueued.
    Enqueue(EnqueueItems),
    /// Items to be enqueued.
    EnqueueBatch(EnqueueItems),
    /// Leases to be settled.
    Settle(SettleItems),
    /// Anything else.
    Call(Call),
}

impl From<Call> for Request {
    fn from(call: Call) -> Request {
        match call {
            Call::Enqueue(item) => Request::Enqueue(EnqueueItems::from_one(&item)),
            Call::EnqueueBatch(batch) => Request::EnqueueBatch(EnqueueItems::from_batch(&batch)),
            Call::Settle(batch) => Request::Settle(SettleItems::from_message(&batch)),
            other => Request::Call(other),
        }
    }
}

impl Request {
    /// The procedure that takes it.
    #[must_use]
    pub fn procedure(&self) -> Procedure {
        match self {
            Request::Enqueue(_) => Procedure::Enqueue,
            Request::EnqueueBatch(_) => Procedure::EnqueueBatch,
            Request::Settle(_) => Procedure::Settle,
            Request::Call(call) => call.procedure(),
        }
    }

    /// The namespace that the message itself names, for faces whose procedure does not.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Request::Enqueue(items) | Request::EnqueueBatch(items) => items.namespace(),
            Request::Settle(items) => items.namespace(),
            Request::Call(call) => call.namespace(),
        }
    }
}

/// Reads the body of a call. Its fields are not checked yet: see [`validate_request`].
///
/// # Errors
/// As [`decode_call`].
pub fn decode_request(
    procedure: Procedure,
    encoding: Encoding,
    body: &Bytes,
) -> Result<Request, Error> {
    let in_place = match (encoding, procedure) {
        (Encoding::Proto, Procedure::Enqueue) => {
            EnqueueItems::decode_one(body).map(Request::Enqueue)
        }
        (Encoding::Proto, Procedure::EnqueueBatch) => {
            EnqueueItems::decode_batch(body).map(Request::EnqueueBatch)
        }
        (Encoding::Proto, Procedure::Settle) => SettleItems::decode(body).map(Request::Settle),
        _ => None,
    };
    match in_place {
        Some(request) => Ok(request),
        None => decode_call(procedure, encoding, body).map(Request::from),
    }
}

/// As [`validate_call`].
///
/// # Errors
/// The first field that is wrong.
pub fn validate_request(request: &Request) -> Result<(), Error> {
    match request {
        Request::Enqueue(item) => validate_enqueue(&item.get(0)),
        Request::EnqueueBatch(items) => {
            let payloads = (0..items.len()).filter_map(|index| items.get(index).payload);
            let bytes = payloads.map(|payload| payload_bytes(&payload));
            validate_enqueue_batch(items.len(), bytes.sum())
        }
        Request::Settle(items) => validate_settle(items.len()),
        Request::Call(call) => validate_call(call),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::{collection, option};
    use prost::Message;

    use super::*;
    use crate::messages::{
        EnqueueBatchRequest, EnqueueRequest, OwnershipToken, Payload, SettleItem, SettleRequest,
    };
    use crate::rpc::codes;

    fn payload() -> impl Strategy<Value = Payload> {
        (
            [".{0,9}", ".{0,200}", ".{0,9}"],
            option::of(".{0,9}"),
            collection::vec(any::<u8>(), 0..300),
            collection::btree_map(".{0,3}", ".{0,9}", 0..4),
            option::of(".{0,9}"),
        )
            .prop_map(|(texts, partition_key, body, attributes, request_id)| {
                let [resource_type, resource_id, payload_encoding] = texts;
                Payload {
                    resource_type,
                    resource_id,
                    partition_key,
                    payload_encoding,
                    body: body.into(),
                    attributes,
                    request_id,
                }
            })
    }

    fn item() -> impl Strategy<Value = EnqueueRequest> {
        (
            option::of(payload()),
            option::of(any::<u64>()),
            option::of(any::<u32>()),
            option::of(any::<u32>()),
            option::of(any::<u64>()),
        )
            .prop_map(|(payload, delay_ms, priority, max_attempts, ttl_ms)| {
                EnqueueRequest {
                    payload,
                    delay_ms,
                    priority,
                    max_attempts,
                    ttl_ms,
                    namespace: None,
                }
            })
    }

    fn settlement() -> impl Strategy<Value = SettleItem> {
        (
            option::of((any::<u64>(), any::<u32>(), ".{0,40}")),
            (".{0,9}", option::of(".{0,9}"), option::of(".{0,9}")),
            option::of(any::<bool>()),
            (option::of(any::<u64>()), option::of(any::<u64>())),
            collection::btree_map(".{0,3}", ".{0,9}", 0..4),
        )
            .prop_map(
                |(token, (action, reason, error_code), requeue, ms, metadata)| SettleItem {
                    ownership_token: token.map(|(sequence_id, attempt, lease_id)| OwnershipToken {
                        sequence_id,
                        attempt,
                        lease_id,
                    }),
                    action,
                    reason,
                    error_code,
                    requeue,
                    delay_ms: ms.0,
                    metadata,
                    extend_ms: ms.1,
                },
            )
    }

    /// The messages that were read where they lie.
    fn message(view: &EnqueueItems, index: usize) -> EnqueueRequest {
        let item = view.get(index);
        EnqueueRequest {
            payload: item.payload.map(|payload| Payload {
                resource_type: payload.resource_type.into(),
                resource_id: payload.resource_id.into(),
                partition_key: payload.partition_key.map(str::to_owned),
                payload_encoding: payload.payload_encoding.into(),
                body: payload.body.to_vec().into(),
                attributes: payload
                    .attributes
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
                request_id: payload.request_id.map(str::to_owned),
            }),
            delay_ms: item.delay_ms,
            priority: item.priority,
            max_attempts: item.max_attempts,
            ttl_ms: item.ttl_ms,
            namespace: None,
        }
    }

    fn settlements(items: &SettleItems) -> Vec<SettleItem> {
        items
            .iter()
            .map(|item| SettleItem {
                ownership_token: item.ownership_token.map(|token| OwnershipToken {
                    sequence_id: token.sequence_id,
                    attempt: token.attempt,
                    lease_id: token.lease_id.into(),
                }),
                action: item.action.into(),
                reason: item.reason.map(str::to_owned),
                error_code: item.error_code.map(str::to_owned),
                requeue: item.requeue,
                delay_ms: item.delay_ms,
                metadata: item
                    .metadata
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
                extend_ms: item.extend_ms,
            })
            .collect()
    }

    /// What a request says, whichever way it was read.
    fn said(request: Request) -> Call {
        let namespace = request.namespace().map(str::to_owned);
        match request {
            Request::Enqueue(item) => Call::Enqueue(EnqueueRequest {
                namespace,
                ..message(&item, 0)
            }),
            Request::EnqueueBatch(items) => Call::EnqueueBatch(EnqueueBatchRequest {
                items: (0..items.len()).map(|i| message(&items, i)).collect(),
                namespace,
            }),
            Request::Settle(items) => Call::Settle(SettleRequest {
                items: settlements(&items),
                namespace,
            }),
            Request::Call(call) => call,
        }
    }

    /// As the message types read it.
    fn plainly(procedure: Procedure, body: &Bytes) -> Result<Call, Error> {
        let mut call = decode_call(procedure, Encoding::Proto, body)?;
        if let Call::EnqueueBatch(batch) = &mut call {
            for item in &mut batch.items {
                // The batch's namespace is that of all.
                item.namespace = None;
            }
        }
        Ok(call)
    }

    const PROCEDURES: [Procedure; 3] = [
        Procedure::Enqueue,
        Procedure::EnqueueBatch,
        Procedure::Settle,
    ];

    proptest! {
        #[test]
        fn items_are_read_as_their_messages(
            items in collection::vec(item(), 0..5),
            namespace in option::of(".{0,9}"),
        ) {
            if let Some(first) = items.first() {
                let first = EnqueueRequest { namespace: namespace.clone(), ..first.clone() };
                let body = Bytes::from(first.encode_to_vec());
                let read = EnqueueItems::decode_one(&body).map(Request::Enqueue);
                prop_assert_eq!(read.map(said), Some(Call::Enqueue(first)));
            }
            let batch = EnqueueBatchRequest { items, namespace };
            let body = Bytes::from(batch.encode_to_vec());
            let read = EnqueueItems::decode_batch(&body).map(Request::EnqueueBatch);
            prop_assert_eq!(read.map(said), Some(Call::EnqueueBatch(batch)));
        }

        #[test]
        fn settlements_are_read_as_their_messages(
            items in collection::vec(settlement(), 0..5),
            namespace in option::of(".{0,9}"),
        ) {
            let batch = SettleRequest { items, namespace };
            let body = Bytes::from(batch.encode_to_vec());
            let read = SettleItems::decode(&body).map(Request::Settle);
            prop_assert_eq!(read.map(said), Some(Call::Settle(batch)));
        }

        /// Messages that are cut, glued together and damaged are those that a library takes,
        /// and mean the same.
        #[test]
        fn whatever_comes_is_read_as_the_message_types_do(
            items in collection::vec(item(), 1..3),
            settled in collection::vec(settlement(), 1..3),
            cut in any::<prop::sample::Index>(),
            flips in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            procedure in prop::sample::select(&PROCEDURES[..]),
            twice in any::<bool>(),
        ) {
            let mut body = match procedure {
                Procedure::Enqueue => items[0].encode_to_vec(),
                Procedure::EnqueueBatch => {
                    EnqueueBatchRequest { items, namespace: None }.encode_to_vec()
                }
                _ => SettleRequest { items: settled, namespace: None }.encode_to_vec(),
            };
            if twice {
                body.extend_from_within(..);
            }
            for (at, byte) in flips {
                if !body.is_empty() {
                    let at = at.index(body.len());
                    body[at] = byte;
                }
            }
            body.truncate(body.len() - cut.index(body.len() + 1) / 8);
            let body = Bytes::from(body);
            let read = decode_request(procedure, Encoding::Proto, &body).map(said);
            prop_assert_eq!(read, plainly(procedure, &body));
        }
    }

    #[test]
    fn more_items_than_a_batch_may_have_are_refused() {
        let batch = EnqueueBatchRequest {
            items: vec![EnqueueRequest::default(); 1_001],
            namespace: None,
        };
        let body = Bytes::from(batch.encode_to_vec());
        let error = decode_request(Procedure::EnqueueBatch, Encoding::Proto, &body).unwrap_err();
        assert!(error.is(codes::PAYLOAD_TOO_LARGE), "{error}");
        // JSON is not counted before it is read.
        let request = Request::from(Call::EnqueueBatch(batch));
        let error = validate_request(&request).unwrap_err();
        assert!(error.is(codes::PAYLOAD_TOO_LARGE), "{error}");
    }

    #[test]
    fn of_two_attributes_with_one_name_the_last_counts() {
        let attribute = |name: &str, value: &str| {
            let entry = [
                &[0x0a, name.len() as u8][..],
                name.as_bytes(),
                &[0x12, value.len() as u8],
                value.as_bytes(),
            ]
            .concat();
            [&[0x32, entry.len() as u8][..], &entry].concat()
        };
        let payload = [
            attribute("b", "1"),
            attribute("a", "2"),
            attribute("b", "3"),
        ]
        .concat();
        let body = Bytes::from([&[0x0a, payload.len() as u8][..], &payload].concat());
        let item = EnqueueItems::decode_one(&body).expect("it is plain");
        let payload = item.get(0).payload.expect("there is one");
        assert_eq!(
            payload.attributes.collect::<Vec<_>>(),
            [("a", "2"), ("b", "3")]
        );
    }
}
