//! What the dashboard is fed with: the live view as a stream, the newest events, explanations.

mod harness;

use harness::events::EventStream;
use harness::{Launch, item, item_with, wait_for};
use serde_json::{Value, json};

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
