//! What the dashboard is fed with: the live view as a stream, the newest events, explanations.

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::events::EventStream;
use harness::{Connection, Launch, item, item_with, wait_for};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const RECENT: &str = "/omnirelay/control/replication/recent";

#[test]
fn the_live_view_comes_again_and_again_and_says_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    let path = "/omnirelay/introspect?watch";
    let mut stream = EventStream::open(node.admin_address, path, None).expect("a stream");
    let first = stream.next().expect("a view");
    assert_eq!(first.data["phase"], "ready");
    assert!(first.data.get("configuration").is_none());
    node.connect().call("enqueue", item("orders")).ok();
    let view = wait_for("the item is seen", || {
        let view = stream.next().expect("a view").data;
        let pending = &view["namespaces"][0]["stats"]["pendingCount"];
        (*pending == 1).then_some(view)
    });
    assert_ne!(view["now"], first.data["now"]);
    let shards = view["shards"].as_array().expect("shards");
    let pending = |shard: &Value| shard["stats"]["pendingCount"].as_u64().expect("a count");
    assert_eq!(shards.iter().map(pending).sum::<u64>(), 1);

    node.terminate();
    let mut last = None;
    while let Some(event) = stream.next() {
        last = Some(event);
    }
    let last = last.expect("a last word");
    assert_eq!(
        (last.name.as_str(), &last.data["code"]),
        ("end", &json!("introspect.ended"))
    );
    assert_eq!(node.wait().code, Some(0));
}

/// A watcher that asks, and then reads nothing; its socket takes as little as one can.
fn deaf_watcher(node: &harness::Node) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    socket.connect(&node.admin_address.into()).expect("a place");
    let mut stream = TcpStream::from(socket);
    let request = "GET /omnirelay/introspect?watch HTTP/1.1\r\nhost: test\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is taken");
    stream
}

/// Whether the node's end of a connection is still open, as the kernel says.
fn is_held(node: &harness::Node, other_end: SocketAddr) -> bool {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let ends = |line: &str, port: u16| line.ends_with(&format!(":{port:04X}"));
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut field = || fields.next().unwrap_or_default();
        let is_it = ends(field(), node.admin_address.port()) && ends(field(), other_end.port());
        is_it && field() == ESTABLISHED
    })
}

#[test]
fn a_watcher_that_takes_nothing_is_dropped_and_disturbs_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    // A view of many shards is more than sockets hold.
    let launch = Launch::on(dir.path()).set("namespaces.resourcelease.shards=4096");
    let node = launch.start();
    let path = "/omnirelay/introspect?watch";
    let mut stream = EventStream::open(node.admin_address, path, None).expect("a stream");
    let mut client = node.connect();
    stream.next().expect("a view");
    let mut deaf = deaf_watcher(&node);
    let (mut seen, mut longest) = (Instant::now(), Duration::ZERO);
    let mut next = |client: &mut Connection| {
        stream.next().expect("a view");
        longest = longest.max(seen.elapsed());
        seen = Instant::now();
        client.call("enqueue", item("orders")).ok();
    };
    let started = Instant::now();
    let other_end = deaf.local_addr().expect("an address");
    assert!(is_held(&node, other_end));
    wait_for("it is dropped", || {
        next(&mut client);
        (!is_held(&node, other_end)).then_some(())
    });
    let held = started.elapsed();
    // It is given ten seconds to take something.
    assert!(held > Duration::from_secs(5), "{held:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    deaf.set_read_timeout(Some(harness::BOUND))
        .expect("a bound");
    let mut said = Vec::new();
    let ended = deaf.read_to_end(&mut said).map_err(|error| error.kind());
    assert!(
        matches!(ended, Ok(_) | Err(ErrorKind::ConnectionReset)),
        "{ended:?}"
    );
    // A few views at most were kept for it.
    let views = said.windows(6).filter(|bytes| bytes == b"data: ").count();
    assert!((1..=5).contains(&views), "{views}");
}

/// The newest events, as type and item.
fn recent(node: &harness::Node, limit: u32) -> Vec<Value> {
    let (code, told) = node.admin(&format!("{RECENT}?limit={limit}"));
    assert_eq!(code, 200, "{told}");
    told["events"].as_array().expect("events").clone()
}

#[test]
fn the_newest_events_of_all_shards_are_told_newest_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).cores(2).start();
    let mut connection = node.connect();
    let mut ids = Vec::new();
    for at in 0..40 {
        let reply = connection
            .call("enqueue", item(&format!("resource-{at}")))
            .ok();
        ids.push(reply["sequenceId"].as_u64().expect("a number"));
    }
    let lease = connection.call("lease", json!({"peerId": "worker-1"})).ok();
    let token = lease["ownershipToken"].clone();
    let fail = json!({"ownershipToken": token, "reason": "no disk", "requeue": false});
    connection.call("fail", fail).ok();

    let newest = wait_for("the failure is told", || {
        let newest = recent(&node, 50);
        (newest[0]["eventType"] == "Failed").then_some(newest)
    });
    let failed = &newest[0];
    assert_eq!(failed["sequenceId"], lease["sequenceId"]);
    assert_eq!(
        (&failed["peerId"], &failed["deadLetter"]),
        (&json!("worker-1"), &json!(true))
    );
    assert_eq!(failed["error"]["message"], "no disk");
    assert_eq!(newest[1]["eventType"], "LeaseGranted");
    let enqueued: Vec<u64> = newest[2..42]
        .iter()
        .map(|event| {
            assert_eq!(
                (&event["eventType"], &event["resourceType"]),
                (&json!("Enqueue"), &json!("table"))
            );
            assert!(event.get("payload").is_none(), "no bodies: {event}");
            event["sequenceId"].as_u64().expect("a number")
        })
        .collect();
    ids.reverse();
    assert_eq!(enqueued, ids);
    assert_eq!(recent(&node, 3), newest[..3]);

    // They are still there after a crash, behind what the start has written.
    node.kill();
    node = Launch::on(dir.path()).cores(2).start();
    let after = recent(&node, 500);
    let shards = after
        .iter()
        .filter(|event| event["eventType"] == "EpochStarted");
    assert!(shards.count() >= 16);
    let kept: Vec<&Value> = after
        .iter()
        .filter(|event| event["eventType"] == "Enqueue")
        .collect();
    assert_eq!(kept.len(), 40);
}

#[test]
fn an_item_is_explained_as_it_is_to_clients() {
    let dir = tempfile::tempdir().expect("a directory");
    let launch = Launch::on(dir.path()).cores(2);
    let node = launch.set("namespaces.\"other.queue\".shards=3").start();
    let mut connection = node.connect();
    let delayed = item_with("orders", &json!({"delayMs": 600_000}));
    let id = connection.call("enqueue", delayed).ok()["sequenceId"].clone();
    let path = "/omnirelay/control/explain";
    let (code, told) = node.admin(&format!("{path}?sequenceId={id}"));
    assert_eq!(code, 200, "{told}");
    let asked = connection.call("explain", json!({"sequenceId": id})).ok();
    assert_eq!(told, asked);
    assert_eq!(
        (&told["state"], &told["resourceId"]),
        (&json!("delayed"), &json!("orders"))
    );

    let (code, told) = node.admin(&format!("{path}?namespace=other.queue&sequenceId={id}"));
    assert_eq!(
        (code, &told["code"]),
        (404, &json!("resourcelease.item.not_found"))
    );
    let (code, told) = node.admin(&format!("{path}?namespace=nowhere&sequenceId=1"));
    assert_eq!(
        (code, &told["code"]),
        (404, &json!("resourcelease.namespace.unknown"))
    );
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains("other.queue"), "{message}");
}
