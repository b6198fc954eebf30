//! The command line.

use std::time::Duration;

use bench::server::Cpus;
use clap::{Parser, Subcommand};
use omnirelay_loadgen::{Shape, parse_duration};

/// Measures what only a whole process under load shows of its log
///
/// Starts the server that was built beside it (`cargo build --release`) on a data directory in a
/// temporary directory below the current one, so start it on the disk that is to be measured.
/// Server and client are pinned to CPUs of their own. The machine should do nothing else.
#[derive(Debug, Parser)]
#[command(name = "log-life", version, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Ten million items that wait, each replaced ten times, on two cores; then six cold restarts:
    log-life restart --items 10000000 --size 256 --churn 10 --cores 2

  One item buried for ever under endless work: how long the log becomes:
    log-life churn --for 120s --bury 1 --history 64MiB

  20,000 items a second for ten minutes: which calls are slow, and whose fault it is:
    log-life stalls --for 10m --rate 20000 --history 64MiB";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// How long a restart takes: cold, with many items waiting and a full history
    ///
    /// Enqueues --items, then leases the oldest, completes them and enqueues as many, until each
    /// was replaced --churn times. Stops the server by SIGTERM, drops the logs from the page
    /// cache, starts it, and takes the time until /readyz says yes; the same by SIGKILL. As many
    /// items must wait after each start as before.
    Restart(Restart),

    /// How long the log becomes while an item is buried in it for ever
    ///
    /// Enqueues --bury items with a delay of a year, then --live items that wait, and works on
    /// those without end, enqueueing as many. Once a second the bytes of all segment files, spares
    /// included, are compared with the bound: three times what lives in the log, and the history.
    /// Exit code 1 when it is broken, or when at the end a buried item is not as it was sent. A
    /// bound below some six segments cannot hold: --live or --history must be well above that.
    Churn(Churn),

    /// Which calls wait for the log, and whose fault that is
    ///
    /// Enqueues, leases and completes at a given rate, open loop, while segments are allocated,
    /// given up and used again. Enqueue calls above --slow are compared with what was seen beside
    /// them:
    ///
    /// - device, reading: 4 KiB read at random past the page cache (O_DIRECT, no atime) from a file
    ///   that was written before. It needs nothing but the device.
    ///
    /// - device, flushing: fdatasync of that same file, which has not changed. It waits for no
    ///   transaction of the journal and only flushes the device's cache.
    ///
    /// A stall of these counts only if the device moved less, from the look before until the end
    /// of the stall, than it writes in half the stall's time: else it was busy, or had much to
    /// flush, with what the server wrote.
    ///
    /// - client: a thread on the client's CPU, or a task between those that drive the load,
    ///   that sleeps 1 ms and wakes up late.
    ///
    /// - server CPU: a real-time thread on the server's CPU that does the same. It goes before
    ///   all of the server, so it is late only when the CPU was taken from this machine.
    ///
    /// Shown beside them and evidence of nothing: 4 KiB written and synced, as a commit does. Any
    /// write may have to wait for the file system's journal, which the server's own creating,
    /// renaming and removing of segments makes busy, so that the server would be excused with its
    /// own work. An overwrite with O_DIRECT and no sync is no better: it changes the file's time of
    /// modification, which needs the journal.
    ///
    /// A call is another's fault if it would not have been slow without the time of the stalls. A
    /// stall leaves a queue behind that takes time to work off, so each counts twice its length.
    ///
    /// Of what remains, the server's own log lines tell two kinds apart. Calls beside work on
    /// segments (one was begun, made or given up, at most 50 ms before) are the server's fault.
    /// Calls that waited for a slow batch with no such work beside it are the device's: the log
    /// did nothing then but write and sync. Exit code 1 when calls beside work on segments
    /// remain; calls that nothing explains are counted. Real-time threads need root or CAP_SYS_NICE.
    ///
    /// Other processes on the server's CPUs or its disk make calls slow too, and no probe sees
    /// that: it would take them for the server. How much of the CPUs they used is shown.
    Stalls(Stalls),
}

/// Where the two sides run, and how much they have in flight.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// Cores of the server, which get the CPUs from 0 on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: u16,

    /// The CPU that the client and the probes are pinned to
    #[arg(long, default_value_t = 1)]
    pub(crate) client_cpu: usize,

    /// Producer connections, and as many worker connections
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    connections: usize,

    /// Calls that each connection keeps in flight
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    calls: usize,

    /// Bytes of an item's body
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// Items that wait
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) items: u64,

    /// How often each item is replaced before the restarts
    #[arg(long, default_value_t = 10)]
    pub(crate) churn: u64,

    /// Restarts after each way to end; the median counts
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub(crate) restarts: usize,

    /// The server's history_bytes, e.g. 64MiB [default: the server's]
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) history: Option<u64>,

    /// The server's segment_bytes [default: the server's]
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) segment: Option<u64>,

    /// Items to a call, 2 to 1000
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) batch: u16,

    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Churn {
    /// How long to work once all is enqueued, e.g. 20s, 2m
    #[arg(long = "for", default_value = "120s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Items buried for ever
    #[arg(long, default_value_t = 1)]
    pub(crate) bury: u64,

    /// Items that wait at any time
    #[arg(long, default_value_t = 100_000)]
    pub(crate) live: u64,

    /// The server's history_bytes
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    pub(crate) history: u64,

    /// The server's segment_bytes: small, so that segments are given up often
    #[arg(long, default_value = "8MiB", value_parser = parse_bytes)]
    pub(crate) segment: u64,

    /// Items to a call, 2 to 1000
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) batch: u16,

    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stalls {
    /// How long to produce, e.g. 20s, 10m, at most 1h
    #[arg(long = "for", default_value = "10m", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Items a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,

    /// Items with a delay of a year, which every segment that is given up must leave behind
    #[arg(long, default_value_t = 10_000)]
    pub(crate) bury: u64,

    /// The server's history_bytes
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    pub(crate) history: u64,

    /// The server's segment_bytes
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    pub(crate) segment: u64,

    /// Calls above this are slow
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    pub(crate) slow: Duration,

    /// What a probe calls a stall
    #[arg(long, default_value = "5ms", value_parser = parse_duration)]
    pub(crate) stall: Duration,

    /// Items to a call, 2 to 1000
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) batch: u16,

    #[command(flatten)]
    pub(crate) place: Place,
}

impl Place {
    pub(crate) fn cpus(&self) -> Cpus {
        Cpus {
            server: self.cores,
            client: self.client_cpu,
        }
    }

    /// The load of so many items to a call.
    pub(crate) fn shape(&self, batch: u16, slow_after: Duration) -> Shape {
        Shape {
            connections: self.connections,
            calls_in_flight: self.calls,
            batch: batch.into(),
            size: self.size,
            slow_after,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number from 1 on".into()),
    }
}

/// Reads `4096`, `64MiB`, `4GiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => 64,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1_u64.checked_shl(shift)?))
        .ok_or_else(|| "expected bytes, or a number with KiB, MiB or GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        for refused in ["", "MiB", "64MB", "-1", "18446744073709551615KiB"] {
            assert!(parse_bytes(refused).is_err(), "{refused}");
        }
    }
}
