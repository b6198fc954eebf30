//! What a running node logs of its calls, and how that is changed while it runs.

mod harness;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use harness::{Connection, Launch, Node, Reply, Request, item, item_with, segments, wait_for};
use serde_json::{Value, json};

const LEVEL: &str = "/omnirelay/control/log-level";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn put(node: &Node, request: &Request) -> Reply {
    let host = node.admin_address.to_string();
    let request = Request {
        headers: request.headers.clone(),
        ..request.clone()
    };
    // The harness names its host `test`; what is not replaced here is on purpose.
    let mut bytes = String::from_utf8(request.head()).expect("text");
    if !request
        .headers
        .iter()
        .any(|(name, _)| name == "host-as-it-is")
    {
        bytes = bytes.replace("host: test", &format!("host: {host}"));
    }
    let mut connection = Connection::open(node.admin_address);
    let bytes = [bytes.into_bytes(), request.body].concat();
    connection.send_bytes(&bytes).expect("it is taken");
    connection.receive().expect("it is answered")
}

fn wish(body: &Value) -> Request {
    Request {
        body: body.to_string().into_bytes(),
        ..Request::get(LEVEL).method("PUT")
    }
    .header("Content-Type", "application/json")
}

fn level(node: &Node) -> Value {
    node.admin(LEVEL).1["level"].clone()
}

/// Lines about finished calls, each a JSON document.
fn calls(node: &Node) -> Vec<Value> {
    let said = node.said();
    let lines = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let is_call = |line: &Value| line["target"] == "omnirelay::rpc";
    lines.filter(is_call).collect()
}

#[test]
fn the_level_changes_while_the_node_runs_and_goes_back_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let mut client = node.connect();
    client.call("enqueue", item("silent-before")).ok();

    let told = put(
        &node,
        &wish(&json!({"level": "info,omnirelay::rpc=debug", "for": "2s"})),
    );
    assert_eq!(told.status, 200, "{}", told.json());
    assert_eq!(told.json()["level"], "info,omnirelay::rpc=debug");
    assert_eq!(told.json()["revertsTo"], "info");
    let request = Request::call("stats", &json!({})).header("Rpc-Caller", "seen");
    client.request(&request).ok();
    let line = wait_for("the call is logged", || {
        let said = node.said();
        let mut lines = said.lines().filter(|line| line.contains("omnirelay::rpc"));
        lines.find(|line| line.contains("seen")).map(str::to_owned)
    });
    assert!(line.contains("resourcelease::stats"), "{line}");

    wait_for("the level is back", || {
        (level(&node) == "info").then_some(())
    });
    wait_for("it says so", || {
        node.said().contains("the log level is back").then_some(())
    });
    let request = Request::call("stats", &json!({})).header("Rpc-Caller", "silent-after");
    client.request(&request).ok();
    assert_eq!(node.admin(LEVEL).1, json!({"level": "info"}));
    let ended = node.stop();
    for silent in ["silent-before", "silent-after"] {
        assert!(!ended.said.contains(silent), "{}", ended.said);
    }
}

#[test]
fn lines_about_calls_name_their_trace_caller_procedure_and_request() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("log.format=json")
        .set("log.level=info,omnirelay::rpc=debug")
        .start();
    let mut client = node.connect();
    let body = item_with(
        "orders",
        &json!({"payload": {
            "resourceType": "table", "resourceId": "orders", "payloadEncoding": "text/plain",
            "body": "", "requestId": "r-1",
        }}),
    );
    let request =
        Request::call("enqueue", &body).header("traceparent", format!("00-{TRACE}-{SPAN}-00"));
    client.request(&request).ok();
    client.call("lease", json!({"waitMs": 0})).ok();
    client.call("lease", json!({"waitMs": 0})).code();
    let calls = wait_for("three lines", || {
        Some(calls(&node)).filter(|calls| calls.len() == 3)
    });
    for (key, value) in [
        ("level", "DEBUG"),
        ("transport", "http"),
        ("rpc.caller", "tests"),
        ("rpc.procedure", "resourcelease::enqueue"),
        ("request_id", "r-1"),
        ("status", "ok"),
        ("trace_id", TRACE),
        ("parent_span_id", SPAN),
    ] {
        assert_eq!(calls[0][key], value, "{}", calls[0]);
    }
    assert!(calls[0].get("span_id").is_none(), "nobody records it");
    assert!(calls[1].get("trace_id").is_none() && calls[1]["took_ms"].as_f64() > Some(0.0));
    assert_eq!(calls[2]["code"], "resourcelease.lease.none_available");
}

#[test]
fn errors_of_our_own_are_warned_of_but_not_without_end() {
    const ITEMS: usize = 30;
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    for number in 0..ITEMS {
        node.connect()
            .call("enqueue", item(&format!("orders-{number}")))
            .ok();
    }
    node.stop();
    // A node that has written the payload itself still has it in memory.
    let node = Launch::on(dir.path()).set("log.format=json").start();
    let mut client = node.connect();
    // Under the node, as a disk does it.
    let file = segments::begun(dir.path()).pop().expect("a segment");
    let bytes = fs::read(&file).expect("a segment can be read");
    let payload = b"0123456789";
    let places = bytes.windows(payload.len()).enumerate();
    let places: Vec<usize> = places
        .filter_map(|(at, found)| (found == payload).then_some(at))
        .collect();
    assert_eq!(places.len(), ITEMS);
    // In place: a file that is cut short under its mapping would kill the node.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .expect("it opens");
    for at in places {
        let at = u64::try_from(at).expect("it fits");
        file.write_all_at(b"x", at).expect("it is written");
    }
    for _ in 0..ITEMS {
        let request = Request::call("lease", &json!({"waitMs": 0}))
            .header("traceparent", format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(client.request(&request).code(), "rpc.internal");
    }
    let warnings = wait_for("they are warned of", || {
        let calls = calls(&node);
        (calls.len() >= 10).then_some(calls)
    });
    assert!(warnings.len() <= 20, "{}", warnings.len());
    assert_eq!(warnings[0]["level"], "WARN");
    assert_eq!(warnings[0]["code"], "rpc.internal");
    assert_eq!(warnings[0]["trace_id"], TRACE);
    assert_eq!(warnings[0]["rpc.procedure"], "resourcelease::lease");
}

#[test]
fn what_a_level_is_not_or_a_strange_page_wants_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let good = wish(&json!({"level": "debug"}));
    let own = format!("http://{}", node.admin_address);
    let of_level = |body: Value| wish(&body);
    for (request, status, words) in [
        (
            of_level(json!({"level": "loud"})),
            400,
            "`loud` is no log level",
        ),
        (
            of_level(json!({"level": "debug", "for": "0s"})),
            400,
            "from 1s to 24h",
        ),
        (
            of_level(json!({"level": "debug", "never": 1})),
            400,
            "unknown field",
        ),
        (
            of_level(json!({"level": "debug".repeat(2_000)})),
            413,
            "limit",
        ),
        (
            good.clone().without("Content-Type"),
            415,
            "application/json",
        ),
        (
            good.clone().header("Content-Type", "text/plain"),
            415,
            "application/json",
        ),
        (
            good.clone().header("Origin", "http://evil.example"),
            403,
            "origin",
        ),
        (good.clone().header("host-as-it-is", "yes"), 403, "Host"),
        (good.clone().method("POST"), 405, "is not POST"),
    ] {
        let shown = format!("{:?}", request.headers);
        let reply = put(&node, &request);
        assert_eq!(reply.status, status, "{shown}");
        let message = reply.json()["message"].as_str().expect("words").to_owned();
        assert!(message.contains(words), "{message}");
        assert_eq!(level(&node), "info", "{shown}");
    }
    assert_eq!(put(&node, &good.header("Origin", own)).status, 200);
    assert_eq!(level(&node), "debug");
}

fn command(node: &Node, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omnirelay"))
        .env_clear()
        .current_dir(Path::new("/"))
        .arg("log-level")
        .args(["--admin-address", &node.admin_address.to_string()])
        .args(arguments)
        .output()
        .expect("the command runs")
}

#[test]
fn the_command_shows_and_changes_the_level() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let json = |arguments: &[&str]| -> Value {
        let output = command(&node, &[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    assert_eq!(json(&[]), json!({"level": "info"}));
    assert_eq!(json(&["warn"]), json!({"level": "warn"}));
    let told = json(&["debug", "--for", "10m"]);
    assert_eq!(
        (&told["level"], &told["revertsTo"]),
        (&json!("debug"), &json!("warn"))
    );
    let left = told["revertsInMs"].as_u64().map(Duration::from_millis);
    assert!(left <= Some(Duration::from_secs(600)) && left > Some(Duration::from_secs(500)));
    let refused = command(&node, &["loud"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("`loud` is no log level"), "{said}");
    let shown = command(&node, &[]).stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("GOES BACK TO") && shown.contains("debug"),
        "{shown}"
    );
}
