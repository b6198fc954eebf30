//! A lease queue in memory behind a real socket, with faults to order.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use omnirelay_net::grpc;
use omnirelay_net::messages::{
    CompleteResponse, EnqueueBatchResponse, EnqueueRequest, EnqueueResponse, LeaseBatchResponse,
    LeaseResponse, OwnershipToken, Payload, SettleResponse, SettleResult, Stats, StatsResponse,
};
use omnirelay_net::rpc::{
    Call, Error, Procedure, REQUEST_BYTES_MAX, Reply, RequestHead, decode_call, error_response,
    reply_response, validate_call,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// The item that a fault befalls.
const FAULTY_ITEM: u64 = 16;

/// What the server does wrong, to one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Acknowledges the item and forgets it.
    Loses,
    /// Keeps the item twice.
    Doubles,
    /// Takes the item's place in the queue but says that it did not.
    RefusesAndKeeps,
    /// Changes the item's body.
    Corrupts,
}

#[derive(Default)]
struct Queue {
    enqueued: u64,
    last_sequence_id: u64,
    pending: VecDeque<(u64, Payload)>,
    leased: HashSet<u64>,
}

struct Server {
    fault: Fault,
    queue: RefCell<Queue>,
    arrival: Notify,
    faulty_item: Sender<()>,
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// Told once the server has seen the item that a fault befalls.
    pub(crate) faulty_item: Receiver<()>,
}

/// Starts a server on a thread of its own, which ends with the process.
pub(crate) fn start(fault: Fault) -> Running {
    let (tell, told) = channel();
    let (tell_faulty_item, faulty_item) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let set = tokio::task::LocalSet::new();
        set.block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            serve(fault, listener, tell_faulty_item).await;
        });
    });
    Running {
        address: told.recv().unwrap(),
        faulty_item,
    }
}

async fn serve(fault: Fault, listener: TcpListener, faulty_item: Sender<()>) {
    let server = Rc::new(Server {
        fault,
        queue: RefCell::default(),
        arrival: Notify::new(),
        faulty_item,
    });
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let server = Rc::clone(&server);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(Rc::clone(&server), request));
            let mut builder = http2::Builder::new(LocalExecutor);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(1_000);
            // A client that leaves is no concern of the server's.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    server: Rc<Server>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answered = match grpc::is_grpc(request.headers()) {
        true => answer_grpc(&server, request).await,
        false => answer_http(&server, request).await,
    };
    Ok(answered)
}

async fn answer_http(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let response = match RequestHead::parse(&parts.headers) {
        Err(error) => error_response(None, None, &error),
        Ok(head) => {
            let body = whole(body).await;
            match handle(server, &head, &body).await {
                Ok(reply) => reply_response(&head.service, Some(0), head.encoding, &reply),
                Err(error) => error_response(Some(&head.service), None, &error),
            }
        }
    };
    response.map(|body| Full::new(body).boxed_unsync())
}

async fn answer_grpc(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let answered = async {
        let head = grpc::Head::parse(parts.uri.path(), &parts.headers)?;
        let body = whole(body).await;
        let message = grpc::only_message(body, head.compression, REQUEST_BYTES_MAX)?;
        let reply = handle(server, &head.rpc, &message).await?;
        Ok(grpc::reply_response(&head, Some(0), &reply))
    };
    match answered.await {
        Ok(response) => response.map(|framed| {
            let trailers = async { Some(Ok(framed.trailers)) };
            let body = Full::new(framed.message).with_trailers(trailers);
            body.boxed_unsync()
        }),
        Err(error) => grpc::error_response(&error).map(|()| Empty::new().boxed_unsync()),
    }
}

/// A body, or as much as came of it.
async fn whole(body: Incoming) -> Bytes {
    let collected = body.collect().await;
    collected.map(|body| body.to_bytes()).unwrap_or_default()
}

async fn handle(server: &Server, head: &RequestHead, body: &Bytes) -> Result<Reply, Error> {
    let (namespace, procedure): (&str, Procedure) = Procedure::parse(&head.procedure)?;
    if namespace != "resourcelease" {
        return Err(Error::namespace_unknown(format!(
            "no namespace `{namespace}`"
        )));
    }
    let call = decode_call(procedure, head.encoding, body)?;
    validate_call(&call)?;
    match call {
        Call::Enqueue(request) => server.enqueue(request).map(Reply::Enqueue),
        Call::EnqueueBatch(batch) => {
            let results = batch
                .items
                .into_iter()
                .map(|item| server.enqueue(item).map_err(Into::into).into());
            Ok(Reply::EnqueueBatch(EnqueueBatchResponse {
                results: results.collect(),
            }))
        }
        Call::Lease(request) => {
            let mut leases = server.lease(1, request.wait_ms).await?;
            Ok(Reply::Lease(leases.remove(0)))
        }
        Call::LeaseBatch(request) => {
            let leases = server.lease(request.max_items, request.wait_ms).await?;
            Ok(Reply::LeaseBatch(LeaseBatchResponse { leases }))
        }
        Call::Complete(request) => {
            server.complete(request.ownership_token)?;
            Ok(Reply::Complete(CompleteResponse {
                success: true,
                receipt: None,
            }))
        }
        Call::Settle(request) => {
            let results =
                request
                    .items
                    .into_iter()
                    .map(|item| match server.complete(item.ownership_token) {
                        Ok(()) => SettleResult {
                            success: true,
                            ..SettleResult::default()
                        },
                        Err(error) => omnirelay_net::messages::Error::from(error).into(),
                    });
            Ok(Reply::Settle(SettleResponse {
                results: results.collect(),
            }))
        }
        Call::Stats(_) => Ok(Reply::Stats(server.stats())),
        _ => Err(Error::procedure_unknown("not used here")),
    }
}

impl Server {
    fn enqueue(&self, request: EnqueueRequest) -> Result<EnqueueResponse, Error> {
        let mut payload = request.payload.expect("validation sees to it");
        let mut queue = self.queue.borrow_mut();
        queue.enqueued += 1;
        if queue.enqueued == FAULTY_ITEM {
            // Only one test listens.
            let _ = self.faulty_item.send(());
        }
        let fault = if queue.enqueued == FAULTY_ITEM {
            self.fault
        } else {
            Fault::None
        };
        if fault == Fault::Corrupts {
            payload.body = Bytes::from_static(b"something else");
        }
        let copies = match fault {
            Fault::Loses => 0,
            Fault::Doubles => 2,
            _ => 1,
        };
        for _ in 0..copies {
            queue.last_sequence_id += 1;
            let sequence_id = queue.last_sequence_id;
            queue.pending.push_back((sequence_id, payload.clone()));
        }
        self.arrival.notify_one();
        if fault == Fault::RefusesAndKeeps {
            return Err(Error::backpressure("full, or so it says"));
        }
        Ok(EnqueueResponse {
            sequence_id: queue.last_sequence_id,
            ..EnqueueResponse::default()
        })
    }

    async fn lease(&self, items: u32, wait_ms: Option<u64>) -> Result<Vec<LeaseResponse>, Error> {
        let wait = Duration::from_millis(wait_ms.unwrap_or(30_000));
        let waiting = async {
            while self.queue.borrow().pending.is_empty() {
                self.arrival.notified().await;
            }
        };
        if tokio::time::timeout(wait, waiting).await.is_err() {
            return Err(Error::none_available("nothing to lease"));
        }
        let mut queue = self.queue.borrow_mut();
        let count = queue.pending.len().min(items as usize);
        let taken: Vec<_> = queue.pending.drain(..count).collect();
        queue
            .leased
            .extend(taken.iter().map(|(sequence_id, _)| *sequence_id));
        if !queue.pending.is_empty() {
            self.arrival.notify_one();
        }
        Ok(taken
            .into_iter()
            .map(|(sequence_id, payload)| LeaseResponse {
                payload: Some(payload),
                sequence_id,
                attempt: 1,
                ownership_token: Some(OwnershipToken {
                    sequence_id,
                    attempt: 1,
                    lease_id: "00000000-0000-8000-8000-000000000000".to_owned(),
                }),
                ..LeaseResponse::default()
            })
            .collect())
    }

    fn complete(&self, token: Option<OwnershipToken>) -> Result<(), Error> {
        let token = token.ok_or_else(|| Error::body_malformed("ownershipToken is missing"))?;
        if self.queue.borrow_mut().leased.remove(&token.sequence_id) {
            Ok(())
        } else {
            Err(Error::fenced("not leased"))
        }
    }

    fn stats(&self) -> StatsResponse {
        let queue = self.queue.borrow();
        StatsResponse {
            stats: Some(Stats {
                pending_count: queue.pending.len() as u64,
                active_lease_count: queue.leased.len() as u64,
                ..Stats::default()
            }),
        }
    }
}
