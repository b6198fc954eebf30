//! `quic-faults` proves how the server and the client library behave over QUIC on bad networks
//! and under abuse, and makes the tables of `docs/testing.md`.

mod abuse;
mod args;
mod idle;
mod ledger;
mod network;
mod node;
mod proxy;
mod refused;
mod report;
mod rows;
mod tries;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;

use args::Args;
use report::Found;
use rows::{Kind, ROWS, Row};

/// What a row may take beside the time for which it puts load on the server: blackholes, timeouts
/// and ten thousand handshakes are far shorter.
const ROW_MAX: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for row in &ROWS {
            println!("{:<14}{}", row.name, row.what);
        }
        return ExitCode::SUCCESS;
    }
    tries::count();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the rows and says what came of them; whether all promises held.
fn run(args: &Args) -> anyhow::Result<bool> {
    let wanted = |row: &&Row| args.rows.is_empty() || args.rows.contains(&row.name);
    let mut all = Vec::new();
    for row in ROWS.iter().filter(wanted) {
        eprintln!("{}: {}", row.name, row.what);
        let found =
            on_runtime(found(args, row), args.load_time() + ROW_MAX).with_context(|| row.name)?;
        for one in &found {
            if args.json {
                println!("{}", serde_json::to_string(one)?);
            }
        }
        all.extend(found);
    }
    if let Some(path) = &args.write {
        report::write(path, &all)?;
    } else if !args.json {
        println!("{}", report::markdown(&all));
    }
    let mut holds = true;
    for (row, broken) in all.iter().map(Found::broken) {
        for why in broken {
            holds = false;
            eprintln!("broken: {row}: {why}");
        }
    }
    Ok(holds)
}

async fn found(args: &Args, row: &Row) -> anyhow::Result<Vec<Found>> {
    let name = row.name;
    Ok(match row.kind {
        Kind::Network(path) => vec![Found::Network(network::run(args, name, path).await?)],
        Kind::Abuse(attack) => vec![Found::Abuse(abuse::run(args, name, attack).await?)],
        Kind::Idle => vec![Found::Idle(idle::run(args, name).await?)],
        Kind::SmallPath => {
            let found = refused::small_path(args, name).await?;
            found.into_iter().map(Found::Refused).collect()
        }
        Kind::Certificates => {
            let found = refused::certificates(args, name).await?;
            found.into_iter().map(Found::Refused).collect()
        }
    })
}

/// Each row has a runtime of its own, so that nothing of one is left for the next, and its time: one
/// that hangs is a finding.
fn on_runtime<T>(
    row: impl Future<Output = anyhow::Result<T>>,
    time: Duration,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        // Dropping the row ends its server and removes its directory.
        tokio::select! {
            found = row => found,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted");
            }
            () = tokio::time::sleep(time) => bail!("it has not ended within {time:?}"),
        }
    })
}
