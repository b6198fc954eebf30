//! `omnirelay-loadgen cycle` against a server that is right, and against servers that are not.

mod fake_server;

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use fake_server::{Fault, Running};
use quinn::{ConnectionError, VarInt};
use serde_json::Value;

fn command(address: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay-loadgen"));
    command
        .args(["cycle", "--address", &address.to_string()])
        .args(options);
    command
}

fn run(fault: Fault, options: &[&str]) -> Output {
    let address = fake_server::start(fault).address;
    // A run ends when all is done; only a lost item makes it wait for the whole drain.
    let drain = if fault == Fault::Loses { "1s" } else { "30s" };
    let common = ["--duration", "300ms", "--drain", drain, "--json"];
    command(address, &common).args(options).output().unwrap()
}

/// The JSON document of a run.
fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{error} in {text:?}; stderr: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Exit code, lost, duplicates, and whether there were errors.
fn verdict(output: &Output) -> (Option<i32>, u64, u64, bool) {
    let found = document(output);
    let count = |name: &str| found[name].as_u64().unwrap();
    (
        output.status.code(),
        count("lost"),
        count("duplicates"),
        count("errors") > 0,
    )
}

/// How calls travel.
const TRANSPORTS: [&str; 3] = ["http", "grpc", "quic"];

fn run_over(transport: &str, fault: Fault, options: &[&str]) -> Output {
    run(fault, &[&["--transport", transport], options].concat())
}

const MANY: &[&str] = &["--connections", "2", "--pipeline", "64", "--batch", "16"];

#[test]
fn a_right_server_is_verified_in_every_form() {
    let forms: [&[&str]; 5] = [
        &[],
        &["--encoding", "json", "--pipeline", "8"],
        MANY,
        &[
            "--pipeline",
            "16",
            "--batch",
            "16",
            "--encoding",
            "json",
            "--size",
            "0",
        ],
        &["--rate", "500", "--pipeline", "4"],
    ];
    let ways = TRANSPORTS
        .iter()
        .flat_map(|way| forms.map(|form| (way, form)));
    for (transport, form) in ways {
        let output = run_over(transport, Fault::None, form);
        let form = format!("{transport} {form:?}");
        assert_eq!(verdict(&output), (Some(0), 0, 0, false), "{form}");
        let found = document(&output);
        assert!(found["cycles_per_s"].as_f64().unwrap() > 0.0, "{form}");
        for step in ["enqueue_us", "lease_us", "complete_us"] {
            assert!(found[step]["p50"].as_u64().unwrap() > 0, "{form} {step}");
        }
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let output = run(Fault::None, &["--rate", "1000", "--pipeline", "8"]);
    let cycles_per_s = document(&output)["cycles_per_s"].as_f64().unwrap();
    assert!((100.0..=1_100.0).contains(&cycles_per_s), "{cycles_per_s}");
}

#[test]
fn a_lost_item_is_reported() {
    for (transport, form) in [
        ("http", &[][..]),
        ("http", MANY),
        ("grpc", MANY),
        ("quic", MANY),
    ] {
        let output = run_over(transport, Fault::Loses, form);
        assert_eq!(verdict(&output), (Some(1), 1, 0, false), "{form:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            words,
            "error: verification failed: 1 lost, 0 duplicates, 0 errors\n"
        );
    }
}

#[test]
fn a_doubled_item_is_reported() {
    for (transport, form) in [
        ("http", &[][..]),
        ("http", MANY),
        ("grpc", MANY),
        ("quic", MANY),
    ] {
        let output = run_over(transport, Fault::Doubles, form);
        assert_eq!(verdict(&output), (Some(1), 0, 1, false), "{form:?}");
    }
}

#[test]
fn an_item_that_was_refused_and_comes_all_the_same_is_reported() {
    for transport in TRANSPORTS {
        let output = run_over(transport, Fault::RefusesAndKeeps, MANY);
        assert_eq!(verdict(&output), (Some(1), 0, 0, true));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            words.contains("resourcelease.backpressure: full, or so it says"),
            "{words}"
        );
    }
}

#[test]
fn a_changed_body_is_reported() {
    for transport in TRANSPORTS {
        let output = run_over(transport, Fault::Corrupts, MANY);
        assert_eq!(verdict(&output), (Some(1), 0, 0, true));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("is not as sent"), "{words}");
    }
}

#[test]
fn an_unknown_namespace_is_refused_in_the_servers_words() {
    for transport in TRANSPORTS {
        let output = run_over(transport, Fault::None, &["--namespace", "nowhere"]);
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            words,
            "error: the server refused: resourcelease.namespace.unknown: no namespace `nowhere`\n"
        );
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = command(free, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.starts_with(&format!("error: cannot reach {free}: ")),
        "{words}"
    );
    assert!(words.contains("omnirelay serve"), "{words}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let free = SocketAddr::from(([127, 0, 0, 1], 1));
    for options in [
        &["--batch", "7", "--pipeline", "8"][..],
        &["--server-pid", "2147483647"],
    ] {
        let output = command(free, options).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_table_is_for_people() {
    let address = fake_server::start(Fault::None).address;
    let pid = std::process::id().to_string();
    let options = ["--duration", "100ms", "--server-pid", &pid];
    let output = command(address, &options).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let mentions = [
        "cycles/s",
        "p99.9",
        "enqueue",
        "lost",
        "server CPU s / million cycles",
    ];
    for mention in mentions {
        assert!(table.contains(mention), "{table}");
    }
}

/// How long a server may take to hear of something.
const HEARD_MAX: Duration = Duration::from_secs(30);

fn expect_leave_taking(ends: &Receiver<ConnectionError>, connections: usize) {
    for _ in 0..connections {
        let end = ends.recv_timeout(HEARD_MAX).unwrap();
        let ConnectionError::ApplicationClosed(close) = &end else {
            panic!("the client did not take its leave: {end}");
        };
        assert_eq!(close.error_code, VarInt::from_u32(0), "{end}");
    }
}

#[test]
fn at_the_end_a_quic_server_is_told_of_every_connection() {
    let server = fake_server::start(Fault::None);
    let options = ["--transport", "quic", "--connections", "3"];
    let mut command = command(server.address, &["--duration", "100ms", "--json"]);
    let output = command.args(options).output().unwrap();
    assert_eq!(verdict(&output), (Some(0), 0, 0, false));
    // Three producers, three workers, and the one that asks for counts.
    expect_leave_taking(&server.quic_ends, 7);
}

#[test]
fn ctrl_c_ends_a_run_with_its_result_so_far() {
    for transport in TRANSPORTS {
        let server = fake_server::start(Fault::None);
        end_by_ctrl_c(transport, &server);
        if transport == "quic" {
            expect_leave_taking(&server.quic_ends, 3);
        }
    }
}

fn end_by_ctrl_c(transport: &str, server: &Running) {
    let options = ["--duration", "1h", "--json", "--transport", transport];
    let mut command = command(server.address, &options);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // The run has begun, and listens for Ctrl-C, once the server has seen items.
    server.faulty_item.recv_timeout(HEARD_MAX).unwrap();
    // SAFETY: the child is not reaped yet, so the id is still its own.
    unsafe { libc::kill(pid, libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(verdict(&output), (Some(0), 0, 0, false));
}

#[test]
fn a_run_begins_however_many_calls_are_in_flight() {
    let flood = ["--connections", "4", "--pipeline", "64", "--batch", "1"];
    for transport in TRANSPORTS {
        let output = run_over(transport, Fault::None, &flood);
        assert_eq!(verdict(&output), (Some(0), 0, 0, false), "{transport}");
        let acknowledged = document(&output)["acknowledged"].as_u64();
        assert!(acknowledged > Some(0), "{transport}: {acknowledged:?}");
    }
}
