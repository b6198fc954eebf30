//! RPC over QUIC: calls that come in frames.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use omnirelay_net::frame::CallFrame;
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::grpc::replication::SubscribeRequest;
use omnirelay_net::grpc::{Compression, Deframer};
use omnirelay_net::quic::{Answer, IncomingCall};
use omnirelay_net::rpc::{self, Encoding, Error, Procedure, REQUEST_BYTES_MAX, RequestHead};
use omnirelay_net::runtime::sleep;
use omnirelay_wal::Disk;
use prost::Message;

use super::account::{Account, Fields};
use super::admission::{Admission, Term, refused};
use super::budget::BodyShare;
use crate::cores::Transport;
use crate::node::Outcome;
use crate::replication::{self, Refusal, Subscribed};

/// The procedure of a subscription, as YARPC maps gRPC's path.
const SUBSCRIBE: &str = "omnirelay.replication.v1.Replication::Subscribe";

/// Between two looks at whether the node is going down.
const LOOK_STEP: Duration = Duration::from_millis(500);

/// Answers a call to one core.
pub(super) async fn respond<D: Disk>(admission: &Rc<Admission<D>>, call: IncomingCall) -> Answer {
    let frame = &call.frame;
    if frame.procedure() == SUBSCRIBE {
        return subscribe(admission, &call).await;
    }
    let parsed = RequestHead::from_frame(frame, &call.greeting.caller, &call.greeting.service);
    let mut account = Account::new(
        admission,
        Transport::Quic,
        call.peer,
        call.came,
        Fields::Frame(frame),
        parsed.as_ref().ok(),
    );
    let head = match &parsed {
        Ok(head) => head,
        Err(error) => {
            let trace = account.refuse(error);
            return Answer::new(encode::error(&reply_head(frame, None, &trace), error));
        }
    };
    let answered = answer(admission, head, &call, &mut account).await;
    let (outcome, mut page) = answered.unwrap_or_else(|error| (refused(error), None));
    let trace = account.end(&outcome);
    let reply_head = reply_head(frame, outcome.shard.map(|shard| shard.0), &trace);
    let bytes = match &outcome.reply {
        Ok(reply) => encode::reply(&reply_head, head.encoding, reply),
        Err(error) => encode::error(&reply_head, error),
    };
    if let Some(page) = &mut page {
        page.shrink(bytes.len());
    }
    if outcome.grants.is_empty() && page.is_none() {
        return Answer::new(bytes);
    }
    let cell = Rc::clone(&admission.cell);
    Answer::or_undo(bytes, move || {
        // A page's room is its own until the client has it.
        drop(page);
        if !outcome.grants.is_empty() {
            cell.undelivered(outcome.grants);
        }
    })
}

fn reply_head<'a>(
    frame: &CallFrame,
    shard: Option<u32>,
    trace: &'a Option<http::HeaderValue>,
) -> ReplyHead<'a> {
    let trace = trace.as_ref().and_then(|trace| trace.to_str().ok());
    ReplyHead {
        id: frame.id,
        shard,
        traceresponse: trace.unwrap_or_default(),
        more: false,
    }
}

/// The replication stream: an event a reply, until the subscriber cancels or the node ends.
async fn subscribe<D: Disk>(admission: &Admission<D>, call: &IncomingCall) -> Answer {
    let head = |more| ReplyHead {
        id: call.frame.id,
        more,
        ..ReplyHead::default()
    };
    let mut subscribed = match open(admission, &call.frame) {
        Ok(subscribed) => subscribed,
        Err(error) => return Answer::new(encode::error(&head(false), &error)),
    };
    let mut events = Deframer::new(Compression::Identity, usize::MAX);
    loop {
        let chunk = match next_chunk(admission, &mut subscribed).await {
            Ok(chunk) => chunk,
            Err(error) => return Answer::new(encode::error(&head(false), &error)),
        };
        events.push(&chunk);
        let mut replies = BytesMut::with_capacity(chunk.len() * 2);
        while let Ok(Some(event)) = events.next_message() {
            replies.unsplit(encode::raw_reply(&head(true), &event).into());
        }
        call.replies.send(replies.freeze()).await;
    }
}

fn open<D: Disk>(admission: &Admission<D>, frame: &CallFrame) -> Result<Subscribed, Error> {
    if frame.encoding != Some(Encoding::Proto) {
        return Err(replication::proto_only());
    }
    let asked = SubscribeRequest::decode(frame.body())
        .map_err(|error| Error::body_malformed(format!("malformed protobuf: {error}")))?;
    let opened = admission
        .subscriptions
        .subscribe(&asked, Compression::Identity);
    opened.map_err(|refusal| refusal.to_error())
}

async fn next_chunk<D: Disk>(
    admission: &Admission<D>,
    subscribed: &mut Subscribed,
) -> Result<Bytes, Error> {
    let mut look = pin!(sleep(LOOK_STEP));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(next) = subscribed.poll_next(cx) {
                // Whoever read for it is gone without a word: so is the node, or soon.
                return Poll::Ready(next.unwrap_or_else(|| Err(Refusal::Ending.to_error())));
            }
            if admission.cell.is_draining() {
                return Poll::Ready(Err(Refusal::Ending.to_error()));
            }
            ready!(look.as_mut().poll(cx));
            look.set(sleep(LOOK_STEP));
        }
    })
    .await
}

/// The most that a page of items may take as a reply: in any encoding, as a request with as many.
const PAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// From a parsed head to the call's outcome, with the room of a reply that may be a page of items.
///
/// A stream takes calls faster than a connection takes such replies, so they need room before they
/// are made.
async fn answer<D: Disk>(
    admission: &Admission<D>,
    head: &RequestHead,
    call: &IncomingCall,
    account: &mut Account<'_, D>,
) -> Result<(Outcome, Option<BodyShare>), Error> {
    let (name, procedure) = Procedure::parse(&head.procedure)?;
    let namespace = admission.namespace(name)?;
    account.routed = Some(procedure);
    account.namespace = Some(namespace);
    if head.encoding == Encoding::Raw {
        return Err(Error::encoding_unsupported(
            "the lease procedures take json or proto, not raw",
        ));
    }
    admission.check_open_calls()?;
    let body = call.frame.body();
    let _room = admission.take_room(body.len())?;
    let is_page = matches!(
        procedure,
        Procedure::Peek | Procedure::DeadLetters | Procedure::Drain
    );
    let page = is_page
        .then(|| admission.take_room(PAGE_BYTES_MAX))
        .transpose()?;
    let term = Term::new(call.came, head.ttl);
    let call = rpc::decode_request(procedure, head.encoding, &body)?;
    drop(body);
    let outcome = admission.call(head, namespace, call, term, account).await;
    Ok((outcome, page))
}
