//! What happens to an item and its lease, as a client of the process sees it.

mod harness;

use std::time::{Duration, Instant};

use harness::{Connection, Launch, Node, Reply, Request, cores_max, item, item_with, wait_for};
use serde_json::{Value, json};

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    (dir, node)
}

fn now(worker: &mut Connection) -> Reply {
    worker.call("lease", json!({"waitMs": 0}))
}

#[track_caller]
fn assert_nothing_waits(worker: &mut Connection) {
    let reply = now(worker);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (504, "resourcelease.lease.none_available")
    );
}

#[track_caller]
fn assert_fenced(reply: &Reply, reason: &str) {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (409, "resourcelease.lease.fenced")
    );
    assert_eq!(reply.header("rpc-error-code"), Some("aborted"));
    assert_eq!(reply.json()["metadata"]["reason"], reason);
}

fn token(lease: &Value) -> Value {
    json!({"ownershipToken": lease["ownershipToken"]})
}

fn token_with(lease: &Value, fields: &Value) -> Value {
    let mut body = token(lease);
    body.as_object_mut()
        .expect("an object")
        .extend(fields.as_object().expect("an object").clone());
    body
}

#[test]
fn an_item_is_enqueued_leased_and_completed_once() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let enqueued = client.call("enqueue", item("users")).ok();
    assert_eq!(enqueued["duplicate"], false);
    assert_eq!(enqueued["receipt"]["durability"], "disk");
    assert_eq!(enqueued["stats"]["pendingCount"], 1);
    let lease = client.call("lease", json!({"peerId": "worker-1"})).ok();
    assert_eq!(lease["sequenceId"], enqueued["sequenceId"]);
    assert_eq!(
        (&lease["attempt"], &lease["ownerPeerId"]),
        (&json!(1), &json!("worker-1"))
    );
    assert_eq!(lease["payload"], harness::payload("users"));
    assert_nothing_waits(&mut client);
    assert_eq!(client.call("complete", token(&lease)).ok()["success"], true);
    assert_fenced(&client.call("complete", token(&lease)), "completed");
    assert_fenced(&client.call("heartbeat", token(&lease)), "completed");
    assert_eq!(node.counts(), [0; 4]);
}

#[test]
fn a_request_id_is_enqueued_once() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let mut request = item("users");
    request["payload"]["requestId"] = "r-1".into();
    let first = client.call("enqueue", request.clone()).ok();
    let again = client.call("enqueue", request).ok();
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(first["sequenceId"], again["sequenceId"]);
    assert_eq!(node.counts(), [1, 0, 0, 0]);
}

#[test]
fn heartbeats_keep_a_lease_beyond_its_length() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let lease = client.call("lease", json!({"leaseMs": 1000})).ok();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2200) {
        let beat = client
            .call("heartbeat", token_with(&lease, &json!({"extendMs": 1000})))
            .ok();
        assert_eq!(beat["leaseForMs"], 1000);
        // Another worker finds nothing meanwhile, which also paces the heartbeats.
        let other = client.call("lease", json!({"waitMs": 200}));
        assert_eq!(other.code(), "resourcelease.lease.none_available");
    }
    client.call("complete", token(&lease)).ok();
}

#[test]
fn an_expired_lease_is_fenced_for_ever_and_its_item_waits_again() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let started = Instant::now();
    let lost = client.call("lease", json!({"leaseMs": 1000})).ok();
    wait_for("the item waits again", || {
        (node.counts() == [1, 0, 0, 0]).then_some(())
    });
    assert!(
        started.elapsed() >= Duration::from_millis(1000),
        "the lease ended early"
    );
    for operation in ["complete", "fail", "heartbeat"] {
        assert_fenced(&client.call(operation, token(&lost)), "expired");
    }
    let lease = client.call("lease", json!({})).ok();
    assert_eq!(
        (&lease["sequenceId"], &lease["attempt"]),
        (&lost["sequenceId"], &json!(2))
    );
    assert_fenced(&client.call("complete", token(&lost)), "superseded");
    client.call("complete", token(&lease)).ok();
    assert_fenced(&client.call("complete", token(&lost)), "superseded");
}

#[test]
fn a_failed_item_waits_for_its_back_off_and_tells_why_it_failed() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.requeue_delay=300ms")
        .start();
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let lease = client.call("lease", json!({})).ok();
    assert_eq!(lease.get("lastError"), None);
    let failure = json!({"reason": "no such table", "errorCode": "E7", "metadata": {"host": "a"}});
    let started = Instant::now();
    client.call("fail", token_with(&lease, &failure)).ok();
    assert_eq!(node.counts(), [0, 0, 1, 0]);
    assert_nothing_waits(&mut client);
    assert_fenced(&client.call("complete", token(&lease)), "failed");
    let again = client.call("lease", json!({"waitMs": 20_000})).ok();
    // The delay is jittered by a tenth.
    assert!(
        started.elapsed() >= Duration::from_millis(269),
        "the back-off was cut short"
    );
    assert_eq!(again["attempt"], 2);
    let told = json!({"message": "no such table", "code": "E7", "metadata": {"host": "a"}});
    assert_eq!(again["lastError"], told);
    assert_fenced(&client.call("complete", token(&lease)), "superseded");
}

#[test]
fn the_last_attempt_and_a_refused_requeue_make_dead_letters() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client
        .call("enqueue", item_with("users", &json!({"maxAttempts": 2})))
        .ok();
    for attempt in 1..=2 {
        let lease = client.call("lease", json!({"waitMs": 20_000})).ok();
        assert_eq!(lease["attempt"], attempt);
        client
            .call("fail", token_with(&lease, &json!({"delayMs": 0})))
            .ok();
    }
    assert_eq!(node.counts(), [0, 0, 0, 1]);
    client.call("enqueue", item("orders")).ok();
    let lease = client.call("lease", json!({})).ok();
    client
        .call("fail", token_with(&lease, &json!({"requeue": false})))
        .ok();
    assert_eq!(node.counts(), [0, 0, 0, 2]);
    assert_nothing_waits(&mut client);
}

#[test]
fn an_expiry_at_the_last_attempt_makes_a_dead_letter() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client
        .call("enqueue", item_with("users", &json!({"maxAttempts": 1})))
        .ok();
    let lease = client.call("lease", json!({"leaseMs": 1000})).ok();
    wait_for("the item is a dead letter", || {
        (node.counts() == [0, 0, 0, 1]).then_some(())
    });
    assert_fenced(&client.call("complete", token(&lease)), "expired");
}

#[test]
fn a_delayed_item_is_not_leased_early() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let started = Instant::now();
    client
        .call("enqueue", item_with("users", &json!({"delayMs": 400})))
        .ok();
    assert_eq!(node.counts(), [0, 0, 1, 0]);
    assert_nothing_waits(&mut client);
    client.call("lease", json!({"waitMs": 20_000})).ok();
    assert!(
        started.elapsed() >= Duration::from_millis(400),
        "it was leased early"
    );
}

#[test]
fn higher_priority_comes_first_and_equals_in_order() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for (id, priority) in [("a", 0), ("b", 9), ("c", 255), ("d", 9), ("e", 0)] {
        client
            .call("enqueue", item_with(id, &json!({"priority": priority})))
            .ok();
    }
    let leases = client.call("leaseBatch", json!({"maxItems": 10})).ok();
    let order: Vec<&str> = leases["leases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|lease| lease["payload"]["resourceId"].as_str().expect("an id"))
        .collect();
    assert_eq!(order, ["c", "b", "d", "a", "e"]);
}

#[test]
fn an_item_whose_time_to_live_is_over_is_never_leased() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client
        .call("enqueue", item_with("short", &json!({"ttlMs": 200})))
        .ok();
    client
        .call("enqueue", item_with("long", &json!({"ttlMs": 600_000})))
        .ok();
    wait_for("the short one is gone", || {
        (node.counts()[0] == 1).then_some(())
    });
    let lease = client.call("lease", json!({"waitMs": 0})).ok();
    assert_eq!(lease["payload"]["resourceId"], "long");
    assert_nothing_waits(&mut client);
}

#[test]
fn a_long_poll_is_answered_by_an_enqueue_on_any_connection_and_core() {
    let dir = tempfile::tempdir().expect("a directory");
    let cores = cores_max().min(2);
    let node = Launch::on(dir.path()).cores(cores).start();
    // Each connection lands on a core by chance: go on until both have had their share.
    for round in 0.. {
        let mut worker = node.connect();
        let mut producer = node.connect();
        worker
            .send(&Request::call("lease", &json!({"waitMs": 25_000})))
            .expect("the request is taken");
        wait_for("the worker waits", || {
            (node.over_cores("/openCalls") == 1).then_some(())
        });
        let id = format!("item-{round}");
        producer.call("enqueue", item(&id)).ok();
        let lease = worker.receive().expect("the poll is answered").ok();
        assert_eq!(lease["payload"]["resourceId"], id);
        worker.call("complete", token(&lease)).ok();
        let (_, told) = node.admin("/omnirelay/introspect");
        let used = told["cores"].as_array().expect("a list").iter();
        let used = used
            .filter(|core| core["connections"]["accepted"].as_u64() >= Some(4))
            .count();
        if round >= 7 && used == cores {
            break;
        }
        assert!(round < 100, "all connections land on one core");
    }
    assert_eq!(node.counts(), [0; 4]);
}

#[test]
fn a_worker_that_goes_away_while_it_waits_costs_no_attempt() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for round in 0..10 {
        let mut gone = node.connect();
        gone.send(&Request::call("lease", &json!({"waitMs": 25_000})))
            .expect("the request is taken");
        wait_for("the worker waits", || {
            (node.over_cores("/openCalls") == 1).then_some(())
        });
        drop(gone);
        wait_for("its call is over", || {
            (node.over_cores("/openCalls") == 0).then_some(())
        });
        client.call("enqueue", item(&format!("item-{round}"))).ok();
        let lease = now(&mut client).ok();
        assert_eq!(lease["attempt"], 1);
        client.call("complete", token(&lease)).ok();
    }
}

/// Moments at which a worker goes away: up to 15 ms after its item was sent.
const STEP: Duration = Duration::from_micros(250);
const STEPS: u32 = 60;

#[test]
fn a_worker_that_goes_away_before_its_reply_loses_no_item() {
    let (_dir, node) = node();
    let mut client = node.connect();
    // Takes a while to be read and synced, so that the worker is gone before its grant is.
    let mut large = item("large");
    large["payload"]["body"] = "QUJD".repeat(400_000).into();
    let request = Request::call("enqueue", &large);
    let bytes = [request.head(), request.body].concat();
    let mut undone = 0;
    for round in 0.. {
        let mut gone = node.connect();
        gone.send(&Request::call(
            "lease",
            &json!({"waitMs": 25_000, "leaseMs": 1_000}),
        ))
        .expect("the request is taken");
        wait_for("the worker waits", || {
            (node.over_cores("/openCalls") == 1).then_some(())
        });
        client.send_bytes(&bytes).expect("the request is taken");
        // Whether the worker goes before its grant, between grant and commit, or after the reply
        // depends on the machine: try every moment there is.
        std::thread::sleep(STEP * (round % STEPS));
        drop(gone);
        let enqueued = client.receive().expect("an answer").ok();
        // A reply that had left already holds the item until that lease ends; an undone grant
        // gives it back at once, its attempt not counted.
        let lease = client.call("lease", json!({"waitMs": 20_000})).ok();
        let completed = client.call("complete", token(&lease)).ok();
        let lsn = |reply: &Value| reply["receipt"]["lsn"].as_u64().expect("a number");
        let records = lsn(&completed) - lsn(&enqueued);
        match lease["attempt"].as_u64() {
            // Grant and completion, and before them a grant and its undoing.
            Some(1) => undone += u32::from(records == 4),
            Some(attempt) => assert_eq!(attempt, 2),
            None => panic!("no attempt: {lease}"),
        }
        if undone == 1 {
            break;
        }
        assert!(round < 5 * STEPS, "no grant was undone");
    }
    assert_eq!(node.counts(), [0; 4]);
}
