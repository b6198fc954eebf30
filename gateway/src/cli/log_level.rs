//! `omnirelay log-level`: what a running node logs.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::address::NodeArgs;
use super::body::parse_duration;
use super::client::{Connection, block_on};
use super::failure::Failure;
use super::output::{self, Output, OutputArgs};

const PATH: &str = "/omnirelay/control/log-level";

/// How long the node may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Show or change what a running node logs
///
/// Without a level it shows the one there is. A change lasts until the node ends, or for as long as
/// --for says.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay log-level\n  omnirelay log-level info,omnirelay_wal=debug --for 10m"
)]
pub(super) struct LogLevelArgs {
    /// off, error, warn, info, debug or trace, or a list such as info,omnirelay_wal=debug
    level: Option<String>,
    /// Go back by itself after this
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, requires = "level")]
    time: Option<Duration>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &LogLevelArgs) -> Result<(), Failure> {
    let server = args.node.server()?;
    let request = match &args.level {
        None => Request::get(PATH).body(Bytes::new()),
        Some(level) => {
            let mut wish = json!({"level": level});
            if let Some(time) = args.time {
                wish["for"] = format!("{}ms", time.as_millis()).into();
            }
            let request = Request::put(PATH).header(CONTENT_TYPE, "application/json");
            request.body(Bytes::from(wish.to_string()))
        }
    };
    let request = request.expect("a constant head");
    let response = block_on(async {
        let mut connection = Connection::open(&server).await?;
        connection.send(request, LIMIT).await
    })
    .map_err(|failure| failure.of_option("--admin-address"))?;
    let told: Option<Value> = serde_json::from_slice(&response.body).ok();
    let told = told.filter(Value::is_object).ok_or_else(|| {
        Failure::failed(
            "cli.log_level",
            format!("{server}{PATH} answered {} and no JSON", response.status),
            "is this the admin address of a node? its default port is 7421",
        )
    })?;
    if response.status != StatusCode::OK {
        let message = told["message"].as_str().unwrap_or("the node refused it");
        return Err(Failure::failed(
            "cli.log_level",
            message,
            "`omnirelay log-level --help` shows what a level looks like",
        ));
    }
    match args.output.output {
        Output::Json => output::json(&told),
        Output::Table => {
            let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
            let left = told["revertsInMs"].as_u64().map(Duration::from_millis);
            let left = left.map(|left| format!("{}s", left.as_secs()));
            output::table(
                &["LEVEL", "GOES BACK TO", "IN"],
                [vec![
                    text("level"),
                    text("revertsTo"),
                    left.unwrap_or_default(),
                ]],
            )
        }
    }
}
