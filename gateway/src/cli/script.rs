//! `omnirelay script`: calls from a file, one after the other, for smoke tests and runbooks.

mod check;
mod file;
mod report;
mod run;
mod step;
mod variables;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::address::{AdminServerArgs, RpcServerArgs};
use super::body::parse_pair;
use super::client::block_on;
use super::failure::{Exit, Failure};
use super::output::OutputArgs;
use super::secure::TlsArgs;
use super::trace::TraceArgs;
use file::Defaults;
use variables::{Variables, is_name};

/// Largest script, which is held in memory.
const SCRIPT_BYTES_MAX: u64 = 16 << 20;

/// Run calls from a file, for smoke tests and runbooks
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay script run lease-life.json\n  omnirelay script run lease-life.json --dry-run"
)]
pub(super) struct ScriptArgs {
    #[command(subcommand)]
    command: ScriptCommand,
}

#[derive(Debug, Subcommand)]
enum ScriptCommand {
    Run(RunArgs),
}

/// Run the steps of a script
///
/// A script is JSON, {"steps": [...]}, with steps of the types request, introspect and delay;
/// docs/operations.md describes their fields, and deploy/examples has one that lives a lease's
/// life. It is checked as a whole before the first step. A step that fails ends it.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("address", |arg| arg.help("The server of requests that name none, as host:port or https://host:port")),
    mut_arg("admin_address", |arg| {
        arg.help("The node of introspections that name none, as host:port or https://host:port of its admin server")
    }),
    after_help = "EXAMPLE:\n  omnirelay script run lease-life.json\n  omnirelay script run lease-life.json --dry-run\n  omnirelay script run lease-life.json --var resource=orders --continue-on-error -o json"
)]
struct RunArgs {
    /// The script; `-` reads stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// Check the script and list its steps; call nobody
    #[arg(long)]
    dry_run: bool,
    /// Go on behind a step that failed
    #[arg(long)]
    continue_on_error: bool,
    /// A value for ${NAME} in the script
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    var: Vec<(String, String)>,
    #[command(flatten)]
    server: RpcServerArgs,
    #[command(flatten)]
    node: AdminServerArgs,
    /// The name that calls, where a request names none
    #[arg(long, env = "OMNIRELAY_CALLER", hide_env_values = true, default_value = super::lease::CALLER_DEFAULT)]
    caller: String,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: ScriptArgs) -> Result<(), Failure> {
    let ScriptCommand::Run(args) = args.command;
    let name = match args.file.as_os_str() {
        file if file == "-" => "stdin".into(),
        file => file.to_string_lossy(),
    };
    let wrong = |reason: String| Failure {
        exit: Exit::Usage,
        ..Failure::failed(
            "script.file",
            format!("{name}: {reason}"),
            "nothing was run; docs/operations.md has every field, --dry-run checks without running",
        )
    };
    let text = read(&args.file).map_err(|error| wrong(format!("cannot read it: {error}")))?;
    let variables: Variables = args.var.into_iter().collect();
    let dir = args.file.parent().unwrap_or(Path::new(""));
    let steps = file::parse(&text, dir, &variables).map_err(wrong)?;
    let defaults = Defaults {
        address: args.server.address,
        admin_address: args.node.admin_address,
        caller: args.caller,
        trust: args.tls.trust()?,
        trace: args.trace.context(),
    };
    let mut report = report::Report::begin(args.output.output, steps.len())?;
    if args.dry_run {
        for step in &steps {
            report.planned(step)?;
        }
        return report.end();
    }
    block_on(run::run(
        &steps,
        variables,
        &defaults,
        args.continue_on_error,
        &mut report,
    ))?;
    report.end()
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // One byte more than there may be tells that there are too many.
    let limit = SCRIPT_BYTES_MAX + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(limit)
            .read_to_end(&mut text)?;
    }
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        let why = format!("it is longer than {SCRIPT_BYTES_MAX} bytes");
        return Err(std::io::Error::other(why));
    }
    Ok(text)
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = parse_pair(text)?;
    if is_name(&name) {
        Ok((name, value))
    } else {
        Err("a name has letters, digits and _, and does not begin with a digit".into())
    }
}
