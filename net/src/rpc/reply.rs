//! Replies as HTTP says them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::{EncodeReply, Encoding, Error, encode_reply, headers};

/// The most bytes of a message in a header; the body has all of it.
const HEADER_MESSAGE_BYTES_MAX: usize = 1_024;

/// A successful reply. `service` is the one the request named, `shard` the one that served.
///
/// # Panics
/// As [`encode_reply`].
#[must_use]
pub fn reply_response(
    service: &str,
    shard: Option<u32>,
    encoding: Encoding,
    reply: &impl EncodeReply,
) -> Response<Bytes> {
    let mut response = Response::new(encode_reply(encoding, reply));
    let out = response.headers_mut();
    out.reserve(5);
    out.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(encoding.content_type()),
    );
    out.insert(&headers::STATUS, HeaderValue::from_static("success"));
    put_origin(out, Some(service), shard);
    response
}

/// A refusal. `service` and `shard` are left out where the request did not get far enough.
#[must_use]
pub fn error_response(service: Option<&str>, shard: Option<u32>, error: &Error) -> Response<Bytes> {
    let (status, fields, body) = encode_error(error);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    put_origin(response.headers_mut(), service, shard);
    response
}

/// What an error alone decides of a reply: status, headers, and the JSON body that errors have
/// in every encoding.
#[must_use]
pub fn encode_error(error: &Error) -> (StatusCode, HeaderMap, Bytes) {
    let mut out = HeaderMap::with_capacity(6);
    out.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(Encoding::Json.content_type()),
    );
    out.insert(&headers::STATUS, HeaderValue::from_static("error"));
    out.insert(
        &headers::ERROR_CODE,
        HeaderValue::from_static(error.code.name()),
    );
    out.insert(&headers::ERROR_MESSAGE, header_text(&error.message));
    (error.code.http_status(), out, error.to_json().into())
}

fn put_origin(out: &mut HeaderMap, service: Option<&str>, shard: Option<u32>) {
    if let Some(service) = service {
        // As it came where it came in a header, whatever its alphabet.
        let echo = HeaderValue::from_bytes(service.as_bytes());
        out.insert(
            &headers::SERVICE,
            echo.unwrap_or_else(|_| header_text(service)),
        );
    }
    if let Some(shard) = shard {
        out.insert(&headers::SHARD_KEY, HeaderValue::from(shard));
    }
}

/// Text as every HTTP client can take it: printable ASCII, anything else as `?` or a space.
fn header_text(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if plain && text.len() <= HEADER_MESSAGE_BYTES_MAX {
        return HeaderValue::from_str(text).expect("printable ASCII is a header value");
    }
    let legal: String = text
        .chars()
        .take(HEADER_MESSAGE_BYTES_MAX)
        .map(|char| match char {
            ' '..='~' => char,
            _ if char.is_whitespace() || char.is_control() => ' ',
            _ => '?',
        })
        .collect();
    HeaderValue::from_str(&legal).expect("printable ASCII is a header value")
}
