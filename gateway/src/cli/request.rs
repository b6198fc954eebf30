//! `omnirelay request`: one RPC, as it is.

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use omnirelay_net::rpc::{Encoding, RequestHead};
use serde_json::{Value, json};

use super::address::RpcServerArgs;
use super::body::{BodyArgs, parse_duration, parse_pair};
use super::client::{Response, block_on};
use super::failure::Failure;
use super::output;
use super::secure::TlsArgs;
use super::target::{AnswerHead, Target, Transport, empty_body};
use super::trace::TraceArgs;

/// Send one RPC and print its reply
///
/// The reply goes to stdout; with -v its head goes to stderr.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay request --service resourcelease --procedure resourcelease::stats --body '{}'\n  omnirelay request --transport grpc --service resourcelease --procedure resourcelease::stats -o table\n  omnirelay request --transport quic --service resourcelease --procedure resourcelease::stats"
)]
pub(super) struct RequestArgs {
    /// How the call travels
    #[arg(long, value_enum, default_value_t = Transport::Http, value_name = "TRANSPORT")]
    transport: Transport,
    #[command(flatten)]
    server: RpcServerArgs,
    /// The server with the path to post to, instead of --address
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    url: Option<String>,
    /// The service called
    #[arg(long)]
    service: String,
    /// The procedure called, such as resourcelease::stats
    #[arg(long)]
    procedure: String,
    /// The name that calls
    #[arg(long, env = "OMNIRELAY_CALLER", hide_env_values = true, default_value = super::lease::CALLER_DEFAULT)]
    caller: String,
    /// How the body is encoded: json, proto or raw
    #[arg(long, default_value = "json", value_parser = encodings(), hide_possible_values = true)]
    encoding: Encoding,
    #[command(flatten)]
    body: BodyArgs,
    /// An application header
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    header: Vec<(String, String)>,
    /// What decides the shard
    #[arg(long, value_name = "KEY")]
    shard_key: Option<String>,
    /// How long the call may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    trace: TraceArgs,
    /// Print the reply's head on stderr
    #[arg(long, short)]
    verbose: bool,
    /// How the reply is printed
    #[arg(long, short, value_enum, default_value_t = ReplyOutput::Body, value_name = "FORMAT")]
    output: ReplyOutput,
}

/// How a reply is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReplyOutput {
    /// The body as it came
    Body,
    /// For people: a row for each value
    Table,
    /// For programs: one JSON document on a line; {"base64"} of a body that is no JSON
    Json,
}

pub(super) fn run(args: &RequestArgs) -> Result<(), Failure> {
    let mut head = RequestHead::new(&args.caller, &args.service, &args.procedure, args.encoding);
    head.ttl = args.ttl;
    head.shard_key = args.shard_key.as_deref().map(Into::into);
    head.headers.clone_from(&args.header);
    let body = args
        .body
        .read()?
        .unwrap_or_else(|| empty_body(args.encoding));
    let target = Target::new(args.transport, &args.server.address, args.url.as_deref())?;
    let trust = args.tls.trust()?;
    let answer =
        block_on(target.call(&trust, &head, body, args.trace.context())).map_err(|failure| {
            let option = if args.url.is_some() {
                "--url"
            } else {
                "--address"
            };
            failure.of_option(option)
        })?;
    if args.verbose {
        print_head(&answer.head);
    }
    print(&answer.reply?, args.encoding, args.output)
}

fn print(body: &[u8], encoding: Encoding, output: ReplyOutput) -> Result<(), Failure> {
    if output == ReplyOutput::Body {
        output::write(body)?;
        return match encoding {
            Encoding::Json if !body.ends_with(b"\n") => output::write(b"\n"),
            _ => Ok(()),
        };
    }
    let document = reply_document(body, encoding);
    match output {
        ReplyOutput::Table => output::table(&["KEY", "VALUE"], output::rows_of(&document)),
        _ => output::json(&document),
    }
}

/// A reply's body as JSON, whatever its encoding.
pub(super) fn reply_document(body: &[u8], encoding: Encoding) -> Value {
    let document = match encoding {
        Encoding::Json => serde_json::from_slice(body).ok(),
        Encoding::Proto | Encoding::Raw => None,
    };
    document.unwrap_or_else(|| json!({"base64": STANDARD.encode(body)}))
}

fn print_head(head: &AnswerHead) {
    let mut stderr = std::io::stderr().lock();
    let _ = match head {
        AnswerHead::Http(response) => write_response_head(&mut stderr, response),
        AnswerHead::Quic(head) => write!(stderr, "{head}"),
    };
}

fn write_response_head(out: &mut impl Write, response: &Response) -> io::Result<()> {
    writeln!(out, "{:?} {}", response.version, response.status)?;
    let trailers = response.trailers.iter().flatten();
    for (name, value) in response.headers.iter().chain(trailers) {
        let value = String::from_utf8_lossy(value.as_bytes());
        writeln!(out, "{name}: {}", output::printable(&value))?;
    }
    Ok(())
}

/// Every name of an encoding is taken; the short ones are offered.
fn encodings() -> impl TypedValueParser<Value = Encoding> {
    PossibleValuesParser::new([
        PossibleValue::new("json").alias("application/json"),
        PossibleValue::new("proto").alias("application/x-protobuf"),
        PossibleValue::new("raw"),
    ])
    .try_map(|name| Encoding::parse(&name).map_err(|error| error.message))
}
