//! What clients send to a node, and what they make of its replies.

use bytes::{Bytes, BytesMut};
use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::messages::{
    CompleteRequest, EnqueueBatchRequest, EnqueueRequest, LeaseBatchRequest, LeaseRequest,
    OwnershipToken, Payload, SettleItem, SettleRequest,
};
use omnirelay_net::rpc::{Call, Encoding, Procedure};
use omnirelay_queue::Token;

/// How clients put their work into calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Calls that come together.
    pub calls: usize,
    /// Items of each call. With one, the calls are those of a single item.
    pub items: usize,
}

impl Shape {
    /// Items that are put in, leased and completed in a round.
    pub fn cycles(self) -> usize {
        self.calls * self.items
    }
}

/// Bytes of each item's body.
pub const BODY_BYTES: usize = 256;

/// Calls that put a round's items in.
pub fn enqueues(shape: Shape) -> Vec<Call> {
    let item = |at: usize| EnqueueRequest {
        payload: Some(Payload {
            resource_type: "table".into(),
            resource_id: format!("orders-{at}"),
            payload_encoding: "application/octet-stream".into(),
            body: vec![7; BODY_BYTES].into(),
            ..Payload::default()
        }),
        ..EnqueueRequest::default()
    };
    let calls = (0..shape.calls).map(|call| call * shape.items);
    let calls = calls.map(|first| match shape.items {
        1 => Call::Enqueue(item(first)),
        items => Call::EnqueueBatch(EnqueueBatchRequest {
            items: (first..first + items).map(item).collect(),
            namespace: None,
        }),
    });
    calls.collect()
}

/// Calls that lease them.
pub fn leases(shape: Shape) -> Vec<Call> {
    let call = match shape.items {
        1 => Call::Lease(LeaseRequest::default()),
        items => Call::LeaseBatch(LeaseBatchRequest {
            max_items: u32::try_from(items).expect("a batch is small"),
            ..LeaseBatchRequest::default()
        }),
    };
    vec![call; shape.calls]
}

/// Calls that complete what was leased.
pub fn completions(shape: Shape, tokens: &[Token]) -> Vec<Call> {
    let wire = |token: &Token| {
        Some(OwnershipToken {
            sequence_id: token.sequence_id.0,
            attempt: token.attempt,
            lease_id: token.lease_id.to_string(),
        })
    };
    let calls = tokens.chunks(shape.items);
    let calls = calls.map(|tokens| match shape.items {
        1 => Call::Complete(CompleteRequest {
            ownership_token: wire(&tokens[0]),
            ..CompleteRequest::default()
        }),
        _ => Call::Settle(SettleRequest {
            items: tokens
                .iter()
                .map(|token| SettleItem {
                    ownership_token: wire(token),
                    action: "complete".into(),
                    ..SettleItem::default()
                })
                .collect(),
            namespace: None,
        }),
    });
    calls.collect()
}

/// A stream's bytes with these calls.
pub fn frames(encoding: Encoding, calls: &[Call]) -> Bytes {
    let mut stream = BytesMut::new();
    for (id, call) in (1..).zip(calls) {
        let procedure = procedure(call.procedure());
        let head = CallHead {
            id,
            procedure: &procedure,
            ttl_ms: Some(30_000),
            ..CallHead::default()
        };
        let frame = encode::call(&head, encoding, call).expect("not raw");
        stream.extend_from_slice(&frame);
    }
    stream.freeze()
}

fn procedure(procedure: Procedure) -> String {
    format!("resourcelease::{}", procedure.name())
}
