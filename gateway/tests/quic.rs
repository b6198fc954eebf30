//! RPC over QUIC with the real process: a stock client, ends and restarts, addresses, TLS.

#[path = "quic/client.rs"]
#[allow(
    unreachable_pub,
    reason = "shared as the harness is, though one file uses it"
)]
mod client;
mod harness;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use client::{Line, connect, endpoint, runtime, try_connect, until, within};
use harness::{Launch, Node, item};
use omnirelay_net::tls::{ClientFiles, pem};
use quinn::ConnectionError;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// What the node says of itself in its data directory.
fn told(dir: &Path) -> Value {
    let file = fs::read(dir.join("node.json")).expect("node.json");
    serde_json::from_slice(&file).expect("JSON")
}

fn quic_address(dir: &Path) -> SocketAddr {
    let told = told(dir);
    let address = told["quic_listen"].as_str().expect("QUIC is served");
    address.parse().expect("an address")
}

/// The certificate that the node has made for itself.
fn own_ca(dir: &Path) -> PathBuf {
    let told = told(dir);
    told["tls"]["certificate"].as_str().expect("a path").into()
}

/// The interpreter with aioquic and protobuf's tools: see `.ci/python`.
fn python() -> Option<String> {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let imported = Command::new(&python)
        .args(["-c", "import aioquic, grpc_tools"])
        .output();
    imported
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

#[test]
fn a_stock_client_needs_the_document_and_nothing_else() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no Python with aioquic; set TEST_PYTHON to what .ci/python prints");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let _node = Launch::on(dir.path()).cores(2).start();
    let strange = authority("strange");
    let wrong_ca = dir.path().join("wrong-ca.pem");
    fs::write(&wrong_ca, strange.pem).expect("it is written");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(root.join("tests/quic/stock_client.py"))
        .arg(quic_address(dir.path()).to_string())
        .arg(own_ca(dir.path()))
        .arg(wrong_ca)
        .arg(root.join("../net/proto"))
        .arg(root.join("../docs/protocol.md"))
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "it held: {}\nit said: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_ending_node_answers_what_it_has_begun_and_says_farewell_to_the_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    let (address, ca) = (quic_address(dir.path()), own_ca(dir.path()));
    let (began, ended) = runtime().block_on(async {
        let connection = connect(address, &ca).await;
        let mut idle = Line::open(&connection).await;
        let mut waiting = Line::open(&connection).await;
        let lease = waiting.send("lease", &json!({"waitMs": 25_000})).await;
        until("the worker waits", || node.over_cores("/openCalls") == 1).await;
        // Work under way when the signal comes: each enqueue is acknowledged, or was not begun.
        let mut busy = Line::open(&connection).await;
        for number in 0..200 {
            let delayed = harness::item_with(&format!("r{number}"), &json!({"delayMs": 3_600_000}));
            busy.send("enqueue", &delayed).await;
        }
        busy.reply().await;
        let began = Instant::now();
        node.terminate();
        assert_eq!(idle.farewell().await.error_code, "rpc.peer.unavailable");
        let reply = waiting.reply().await;
        assert_eq!(reply.id, lease);
        let error = reply.outcome.expect_err("nothing to lease");
        assert_eq!(error.error_code, "rpc.peer.unavailable");
        assert_eq!(waiting.farewell().await.error_code, "rpc.peer.unavailable");
        let why = within("the connection ends", connection.closed()).await;
        let ConnectionError::ApplicationClosed(close) = why else {
            panic!("it was not closed but: {why}");
        };
        assert_eq!(u64::from(close.error_code), 3);
        (began, node.wait())
    });
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

/// With a body of so many bytes.
fn with_body(mut item: Value, bytes: usize) -> Value {
    item["payload"]["body"] = "AAAA".repeat(bytes / 3).into();
    item
}

#[test]
fn a_client_of_a_killed_node_is_told_at_once_and_finds_every_acknowledged_item() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    let (address, listen) = (quic_address(dir.path()), node.address);
    let ca = own_ca(dir.path());
    runtime().block_on(async {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let connection = connect(address, &ca).await;
            clients.push((Line::open(&connection).await, connection));
        }
        let mut acknowledged = Vec::new();
        for number in 0..100 {
            let (line, _) = &mut clients[number % 4];
            let enqueued = line.call("enqueue", &item(&format!("r{number}"))).await;
            assert_eq!(enqueued["receipt"]["durability"], "disk");
            acknowledged.push(format!("r{number}"));
        }
        node.kill();
        let node = Launch::on(dir.path()).cores(2).listen(listen).start();
        assert_eq!(
            quic_address(dir.path()),
            address,
            "the port number of listen"
        );
        let ready = Instant::now();
        for (line, connection) in &mut clients {
            // It may have been told already.
            let _ = line.try_send("stats", &json!({})).await;
            let why = within("a reset", connection.closed()).await;
            assert_eq!(why, ConnectionError::Reset);
        }
        assert!(
            ready.elapsed() < Duration::from_secs(1),
            "{:?}",
            ready.elapsed()
        );
        let connection = connect(address, &ca).await;
        let mut line = Line::open(&connection).await;
        let mut found = Vec::new();
        while found.len() < acknowledged.len() {
            let request = json!({"maxItems": 100, "waitMs": 20_000});
            let taken = line.call("leaseBatch", &request).await;
            for lease in taken["leases"].as_array().expect("leases") {
                let id = lease["payload"]["resourceId"].as_str().expect("an id");
                found.push(id.to_owned());
                let token = json!({"ownershipToken": lease["ownershipToken"]});
                assert_eq!(line.call("complete", &token).await["success"], true);
            }
        }
        found.sort();
        acknowledged.sort();
        assert_eq!(found, acknowledged);
        assert_eq!(node.counts(), [0; 4]);
    });
}

#[test]
fn pages_that_nobody_takes_do_not_fill_the_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let (address, ca) = (quic_address(dir.path()), own_ca(dir.path()));
    runtime().block_on(async {
        let connection = connect(address, &ca).await;
        let mut line = Line::open(&connection).await;
        for number in 0..3 {
            let large = with_body(item(&format!("r{number}")), 4 << 20);
            line.call("enqueue", &large).await;
        }
        // 16 MiB each, far more of them than the core's GiB has room for.
        const PAGES: usize = 100;
        let mut greedy = Line::open(&connection).await;
        for _ in 0..PAGES {
            greedy.send("peek", &json!({})).await;
        }
        let refused = || {
            let text = node.admin_text("/metrics");
            text.contains(r#"procedure="peek",code="resource-exhausted""#)
        };
        until("some are refused", refused).await;
        until("all are answered", || node.over_cores("/openCalls") == 0).await;
        let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb = resident.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
        assert!(kb.expect("a number") < 1_600 << 10, "{kb:?} kB");
        connection.close(0u32.into(), b"enough");
        let connection = connect(address, &ca).await;
        // Whatever was taken up is free again.
        let mut line = Line::open(&connection).await;
        line.call("peek", &json!({"maxItems": 1})).await;
    });
}

#[test]
fn connections_over_quic_are_told_from_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    let (address, ca) = (quic_address(dir.path()), own_ca(dir.path()));
    let line = format!(" and QUIC on {address}, admin on ");
    assert!(node.said().contains(&line), "{}", node.said());
    let (_, introspected) = node.admin("/omnirelay/introspect");
    assert_eq!(introspected["addresses"]["quic"], address.to_string());
    let metric = |start: &str| {
        let text = node.admin_text("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(start));
        let number = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        lines.filter_map(number).sum::<f64>()
    };
    let open = r#"omnirelay_connections{transport="quic""#;
    runtime().block_on(async {
        let mut lines = Vec::new();
        for _ in 0..3 {
            let connection = connect(address, &ca).await;
            let mut line = Line::open(&connection).await;
            line.call("enqueue", &item("r")).await;
            lines.push((line, connection));
        }
        until("they are seen", || {
            node.over_cores("/quicConnections/open") == 3
        })
        .await;
        assert_eq!(node.over_cores("/quicConnections/accepted"), 3);
        let enqueued =
            r#"omnirelay_rpc_requests_total{transport="quic",procedure="enqueue",code="ok""#;
        until("they are counted", || {
            (metric(open), metric(enqueued)) == (3.0, 3.0)
        })
        .await;
        assert!(metric("omnirelay_quic_datagrams_total{") > 6.0);
        for (_, connection) in &lines {
            connection.close(0u32.into(), b"done");
        }
        until("they are gone", || {
            node.over_cores("/quicConnections/open") == 0
        })
        .await;
        until("the gauge falls", || metric(open) == 0.0).await;
    });
}

#[test]
fn an_idle_node_with_idle_connections_uses_no_cpu() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    let (address, ca) = (quic_address(dir.path()), own_ca(dir.path()));
    let stat = format!("/proc/{}/stat", node.pid());
    let ticks = || {
        let stat = fs::read_to_string(&stat).expect("it runs");
        let fields = stat.rsplit(')').next().expect("a name in parentheses");
        let fields = fields.split_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum::<u64>()
    };
    runtime().block_on(async {
        let mut lines = Vec::new();
        for _ in 0..20 {
            let connection = connect(address, &ca).await;
            lines.push((Line::open(&connection).await, connection));
        }
        let (mut used, mut windows) = (u64::MAX, 0);
        // The first window may be spoilt by what is left of the start.
        while used > 2 && windows < 3 {
            let before = ticks();
            tokio::time::sleep(Duration::from_secs(2)).await;
            used = ticks() - before;
            windows += 1;
        }
        assert!(used <= 2, "{used} hundredths of a second in two");
        assert_eq!(node.over_cores("/quicConnections/open"), 20);
    });
}

#[test]
fn quic_has_a_port_of_its_own_if_it_is_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let free = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address");
    drop(free);
    let node = Launch::on(dir.path())
        .set(&format!("quic_listen={port}"))
        .start();
    assert_eq!(quic_address(dir.path()), port);
    assert_ne!(node.address.port(), port.port());
    runtime().block_on(async {
        let connection = connect(port, &own_ca(dir.path())).await;
        Line::open(&connection)
            .await
            .call("stats", &json!({}))
            .await;
    });
}

#[test]
fn a_udp_port_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address");
    let ended = Launch::on(dir.path())
        .set(&format!("quic_listen={port}"))
        .ended();
    ended.refused(&["quic_listen", &port.to_string(), "another process uses it"]);
    // One that follows from `listen` says so too.
    let ended = Launch::on(dir.path()).listen(port).ended();
    ended.refused(&["quic_listen", &port.to_string(), "another process uses it"]);
}

#[test]
fn beyond_loopback_there_is_no_quic_without_a_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let node = Launch::on(dir.path())
        .listen(everywhere)
        .set("insecure=true")
        .start();
    assert_eq!(told(dir.path())["quic_listen"], Value::Null);
    assert!(!node.said().contains("QUIC on"), "{}", node.said());
    assert!(UdpSocket::bind(node.address).is_ok(), "nobody has the port");
    node.stop();
    for insecure in ["insecure=false", "insecure=true"] {
        let ended = Launch::on(dir.path())
            .set("quic_listen=0.0.0.0:7420")
            .set(insecure)
            .ended();
        assert_eq!(ended.code, Some(2), "{}", ended.said);
        for word in ["quic_listen", "0.0.0.0:7420", "no TLS", "tls.cert"] {
            assert!(ended.said.contains(word), "`{word}`: {}", ended.said);
        }
    }
}

/// What signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let name_type = rcgen::DnType::CommonName;
    params.distinguished_name.push(name_type, name);
    let signed = params.self_signed(&key).expect("a certificate");
    let pem = pem("CERTIFICATE", signed.der());
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    /// Writes a certificate that it signs, and its key.
    fn issue(&self, dir: &Path, name: &str, usage: ExtendedKeyUsagePurpose) -> ClientFiles {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
        params.extended_key_usages = vec![usage];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = ClientFiles {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.key, pem("PRIVATE KEY", &key.serialize_der())).expect("it is written");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("its owner's");
        fs::write(&files.cert, pem("CERTIFICATE", signed.der())).expect("it is written");
        files
    }
}

fn with_tls(dir: &Path, server: &ClientFiles, client_ca: &Path) -> Node {
    Launch::on(dir)
        .set(&format!("tls.cert={}", server.cert.display()))
        .set(&format!("tls.key={}", server.key.display()))
        .set(&format!("tls.client_ca={}", client_ca.display()))
        .start_with_tls()
}

#[test]
fn a_client_needs_a_certificate_where_client_ca_is_set_and_new_ones_are_taken_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = tempfile::tempdir().expect("a directory");
    let (servers, clients) = (authority("servers"), authority("clients"));
    let ca = files.path().join("servers.pem");
    fs::write(&ca, &servers.pem).expect("it is written");
    let client_ca = files.path().join("clients.pem");
    fs::write(&client_ca, &clients.pem).expect("it is written");
    let server = servers.issue(files.path(), "server", ExtendedKeyUsagePurpose::ServerAuth);
    let known = clients.issue(files.path(), "known", ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = servers.issue(
        files.path(),
        "stranger",
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let node = with_tls(dir.path(), &server, &client_ca);
    let address = quic_address(dir.path());
    runtime().block_on(async {
        for identity in [None, Some(&stranger)] {
            // A client learns of it only after its own side of the handshake is done.
            let refused = match try_connect(&endpoint(&ca, identity), address).await {
                Err(refused) => refused,
                Ok(connection) => {
                    assert!(Line::try_open(&connection).await.is_none(), "it is served");
                    within("the connection ends", connection.closed()).await
                }
            };
            let ConnectionError::ConnectionClosed(close) = refused else {
                panic!("it was not refused but: {refused}");
            };
            assert!(close.to_string().contains("ertificate"), "{close}");
        }
        let before = endpoint(&ca, Some(&known));
        let connection = try_connect(&before, address).await.expect("it is known");
        let mut line = Line::open(&connection).await;
        line.call("stats", &json!({})).await;

        // Another authority's certificate takes the place of the node's.
        let next = authority("next");
        let next_ca = files.path().join("next.pem");
        fs::write(&next_ca, &next.pem).expect("it is written");
        next.issue(files.path(), "server", ExtendedKeyUsagePurpose::ServerAuth);
        let mut fresh = None;
        let began = Instant::now();
        while fresh.is_none() {
            assert!(began.elapsed() < harness::BOUND, "{}", node.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
            let after = endpoint(&next_ca, Some(&known));
            fresh = try_connect(&after, address)
                .await
                .ok()
                .map(|it| (it, after));
        }
        line.call("stats", &json!({})).await;
        let (fresh, _endpoint) = fresh.expect("just made");
        let mut line = Line::open(&fresh).await;
        line.call("stats", &json!({})).await;
        let outdated = try_connect(&endpoint(&ca, Some(&known)), address).await;
        assert!(
            outdated.is_err(),
            "the old certificate is not shown any more"
        );
    });
}
