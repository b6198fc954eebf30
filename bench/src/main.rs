//! `bench`: measurements of OmniRelay, each a command.

mod peers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measurements of OmniRelay
///
/// Exit code 1: what was measured is wrong, or could not be measured. 2: a wrong command line.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Peers(peers::Args),
}

fn main() -> ExitCode {
    let Command::Peers(args) = Args::parse().command;
    match peers::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
