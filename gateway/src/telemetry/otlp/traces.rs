//! Spans as OTLP says them, with the attributes of OpenTelemetry's conventions for RPC and our own.

use std::time::Duration;

use omnirelay_net::rpc::{Code, codes};
use omnirelay_queue::Nanos;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status,
};

use super::resource::{int, real, scope, text};
use crate::cores::Transport;
use crate::telemetry::Span;

/// A request that tells of these spans.
pub(super) fn request(resource: &Resource, spans: &[Span]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.iter().map(otlp).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn otlp(span: &Span) -> OtlpSpan {
    let mut flags = u32::from(span.context.flags) | SpanFlags::ContextHasIsRemoteMask as u32;
    if span.parent.is_some() {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    OtlpSpan {
        trace_id: span.context.trace_id.to_vec(),
        span_id: span.context.span_id.to_vec(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        trace_state: span.trace_state.clone().unwrap_or_default(),
        flags,
        name: name(span),
        kind: SpanKind::Server as i32,
        start_time_unix_nano: span.started.0,
        end_time_unix_nano: span.ended.0.max(span.started.0),
        attributes: attributes(span),
        status: Some(status(span)),
        ..OtlpSpan::default()
    }
}

/// Of few different values: what clients make up stays out of it.
fn name(span: &Span) -> String {
    match (&span.namespace, span.routed) {
        (Some(namespace), Some(procedure)) => format!("{namespace}/{procedure}"),
        (None, Some(procedure)) => procedure.to_string(),
        _ => "unknown".into(),
    }
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut out = vec![
        text("rpc.transport", span.transport.name()),
        text("network.peer.address", span.peer.ip().to_string()),
        int("network.peer.port", i64::from(span.peer.port())),
    ];
    out.push(text(
        "rpc.system",
        match span.transport {
            Transport::Http => "yarpc",
            Transport::Grpc => "grpc",
            Transport::Quic => "omnirelay",
        },
    ));
    if let Some(said) = &span.said {
        out.push(text("rpc.caller", &*said.caller));
        out.push(text("rpc.service", &*said.service));
        out.push(text("rpc.procedure", &*said.procedure));
        out.extend(said.peer_id.as_deref().map(|peer| text("rpc.peer", peer)));
        let key = said.shard_key.as_deref();
        out.extend(key.map(|key| text("rpc.shard_key", key)));
    }
    if let Some(procedure) = span.routed {
        out.push(text("rpc.method", procedure.name()));
        out.push(text("resourcelease.operation", procedure.name()));
    }
    let namespace = span.namespace.as_deref();
    out.extend(namespace.map(|name| text("resourcelease.namespace", name)));
    let request_id = span.request_id.as_deref();
    out.extend(request_id.map(|id| text("resourcelease.request_id", id)));
    out.extend(span.shard.map(|shard| int("omnirelay.shard", shard.into())));
    if span.transport == Transport::Grpc {
        let number = i64::from(span.code.grpc_number());
        out.push(int("rpc.grpc.status_code", number));
    }
    out.push(text("rpc.status", span.code.name()));
    if let Some(code) = &span.error_code {
        out.push(text("error.type", &**code));
        out.push(text("rpc.error_code", &**code));
    }
    out.extend(waits(span));
    out
}

/// Where the time went: until the body had come, in line for work or room, and until what it rests
/// on was committed and read.
fn waits(span: &Span) -> impl Iterator<Item = KeyValue> {
    let between = |from: Nanos, to: Nanos| {
        let nanos = to.0.saturating_sub(from.0);
        Duration::from_nanos(nanos).as_secs_f64() * 1e3
    };
    let receive = span.handed.map(|handed| between(span.started, handed));
    let queue = span.handed.map(|handed| {
        let until = span.dispatched.unwrap_or(span.ended);
        between(handed, until)
    });
    let commit = span.dispatched.map(|at| between(at, span.ended));
    [
        ("omnirelay.receive_ms", receive),
        ("omnirelay.queue_wait_ms", queue),
        ("omnirelay.commit_wait_ms", commit),
    ]
    .into_iter()
    .filter_map(|(key, ms)| Some(real(key, ms?)))
}

/// An error is what is the server's fault; what a caller did wrong is no error of the server's, and
/// a worker for whom there was no work has met none.
fn status(span: &Span) -> Status {
    let is_error = match span.code {
        Code::DeadlineExceeded => span.error_code.as_deref() != Some(codes::NONE_AVAILABLE.name),
        Code::Unknown
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        _ => false,
    };
    let code = match is_error {
        true => StatusCode::Error,
        false => StatusCode::Unset,
    };
    Status {
        code: code as i32,
        message: String::new(),
    }
}
