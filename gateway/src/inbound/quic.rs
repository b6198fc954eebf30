//! RPC over QUIC: calls that come in frames.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use omnirelay_net::frame::CallFrame;
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::grpc::replication::SubscribeRequest;
use omnirelay_net::grpc::{Compression, Deframer};
use omnirelay_net::quic::{Answer, CallTask, Greeting, IncomingCall};
use omnirelay_net::rpc::{
    self, Code, Encoding, Error, Procedure, REQUEST_BYTES_MAX, Request, RequestHead,
};
use omnirelay_net::runtime::sleep;
use omnirelay_wal::Disk;
use prost::Message;

use super::account::{Account, Fields, Told};
use super::admission::{Admission, Term};
use super::budget::BodyShare;
use crate::cores::{OpenCall, Transport};
use crate::node::{CallContext, Outcome};
use crate::replication::{self, Refusal, Subscribed};

/// The procedure of a subscription, as YARPC maps gRPC's path.
const SUBSCRIBE: &str = "omnirelay.replication.v1.Replication::Subscribe";

/// Between two looks at whether the node is going down.
const LOOK_STEP: Duration = Duration::from_millis(500);

/// What works on a call until it is answered.
pub enum QuicCall<D: Disk> {
    /// The core.
    Open(OpenCall<D>),
    /// A task that reads the logs.
    Subscription(CallTask),
}

/// Begins a call to one core.
pub(super) fn begin<D: Disk>(
    admission: &Rc<Admission<D>>,
    call: IncomingCall,
) -> Option<QuicCall<D>> {
    if call.frame.procedure() == SUBSCRIBE {
        let task = subscribe(Rc::clone(admission), call);
        return Some(QuicCall::Subscription(CallTask::spawn(task)));
    }
    let IncomingCall {
        frame,
        greeting,
        peer,
        came,
        replies,
    } = call;
    let parsed = read_head(&frame, &greeting);
    let said = told(&frame, parsed.as_ref().ok());
    let mut account = Account::new(admission, Transport::Quic, peer, came, said);
    let ready = match parsed {
        Ok(head) => prepare(admission, &head, &frame, came, &mut account),
        Err(error) => Err(error),
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => {
            let trace = account.refuse(told(&frame, None), &error);
            let head = reply_head(frame.id, None, &trace);
            replies.end(Answer::new(encode::error(&head, &error)));
            return None;
        }
    };
    let Ready {
        request,
        context,
        encoding,
        room,
        mut page,
    } = ready;
    let cell = Rc::clone(&admission.cell);
    let then = move |outcome: Outcome| {
        drop(room);
        let trace = match &outcome.reply {
            Err(error) if error.code == Code::Internal => {
                // Seldom enough for its head to be read again.
                let head = read_head(&frame, &greeting).ok();
                account.end(told(&frame, head.as_ref()), &outcome)
            }
            _ => account.end(told(&frame, None), &outcome),
        };
        let head = reply_head(frame.id, outcome.shard.map(|shard| shard.0), &trace);
        let bytes = match &outcome.reply {
            Ok(reply) => encode::reply(&head, encoding, reply),
            Err(error) => encode::error(&head, error),
        };
        if let Some(page) = &mut page {
            page.shrink(bytes.len());
        }
        if outcome.grants.is_empty() && page.is_none() {
            return replies.end(Answer::new(bytes));
        }
        replies.end(Answer::or_undo(bytes, move || {
            // A page's room is its own until the client has it.
            drop(page);
            cell.undelivered(outcome.grants);
        }));
    };
    let open = admission.cell.call_then(request, &context, then);
    Some(QuicCall::Open(open))
}

fn read_head<'a>(frame: &'a CallFrame, greeting: &'a Greeting) -> Result<RequestHead<'a>, Error> {
    RequestHead::from_frame(frame, &greeting.caller, &greeting.service)
}

fn told<'a>(frame: &'a CallFrame, head: Option<&'a RequestHead<'a>>) -> Told<'a> {
    Told {
        fields: Fields::Frame(frame),
        head,
    }
}

fn reply_head<'a>(
    id: u64,
    shard: Option<u32>,
    trace: &'a Option<http::HeaderValue>,
) -> ReplyHead<'a> {
    let trace = trace.as_ref().and_then(|trace| trace.to_str().ok());
    ReplyHead {
        id,
        shard,
        traceresponse: trace.unwrap_or_default(),
        more: false,
    }
}

/// The replication stream: an event a reply, until the subscriber cancels or the node ends.
async fn subscribe<D: Disk>(admission: Rc<Admission<D>>, call: IncomingCall) {
    let head = |more| ReplyHead {
        id: call.frame.id,
        more,
        ..ReplyHead::default()
    };
    let Err(error) = send_events(&admission, &call, &head(true)).await;
    let ended = encode::error(&head(false), &error);
    call.replies.end(Answer::new(ended));
}

/// Sends events for as long as there are any; why there are no more.
async fn send_events<D: Disk>(
    admission: &Admission<D>,
    call: &IncomingCall,
    head: &ReplyHead<'_>,
) -> Result<Infallible, Error> {
    let mut subscribed = open(admission, &call.frame)?;
    let mut events = Deframer::new(Compression::Identity, usize::MAX);
    loop {
        let chunk = next_chunk(admission, &mut subscribed).await?;
        events.push(&chunk);
        let mut replies = BytesMut::with_capacity(chunk.len() * 2);
        while let Ok(Some(event)) = events.next_message() {
            replies.unsplit(encode::raw_reply(head, &event).into());
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

/// A call that the core takes, with the room that it has.
struct Ready {
    request: Request,
    context: CallContext,
    encoding: Encoding,
    /// Its body's, until it is answered.
    room: BodyShare,
    /// Its reply's, if that may be a page of items. A stream takes calls faster than a connection
    /// takes such replies, so they need room before they are made.
    page: Option<BodyShare>,
}

/// From a head to what the core takes.
fn prepare<D: Disk>(
    admission: &Admission<D>,
    head: &RequestHead<'_>,
    frame: &CallFrame,
    came: Instant,
    account: &mut Account<D>,
) -> Result<Ready, Error> {
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
    let body = frame.body();
    let room = admission.take_room(body.len())?;
    let is_page = matches!(
        procedure,
        Procedure::Peek | Procedure::DeadLetters | Procedure::Drain
    );
    let page = is_page
        .then(|| admission.take_room(PAGE_BYTES_MAX))
        .transpose()?;
    let term = Term::new(came, head.ttl);
    let request = rpc::decode_request(procedure, head.encoding, &body)?;
    let context = admission.context(head, namespace, &request, term, account)?;
    Ok(Ready {
        request,
        context,
        encoding: head.encoding,
        room,
        page,
    })
}
