//! `omnirelay request`: one RPC, as it is.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use omnirelay_net::rpc::{self, Encoding, RequestHead};

use super::body::{BodyArgs, parse_duration, parse_pair};
use super::client::{Connection, Response, block_on};
use super::failure::Failure;
use super::output;

/// Send one RPC and print its reply
///
/// The reply's body goes to stdout as it is; with -v its head goes to stderr.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay request --service resourcelease --procedure resourcelease::stats --body '{}'"
)]
pub(super) struct RequestArgs {
    /// How the call travels
    #[arg(long, value_enum, default_value_t = Transport::Http, value_name = "TRANSPORT")]
    transport: Transport,
    /// The server, as host:port
    #[arg(long, env = "OMNIRELAY_ADDRESS", hide_env_values = true, default_value = super::lease::ADDRESS_DEFAULT)]
    address: String,
    /// The server with the path to post to, instead of --address
    #[arg(long, value_name = "URL")]
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
    #[arg(long, default_value = "json", value_parser = parse_encoding)]
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
    /// Print the reply's head on stderr
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    /// HTTP/1.1 with YARPC's headers
    Http,
    /// gRPC, with the procedure as YARPC maps it to a path
    Grpc,
}

pub(super) fn run(args: &RequestArgs) -> Result<(), Failure> {
    let mut head = RequestHead::new(&args.caller, &args.service, &args.procedure, args.encoding);
    head.ttl = args.ttl;
    head.shard_key.clone_from(&args.shard_key);
    head.headers.clone_from(&args.header);
    let body = args
        .body
        .read()?
        .unwrap_or_else(|| empty_body(args.encoding));
    let (response, reply) = match args.transport {
        Transport::Http => over_http(args, &head, body)?,
        Transport::Grpc => over_grpc(args, &head, &body)?,
    };
    if args.verbose {
        print_head(&response);
    }
    let reply = reply?;
    output::write(&reply)?;
    if args.encoding == Encoding::Json && !reply.ends_with(b"\n") {
        output::write(b"\n")?;
    }
    Ok(())
}

/// A response, and what it means.
type Answer = (Response, Result<Bytes, rpc::Error>);

fn over_http(args: &RequestArgs, head: &RequestHead, body: Bytes) -> Result<Answer, Failure> {
    let (address, path) = match &args.url {
        Some(url) => split_url("--url", url)?,
        None => (args.address.clone(), Uri::from_static(rpc::PATH)),
    };
    let response = block_on(async {
        let mut connection = Connection::open(&address).await?;
        connection.rpc(&path, head, body).await
    })?;
    let reply = match rpc_error(&response) {
        Some(error) => Err(error),
        None => Ok(response.body.clone()),
    };
    Ok((response, reply))
}

fn over_grpc(args: &RequestArgs, head: &RequestHead, body: &[u8]) -> Result<Answer, Failure> {
    if args.url.is_some() {
        return Err(Failure::usage(
            "--url is for --transport http: gRPC's path is the procedure's",
            "say where the server is with --address",
        ));
    }
    block_on(async {
        let mut connection = Connection::open_http2(&args.address).await?;
        connection.grpc(head, body).await
    })
}

/// An empty message in the encoding.
fn empty_body(encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => Bytes::from_static(b"{}"),
        Encoding::Proto | Encoding::Raw => Bytes::new(),
    }
}

/// The error that a response carries, of whatever procedure it answers.
fn rpc_error(response: &Response) -> Option<rpc::Error> {
    let refused = response
        .headers
        .get(&rpc::headers::STATUS)
        .is_some_and(|status| status == "error");
    if response.status.is_success() && !refused {
        return None;
    }
    // The procedure only matters for replies that succeeded.
    rpc::parse_response(
        rpc::Procedure::Stats,
        Encoding::Json,
        response.status,
        &response.headers,
        &response.body,
    )
    .err()
}

fn print_head(response: &Response) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{:?} {}", response.version, response.status);
    let trailers = response.trailers.iter().flatten();
    for (name, value) in response.headers.iter().chain(trailers) {
        let _ = writeln!(
            stderr,
            "{name}: {}",
            output::printable(&String::from_utf8_lossy(value.as_bytes()))
        );
    }
}

/// Splits `http://host:port/path`; port 80 and [`rpc::PATH`] where it says neither.
pub(super) fn split_url(option: &str, url: &str) -> Result<(String, Uri), Failure> {
    let refuse = |reason: String| {
        Failure::usage(
            format!("{option} {url}: {reason}"),
            "write it as http://127.0.0.1:7420/yarpc/v1",
        )
    };
    let uri: Uri = url.parse().map_err(|error| refuse(format!("{error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(refuse("only http:// is supported".into()));
    }
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| refuse("it names no host".into()))?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let path = match uri.path_and_query() {
        Some(path) if path.as_str() != "/" => Uri::from(path.clone()),
        _ => Uri::from_static(rpc::PATH),
    };
    Ok((address, path))
}

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    Encoding::parse(text).map_err(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_an_address_and_a_path() {
        let split =
            |url| split_url("--url", url).map(|(address, path)| (address, path.to_string()));
        assert_eq!(
            split("http://h:1/a?b").unwrap(),
            ("h:1".into(), "/a?b".into())
        );
        assert_eq!(
            split("http://h").unwrap(),
            ("h:80".into(), "/yarpc/v1".into())
        );
        assert_eq!(
            split("http://[::1]:7420/").unwrap(),
            ("[::1]:7420".into(), "/yarpc/v1".into())
        );
        for refused in ["h:1", "https://h/", "http://", "not a url"] {
            assert!(split(refused).is_err(), "{refused}");
        }
    }
}
