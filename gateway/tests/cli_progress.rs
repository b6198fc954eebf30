//! How far a command is, on a terminal and only there.

mod harness;

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Launch, item};

/// Wipes what was there.
const WIPE: &str = "\r\x1b[K";

/// Both ends of a terminal: its screen, and what a program has of it.
fn terminal() -> (File, OwnedFd) {
    let (mut screen, mut program) = (-1, -1);
    // SAFETY: two numbers to be filled in; the other three may be null.
    let made = unsafe {
        libc::openpty(
            &mut screen,
            &mut program,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are open, and nobody else has them.
    unsafe { (File::from_raw_fd(screen), OwnedFd::from_raw_fd(program)) }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay"));
    command.env_clear().args(arguments).stdout(Stdio::null());
    command
}

/// What a person sees of stderr.
fn seen(arguments: &[&str]) -> String {
    let (mut screen, program) = terminal();
    let mut child = command(arguments).stderr(program).spawn().expect("it runs");
    assert!(child.wait().expect("it ends").success());
    let mut shown = Vec::new();
    let mut part = [0; 4_096];
    // A screen whose program has gone ends with an error.
    while let Ok(bytes @ 1..) = screen.read(&mut part) {
        shown.extend_from_slice(&part[..bytes]);
    }
    String::from_utf8(shown).expect("text")
}

fn stopped_node(dir: &Path) {
    Launch::on(dir).start().stop();
}

#[test]
fn a_check_of_files_says_which_log_it_reads_and_leaves_a_clean_line() {
    let dir = tempfile::tempdir().expect("a directory");
    stopped_node(dir.path());
    let arguments = ["wal", "verify", dir.path().to_str().expect("text")];
    assert_eq!(seen(&arguments), format!("{WIPE}reading log 1 of 1{WIPE}"));
    let piped = command(&arguments).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "");
}

#[test]
fn a_drain_says_how_many_items_it_has_behind_which_its_result_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let address = node.address.to_string();
    let drain = ["lease", "drain", "--all", "--address", &address];
    node.connect().call("enqueue", item("a")).ok();
    let shown = seen(&drain);
    let (progress, result) = shown.rsplit_once(WIPE).expect("a clean line");
    let begins = format!("{WIPE}1 items drained");
    assert!(progress.starts_with(&begins), "{shown:?}");
    assert!(
        result.starts_with("1 items drained (request id"),
        "{shown:?}"
    );

    node.connect().call("enqueue", item("b")).ok();
    let piped = command(&drain).output().expect("it runs");
    let said = String::from_utf8_lossy(&piped.stderr);
    assert!(
        said.starts_with("1 items") && !said.contains('\r'),
        "{said:?}"
    );
}
