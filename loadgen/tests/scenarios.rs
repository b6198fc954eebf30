//! Every scenario but `cycle`, against a server that is right, and against servers that are not.

mod fake_server;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use fake_server::{Fault, Running};
use quinn::ConnectionError;
use serde_json::Value;

/// How long a server may take to hear of the end of a connection, be it by its own timer.
const HEARD_MAX: Duration = Duration::from_secs(60);

const TRANSPORTS: [&str; 3] = ["http", "grpc", "quic"];

const MANY: &[&str] = &["--connections", "2", "--pipeline", "64", "--batch", "16"];

fn run(scenario: &str, address: SocketAddr, options: &[&[&str]]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omnirelay-loadgen"))
        .args([scenario, "--json", "--address", &address.to_string()])
        .args(options.concat())
        .output()
        .unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let parsed = serde_json::from_str(&text);
    parsed.unwrap_or_else(|error| panic!("{error} in {text:?}; stderr: {}", words(output)))
}

/// The document of a run that found nothing wrong.
fn good(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", words(output));
    document(output)
}

fn number(found: &Value, name: &str) -> f64 {
    let number = found[name].as_f64();
    number.unwrap_or_else(|| panic!("no number {name} in {found}"))
}

fn server() -> Running {
    fake_server::start(Fault::None)
}

#[test]
fn an_echo_is_measured_over_every_transport() {
    for transport in TRANSPORTS {
        let ways: [&[&str]; 2] = [
            &["--connections", "2", "--pipeline", "8"],
            &["--encoding", "json", "--rate", "500"],
        ];
        for way in ways {
            let common: &[&str] = &["--transport", transport, "--duration", "500ms"];
            let found = good(&run("echo", server().address, &[common, way]));
            assert!(number(&found, "calls_per_s") > 0.0, "{transport} {found}");
            assert!(found["echo_us"]["p50"].as_u64().unwrap() > 0, "{found}");
            assert_eq!(found["errors"], 0);
        }
    }
}

#[test]
fn an_open_loop_of_echoes_keeps_its_rate() {
    let options: &[&str] = &["--rate", "500", "--pipeline", "8", "--duration", "1s"];
    let found = good(&run("echo", server().address, &[options]));
    let calls_per_s = number(&found, "calls_per_s");
    // A busy machine may keep it from as many, never let it make more.
    assert!(calls_per_s > 0.0 && calls_per_s <= 550.0, "{calls_per_s}");
}

#[test]
fn a_server_that_ends_in_the_middle_is_an_error_of_echo_and_fan_in() {
    for scenario in ["echo", "fanin"] {
        for transport in TRANSPORTS {
            let address = fake_server::start(Fault::EndsConnections).address;
            let options: &[&str] = &[
                "--transport",
                transport,
                "--connections",
                "2",
                "--duration",
                "500ms",
            ];
            let output = run(scenario, address, &[options]);
            let form = format!("{scenario} {transport}");
            assert_eq!(output.status.code(), Some(1), "{form}: {}", words(&output));
            assert!(document(&output)["errors"].as_u64().unwrap() > 0, "{form}");
        }
    }
}

#[test]
fn what_was_only_enqueued_is_worked_off_and_verified() {
    for transport in TRANSPORTS {
        let common: &[&str] = &["--transport", transport, "--duration", "1s"];
        let found = good(&run("enqueue-only", server().address, &[common, MANY]));
        assert!(number(&found, "items_per_s") > 0.0, "{found}");
        assert!(found["acknowledged"].as_u64().unwrap() > 0, "{found}");
        assert!(found["enqueue_us"]["p50"].as_u64().unwrap() > 0, "{found}");
        assert_eq!(found["lease_us"], Value::Null, "nothing else is measured");
    }
}

#[test]
fn an_item_that_was_only_enqueued_and_is_lost_or_doubled_is_reported() {
    for (fault, name) in [(Fault::Loses, "lost"), (Fault::Doubles, "duplicates")] {
        let common: &[&str] = &["--duration", "1s", "--drain", "2s"];
        let output = run(
            "enqueue-only",
            fake_server::start(fault).address,
            &[common, MANY],
        );
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert_eq!(document(&output)[name], 1, "{}", words(&output));
    }
}

#[test]
fn what_was_left_in_the_queue_is_counted_there() {
    let common: &[&str] = &["--duration", "500ms", "--leave"];
    let right = server();
    let found = good(&run("enqueue-only", right.address, &[common, MANY]));
    assert_eq!(found["lost"], 0);
    // Another run takes it away, without a word.
    let cycle = good(&run(
        "cycle",
        right.address,
        &[&["--duration", "100ms"], MANY],
    ));
    assert_eq!(
        (&cycle["lost"], &cycle["duplicates"]),
        (&0.into(), &0.into())
    );

    let loses = fake_server::start(Fault::Loses);
    let output = run("enqueue-only", loses.address, &[common, MANY]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document(&output)["lost"], 1, "{}", words(&output));

    let doubles = fake_server::start(Fault::Doubles);
    let output = run("enqueue-only", doubles.address, &[common, MANY]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words(&output).contains("the queue has grown by"),
        "{}",
        words(&output)
    );
}

#[test]
fn cycles_are_measured_with_an_empty_queue_and_with_a_long_one() {
    for transport in TRANSPORTS {
        let common: &[&str] = &[
            "--transport",
            transport,
            "--duration",
            "1s",
            "--items",
            "5000",
        ];
        let found = good(&run("backlog", server().address, &[common, MANY]));
        for rate in [
            "empty_cycles_per_s",
            "cycles_per_s",
            "ratio",
            "filled_per_s",
        ] {
            assert!(number(&found, rate) > 0.0, "{rate} in {found}");
        }
        assert_eq!(found["waiting"], 5_000);
        assert!(found["acknowledged"].as_u64().unwrap() > 5_000, "{found}");
        for step in ["empty_lease_us", "lease_us"] {
            assert!(
                found[step]["p50"].as_u64().unwrap() > 0,
                "{step} in {found}"
            );
        }
    }
}

#[test]
fn items_really_wait_while_cycles_are_measured_beside_them() {
    let server = server();
    let common: &[&str] = &["--duration", "1s", "--items", "5000"];
    good(&run("backlog", server.address, &[common, MANY]));
    let least = server.least_while_long(5_000);
    // Workers hold 128 items, and as many are on their way.
    assert!(least >= 5_000 - 256, "{least}");
}

#[test]
fn a_queue_that_is_not_empty_is_not_measured_as_an_empty_one() {
    let server = server();
    let leave: &[&str] = &["--duration", "50ms", "--leave"];
    good(&run("enqueue-only", server.address, &[leave, MANY]));
    let output = run("backlog", server.address, &[MANY]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words(&output).contains("items already"),
        "{}",
        words(&output)
    );
    assert!(words(&output).contains("--namespace"), "{}", words(&output));
}

#[test]
fn an_item_of_a_long_queue_that_is_lost_is_reported() {
    let common: &[&str] = &["--duration", "500ms", "--drain", "2s", "--items", "1000"];
    let output = run(
        "backlog",
        fake_server::start(Fault::Loses).address,
        &[common, MANY],
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document(&output)["lost"], 1, "{}", words(&output));
}

#[test]
fn many_connections_open_take_turns_and_are_still_there_at_the_end() {
    for transport in TRANSPORTS {
        let server = server();
        let pid = std::process::id().to_string();
        let options: &[&str] = &[
            "--transport",
            transport,
            "--connections",
            "300",
            "--rate",
            "600",
            "--duration",
            "1s",
            "--server-pid",
            &pid,
        ];
        let found = good(&run("fanin", server.address, &[options]));
        assert_eq!(found["connections"], 300);
        assert_eq!(found["lost_connections"], 0);
        assert!(number(&found, "connects_per_s") > 0.0, "{found}");
        assert!(number(&found, "calls_per_s") > 0.0, "{found}");
        assert!(number(&found, "server_resident_bytes") > 0.0, "{found}");
        number(&found, "server_bytes_per_connection");
        assert_eq!(server.callers(), 300, "each made a call: {transport}");
        if transport == "quic" {
            let told = (0..300)
                .filter_map(|_| server.quic_ends.recv_timeout(HEARD_MAX).ok())
                .filter(|end| matches!(end, ConnectionError::ApplicationClosed(_)))
                .count();
            assert_eq!(told, 300, "the server was told of every end");
        }
    }
}

#[test]
fn a_server_that_takes_no_more_connections_is_named_with_how_many_it_took() {
    for transport in TRANSPORTS {
        let address = fake_server::start(Fault::TakesTenConnections).address;
        let options: &[&str] = &["--connections", "40", "--transport", transport];
        let output = run("fanin", address, &[options]);
        assert_eq!(output.status.code(), Some(1), "{transport}");
        let words = words(&output);
        let expected = format!("error: no more than 10 connections could be opened to {address}: ");
        assert!(words.starts_with(&expected), "{transport}: {words}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_by_every_scenario() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for scenario in ["echo", "enqueue-only", "backlog", "fanin"] {
        let output = run(scenario, free, &[]);
        assert_eq!(output.status.code(), Some(3), "{scenario}");
        let words = words(&output);
        assert!(
            words.starts_with(&format!("error: cannot reach {free}: ")),
            "{words}"
        );
    }
    let output = run("echo", free, &[&["--transport", "quic"]]);
    assert_eq!(output.status.code(), Some(3));
    assert!(words(&output).contains("UDP"), "{}", words(&output));
}
