//! The command line: what is typed, what it does, and what is printed about it.
//!
//! Data goes to stdout, everything else to stderr. A command that does not succeed says
//! `error[<code>]: message`, then `help:` with the fix, and exits with 1 (the operation failed),
//! 2 (usage or configuration) or 3 (no server could be reached).

mod body;
pub mod client;
mod config;
mod demo;
mod failure;
mod introspect;
mod lease;
mod output;
mod progress;
mod replication;
mod request;
mod serve;
mod wal;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use failure::no_color;
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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Request(request::RequestArgs),
    Lease(lease::LeaseArgs),
    Config(config::ConfigArgs),
    Introspect(introspect::IntrospectArgs),
    Replication(replication::ReplicationArgs),
    Wal(wal::WalArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "EXAMPLE:\n  omnirelay completions bash > ~/.local/share/bash-completion/completions/omnirelay"
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
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let parsed = Cli::command()
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
        Command::Config(args) => config::run(&args),
        Command::Introspect(args) => introspect::run(&args),
        Command::Replication(args) => replication::run(&args),
        Command::Wal(args) => wal::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "omnirelay", &mut script);
            output::write(&script)
        }
    }
}

/// Prints help and versions as they are; turns what clap refuses into a failure of our form.
fn explain(error: &clap::Error, arguments: &[OsString]) -> Result<(), Failure> {
    let rendered = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let colour = std::io::stdout().is_terminal() && !no_color();
            let text = if colour {
                rendered.ansi().to_string()
            } else {
                rendered.to_string()
            };
            output::write(text.as_bytes())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(std::io::stderr().lock(), "{rendered}");
            Err(Failure::usage(
                "a command is missing",
                "name one of the commands above",
            ))
        }
        _ => Err(refusal(&rendered.to_string(), &command_path(arguments))),
    }
}

/// What clap says about a wrong command line, in our form.
fn refusal(text: &str, command: &str) -> Failure {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (text, usage) = text.split_once("\n\nUsage: ").unwrap_or((text, ""));
    let (message, _) = text
        .split_once("\n\nFor more information")
        .unwrap_or((text, ""));
    let help = match usage.lines().next() {
        Some(usage) => format!("usage: {}; add --help for the rest", usage.trim()),
        None => format!("`{command} --help` lists what it takes"),
    };
    Failure::usage(message.trim().replace("\n\n", "\n"), help)
}

/// The command that a command line names, as far as it goes.
fn command_path(arguments: &[OsString]) -> String {
    let mut path = String::from("omnirelay");
    let root = Cli::command();
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
