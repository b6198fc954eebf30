//! OmniRelay's lease queue beside its peers, under the same work.

mod args;
mod bare;
mod cpu_time;
mod device;
mod document;
mod drive;
mod echo;
mod figures;
mod fixed_rate;
mod floor;
mod goals;
mod long_queue;
mod machine;
mod measure;
mod numbers;
mod process;
mod programs;
mod report;
mod results;
mod rows;
mod sides;
mod two_cores;
mod wire;

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use omnirelay_loadgen::cpu;
use omnirelay_loadgen::plot::{Curve, picture};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

pub(crate) use self::args::Args;
use self::process::{CLIENT_CPU, SERVER_CPU};
use self::results::{Results, RowResults};

/// Compares, prints, and writes.
///
/// # Errors
/// If something could not be measured, or a side failed its verification.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Nothing is measured for a document that cannot be written.
    let document = match args.no_write {
        true => None,
        false => Some(read(&args.write)?),
    };
    build(args)?;
    cpu::pin(&[SERVER_CPU]).context("CPU 0, for the servers")?;
    cpu::pin(&[CLIENT_CPU]).context("CPU 1, for the client: a comparison needs two CPUs")?;
    fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measuring = LocalSet::new();
    let measuring = measuring.run_until(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            results = measure::all(args) => results,
            _ = interrupt.recv() => bail!("interrupted: nothing was written"),
            _ = terminate.recv() => bail!("told to end: nothing was written"),
        }
    });
    let results = runtime.block_on(measuring)?;
    println!("{}", report::markdown(&results, false));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&results)?;
        fs::write(path, json + "\n").with_context(|| path.display().to_string())?;
    }
    if let [first, ..] = results.failures().as_slice() {
        bail!("{first}\nnothing was written: a comparison with a side that fails is none");
    }
    match document {
        Some(document) => write(&args.write, &document, &results),
        None => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let document = fs::read_to_string(path).with_context(|| {
        format!(
            "{}: run it where the sources are, name a document with --write, or use --no-write",
            path.display()
        )
    })?;
    document::with_section(&document, "").with_context(|| path.display().to_string())?;
    Ok(document)
}

/// Has cargo build the server where this program was started by it.
fn build(args: &Args) -> anyhow::Result<()> {
    let Some(cargo) = std::env::var_os("CARGO").filter(|_| !args.no_build) else {
        return Ok(());
    };
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "omnirelay"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    eprintln!("building the server: {command:?}");
    match command.status().context("cargo")? {
        status if status.success() => Ok(()),
        status => bail!("the server could not be built: {status}"),
    }
}

/// Writes the document's section, and its pictures beside it.
fn write(path: &Path, document: &str, results: &Results) -> anyhow::Result<()> {
    let plots = path.with_file_name("plots");
    let put = |path: &Path, text: &str| -> anyhow::Result<()> {
        let written: io::Result<()> = fs::write(path, text);
        written.with_context(|| path.display().to_string())?;
        eprintln!("written: {}", path.display());
        Ok(())
    };
    fs::create_dir_all(&plots).with_context(|| plots.display().to_string())?;
    for row in &results.rows {
        put(&plots.join(report::picture_name(row.row)), &plot(row))?;
    }
    let section = report::markdown(results, true);
    put(path, &document::with_section(document, &section)?)
}

/// How long each side takes to store an item.
fn plot(row: &RowResults) -> String {
    let latencies: Vec<_> = row.sides.iter().map(|side| side.latencies()).collect();
    let curves: Vec<_> = row
        .sides
        .iter()
        .zip(&latencies)
        .map(|(side, latencies)| Curve {
            name: side.side.short_name(),
            histogram: &latencies.enqueue,
        })
        .collect();
    let title = format!("Enqueue latency, {}", row.row);
    let settings = "connections × items in flight on each; all runs together";
    picture(&curves, &title, settings)
}
