//! RPC over plain HTTP: `POST /yarpc/v1`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use omnirelay_net::http::{DeliveryBody, read_body};
use omnirelay_net::rpc::{self, Encoding, Error, Procedure, RequestHead};
use omnirelay_wal::Disk;

use super::account::{self, Account, Fields, Told};
use super::admission::{Admission, Term, refused, too_large, unread};
use super::plain;
use crate::cores::Transport;
use crate::node::Outcome;

/// Answers a request to one core.
pub(super) async fn respond<D: Disk>(
    admission: &Rc<Admission<D>>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<DeliveryBody> {
    let started = Instant::now();
    if request.uri().path() != rpc::PATH {
        return plain(
            StatusCode::NOT_FOUND,
            &format!("no such path; RPC is POST {}\n", rpc::PATH),
        );
    }
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "RPC is POST\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let (parts, body) = request.into_parts();
    let parsed = RequestHead::parse(&parts.headers);
    let told = Told {
        fields: Fields::Headers(&parts.headers),
        head: parsed.as_ref().ok(),
    };
    let mut account = Account::new(admission, Transport::Http, peer, started, told);
    let head = match &parsed {
        Ok(head) => head,
        Err(error) => {
            let mut response = rpc::error_response(None, None, error);
            account::put(response.headers_mut(), account.refuse(told, error));
            return admission.deliver(response, Vec::new());
        }
    };
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    let answered = answer(admission, head, body, announced, started, &mut account).await;
    let outcome = answered.unwrap_or_else(refused);
    let trace = account.end(told, &outcome);
    let shard = outcome.shard.map(|shard| shard.0);
    let mut response = match &outcome.reply {
        Ok(reply) => rpc::reply_response(&head.service, shard, head.encoding, reply),
        Err(error) => {
            let mut response = rpc::error_response(Some(&head.service), shard, error);
            if head.accepts_both_response_error {
                let both = HeaderValue::from_static("true");
                let fields = response.headers_mut();
                fields.insert(&rpc::headers::BOTH_RESPONSE_ERROR, both);
            }
            response
        }
    };
    account::put(response.headers_mut(), trace);
    admission.deliver(response, outcome.grants)
}

/// From a parsed head to the call's outcome.
async fn answer<D: Disk>(
    admission: &Admission<D>,
    head: &RequestHead<'_>,
    body: Incoming,
    announced: Option<u64>,
    started: Instant,
    account: &mut Account<D>,
) -> Result<Outcome, Error> {
    let bytes_max = admission.body_bytes_max;
    let (name, procedure) = Procedure::parse(&head.procedure)?;
    let namespace = admission.namespace(name)?;
    account.routed = Some(procedure);
    account.namespace = Some(namespace);
    if head.encoding == Encoding::Raw {
        return Err(Error::encoding_unsupported(
            "Rpc-Encoding `raw`: the lease procedures take json or proto",
        ));
    }
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    admission.check_open_calls()?;
    // A body whose length is not announced may become as large as allowed.
    let expected = announced.map_or(bytes_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut room = admission.take_room(expected)?;
    let term = Term::new(started, head.ttl);
    let read = read_body(body, bytes_max, term.reply_by).await;
    let body = read.map_err(unread)?;
    room.shrink(body.len());
    let call = rpc::decode_request(procedure, head.encoding, &body)?;
    Ok(admission.call(head, namespace, call, term, account).await)
}
