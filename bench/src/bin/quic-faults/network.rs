//! Producers and workers on a bad network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use omnirelay_client::{Client, Failure, Item, Job, Namespace, Outcome, Report, Tls};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::Args;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::proxy::{Path, Proxy};
use crate::tries::Tries;

/// Tasks that enqueue, and the time from one call of theirs to the next at the soonest.
const PRODUCERS: usize = 4;
const CALL_EVERY: Duration = Duration::from_millis(40);
/// What a call has, retries and reconnects included.
const DEADLINE: Duration = Duration::from_secs(3);
/// What a look at the counts has, which nothing may hold up either.
const LOOK_DEADLINE: Duration = Duration::from_millis(500);
/// An uncertain enqueue is made again with its request id so often.
const ENQUEUES_MAX: u32 = 4;
const WORKERS: usize = 16;
/// What a handler takes.
const WORK: Duration = Duration::from_millis(5);
/// Short, so that what a lost reply has leased soon comes again.
const LEASE: Duration = Duration::from_secs(5);
/// Until everything is worked off once nothing more comes.
const DRAIN_MAX: Duration = Duration::from_secs(90);
/// Until tasks that were told to end have.
const END_MAX: Duration = Duration::from_secs(30);
/// Until the server knows that its clients have gone: longer than their idle timeout.
const REST_MAX: Duration = Duration::from_secs(10);
/// How far behind its deadline a call may end: what a runtime takes to notice.
const OVERRUN_MAX: Duration = Duration::from_millis(250);
/// The same where others use the CPUs.
const OVERRUN_MAX_BUSY: Duration = Duration::from_secs(5);
/// How much more memory the server may need at its busiest than just after the start of the load.
const GROWTH_MAX: u64 = 64 << 20;

/// What came of one row.
#[derive(Debug, Serialize)]
pub(crate) struct Network {
    pub(crate) row: &'static str,
    pub(crate) datagrams: u64,
    pub(crate) datagrams_lost: u64,
    pub(crate) address_changes: u64,
    pub(crate) calls: u64,
    pub(crate) retried: u64,
    pub(crate) reconnects: u64,
    pub(crate) failed_by_deadline: u64,
    pub(crate) given_up_before: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) overrun_us: u64,
    pub(crate) items: u64,
    pub(crate) redelivered: u64,
    pub(crate) doubled: u64,
    pub(crate) lost: u64,
    pub(crate) server_growth_bytes: u64,
    pub(crate) broken: Vec<String>,
}

/// Puts load on a server over such a path and checks what came of it.
pub(crate) async fn run(args: &Args, row: &'static str, path: Path) -> anyhow::Result<Network> {
    let node = Node::start(&args.place, &[]).await?;
    let server = node.server.addresses.rpc;
    let producers_path = Proxy::start(args.place.address(), server, path, args.seed)?;
    let workers_path = Proxy::start(args.place.address(), server, path, args.seed + 1)?;
    let producers = connect(producers_path.address, &node).await?;
    let workers = connect(workers_path.address, &node).await?;

    let before = Tries::so_far();
    let shared = Shared {
        ledger: Arc::default(),
        stop: watch::Sender::new(false),
    };
    let mut broken = Vec::new();
    let mut load = JoinSet::new();
    for producer in 0..PRODUCERS {
        let queue = producers.default_namespace().with_timeout(DEADLINE);
        load.spawn(produce(queue, producer, shared.clone()));
    }
    for client in [&producers, &workers] {
        let queue = client.default_namespace().with_timeout(LOOK_DEADLINE);
        load.spawn(look(queue, shared.clone()));
    }
    let queue = workers.default_namespace().with_timeout(DEADLINE);
    let (end_work, mut work_ends) = watch::channel(false);
    let ledger = Arc::clone(&shared.ledger);
    let working = tokio::spawn(async move {
        let handler = move |job: Job| handle(job, Arc::clone(&ledger));
        let end = async move { work_ends.wait_for(|end| *end).await.is_ok() };
        let worker = queue.worker().concurrency(WORKERS).lease_for(LEASE);
        worker.run_until(end, handler).await
    });

    sleep(Duration::from_secs(1)).await;
    let memory = node.memory()?;
    let dark = path.blackhole.map_or(Duration::ZERO, |hole| hole.length);
    sleep((args.load_time() + dark).saturating_sub(Duration::from_secs(1))).await;
    shared.stop.send_replace(true);
    let all = async { while load.join_next().await.is_some() {} };
    if timeout(DEADLINE * ENQUEUES_MAX + END_MAX, all)
        .await
        .is_err()
    {
        broken.push(format!("{} tasks that make calls hang", load.len()));
    }
    let drained = node.settle(DRAIN_MAX, |now| now.left() == 0.0).await?;
    if drained.left() > 0.0 {
        broken.push(format!("{} items are left in the queue", drained.left()));
    }
    end_work.send_replace(true);
    let report = match timeout(END_MAX, working).await {
        Ok(ended) => ended.context("the worker panicked")??,
        Err(_) => {
            broken.push("the worker hangs".into());
            Report::default()
        }
    };
    for client in [&producers, &workers] {
        if timeout(END_MAX, client.close()).await.is_err() {
            broken.push("a client's close hangs".into());
        }
    }
    let is_at_rest = |now: &crate::node::Metrics| now.connections() + now.open_calls() == 0.0;
    let rest = node.settle(REST_MAX, is_at_rest).await?;
    if !is_at_rest(&rest) {
        let (connections, calls) = (rest.connections(), rest.open_calls());
        broken.push(format!("{connections} connections and {calls} calls stay"));
    }
    let growth = node.memory()?.peak.saturating_sub(memory.now);
    let history = node.history().await?;
    broken.extend(node.end().await);

    let tries = Tries::so_far().since(before);
    let ledger = lock(&shared.ledger);
    let verdict = ledger.judge(&report, &history);
    let overrun_max = if args.place.busy {
        OVERRUN_MAX_BUSY
    } else {
        OVERRUN_MAX
    };
    let overrun_us = u64::try_from(ledger.overrun.as_micros()).unwrap_or(u64::MAX);
    let promises = [
        (verdict.lost > 0, format!("{} items are lost", verdict.lost)),
        (
            verdict.doubled > 0,
            format!("{} items are doubled", verdict.doubled),
        ),
        (verdict.acknowledged == 0, "no item was acknowledged".into()),
        (
            !ledger.strange.is_empty(),
            format!("calls ended with {:?}", ledger.strange),
        ),
        (
            ledger.overrun > overrun_max,
            format!("a call outlived its deadline by {:?}", ledger.overrun),
        ),
        (
            growth > GROWTH_MAX,
            format!("the server needed {} MiB more", growth >> 20),
        ),
    ];
    broken.extend(
        promises
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, why)| why),
    );
    let both = [producers_path.counts(), workers_path.counts()];
    let count = |of: fn(&crate::proxy::Counts) -> u64| both.iter().map(|counts| of(counts)).sum();
    Ok(Network {
        row,
        datagrams: count(|counts| counts.came.get()),
        datagrams_lost: count(|counts| counts.lost.get()),
        address_changes: count(|counts| counts.rebound.get()),
        calls: ledger.calls,
        retried: tries.retries,
        reconnects: tries.reconnects,
        failed_by_deadline: ledger.late,
        given_up_before: ledger.given_up,
        p50_us: ledger.latency.value_at_quantile(0.5),
        p99_us: ledger.latency.value_at_quantile(0.99),
        overrun_us,
        items: verdict.acknowledged,
        redelivered: verdict.redelivered,
        doubled: verdict.doubled,
        lost: verdict.lost,
        server_growth_bytes: growth,
        broken,
    })
}

/// A client of the server, as far as it can tell.
pub(crate) async fn connect(address: SocketAddr, node: &Node) -> anyhow::Result<Client> {
    let client = Client::builder()
        .address(address.to_string())
        .tls(Tls::ca(node.certificate()))
        .caller("quic-faults")
        .connect_timeout(END_MAX);
    Ok(client.connect().await?)
}

/// What the tasks of a row share.
#[derive(Clone)]
struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn is_over(&self) -> bool {
        *self.stop.borrow()
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn produce(queue: Namespace, producer: usize, shared: Shared) {
    for number in 0_u64.. {
        let next = Instant::now() + CALL_EVERY;
        let id = format!("{producer}-{number}");
        for _ in 0..ENQUEUES_MAX {
            let item = Item::new("job", &id).request_id(&id);
            let began = Instant::now();
            let result = queue.enqueue(item).await;
            let mut ledger = lock(&shared.ledger);
            ledger.ended(began.elapsed(), DEADLINE, result.as_ref().err());
            let known = result.map(|put| put.sequence_id);
            let known = known.map_err(|error| error.outcome());
            ledger.enqueued(&id, known);
            if known != Err(Outcome::Unknown) || shared.is_over() {
                break;
            }
        }
        if shared.is_over() {
            return;
        }
        sleep_until(next).await;
    }
}

/// Asks for the counts, again and again, with a deadline that is shorter than many an outage.
async fn look(queue: Namespace, shared: Shared) {
    while !shared.is_over() {
        let began = Instant::now();
        let result = queue.stats().await;
        lock(&shared.ledger).ended(began.elapsed(), LOOK_DEADLINE, result.as_ref().err());
        sleep(CALL_EVERY).await;
    }
}

async fn handle(job: Job, ledger: Arc<Mutex<Ledger>>) -> Result<(), Failure> {
    let id = job.request_id().unwrap_or_default();
    lock(&ledger).handled(id, job.sequence_id(), job.attempt());
    sleep(WORK).await;
    Ok(())
}
