//! A few rows of `quic-faults`, so that a promise that breaks is noticed soon.

use std::path::Path;
use std::process::Command;

/// Rows that find most in little time, judged without latencies: the machine may be busy.
const ROWS: [&str; 4] = ["everything", "small-path", "certificates", "versions"];

#[test]
fn promises_hold_on_a_bad_network_and_under_abuse() {
    let program = Path::new(env!("CARGO_BIN_EXE_quic-faults"));
    if !program.with_file_name("omnirelay").is_file() {
        eprintln!("skipped: there is no server beside {}", program.display());
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(program);
    command.current_dir(dir.path());
    command.args(["--busy", "--json", "--seed", "7", "--seconds", "2"]);
    for row in ROWS {
        command.args(["--row", row]);
    }
    let ended = command.output().expect("it runs");
    let found = String::from_utf8_lossy(&ended.stdout);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{found}\n{said}");
    for row in ROWS {
        assert!(found.contains(&format!(r#""row":"{row}""#)), "{found}");
    }
}

#[test]
fn a_row_that_is_not_there_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quic-faults"));
    let ended = command
        .args(["--row", "nothing"])
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("--list says which there are"), "{said}");
}
