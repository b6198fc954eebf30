//! Scripts: calls from a file, told by the command that runs them.

mod cli_support;

use std::path::{Path, PathBuf};

use cli_support::{Outcome, Server, command, outcome};
use serde_json::{Value, json};

fn serve(dir: &Path) -> Server {
    Server::start(command(dir).args([
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--data-dir=data",
        "--cores=1",
        "--set=namespaces.resourcelease.shards=1",
    ]))
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/lease-life.json")
}

/// Runs a script against the server.
fn run(server: &Server, dir: &Path, script: &Path, more: &[&str]) -> Outcome {
    outcome(
        command(dir)
            .args(["script", "run"])
            .arg(script)
            .args(more)
            .env("OMNIRELAY_ADDRESS", &server.address)
            .env("OMNIRELAY_ADMIN_ADDRESS", &server.admin_address),
    )
}

/// Writes a script of these steps.
fn script(dir: &Path, steps: &Value) -> PathBuf {
    let path = dir.join("script.json");
    std::fs::write(&path, json!({ "steps": steps }).to_string()).expect("it is written");
    path
}

fn documents(outcome: &Outcome) -> Vec<Value> {
    let lines = outcome.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("one document a line"))
        .collect()
}

/// The table without the times in it.
fn steps(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.stdout.lines();
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let timeless = words.iter().enumerate().filter(|(at, word)| {
                let is_time = word.parse::<f64>().is_ok() && words.get(at + 1) == Some(&"ms");
                !is_time && **word != "ms"
            });
            timeless
                .map(|(_, word)| *word)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

fn call(procedure: &str, body: Value) -> Value {
    json!({"type": "request", "service": "s", "procedure": format!("resourcelease::{procedure}"), "body": body})
}

/// A step with more fields.
fn with(mut step: Value, fields: Value) -> Value {
    let more = fields.as_object().expect("an object").clone();
    step.as_object_mut().expect("an object").extend(more);
    step
}

#[test]
fn the_example_lives_the_life_of_a_lease_and_can_be_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = serve(dir.path());
    for _ in 0..2 {
        let done = run(&server, dir.path(), &example(), &[]);
        assert_eq!(done.code, Some(0), "{done}");
        let lines = steps(&done);
        assert_eq!(lines[0], "STEP RESULT TIME WHAT");
        assert_eq!(lines[8], "8 ok the first token is fenced");
        assert!(lines[12].starts_with("11 steps: 11 ok, in "), "{done}");
        assert_eq!(lines.len(), 13);
        assert!(done.stderr.is_empty(), "{done}");
    }
    let done = run(&server, dir.path(), &example(), &["--output", "json"]);
    assert_eq!(done.code, Some(0), "{done}");
    let documents = documents(&done);
    assert_eq!(documents.len(), 12);
    assert!(documents[..11].iter().all(|step| step["result"] == "ok"));
    assert_eq!(documents[7]["reply"]["code"], "resourcelease.lease.fenced");
    assert_eq!(
        documents[2]["captured"]["token"],
        documents[2]["reply"]["ownershipToken"]
    );
    assert_eq!(documents[11]["summary"]["ok"], 11);
}

#[test]
fn a_dry_run_calls_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let planned = outcome(
        command(dir.path())
            .args(["script", "run", "--dry-run"])
            .arg(example()),
    );
    assert_eq!(planned.code, Some(0), "{planned}");
    let lines = steps(&planned);
    assert_eq!(lines[1], "1 planned the node answers");
    assert_eq!(lines[6], "6 planned delay 150ms");
    assert_eq!(lines[12], "11 steps: 11 not run");
}

#[test]
fn a_step_that_fails_ends_the_script_unless_it_is_told_to_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = serve(dir.path());
    let wrong = with(
        call("stats", json!({})),
        json!({"name": "counts", "expect": {"body": {"/stats/pendingCount": 7}}}),
    );
    let refused = call("nonsense", json!({}));
    let kept = with(
        call("lease", json!({"waitMs": 0})),
        json!({"capture": {"token": "/ownershipToken"}}),
    );
    let without = call("complete", json!({"ownershipToken": "${token}"}));
    let path = script(
        dir.path(),
        &json!([call("stats", json!({})), wrong, refused, kept, without]),
    );
    let ended = run(&server, dir.path(), &path, &[]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        steps(&ended)[1..3],
        [
            "1 ok request resourcelease::stats",
            "2 failed counts: /stats/pendingCount is 0, 7 was expected [script.expect]",
        ]
    );
    assert!(
        steps(&ended)[3].starts_with("5 steps: 1 ok, 1 failed, 3 not run"),
        "{ended}"
    );
    insta::assert_snapshot!(ended.stderr, @r"
    error[script.expect]: step 2 (counts): /stats/pendingCount is 0, 7 was expected
    help: --output json shows whole replies
    ");
    let went_on = run(&server, dir.path(), &path, &["--continue-on-error"]);
    assert_eq!(went_on.code, Some(1));
    assert!(
        steps(&went_on)[6].starts_with("5 steps: 1 ok, 4 failed, in "),
        "{went_on}"
    );
    insta::assert_snapshot!(went_on.stderr, @r"
    error[script.expect]: step 2 (counts): /stats/pendingCount is 0, 7 was expected; 4 steps failed in all
    help: --output json shows whole replies
    ");
    let documents = documents(&run(
        &server,
        dir.path(),
        &path,
        &["--continue-on-error", "-o", "json"],
    ));
    let codes: Vec<_> = documents
        .iter()
        .map(|step| &step["error"]["code"])
        .collect();
    assert_eq!(
        codes,
        [
            &Value::Null,
            &"script.expect".into(),
            &"rpc.procedure.unknown".into(),
            &"resourcelease.lease.none_available".into(),
            &"script.variable".into(),
            &Value::Null,
        ]
    );
}

#[test]
fn what_is_expected_of_a_reply_is_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = serve(dir.path());
    let first = |step: Value| {
        let path = script(dir.path(), &json!([step]));
        let done = run(&server, dir.path(), &path, &["-o", "json"]);
        let documents = documents(&done);
        match documents[0]["result"].as_str() {
            Some("ok") => {
                assert_eq!(done.code, Some(0), "{done}");
                "ok".to_owned()
            }
            _ => {
                assert_eq!(done.code, Some(1), "{done}");
                let error = &documents[0]["error"];
                format!(
                    "{}: {}",
                    error["code"].as_str().expect("a code"),
                    error["message"].as_str().expect("a message")
                )
            }
        }
    };
    let stats = |fields: Value| first(with(call("stats", json!({})), fields));
    let empty = |fields: Value| first(with(call("lease", json!({"waitMs": 0})), fields));
    assert_eq!(stats(json!({"expect": {"status": "ok"}})), "ok");
    assert_eq!(
        stats(json!({"expect": {"status": "OK", "body": {"/stats/pendingCount": 0}}})),
        "ok"
    );
    assert_eq!(
        empty(json!({"expect": {"status": "DEADLINE_EXCEEDED"}})),
        "ok"
    );
    assert_eq!(
        empty(
            json!({"expect": {"code": "resourcelease.lease.none_available", "body": {"/status": "DEADLINE_EXCEEDED"}}})
        ),
        "ok"
    );
    for transport in ["grpc", "quic"] {
        assert_eq!(
            empty(
                json!({"transport": transport, "expect": {"code": "resourcelease.lease.none_available", "body": {"/status": "DEADLINE_EXCEEDED"}}})
            ),
            "ok"
        );
    }
    insta::assert_snapshot!(stats(json!({"expect": {"status": "aborted"}})), @"script.expect: status aborted was expected, the reply is success");
    insta::assert_snapshot!(stats(json!({"expect": {"code": "rpc.deadline"}})), @"script.expect: code rpc.deadline was expected, the reply is success");
    insta::assert_snapshot!(empty(json!({"expect": {"status": "ok"}})), @"resourcelease.lease.none_available: no item became ready while the call waited; ask again, or raise waitMs");
    insta::assert_snapshot!(empty(json!({"expect": {"code": "rpc.deadline"}})), @"script.expect: code rpc.deadline was expected, the reply is resourcelease.lease.none_available (deadline-exceeded): no item became ready while the call waited; ask again, or raise waitMs");
    insta::assert_snapshot!(empty(json!({})), @"resourcelease.lease.none_available: no item became ready while the call waited; ask again, or raise waitMs");
    insta::assert_snapshot!(stats(json!({"expect": {"body": {"/stats/nothing": 1}}})), @r#"script.expect: /stats/nothing is not there, 1 was expected; the reply is {"stats":{"activeLeaseCount":0,"deadLetterCount":0,"delayedCount":0,"pendingCount":0}}"#);
    insta::assert_snapshot!(stats(json!({"capture": {"x": "/nothing"}})), @r#"script.capture: there is no /nothing for `x`; the reply is {"stats":{"activeLeaseCount":0,"deadLetterCount":0,"delayedCount":0,"pendingCount":0}}"#);
}

#[test]
fn bodies_come_as_documents_texts_files_and_base64() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = serve(dir.path());
    let payload =
        json!({"payload": {"resourceType": "t", "resourceId": "i", "payloadEncoding": "e"}});
    let folder = dir.path().join("scripts");
    std::fs::create_dir(&folder).expect("a directory");
    std::fs::write(folder.join("enqueue.json"), payload.to_string()).expect("it is written");
    let enqueue = json!({"type": "request", "service": "s", "procedure": "resourcelease::enqueue"});
    let path = script(
        &folder,
        &json!([
            with(enqueue.clone(), json!({"body": payload})),
            with(
                enqueue.clone(),
                json!({"body": payload.to_string().replace("\"i\"", "\"${id}\"")})
            ),
            with(enqueue.clone(), json!({"bodyFile": "enqueue.json"})),
            // The request of field 1 with resource type, id and encoding, in protobuf.
            with(
                enqueue,
                json!({"encoding": "proto", "bodyBase64": "CgkKAXQSAWkiAWU="})
            ),
            with(
                call("stats", json!({})),
                json!({"expect": {"body": {"/stats/pendingCount": 4}}})
            ),
        ]),
    );
    let done = run(&server, dir.path(), &path, &["--var", "id=7", "-o", "json"]);
    assert_eq!(done.code, Some(0), "{done}");
    let protobuf = &documents(&done)[3]["reply"];
    assert!(protobuf["base64"].is_string(), "{protobuf}");
}

#[test]
fn a_server_that_is_not_there_ends_a_script_with_3() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = serve(dir.path());
    let path = script(
        dir.path(),
        &json!([
            call("stats", json!({})),
            with(
                call("stats", json!({})),
                json!({"url": "http://127.0.0.1:1/yarpc/v1"})
            ),
        ]),
    );
    let done = run(&server, dir.path(), &path, &[]);
    assert_eq!(done.code, Some(3));
    insta::assert_snapshot!(done.stderr, @r"
    error[cli.unreachable]: step 2 (request resourcelease::stats): cannot reach 127.0.0.1:1: Connection refused (os error 111)
    help: is the server running? start it with `omnirelay serve`, or name another with --address
    ");
}

#[test]
fn a_script_that_is_wrong_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let enqueue =
        json!({"payload": {"resourceType": "t", "resourceId": "i", "payloadEncoding": "e"}});
    let path = script(
        dir.path(),
        &json!([call("enqueue", enqueue), {"type": "delay", "duration": "1"}]),
    );
    let server = serve(dir.path());
    let refused = run(&server, dir.path(), Path::new("script.json"), &[]);
    insta::assert_snapshot!(refused, @r"
    error[script.file]: script.json: step 2 (delay): duration: a duration is a number and a unit: 1500ms, 30s, 10m, 12h or 30d
    help: nothing was run; docs/operations.md has every field, --dry-run checks without running
    exit 2
    ");
    assert!(path.exists());
    let stats = script(
        dir.path(),
        &json!([with(
            call("stats", json!({})),
            json!({"expect": {"body": {"/stats/pendingCount": 0}}})
        )]),
    );
    assert_eq!(run(&server, dir.path(), &stats, &[]).code, Some(0));
    insta::assert_snapshot!(run(&server, dir.path(), Path::new("absent.json"), &[]), @r"
    error[script.file]: absent.json: cannot read it: No such file or directory (os error 2)
    help: nothing was run; docs/operations.md has every field, --dry-run checks without running
    exit 2
    ");
}
