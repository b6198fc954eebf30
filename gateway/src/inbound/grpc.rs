//! gRPC: the typed service, YARPC's mapping, the replication stream, health and reflection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ALLOW, HeaderValue};
use http::{Method as HttpMethod, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use omnirelay_net::grpc::health::{self, HealthCheckRequest, HealthListRequest, ServingStatus};
use omnirelay_net::grpc::replication::SubscribeRequest;
use omnirelay_net::grpc::{self, Compression, Framed, GZIP_RATIO_MAX, Head, Method, PREFIX_BYTES};
use omnirelay_net::http::{BodyError, DeliveryBody, SizedBodyError, read_sized_body};
use omnirelay_net::rpc::{self, DEFAULT_NAMESPACE, Encoding, Error, Procedure};
use omnirelay_wal::Disk;
use prost::Message;

use super::account::{self, Account, Fields, Told};
use super::admission::{Admission, Term, refused, unread};
use super::budget::BodyShare;
use super::grpc_stream::{Messages, Reflection, Stream, Watch};
use super::{ReplyBody, plain};
use crate::cores::Transport;
use crate::node::{NamespaceId, Outcome};
use crate::replication::{self, Subscribed};

/// The most bytes of a message to health, reflection or the replication stream.
pub(super) const SMALL_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Answers a request to one core.
pub(super) async fn respond<D: Disk>(
    admission: &Rc<Admission<D>>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<ReplyBody> {
    let started = Instant::now();
    if request.version() != Version::HTTP_2 {
        let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
        return plain(status, "gRPC needs HTTP/2\n").map(ReplyBody::Whole);
    }
    if request.method() != HttpMethod::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "gRPC is POST\n");
        let fields = response.headers_mut();
        fields.insert(ALLOW, HeaderValue::from_static("POST"));
        return response.map(ReplyBody::Whole);
    }
    let (parts, body) = request.into_parts();
    let told = |head| Told {
        fields: Fields::Headers(&parts.headers),
        head,
    };
    let account = |told| Account::new(admission, Transport::Grpc, peer, started, told);
    let head = match Head::parse(parts.uri.path(), &parts.headers) {
        Ok(head) => head,
        Err(error) => {
            let mut response = refuse(&error);
            account::put(
                response.headers_mut(),
                account(told(None)).refuse(told(None), &error),
            );
            return response;
        }
    };
    match head.method {
        Method::Typed(procedure) => {
            let told = told(Some(&head.rpc));
            let call = (told, account(told));
            lease_call(admission, &head, Some(procedure), body, call).await
        }
        Method::Yarpc => {
            let told = told(Some(&head.rpc));
            lease_call(admission, &head, None, body, (told, account(told))).await
        }
        Method::Subscribe => match subscribe(admission, &head, body, started).await {
            Ok(subscribed) => stream(admission, &head, subscribed),
            Err(error) => refuse(&error),
        },
        Method::HealthCheck | Method::HealthList => {
            match health_call(admission, &head, body, started).await {
                Ok(framed) => whole(grpc::stream_head(&head).map(|()| framed), DeliveryBody::new),
                Err(error) => refuse(&error),
            }
        }
        Method::HealthWatch => match only_request(admission, &head, body, started).await {
            Ok(asked) => {
                let watch = Watch::new(Rc::clone(&admission.cell), &asked);
                stream(admission, &head, watch)
            }
            Err(error) => refuse(&error),
        },
        Method::Reflection => stream(admission, &head, Reflection::new(body, &head)),
    }
}

/// A lease procedure, which the path names or stands for.
async fn lease_call<D: Disk>(
    admission: &Rc<Admission<D>>,
    head: &Head<'_>,
    typed: Option<Procedure>,
    body: Incoming,
    (told, mut account): (Told<'_>, Account<D>),
) -> Response<ReplyBody> {
    account.routed = typed;
    let answered = answer(admission, head, typed, body, &mut account).await;
    let outcome = answered.unwrap_or_else(refused);
    let trace = account.end(told, &outcome);
    let shard = outcome.shard.map(|shard| shard.0);
    let mut response = match &outcome.reply {
        Ok(reply) => whole(grpc::reply_response(head, shard, reply), |message| {
            admission.body(message, outcome.grants)
        }),
        Err(error) => refuse(error),
    };
    account::put(response.headers_mut(), trace);
    response
}

async fn answer<D: Disk>(
    admission: &Admission<D>,
    head: &Head<'_>,
    typed: Option<Procedure>,
    body: Incoming,
    account: &mut Account<D>,
) -> Result<Outcome, Error> {
    // What the path says of a namespace; a typed call's message does.
    let (procedure, named) = match typed {
        Some(procedure) => (procedure, None),
        None => {
            let (name, procedure) = Procedure::parse(&head.rpc.procedure)?;
            (procedure, Some(admission.namespace(name)?))
        }
    };
    account.routed = Some(procedure);
    account.namespace = named;
    if head.rpc.encoding == Encoding::Raw {
        return Err(Error::encoding_unsupported(
            "the lease procedures take json or proto, not raw",
        ));
    }
    admission.check_open_calls()?;
    let term = Term::new(account.started, head.rpc.ttl);
    let bytes_max = admission.body_bytes_max;
    let (message, _room) = read_message(admission, head, body, bytes_max, term).await?;
    let call = rpc::decode_request(procedure, head.rpc.encoding, &message)?;
    let namespace = match named {
        Some(namespace) => namespace,
        None => typed_namespace(admission, call.namespace())?,
    };
    account.namespace = Some(namespace);
    let outcome = admission.call(&head.rpc, namespace, call, term, account);
    Ok(outcome.await)
}

/// The namespace that a typed message names: none and the empty one are the default.
fn typed_namespace<D: Disk>(
    admission: &Admission<D>,
    name: Option<&str>,
) -> Result<NamespaceId, Error> {
    let name = name.filter(|name| !name.is_empty());
    admission.namespace(name.unwrap_or(DEFAULT_NAMESPACE))
}

/// Reads the one message of a unary call, once its size is known and there is room for it.
async fn read_message<D: Disk>(
    admission: &Admission<D>,
    head: &Head<'_>,
    body: Incoming,
    bytes_max: usize,
    term: Term,
) -> Result<(Bytes, Option<BodyShare>), Error> {
    let mut room = None;
    let size = |beginning: &[u8]| {
        let bytes = grpc::announced_bytes(beginning, bytes_max)?;
        let becomes = match head.compression {
            Compression::Identity => bytes,
            Compression::Gzip => bytes.saturating_mul(GZIP_RATIO_MAX).min(bytes_max),
        };
        room = Some(admission.take_room(bytes.max(becomes))?);
        Ok(PREFIX_BYTES + bytes)
    };
    let read = read_sized_body(body, PREFIX_BYTES, term.reply_by, size).await;
    let body = read.map_err(|error| match error {
        SizedBodyError::Refused(error) => error,
        SizedBodyError::Body(BodyError::TooLarge { .. }) => {
            Error::body_malformed("a unary call's body has more than one message")
        }
        SizedBodyError::Body(error) => unread(error),
    })?;
    let message = grpc::only_message(body, head.compression, bytes_max)?;
    if let Some(room) = &mut room {
        room.shrink(message.len());
    }
    Ok((message, room))
}

/// Hands a subscriber of the replication stream to whoever reads the logs.
async fn subscribe<D: Disk>(
    admission: &Admission<D>,
    head: &Head<'_>,
    body: Incoming,
    started: Instant,
) -> Result<Subscribed, Error> {
    if head.rpc.encoding != Encoding::Proto {
        return Err(replication::proto_only());
    }
    let asked: SubscribeRequest = only_request(admission, head, body, started).await?;
    let subscribed = admission
        .subscriptions
        .subscribe(&asked, head.reply_compression);
    subscribed.map_err(|refusal| refusal.to_error())
}

/// The one small message of a request, which is not to a lease procedure.
async fn only_request<D: Disk, M: Message + Default>(
    admission: &Admission<D>,
    head: &Head<'_>,
    body: Incoming,
    started: Instant,
) -> Result<M, Error> {
    let term = Term::new(started, head.rpc.ttl);
    let (message, _room) =
        read_message(admission, head, body, SMALL_MESSAGE_BYTES_MAX, term).await?;
    M::decode(message)
        .map_err(|error| Error::body_malformed(format!("malformed protobuf: {error}")))
}

async fn health_call<D: Disk>(
    admission: &Admission<D>,
    head: &Head<'_>,
    body: Incoming,
    started: Instant,
) -> Result<Framed, Error> {
    let status = |is_well| match is_well {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    let message = if head.method == Method::HealthCheck {
        let asked: HealthCheckRequest = only_request(admission, head, body, started).await?;
        framed(
            head,
            &health::check(&asked.service, status(admission.cell.is_well()))?,
        )
    } else {
        let HealthListRequest {} = only_request(admission, head, body, started).await?;
        framed(head, &health::list(status(admission.cell.is_well())))
    };
    Ok(Framed {
        message,
        trailers: grpc::ok_trailers(),
    })
}

/// A message of health or reflection behind its prefix.
pub(super) fn framed(head: &Head<'_>, message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    out.put_bytes(0, PREFIX_BYTES);
    message.encode_raw(&mut out);
    grpc::frame(out, head.reply_compression)
}

fn whole(
    response: Response<Framed>,
    body: impl FnOnce(Bytes) -> DeliveryBody,
) -> Response<ReplyBody> {
    response.map(|framed| {
        let body = body(framed.message).with_trailers(framed.trailers);
        ReplyBody::Whole(body)
    })
}

fn stream<D: Disk>(
    admission: &Admission<D>,
    head: &Head<'_>,
    messages: impl Messages + 'static,
) -> Response<ReplyBody> {
    let cell = Rc::clone(&admission.cell);
    let body = Box::pin(Stream::new(cell, head, messages));
    grpc::stream_head(head).map(|()| ReplyBody::Stream(body))
}

fn refuse(error: &Error) -> Response<ReplyBody> {
    grpc::error_response(error).map(|()| ReplyBody::Whole(DeliveryBody::empty()))
}
