//! TLS, over every transport.

mod fake_server;

use std::path::Path;
use std::process::{Command, Output};

use fake_server::{Certificates, Running};

const TRANSPORTS: [&str; 3] = ["http", "grpc", "quic"];

fn run(transport: &str, server: &Running, files: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay-loadgen"));
    command
        .args(["cycle", "--duration", "100ms", "--json"])
        .args(["--transport", transport])
        .args(["--address", &server.address.to_string()]);
    for (option, path) in files {
        command.arg(option).arg(path);
    }
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_over_tls_shows_its_certificate_and_is_verified() {
    let certificates = Certificates::new();
    let server = fake_server::start_secure(&certificates);
    let files: [(&str, &Path); 3] = [
        ("--ca", &certificates.ca),
        ("--cert", &certificates.cert),
        ("--key", &certificates.key),
    ];
    for transport in TRANSPORTS {
        let output = run(transport, &server, &files);
        assert!(output.status.success(), "{transport}: {}", words(&output));
    }
}

#[test]
fn a_client_without_the_certificate_asked_for_gets_nowhere() {
    let certificates = Certificates::new();
    let server = fake_server::start_secure(&certificates);
    for transport in TRANSPORTS {
        let output = run(transport, &server, &[("--ca", &certificates.ca)]);
        assert_eq!(output.status.code(), Some(3), "{transport}");
        assert!(
            words(&output).contains("cannot reach"),
            "{}",
            words(&output)
        );
    }
}

#[test]
fn a_server_that_another_ca_has_signed_is_not_trusted() {
    let server = fake_server::start_secure(&Certificates::new());
    let others = Certificates::new();
    for transport in TRANSPORTS {
        let output = run(transport, &server, &[("--ca", &others.ca)]);
        assert_eq!(output.status.code(), Some(3), "{transport}");
        let words = words(&output);
        assert!(words.contains("UnknownIssuer"), "{transport}: {words}");
        assert!(words.contains("pass the CA"), "{transport}: {words}");
    }
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let certificates = Certificates::new();
    let server = fake_server::start_secure(&certificates);
    for transport in TRANSPORTS {
        let output = run(transport, &server, &[("--ca", &certificates.key)]);
        assert_eq!(output.status.code(), Some(2), "{transport}");
        assert!(words(&output).contains("client.key"), "{}", words(&output));
    }
}
