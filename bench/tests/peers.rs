//! `bench peers` as a user runs it, with the servers that are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn bench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.arg("peers").arg("--no-build");
    command
}

/// Whether the peer that everything is compared with is there.
fn can_compare() -> bool {
    let there = Command::new("redis-server")
        .arg("--version")
        .output()
        .is_ok();
    if !there {
        eprintln!("skipped: Redis is not installed: apt-get install redis-server");
    }
    there
}

/// Processes that work in a directory.
fn processes_in(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.canonicalize().expect("the directory is there");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .map(|process| process.path())
        .filter(|process| {
            let place = fs::read_link(process.join("cwd"));
            place.is_ok_and(|place| place.starts_with(&dir))
        })
        .collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A comparison that would take long, once it has started a server.
fn long_one(dir: &Path) -> Child {
    let child = bench()
        .args([
            "--only",
            "redis",
            "--duration",
            "10m",
            "--no-write",
            "--dir",
        ])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    wait_until("no server was started", || !processes_in(dir).is_empty());
    child
}

#[test]
fn a_short_comparison_has_figures_of_every_side_that_is_there() {
    if !can_compare() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("peers.json");
    let data = dir.path().join("data");
    let mut command = bench();
    command.args(["--only", "omnirelay,redis,beanstalkd,nats", "--rows", "1x1"]);
    command.args(["--duration", "200ms", "--runs", "1", "--no-write"]);
    command.arg("--dir").arg(&data).arg("--json").arg(&json);
    let ended = command.output().expect("it runs");
    let table = String::from_utf8_lossy(&ended.stdout);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{table}\n{said}");
    assert!(table.contains("**1 × 1**"), "{table}");
    let figures = fs::read(&json).expect("the figures were written");
    let figures: Value = serde_json::from_slice(&figures).expect("JSON");
    let mut sides = 0;
    for side in figures["rows"][0]["sides"].as_array().expect("sides") {
        assert_eq!(side["failure"], Value::Null, "{side}");
        let runs = side["runs"].as_array().expect("runs");
        sides += runs.len();
        let row = format!("| {} | ", name(side));
        let row = table.lines().find_map(|line| line.strip_prefix(&row));
        let figure = row.expect("a row").split(" |").next().unwrap_or_default();
        let missing = figure == "not installed" || figure.ends_with("has no such setting");
        assert!(missing == runs.is_empty(), "{side}\n{table}");
    }
    assert!(sides >= 2, "{table}");
    let has_ours = table.contains("| OmniRelay, QUIC, batches | ")
        && !table.contains("| OmniRelay, QUIC, batches | not");
    let echoes = figures["echo"].as_array().expect("echoes");
    assert_eq!(echoes.len(), usize::from(has_ours), "{table}");
    for run in echoes
        .iter()
        .flat_map(|echo| echo["runs"].as_array().expect("runs"))
    {
        for side in ["ours", "driver", "bare"] {
            assert!(run[side]["cycles"].as_u64() > Some(0), "{run}");
            assert!(run[side]["server_cpu_s"].as_f64() > Some(0.0), "{run}");
        }
    }
    assert_eq!(processes_in(&data), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(&data).expect("data").count(), 0);
}

fn name(side: &Value) -> &str {
    side["side"].as_str().expect("a name")
}

#[test]
fn a_section_and_a_picture_are_written_and_replaced() {
    if !can_compare() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let document = dir.path().join("performance.md");
    fs::write(&document, "# Performance\n\nBefore.\n").expect("a document");
    for _ in 0..2 {
        let mut command = bench();
        command.args(["--only", "redis", "--rows", "8x1", "--duration", "100ms"]);
        command.args(["--runs", "1"]);
        command.arg("--dir").arg(dir.path().join("data"));
        command.arg("--write").arg(&document);
        let ended = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
    }
    let written = fs::read_to_string(&document).expect("the document");
    assert!(
        written.starts_with("# Performance\n\nBefore.\n"),
        "{written}"
    );
    assert_eq!(
        written.matches("## Beside other queues").count(),
        1,
        "{written}"
    );
    let picture = dir.path().join("plots/peers-8x1.svg");
    assert!(written.contains("(plots/peers-8x1.svg)"), "{written}");
    let picture = fs::read_to_string(picture).expect("the picture");
    assert!(picture.contains("Redis, memory"), "{picture}");
}

#[test]
fn a_document_that_is_not_there_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = bench();
    command.current_dir(dir.path());
    let ended = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("docs/performance.md: run it where the sources are"),
        "{said}"
    );
}

#[test]
fn ctrl_c_leaves_no_server_and_no_data() {
    if !can_compare() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = long_one(dir.path());
    let pid = child.id().to_string();
    let told = Command::new("kill").args(["-INT", &pid]).status();
    assert!(told.expect("kill").success());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert_eq!(processes_in(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(dir.path()).expect("data").count(), 0);
}

#[test]
fn no_server_outlives_a_comparison_that_is_killed() {
    if !can_compare() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = long_one(dir.path());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    wait_until("the server outlived it", || {
        processes_in(dir.path()).is_empty()
    });
}
