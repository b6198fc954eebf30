//! `omnirelay-loadgen` drives a running OmniRelay with lease cycles, measures them, and verifies
//! that every acknowledged item is leased and completed exactly once.

mod args;
mod cycle;
mod report;

use std::process::ExitCode;

use clap::Parser;
use omnirelay_loadgen::{OpenError, cpu};

use args::{Args, Command, Verb};
use cycle::Failure;

/// The run worked but what it found is wrong, or it could not be made at all.
const EXIT_FAILED: u8 = 1;
/// The command line makes no sense.
const EXIT_USAGE: u8 = 2;
/// The server could not be reached.
const EXIT_UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    let Args {
        verb: Verb::Cycle(command),
    } = Args::parse();
    match run(&command) {
        Ok(report) => {
            if command.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_table());
            }
            if report.verified() {
                return ExitCode::SUCCESS;
            }
            eprintln!("error: verification failed: {}", report.complaint());
            ExitCode::from(EXIT_FAILED)
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => EXIT_USAGE,
                Failure::Open(OpenError::Unreachable { .. }) => EXIT_UNREACHABLE,
                Failure::Open(OpenError::Refused(_)) | Failure::Io(_) => EXIT_FAILED,
            })
        }
    }
}

fn run(command: &Command) -> Result<report::Report, Failure> {
    command.check().map_err(Failure::Usage)?;
    if let Some(core) = command.cpu {
        cpu::pin(&[core]).map_err(|error| Failure::Usage(format!("--cpu {core}: {error}")))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Io)?;
    tokio::task::LocalSet::new().block_on(&runtime, cycle::cycle(command))
}
