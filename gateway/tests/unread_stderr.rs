//! A node whose log nobody reads.

mod harness;

use std::time::{Duration, Instant};

use harness::{Connection, Launch, Node, Request, wait_for};
use serde_json::{Value, json};

const DROPPED: &str = "omnirelay_logging_lines_dropped_total";
const TOLD: &str = "log lines were dropped";
/// More lines than a pipe and what may wait for it hold together.
const CALLS: usize = 12_000;
const AT_ONCE: usize = 200;

fn launch(dir: &tempfile::TempDir, level: &str) -> Node {
    let launch = Launch::on(dir.path()).set(&format!("log.level={level}"));
    launch.set("log.format=json").unread().start()
}

/// Makes calls, each of which has a line in the log.
fn call(client: &mut Connection, calls: usize) {
    let request = Request::call("stats", &json!({}));
    let bytes = [request.head(), request.body].concat().repeat(AT_ONCE);
    for _ in 0..calls.div_ceil(AT_ONCE) {
        client.send_bytes(&bytes).expect("they are taken");
        for _ in 0..AT_ONCE {
            assert_eq!(client.receive().expect("an answer").status, 200);
        }
    }
}

fn dropped(node: &Node) -> u64 {
    let text = node.admin_text("/metrics");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(DROPPED)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {DROPPED}"))
}

#[test]
fn calls_are_answered_and_the_node_drains_while_nobody_reads_its_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(&dir, "debug");
    call(&mut node.connect(), CALLS);
    assert!(dropped(&node) > 0);
    assert_eq!(node.admin("/readyz").0, 200);
    let started = Instant::now();
    assert_eq!(node.stop().code, Some(0));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_log_that_is_read_again_says_how_many_lines_are_missing_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = launch(&dir, "info,omnirelay::rpc=debug");
    let mut client = node.connect();
    call(&mut client, CALLS);
    let missing = dropped(&node);
    assert!(missing > 0);
    node.listen();
    let told = |said: &str| -> u64 {
        let lines = said.lines().filter(|line| line.contains(TOLD));
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["lines"].as_u64()).sum()
    };
    wait_for("it says so", || {
        (told(&node.said()) == missing).then_some(())
    });
    let request = Request::call("stats", &json!({})).header("Rpc-Caller", "afterwards");
    client.request(&request).ok();
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    let lines: Vec<&str> = ended.said.lines().collect();
    let calls = lines.iter().filter(|line| line.contains("omnirelay::rpc"));
    assert_eq!(calls.count() as u64 + missing, CALLS as u64 + 1);
    let at = |text: &str| {
        let found = lines.iter().position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text}"))
    };
    assert!(at("is ready: RPC on") < at("\"call\""));
    assert!(at(TOLD) < at("afterwards"));
    assert!(at("afterwards") < at("stopping: finishing open calls"));
}
