//! The client library's examples against the real process, as a reader runs them.

mod client_support;
mod harness;

use std::path::PathBuf;
use std::process::Command;

use client_support::connect;
use harness::{Launch, Node};

/// Where cargo puts an example; `None` where it was not built, as with `cargo test -p omnirelay`.
fn built(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().expect("this test's own path");
    let built = own.parent()?.parent()?.join("examples").join(name);
    if !built.exists() {
        eprintln!("skipped: no {name}; `cargo build -p omnirelay-client --examples` makes it");
        return None;
    }
    Some(built)
}

/// Runs an example against a node; what it said.
fn run(node: &Node, dir: &std::path::Path, name: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(built(name)?)
        .args(arguments)
        .env("OMNIRELAY_ADDRESS", node.address.to_string())
        .env("OMNIRELAY_CA", dir.join("tls/server.crt"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}{complaint}");
    Some(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_and_a_worker_do_their_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let Some(said) = run(&node, dir.path(), "producer", &["orders", "customers"]) else {
        return;
    };
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(node.counts(), [2, 0, 0, 0]);
    let Some(said) = run(&node, dir.path(), "worker", &["2"]) else {
        return;
    };
    assert!(said.contains("vacuum orders (attempt 1)"), "{said}");
    assert!(said.contains("completed: 2, failed: 0"), "{said}");
    assert_eq!(node.counts(), [0; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_deed_is_enqueued_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let Some(said) = run(&node, dir.path(), "idempotent_enqueue", &[]) else {
        return;
    };
    assert!(
        said.contains("there: item") && said.contains("duplicate: true"),
        "{said}"
    );
    let queue = connect(&node, dir.path()).await;
    assert_eq!(queue.stats().await.expect("counts").pending, 1);
}

#[test]
fn a_zombie_cannot_overwrite_a_fenced_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let Some(said) = run(&node, dir.path(), "fenced_sqlite", &[]) else {
        return;
    };
    assert!(
        said.contains("the zombie wrote: false; the row is the owner's"),
        "{said}"
    );
    assert!(said.contains("resourcelease.lease.fenced"), "{said}");
}
