//! Replies as gRPC says them: a message and its trailers, or trailers alone.

use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use prost::Message;

use super::{Head, PREFIX_BYTES, frame, metadata};
use crate::rpc::{Code, EncodeReply, Encoding, Error, headers};

/// The most characters of a message in a trailer; the details have as many.
const MESSAGE_CHARS_MAX: usize = 1_024;

/// What the server decompresses.
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,gzip");

/// Where error codes are defined, for `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "omnirelay";

/// A message ready to be sent, and what comes behind it.
#[derive(Debug)]
pub struct Framed {
    /// The message with its prefix.
    pub message: Bytes,
    /// The status.
    pub trailers: HeaderMap,
}

/// A successful reply of a lease procedure; `shard` is the one that served.
///
/// # Panics
/// As [`crate::rpc::encode_reply`].
#[must_use]
pub fn reply_response(
    head: &Head<'_>,
    shard: Option<u32>,
    reply: &impl EncodeReply,
) -> Response<Framed> {
    let message = reply.encode_behind(PREFIX_BYTES, head.rpc.encoding);
    let mut response = stream_head(head);
    let out = response.headers_mut();
    if let Ok(service) = HeaderValue::from_str(&head.rpc.service) {
        out.insert(&headers::SERVICE, service);
    }
    if let Some(shard) = shard {
        out.insert(&headers::SHARD_KEY, HeaderValue::from(shard));
    }
    response.map(|()| Framed {
        message: frame(message, head.reply_compression),
        trailers: ok_trailers(),
    })
}

/// What goes before the messages of a successful call.
#[must_use]
pub fn stream_head(head: &Head) -> Response<()> {
    let mut response = Response::new(());
    let out = response.headers_mut();
    out.reserve(6);
    out.insert(CONTENT_TYPE, content_type(head.rpc.encoding));
    out.insert(&metadata::ACCEPT_ENCODING, ACCEPTED);
    out.insert(&metadata::ENCODING, head.reply_compression.name());
    response
}

/// A refusal: trailers in place of headers, and nothing else.
#[must_use]
pub fn error_response(error: &Error) -> Response<()> {
    let mut response = Response::new(());
    // Whatever went wrong, HTTP did not.
    *response.status_mut() = StatusCode::OK;
    let out = response.headers_mut();
    *out = error_trailers(error);
    out.insert(CONTENT_TYPE, content_type(Encoding::Proto));
    out.insert(&metadata::ACCEPT_ENCODING, ACCEPTED);
    response
}

/// What ends a successful call.
#[must_use]
pub fn ok_trailers() -> HeaderMap {
    let mut out = HeaderMap::with_capacity(1);
    out.insert(&metadata::STATUS, status(Code::Ok));
    out
}

/// What ends a refused call.
#[must_use]
pub fn error_trailers(error: &Error) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(8);
    out.insert(&metadata::STATUS, status(error.code));
    let message: String = error.message.chars().take(MESSAGE_CHARS_MAX).collect();
    out.insert(&metadata::MESSAGE, percent_encoded(&message));
    if let Ok(code) = HeaderValue::from_str(&error.error_code) {
        out.insert(&metadata::ERROR_CODE, code);
    }
    out.insert(
        &metadata::STATUS_NAME,
        HeaderValue::from_static(error.code.grpc_name()),
    );
    let details = STANDARD_NO_PAD.encode(details(error, message).encode_to_vec());
    let details = HeaderValue::try_from(details).expect("base64 is a header value");
    out.insert(&metadata::STATUS_DETAILS, details);
    out
}

fn status(code: Code) -> HeaderValue {
    HeaderValue::from(u16::from(code.grpc_number()))
}

pub(super) fn content_type(encoding: Encoding) -> HeaderValue {
    HeaderValue::from_static(match encoding {
        Encoding::Json => "application/grpc+json",
        Encoding::Proto => "application/grpc+proto",
        Encoding::Raw => "application/grpc",
    })
}

/// Text as `grpc-message` carries it: printable ASCII as it is but for `%`, every other byte of
/// its UTF-8 as `%` and two hex digits.
fn percent_encoded(text: &str) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("strings take all text"),
        }
    }
    HeaderValue::try_from(out).expect("printable ASCII is a header value")
}

/// `google.rpc.Status`, which clients of many languages have at hand.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(string, tag = "2")]
    pub(super) domain: String,
    #[prost(map = "string, string", tag = "3")]
    pub(super) metadata: HashMap<String, String>,
}

fn details(error: &Error, message: String) -> Status {
    let info = ErrorInfo {
        reason: error.error_code.clone().into_owned(),
        domain: ERROR_DOMAIN.to_owned(),
        metadata: error.metadata.clone().into_iter().collect(),
    };
    Status {
        code: error.code.grpc_number().into(),
        message,
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: info.encode_to_vec(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_said_in_trailers_that_any_client_can_read() {
        let error = Error::fenced("100 % fenced: ü\n").with("reason", "completed");
        let response = error_response(&error);
        assert_eq!(response.status(), StatusCode::OK);
        let text = |name| response.headers()[name].to_str().unwrap();
        assert_eq!(text(&metadata::STATUS), "10");
        assert_eq!(text(&metadata::MESSAGE), "100 %25 fenced: %C3%BC%0A");
        assert_eq!(text(&metadata::ERROR_CODE), "resourcelease.lease.fenced");
        assert_eq!(text(&metadata::STATUS_NAME), "ABORTED");
        let details = STANDARD_NO_PAD
            .decode(text(&metadata::STATUS_DETAILS))
            .unwrap();
        let status = Status::decode(&details[..]).unwrap();
        assert_eq!((status.code, &*status.message), (10, "100 % fenced: ü\n"));
        let info = ErrorInfo::decode(&status.details[0].value[..]).unwrap();
        assert_eq!(info.reason, "resourcelease.lease.fenced");
        assert_eq!(info.metadata["reason"], "completed");
    }
}
