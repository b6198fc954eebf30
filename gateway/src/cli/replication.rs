//! `omnirelay replication`: a running node's events, as they are committed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Subcommand;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::address::NodeArgs;
use super::client::{Connection, Server, block_on};
use super::failure::Failure;
use super::output::{self, Output, OutputArgs, printable};

const PATH: &str = "/omnirelay/control/replication";
/// How long the node may take to find where a stream begins: it may read its whole log.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// A stream that says nothing for so long is broken: it is kept alive every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The largest event: an item with the largest body, in base64, and its attributes.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Read what a running node commits
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay replication status\n  omnirelay replication tail --shard 0 --follow"
)]
pub(super) struct ReplicationArgs {
    #[command(subcommand)]
    command: ReplicationCommand,
}

#[derive(Debug, Subcommand)]
enum ReplicationCommand {
    /// Print the events of a shard, the oldest that is kept first
    #[command(
        after_help = "EXAMPLE:\n  omnirelay replication tail --shard 0 --follow\n  omnirelay replication tail --shard 0 --from 4097 --output json\n  omnirelay replication tail --all --snapshot --output json"
    )]
    Tail(TailArgs),
    /// List the shards: which events are kept, and how far their readers are
    #[command(after_help = "EXAMPLE:\n  omnirelay replication status --output json")]
    Status {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    #[command(flatten)]
    shards: ShardArgs,
    /// Begin with the event of this number
    #[arg(long, value_name = "LSN", conflicts_with = "all")]
    from: Option<u64>,
    /// Begin with all items as they stand, if --from is no longer kept or not given
    #[arg(long)]
    snapshot: bool,
    /// Go on with what is committed from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ShardArgs {
    /// The shard
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// All shards of the node
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &ReplicationArgs) -> Result<(), Failure> {
    let done = match &args.command {
        ReplicationCommand::Tail(args) => block_on(tail(args)),
        ReplicationCommand::Status { node, output } => block_on(status(node, output.output)),
    };
    done.map_err(|failure| failure.of_option("--admin-address"))
}

async fn status(node: &NodeArgs, output: Output) -> Result<(), Failure> {
    let shards = shards(&node.server()?).await?;
    match output {
        Output::Json => shards.iter().try_for_each(output::json),
        Output::Table => {
            let headings = [
                "SHARD",
                "NAMESPACE",
                "LOG",
                "OLDEST",
                "LAST",
                "READERS",
                "LAG",
            ];
            let fields = [
                "shard",
                "namespace",
                "log",
                "oldest",
                "last",
                "readers",
                "lag",
            ];
            let row = |shard: &Value| fields.map(|field| plain(&shard[field])).to_vec();
            output::table(&headings, shards.iter().map(row))
        }
    }
}

/// What the node says of its shards.
async fn shards(server: &Server) -> Result<Vec<Value>, Failure> {
    let address = &server.address;
    let mut connection = Connection::open(server).await?;
    let request = Request::get(PATH)
        .body(Bytes::new())
        .expect("a constant request");
    let response = connection.send(request, ANSWER_TIME_MAX).await?;
    let document: Option<Value> = serde_json::from_slice(&response.body).ok();
    match document {
        Some(mut document) if response.status.is_success() => match document["shards"].take() {
            Value::Array(shards) => Ok(shards),
            _ => Err(no_node(address)),
        },
        Some(document) => Err(refused(address, &document)),
        None => Err(no_node(address)),
    }
}

fn no_node(address: &str) -> Failure {
    Failure::failed(
        "cli.replication",
        format!("{address}{PATH} has no events"),
        "is this the admin address of a node? its default port is 7421",
    )
}

/// What the node refused, in its words.
fn refused(address: &str, document: &Value) -> Failure {
    let (Some(code), Some(message)) = (document["code"].as_str(), document["message"].as_str())
    else {
        return no_node(address);
    };
    let help = match code {
        "replication.out_of_range" => "add --snapshot, or begin with a --from that is kept",
        "replication.shard_unknown" => "`omnirelay replication status` lists the shards",
        "replication.unreadable" => "`omnirelay wal verify` says what is damaged",
        _ => "try again in a moment",
    };
    Failure {
        code: code.to_owned().into(),
        ..Failure::failed("", message, help)
    }
}

async fn tail(args: &TailArgs) -> Result<(), Failure> {
    let server = args.node.server()?;
    let all = shards(&server).await?;
    let known = |shard: &Value| Some((shard["shard"].as_u64()?, shard["last"].as_u64()));
    let mut wanted: Vec<(u64, Option<u64>)> = all.iter().filter_map(known).collect();
    if let Some(shard) = args.shards.shard {
        wanted.retain(|(known, _)| *known == u64::from(shard));
        if wanted.is_empty() {
            let message = format!("{server} has no shard {shard}");
            let document = json!({"code": "replication.shard_unknown", "message": message});
            return Err(refused(&server.address, &document));
        }
    }
    if args.output.output == Output::Table {
        let row = [
            "TIME", "SHARD", "LSN", "EVENT", "ITEM", "ATTEMPT", "PEER", "DETAIL",
        ];
        let line = line(&row.map(str::to_owned));
        output::write(format!("{}\n", output::heading(line.trim_end())).as_bytes())?;
    }
    if !args.follow {
        for (shard, last) in wanted {
            follow(args.stream(&server, shard, Some(last.unwrap_or(0)))).await?;
        }
        return Ok(());
    }
    let mut streams = JoinSet::new();
    for (shard, _) in wanted {
        streams.spawn(follow(args.stream(&server, shard, None)));
    }
    let ended = async {
        while let Some(ended) = streams.join_next().await {
            ended.expect("a stream does not panic")?;
        }
        Ok(())
    };
    tokio::select! {
        failure = output::reader_gone() => Err(failure),
        ended = ended => ended,
    }
}

impl TailArgs {
    fn stream(&self, server: &Server, shard: u64, until: Option<u64>) -> Stream {
        let mut query = format!("{PATH}/stream?shard={shard}&snapshot={}", self.snapshot);
        if let Some(from) = self.from {
            query.push_str(&format!("&from={from}"));
        }
        Stream {
            server: server.clone(),
            query,
            from: self.from,
            until,
            output: self.output.output,
        }
    }
}

/// One shard's events on their way to stdout.
struct Stream {
    server: Server,
    query: String,
    from: Option<u64>,
    /// The last event to be shown; without end if absent.
    until: Option<u64>,
    output: Output,
}

async fn follow(stream: Stream) -> Result<(), Failure> {
    if stream
        .from
        .zip(stream.until)
        .is_some_and(|(from, until)| from > until)
    {
        return Ok(());
    }
    let mut connection = Connection::open(&stream.server).await?;
    let request = Request::get(&stream.query).body(Bytes::new());
    let request = request.expect("numbers and names make a path");
    let (code, mut body) = connection.stream(request, ANSWER_TIME_MAX).await?;
    if !code.is_success() {
        let body = body.collect().await.map(|body| body.to_bytes());
        let document = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        return Err(refused(
            &stream.server.address,
            &document.unwrap_or(Value::Null),
        ));
    }
    let mut frames = Frames::default();
    loop {
        while let Some(frame) = frames.next() {
            if stream.show(&frame)? {
                return Ok(());
            }
        }
        let more = tokio::time::timeout(SILENCE_MAX, next_bytes(&mut body)).await;
        match more.unwrap_or(Err("nothing came for too long".into())) {
            Ok(bytes) => frames.add(&bytes)?,
            Err(why) => return Err(Failure::no_reply(&stream.server.address, why)),
        }
    }
}

async fn next_bytes(body: &mut Incoming) -> Result<Bytes, String> {
    match body.frame().await {
        Some(Ok(frame)) => Ok(frame.into_data().unwrap_or_default()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the stream ended".into()),
    }
}

impl Stream {
    /// Prints an event. Whether it was the last that is wanted.
    fn show(&self, frame: &Frame) -> Result<bool, Failure> {
        let Ok(event) = serde_json::from_slice::<Value>(&frame.data) else {
            return Ok(false);
        };
        if frame.name == "end" {
            return Err(refused(&self.server.address, &event));
        }
        match self.output {
            Output::Json => output::json(&event)?,
            Output::Table => output::write(event_line(&event).as_bytes())?,
        }
        let number = event["sequenceNumber"].as_u64();
        // The number of a snapshot's events counts once all are there.
        let number = number.filter(|_| frame.has_id);
        Ok(self
            .until
            .is_some_and(|until| number.is_some_and(|number| number >= until)))
    }
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    name: String,
    has_id: bool,
    data: Vec<u8>,
}

/// Bytes of a stream until they make events.
#[derive(Debug, Default)]
struct Frames {
    bytes: BytesMut,
    /// So many of them hold no end of an event.
    searched: usize,
}

impl Frames {
    fn add(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > EVENT_BYTES_MAX {
            return Err(Failure::failed(
                "cli.replication",
                "the stream has an event that is larger than any can be",
                "is this the admin address of a node? its default port is 7421",
            ));
        }
        Ok(())
    }

    /// The next event; comments and the like are passed over.
    fn next(&mut self) -> Option<Frame> {
        loop {
            let unsearched = &self.bytes[self.searched..];
            let Some(end) = unsearched.windows(2).position(|pair| pair == b"\n\n") else {
                self.searched = self.bytes.len().saturating_sub(1);
                return None;
            };
            let block = self.bytes.split_to(self.searched + end + 2);
            self.searched = 0;
            let mut frame = Frame::default();
            for line in block[..].split(|byte| *byte == b'\n') {
                let (field, value) = match line.iter().position(|byte| *byte == b':') {
                    Some(at) => (&line[..at], line[at + 1..].trim_ascii_start()),
                    None => (line, &[][..]),
                };
                match field {
                    b"id" => frame.has_id = true,
                    b"event" => frame.name = String::from_utf8_lossy(value).into_owned(),
                    b"data" => frame.data.extend_from_slice(value),
                    _ => {}
                }
            }
            if !frame.data.is_empty() {
                return Some(frame);
            }
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line, in columns as wide as what is usually in them.
fn line([time, shard, lsn, event, item, attempt, peer, detail]: &[String; 8]) -> String {
    let line = format!(
        "{time:<30}  {shard:<5}  {lsn:<8}  {event:<15}  {item:<10}  {attempt:<7}  {peer:<16}  {detail}"
    );
    format!("{}\n", line.trim_end())
}

fn event_line(event: &Value) -> String {
    let metadata = &event["metadata"];
    let of_token = &event["ownershipToken"]["attempt"];
    let attempt = if of_token.is_null() {
        &event["item"]["attempt"]
    } else {
        of_token
    };
    let row = [
        plain(&event["timestamp"]),
        plain(&event["shardId"]),
        plain(&event["sequenceNumber"]),
        plain(&event["eventType"]),
        plain(&metadata["item.sequenceId"]),
        plain(attempt),
        plain(&event["peerId"]),
        detail(event),
    ];
    line(&row.map(|cell| printable(&cell)))
}

/// What an event is about, in a few words.
fn detail(event: &Value) -> String {
    let metadata = &event["metadata"];
    let mut words = Vec::new();
    for payload in [&event["payload"], &event["item"]["payload"]] {
        if let (Some(kind), Some(id)) = (
            payload["resourceType"].as_str(),
            payload["resourceId"].as_str(),
        ) {
            words.push(format!("{kind}/{id}"));
        }
    }
    if let Some(state) = event["item"]["state"].as_str() {
        words.push(state.to_owned());
    }
    if let Some(message) = event["error"]["message"].as_str() {
        words.push(message.to_owned());
    }
    for (key, before) in [
        ("item.readyAt", "ready at "),
        ("lease.expiresAt", "until "),
        ("restore.origin", "from "),
        ("snapshot.of", "of "),
        ("shard.previousEpoch", "epoch after "),
    ] {
        if let Some(text) = metadata[key].as_str() {
            words.push(format!("{before}{text}"));
        }
    }
    if metadata["item.deadLetter"] == "true" {
        words.push("now a dead letter".into());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_come() {
        let text = b"retry: 1000\n\nid: 7\nevent: Enqueue\ndata: {\"a\":1}\n\n: quiet\n\nevent: Snapshot\ndata: {}\n\n";
        for size in 1..text.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for bytes in text.chunks(size) {
                frames.add(&Bytes::copy_from_slice(bytes)).unwrap();
                found.extend(std::iter::from_fn(|| frames.next()));
            }
            let frame = |name: &str, has_id, data: &[u8]| Frame {
                name: name.into(),
                has_id,
                data: data.into(),
            };
            let wanted = [
                frame("Enqueue", true, b"{\"a\":1}"),
                frame("Snapshot", false, b"{}"),
            ];
            assert_eq!(found, wanted, "{size}");
        }
    }
}
