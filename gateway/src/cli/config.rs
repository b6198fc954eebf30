//! `omnirelay config`: check a configuration, or show it with its sources.

use clap::Subcommand;

use super::failure::Failure;
use super::output;
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
    },
    /// Print the effective configuration and where each value came from
    #[command(after_help = "EXAMPLE:\n  omnirelay config show --explain > omnirelay.toml")]
    Show {
        #[command(flatten)]
        sources: SourceArgs,
        /// How it is printed
        #[arg(long, short, value_enum, default_value_t = Format::Toml, value_name = "FORMAT")]
        output: Format,
        /// Describe every key: unit, bounds, and what it costs
        #[arg(long)]
        explain: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A file that can be loaded again
    Toml,
    /// One document with `config` and `sources`
    Json,
}

pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Validate { sources } => {
            sources.load()?;
            output::write(b"ok\n")
        }
        ConfigCommand::Show {
            sources,
            output,
            explain,
        } => {
            let config = sources.load()?;
            match output {
                Format::Toml => output::write(config.to_toml(*explain).as_bytes()),
                Format::Json => output::json(&config.to_json()),
            }
        }
    }
}
