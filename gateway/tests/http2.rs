//! HTTP/2 with prior knowledge, on the port that HTTP/1.1 is served on.

mod harness;

use std::net::SocketAddr;

use bytes::Bytes;
use harness::{Launch, item};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

type Client = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> Client {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the node accepts connections");
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("the node speaks HTTP/2");
    tokio::spawn(connection);
    client
}

async fn call(client: &Client, operation: &str, body: Value) -> (u16, Value) {
    let request = http::Request::post("http://node/yarpc/v1")
        .header("rpc-caller", "tests")
        .header("rpc-service", "queue")
        .header("rpc-procedure", format!("resourcelease::{operation}"))
        .header("rpc-encoding", "json")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request");
    let response = client
        .clone()
        .send_request(request)
        .await
        .expect("an answer");
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

#[test]
fn calls_share_a_connection_and_none_waits_for_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    in_runtime(async {
        let client = connect(node.address).await;
        // The first call waits while all others on its connection come and go.
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { call(&client, "lease", json!({"waitMs": 25_000})).await }
        });
        open_calls(&node, 1).await;
        let calls = (0..50).map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { call(&client, "stats", json!({})).await }
            })
        });
        for stats in calls.collect::<Vec<_>>() {
            assert_eq!(stats.await.expect("a reply").0, 200);
        }
        assert!(!waiting.is_finished());
        assert_eq!(call(&client, "enqueue", item("users")).await.0, 200);
        let (status, lease) = waiting.await.expect("a reply");
        assert_eq!(
            (status, &lease["payload"]),
            (200, &harness::payload("users"))
        );
        let token = json!({"ownershipToken": lease["ownershipToken"]});
        assert_eq!(call(&client, "complete", token.clone()).await.0, 200);
        let (status, error) = call(&client, "complete", token).await;
        assert_eq!(
            (status, &error["code"]),
            (409, &json!("resourcelease.lease.fenced"))
        );
    });
    assert_eq!(node.counts(), [0; 4]);
    assert_eq!(node.stop().code, Some(0));
}

#[test]
fn a_call_that_is_reset_while_it_waits_costs_no_attempt() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    in_runtime(async {
        let client = connect(node.address).await;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { call(&client, "lease", json!({"waitMs": 25_000})).await }
        });
        open_calls(&node, 1).await;
        waiting.abort();
        open_calls(&node, 0).await;
        assert_eq!(call(&client, "enqueue", item("users")).await.0, 200);
        let (status, lease) = call(&client, "lease", json!({"waitMs": 0})).await;
        assert_eq!((status, &lease["attempt"]), (200, &json!(1)));
    });
}

/// Waits, without holding up the connections of this thread, until so many calls are open.
async fn open_calls(node: &harness::Node, calls: u64) {
    let started = std::time::Instant::now();
    while node.over_cores("/openCalls") != calls {
        assert!(
            started.elapsed() < harness::BOUND,
            "there are never {calls} open calls"
        );
        tokio::task::yield_now().await;
    }
}
