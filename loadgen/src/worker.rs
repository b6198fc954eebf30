//! Workers: calls that lease and complete.

use omnirelay_net::messages::{
    CompleteRequest, LeaseBatchRequest, LeaseRequest, LeaseResponse, OwnershipToken, SettleItem,
    SettleRequest,
};
use omnirelay_net::rpc::{Call, Error, Reply, codes};
use tokio::time::Instant;

use crate::connection::{CallError, Caller};
use crate::ledger::Grant;
use crate::producer::{REFUSAL_PAUSE, RESOURCE_TYPE};
use crate::run::{Pace, Present, Run};

/// How long a lease call waits for an item, ms.
const WAIT_MS: u64 = 1_000;

/// An item held: its number, `None` for one of another run, and the token to complete it with.
struct Held {
    item: Option<u64>,
    token: OwnershipToken,
}

/// Leases and completes, one call after the other, until it is told to stop or the connection
/// fails. When dropped it may leave leases behind.
pub(crate) async fn work(present: Present, mut lease: Caller, mut complete: Caller) {
    let run = present.run();
    let ask = lease_call(run.batch);
    while !run.workers_stop.get() {
        let asked = Instant::now();
        let held = match lease.call(&ask).await {
            Ok(Reply::Lease(response)) => take_leases(run, asked, vec![response]),
            Ok(Reply::LeaseBatch(batch)) => take_leases(run, asked, batch.leases),
            Ok(_) => unreachable!("a reply is of the procedure called"),
            Err(CallError::Refused(error)) if error.is(codes::NONE_AVAILABLE) => continue,
            Err(error) => {
                if !run.call_failed("lease", &error) {
                    return;
                }
                tokio::time::sleep(REFUSAL_PAUSE).await;
                continue;
            }
        };
        if !held.is_empty() && !finish(run, &mut complete, held).await {
            return;
        }
    }
}

fn lease_call(batch: usize) -> Call {
    match batch {
        1 => Call::Lease(LeaseRequest {
            wait_ms: Some(WAIT_MS),
            ..LeaseRequest::default()
        }),
        _ => Call::LeaseBatch(LeaseBatchRequest {
            wait_ms: Some(WAIT_MS),
            max_items: u32::try_from(batch).expect("a batch is bounded"),
            ..LeaseBatchRequest::default()
        }),
    }
}

/// Enters grants in the ledger and says what is to be completed.
fn take_leases(run: &Run, asked: Instant, leases: Vec<LeaseResponse>) -> Vec<Held> {
    let (asked_us, now_us) = (run.us(asked), run.us(Instant::now()));
    let mut held = Vec::with_capacity(leases.len());
    for lease in leases {
        let Some((token, item)) = identify(run, lease) else {
            continue;
        };
        if let Some(item) = item {
            match run.ledger.borrow_mut().grant(item) {
                Grant::First { began_us } => {
                    // A worker that waited before there was anything did not wait for this item.
                    let from_us = match run.pace {
                        Pace::Backlog(_) | Pace::Unbounded => began_us.max(asked_us),
                        Pace::Period(_) => began_us,
                    };
                    let took_us = now_us.saturating_sub(from_us).into();
                    run.latencies.borrow_mut().lease.saturating_record(took_us);
                }
                Grant::Again => {}
                Grant::Impossible => {
                    run.error(|| format!("lease: item {item} was never accepted by the server"));
                }
            }
        }
        held.push(Held { item, token });
    }
    held
}

/// Which item a lease is of, and its token; `None`, with an error counted, where it is none that
/// a load generator made.
fn identify(run: &Run, lease: LeaseResponse) -> Option<(OwnershipToken, Option<u64>)> {
    let (Some(payload), Some(token)) = (lease.payload, lease.ownership_token) else {
        run.error(|| "lease: the reply has no payload or no token".to_owned());
        return None;
    };
    if payload.resource_type != RESOURCE_TYPE {
        run.error(|| {
            let kind = &payload.resource_type;
            format!("lease: the namespace has work of others, a `{kind}`; use one of your own")
        });
        return None;
    }
    let number = payload.resource_id.strip_prefix(run.id.as_str());
    let Some(number) = number.and_then(|rest| rest.strip_prefix('-')) else {
        // Left behind by a run that was cut short: taken away, not counted.
        return Some((token, None));
    };
    let Ok(item) = number.parse() else {
        run.error(|| {
            format!(
                "lease: the item's name is not as sent: {}",
                payload.resource_id
            )
        });
        return None;
    };
    if payload.body != run.body {
        run.error(|| format!("lease: the body of item {item} is not as sent"));
    }
    Some((token, Some(item)))
}

/// Completes what is held; whether the connection can go on.
async fn finish(run: &Run, complete: &mut Caller, held: Vec<Held>) -> bool {
    let (items, tokens): (Vec<_>, Vec<_>) =
        held.into_iter().map(|held| (held.item, held.token)).unzip();
    let began = Instant::now();
    let reply = complete.call(&complete_call(run.batch, tokens)).await;
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let outcomes: Vec<Result<bool, Error>> = match reply {
        Ok(Reply::Complete(response)) => vec![Ok(response.success)],
        Ok(Reply::Settle(response)) => response
            .results
            .into_iter()
            .map(|result| {
                result
                    .error
                    .map_or(Ok(result.success), |error| Err(error.into()))
            })
            .collect(),
        Ok(_) => unreachable!("a reply is of the procedure called"),
        Err(error) => return run.call_failed("complete", &error),
    };
    if outcomes.len() != items.len() {
        run.error(|| {
            format!(
                "complete: {} results for {} items",
                outcomes.len(),
                items.len()
            )
        });
        return true;
    }
    let mut completed = 0;
    for (item, outcome) in items.into_iter().zip(outcomes) {
        match (item, outcome) {
            (None, Ok(true)) => run.others_completed.set(run.others_completed.get() + 1),
            (Some(item), Ok(true)) => {
                run.ledger.borrow_mut().complete(item);
                completed += 1;
            }
            (_, Ok(false)) => run.error(|| "complete: no success and no error".to_owned()),
            (_, Err(error)) => run.error(|| format!("complete: {error}")),
        }
    }
    run.latencies
        .borrow_mut()
        .complete
        .saturating_record_n(took_us, completed as u64);
    run.leave_backlog(completed);
    true
}

fn complete_call(batch: usize, mut tokens: Vec<OwnershipToken>) -> Call {
    match batch {
        1 => Call::Complete(CompleteRequest {
            ownership_token: tokens.pop(),
            namespace: None,
        }),
        _ => Call::Settle(SettleRequest {
            items: tokens
                .into_iter()
                .map(|token| SettleItem {
                    ownership_token: Some(token),
                    action: "complete".to_owned(),
                    ..SettleItem::default()
                })
                .collect(),
            namespace: None,
        }),
    }
}
