//! Replies that carry many items, written as protobuf from wherever their parts lie.
//!
//! The bytes are those that the message types would give; nothing is built to be written. They are
//! written in one pass, the last field first (see [`Back`]).

use super::view::{PayloadView, TokenView};
use prost::Message as _;

use super::{Error, ErrorInfo, Stats, Timestamp};
pub use crate::wire::Back;
use crate::wire::varint;

/// A message whose parts lie elsewhere.
pub trait View {
    /// Writes its fields.
    fn put(&self, out: &mut Back);
}

/// A message in a field.
pub fn nested(out: &mut Back, tag: u64, view: &impl View) {
    out.nested(tag, |out| view.put(out));
}

impl<'a, A: Iterator<Item = (&'a str, &'a str)> + Clone> View for PayloadView<'a, A> {
    fn put(&self, out: &mut Back) {
        if let Some(text) = self.request_id {
            out.piece(7, text.as_bytes());
        }
        out.pairs(6, self.attributes.clone());
        out.plain_piece(5, self.body);
        out.plain_piece(4, self.payload_encoding.as_bytes());
        if let Some(text) = self.partition_key {
            out.piece(3, text.as_bytes());
        }
        out.plain_piece(2, self.resource_id.as_bytes());
        out.plain_piece(1, self.resource_type.as_bytes());
    }
}

impl View for Timestamp {
    fn put(&self, out: &mut Back) {
        // What is below zero takes ten bytes, as prost and the standard have it.
        out.plain_number(2, i64::from(self.nanos) as u64);
        out.plain_number(1, self.seconds as u64);
    }
}

impl View for TokenView<'_> {
    fn put(&self, out: &mut Back) {
        out.plain_piece(3, self.lease_id.as_bytes());
        out.plain_number(2, self.attempt.into());
        out.plain_number(1, self.sequence_id);
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
    fn put(&self, out: &mut Back) {
        out.plain_number(9, self.lease_for_ms);
        nested(out, 8, &self.lease_expires_at);
        out.plain_piece(7, self.owner_peer_id.as_bytes());
        nested(out, 6, &self.ownership_token);
        if let Some(error) = self.last_error {
            out.message(5, error);
        }
        nested(out, 4, &self.enqueued_at);
        out.plain_number(3, self.attempt.into());
        out.plain_number(2, self.sequence_id);
        nested(out, 1, &self.payload);
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
    fn put(&self, out: &mut Back) {
        out.plain_piece(3, self.durability.as_bytes());
        out.plain_number(2, self.lsn);
        out.plain_number(1, self.shard.into());
    }
}

/// `Stats`, written once to be put in front of many results.
#[derive(Debug, Clone, Copy)]
pub struct StatsBytes {
    bytes: [u8; STATS_BYTES_MAX],
    length: usize,
}

/// Four numbers, each with its key.
const STATS_BYTES_MAX: usize = 4 * (1 + varint::VARINT_BYTES_MAX);

impl StatsBytes {
    /// As they are on the wire.
    #[must_use]
    pub fn of(stats: &Stats) -> StatsBytes {
        let mut bytes = [0; STATS_BYTES_MAX];
        let mut rest = &mut bytes[..];
        stats.encode_raw(&mut rest);
        let length = STATS_BYTES_MAX - rest.len();
        StatsBytes { bytes, length }
    }
}

/// `EnqueueResponse`, and an `EnqueueResult` that is no refusal.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct EnqueuedView<'a> {
    pub sequence_id: u64,
    pub duplicate: bool,
    pub stats: Option<&'a StatsBytes>,
    pub receipt: ReceiptView<'a>,
}

impl View for EnqueuedView<'_> {
    fn put(&self, out: &mut Back) {
        nested(out, 4, &self.receipt);
        if let Some(stats) = self.stats {
            out.piece(3, &stats.bytes[..stats.length]);
        }
        out.plain_number(2, self.duplicate.into());
        out.plain_number(1, self.sequence_id);
    }
}

/// `CompleteResponse`, `FailResponse`, and the `SettleResult` of either.
#[derive(Debug, Clone, Copy)]
pub struct SettledView<'a>(pub ReceiptView<'a>);

impl View for SettledView<'_> {
    fn put(&self, out: &mut Back) {
        nested(out, 2, &self.0);
        out.number(1, 1);
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
    fn put(&self, out: &mut Back) {
        out.number(4, self.lease_for_ms);
        nested(out, 3, &self.lease_expires_at);
        out.number(1, 1);
    }
}

/// An `EnqueueResult` or a `SettleResult` that is a refusal.
#[derive(Debug, Clone, Copy)]
pub struct RefusedView<'a>(pub &'a Error);

impl View for RefusedView<'_> {
    fn put(&self, out: &mut Back) {
        out.message(5, self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::messages::{
        EnqueueResult, LeaseResponse, OwnershipToken, Payload, Receipt, SettleResult,
    };
    use proptest::option;
    use proptest::prelude::*;

    fn written(view: &impl View) -> Vec<u8> {
        let mut out = Back::with_capacity(0);
        view.put(&mut out);
        out.into_bytes_behind(0).to_vec()
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
            let stats = stats.as_ref().map(StatsBytes::of);
            let view = EnqueuedView { sequence_id, duplicate, stats: stats.as_ref(), receipt };
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
