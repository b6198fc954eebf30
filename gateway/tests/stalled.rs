//! Connections that send half a request and no more disturb nobody.

mod harness;

use std::time::{Duration, Instant};

use harness::{Connection, Launch, Request, item, wait_for};
use serde_json::json;

const STALLED: usize = 200;
/// How long each measurement takes.
const MEASURED: Duration = Duration::from_secs(2);
/// What a machine with other things to do adds to a percentile now and then.
const ALLOWANCE: Duration = Duration::from_millis(15);

/// The 99th percentile of a healthy client's calls.
fn p99(client: &mut Connection) -> Duration {
    let started = Instant::now();
    let mut took = Vec::new();
    while started.elapsed() < MEASURED {
        let call = Instant::now();
        client.call("enqueue", item("users")).ok();
        let lease = client.call("lease", json!({"waitMs": 0})).ok();
        client
            .call(
                "complete",
                json!({"ownershipToken": lease["ownershipToken"]}),
            )
            .ok();
        took.push(call.elapsed());
    }
    took.sort();
    took[took.len() * 99 / 100]
}

#[test]
fn two_hundred_stalled_connections_leave_a_healthy_clients_latency_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let mut client = node.connect();
    p99(&mut client);
    let before = p99(&mut client);
    let request = Request::call("enqueue", &item("stalled"));
    let head = request.head();
    let stalled: Vec<Connection> = (0..STALLED)
        .map(|number| {
            let mut connection = node.connect();
            let sent = if number % 2 == 0 {
                connection.send_bytes(&head[..head.len() / 2])
            } else {
                connection
                    .send_bytes(&head)
                    .and_then(|()| connection.send_bytes(&request.body[..20]))
            };
            sent.expect("half a request is taken");
            connection
        })
        .collect();
    let open = u64::try_from(STALLED).expect("few") + 1;
    wait_for("they are all accepted", || {
        (node.over_cores("/connections/open") == open).then_some(())
    });
    let during = p99(&mut client);
    eprintln!("p99 of a cycle: {before:?} before, {during:?} during");
    assert!(
        during <= before * 2 + ALLOWANCE,
        "{before:?} before, {during:?} during"
    );
    drop(stalled);
    wait_for("they are all gone", || {
        (node.over_cores("/connections/open") == 1).then_some(())
    });
    assert_eq!(node.counts(), [0; 4]);
}
