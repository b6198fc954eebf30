//! From results to a reply: written as protobuf from where its parts lie, or made into messages
//! for all other uses.

use bytes::BytesMut;
use omnirelay_net::messages::view::{PayloadView, TokenView};
use omnirelay_net::messages::write::{
    Back, EnqueuedView, ExtendedView, LeaseView, ReceiptView, RefusedView, SettledView, StatsBytes,
    View, nested,
};
use omnirelay_net::messages::{
    CancelResponse, ChangeResult, CompleteResponse, EnqueueBatchResponse, EnqueueResponse,
    EnqueueResult, FailResponse, HeartbeatResponse, LeaseBatchResponse, LeaseResponse, Receipt,
    RedriveResponse, SettleResponse, SettleResult, Stats,
};
use omnirelay_net::rpc::{EncodeReply, Encoding, Procedure, Reply};
use omnirelay_queue::{EnqueuedBody, Lsn, ShardId};

use super::part::{Granted, ItemResult};
use super::records::{self, timestamp};

/// A successful reply, before it is written.
#[derive(Debug)]
pub enum Answer {
    /// Of entries, each with a result.
    #[doc(hidden)]
    Results(Results),
    /// Of anything else.
    Message(Box<Reply>),
}

/// What became of a call's entries, in their order.
#[derive(Debug)]
pub struct Results {
    pub(super) procedure: Procedure,
    pub(super) results: Vec<ItemResult>,
    /// The namespace's, for receipts.
    pub(super) durability: &'static str,
    /// The namespace's, for enqueues.
    pub(super) stats: Option<Stats>,
}

/// What is around the payload of a lease on the wire, and the longest of usual results: with this
/// the room for nearly all replies is found at once.
const AROUND_BYTES: usize = 192;
const RESULT_BYTES: usize = 64;

impl Answer {
    /// The same as messages.
    pub fn to_reply(&self) -> Reply {
        match self {
            Answer::Results(results) => results.to_reply(),
            Answer::Message(reply) => (**reply).clone(),
        }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::Message(Box::new(reply))
    }
}

impl EncodeReply for Answer {
    fn encode_behind(&self, zeros: usize, encoding: Encoding) -> BytesMut {
        match self {
            Answer::Results(results) if encoding == Encoding::Proto && results.is_plain() => {
                results.write(zeros)
            }
            Answer::Results(results) => results.to_reply().encode_behind(zeros, encoding),
            Answer::Message(reply) => reply.encode_behind(zeros, encoding),
        }
    }
}

impl Results {
    /// Whether all of it is written by hand.
    fn is_plain(&self) -> bool {
        matches!(
            self.procedure,
            Procedure::Enqueue
                | Procedure::EnqueueBatch
                | Procedure::Lease
                | Procedure::LeaseBatch
                | Procedure::Complete
                | Procedure::Fail
                | Procedure::Settle
        )
    }

    fn write(&self, zeros: usize) -> BytesMut {
        let bytes = self.results.iter().map(|result| match result {
            ItemResult::Leased(granted) => granted.record.len() + AROUND_BYTES,
            _ => RESULT_BYTES,
        });
        let mut out = Back::with_capacity(zeros + bytes.sum::<usize>());
        // The entries of a batch are its field 1; a reply of one is the entry itself.
        let is_batch = matches!(
            self.procedure,
            Procedure::EnqueueBatch | Procedure::LeaseBatch | Procedure::Settle
        );
        let stats = self.stats.as_ref().map(StatsBytes::of);
        for result in self.results.iter().rev() {
            match result {
                ItemResult::Enqueued {
                    sequence_id,
                    duplicate,
                    shard,
                    lsn,
                } => {
                    let view = EnqueuedView {
                        sequence_id: sequence_id.0,
                        duplicate: *duplicate,
                        stats: stats.as_ref(),
                        receipt: self.receipt(*shard, *lsn),
                    };
                    put(&mut out, is_batch, &view);
                }
                ItemResult::Settled { shard, lsn } => {
                    put(&mut out, is_batch, &SettledView(self.receipt(*shard, *lsn)));
                }
                ItemResult::Extended {
                    expires_at, lease, ..
                } => {
                    let view = ExtendedView {
                        lease_expires_at: timestamp(*expires_at),
                        lease_for_ms: records::millis(*lease),
                    };
                    put(&mut out, is_batch, &view);
                }
                ItemResult::Leased(granted) => put_lease(&mut out, is_batch, granted),
                ItemResult::Refused(error) if self.procedure != Procedure::LeaseBatch => {
                    put(&mut out, is_batch, &RefusedView(&(**error).clone().into()));
                }
                // Among leases a refusal only counts if there is nothing else.
                ItemResult::Refused(_) => {}
                other => unreachable!("no result of {}: {other:?}", self.procedure),
            }
        }
        out.into_bytes_behind(zeros)
    }

    fn receipt(&self, shard: ShardId, lsn: Lsn) -> ReceiptView<'_> {
        ReceiptView {
            shard: shard.0,
            lsn: lsn.0,
            durability: self.durability,
        }
    }

    fn to_reply(&self) -> Reply {
        let results = || self.results.iter();
        match self.procedure {
            Procedure::Enqueue => {
                let only = self.only(self.results.iter().map(|r| self.enqueued(r)));
                Reply::Enqueue(EnqueueResponse {
                    sequence_id: only.sequence_id,
                    duplicate: only.duplicate,
                    stats: only.stats,
                    receipt: only.receipt,
                })
            }
            Procedure::EnqueueBatch => Reply::EnqueueBatch(EnqueueBatchResponse {
                results: results().map(|r| self.enqueued(r)).collect(),
            }),
            Procedure::Lease => Reply::Lease(self.only(results().filter_map(leased))),
            Procedure::LeaseBatch => Reply::LeaseBatch(LeaseBatchResponse {
                leases: results().filter_map(leased).collect(),
            }),
            Procedure::Complete => Reply::Complete(CompleteResponse {
                success: true,
                receipt: self.only(results().map(|r| self.settled(r))).receipt,
            }),
            Procedure::Fail => Reply::Fail(FailResponse {
                success: true,
                receipt: self.only(results().map(|r| self.settled(r))).receipt,
            }),
            Procedure::Heartbeat => {
                let only = self.only(results().map(|r| self.settled(r)));
                Reply::Heartbeat(HeartbeatResponse {
                    success: true,
                    lease_expires_at: only.lease_expires_at,
                    lease_for_ms: only.lease_for_ms.unwrap_or(0),
                })
            }
            Procedure::Settle => Reply::Settle(SettleResponse {
                results: results().map(|r| self.settled(r)).collect(),
            }),
            Procedure::Redrive => Reply::Redrive(RedriveResponse {
                results: results().map(|r| changed(self.settled(r))).collect(),
            }),
            Procedure::Cancel => Reply::Cancel(CancelResponse {
                results: results().map(|r| changed(self.settled(r))).collect(),
            }),
            Procedure::Stats
            | Procedure::Peek
            | Procedure::DeadLetters
            | Procedure::Explain
            | Procedure::Drain
            | Procedure::Restore => unreachable!("answered with a message"),
        }
    }

    fn only<T>(&self, mut results: impl Iterator<Item = T>) -> T {
        results.next().expect("a call of one entry has one result")
    }

    fn message(&self, shard: ShardId, lsn: Lsn) -> Option<Receipt> {
        Some(Receipt {
            shard: shard.0,
            lsn: lsn.0,
            durability: self.durability.to_owned(),
        })
    }

    fn enqueued(&self, result: &ItemResult) -> EnqueueResult {
        match result {
            ItemResult::Enqueued {
                sequence_id,
                duplicate,
                shard,
                lsn,
            } => EnqueueResult {
                sequence_id: sequence_id.0,
                duplicate: *duplicate,
                stats: self.stats,
                receipt: self.message(*shard, *lsn),
                error: None,
            },
            ItemResult::Refused(error) => EnqueueResult {
                error: Some((**error).clone().into()),
                ..EnqueueResult::default()
            },
            other => unreachable!("no result of an enqueue: {other:?}"),
        }
    }

    fn settled(&self, result: &ItemResult) -> SettleResult {
        match result {
            ItemResult::Settled { shard, lsn } => SettleResult {
                success: true,
                receipt: self.message(*shard, *lsn),
                ..SettleResult::default()
            },
            ItemResult::Extended {
                expires_at, lease, ..
            } => SettleResult {
                success: true,
                lease_expires_at: Some(timestamp(*expires_at)),
                lease_for_ms: Some(records::millis(*lease)),
                ..SettleResult::default()
            },
            ItemResult::Refused(error) => SettleResult {
                error: Some((**error).clone().into()),
                ..SettleResult::default()
            },
            other => unreachable!("no result of a settlement: {other:?}"),
        }
    }
}

fn put(out: &mut Back, is_batch: bool, view: &impl View) {
    if is_batch {
        nested(out, 1, view);
    } else {
        view.put(out);
    }
}

fn put_lease(out: &mut Back, is_batch: bool, granted: &Granted) {
    let item = EnqueuedBody::decode(&granted.record).expect("it is as it was written");
    let payload = &item.payload;
    let grant = &granted.grant;
    let lease_id = grant.token.lease_id.to_text();
    let view = LeaseView {
        payload: PayloadView {
            resource_type: payload.resource_type,
            resource_id: payload.resource_id,
            partition_key: payload.partition_key,
            payload_encoding: payload.encoding,
            body: payload.body,
            attributes: payload.attributes.iter(),
            request_id: payload.request_id,
        },
        sequence_id: grant.sequence_id.0,
        attempt: grant.attempt,
        enqueued_at: timestamp(grant.enqueued_at),
        last_error: granted.last_error.as_deref(),
        ownership_token: TokenView {
            sequence_id: grant.token.sequence_id.0,
            attempt: grant.token.attempt,
            lease_id: str::from_utf8(&lease_id).expect("digits and hyphens"),
        },
        owner_peer_id: &granted.owner,
        lease_expires_at: timestamp(grant.expires_at),
        lease_for_ms: records::millis(grant.lease),
    };
    put(out, is_batch, &view);
}

fn leased(result: &ItemResult) -> Option<LeaseResponse> {
    let ItemResult::Leased(granted) = result else {
        return None;
    };
    let grant = &granted.grant;
    Some(LeaseResponse {
        payload: Some(records::payload(&granted.record).expect("it was read before")),
        sequence_id: grant.sequence_id.0,
        attempt: grant.attempt,
        enqueued_at: Some(timestamp(grant.enqueued_at)),
        last_error: granted.last_error.as_deref().cloned(),
        ownership_token: Some(records::token(&grant.token)),
        owner_peer_id: granted.owner.to_string(),
        lease_expires_at: Some(timestamp(grant.expires_at)),
        lease_for_ms: records::millis(grant.lease),
    })
}

fn changed(result: SettleResult) -> ChangeResult {
    ChangeResult {
        success: result.success,
        receipt: result.receipt,
        error: result.error,
    }
}
