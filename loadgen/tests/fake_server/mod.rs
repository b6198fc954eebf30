//! A lease queue in memory behind real sockets, with faults to order: HTTP/2 and gRPC over TCP,
//! with TLS where there are certificates, and frames over QUIC on the same port.

#![allow(dead_code, reason = "each test file uses its part")]

mod certificates;
mod quic;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, rustls};

pub(crate) use certificates::Certificates;

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
    /// Ends all connections after so many calls.
    EndsConnections,
    /// Takes ten connections and no more.
    TakesTenConnections,
}

/// Calls after which connections end.
const CALLS_UNTIL_END: usize = 20;

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: u64,
    /// Connections that made a call.
    callers: HashSet<u64>,
    /// How many items waited when enqueue calls came.
    pending: Vec<usize>,
    calls: usize,
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
    seen: Arc<Mutex<Seen>>,
    /// Connections are to end.
    end: Notify,
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// Told once the server has seen the item that a fault befalls.
    pub(crate) faulty_item: Receiver<()>,
    /// How QUIC connections ended, one by one.
    pub(crate) quic_ends: Receiver<quinn::ConnectionError>,
    seen: Arc<Mutex<Seen>>,
}

impl Running {
    /// How many connections made a call.
    pub(crate) fn callers(&self) -> usize {
        self.seen.lock().unwrap().callers.len()
    }

    /// The fewest items that waited when an enqueue call came, since there first were so many.
    pub(crate) fn least_while_long(&self, items: usize) -> usize {
        let seen = self.seen.lock().unwrap();
        let long = seen.pending.iter().skip_while(|pending| **pending < items);
        *long.min().expect("there were so many")
    }
}

/// Starts a server on a thread of its own, which ends with the process.
pub(crate) fn start(fault: Fault) -> Running {
    run(fault, None)
}

/// Starts a server that speaks TLS only, and asks for a client certificate.
pub(crate) fn start_secure(certificates: &Certificates) -> Running {
    run(Fault::None, Some(certificates.asking.clone()))
}

fn run(fault: Fault, tls: Option<rustls::ServerConfig>) -> Running {
    let (tell, told) = channel();
    let (tell_faulty_item, faulty_item) = channel();
    let (tell_quic_end, quic_ends) = channel();
    let seen = Arc::new(Mutex::default());
    let seen_there = Arc::clone(&seen);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let set = tokio::task::LocalSet::new();
        set.block_on(&runtime, async {
            let (listener, socket) = bind().await;
            tell.send(listener.local_addr().unwrap()).unwrap();
            let server = Rc::new(Server {
                fault,
                queue: RefCell::default(),
                arrival: Notify::new(),
                faulty_item: tell_faulty_item,
                seen: seen_there,
                end: Notify::new(),
            });
            let quic_tls = tls.clone().unwrap_or_else(certificates::self_signed);
            let over_quic = quic::serve(Rc::clone(&server), socket, quic_tls, tell_quic_end);
            tokio::task::spawn_local(over_quic);
            serve(server, listener, tls).await;
        });
    });
    Running {
        address: told.recv().unwrap(),
        faulty_item,
        quic_ends,
        seen,
    }
}

/// A port that nobody has, over TCP and UDP.
async fn bind() -> (TcpListener, std::net::UdpSocket) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = quic::socket(listener.local_addr().unwrap()) {
            return (listener, socket);
        }
    }
}

async fn serve(server: Rc<Server>, listener: TcpListener, tls: Option<rustls::ServerConfig>) {
    let acceptor = tls.map(|mut config| {
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    });
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let Some(number) = server.number_connection() else {
            continue;
        };
        let (server, acceptor) = (Rc::clone(&server), acceptor.clone());
        tokio::task::spawn_local(async move {
            match acceptor {
                None => speak_http(server, number, stream).await,
                // Clients that are not trusted, or do not trust, get no further.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        speak_http(server, number, stream).await;
                    }
                }
            }
        });
    }
}

async fn speak_http<S>(server: Rc<Server>, number: u64, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request| {
        server.note_call(number);
        answer(Rc::clone(&server), request)
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(1_000);
    // A client that leaves is no concern of the server's.
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = served => {}
        () = server.end.notified() => {}
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

async fn handle(server: &Server, head: &RequestHead<'_>, body: &Bytes) -> Result<Reply, Error> {
    let (namespace, procedure): (&str, Procedure) = Procedure::parse(&head.procedure)?;
    if namespace != "resourcelease" {
        return Err(Error::namespace_unknown(format!(
            "no namespace `{namespace}`"
        )));
    }
    let call = decode_call(procedure, head.encoding, body)?;
    validate_call(&call)?;
    if let Call::Enqueue(_) | Call::EnqueueBatch(_) = call {
        server.note_enqueue();
    }
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
    /// The number of a new connection; `None` if it is refused.
    fn number_connection(&self) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap();
        if self.fault == Fault::TakesTenConnections && seen.connections == 10 {
            return None;
        }
        seen.connections += 1;
        Some(seen.connections)
    }

    fn note_call(&self, connection: u64) {
        let mut seen = self.seen.lock().unwrap();
        seen.callers.insert(connection);
        seen.calls += 1;
        if self.fault == Fault::EndsConnections && seen.calls > CALLS_UNTIL_END {
            self.end.notify_waiters();
        }
    }

    fn note_enqueue(&self) {
        let pending = self.queue.borrow().pending.len();
        self.seen.lock().unwrap().pending.push(pending);
    }

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
