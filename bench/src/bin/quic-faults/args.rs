//! The command line.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// How the server and the client library behave over QUIC on bad networks and under abuse
///
/// Each row starts the server that was built beside this program (`cargo build --release`) on a
/// data directory below the current one, puts load on it through a network that loses, delays,
/// doubles and reorders datagrams as a seed decides, or beside an attacker, and checks what was
/// promised. Exit code 0: everything held; 1: a promise is broken, or something failed; 2: usage.
#[derive(Debug, Parser)]
#[command(name = "quic-faults", version, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this row; may be said several times
    #[arg(long = "row", value_name = "NAME", value_parser = known_row)]
    pub(crate) rows: Vec<&'static str>,

    /// Say which rows there are
    #[arg(long, exclusive = true)]
    pub(crate) list: bool,

    /// Decides what becomes of each datagram
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How long each row puts load on the server; a blackhole's length comes on top
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,

    /// Idle connections of the row `idle`
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,

    /// Print one JSON document a row instead of tables
    #[arg(long, conflicts_with = "write")]
    pub(crate) json: bool,

    /// Put the tables into this file, between its lines `<!-- quic-faults -->` and
    /// `<!-- /quic-faults -->`
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) place: Place,
}

const EXAMPLES: &str = "\
Examples:
  All rows, into the documentation:
    quic-faults --write docs/testing.md

  What a network does that loses a tenth of all datagrams, with another seed:
    quic-faults --row loss-10 --seed 7 --seconds 60

  On a machine that has other work, without pinning and without a word about latencies:
    quic-faults --row everything --row garbage --seconds 2 --busy";

/// Where everything runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The machine is busy: pin nothing, and do not judge latencies
    #[arg(long)]
    pub(crate) busy: bool,

    /// The CPU of the clients and attackers; the server has CPU 0
    #[arg(long, value_name = "CPU", default_value_t = 1, conflicts_with = "busy")]
    pub(crate) client_cpu: usize,

    /// The first of the ports that are listened on, up to 4 for each row; picked by the system
    /// unless given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1_024..=65_000))]
    port: Option<u16>,

    #[arg(skip)]
    next: Cell<u16>,
}

impl Args {
    pub(crate) fn load_time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Place {
    pub(crate) fn pins(&self) -> bool {
        !self.busy
    }

    /// For the server, if they are not the system's choice.
    pub(crate) fn ports(&self) -> Option<[SocketAddr; 2]> {
        self.port.map(|_| [self.address(), self.address()])
    }

    /// An address to listen on.
    pub(crate) fn address(&self) -> SocketAddr {
        let port = self.port.map_or(0, |first| {
            let next = self.next.get();
            self.next.set(next + 1);
            first + next
        });
        (Ipv4Addr::LOCALHOST, port).into()
    }
}

fn known_row(text: &str) -> Result<&'static str, String> {
    let mut names = crate::rows::names();
    names
        .find(|name| *name == text)
        .ok_or_else(|| "no such row: --list says which there are".to_owned())
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
    fn a_row_that_is_not_there_is_refused() {
        assert_eq!(known_row("loss-10"), Ok("loss-10"));
        assert!(known_row("loss-11").is_err());
    }
}
