//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use omnirelay_loadgen::parse_duration;

use super::programs::Program;
use super::rows::Row;

/// Compare the lease queue with Redis, beanstalkd, NATS and RabbitMQ
///
/// Runs the same work against each server and against OmniRelay: items of 256 bytes are stored,
/// fetched and removed, with as many connections and as many items in flight everywhere. The sides
/// take turns; each run starts its server anew, with empty data. The server and all that it starts
/// are on CPU 0, the client on CPU 1. Every item that a server acknowledged must come and go
/// exactly once, or the side has no figures and the exit code is 1.
///
/// What is not installed is named, with the command that gets it. BENCH_REDIS_SERVER,
/// BENCH_BEANSTALKD, BENCH_NATS_SERVER and BENCH_RABBITMQ_SERVER name programs that are elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only these programs, divided by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Program>,

    /// Only these rows, connections x items in flight on each, divided by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,

    /// How long a run measures, e.g. 500ms, 3s
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Runs of each side in each row; figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) runs: u16,

    /// Also measure OmniRelay with so many items waiting, and with none; with 10,000,000 a run takes
    /// some three minutes, 1.5 GB of memory and 10 GB of disk
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u64).range(1..=40_000_000))]
    pub(crate) backlog: Option<u64>,

    /// Bytes of an item's body
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=65_000))]
    pub(crate) size: u32,

    /// Where the servers keep their data while they run: the device that is measured
    #[arg(long, default_value = "target/peers")]
    pub(crate) dir: PathBuf,

    /// Also write every run's figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// The document whose section is written anew; pictures go to `plots` beside it
    #[arg(long, value_name = "FILE", default_value = "docs/performance.md")]
    pub(crate) write: PathBuf,

    /// Write no document and no pictures, print only
    #[arg(long)]
    pub(crate) no_write: bool,

    /// Take the omnirelay that is beside this program as it is, and do not build it
    #[arg(long)]
    pub(crate) no_build: bool,
}

const EXAMPLES: &str = "\
Examples:
  Everything, and its section in docs/performance.md:
    cargo run --release -p bench -- peers

  A first look at one row:
    cargo run --release -p bench -- peers --only omnirelay,redis --rows 16x64 --duration 1s --no-write

  Everything, with the long queue too:
    cargo run --release -p bench -- peers --backlog 10000000

  Five runs, with all figures for programs:
    cargo run --release -p bench -- peers --runs 5 --json peers.json";
