//! From bytes on a connection to a call on a core, and back. Three faces over the same admission:
//! YARPC's HTTP and gRPC on one TCP port, told apart by the request's content type, and frames over
//! QUIC.

mod account;
mod admission;
mod budget;
mod grpc;
mod grpc_stream;
mod line_limit;
mod quic;
mod yarpc;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use omnirelay_net::grpc::is_grpc;
use omnirelay_net::http::{DeliveryBody, Service};
use omnirelay_net::quic::{FrameService, IncomingCall};
use omnirelay_wal::Disk;

use self::admission::Admission;
pub use self::quic::QuicCall;
use crate::cores::CoreCell;
use crate::replication::Subscriptions;
use crate::telemetry::Tracer;

/// Serves calls that come to one core.
pub struct Inbound<D: Disk> {
    admission: Rc<Admission<D>>,
}

impl<D: Disk> Inbound<D> {
    /// Serves calls on the core of `cell`; bodies above `body_bytes_max` are refused, `tracer`
    /// decides which calls are recorded, and who subscribes to the replication stream is handed to
    /// `subscriptions`.
    pub fn new(
        cell: Rc<CoreCell<D>>,
        body_bytes_max: usize,
        tracer: Option<Tracer>,
        subscriptions: Subscriptions,
    ) -> Inbound<D> {
        let admission = Admission::new(cell, body_bytes_max, tracer, subscriptions);
        Inbound {
            admission: Rc::new(admission),
        }
    }
}

impl<D: Disk> Service for Inbound<D> {
    type Body = ReplyBody;

    async fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<ReplyBody> {
        if is_grpc(request.headers()) {
            grpc::respond(&self.admission, request, peer).await
        } else {
            let response = yarpc::respond(&self.admission, request, peer).await;
            response.map(ReplyBody::Whole)
        }
    }
}

impl<D: Disk> FrameService for Inbound<D> {
    type Open = QuicCall<D>;

    fn begin(self: &Rc<Self>, call: IncomingCall) -> Option<QuicCall<D>> {
        quic::begin(&self.admission, call)
    }
}

/// A reply's body.
pub enum ReplyBody {
    /// One message, or none.
    Whole(DeliveryBody),
    /// Messages as they come.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ReplyBody::Whole(body) => Pin::new(body).poll_frame(cx),
            ReplyBody::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Whole(body) => body.is_end_stream(),
            ReplyBody::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Whole(body) => body.size_hint(),
            ReplyBody::Stream(body) => body.size_hint(),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<DeliveryBody> {
    let mut response = Response::new(DeliveryBody::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
