//! `omnirelay lease redrive` and `lease cancel`: items changed by their sequence ids.

use std::time::Duration;

use omnirelay_net::messages::{BATCH_ITEMS_MAX, CancelRequest, ChangeResult, RedriveRequest};
use omnirelay_net::rpc::{self, Call, Reply};
use serde::Serialize;

use super::{ServerArgs, call, receipt_cells, wrong_reply};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output, OutputArgs};

#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// The items
    #[arg(value_name = "SEQUENCE-ID", required = true)]
    sequence_ids: Vec<u64>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is done to the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Redrive,
    Cancel,
}

impl Change {
    fn done(self) -> &'static str {
        match self {
            Change::Redrive => "redriven",
            Change::Cancel => "cancelled",
        }
    }
}

/// One item's result as a program reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    sequence_id: u64,
    #[serde(flatten)]
    result: &'a ChangeResult,
}

pub(super) fn run(args: &ChangeArgs, change: Change) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let (mut refused, mut first) = (0, None);
    for ids in args.sequence_ids.chunks(BATCH_ITEMS_MAX) {
        let results = results(&args.server, change, ids)?;
        for (&sequence_id, result) in ids.iter().zip(&results) {
            match args.output.output {
                Output::Json => output::json(&Changed {
                    sequence_id,
                    result,
                })?,
                Output::Table => rows.push(row(sequence_id, result, change)),
            }
            if let Some(error) = &result.error {
                refused += 1;
                first.get_or_insert_with(|| (sequence_id, error.clone()));
            }
        }
    }
    if args.output.output == Output::Table {
        output::table(&["SEQUENCE", "RESULT", "SHARD", "LSN", "DURABILITY"], rows)?;
    }
    match first {
        Some((sequence_id, error)) => {
            let failure = Failure::from(rpc::Error::from(error));
            Err(Failure {
                message: format!(
                    "{refused} of {} items were not {}; first {sequence_id}: {}",
                    args.sequence_ids.len(),
                    change.done(),
                    failure.message
                ),
                ..failure
            })
        }
        None => Ok(()),
    }
}

fn results(server: &ServerArgs, change: Change, ids: &[u64]) -> Result<Vec<ChangeResult>, Failure> {
    let (sequence_ids, namespace) = (ids.to_vec(), None);
    let request = match change {
        Change::Redrive => Call::Redrive(RedriveRequest {
            sequence_ids,
            namespace,
        }),
        Change::Cancel => Call::Cancel(CancelRequest {
            sequence_ids,
            namespace,
        }),
    };
    let results = match call(server, Duration::ZERO, &request)? {
        Reply::Redrive(reply) => reply.results,
        Reply::Cancel(reply) => reply.results,
        _ => return Err(wrong_reply()),
    };
    if results.len() == ids.len() {
        return Ok(results);
    }
    Err(Failure::failed(
        "rpc.internal",
        format!(
            "{} items were sent, {} results came",
            ids.len(),
            results.len()
        ),
        "this is a defect of the server; please report it",
    ))
}

fn row(sequence_id: u64, result: &ChangeResult, change: Change) -> Vec<String> {
    let outcome = match &result.error {
        Some(error) => error.code.clone(),
        None => change.done().to_owned(),
    };
    let [shard, lsn, durability] = receipt_cells(result.receipt.as_ref());
    vec![sequence_id.to_string(), outcome, shard, lsn, durability]
}
