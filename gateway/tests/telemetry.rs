//! What an OpenTelemetry collector gets from a node.

#![cfg(feature = "otlp")]

mod client_support;
mod harness;

use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::collector::{attribute, hex, number};
use harness::{Collector, Connection, Launch, Node, Reply, Request, item, item_with, wait_for};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER_SPAN: &str = "b7ad6b7169203331";

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn launch(dir: &TempDir, collector: &Collector) -> Launch {
    Launch::on(dir.path())
        .set(&format!("telemetry.otlp_endpoint={}", collector.url()))
        .set("telemetry.traces_sample_ratio=0.0")
        .set("telemetry.metrics_interval=0s")
}

/// A call that its caller records, or not.
fn traced(operation: &str, body: &Value, flags: &str) -> Request {
    let traceparent = format!("00-{TRACE}-{CALLER_SPAN}-{flags}");
    Request::call(operation, body).header("traceparent", traceparent)
}

/// The only span of an operation, once it has come.
fn span_of(collector: &Collector, operation: &str) -> Span {
    wait_for("the span comes", || {
        let spans = collector.spans().into_iter();
        let mut spans = spans.filter(|span| {
            attribute(span, "resourcelease.operation").as_deref() == Some(operation)
        });
        let span = spans.next();
        assert!(spans.next().is_none(), "two spans of {operation}");
        span
    })
}

fn response(reply: &Reply) -> Vec<String> {
    let text = reply.header("traceresponse").expect("a traceresponse");
    text.split('-').map(str::to_owned).collect()
}

#[test]
fn a_recorded_call_is_a_span_under_its_callers_and_says_what_it_was() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let body = item_with(
        "orders",
        &json!({"payload": {
            "resourceType": "table", "resourceId": "orders", "payloadEncoding": "text/plain",
            "body": "MDEyMzQ1Njc4OQ==", "requestId": "r-1",
        }}),
    );
    let request = traced("enqueue", &body, "01")
        .header("tracestate", "vendor=opaque")
        .header("rpc-shard-key", "customer-7")
        .header("x-peer-id", "producer-1");
    let reply = node.connect().request(&request);
    let shard = reply.ok()["receipt"]["shard"].as_u64().expect("a shard");

    let span = span_of(&collector, "enqueue");
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), CALLER_SPAN);
    assert_eq!(
        response(&reply),
        ["00", TRACE, &hex(&span.span_id), "01"],
        "the reply names the span"
    );
    assert_eq!(span.name, "resourcelease/enqueue");
    assert_eq!(span.trace_state, "vendor=opaque");
    for (key, value) in [
        ("rpc.service", "queue"),
        ("rpc.procedure", "resourcelease::enqueue"),
        ("rpc.method", "enqueue"),
        ("rpc.caller", "tests"),
        ("rpc.peer", "producer-1"),
        ("rpc.shard_key", "customer-7"),
        ("rpc.transport", "http"),
        ("rpc.status", "ok"),
        ("network.peer.address", "127.0.0.1"),
        ("resourcelease.operation", "enqueue"),
        ("resourcelease.namespace", "resourcelease"),
        ("resourcelease.request_id", "r-1"),
        ("omnirelay.shard", &shard.to_string()),
    ] {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    for absent in ["rpc.principal", "error.type", "rpc.error_code"] {
        assert_eq!(attribute(&span, absent), None);
    }
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
}

#[test]
fn a_span_tells_waiting_for_work_from_committing_it() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let address = node.address;
    let worker = thread::spawn(move || {
        let request = traced("lease", &json!({"peerId": "w-1", "waitMs": 20_000}), "01");
        Connection::open(address).request(&request).ok()
    });
    wait_for("the worker waits", || {
        (node.over_cores("/openCalls") == 1).then_some(())
    });
    let parked = Instant::now();
    thread::sleep(Duration::from_millis(60));
    node.connect().call("enqueue", item("orders")).ok();
    let waited_ms = parked.elapsed().as_secs_f64() * 1e3;
    worker.join().expect("the worker gets it");

    let span = span_of(&collector, "lease");
    let queue = number(&span, "omnirelay.queue_wait_ms").expect("it was in line");
    let commit = number(&span, "omnirelay.commit_wait_ms").expect("its grant was committed");
    let receive = number(&span, "omnirelay.receive_ms").expect("it was read");
    let nanos = span.end_time_unix_nano - span.start_time_unix_nano;
    let total = Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    assert!(queue >= 60.0 && commit > 0.0, "{queue} {commit}");
    assert!(commit < waited_ms.max(60.0), "{commit} is no wait for work");
    assert!((receive + queue + commit - total).abs() < 5.0, "{total}");
    assert_eq!(attribute(&span, "rpc.peer").as_deref(), Some("w-1"));
}

#[test]
fn an_error_is_told_by_its_code_and_is_the_servers_only_where_it_is() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let mut client = node.connect();
    client.request(&traced("lease", &json!({"waitMs": 0}), "01"));
    let token =
        json!({"sequenceId": 1, "attempt": 1, "leaseId": "01020304-0506-8708-890a-0b0c0d0e0f10"});
    client.request(&traced("complete", &json!({"ownershipToken": token}), "01"));
    let headless = traced("stats", &json!({}), "01").without("Rpc-Caller");
    assert_eq!(client.request(&headless).code(), "rpc.header.missing");

    let status = |span: &Span| span.status.as_ref().expect("a status").code();
    for (operation, error) in [
        ("lease", "resourcelease.lease.none_available"),
        ("complete", "resourcelease.lease.unknown_token"),
    ] {
        let span = span_of(&collector, operation);
        assert_eq!(attribute(&span, "rpc.error_code").as_deref(), Some(error));
        assert_eq!(attribute(&span, "error.type").as_deref(), Some(error));
        assert_eq!(status(&span), StatusCode::Unset, "{operation}");
    }
    let unread = wait_for("the span of the call without a head", || {
        let spans = collector.spans();
        spans.into_iter().find(|span| span.name == "unknown")
    });
    let code = attribute(&unread, "rpc.error_code");
    assert_eq!(code.as_deref(), Some("rpc.header.missing"));
    assert_eq!(attribute(&unread, "rpc.caller"), None);

    let hurried = traced("enqueue", &item("orders"), "01").header("Rpc-Ttl-Ms", "0");
    assert_eq!(client.request(&hurried).code(), "rpc.deadline");
    assert_eq!(status(&span_of(&collector, "enqueue")), StatusCode::Error);
}

#[test]
fn a_caller_that_goes_away_leaves_a_cancelled_span() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let mut client = node.connect();
    client
        .send(&traced("lease", &json!({"waitMs": 20_000}), "01"))
        .expect("it is taken");
    wait_for("the worker waits", || {
        (node.over_cores("/openCalls") == 1).then_some(())
    });
    drop(client);
    let span = span_of(&collector, "lease");
    assert_eq!(attribute(&span, "rpc.status").as_deref(), Some("cancelled"));
}

#[test]
fn who_calls_decides_and_a_context_that_is_none_counts_as_none() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let mut client = node.connect();
    let unsampled = client.request(&traced("enqueue", &item("a"), "00"));
    assert_eq!(unsampled.header("traceresponse"), None);
    let broken = [
        format!("ff-{TRACE}-{CALLER_SPAN}-01"),
        format!("00-{}-{CALLER_SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-0000000000000000-01"),
        "garbage \u{fffd}".into(),
    ];
    for value in broken {
        let request = Request::call("enqueue", &item("a")).header("traceparent", value);
        let reply = client.request(&request);
        reply.ok();
        assert_eq!(reply.header("traceresponse"), None);
    }
    let plain = client.call("enqueue", item("a"));
    assert_eq!(plain.header("traceresponse"), None);
    // Whatever was recorded before it has been sent when this one has.
    client.request(&traced("stats", &json!({}), "01")).ok();
    span_of(&collector, "stats");
    node.stop();
    assert_eq!(collector.spans().len(), 1);
}

#[test]
fn a_share_of_the_calls_without_a_context_begin_traces_of_their_own() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector)
        .set("telemetry.traces_sample_ratio=1.0")
        .start();
    let mut client = node.connect();
    let named: HashSet<String> = (0..20)
        .map(|_| {
            let reply = client.call("stats", json!({}));
            let parts = response(&reply);
            assert_eq!(parts[3], "03", "recorded, and random");
            format!("{}-{}", parts[1], parts[2])
        })
        .collect();
    assert_eq!(node.stop().code, Some(0));
    let spans = collector.spans();
    let sent: HashSet<String> = spans
        .iter()
        .map(|span| format!("{}-{}", hex(&span.trace_id), hex(&span.span_id)))
        .collect();
    assert_eq!(
        (sent.len(), spans.len()),
        (20, 20),
        "an ending node sends what is left"
    );
    assert_eq!(sent, named);
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty()));
}

#[test]
fn a_collector_that_goes_and_comes_back_misses_nothing_that_there_was_room_for() {
    let dir = directory();
    let collector = Collector::start();
    let address = collector.address;
    let node = launch(&dir, &collector).start();
    let mut client = node.connect();
    client.request(&traced("stats", &json!({}), "01")).ok();
    span_of(&collector, "stats");
    drop(collector);

    for _ in 0..100 {
        client.request(&traced("enqueue", &item("a"), "01")).ok();
    }
    let failures = "omnirelay_telemetry_failures_total";
    wait_for("the node misses its collector", || {
        (metric(&node, failures) >= 2.0).then_some(())
    });
    assert_eq!(node.admin("/readyz").0, 200);
    let collector = Collector::start_on(address);
    collector.answer(503);
    wait_for("the collector is asked", || {
        (collector.refused() > 0).then_some(())
    });
    collector.answer(200);
    wait_for("all spans come", || {
        (collector.spans().len() == 100).then_some(())
    });
    assert_eq!(
        metric(&node, "omnirelay_telemetry_spans_dropped_total"),
        0.0
    );
    let said = node.said();
    let warnings = said.matches("the collector does not take spans").count();
    assert_eq!(warnings, 1, "once a minute is enough: {said}");
    wait_for("the node says that all is well", || {
        let said = node.said();
        said.contains("the collector takes telemetry again")
            .then_some(())
    });
}

#[test]
fn spans_that_there_is_no_room_for_are_dropped_and_counted_and_calls_go_on() {
    /// What waits, what is being sent, and some.
    const CALLS: usize = 8_192 + 512 + 1_000;
    const AT_ONCE: usize = 200;
    let (dir, collector) = (directory(), Collector::start());
    collector.answer(503);
    let node = launch(&dir, &collector).start();
    let mut client = node.connect();
    let request = traced("stats", &json!({}), "01");
    let bytes = [request.head(), request.body].concat().repeat(AT_ONCE);
    for _ in 0..CALLS.div_ceil(AT_ONCE) {
        client.send_bytes(&bytes).expect("they are taken");
        for _ in 0..AT_ONCE {
            assert_eq!(client.receive().expect("an answer").status, 200);
        }
    }
    let dropped = metric(&node, "omnirelay_telemetry_spans_dropped_total");
    assert!((500.0..2_000.0).contains(&dropped), "{dropped}");
    assert_eq!(metric(&node, "omnirelay_telemetry_spans_sent_total"), 0.0);
    let started = Instant::now();
    assert_eq!(node.stop().code, Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it waits for no collector"
    );
}

#[test]
fn an_ending_node_sends_its_last_numbers_with_every_call_in_them() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector)
        .cores(harness::cores_max().min(2))
        .set("telemetry.metrics_interval=1h")
        .start();
    for resource in ["a", "b", "c"] {
        node.connect().call("enqueue", item(resource)).ok();
    }
    assert_eq!(node.stop().code, Some(0));
    assert_eq!(collector.counter("omnirelay.rpc.requests"), [3]);
    let records = collector.counter("omnirelay.wal.records");
    assert!(records.len() == 1 && records[0] >= 3, "{records:?}");
}

#[test]
fn a_collector_that_says_nothing_does_not_keep_a_node_from_ending() {
    let dir = directory();
    // Connections are made by the kernel, and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = silent.local_addr().expect("an address");
    let node = Launch::on(dir.path())
        .set(&format!("telemetry.otlp_endpoint=http://{address}"))
        .set("telemetry.metrics_interval=1h")
        .start();
    let mut client = node.connect();
    client.request(&traced("stats", &json!({}), "01")).ok();
    let started = Instant::now();
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    for missed in ["the last spans", "the last metrics"] {
        assert!(ended.said.contains(missed), "{}", ended.said);
    }
}

#[test]
fn headers_go_with_spans_and_metrics_and_are_not_shown() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector)
        .set("telemetry.metrics_interval=1h")
        .set("log.level=trace")
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Authorization=Bearer%20hush,x-tenant=data%2C1",
        )
        .start();
    node.connect()
        .request(&traced("stats", &json!({}), "01"))
        .ok();
    let shown = node.admin_text("/omnirelay/introspect");
    let ended = node.stop();
    let posted = collector.posted();
    let paths: HashSet<&str> = posted.iter().map(|posted| &*posted.path).collect();
    assert_eq!(paths, HashSet::from(["/v1/traces", "/v1/metrics"]));
    for posted in &posted {
        for header in ["authorization: bearer hush", "x-tenant: data,1"] {
            assert!(posted.headers.contains(header), "{}", posted.headers);
        }
    }
    assert!(shown.contains("(not shown)"), "{shown}");
    for text in [shown, ended.said] {
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn a_collector_that_refuses_for_good_is_not_asked_again() {
    let (dir, collector) = (directory(), Collector::start());
    collector.answer(400);
    let node = launch(&dir, &collector).start();
    node.connect()
        .request(&traced("stats", &json!({}), "01"))
        .ok();
    let dropped = "omnirelay_telemetry_spans_dropped_total";
    wait_for("the span is given up", || {
        (metric(&node, dropped) > 0.0).then_some(())
    });
    assert_eq!(collector.refused(), 1);
}

#[test]
fn nothing_is_sent_where_nobody_is_named() {
    let dir = directory();
    let node = Launch::on(dir.path()).start();
    let reply = node.connect().request(&traced("enqueue", &item("a"), "01"));
    reply.ok();
    assert_eq!(reply.header("traceresponse"), None);
    assert!(!node.admin_text("/metrics").contains("omnirelay_telemetry"));
}

#[test]
fn the_usual_environment_variables_count_where_the_configuration_is_silent() {
    let (dir, collector) = (directory(), Collector::start());
    let node = Launch::on(dir.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_SERVICE_NAME", "queue-of-the-tests")
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment=test,service.name=other",
        )
        .env("OTEL_TRACES_SAMPLER", "always_on")
        .start();
    node.connect()
        .request(&traced("stats", &json!({}), "00"))
        .ok();
    span_of(&collector, "stats");
    let sent = String::from_utf8_lossy(&collector.posted()[0].body).into_owned();
    for text in ["queue-of-the-tests", "deployment.environment"] {
        assert!(sent.contains(text), "{sent}");
    }
    assert!(!sent.contains("other"), "{sent}");
}

fn command(node: &Node, env: &[(&str, &str)], arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_omnirelay"))
        .env_clear()
        .envs(env.iter().copied())
        .args(arguments)
        .args(["--address", &node.address.to_string()])
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_library_passes_a_trace_on() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let queue = client_support::connect(&node, dir.path()).await;
    let traceparent = format!("00-{TRACE}-{CALLER_SPAN}-01");
    let traced = queue.with_trace(traceparent.parse().expect("a trace"));
    traced.stats().await.expect("counts");
    let item = omnirelay_client::Item::new("table", "a");
    // The one at the same time is not part of the trace.
    let (one, other) = tokio::join!(traced.enqueue(item.clone()), queue.enqueue(item));
    one.and(other).expect("they are taken");
    for operation in ["stats", "enqueueBatch"] {
        let span = span_of(&collector, operation);
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), CALLER_SPAN);
        assert_eq!(attribute(&span, "rpc.transport").as_deref(), Some("quic"));
    }
}

#[test]
fn commands_pass_a_trace_on_over_every_transport() {
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector).start();
    let traceparent = format!("00-{TRACE}-{CALLER_SPAN}-01");
    let stats = ["--service", "queue", "--procedure", "resourcelease::stats"];
    let peek = ["--service", "queue", "--procedure", "resourcelease::peek"];
    let said = ["--traceparent", &traceparent];
    command(&node, &[], &[&["request"], &stats[..], &said].concat());
    let grpc = ["request", "--transport", "grpc"];
    command(&node, &[], &[&grpc[..], &peek, &said].concat());
    let quic = ["request", "--transport", "quic"];
    let drain = ["--service", "queue", "--procedure", "resourcelease::drain"];
    command(&node, &[], &[&quic[..], &drain, &said].concat());
    let env = [("TRACEPARENT", &*traceparent)];
    let enqueue = [
        "lease", "enqueue", "--type", "table", "--id", "a", "--body", "x",
    ];
    command(&node, &env, &enqueue);
    command(
        &node,
        &[("TRACEPARENT", "nonsense")],
        &["lease", "dead-letters"],
    );

    let expected = [
        ("stats", "http"),
        ("peek", "grpc"),
        ("drain", "quic"),
        ("enqueue", "http"),
    ];
    for (operation, transport) in expected {
        let span = span_of(&collector, operation);
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), CALLER_SPAN);
        assert_eq!(
            attribute(&span, "rpc.transport").as_deref(),
            Some(transport)
        );
    }
    let peeked = span_of(&collector, "peek");
    assert_eq!(
        attribute(&peeked, "rpc.grpc.status_code").as_deref(),
        Some("0")
    );
    assert_eq!(attribute(&peeked, "rpc.system").as_deref(), Some("grpc"));
    node.stop();
    assert_eq!(collector.spans().len(), 4);
}

/// The sum of a metric's series.
fn metric(node: &Node, name: &str) -> f64 {
    let text = node.admin_text("/metrics");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().expect("a number"))
    });
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "no {name}");
    values.iter().sum()
}

/// The interpreter with opentelemetry-proto: see `.ci/python`.
fn python() -> Option<String> {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let imported = Command::new(&python)
        .args(["-c", "import opentelemetry.proto.trace.v1.trace_pb2"])
        .output();
    imported
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

/// Everything that a collector took, as somebody else's classes read it.
fn decoded(python: &str, collector: &Collector) -> Vec<Value> {
    let folder = directory();
    for (at, posted) in collector.posted().iter().enumerate() {
        let signal = posted.path.strip_prefix("/v1/").expect("a signal's path");
        assert!(
            posted
                .headers
                .contains("content-type: application/x-protobuf")
        );
        let file = folder.path().join(format!("{signal}-{at:04}"));
        fs::write(file, &posted.body).expect("a file");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telemetry/decode.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout).expect("text");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn what_is_sent_reads_the_same_with_other_classes_and_metrics_are_those_of_the_scrape() {
    let Some(python) = python() else {
        eprintln!(
            "SKIPPED: no Python with opentelemetry-proto; set TEST_PYTHON to what .ci/python prints"
        );
        return;
    };
    let (dir, collector) = (directory(), Collector::start());
    let node = launch(&dir, &collector)
        .set("telemetry.metrics_interval=100ms")
        .set("telemetry.service_name=queue")
        .start();
    let mut client = node.connect();
    for resource in ["a", "b", "c"] {
        client.call("enqueue", item(resource)).ok();
    }
    client.request(&traced("stats", &json!({}), "01")).ok();
    span_of(&collector, "stats");
    let posted = collector.posted().len();
    wait_for("metrics come", || {
        (collector.posted().len() >= posted + 3).then_some(())
    });

    let lines = decoded(&python, &collector);
    let of = |signal: &'static str| lines.iter().filter(move |line| line["signal"] == signal);
    let span = of("traces").next().expect("the span");
    assert_eq!(span["kind"], "SPAN_KIND_SERVER");
    assert_eq!(span["status"], "STATUS_CODE_UNSET");
    assert_eq!(
        (&span["traceId"], &span["parent"]),
        (&json!(TRACE), &json!(CALLER_SPAN))
    );
    assert_eq!(span["flags"], 0x301, "sampled, and the parent is remote");
    assert_eq!(span["resource"]["service.name"], "queue");
    assert_eq!(span["attributes"]["rpc.procedure"], "resourcelease::stats");

    let last = |name: &str| {
        let found = of("metrics").rfind(|line| line["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let sum = |metric: &Value| -> u64 {
        let points = metric["points"].as_array().expect("points");
        points
            .iter()
            .filter_map(|point| point["value"].as_u64())
            .sum()
    };
    let pending = last("omnirelay.resourcelease.pending");
    assert_eq!((&pending["data"], sum(&pending)), (&json!("gauge"), 3));
    assert_eq!(
        pending["points"][0]["attributes"]["namespace"],
        "resourcelease"
    );
    let requests = last("omnirelay.rpc.requests");
    assert_eq!(requests["data"], "sum");
    assert_eq!(
        (&requests["monotonic"], &requests["cumulative"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(sum(&requests), 4);
    let duration = last("omnirelay.rpc.duration");
    assert_eq!(
        (&duration["data"], &duration["unit"]),
        (&json!("histogram"), &json!("s"))
    );
    let points = duration["points"].as_array().expect("points");
    let counts = points.iter().filter_map(|point| point["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), 4);
    for point in points {
        let buckets = point["buckets"].as_array().expect("buckets").iter();
        let in_buckets: u64 = buckets.filter_map(Value::as_u64).sum();
        assert_eq!(in_buckets, point["count"].as_u64().expect("a count"));
        assert!(point["started"].as_u64() < point["at"].as_u64());
    }

    // One catalogue: each family of the scrape is sent, under its dotted name.
    let scrape = node.admin_text("/metrics");
    let types = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let scraped: HashSet<String> = types
        .map(|line| {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            let name = match kind {
                "counter" => name.trim_end_matches("_total"),
                _ => name,
            };
            name.to_owned()
        })
        .collect();
    let sent: HashSet<String> = of("metrics")
        .map(|line| {
            let name = line["name"].as_str().expect("a name").replace('.', "_");
            match line["unit"].as_str() {
                Some("s") => name + "_seconds",
                Some("By") if !name.ends_with("_bytes") => name + "_bytes",
                _ => name,
            }
        })
        .collect();
    // A family without series is in the scrape by name alone.
    let told: HashSet<String> = scraped
        .into_iter()
        .filter(|name| scrape.lines().any(|line| line.starts_with(&**name)))
        .collect();
    assert_eq!(sent, told);
}
