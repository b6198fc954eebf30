//! Looking at items without taking them, and changing single ones.

mod harness;

use std::collections::BTreeSet;

use harness::{Connection, Launch, Node, item, item_with};
use serde_json::{Value, json};

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    (dir, node)
}

fn enqueue(client: &mut Connection, item: Value) -> u64 {
    let enqueued = client.call("enqueue", item).ok();
    enqueued["sequenceId"].as_u64().expect("a number")
}

/// Everything that a listing shows, page by page.
fn walk(client: &mut Connection, operation: &str, page_items: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let page = client
            .call(operation, json!({"maxItems": page_items, "cursor": cursor}))
            .ok();
        let items = page["items"].as_array().cloned().unwrap_or_default();
        assert!(items.len() <= page_items);
        all.extend(items);
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return all;
        }
        assert!(all.len() < 10_000, "a listing ends");
    }
}

fn ids(items: &[Value]) -> BTreeSet<u64> {
    let id = |item: &Value| item["sequenceId"].as_u64().expect("a number");
    let found: BTreeSet<u64> = items.iter().map(id).collect();
    assert_eq!(found.len(), items.len(), "each is shown once");
    found
}

fn die(client: &mut Connection) -> u64 {
    let lease = client.call("lease", json!({})).ok();
    let body = json!({"ownershipToken": lease["ownershipToken"], "reason": "no", "requeue": false});
    client.call("fail", body).ok();
    lease["sequenceId"].as_u64().expect("a number")
}

#[test]
fn every_waiting_item_is_shown_once_whatever_the_size_of_a_page() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let mut waiting = BTreeSet::new();
    for n in 0..60 {
        let delay = if n % 5 == 0 { 3_600_000 } else { 0 };
        let fields = json!({"priority": n % 3, "delayMs": delay});
        waiting.insert(enqueue(&mut client, item_with(&format!("r{n}"), &fields)));
    }
    for page in [1, 7, 100] {
        let shown = walk(&mut client, "peek", page);
        assert_eq!(ids(&shown), waiting, "pages of {page}");
        let delayed = shown.iter().filter(|item| item["state"] == "delayed");
        assert_eq!(delayed.count(), 12);
    }
    assert_eq!(node.counts(), [48, 0, 12, 0], "nothing was taken");
    let bad = client.call("peek", json!({"cursor": "what?"}));
    assert_eq!(
        (bad.status, bad.code().as_str()),
        (400, "rpc.body.malformed")
    );
}

#[test]
fn a_dead_letter_is_shown_with_its_error_and_waits_again_when_redriven() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for n in 0..3 {
        enqueue(
            &mut client,
            item_with(&format!("r{n}"), &json!({"maxAttempts": 2})),
        );
    }
    let (one, two) = (die(&mut client), die(&mut client));
    let shown = walk(&mut client, "deadLetters", 1);
    assert_eq!(ids(&shown), BTreeSet::from([one, two]));
    assert_eq!(shown[0]["lastError"]["message"], "no");
    assert_eq!(shown[0]["deadLetter"], true);

    let waiting = walk(&mut client, "peek", 10)[0]["sequenceId"].clone();
    let reply = client
        .call(
            "redrive",
            json!({"sequenceIds": [one, waiting, 999_999_999]}),
        )
        .ok();
    let codes: Vec<&str> = reply["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("done"))
        .collect();
    let expected = [
        "done",
        "resourcelease.item.not_dead",
        "resourcelease.item.not_found",
    ];
    assert_eq!(codes, expected);
    assert_eq!(node.counts(), [2, 0, 0, 1]);
    // It has as many attempts again as it once was given, and they go on counting.
    let mut attempts = Vec::new();
    for _ in 0..2 {
        let lease = client.call("lease", json!({})).ok();
        if lease["sequenceId"] == one {
            attempts.push(lease["attempt"].clone());
        }
    }
    assert_eq!(attempts, [2]);
}

#[test]
fn a_cancelled_item_is_gone_and_its_lease_is_fenced() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let id = enqueue(&mut client, item("users"));
    let lease = client.call("lease", json!({})).ok();
    let reply = client.call("cancel", json!({"sequenceIds": [id]})).ok();
    assert_eq!(reply["results"][0]["success"], true);
    assert_eq!(reply["results"][0]["receipt"]["durability"], "disk");
    let token = json!({"ownershipToken": lease["ownershipToken"]});
    let fenced = client.call("complete", token);
    assert_eq!(
        (fenced.status, fenced.code().as_str()),
        (409, "resourcelease.lease.fenced")
    );
    assert_eq!(fenced.json()["metadata"]["reason"], "superseded");
    assert_eq!(node.counts(), [0, 0, 0, 0]);
    let again = client.call("cancel", json!({"sequenceIds": [id]})).ok();
    let code = &again["results"][0]["error"]["code"];
    assert_eq!(code, "resourcelease.item.not_found");
}
