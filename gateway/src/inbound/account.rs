//! What is told of a call once it has ended: in the counters, in its span if it is recorded, in
//! the log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::HeaderValue;
use omnirelay_net::frame::CallFrame;
use omnirelay_net::rpc::{
    Call, Code, Error, HexId, Procedure, Request, RequestHead, TRACESTATE_BYTES_MAX, TraceContext,
    headers, trace_state,
};
use omnirelay_queue::{Nanos, ShardId};
use omnirelay_wal::Disk;

use super::admission::Admission;
use crate::cores::Transport;
use crate::node::{NamespaceId, Outcome};
use crate::telemetry::{Said, Span};

/// The target of lines about calls.
const CALLS: &str = "omnirelay::rpc";

/// What is known of one call. One that is dropped before its end is told of as cancelled, its
/// caller being gone.
pub(super) struct Account<D: Disk> {
    admission: Rc<Admission<D>>,
    transport: Transport,
    peer: SocketAddr,
    /// When its head had come.
    pub(super) started: Instant,
    /// What it called, once that is known.
    pub(super) routed: Option<Procedure>,
    /// Of which namespace, once that is known.
    pub(super) namespace: Option<NamespaceId>,
    /// There only if the call is recorded, or has a line in the log whatever comes.
    notes: Option<Box<Notes>>,
    has_ended: bool,
}

/// What a call says of itself.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) fields: Fields<'a>,
    /// Missing where it could not be read.
    pub(super) head: Option<&'a RequestHead<'a>>,
}

/// Where a call says which trace it belongs to.
#[derive(Clone, Copy)]
pub(super) enum Fields<'a> {
    /// In its headers.
    Headers(&'a HeaderMap),
    /// In its frame.
    Frame(&'a CallFrame),
}

impl Fields<'_> {
    fn trace_context(self) -> Option<TraceContext> {
        match self {
            Fields::Headers(fields) => TraceContext::from_headers(fields),
            Fields::Frame(frame) => TraceContext::parse(frame.traceparent().trim().as_bytes()),
        }
    }

    fn trace_state(self) -> Option<String> {
        match self {
            Fields::Headers(fields) => trace_state(fields),
            Fields::Frame(frame) => {
                let state = frame.tracestate().trim();
                let is_said = !state.is_empty() && state.len() <= TRACESTATE_BYTES_MAX;
                is_said.then(|| state.to_owned())
            }
        }
    }
}

/// What costs something to note.
#[derive(Debug, Default)]
struct Notes {
    /// The call's own span, if it is recorded.
    span: Option<TraceContext>,
    /// The caller's, and what other systems say of it.
    caller: Option<TraceContext>,
    trace_state: Option<String>,
    said: Option<Said>,
    /// It has a line in the log.
    is_logged: bool,
    handed: Option<Nanos>,
    request_id: Option<String>,
    peer_id: Option<String>,
}

/// How a call ended.
#[derive(Clone, Copy)]
struct End<'a> {
    code: Code,
    error: Option<&'a Error>,
    shard: Option<ShardId>,
    dispatched: Option<Nanos>,
    took: Duration,
}

impl<D: Disk> Account<D> {
    /// A call that came at `started`.
    pub(super) fn new(
        admission: &Rc<Admission<D>>,
        transport: Transport,
        peer: SocketAddr,
        started: Instant,
        told: Told<'_>,
    ) -> Account<D> {
        let tracer = admission.tracer.as_ref();
        let traced = tracer.and_then(|_| told.fields.trace_context());
        let span = tracer.and_then(|tracer| tracer.begin(traced));
        let is_logged = tracing::enabled!(target: CALLS, tracing::Level::DEBUG);
        let notes = (span.is_some() || is_logged).then(|| {
            let caller = traced.or_else(|| told.fields.trace_context());
            Box::new(Notes {
                span,
                caller,
                trace_state: caller.and_then(|_| told.fields.trace_state()),
                said: told.head.map(said),
                is_logged,
                ..Notes::default()
            })
        });
        Account {
            admission: Rc::clone(admission),
            transport,
            peer,
            started,
            routed: None,
            namespace: None,
            notes,
            has_ended: false,
        }
    }

    /// The call has been read and is handed to the core.
    pub(super) fn hand(&mut self, now: Nanos, request: &Request) {
        let Some(notes) = &mut self.notes else {
            return;
        };
        notes.handed = Some(now);
        let (request_id, peer_id) = match request {
            Request::Enqueue(item) => {
                let payload = item.get(0).payload;
                (payload.and_then(|payload| payload.request_id), None)
            }
            Request::Call(Call::Drain(request)) => (request.request_id.as_deref(), None),
            Request::Call(Call::Lease(request)) => (None, request.peer_id.as_deref()),
            Request::Call(Call::LeaseBatch(request)) => (None, request.peer_id.as_deref()),
            _ => (None, None),
        };
        notes.request_id = request_id.map(shortened);
        notes.peer_id = peer_id.map(shortened);
    }

    /// The call has its reply. What the reply's `traceresponse` says, if the call is recorded.
    pub(super) fn end(mut self, told: Told<'_>, outcome: &Outcome) -> Option<HeaderValue> {
        self.end_with(
            told,
            outcome.reply.as_ref().err(),
            outcome.shard,
            outcome.dispatched_at,
        )
    }

    /// The call was refused before it was one.
    pub(super) fn refuse(mut self, told: Told<'_>, error: &Error) -> Option<HeaderValue> {
        self.end_with(told, Some(error), None, None)
    }

    fn end_with(
        &mut self,
        told: Told<'_>,
        error: Option<&Error>,
        shard: Option<ShardId>,
        dispatched: Option<Nanos>,
    ) -> Option<HeaderValue> {
        let end = End {
            code: error.map_or(Code::Ok, |error| error.code),
            error,
            shard,
            dispatched,
            took: self.started.elapsed(),
        };
        let mut counters = self.admission.cell.telemetry.borrow_mut();
        counters.count_reply(self.transport, self.routed, end.code, end.took);
        drop(counters);
        if end.code == Code::Internal {
            self.complain(told, end);
        }
        self.tell(end);
        let span = self.notes.as_ref()?.span?;
        Some(span.to_header())
    }

    fn tell(&mut self, end: End<'_>) {
        self.has_ended = true;
        let Some(notes) = &self.notes else {
            return;
        };
        if notes.is_logged {
            self.log(notes, end);
        }
        if let (Some(tracer), Some(_)) = (&self.admission.tracer, notes.span) {
            tracer.end(Box::new(self.span(notes, end)));
        }
    }

    fn span(&self, notes: &Notes, end: End<'_>) -> Span {
        let ended = self.admission.cell.clock().now();
        let took = u64::try_from(end.took.as_nanos()).unwrap_or(u64::MAX);
        Span {
            context: notes.span.expect("the call is recorded"),
            parent: notes.caller.map(|caller| caller.span_id),
            trace_state: notes.trace_state.clone(),
            started: Nanos(ended.0.saturating_sub(took)),
            ended,
            handed: notes.handed,
            dispatched: end.dispatched,
            transport: self.transport,
            peer: self.peer,
            routed: self.routed,
            namespace: self.namespace_name().map(str::to_owned),
            said: notes.said.clone().map(|said| Said {
                peer_id: notes.peer_id.clone().or(said.peer_id),
                ..said
            }),
            request_id: notes.request_id.clone(),
            shard: end.shard.map(|shard| shard.0),
            code: end.code,
            error_code: end.error.map(|error| error.error_code.clone()),
        }
    }

    fn namespace_name(&self) -> Option<&str> {
        let layout = self.admission.cell.layout();
        self.namespace.map(|id| layout.namespace(id).name.as_str())
    }

    fn log(&self, notes: &Notes, end: End<'_>) {
        let [trace_id, span_id, parent_span_id] = ids(notes.span, notes.caller);
        let said = notes.said.as_ref();
        tracing::debug!(
            target: CALLS,
            transport = self.transport.name(),
            peer = %self.peer,
            rpc.caller = said.map(|said| &*said.caller),
            rpc.service = said.map(|said| &*said.service),
            rpc.procedure = said.map(|said| &*said.procedure),
            request_id = notes.request_id.as_deref(),
            status = end.code.name(),
            code = end.error.map(|error| &*error.error_code),
            shard = end.shard.map(|shard| shard.0),
            took_ms = end.took.as_secs_f64() * 1e3,
            trace_id,
            span_id,
            parent_span_id,
            "call"
        );
    }

    /// Says that a call failed for a reason of our own making, unless many do.
    fn complain(&self, told: Told<'_>, end: End<'_>) {
        let mut limit = self.admission.internal_errors.borrow_mut();
        let Some(untold) = limit.admit(Instant::now()) else {
            return;
        };
        let notes = self.notes.as_deref();
        let span = notes.and_then(|notes| notes.span);
        let [trace_id, span_id, parent_span_id] = ids(span, told.fields.trace_context());
        tracing::warn!(
            target: CALLS,
            transport = self.transport.name(),
            peer = %self.peer,
            rpc.caller = told.head.map(|head| &*head.caller),
            rpc.procedure = told.head.map(|head| &*head.procedure),
            request_id = notes.and_then(|notes| notes.request_id.as_deref()),
            code = end.error.map(|error| &*error.error_code),
            error = end.error.map(|error| &*error.message),
            untold = (untold > 0).then_some(untold),
            trace_id,
            span_id,
            parent_span_id,
            "a call failed inside"
        );
    }
}

fn said(head: &RequestHead<'_>) -> Said {
    Said {
        caller: head.caller.to_string(),
        service: head.service.to_string(),
        procedure: head.procedure.to_string(),
        shard_key: head.shard_key.as_deref().map(str::to_owned),
        peer_id: head.peer_id.as_deref().map(str::to_owned),
    }
}

/// Trace, own span and caller's span, as far as there are any.
fn ids(span: Option<TraceContext>, caller: Option<TraceContext>) -> [Option<String>; 3] {
    let text = |bytes: &[u8]| HexId(bytes).to_string();
    [
        span.or(caller).map(|trace| text(&trace.trace_id)),
        span.map(|span| text(&span.span_id)),
        caller.map(|caller| text(&caller.span_id)),
    ]
}

impl<D: Disk> Drop for Account<D> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.tell(End {
                code: Code::Cancelled,
                error: None,
                shard: None,
                dispatched: None,
                took: self.started.elapsed(),
            });
        }
    }
}

/// Puts a recorded call's `traceresponse` into its reply.
pub(super) fn put(fields: &mut HeaderMap, response: Option<HeaderValue>) {
    if let Some(response) = response {
        fields.insert(&headers::TRACERESPONSE, response);
    }
}

/// A name that has not been checked yet, within the limit of names.
fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(omnirelay_net::rpc::NAME_BYTES_MAX);
    text[..end].to_owned()
}
