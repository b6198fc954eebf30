//! The command line.

mod options;
mod target;

use std::time::Duration;

use clap::{Parser, Subcommand};
use omnirelay_loadgen::parse_duration;

pub(crate) use options::{DrainArgs, OutputArgs, ProcessArgs, ShapeArgs};
use options::{RATE_MAX, within};
pub(crate) use target::TargetArgs;

/// The longest run; times of items are kept in 32 bits of microseconds.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// The most items that a backlog may have: four times what a namespace takes unless configured.
const BACKLOG_ITEMS_MAX: u64 = 40_000_000;

/// The most connections of a fan-in: what one address has ports for.
const FANIN_CONNECTIONS_MAX: usize = 60_000;

/// Drives a running OmniRelay, measures it, and verifies what it does
///
/// Exit code 1: the run found something wrong, or the server refused it. 2: a wrong command line.
/// 3: a server that cannot be reached. Ctrl-C ends a run early with its result so far.
#[derive(Debug, Parser)]
#[command(name = "omnirelay-loadgen", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What is done to the server.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Enqueue, lease, complete in cycles, each of them verified
    ///
    /// N producer and N worker connections. Every acknowledged item must be leased and completed
    /// exactly once; anything else makes the exit code 1.
    ///
    /// Enqueue and complete latencies are those of their calls; lease latency counts from the
    /// later of the lease call and the item's enqueue call. With --rate, enqueue and lease count
    /// from the time the enqueue was meant to begin, so that a slow server cannot hide its delays.
    #[command(after_help = CYCLE_EXAMPLES)]
    Cycle(CycleArgs),

    /// The smallest call there and back, without the queue
    ///
    /// The call is `stats`: its reply is made on the core that took it, from counts in memory, and
    /// waits for no log. So this is what a transport and the path of a request cost by themselves.
    #[command(after_help = ECHO_EXAMPLES)]
    Echo(EchoArgs),

    /// Enqueue alone, then work everything off and verify it
    ///
    /// Measured is the enqueueing. What is in the queue then is leased and completed by as many
    /// worker connections, so that every acknowledged item is proved to have been there once; with
    /// --leave it stays, and only the queue's counts are checked. Later runs take what stayed away
    /// without counting it.
    #[command(after_help = ENQUEUE_EXAMPLES)]
    EnqueueOnly(EnqueueOnlyArgs),

    /// Cycles with an empty queue, then with N items waiting
    ///
    /// Measures --duration of cycles as `cycle` does, fills the queue, and measures as long again
    /// with at least so many items waiting: new ones come as fast as old ones are completed. Then
    /// everything is worked off and verified. The namespace has to be empty at first, and needs
    /// room for the items: by default it holds producers back at 8,000,000.
    #[command(after_help = BACKLOG_EXAMPLES)]
    Backlog(BacklogArgs),

    /// Very many connections, most of them idle
    ///
    /// Opens all connections, each until a small call (`stats`) was answered; then they make such
    /// calls in turns, at a total rate. Reports how fast connections open, what one takes of the server's memory (resident, without
    /// the kernel's socket buffers; needs --server-pid, and a server that was just started: memory
    /// it had and gave back to itself is used again first), how long calls take, and connections
    /// that were lost. A node takes 10,000 connections a core unless configured.
    #[command(after_help = FANIN_EXAMPLES)]
    Fanin(FaninArgs),
}

const CYCLE_EXAMPLES: &str = "\
Examples:
  Eight connections each way, 64 items in flight on each, 16 to a call:
    omnirelay-loadgen cycle --address 127.0.0.1:7420 --connections 8 --pipeline 64 --batch 16

  The same over QUIC, with a picture of the latencies:
    omnirelay-loadgen cycle --transport quic --connections 8 --pipeline 64 --batch 16 --plot cycle.svg

  20,000 items a second, open loop, with the server's CPU, for programs:
    omnirelay-loadgen cycle --rate 20000 --pipeline 64 --server-pid \"$(pidof omnirelay)\" --json

  A server with TLS that asks for client certificates:
    omnirelay-loadgen cycle --address db-1:7420 --ca ca.crt --cert client.crt --key client.key";

const ECHO_EXAMPLES: &str = "\
Examples:
  One call at a time:
    omnirelay-loadgen echo --transport quic

  10,000 calls a second over 16 connections, open loop:
    omnirelay-loadgen echo --transport grpc --connections 16 --pipeline 16 --rate 10000";

const ENQUEUE_EXAMPLES: &str = "\
Examples:
  As fast as the server takes them, 64 to a call:
    omnirelay-loadgen enqueue-only --connections 8 --pipeline 128 --batch 64 --duration 5s

  The same, and the items stay for a restart to be timed with:
    omnirelay-loadgen enqueue-only --connections 8 --pipeline 128 --batch 64 --leave";

const BACKLOG_EXAMPLES: &str = "\
Examples:
  What five million waiting items cost:
    omnirelay-loadgen backlog --items 5000000 --connections 8 --pipeline 64 --batch 64";

const FANIN_EXAMPLES: &str = "\
Examples:
  10,000 connections, 1,000 calls a second over all of them:
    omnirelay-loadgen fanin --server-pid \"$(pidof omnirelay)\"

  The same over QUIC, for a minute:
    omnirelay-loadgen fanin --transport quic --duration 1m --server-pid \"$(pidof omnirelay)\"";

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CycleArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// How long to produce, e.g. 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Items per second over all producers: open loop, latencies counted from the intended start
    #[arg(long)]
    pub(crate) rate: Option<f64>,

    #[command(flatten)]
    pub(crate) drain: DrainArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,

    /// Calls each connection keeps in flight
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: usize,

    /// How long to call, e.g. 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Calls per second over all connections: open loop, latencies counted from the intended start
    #[arg(long)]
    pub(crate) rate: Option<f64>,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EnqueueOnlyArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// How long to enqueue, e.g. 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Items per second over all producers: open loop, latencies counted from the intended start
    #[arg(long)]
    pub(crate) rate: Option<f64>,

    /// Leave the items in the queue; checked is only that its counts have grown by as many
    #[arg(long)]
    pub(crate) leave: bool,

    #[command(flatten)]
    pub(crate) drain: DrainArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BacklogArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Items that wait while cycles are measured
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) items: u64,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    /// How long to measure, once with an empty queue and once with the items
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    #[command(flatten)]
    pub(crate) drain: DrainArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FaninArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Connections
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,

    /// Calls per second over all connections, which take turns: open loop
    #[arg(long, default_value_t = 1_000.0)]
    pub(crate) rate: f64,

    /// How long to call once all connections are open
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Scenario {
    /// Refuses what no run can do, in words that name the option.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (target, _, output) = self.common();
        target.check()?;
        output.check()?;
        let duration = match self {
            Self::Cycle(args) => {
                args.shape.check()?;
                args.drain.check()?;
                check_rate(args.rate)?;
                args.duration
            }
            Self::Echo(args) => {
                options::check_concurrency(args.connections, args.pipeline)?;
                check_rate(args.rate)?;
                args.duration
            }
            Self::EnqueueOnly(args) => {
                args.shape.check()?;
                args.drain.check()?;
                check_rate(args.rate)?;
                args.duration
            }
            Self::Backlog(args) => {
                args.shape.check()?;
                args.drain.check()?;
                within("items", args.items, 1..=BACKLOG_ITEMS_MAX)?;
                args.duration
            }
            Self::Fanin(args) => {
                within("connections", args.connections, 1..=FANIN_CONNECTIONS_MAX)?;
                check_rate(Some(args.rate))?;
                args.duration
            }
        };
        if duration.is_zero() || duration > DURATION_MAX {
            return Err("--duration: allowed is more than 0 up to 1h".into());
        }
        Ok(())
    }

    /// What every scenario has.
    pub(crate) fn common(&self) -> (&TargetArgs, &ProcessArgs, &OutputArgs) {
        match self {
            Self::Cycle(args) => (&args.target, &args.process, &args.output),
            Self::Echo(args) => (&args.target, &args.process, &args.output),
            Self::EnqueueOnly(args) => (&args.target, &args.process, &args.output),
            Self::Backlog(args) => (&args.target, &args.process, &args.output),
            Self::Fanin(args) => (&args.target, &args.process, &args.output),
        }
    }
}

fn check_rate(rate: Option<f64>) -> Result<(), String> {
    match rate {
        Some(rate) if !(rate > 0.0 && rate <= RATE_MAX) => Err(format!(
            "--rate {rate}: allowed is more than 0 up to {RATE_MAX}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scenario: &str, options: &[&str]) -> Result<(), String> {
        let line = ["omnirelay-loadgen", scenario];
        let args = Args::try_parse_from(line.iter().chain(options));
        args.map_err(|error| error.to_string())?.scenario.check()
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        for scenario in ["cycle", "echo", "enqueue-only", "backlog", "fanin"] {
            assert_eq!(check(scenario, &[]), Ok(()), "{scenario}");
        }
    }

    #[test]
    fn options_that_contradict_are_refused_by_name() {
        let refusals: [(&str, &[&str], &str); 11] = [
            (
                "cycle",
                &["--transport", "quic", "--address", "192.0.2.1:7420"],
                "--address 192.0.2.1:7420: a server beyond loopback has to prove who it is: give \
                 --ca",
            ),
            (
                "cycle",
                &["--connections", "0"],
                "--connections 0: allowed are 1 to 4096",
            ),
            (
                "cycle",
                &["--batch", "1001"],
                "--batch 1001: allowed are 1 to 1000",
            ),
            (
                "cycle",
                &["--pipeline", "10", "--batch", "4"],
                "--pipeline 10 is not a multiple of --batch 4",
            ),
            (
                "cycle",
                &["--rate", "0"],
                "--rate 0: allowed is more than 0 up to 1000000000",
            ),
            (
                "cycle",
                &["--duration", "2h"],
                "--duration: allowed is more than 0 up to 1h",
            ),
            (
                "enqueue-only",
                &["--drain", "2h"],
                "--drain: allowed is up to 1h",
            ),
            (
                "echo",
                &["--pipeline", "65537"],
                "--pipeline 65537: allowed are 1 to 65536",
            ),
            (
                "backlog",
                &["--items", "0"],
                "--items 0: allowed are 1 to 40000000",
            ),
            (
                "fanin",
                &["--connections", "60001"],
                "--connections 60001: allowed are 1 to 60000",
            ),
            (
                "fanin",
                &["--plot", "latency.png"],
                "--plot latency.png: the picture is SVG: name a file that ends in .svg",
            ),
        ];
        for (scenario, options, message) in refusals {
            assert_eq!(check(scenario, options), Err(message.to_owned()));
        }
    }

    #[test]
    fn a_client_certificate_needs_its_key_and_somebody_to_trust() {
        for (options, missing) in [
            (&["--cert", "c"][..], "--ca <FILE>"),
            (&["--ca", "a", "--cert", "c"], "--key <FILE>"),
            (&["--ca", "a", "--key", "k"], "--cert <FILE>"),
        ] {
            let refused = check("echo", options).unwrap_err();
            assert!(refused.contains(missing), "{refused}");
        }
    }
}
