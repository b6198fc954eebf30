//! HTTP over TLS on a core, as a client sees it, on both drivers.
#![cfg(all(feature = "node", not(loom)))]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use omnirelay_net::http::{DeliveryBody, HttpCounters, HttpLimits, Service, read_body, serve};
use omnirelay_net::runtime::{
    self, CoreOptions, DriverChoice, Notifier, TcpListener, bind_cores, timeout,
};
use omnirelay_net::tls::{ClientAuth, ServerCheck, ServerTls, client_config, self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

/// Far longer than anything here takes, so that a hang fails instead of hanging.
const BOUND: Duration = Duration::from_secs(20);

/// Many times what either side holds on the way.
const BODY_BYTES: usize = 3_000_000;

type Secure = StreamOwned<ClientConnection, TcpStream>;

struct Echo;

impl Service for Echo {
    type Body = DeliveryBody;

    async fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        _peer: SocketAddr,
    ) -> Response<DeliveryBody> {
        let body = read_body(request.into_body(), BODY_BYTES, Instant::now() + BOUND).await;
        Response::new(DeliveryBody::new(body.expect("the client sends all of it")))
    }
}

struct Server {
    addr: SocketAddr,
    ca: PathBuf,
    shutdown: Notifier,
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream
    }

    fn secure(&self, alpn: &[&[u8]]) -> Secure {
        let check = ServerCheck::Ca(self.ca.clone());
        let config = client_config(&check, None, alpn).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(tls, self.connect())
    }
}

struct Counted {
    handshakes: u64,
    failed: u64,
    late: u64,
    plain_text: u64,
    http1: u64,
    http2: u64,
    broken: u64,
}

/// Runs `client` on a thread of its own against a core of each driver, then ends the core and
/// hands `check` what it counted.
fn against_each_driver(
    limits: &HttpLimits,
    client: impl Fn(&Server) + Send + Sync + Clone + 'static,
    check: impl Fn(Counted),
) {
    let dir = tempfile::tempdir().unwrap();
    let files = self_signed(dir.path()).unwrap();
    let tls = ServerTls::load(files.clone()).unwrap();
    let config = tls.over_tcp(&[b"h2", b"http/1.1"], ClientAuth::Required);
    for driver in [DriverChoice::IoUring, DriverChoice::Epoll] {
        if driver == DriverChoice::IoUring && !runtime::io_uring_available() {
            eprintln!("skipped on io_uring: this machine forbids it");
            continue;
        }
        let (addr, mut listeners) = bind_cores("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = listeners.pop().unwrap();
        let (shutdown, mut told) = Notifier::pair();
        let server = Server {
            addr,
            ca: files.cert.clone(),
            shutdown: shutdown.clone(),
        };
        let client = client.clone();
        let clients = thread::spawn(move || {
            let end = End(shutdown);
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
            let tls = Some(Arc::clone(&config));
            let serving = serve(listener, tls, Rc::new(Echo), limits.clone(), counters, told);
            timeout(BOUND, serving).await
        });
        clients.join().expect("the client is content");
        assert_eq!(serving.expect("the core runs"), Ok(()), "on {driver:?}");
        assert_eq!(counters.open(), 0);
        check(Counted {
            handshakes: counters.handshakes(),
            failed: counters.handshakes_failed(),
            late: counters.handshakes_late(),
            plain_text: counters.plain_text(),
            http1: counters.http1(),
            http2: counters.http2(),
            broken: counters.failed(),
        });
    }
}

/// Ends the server when dropped, in a panic too.
struct End(Notifier);

impl Drop for End {
    fn drop(&mut self) {
        self.0.notify();
    }
}

fn post(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let bytes = body.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    stream.flush()
}

/// Reads one answer's body, a little at a time.
fn answer(stream: &mut impl Read) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.split("content-length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    for part in body.chunks_mut(10_007) {
        stream.read_exact(part).unwrap();
    }
    body
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

#[test]
fn bodies_of_every_size_go_both_ways_over_one_connection() {
    let client = |server: &Server| {
        let mut stream = server.secure(&[b"http/1.1"]);
        for bytes in [0, 1, 16_383, 16_384, 16_385, 70_000, BODY_BYTES, 3] {
            let body = pattern(bytes);
            post(&mut stream, &body).unwrap();
            assert!(answer(&mut stream) == body, "{bytes} bytes");
        }
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut rest = Vec::new();
        // A clean end: rustls reports one that is cut off.
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!((counted.handshakes, counted.http1), (1, 1));
        assert_eq!(
            (counted.failed, counted.late, counted.plain_text),
            (0, 0, 0)
        );
    });
}

#[test]
fn a_client_that_is_done_may_just_close() {
    let client = |server: &Server| {
        for says_goodbye in [true, false] {
            let mut stream = server.secure(&[b"http/1.1"]);
            post(&mut stream, b"abc").unwrap();
            assert_eq!(answer(&mut stream), b"abc");
            if says_goodbye {
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        }
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!((counted.handshakes, counted.broken), (2, 0));
    });
}

#[test]
fn a_client_that_reads_nothing_holds_up_only_itself() {
    let client = |server: &Server| {
        let mut slow = server.secure(&[b"http/1.1"]);
        let body = pattern(BODY_BYTES);
        // More answers than all buffers on the way hold.
        post(&mut slow, &body).unwrap();
        for _ in 0..20 {
            let mut other = server.secure(&[b"http/1.1"]);
            post(&mut other, b"abc").unwrap();
            assert_eq!(answer(&mut other), b"abc");
        }
        assert!(answer(&mut slow) == body);
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!(counted.handshakes, 21);
    });
}

#[test]
fn http2_is_chosen_by_name_and_by_its_preface() {
    /// What an HTTP/2 client begins with: the preface and empty settings.
    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let client = |server: &Server| {
        for alpn in [&[&b"h2"[..]][..], &[]] {
            let mut stream = server.secure(alpn);
            stream.write_all(BEGIN).unwrap();
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).unwrap();
            assert_eq!(frame[3], 4, "the server's settings come first");
        }
    };
    against_each_driver(&HttpLimits::default(), client, |counted| {
        assert_eq!((counted.handshakes, counted.http2), (2, 2));
    });
}

#[test]
fn what_is_no_tls_is_bounded_counted_and_disturbs_nobody() {
    let limits = HttpLimits {
        handshake_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let client = |server: &Server| {
        let mut good = server.secure(&[b"http/1.1"]);
        post(&mut good, b"before").unwrap();
        assert_eq!(answer(&mut good), b"before");

        let mut plain = server.connect();
        plain
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut told = String::new();
        plain.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{told}");
        assert!(
            told.ends_with("this port speaks TLS only: use https://\n"),
            "{told}"
        );

        // Not even a record; a record that is none; a hello that never ends, and none at all.
        for garbage in [&[0u8; 64][..], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]] {
            let mut stream = server.connect();
            stream.write_all(garbage).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        for half in [&[22u8, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[]] {
            let mut stream = server.connect();
            stream.write_all(half).unwrap();
            let began = Instant::now();
            let _ = stream.read_to_end(&mut Vec::new());
            assert!(
                began.elapsed() >= Duration::from_millis(200),
                "it is given its time"
            );
        }
        // Who goes away in the middle, or only knocks.
        server.connect().write_all(&[22, 3, 1]).unwrap();
        drop(server.connect());

        post(&mut good, b"after").unwrap();
        assert_eq!(answer(&mut good), b"after");
    };
    against_each_driver(&limits, client, |counted| {
        assert_eq!(counted.handshakes, 1);
        assert_eq!(counted.plain_text, 1);
        assert_eq!(counted.late, 2);
        assert!((2..=3).contains(&counted.failed), "{}", counted.failed);
        assert_eq!(counted.http1, 1);
    });
}

#[test]
fn a_server_that_ends_finishes_what_was_asked_over_tls_and_says_goodbye() {
    let client = |server: &Server| {
        let mut idle = server.secure(&[b"http/1.1"]);
        post(&mut idle, b"abc").unwrap();
        assert_eq!(answer(&mut idle), b"abc");
        // One that never finishes its handshake does not hold up the end.
        let mut half = server.connect();
        half.write_all(&[22, 3, 1, 2, 0]).unwrap();
        server.shutdown.notify();
        // Ended with a word: rustls reports an end that is cut off.
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        let _ = half.read_to_end(&mut rest);
    };
    let began = Instant::now();
    against_each_driver(&HttpLimits::default(), client, |_| {});
    assert!(began.elapsed() < Duration::from_secs(8));
}
