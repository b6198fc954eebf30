//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use omnirelay_loadgen::parse_duration;
use omnirelay_net::messages::BATCH_ITEMS_MAX;
use omnirelay_net::rpc;

/// The longest run; times of items are kept in 32 bits of microseconds.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// The most connections of each kind.
const CONNECTIONS_MAX: usize = 4_096;

/// The most items in flight on a connection.
const PIPELINE_MAX: usize = 65_536;

/// The highest rate, items per second: one a nanosecond is beyond any clock.
const RATE_MAX: f64 = 1e9;

/// Drives a running OmniRelay and measures it.
#[derive(Debug, Parser)]
#[command(name = "omnirelay-loadgen", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Runs enqueue, lease, complete in cycles and verifies each
    ///
    /// N producer and N worker connections. Every acknowledged item must be leased and completed
    /// exactly once; anything else makes the exit code 1. Exit code 2 is a wrong command line, 3
    /// a server that cannot be reached. Ctrl-C ends the run early with its result so far.
    ///
    /// Enqueue and complete latencies are those of their calls; lease latency counts from the
    /// later of the lease call and the item's enqueue call. With --rate, enqueue and lease count
    /// from the time the enqueue was meant to begin, so that a slow server cannot hide its delays.
    #[command(after_help = EXAMPLES, after_long_help = EXAMPLES)]
    Cycle(Command),
}

const EXAMPLES: &str = "\
Examples:
  Eight connections each way, 64 items in flight on each, 16 to a call:
    omnirelay-loadgen cycle --address 127.0.0.1:7420 --connections 8 --pipeline 64 --batch 16

  The same over QUIC:
    omnirelay-loadgen cycle --transport quic --connections 8 --pipeline 64 --batch 16

  20,000 items a second, open loop, with the server's CPU, for programs:
    omnirelay-loadgen cycle --rate 20000 --pipeline 64 --server-pid \"$(pidof omnirelay)\" --json";

/// How to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// YARPC's headers over HTTP/2
    Http,
    /// gRPC
    Grpc,
    /// Frames over QUIC
    Quic,
}

impl From<Transport> for omnirelay_loadgen::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Http => Self::Http,
            Transport::Grpc => Self::Grpc,
            Transport::Quic => Self::Quic,
        }
    }
}

/// How bodies are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    Json,
    Proto,
}

impl From<Encoding> for rpc::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Proto => Self::Proto,
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Command {
    /// How to reach the server
    #[arg(long, value_enum, default_value_t = Transport::Http)]
    pub(crate) transport: Transport,

    /// The server's RPC address
    #[arg(long, default_value = "127.0.0.1:7420")]
    pub(crate) address: String,

    /// PEM file with who has signed the server's certificate, for QUIC; a server on loopback needs
    /// none
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Producer connections, and as many worker connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,

    /// Items each connection keeps in flight, a multiple of --batch
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: usize,

    /// Items to a call; 1 uses enqueue, lease and complete, more their batch forms
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,

    /// Bytes of an item's body
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,

    /// How long to produce, e.g. 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Items per second over all producers: open loop, latencies counted from the intended start
    #[arg(long)]
    pub(crate) rate: Option<f64>,

    /// How bodies are encoded
    #[arg(long, value_enum, default_value_t = Encoding::Proto)]
    pub(crate) encoding: Encoding,

    /// The namespace to work in
    #[arg(long, default_value = rpc::DEFAULT_NAMESPACE)]
    pub(crate) namespace: String,

    /// How long to wait at the end for what is still unfinished
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain: Duration,

    /// The server's process id, to report its CPU time
    #[arg(long)]
    pub(crate) server_pid: Option<i32>,

    /// The CPU to pin this process to
    #[arg(long)]
    pub(crate) cpu: Option<usize>,

    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl Command {
    /// Refuses what no run can do, in words that name the option.
    pub(crate) fn check(&self) -> Result<(), String> {
        let within = |option: &str, value: usize, allowed: std::ops::RangeInclusive<usize>| {
            if allowed.contains(&value) {
                return Ok(());
            }
            let (low, high) = allowed.into_inner();
            Err(format!("--{option} {value}: allowed are {low} to {high}"))
        };
        within("connections", self.connections, 1..=CONNECTIONS_MAX)?;
        within("pipeline", self.pipeline, 1..=PIPELINE_MAX)?;
        within("batch", self.batch, 1..=BATCH_ITEMS_MAX)?;
        within("size", self.size, 0..=rpc::BODY_BYTES_MAX)?;
        let is_quic = self.transport == Transport::Quic;
        if is_quic && self.ca.is_none() && !is_loopback(&self.address) {
            return Err(format!(
                "--address {}: a server beyond loopback has to prove who it is: give --ca",
                self.address
            ));
        }
        if !is_quic && self.ca.is_some() {
            return Err("--ca is for --transport quic; the others speak plain text".into());
        }
        if !self.pipeline.is_multiple_of(self.batch) {
            return Err(format!(
                "--pipeline {} is not a multiple of --batch {}",
                self.pipeline, self.batch
            ));
        }
        // An item's body and, with ample room, its names.
        if (self.size + 256) * self.batch > rpc::BATCH_BYTES_MAX {
            return Err(format!(
                "--batch {} of --size {} is above {} bytes to a call",
                self.batch,
                self.size,
                rpc::BATCH_BYTES_MAX
            ));
        }
        if self.duration.is_zero() || self.duration > DURATION_MAX {
            return Err("--duration: allowed is more than 0 up to 1h".into());
        }
        if self.drain > DURATION_MAX {
            return Err("--drain: allowed is up to 1h".into());
        }
        match self.rate {
            Some(rate) if !(rate > 0.0 && rate <= RATE_MAX) => Err(format!(
                "--rate {rate}: allowed is more than 0 up to {RATE_MAX}"
            )),
            _ => Ok(()),
        }
    }

    /// Calls that each connection keeps in flight.
    pub(crate) fn calls_in_flight(&self) -> usize {
        self.pipeline / self.batch
    }
}

/// Whether an address with its port is this machine's alone.
fn is_loopback(address: &str) -> bool {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[&str]) -> Result<(), String> {
        let line = ["omnirelay-loadgen", "cycle"].iter().chain(options);
        let Args {
            verb: Verb::Cycle(command),
        } = Args::try_parse_from(line).unwrap();
        command.check()
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn options_that_contradict_are_refused_by_name() {
        let refusals: [(&[&str], &str); 7] = [
            (
                &["--transport", "quic", "--address", "192.0.2.1:7420"],
                "--address 192.0.2.1:7420: a server beyond loopback has to prove who it is: give \
                 --ca",
            ),
            (
                &["--ca", "ca.crt"],
                "--ca is for --transport quic; the others speak plain text",
            ),
            (
                &["--connections", "0"],
                "--connections 0: allowed are 1 to 4096",
            ),
            (&["--batch", "1001"], "--batch 1001: allowed are 1 to 1000"),
            (
                &["--pipeline", "10", "--batch", "4"],
                "--pipeline 10 is not a multiple of --batch 4",
            ),
            (
                &["--rate", "0"],
                "--rate 0: allowed is more than 0 up to 1000000000",
            ),
            (
                &["--duration", "2h"],
                "--duration: allowed is more than 0 up to 1h",
            ),
        ];
        for (options, message) in refusals {
            assert_eq!(check(options), Err(message.to_owned()));
        }
    }
}
