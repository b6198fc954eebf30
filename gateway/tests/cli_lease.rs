//! The life of work, told by the commands that people use for it.

mod cli_support;

use std::path::Path;

use cli_support::{Outcome, Server, command, outcome, run_in};
use serde_json::Value;

fn serve(dir: &Path) -> Server {
    Server::start(command(dir).args([
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--data-dir=data",
        "--cores=1",
        "--set=namespaces.resourcelease.shards=1",
        "--set=namespaces.other.durability=memory",
    ]))
}

fn lease(server: &Server, dir: &Path, arguments: &[&str]) -> Outcome {
    outcome(
        command(dir)
            .arg("lease")
            .args(arguments)
            .env("OMNIRELAY_ADDRESS", &server.address),
    )
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(
        outcome.stdout.lines().count(),
        1,
        "one document a line: {outcome}"
    );
    serde_json::from_str(&outcome.stdout).expect("stdout is JSON")
}

/// Takes one item and returns its token.
fn take(server: &Server, dir: &Path) -> String {
    json(&lease(server, dir, &["take", "--output", "json"]))["token"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn work_is_enqueued_taken_and_completed_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let lease = |arguments: &[&str]| lease(&server, dir.path(), arguments);

    let enqueue = [
        "enqueue",
        "--type",
        "table",
        "--id",
        "users",
        "--body",
        "{\"op\":\"vacuum\"}",
        "--request-id",
        "r1",
    ];
    insta::assert_snapshot!(lease(&enqueue), @r"
    SEQUENCE  DUPLICATE  SHARD  LSN  DURABILITY
    2         false      16     2    disk
    ");
    insta::assert_snapshot!(lease(&enqueue), @r"
    SEQUENCE  DUPLICATE  SHARD  LSN  DURABILITY
    2         true       16     2    disk
    ");
    insta::assert_snapshot!(lease(&["stats"]), @r"
    PENDING  LEASED  DELAYED  DEAD LETTERS
    1        0       0        0
    ");

    let taken = lease(&["take", "--peer-id", "worker-1", "--lease", "1m"]);
    let token = taken
        .stdout
        .split_whitespace()
        .find(|word| word.contains('/'))
        .expect("a token")
        .to_owned();
    let lease_id = token.rsplit('/').next().unwrap().to_owned();
    let told = |outcome: Outcome| {
        outcome
            .to_string()
            .replace(&lease_id, "LEASE-ID-OF-THIRTY-SIX-CHARACTERS-IN")
    };
    insta::assert_snapshot!(told(taken), @r#"
    TYPE   ID     ATTEMPT  LEASED FOR  TOKEN                                     BODY
    table  users  1        1m          2/1/LEASE-ID-OF-THIRTY-SIX-CHARACTERS-IN  {"op":"vacuum"}
    "#);
    insta::assert_snapshot!(told(lease(&["take"])), @r"
    error[resourcelease.lease.none_available]: no item became ready while the call waited; ask again, or raise waitMs
    help: nothing is waiting; `omnirelay lease stats` shows what there is, --wait waits for more
    exit 1
    ");
    assert_eq!(
        lease(&["heartbeat", "--token", &token, "--extend", "2m"]).code,
        Some(0)
    );
    insta::assert_snapshot!(told(lease(&["complete", "--token", &token])), @r"
    RESULT     SHARD  LSN  DURABILITY
    completed  16     5    disk
    ");
    insta::assert_snapshot!(told(lease(&["complete", "--token", &token])), @r"
    error[resourcelease.lease.fenced]: the lease has ended: the item was completed (reason: completed)
    help: the lease has ended and its token never works again; take the item again if it still waits
    exit 1
    ");
    insta::assert_snapshot!(told(lease(&["heartbeat", "--token", "1/1/01020304-0506-8708-890a-0b0c0d0e0f10"])), @r"
    error[resourcelease.lease.unknown_token]: this node never issued the token: check that sequenceId, attempt and leaseId were copied unchanged
    help: pass the token as `omnirelay lease take` printed it, to the namespace it came from
    exit 1
    ");
    insta::assert_snapshot!(lease(&["stats", "--output", "json"]), @r#"
    {"stats":{"pendingCount":0,"activeLeaseCount":0,"delayedCount":0,"deadLetterCount":0}}
    "#);
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn work_that_fails_waits_again_with_what_was_said_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let lease = |arguments: &[&str]| lease(&server, dir.path(), arguments);
    std::fs::write(dir.path().join("body"), [0, 159, 146, 150]).unwrap();
    let enqueue = [
        "enqueue",
        "--type",
        "t",
        "--id",
        "i",
        "--body-file",
        "body",
        "--encoding",
        "raw",
        "--priority",
        "9",
    ];
    assert_eq!(
        json(&lease(&[&enqueue[..], &["-o", "json"]].concat()))["duplicate"],
        false
    );

    let token = take(&server, dir.path());
    let fail = [
        "fail",
        "--token",
        &token,
        "--reason",
        "disk full",
        "--code",
        "e.disk",
        "--delay",
        "0s",
    ];
    assert!(
        lease(&fail)
            .stdout
            .starts_with("RESULT  SHARD  LSN  DURABILITY\nfailed ")
    );
    let again = json(&lease(&["take", "--wait", "10s", "-o", "json"]));
    assert_eq!(again["attempt"], 2);
    assert_eq!(again["lastError"]["message"], "disk full");
    assert_eq!(again["lastError"]["code"], "e.disk");
    assert_eq!(again["payload"]["body"], "AJ+Slg==");

    let token = again["token"].as_str().unwrap();
    assert_eq!(
        lease(&["fail", "--token", token, "--no-requeue"]).code,
        Some(0)
    );
    insta::assert_snapshot!(lease(&["stats"]), @r"
    PENDING  LEASED  DELAYED  DEAD LETTERS
    0        0       0        1
    ");
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    assert_eq!(
        lease(
            &server,
            dir.path(),
            &["enqueue", "--type", "t", "--id", "i", "--body", "b"]
        )
        .code,
        Some(0)
    );
    drop(server); // killed, not stopped
    let server = serve(dir.path());
    let taken = lease(&server, dir.path(), &["take"]);
    assert!(taken.stdout.contains("\nt     i   1 "), "{taken}");
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn several_items_are_taken_one_document_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    for id in ["a", "b", "c"] {
        assert_eq!(
            lease(&server, dir.path(), &["enqueue", "--type", "t", "--id", id]).code,
            Some(0)
        );
    }
    let taken = lease(&server, dir.path(), &["take", "--max", "2", "-o", "json"]);
    let ids: Vec<_> = taken
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["resourceId"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn a_request_prints_the_replys_body_and_with_v_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let heads = [
        ("http", "HTTP/1.1 200 OK\n", "\nrpc-service: svc\n"),
        ("grpc", "HTTP/2.0 200 OK\n", "\nrpc-service: svc\n"),
        ("quic", "omnirelay/1 success\n", "\nserver: omnirelay/"),
    ];
    for (transport, first_line, field) in heads {
        let request = |arguments: &[&str]| {
            let common = [
                "request",
                "--transport",
                transport,
                "--service",
                "svc",
                "--address",
                &server.address,
                "--procedure",
            ];
            run_in(dir.path(), &[&common[..], arguments].concat())
        };
        insta::allow_duplicates! {
        insta::assert_snapshot!(request(&["resourcelease::stats"]), @r#"
    {"stats":{"pendingCount":0,"activeLeaseCount":0,"delayedCount":0,"deadLetterCount":0}}
    "#);
        let verbose = request(&[
            "resourcelease::stats",
            "-v",
            "--header",
            "trace=1",
            "--ttl",
            "1s",
        ]);
        assert!(verbose.stderr.starts_with(first_line), "{verbose}");
        assert!(verbose.stderr.contains(field), "{verbose}");
        insta::assert_snapshot!(request(&["resourcelease::enqueue"]), @r"
    error[resourcelease.payload.required]: payload is missing
    help: correct the request and try again
    exit 1
    ");
        insta::assert_snapshot!(request(&["resourcelease::enqueue", "--body", "{\"payload\":{\"resourceType\":5}}"]), @r"
    error[rpc.body.malformed]: malformed JSON: payload.resourceType: invalid type: integer `5`, expected a string at line 1 column 28
    help: compare the body with the procedure's fields in docs/protocol.md
    exit 1
    ");
        insta::assert_snapshot!(request(&["absent::stats"]), @r#"
    error[resourcelease.namespace.unknown]: no namespace `absent`; this node has other, resourcelease
    help: name an existing one with --namespace, or configure it as [namespaces."<name>"]
    exit 1
    "#);
        insta::assert_snapshot!(request(&["resourcelease::steal"]), @r"
    error[rpc.procedure.unknown]: no procedure `resourcelease::steal`; there are <namespace>::<operation>, as in `resourcelease::enqueue`, with the operations enqueue, enqueueBatch, lease, leaseBatch, heartbeat, complete, fail, settle, stats, peek, deadLetters, redrive, cancel, explain, drain, restore
    help: procedures are named <namespace>::<operation>, as in resourcelease::stats
    exit 1
    ");
            }
    }
    let both = |transport| {
        let call = ["request", "--service", "s", "--procedure", "a::b"];
        let there = ["--url", "http://h/", "--transport", transport];
        run_in(dir.path(), &[&call[..], &there].concat())
    };
    insta::assert_snapshot!(both("grpc"), @r"
    error[cli.usage]: a URL is for transport http: gRPC's path is the procedure's
    help: say where the server is by its address
    exit 2
    ");
    insta::assert_snapshot!(both("quic"), @r"
    error[cli.usage]: a URL is for transport http: frames over QUIC have no path
    help: say where the server is by its address
    exit 2
    ");
}

#[test]
fn a_node_tells_what_it_knows_about_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let document = json(&run_in(
        dir.path(),
        &[
            "introspect",
            "--admin-address",
            &server.admin_address,
            "-o",
            "json",
        ],
    ));
    assert_eq!(document["configuration"]["cores"], 1);
    assert_eq!(
        document["configurationSources"]["data_dir"],
        "flag --data-dir"
    );
    let table = run_in(
        dir.path(),
        &["introspect", "--admin-address", &server.admin_address],
    );
    assert!(table.stdout.starts_with("KEY "), "{table}");
    assert!(
        table
            .stdout
            .contains("\nconfiguration.namespaces.other.durability "),
        "{table}"
    );
}

#[test]
fn a_data_directory_or_port_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path());
    let again = run_in(
        dir.path(),
        &[
            "serve",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--data-dir=data",
        ],
    );
    assert_eq!(again.code, Some(1));
    assert!(
        again
            .stderr
            .starts_with("error[serve.data_dir]: the data directory data is in use"),
        "{again}"
    );
    let listen = format!("--listen={}", server.address);
    let again = run_in(
        dir.path(),
        &[
            "serve",
            &listen,
            "--admin-listen=127.0.0.1:0",
            "--data-dir=other",
        ],
    );
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.starts_with("error[serve.listen]: "), "{again}");
    assert!(again.stderr.contains(&server.address), "{again}");
}

#[test]
fn the_demo_keeps_work_flowing_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(command(dir.path()).args([
        "demo",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ]));
    assert!(
        server.greeting[0].starts_with("The demo is running"),
        "{:?}",
        server.greeting
    );
    // Take part as a third worker: work that the seeder enqueued reaches whoever waits for it.
    let taken = json(&lease(
        &server,
        dir.path(),
        &["take", "--wait", "20s", "-o", "json"],
    ));
    assert_eq!(taken["payload"]["attributes"]["source"], "demo");
    let token = taken["token"].as_str().unwrap();
    assert_eq!(
        lease(&server, dir.path(), &["complete", "--token", token]).code,
        Some(0)
    );
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("WARN"), "{said}");
    assert!(dir.path().join("omnirelay-demo").is_dir());
}
