//! Programs that everybody has, against the real process: curl over HTTP/1.1 and HTTP/2, and
//! h2load's many streams at once.

mod harness;

use std::path::Path;
use std::process::{Command, Output};

use harness::{Launch, Node, is_there, item};
use serde_json::Value;

fn skip(program: &str, package: &str) -> bool {
    let is_absent = !is_there(program);
    if is_absent {
        eprintln!("SKIPPED: no {program}; apt-get install {package}");
    }
    is_absent
}

const HEADERS: [&str; 3] = [
    "Rpc-Caller: tests",
    "Rpc-Service: queue",
    "Rpc-Encoding: json",
];

/// Runs a program with the headers of a call.
fn run(program: &str, procedure: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    for header in HEADERS {
        command.args(["-H", header]);
    }
    command.args(["-H", &format!("Rpc-Procedure: resourcelease::{procedure}")]);
    command.args(arguments).output().expect("it runs")
}

fn url(node: &Node) -> String {
    format!("http://{}/yarpc/v1", node.address)
}

/// Status, HTTP version and body.
fn curl(node: &Node, procedure: &str, body: &Value, more: &[&str]) -> (String, Value) {
    let (url, body) = (url(node), body.to_string());
    let mut arguments = vec![
        "-s",
        "-S",
        "-w",
        "\n%{http_code} %{http_version}",
        "-d",
        &body,
    ];
    arguments.extend(more);
    arguments.push(&url);
    let output = run("curl", procedure, &arguments);
    let said = String::from_utf8(output.stdout).expect("text");
    let (document, status) = said.rsplit_once('\n').expect("what -w asks for");
    let error = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_str(document);
    (
        status.to_owned(),
        document.unwrap_or_else(|_| panic!("{said} {error}")),
    )
}

#[test]
fn curl_lives_the_life_of_a_lease_over_both_versions_of_http() {
    if skip("curl", "curl") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let everything = serde_json::json!({});
    for (option, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let ok = format!("200 {version}");
        let call = |procedure: &str, body: &Value| curl(&node, procedure, body, &[option]);
        let (status, enqueued) = call("enqueue", &item(version));
        assert_eq!(status, ok, "{enqueued}");
        let (status, lease) = call("lease", &everything);
        assert_eq!(status, ok, "{lease}");
        assert_eq!(lease["sequenceId"], enqueued["sequenceId"]);
        let token = serde_json::json!({"ownershipToken": lease["ownershipToken"]});
        assert_eq!(call("complete", &token).0, ok);
        let (status, again) = call("complete", &token);
        assert_eq!(status, format!("409 {version}"));
        assert_eq!(again["code"], "resourcelease.lease.fenced");
        let (status, refused) = call("enqueue", &everything);
        assert_eq!(status, format!("400 {version}"), "{refused}");
    }
}

#[test]
fn h2load_gets_an_answer_on_every_stream_and_nothing_is_lost() {
    if skip("h2load", "nghttp2-client") {
        return;
    }
    const REQUESTS: u64 = 4_000;
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .cores(harness::cores_max().min(2))
        .start();
    let body = dir.path().join("item.json");
    std::fs::write(&body, item("users").to_string()).expect("it is written");
    let output = h2load(&node, "enqueue", &body, REQUESTS);
    let said = String::from_utf8_lossy(&output.stdout);
    let all = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(said.contains(&all), "{said}");
    assert!(
        said.contains(&format!("status codes: {REQUESTS} 2xx")),
        "{said}"
    );
    assert_eq!(node.counts()[0], REQUESTS);
}

/// So many calls over eight connections with 32 streams each.
fn h2load(node: &Node, procedure: &str, body: &Path, requests: u64) -> Output {
    let (url, requests) = (url(node), requests.to_string());
    let body = body.to_str().expect("a plain path");
    run(
        "h2load",
        procedure,
        &[
            "-n", &requests, "-c", "8", "-m", "32", "-t", "1", "-d", body, &url,
        ],
    )
}
