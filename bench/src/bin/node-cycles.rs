//! Puts items through a node without network and disk, to be watched by a profiler.

use bench::bare_node::{Rounds, Shape};
use clap::Parser;

/// Put items through a node that has no network and no disk to wait for
///
/// It runs on one thread, from the frames of calls to those of replies: items are put in, leased
/// and completed. What they cost is in the functions of `BareNode`: `read` (decoding), `take` and
/// `hear` (the core), `do_tasks` (the log), `write_replies`; all else is the clients'.
#[derive(Parser)]
#[command(name = "node-cycles", version, after_help = EXAMPLES)]
struct Args {
    /// Calls that come together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    calls: u16,

    /// Items of each call
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    items: u16,

    /// How often all of it is done
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rounds: usize,
}

const EXAMPLES: &str = "\
Examples:
  perf record -g target/release/node-cycles
  valgrind --tool=callgrind target/debug/node-cycles --rounds 40";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir()?;
    let shape = Shape {
        calls: args.calls.into(),
        items: args.items.into(),
    };
    let mut rounds = Rounds::open(dir.path(), shape);
    rounds.run(args.rounds, &mut ());
    println!("{} cycles", args.rounds * shape.cycles());
    Ok(())
}
