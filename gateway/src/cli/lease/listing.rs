//! `omnirelay lease peek` and `lease dead-letters`: items as they stand, none of them touched.

use std::io::Write;
use std::time::Duration;

use omnirelay_net::messages::{
    BATCH_ITEMS_MAX, DeadLettersRequest, PeekRequest, PendingItem, Timestamp,
};
use omnirelay_net::rpc::{Call, Reply};

use super::{ServerArgs, call, wrong_reply};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output, OutputArgs, preview};

/// Most items of one listing, which a table holds in memory.
const ITEMS_MAX: i64 = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Most items to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    max: u32,
    /// Go on where a listing ended, as it said
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Waiting,
    Dead,
}

pub(super) fn run(args: ListArgs, which: Which) -> Result<(), Failure> {
    let mut left = args.max as usize;
    let mut cursor = args.cursor;
    let mut rows = Vec::new();
    loop {
        let (items, next) = page(&args.server, which, left, cursor)?;
        left = left.saturating_sub(items.len());
        match args.output.output {
            Output::Json => items.iter().try_for_each(output::json)?,
            Output::Table => rows.extend(items.iter().map(|item| row(item, which))),
        }
        cursor = next;
        if cursor.is_none() || left == 0 {
            break;
        }
    }
    if args.output.output == Output::Table {
        output::table(headings(which), rows)?;
    }
    if let Some(cursor) = cursor {
        // Nobody is left to be told where stderr is closed.
        let _ = writeln!(
            std::io::stderr().lock(),
            "there may be more: go on with --cursor {}",
            output::printable(&cursor)
        );
    }
    Ok(())
}

fn page(
    server: &ServerArgs,
    which: Which,
    items: usize,
    cursor: Option<String>,
) -> Result<(Vec<PendingItem>, Option<String>), Failure> {
    let items = items.min(BATCH_ITEMS_MAX);
    let max_items = Some(u32::try_from(items).expect("a page is at most 1,000 items"));
    let request = match which {
        Which::Waiting => Call::Peek(PeekRequest {
            max_items,
            cursor,
            namespace: None,
        }),
        Which::Dead => Call::DeadLetters(DeadLettersRequest {
            max_items,
            cursor,
            namespace: None,
        }),
    };
    match call(server, Duration::ZERO, &request)? {
        Reply::Peek(reply) => Ok((reply.items, reply.cursor)),
        Reply::DeadLetters(reply) => Ok((reply.items, reply.cursor)),
        _ => Err(wrong_reply()),
    }
}

fn headings(which: Which) -> &'static [&'static str] {
    match which {
        Which::Waiting => &[
            "SEQUENCE", "STATE", "TYPE", "ID", "KEY", "PRIORITY", "ATTEMPT", "ENQUEUED", "READY",
            "BODY",
        ],
        Which::Dead => &[
            "SEQUENCE",
            "TYPE",
            "ID",
            "KEY",
            "ATTEMPT",
            "ENQUEUED",
            "DEAD SINCE",
            "LAST ERROR",
            "BODY",
        ],
    }
}

fn row(item: &PendingItem, which: Which) -> Vec<String> {
    let payload = item.payload.clone().unwrap_or_default();
    let attempt = match item.max_attempts {
        Some(max) => format!("{}/{max}", item.attempt),
        None => item.attempt.to_string(),
    };
    let body = preview(&payload.body);
    let about = [
        payload.resource_type,
        payload.resource_id,
        payload.partition_key.unwrap_or_default(),
    ];
    let mut row = vec![item.sequence_id.to_string()];
    match which {
        Which::Waiting => {
            row.push(item.state.clone().unwrap_or_default());
            row.extend(about);
            row.push(item.priority.unwrap_or(0).to_string());
            row.extend([
                attempt,
                time(item.enqueued_at.as_ref()),
                time(item.ready_at.as_ref()),
            ]);
        }
        Which::Dead => {
            row.extend(about);
            row.extend([
                attempt,
                time(item.enqueued_at.as_ref()),
                time(item.since.as_ref()),
            ]);
            let error = item.last_error.as_ref();
            row.push(error.map_or_else(String::new, |error| preview(error.message.as_bytes())));
        }
    }
    row.push(body);
    row
}

/// A time to the second: tables are for eyes.
fn time(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, |time| {
        Timestamp { nanos: 0, ..*time }.to_string()
    })
}

#[cfg(test)]
mod tests {
    use omnirelay_net::messages::{ErrorInfo, Payload};

    use super::*;

    fn item() -> PendingItem {
        PendingItem {
            payload: Some(Payload {
                resource_type: "table".into(),
                resource_id: "users/7".into(),
                partition_key: Some("gold".into()),
                body: "{}".into(),
                ..Payload::default()
            }),
            attempt: 2,
            max_attempts: Some(16),
            sequence_id: 4_097,
            enqueued_at: Some(Timestamp {
                seconds: 1_800_000_000,
                nanos: 250_000_000,
            }),
            ..PendingItem::default()
        }
    }

    #[test]
    fn a_row_has_a_cell_under_every_heading() {
        let delayed = PendingItem {
            state: Some("delayed".into()),
            ready_at: Some(Timestamp {
                seconds: 1_800_000_060,
                nanos: 0,
            }),
            ..item()
        };
        let cells = row(&delayed, Which::Waiting);
        assert_eq!(cells.len(), headings(Which::Waiting).len());
        assert_eq!(
            cells.join(" | "),
            "4097 | delayed | table | users/7 | gold | 0 | 2/16 | 2027-01-15T08:00:00Z | \
             2027-01-15T08:01:00Z | {}"
        );
        let dead = PendingItem {
            dead_letter: true,
            last_error: Some(ErrorInfo {
                message: "disk full".into(),
                ..ErrorInfo::default()
            }),
            ..item()
        };
        let cells = row(&dead, Which::Dead);
        assert_eq!(cells.len(), headings(Which::Dead).len());
        assert_eq!(cells[7], "disk full");
    }
}
