//! Every command that prints data, in both forms, and a reader that goes away.

mod cli_support;
mod harness;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use cli_support::{Outcome, command, outcome};
use harness::{Launch, Node, item};
use serde_json::Value;

const DATA: &str = "data";

/// A node with some items in it.
fn node(dir: &Path) -> Node {
    let node = Launch::on(&dir.join(DATA))
        .set("namespaces.resourcelease.shards=1")
        .start();
    let mut client = node.connect();
    for n in 0..20 {
        client.call("enqueue", item(&format!("r{n}"))).ok();
    }
    node
}

fn omnirelay(node: &Node, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = command(dir);
    command
        .args(arguments)
        .env("OMNIRELAY_ADDRESS", node.address.to_string())
        .env("OMNIRELAY_ADMIN_ADDRESS", node.admin_address.to_string());
    command
}

fn run(node: &Node, dir: &Path, arguments: &[&str]) -> Outcome {
    outcome(&mut omnirelay(node, dir, arguments))
}

fn documents(outcome: &Outcome) -> Vec<Value> {
    let lines = outcome.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("one document a line"))
        .collect()
}

#[test]
fn every_command_that_prints_data_has_a_table_and_one_document_a_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path());
    let service = ["--service=s", "--procedure=resourcelease::stats"];
    let commands: [(&[&str], &str); 15] = [
        (&["request", service[0], service[1]], "KEY "),
        (
            &["request", service[0], service[1], "--transport=grpc"],
            "KEY ",
        ),
        (
            &["request", service[0], service[1], "--transport=quic"],
            "KEY ",
        ),
        (&["lease", "enqueue", "--type=t", "--id=i"], "SEQUENCE "),
        (&["lease", "peek"], "SEQUENCE "),
        (&["lease", "dead-letters"], "SEQUENCE "),
        (&["lease", "stats"], "PENDING "),
        (&["lease", "explain", "2"], "item 2 is "),
        (&["config", "show"], "KEY "),
        (&["config", "validate"], "ok"),
        (&["introspect"], "KEY "),
        (&["replication", "tail", "--all"], "TIME "),
        (&["replication", "status"], "SHARD "),
        (&["wal", "inspect", DATA], "LOG "),
        (&["wal", "tail", DATA, "--log=0"], "TIME "),
    ];
    for (arguments, heading) in commands {
        let table = run(&node, dir.path(), &[arguments, &["-o", "table"]].concat());
        assert_eq!(table.code, Some(0), "{arguments:?}: {table}");
        assert!(table.stdout.starts_with(heading), "{arguments:?}: {table}");
        for line in table.stdout.lines() {
            assert_eq!(line.trim_end(), line, "{arguments:?}");
            assert!(!line.contains(char::is_control), "{arguments:?}");
        }
        let json = run(
            &node,
            dir.path(),
            &[arguments, &["--output", "json"]].concat(),
        );
        assert_eq!(json.code, Some(0), "{arguments:?}: {json}");
        let documents = documents(&json);
        assert!(
            documents.iter().all(Value::is_object),
            "{arguments:?}: {json}"
        );
        let is_empty = arguments.contains(&"dead-letters");
        assert_eq!(documents.is_empty(), is_empty, "{arguments:?}: {json}");
    }
}

#[test]
fn items_are_taken_settled_and_moved_in_both_forms() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path());
    for form in ["table", "json"] {
        let lease = |arguments: &[&str]| {
            let arguments = [&["lease"], arguments, &["-o", form]].concat();
            let outcome = run(&node, dir.path(), &arguments);
            assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome}");
            let lines = outcome.stdout.lines().count();
            assert_eq!(lines, if form == "json" { 1 } else { 2 }, "{outcome}");
        };
        let take = || {
            let taken = run(&node, dir.path(), &["lease", "take", "-o", "json"]);
            documents(&taken)[0]["token"]
                .as_str()
                .expect("a token")
                .to_owned()
        };
        let (first, second) = (take(), take());
        lease(&["take"]);
        lease(&["heartbeat", "--token", &first]);
        lease(&["complete", "--token", &first]);
        lease(&["fail", "--no-requeue", "--token", &second]);
        let dead = second.split('/').next().expect("a sequence id");
        lease(&["redrive", dead]);
        lease(&["cancel", dead]);
        let drain = ["lease", "drain", "--max=1", "-o", "json"];
        let drained = run(&node, dir.path(), &drain);
        assert_eq!(documents(&drained).len(), 1);
        std::fs::write(dir.path().join("items"), &drained.stdout).expect("it is written");
        lease(&["restore", "items"]);
    }
    drop(node);
}

/// How a command ends whose reader takes one line.
fn read_one_line(mut command: Command) -> (String, std::process::Output) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    drop(stdout);
    (line, child.wait_with_output().expect("it ends"))
}

#[test]
fn a_command_whose_reader_goes_away_ends_quietly() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path());
    // Enough records that no pipe holds them all.
    let mut client = node.connect();
    for _ in 0..40 {
        let many: Vec<Value> = (0..100).map(|n| item(&format!("b{n}"))).collect();
        client
            .call("enqueueBatch", serde_json::json!({ "items": many }))
            .ok();
    }
    let commands: [&[&str]; 5] = [
        &["wal", "tail", DATA, "--log=0"],
        &["wal", "tail", DATA, "--log=0", "-o", "json"],
        &["replication", "tail", "--all", "--follow"],
        &["replication", "tail", "--all", "-o", "json"],
        &["lease", "peek", "--max=4000", "-o", "json"],
    ];
    for arguments in commands {
        let (line, output) = read_one_line(omnirelay(&node, dir.path(), arguments));
        assert!(line.ends_with('\n'), "{arguments:?}");
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_command_that_follows_ends_by_itself_when_its_reader_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path());
    // All there is has been read and nothing more comes.
    let tail = ["wal", "tail", DATA, "--log=0", "--follow"];
    let mut child = omnirelay(&node, dir.path(), &tail)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    // The heading, the start of the epoch, and the items.
    for _ in 0..22 {
        stdout.read_line(&mut String::new()).expect("a line");
    }
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn ctrl_c_ends_a_command_as_it_ends_any_other() {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path());
    let tail = ["replication", "tail", "--all", "--follow"];
    let mut command = omnirelay(&node, dir.path(), &tail);
    // Tests that run in the background of a shell inherit that SIGINT is ignored.
    // SAFETY: signal may be called between fork and exec, and SIG_DFL is a handler.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    let pid = libc::pid_t::try_from(child.id()).expect("a pid fits");
    // SAFETY: kill has no memory effects, and the child is not yet waited for, so the pid is its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.signal(), Some(libc::SIGINT), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
