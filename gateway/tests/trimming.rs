//! The log stays short however much goes through it, and nothing that lives is lost with it.

mod harness;

use std::path::Path;

use harness::{Connection, Launch, Node, item, item_with, segments, wait_for};
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

/// The first event of the only shard that is kept, and how many a page has from there.
fn history(node: &Node) -> (u64, usize) {
    let (_, told) = node.admin("/omnirelay/control/replication");
    let oldest = told["shards"][0]["oldest"].as_u64().expect("a number");
    (
        oldest,
        events(node, &format!("from={oldest}")).expect("sound"),
    )
}

/// How many events a page has, or why it has none.
fn events(node: &Node, query: &str) -> Result<usize, Value> {
    let path = format!("/omnirelay/control/replication?shard=0&limit=200&{query}");
    match node.admin(&path) {
        (200, page) => Ok(page["events"].as_array().expect("events").len()),
        (_, refused) => Err(refused["code"].clone()),
    }
}

#[test]
fn a_restart_reads_what_is_needed_and_history_can_still_be_streamed() {
    let dir = tempfile::tempdir().expect("a directory");
    let start = || {
        Launch::on(dir.path())
            .cores(1)
            .set("segment_bytes=8388608")
            .set("history_bytes=134217728")
            .set("namespaces.resourcelease.shards=1")
            .start()
    };
    let node = start();
    let mut client = node.connect();
    let buried = item_with("buried", &json!({"delayMs": 36_000_000}));
    client.call("enqueue", buried).ok();
    churn(&mut client, 5 * SEGMENT as usize);
    wait_for("most of the log to be history", || {
        let [used, needed] =
            ["usedBytes", "neededBytes"].map(|which| node.over_cores(&format!("/logs/0/{which}")));
        (used >= 5 * SEGMENT && needed <= 3 * SEGMENT).then_some(())
    });
    let before = history(&node);
    assert!(before.1 > 40, "{before:?}");
    node.kill();

    let node = start();
    assert_eq!(node.counts(), [0, 0, 1, 0]);
    assert_eq!(history(&node), before, "a restart loses no history");
    let (_, told) = node.admin("/omnirelay/introspect");
    let read = told["logs"][0]["recovery"]["bytes"].as_u64();
    assert!(
        read.is_some_and(|read| read <= 3 * SEGMENT),
        "{read:?} bytes"
    );
    node.stop();

    // Rot in the history hurts only who wants to read it, and is no secret.
    let oldest = &segments::begun(dir.path())[0];
    segments::damage(oldest, |bytes| bytes[1 << 20] ^= 4);
    let node = start();
    assert_eq!(node.counts(), [0, 0, 1, 0]);
    let unreadable = json!("replication.unreadable");
    assert_eq!(events(&node, "from=1"), Err(unreadable));
    assert!(events(&node, "snapshot=true").is_ok_and(|told| told > 0));
    let (_, told) = node.admin("/omnirelay/control/replication");
    let last = told["shards"][0]["last"].as_u64().expect("a number");
    assert_eq!(events(&node, &format!("from={last}")), Ok(1));
    let verified = std::process::Command::new(env!("CARGO_BIN_EXE_omnirelay"))
        .args(["wal", "verify"])
        .arg(dir.path())
        .output()
        .expect("the command runs");
    assert_eq!(verified.status.code(), Some(1));
    let said = String::from_utf8_lossy(&verified.stderr);
    let file = oldest.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(file), "{said}");
}
