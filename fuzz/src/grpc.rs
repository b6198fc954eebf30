//! What comes over gRPC: bodies of unary calls and streams, paths and metadata, requests to
//! reflection.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use omnirelay_net::grpc::reflection::{ServerReflectionRequest, answer};
use omnirelay_net::grpc::{
    Compression, Deframer, Head, Method, PREFIX_BYTES, error_response, frame, only_message,
};
use omnirelay_net::rpc::Error;
use prost::Message;

/// Above it a message is refused, decompressed or not.
const MESSAGE_BYTES_MAX: usize = 100_000;

/// Reads bytes as what the first of them chooses.
///
/// # Panics
/// When a message read whole differs from the same one read in parts or framed again, when
/// something exceeds its limit, or a reader panics.
pub fn grpc(bytes: &[u8]) -> &'static str {
    let Some((&choice, rest)) = bytes.split_first() else {
        return "nothing";
    };
    match choice % 4 {
        0 => body(rest, Compression::Identity),
        1 => body(rest, Compression::Gzip),
        2 => head(rest),
        _ => reflection(rest),
    }
}

fn body(bytes: &[u8], compression: Compression) -> &'static str {
    let Some((&cut, body)) = bytes.split_first() else {
        return "nothing";
    };
    let whole = only_message(Bytes::copy_from_slice(body), compression, MESSAGE_BYTES_MAX);
    let mut deframer = Deframer::new(compression, MESSAGE_BYTES_MAX);
    let mut first = Ok(None);
    for part in body.chunks(usize::from(cut) + 1) {
        deframer.push(part);
        if matches!(first, Ok(None)) {
            first = deframer.next_message();
        }
    }
    let Ok(message) = whole else {
        return "a message refused";
    };
    assert!(message.len() <= MESSAGE_BYTES_MAX);
    assert_eq!(first, Ok(Some(message.clone())));
    let mut again = BytesMut::zeroed(PREFIX_BYTES);
    again.extend_from_slice(&message);
    let again = only_message(frame(again, compression), compression, MESSAGE_BYTES_MAX);
    assert_eq!(again, Ok(message));
    match body[0] {
        0 => "a message",
        _ => "a compressed message",
    }
}

/// A line with a path, then lines of metadata, each a name, a colon and a value.
fn head(bytes: &[u8]) -> &'static str {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(path) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else {
        return "no head";
    };
    let mut found = HeaderMap::new();
    found.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for line in lines.take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            found.append(name, value);
        }
    }
    match Head::parse(path, &found) {
        Ok(head) if head.method == Method::Yarpc => "a head of YARPC's",
        Ok(_) => "a head",
        Err(error) => {
            told(&error);
            "a head refused"
        }
    }
}

/// Any error can be said in trailers.
fn told(error: &Error) {
    let response = error_response(error);
    assert!(response.headers().contains_key("grpc-message"));
}

fn reflection(bytes: &[u8]) -> &'static str {
    let Ok(request) = ServerReflectionRequest::decode(bytes) else {
        return "a request refused";
    };
    let response = answer(request.clone());
    assert_eq!(response.original_request, Some(request));
    assert!(response.message_response.is_some());
    let _ = response.encode_to_vec();
    "an answer"
}
