//! The client library against the real process.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::path::Path;
use std::time::{Duration, Instant};

use omnirelay_client::{Client, ClientBuilder, Namespace, Tls};

use crate::harness::{BOUND, Launch, Node, wait_for};

/// A client of a node, not connected yet. The node has the certificate that it made for itself.
pub fn builder(node: &Node, dir: &Path) -> ClientBuilder {
    Client::builder()
        .address(node.address.to_string())
        .tls(Tls::ca(dir.join("tls/server.crt")))
        .caller("tests")
}

/// The default namespace of a node.
pub async fn connect(node: &Node, dir: &Path) -> Namespace {
    let client = builder(node, dir).connect().await.expect("a connection");
    client.default_namespace()
}

/// Kills a node and starts it again where it was; says when it was ready.
pub fn kill_and_restart(node: Node, dir: &Path) -> (Node, Instant) {
    let (rpc, admin) = (node.address, node.admin_address);
    node.kill();
    let launch = Launch::on(dir).listen(rpc).admin_listen(admin);
    let node = launch.start();
    (node, Instant::now())
}

/// Looks again and again until something is there.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < BOUND, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Replies over QUIC to one procedure so far.
pub fn replies(node: &Node, procedure: &str) -> u64 {
    let text = node.admin_text("/metrics");
    let labels = ["transport=\"quic\"", &format!("procedure=\"{procedure}\"")];
    let lines = text.lines().filter(|line| {
        line.starts_with("omnirelay_rpc_requests_total{") && labels.iter().all(|l| line.contains(l))
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Stops a node's process, or lets it go on.
pub fn signal(node: &Node, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(node.pid()).expect("a pid fits");
    // SAFETY: kill has no memory effects, and the child has not been waited for, so the pid is its own.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "the node takes signals");
    if signal == libc::SIGSTOP {
        wait_for("every thread has stopped", || {
            all_stopped(node).then_some(())
        });
    }
}

/// A thread on another CPU may go on for a moment after the signal.
fn all_stopped(node: &Node) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it has threads");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with('T'));
        state == Some(true)
    })
}
