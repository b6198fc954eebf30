//! TLS from outside: certificates from the command line, a node that shows them, and clients that
//! everybody has.

mod cli_support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli_support::{Outcome, Server, command, run_in};
use omnirelay_net::tls::{ServerCheck, client_config, pem};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

fn skip(program: &str, package: &str) -> bool {
    let asked = Command::new(program).arg("version").output();
    let is_absent = asked.is_err();
    if is_absent {
        eprintln!("SKIPPED: no {program}; apt-get install {package}");
    }
    is_absent
}

/// What a command prints when it succeeds.
fn ok(dir: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let outcome = run_in(dir, &words);
    assert_eq!(outcome.code, Some(0), "{line}: {outcome}");
    outcome.stdout
}

fn refused(dir: &Path, line: &str) -> Outcome {
    let words: Vec<&str> = line.split_whitespace().collect();
    let outcome = run_in(dir, &words);
    assert_ne!(outcome.code, Some(0), "{line}: {outcome}");
    outcome
}

/// A directory with a CA and a node's certificate.
fn with_certificates() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    ok(dir.path(), "cert init-ca");
    ok(dir.path(), "cert issue node --ip 127.0.0.1 --dns localhost");
    dir
}

const NODE: [&str; 2] = ["tls.cert=node.crt", "tls.key=node.key"];

fn start(dir: &Path, settings: &[&str]) -> Server {
    let mut node = command(dir);
    node.args(["serve", "--data-dir", "data", "--cores", "1"]);
    node.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    for setting in [&["segment_bytes=8388608"], settings].concat() {
        node.args(["--set", setting]);
    }
    Server::start(&mut node)
}

/// The fingerprint that a server shows, or that a file has.
fn fingerprint(dir: &Path, what: &str) -> String {
    let shown = ok(dir, &format!("cert inspect {what} -o json"));
    let first: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    first["fingerprint"].as_str().unwrap().to_owned()
}

fn introspect(dir: &Path, node: &Server, more: &str) -> Value {
    let address = &node.admin_address;
    let line = format!("introspect --admin-address {address} -o json {more}");
    serde_json::from_str(&ok(dir, &line)).unwrap()
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < BOUND, "{what} took too long");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_ca_and_its_certificates_are_made_and_shown() {
    let dir = with_certificates();
    let at = dir.path();
    let mode = |name: &str| fs::metadata(at.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("ca.key"), mode("node.key")], [0o600; 2]);
    assert_eq!([mode("ca.crt"), mode("node.crt")], [0o644; 2]);

    let show = |file: &str| -> Value {
        serde_json::from_str(&ok(at, &format!("cert inspect {file} -o json"))).unwrap()
    };
    let (ca, node) = (show("ca.crt"), show("node.crt"));
    assert_eq!(ca["subject"], "CN=OmniRelay CA");
    assert_eq!(ca["isCa"], true);
    assert_eq!(node["issuer"], ca["subject"]);
    assert_eq!(node["usages"], serde_json::json!(["server"]));
    assert_eq!(
        node["names"],
        serde_json::json!(["DNS:localhost", "IP:127.0.0.1"])
    );
    assert_eq!(node["validity"], "valid");
    let table = ok(at, "cert inspect node.crt");
    assert!(table.contains("DNS:localhost, IP:127.0.0.1"), "{table}");

    let line = "cert issue worker --client --uri spiffe://example/worker --days 2 -o json";
    let client: Value = serde_json::from_str(&ok(at, line)).unwrap();
    assert_eq!(client["usages"], serde_json::json!(["client"]));
    assert_eq!(
        client["names"],
        serde_json::json!(["URI:spiffe://example/worker"])
    );
    assert_eq!(client["key"], "./worker.key");

    let before = fs::read(at.join("node.crt")).unwrap();
    let again = refused(at, "cert issue node --dns other");
    assert!(again.stderr.contains("error[cert.exists]"), "{again}");
    assert!(again.stderr.contains("--force"), "{again}");
    assert_eq!(fs::read(at.join("node.crt")).unwrap(), before);
    ok(at, "cert issue node --dns other --force");
    assert_ne!(fs::read(at.join("node.crt")).unwrap(), before);
    assert!(
        refused(at, "cert init-ca")
            .stderr
            .contains("ca.crt is there already")
    );
    let no_ca = refused(at, "cert issue x --ca-cert node.crt --ca-key node.key");
    assert!(no_ca.stderr.contains("node.crt is no CA"), "{no_ca}");
    let mixed = refused(at, "cert issue x --ca-key node.key");
    assert!(
        mixed.stderr.contains("is not that of the certificate"),
        "{mixed}"
    );
    let nothing = refused(at, "cert issue x --dir elsewhere");
    assert!(
        nothing.stderr.contains("omnirelay cert init-ca"),
        "{nothing}"
    );
    assert!(refused(at, "cert issue ../x").code == Some(2));
    assert!(refused(at, "cert issue ca").code == Some(2));
}

#[test]
fn openssl_takes_the_certificates_for_good_ones() {
    if skip("openssl", "openssl") {
        return;
    }
    let dir = with_certificates();
    ok(dir.path(), "cert issue worker --client");
    let openssl = |line: &str| {
        let mut openssl = Command::new("openssl");
        let output = openssl
            .args(line.split(' '))
            .current_dir(dir.path())
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{line}: {said}");
        said
    };
    openssl("verify -x509_strict -CAfile ca.crt -purpose sslserver -verify_ip 127.0.0.1 node.crt");
    openssl("verify -x509_strict -CAfile ca.crt -purpose sslclient worker.crt");
    let said = openssl("x509 -in node.crt -noout -fingerprint -sha256");
    let wanted = fingerprint(dir.path(), "node.crt");
    assert!(said.trim_end().ends_with(&wanted), "{said} {wanted}");

    let node = start(dir.path(), &NODE);
    let ask = |line: &str| {
        let line = format!("s_client -connect {} -CAfile ca.crt {line}", node.address);
        let mut openssl = Command::new("openssl");
        openssl
            .args(line.split_whitespace())
            .current_dir(dir.path());
        let output = openssl.stdin(std::process::Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = ask("-alpn h2 -tls1_3");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    let said = ask("-alpn http/1.1 -tls1_2");
    assert!(said.contains("Protocol  : TLSv1.2"), "{said}");
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    let said = ask("-tls1_1 -cipher ALL:@SECLEVEL=0");
    assert!(said.contains("New, (NONE)"), "{said}");
}

#[test]
fn curl_calls_over_tls_and_is_told_where_it_forgets_it() {
    if skip("curl", "curl") {
        return;
    }
    let dir = with_certificates();
    let node = start(dir.path(), &NODE);
    let curl = |line: &str, url: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-S",
            "-w",
            "\n%{http_code} %{http_version}",
            "-d",
            "{}",
        ]);
        for header in [
            "Rpc-Caller: tests",
            "Rpc-Service: queue",
            "Rpc-Encoding: json",
            "Rpc-Procedure: resourcelease::stats",
        ] {
            curl.args(["-H", header]);
        }
        curl.args(line.split_whitespace()).arg(url);
        let output = curl.current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = format!("https://{}/yarpc/v1", node.address);
    for (line, version) in [
        ("--http2", "200 2"),
        ("--http1.1", "200 1.1"),
        ("--http1.1 --tls-max 1.2", "200 1.1"),
    ] {
        let (said, error) = curl(&format!("--cacert ca.crt {line}"), &url);
        assert!(said.contains("pendingCount"), "{said} {error}");
        assert!(said.ends_with(version), "{said}");
    }
    let (_, error) = curl("", &url);
    assert!(error.contains("certificate"), "{error}");
    let plain = [&node.address, &node.admin_address];
    for address in plain {
        let (said, _) = curl("", &format!("http://{address}/yarpc/v1"));
        assert_eq!(said, "this port speaks TLS only: use https://\n\n400 1.1");
    }
}

#[test]
fn commands_speak_tls_and_say_what_is_wrong_with_it() {
    let dir = with_certificates();
    let at = dir.path();
    let node = start(at, &NODE);
    let greeting = node.greeting.join("\n");
    assert!(greeting.contains("RPC on https://127.0.0.1:"), "{greeting}");
    let (rpc, admin) = (&node.address, &node.admin_address);

    ok(
        at,
        &format!("lease stats --address https://{rpc} --ca ca.crt"),
    );
    ok(at, &format!("lease stats --address {rpc} --ca ca.crt"));
    let call = "request --service q --procedure resourcelease::stats --ca ca.crt";
    ok(at, &format!("{call} --url https://{rpc}/yarpc/v1"));
    ok(at, &format!("{call} --transport grpc --address {rpc}"));
    ok(
        at,
        &format!("log-level --admin-address {admin} --ca ca.crt"),
    );
    ok(
        at,
        &format!("replication status --admin-address {admin} --ca ca.crt"),
    );
    ok(
        at,
        &format!("replication tail --all --admin-address {admin} --ca ca.crt"),
    );
    let script = r#"{"steps": [
        {"type": "request", "service": "q", "procedure": "resourcelease::stats"},
        {"type": "introspect", "expect": {"body": {"/tls/selfSigned": false}}}]}"#;
    fs::write(at.join("script.json"), script).unwrap();
    ok(
        at,
        &format!("script run script.json --address {rpc} --admin-address {admin} --ca ca.crt"),
    );
    let shown = fingerprint(at, rpc);
    assert_eq!(shown, fingerprint(at, "node.crt"));
    assert_eq!(
        introspect(at, &node, "--ca ca.crt")["tls"]["fingerprint"],
        *shown
    );

    for line in [
        format!("lease stats --address {rpc}"),
        format!(
            "{} --transport grpc --address {rpc}",
            call.replace(" --ca ca.crt", "")
        ),
        format!("introspect --admin-address {admin}"),
    ] {
        let outcome = refused(at, &line);
        assert!(
            outcome
                .stderr
                .contains("speaks TLS only\nhelp: pass the CA"),
            "{line}: {outcome}"
        );
        assert_eq!(outcome.code, Some(3), "{line}");
    }
    let outcome = refused(at, &format!("lease stats --address https://{rpc}"));
    assert!(outcome.stderr.contains("without --ca"), "{outcome}");
    assert_eq!(outcome.code, Some(2));

    ok(at, "cert init-ca --dir other");
    let line = format!("lease stats --address {rpc} --ca other/ca.crt");
    let outcome = refused(at, &line);
    assert!(
        outcome
            .stderr
            .contains("error[cli.tls]: the certificate of"),
        "{outcome}"
    );
    assert!(
        outcome
            .stderr
            .contains("pass the CA that signed it with --ca"),
        "{outcome}"
    );
    assert_eq!(outcome.code, Some(3));
    let outcome = refused(at, &format!("lease stats --address {rpc} --ca none.crt"));
    assert!(outcome.stderr.contains("none.crt"), "{outcome}");
    assert_eq!(outcome.code, Some(2));

    ok(at, "cert issue node --dns elsewhere.example --force");
    until("the reload", || fingerprint(at, rpc) != shown);
    let outcome = refused(at, &format!("lease stats --address {rpc} --ca ca.crt"));
    assert!(
        outcome.stderr.contains("cert issue --dns NAME"),
        "{outcome}"
    );

    let plain = tempfile::tempdir().unwrap();
    let plain = start(plain.path(), &[]);
    let outcome = refused(
        at,
        &format!("lease stats --address {} --ca ca.crt", plain.address),
    );
    assert!(outcome.stderr.contains("speaks no TLS"), "{outcome}");
    ok(
        at,
        &format!("lease stats --address http://{} --ca ca.crt", plain.address),
    );
    let outcome = refused(at, "cert inspect 127.0.0.1:1");
    assert!(
        outcome.stderr.contains("error[cli.unreachable]"),
        "{outcome}"
    );
    assert_eq!(outcome.code, Some(3));
    let outcome = refused(at, &format!("cert inspect {}", plain.address));
    assert!(outcome.stderr.contains("speaks no TLS"), "{outcome}");
}

#[test]
fn a_request_over_quic_says_what_is_wrong_with_tls_as_the_others_do() {
    let dir = with_certificates();
    let at = dir.path();
    ok(at, "cert issue worker --client");
    let node = start(at, &[&NODE[..], &["tls.client_ca=ca.crt"]].concat());
    let call = "request --transport quic --service s --procedure resourcelease::stats";
    let stats = format!("{call} --address {} --ca ca.crt", node.address);
    let said = ok(at, &format!("{stats} --cert worker.crt --key worker.key"));
    assert!(said.starts_with("{\"stats\":"), "{said}");

    let outcome = refused(at, &stats);
    assert!(
        outcome.stderr.contains("wants a client certificate"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("--cert and --key"), "{outcome}");
    assert_eq!(outcome.code, Some(3));

    ok(at, "cert init-ca --dir other");
    let outcome = refused(at, &stats.replace("ca.crt", "other/ca.crt"));
    let words = format!(
        "error[cli.tls]: the certificate of {} is not trusted",
        node.address
    );
    assert!(outcome.stderr.starts_with(&words), "{outcome}");
    assert!(
        outcome.stderr.contains("pass the CA that signed it"),
        "{outcome}"
    );
    assert_eq!(outcome.code, Some(3));
    let by_name = stats.replace("127.0.0.1", "localhost");
    let known = "--cert worker.crt --key worker.key";
    ok(at, &format!("{by_name} {known}"));

    ok(at, "cert issue node --dns elsewhere.example --force");
    let shown = fingerprint(at, "node.crt");
    until("the reload", || fingerprint(at, &node.address) == shown);
    let outcome = refused(at, &format!("{stats} {known}"));
    assert!(
        outcome.stderr.contains("cert issue --dns NAME"),
        "{outcome}"
    );
}

#[test]
fn certificates_are_replaced_while_connections_live() {
    let dir = with_certificates();
    let at = dir.path();
    // As a secret is mounted: the files are links into a directory that is swapped at once.
    fs::create_dir(at.join("first")).unwrap();
    fs::rename(at.join("node.crt"), at.join("first/node.crt")).unwrap();
    fs::rename(at.join("node.key"), at.join("first/node.key")).unwrap();
    symlink("first", at.join("..data")).unwrap();
    symlink("..data/node.crt", at.join("node.crt")).unwrap();
    symlink("..data/node.key", at.join("node.key")).unwrap();
    let node = start(at, &NODE);

    let config = client_config(&ServerCheck::Ca(at.join("ca.crt")), None, &[b"http/1.1"]).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(&node.address).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut old = StreamOwned::new(tls, socket);
    let mut call = || {
        old.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut head = [0; 12];
        old.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 404");
        let mut rest = Vec::new();
        while !rest.ends_with(b"RPC is POST /yarpc/v1\n") {
            let mut byte = [0];
            old.read_exact(&mut byte).unwrap();
            rest.push(byte[0]);
        }
    };
    call();

    let ca = "--ca-cert ca.crt --ca-key ca.key --ip 127.0.0.1";
    ok(at, &format!("cert issue node --dir second {ca}"));
    symlink("second", at.join("..tmp")).unwrap();
    fs::rename(at.join("..tmp"), at.join("..data")).unwrap();
    let second = fingerprint(at, "second/node.crt");
    until("the swap", || fingerprint(at, &node.address) == second);
    assert_eq!(fingerprint(at, &node.admin_address), second);
    call();
    ok(
        at,
        &format!("lease stats --address {} --ca ca.crt", node.address),
    );

    fs::write(at.join("second/node.key"), "broken").unwrap();
    until("the refusal", || {
        introspect(at, &node, "--ca ca.crt")["tls"]["reloadsFailed"] == 1
    });
    let told = introspect(at, &node, "--ca ca.crt")["tls"].clone();
    assert_eq!(told["reloads"], 1);
    assert!(
        told["failure"].as_str().unwrap().contains("no private key"),
        "{told}"
    );
    assert_eq!(
        fingerprint(at, &node.address),
        second,
        "what was in use stays"
    );
    call();
    let (code, said) = node.stop();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("the changed TLS files cannot be used"),
        "{said}"
    );
}

#[test]
fn clients_show_certificates_where_the_node_asks_for_them() {
    let dir = with_certificates();
    let at = dir.path();
    ok(at, "cert issue worker --client");
    ok(at, "cert init-ca --dir other");
    ok(at, "cert issue stranger --client --dir other");
    let node = start(at, &[&NODE[..], &["tls.client_ca=ca.crt"]].concat());
    let (rpc, admin) = (&node.address, &node.admin_address);
    let stats = format!("lease stats --address {rpc} --ca ca.crt");
    let look = format!("introspect --admin-address {admin} --ca ca.crt");
    let known = "--cert worker.crt --key worker.key";
    let stranger = "--cert other/stranger.crt --key other/stranger.key";

    ok(at, &format!("{stats} {known}"));
    ok(at, &format!("{look} {known}"));
    let outcome = refused(at, &stats);
    assert!(
        outcome.stderr.contains("wants a client certificate"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("--cert and --key"), "{outcome}");
    assert_eq!(outcome.code, Some(3));
    for line in [&stats, &look] {
        let outcome = refused(at, &format!("{line} {stranger}"));
        assert!(
            outcome.stderr.contains("refused the TLS handshake"),
            "{outcome}"
        );
    }
    // A node's certificate is no client's.
    let outcome = refused(at, &format!("{stats} --cert node.crt --key node.key"));
    assert!(
        outcome.stderr.contains("refused the TLS handshake"),
        "{outcome}"
    );
    let outcome = refused(at, &look);
    assert!(outcome.stderr.contains("403"), "{outcome}");
    let outcome = refused(at, &format!("{stats} --cert worker.crt"));
    assert_eq!(outcome.code, Some(2), "{outcome}");

    if !skip("curl", "curl") {
        let curl = |path: &str| {
            let url = format!("https://{admin}{path}");
            let mut curl = Command::new("curl");
            curl.args(["-s", "--cacert", "ca.crt", "-w", "%{http_code}"]);
            let output = curl.arg(url).current_dir(at).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(curl("/readyz").ends_with("200"));
        assert!(curl("/healthz").ends_with("200"));
        let refused = curl("/metrics");
        assert!(
            refused.ends_with("403") && refused.contains("client certificate"),
            "{refused}"
        );
    }
    // What a core tells of itself may be a moment old.
    let looked = Instant::now();
    loop {
        let found = introspect(at, &node, &format!("--ca ca.crt {known}"));
        let failed = found["cores"][0]["connections"]["tlsHandshakes"]["failed"].as_u64();
        if failed >= Some(3) {
            break;
        }
        assert!(looked.elapsed() < Duration::from_secs(10), "{failed:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_expired_certificate_is_said_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2024, 4, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    fs::write(at.join("node.crt"), pem("CERTIFICATE", made.der())).unwrap();
    fs::write(
        at.join("node.key"),
        pem("PRIVATE KEY", &key.serialize_der()),
    )
    .unwrap();
    fs::set_permissions(at.join("node.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(ok(at, "cert inspect node.crt").contains("expired"));

    let node = start(at, &NODE);
    let greeting = node.greeting.join("\n");
    assert!(
        greeting.contains("the TLS certificate has expired"),
        "{greeting}"
    );
    let outcome = refused(
        at,
        &format!("lease stats --address {} --ca node.crt", node.address),
    );
    assert!(outcome.stderr.contains("expired"), "{outcome}");
    assert!(
        outcome.stderr.contains("replace the server's certificate"),
        "{outcome}"
    );
}

#[test]
fn a_node_does_not_start_with_files_that_cannot_be_used() {
    let dir = with_certificates();
    let at = dir.path();
    let start =
        |settings: &str| refused(at, &format!("serve --data-dir data --cores 1 {settings}"));
    fs::set_permissions(at.join("node.key"), fs::Permissions::from_mode(0o604)).unwrap();
    let outcome = start("--set tls.cert=node.crt --set tls.key=node.key");
    assert!(
        outcome
            .stderr
            .contains("error[serve.tls]: node.key may be read by everybody"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("chmod o-rwx node.key"), "{outcome}");
    assert_eq!(outcome.code, Some(1));
    let outcome = start("--set tls.cert=node.crt --set tls.key=ca.key");
    assert!(
        outcome
            .stderr
            .contains("is not that of the certificate in node.crt"),
        "{outcome}"
    );
    let outcome = start("--set tls.cert=none.crt --set tls.key=ca.key");
    assert!(outcome.stderr.contains("none.crt"), "{outcome}");
}

#[test]
fn beyond_loopback_a_node_needs_tls_or_is_told_to_do_without() {
    let dir = tempfile::tempdir().unwrap();
    let validate = "config validate --cores 1 --listen 0.0.0.0:7420 --admin-listen 0.0.0.0:7421";
    let outcome = refused(dir.path(), validate);
    assert!(
        outcome
            .stderr
            .contains("has no TLS\nhelp: set tls.cert and tls.key"),
        "{outcome}"
    );
    ok(
        dir.path(),
        &format!("{validate} --set tls.cert=a --set tls.key=b"),
    );
    ok(dir.path(), &format!("{validate} --insecure"));
}

#[test]
fn a_node_without_a_certificate_keeps_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let told = || -> Value {
        serde_json::from_slice(&fs::read(at.join("data/node.json")).unwrap()).unwrap()
    };
    let node = start(at, &[]);
    let made = fingerprint(at, "data/tls/server.crt");
    assert_eq!(told()["tls"]["fingerprint"], *made);
    assert_eq!(introspect(at, &node, "")["tls"]["selfSigned"], true);
    assert!(
        node.greeting
            .join("\n")
            .contains("RPC on http://127.0.0.1:"),
        "TCP stays plain"
    );
    let (_, said) = node.stop();
    let line = "self-signed TLS certificate data/tls/server.crt, good until 20";
    assert!(said.contains(line) && said.contains(&*made), "{said}");

    let node = start(at, &[]);
    assert_eq!(told()["tls"]["fingerprint"], *made, "kept");
    drop(node);
}
