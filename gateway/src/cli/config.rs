//! `omnirelay config`: check a configuration, or show it with its sources.

use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, Output, OutputArgs};
use super::serve::SourceArgs;

/// Check or show the configuration
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay config validate --config omnirelay.toml\n  omnirelay config show --explain"
)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a node would accept the configuration
    #[command(after_help = "EXAMPLE:\n  omnirelay config validate --config /etc/omnirelay.toml")]
    Validate {
        #[command(flatten)]
        sources: SourceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the effective configuration and where each value came from
    #[command(after_help = "EXAMPLE:\n  omnirelay config show --explain > omnirelay.toml")]
    Show {
        #[command(flatten)]
        sources: SourceArgs,
        /// How it is printed
        #[arg(long, short, value_enum, default_value_t = Format::Toml, value_name = "FORMAT")]
        output: Format,
        /// Describe every key: unit, bounds, and what it costs; in TOML
        #[arg(long)]
        explain: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A file that can be loaded again
    Toml,
    /// For people: a row for each key
    Table,
    /// For programs: one document with `config` and `sources`
    Json,
}

pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Validate { sources, output } => {
            sources.load()?;
            match output.output {
                Output::Table => output::write(b"ok\n"),
                Output::Json => output::json(&json!({"ok": true})),
            }
        }
        ConfigCommand::Show {
            sources,
            output,
            explain,
        } => {
            let config = sources.load()?;
            match output {
                Format::Table => {
                    let headings = ["KEY", "VALUE", "SOURCE"];
                    output::table(&headings, rows(&config.to_json()))
                }
                Format::Toml => output::write(config.to_toml(*explain).as_bytes()),
                Format::Json => output::json(&config.to_json()),
            }
        }
    }
}

/// Every key with its value, and what set it.
fn rows(document: &Value) -> Vec<Vec<String>> {
    let mut rows = output::rows_of(&document["config"]);
    for row in &mut rows {
        let source = document["sources"][&row[0]].as_str().unwrap_or("default");
        row.push(source.to_owned());
    }
    rows
}
