//! The replication stream over gRPC, where a stock client cannot look: subscribers that take
//! nothing or go without a word; and the node's end.

mod harness;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use harness::{Launch, Node, item};
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirelay_net::grpc::replication::{Event, SubscribeRequest};
use omnirelay_net::grpc::{Compression, Deframer, PREFIX_BYTES, frame};
use prost::Message;
use serde_json::Value;

type Client = SendRequest<Full<Bytes>>;

/// The largest message that these tests make, and more.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

fn launch(dir: &std::path::Path) -> Node {
    Launch::on(dir)
        .set("namespaces.resourcelease.shards=1")
        .start()
}

fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

async fn connect(node: &Node) -> Client {
    let stream = tokio::net::TcpStream::connect(node.address)
        .await
        .expect("the node accepts connections");
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("the node speaks HTTP/2");
    tokio::spawn(connection);
    client
}

/// A lease procedure's reply, over YARPC.
async fn call(client: &Client, operation: &str, body: Value) -> Value {
    let request = http::Request::post("http://node/yarpc/v1")
        .header("rpc-caller", "tests")
        .header("rpc-service", "queue")
        .header("rpc-procedure", format!("resourcelease::{operation}"))
        .header("rpc-encoding", "json")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request");
    let response = client.clone().send_request(request).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.expect("a body");
    serde_json::from_slice(&body.to_bytes()).expect("JSON")
}

/// An open subscription, as it comes.
struct Subscription {
    head: HeaderMap,
    body: Incoming,
    deframer: Deframer,
}

async fn subscribe_as(client: &Client, content_type: &str, from: u64) -> Subscription {
    let asked = SubscribeRequest {
        shard: Some(0),
        from: Some(from),
        snapshot: false,
    };
    let mut framed = BytesMut::zeroed(PREFIX_BYTES);
    framed.extend_from_slice(&asked.encode_to_vec());
    let request = http::Request::post("http://node/omnirelay.replication.v1.Replication/Subscribe")
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Full::new(frame(framed, Compression::Identity)))
        .expect("a request");
    let response = client.clone().send_request(request).await;
    let (parts, body) = response.expect("an answer").into_parts();
    Subscription {
        head: parts.headers,
        body,
        deframer: Deframer::new(Compression::Identity, MESSAGE_BYTES_MAX),
    }
}

async fn subscribe(client: &Client, from: u64) -> Subscription {
    subscribe_as(client, "application/grpc", from).await
}

impl Subscription {
    /// The next event, or the trailers.
    async fn next(&mut self) -> Result<Event, HeaderMap> {
        loop {
            if let Some(message) = self.deframer.next_message().expect("gRPC's framing") {
                return Ok(Event::decode(message).expect("an event"));
            }
            let frame = tokio::time::timeout(harness::BOUND, self.body.frame()).await;
            let frame = frame.expect("a frame in time").expect("an end in trailers");
            match frame.expect("a frame").into_data() {
                Ok(data) => self.deframer.push(&data),
                Err(frame) => return Err(frame.into_trailers().expect("trailers")),
            }
        }
    }
}

/// Status and stable code.
fn why(end: &HeaderMap) -> (&str, &str) {
    let text = |name| end[name].to_str().expect("text");
    (text("grpc-status"), text("omnirelay-error-code"))
}

/// The sum of a metric's series.
fn metric(node: &Node, name: &str) -> f64 {
    let name = format!("omnirelay_resourcelease_replication_{name}");
    let text = node.admin_text("/metrics");
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name.as_str())?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        is_whole_name.then(|| value.parse::<f64>().expect("a number"))
    });
    values.sum()
}

/// Waits, and lets the connections of this thread go on.
async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < harness::BOUND, "it never holds: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// More than a connection holds for a subscriber that does not read.
async fn enqueue_much(client: &Client) {
    let mut large = item("large");
    large["payload"]["body"] = "QUJD".repeat(200_000).into();
    for _ in 0..30 {
        call(client, "enqueue", large.clone()).await;
    }
}

#[test]
fn a_subscriber_that_takes_nothing_is_dropped_and_can_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path());
    in_runtime(async {
        let client = connect(&node).await;
        enqueue_much(&client).await;
        assert!(metric(&node, "lag_seconds") < f64::EPSILON, "nobody reads");
        let mut stalled = subscribe(&client, 1).await;
        let started = Instant::now();
        let (mut slowest, mut lag) = (Duration::ZERO, 0.0);
        // Others on its own connection are served all the while.
        while metric(&node, "readers_dropped_total") < 1.0 {
            let began = Instant::now();
            call(&client, "enqueue", item("small")).await;
            slowest = slowest.max(began.elapsed());
            lag = metric(&node, "lag_seconds").max(lag);
            assert!(started.elapsed() < harness::BOUND, "it is never dropped");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let held = started.elapsed();
        assert!(held > Duration::from_secs(8), "{held:?}");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        assert!(lag > 5.0 && lag < 60.0, "{lag} s");
        wait_for("its place is free", || metric(&node, "readers") < 1.0).await;
        assert!(metric(&node, "lag_seconds") < f64::EPSILON);

        // What it was sent has no gap, and says at the end why there is no more.
        let mut next = 1;
        let end = loop {
            match stalled.next().await {
                Ok(event) => {
                    assert_eq!(event.sequence_number, next);
                    next += 1;
                }
                Err(end) => break end,
            }
        };
        assert_eq!(why(&end), ("10", "replication.slow_reader"));
        assert!(next > 1, "it got nothing");
        let receipt = &call(&client, "enqueue", item("last")).await["receipt"];
        let last = receipt["lsn"].as_u64().expect("a number");
        assert!(next < last, "it got all");
        let mut again = subscribe(&client, next).await;
        for number in next..=last {
            let event = again.next().await.expect("an event");
            assert_eq!(event.sequence_number, number);
        }
    });
}

#[test]
fn the_end_of_the_node_ends_a_stream_with_its_reason_and_nothing_is_held_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path());
    in_runtime(async {
        let client = connect(&node).await;
        let mut stream = subscribe(&client, 1).await;
        let first = stream.next().await.expect("an event");
        assert_eq!(first.event_type, "EpochStarted");
        node.terminate();
        let end = loop {
            if let Err(end) = stream.next().await {
                break end;
            }
        };
        assert_eq!(why(&end), ("14", "replication.not_serving"));
    });
    assert_eq!(node.wait().code, Some(0));
}

#[test]
fn a_subscriber_that_goes_gives_its_place_back_at_once_even_a_stalled_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path());
    in_runtime(async {
        let client = connect(&node).await;
        enqueue_much(&client).await;
        let waiting = subscribe(&client, 1_000_000).await;
        let stalled = subscribe(&client, 1).await;
        wait_for("both are there", || metric(&node, "readers") > 1.0).await;
        // One resets its stream, the other is cut off with its connection.
        drop(waiting);
        let began = Instant::now();
        wait_for("one is gone", || metric(&node, "readers") < 2.0).await;
        let other = connect(&node).await;
        let cut_off = subscribe(&other, 1_000_000).await;
        wait_for("both are there", || metric(&node, "readers") > 1.0).await;
        drop((cut_off, other));
        drop(stalled);
        wait_for("all are gone", || metric(&node, "readers") < 1.0).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(metric(&node, "readers_dropped_total") < 1.0);
    });
}

#[test]
fn a_subscription_in_another_encoding_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path());
    in_runtime(async {
        let client = connect(&node).await;
        let refused = subscribe_as(&client, "application/grpc+json", 1).await;
        assert_eq!(why(&refused.head), ("3", "rpc.encoding.unsupported"));
    });
}
