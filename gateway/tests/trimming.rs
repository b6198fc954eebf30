//! The log stays short however much goes through it, and nothing that lives is lost with it.

mod harness;

use std::path::Path;

use harness::{Connection, Launch, Node, item, item_with, wait_for};
use serde_json::{Value, json};

const SEGMENT: u64 = 8 << 20;

fn start(dir: &Path) -> Node {
    Launch::on(dir)
        .cores(1)
        .set("segment_bytes=8388608")
        .set("history_bytes=0")
        .start()
}

fn log_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("log-0")).expect("the log's directory");
    let sizes = files.filter_map(|file| file.ok()?.metadata().ok());
    sizes.map(|file| file.len()).sum()
}

/// Puts so many bytes through the queue: enqueued, leased, completed.
fn churn(client: &mut Connection, bytes: usize) {
    const BODY: usize = 256 << 10;
    let mut big = item("churn");
    big["payload"]["body"] = json!("A".repeat(BODY / 3 * 4));
    for _ in 0..bytes / BODY {
        client.call("enqueue", big.clone()).ok();
        let lease = client.call("lease", json!({})).ok();
        let token = json!({"ownershipToken": lease["ownershipToken"]});
        client.call("complete", token).ok();
    }
}

#[test]
fn the_log_stays_short_and_keeps_what_lives() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = start(dir.path());
    let mut client = node.connect();
    // A leased, a delayed, a failed and a dead item, buried under everything that follows.
    let delayed = client
        .call(
            "enqueue",
            item_with("delayed", &json!({"delayMs": 36_000_000})),
        )
        .ok();
    let once = json!({"requestId": "once", "resourceType": "t", "resourceId": "once",
        "payloadEncoding": "x", "body": ""});
    let first = client.call("enqueue", json!({"payload": once})).ok();
    let held = client.call("lease", json!({"leaseMs": 3_600_000})).ok();
    client.call("enqueue", item("dead")).ok();
    let dying = client.call("lease", json!({})).ok();
    let failure = json!({"ownershipToken": dying["ownershipToken"], "reason": "enough",
        "requeue": false});
    client.call("fail", failure).ok();

    churn(&mut client, 10 * SEGMENT as usize);
    // Two spares, the newest segment, and a little for what lives and what is on its way out.
    wait_for("the log to be short", || {
        (log_bytes(dir.path()) <= 6 * SEGMENT).then_some(())
    });
    check(&node, &first, &delayed, &held);
    node.kill();
    let node = start(dir.path());
    check(&node, &first, &delayed, &held);
    churn(&mut node.connect(), 6 * SEGMENT as usize);
    wait_for("the log to be short", || {
        (log_bytes(dir.path()) <= 6 * SEGMENT).then_some(())
    });
    check(&node, &first, &delayed, &held);
    // What was buried can be worked on.
    let token = json!({"ownershipToken": held["ownershipToken"]});
    node.connect().call("complete", token.clone()).ok();
    let fenced = node.connect().call("complete", token);
    assert_eq!(fenced.json()["metadata"]["reason"], "completed");
}

fn check(node: &Node, first: &Value, delayed: &Value, held: &Value) {
    let mut client = node.connect();
    assert_eq!(node.counts(), [0, 1, 1, 1]);
    let token = json!({"ownershipToken": held["ownershipToken"], "extendMs": 3_600_000});
    client.call("heartbeat", token).ok();
    let shown = client.call("peek", json!({})).ok();
    assert_eq!(shown["items"][0]["sequenceId"], delayed["sequenceId"]);
    assert_eq!(shown["items"][0]["payload"]["resourceId"], "delayed");
    let dead = client.call("deadLetters", json!({})).ok();
    assert_eq!(dead["items"][0]["lastError"]["message"], "enough");
    // A request id outlives the record that brought it.
    let once = json!({"requestId": "once", "resourceType": "t", "resourceId": "once",
        "payloadEncoding": "x", "body": ""});
    let again = client.call("enqueue", json!({"payload": once})).ok();
    assert_eq!(again["duplicate"], true);
    assert_eq!(again["sequenceId"], first["sequenceId"]);
}
