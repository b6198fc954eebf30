//! Items leave a namespace and come into another, or the same, as they were.

mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use harness::{Connection, Launch, Node, item_with};
use serde_json::{Value, json};

fn start(dir: &Path) -> Node {
    Launch::on(dir)
        .set("namespaces.resourcelease.shards=4")
        .start()
}

/// Waiting, delayed, failed and dead items, with all that an item can have.
fn fill(client: &mut Connection) {
    for n in 0..12 {
        let mut item = item_with(
            &format!("r{n}"),
            &json!({"priority": n, "maxAttempts": 3, "ttlMs": 3_600_000 + n}),
        );
        item["payload"]["attributes"] = json!({"n": n.to_string()});
        item["payload"]["requestId"] = json!(format!("q{n}"));
        if n % 3 == 0 {
            item["payload"]["partitionKey"] = json!("k");
        }
        if n == 11 {
            item["delayMs"] = json!(3_000_000);
        }
        client.call("enqueue", item).ok();
    }
    for requeue in [true, false] {
        let lease = client.call("lease", json!({"peerId": "w"})).ok();
        let failure = json!({
            "ownershipToken": lease["ownershipToken"], "reason": "it broke", "errorCode": "E1",
            "metadata": {"line": "7"}, "requeue": requeue, "delayMs": 0,
        });
        client.call("fail", failure).ok();
    }
}

fn drain(client: &mut Connection, body: Value) -> (Vec<Value>, bool) {
    let reply = client.call("drain", body).ok();
    let items = reply["items"].as_array().expect("items").clone();
    (items, reply["more"].as_bool().expect("a flag"))
}

/// Items by resource, without what names the place that they were in.
fn contents(items: &[Value]) -> BTreeMap<String, Value> {
    let strip = |item: &Value| {
        let id = item["payload"]["resourceId"].as_str().expect("an id");
        let mut item = item.clone();
        for field in [
            "sequenceId",
            "origin",
            "lastOwnershipToken",
            "state",
            "since",
        ] {
            item.as_object_mut().expect("an object").remove(field);
        }
        (id.to_owned(), item)
    };
    items.iter().map(strip).collect()
}

#[test]
fn a_round_trip_between_two_nodes_changes_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (start(one.path()), start(two.path()));
    let (mut from, mut to) = (one.connect(), two.connect());
    fill(&mut from);
    let (items, more) = drain(&mut from, json!({}));
    assert_eq!((items.len(), more), (12, false));
    assert_eq!(one.counts(), [0, 0, 0, 0]);
    assert_eq!(items.iter().filter(|i| i["deadLetter"] == true).count(), 1);

    let restored = to.call("restore", json!({"items": items})).ok();
    assert_eq!(restored["restoredCount"], 12);
    assert_eq!(two.counts(), [10, 0, 1, 1]);
    // Again, as after a lost reply: nothing is added.
    let again = to.call("restore", json!({"items": items})).ok();
    assert_eq!(again["restoredCount"], 0);
    assert_eq!(two.counts(), [10, 0, 1, 1]);

    let (back, _) = drain(&mut to, json!({}));
    assert_eq!(contents(&items), contents(&back));
    // Home again they are other items than those that left.
    let restored = from.call("restore", json!({"items": back})).ok();
    assert_eq!(restored["restoredCount"], 12);
    assert_eq!(one.counts(), [10, 0, 1, 1]);
}

#[test]
fn the_same_request_gets_the_same_bundle_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let mut client = node.connect();
    fill(&mut client);
    let request = json!({"requestId": "bundle-1", "maxItems": 7});
    let (first, more) = drain(&mut client, request.clone());
    assert_eq!((first.len(), more), (7, true));
    let (second, _) = drain(&mut client, request.clone());
    assert_eq!(first, second);
    // What comes in meanwhile is not for that request.
    client.call("enqueue", item_with("late", &json!({}))).ok();
    node.kill();

    let node = start(dir.path());
    let mut client = node.connect();
    let (third, more) = drain(&mut client, request);
    assert_eq!((&first, more), (&third, true));
    let (rest, more) = drain(&mut client, json!({"requestId": "bundle-2"}));
    assert_eq!((rest.len(), more), (6, false));
    let ids = |items: &[Value]| -> Vec<u64> {
        let id = |item: &Value| item["sequenceId"].as_u64().expect("a number");
        items.iter().map(id).collect()
    };
    let mut all = ids(&first);
    all.extend(ids(&rest));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 13, "each item is in one bundle");
}

#[test]
fn an_item_that_never_left_is_not_restored_beside_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let mut client = node.connect();
    fill(&mut client);
    let listed = client.call("peek", json!({})).ok();
    let restored = client
        .call("restore", json!({"items": listed["items"]}))
        .ok();
    assert_eq!(restored["restoredCount"], 0);
    assert_eq!(restored["duplicateCount"], 11);
    assert_eq!(node.counts(), [10, 0, 1, 1]);
}

#[test]
fn leased_items_stay_and_one_shard_can_be_drained_alone() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let mut client = node.connect();
    fill(&mut client);
    let leases = client.call("leaseBatch", json!({"maxItems": 3})).ok();
    let mut drained = 0;
    for shard in 0..4 {
        let (items, more) = drain(&mut client, json!({"shard": shard}));
        assert!(!more, "shard {shard} has nothing left");
        drained += items.len();
    }
    assert_eq!(drained, 9);
    assert_eq!(node.counts(), [0, 3, 0, 0]);
    for lease in leases["leases"].as_array().expect("leases") {
        let token = json!({"ownershipToken": lease["ownershipToken"]});
        client.call("complete", token).ok();
    }
    let refused = client.call("drain", json!({"shard": 4}));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "rpc.body.malformed")
    );
}

#[test]
fn what_is_at_capacity_takes_no_restored_items_and_says_how_far_it_came() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = start(one.path());
    let two = Launch::on(two.path())
        .set("namespaces.resourcelease.shards=1")
        .set("namespaces.resourcelease.capacity=5")
        .start();
    let (mut from, mut to) = (one.connect(), two.connect());
    fill(&mut from);
    let (items, _) = drain(&mut from, json!({}));
    let refused = to.call("restore", json!({"items": items}));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "resourcelease.backpressure")
    );
    assert_eq!(refused.json()["metadata"]["restoredCount"], "5");
    for _ in 0..2 {
        let first = first_waiting(&mut to);
        to.call("cancel", json!({"sequenceIds": [first]})).ok();
    }
    let refused = to.call("restore", json!({"items": items}));
    let told = refused.json();
    assert_eq!(told["metadata"]["restoredCount"], "2", "{told}");
    assert_eq!(told["metadata"]["duplicateCount"], "5", "{told}");
}

fn first_waiting(client: &mut Connection) -> Value {
    let page = client.call("peek", json!({"maxItems": 1})).ok();
    page["items"][0]["sequenceId"].clone()
}
