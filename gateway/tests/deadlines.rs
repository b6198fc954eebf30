//! Replies are there before the caller's deadline.

mod harness;

use std::time::{Duration, Instant};

use harness::{Connection, Launch, Node, Reply, Request, item};
use serde_json::json;

/// What a machine with other things to do adds now and then.
const ALLOWANCE: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    (dir, node)
}

fn timed(client: &mut Connection, request: &Request) -> (Reply, Duration) {
    let started = Instant::now();
    let reply = client.request(request);
    (reply, started.elapsed())
}

#[test]
fn a_lease_call_is_answered_before_the_smaller_of_its_deadlines() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let lease = Request::call("lease", &json!({}));
    let requests = [
        lease.clone().header("Context-TTL-MS", "400"),
        lease.clone().header("Rpc-Ttl-Ms", "400"),
        lease
            .clone()
            .header("Context-TTL-MS", "400")
            .header("Rpc-Ttl-Ms", "20000"),
        lease
            .header("Context-TTL-MS", "20000")
            .header("Rpc-Ttl-Ms", "400"),
    ];
    for request in requests {
        let took = (0..TRIES).map(|_| {
            let (reply, took) = timed(&mut client, &request);
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (504, "resourcelease.lease.none_available")
            );
            assert!(
                took > Duration::from_millis(300),
                "it gave up after {took:?}"
            );
            assert!(
                took < Duration::from_millis(400) + ALLOWANCE,
                "it took {took:?}"
            );
            took
        });
        // The margin is for the way back; a busy machine may eat it up once, not every time.
        let best = took.min().expect("several");
        assert!(
            best < Duration::from_millis(400),
            "it took {best:?} at best"
        );
    }
}

#[test]
fn a_wait_ends_by_itself_before_the_deadline() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let request = Request::call("lease", &json!({"waitMs": 300})).header("Context-TTL-MS", "20000");
    let (reply, took) = timed(&mut client, &request);
    assert_eq!(reply.code(), "resourcelease.lease.none_available");
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_millis(300) + ALLOWANCE,
        "{took:?}"
    );
}

#[test]
fn no_time_at_all_is_answered_at_once() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for header in ["Context-TTL-MS", "Rpc-Ttl-Ms"] {
        let lease = Request::call("lease", &json!({})).header(header, "0");
        let (reply, took) = timed(&mut client, &lease);
        assert_eq!(reply.header("rpc-error-code"), Some("deadline-exceeded"));
        assert!(took < ALLOWANCE, "{took:?}");
    }
    // Whether an enqueue was done is then unknown, and its request id tells.
    let mut request = item("users");
    request["payload"]["requestId"] = "r".into();
    let (reply, took) = timed(
        &mut client,
        &Request::call("enqueue", &request).header("Context-TTL-MS", "0"),
    );
    assert_eq!((reply.status, reply.code().as_str()), (504, "rpc.deadline"));
    assert!(took < ALLOWANCE, "{took:?}");
    client.call("enqueue", request).ok();
    assert_eq!(node.counts(), [1, 0, 0, 0]);
}

#[test]
fn a_deadline_beyond_all_bounds_is_taken() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for ttl in [
        "99999999999999999999999",
        "18446744073709551615",
        "9007199254740991",
    ] {
        client
            .request(&Request::call("enqueue", &item(ttl)).header("Context-TTL-MS", ttl))
            .ok();
        client
            .request(&Request::call("lease", &json!({})).header("Context-TTL-MS", ttl))
            .ok();
    }
}
