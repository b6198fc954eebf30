//! What the command says about itself.

mod cli_support;

use std::path::Path;
use std::process::{Command, Stdio};

use cli_support::{command, outcome, run};

/// Every command's words, the whole tree.
fn commands() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            walk(inner, &path, found);
        }
    }
    let mut found = Vec::new();
    walk(&omnirelay::cli::command(), &[], &mut found);
    found
}

fn help(path: &[String]) -> String {
    let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let outcome = run(&words);
    assert_eq!(outcome.code, Some(0), "{words:?}: {outcome}");
    assert!(outcome.stderr.is_empty(), "{words:?}");
    outcome.to_string()
}

/// Accept what changed with `INSTA_UPDATE=always cargo test -p omnirelay --test cli_help`.
#[test]
fn every_command_describes_itself() {
    let commands = commands();
    assert!(commands.len() > 30, "{commands:?}");
    for path in commands {
        let name = [&["omnirelay".to_owned()], &path[..]].concat().join("_");
        insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, help(&path));
        });
    }
}

#[test]
fn the_version_is_printed() {
    insta::assert_snapshot!(run(&["--version"]), @"omnirelay 0.1.0");
}

/// The lines behind `EXAMPLE:` in the help.
fn examples(path: &[String]) -> Vec<String> {
    let help = help(path);
    let (_, examples) = help
        .split_once("\nEXAMPLE:\n")
        .expect("there is an example");
    examples
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

/// What runs as it stands in the help: no server is needed, and nothing outside a directory is
/// written.
#[test]
fn the_examples_that_need_no_server_work_as_they_are_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = "listen = \"127.0.0.1:7420\"\n";
    std::fs::write(dir.path().join("omnirelay.toml"), config).expect("it is written");
    let script = include_str!("../../deploy/examples/lease-life.json");
    std::fs::write(dir.path().join("lease-life.json"), script).expect("it is written");
    let home = dir.path().to_str().expect("a path that is text");
    for folder in [
        ".zfunc",
        ".config/fish/completions",
        ".local/share/bash-completion/completions",
    ] {
        std::fs::create_dir_all(dir.path().join(folder)).expect("a directory");
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_omnirelay")).parent();
    let bin = bin.and_then(Path::to_str).expect("a path that is text");
    let mut tried = 0;
    for path in commands() {
        let offline = match path.first().map(String::as_str) {
            Some("config" | "completions" | "man") => true,
            Some("script") => false,
            _ => continue,
        };
        for example in examples(&path) {
            if !(offline || example.contains("--dry-run")) || example.contains("man -l") {
                continue;
            }
            // The file stands for the one that an operator has.
            let example = example.replace("/etc/omnirelay.toml", "omnirelay.toml");
            let output = Command::new("sh")
                .args(["-c", &example])
                .env_clear()
                .env("HOME", home)
                .env("PATH", format!("{bin}:/usr/bin:/bin"))
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .output()
                .expect("a shell");
            assert!(output.status.success(), "{example}: {output:?}");
            tried += 1;
        }
    }
    assert!(tried >= 9, "{tried}");
}

#[test]
fn an_example_stays_on_one_line_however_narrow_the_terminal_is() {
    let narrow = outcome(
        command(Path::new("/"))
            .args(["lease", "fail", "--help"])
            .env("COLUMNS", "40"),
    );
    assert!(
        narrow
            .stdout
            .contains("-0b0c0d0e0f10 --reason 'disk full' --delay 1m\n"),
        "{narrow}"
    );
}
