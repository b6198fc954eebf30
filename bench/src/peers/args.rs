//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use omnirelay_loadgen::parse_duration;

use super::goals::BACKLOG_ITEMS;
use super::programs::Program;
use super::rows::Row;

/// What is measured unless something else is asked for.
const DURATION: Duration = Duration::from_secs(3);
const RUNS: u16 = 3;
const BODY_BYTES: u32 = 256;

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
    #[arg(long, default_value_t = RUNS, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) runs: u16,

    /// Also measure OmniRelay with so many items waiting, and with none; 0: do not. Without --only
    /// and --rows 10,000,000 unless told otherwise: a run takes some three minutes, 1.5 GB of memory
    /// and 10 GB of disk
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u64).range(..=40_000_000))]
    backlog: Option<u64>,

    /// Bytes of an item's body
    #[arg(long, default_value_t = BODY_BYTES, value_parser = clap::value_parser!(u32).range(16..=65_000))]
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

impl Args {
    /// Items that are to wait while cycles are measured; `None`: that is left out.
    pub(crate) fn backlog(&self) -> Option<u64> {
        let is_all = self.only.is_empty() && self.rows.is_empty();
        let unasked = is_all.then_some(BACKLOG_ITEMS);
        self.backlog.or(unasked).filter(|items| *items > 0)
    }

    /// The command that measures the same, without what only says where things go.
    pub(crate) fn command(&self) -> String {
        let mut command = "cargo run --release -p bench -- peers".to_owned();
        let mut option = |name: &str, value: String| {
            command.push_str(&format!(" --{name} {value}"));
        };
        if !self.only.is_empty() {
            let names = self
                .only
                .iter()
                .map(|program| program.name().to_lowercase());
            option("only", names.collect::<Vec<_>>().join(","));
        }
        if !self.rows.is_empty() {
            let rows = self.rows.iter().map(|row| row.key());
            option("rows", rows.collect::<Vec<_>>().join(","));
        }
        if self.duration != DURATION {
            option("duration", format!("{}ms", self.duration.as_millis()));
        }
        if self.runs != RUNS {
            option("runs", self.runs.to_string());
        }
        if self.size != BODY_BYTES {
            option("size", self.size.to_string());
        }
        if let Some(items) = self.backlog {
            option("backlog", items.to_string());
        }
        command
    }
}

const EXAMPLES: &str = "\
Examples:
  Everything, and its section in docs/performance.md:
    cargo run --release -p bench -- peers

  A first look at one row:
    cargo run --release -p bench -- peers --only omnirelay,redis --rows 16x64 --duration 1s --no-write

  Everything but the long queue:
    cargo run --release -p bench -- peers --backlog 0

  Five runs, with all figures for programs:
    cargo run --release -p bench -- peers --runs 5 --json peers.json";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(options: &[&str]) -> Args {
        let line = [&["peers"], options].concat();
        Line::try_parse_from(line).unwrap().args
    }

    fn command(options: &[&str]) -> String {
        args(options).command()
    }

    #[test]
    fn a_long_queue_is_part_of_everything_and_else_where_it_is_asked_for() {
        assert_eq!(args(&[]).backlog(), Some(BACKLOG_ITEMS));
        assert_eq!(args(&["--backlog", "0"]).backlog(), None);
        assert_eq!(args(&["--rows", "1x1"]).backlog(), None);
        assert_eq!(args(&["--only", "redis"]).backlog(), None);
        assert_eq!(
            args(&["--rows", "1x1", "--backlog", "5"]).backlog(),
            Some(5)
        );
        assert!(command(&["--backlog", "0"]).ends_with(" --backlog 0"));
    }

    #[test]
    fn a_command_is_told_without_where_things_go() {
        let plain = "cargo run --release -p bench -- peers";
        assert_eq!(command(&[]), plain);
        let places = [
            "--json",
            "/somewhere/x.json",
            "--no-build",
            "--dir",
            "/data",
        ];
        assert_eq!(command(&places), plain);
        let options =
            "--only redis,nats --rows 8x1 --duration 500ms --runs 5 --size 64 --backlog 9";
        let split: Vec<_> = options.split(' ').collect();
        assert_eq!(command(&split), format!("{plain} {options}"));
    }
}
