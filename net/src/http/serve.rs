//! Accepting connections on a core until it is told to end.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use rustls::ServerConfig;

use super::connection::serve_connection;
use super::connections::{Connections, Stage};
use super::limits::{HttpCounters, HttpLimits, count};
use crate::runtime::{TcpListener, TcpStream, sleep, spawn, yield_to_driver};

/// Connections accepted between two driver polls, so that a flood of them does
/// not keep the core from those it has.
pub const ACCEPTS_PER_TURN_MAX: u32 = 32;

/// How long a core waits to accept again when descriptors or memory are short;
/// doubled each time in a row.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a connection over the limit is told, if its socket takes it at once.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// Answers the requests of a core's connections.
pub trait Service: 'static {
    /// The answers' body.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;

    /// Answers one request. May be written as an `async fn`.
    ///
    /// The future is dropped when the client goes away before it completes.
    fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;
}

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge on `listener` until
/// `shutdown` completes; then stops accepting, lets every connection finish
/// what it has begun, and returns when the last has ended. With `tls` it is served over TLS, and
/// nothing without.
///
/// Dropping the future drops its connections as they are: a caller that will
/// not wait longer does that.
pub async fn serve<S: Service>(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    service: Rc<S>,
    limits: HttpLimits,
    counters: Rc<HttpCounters>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new();
    let _closer = Closer(Rc::clone(&connections));
    let limits = Rc::new(limits);
    let mut shutdown = pin!(shutdown);
    let mut acceptor = Acceptor {
        listener,
        counters: Rc::clone(&counters),
        pause: ACCEPT_PAUSE,
        accepted: Cell::new(0),
    };
    loop {
        let next = {
            let mut accept = pin!(acceptor.next());
            poll_fn(|cx| {
                if shutdown.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                accept.as_mut().poll(cx).map(Some)
            })
            .await
        };
        let Some((socket, peer)) = next else { break };
        if connections.len() >= limits.connections_max {
            count(&counters.refused);
            if tls.is_none() {
                refuse(socket);
            }
            continue;
        }
        let stream = match TcpStream::from_std(socket) {
            Ok(stream) => stream,
            Err(error) => {
                // Gone before it was looked at, or the driver is out of resources.
                count(&counters.failed);
                tracing::debug!(%peer, %error, "connection lost on arrival");
                continue;
            }
        };
        let ticket = connections.admit();
        let open = Open::new(&counters);
        let tls = tls.clone();
        let service = Rc::clone(&service);
        let limits = Rc::clone(&limits);
        spawn(async move {
            serve_connection(stream, tls, service, &limits, &open.0, &ticket).await;
        });
    }
    // Before anything else, so that the kernel sends new connections elsewhere.
    drop(acceptor);
    connections.advance(Stage::Draining);
    poll_fn(|cx| connections.poll_empty(cx)).await;
}

/// Drops the connections that are left when their server is dropped.
struct Closer(Rc<Connections>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.advance(Stage::Closed);
    }
}

/// Counts an open connection.
struct Open(Rc<HttpCounters>);

impl Open {
    fn new(counters: &Rc<HttpCounters>) -> Self {
        count(&counters.accepted);
        count(&counters.open);
        Self(Rc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Accepts connections and survives what accepting meets.
struct Acceptor {
    listener: TcpListener,
    counters: Rc<HttpCounters>,
    /// How long to wait at the next shortage.
    pause: Duration,
    /// Connections since the last driver poll we know of.
    accepted: Cell<u32>,
}

impl Acceptor {
    async fn next(&mut self) -> (std::net::TcpStream, SocketAddr) {
        loop {
            if self.accepted.get() >= ACCEPTS_PER_TURN_MAX {
                yield_to_driver().await;
                self.accepted.set(0);
            }
            match self.listener.accept_socket().await {
                Ok(connection) => {
                    self.accepted.set(self.accepted.get() + 1);
                    self.pause = ACCEPT_PAUSE;
                    return connection;
                }
                Err(error) if is_shortage(&error) => {
                    count(&self.counters.accept_errors);
                    tracing::warn!(%error, pause = ?self.pause, "cannot accept connections for now");
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
                }
                Err(error) => {
                    // The connection ended before it was accepted. Counted as
                    // accepted, so that a run of these does not hold the core.
                    self.accepted.set(self.accepted.get() + 1);
                    tracing::debug!(%error, "connection lost before it was accepted");
                }
            }
        }
    }
}

/// Will accepting fail again until somebody lets go of something?
fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    code.is_none_or(|code| shortages.contains(&code))
}

fn refuse(mut socket: std::net::TcpStream) {
    // Best effort: the socket's buffer is empty, so this neither blocks nor
    // fails but for a client that has gone.
    let _ = socket.set_nonblocking(true);
    let _ = socket.write(REFUSAL);
}
