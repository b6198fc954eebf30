//! HTTP on a core, as a client sees it, on both drivers.
#![cfg(all(feature = "node", not(loom)))]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use omnirelay_net::http::{
    BodyError, DeliveryBody, HttpCounters, HttpLimits, Service, read_body, serve,
};
use omnirelay_net::runtime::{
    self, CoreOptions, DriverChoice, Notifier, Sleep, TcpListener, bind_cores, sleep, timeout,
};

/// Far longer than anything here takes, so that a hang fails instead of hanging.
const BOUND: Duration = Duration::from_secs(20);

const BODY_BYTES_MAX: usize = 100_000;

/// Answers by path.
#[derive(Default)]
struct Paths {
    undone: Arc<AtomicU64>,
    parked: Arc<AtomicU64>,
}

/// Counts a request that waits, for as long as it does.
struct Parked(Arc<AtomicU64>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Paths {
    type Body = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

    async fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Self::Body> {
        assert!(peer.ip().is_loopback());
        if request.uri().path() == "/later" {
            let wait = Box::pin(sleep(Duration::from_millis(100)));
            return Response::new(Box::pin(Later(Some(wait))));
        }
        let answer = self.answer(request).await;
        answer.map(|body| Box::pin(body) as Self::Body)
    }
}

/// A body that begins late.
struct Later(Option<Pin<Box<Sleep>>>);

impl Body for Later {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(wait) = &mut self.0 else {
            return Poll::Ready(None);
        };
        ready!(wait.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data("later".into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact("later".len() as u64)
    }
}

impl Paths {
    async fn answer(&self, request: Request<Incoming>) -> Response<DeliveryBody> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/echo" => {
                let deadline = Instant::now() + Duration::from_millis(300);
                match read_body(request.into_body(), BODY_BYTES_MAX, deadline).await {
                    Ok(body) => Response::new(DeliveryBody::new(body)),
                    Err(error) => refusal(error),
                }
            }
            "/park" => {
                self.parked.fetch_add(1, Ordering::SeqCst);
                let _parked = Parked(Arc::clone(&self.parked));
                sleep(BOUND).await;
                Response::new(DeliveryBody::empty())
            }
            "/slow" => {
                sleep(Duration::from_millis(100)).await;
                Response::new(DeliveryBody::new("slow"))
            }
            "/grant" => {
                let undone = Arc::clone(&self.undone);
                Response::new(DeliveryBody::or_undo("grant", move || {
                    undone.fetch_add(1, Ordering::SeqCst);
                }))
            }
            _ => Response::new(DeliveryBody::new(path)),
        }
    }
}

fn refusal(error: BodyError) -> Response<DeliveryBody> {
    let status = match error {
        BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
        BodyError::Broken => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(DeliveryBody::new(error.to_string()));
    *response.status_mut() = status;
    response
}

/// What a test knows of its server while that runs.
struct Server {
    addr: SocketAddr,
    undone: Arc<AtomicU64>,
    parked: Arc<AtomicU64>,
    shutdown: Notifier,
}

/// What the server counted, after it ended.
struct Counted {
    accepted: u64,
    refused: u64,
    http1: u64,
    http2: u64,
    timed_out: u64,
}

/// Runs `client` on a thread of its own against a core of each driver, then
/// ends the core and hands `check` what it counted.
fn against_each_driver(
    limits: &HttpLimits,
    client: impl Fn(&Server) + Send + Sync + Clone + 'static,
    check: impl Fn(Counted),
) {
    for driver in DriverChoice::available() {
        let (addr, mut listeners) = bind_cores("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = listeners.pop().unwrap();
        let (shutdown, mut told) = Notifier::pair();
        let paths = Paths::default();
        let server = Server {
            addr,
            undone: Arc::clone(&paths.undone),
            parked: Arc::clone(&paths.parked),
            shutdown: shutdown.clone(),
        };
        let client = client.clone();
        let clients = thread::spawn(move || {
            let end = scopeguard(shutdown);
            client(&server);
            drop(end);
        });
        let options = CoreOptions {
            driver,
            ..CoreOptions::default()
        };
        let counters = Rc::new(HttpCounters::default());
        let serving = runtime::run(options, |_| async {
            let listener = TcpListener::from_std(listener).unwrap();
            let counters = Rc::clone(&counters);
            let told = async move { told.notified().await };
            let serving = serve(
                listener,
                None,
                Rc::new(paths),
                limits.clone(),
                counters,
                told,
            );
            timeout(BOUND, serving).await
        });
        clients.join().expect("the client is content");
        assert_eq!(serving.expect("the core runs"), Ok(()), "on {driver:?}");
        assert_eq!(counters.open(), 0);
        check(Counted {
            accepted: counters.accepted(),
            refused: counters.refused(),
            http1: counters.http1(),
            http2: counters.http2(),
            timed_out: counters.timed_out(),
        });
    }
}

/// Ends the server when dropped, in a panic too.
fn scopeguard(shutdown: Notifier) -> impl Drop {
    struct End(Notifier);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.notify();
        }
    }
    End(shutdown)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one answer with a content-length: its head and its body.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).map_or(0, |rest| {
        rest.split("\r\n").next().unwrap().parse().unwrap()
    });
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn get(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    answer(stream).1
}

/// Waits until the other side has closed, orderly or not; anything it still
/// says is ignored.
fn is_closed(stream: &mut TcpStream) -> bool {
    match io::copy(stream, &mut io::sink()) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

fn wait_for(what: &AtomicU64, value: u64) {
    let started = Instant::now();
    while what.load(Ordering::SeqCst) != value {
        assert!(started.elapsed() < BOUND, "never became {value}");
        thread::yield_now();
    }
}

#[test]
fn http1_keeps_its_connection_and_answers_in_order() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        assert_eq!(get(&mut stream, "/a"), "/a");
        assert_eq!(get(&mut stream, "/b"), "/b");
        let pipelined: String = (0..50)
            .map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .collect();
        stream.write_all(pipelined.as_bytes()).unwrap();
        for n in 0..50 {
            assert_eq!(answer(&mut stream).1, format!("/{n}"));
        }
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!((counted.accepted, counted.http1, counted.http2), (1, 1, 0));
    });
}

#[test]
fn a_request_in_single_bytes_is_understood() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        // Begins like an HTTP/2 preface, too.
        for byte in b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc" {
            stream.write_all(&[*byte]).unwrap();
        }
        assert_eq!(answer(&mut stream).1, "abc");
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn expect_100_continue_is_answered_before_the_body_comes() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        let head =
            "POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 100"));
        stream.write_all(b"abc").unwrap();
        assert_eq!(answer(&mut stream).1, "abc");
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn a_body_is_bounded_in_size_and_time() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        let too_large = BODY_BYTES_MAX + 1;
        write!(
            stream,
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {too_large}\r\n\r\n"
        )
        .unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 413"));

        let mut stream = connect(server);
        let head = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..3 {
            let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x".repeat(40_000));
            stream.write_all(chunk.as_bytes()).unwrap();
        }
        assert!(answer(&mut stream).0.starts_with("http/1.1 413"));

        let mut stream = connect(server);
        let head = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf";
        stream.write_all(head.as_bytes()).unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 408"));

        let mut stream = connect(server);
        let body = "y".repeat(BODY_BYTES_MAX);
        write!(
            stream,
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY_BYTES_MAX}\r\n\r\n{body}"
        )
        .unwrap();
        assert_eq!(answer(&mut stream).1, body);
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn headers_that_are_too_large_get_431() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        let head = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "x".repeat(70_000)
        );
        stream.write_all(head.as_bytes()).unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 431"));
        let mut stream = connect(server);
        let head = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "x".repeat(50_000)
        );
        stream.write_all(head.as_bytes()).unwrap();
        assert!(answer(&mut stream).0.starts_with("http/1.1 200"));
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn malformed_input_is_refused_and_harms_nobody() {
    let client = |server: &Server| {
        let mut bystander = connect(server);
        let malformed: [&[u8]; 5] = [
            b"\0\0\0\0\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /echo HTTP/1.1\r\ncontent-length: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for bytes in malformed {
            let mut stream = connect(server);
            stream.write_all(bytes).unwrap();
            assert!(is_closed(&mut stream), "{bytes:?}");
            assert_eq!(get(&mut bystander, "/still"), "/still");
        }
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn stalled_heads_are_timed_out_and_hurt_nobody() {
    let limits = HttpLimits {
        header_timeout: Duration::from_millis(150),
        ..HttpLimits::default()
    };
    let client = |server: &Server| {
        let mut stalled: Vec<_> = (0..200).map(|_| connect(server)).collect();
        for (n, stream) in stalled.iter_mut().enumerate() {
            // Nothing at all, half a preface, half a head, and half a second head.
            let begun: &[u8] = match n % 4 {
                0 => b"",
                1 => b"PRI * HT",
                2 => b"GET / HTTP/1.1\r\nhost:",
                _ => b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTT",
            };
            stream.write_all(begun).unwrap();
        }
        let mut bystander = connect(server);
        for _ in 0..100 {
            assert_eq!(get(&mut bystander, "/"), "/");
        }
        // More bytes buy no more time.
        let mut trickling = connect(server);
        let started = Instant::now();
        while started.elapsed() < BOUND && trickling.write_all(b"G").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(started.elapsed() < BOUND);
        for (n, stream) in stalled.iter_mut().enumerate().filter(|(n, _)| n % 4 != 3) {
            assert!(is_closed(stream), "connection {n}");
        }
        assert_eq!(get(&mut bystander, "/"), "/");
    };
    against_each_driver(&limits, client, |counted| {
        assert!(counted.timed_out >= 150, "{}", counted.timed_out);
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_waiting_request_or_stream_is_not() {
    let limits = HttpLimits {
        idle_timeout: Duration::from_millis(40),
        ..HttpLimits::default()
    };
    let client = |server: &Server| {
        let mut stream = connect(server);
        assert_eq!(get(&mut stream, "/slow"), "slow");
        assert_eq!(get(&mut stream, "/later"), "later");
        assert!(is_closed(&mut stream));
    };
    against_each_driver(&limits, client, |counted| assert_eq!(counted.timed_out, 1));
}

#[test]
fn connections_over_the_limit_are_refused() {
    let limits = HttpLimits {
        connections_max: 2,
        ..HttpLimits::default()
    };
    let client = |server: &Server| {
        let mut first = connect(server);
        let mut second = connect(server);
        assert_eq!(get(&mut first, "/"), "/");
        assert_eq!(get(&mut second, "/"), "/");
        let mut third = connect(server);
        assert!(answer(&mut third).0.starts_with("http/1.1 503"));
        assert!(is_closed(&mut third));
        drop(second);
        let started = Instant::now();
        loop {
            let mut next = connect(server);
            let _ = next.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let mut bytes = [0; 12];
            if next.read_exact(&mut bytes).is_ok() && &bytes == b"HTTP/1.1 200" {
                break;
            }
            assert!(started.elapsed() < BOUND);
        }
    };
    against_each_driver(&limits, client, |counted| {
        assert!(counted.refused >= 1);
        assert_eq!(counted.accepted, 3);
    });
}

#[test]
fn a_client_that_leaves_ends_its_request_and_undoes_its_grant() {
    let client = |server: &Server| {
        let mut stream = connect(server);
        stream
            .write_all(b"GET /park HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        wait_for(&server.parked, 1);
        stream.shutdown(Shutdown::Both).unwrap();
        wait_for(&server.parked, 0);
        // HEAD asks for no body, so the grant is never sent.
        let mut stream = connect(server);
        stream
            .write_all(b"HEAD /grant HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        wait_for(&server.undone, 1);
        let mut stream = connect(server);
        assert_eq!(get(&mut stream, "/grant"), "grant");
        drop(stream);
        assert_eq!(server.undone.load(Ordering::SeqCst), 1);
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn shutting_down_lets_requests_finish_and_closes_the_rest() {
    let client = |server: &Server| {
        let mut idle = connect(server);
        assert_eq!(get(&mut idle, "/"), "/");
        let mut fresh = connect(server);
        let mut busy = connect(server);
        assert_eq!(get(&mut busy, "/"), "/");
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        thread::sleep(Duration::from_millis(20));
        server.shutdown.notify();
        assert!(is_closed(&mut idle));
        assert!(is_closed(&mut fresh));
        assert_eq!(answer(&mut busy).1, "slow");
        assert!(is_closed(&mut busy));
        assert!(TcpStream::connect(server.addr).is_err());
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn a_server_that_is_dropped_drops_its_connections() {
    let (addr, mut listeners) = bind_cores("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let listener = listeners.pop().unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream
            .write_all(b"GET /park HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        is_closed(&mut stream)
    });
    let paths = Rc::new(Paths::default());
    let ended = runtime::run(CoreOptions::default(), |_| async {
        let listener = TcpListener::from_std(listener).unwrap();
        let parked = {
            let parked = Arc::clone(&paths.parked);
            async move {
                while parked.load(Ordering::SeqCst) == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        let counters = Rc::new(HttpCounters::default());
        let never = std::future::pending();
        let serving = serve(
            listener,
            None,
            Rc::clone(&paths),
            HttpLimits::default(),
            counters,
            never,
        );
        let mut serving = std::pin::pin!(serving);
        let mut parked = std::pin::pin!(parked);
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(()) => panic!("nobody ended the server"),
            Poll::Pending => parked.as_mut().poll(cx),
        })
        .await;
    });
    ended.expect("the core ends with its connections");
    assert!(client.join().unwrap());
}

/// Runs `f` with an HTTP/2 client on a connection with prior knowledge.
fn http2<Fut>(
    server: &Server,
    f: impl FnOnce(hyper::client::conn::http2::SendRequest<Full<Bytes>>) -> Fut,
) where
    Fut: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let io = TokioIo(stream);
        let (send, connection) = hyper::client::conn::http2::handshake(TokioSpawn, io)
            .await
            .unwrap();
        let connection = tokio::task::spawn_local(connection);
        tokio::time::timeout(BOUND, f(send))
            .await
            .expect("the server answers");
        connection.abort();
    });
}

fn request(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let uri = format!("http://a{path}");
    Request::post(uri).body(Full::new(body.into())).unwrap()
}

#[test]
fn http2_serves_many_streams_at_once() {
    let client = |server: &Server| {
        http2(server, |send| async move {
            let calls: Vec<_> = (0..200_usize)
                .map(|n| {
                    let mut send = send.clone();
                    tokio::task::spawn_local(async move {
                        send.ready().await.unwrap();
                        let body = vec![b'a' + (n % 26) as u8; n * 100];
                        let reply = send.send_request(request("/echo", body.clone())).await;
                        let reply = reply.unwrap().into_body().collect().await.unwrap();
                        assert_eq!(reply.to_bytes(), body);
                    })
                })
                .collect();
            for call in calls {
                call.await.unwrap();
            }
        });
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!((counted.accepted, counted.http1, counted.http2), (1, 0, 1));
    });
}

#[test]
fn http2_requests_are_bounded_and_end_with_their_client() {
    let client = |server: &Server| {
        http2(server, |mut send| async move {
            let too_large = vec![0; BODY_BYTES_MAX + 1];
            let reply = send
                .send_request(request("/echo", too_large))
                .await
                .unwrap();
            assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);
            let mut large = request("/", "");
            let value = "x".repeat(70_000).parse().unwrap();
            large.headers_mut().insert("x", value);
            // Told of the limit in advance, a client may refuse by itself.
            if let Ok(reply) = send.send_request(large).await {
                assert_eq!(reply.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
        });
        http2(server, |mut send| async move {
            let call = tokio::task::spawn_local(send.send_request(request("/park", "")));
            while server.parked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            call.abort();
        });
        wait_for(&server.parked, 0);
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn shutting_down_finishes_http2_streams() {
    let client = |server: &Server| {
        http2(server, |mut send| async move {
            let slow = send.send_request(request("/slow", ""));
            let slow = tokio::task::spawn_local(slow);
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.shutdown.notify();
            let reply = slow
                .await
                .unwrap()
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap();
            assert_eq!(reply.to_bytes(), "slow");
            while !send.is_closed() {
                tokio::task::yield_now().await;
            }
        });
    };
    against_each_driver(&HttpLimits::default(), client, |_| {});
}

#[test]
fn an_empty_body_needs_no_deadline() {
    let body = Empty::<Bytes>::new();
    let read = runtime::run(CoreOptions::default(), |_| {
        read_body(body, 0, Instant::now())
    });
    assert_eq!(read.unwrap(), Ok(Bytes::new()));
    let undone = Rc::new(Cell::new(0));
    let seen = Rc::clone(&undone);
    drop(DeliveryBody::or_undo("x", move || seen.set(1)));
    assert_eq!(undone.get(), 1);
}

#[derive(Clone)]
struct TokioSpawn;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for TokioSpawn {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A tokio stream for hyper's client.
struct TokioIo(tokio::net::TcpStream);

impl hyper::rt::Read for TokioIo {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 16 * 1024];
        let wanted = bytes.len().min(buf.remaining());
        let mut read = tokio::io::ReadBuf::new(&mut bytes[..wanted]);
        let stream = std::pin::Pin::new(&mut self.get_mut().0);
        std::task::ready!(tokio::io::AsyncRead::poll_read(stream, cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for TokioIo {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = std::pin::Pin::new(&mut self.get_mut().0);
        tokio::io::AsyncWrite::poll_write(stream, cx, buf)
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = std::pin::Pin::new(&mut self.get_mut().0);
        tokio::io::AsyncWrite::poll_flush(stream, cx)
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = std::pin::Pin::new(&mut self.get_mut().0);
        tokio::io::AsyncWrite::poll_shutdown(stream, cx)
    }
}
