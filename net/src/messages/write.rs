//! Replies that carry many items, written as protobuf from wherever their parts lie.
//!
//! The bytes are those that the message types would give; nothing is built to be written.

use bytes::{BufMut, BytesMut};
use prost::Message;

use super::view::{PayloadView, TokenView};
use super::{Error, ErrorInfo, Stats, Timestamp};
use crate::wire::varint;

/// A message whose parts lie elsewhere.
pub trait View {
    /// Writes its fields, or counts their bytes.
    fn put(&self, out: &mut impl Out);

    /// How many bytes it takes.
    fn length(&self) -> usize {
        let mut length = Length(0);
        self.put(&mut length);
        length.0
    }
}

/// Where fields go.
pub trait Out {
    /// A number as a varint.
    fn varint(&mut self, value: u64);
    /// Bytes as they are.
    fn bytes(&mut self, bytes: &[u8]);
    /// The fields of a message of prost's, which are `length` bytes.
    fn message(&mut self, message: &impl Message, length: usize);
}

/// Counts.
struct Length(usize);

impl Out for Length {
    fn varint(&mut self, value: u64) {
        self.0 += varint::length(value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn message(&mut self, _: &impl Message, length: usize) {
        self.0 += length;
    }
}

impl Out for BytesMut {
    fn varint(&mut self, value: u64) {
        varint::write(self, value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn message(&mut self, message: &impl Message, _: usize) {
        message.encode_raw(self);
    }
}

/// Protobuf's types of fields that are here.
const NUMBER: u64 = 0;
const PIECE: u64 = 2;

fn key(out: &mut impl Out, tag: u64, kind: u64) {
    out.varint(tag << 3 | kind);
}

/// A number that is there even if it is 0.
fn number(out: &mut impl Out, tag: u64, value: u64) {
    key(out, tag, NUMBER);
    out.varint(value);
}

/// A number that is absent if it is 0.
fn plain_number(out: &mut impl Out, tag: u64, value: u64) {
    if value != 0 {
        number(out, tag, value);
    }
}

/// Bytes that are there even if they are none.
fn piece(out: &mut impl Out, tag: u64, bytes: &[u8]) {
    key(out, tag, PIECE);
    out.varint(bytes.len() as u64);
    out.bytes(bytes);
}

/// Bytes that are absent if they are none.
fn plain_piece(out: &mut impl Out, tag: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        piece(out, tag, bytes);
    }
}

/// A message in a field.
pub fn nested(out: &mut impl Out, tag: u64, view: &impl View) {
    key(out, tag, PIECE);
    out.varint(view.length() as u64);
    view.put(out);
}

fn message(out: &mut impl Out, tag: u64, message: &impl Message) {
    let length = message.encoded_len();
    key(out, tag, PIECE);
    out.varint(length as u64);
    out.message(message, length);
}

impl<'a, A: Iterator<Item = (&'a str, &'a str)> + Clone> View for PayloadView<'a, A> {
    fn put(&self, out: &mut impl Out) {
        plain_piece(out, 1, self.resource_type.as_bytes());
        plain_piece(out, 2, self.resource_id.as_bytes());
        if let Some(text) = self.partition_key {
            piece(out, 3, text.as_bytes());
        }
        plain_piece(out, 4, self.payload_encoding.as_bytes());
        plain_piece(out, 5, self.body);
        for pair in self.attributes.clone() {
            nested(out, 6, &pair);
        }
        if let Some(text) = self.request_id {
            piece(out, 7, text.as_bytes());
        }
    }
}

/// An entry of a map of texts.
impl View for (&str, &str) {
    fn put(&self, out: &mut impl Out) {
        plain_piece(out, 1, self.0.as_bytes());
        plain_piece(out, 2, self.1.as_bytes());
    }
}

impl View for Timestamp {
    fn put(&self, out: &mut impl Out) {
        // What is below zero takes ten bytes, as prost and the standard have it.
        plain_number(out, 1, self.seconds as u64);
        plain_number(out, 2, i64::from(self.nanos) as u64);
    }
}

impl View for TokenView<'_> {
    fn put(&self, out: &mut impl Out) {
        plain_number(out, 1, self.sequence_id);
        plain_number(out, 2, self.attempt.into());
        plain_piece(out, 3, self.lease_id.as_bytes());
    }
}

/// `LeaseResponse`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct LeaseView<'a, A> {
    pub payload: PayloadView<'a, A>,
    pub sequence_id: u64,
    pub attempt: u32,
    pub enqueued_at: Timestamp,
    pub last_error: Option<&'a ErrorInfo>,
    pub ownership_token: TokenView<'a>,
    pub owner_peer_id: &'a str,
    pub lease_expires_at: Timestamp,
    pub lease_for_ms: u64,
}

impl<'a, A: Iterator<Item = (&'a str, &'a str)> + Clone> View for LeaseView<'a, A> {
    fn put(&self, out: &mut impl Out) {
        nested(out, 1, &self.payload);
        plain_number(out, 2, self.sequence_id);
        plain_number(out, 3, self.attempt.into());
        nested(out, 4, &self.enqueued_at);
        if let Some(error) = self.last_error {
            message(out, 5, error);
        }
        nested(out, 6, &self.ownership_token);
        plain_piece(out, 7, self.owner_peer_id.as_bytes());
        nested(out, 8, &self.lease_expires_at);
        plain_number(out, 9, self.lease_for_ms);
    }
}

/// `Receipt`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct ReceiptView<'a> {
    pub shard: u32,
    pub lsn: u64,
    pub durability: &'a str,
}

impl View for ReceiptView<'_> {
    fn put(&self, out: &mut impl Out) {
        plain_number(out, 1, self.shard.into());
        plain_number(out, 2, self.lsn);
        plain_piece(out, 3, self.durability.as_bytes());
    }
}

impl View for Stats {
    fn put(&self, out: &mut impl Out) {
        plain_number(out, 1, self.pending_count);
        plain_number(out, 2, self.active_lease_count);
        plain_number(out, 3, self.delayed_count);
        plain_number(out, 4, self.dead_letter_count);
    }
}

/// `EnqueueResponse`, and an `EnqueueResult` that is no refusal.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct EnqueuedView<'a> {
    pub sequence_id: u64,
    pub duplicate: bool,
    pub stats: Option<Stats>,
    pub receipt: ReceiptView<'a>,
}

impl View for EnqueuedView<'_> {
    fn put(&self, out: &mut impl Out) {
        plain_number(out, 1, self.sequence_id);
        plain_number(out, 2, self.duplicate.into());
        if let Some(stats) = &self.stats {
            nested(out, 3, stats);
        }
        nested(out, 4, &self.receipt);
    }
}

/// `CompleteResponse`, `FailResponse`, and the `SettleResult` of either.
#[derive(Debug, Clone, Copy)]
pub struct SettledView<'a>(pub ReceiptView<'a>);

impl View for SettledView<'_> {
    fn put(&self, out: &mut impl Out) {
        number(out, 1, 1);
        nested(out, 2, &self.0);
    }
}

/// The `SettleResult` of a heartbeat.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct ExtendedView {
    pub lease_expires_at: Timestamp,
    pub lease_for_ms: u64,
}

impl View for ExtendedView {
    fn put(&self, out: &mut impl Out) {
        number(out, 1, 1);
        nested(out, 3, &self.lease_expires_at);
        number(out, 4, self.lease_for_ms);
    }
}

/// An `EnqueueResult` or a `SettleResult` that is a refusal.
#[derive(Debug, Clone, Copy)]
pub struct RefusedView<'a>(pub &'a Error);

impl View for RefusedView<'_> {
    fn put(&self, out: &mut impl Out) {
        message(out, 5, self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::messages::{
        EnqueueResult, LeaseResponse, OwnershipToken, Payload, Receipt, SettleResult,
    };

    fn written(view: &impl View) -> Vec<u8> {
        let mut out = BytesMut::new();
        view.put(&mut out);
        assert_eq!(out.len(), view.length(), "the count is that of the bytes");
        out.to_vec()
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    fn number_or_zero() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(127), Just(128), any::<u64>()]
    }

    proptest! {
        #[test]
        fn a_lease_is_written_as_its_message(
            texts in prop::collection::vec(".{0,200}", 5),
            key in option::of(".{0,3}"),
            request in option::of(".{0,200}"),
            body in prop::collection::vec(any::<u8>(), 0..300),
            attributes in prop::collection::btree_map(".{0,3}", ".{0,200}", 0..3),
            (sequence_id, lease_for_ms) in (number_or_zero(), number_or_zero()),
            attempt in any::<u32>(),
            (enqueued_at, expires_at) in (time(), time()),
            error in option::of(".{0,9}"),
        ) {
            let last_error = error.map(|message| ErrorInfo {
                message,
                code: None,
                metadata: BTreeMap::from([("k".into(), "v".into())]),
            });
            let message = LeaseResponse {
                payload: Some(Payload {
                    resource_type: texts[0].clone(),
                    resource_id: texts[1].clone(),
                    partition_key: key.clone(),
                    payload_encoding: texts[2].clone(),
                    body: body.clone().into(),
                    attributes: attributes.clone(),
                    request_id: request.clone(),
                }),
                sequence_id,
                attempt,
                enqueued_at: Some(enqueued_at),
                last_error: last_error.clone(),
                ownership_token: Some(OwnershipToken {
                    sequence_id,
                    attempt,
                    lease_id: texts[3].clone(),
                }),
                owner_peer_id: texts[4].clone(),
                lease_expires_at: Some(expires_at),
                lease_for_ms,
            };
            let view = LeaseView {
                payload: PayloadView {
                    resource_type: &texts[0],
                    resource_id: &texts[1],
                    partition_key: key.as_deref(),
                    payload_encoding: &texts[2],
                    body: &body,
                    attributes: attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())),
                    request_id: request.as_deref(),
                },
                sequence_id,
                attempt,
                enqueued_at,
                last_error: last_error.as_ref(),
                ownership_token: TokenView {
                    sequence_id,
                    attempt,
                    lease_id: &texts[3],
                },
                owner_peer_id: &texts[4],
                lease_expires_at: expires_at,
                lease_for_ms,
            };
            prop_assert_eq!(written(&view), message.encode_to_vec());
        }

        #[test]
        fn results_are_written_as_their_messages(
            (sequence_id, lsn, ms) in (number_or_zero(), number_or_zero(), number_or_zero()),
            shard in any::<u32>(),
            duplicate in any::<bool>(),
            durability in ".{0,9}",
            counts in option::of([number_or_zero(), number_or_zero(), number_or_zero(), number_or_zero()]),
            expires_at in time(),
        ) {
            let stats = counts.map(|[a, b, c, d]| Stats {
                pending_count: a,
                active_lease_count: b,
                delayed_count: c,
                dead_letter_count: d,
            });
            let receipt = ReceiptView { shard, lsn, durability: &durability };
            let message = Some(Receipt { shard, lsn, durability: durability.clone() });
            let enqueued = EnqueueResult {
                sequence_id,
                duplicate,
                stats,
                receipt: message.clone(),
                error: None,
            };
            let view = EnqueuedView { sequence_id, duplicate, stats, receipt };
            prop_assert_eq!(written(&view), enqueued.encode_to_vec());
            let settled = SettleResult { success: true, receipt: message, ..SettleResult::default() };
            prop_assert_eq!(written(&SettledView(receipt)), settled.encode_to_vec());
            let extended = SettleResult {
                success: true,
                lease_expires_at: Some(expires_at),
                lease_for_ms: Some(ms),
                ..SettleResult::default()
            };
            let view = ExtendedView { lease_expires_at: expires_at, lease_for_ms: ms };
            prop_assert_eq!(written(&view), extended.encode_to_vec());
            let error = Error { message: durability, ..Error::default() };
            let refused = SettleResult { error: Some(error.clone()), ..SettleResult::default() };
            prop_assert_eq!(written(&RefusedView(&error)), refused.encode_to_vec());
        }
    }
}
