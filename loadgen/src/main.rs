//! `omnirelay-loadgen` drives a running OmniRelay with one of several scenarios, measures it, and
//! verifies that every acknowledged item is leased and completed exactly once.

mod args;
mod progress;
mod report;
mod scenario;

use std::process::ExitCode;

use clap::Parser;
use omnirelay_loadgen::{ConnectError, OpenError, cpu};

use args::{Args, Scenario};
use report::{Files, Report};
use scenario::Failure;

/// The run worked but what it found is wrong, or it could not be made at all.
const EXIT_FAILED: u8 = 1;
/// The command line makes no sense.
const EXIT_USAGE: u8 = 2;
/// The server could not be reached.
const EXIT_UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    let scenario = Args::parse().scenario;
    match run(&scenario) {
        Ok(report) if report.verdict.is_good() => ExitCode::SUCCESS,
        Ok(report) => {
            let complaint = report.verdict.complaint();
            eprintln!("error: verification failed: {complaint}");
            ExitCode::from(EXIT_FAILED)
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(exit_code(&failure))
        }
    }
}

fn exit_code(failure: &Failure) -> u8 {
    match failure {
        Failure::Usage(_) => EXIT_USAGE,
        Failure::Open(OpenError::Connect { error, .. }) => match error {
            ConnectError::Files(_) => EXIT_USAGE,
            ConnectError::Exhausted(_) => EXIT_FAILED,
            ConnectError::Unreachable { .. } | ConnectError::Untrusted(_) => EXIT_UNREACHABLE,
        },
        Failure::Open(OpenError::Refused(_)) | Failure::Io(_) | Failure::Stopped(_) => EXIT_FAILED,
    }
}

/// Makes a run, and says what came of it.
fn run(scenario: &Scenario) -> Result<Report, Failure> {
    scenario.check().map_err(Failure::Usage)?;
    let (_, process, output) = scenario.common();
    let files = Files::open(output).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(core) = process.cpu {
        cpu::pin(&[core]).map_err(|error| Failure::Usage(format!("--cpu {core}: {error}")))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Io)?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, scenario::run(scenario))?;
    if output.json {
        let document = serde_json::to_string(&report).expect("numbers serialise");
        println!("{document}");
    } else {
        print!("{report}");
    }
    let (title, settings) = scenario::words(scenario);
    files
        .write(&report, &title, &settings)
        .map_err(|error| Failure::Stopped(error.to_string()))?;
    Ok(report)
}
