//! Work for a server, and what its queue says.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use omnirelay_loadgen::{CallError, Caller, Connection, Load, Run, Target, Transport};
use omnirelay_net::messages::{
    BATCH_ITEMS_MAX, EnqueueBatchRequest, EnqueueRequest, Payload, PeekRequest, PendingItem, Stats,
    StatsRequest,
};
use omnirelay_net::rpc::{Call, DEFAULT_NAMESPACE, Encoding, Procedure, Reply};
use tokio::time::Instant;

use bench::server::Server;

/// What buried items are about, so that no load takes them for its own.
const BURIED_TYPE: &str = "log-life-buried";
/// How long they are delayed: longer than any measurement.
const BURIED_FOR: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Bodies to a call are at most 16 MiB; this leaves room for everything else.
const CALL_BYTES: usize = 8 << 20;
/// Between two looks at a load.
const STEP: Duration = Duration::from_millis(20);
/// Between two lines about how far a load is.
const PROGRESS_STEP: Duration = Duration::from_secs(5);
/// How long the end of a load may take.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How old a namespace's counts may be, with room to spare.
const STATS_AGE_MAX: Duration = Duration::from_millis(200);

/// Where a server is to be called.
pub(crate) fn target(server: &Server) -> Target {
    Target {
        transport: Transport::Http,
        ca: None,
        client: None,
        address: server.addresses.rpc.to_string(),
        namespace: DEFAULT_NAMESPACE.to_owned(),
        encoding: Encoding::Proto,
    }
}

/// A namespace that never holds producers back at so many items.
pub(crate) fn capacity_setting(items: u64) -> String {
    // The high watermark is at 80 % of it.
    format!(
        "namespaces.{DEFAULT_NAMESPACE}.capacity={}",
        2 * items + 1_000_000
    )
}

/// The counts of the queue, once they are not from before this call.
pub(crate) async fn stats(target: &Target) -> anyhow::Result<Stats> {
    tokio::time::sleep(STATS_AGE_MAX).await;
    match call(target, &Call::Stats(StatsRequest::default())).await? {
        Reply::Stats(reply) => reply.stats.context("the reply has no counts"),
        _ => unreachable!("a reply is of the procedure called"),
    }
}

/// Enqueues items that nobody will be given.
pub(crate) async fn bury(target: &Target, items: u64, size: usize) -> anyhow::Result<()> {
    let batch = (CALL_BYTES / size.max(1)).clamp(1, BATCH_ITEMS_MAX);
    for first in (0..items).step_by(batch) {
        let numbers = first..items.min(first + batch as u64);
        let call_of = EnqueueBatchRequest {
            items: numbers.map(|number| buried(number, size)).collect(),
            namespace: None,
        };
        let Reply::EnqueueBatch(reply) = call(target, &Call::EnqueueBatch(call_of)).await? else {
            unreachable!("a reply is of the procedure called");
        };
        if let Some(error) = reply.results.into_iter().find_map(|result| result.error) {
            bail!("an item could not be buried: {}", error.message);
        }
    }
    Ok(())
}

/// Looks whether buried items, the only ones that are left, are as they were sent.
pub(crate) async fn check_buried(target: &Target, items: u64, size: usize) -> anyhow::Result<()> {
    let delayed = stats(target).await?.delayed_count;
    if delayed != items {
        bail!("{items} items were buried and {delayed} are delayed");
    }
    let mut seen = vec![false; usize::try_from(items)?];
    let mut cursor = None;
    loop {
        let request = PeekRequest {
            max_items: Some(1_000),
            cursor,
            namespace: None,
        };
        let Reply::Peek(page) = call(target, &Call::Peek(request)).await? else {
            unreachable!("a reply is of the procedure called");
        };
        for item in page.items {
            let number = number_of(&item, size)?;
            let known = seen.get_mut(number).context("an item that nobody buried")?;
            *known = true;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    match seen.iter().position(|seen| !seen) {
        Some(number) => bail!("buried item {number} is not shown any more"),
        None => Ok(()),
    }
}

fn buried(number: u64, size: usize) -> EnqueueRequest {
    EnqueueRequest {
        payload: Some(Payload {
            resource_type: BURIED_TYPE.to_owned(),
            resource_id: number.to_string(),
            payload_encoding: "application/octet-stream".to_owned(),
            body: buried_body(number, size).into(),
            ..Payload::default()
        }),
        delay_ms: Some(u64::try_from(BURIED_FOR.as_millis()).expect("a year fits")),
        ..EnqueueRequest::default()
    }
}

/// Bytes that differ from item to item.
fn buried_body(number: u64, size: usize) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(size)
        .collect()
}

fn number_of(item: &PendingItem, size: usize) -> anyhow::Result<usize> {
    let payload = item.payload.as_ref().context("an item has no payload")?;
    if payload.resource_type != BURIED_TYPE {
        bail!("a `{}` is left in the queue", payload.resource_type);
    }
    let number: u64 = payload.resource_id.parse()?;
    if payload.body != buried_body(number, size) {
        bail!("the body of buried item {number} is not as it was sent");
    }
    Ok(usize::try_from(number)?)
}

async fn call(target: &Target, call: &Call) -> anyhow::Result<Reply> {
    let connection = Connection::open(target)
        .await
        .map_err(|why| anyhow!("cannot reach {}: {why}", target.address))?;
    let procedure: Procedure = call.procedure();
    let mut caller = Caller::new(&connection, target, procedure)?;
    caller.call(call).await.map_err(|error| match error {
        CallError::Refused(error) => anyhow!("{procedure}: {error}"),
        CallError::Broken(why) => anyhow!("{procedure}: the connection failed: {why}"),
    })
}

/// Waits until a count of the load has come to `goal`, and says on the way how far it is. Returns
/// how many it was a second.
pub(crate) async fn reach(
    run: &Run,
    what: &str,
    goal: u64,
    count: impl Fn(&Run) -> u64,
) -> anyhow::Result<f64> {
    let (began, first) = (Instant::now(), count(run));
    let mut told = began;
    loop {
        check(run)?;
        let now = count(run);
        let per_s = (now - first) as f64 / began.elapsed().as_secs_f64();
        if now >= goal {
            return Ok(per_s);
        }
        if told.elapsed() >= PROGRESS_STEP {
            told = Instant::now();
            eprintln!("{what}: {now} of {goal}, {per_s:.0}/s");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Lets the queue stand as it is: full as far as the load's pace goes, nothing leased.
pub(crate) async fn stand_still(load: &Load) -> anyhow::Result<()> {
    load.stop_workers();
    wait(load.run(), "workers do not stop", |run| {
        run.workers.get() == 0
    })
    .await?;
    load.stop_producers();
    wait(load.run(), "producers do not stop", no_producers).await?;
    check(load.run())
}

/// Ends the load and has everything worked off. No item may be lost.
pub(crate) async fn work_off(load: &Load) -> anyhow::Result<()> {
    load.stop_producers();
    wait(load.run(), "producers do not stop", no_producers).await?;
    wait(load.run(), "items are lost, or workers too slow", |run| {
        run.ledger.borrow().unfinished() == 0
    })
    .await?;
    load.stop_workers();
    wait(load.run(), "workers do not stop", |run| {
        run.workers.get() == 0
    })
    .await?;
    check(load.run())
}

fn no_producers(run: &Run) -> bool {
    run.producers.get() == 0
}

/// Whether every call was answered, and every item handed out once.
pub(crate) fn check(run: &Run) -> anyhow::Result<()> {
    if let Some(error) = run.first_error() {
        bail!("{} errors, the first: {error}", run.errors());
    }
    match run.ledger.borrow().duplicates() {
        0 => Ok(()),
        duplicates => bail!("{duplicates} items were leased or completed twice"),
    }
}

async fn wait(run: &Run, complaint: &str, is_so: impl Fn(&Run) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_MAX;
    while !is_so(run) {
        check(run)?;
        if Instant::now() > deadline {
            bail!("after {SETTLE_MAX:?}: {complaint}");
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
