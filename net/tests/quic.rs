//! QUIC on cores, with quinn's ordinary client at the other end.
#![cfg(all(feature = "node", not(loom)))]

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use omnirelay_net::frame::encode::{self, CallHead, ReplyHead};
use omnirelay_net::frame::{
    ALPN, DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, Frame, FrameReader, Hello, ReplyFrame, VERSION,
};
use omnirelay_net::quic::{
    Answer, CallTask, Endpoint, FrameService, IncomingCall, QuicCounters, QuicKeys, QuicLimits,
    SECRET_BYTES, lanes, serve,
};
use omnirelay_net::rpc::{Encoding, Error};
use omnirelay_net::runtime::{self, CoreOptions, DriverChoice, Notifier, bind_udp_cores, sleep};
use omnirelay_net::tls::{ServerCheck, ServerTls, TlsFiles, client_config, self_signed};

/// Far longer than anything here takes, so that a hang fails instead of hanging.
const BOUND: Duration = Duration::from_secs(20);
const SECRET: [u8; SECRET_BYTES] = [7; SECRET_BYTES];

/// `echo` answers with the body, `sleep` after as many ms as the body says, `hang` never,
/// `fail` with an error, `who` with caller, service and core, `undone` with how many answers were,
/// `watch` with one reply of 64 KiB after the other, for ever.
struct Service {
    core: usize,
    watched: Arc<Watched>,
}

/// What the service has seen.
#[derive(Default)]
struct Watched {
    begun: AtomicUsize,
    dropped: AtomicUsize,
    undone: AtomicUsize,
    sent: AtomicUsize,
}

struct Dropped(Arc<Watched>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
    }
}

impl FrameService for Service {
    type Open = CallTask;

    fn begin(self: &Rc<Self>, call: IncomingCall) -> Option<CallTask> {
        let service = Rc::clone(self);
        Some(CallTask::spawn(async move {
            let answer = service.answer(&call).await;
            call.replies.end(answer);
        }))
    }
}

impl Service {
    async fn answer(&self, call: &IncomingCall) -> Answer {
        self.watched.begun.fetch_add(1, SeqCst);
        let guard = Dropped(Arc::clone(&self.watched));
        let frame = &call.frame;
        let head = ReplyHead {
            id: frame.id,
            ..ReplyHead::default()
        };
        let body = match frame.procedure() {
            "echo" => frame.body(),
            "sleep" => {
                let ms = std::str::from_utf8(&frame.body()).unwrap().parse().unwrap();
                sleep(Duration::from_millis(ms)).await;
                frame.body()
            }
            "hang" => std::future::pending().await,
            "watch" => loop {
                let head = ReplyHead { more: true, ..head };
                let reply = encode::raw_reply(&head, &[7; 64 << 10]);
                call.replies.send(reply).await;
                self.watched.sent.fetch_add(1, SeqCst);
            },
            "undone" => self.watched.undone.load(SeqCst).to_string().into(),
            "who" => {
                let greeting = &call.greeting;
                let caller = match frame.caller() {
                    "" => &greeting.caller,
                    caller => caller,
                };
                format!("{caller} {} {}", greeting.service, self.core).into()
            }
            other => return Answer::new(encode::error(&head, &Error::procedure_unknown(other))),
        };
        std::mem::forget(guard);
        let watched = Arc::clone(&self.watched);
        Answer::or_undo(encode::raw_reply(&head, &body), move || {
            watched.undone.fetch_add(1, SeqCst);
        })
    }
}

/// Cores that serve one port.
struct Server {
    address: SocketAddr,
    watched: Arc<Watched>,
    shutdown: Vec<Notifier>,
    cores: Vec<JoinHandle<Counted>>,
}

/// A core's counters in the end.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    accepted: u64,
    refused: u64,
    retried: u64,
    streams_failed: u64,
    passed_on: u64,
    handshakes_failed: u64,
    timed_out: u64,
    stray: u64,
    open: u64,
}

impl Server {
    fn start(tls: &ServerTls, cores: usize, limits: &QuicLimits, driver: DriverChoice) -> Server {
        Server::start_as(tls, cores, limits, driver, 1, 0, false)
    }

    fn start_as(
        tls: &ServerTls,
        cores: usize,
        limits: &QuicLimits,
        driver: DriverChoice,
        generation: u16,
        port: u16,
        crashes: bool,
    ) -> Server {
        let any = SocketAddr::from(([127, 0, 0, 1], port));
        let (address, sockets) = bind_udp_cores(any, cores).expect("a port");
        let keys = QuicKeys::new(&SECRET, generation);
        let config = tls.over_quic(&[ALPN]);
        let watched = Arc::new(Watched::default());
        let mut server = Server {
            address,
            watched: Arc::clone(&watched),
            shutdown: Vec::new(),
            cores: Vec::new(),
        };
        for (core, (socket, lanes)) in sockets.into_iter().zip(lanes(cores)).enumerate() {
            let (shutdown, mut told) = Notifier::pair();
            let (keys, config, limits) = (keys.clone(), Arc::clone(&config), limits.clone());
            let watched = Arc::clone(&watched);
            let thread = thread::spawn(move || {
                let options = CoreOptions {
                    driver,
                    ..CoreOptions::default()
                };
                runtime::run(options, |_| async move {
                    let counters = Rc::new(QuicCounters::default());
                    let endpoint = Endpoint::new(socket, config, &keys, lanes, limits).unwrap();
                    let service = Rc::new(Service { core, watched });
                    let counted = Rc::clone(&counters);
                    if crashes {
                        let mut serving = pin!(serve(endpoint, service, counted, pending()));
                        poll_fn(|cx| {
                            assert!(serving.as_mut().poll(cx).is_pending());
                            told.poll_notified(cx)
                        })
                        .await;
                    } else {
                        serve(endpoint, service, counted, told.notified()).await;
                    }
                    Counted {
                        accepted: counters.accepted(),
                        refused: counters.refused(),
                        retried: counters.retried(),
                        streams_failed: counters.streams_failed(),
                        passed_on: counters.passed_on(),
                        handshakes_failed: counters.handshakes_failed(),
                        timed_out: counters.timed_out(),
                        stray: counters.stray(),
                        open: counters.open(),
                    }
                })
                .expect("the core runs")
            });
            server.shutdown.push(shutdown);
            server.cores.push(thread);
        }
        server
    }

    fn stop(self) -> Counted {
        self.shutdown.iter().for_each(Notifier::notify);
        let mut sum = Counted::default();
        for core in self.cores {
            let one = core.join().expect("the core does not panic");
            sum.accepted += one.accepted;
            sum.refused += one.refused;
            sum.retried += one.retried;
            sum.streams_failed += one.streams_failed;
            sum.passed_on += one.passed_on;
            sum.handshakes_failed += one.handshakes_failed;
            sum.timed_out += one.timed_out;
            sum.stray += one.stray;
            sum.open += one.open;
        }
        sum
    }
}

/// Runs a client against a server on each driver; what the server had counted goes to `check`.
fn serving<F, Fut>(
    cores: usize,
    mut limits: QuicLimits,
    client: F,
    check: impl Fn(Counted, &Watched),
) where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = ()>,
{
    // Clients here go without a word.
    limits.close_timeout = Duration::from_millis(100);
    let dir = tempfile::tempdir().expect("a directory");
    let files = self_signed(dir.path()).expect("a certificate");
    let tls = ServerTls::load(files.clone()).expect("TLS");
    for driver in DriverChoice::available() {
        let server = Server::start(&tls, cores, &limits, driver);
        let client_side = Client::new(server.address, &files);
        tokio().block_on(async {
            tokio::time::timeout(BOUND, client(client_side))
                .await
                .unwrap_or_else(|_| panic!("the client hangs on {driver:?}"));
            // What it has is acknowledged.
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        let watched = Arc::clone(&server.watched);
        check(server.stop(), &watched);
    }
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// An ordinary client.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    config: quinn::ClientConfig,
}

impl Client {
    fn new(address: SocketAddr, files: &TlsFiles) -> Client {
        let tls = client_config(&ServerCheck::Ca(files.cert.clone()), None, &[ALPN]);
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls.expect("TLS"));
        Client {
            address,
            config: quinn::ClientConfig::new(Arc::new(crypto.expect("TLS 1.3"))),
        }
    }

    fn endpoint(&self) -> quinn::Endpoint {
        let mut endpoint =
            quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
        endpoint.set_default_client_config(self.config.clone());
        endpoint
    }

    async fn connect(&self) -> quinn::Connection {
        let endpoint = self.endpoint();
        let connecting = endpoint
            .connect(self.address, "localhost")
            .expect("a start");
        connecting.await.expect("a connection")
    }
}

impl Client {
    /// Begins a handshake of which only the first datagram gets through.
    async fn begin_and_fall_silent(&self) {
        let middle = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoint = self.endpoint();
        let connecting = endpoint.connect(middle.local_addr().unwrap(), "localhost");
        let _never = connecting.expect("a start");
        let mut first = [0; 2_000];
        let length = middle.recv(&mut first).await.unwrap();
        middle
            .send_to(&first[..length], self.address)
            .await
            .unwrap();
        // The server's answer: it has begun.
        middle.recv(&mut first).await.unwrap();
    }
}

/// A stream of a connection.
struct Line {
    out: quinn::SendStream,
    back: quinn::RecvStream,
    reader: FrameReader,
}

impl Line {
    /// Opens a stream and is welcomed.
    async fn open(connection: &quinn::Connection) -> Line {
        let mut line = Line::bare(connection).await;
        let hello = Hello {
            version_min: 1,
            version_max: 9,
            caller: "tester".into(),
            service: "tests".into(),
            ..Hello::default()
        };
        line.send(&encode::hello(&hello)).await;
        let Some(Frame::Welcome(welcome)) = line.next().await else {
            panic!("no welcome");
        };
        assert_eq!(welcome.version, VERSION);
        line
    }

    async fn bare(connection: &quinn::Connection) -> Line {
        let (out, back) = connection.open_bi().await.expect("a stream");
        Line {
            out,
            back,
            reader: FrameReader::default(),
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.out.write_all(bytes).await.expect("it is taken");
    }

    async fn call(&mut self, id: u64, procedure: &str, body: &[u8]) {
        self.send(&call(id, procedure, body)).await;
    }

    /// The next frame; none at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.reader.next(FRAME_BYTES_MAX).expect("frames") {
                return Some(Frame::decode(&frame).expect("a frame"));
            }
            let chunk = self
                .back
                .read_chunk(usize::MAX, true)
                .await
                .expect("a stream");
            self.reader.push(chunk?.bytes);
        }
    }

    async fn reply(&mut self) -> ReplyFrame {
        match self.next().await {
            Some(Frame::Reply(reply)) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    async fn farewell(&mut self) -> Error {
        match self.next().await {
            Some(Frame::Farewell(error)) => error,
            other => panic!("no farewell but {other:?}"),
        }
    }
}

fn call(id: u64, procedure: &str, body: &[u8]) -> Bytes {
    let head = CallHead {
        id,
        procedure,
        ..CallHead::default()
    };
    encode::raw_call(&head, Encoding::Raw, body)
}

#[test]
fn pipelined_calls_are_answered_as_they_are_done() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(1, "sleep", b"200").await;
        line.call(2, "echo", b"two").await;
        line.call(3, "nothing", b"").await;
        assert_eq!(line.reply().await.id, 2);
        let unknown = line.reply().await;
        assert_eq!(unknown.id, 3);
        let error = unknown.outcome.expect_err("there is no such procedure");
        assert_eq!(error.error_code, "rpc.procedure.unknown");
        line.out.finish().expect("the stream is open");
        let last = line.reply().await;
        assert_eq!((last.id, last.outcome), (1, Ok(Bytes::from_static(b"200"))));
        assert_eq!(
            line.next().await,
            None,
            "a stream ends when all is answered"
        );
        let mut who = Line::open(&connection).await;
        who.call(1, "who", b"").await;
        assert_eq!(
            who.reply().await.outcome,
            Ok(Bytes::from_static(b"tester tests 0"))
        );
    };
    serving(1, QuicLimits::default(), client, |counted, watched| {
        assert_eq!(counted.accepted, 1);
        assert_eq!(watched.undone.load(SeqCst), 0);
    });
}

#[test]
fn bodies_of_every_size_come_back_whole() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        for (id, size) in [0, 1, 1_199, 1_201, 65_535, 65_537, 3_000_000, 16 << 20]
            .into_iter()
            .enumerate()
        {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            line.call(id as u64, "echo", &body).await;
            assert!(
                line.reply().await.outcome.expect("an echo") == body,
                "{size}"
            );
        }
    };
    serving(1, QuicLimits::default(), client, |_, _| {});
}

#[test]
fn datagrams_grow_to_what_the_path_and_the_client_take() {
    let client = |mut client: Client| async move {
        let mut path = quinn::MtuDiscoveryConfig::default();
        path.upper_bound(DATAGRAM_BYTES_MAX);
        let mut transport = quinn::TransportConfig::default();
        transport.mtu_discovery_config(Some(path));
        client.config.transport_config(Arc::new(transport));
        let mut takes = quinn::EndpointConfig::default();
        takes.max_udp_payload_size(DATAGRAM_BYTES_MAX).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let mut endpoint = quinn::Endpoint::new(takes, None, socket, runtime).unwrap();
        endpoint.set_default_client_config(client.config.clone());
        let connecting = endpoint.connect(client.address, "localhost").unwrap();
        let connection = connecting.await.expect("a connection");
        let mut line = Line::open(&connection).await;
        let body = vec![7; 1 << 20];
        for id in 0.. {
            let before = connection.stats().udp_rx;
            line.call(id, "echo", &body).await;
            line.reply().await;
            let stats = connection.stats();
            let datagrams = stats.udp_rx.datagrams - before.datagrams;
            let each = (stats.udp_rx.bytes - before.bytes) / datagrams;
            // Beyond what any Ethernet without jumbo frames carries, both ways.
            if stats.path.current_mtu > 6_000 && each > 4_000 {
                break;
            }
        }
    };
    serving(1, QuicLimits::default(), client, |_, _| {});
}

#[test]
fn a_call_that_is_taken_back_is_dropped_and_so_are_those_of_a_client_that_goes() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(7, "hang", b"").await;
        line.call(6, "echo", b"").await;
        assert_eq!(line.reply().await.id, 6);
        line.send(&encode::cancel(7)).await;
        line.send(&encode::cancel(8)).await;
        line.call(8, "echo", b"x").await;
        assert_eq!(line.reply().await.id, 8);
        line.call(9, "hang", b"").await;
        let mut reset = Line::open(&connection).await;
        reset.call(1, "hang", b"").await;
        reset.call(2, "echo", b"").await;
        reset.reply().await;
        reset.out.reset(0_u32.into()).expect("an open stream");
        line.call(10, "echo", b"").await;
        line.reply().await;
        connection.close(0_u32.into(), b"gone");
        connection.closed().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    serving(1, QuicLimits::default(), client, |counted, watched| {
        assert_eq!(watched.begun.load(SeqCst), 7);
        assert_eq!(
            watched.dropped.load(SeqCst),
            3,
            "7, 9, and 1 of the other stream"
        );
        assert_eq!(counted.streams_failed, 0);
    });
}

#[test]
fn a_client_may_open_all_its_streams_at_once() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        // This thread drives the client: the first of them leave together.
        let mut lines = Vec::new();
        for _ in 0..7 {
            let mut line = Line::bare(&connection).await;
            line.send(&encode::hello(&Hello {
                version_min: 1,
                version_max: 1,
                ..Hello::default()
            }))
            .await;
            lines.push(line);
        }
        while lines.len() < 128 {
            lines.push(Line::bare(&connection).await);
        }
    };
    serving(1, QuicLimits::default(), client, |counted, _| {
        assert_eq!(counted.accepted, 1);
    });
}

#[test]
fn a_stream_that_makes_no_sense_is_told_so_and_no_other_is_disturbed() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut healthy = Line::open(&connection).await;
        let old = Hello {
            version_min: 2,
            version_max: 3,
            ..Hello::default()
        };
        let beginnings: [(&[u8], &str); 5] = [
            (&call(1, "echo", b""), "begins with a hello"),
            (&encode::hello(&old), "versions 2 to 3"),
            (&[0xff; 12], "no varint"),
            (&[0x80, 0x80, 0x80, 0x08], "bytes; at most 4096"),
            (&[3, 0x0a, 9, 1], "longer than its message"),
        ];
        for (bytes, why) in beginnings {
            let mut line = Line::bare(&connection).await;
            line.send(bytes).await;
            let error = line.farewell().await;
            assert!(error.message.contains(why), "{error}");
            assert_eq!(line.next().await, None);
        }
        let reply = encode::raw_reply(&ReplyHead::default(), b"");
        let twice = [call(1, "hang", b""), call(1, "echo", b"")].concat();
        let hello = encode::hello(&Hello {
            version_min: 1,
            version_max: 1,
            ..Hello::default()
        });
        for (bytes, why) in [
            (&*hello, "one hello"),
            (&*reply, "only servers"),
            (&*twice, "same id"),
        ] {
            let mut line = Line::open(&connection).await;
            line.send(bytes).await;
            let error = line.farewell().await;
            assert!(error.message.contains(why), "{error}");
        }
        // Ends within a frame.
        let mut line = Line::open(&connection).await;
        line.send(&call(1, "echo", b"body")[..9]).await;
        line.out.finish().expect("an open stream");
        assert!(line.farewell().await.message.contains("within a frame"));
        // A kind of frame that is not known is passed over.
        healthy.send(&[2, 0x7a, 0]).await;
        healthy.call(5, "echo", b"fine").await;
        assert_eq!(
            healthy.reply().await.outcome,
            Ok(Bytes::from_static(b"fine"))
        );
    };
    serving(1, QuicLimits::default(), client, |counted, _| {
        assert_eq!(counted.streams_failed, 9);
    });
}

#[test]
fn streams_that_wait_for_room_take_turns() {
    let limits = QuicLimits {
        calls_max: 1,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        const CALLS: u64 = 30;
        let connection = client.connect().await;
        let mut first = Line::open(&connection).await;
        let mut modest = Line::open(&connection).await;
        let mut greedy = Line::open(&connection).await;
        first.call(1, "sleep", b"300").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        modest.call(1, "echo", b"").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        for id in 0..CALLS {
            greedy.call(id, "sleep", b"10").await;
        }
        let answered = std::cell::Cell::new(0);
        let others = async {
            for _ in 0..CALLS {
                greedy.reply().await;
                answered.set(answered.get() + 1);
            }
        };
        let own = async {
            modest.reply().await;
            assert!(answered.get() < 5, "{} went before", answered.get());
        };
        tokio::join!(own, others);
        first.reply().await;
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!(counted.streams_failed, 0);
    });
}

#[test]
fn a_frame_that_the_server_makes_wait_is_not_too_slow() {
    let limits = QuicLimits {
        calls_max: 1,
        frame_timeout: Duration::from_millis(400),
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut other = Line::open(&connection).await;
        let mut line = Line::open(&connection).await;
        let frame = call(1, "echo", b"whole");
        line.send(&frame[..9]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.call(1, "sleep", b"2500").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        line.send(&frame[9..]).await;
        let answer = Ok(Bytes::from_static(b"whole"));
        assert_eq!(line.reply().await.outcome, answer);
        // One that the client makes wait is.
        line.send(&frame[..9]).await;
        assert_eq!(line.farewell().await.error_code, "rpc.deadline");
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!(counted.streams_failed, 1);
    });
}

#[test]
fn an_answer_on_its_way_to_a_call_that_is_taken_back_is_undone() {
    // The cancel is read when the first answer makes room, and the second is there already.
    let limits = QuicLimits {
        calls_max: 2,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        let calls = [call(1, "echo", b"a"), call(2, "echo", b"b")].concat();
        let again = call(2, "echo", b"c");
        line.send(&[&calls, &*encode::cancel(2), &*again].concat())
            .await;
        assert_eq!(line.reply().await.id, 1);
        let reply = line.reply().await;
        assert_eq!((reply.id, reply.outcome), (2, Ok(Bytes::from_static(b"c"))));
        line.call(3, "echo", b"").await;
        assert_eq!(line.reply().await.id, 3);
    };
    serving(1, limits, client, |_, watched| {
        assert_eq!(watched.undone.load(SeqCst), 1);
    });
}

#[test]
fn replies_of_a_watch_wait_for_their_reader_and_end_with_it() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(1, "watch", b"").await;
        for _ in 0..200 {
            let reply = line.reply().await;
            assert_eq!((reply.id, reply.more), (1, true));
            assert_eq!(reply.outcome.expect("a body").len(), 64 << 10);
        }
        // What the windows hold is sent, and no more.
        tokio::time::sleep(Duration::from_millis(300)).await;
        line.call(2, "echo", b"").await;
        while line.reply().await.more {}
        line.send(&encode::cancel(1)).await;
        line.call(3, "echo", b"").await;
        while line.reply().await.id != 3 {}
        line.call(4, "echo", b"").await;
        assert_eq!(
            line.reply().await.id,
            4,
            "nothing comes of a watch that was cancelled"
        );
        connection.close(0_u32.into(), b"");
        connection.closed().await;
    };
    serving(1, QuicLimits::default(), client, |_, watched| {
        let sent = watched.sent.load(SeqCst);
        assert!((200..400).contains(&sent), "{sent} were sent");
        assert_eq!(watched.dropped.load(SeqCst), 1);
    });
}

/// Waits until as many answers have been undone, as a client of its own on this thread.
fn wait_until_undone(client: &Client, number: usize) {
    let asking = async {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        for id in 0.. {
            line.call(id, "undone", b"").await;
            let undone = line.reply().await.outcome.expect("a number");
            if undone == number.to_string() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        connection.close(0_u32.into(), b"");
        connection.closed().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio()
        .block_on(async { tokio::time::timeout(BOUND, asking).await })
        .expect("they are undone in time");
}

#[test]
fn what_a_client_that_is_gone_without_a_word_has_not_acknowledged_is_undone() {
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(1, "echo", b"").await;
        line.reply().await;
        line.call(2, "sleep", b"400").await;
        line.call(3, "sleep", b"400").await;
        // What has come is acknowledged, and the calls leave.
        tokio::time::sleep(Duration::from_millis(200)).await;
        // This thread drives the client: while it waits the client is as good as dead.
        thread::spawn(move || wait_until_undone(&client, 2))
            .join()
            .expect("they are undone");
    };
    let limits = QuicLimits {
        acknowledge_timeout: Duration::from_millis(500),
        ..QuicLimits::default()
    };
    serving(1, limits, client, |counted, watched| {
        assert_eq!(counted.timed_out, 1);
        assert_eq!(watched.undone.load(SeqCst), 2, "one was acknowledged");
    });
}

#[test]
fn a_client_whose_address_changes_goes_on_wherever_its_datagrams_arrive() {
    let client = |client: Client| async move {
        let endpoint = client.endpoint();
        let connection = endpoint
            .connect(client.address, "localhost")
            .unwrap()
            .await
            .unwrap();
        let mut line = Line::open(&connection).await;
        line.call(0, "who", b"").await;
        let home = line.reply().await.outcome.unwrap();
        // The kernel picks a core for each address; among so many some are of the other core.
        for id in 1..20 {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            endpoint.rebind(socket).expect("another address");
            line.call(id, "who", b"").await;
            let reply = line.reply().await;
            assert_eq!((reply.id, reply.outcome.unwrap()), (id, home.clone()));
        }
    };
    serving(2, QuicLimits::default(), client, |counted, _| {
        assert_eq!(counted.accepted, 1);
        assert!(counted.passed_on > 0, "{counted:?}");
    });
}

/// Between a client and its server. From the `turn` on it passes on what the client sends from
/// another address of its own, for `OTHER`, and nothing that comes back there; then nothing either
/// way for so long that the server gives that address up. After that the client is heard again
/// once something came for it.
async fn pass_with_a_gap(front: tokio::net::UdpSocket, server: SocketAddr, turn: &Cell<bool>) {
    const OTHER: Duration = Duration::from_millis(60);
    const GAP: Duration = Duration::from_millis(600);
    let one = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut client = None;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut turned: Option<Instant> = None;
    let mut is_over = false;
    loop {
        tokio::select! {
            came = front.recv_from(&mut up) => {
                let (length, from) = came.unwrap();
                client = Some(from);
                if turn.get() {
                    turned.get_or_insert_with(Instant::now);
                }
                let socket = match turned {
                    Some(at) if !is_over && at.elapsed() < OTHER => &other,
                    Some(_) if !is_over => continue,
                    _ => &one,
                };
                socket.send_to(&up[..length], server).await.unwrap();
            }
            came = one.recv_from(&mut down) => {
                let (length, _) = came.unwrap();
                is_over = turned.is_some_and(|at| at.elapsed() > GAP);
                if turned.is_none() || is_over {
                    front.send_to(&down[..length], client.unwrap()).await.unwrap();
                }
            }
        }
    }
}

#[test]
fn what_was_lost_at_an_address_that_is_given_up_is_sent_again() {
    let client = |client: Client| async move {
        let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let turn = Cell::new(false);
        let calls = async {
            let connection = Client {
                address,
                ..client.clone()
            }
            .connect()
            .await;
            let mut line = Line::open(&connection).await;
            line.call(1, "echo", b"").await;
            line.reply().await;
            // What is still to be acknowledged is.
            tokio::time::sleep(Duration::from_millis(100)).await;
            turn.set(true);
            // 20 ms: between the server's first probes of the new address. A long call, as it may
            // send only three times as much to an address that is not proven.
            line.call(2, "sleep", format!("{:01000}", 20).as_bytes())
                .await;
            assert_eq!(line.reply().await.id, 2);
        };
        tokio::select! {
            () = calls => {}
            () = pass_with_a_gap(front, client.address, &turn) => {}
        }
    };
    serving(1, QuicLimits::default(), client, |counted, _| {
        assert_eq!(counted.accepted, 1);
    });
}

#[test]
fn a_client_of_the_process_before_is_told_at_once_that_its_connection_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = self_signed(dir.path()).expect("a certificate");
    let tls = ServerTls::load(files.clone()).expect("TLS");
    let limits = QuicLimits::default();
    let start = |generation, port, crashes| {
        Server::start_as(
            &tls,
            2,
            &limits,
            DriverChoice::Epoll,
            generation,
            port,
            crashes,
        )
    };
    let first = start(1, 0, true);
    let port = first.address.port();
    let client = Client::new(first.address, &files);
    tokio().block_on(async {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(1, "echo", b"").await;
        line.reply().await;
        first.stop();
        let second = start(2, port, false);
        let began = Instant::now();
        line.call(2, "echo", b"").await;
        let why = tokio::time::timeout(BOUND, connection.closed())
            .await
            .expect("it ends");
        assert_eq!(why, quinn::ConnectionError::Reset);
        assert!(began.elapsed() < Duration::from_secs(2));
        second.stop();
    });
}

#[test]
fn garbage_is_answered_with_nothing_and_clients_beyond_the_limit_are_refused() {
    let limits = QuicLimits {
        connections_max: 2,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        stranger.set_nonblocking(true).expect("a socket");
        for seed in 0..2_000_u32 {
            let length = (seed as usize * 7) % 1_300;
            let bytes: Vec<u8> = (0..length as u32)
                .map(|at| (seed.wrapping_mul(2_654_435_761).wrapping_add(at * 40_503) >> 13) as u8)
                .collect();
            let _ = stranger.send_to(&bytes, client.address);
            // No more at a time than the kernel keeps for a server that has to wait for its CPU.
            if seed % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let first = client.connect().await;
        let second = client.connect().await;
        let third = client
            .endpoint()
            .connect(client.address, "localhost")
            .unwrap()
            .await;
        assert!(
            matches!(third, Err(quinn::ConnectionError::ConnectionClosed(_))),
            "{third:?}"
        );
        for connection in [first, second] {
            let mut line = Line::open(&connection).await;
            line.call(1, "echo", b"").await;
            line.reply().await;
        }
        // Version negotiation answers long headers of at least 1,200 bytes; nothing else does.
        let mut answer = [0; 2_000];
        while let Ok((length, _)) = stranger.recv_from(&mut answer) {
            assert_eq!(answer[0] & 0x80, 0x80, "a short header");
            assert_eq!(
                answer[1..5],
                [0; 4],
                "no version negotiation but {length} bytes"
            );
        }
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!((counted.accepted, counted.refused), (2, 1));
        assert!(counted.stray > 1_000, "{}", counted.stray);
    });
}

#[test]
fn handshakes_that_are_never_finished_do_not_keep_others_out() {
    let limits = QuicLimits {
        handshakes_max: 1,
        handshake_timeout: Duration::from_millis(300),
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        // Of this one's handshake only the first datagram gets through.
        let middle = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoint = client.endpoint();
        let connecting = endpoint.connect(middle.local_addr().unwrap(), "localhost");
        let _never = connecting.expect("a start");
        let mut first = [0; 2_000];
        let length = middle.recv(&mut first).await.unwrap();
        middle
            .send_to(&first[..length], client.address)
            .await
            .unwrap();
        // The server's answer: it has begun.
        let _ = middle.recv(&mut [0; 2_000]).await.unwrap();
        let mut refused = 0;
        loop {
            let connecting = client.endpoint().connect(client.address, "localhost");
            match connecting.unwrap().await {
                Ok(_) => break,
                Err(quinn::ConnectionError::ConnectionClosed(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(refused > 0, "both were admitted");
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!((counted.accepted, counted.handshakes_failed), (2, 1));
    });
}

#[test]
fn a_client_that_gives_up_in_the_first_datagram_that_comes_of_it_is_forgotten() {
    let limits = QuicLimits {
        handshakes_max: 1,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let middle = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoint = client.endpoint();
        let connecting = endpoint.connect(middle.local_addr().unwrap(), "localhost");
        let _never = connecting.expect("a start");
        let mut datagram = [0; 2_000];
        // Its beginning is lost.
        middle.recv(&mut datagram).await.unwrap();
        endpoint.close(quinn::VarInt::from_u32(0), b"enough");
        let length = middle.recv(&mut datagram).await.unwrap();
        middle
            .send_to(&datagram[..length], client.address)
            .await
            .unwrap();
        // The server answers nothing, so nothing says that it has come.
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.connect().await;
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!((counted.accepted, counted.handshakes_failed), (2, 1));
    });
}

#[test]
fn a_client_may_have_as_many_streams_as_the_limit_says_and_no_more() {
    let limits = QuicLimits {
        streams_max: 40,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut lines = Vec::new();
        for _ in 0..40 {
            lines.push(Line::open(&connection).await);
        }
        let more = tokio::time::timeout(Duration::from_millis(100), connection.open_bi());
        assert!(more.await.is_err(), "one more is opened");
        for line in &mut lines {
            line.call(1, "echo", b"").await;
            line.reply().await;
        }
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!(counted.accepted, 1)
    });
}

#[test]
fn an_ending_server_waits_for_no_client_that_is_silent() {
    let client = |client: Client| async move { client.begin_and_fall_silent().await };
    serving(1, QuicLimits::default(), client, |counted, _| {
        assert_eq!((counted.accepted, counted.open), (1, 0));
    });
}

#[test]
fn clients_prove_their_addresses_while_many_connect() {
    let limits = QuicLimits {
        handshakes_unproved_max: 0,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let connection = client.connect().await;
        let mut line = Line::open(&connection).await;
        line.call(1, "echo", b"").await;
        line.reply().await;
    };
    serving(1, limits, client, |counted, _| {
        assert_eq!((counted.accepted, counted.retried), (1, 1));
    });
}

#[test]
fn a_client_that_takes_no_replies_is_read_no_further() {
    let limits = QuicLimits {
        unsent_bytes_max: 256 << 10,
        calls_max: 64,
        ..QuicLimits::default()
    };
    let client = |client: Client| async move {
        let mut transport = quinn::TransportConfig::default();
        transport
            .stream_receive_window(16_384_u32.into())
            .receive_window(16_384_u32.into());
        let mut slow = client.clone();
        slow.config.transport_config(Arc::new(transport));
        let connection = slow.connect().await;
        let mut line = Line::open(&connection).await;
        let flood = async {
            for id in 0..10_000 {
                line.call(id, "echo", &[1; 10_000]).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(700), flood).await;
        // Another client is none the worse.
        let other = client.connect().await;
        let mut healthy = Line::open(&other).await;
        healthy.call(1, "echo", b"").await;
        healthy.reply().await;
    };
    serving(1, limits, client, |_, watched| {
        let begun = watched.begun.load(SeqCst);
        // What fits the windows on both ways, and no more of a hundred megabytes.
        assert!((2..2_000).contains(&begun), "{begun}");
    });
}

#[test]
fn an_ending_server_answers_what_it_has_begun() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = self_signed(dir.path()).expect("a certificate");
    let tls = ServerTls::load(files.clone()).expect("TLS");
    for driver in DriverChoice::available() {
        let server = Server::start(&tls, 1, &QuicLimits::default(), driver);
        let client = Client::new(server.address, &files);
        tokio().block_on(async {
            let connection = client.connect().await;
            let mut line = Line::open(&connection).await;
            let mut idle = Line::open(&connection).await;
            line.call(1, "sleep", b"300").await;
            line.call(2, "echo", b"").await;
            assert_eq!(line.reply().await.id, 2);
            server.shutdown[0].notify();
            assert_eq!(idle.farewell().await.error_code, "rpc.peer.unavailable");
            let reply = line.reply().await;
            assert_eq!(
                (reply.id, reply.outcome),
                (1, Ok(Bytes::from_static(b"300")))
            );
            line.farewell().await;
            let why = connection.closed().await;
            assert!(
                matches!(why, quinn::ConnectionError::ApplicationClosed(_)),
                "{why:?}"
            );
        });
        let began = Instant::now();
        assert_eq!(server.stop().open, 0);
        assert!(began.elapsed() < Duration::from_secs(3));
    }
}
