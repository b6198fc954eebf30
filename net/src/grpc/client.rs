//! The caller's side: requests to send, replies to read.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Request, StatusCode, Uri};
use prost::Message;

use super::reply::{ErrorInfo, Status, content_type};
use super::{Compression, PREFIX_BYTES, frame, metadata, only_message};
use crate::messages;
use crate::rpc::{Call, Code, Encoding, Error, RequestHead, encode_call_behind, headers};

/// The longest timeout that its eight digits can say in ms: longer ones are said in seconds.
const TIMEOUT_MS_MAX: u128 = 99_999_999;

/// The path of a procedure: `service::method` is `/service/method`.
///
/// # Errors
/// `rpc.procedure.unknown` for a procedure that has no such form.
pub fn path(procedure: &str) -> Result<Uri, Error> {
    let split = procedure.rsplit_once("::");
    let path = split.and_then(|(service, method)| {
        let path = format!("/{service}/{method}");
        let is_whole = !service.is_empty() && !method.is_empty();
        path.parse().ok().filter(|_| is_whole)
    });
    path.ok_or_else(|| {
        Error::procedure_unknown(format!(
            "`{procedure}` has no path in gRPC: procedures are service::method"
        ))
    })
}

/// A request for one unary call. `uri` is the server's, with the [path] of the procedure.
///
/// # Errors
/// `rpc.header.malformed` where the head has a value that no header can carry.
pub fn request(uri: Uri, head: &RequestHead<'_>, message: &[u8]) -> Result<Request<Bytes>, Error> {
    let mut fields = head.to_headers()?;
    // The path says it.
    fields.remove(&headers::PROCEDURE);
    fields.insert(CONTENT_TYPE, content_type(head.encoding));
    fields.insert(TE, HeaderValue::from_static("trailers"));
    let timeout = match head.ttl.as_millis() {
        ms if ms <= TIMEOUT_MS_MAX => format!("{ms}m"),
        _ => format!("{}S", head.ttl.as_secs()),
    };
    let timeout = HeaderValue::try_from(timeout).expect("digits are a header value");
    fields.insert(&metadata::TIMEOUT, timeout);
    let mut framed = BytesMut::zeroed(PREFIX_BYTES);
    framed.extend_from_slice(message);
    let mut request = Request::new(frame(framed, Compression::Identity));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    Ok(request)
}

/// The body of a request for a lease call.
///
/// # Errors
/// As [`crate::rpc::encode_call`].
pub fn encode_call(encoding: Encoding, call: &Call) -> Result<Bytes, Error> {
    let message = encode_call_behind(PREFIX_BYTES, encoding, call)?;
    Ok(frame(message, Compression::Identity))
}

/// The message of a response to a unary call, of at most `bytes_max` bytes.
///
/// # Errors
/// What the server refused, in the server's words; `rpc.body.malformed` where its reply makes no
/// sense. A response that is no gRPC, say from a proxy, keeps the likeliest code.
pub fn parse_response(
    status: StatusCode,
    fields: &HeaderMap,
    trailers: Option<&HeaderMap>,
    body: Bytes,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    // A refusal may have trailers alone, which are its headers then.
    let end = trailers
        .filter(|trailers| trailers.contains_key(&metadata::STATUS))
        .unwrap_or(fields);
    let Some(number) = end.get(&metadata::STATUS) else {
        let mut error = Error::internal(format!("HTTP {status} without a gRPC status"));
        error.code = match Code::from_http_status(status) {
            Code::Ok => Code::Unknown,
            code => code,
        };
        return Err(error);
    };
    let number = number.to_str().ok().and_then(|text| text.parse().ok());
    let code = number.and_then(Code::from_grpc_number);
    if code == Some(Code::Ok) {
        return only_message(body, Compression::Identity, bytes_max);
    }
    Err(error(code.unwrap_or(Code::Unknown), end))
}

fn error(code: Code, end: &HeaderMap) -> Error {
    let text = |name: &HeaderName| {
        let value = end.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let details = text(&metadata::STATUS_DETAILS).and_then(|text| details(&text));
    let (said, info) = details.unwrap_or_default();
    let message = text(&metadata::MESSAGE).map(|text| percent_decoded(&text));
    messages::Error {
        message: message.unwrap_or(said),
        status: code.grpc_name().to_owned(),
        code: text(&metadata::ERROR_CODE).unwrap_or(info.reason),
        metadata: info.metadata.into_iter().collect(),
    }
    .into()
}

/// The message and the first `ErrorInfo` of a `google.rpc.Status`.
fn details(text: &str) -> Option<(String, ErrorInfo)> {
    let bytes = STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD.decode(text))
        .ok()?;
    let status = Status::decode(&bytes[..]).ok()?;
    let infos = status.details.iter().filter_map(|any| {
        let is_info = any.type_url.ends_with("/google.rpc.ErrorInfo");
        is_info.then(|| ErrorInfo::decode(&any.value[..]).ok())?
    });
    let info = { infos }.next();
    Some((status.message, info.unwrap_or_default()))
}

/// Reads `grpc-message`; what is no percent-encoding stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| std::str::from_utf8(behind.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &behind[2..]
        } else {
            behind
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::grpc::{Head, Method as Called, error_response};
    use crate::rpc::codes;

    #[test]
    fn a_server_reads_the_head_that_a_caller_sends() {
        let mut said = RequestHead::new("me", "queue", "resourcelease::stats", Encoding::Json);
        said.shard_key = Some("7".into());
        for ttl in [Duration::from_millis(50), Duration::from_hours(24)] {
            said.ttl = ttl;
            let uri = path(&said.procedure).expect("a path");
            let sent = request(uri, &said, b"{}").expect("a request");
            let heard = Head::parse(sent.uri().path(), sent.headers()).expect("a head");
            assert_eq!((heard.method, &heard.rpc), (Called::Yarpc, &said));
            let message = only_message(sent.into_body(), Compression::Identity, 10);
            assert_eq!(message.as_deref(), Ok(&b"{}"[..]));
        }
        for procedure in ["stats", "::stats", "a::", ""] {
            assert!(path(procedure).is_err(), "{procedure}");
        }
    }

    #[test]
    fn a_caller_reads_the_error_that_a_server_sends() {
        let error = Error::fenced("100 % fenced: ü\n").with("reason", "completed");
        let (head, ()) = error_response(&error).into_parts();
        let heard = parse_response(head.status, &head.headers, None, Bytes::new(), 10);
        assert_eq!(heard, Err(error));
    }

    #[test]
    fn what_is_no_grpc_keeps_the_likeliest_code() {
        let status = StatusCode::BAD_GATEWAY;
        let heard = parse_response(status, &HeaderMap::new(), None, Bytes::new(), 10);
        let error = heard.unwrap_err();
        assert!(error.is(codes::INTERNAL), "{error}");
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(percent_decoded("a%2Gb%"), "a%2Gb%");
    }
}
