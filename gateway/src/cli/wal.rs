//! `omnirelay wal`: a data directory's logs, looked at without opening them.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use clap::Subcommand;
use omnirelay_net::messages::Timestamp;
use omnirelay_queue::{Carry, Event, LeaseRef, SnapshotState};
use omnirelay_wal::{
    LogView, Position, ReadFrom, RealDisk, RecordHeader, SegmentReport, SegmentState, Verification,
    ViewError, ViewedBatch,
};
use serde_json::{Value, json};

use super::client::block_on;
use super::failure::Failure;
use super::output::{self, Output, OutputArgs, printable};
use super::progress::Progress;

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Look at a data directory's logs
///
/// Nothing is changed and no lock is taken: it works on a stopped node's directory and beside a
/// running node, whose segments may come and go meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay wal inspect ./omnirelay-data\n  omnirelay wal verify ./omnirelay-data\n  omnirelay wal tail ./omnirelay-data --log 0"
)]
pub(super) struct WalArgs {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// List the segments of every log, and what is in them
    #[command(
        after_help = "EXAMPLE:\n  omnirelay wal inspect ./omnirelay-data\n  omnirelay wal inspect ./omnirelay-data/log-0 --output json"
    )]
    Inspect {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Read everything and check every checksum; exit 1 at the first log with a problem
    #[command(after_help = "EXAMPLE:\n  omnirelay wal verify ./omnirelay-data && echo sound")]
    Verify {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print a log's records in words
    ///
    /// Beside a running node the last of them may not be on disk yet; `omnirelay replication tail`
    /// shows what is committed.
    #[command(
        after_help = "EXAMPLE:\n  omnirelay wal tail ./omnirelay-data --log 0 --shard 2\n  omnirelay wal tail ./omnirelay-data/log-1 --follow"
    )]
    Tail {
        #[command(flatten)]
        place: PlaceArgs,
        /// Only records of this shard
        #[arg(long, value_name = "N")]
        shard: Option<u32>,
        /// Go on with what is written from now on
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// A data directory, or one log's directory in it
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Only this log
    #[arg(long, value_name = "N")]
    log: Option<u16>,
}

type View = LogView<RealDisk>;

pub(super) fn run(args: &WalArgs) -> Result<(), Failure> {
    match &args.command {
        WalCommand::Inspect { place, output } => inspect(&place.logs()?, output.output),
        WalCommand::Verify { place, output } => verify(&place.logs()?, output.output),
        WalCommand::Tail {
            place,
            shard,
            follow,
            output,
        } => {
            let logs = place.logs()?;
            let [(log, view)] = &logs[..] else {
                return Err(Failure::usage(
                    format!("{} has {} logs", place.dir.display(), logs.len()),
                    "name one with --log",
                ));
            };
            block_on(tail(*log, view, *shard, *follow, output.output))
        }
    }
}

impl PlaceArgs {
    /// The logs there, in order.
    fn logs(&self) -> Result<Vec<(u16, View)>, Failure> {
        let mut found = Vec::new();
        if let Some(log) = self.log_of_dir()? {
            found.push((log, self.dir.clone()));
        } else {
            let entries = std::fs::read_dir(&self.dir).map_err(|error| self.unusable(&error))?;
            for entry in entries {
                let path = entry.map_err(|error| self.unusable(&error))?.path();
                found.extend(log_number(&path).map(|log| (log, path)));
            }
        }
        found.retain(|(log, _)| self.log.is_none_or(|wanted| wanted == *log));
        found.sort();
        if found.is_empty() {
            let which = self
                .log
                .map_or("no logs".into(), |log| format!("no log {log}"));
            return Err(Failure::failed(
                "cli.wal",
                format!("{} has {which}", self.dir.display()),
                "name a node's data directory, or a directory log-N in it",
            ));
        }
        let view = |(log, path): (u16, PathBuf)| {
            let disk = RealDisk::open_read_only(&path).map_err(|error| self.unusable(&error))?;
            Ok((log, LogView::open(disk, log)))
        };
        found.into_iter().map(view).collect()
    }

    /// The number of the log whose directory was named, if it is one's.
    fn log_of_dir(&self) -> Result<Option<u16>, Failure> {
        let dir = self
            .dir
            .canonicalize()
            .map_err(|error| self.unusable(&error))?;
        let entries = std::fs::read_dir(&dir).map_err(|error| self.unusable(&error))?;
        let has_segments = entries
            .filter_map(Result::ok)
            .any(|entry| entry.path().extension().is_some_and(|end| end == "seg"));
        match log_number(&dir).or(self.log.filter(|_| has_segments)) {
            Some(log) => Ok(Some(log)),
            None if has_segments => Err(Failure::usage(
                format!("{} does not say which log it is", self.dir.display()),
                "say its number with --log: a log's directory is called log-N",
            )),
            None => Ok(None),
        }
    }

    fn unusable(&self, error: &std::io::Error) -> Failure {
        Failure::failed(
            "cli.wal",
            format!("cannot read {}: {error}", self.dir.display()),
            "name a node's data directory, and run as a user who may read it",
        )
    }
}

fn log_number(path: &Path) -> Option<u16> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("log-")?.parse().ok()
}

fn failure(error: &ViewError) -> Failure {
    let help = match error {
        ViewError::Damaged { .. } => {
            "restore the directory from a backup; `omnirelay wal verify` lists all damage"
        }
        ViewError::Trimmed { .. } => "run it again: the node gave the segment up meanwhile",
        ViewError::Io { .. } => "run as a user who may read the directory's files",
    };
    Failure::failed("cli.wal", error.to_string(), help)
}

fn inspect(logs: &[(u16, View)], output: Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (at, (log, view)) in logs.iter().enumerate() {
        let found = read_all(view, at, logs.len())?;
        for segment in &found.segments {
            match output {
                Output::Json => output::json(&segment_json(*log, &found, segment))?,
                Output::Table => rows.push(segment_row(*log, &found, segment)),
            }
        }
    }
    match output {
        Output::Json => Ok(()),
        Output::Table => {
            let headings = [
                "LOG",
                "SEGMENT",
                "BYTES",
                "FIRST BATCH",
                "BATCHES",
                "RECORDS",
                "STATE",
            ];
            output::table(&headings, rows)
        }
    }
}

/// Reads a log from its beginning to its end, while a person sees which it is.
fn read_all(view: &View, at: usize, logs: usize) -> Result<Verification, Failure> {
    let mut progress = Progress::new();
    progress.say(format_args!("reading log {} of {logs}", at + 1));
    view.verify().map_err(|error| failure(&error))
}

/// What a segment is to its log, in a word, and whether it was used before.
fn state(found: &Verification, segment: &SegmentReport) -> (&'static str, bool) {
    match segment.info.state {
        SegmentState::Unused if segment.info.number < found.floor => ("given up", false),
        SegmentState::Unused => ("spare", false),
        SegmentState::Broken => ("broken", false),
        SegmentState::OtherFormat(_) => ("other format", false),
        SegmentState::Foreign => ("foreign", false),
        SegmentState::Begun { recycled, .. } => {
            let state = if segment.problem.is_some() {
                "damaged"
            } else if segment.info.number < found.oldest {
                "given up"
            } else if segment.info.number < found.floor {
                "history"
            } else {
                "in use"
            };
            (state, recycled)
        }
    }
}

fn first_batch(segment: &SegmentReport) -> Option<u64> {
    match segment.info.state {
        SegmentState::Begun { first_batch, .. } => Some(first_batch),
        _ => None,
    }
}

fn segment_row(log: u16, found: &Verification, segment: &SegmentReport) -> Vec<String> {
    let (state, recycled) = state(found, segment);
    let mut words = vec![state.to_owned()];
    if recycled {
        words.push("recycled".into());
    }
    if segment.info.number == found.floor {
        words.push("floor".into());
    }
    if segment.torn_bytes > 0 {
        words.push(format!("{} bytes torn", segment.torn_bytes));
    }
    vec![
        log.to_string(),
        segment.info.number.to_string(),
        segment.info.bytes.to_string(),
        first_batch(segment).map_or_else(|| "-".into(), |first| first.to_string()),
        segment.batches.to_string(),
        segment.records.to_string(),
        words.join(", "),
    ]
}

fn segment_json(log: u16, found: &Verification, segment: &SegmentReport) -> Value {
    let (state, recycled) = state(found, segment);
    json!({
        "log": log,
        "segment": segment.info.number,
        "bytes": segment.info.bytes,
        "firstBatch": first_batch(segment),
        "batches": segment.batches,
        "records": segment.records,
        "state": state,
        "recycled": recycled,
        "tornBytes": segment.torn_bytes,
        "floor": found.floor,
        "problem": segment.problem.as_ref().map(ToString::to_string),
    })
}

fn verify(logs: &[(u16, View)], output: Output) -> Result<(), Failure> {
    let (mut rows, mut first) = (Vec::new(), None);
    for (at, (log, view)) in logs.iter().enumerate() {
        let found = read_all(view, at, logs.len())?;
        let sum = |count: fn(&SegmentReport) -> u64| found.segments.iter().map(count).sum::<u64>();
        let [batches, records, bytes] = [sum(|s| s.batches), sum(|s| s.records), sum(|s| s.bytes)];
        let problems: Vec<String> = found.problems().map(ToString::to_string).collect();
        match output {
            Output::Json => output::json(&json!({
                "log": log,
                "segments": found.segments.len(),
                "batches": batches,
                "records": records,
                "bytes": bytes,
                "floor": found.floor,
                "clean": found.clean,
                "problems": found.problems().map(|problem| json!({
                    "file": problem.file,
                    "offset": problem.offset,
                    "reason": problem.reason,
                })).collect::<Vec<_>>(),
            }))?,
            Output::Table => rows.push(vec![
                log.to_string(),
                found.segments.len().to_string(),
                batches.to_string(),
                records.to_string(),
                bytes.to_string(),
                match problems.len() {
                    0 if found.clean => "sound, closed cleanly".into(),
                    0 => "sound".into(),
                    1 => "1 problem".into(),
                    more => format!("{more} problems"),
                },
            ]),
        }
        first = first.or(problems.into_iter().next());
    }
    if output == Output::Table {
        let headings = ["LOG", "SEGMENTS", "BATCHES", "RECORDS", "BYTES", "STATE"];
        output::table(&headings, rows)?;
    }
    match first {
        None => Ok(()),
        Some(problem) => Err(Failure::failed(
            "cli.wal.damaged",
            problem,
            "restore the directory from a backup; until then `omnirelay wal tail` shows what comes before",
        )),
    }
}

async fn tail(
    log: u16,
    view: &View,
    shard: Option<u32>,
    follow: bool,
    output: Output,
) -> Result<(), Failure> {
    if output == Output::Table {
        let row = ["TIME", "PLACE", "SHARD", "EPOCH", "LSN", "RECORD"].map(str::to_owned);
        output::write(format!("{}\n", output::heading(line(&row).trim_end())).as_bytes())?;
    }
    let mut batches = view
        .read_from(ReadFrom::Oldest, None)
        .map_err(|error| failure(&error))?;
    let mut reader_gone = pin!(output::reader_gone());
    loop {
        let batch = match batches.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) if follow => {
                tokio::select! {
                    failure = &mut reader_gone => return Err(failure),
                    () = tokio::time::sleep(LOOK_EVERY) => continue,
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(failure(&error)),
        };
        output::write(&batch_text(log, &batch, shard, output))?;
    }
}

fn batch_text(log: u16, batch: &ViewedBatch, shard: Option<u32>, output: Output) -> Vec<u8> {
    let mut text = Vec::new();
    for (header, at, body) in &batch.records {
        if shard.is_some_and(|shard| shard != header.shard) {
            continue;
        }
        let words = match Event::decode(header.kind, body) {
            Ok(event) => words(&event),
            Err(error) => format!("kind {}, not understood: {error}", header.kind),
        };
        match output {
            Output::Json => {
                let record = record_json(log, batch.number, header, *at, body.len(), &words);
                text.extend_from_slice(record.to_string().as_bytes());
                text.push(b'\n');
            }
            Output::Table => {
                let row = [
                    time(header.at),
                    format!("{}:{}", at.segment, at.offset),
                    header.shard.to_string(),
                    header.epoch.to_string(),
                    header.lsn.to_string(),
                    printable(&words),
                ];
                text.extend_from_slice(line(&row).as_bytes());
            }
        }
    }
    text
}

/// One line, in columns as wide as what is usually in them.
fn line([time, place, shard, epoch, lsn, record]: &[String; 6]) -> String {
    format!("{time:<30}  {place:<12}  {shard:<5}  {epoch:<5}  {lsn:<8}  {record}\n")
}

fn record_json(
    log: u16,
    batch: u64,
    header: &RecordHeader,
    at: Position,
    bytes: usize,
    words: &str,
) -> Value {
    json!({
        "log": log,
        "segment": at.segment,
        "offset": at.offset,
        "batch": batch,
        "shard": header.shard,
        "epoch": header.epoch,
        "lsn": header.lsn,
        "at": time(header.at),
        "kind": header.kind,
        "bytes": bytes,
        "record": words,
    })
}

fn time(at: u64) -> String {
    let time = Timestamp {
        seconds: i64::try_from(at / 1_000_000_000).expect("u64 nanoseconds fit"),
        nanos: i32::try_from(at % 1_000_000_000).expect("less than a second"),
    };
    time.to_string()
}

/// A record for a person.
fn words(event: &Event<'_>) -> String {
    let lease = |lease: &LeaseRef| format!("of {} attempt {}", lease.item, lease.attempt);
    let dead = |dead: bool| if dead { ", now a dead letter" } else { "" };
    match event {
        Event::EpochStarted { previous } => format!("EpochStarted after {previous}"),
        Event::Enqueued(body) => format!(
            "Enqueued {}/{}, {} bytes",
            body.payload.resource_type,
            body.payload.resource_id,
            body.payload.body.len()
        ),
        Event::LeaseGranted {
            lease: of,
            duration,
            owner,
        } => format!(
            "LeaseGranted {} to {owner} for {} ms",
            lease(of),
            duration.0
        ),
        Event::GrantReleased {
            lease: of,
            dead: is,
            ..
        } => format!("GrantReleased {}{}", lease(of), dead(*is)),
        Event::Heartbeat {
            lease: of,
            duration,
        } => format!("Heartbeat {} for {} ms", lease(of), duration.0),
        Event::Completed { lease: of } => format!("Completed {}", lease(of)),
        Event::Failed(body) => format!(
            "Failed {}{}: {}",
            lease(&body.lease),
            dead(body.dead),
            body.reason.unwrap_or("no reason")
        ),
        Event::Expired {
            lease: of,
            dead: is,
        } => format!("Expired {}{}", lease(of), dead(*is)),
        Event::ItemExpired { item, .. } => format!("ItemExpired of {item}"),
        Event::Cancelled { item, .. } => format!("Cancelled of {item}"),
        Event::Redriven { item, max_attempts } => {
            format!("Redriven of {item}, up to {max_attempts} attempts")
        }
        Event::DrainSnapshot { snapshot, .. } => match snapshot {
            Some(item) => format!("DrainSnapshot of {}", item.lsn),
            None => "DrainSnapshot, complete".into(),
        },
        Event::RestoreSnapshot { sequence_id, .. } => {
            format!("RestoreSnapshot of {sequence_id} elsewhere")
        }
        Event::Carry(carry) => carried(carry),
    }
}

fn carried(carry: &Carry<'_>) -> String {
    match carry {
        Carry::Item(item) => {
            let state = match item.state {
                SnapshotState::Waiting => "waiting",
                SnapshotState::Leased { .. } => "leased",
                SnapshotState::Dead => "dead",
            };
            format!("Carry of {}, {state}", item.lsn)
        }
        Carry::Drained { lsn, .. } => format!("Carry of the item drained by {lsn}"),
        Carry::Header {
            pending, active, ..
        } => format!("Carry: checkpoint with {pending} pending, {active} leased"),
        Carry::Turns(rows) => format!("Carry of {} turns", rows.len()),
        Carry::Drains(rows) => format!("Carry of {} drain requests", rows.len()),
        Carry::Dedupe(rows) => format!("Carry of {} request ids", rows.len()),
        Carry::Restored(rows) => format!("Carry of {} restored items", rows.len()),
        Carry::Settled(rows) => format!("Carry of {} ended leases", rows.len()),
        Carry::SettledPage { words, .. } => {
            format!("Carry of {} words of ended leases", words.len())
        }
    }
}
