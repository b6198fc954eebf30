//! Who gets what first: items of one resource, items of one partition key, keys that take turns.

mod harness;

use std::thread;
use std::time::{Duration, Instant};

use harness::{Connection, Launch, Node, cores_max, item, item_with};
use serde_json::{Value, json};

fn node(settings: &[&str]) -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let launch = Launch::on(dir.path());
    let node = settings.iter().fold(launch, |l, s| l.set(s)).start();
    (dir, node)
}

fn keyed(resource: &str, key: &str) -> Value {
    let mut item = item(resource);
    item["payload"]["partitionKey"] = json!(key);
    item
}

fn lease(client: &mut Connection, body: Value) -> Option<Value> {
    let reply = client.call("lease", body);
    (reply.status == 200).then(|| reply.json())
}

fn complete(client: &mut Connection, lease: &Value) {
    let token = json!({"ownershipToken": lease["ownershipToken"]});
    client.call("complete", token).ok();
}

#[test]
fn items_of_one_resource_are_leased_one_at_a_time_in_their_order() {
    let (_dir, node) = node(&["namespaces.resourcelease.ordering=\"per-resource\""]);
    let mut client = node.connect();
    let mut ids = Vec::new();
    for n in 0..3 {
        // The last is the most urgent, and waits its turn all the same.
        let fields = json!({"priority": n});
        let enqueued = client.call("enqueue", item_with("users", &fields)).ok();
        ids.push(enqueued["sequenceId"].clone());
    }
    for id in &ids {
        let held = lease(&mut client, json!({"waitMs": 0})).expect("the next of its resource");
        assert_eq!(held["sequenceId"], *id);
        assert_eq!(lease(&mut client, json!({"waitMs": 0})), None);
        complete(&mut client, &held);
    }
    // One that failed and waits for its delay holds back those behind it.
    let first = client.call("enqueue", item("users")).ok();
    let second = client.call("enqueue", item("users")).ok();
    let held = lease(&mut client, json!({})).expect("the first");
    let failure = json!({"ownershipToken": held["ownershipToken"], "delayMs": 600});
    client.call("fail", failure).ok();
    let explained = client
        .call("explain", json!({"sequenceId": second["sequenceId"]}))
        .ok();
    assert_eq!(explained["state"], "blocked");
    assert_eq!(explained["reasons"][0]["code"], "behind_item");
    let behind = &explained["reasons"][0]["metadata"]["sequenceId"];
    assert_eq!(behind, &first["sequenceId"].to_string());
    let held = lease(&mut client, json!({"waitMs": 20_000})).expect("the first again");
    assert_eq!(held["sequenceId"], first["sequenceId"]);
}

#[test]
fn a_worker_that_asks_for_a_key_gets_only_items_of_that_key() {
    let cores = cores_max().min(2);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(cores).start();
    let mut client = node.connect();
    for n in 0..20 {
        client.call("enqueue", keyed(&format!("a{n}"), "a")).ok();
    }
    assert_eq!(
        lease(&mut client, json!({"partitionKey": "b", "waitMs": 0})),
        None
    );
    // Waiting workers are woken by their key, on whichever core the item comes in.
    let mut workers = Vec::new();
    for n in 0..4 {
        let mut connection = node.connect();
        workers.push(thread::spawn(move || {
            let body = json!({"partitionKey": "b", "waitMs": 20_000, "peerId": format!("w{n}")});
            lease(&mut connection, body)
        }));
    }
    let started = Instant::now();
    for n in 0..4 {
        client.call("enqueue", keyed(&format!("b{n}"), "b")).ok();
    }
    for worker in workers {
        let held = worker
            .join()
            .expect("no panic")
            .expect("an item of its key");
        assert_eq!(held["payload"]["partitionKey"], "b");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(node.counts()[0], 20);
    let batch = client
        .call("leaseBatch", json!({"partitionKey": "a", "maxItems": 50}))
        .ok();
    let leases = batch["leases"].as_array().expect("leases");
    assert!(leases.iter().all(|l| l["payload"]["partitionKey"] == "a"));
}

#[test]
fn a_light_key_is_served_beside_a_heavy_one() {
    let (_dir, node) = node(&[
        "namespaces.resourcelease.shards=2",
        "namespaces.resourcelease.fairness=\"partition-key\"",
        "namespaces.resourcelease.weights.heavy=3",
    ]);
    let mut client = node.connect();
    for n in 0..300 {
        client
            .call("enqueue", keyed(&format!("h{n}"), "heavy"))
            .ok();
    }
    for n in 0..10 {
        client
            .call("enqueue", keyed(&format!("l{n}"), "light"))
            .ok();
    }
    // In each shard at most three of the heavy key between two of the light one, and shards take
    // turns: ten light items are out after twice that many grants in each of two shards.
    let mut light = 0;
    for _ in 0..100 {
        let held = lease(&mut client, json!({"waitMs": 0})).expect("items wait");
        light += usize::from(held["payload"]["partitionKey"] == "light");
    }
    assert_eq!(light, 10);
}
