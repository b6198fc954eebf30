//! gRPC's answers of many messages: the replication stream, health as it changes, reflection.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use omnirelay_net::grpc::health::{self, HealthCheckRequest, ServingStatus};
use omnirelay_net::grpc::reflection::{self, ServerReflectionRequest};
use omnirelay_net::grpc::{Deframer, Head, error_trailers, ok_trailers};
use omnirelay_net::rpc::Error;
use omnirelay_net::runtime::{Sleep, sleep_until};
use omnirelay_wal::Disk;
use prost::Message;

use super::grpc::{SMALL_MESSAGE_BYTES_MAX, framed};
use crate::cores::CoreCell;
use crate::replication::{Refusal, Subscribed};

/// Between two looks at whether the core is still well.
const LOOK_STEP: Duration = Duration::from_millis(500);

/// The messages of an answer, framed: one at a time, or several.
pub(super) trait Messages: Unpin {
    /// The next message; an error ends the answer. Polled anew now and then even if nothing woke
    /// it.
    fn poll_next(
        &mut self,
        head: &Head<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>>;

    /// Why the answer ends when the node goes down.
    fn farewell(&self) -> Error {
        Error::peer_unavailable("this node is going down; ask another")
    }
}

/// An answer's body: its messages, then its status. It ends when the node goes down.
pub(super) struct Stream<D: Disk, M> {
    cell: Rc<CoreCell<D>>,
    head: Head<'static>,
    messages: M,
    /// The caller's deadline.
    deadline: Option<Pin<Box<Sleep>>>,
    next_look: Pin<Box<Sleep>>,
    has_ended: bool,
}

impl<D: Disk, M: Messages> Stream<D, M> {
    pub(super) fn new(cell: Rc<CoreCell<D>>, head: &Head<'_>, messages: M) -> Stream<D, M> {
        let sleep = |time| Box::pin(sleep_until(Instant::now() + time));
        Stream {
            cell,
            deadline: head.timeout.map(sleep),
            head: head.clone().into_owned(),
            messages,
            next_look: sleep(LOOK_STEP),
            has_ended: false,
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let deadline = self.deadline.as_mut();
        if deadline.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            let error = Error::deadline("the stream's deadline has passed");
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Poll::Ready(next) = self.messages.poll_next(&self.head, cx) {
                return Poll::Ready(next);
            }
            if self.cell.is_draining() {
                return Poll::Ready(Some(Err(self.messages.farewell())));
            }
            ready!(self.next_look.as_mut().poll(cx));
            self.next_look = Box::pin(sleep_until(Instant::now() + LOOK_STEP));
        }
    }
}

impl<D: Disk, M: Messages> Body for Stream<D, M> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let trailers = match ready!(this.poll_message(cx)) {
            Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
            Some(Err(error)) => error_trailers(&error),
            None => ok_trailers(),
        };
        this.has_ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

/// `Replication/Subscribe`: what is read for the subscriber off the core, framed there. Several
/// messages come in one piece.
impl Messages for Subscribed {
    fn poll_next(
        &mut self,
        _head: &Head<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        match ready!(Subscribed::poll_next(self, cx)) {
            // Whoever read for it is gone without a word: so is the node, or soon.
            None => Poll::Ready(Some(Err(self.farewell()))),
            chunk => Poll::Ready(chunk),
        }
    }

    fn farewell(&self) -> Error {
        Refusal::Ending.to_error()
    }
}

/// `Health/Watch`: the status now and as it changes.
pub(super) struct Watch<D: Disk> {
    cell: Rc<CoreCell<D>>,
    is_service: bool,
    told: Option<ServingStatus>,
}

impl<D: Disk> Watch<D> {
    pub(super) fn new(cell: Rc<CoreCell<D>>, asked: &HealthCheckRequest) -> Watch<D> {
        Watch {
            cell,
            is_service: health::is_service(&asked.service),
            told: None,
        }
    }
}

impl<D: Disk> Messages for Watch<D> {
    fn poll_next(
        &mut self,
        head: &Head<'_>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        let status = match (self.is_service, self.cell.is_well()) {
            (false, _) => ServingStatus::ServiceUnknown,
            (true, true) => ServingStatus::Serving,
            (true, false) => ServingStatus::NotServing,
        };
        if self.told.replace(status) == Some(status) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(framed(head, &health::response(status)))))
    }
}

/// `ServerReflectionInfo`: an answer to each request, in order, as they come.
pub(super) struct Reflection {
    requests: Incoming,
    deframer: Deframer,
}

impl Reflection {
    pub(super) fn new(requests: Incoming, head: &Head) -> Reflection {
        Reflection {
            requests,
            deframer: Deframer::new(head.compression, SMALL_MESSAGE_BYTES_MAX),
        }
    }
}

impl Messages for Reflection {
    fn poll_next(
        &mut self,
        head: &Head<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            match self.deframer.next_message() {
                Ok(None) => {}
                Ok(Some(message)) => {
                    let answered = ServerReflectionRequest::decode(message)
                        .map(|request| framed(head, &reflection::answer(request)))
                        .map_err(|error| {
                            Error::body_malformed(format!("malformed protobuf: {error}"))
                        });
                    return Poll::Ready(Some(answered));
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut self.requests).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.deframer.push(&data);
                    }
                }
                Some(Err(_)) => {
                    let error = Error::body_malformed("the requests broke off");
                    return Poll::Ready(Some(Err(error)));
                }
                None if self.deframer.is_within() => {
                    let error = Error::body_malformed("the last request broke off");
                    return Poll::Ready(Some(Err(error)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}
