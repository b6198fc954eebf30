//! SIGTERM: what was accepted is answered, then the node ends.

mod harness;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{BOUND, Connection, Launch, Request, cores_max, item, wait_for};
use serde_json::json;

#[test]
fn every_accepted_call_is_answered_before_the_node_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(cores_max().min(2)).start();
    let mut worker = node.connect();
    let waits = Request::call("lease", &json!({"waitMs": 25_000}));
    worker.send(&waits).expect("the request is taken");
    wait_for("the worker waits", || {
        (node.over_cores("/openCalls") == 1).then_some(())
    });
    let acknowledged = AtomicU64::new(0);
    let (started, ended) = thread::scope(|scope| {
        for producer in 0..4 {
            let (acknowledged, mut connection) = (&acknowledged, node.connect());
            scope.spawn(move || {
                for number in 0.. {
                    // Delayed, so that the worker goes on waiting.
                    let request = harness::item_with(
                        &format!("{producer}-{number}"),
                        &json!({"delayMs": 3_600_000}),
                    );
                    match connection.try_call("enqueue", &request) {
                        Ok(reply) if reply.status == 200 => {
                            acknowledged.fetch_add(1, Ordering::Relaxed)
                        }
                        Ok(reply) => {
                            assert_eq!(
                                (reply.status, reply.code().as_str()),
                                (503, "rpc.peer.unavailable")
                            );
                            return;
                        }
                        Err(_) => return,
                    };
                }
            });
        }
        wait_for("the producers are at it", || {
            (acknowledged.load(Ordering::Relaxed) > 200).then_some(())
        });
        let started = Instant::now();
        node.terminate();
        let told = worker.receive().expect("the waiting worker is answered");
        assert_eq!(
            (told.status, told.code().as_str()),
            (503, "rpc.peer.unavailable")
        );
        (started, node.wait())
    });
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        started.elapsed()
    );
    // An enqueue that had no answer was not accepted: as many wait as were acknowledged.
    let node = Launch::on(dir.path()).start();
    assert_eq!(
        node.counts(),
        [0, 0, acknowledged.load(Ordering::Relaxed), 0]
    );
}

#[test]
fn a_core_without_connections_serves_the_others_until_they_are_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = 0;
    for round in 0..8 {
        let node = Launch::on(dir.path()).cores(cores_max().min(2)).start();
        let mut connection = node.connect();
        let (started, ended) = thread::scope(|scope| {
            let acknowledged = &mut acknowledged;
            let (is_busy, waits) = std::sync::mpsc::channel();
            scope.spawn(move || {
                for number in 0.. {
                    // Items for the shards of all cores.
                    let items: Vec<_> = (0..40)
                        .map(|at| item(&format!("{round}-{number}-{at}")))
                        .collect();
                    match connection.try_call("enqueueBatch", &json!({"items": items})) {
                        Ok(reply) if reply.status == 200 => *acknowledged += 40,
                        Ok(reply) => return assert_eq!(reply.code(), "rpc.peer.unavailable"),
                        Err(_) => return,
                    }
                    // Nobody listens after the first.
                    let _ = is_busy.send(());
                }
            });
            for _ in 0..5 {
                waits.recv().expect("calls are answered");
            }
            let started = Instant::now();
            (started, node.stop())
        });
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            started.elapsed()
        );
    }
    assert_eq!(
        Launch::on(dir.path()).start().counts(),
        [acknowledged, 0, 0, 0]
    );
}

/// A connection whose call the node has begun to read and cannot end.
fn endless(node: &harness::Node) -> Connection {
    let mut connection = node.connect();
    let request = Request::call("enqueue", &item("endless"));
    connection
        .send_bytes(&request.head())
        .expect("the head is taken");
    connection
        .send_bytes(&request.body[..10])
        .expect("half a body is taken");
    wait_for("the connection is open", || {
        (node.over_cores("/connections/open") == 1).then_some(())
    });
    connection
}

#[test]
fn a_draining_node_takes_no_connection_and_says_that_it_is_not_ready() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).start();
    let mut open = endless(&node);
    node.terminate();
    let (_, told) = wait_for("it is not ready", || {
        Some(node.admin("/readyz")).filter(|(status, _)| *status == 503)
    });
    assert_eq!(told["phase"], "draining");
    wait_for("it takes no connection", || {
        Connection::try_open(node.address).is_err().then_some(())
    });
    assert!(node.runs());
    // The body comes after all: the call was accepted, so it has its answer.
    let request = Request::call("enqueue", &item("endless"));
    open.send_bytes(&request.body[10..])
        .expect("the rest is taken");
    let reply = open.receive().expect("an answer");
    assert_eq!(reply.status, 503);
    assert_eq!(node.wait().code, Some(0));
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).start();
    node.connect().call("enqueue", item("users")).ok();
    let _open = endless(&node);
    node.terminate();
    wait_for("it drains", || {
        (node.admin("/readyz").0 == 503).then_some(())
    });
    assert!(node.runs(), "it did not wait for an open call");
    let started = Instant::now();
    node.terminate();
    let ended = node.wait();
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        started.elapsed()
    );
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("serve.cut_short"), "{}", ended.said);
    assert_eq!(Launch::on(dir.path()).start().counts(), [1, 0, 0, 0]);
}

#[test]
fn drain_timeout_ends_what_does_not_end_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).set("drain_timeout=1s").start();
    let _open = endless(&node);
    let started = Instant::now();
    let ended = node.stop();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(started.elapsed() < BOUND / 2);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let mut idle: Vec<Connection> = (0..20).map(|_| node.connect()).collect();
    for connection in &mut idle[..10] {
        connection.call("stats", json!({})).ok();
    }
    let started = Instant::now();
    assert_eq!(node.stop().code, Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        started.elapsed()
    );
    for connection in &mut idle {
        assert_eq!(
            connection.receive().expect_err("it is closed").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}

#[test]
fn a_clean_end_is_recovered_as_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    node.connect().call("enqueue", item("users")).ok();
    assert_eq!(node.stop().code, Some(0));
    let node = Launch::on(dir.path()).start();
    let (_, told) = node.admin("/omnirelay/introspect");
    assert_eq!(told["logs"][0]["recovery"]["clean"], true);
    assert_eq!(node.counts(), [1, 0, 0, 0]);
}

#[test]
fn sigterm_right_after_the_start_is_a_clean_end_too() {
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..20 {
        let ended = Launch::on(dir.path()).start().stop();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }
}
