//! Requests that are wrong in every way: each gets the contract's error, and disturbs nobody.

mod harness;

use std::io;

use harness::{Connection, Launch, Node, Reply, Request, item, item_with, payload};
use omnirelay_net::rpc::REQUEST_BYTES_MAX;
use serde_json::{Value, json};

fn node() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.\"resourcelease.users\".shards=4")
        .start();
    (dir, node)
}

/// A request that is wrong in one way, and the error that it gets.
struct Case {
    name: String,
    request: Request,
    code: &'static str,
    /// What its message must mention.
    mentions: String,
}

fn case(name: &str, request: Request, code: &'static str, mentions: &str) -> Case {
    Case {
        name: name.into(),
        request,
        code,
        mentions: mentions.into(),
    }
}

/// HTTP status, gRPC name and YARPC name of the contract's table.
fn status_of(code: &str) -> (u16, &'static str, &'static str) {
    match code {
        "resourcelease.namespace.unknown" | "resourcelease.lease.unknown_token" => {
            (404, "NOT_FOUND", "not-found")
        }
        "resourcelease.lease.none_available" | "rpc.deadline" => {
            (504, "DEADLINE_EXCEEDED", "deadline-exceeded")
        }
        "resourcelease.lease.fenced" => (409, "ABORTED", "aborted"),
        "rpc.procedure.unknown" => (501, "UNIMPLEMENTED", "unimplemented"),
        _ => (400, "INVALID_ARGUMENT", "invalid-argument"),
    }
}

#[track_caller]
fn assert_error(name: &str, reply: &Reply, code: &str, mentions: &str) {
    let (status, grpc, yarpc) = status_of(code);
    let body = reply.json();
    assert_eq!(
        (reply.status, body["code"].as_str()),
        (status, Some(code)),
        "{name}: {body}"
    );
    assert_eq!(body["status"], grpc, "{name}");
    assert_eq!(reply.header("rpc-status"), Some("error"), "{name}");
    assert_eq!(reply.header("rpc-error-code"), Some(yarpc), "{name}");
    let message = body["message"].as_str().expect("a message");
    assert!(
        message.contains(mentions),
        "{name}: `{mentions}` is not in `{message}`"
    );
    assert_eq!(reply.header("rpc-error-message"), Some(message), "{name}");
    assert!(body["metadata"].is_object(), "{name}: {body}");
    assert_eq!(
        body.as_object().map(serde_json::Map::len),
        Some(4),
        "{name}: {body}"
    );
    assert_eq!(
        reply.header("content-type"),
        Some("application/json"),
        "{name}"
    );
}

/// A connection on which a good call has just been answered.
struct Good<'a> {
    node: &'a Node,
    connection: Connection,
    reopened: u32,
}

impl Good<'_> {
    /// Sends a bad request, then a good one on the same connection unless the server said that
    /// it closes it.
    fn refuse(&mut self, name: &str, request: &Request) -> Reply {
        let reply = self.connection.request(request);
        if reply.closes() {
            self.reopened += 1;
            self.connection = self.node.connect();
        }
        let stats = self.connection.call("stats", json!({})).ok();
        assert_eq!(stats["stats"]["pendingCount"], 1, "{name} left a trace");
        reply
    }
}

#[test]
fn a_wrong_request_gets_the_contracts_error_and_leaves_no_trace() {
    let (_dir, node) = node();
    let mut good = Good {
        node: &node,
        connection: node.connect(),
        reopened: 0,
    };
    good.connection.call("enqueue", item("only")).ok();
    let cases = wrong_heads()
        .into_iter()
        .chain(wrong_bodies())
        .chain(wrong_payloads())
        .chain(wrong_tokens())
        .chain(wrong_items());
    for wrong in cases {
        let reply = good.refuse(&wrong.name, &wrong.request);
        assert_error(&wrong.name, &reply, wrong.code, &wrong.mentions);
    }
    assert_eq!(
        good.reopened, 0,
        "a well-framed request closed its connection"
    );
    assert_eq!(node.counts(), [1, 0, 0, 0]);
    let lease = good.connection.call("lease", json!({"waitMs": 0})).ok();
    assert_eq!(
        (&lease["attempt"], &lease["payload"]),
        (&json!(1), &payload("only"))
    );
    assert_eq!(node.stop().code, Some(0));
}

fn stats() -> Request {
    Request::call("stats", &json!({}))
}

fn wrong_heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for header in ["Rpc-Caller", "Rpc-Service", "Rpc-Procedure", "Rpc-Encoding"] {
        let missing = "rpc.header.missing";
        cases.push(case(
            &format!("no {header}"),
            stats().without(header),
            missing,
            header,
        ));
        cases.push(case(
            &format!("blank {header}"),
            stats().header(header, "  "),
            missing,
            header,
        ));
        let empty = stats().header(header, "");
        cases.push(case(&format!("empty {header}"), empty, missing, header));
    }
    let bare = stats().without("Rpc-Caller").without("Rpc-Encoding");
    cases.push(case(
        "two missing",
        bare,
        "rpc.header.missing",
        "Rpc-Caller, Rpc-Encoding",
    ));
    for encoding in ["xml", "thrift", "application/xml", "json2"] {
        let request = stats().header("Rpc-Encoding", encoding);
        cases.push(case(
            encoding,
            request,
            "rpc.encoding.unsupported",
            encoding,
        ));
    }
    let raw = stats().header("Rpc-Encoding", "raw");
    cases.push(case("raw", raw, "rpc.encoding.unsupported", "raw"));
    for header in ["Context-TTL-MS", "Rpc-Ttl-Ms"] {
        for ttl in ["-1", "1.5", "soon", "1s", "0x10"] {
            let request = stats().header(header, ttl);
            cases.push(case(
                &format!("{header}: {ttl}"),
                request,
                "rpc.header.malformed",
                ttl,
            ));
        }
    }
    for token in ["1", "1/2", "a/1/b", "1/1/", "1/1/a/b", "-1/1/a"] {
        let request = stats().header("Rpc-Lease-Token", token);
        cases.push(case(
            &format!("token {token}"),
            request,
            "rpc.header.malformed",
            token,
        ));
    }
    for header in ["Rpc-Caller", "Rpc-Shard-Key", "x-peer-id"] {
        let request = stats().header(header, "x".repeat(513));
        cases.push(case(
            &format!("long {header}"),
            request,
            "rpc.header.malformed",
            "513",
        ));
    }
    for procedure in [
        "stats",
        "::stats",
        "resourcelease::",
        "resourcelease::steal",
        "resourcelease:stats",
        "a::b::c",
    ] {
        let request = stats().header("Rpc-Procedure", procedure);
        cases.push(case(procedure, request, "rpc.procedure.unknown", procedure));
    }
    for procedure in [
        "nobody::stats",
        "ResourceLease::stats",
        "resourcelease.users.x::enqueue",
    ] {
        let namespace = procedure.split("::").next().expect("a namespace");
        let request = stats().header("Rpc-Procedure", procedure);
        cases.push(case(
            procedure,
            request,
            "resourcelease.namespace.unknown",
            namespace,
        ));
    }
    cases
}

fn wrong_bodies() -> Vec<Case> {
    let json_body = |body: &str| Request::procedure("resourcelease::enqueue", "json", body);
    let mut cases = Vec::new();
    for body in [
        "",
        "{",
        "null",
        "[]",
        "7",
        "\"text\"",
        "{}{}",
        "{\"payload\":7}",
        "{\"payload\":[]}",
        "\u{1}",
    ] {
        cases.push(case(
            &format!("body {body:?}"),
            json_body(body),
            "rpc.body.malformed",
            "malformed JSON",
        ));
    }
    let not_utf8 = Request::procedure(
        "resourcelease::enqueue",
        "json",
        b"{\"payload\":{\"resourceId\":\"\xff\"}}".as_slice(),
    );
    cases.push(case(
        "not UTF-8",
        not_utf8,
        "rpc.body.malformed",
        "malformed JSON",
    ));
    let deep = "[".repeat(30_000);
    cases.push(case(
        "deep",
        json_body(&deep),
        "rpc.body.malformed",
        "malformed JSON",
    ));
    let wrong_fields = [
        ("payload.body", json!({"payload": {"body": "no base64!"}})),
        ("payload.resourceId", json!({"payload": {"resourceId": 7}})),
        (
            "payload.attributes.a",
            json!({"payload": {"attributes": {"a": 1}}}),
        ),
        ("delayMs", json!({"delayMs": -1})),
        ("delayMs", json!({"delayMs": 1.5})),
        ("delayMs", json!({"delayMs": 1u64 << 54})),
        ("priority", json!({"priority": "high"})),
    ];
    for (field, body) in wrong_fields {
        let name = format!("{field} in {body}");
        cases.push(case(
            &name,
            Request::call("enqueue", &body),
            "rpc.body.malformed",
            field,
        ));
    }
    for body in [
        &b"\xff\xff\xff"[..],
        b"\x0a\x7f",
        b"\x0a\x02\x08\x01",
        b"\x07",
        b"{}",
    ] {
        let request = Request::procedure("resourcelease::enqueue", "proto", body);
        cases.push(case(
            &format!("protobuf {body:?}"),
            request,
            "rpc.body.malformed",
            "malformed protobuf",
        ));
    }
    let many = json!({"items": vec![json!({}); 1001]});
    cases.push(case(
        "1001 items",
        Request::call("enqueueBatch", &many),
        "resourcelease.payload.too_large",
        "1000",
    ));
    cases.push(case(
        "1001 settlements",
        Request::call("settle", &many),
        "resourcelease.payload.too_large",
        "1000",
    ));
    let none = json!({"items": []});
    cases.push(case(
        "no items",
        Request::call("enqueueBatch", &none),
        "resourcelease.payload.required",
        "items",
    ));
    cases.push(case(
        "no settlements",
        Request::call("settle", &none),
        "rpc.body.malformed",
        "items",
    ));
    for max in [0, 1001] {
        let request = Request::call("leaseBatch", &json!({"maxItems": max, "waitMs": 0}));
        cases.push(case(
            &format!("maxItems {max}"),
            request,
            "rpc.body.malformed",
            "maxItems",
        ));
    }
    let request = Request::call("lease", &json!({"leaseMs": 0, "waitMs": 0}));
    cases.push(case("leaseMs 0", request, "rpc.body.malformed", "leaseMs"));
    cases
}

fn wrong_payloads() -> Vec<Case> {
    let with = |field: &str, value: Value| {
        let mut request = item("x");
        request["payload"][field] = value;
        Request::call("enqueue", &request)
    };
    let mut cases = vec![case(
        "no payload",
        Request::call("enqueue", &json!({})),
        "resourcelease.payload.required",
        "payload",
    )];
    let required = [
        (
            "resourceType",
            "resourcelease.payload.resource_type_required",
        ),
        ("resourceId", "resourcelease.payload.resource_id_required"),
        ("payloadEncoding", "resourcelease.payload.encoding_required"),
    ];
    for (field, code) in required {
        for blank in [json!(null), json!(""), json!(" \t")] {
            cases.push(case(
                &format!("{field} {blank}"),
                with(field, blank),
                code,
                field,
            ));
        }
    }
    let long = json!("x".repeat(513));
    for field in [
        "resourceType",
        "resourceId",
        "payloadEncoding",
        "partitionKey",
        "requestId",
    ] {
        let request = with(field, long.clone());
        cases.push(case(
            &format!("long {field}"),
            request,
            "resourcelease.payload.too_large",
            field,
        ));
    }
    let attributes = json!({"a": "x".repeat(16 * 1024)});
    cases.push(case(
        "attributes",
        with("attributes", attributes),
        "resourcelease.payload.too_large",
        "attributes",
    ));
    for (field, value) in [("priority", 256), ("maxAttempts", 0), ("ttlMs", 0)] {
        let request = Request::call("enqueue", &item_with("x", &json!({field: value})));
        cases.push(case(
            &format!("{field} {value}"),
            request,
            "rpc.body.malformed",
            field,
        ));
    }
    cases
}

fn wrong_tokens() -> Vec<Case> {
    let mut cases = Vec::new();
    for operation in ["complete", "fail", "heartbeat"] {
        let with = |token: Value| Request::call(operation, &json!({"ownershipToken": token}));
        let absent = Request::call(operation, &json!({}));
        cases.push(case(
            &format!("{operation} without token"),
            absent,
            "rpc.body.malformed",
            "ownershipToken",
        ));
        let blank = with(json!({"sequenceId": 1, "attempt": 1, "leaseId": " "}));
        cases.push(case(
            &format!("{operation} blank token"),
            blank,
            "rpc.body.malformed",
            "leaseId",
        ));
        for lease_id in [
            "x",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-8fff-bfff-ffffffffffff",
        ] {
            let bogus = with(json!({"sequenceId": 16, "attempt": 1, "leaseId": lease_id}));
            let name = format!("{operation} {lease_id}");
            cases.push(case(
                &name,
                bogus,
                "resourcelease.lease.unknown_token",
                "never issued",
            ));
        }
    }
    cases
}

/// Calls about items outside a lease.
fn wrong_items() -> Vec<Case> {
    let malformed = "rpc.body.malformed";
    let too_large = "resourcelease.payload.too_large";
    let good = json!({
        "payload": payload("restored"),
        "attempt": 1,
        "enqueuedAt": "2026-01-31T12:00:00Z",
        "sequenceId": 7,
        "deadLetter": false,
        "origin": "000102030405060708090a0b0c0d0e0f",
    });
    let restore = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        Request::call("restore", &json!({"items": [good, bad]}))
    };
    let long = "x".repeat(513);
    let ids: Vec<u32> = (1..=1_001).collect();
    let calls = [
        ("drain", json!({"maxItems": 0}), malformed, "maxItems is 0"),
        ("drain", json!({"maxItems": 1_001}), malformed, "1 to 1000"),
        ("drain", json!({"maxItems": "all"}), malformed, "maxItems"),
        (
            "drain",
            json!({"requestId": ""}),
            malformed,
            "requestId is empty",
        ),
        (
            "drain",
            json!({"requestId": long}),
            too_large,
            "requestId has 513",
        ),
        ("peek", json!({"maxItems": 1_001}), malformed, "1 to 1000"),
        ("peek", json!({"cursor": long}), too_large, "cursor has 513"),
        (
            "deadLetters",
            json!({"maxItems": 0}),
            malformed,
            "maxItems is 0",
        ),
        ("deadLetters", json!({"cursor": 7}), malformed, "cursor"),
        ("redrive", json!({}), malformed, "sequenceIds is empty"),
        (
            "redrive",
            json!({"sequenceIds": [-1]}),
            malformed,
            "sequenceIds[0]",
        ),
        (
            "cancel",
            json!({"sequenceIds": []}),
            malformed,
            "sequenceIds is empty",
        ),
        (
            "cancel",
            json!({"sequenceIds": ids}),
            too_large,
            "more than 1000",
        ),
        (
            "cancel",
            json!({"sequenceIds": 7}),
            malformed,
            "expected an array",
        ),
        (
            "explain",
            json!({"sequenceId": "7"}),
            malformed,
            "sequenceId",
        ),
        (
            "restore",
            json!({"items": []}),
            "resourcelease.restore.pending_item_required",
            "items is empty",
        ),
    ];
    let mut cases: Vec<Case> = calls
        .into_iter()
        .map(|(operation, body, code, mentions)| {
            let name = format!("{operation}: {mentions}");
            case(&name, Request::call(operation, &body), code, mentions)
        })
        .collect();
    for (field, value, mentions) in [
        ("attempt", json!(65_536), "items[1].attempt is 65536"),
        ("sequenceId", json!(0), "items[1].sequenceId is 0"),
        ("origin", json!("00"), "items[1].origin: `00`"),
        (
            "enqueuedAt",
            json!("1969-12-31T23:59:59Z"),
            "items[1].enqueuedAt is not a time",
        ),
        (
            "enqueuedAt",
            json!("yesterday"),
            "items[1].enqueuedAt: `yesterday`",
        ),
        ("enqueuedAt", Value::Null, "items[1].enqueuedAt is missing"),
        ("priority", json!(256), "items[1].priority is 256"),
    ] {
        cases.push(case(mentions, restore(field, value), malformed, mentions));
    }
    cases.push(case(
        "no payload",
        restore("payload", Value::Null),
        "resourcelease.payload.required",
        "items[1].payload is missing",
    ));
    cases
}

#[test]
fn a_token_counts_only_as_it_was_issued_and_where() {
    let (_dir, node) = node();
    let mut client = node.connect();
    client.call("enqueue", item("users")).ok();
    let token = client.call("lease", json!({})).ok()["ownershipToken"].clone();
    let foreign = Request::procedure(
        "resourcelease.users::complete",
        "json",
        json!({"ownershipToken": token}).to_string(),
    );
    assert_error(
        "foreign namespace",
        &client.request(&foreign),
        "resourcelease.lease.unknown_token",
        "never issued",
    );
    for (field, value) in [("sequenceId", json!(17)), ("attempt", json!(2))] {
        let mut forged = token.clone();
        forged[field] = value;
        let reply = client.call("complete", json!({"ownershipToken": forged}));
        assert_error(
            field,
            &reply,
            "resourcelease.lease.unknown_token",
            "never issued",
        );
    }
    client
        .call("complete", json!({"ownershipToken": token}))
        .ok();
}

#[test]
fn one_bad_entry_of_a_batch_fails_alone() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let items =
        json!({"items": [item("a"), {}, item_with("b", &json!({"priority": 999})), item("c")]});
    let results = client.call("enqueueBatch", items).ok()["results"].clone();
    let codes: Vec<&str> = results
        .as_array()
        .expect("a list")
        .iter()
        .map(|result| {
            result
                .pointer("/error/code")
                .map_or("", |code| code.as_str().expect("a code"))
        })
        .collect();
    assert_eq!(
        codes,
        [
            "",
            "resourcelease.payload.required",
            "rpc.body.malformed",
            ""
        ]
    );
    assert_eq!(node.counts(), [2, 0, 0, 0]);
    let leases = client.call("leaseBatch", json!({"maxItems": 10})).ok()["leases"].clone();
    let items = json!({"items": [
        {"ownershipToken": leases[0]["ownershipToken"], "action": "complete"},
        {"ownershipToken": leases[1]["ownershipToken"], "action": "eat"},
        {"ownershipToken": {"sequenceId": 1, "attempt": 1, "leaseId": "x"}, "action": "complete"},
        {"ownershipToken": leases[1]["ownershipToken"], "action": "heartbeat"},
    ]});
    let results = client.call("settle", items).ok()["results"].clone();
    assert_eq!(
        (&results[0]["success"], &results[3]["success"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(results[1]["error"]["code"], "rpc.body.malformed");
    assert_eq!(
        results[2]["error"]["code"],
        "resourcelease.lease.unknown_token"
    );
    assert_eq!(node.counts(), [0, 1, 0, 0]);
}

#[test]
fn what_is_no_call_gets_an_http_status_and_keeps_its_connection() {
    let (_dir, node) = node();
    let mut client = node.connect();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let reply = client.request(&stats().method(method));
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some("POST")),
            "{method}"
        );
    }
    for path in [
        "/",
        "/yarpc",
        "/yarpc/v1/",
        "/yarpc/v2",
        "/readyz",
        "/../yarpc/v1",
    ] {
        assert_eq!(client.request(&stats().path(path)).status, 404, "{path}");
    }
    client.request(&stats()).ok();
}

#[test]
fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let announced = stats().header("Content-Length", (REQUEST_BYTES_MAX + 1).to_string());
    client
        .send_bytes(&announced.head())
        .expect("the head is taken");
    let reply = client.receive().expect("an answer without the body");
    assert_error(
        "announced",
        &reply,
        "resourcelease.payload.too_large",
        &REQUEST_BYTES_MAX.to_string(),
    );

    let mut client = node.connect();
    let chunked = stats().header("Transfer-Encoding", "chunked");
    client
        .send_bytes(&chunked.head())
        .expect("the head is taken");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    // The server may answer and close before it was sent everything.
    let sent: io::Result<()> =
        (0..=REQUEST_BYTES_MAX >> 20).try_for_each(|_| client.send_bytes(&chunk));
    match client.receive() {
        Ok(reply) => assert_error(
            "chunked",
            &reply,
            "resourcelease.payload.too_large",
            &REQUEST_BYTES_MAX.to_string(),
        ),
        Err(error) => panic!("no answer: {error}, sent: {sent:?}"),
    }
    node.connect().request(&stats()).ok();
}

#[test]
fn a_head_that_is_too_large_gets_431() {
    let (_dir, node) = node();
    let many = (0..200).fold(stats(), |request, number| {
        request.header(&format!("x-{number}"), "y")
    });
    for request in [stats().header("x-large", "x".repeat(70_000)), many] {
        let mut client = node.connect();
        // The server may answer and close before it was sent everything.
        drop(client.send(&request));
        assert_eq!(client.receive().expect("an answer").status, 431);
    }
    node.connect().request(&stats()).ok();
}

#[test]
fn bytes_that_are_no_http_are_refused_and_the_node_lives() {
    let (_dir, node) = node();
    let mut client = node.connect();
    let garbage: [&[u8]; 7] = [
        b"\r\n\r\n\r\n\x00\x01\x02\r\n\r\n",
        b"POST /yarpc/v1 HTTP/9.9\r\n\r\n",
        b"POST /yarpc/v1\r\n\r\n",
        b"POST /yarpc/v1 HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /yarpc/v1 HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n then no frames at all, only text that goes on and on",
    ];
    for bytes in garbage {
        let mut bad = node.connect();
        bad.send_bytes(bytes).expect("the bytes are taken");
        bad.finish_sending();
        let reply = bad.receive();
        assert!(
            reply.as_ref().map_or(true, |reply| reply.status == 400),
            "{bytes:?}: {reply:?}"
        );
        client.request(&stats()).ok();
    }
    // A chunk length that is no number, in an otherwise good call.
    let mut bad = node.connect();
    bad.send_bytes(&stats().header("Transfer-Encoding", "chunked").head())
        .expect("the head is taken");
    bad.send_bytes(b"zz\r\n").expect("the chunk is taken");
    if let Ok(reply) = bad.receive() {
        assert_error("chunk", &reply, "rpc.body.malformed", "broke off");
    }
    client.request(&stats()).ok();
    assert_eq!(node.stop().code, Some(0));
}

#[test]
fn a_call_whose_body_never_ends_is_answered_by_its_deadline() {
    let (_dir, node) = node();
    let mut bad = node.connect();
    let request = Request::call("enqueue", &item("users")).header("Context-TTL-MS", "300");
    bad.send_bytes(&request.head()).expect("the head is taken");
    bad.send_bytes(&request.body[..10])
        .expect("half a body is taken");
    assert_error(
        "stalled",
        &bad.receive().expect("an answer"),
        "rpc.deadline",
        "body",
    );
    // One that breaks off leaves nothing either.
    let mut bad = node.connect();
    bad.send_bytes(&request.head()).expect("the head is taken");
    bad.finish_sending();
    drop(bad.receive());
    assert_eq!(node.counts(), [0; 4]);
}
