//! What a node knows after `kill -9` and a restart on another number of cores.

mod harness;

use std::path::Path;

use harness::{Connection, Launch, Node, Reply, cores_max, item, item_with, wait_for};
use serde_json::{Value, json};

fn start(dir: &Path, cores: usize) -> Node {
    Launch::on(dir)
        .cores(cores.min(cores_max()))
        .set("namespaces.scratch.durability=memory")
        .start()
}

fn token(lease: &Value) -> Value {
    json!({"ownershipToken": lease["ownershipToken"]})
}

fn lease(client: &mut Connection, lease_ms: u64) -> Value {
    client
        .call("lease", json!({"waitMs": 0, "leaseMs": lease_ms}))
        .ok()
}

#[track_caller]
fn assert_fenced(reply: &Reply, reason: &str) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (409, "resourcelease.lease.fenced")
    );
    assert_eq!(reply.json()["metadata"]["reason"], reason);
}

#[test]
fn a_restart_gives_a_lease_its_whole_length_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = start(dir.path(), 2);
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let held = lease(&mut client, 2_000);
    // Another worker waits in vain for most of its length, and for as long after the restart.
    let other = json!({"waitMs": 1_300});
    assert_eq!(
        client.call("lease", other.clone()).code(),
        "resourcelease.lease.none_available"
    );
    node.kill();
    let node = start(dir.path(), 1);
    let mut client = node.connect();
    assert_eq!(
        client.call("lease", other).code(),
        "resourcelease.lease.none_available"
    );
    client.call("heartbeat", token(&held)).ok();
    client.call("complete", token(&held)).ok();
    assert_fenced(&client.call("complete", token(&held)), "completed");
}

#[test]
fn a_lease_that_nobody_renews_after_a_restart_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = start(dir.path(), 1);
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let lost = lease(&mut client, 1_000);
    node.kill();
    let node = start(dir.path(), 2);
    let mut client = node.connect();
    wait_for("the item waits again", || {
        (node.counts() == [1, 0, 0, 0]).then_some(())
    });
    assert_fenced(&client.call("complete", token(&lost)), "expired");
    assert_eq!(lease(&mut client, 1_000)["attempt"], 2);
}

#[test]
fn items_are_what_they_were() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = start(dir.path(), 2);
    let mut client = node.connect();
    client
        .call("enqueue", item_with("dead", &json!({"maxAttempts": 1})))
        .ok();
    let dead = lease(&mut client, 60_000);
    client.call("fail", token(&dead)).ok();
    client.call("enqueue", item("failed")).ok();
    let failed = lease(&mut client, 60_000);
    let failure =
        json!({"ownershipToken": failed["ownershipToken"], "reason": "why", "delayMs": 0});
    client.call("fail", failure).ok();
    client.call("enqueue", item("completed")).ok();
    client
        .call("enqueue", item_with("urgent", &json!({"priority": 200})))
        .ok();
    let urgent = lease(&mut client, 60_000);
    client.call("complete", token(&urgent)).ok();
    client
        .call("enqueue", item_with("urgent-2", &json!({"priority": 200})))
        .ok();
    client
        .call(
            "enqueue",
            item_with("later", &json!({"delayMs": 3_600_000})),
        )
        .ok();
    let mut once = item("once");
    once["payload"]["requestId"] = "r".into();
    let first = client.call("enqueue", once.clone()).ok();
    assert_eq!(node.counts(), [4, 0, 1, 1]);

    for cores in [1, 2, 1] {
        node.kill();
        node = start(dir.path(), cores);
        assert_eq!(node.counts(), [4, 0, 1, 1]);
    }
    let mut client = node.connect();
    let again = client.call("enqueue", once).ok();
    assert_eq!(
        (&again["duplicate"], &again["sequenceId"]),
        (&json!(true), &first["sequenceId"])
    );
    assert_fenced(&client.call("complete", token(&urgent)), "completed");
    assert_fenced(&client.call("complete", token(&dead)), "failed");
    assert_fenced(&client.call("complete", token(&failed)), "failed");
    let leases: Vec<Value> = (0..4).map(|_| lease(&mut client, 60_000)).collect();
    let order: Vec<&str> = leases
        .iter()
        .map(|l| l["payload"]["resourceId"].as_str().expect("an id"))
        .collect();
    assert_eq!(order, ["urgent-2", "failed", "completed", "once"]);
    assert_eq!(
        (&leases[1]["attempt"], &leases[1]["lastError"]["message"]),
        (&json!(2), &json!("why"))
    );
    assert_eq!(node.counts(), [0, 4, 1, 1]);
}

#[test]
fn a_memory_namespace_may_forget_and_never_repeats_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let call = |node: &Node, operation: &str, body: Value| {
        let procedure = format!("scratch::{operation}");
        node.connect().request(&harness::Request::procedure(
            &procedure,
            "json",
            body.to_string(),
        ))
    };
    let mut seen = std::collections::HashSet::new();
    let mut tokens = Vec::new();
    for round in 0..4 {
        let node = start(dir.path(), 1 + round % 2);
        for _ in 0..30 {
            let reply = call(&node, "enqueue", item("one")).ok();
            assert_eq!(reply["receipt"]["durability"], "memory");
            assert!(
                seen.insert(reply["sequenceId"].as_u64()),
                "a number was given out twice"
            );
        }
        for _ in 0..10 {
            let lease = call(&node, "lease", json!({"waitMs": 0})).ok();
            assert!(
                !tokens.contains(&lease["ownershipToken"]),
                "a token was given out twice"
            );
            tokens.push(lease["ownershipToken"].clone());
        }
        node.kill();
    }
}

#[test]
fn a_restart_right_after_a_kill_gets_its_ports_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).start();
    for _ in 0..4 {
        let (listen, admin) = (node.address, node.admin_address);
        // Connections are open when the process dies: the kernel clears them up after it.
        let _clients = [node.connect(), node.connect()];
        node.kill();
        node = Launch::on(dir.path())
            .listen(listen)
            .admin_listen(admin)
            .start();
        node.connect().call("stats", json!({})).ok();
    }
}
