//! RPC over HTTP: `POST /yarpc/v1`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use omnirelay_net::http::{BodyError, DeliveryBody, Service, read_body};
use omnirelay_net::rpc::{self, Call, Code, Encoding, Error, Procedure, RequestHead};
use omnirelay_queue::Nanos;
use omnirelay_wal::Disk;

use super::budget::{BodyBudget, OPEN_CALLS_MAX};
use crate::cores::CoreCell;
use crate::node::{CallContext, GrantRef, OWNER_BYTES_MAX, Outcome};

/// A reply leaves this share of the ttl before the deadline, so that it is there in time.
const REPLY_MARGIN_SHARE: u32 = 8;
/// The least: timers are up to two milliseconds late.
const REPLY_MARGIN_MIN: Duration = Duration::from_millis(3);
/// The most that a reply leaves before its deadline.
const REPLY_MARGIN_MAX: Duration = Duration::from_millis(20);

/// Serves RPC calls that come over HTTP to one core.
pub struct HttpInbound<D: Disk> {
    cell: Rc<CoreCell<D>>,
    body_bytes_max: usize,
    budget: BodyBudget,
}

impl<D: Disk> HttpInbound<D> {
    /// Serves calls on the core of `cell`; bodies above `body_bytes_max` are refused.
    pub fn new(cell: Rc<CoreCell<D>>, body_bytes_max: usize) -> HttpInbound<D> {
        HttpInbound {
            cell,
            body_bytes_max,
            budget: BodyBudget::default(),
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<DeliveryBody> {
        let cell = &self.cell;
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
        let head = match RequestHead::parse(&parts.headers) {
            Ok(head) => head,
            Err(error) => {
                cell.telemetry
                    .borrow_mut()
                    .count_reply(None, error.code, started.elapsed());
                return deliver(rpc::error_response(None, None, &error), Vec::new(), cell);
            }
        };
        let announced = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok());
        let mut routed = None;
        let outcome = self
            .answer(&head, body, announced, started, &mut routed)
            .await;
        let code = outcome
            .reply
            .as_ref()
            .map_or_else(|error| error.code, |_| Code::Ok);
        cell.telemetry
            .borrow_mut()
            .count_reply(routed, code, started.elapsed());
        let shard = outcome.shard.map(|shard| shard.0);
        let response = match &outcome.reply {
            Ok(reply) => rpc::reply_response(&head.service, shard, head.encoding, reply),
            Err(error) => rpc::error_response(Some(&head.service), shard, error),
        };
        deliver(response, outcome.grants, cell)
    }

    /// From a parsed head to the call's outcome.
    async fn answer(
        &self,
        head: &RequestHead,
        body: Incoming,
        announced: Option<u64>,
        started: Instant,
        routed: &mut Option<Procedure>,
    ) -> Outcome {
        let cell = &self.cell;
        let body_bytes_max = self.body_bytes_max;
        let refuse = |error| Outcome {
            reply: Err(error),
            shard: None,
            grants: Vec::new(),
        };
        let (procedure, namespace) = match route(cell, head) {
            Ok(found) => found,
            Err(error) => return refuse(error),
        };
        *routed = Some(procedure);
        if head.encoding == Encoding::Raw {
            return refuse(Error::encoding_unsupported(
                "Rpc-Encoding `raw`: the lease procedures take json or proto",
            ));
        }
        if announced.is_some_and(|bytes| bytes > body_bytes_max as u64) {
            return refuse(too_large(body_bytes_max));
        }
        if cell.open_calls() >= OPEN_CALLS_MAX {
            return refuse(Error::rate_limited(
                "this core holds as many unanswered calls as it may; retry later",
            ));
        }
        // A body whose length is not announced may become as large as allowed.
        let expected =
            announced.map_or(body_bytes_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let Some(mut share) = self.budget.take(expected) else {
            return refuse(Error::rate_limited(
                "this core holds as many large request bodies as it may; retry later, or send smaller batches",
            ));
        };
        let margin = (head.ttl / REPLY_MARGIN_SHARE).clamp(REPLY_MARGIN_MIN, REPLY_MARGIN_MAX);
        let deadline = started + head.ttl.saturating_sub(margin);
        let body: Bytes = match read_body(body, body_bytes_max, deadline).await {
            Ok(body) => body,
            Err(BodyError::TooLarge { .. }) => return refuse(too_large(body_bytes_max)),
            Err(BodyError::TimedOut) => {
                return refuse(Error::deadline(
                    "the request's body did not arrive within its ttl",
                ));
            }
            Err(BodyError::Broken) => {
                return refuse(Error::body_malformed("the request's body broke off"));
            }
        };
        share.shrink(body.len());
        let call = match rpc::decode_call(procedure, head.encoding, &body) {
            Ok(call) => call,
            Err(error) => return refuse(error),
        };
        let owner = owner(head, &call);
        if owner.len() > OWNER_BYTES_MAX {
            return refuse(Error::payload_too_large(format!(
                "the owner of a lease is at most {OWNER_BYTES_MAX} bytes"
            )));
        }
        let left = u64::try_from(deadline.saturating_duration_since(started).as_nanos())
            .unwrap_or(u64::MAX);
        let spent = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let context = CallContext {
            namespace,
            owner,
            shard_key: head.shard_key.clone(),
            reply_by: Nanos(
                cell.clock()
                    .now()
                    .0
                    .saturating_sub(spent)
                    .saturating_add(left),
            ),
        };
        cell.call(call, &context).await
    }
}

impl<D: Disk> Service for HttpInbound<D> {
    type Body = DeliveryBody;

    async fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        _peer: SocketAddr,
    ) -> Response<DeliveryBody> {
        self.respond(request).await
    }
}

fn route<D: Disk>(
    cell: &Rc<CoreCell<D>>,
    head: &RequestHead,
) -> Result<(Procedure, crate::node::NamespaceId), Error> {
    let (name, procedure) = Procedure::parse(&head.procedure)?;
    let namespace = cell.layout().find_namespace(name).ok_or_else(|| {
        let names: Vec<&str> = cell
            .layout()
            .namespaces()
            .iter()
            .map(|n| n.name.as_str())
            .collect();
        Error::namespace_unknown(format!(
            "no namespace `{name}`; this node has {}",
            names.join(", ")
        ))
    })?;
    Ok((procedure, namespace))
}

/// Who will own the leases: `peerId`, else `x-peer-id`, else the caller.
fn owner(head: &RequestHead, call: &Call) -> String {
    let asked = match call {
        Call::Lease(request) => request.peer_id.as_ref(),
        Call::LeaseBatch(request) => request.peer_id.as_ref(),
        _ => None,
    };
    asked
        .or(head.peer_id.as_ref())
        .unwrap_or(&head.caller)
        .clone()
}

fn too_large(limit: usize) -> Error {
    Error::payload_too_large(format!(
        "the request's body is above {limit} bytes; send less, or smaller batches"
    ))
}

fn plain(status: StatusCode, text: &str) -> Response<DeliveryBody> {
    let mut response = Response::new(DeliveryBody::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// Sends a response; grants in it go back if its body is never taken.
fn deliver<D: Disk>(
    response: Response<Bytes>,
    grants: Vec<GrantRef>,
    cell: &Rc<CoreCell<D>>,
) -> Response<DeliveryBody> {
    if grants.is_empty() {
        return response.map(DeliveryBody::new);
    }
    let cell = Rc::clone(cell);
    response.map(|body| DeliveryBody::or_undo(body, move || cell.undelivered(grants)))
}
