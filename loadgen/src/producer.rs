//! Producers: calls that enqueue.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use omnirelay_net::messages::{EnqueueBatchRequest, EnqueueRequest, EnqueueResponse, Payload};
use omnirelay_net::rpc::{Call, Error, Reply};
use tokio::time::Instant;

use crate::connection::Caller;
use crate::pacer::intended;
use crate::run::{CallTime, Pace, Present, Run};

/// What the load generator's items are about; items of other runs are known by it.
pub const RESOURCE_TYPE: &str = "omnirelay-loadgen";

/// How long a producer or worker holds back after a refusal, so that it does not spin.
pub(crate) const REFUSAL_PAUSE: Duration = Duration::from_millis(10);

/// Enqueues, one call after the other, until the permits are closed or the connection fails.
pub(crate) async fn produce(present: Present, caller: Caller) {
    let run = present.run();
    let mut enqueue = Enqueue::new(run, caller, run.batch);
    while let Ok(permit) = run.permits.acquire().await {
        permit.forget();
        let number = run.calls.get();
        run.calls.set(number + 1);
        let began = match run.pace {
            Pace::Backlog(_) | Pace::Unbounded => Instant::now(),
            Pace::Period(period) => intended(run.start, period, number),
        };
        if !enqueue.send(run, run.batch, began).await {
            return;
        }
    }
}

/// Enqueues items, `batch` to a call and whatever the pace, until `left` has none or the
/// connection fails.
pub(crate) async fn fill(present: Present, caller: Caller, left: Rc<Cell<u64>>, batch: usize) {
    let run = present.run();
    let mut enqueue = Enqueue::new(run, caller, batch);
    while left.get() > 0 && !run.permits.is_closed() {
        let items = usize::try_from(left.get()).unwrap_or(usize::MAX).min(batch);
        left.set(left.get() - items as u64);
        if !enqueue.send(run, items, Instant::now()).await {
            return;
        }
    }
}

/// A connection's enqueue calls, in the memory of the last one.
struct Enqueue {
    caller: Caller,
    call: Call,
}

impl Enqueue {
    fn new(run: &Run, caller: Caller, batch: usize) -> Self {
        let call = template(run, batch);
        Self { caller, call }
    }

    /// Makes one call with so many new items, at most as many as the last; whether the connection
    /// can go on.
    async fn send(&mut self, run: &Run, items: usize, began: Instant) -> bool {
        let first = run.ledger.borrow_mut().begin(items, run.us(began));
        if let Call::EnqueueBatch(batch) = &mut self.call {
            batch.items.truncate(items);
        }
        name_items(run, &mut self.call, first);
        match self.caller.call(&self.call).await {
            Ok(reply) => {
                let ended = Instant::now();
                run.enqueue_took(CallTime { began, ended });
                let took_us = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
                let accepted = take_reply(run, first, items, reply);
                run.latencies
                    .borrow_mut()
                    .enqueue
                    .saturating_record_n(took_us, accepted);
                true
            }
            Err(error) => {
                if !run.call_failed("enqueue", &error) {
                    return false;
                }
                (first..first + items as u64).for_each(|item| run.ledger.borrow_mut().refuse(item));
                run.leave_backlog(items);
                tokio::time::sleep(REFUSAL_PAUSE).await;
                true
            }
        }
    }
}

/// A call whose items only lack their names.
fn template(run: &Run, batch: usize) -> Call {
    let request = EnqueueRequest {
        payload: Some(Payload {
            resource_type: RESOURCE_TYPE.to_owned(),
            payload_encoding: "application/octet-stream".to_owned(),
            body: run.body.clone(),
            ..Payload::default()
        }),
        ..EnqueueRequest::default()
    };
    match batch {
        1 => Call::Enqueue(request),
        _ => Call::EnqueueBatch(EnqueueBatchRequest {
            items: vec![request; batch],
            namespace: None,
        }),
    }
}

/// Gives a call's items their names, in the memory of the last ones.
fn name_items(run: &Run, call: &mut Call, first: u64) {
    let items = match call {
        Call::Enqueue(request) => std::slice::from_mut(request),
        Call::EnqueueBatch(batch) => &mut batch.items,
        _ => unreachable!("producers enqueue"),
    };
    for (item, request) in (first..).zip(items) {
        let payload = request.payload.as_mut().expect("the template has payloads");
        payload.resource_id.clear();
        write!(payload.resource_id, "{}-{item}", run.id).expect("strings take all that is written");
    }
}

/// Enters a reply in the ledger; how many items were accepted.
fn take_reply(run: &Run, first: u64, items: usize, reply: Reply) -> u64 {
    match reply {
        Reply::Enqueue(response) => u64::from(take_one(run, first, Ok(response))),
        Reply::EnqueueBatch(batch) if batch.results.len() == items => {
            let outcomes = batch.results.into_iter().map(|result| match result.error {
                Some(error) => Err(Error::from(error)),
                None => Ok(EnqueueResponse {
                    sequence_id: result.sequence_id,
                    duplicate: result.duplicate,
                    ..EnqueueResponse::default()
                }),
            });
            (first..)
                .zip(outcomes)
                .map(|(item, outcome)| u64::from(take_one(run, item, outcome)))
                .sum()
        }
        _ => {
            run.error(|| format!("enqueue: the reply does not have {items} results"));
            0
        }
    }
}

fn take_one(run: &Run, item: u64, outcome: Result<EnqueueResponse, Error>) -> bool {
    match outcome {
        Ok(response) => {
            if response.duplicate {
                run.error(|| "enqueue: the server takes a new item for a duplicate".to_owned());
            }
            run.ledger.borrow_mut().acknowledge(item);
            true
        }
        Err(error) => {
            run.error(|| format!("enqueue: {error}"));
            run.ledger.borrow_mut().refuse(item);
            run.leave_backlog(1);
            false
        }
    }
}
