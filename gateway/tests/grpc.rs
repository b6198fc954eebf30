//! gRPC as Google's Python client speaks it.

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Launch, Node, wait_for};

/// The interpreter with grpcio and its tools: see `.ci/python`.
fn python() -> Option<String> {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let modules = "import grpc, grpc_tools, grpc_health, grpc_reflection, grpc_status";
    let imported = Command::new(&python).args(["-c", modules]).output();
    imported
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

/// Runs a script against a node until the node has ended; `more` is what it is told beside the
/// node's RPC address.
fn drive(python: &str, script: &str, mut node: Node, more: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(root.join("tests/grpc").join(script))
        .arg(node.address.to_string())
        .args(more)
        .arg(root.join("../net/proto"))
        .arg(node.pid().to_string())
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "it held: {}\nit said: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    wait_for("the node ends", || (!node.runs()).then_some(()));
    assert_eq!(node.wait().code, Some(0));
}

const SKIPPED: &str = "SKIPPED: no Python with grpcio; set TEST_PYTHON to what .ci/python prints";

#[test]
fn a_stock_client_needs_the_proto_files_and_nothing_else() {
    let Some(python) = python() else {
        eprintln!("{SKIPPED}");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(2).start();
    drive(&python, "stock_client.py", node, &[]);
}

#[test]
fn a_stock_client_follows_the_replication_stream() {
    let Some(python) = python() else {
        eprintln!("{SKIPPED}");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.shards=1")
        .set("history_bytes=0")
        .start();
    let admin = node.admin_address.to_string();
    drive(&python, "subscriber.py", node, &[&admin]);
}
