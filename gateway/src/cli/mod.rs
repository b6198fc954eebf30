//! The command line: what is typed, what it does, and what is printed about it.
//!
//! Data goes to stdout, everything else to stderr. A command that does not succeed says
//! `error[<code>]: message`, then `help:` with the fix, and exits with 1 (the operation failed),
//! 2 (usage or configuration) or 3 (no server could be reached).

mod address;
mod body;
mod cert;
pub mod client;
mod colour;
mod config;
mod demo;
mod failure;
mod introspect;
mod lease;
mod log_level;
mod man;
mod output;
mod progress;
mod quic;
mod replication;
mod request;
mod script;
mod secure;
mod serve;
mod target;
mod trace;
mod wal;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::logging;
pub(crate) use colour::on_stderr as colour_on_stderr;
pub use failure::{Exit, Failure};

/// RPC gateway and durable lease mesh
///
/// Services enqueue work about resources; workers lease, heartbeat, complete or fail it; every
/// change is a record in a log that survives crashes.
#[derive(Debug, Parser)]
#[command(
    name = "omnirelay",
    version,
    arg_required_else_help = true,
    after_help = "EXAMPLE:\n  omnirelay demo\n  omnirelay serve --data-dir /var/lib/omnirelay\n  omnirelay lease take --wait 10s"
)]
pub struct Cli {
    /// Colour what is printed: auto, always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value_t = ColorChoice::Auto,
        hide_possible_values = true,
        display_order = 900
    )]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Request(request::RequestArgs),
    Lease(lease::LeaseArgs),
    Cert(cert::CertArgs),
    Config(config::ConfigArgs),
    Introspect(introspect::IntrospectArgs),
    LogLevel(log_level::LogLevelArgs),
    Replication(replication::ReplicationArgs),
    Script(script::ScriptArgs),
    Wal(wal::WalArgs),
    Man(man::ManArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "EXAMPLE:\n  omnirelay completions bash > ~/.local/share/bash-completion/completions/omnirelay\n  omnirelay completions zsh > ~/.zfunc/_omnirelay\n  omnirelay completions fish > ~/.config/fish/completions/omnirelay.fish"
    )]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    colour::choose(&arguments);
    let code = match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit as u8)
        }
    };
    logging::flush();
    code
}

fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let parsed = command()
        .try_get_matches_from(arguments)
        .and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return explain(&error, arguments),
    };
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Request(args) => request::run(&args),
        Command::Lease(args) => lease::run(args),
        Command::Cert(args) => cert::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Introspect(args) => introspect::run(&args),
        Command::LogLevel(args) => log_level::run(&args),
        Command::Replication(args) => replication::run(&args),
        Command::Script(args) => script::run(args),
        Command::Wal(args) => wal::run(&args),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "omnirelay", &mut script);
            output::write(&script)
        }
    }
}

/// The whole command line, as it is parsed and as it describes itself.
///
/// Examples are printed as they can be copied: what the width of the terminal would break is held
/// together until it has been laid out.
pub fn command() -> clap::Command {
    fn with_examples(command: clap::Command) -> clap::Command {
        let command = command.mut_subcommands(with_examples);
        let Some(help) = command.get_after_help().map(ToString::to_string) else {
            return command;
        };
        let heading = colour::HEADING;
        let help = help
            .replace(' ', UNBROKEN)
            .replace("EXAMPLE:", &format!("{heading}EXAMPLE:{heading:#}"));
        command.after_help(StyledStr::from(help))
    }
    with_examples(Cli::command()).styles(colour::HELP)
}

/// Stands for a space that no line may be broken at, while help is laid out.
const UNBROKEN: &str = "\u{e000}";

/// Prints help and versions as they are; turns what clap refuses into a failure of our form.
fn explain(error: &clap::Error, arguments: &[OsString]) -> Result<(), Failure> {
    let rendered = |is_coloured: bool| {
        let text = error.render();
        let text = if is_coloured {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        text.replace(UNBROKEN, " ")
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::write(rendered(colour::on_stdout()).as_bytes())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let help = rendered(colour::on_stderr());
            let _ = write!(std::io::stderr().lock(), "{help}");
            Err(Failure::usage(
                "a command is missing",
                "name one of the commands above",
            ))
        }
        _ => Err(refusal(&rendered(false), &command_path(arguments))),
    }
}

/// What clap says about a wrong command line, in our form.
fn refusal(text: &str, command: &str) -> Failure {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (text, usage) = text.split_once("\n\nUsage: ").unwrap_or((text, ""));
    let (message, _) = text
        .split_once("\n\nFor more information")
        .unwrap_or((text, ""));
    let (tips, message): (Vec<_>, Vec<_>) = message
        .lines()
        .filter(|line| !line.trim().is_empty())
        .partition(|line| line.trim_start().starts_with("tip: "));
    let mut help: Vec<String> = tips
        .iter()
        .map(|tip| tip.trim_start().trim_start_matches("tip: ").to_owned())
        .collect();
    help.push(match usage.lines().next() {
        Some(usage) => format!("usage: {}; add --help for the rest", usage.trim()),
        None => format!("`{command} --help` lists what it takes"),
    });
    Failure::usage(message.join("\n"), help.join("; "))
}

/// The command that a command line names, as far as it goes.
fn command_path(arguments: &[OsString]) -> String {
    let mut path = String::from("omnirelay");
    let root = command();
    let mut command = &root;
    for argument in arguments.iter().skip(1) {
        match command.find_subcommand(argument) {
            Some(inner) => command = inner,
            None => break,
        }
        path.push(' ');
        path.push_str(command.get_name());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    /// What stands behind `EXAMPLE:` in each command's help.
    fn examples(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string);
        let lines = help.unwrap_or_default();
        let own = lines.lines().skip(1).map(|line| line.trim().to_owned());
        let inner = command.get_subcommands().flat_map(examples);
        own.chain(inner).collect()
    }

    #[test]
    fn every_example_is_a_command_line() {
        let examples = examples(&Cli::command());
        assert!(examples.len() > 40, "{examples:?}");
        for example in examples {
            let words = shlex::split(&example).expect(&example);
            let mut calls = 0;
            for call in words.split(|word| ["|", "&&", ">", "xargs"].contains(&&**word)) {
                if call.first().is_none_or(|word| word != "omnirelay") {
                    continue;
                }
                let mut call = call.to_vec();
                // It gets its last arguments from the pipe.
                if example.contains("xargs") && call.last().is_some_and(|word| word == "redrive") {
                    call.push("1".into());
                }
                calls += 1;
                if let Err(error) = command().try_get_matches_from(&call) {
                    panic!("{example}: {error}");
                }
            }
            assert!(calls > 0, "{example}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let example = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(example.contains("EXAMPLE:\n  omnirelay"), "{path}");
            for inner in command
                .get_subcommands()
                .filter(|inner| inner.get_name() != "help")
            {
                check(inner, &path);
            }
        }
        check(&Cli::command(), "");
    }
}
