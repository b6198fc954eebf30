//! Colours: for people who look on, and for whoever insists.

mod cli_support;

use std::path::Path;

use cli_support::{Outcome, command, outcome};

/// A heading, a table and a refusal, each with colours where there are any.
const COMMANDS: [&[&str]; 3] = [
    &["lease", "--help"],
    &["config", "show", "-o", "table"],
    &["lease", "steal"],
];

/// Flags, environment, and whether there are colours then.
type Case = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    bool,
);

fn run(arguments: &[&str], flags: &[&str], environment: &[(&str, &str)]) -> Outcome {
    outcome(
        command(Path::new("/"))
            .args(arguments)
            .args(flags)
            .envs(environment.iter().copied()),
    )
}

fn is_coloured(outcome: &Outcome) -> bool {
    outcome.stdout.contains('\x1b') || outcome.stderr.contains('\x1b')
}

#[test]
fn a_pipe_gets_no_colours_unless_somebody_insists() {
    let cases: [Case; 9] = [
        (&[], &[], false),
        (&[], &[("TERM", "xterm-256color")], false),
        (&["--color", "auto"], &[], false),
        (&["--color", "always"], &[], true),
        (&["--color=always"], &[("NO_COLOR", "1")], true),
        (&[], &[("CLICOLOR_FORCE", "1")], true),
        (&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        (&[], &[("NO_COLOR", "")], false),
    ];
    for arguments in COMMANDS {
        for (flags, environment, wanted) in cases {
            let said = run(arguments, flags, environment);
            let what = format!("{arguments:?} {flags:?} {environment:?}: {said}");
            assert_eq!(is_coloured(&said), wanted, "{what}");
        }
    }
}

/// `script` runs a command on a terminal of its own.
#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let omnirelay = env!("CARGO_BIN_EXE_omnirelay");
    let on_terminal = |line: &str, environment: &[(&str, &str)]| {
        let mut terminal = std::process::Command::new("script");
        terminal.args(["-qec", &format!("{omnirelay} {line}"), "/dev/null"]);
        terminal
            .env_clear()
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh");
        terminal.envs(environment.iter().copied());
        terminal.stdin(std::process::Stdio::null());
        terminal
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if on_terminal("--version", &[]).is_err() {
        eprintln!("SKIPPED: no script; apt-get install bsdutils");
        return;
    }
    for arguments in COMMANDS {
        let line = arguments.join(" ");
        let said = |environment: &[(&str, &str)]| on_terminal(&line, environment).expect("it runs");
        assert!(said(&[]).contains('\x1b'), "{line}");
        assert!(!said(&[("NO_COLOR", "1")]).contains('\x1b'), "{line}");
        assert!(!said(&[("TERM", "dumb")]).contains('\x1b'), "{line}");
        assert!(!said(&[("CLICOLOR", "0")]).contains('\x1b'), "{line}");
    }
    let json = on_terminal("config show -o json", &[]).expect("it runs");
    assert!(!json.contains('\x1b'), "{json}");
}
