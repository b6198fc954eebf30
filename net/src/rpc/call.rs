//! Calls and replies, and their bodies in each encoding.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::de::DeserializeOwned;

use super::validate::too_many;
use super::{Encoding, Error, Procedure};
use crate::messages::json::Object;
use crate::messages::{
    BATCH_ITEMS_MAX, CancelRequest, CancelResponse, CompleteRequest, CompleteResponse,
    DeadLettersRequest, DeadLettersResponse, DrainRequest, DrainResponse, EnqueueBatchRequest,
    EnqueueBatchResponse, EnqueueRequest, EnqueueResponse, ExplainRequest, ExplainResponse,
    FailRequest, FailResponse, HeartbeatRequest, HeartbeatResponse, LeaseBatchRequest,
    LeaseBatchResponse, LeaseRequest, LeaseResponse, PeekRequest, PeekResponse, RedriveRequest,
    RedriveResponse, RestoreRequest, RestoreResponse, SettleRequest, SettleResponse, StatsRequest,
    StatsResponse,
};

/// A request to the lease queue.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the procedure of its name")]
pub enum Call {
    Enqueue(EnqueueRequest),
    EnqueueBatch(EnqueueBatchRequest),
    Lease(LeaseRequest),
    LeaseBatch(LeaseBatchRequest),
    Heartbeat(HeartbeatRequest),
    Complete(CompleteRequest),
    Fail(FailRequest),
    Settle(SettleRequest),
    Stats(StatsRequest),
    Peek(PeekRequest),
    DeadLetters(DeadLettersRequest),
    Redrive(RedriveRequest),
    Cancel(CancelRequest),
    Explain(ExplainRequest),
    Drain(DrainRequest),
    Restore(RestoreRequest),
}

/// A successful reply of the lease queue.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the procedure of its name")]
#[allow(
    clippy::large_enum_variant,
    reason = "one on the stack, soon encoded; a box is dearer"
)]
pub enum Reply {
    Enqueue(EnqueueResponse),
    EnqueueBatch(EnqueueBatchResponse),
    Lease(LeaseResponse),
    LeaseBatch(LeaseBatchResponse),
    Heartbeat(HeartbeatResponse),
    Complete(CompleteResponse),
    Fail(FailResponse),
    Settle(SettleResponse),
    Stats(StatsResponse),
    Peek(PeekResponse),
    DeadLetters(DeadLettersResponse),
    Redrive(RedriveResponse),
    Cancel(CancelResponse),
    Explain(ExplainResponse),
    Drain(DrainResponse),
    Restore(RestoreResponse),
}

/// Runs an expression on the message inside a [`Call`] or [`Reply`].
macro_rules! each {
    ($kind:ident, $value:expr, $message:ident => $then:expr) => {
        match $value {
            $kind::Enqueue($message) => $then,
            $kind::EnqueueBatch($message) => $then,
            $kind::Lease($message) => $then,
            $kind::LeaseBatch($message) => $then,
            $kind::Heartbeat($message) => $then,
            $kind::Complete($message) => $then,
            $kind::Fail($message) => $then,
            $kind::Settle($message) => $then,
            $kind::Stats($message) => $then,
            $kind::Peek($message) => $then,
            $kind::DeadLetters($message) => $then,
            $kind::Redrive($message) => $then,
            $kind::Cancel($message) => $then,
            $kind::Explain($message) => $then,
            $kind::Drain($message) => $then,
            $kind::Restore($message) => $then,
        }
    };
}

/// Decodes the message of a procedure into its variant of [`Call`] or [`Reply`].
macro_rules! decode_each {
    ($kind:ident, $procedure:expr, $encoding:expr, $body:expr) => {
        match $procedure {
            Procedure::Enqueue => decode($encoding, $body).map($kind::Enqueue),
            Procedure::EnqueueBatch => decode($encoding, $body).map($kind::EnqueueBatch),
            Procedure::Lease => decode($encoding, $body).map($kind::Lease),
            Procedure::LeaseBatch => decode($encoding, $body).map($kind::LeaseBatch),
            Procedure::Heartbeat => decode($encoding, $body).map($kind::Heartbeat),
            Procedure::Complete => decode($encoding, $body).map($kind::Complete),
            Procedure::Fail => decode($encoding, $body).map($kind::Fail),
            Procedure::Settle => decode($encoding, $body).map($kind::Settle),
            Procedure::Stats => decode($encoding, $body).map($kind::Stats),
            Procedure::Peek => decode($encoding, $body).map($kind::Peek),
            Procedure::DeadLetters => decode($encoding, $body).map($kind::DeadLetters),
            Procedure::Redrive => decode($encoding, $body).map($kind::Redrive),
            Procedure::Cancel => decode($encoding, $body).map($kind::Cancel),
            Procedure::Explain => decode($encoding, $body).map($kind::Explain),
            Procedure::Drain => decode($encoding, $body).map($kind::Drain),
            Procedure::Restore => decode($encoding, $body).map($kind::Restore),
        }
    };
}

impl Call {
    /// The procedure that takes this request.
    #[must_use]
    pub fn procedure(&self) -> Procedure {
        match self {
            Self::Enqueue(_) => Procedure::Enqueue,
            Self::EnqueueBatch(_) => Procedure::EnqueueBatch,
            Self::Lease(_) => Procedure::Lease,
            Self::LeaseBatch(_) => Procedure::LeaseBatch,
            Self::Heartbeat(_) => Procedure::Heartbeat,
            Self::Complete(_) => Procedure::Complete,
            Self::Fail(_) => Procedure::Fail,
            Self::Settle(_) => Procedure::Settle,
            Self::Stats(_) => Procedure::Stats,
            Self::Peek(_) => Procedure::Peek,
            Self::DeadLetters(_) => Procedure::DeadLetters,
            Self::Redrive(_) => Procedure::Redrive,
            Self::Cancel(_) => Procedure::Cancel,
            Self::Explain(_) => Procedure::Explain,
            Self::Drain(_) => Procedure::Drain,
            Self::Restore(_) => Procedure::Restore,
        }
    }
}

impl Call {
    /// The namespace that the message itself names, for faces whose procedure does not.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        each!(Call, self, message => message.namespace.as_deref())
    }
}

impl Reply {
    /// The procedure that gives this reply.
    #[must_use]
    pub fn procedure(&self) -> Procedure {
        match self {
            Self::Enqueue(_) => Procedure::Enqueue,
            Self::EnqueueBatch(_) => Procedure::EnqueueBatch,
            Self::Lease(_) => Procedure::Lease,
            Self::LeaseBatch(_) => Procedure::LeaseBatch,
            Self::Heartbeat(_) => Procedure::Heartbeat,
            Self::Complete(_) => Procedure::Complete,
            Self::Fail(_) => Procedure::Fail,
            Self::Settle(_) => Procedure::Settle,
            Self::Stats(_) => Procedure::Stats,
            Self::Peek(_) => Procedure::Peek,
            Self::DeadLetters(_) => Procedure::DeadLetters,
            Self::Redrive(_) => Procedure::Redrive,
            Self::Cancel(_) => Procedure::Cancel,
            Self::Explain(_) => Procedure::Explain,
            Self::Drain(_) => Procedure::Drain,
            Self::Restore(_) => Procedure::Restore,
        }
    }
}

/// Reads the body of a call. Its fields are not checked yet: see [`super::validate_call`].
///
/// # Errors
/// `rpc.body.malformed` says where the body stops making sense, `rpc.encoding.unsupported` that
/// it is neither JSON nor protobuf, `resourcelease.payload.too_large` that a batch has more than
/// [`BATCH_ITEMS_MAX`] items.
pub fn decode_call(procedure: Procedure, encoding: Encoding, body: &Bytes) -> Result<Call, Error> {
    if encoding == Encoding::Proto {
        // Counted before anything is built: two bytes on the wire are hundreds in memory.
        let (field, entries) = match procedure {
            Procedure::EnqueueBatch | Procedure::Settle | Procedure::Restore => {
                ("items", entries_in_proto(body, false))
            }
            Procedure::Redrive | Procedure::Cancel => ("sequenceIds", entries_in_proto(body, true)),
            _ => ("", 0),
        };
        if entries > BATCH_ITEMS_MAX {
            return Err(too_many(field));
        }
    }
    decode_each!(Call, procedure, encoding, body)
}

/// Reads the body of a successful reply.
///
/// # Errors
/// As [`decode_call`].
pub fn decode_reply(
    procedure: Procedure,
    encoding: Encoding,
    body: &Bytes,
) -> Result<Reply, Error> {
    decode_each!(Reply, procedure, encoding, body)
}

/// Writes the body of a call.
///
/// # Errors
/// `rpc.encoding.unsupported` for [`Encoding::Raw`].
pub fn encode_call(encoding: Encoding, call: &Call) -> Result<Bytes, Error> {
    Ok(encode_call_behind(0, encoding, call)?.freeze())
}

/// Writes the body of a call behind so many zeros, for a prefix that tells its length.
///
/// # Errors
/// As [`encode_call`].
pub(crate) fn encode_call_behind(
    zeros: usize,
    encoding: Encoding,
    call: &Call,
) -> Result<BytesMut, Error> {
    match encoding {
        Encoding::Raw => Err(raw_unsupported()),
        _ => Ok(each!(Call, call, message => encode(encoding, message, zeros))),
    }
}

/// A successful reply, in whatever form it is until it is written.
pub trait EncodeReply {
    /// Writes its body behind so many zeros, for a prefix that tells its length.
    ///
    /// # Panics
    /// On [`Encoding::Raw`], which [`decode_call`] refuses: no call in it can have succeeded.
    #[must_use]
    fn encode_behind(&self, zeros: usize, encoding: Encoding) -> BytesMut;
}

impl EncodeReply for Reply {
    fn encode_behind(&self, zeros: usize, encoding: Encoding) -> BytesMut {
        each!(Reply, self, message => encode(encoding, message, zeros))
    }
}

/// Writes the body of a reply.
///
/// # Panics
/// As [`EncodeReply::encode_behind`].
#[must_use]
pub fn encode_reply(encoding: Encoding, reply: &impl EncodeReply) -> Bytes {
    reply.encode_behind(0, encoding).freeze()
}

fn raw_unsupported() -> Error {
    Error::encoding_unsupported("lease procedures take json or proto, not raw")
}

fn decode<T>(encoding: Encoding, body: &Bytes) -> Result<T, Error>
where
    T: Message + Default + DeserializeOwned,
{
    match encoding {
        Encoding::Json => decode_json(body),
        // Cloning the handle, not the bytes: bodies in the message share the buffer.
        Encoding::Proto => T::decode(body.clone())
            .map_err(|error| Error::body_malformed(format!("malformed protobuf: {error}"))),
        Encoding::Raw => Err(raw_unsupported()),
    }
}

/// Reads JSON; only a body that fails is read again with the path of each field in mind.
pub(super) fn decode_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if let Ok(Object(message)) = serde_json::from_slice(body) {
        return Ok(message);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let place = match serde_path_to_error::deserialize::<_, Object<T>>(&mut reader) {
        Ok(_) => reader
            .end()
            .err()
            .map_or_else(String::new, |error| error.to_string()),
        Err(error) if error.path().iter().next().is_none() => error.into_inner().to_string(),
        Err(error) => error.to_string(),
    };
    Err(Error::body_malformed(format!("malformed JSON: {place}")))
}

fn encode<T: Message + serde::Serialize>(
    encoding: Encoding,
    message: &T,
    zeros: usize,
) -> BytesMut {
    match encoding {
        Encoding::Json => {
            let mut out = vec![0; zeros];
            serde_json::to_writer(&mut out, message).expect("messages serialise");
            // Nobody else holds it, so nothing is copied.
            Bytes::from(out).into()
        }
        Encoding::Proto => {
            let mut out = BytesMut::with_capacity(zeros + message.encoded_len());
            out.put_bytes(0, zeros);
            message.encode_raw(&mut out);
            out
        }
        Encoding::Raw => panic!("a raw call to a lease procedure succeeded"),
    }
}

/// How many entries field 1, the list of every batch, has: messages, or integers that stand alone
/// or packed. Counting ends at the first byte that makes no sense, which decoding then reports.
fn entries_in_proto(body: &Bytes, integers: bool) -> usize {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

    let mut rest = body.clone();
    let mut entries = 0;
    while !rest.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut rest) else {
            break;
        };
        let packed = integers && tag == 1 && wire_type == WireType::LengthDelimited;
        if packed {
            let Ok(bytes) = decode_varint(&mut rest) else {
                break;
            };
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(rest.len());
            // Every varint has one last byte, the one without the top bit.
            entries += rest
                .split_to(bytes)
                .iter()
                .filter(|&&byte| byte < 0x80)
                .count();
            continue;
        }
        entries += usize::from(tag == 1);
        if skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::codes;

    fn malformed(procedure: Procedure, json: &str) -> String {
        let body = Bytes::copy_from_slice(json.as_bytes());
        let error = decode_call(procedure, Encoding::Json, &body).unwrap_err();
        assert!(error.is(codes::BODY_MALFORMED), "{error}");
        error.message
    }

    #[test]
    fn malformed_json_is_refused_with_its_place() {
        let refusals = [
            (
                Procedure::Enqueue,
                "",
                "malformed JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                Procedure::Enqueue,
                "[]",
                "malformed JSON: invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                Procedure::Enqueue,
                r#"{"payload": {"resourceId": 7}}"#,
                "malformed JSON: payload.resourceId: invalid type: integer `7`, expected a string \
                 at line 1 column 28",
            ),
            (
                Procedure::Enqueue,
                r#"{"payload": ["table", "users/7"]}"#,
                "malformed JSON: payload: invalid type: sequence, expected an object \
                 at line 1 column 12",
            ),
            (
                Procedure::Enqueue,
                r#"{"payload": {"body": "aGk"}}"#,
                "malformed JSON: payload.body: not padded base64: Invalid padding \
                 at line 1 column 26",
            ),
            (
                Procedure::Enqueue,
                r#"{"delayMs": 9007199254740992}"#,
                "malformed JSON: delayMs: integer `9007199254740992` is above 9007199254740991, \
                 the largest that JSON carries exactly at line 1 column 29",
            ),
            (
                Procedure::EnqueueBatch,
                r#"{"items": [{}, {"priority": "high"}]}"#,
                "malformed JSON: items[1].priority: invalid type: string \"high\", expected u32 \
                 at line 1 column 34",
            ),
            (
                Procedure::Cancel,
                r#"{"sequenceIds": [1, "2"]}"#,
                "malformed JSON: sequenceIds[1]: invalid type: string \"2\", expected u64 \
                 at line 1 column 23",
            ),
            (
                Procedure::Redrive,
                r#"{"sequenceIds": [9007199254740992]}"#,
                "malformed JSON: sequenceIds[0]: integer `9007199254740992` is above \
                 9007199254740991, the largest that JSON carries exactly at line 1 column 34",
            ),
            (
                Procedure::Restore,
                r#"{"items": [{"origin": 7}]}"#,
                "malformed JSON: items[0].origin: invalid type: integer `7`, expected a string \
                 at line 1 column 23",
            ),
            (
                Procedure::Stats,
                "{} {}",
                "malformed JSON: trailing characters at line 1 column 4",
            ),
        ];
        for (procedure, json, message) in refusals {
            assert_eq!(malformed(procedure, json), message);
        }
    }

    #[test]
    fn malformed_protobuf_is_refused_with_its_place() {
        // Field 1, the payload, whose own field 1 has the wire type of an integer.
        let body = Bytes::from_static(&[0x0a, 0x02, 0x08, 0x01]);
        let error = decode_call(Procedure::Enqueue, Encoding::Proto, &body).unwrap_err();
        assert!(error.is(codes::BODY_MALFORMED));
        assert_eq!(
            error.message,
            "malformed protobuf: failed to decode Protobuf message: \
             Payload.resource_type: EnqueueRequest.payload: \
             invalid wire type: Varint (expected LengthDelimited)"
        );
    }

    #[test]
    fn unknown_fields_and_nulls_are_taken() {
        let json = br#"{"payload": {"resourceType": "t", "body": null, "attributes": null,
            "requestId": null, "colour": {"deep": [1]}}, "delayMs": null, "later": true}"#;
        let body = Bytes::from_static(json);
        let call = decode_call(Procedure::Enqueue, Encoding::Json, &body).unwrap();
        let Call::Enqueue(request) = call else {
            panic!("an enqueue decodes as one");
        };
        assert_eq!(request.delay_ms, None);
        assert_eq!(request.payload.unwrap().resource_type, "t");
    }

    #[test]
    fn raw_bodies_are_refused() {
        let error = decode_call(Procedure::Stats, Encoding::Raw, &Bytes::new()).unwrap_err();
        assert!(error.is(codes::ENCODING_UNSUPPORTED));
        let call = Call::Stats(StatsRequest::default());
        assert!(
            encode_call(Encoding::Raw, &call)
                .unwrap_err()
                .is(codes::ENCODING_UNSUPPORTED)
        );
    }

    #[test]
    fn a_batch_of_too_many_items_is_refused_before_it_fills_the_memory() {
        let hostile = [0x0a, 0x00].repeat(4_000_000);
        let body = Bytes::from(hostile);
        let error = decode_call(Procedure::EnqueueBatch, Encoding::Proto, &body).unwrap_err();
        assert!(error.is(codes::PAYLOAD_TOO_LARGE));

        // Ids, packed and one by one: a byte on the wire is eight in memory.
        let packed = [&[0x0a, 0x80, 0x80, 0x40][..], &[0x01; 1 << 20]].concat();
        let single = [0x08, 0x01].repeat(1_001);
        let split = [
            &[0x0a, 0x83, 0x04][..],
            &[0x01; 515],
            &[0x0a, 0x83, 0x04],
            &[0x01; 515],
        ]
        .concat();
        for body in [packed, single, split] {
            let error = decode_call(Procedure::Cancel, Encoding::Proto, &body.into()).unwrap_err();
            assert_eq!(error.message, "sequenceIds has more than 1000 entries");
        }

        let json = format!("{{\"items\":[{}{{}}]}}", "{},".repeat(100_000));
        let body = Bytes::from(json);
        let call = decode_call(Procedure::Settle, Encoding::Json, &body).unwrap();
        let error = crate::rpc::validate_call(&call).unwrap_err();
        assert!(error.is(codes::PAYLOAD_TOO_LARGE));
    }
}
