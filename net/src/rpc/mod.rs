//! The RPC face of the wire: heads, calls, replies and errors, as HTTP headers and bodies say
//! them. No IO: drivers bring bytes and headers and take them away.
//!
//! A server reads a [`RequestHead`], splits its procedure with [`Procedure::parse`], turns the
//! body into a [`Request`] with [`decode_request`], checks it with [`validate_request`], and answers with
//! [`reply_response`] or [`error_response`]. A client does the reverse with [`request`] and
//! [`parse_response`].

mod call;
mod client;
mod code;
mod error;
mod head;
mod pending;
mod procedure;
mod reply;
mod request;
mod trace_context;
mod validate;

pub(crate) use call::encode_call_behind;
pub use call::{Call, EncodeReply, Reply, decode_call, decode_reply, encode_call, encode_reply};
pub use client::{parse_response, request};
pub use code::Code;
pub use error::{Error, ErrorCode, codes};
pub use head::{Encoding, RequestHead, TTL_DEFAULT, TTL_MAX, headers};
pub use pending::{
    DRAIN_ITEMS_DEFAULT, ORIGIN_DIGITS, PAGE_ITEMS_DEFAULT, origin_text, parse_origin,
    parse_pending_item, pending_item_bytes, validate_pending_item,
};
pub use procedure::{DEFAULT_NAMESPACE, Procedure};
pub use reply::{encode_error, error_response, reply_response};
pub use request::{Request, decode_request, validate_request};
pub use trace_context::{HexId, TRACESTATE_BYTES_MAX, TraceContext, trace_state};
pub use validate::{
    ATTEMPTS_MAX, ATTRIBUTES_BYTES_MAX, BATCH_BYTES_MAX, BODY_BYTES_MAX, ITEM_TTL_MS_MAX,
    NAME_BYTES_MAX, PRIORITY_MAX, REASON_BYTES_MAX, REQUEST_BYTES_MAX, SettleAction, payload_bytes,
    validate_call, validate_complete, validate_enqueue, validate_enqueue_batch, validate_fail,
    validate_heartbeat, validate_lease, validate_lease_batch, validate_settle,
    validate_settle_item, validate_token,
};

/// The path that RPC over HTTP is posted to.
pub const PATH: &str = "/yarpc/v1";
