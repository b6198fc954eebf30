//! A run from its first connection to its report.

use std::fmt;
use std::io;
use std::time::Duration;

use omnirelay_loadgen::cpu::{ProcessClock, own_time};
use omnirelay_loadgen::{CallError, Caller, Connection, Load, OpenError, Pace, Run, Shape, Target};
use omnirelay_net::messages::StatsRequest;
use omnirelay_net::rpc::{Call, Procedure, Reply};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::args::Command;
use crate::report::{Report, per_million};

/// Items that are enqueued and not completed, as a multiple of what the workers hold at most:
/// enough that no worker waits, little enough that the queue stays short.
const BACKLOG_FACTOR: usize = 4;

/// How long the end of a run waits for the queue to be empty: what is still in it then is either
/// other people's, or a second copy of an item, which a worker should meet.
const EMPTY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks at the queue's counts, which may be 10 ms stale.
const EMPTY_WAIT_STEP: Duration = Duration::from_millis(15);

/// Looks that must find the queue empty one after the other.
const EMPTY_LOOKS: usize = 2;

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// There is no server, or not one that does what a run needs.
    Open(OpenError),
    /// This machine failed.
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => write!(out, "{message}"),
            Self::Open(error) => write!(out, "{error}"),
            Self::Io(error) => write!(out, "{error}"),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// The measured part of a run: between its start and the end of producing.
struct Measured {
    cycles: u64,
    elapsed: Duration,
    client_cpu: Duration,
    server_cpu: Option<Duration>,
}

/// Makes a run. Must be called on a [`tokio::task::LocalSet`].
pub(crate) async fn cycle(command: &Command) -> Result<Report, Failure> {
    let server = command.server_pid.map(|pid| {
        let clock = ProcessClock::of(pid);
        clock.map_err(|error| Failure::Usage(format!("--server-pid {pid}: {error}")))
    });
    let server = server.transpose()?;
    let target = Target {
        address: command.address.clone(),
        transport: command.transport.into(),
        ca: command.ca.clone(),
        namespace: command.namespace.clone(),
        encoding: command.encoding.into(),
    };
    let (probe_connection, mut probe) = probe(&target).await?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Io)?;
    let pace = match command.rate {
        None => Pace::Backlog(BACKLOG_FACTOR * command.connections * command.calls_in_flight()),
        Some(rate) => Pace::Period(Duration::from_secs_f64(command.batch as f64 / rate)),
    };
    let mut load = Load::open(&target, shape(command), pace).await?;
    let client_before = own_time();
    let server_before = server.and_then(ProcessClock::time);
    load.start_workers()?;
    load.start_producers()?;
    let run = load.run();

    let mut interrupted = produce_until(run, run.start + command.duration, &mut interrupt).await;
    let measured = Measured {
        cycles: run.ledger.borrow().completed(),
        elapsed: run.start.elapsed(),
        client_cpu: own_time().saturating_sub(client_before),
        server_cpu: server
            .and_then(ProcessClock::time)
            .zip(server_before)
            .map(|(after, before)| after.saturating_sub(before)),
    };
    load.stop_producers();
    let deadline = Instant::now() + command.drain;
    interrupted |= drain(run, deadline, &mut interrupt).await;
    if !interrupted && run.ledger.borrow().unfinished() == 0 {
        wait_until_empty(run, &mut probe).await;
    }
    if run.producers.get() > 0 {
        let unanswered = run.producers.get();
        run.error(|| format!("enqueue: {unanswered} calls were not answered"));
    }
    let report = report(run, &measured);
    load.close().await;
    Connection::close_all(vec![probe_connection]).await;
    Ok(report)
}

fn shape(command: &Command) -> Shape {
    Shape {
        connections: command.connections,
        calls_in_flight: command.calls_in_flight(),
        batch: command.batch,
        size: command.size,
        slow_after: Duration::MAX,
    }
}

/// Sees that there is a server which speaks the protocol and has the namespace.
async fn probe(target: &Target) -> Result<(Connection, Caller), OpenError> {
    let unreachable = |cause| OpenError::Unreachable {
        address: target.address.clone(),
        cause,
    };
    let connection = Connection::open(target).await.map_err(unreachable)?;
    let mut caller = Caller::new(&connection, target, Procedure::Stats)?;
    match caller.call(&Call::Stats(StatsRequest::default())).await {
        Ok(_) => Ok((connection, caller)),
        Err(CallError::Refused(error)) => Err(OpenError::Refused(error)),
        Err(CallError::Broken(cause)) => Err(unreachable(cause)),
    }
}

/// Waits for the end of producing; whether it was Ctrl-C.
async fn produce_until(run: &Run, end: Instant, interrupt: &mut Signal) -> bool {
    // Tasks count themselves once they run.
    tokio::task::yield_now().await;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => return false,
            _ = interrupt.recv() => return true,
            () = run.progress.notified() => {
                if run.producers.get() == 0 || run.workers.get() == 0 {
                    return false;
                }
            }
        }
    }
}

/// Waits until every call of the producers is answered and every acknowledged item completed,
/// until the deadline; whether it was Ctrl-C that ended this.
async fn drain(run: &Run, deadline: Instant, interrupt: &mut Signal) -> bool {
    while run.producers.get() > 0 || run.ledger.borrow().unfinished() > 0 {
        if run.workers.get() == 0 {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => break,
            _ = interrupt.recv() => return true,
            () = run.progress.notified() => {}
        }
    }
    false
}

/// Keeps the workers going until the queue says it is empty, so that they meet second copies.
async fn wait_until_empty(run: &Run, probe: &mut Caller) {
    let deadline = Instant::now() + EMPTY_WAIT_MAX;
    let call = Call::Stats(StatsRequest::default());
    let mut looks = 0;
    while looks < EMPTY_LOOKS && run.workers.get() > 0 {
        let Ok(Ok(Reply::Stats(reply))) = timeout_at(deadline, probe.call(&call)).await else {
            return;
        };
        let stats = reply.stats.unwrap_or_default();
        let left = stats.pending_count + stats.active_lease_count + stats.delayed_count;
        looks = if left == 0 { looks + 1 } else { 0 };
        if timeout_at(deadline, tokio::time::sleep(EMPTY_WAIT_STEP))
            .await
            .is_err()
        {
            return;
        }
    }
}

fn report(run: &Run, measured: &Measured) -> Report {
    let ledger = run.ledger.borrow();
    let latencies = run.latencies.borrow();
    Report {
        cycles_per_s: measured.cycles as f64 / measured.elapsed.as_secs_f64(),
        enqueue_us: (&latencies.enqueue).into(),
        lease_us: (&latencies.lease).into(),
        complete_us: (&latencies.complete).into(),
        errors: run.errors(),
        duplicates: ledger.duplicates(),
        lost: ledger.unfinished(),
        client_cpu_s_per_m_cycles: per_million(measured.client_cpu, measured.cycles),
        server_cpu_s_per_m_cycles: measured
            .server_cpu
            .map(|time| per_million(time, measured.cycles)),
        acknowledged: ledger.acknowledged(),
        first_error: run.first_error(),
    }
}
