//! What is recorded of one call.

use std::borrow::Cow;
use std::net::SocketAddr;

use omnirelay_net::rpc::{Code, Procedure, TraceContext};
use omnirelay_queue::Nanos;

use crate::cores::Transport;

/// One call, from its head to its reply. All its text is bounded: names by the protocol's limit of
/// 512 bytes each.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace, and this span in it.
    pub context: TraceContext,
    /// The caller's span, if it said one.
    pub parent: Option<[u8; 8]>,
    /// The caller's `tracestate`.
    pub trace_state: Option<String>,
    /// When its head had come, in Unix time.
    pub started: Nanos,
    /// When its reply was made, or its caller was gone.
    pub ended: Nanos,
    /// When its body had been read and it was handed to the core, if it got so far.
    pub handed: Option<Nanos>,
    /// When its last part was handed out to be carried out and committed; what came between was
    /// waiting for work, or for room.
    pub dispatched: Option<Nanos>,
    /// How it came.
    pub transport: Transport,
    /// Where it came from.
    pub peer: SocketAddr,
    /// What it called, once that was known.
    pub routed: Option<Procedure>,
    /// The name of the namespace that it called, once that was known.
    pub namespace: Option<String>,
    /// What its head said, where it had one that could be read.
    pub said: Option<Said>,
    /// The request id of what it enqueued.
    pub request_id: Option<String>,
    /// The shard that served it, where it was one.
    pub shard: Option<u32>,
    /// How it ended.
    pub code: Code,
    /// The stable code of an error.
    pub error_code: Option<Cow<'static, str>>,
}

/// What a call's head said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Who calls.
    pub caller: String,
    /// The service called.
    pub service: String,
    /// The procedure called.
    pub procedure: String,
    /// What decides the shard.
    pub shard_key: Option<String>,
    /// The peer that it called itself.
    pub peer_id: Option<String>,
}
