//! The smallest call there and back, beside QUIC with nothing behind it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, anyhow, bail};
use omnirelay_loadgen::{Caller, Connection, Dialer, Sockets};
use omnirelay_net::messages::StatsRequest;
use omnirelay_net::rpc::{Call, Procedure};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::bare::Bare;
use super::figures::{Measured, Meter};
use super::results::EchoRun;
use super::rows::{ROWS, Row, Timing, WIDEST};
use super::sides::Side;
use super::sides::omnirelay::{self, Running};

/// Calls in flight: connections, and how many on each.
pub(crate) const ECHO_ROWS: [Row; 2] = [WIDEST, ROWS[3]];

/// One run of OmniRelay, of its driver alone and of bare QUIC, with as many connections as a row
/// has producers.
///
/// # Errors
/// If one fails, or a call is not answered.
pub(crate) async fn run(dir: &Path, row: Row, timing: Timing) -> anyhow::Result<EchoRun> {
    let dir = tempfile::tempdir_in(dir)?;
    let ours = {
        let server = omnirelay::start(&dir.path().join("data"), Vec::new()).await?;
        let measured = measure(&Running::from(&server), row, timing).await;
        measured.context("echo, OmniRelay")?
    };
    Ok(EchoRun {
        ours,
        driver: measure_bare(dir.path(), &["--own-driver"], row, timing).await?,
        bare: measure_bare(dir.path(), &[], row, timing).await?,
    })
}

async fn measure_bare(
    dir: &Path,
    options: &[&str],
    row: Row,
    timing: Timing,
) -> anyhow::Result<Measured> {
    // Of its own: where it listens is in a file beside its data.
    let dir = tempfile::tempdir_in(dir)?;
    let mut bare = Bare::start(dir.path(), options).await?;
    let measured = measure(&bare.running, row, timing).await;
    // A server that has ended says more than a connection that has.
    bare.process.check()?;
    measured.with_context(|| format!("echo, bare-quic {}", options.join(" ")))
}

/// Calls on all connections, each with so many in flight.
async fn measure(server: &Running, row: Row, timing: Timing) -> anyhow::Result<Measured> {
    let way = Side::Quic.way(row).expect("OmniRelay has one");
    let target = omnirelay::target(server, way);
    let dialer = Dialer::new(&target, Sockets::Own)?;
    let calls = Rc::new(Calls::default());
    let mut connections = Vec::with_capacity(row.connections);
    let mut tasks = JoinSet::new();
    for _ in 0..row.connections {
        let connection = dialer.open().await?;
        let caller = Caller::new(&connection, &target, Procedure::Stats)?;
        connections.push(connection);
        for _ in 0..row.in_flight {
            tasks.spawn_local(call(Rc::clone(&calls), caller.clone()));
        }
    }
    sleep(timing.warm_up).await;
    let meter = Meter::start(server.pid, calls.answered.get());
    sleep(timing.duration).await;
    let measured = meter.stop(calls.answered.get());
    calls.are_over.set(true);
    let ended = timeout(timing.patience, async {
        while tasks.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        let (calls, patience) = (tasks.len(), timing.patience);
        bail!("{calls} calls were not answered within {patience:?}");
    }
    if let Some(error) = calls.failure.take() {
        return Err(error);
    }
    Connection::close_all(connections).await;
    Ok(measured)
}

#[derive(Debug, Default)]
struct Calls {
    answered: Cell<u64>,
    are_over: Cell<bool>,
    failure: RefCell<Option<anyhow::Error>>,
}

/// One call after the other, until all are over or one fails.
async fn call(calls: Rc<Calls>, mut caller: Caller) {
    let call = Call::Stats(StatsRequest::default());
    while !calls.are_over.get() {
        if let Err(error) = caller.call(&call).await {
            let failure = || anyhow!("a call failed: {error:?}");
            calls.failure.borrow_mut().get_or_insert_with(failure);
            return;
        }
        calls.answered.set(calls.answered.get() + 1);
    }
}
