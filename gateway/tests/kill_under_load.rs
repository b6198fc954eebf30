//! `kill -9` under full load, again and again: nothing that was acknowledged is lost or doubled.

mod harness;
mod load;

use std::time::{Duration, Instant};

use harness::{BOUND, Connection, Launch, Node, cores_max, wait_for};
use load::{Item, Ledger, start};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Kills, each followed by a restart on the other number of cores.
const ROUNDS: u32 = 8;
/// Request ids of acknowledged enqueues that are tried again after each restart.
const RETRIES_MAX: usize = 40;

#[test]
fn acknowledged_work_survives_kill_and_restart_on_another_number_of_cores() {
    let seed = getrandom::u64().expect("the system gives random numbers");
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::default();
    for round in 0..ROUNDS {
        let node = Launch::on(dir.path()).cores(cores(round)).start();
        settle_what_was_open(&mut node.connect(), &ledger);
        retry_enqueues(&mut node.connect(), &ledger);
        let work = start(&ledger, node.address, round);
        // The moment is where the load is, not when: so many acknowledgements into the round.
        let moment = ledger.acknowledged() + random.random_range(150..3000);
        wait_for("the load runs", || {
            (ledger.acknowledged() >= moment).then_some(())
        });
        node.kill();
        work.join();
        // And once more while it recovers.
        let moment = Duration::from_millis(random.random_range(0..60));
        Launch::on(dir.path())
            .cores(cores(round))
            .kill_after(moment);
    }
    let node = Launch::on(dir.path()).cores(cores(ROUNDS)).start();
    let mut client = node.connect();
    settle_what_was_open(&mut client, &ledger);
    retry_enqueues(&mut client, &ledger);
    drain(&node, &ledger);
    assert_eq!(node.counts(), [0; 4]);
    let items = ledger.items();
    let incomplete: Vec<&Item> = items
        .values()
        .filter(|item| item.acknowledged && !item.completed)
        .collect();
    assert!(incomplete.is_empty(), "lost: {incomplete:?}");
    assert!(
        items.len() > 500,
        "the load was no load: {} items",
        items.len()
    );
    assert_eq!(node.stop().code, Some(0));
}

fn cores(round: u32) -> usize {
    if round.is_multiple_of(2) {
        cores_max().min(2)
    } else {
        1
    }
}

/// Leases that were held at the kill are still held, and a settlement whose reply was lost can be
/// tried again.
fn settle_what_was_open(client: &mut Connection, ledger: &Ledger) {
    for (lease, complete_was_sent) in ledger.take_open() {
        let token = json!({"ownershipToken": lease["ownershipToken"]});
        let beat = client.call("heartbeat", token.clone());
        if beat.status == 200 {
            let reply = client.call("complete", token.clone());
            assert_eq!(
                reply.status,
                200,
                "a lease that lives cannot be completed: {:?}",
                reply.json()
            );
        } else {
            assert!(
                complete_was_sent,
                "a live lease ended with the restart: {:?}",
                beat.json()
            );
            assert_completed(&beat.json());
        }
        ledger.complete(&lease);
        for operation in ["complete", "heartbeat", "fail"] {
            assert_completed(&client.call(operation, token.clone()).json());
        }
    }
}

#[track_caller]
fn assert_completed(error: &Value) {
    assert_eq!(error["code"], "resourcelease.lease.fenced");
    assert_eq!(error["metadata"]["reason"], "completed");
}

/// The same request id gives the same item, whether its first reply arrived or not.
fn retry_enqueues(client: &mut Connection, ledger: &Ledger) {
    for (id, known) in ledger.with_request_id(RETRIES_MAX) {
        let reply = client.call("enqueue", load::item(&id)).ok();
        if let Some(sequence_id) = known {
            assert_eq!(
                reply["sequenceId"], sequence_id,
                "another item for the same request id"
            );
            assert_eq!(reply["duplicate"], true);
        }
        ledger.enqueued(&id, &reply);
    }
}

/// Leases and completes all that is left. Leases whose replies were lost end by themselves.
fn drain(node: &Node, ledger: &Ledger) {
    let mut client = node.connect();
    let started = Instant::now();
    while node.counts() != [0; 4] {
        assert!(
            started.elapsed() < BOUND,
            "the queue does not empty: {:?}",
            node.counts()
        );
        let reply = client.call(
            "leaseBatch",
            json!({"maxItems": 500, "waitMs": 500, "leaseMs": 60_000}),
        );
        if reply.status == 504 {
            continue;
        }
        let leases = reply.ok()["leases"].as_array().expect("a list").clone();
        for lease in &leases {
            ledger.leased(lease);
        }
        let items: Vec<Value> = leases
            .iter()
            .map(|lease| json!({"ownershipToken": lease["ownershipToken"], "action": "complete"}))
            .collect();
        let results = client.call("settle", json!({"items": items})).ok();
        for (lease, result) in leases
            .iter()
            .zip(results["results"].as_array().expect("a list"))
        {
            assert_eq!(result["success"], true, "{result}");
            ledger.complete(lease);
        }
    }
}
