use std::sync::Arc;

use super::*;
use crate::admin::fixture;
use crate::admin::readiness::{Phase, readiness};

fn document(view: View, moment: &Moment) -> Value {
    render(
        view,
        &fixture::status(),
        moment,
        &Process {
            open_fds: Some(9),
            ..Process::default()
        },
    )
}

#[test]
fn the_whole_node_is_in_one_document() {
    let document = document(View::Full, &fixture::moment(fixture::reports()));
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["startedAt"], "2023-11-14T22:13:20Z");
    assert_eq!(document["uptimeSeconds"], 120.0);
    assert_eq!(document["phase"], "ready");
    assert_eq!(
        document["addresses"],
        json!({"listen": "127.0.0.1:7420", "quic": "127.0.0.1:7420", "admin": "127.0.0.1:7421"})
    );
    assert_eq!(document["driver"], "epoll");
    assert_eq!(
        document["configuration"]["namespaces"]["resourcelease"]["shards"],
        16
    );
    assert_eq!(document["process"]["openFds"], 9);
    let core = &document["cores"][1];
    assert_eq!(
        (&core["core"], &core["cpu"], &core["up"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert_eq!(core["connections"]["open"], 2);
    assert_eq!(core["openCalls"], 4);
    assert_eq!(core["awakeSeconds"], 1.5);
    assert_eq!(core["cpuSeconds"], 1.25);
    assert_eq!(core["ringWaitingMax"], 3);
    assert_eq!(
        document["logs"][1],
        json!({"log": 1, "core": 1, "shards": 1, "recovery": null})
    );
    assert_eq!(document["logs"][0]["recovery"]["tornBytes"], 40);
}

#[test]
fn a_namespace_and_its_shards_say_what_they_hold() {
    let document = document(View::Full, &fixture::moment(fixture::reports()));
    let stats =
        json!({"pendingCount": 17, "activeLeaseCount": 2, "delayedCount": 4, "deadLetterCount": 0});
    let namespace = json!({
        "name": "resourcelease", "durability": "disk", "firstShard": 0, "shards": 2, "stats": stats,
        "backpressure": {
            "isActive": false, "transitions": 0,
            "lowWatermark": 600, "highWatermark": 800, "capacity": 1_000,
        },
    });
    assert_eq!(document["namespaces"][0], namespace);
    let shards = document["shards"].as_array().unwrap();
    assert_eq!(
        shards
            .iter()
            .map(|shard| shard["shard"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let stats =
        json!({"pendingCount": 7, "activeLeaseCount": 1, "delayedCount": 2, "deadLetterCount": 0});
    let shard = json!({
        "shard": 1, "namespace": "resourcelease", "log": 1, "core": 1, "epoch": 3, "lastLsn": 101, "stats": stats,
    });
    assert_eq!(shards[1], shard);
}

#[test]
fn calls_and_syncs_are_summed_over_cores() {
    let document = document(View::Full, &fixture::moment(fixture::reports()));
    let enqueue = &document["rpc"]["procedures"][0];
    assert_eq!(enqueue["procedure"], "enqueue");
    assert_eq!(enqueue["requests"], 4);
    assert_eq!(enqueue["codes"], json!({"ok": 2, "resource-exhausted": 2}));
    assert_eq!(enqueue["latencyUs"]["count"], 4);
    assert_eq!(document["rpc"]["unrouted"], json!({"invalid-argument": 2}));
    assert_eq!(document["wal"]["bytes"], 8_192);
    assert_eq!(document["wal"]["records"], 6);
    assert_eq!(
        document["wal"]["syncUs"],
        json!({"count": 2, "p50": 90, "p99": 90, "max": 90})
    );
}

#[test]
fn the_live_view_leaves_out_what_stays_and_adds_the_cells_of_the_histograms() {
    let document = document(View::Live, &fixture::moment(fixture::reports()));
    assert!(document.get("configuration").is_none());
    assert_eq!(document["shards"].as_array().unwrap().len(), 3);
    let enqueue = &document["rpc"]["procedures"][0]["latencyUs"];
    assert_eq!(enqueue["cells"].as_array().unwrap().len(), 2);
    assert_eq!(document["wal"]["syncUs"]["cells"], json!([[90, 2]]));
    assert_eq!(document["namespaces"].as_array().unwrap().len(), 2);
}

#[test]
fn no_secret_is_shown() {
    let text = document(View::Full, &fixture::moment(fixture::reports())).to_string();
    assert!(!text.contains("secret") && !text.contains("07070707") && !text.contains("7,7,7,7"));
}

#[test]
fn a_core_that_does_not_answer_is_listed_as_down() {
    let mut reports = fixture::reports().to_vec();
    reports[0] = None;
    let document = document(View::Full, &fixture::moment(reports.into()));
    assert_eq!(
        document["cores"][0],
        json!({"core": 0, "cpu": 0, "up": false})
    );
    assert_eq!(document["phase"], "degraded");
    assert_eq!(document["namespaces"][0]["stats"]["pendingCount"], 7);
}

#[test]
fn a_recovering_node_has_a_document_too() {
    let recovering = readiness(&Phase::Recovering("log 1 of 2".into()), &[]);
    let moment = Moment {
        node: None,
        readiness: recovering,
        ..fixture::moment(Arc::default())
    };
    let document = document(View::Full, &moment);
    assert_eq!(document["phase"], "recovering");
    assert_eq!(document["cores"], json!([]));
    assert!(document.get("namespaces").is_none());
}
