//! `omnirelay serve`, and the options that make a node's configuration.

use std::path::PathBuf;

use crate::config::{self, Config, Flag, Sources};
use crate::logging;
use crate::serve::ServeError;

use super::failure::{Failure, chain};

/// Where a node's configuration comes from, weakest first: defaults, file, environment
/// (`OMNIRELAY_…`), these options, `--set`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SourceArgs {
    /// TOML file with the configuration
    #[arg(
        long,
        value_name = "FILE",
        env = "OMNIRELAY_CONFIG",
        hide_env_values = true,
        value_hint = clap::ValueHint::FilePath
    )]
    pub(super) config: Option<PathBuf>,
    /// Where RPC is served; port 0 picks one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
    /// Where RPC over QUIC is served [default: as --listen]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) quic_listen: Option<String>,
    /// Where probes, metrics and introspection are served [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin_listen: Option<String>,
    /// Directory of the logs [default: ./omnirelay-data]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(super) data_dir: Option<String>,
    /// CPUs to run on: a count, or numbers such as 0,2 [default: all]
    #[arg(long, value_name = "CORES")]
    pub(super) cores: Option<String>,
    /// Allow listening beyond loopback without TLS
    #[arg(long)]
    pub(super) insecure: bool,
    /// Set any key, such as namespaces.resourcelease.lease_duration=30s
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

impl SourceArgs {
    /// Loads the configuration with this process's environment.
    ///
    /// # Errors
    /// `config.*`, exit code 2.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let mut sources = Sources::from_process();
        sources.file.clone_from(&self.config);
        sources.set.clone_from(&self.set);
        let insecure = self.insecure.then(|| "true".to_owned());
        let flags = [
            ("--listen", "listen", &self.listen),
            ("--quic-listen", "quic_listen", &self.quic_listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--cores", "cores", &self.cores),
            ("--insecure", "insecure", &insecure),
        ];
        for (name, key, value) in flags {
            if let Some(value) = value {
                sources.flags.push(Flag {
                    name,
                    key,
                    value: value.clone(),
                });
            }
        }
        Ok(config::load(&sources)?)
    }
}

/// Run a node until it is told to stop
///
/// SIGTERM or Ctrl-C drains it: it stops accepting, finishes what is in flight, syncs and exits 0.
/// A second one, or `drain_timeout`, ends it at once; what was acknowledged is safe either way.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay serve --data-dir /var/lib/omnirelay --set 'namespaces.\"resourcelease.users\".shards=8'"
)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    sources: SourceArgs,
}

/// Runs a node to its end.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.sources.load()?;
    logging::init(&config.log).map_err(|error| failed(&ServeError::Control(error)))?;
    crate::serve::run(&config).map_err(|error| failed(&error))
}

/// A node that did not start, or did not end well.
pub(super) fn failed(error: &ServeError) -> Failure {
    let (code, help) = match error {
        ServeError::DataDir(_) => (
            "serve.data_dir",
            "name another directory with --data-dir, or put this one right",
        ),
        ServeError::ClockTooLate => (
            "serve.clock",
            "set the system's clock; a log whose times are that late cannot be used any more",
        ),
        ServeError::Tls(_) => (
            "serve.tls",
            "put the file right, or name another with tls.cert, tls.key and tls.client_ca; \
             `omnirelay cert inspect FILE` shows what is in one",
        ),
        ServeError::Listen { .. } => (
            "serve.listen",
            "stop what uses the address, or name another; port 0 picks one",
        ),
        ServeError::Start(_) => (
            "serve.start",
            "check --cores, the driver and this process's limits",
        ),
        ServeError::Control(_) => (
            "serve.control",
            "check this process's limits on threads and files",
        ),
        ServeError::CutShort => (
            "serve.cut_short",
            "raise drain_timeout to let longer calls finish",
        ),
    };
    Failure::failed(code, chain(error), help)
}
