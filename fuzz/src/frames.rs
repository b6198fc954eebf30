//! What is read field by field: bodies of records, lease ids, heads of calls.

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use omnirelay_net::rpc::{Encoding, Error, Procedure, RequestHead, error_response, parse_response};
use omnirelay_queue::{EnqueuedBody, Event, LeaseId, kind};

/// Reads bytes as the frame that the first of them chooses. What is read is
/// written again, and must be what was there.
///
/// # Panics
/// When it is not, or a reader does.
pub fn frames(bytes: &[u8]) -> &'static str {
    let Some((&choice, rest)) = bytes.split_first() else {
        return "nothing";
    };
    match choice % 5 {
        0 => record(rest),
        4 => record(&sealed(rest)),
        1 => lease_id(rest),
        2 => head(rest),
        _ => response(rest),
    }
}

/// A record's kind and body.
fn record(bytes: &[u8]) -> &'static str {
    let Some((&kind, body)) = bytes.split_first() else {
        return "nothing";
    };
    let Ok(event) = Event::decode(kind, body) else {
        return "a record refused";
    };
    assert_eq!(event.kind(), kind);
    assert_eq!(event.encoded_len(), body.len());
    let mut written = Vec::new();
    event.encode(&mut written);
    assert_eq!(Event::decode(kind, &written), Ok(event));
    // Reading leaves checksums to whoever reads a payload back, and writing
    // makes them anew.
    match kind {
        kind::ENQUEUED => enqueue(body, &written),
        kind::DRAIN_SNAPSHOT | kind::RESTORE_SNAPSHOT | kind::CARRY => "a record with checksums",
        _ => {
            assert_eq!(written, body, "{event:?}");
            "a record"
        }
    }
}

fn enqueue(body: &[u8], written: &[u8]) -> &'static str {
    assert_eq!(written[4..], body[4..]);
    match EnqueuedBody::decode_verified(body) {
        Ok(enqueued) => {
            assert_eq!(written, body);
            assert_eq!(&body[enqueued.body_range()], enqueued.payload.body);
            "an enqueue"
        }
        Err(_) => {
            assert_ne!(written, body);
            "an enqueue whose checksum is wrong"
        }
    }
}

/// An enqueue with the checksum that its body starts with, so that the bytes
/// behind it are read.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let check = crc32c::crc32c(bytes);
    [&[kind::ENQUEUED], &check.to_le_bytes()[..], bytes].concat()
}

/// A lease id, as bytes and as text.
fn lease_id(bytes: &[u8]) -> &'static str {
    if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
        let id = LeaseId::from_bytes(bytes);
        assert_eq!(id.as_bytes(), &bytes);
        assert_eq!(id.to_string().parse(), Ok(id));
        let _ = (id.shard(), id.epoch());
        return "a lease id's bytes";
    }
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<LeaseId>() {
        Ok(id) => {
            assert_eq!(id.to_string(), text.to_ascii_lowercase());
            "a lease id's text"
        }
        Err(_) => "a lease id refused",
    }
}

/// The head of a call, one header to a line.
fn head(bytes: &[u8]) -> &'static str {
    let (fields, _) = headers(bytes);
    let mut head = match RequestHead::parse(&fields) {
        Ok(head) => head,
        Err(error) => {
            let response = error_response(None, None, &error);
            assert!(response.headers().contains_key("rpc-error-message"));
            return "a head refused";
        }
    };
    let Ok(written) = head.to_headers() else {
        panic!("a head that came in headers does not fit into headers: {head:?}");
    };
    let mut read = match RequestHead::parse(&written) {
        Ok(read) => read,
        Err(error) => panic!("a head that was written cannot be read: {error}"),
    };
    // Headers of different names come in no order.
    read.headers.sort();
    head.headers.sort();
    assert_eq!(read, head);
    match Procedure::parse(&head.procedure) {
        Ok((namespace, procedure)) => {
            assert_eq!(format!("{namespace}::{procedure}"), head.procedure);
            "a head"
        }
        Err(error) => {
            let response = error_response(Some(&head.service), Some(1), &error);
            let service = response.headers().get("rpc-service");
            assert_eq!(
                service.map(HeaderValue::as_bytes),
                Some(head.service.as_bytes())
            );
            "a head of no procedure"
        }
    }
}

/// A response, as a client reads it: status, headers, an empty line, a body.
fn response(bytes: &[u8]) -> &'static str {
    let Some((&status, rest)) = bytes.split_first() else {
        return "nothing";
    };
    let status = StatusCode::from_u16(100 + u16::from(status) * 2).expect("three digits");
    let (fields, body) = headers(rest);
    let body = Bytes::copy_from_slice(body);
    for encoding in [Encoding::Json, Encoding::Proto] {
        if let Err(error) = parse_response(Procedure::Stats, encoding, status, &fields, &body) {
            let error: Error = error;
            let sent = error_response(Some("queue"), None, &error);
            let again = parse_response(
                Procedure::Stats,
                encoding,
                sent.status(),
                sent.headers(),
                sent.body(),
            );
            assert!(again.is_err(), "an error arrives as success: {error}");
        }
    }
    "a response"
}

/// Headers up to an empty line, and what comes behind it. What HTTP would not
/// let through is left out.
fn headers(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    const HEADERS_MAX: usize = 100;
    let mut fields = HeaderMap::new();
    let mut rest = bytes;
    while !rest.is_empty() && fields.len() < HEADERS_MAX {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    (fields, rest)
}
