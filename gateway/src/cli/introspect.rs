//! `omnirelay introspect`: what a running node knows about itself.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use serde_json::Value;

use super::address::NodeArgs;
use super::client::{Connection, Server, block_on};
use super::failure::Failure;
use super::output::{self, Output, OutputArgs};

/// The document that the admin server gives.
pub(super) const PATH: &str = "/omnirelay/introspect";

/// How long the node may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Show what a running node knows about itself
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay introspect\n  omnirelay introspect --output json | jq .namespaces"
)]
pub(super) struct IntrospectArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &IntrospectArgs) -> Result<(), Failure> {
    let path = Uri::from_static(PATH);
    let document = block_on(document(&args.node.server()?, &path, LIMIT))
        .map_err(|failure| failure.of_option("--admin-address"))?;
    match args.output.output {
        Output::Json => output::json(&document),
        Output::Table => output::table(&["KEY", "VALUE"], output::rows_of(&document)),
    }
}

/// A JSON document of a node's admin server.
///
/// # Errors
/// `cli.introspect` if it gives none, or as [`Connection::send`].
pub(super) async fn document(
    server: &Server,
    path: &Uri,
    limit: Duration,
) -> Result<Value, Failure> {
    let request = Request::get(path.clone())
        .body(Bytes::new())
        .expect("a path and no body");
    let mut connection = Connection::open(server).await?;
    let response = connection.send(request, limit).await?;
    let document: Option<Value> = serde_json::from_slice(&response.body).ok();
    match document {
        Some(document) if response.status.is_success() => Ok(document),
        _ => Err(Failure::failed(
            "cli.introspect",
            format!(
                "{server}{path} answered {} and no JSON document",
                response.status
            ),
            "is this the admin address of a node? its default port is 7421",
        )),
    }
}
