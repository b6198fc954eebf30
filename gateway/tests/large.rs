//! Calls and replies as large as they may be.

mod harness;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Launch, item};
use serde_json::{Value, json};

const BODY_BYTES: usize = 3 << 20;
/// What all bodies of a batch may have, in a call and in a reply.
const BATCH_BYTES_MAX: usize = 16 << 20;

fn large(number: usize) -> Value {
    let mut request = item(&format!("large-{number}"));
    request["payload"]["body"] = STANDARD.encode(vec![b'x'; BODY_BYTES]).into();
    request
}

#[test]
fn batches_larger_than_a_segment_go_in_and_leases_come_out_in_bounded_replies() {
    let dir = tempfile::tempdir().expect("a directory");
    // One log, so that one part of the call has all of it; the smallest segments.
    let node = Launch::on(dir.path())
        .cores(1)
        .set("segment_bytes=8MiB")
        .start();
    let mut client = node.connect();
    for batch in 0..2 {
        let items: Vec<Value> = (batch * 5..batch * 5 + 5).map(large).collect();
        let reply = client.call("enqueueBatch", json!({"items": items})).ok();
        let results = reply["results"].as_array().expect("results");
        assert!(results.iter().all(|r| r["sequenceId"].is_u64()), "{reply}");
    }
    let mut leased = 0;
    while leased < 10 {
        let reply = client
            .call("leaseBatch", json!({"maxItems": 1_000, "waitMs": 5_000}))
            .ok();
        let leases = reply["leases"].as_array().expect("leases");
        assert!(!leases.is_empty());
        assert!(
            leases.len() * BODY_BYTES <= BATCH_BYTES_MAX,
            "{}",
            leases.len()
        );
        leased += leases.len();
        let settle: Vec<Value> = leases
            .iter()
            .map(|l| json!({"ownershipToken": l["ownershipToken"], "action": "complete"}))
            .collect();
        let settled = client.call("settle", json!({"items": settle})).ok();
        let results = settled["results"].as_array().expect("results");
        assert!(results.iter().all(|r| r["success"] == true), "{settled}");
    }
    assert_eq!(node.counts(), [0; 4]);
    node.stop();
}

#[test]
fn a_body_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(1).start();
    let mut client = node.connect();
    let sized = |bytes: usize| {
        let mut request = item("sized");
        request["payload"]["body"] = STANDARD.encode(vec![b'x'; bytes]).into();
        request
    };
    client.call("enqueue", sized(4 << 20)).ok();
    let refused = client.call("enqueue", sized((4 << 20) + 1));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "resourcelease.payload.too_large")
    );
    assert_eq!(node.counts()[0], 1);
}
