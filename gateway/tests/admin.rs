//! What a running node tells of itself: each endpoint and metric that others may rely on, and that
//! the numbers are those of what was done.

mod harness;

use std::thread;

use harness::{Connection, Launch, Node, Request, cores_max, item, wait_for};
use serde_json::{Value, json};

/// The endpoints of a node, and how each answers.
const ENDPOINTS: [(&str, &str); 9] = [
    ("/healthz", "application/json"),
    ("/readyz", "application/json"),
    ("/metrics", "text/plain; version=0.0.4"),
    ("/", "text/html"),
    ("/omnirelay/introspect", "application/json"),
    ("/omnirelay/introspect?view=live", "application/json"),
    ("/omnirelay/control/backpressure", "application/json"),
    (
        "/omnirelay/control/replication?shard=0&from=0",
        "application/json",
    ),
    ("/omnirelay/control/log-level", "application/json"),
];

/// Those that answer as long as somebody listens.
const STREAMS: [&str; 3] = [
    "/omnirelay/introspect?watch",
    "/omnirelay/control/backpressure/stream",
    "/omnirelay/control/replication/stream?shard=0",
];

/// Name, and labels that its series have beside others.
const METRICS: [(&str, &[&str]); 10] = [
    (
        "omnirelay_resourcelease_pending",
        &["namespace", "shard", "core"],
    ),
    (
        "omnirelay_resourcelease_active",
        &["namespace", "shard", "core"],
    ),
    (
        "omnirelay_resourcelease_backpressure_transitions_total",
        &["namespace"],
    ),
    ("omnirelay_resourcelease_replication_events_total", &[]),
    (
        "omnirelay_resourcelease_replication_lag_seconds",
        &["namespace"],
    ),
    (
        "omnirelay_rpc_requests_total",
        &["transport", "procedure", "code", "core"],
    ),
    (
        "omnirelay_rpc_duration_seconds_bucket",
        &["transport", "procedure", "le"],
    ),
    ("omnirelay_wal_sync_seconds_bucket", &["core", "le"]),
    ("omnirelay_wal_bytes_total", &["core"]),
    ("omnirelay_logging_lines_dropped_total", &[]),
];

fn series<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        is_whole_name.then(|| (labels, value.parse().expect("a number")))
    })
}

/// The sum of all series that have a label's value.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let found = series(text, name).filter(|(labels, _)| labels.contains(label));
    found.map(|(_, value)| value).sum()
}

#[test]
fn every_endpoint_answers_and_others_are_not_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let asked = |request: &Request| Connection::open(node.admin_address).request(request);
    for (path, kind) in ENDPOINTS {
        let reply = asked(&Request::get(path));
        assert_eq!(reply.status, 200, "{path}");
        let content_type = reply.header("content-type").expect("a type");
        assert!(content_type.starts_with(kind), "{path}: {content_type}");
    }
    for path in STREAMS {
        let stream = harness::events::EventStream::open(node.admin_address, path, None);
        assert!(stream.is_ok(), "{path}");
    }
    let accept = "application/openmetrics-text;version=1.0.0";
    let reply = asked(&Request::get("/metrics").header("Accept", accept));
    let content_type = reply.header("content-type").expect("a type");
    assert!(content_type.starts_with("application/openmetrics-text"));
    assert!(reply.body.ends_with(b"# EOF\n"));
    let page = asked(&Request::get(
        "/omnirelay/control/replication?shard=0&from=0",
    ))
    .json();
    assert!(page["events"].is_array() && page["next"].is_u64(), "{page}");
    let told = asked(&Request::get("/nothing")).json();
    let listed = told["paths"].as_array().expect("the paths there are");
    let paths = ENDPOINTS.iter().map(|(path, _)| path).chain(&STREAMS);
    for path in paths.map(|path| path.split('?').next().expect("a path")) {
        assert!(listed.contains(&json!(path)), "{path} is not in {told}");
    }
    assert_eq!(asked(&Request::get("/healthz").method("POST")).status, 405);
}

#[test]
fn every_metric_is_there_and_counts_what_was_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(cores_max().min(2)).start();
    let mut client = node.connect();
    for resource in ["a", "b", "c"] {
        client.call("enqueue", item(resource)).ok();
    }
    client.call("lease", json!({})).ok();
    client.call("nonsense", json!({})).code();
    let text = wait_for("the lease is told", || {
        let text = node.admin_text("/metrics");
        (sum(&text, "omnirelay_resourcelease_active", "") > 0.0).then_some(text)
    });
    for (name, labels) in METRICS {
        let (found, _) = series(&text, name)
            .next()
            .unwrap_or_else(|| panic!("no {name}"));
        for label in labels {
            assert!(found.contains(&format!("{label}=\"")), "{name}{found}");
        }
    }
    let is = |name, label: &str, expected: f64| {
        let found = sum(&text, name, label);
        assert!((found - expected).abs() < 1e-9, "{name} {label}: {found}");
    };
    is("omnirelay_resourcelease_pending", "resourcelease", 2.0);
    is("omnirelay_resourcelease_active", "resourcelease", 1.0);
    is("omnirelay_rpc_requests_total", "procedure=\"enqueue\"", 3.0);
    is(
        "omnirelay_rpc_requests_total",
        "code=\"unimplemented\"",
        1.0,
    );
    is("omnirelay_rpc_requests_total", "transport=\"grpc\"", 0.0);
    is("omnirelay_rpc_duration_seconds_count", "\"enqueue\"", 3.0);
    assert!(sum(&text, "omnirelay_wal_bytes_total", "") >= 3.0 * 512.0);
}

fn introspected(node: &Node) -> Value {
    let (status, told) = node.admin("/omnirelay/introspect");
    assert_eq!(status, 200);
    told
}

fn added(rows: &Value, pointer: &str) -> u64 {
    let rows = rows.as_array().expect("rows");
    let number = |row: &Value| row.pointer(pointer).and_then(Value::as_u64);
    rows.iter().filter_map(number).sum()
}

#[test]
fn introspection_tells_version_configuration_driver_cores_shards_and_connections_as_they_are() {
    let cores = cores_max().min(2);
    let dir = tempfile::tempdir().expect("a directory");
    let launch = || {
        let launch = Launch::on(dir.path()).cores(cores);
        launch.set("telemetry.otlp_headers=authorization=hush")
    };
    let node = launch().start();
    let address = node.address;
    let worker = thread::spawn(move || {
        Connection::open(address)
            .call("lease", json!({"waitMs": 20_000}))
            .ok()
    });
    let mut clients: Vec<Connection> = (0..5).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.call("stats", json!({})).ok();
    }
    let told = wait_for("all are counted", || {
        let told = introspected(&node);
        let open = added(&told["cores"], "/connections/open");
        let waits = added(&told["cores"], "/openCalls");
        ((open, waits) == (6, 1)).then_some(told)
    });
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["process"]["pid"], node.pid());
    assert_eq!(
        (&told["ready"], &told["phase"]),
        (&json!(true), &json!("ready"))
    );
    assert_eq!(told["addresses"]["listen"], node.address.to_string());
    assert_eq!(told["addresses"]["admin"], node.admin_address.to_string());
    let configuration = &told["configuration"];
    assert_eq!(configuration["segment_bytes"], 8_388_608);
    assert_eq!(configuration["namespaces"]["resourcelease"]["shards"], 16);
    assert_eq!(configuration["telemetry"]["otlp_headers"], "(not shown)");
    assert_eq!(told["configurationSources"]["cores"], "flag --cores");
    assert!(!told.to_string().contains("hush"));
    let all = told["cores"].as_array().expect("cores");
    assert_eq!(all.len(), cores);
    for core in all {
        assert!(core["up"] == true && core["cpu"].is_u64(), "{core}");
        assert_eq!(core["driver"], told["driver"]);
    }
    assert!(["io_uring", "epoll"].contains(&told["driver"].as_str().expect("a name")));
    let shards = told["shards"].as_array().expect("shards");
    assert_eq!(shards.len(), 16);
    assert_eq!(added(&told["cores"], "/shards"), 16);
    for log in told["logs"].as_array().expect("logs") {
        assert_eq!(log["recovery"], Value::Null, "there was nothing yet");
    }

    for number in 0..10 {
        clients[0]
            .call("enqueue", item(&format!("r-{number}")))
            .ok();
    }
    worker.join().expect("it gets an item");
    let told = wait_for("the items are counted", || {
        let told = introspected(&node);
        (added(&told["shards"], "/stats/pendingCount") == 9).then_some(told)
    });
    assert_eq!(added(&told["shards"], "/stats/activeLeaseCount"), 1);
    let stats = json!({
        "pendingCount": 9, "activeLeaseCount": 1, "delayedCount": 0, "deadLetterCount": 0
    });
    assert_eq!(told["namespaces"][0]["stats"], stats);
    drop(clients);
    wait_for("the connections are gone", || {
        let told = introspected(&node);
        (added(&told["cores"], "/connections/open") == 0).then_some(())
    });

    assert_eq!(node.stop().code, Some(0));
    let told = introspected(&launch().start());
    for log in told["logs"].as_array().expect("logs") {
        assert_eq!(log["recovery"]["clean"], true, "{log}");
    }
    assert_eq!(added(&told["shards"], "/stats/pendingCount"), 9);
}
