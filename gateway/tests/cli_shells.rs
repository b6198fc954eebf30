//! Completions in the shells that complete, and the manual in the programs that show it.

mod cli_support;

use std::path::Path;
use std::process::{Command, Output};

use cli_support::{run, run_in};

/// A program's output; `None` where there is no such program.
fn ask(program: &str, arguments: &[&str], dir: &Path) -> Option<Output> {
    let asked = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .output();
    match asked {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("SKIPPED: no {program}; apt-get install {program}");
            None
        }
    }
}

fn completions(shell: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let script = run(&["completions", shell]);
    assert_eq!(script.code, Some(0), "{shell}: {script}");
    assert!(script.stderr.is_empty(), "{shell}");
    let file = dir.path().join("_omnirelay");
    std::fs::write(&file, &script.stdout).expect("it is written");
    (dir, file.display().to_string())
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

/// What is offered in every shell: commands, options, values.
const OFFERS: [(&[&str], &[&str]); 4] = [
    (&["omnirelay", "lease", "ta"], &["take"]),
    (&["omnirelay", "script", "run", "--dr"], &["--dry-run"]),
    (
        &["omnirelay", "lease", "stats", "--output", ""],
        &["table", "json"],
    ),
    (
        &["omnirelay", "lease", "stats", "--color", "a"],
        &["auto", "always"],
    ),
];

#[test]
fn bash_completes_commands_options_and_values() {
    let (dir, file) = completions("bash");
    for (words, offered) in OFFERS {
        let before = words[words.len() - 2];
        let last = words[words.len() - 1];
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "source '{file}'; COMP_WORDS=({}); COMP_CWORD={}; _omnirelay omnirelay '{last}' \
             '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1
        );
        let Some(output) = ask("bash", &["--norc", "-c", &line], dir.path()) else {
            return;
        };
        assert_eq!(lines(&output), offered, "{words:?}");
    }
}

#[test]
fn fish_completes_commands_options_values_and_files() {
    let (dir, file) = completions("fish");
    std::fs::write(dir.path().join("node.toml"), "").expect("it is written");
    let offered = |line: &str| {
        let line = format!("source '{file}'; complete -C '{line}'");
        let output = ask("fish", &["--no-config", "-c", &line], dir.path())?;
        let words = lines(&output).into_iter();
        Some(
            words
                .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>(),
        )
    };
    for (words, expected) in OFFERS {
        let Some(mut found) = offered(&words.join(" ")) else {
            return;
        };
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "{words:?}");
    }
    let files = offered("omnirelay serve --config no").expect("fish is there");
    assert_eq!(files, ["node.toml"]);
}

#[test]
fn zsh_loads_its_completions() {
    let (dir, _) = completions("zsh");
    let here = dir.path().display();
    let line = format!(
        "fpath=('{here}' $fpath); autoload -Uz compinit; compinit -u -d '{here}/dump'; \
         print -r -- $_comps[omnirelay]; autoload +X _omnirelay; whence -w _omnirelay"
    );
    if let Some(output) = ask("zsh", &["-fc", &line], dir.path()) {
        assert_eq!(lines(&output), ["_omnirelay", "_omnirelay: function"]);
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn completions_are_printed_for_shells_that_are_not_at_hand() {
    for shell in ["elvish", "powershell"] {
        let (_dir, file) = completions(shell);
        let script = std::fs::read_to_string(file).expect("the script");
        for word in ["dead-letters", "--continue-on-error"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let written = run_in(dir.path(), &["man", "--out", "man1"]);
    assert_eq!(written.to_string(), "");
    let pages = std::fs::read_dir(dir.path().join("man1")).expect("the pages");
    assert!(pages.count() > 30);
    let page = std::fs::read(dir.path().join("man1/omnirelay-lease-take.1")).expect("a page");
    let printed = run(&["man", "lease", "take"]);
    assert_eq!(printed.stdout.as_bytes(), page);
    insta::assert_snapshot!(run(&["man", "lease", "grab"]), @r"
    error[cli.usage]: there is no command `grab` in `omnirelay lease`
    help: `omnirelay --help` lists the commands
    exit 2
    ");
}

#[test]
fn a_page_reads_as_a_manual_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let written = run_in(dir.path(), &["man", "--out", "man1"]);
    assert_eq!(written.code, Some(0));
    let shown = ask(
        "mandoc",
        &["-T", "utf8", "-O", "width=100", "man1/omnirelay-wal-tail.1"],
        dir.path(),
    );
    if let Some(output) = shown {
        // What is overstruck is bold or underlined.
        let text = String::from_utf8_lossy(&output.stdout);
        let mut plain = String::new();
        for c in text.chars() {
            if c == '\u{8}' {
                plain.pop();
            } else {
                plain.push(c);
            }
        }
        insta::assert_snapshot!(plain, @r"
        OMNIRELAY-WAL-TAIL(1)                     OmniRelay Manual                     OMNIRELAY-WAL-TAIL(1)

        NAME
               omnirelay-wal-tail - Print a log's records in words

        SYNOPSIS
               omnirelay wal tail [OPTIONS] <DIR>

        DESCRIPTION
               Print a log's records in words

               Beside a running node the last of them may not be on disk yet; `omnirelay replication tail`
               shows what is committed.

        OPTIONS
               --log <N>
                      Only this log

               --shard <N>
                      Only records of this shard

               -f, --follow
                      Go on with what is written from now on

               -o, --output <FORMAT> [default: table]
                      How data is printed

                      Possible values:

                             • table: For people

                             • json: For programs: one JSON document a line

               --color <WHEN> [default: auto]
                      Colour what is printed: auto, always or never

               -h, --help
                      Print help (see a summary with '-h')

               <DIR>  A data directory, or one log's directory in it

        EXAMPLES
               omnirelay wal tail ./omnirelay-data --log 0 --shard 2
               omnirelay wal tail ./omnirelay-data/log-1 --follow

        EXIT STATUS
               0      It succeeded.

               1      The operation failed: the server refused it, or this machine did.

               2      The command line, the configuration or a script is wrong; nothing was tried.

               3      No server could be reached, or it went away before it answered.

               141    Whoever read standard output went away before the end.

        SEE ALSO
               omnirelay-wal(1)

        OmniRelay 0.1.0                                                                OMNIRELAY-WAL-TAIL(1)
        ");
    }
    for page in std::fs::read_dir(dir.path().join("man1")).expect("the pages") {
        let page = page.expect("an entry").path();
        let page = page.to_str().expect("a path that is text");
        let Some(output) = ask("mandoc", &["-T", "lint", "-W", "error", page], dir.path()) else {
            return;
        };
        assert!(output.status.success(), "{output:?}");
    }
}
