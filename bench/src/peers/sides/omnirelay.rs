//! OmniRelay itself, under the load generator's load.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bench::server::{Cpus, Launch, Server};
use omnirelay_loadgen::{
    Caller, Connection, Latencies, Load, Pace, Run, Shape, Target, Transport, latency_histogram,
};
use omnirelay_net::messages::StatsRequest;
use omnirelay_net::rpc::{Call, DEFAULT_NAMESPACE, Encoding, Procedure, Reply};
use tokio::time::{Instant, sleep};

use crate::peers::figures::{Figures, Meter};
use crate::peers::process::{CLIENT_CPU, SERVER_CPU};
use crate::peers::rows::{BACKLOG_FACTOR, Row, Timing};

const STEP: Duration = Duration::from_millis(5);
/// Longer than what the counts of a node may be stale by.
const STATS_STEP: Duration = Duration::from_millis(15);

const _: () = assert!(SERVER_CPU == 0, "a server gets the CPUs from 0 on");

/// How calls travel, and how many items are in one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) transport: Transport,
    pub(crate) encoding: Encoding,
    /// Items to a call; at most as many as are in flight on a connection.
    pub(crate) batch: usize,
}

/// What a load is besides its row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Items a second, instead of as fast as it goes.
    pub(crate) rate: Option<f64>,
    /// Items that are in the queue while cycles are measured.
    pub(crate) waiting: u64,
}

/// Starts a server on its one core, with `settings` as `serve --set` takes them.
pub(crate) async fn start(dir: &Path, settings: Vec<String>) -> anyhow::Result<Server> {
    start_on(1, dir, settings).await
}

/// Starts a server on so many cores, which get the CPUs from 0 on; the client stays on its own.
pub(crate) async fn start_on(
    cores: u16,
    dir: &Path,
    settings: Vec<String>,
) -> anyhow::Result<Server> {
    let cpus = Cpus {
        server: cores,
        client: CLIENT_CPU,
    };
    Launch::new(dir, cpus, settings)?.start().await
}

/// A server that calls can be made to.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) pid: u32,
}

impl From<&Server> for Running {
    fn from(server: &Server) -> Self {
        Self {
            address: server.addresses.rpc.to_string(),
            pid: server.pid(),
        }
    }
}

pub(crate) fn target(server: &Running, way: Way) -> Target {
    Target {
        address: server.address.clone(),
        transport: way.transport,
        ca: None,
        client: None,
        namespace: DEFAULT_NAMESPACE.to_owned(),
        encoding: way.encoding,
    }
}

/// Puts a load on it and measures it.
///
/// # Errors
/// If it fails, or an item that was acknowledged did not come and go exactly once.
pub(crate) async fn measure(
    server: &Running,
    way: Way,
    row: Row,
    size: usize,
    timing: Timing,
    work: Work,
) -> anyhow::Result<Figures> {
    let target = target(server, way);
    let batch = way.batch.min(row.in_flight);
    let shape = Shape {
        connections: row.connections,
        calls_in_flight: row.in_flight / batch,
        batch,
        size,
        slow_after: Duration::MAX,
    };
    let pace = match work.rate {
        None => Pace::Backlog(BACKLOG_FACTOR * row.connections * shape.calls_in_flight),
        Some(rate) => Pace::Period(Duration::from_secs_f64(batch as f64 / rate)),
    };
    let mut load = Load::open(&target, shape, pace).await?;
    if work.waiting > 0 {
        load.start_filling(work.waiting)?;
        // Tasks count themselves once they run.
        tokio::task::yield_now().await;
        settle(load.run(), timing.patience, |run| run.producers.get() == 0).await?;
    }
    load.start_workers()?;
    load.start_producers()?;
    let run = load.run();
    sleep(timing.warm_up).await;
    run.reset_latencies();
    let meter = Meter::start(server.pid, run.ledger.borrow().completed());
    sleep(timing.duration).await;
    let measured = meter.stop(run.ledger.borrow().completed());
    let latencies = run.latencies.replace(Latencies {
        enqueue: latency_histogram(),
        lease: latency_histogram(),
        complete: latency_histogram(),
    });
    load.stop_producers();
    // All that was begun is acknowledged, and all that was acknowledged is gone.
    settle(run, timing.patience, |run| {
        run.producers.get() == 0 && run.ledger.borrow().unfinished() == 0
    })
    .await?;
    expect_empty(&target, run, timing.patience).await?;
    load.close().await;
    Ok(measured.with(latencies))
}

/// Waits until it is so, as long as something is done within each `patience`.
async fn settle(run: &Run, patience: Duration, is_so: impl Fn(&Run) -> bool) -> anyhow::Result<()> {
    let done = || run.ledger.borrow().acknowledged() + run.ledger.borrow().completed();
    let (mut last, mut end) = (done(), Instant::now() + patience);
    while !is_so(run) {
        check(run)?;
        if done() > last {
            (last, end) = (done(), Instant::now() + patience);
        }
        if Instant::now() > end {
            let (lost, calls) = (run.ledger.borrow().unfinished(), run.producers.get());
            bail!(
                "{lost} acknowledged items were lost, {calls} producers wait for replies: nothing \
                 came for {patience:?}"
            );
        }
        sleep(STEP).await;
    }
    check(run)
}

/// Waits until the queue says that it is empty; workers go on, so that they meet second copies.
async fn expect_empty(target: &Target, run: &Run, patience: Duration) -> anyhow::Result<()> {
    let connection = Connection::open(target).await?;
    let mut caller = Caller::new(&connection, target, Procedure::Stats)?;
    let end = Instant::now() + patience;
    loop {
        sleep(STATS_STEP).await;
        check(run)?;
        let reply = caller.call(&Call::Stats(StatsRequest::default())).await;
        let Ok(Reply::Stats(reply)) = reply else {
            bail!("the queue does not tell its counts: {reply:?}");
        };
        let stats = reply
            .stats
            .ok_or_else(|| anyhow!("a reply without counts"))?;
        let waiting = stats.pending_count + stats.delayed_count;
        match waiting + stats.active_lease_count + stats.dead_letter_count {
            0 => break,
            left if Instant::now() > end => bail!("{left} items are left in the queue"),
            _ => {}
        }
    }
    Connection::close_all(vec![connection]).await;
    Ok(())
}

/// Whether every call was answered, and every item handed out once.
fn check(run: &Run) -> anyhow::Result<()> {
    if let Some(error) = run.first_error() {
        bail!("{} errors, the first: {error}", run.errors());
    }
    match run.ledger.borrow().duplicates() {
        0 => Ok(()),
        duplicates => bail!("{duplicates} items were leased or completed twice"),
    }
}
