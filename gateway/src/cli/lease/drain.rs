//! `omnirelay lease drain`: takes items out and writes them as `lease restore` reads them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omnirelay_net::messages::{BATCH_ITEMS_MAX, DrainRequest, DrainResponse, PendingItem};
use omnirelay_net::rpc::{Call, Reply};

use super::{ServerArgs, call, wrong_reply};
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;

/// Replies without an item after which a server that says there is more is no longer believed.
const EMPTY_PAGES_MAX: u32 = 100;

#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// Most items to take out
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "all", value_parser = clap::value_parser!(u64).range(1..))]
    max: u64,
    /// Take out all there are, leased ones aside
    #[arg(long)]
    all: bool,
    /// Take from this shard alone, as receipts name it
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// Repeating the command with the same id gives the same items, for as long as the namespace's
    /// dedupe window [default: a random one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// A new file for the items [default: stdout]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// How the items are printed; they are gone from the server, so as `lease restore` reads them
    #[arg(long, short, value_enum, default_value_t = DrainOutput::Json, value_name = "FORMAT")]
    output: DrainOutput,
    #[command(flatten)]
    server: ServerArgs,
}

/// A table would not hold all of an item.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DrainOutput {
    /// One JSON document a line
    Json,
}

pub(super) fn run(args: DrainArgs) -> Result<(), Failure> {
    let DrainOutput::Json = args.output;
    // An id that was used before has pages that are remembered, whatever is left now.
    let may_repeat = args.request_id.is_some();
    let request_id = match args.request_id {
        Some(id) => id,
        None => random_id()?,
    };
    let mut sink = Sink::open(args.out.as_deref())?;
    let mut progress = Progress::new();
    let mut left = if args.all { u64::MAX } else { args.max };
    let (mut drained, mut empty_pages) = (0, 0);
    for page in 1.. {
        let request = DrainRequest {
            max_items: Some(page_items(left)),
            shard: args.shard,
            request_id: Some(page_id(&request_id, page)),
            namespace: None,
        };
        let response = page_of(&args.server, request)
            .map_err(|failure| interrupted(failure, drained, &request_id))?;
        sink.write(&response.items)
            .map_err(|error| unwritten(&sink, &error, drained, &request_id))?;
        let items = response.items.len() as u64;
        drained += items;
        left = left.saturating_sub(items);
        progress.say(format_args!("{drained} items drained"));
        empty_pages = if items == 0 { empty_pages + 1 } else { 0 };
        let goes_on = response.more || (may_repeat && items > 0);
        if !goes_on || left == 0 || empty_pages == EMPTY_PAGES_MAX {
            drop(progress);
            report(drained, response.more, &request_id);
            return Ok(());
        }
    }
    unreachable!("a drain ends before its pages cannot be counted")
}

fn page_of(server: &ServerArgs, request: DrainRequest) -> Result<DrainResponse, Failure> {
    match call(server, Duration::ZERO, &Call::Drain(request))? {
        Reply::Drain(response) => Ok(response),
        _ => Err(wrong_reply()),
    }
}

fn page_items(left: u64) -> u32 {
    u32::try_from(left.min(BATCH_ITEMS_MAX as u64)).expect("a batch is at most 1,000 items")
}

/// Each page is a request of its own: repeating the command repeats them all.
fn page_id(request_id: &str, page: u64) -> String {
    match page {
        1 => request_id.to_owned(),
        _ => format!("{request_id}.{page}"),
    }
}

fn random_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::failed(
            "cli.random",
            format!("the system gives no random numbers: {error}"),
            "name an id that was never used with --request-id",
        )
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Where the items go. They are gone from the server when they come, so every page is made safe
/// before the next is asked for.
enum Sink {
    Stdout,
    File(PathBuf, File),
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Sink, Failure> {
        let Some(path) = path else {
            return Ok(Sink::Stdout);
        };
        let file = File::create_new(path).map_err(|error| {
            Failure::failed(
                "cli.output",
                format!("cannot make {}: {error}", path.display()),
                "name a file that is not there yet with --out; nothing was drained",
            )
        })?;
        Ok(Sink::File(path.to_owned(), file))
    }

    fn write(&mut self, items: &[PendingItem]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for item in items {
            serde_json::to_writer(&mut bytes, item).expect("an item has string keys");
            bytes.push(b'\n');
        }
        match self {
            Sink::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()
            }
            Sink::File(_, file) => {
                file.write_all(&bytes)?;
                file.sync_data()
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Sink::Stdout => "stdout".into(),
            Sink::File(path, _) => path.display().to_string(),
        }
    }
}

/// Says on stderr what happened: on stdout are the items.
fn report(drained: u64, more: bool, request_id: &str) {
    let rest = if more {
        "; there are more: run it again with another id, or with --all"
    } else {
        ""
    };
    // Nobody is left to be told where stderr is closed.
    let _ = writeln!(
        std::io::stderr().lock(),
        "{drained} items drained (request id {request_id}){rest}"
    );
}

fn again(request_id: &str) -> String {
    format!(
        "run it again with --request-id {request_id} within the namespace's dedupe window: it gives \
         the same items again, then goes on"
    )
}

fn interrupted(failure: Failure, drained: u64, request_id: &str) -> Failure {
    let may_have_drained = failure.code == "cli.no_reply" || failure.code == "rpc.deadline";
    if drained == 0 && !may_have_drained {
        return failure;
    }
    Failure {
        message: format!("{}; {drained} items had been written", failure.message),
        help: again(request_id),
        ..failure
    }
}

fn unwritten(sink: &Sink, error: &std::io::Error, drained: u64, request_id: &str) -> Failure {
    Failure::failed(
        "cli.output",
        format!(
            "cannot write the drained items to {}: {error}; {drained} items had been written",
            sink.name()
        ),
        again(request_id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_drain_are_requests_of_their_own() {
        assert_eq!(page_id("r", 1), "r");
        assert_eq!(page_id("r", 2), "r.2");
        assert_eq!((page_items(7), page_items(u64::MAX)), (7, 1_000));
    }

    #[test]
    fn a_failure_before_anything_was_drained_is_told_as_it_is() {
        let refused = Failure::failed("resourcelease.namespace.unknown", "m", "h");
        assert_eq!(interrupted(refused.clone(), 0, "r"), refused);
        assert!(interrupted(refused, 5, "r").message.contains("5 items"));
        let lost = Failure::no_reply("a:1", "closed");
        assert!(interrupted(lost, 0, "r").help.contains("--request-id r "));
    }
}
