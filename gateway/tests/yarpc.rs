//! YARPC's rules for HTTP, one transcript each.

mod harness;

use std::time::{Duration, Instant};

use harness::{Launch, Node, Reply, Request};
use serde_json::json;

/// A reply as it came, without what differs from run to run.
fn transcript(reply: &Reply) -> String {
    let mut lines: Vec<String> = reply
        .headers
        .iter()
        .filter(|(name, _)| name != "date" && name != "content-length")
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.sort_unstable();
    let body = String::from_utf8_lossy(&reply.body);
    format!("{}\n{}\n\n{body}", reply.status, lines.join("\n"))
}

fn node(dir: &tempfile::TempDir) -> Node {
    Launch::on(dir.path()).start()
}

fn stats() -> Request {
    Request::call("stats", &json!({}))
}

const NOTHING: &str =
    r#"{"stats":{"pendingCount":0,"activeLeaseCount":0,"delayedCount":0,"deadLetterCount":0}}"#;

#[test]
fn success_and_errors_look_as_yarpc_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(&dir);
    let mut connection = node.connect();
    let mut heard = |request: &Request| transcript(&connection.request(request));

    let success = format!(
        "200\ncontent-type: application/json\nrpc-service: queue\nrpc-status: success\n\n{NOTHING}"
    );
    assert_eq!(heard(&stats()), success);
    // Names of headers in any case, values with space around them.
    let shouted = stats()
        .without("Rpc-Caller")
        .header("RPC-CALLER", "  tests  ");
    assert_eq!(heard(&shouted), success);
    // An encoding by its media type, parameters and all.
    let typed = stats().header("Rpc-Encoding", "application/json; charset=utf-8");
    assert_eq!(heard(&typed), success);
    // Application headers are the application's.
    let own = stats()
        .header("Rpc-Header-Tenant", "7")
        .header("Rpc-Header-Rpc-Caller", "x");
    assert_eq!(heard(&own), success);

    let missing = stats().without("Rpc-Caller").header("Rpc-Service", " ");
    assert_eq!(
        heard(&missing),
        concat!(
            "400\ncontent-type: application/json\nrpc-error-code: invalid-argument\n",
            "rpc-error-message: missing required headers: Rpc-Caller, Rpc-Service\n",
            "rpc-status: error\n\n",
            r#"{"message":"missing required headers: Rpc-Caller, Rpc-Service","#,
            r#""status":"INVALID_ARGUMENT","code":"rpc.header.missing","#,
            r#""metadata":{"headers":"Rpc-Caller, Rpc-Service"}}"#
        )
    );

    // The message in the header, for those who take the body for themselves.
    let unknown = Request::procedure("nowhere::stats", "json", "{}");
    let refused = concat!(
        "rpc-error-code: not-found\n",
        "rpc-error-message: no namespace `nowhere`; this node has resourcelease\n",
        "rpc-service: queue\nrpc-status: error\n\n",
        r#"{"message":"no namespace `nowhere`; this node has resourcelease","#,
        r#""status":"NOT_FOUND","code":"resourcelease.namespace.unknown","metadata":{}}"#
    );
    let without = format!("404\ncontent-type: application/json\n{refused}");
    assert_eq!(heard(&unknown), without);
    let refuses = unknown
        .clone()
        .header("Rpc-Accepts-Both-Response-Error", "false");
    assert_eq!(heard(&refuses), without);
    let accepts = unknown.header("Rpc-Accepts-Both-Response-Error", "true");
    assert_eq!(
        heard(&accepts),
        format!("404\ncontent-type: application/json\nrpc-both-response-error: true\n{refused}")
    );
}

#[test]
fn every_status_has_the_number_that_yarpc_gives_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(&dir);
    let mut connection = node.connect();
    let mut told = |request: &Request| {
        let reply = connection.request(request);
        let code = reply.header("rpc-error-code").map(str::to_owned);
        (reply.status, code.unwrap_or_default())
    };
    let token = json!({"sequenceId": 1, "attempt": 1, "leaseId": "none"});
    let complete = Request::call("complete", &json!({"ownershipToken": token}));
    let cases = [
        (
            stats().header("Rpc-Encoding", "thrift"),
            400,
            "invalid-argument",
        ),
        (stats().header("Rpc-Header-A", "\u{ff}"), 200, ""),
        (Request::call("noSuch", &json!({})), 501, "unimplemented"),
        (complete, 404, "not-found"),
        (
            Request::call("lease", &json!({"waitMs": 0})),
            504,
            "deadline-exceeded",
        ),
    ];
    for (request, status, code) in cases {
        assert_eq!(told(&request), (status, code.to_owned()), "{request:?}");
    }
    assert_eq!(told(&stats().method("PUT")), (405, String::new()));
    assert_eq!(told(&Request::get("/other")), (404, String::new()));
}

#[test]
fn the_smaller_of_both_deadlines_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(&dir);
    let wait = Request::call("lease", &json!({"waitMs": 60_000}));
    for (yarpc, own) in [("200", "60000"), ("60000", "200")] {
        let began = Instant::now();
        let request = wait
            .clone()
            .header("Context-TTL-MS", yarpc)
            .header("Rpc-Ttl-Ms", own);
        let reply = node.connect().request(&request);
        assert_eq!(reply.status, 504, "{}", transcript(&reply));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    for bad in ["-1", "1.5", "soon"] {
        let reply = node
            .connect()
            .request(&wait.clone().header("Context-TTL-MS", bad));
        assert_eq!(reply.json()["code"], "rpc.header.malformed", "{bad}");
    }
}
