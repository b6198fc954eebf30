//! A running node's events, told by the command.

mod cli_support;
mod harness;

use cli_support::{Outcome, command, outcome};
use harness::{Launch, Node, item};
use serde_json::{Value, json};

fn replication(node: &Node, arguments: &[&str]) -> Outcome {
    outcome(
        command(std::path::Path::new("/"))
            .arg("replication")
            .args(arguments)
            .env("OMNIRELAY_ADMIN_ADDRESS", node.admin_address.to_string()),
    )
}

fn documents(outcome: &Outcome) -> Vec<Value> {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let lines = outcome.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("one document a line"))
        .collect()
}

#[test]
fn events_are_printed_for_people_and_for_programs() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.shards=1")
        .start();
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let lease = client
        .call("lease", json!({"waitMs": 0, "peerId": "w"}))
        .ok();
    let token =
        json!({"ownershipToken": lease["ownershipToken"], "requeue": false, "reason": "no"});
    client.call("fail", token).ok();

    let table = replication(&node, &["tail", "--shard", "0"]);
    let rows: Vec<String> = table
        .stdout
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().skip(1).collect();
            // Times come and go.
            cells
                .iter()
                .filter(|cell| !cell.ends_with('Z'))
                .copied()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        rows,
        [
            "SHARD LSN EVENT ITEM ATTEMPT PEER DETAIL",
            "0 1 EpochStarted - - - epoch after 0",
            "0 2 Enqueue 2 - - table/users",
            "0 3 LeaseGranted 2 1 w until",
            "0 4 Failed 2 1 w no, now a dead letter",
        ]
    );
    let events = documents(&replication(&node, &["tail", "--all", "--output", "json"]));
    let kinds: Vec<&Value> = events.iter().map(|event| &event["eventType"]).collect();
    assert_eq!(kinds, ["EpochStarted", "Enqueue", "LeaseGranted", "Failed"]);
    let events = documents(&replication(
        &node,
        &["tail", "--shard=0", "--from=4", "-o", "json"],
    ));
    assert_eq!(events.len(), 1);
    let snapshot = ["tail", "--shard=0", "--snapshot", "-o", "json"];
    let events = documents(&replication(&node, &snapshot));
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["item"]["deadLetter"], true);

    let told = |outcome: Outcome| {
        let address = node.admin_address.to_string();
        outcome.to_string().replace(&address, "NODE")
    };
    insta::assert_snapshot!(replication(&node, &["status"]), @r"
    SHARD  NAMESPACE      LOG  OLDEST  LAST  READERS  LAG
    0      resourcelease  0    1       4     0        -
    ");
    insta::assert_snapshot!(told(replication(&node, &["tail", "--shard", "9"])), @r"
    error[replication.shard_unknown]: NODE has no shard 9
    help: `omnirelay replication status` lists the shards
    exit 1
    ");
    insta::assert_snapshot!(replication(&node, &["tail"]), @r"
    error[cli.usage]: the following required arguments were not provided:
      <--shard <N>|--all>
    help: usage: omnirelay replication tail --admin-address <ADDRESS> <--shard <N>|--all>; add --help for the rest
    exit 2
    ");
}
