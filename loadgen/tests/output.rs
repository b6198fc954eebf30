//! What a run shows and writes: the line on a terminal, histograms, pictures.

mod fake_server;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake_server::Fault;

fn command(address: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay-loadgen"));
    let common = ["cycle", "--duration", "500ms", "--connections", "2"];
    command
        .args(common)
        .args(["--address", &address.to_string()])
        .args(options);
    command
}

fn output(options: &[&str]) -> Output {
    let address = fake_server::start(Fault::None).address;
    command(address, options).output().unwrap()
}

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

/// What a person sees of stderr.
fn seen(options: &[&str]) -> String {
    let address = fake_server::start(Fault::None).address;
    let (mut screen, program) = terminal();
    let mut child = command(address, options)
        .stdout(Stdio::null())
        .stderr(program)
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut shown = Vec::new();
    let mut part = [0; 4_096];
    // A screen whose program has gone ends with an error.
    while let Ok(bytes @ 1..) = screen.read(&mut part) {
        shown.extend_from_slice(&part[..bytes]);
    }
    String::from_utf8(shown).unwrap()
}

#[test]
fn a_terminal_shows_how_it_goes_on_one_line_that_is_gone_at_the_end() {
    let seen = seen(&[]);
    for mention in [
        "measuring  ",
        " cycles/s",
        " in flight",
        "p99 ",
        "0 errors",
        "s left",
    ] {
        assert!(seen.contains(mention), "{mention} in {seen:?}");
    }
    assert!(!seen.contains('\n'), "{seen:?}");
    assert!(seen.ends_with("\r\x1b[K"), "{seen:?}");
}

#[test]
fn no_line_is_shown_to_a_pipe_or_where_none_is_wanted() {
    assert_eq!(seen(&["--no-progress"]), "");
    assert_eq!(String::from_utf8_lossy(&output(&[]).stderr), "");
}

#[test]
fn histograms_of_all_steps_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.hgrm");
    let run = output(&["--histogram", path.to_str().unwrap()]);
    assert!(run.status.success());
    for step in ["enqueue", "lease", "complete"] {
        let written = dir.path().join(format!("run-{step}.hgrm"));
        let text = std::fs::read_to_string(&written).unwrap();
        assert!(text.contains("1/(1-Percentile)"), "{text}");
        assert!(text.contains("#[Max "), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#')).skip(2);
        let rows: Vec<Vec<f64>> = lines
            .map(|line| {
                line.split_whitespace()
                    .map(|n| n.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(
            rows.windows(2).all(|pair| pair[0][0] <= pair[1][0]),
            "{text}"
        );
        assert!(
            rows.windows(2).all(|pair| pair[0][2] <= pair[1][2]),
            "{text}"
        );
        assert_eq!(rows.last().unwrap()[1], 1.0, "{text}");
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 3, "nothing else is left there");
}

#[test]
fn a_picture_of_all_steps_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.svg");
    std::fs::write(&path, "an older picture").unwrap();
    let run = output(&["--plot", path.to_str().unwrap()]);
    assert!(run.status.success());
    let picture = std::fs::read_to_string(&path).unwrap();
    assert!(picture.starts_with("<svg "), "{picture}");
    assert!(picture.trim_end().ends_with("</svg>"), "{picture}");
    assert_eq!(picture.matches("class=\"curve").count(), 3);
    for mention in [">enqueue<", ">lease<", ">complete<", "http, proto", "99 %"] {
        assert!(picture.contains(mention), "{mention} in {picture}");
    }
    let has_unit = picture.contains(" µs<") || picture.contains(" ms<");
    assert!(has_unit, "{picture}");
}

#[test]
fn a_file_that_cannot_be_written_is_named_before_anything_is_measured() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let dir = tempfile::tempdir().unwrap();
    for (option, name) in [("--histogram", "none/run.hgrm"), ("--plot", "none/run.svg")] {
        let path = dir.path().join(name);
        let path = path.to_str().unwrap();
        let output = command(nobody, &[option, path]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            words,
            format!("error: {option} {path}: No such file or directory (os error 2)\n")
        );
    }
}

#[test]
fn a_picture_stays_as_it_was_where_a_run_comes_to_nothing() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.svg"), dir.path().join("new.svg"));
    std::fs::write(&old, "an older picture").unwrap();
    for path in [&old, &new] {
        let output = command(nobody, &["--plot", path.to_str().unwrap()]).output();
        assert_eq!(output.unwrap().status.code(), Some(3));
    }
    assert_eq!(read(&old), "an older picture");
    assert!(!new.exists());
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
