//! What a node is shipped in: the systemd unit and the container image, held against the program
//! that they start and, where this machine can, against systemd itself.

mod harness;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::is_there;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a command that begins with `serve` would run with; it must be one that the program takes.
fn configuration<S: AsRef<OsStr>>(command: &[S]) -> Value {
    let (serve, options) = command.split_first().expect("a command");
    assert_eq!(serve.as_ref(), "serve");
    let output = Command::new(env!("CARGO_BIN_EXE_omnirelay"))
        .env_clear()
        .args(["config", "show", "--output", "json"])
        .args(options)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["config"].take()
}

fn text<'a>(configuration: &'a Value, key: &str) -> &'a str {
    configuration[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key}"))
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("an address").1
}

fn seconds(duration: &str) -> u64 {
    let number = duration.strip_suffix('s').unwrap_or(duration);
    number.parse().expect("seconds")
}

/// The words of the instructions of that name, in their order.
fn instructions<'a>(containerfile: &'a str, name: &str) -> Vec<&'a str> {
    containerfile
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .collect()
}

fn only<'a>(containerfile: &'a str, name: &str) -> &'a str {
    match instructions(containerfile, name)[..] {
        [words] => words,
        ref found => panic!("{name}: {found:?}"),
    }
}

/// The commands in text, each with what follows on its next lines after a backslash.
fn commands(text: &str, start: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n#", " ").replace("\\\n", " ");
    let lines = joined
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']));
    lines
        .filter(|line| line.starts_with(start))
        .map(|line| shlex::split(line).expect("a command"))
        .collect()
}

#[test]
fn the_image_is_what_the_program_and_its_tree_say() {
    let containerfile = read("deploy/container/Containerfile");
    let only = |name| only(&containerfile, name);
    let defaults = configuration(&["serve"]);

    let toolchain: toml::Table = read("rust-toolchain.toml").parse().expect("TOML");
    let channel = toolchain["toolchain"]["channel"].as_str();
    let pinned = containerfile
        .lines()
        .find_map(|line| line.strip_prefix("ARG RUST="));
    assert_eq!(pinned, channel, "the compiler");

    let command: Vec<String> = serde_json::from_str(only("CMD")).expect("the exec form");
    let volume = only("VOLUME");
    assert_eq!(text(&configuration(&command), "data_dir"), volume);
    let copies = instructions(&containerfile, "COPY");
    assert!(
        copies.contains(&"--from=build --chown=65532:65532 /image/volume/ /"),
        "the volume is the user's: {copies:?}"
    );
    assert!(containerfile.contains(&format!("mkdir -p /image/volume{volume}")));
    assert_eq!(only("USER"), "65532:65532", "a number, for those who check");
    assert_eq!(only("ENTRYPOINT"), r#"["/omnirelay"]"#);
    assert_eq!(only("STOPSIGNAL"), "SIGTERM");
    let ports: Vec<String> = ["listen", "admin_listen"]
        .map(|key| format!("{}/tcp", port(text(&defaults, key))))
        .into();
    assert_eq!(only("EXPOSE"), ports.join(" "));
}

#[test]
fn every_way_to_run_the_image_that_is_told_of_works() {
    let drain = seconds(text(&configuration(&["serve"]), "drain_timeout"));
    for told in ["deploy/container/Containerfile", "docs/operations.md"] {
        let commands = commands(&read(told), "podman run ");
        assert!(commands.len() >= 2, "{told}: {commands:?}");
        let mut published = 0;
        for command in &commands {
            let after = |option: &str| {
                let at = command.iter().position(|word| word == option);
                at.map(|at| command[at + 1].as_str())
            };
            let stop = seconds(after("--stop-timeout").expect("time to drain"));
            assert!(stop > drain, "{told}: {command:?}");
            assert_eq!(after("-v"), Some("omnirelay-data:/data"), "{told}");

            let image = command.iter().rposition(|word| word == "omnirelay");
            let serve = &command[image.expect("the image") + 1..];
            if after("-p").is_none() {
                assert_eq!(after("--network"), Some("host"), "{told}: {command:?}");
                assert!(serve.is_empty(), "{told}: {command:?}");
                continue;
            }
            published += 1;
            let configuration = configuration(serve);
            assert_eq!(text(&configuration, "data_dir"), "/data", "{told}");
            for key in ["listen", "admin_listen"] {
                let inside = text(&configuration, key);
                assert!(inside.starts_with("0.0.0.0:"), "{told}: {inside}");
                let port = port(inside);
                let publish = format!("127.0.0.1:{port}:{port}");
                assert!(command.contains(&publish), "{told}: {command:?}");
            }
        }
        assert!(published >= 1, "{told}: {commands:?}");
    }
}

/// The values of a setting in the unit.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .collect()
}

#[test]
fn the_units_command_is_one_that_the_program_takes() {
    let unit = read("deploy/systemd/omnirelay.service");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("omnirelay.toml");
    fs::write(&file, "cores = 1\n").expect("it is written");

    let starts = settings(&unit, "ExecStart");
    assert_eq!(starts.len(), 1, "{starts:?}");
    let command = shlex::split(starts[0]).expect("a command");
    let (program, command) = command.split_first().expect("a program");
    assert_eq!(program, "/usr/local/bin/omnirelay");
    let command: Vec<&OsStr> = command
        .iter()
        .map(|word| match word.as_str() {
            "/etc/omnirelay/omnirelay.toml" => file.as_os_str(),
            word => OsStr::new(word),
        })
        .collect();
    let configuration = configuration(&command);
    assert_eq!(configuration["cores"], 1, "the file is read");
    let state = format!("/var/lib/{}", settings(&unit, "StateDirectory")[0]);
    assert_eq!(text(&configuration, "data_dir"), state);
    let stop = seconds(settings(&unit, "TimeoutStopSec")[0]);
    assert!(stop > seconds(text(&configuration, "drain_timeout")));
}

/// systemd-analyze about the unit, with a program that is there in the place of the installed one.
fn analyze(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("omnirelay.service");
    let unit = read("deploy/systemd/omnirelay.service");
    let here = unit.replace("/usr/local/bin/omnirelay", env!("CARGO_BIN_EXE_omnirelay"));
    assert_ne!(unit, here, "the program is named");
    fs::write(&file, here).expect("it is written");
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(&file)
        .output()
        .expect("systemd-analyze runs")
}

#[test]
fn systemd_takes_every_line_of_the_unit() {
    if !is_there("systemd-analyze") {
        eprintln!("SKIPPED: no systemd-analyze; apt-get install systemd");
        return;
    }
    let output = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let said = String::from_utf8_lossy(&output.stderr);
    // Lines about other units of this machine are not ours.
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("omnirelay.service"), "{said}");

    // The sum of what it is exposed to, in tenths: 14 with systemd 252, of 100 for no sandbox.
    let output = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_unit_lives_its_life_in_a_systemd_of_its_own() {
    let test = "a life of the unit";
    if !is_there("systemd-nspawn") {
        eprintln!("SKIPPED: {test} needs systemd-nspawn; apt-get install systemd-container");
        return;
    }
    if !harness::mounts::allowed(test) {
        return;
    }
    let output = Command::new(root().join("deploy/systemd/try"))
        .arg(env!("CARGO_BIN_EXE_omnirelay"))
        .output()
        .expect("the script runs");
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: {test}: no systemd boots here: {said}");
        return;
    }
    assert!(output.status.success(), "{output:?}\n{said}");
    assert!(said.ends_with("all is well\n"), "{said}");
}
