//! `bench`: measurements of OmniRelay, each a command.

mod bare_quic;
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
    BareQuic(bare_quic::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Peers(args) => peers::run(&args),
        Command::BareQuic(args) => bare_quic::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
