//! `omnirelay lease explain`: where an item stands, and why nobody works on it.

use std::fmt::Write;
use std::time::Duration;

use omnirelay_net::messages::{ErrorInfo, ExplainRequest, ExplainResponse};
use omnirelay_net::rpc::{Call, Reply};

use super::{ServerArgs, call, wrong_reply};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output, OutputArgs, printable};

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The item
    #[arg(value_name = "SEQUENCE-ID")]
    sequence_id: u64,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let request = Call::Explain(ExplainRequest {
        sequence_id: args.sequence_id,
        namespace: None,
    });
    let Reply::Explain(response) = call(&args.server, Duration::ZERO, &request)? else {
        return Err(wrong_reply());
    };
    match args.output.output {
        Output::Json => output::json(&response),
        Output::Table => output::write(text(&response).as_bytes()),
    }
}

/// The answer first, then why, then what else is known.
fn text(item: &ExplainResponse) -> String {
    let mut out = format!("item {} is {}", item.sequence_id, printable(&item.state));
    if let Some(since) = &item.since {
        let _ = write!(out, " since {since}");
    }
    out.push('\n');
    for reason in &item.reasons {
        let _ = writeln!(
            out,
            "  {} [{}]",
            printable(&reason.message),
            printable(&reason.code)
        );
    }
    let facts = facts(item);
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    if !facts.is_empty() {
        out.push('\n');
    }
    for (name, value) in facts {
        let _ = writeln!(out, "{name:width$}  {}", printable(&value));
    }
    out
}

fn facts(item: &ExplainResponse) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    let time =
        |time: &Option<omnirelay_net::messages::Timestamp>| time.as_ref().map(ToString::to_string);
    let is_there = item.state != "gone";
    add("type", item.resource_type.clone());
    add("id", item.resource_id.clone());
    add("partition key", item.partition_key.clone());
    add(
        "priority",
        item.priority.map(|priority| priority.to_string()),
    );
    add("shard", item.shard.map(|shard| shard.to_string()));
    add("enqueued", time(&item.enqueued_at));
    add("expires", time(&item.expires_at));
    add(
        "attempts",
        is_there.then(|| format!("{} of {}", item.attempt, item.max_attempts)),
    );
    add("owner", item.owner_peer_id.clone());
    add("leased until", time(&item.lease_expires_at));
    add("last error", item.last_error.as_ref().map(error_text));
    facts
}

fn error_text(error: &ErrorInfo) -> String {
    let mut text = error.message.clone();
    if let Some(code) = &error.code {
        let _ = write!(text, " ({code})");
    }
    for (name, value) in &error.metadata {
        let _ = write!(text, " {name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use omnirelay_net::messages::{Reason, Timestamp};

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn an_explanation_says_what_why_and_what_else_is_known() {
        let reason = |code: &str, message: &str| Reason {
            code: code.into(),
            message: message.into(),
            ..Reason::default()
        };
        let blocked = ExplainResponse {
            sequence_id: 4_113,
            state: "blocked".into(),
            since: at(1_800_000_000),
            reasons: vec![
                reason(
                    "behind_item",
                    "item 4097 of the same resource goes first; it is leased",
                ),
                reason("no_worker", "no worker waits for items of this namespace"),
            ],
            attempt: 1,
            max_attempts: 16,
            enqueued_at: at(1_799_999_000),
            last_error: Some(ErrorInfo {
                message: "disk\x1b full".into(),
                code: Some("e.disk".into()),
                metadata: [("device".to_owned(), "sda".to_owned())].into(),
            }),
            shard: Some(3),
            priority: Some(0),
            resource_type: Some("table".into()),
            resource_id: Some("users/7".into()),
            partition_key: Some("gold".into()),
            ..ExplainResponse::default()
        };
        insta::assert_snapshot!(text(&blocked), @r"
        item 4113 is blocked since 2027-01-15T08:00:00Z
          item 4097 of the same resource goes first; it is leased [behind_item]
          no worker waits for items of this namespace [no_worker]

        type           table
        id             users/7
        partition key  gold
        priority       0
        shard          3
        enqueued       2027-01-15T07:43:20Z
        attempts       1 of 16
        last error     disk� full (e.disk) device=sda
        ");
        let gone = ExplainResponse {
            sequence_id: 5,
            state: "gone".into(),
            reasons: vec![reason("gone", "it was completed")],
            ..ExplainResponse::default()
        };
        insta::assert_snapshot!(text(&gone), @r"
        item 5 is gone
          it was completed [gone]
        ");
    }
}
