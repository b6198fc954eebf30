//! `omnirelay lease`: enqueue work, take it, settle it, look at it and move it.

mod change;
mod drain;
mod explain;
mod listing;
mod restore;

use std::time::Duration;

use clap::Subcommand;
use omnirelay_net::messages::{
    BATCH_ITEMS_MAX, CompleteRequest, EnqueueRequest, FailRequest, HeartbeatRequest,
    LeaseBatchRequest, LeaseRequest, LeaseResponse, OwnershipToken, Payload, Receipt, StatsRequest,
};
use omnirelay_net::rpc::{Call, Reply};
use serde::Serialize;

use super::address::RpcServerArgs;
use super::body::{BodyArgs, parse_duration, parse_pair};
use super::client::{Caller, Connection, block_on, parse_token, token_text};
use super::failure::Failure;
use super::output::{self, Output, OutputArgs, preview};
use super::secure::TlsArgs;
use super::trace::TraceArgs;

/// The name this program calls itself.
pub(super) const CALLER_DEFAULT: &str = "omnirelay-cli";

/// Enqueue work, take it, settle it, look at it, move it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay lease enqueue --type table --id users --body '{\"op\":\"vacuum\"}'\n  omnirelay lease take --wait 10s\n  omnirelay lease complete --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10"
)]
pub(super) struct LeaseArgs {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Debug, Subcommand)]
enum LeaseCommand {
    /// Add one item of work
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease enqueue --type table --id users --body '{\"op\":\"vacuum\"}' --request-id 2026-11-21"
    )]
    Enqueue(EnqueueArgs),
    /// Take items and print the tokens that own them
    #[command(after_help = "EXAMPLE:\n  omnirelay lease take --wait 10s --max 5 --output json")]
    Take(TakeArgs),
    /// Say that the work is done
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease complete --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10"
    )]
    Complete(CompleteArgs),
    /// Keep a lease from ending
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease heartbeat --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10 --extend 1m"
    )]
    Heartbeat(HeartbeatArgs),
    /// Say that the work was not done; it waits again
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease fail --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10 --reason 'disk full' --delay 1m"
    )]
    Fail(FailArgs),
    /// Take items out and print them, to be restored elsewhere
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease drain --all --out items.jsonl\n  omnirelay lease drain --all | omnirelay lease restore --address other:7420"
    )]
    Drain(drain::DrainArgs),
    /// Put drained items in
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease restore items.jsonl --address other:7420\n  omnirelay lease drain --all | omnirelay lease restore --address other:7420"
    )]
    Restore(restore::RestoreArgs),
    /// Show items that wait, the next to be leased first
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease peek\n  omnirelay lease peek --max 1000 --output json | jq .payload.resourceId"
    )]
    Peek(listing::ListArgs),
    /// Show items that were given up on
    #[command(
        after_help = "EXAMPLE:\n  omnirelay lease dead-letters\n  omnirelay lease dead-letters --max 1000 --output json | jq .sequenceId | xargs omnirelay lease redrive"
    )]
    DeadLetters(listing::ListArgs),
    /// Let dead letters wait again, with further attempts
    #[command(after_help = "EXAMPLE:\n  omnirelay lease redrive 4097 4113")]
    Redrive(change::ChangeArgs),
    /// Take items out for good, leased ones too
    #[command(after_help = "EXAMPLE:\n  omnirelay lease cancel 4097 4113")]
    Cancel(change::ChangeArgs),
    /// Say where an item stands, and why nobody works on it
    #[command(after_help = "EXAMPLE:\n  omnirelay lease explain 4097")]
    Explain(explain::ExplainArgs),
    /// Count the namespace's items
    #[command(after_help = "EXAMPLE:\n  omnirelay lease stats --namespace resourcelease.users")]
    Stats(StatsArgs),
}

/// Which namespace of which server, and who calls.
#[derive(Debug, clap::Args)]
struct ServerArgs {
    #[command(flatten)]
    at: RpcServerArgs,
    /// The namespace
    #[arg(
        long,
        short,
        env = "OMNIRELAY_NAMESPACE",
        hide_env_values = true,
        default_value = "resourcelease"
    )]
    namespace: String,
    /// The name that calls
    #[arg(long, env = "OMNIRELAY_CALLER", hide_env_values = true, default_value = CALLER_DEFAULT)]
    caller: String,
    /// How long the call may take, besides --wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    trace: TraceArgs,
}

#[derive(Debug, clap::Args)]
struct EnqueueArgs {
    /// The kind of resource the work is about
    #[arg(long = "type", value_name = "TYPE")]
    resource_type: String,
    /// Which resource of that kind
    #[arg(long = "id", value_name = "ID")]
    resource_id: String,
    #[command(flatten)]
    body: BodyArgs,
    /// What the body is
    #[arg(long, value_name = "MEDIA-TYPE", default_value = "application/json")]
    encoding: String,
    /// Group of items that belong together
    #[arg(long, value_name = "KEY")]
    partition_key: Option<String>,
    /// Makes repeating the command harmless: the same id adds the item once
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// A named value kept with the item
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    attribute: Vec<(String, String)>,
    /// Do not hand it out before this has passed
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    delay: Option<Duration>,
    /// 0 to 255; higher goes first [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=255))]
    priority: Option<u32>,
    /// Attempts before it becomes a dead letter [default: the namespace's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    max_attempts: Option<u32>,
    /// Forget it if nobody took it within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct TakeArgs {
    /// Who will own what is taken [default: the caller]
    #[arg(long, value_name = "PEER")]
    peer_id: Option<String>,
    /// How long to wait for an item
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
    /// How long the lease lasts unless it is renewed [default: the namespace's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lease: Option<Duration>,
    /// Most items to take
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=BATCH_ITEMS_MAX as i64))]
    max: u32,
    /// Take only items of this partition key
    #[arg(long, value_name = "KEY")]
    partition_key: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct TokenArgs {
    /// The token, as `lease take` printed it
    #[arg(long, value_name = "SEQUENCE/ATTEMPT/LEASE-ID", value_parser = parse_token)]
    token: OwnershipToken,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct CompleteArgs {
    #[command(flatten)]
    common: TokenArgs,
}

#[derive(Debug, clap::Args)]
struct HeartbeatArgs {
    /// Let it last this long from now [default: the lease's own duration]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    extend: Option<Duration>,
    #[command(flatten)]
    common: TokenArgs,
}

#[derive(Debug, clap::Args)]
struct FailArgs {
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Why, for programs
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Do not try again: make it a dead letter
    #[arg(long)]
    no_requeue: bool,
    /// Wait this long before the next attempt [default: the namespace's back-off]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "no_requeue")]
    delay: Option<Duration>,
    #[command(flatten)]
    common: TokenArgs,
}

#[derive(Debug, clap::Args)]
struct StatsArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: LeaseArgs) -> Result<(), Failure> {
    match args.command {
        LeaseCommand::Enqueue(args) => enqueue(args),
        LeaseCommand::Take(args) => take(args),
        LeaseCommand::Complete(args) => {
            let request = CompleteRequest {
                ownership_token: Some(args.common.token),
                namespace: None,
            };
            settle(
                &args.common.server,
                args.common.output.output,
                &Call::Complete(request),
            )
        }
        LeaseCommand::Heartbeat(args) => {
            let request = HeartbeatRequest {
                ownership_token: Some(args.common.token),
                extend_ms: args.extend.map(millis),
                namespace: None,
            };
            settle(
                &args.common.server,
                args.common.output.output,
                &Call::Heartbeat(request),
            )
        }
        LeaseCommand::Fail(args) => {
            let request = FailRequest {
                ownership_token: Some(args.common.token),
                reason: args.reason,
                error_code: args.code,
                requeue: Some(!args.no_requeue),
                delay_ms: args.delay.map(millis),
                ..FailRequest::default()
            };
            settle(
                &args.common.server,
                args.common.output.output,
                &Call::Fail(request),
            )
        }
        LeaseCommand::Drain(args) => drain::run(args),
        LeaseCommand::Restore(args) => restore::run(&args),
        LeaseCommand::Peek(args) => listing::run(args, listing::Which::Waiting),
        LeaseCommand::DeadLetters(args) => listing::run(args, listing::Which::Dead),
        LeaseCommand::Redrive(args) => change::run(&args, change::Change::Redrive),
        LeaseCommand::Cancel(args) => change::run(&args, change::Change::Cancel),
        LeaseCommand::Explain(args) => explain::run(&args),
        LeaseCommand::Stats(args) => stats(&args),
    }
}

fn enqueue(args: EnqueueArgs) -> Result<(), Failure> {
    let payload = Payload {
        resource_type: args.resource_type,
        resource_id: args.resource_id,
        partition_key: args.partition_key,
        payload_encoding: args.encoding,
        body: args.body.read()?.unwrap_or_default(),
        attributes: args.attribute.into_iter().collect(),
        request_id: args.request_id,
    };
    let request = EnqueueRequest {
        payload: Some(payload),
        delay_ms: args.delay.map(millis),
        priority: args.priority,
        max_attempts: args.max_attempts,
        ttl_ms: args.ttl.map(millis),
        namespace: None,
    };
    let Reply::Enqueue(response) = call(&args.server, Duration::ZERO, &Call::Enqueue(request))?
    else {
        return Err(wrong_reply());
    };
    match args.output.output {
        Output::Json => output::json(&response),
        Output::Table => {
            let [shard, lsn, durability] = receipt_cells(response.receipt.as_ref());
            output::table(
                &["SEQUENCE", "DUPLICATE", "SHARD", "LSN", "DURABILITY"],
                [vec![
                    response.sequence_id.to_string(),
                    response.duplicate.to_string(),
                    shard,
                    lsn,
                    durability,
                ]],
            )
        }
    }
}

fn take(args: TakeArgs) -> Result<(), Failure> {
    let (peer_id, wait_ms, lease_ms) = (
        args.peer_id,
        Some(millis(args.wait)),
        args.lease.map(millis),
    );
    let request = if args.max == 1 {
        Call::Lease(LeaseRequest {
            peer_id,
            wait_ms,
            lease_ms,
            partition_key: args.partition_key,
            namespace: None,
        })
    } else {
        let max_items = args.max;
        Call::LeaseBatch(LeaseBatchRequest {
            peer_id,
            wait_ms,
            lease_ms,
            partition_key: args.partition_key,
            max_items,
            namespace: None,
        })
    };
    let leases = match call(&args.server, args.wait, &request)? {
        Reply::Lease(lease) => vec![lease],
        Reply::LeaseBatch(batch) => batch.leases,
        _ => return Err(wrong_reply()),
    };
    match args.output.output {
        Output::Json => leases.iter().try_for_each(|lease| {
            let token = lease.ownership_token.as_ref().map(token_text);
            output::json(&Taken { lease, token })
        }),
        Output::Table => output::table(
            &["TYPE", "ID", "ATTEMPT", "LEASED FOR", "TOKEN", "BODY"],
            leases.iter().map(lease_row),
        ),
    }
}

/// A lease as the server tells it, and its token in the form that `--token` takes.
#[derive(Serialize)]
struct Taken<'a> {
    #[serde(flatten)]
    lease: &'a LeaseResponse,
    token: Option<String>,
}

fn lease_row(lease: &LeaseResponse) -> Vec<String> {
    let payload = lease.payload.clone().unwrap_or_default();
    let leased_for = Duration::from_millis(lease.lease_for_ms);
    vec![
        payload.resource_type,
        payload.resource_id,
        lease.attempt.to_string(),
        crate::config::value::DurationText(leased_for).to_string(),
        lease
            .ownership_token
            .as_ref()
            .map(token_text)
            .unwrap_or_default(),
        preview(&payload.body),
    ]
}

fn settle(server: &ServerArgs, output: Output, request: &Call) -> Result<(), Failure> {
    let reply = call(server, Duration::ZERO, request)?;
    if output == Output::Json {
        return match reply {
            Reply::Complete(response) => output::json(&response),
            Reply::Fail(response) => output::json(&response),
            Reply::Heartbeat(response) => output::json(&response),
            _ => Err(wrong_reply()),
        };
    }
    let (done, receipt) = match &reply {
        Reply::Complete(response) => ("completed", response.receipt.as_ref()),
        Reply::Fail(response) => ("failed", response.receipt.as_ref()),
        Reply::Heartbeat(response) => {
            let leased_for = Duration::from_millis(response.lease_for_ms);
            let until = response
                .lease_expires_at
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let leased_for = crate::config::value::DurationText(leased_for).to_string();
            return output::table(&["LEASED FOR", "LEASED UNTIL"], [vec![leased_for, until]]);
        }
        _ => return Err(wrong_reply()),
    };
    let [shard, lsn, durability] = receipt_cells(receipt);
    output::table(
        &["RESULT", "SHARD", "LSN", "DURABILITY"],
        [vec![done.into(), shard, lsn, durability]],
    )
}

fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let Reply::Stats(response) = call(
        &args.server,
        Duration::ZERO,
        &Call::Stats(StatsRequest::default()),
    )?
    else {
        return Err(wrong_reply());
    };
    match args.output.output {
        Output::Json => output::json(&response),
        Output::Table => {
            let stats = response.stats.unwrap_or_default();
            let counts = [
                stats.pending_count,
                stats.active_lease_count,
                stats.delayed_count,
                stats.dead_letter_count,
            ];
            output::table(
                &["PENDING", "LEASED", "DELAYED", "DEAD LETTERS"],
                [counts.iter().map(ToString::to_string).collect()],
            )
        }
    }
}

fn call(server: &ServerArgs, wait: Duration, request: &Call) -> Result<Reply, Failure> {
    let caller = Caller {
        server: server.tls.server(&server.at.address)?,
        namespace: server.namespace.clone(),
        caller: server.caller.clone(),
    };
    block_on(async {
        let mut connection = Connection::open(&caller.server).await?;
        connection.trace(server.trace.context());
        caller
            .call(
                &mut connection,
                server.timeout.saturating_add(wait),
                request,
            )
            .await
    })
}

fn receipt_cells(receipt: Option<&Receipt>) -> [String; 3] {
    match receipt {
        Some(receipt) => [
            receipt.shard.to_string(),
            receipt.lsn.to_string(),
            receipt.durability.clone(),
        ],
        None => Default::default(),
    }
}

/// The duration in whole ms; one that does not fit is as good as the longest.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The client decodes a reply by the procedure that was called, so this cannot come from a server.
fn wrong_reply() -> Failure {
    Failure::failed(
        "rpc.internal",
        "the reply answers another procedure",
        "this is a defect; please report it",
    )
}
