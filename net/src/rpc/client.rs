//! The caller's side: requests to send, responses to read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};

use super::call::decode_json;
use super::{Code, Encoding, Error, Procedure, Reply, RequestHead, codes, decode_reply, headers};
use crate::messages;

/// A request for one call. `uri` is the server's, with the path [`super::PATH`].
///
/// # Errors
/// `rpc.header.malformed` where the head has a value that no header can carry.
pub fn request(uri: Uri, head: &RequestHead<'_>, body: Bytes) -> Result<Request<Bytes>, Error> {
    let mut fields = head.to_headers()?;
    fields.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(head.encoding.content_type()),
    );
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    Ok(request)
}

/// Reads the response to a call of `procedure` that was sent in `encoding`.
///
/// # Errors
/// What the server refused, in the server's words; `rpc.body.malformed` where its reply makes no
/// sense. A response without an error body, say from a proxy, keeps the likeliest code.
pub fn parse_response(
    procedure: Procedure,
    encoding: Encoding,
    status: StatusCode,
    fields: &HeaderMap,
    body: &Bytes,
) -> Result<Reply, Error> {
    let refused = fields
        .get(&headers::STATUS)
        .is_some_and(|value| value == "error");
    if status.is_success() && !refused {
        decode_reply(procedure, encoding, body)
    } else {
        Err(parse_error(status, fields, body))
    }
}

/// The error in a response: from its body, else from its headers, else from its status.
fn parse_error(status: StatusCode, fields: &HeaderMap, body: &Bytes) -> Error {
    let header = |name: &http::HeaderName| {
        let value = fields.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match decode_json::<messages::Error>(body) {
        Ok(error) if !error.code.is_empty() => return error.into(),
        _ => {}
    }
    let code = header(&headers::ERROR_CODE)
        .and_then(|name| Code::from_name(&name))
        .unwrap_or_else(|| match Code::from_http_status(status) {
            Code::Ok => Code::Unknown,
            code => code,
        });
    let error_code = match code {
        Code::Unavailable => codes::PEER_UNAVAILABLE,
        Code::DeadlineExceeded => codes::DEADLINE,
        Code::Unauthenticated => codes::UNAUTHENTICATED,
        Code::PermissionDenied => codes::FORBIDDEN,
        _ => codes::INTERNAL,
    };
    Error {
        code,
        error_code: Cow::Borrowed(error_code.name),
        message: header(&headers::ERROR_MESSAGE)
            .unwrap_or_else(|| format!("the server answered HTTP {status} without an RPC error")),
        metadata: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Stats, StatsResponse};
    use crate::rpc::{PATH, error_response, reply_response};

    fn read(response: &http::Response<Bytes>, encoding: Encoding) -> Result<Reply, Error> {
        let (status, fields) = (response.status(), response.headers());
        parse_response(Procedure::Stats, encoding, status, fields, response.body())
    }

    #[test]
    fn a_request_posts_its_head_and_its_body() {
        let head = RequestHead::new("cli", "queue", "resourcelease::stats", Encoding::Json);
        let request = request(Uri::from_static(PATH), &head, Bytes::from_static(b"{}")).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri().path(), "/yarpc/v1");
        assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(RequestHead::parse(request.headers()), Ok(head));
    }

    #[test]
    fn a_reply_arrives_as_it_was_sent() {
        let stats = Stats {
            pending_count: 3,
            ..Stats::default()
        };
        let reply = Reply::Stats(StatsResponse { stats: Some(stats) });
        for encoding in [Encoding::Json, Encoding::Proto] {
            let response = reply_response("queue", Some(7), encoding, &reply);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["rpc-service"], "queue");
            assert_eq!(response.headers()["rpc-shard-key"], "7");
            assert_eq!(response.headers()["rpc-status"], "success");
            assert_eq!(response.headers()[CONTENT_TYPE], encoding.content_type());
            assert_eq!(read(&response, encoding).as_ref(), Ok(&reply));
        }
    }

    #[test]
    fn every_error_arrives_as_it_was_sent() {
        for known in codes::ALL {
            let error = Error::new(*known, "über\nall").with("reason", "completed");
            let response = error_response(Some("queue"), None, &error);
            assert_eq!(response.status(), known.code.http_status());
            assert_eq!(response.headers()["rpc-status"], "error");
            assert_eq!(response.headers()["rpc-error-code"], known.code.name());
            assert_eq!(response.headers()["rpc-error-message"], "?ber all");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(read(&response, Encoding::Proto), Err(error));
        }
    }

    #[test]
    fn a_response_without_an_rpc_error_keeps_the_likeliest_code() {
        let mut response = http::Response::new(Bytes::from_static(b"<html>Bad Gateway</html>"));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let error = read(&response, Encoding::Json).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.is(codes::PEER_UNAVAILABLE));
        assert_eq!(
            error.message,
            "the server answered HTTP 502 Bad Gateway without an RPC error"
        );

        *response.body_mut() = Bytes::new();
        response
            .headers_mut()
            .insert("rpc-error-code", HeaderValue::from_static("aborted"));
        response
            .headers_mut()
            .insert("rpc-error-message", HeaderValue::from_static("gone"));
        let error = read(&response, Encoding::Json).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::Aborted, "gone")
        );
    }
}
