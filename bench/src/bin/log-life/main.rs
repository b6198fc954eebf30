//! `log-life` measures what only a whole process under load shows of its log: how long a restart
//! takes, how short trimming keeps the log, and whether log work ever makes a call wait.
//!
//! Each measurement starts the real server on a data directory of its own and drives it over
//! HTTP/2. Exit code 0: measured, and what must hold holds; 1: it does not, or something failed;
//! 2: usage.

mod args;
mod blame;
mod churn;
mod cpu_use;
mod disk;
mod log_work;
mod probes;
mod restart;
mod stalls;
mod table;
mod traffic;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use serde::Serialize;

use args::{Args, Verb};
use table::Table;

/// What a measurement found.
trait Report: Serialize {
    /// For eyes.
    fn table(&self) -> Table;
    /// What must hold and does not.
    fn broken(&self) -> Option<String>;
}

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.json;
    let result = match args.verb {
        Verb::Restart(options) => measured(restart::restart(&options), json),
        Verb::Churn(options) => measured(churn::churn(&options), json),
        Verb::Stalls(options) => measured(stalls::stalls(&options), json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a measurement and prints it.
fn measured<R: Report>(
    measurement: impl Future<Output = anyhow::Result<R>>,
    json: bool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, async {
        // Dropping the measurement ends its server and removes its directory.
        tokio::select! {
            report = measurement => report,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted: nothing was measured");
            }
        }
    })?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    match report.broken() {
        Some(what) => bail!("{what}"),
        None => Ok(()),
    }
}
