//! A namespace that is full enough holds enqueues back, and takes them when there is room again.

mod harness;

use std::thread;
use std::time::{Duration, Instant};

use harness::events::EventStream;
use harness::{Connection, Launch, Node, Request, item};
use serde_json::json;

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.capacity=10")
        .set("namespaces.resourcelease.shards=1")
        .start();
    (dir, node)
}

fn enqueue(client: &mut Connection, id: usize, ttl_ms: &str) -> (u16, String) {
    let request = Request::call("enqueue", &item(&format!("r{id}"))).header("Rpc-Ttl-Ms", ttl_ms);
    let reply = client.request(&request);
    let code = if reply.status == 200 {
        String::new()
    } else {
        reply.code()
    };
    (reply.status, code)
}

fn complete_one(client: &mut Connection) {
    let lease = client.call("lease", json!({})).ok();
    let token = json!({"ownershipToken": lease["ownershipToken"]});
    client.call("complete", token).ok();
}

fn metric(node: &Node, name: &str) -> String {
    let text = node.admin_text("/metrics");
    let line = text
        .lines()
        .find(|line| line.starts_with(name) && line.contains("namespace=\"resourcelease\""));
    let line = line.unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().expect("a value").to_owned()
}

#[test]
fn at_the_high_mark_an_enqueue_waits_and_at_the_low_one_it_goes_on() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for id in 0..8 {
        assert_eq!(enqueue(&mut client, id, "20000").0, 200);
    }
    // Eight of ten is the high mark: the next waits until its deadline.
    let started = Instant::now();
    let refused = enqueue(&mut client, 8, "400");
    assert_eq!(refused, (429, "resourcelease.backpressure".to_owned()));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(metric(&node, "omnirelay_resourcelease_backpressure{"), "1");

    let mut other = node.connect();
    let waiting = thread::spawn(move || enqueue(&mut other, 9, "60000"));
    complete_one(&mut client);
    assert_eq!(node.counts()[0], 7, "seven are above the low mark");
    assert!(!waiting.is_finished());
    complete_one(&mut client);
    assert_eq!(waiting.join().expect("no panic").0, 200);
    assert_eq!(node.counts()[0], 7);
    let transitions = "omnirelay_resourcelease_backpressure_transitions_total{";
    assert_eq!(metric(&node, transitions), "2");
}

#[test]
fn at_capacity_an_enqueue_is_refused_at_once_and_work_can_end() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let items: Vec<_> = (0..15).map(|id| item(&format!("r{id}"))).collect();
    let reply = client.call("enqueueBatch", json!({"items": items})).ok();
    let results = reply["results"].as_array().expect("results");
    let codes: Vec<&str> = results
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("taken"))
        .collect();
    assert_eq!(codes[..10], ["taken"; 10]);
    assert_eq!(codes[10..], ["resourcelease.backpressure"; 5]);

    let started = Instant::now();
    let refused = enqueue(&mut client, 99, "20000");
    assert_eq!(refused, (429, "resourcelease.backpressure".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(5), "at once");
    complete_one(&mut client);
    assert_eq!(node.counts()[0], 9);
}

#[test]
fn a_listener_is_told_how_a_gate_is_and_whenever_it_moves() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let path = "/omnirelay/control/backpressure/stream?namespace=resourcelease";
    let mut stream = EventStream::open(node.admin_address, path, None).expect("a stream");
    let state = stream.next().expect("the state comes first");
    assert_eq!(state.name, "state");
    assert_eq!(state.data["isActive"], false);
    assert_eq!(state.data["observedAt"], json!(null));

    for id in 0..8 {
        assert_eq!(enqueue(&mut client, id, "20000").0, 200);
    }
    assert_eq!(enqueue(&mut client, 8, "50").0, 429);
    let closed = stream.next().expect("the gate closes");
    assert_eq!(closed.name, "transition");
    let observed = closed.data["observedAt"].clone();
    let expected = json!({
        "namespace": "resourcelease", "isActive": true, "liveCount": 8, "transition": 1,
        "observedAt": observed, "highWatermark": 8, "lowWatermark": 6, "capacity": 10,
    });
    assert_eq!(closed.data, expected);

    complete_one(&mut client);
    complete_one(&mut client);
    let opened = stream.next().expect("the gate opens");
    assert_eq!(opened.data["isActive"], false);
    assert_eq!(opened.data["transition"], 2);
    assert_eq!(opened.data["liveCount"], 6);

    let (status, document) = node.admin("/omnirelay/control/backpressure");
    assert_eq!(status, 200);
    let row = &document["namespaces"][0];
    assert_eq!(row["isActive"], false);
    assert_eq!(
        (&row["liveCount"], &row["transition"]),
        (&json!(6), &json!(2))
    );
    assert_eq!(row["stats"]["pendingCount"], 6);
    assert_eq!(row["cooldownMs"], 1000);
    let recent = row["recent"].as_array().expect("a list");
    assert_eq!(recent.len(), 2);
    assert_eq!(
        (&recent[0]["isActive"], &recent[0]["observedAt"]),
        (&json!(true), &observed)
    );

    node.terminate();
    let end = stream.next().expect("a farewell");
    assert_eq!(
        (end.name.as_str(), &end.data["code"]),
        ("end", &json!("backpressure.not_serving"))
    );
}

#[test]
fn a_listener_that_asks_for_what_there_is_not_is_told_so() {
    let (_dir, node) = node();
    let base = "/omnirelay/control/backpressure";
    for (query, status, code) in [
        ("?namespace=other", 404, "resourcelease.namespace.unknown"),
        ("?shard=0", 400, "backpressure.request"),
        ("?namespace=a&namespace=b", 400, "backpressure.request"),
    ] {
        for path in [format!("{base}{query}"), format!("{base}/stream{query}")] {
            let (found, document) = node.admin(&path);
            assert_eq!(
                (found, &document["code"]),
                (status, &json!(code)),
                "{path}: {document}"
            );
        }
    }
}
