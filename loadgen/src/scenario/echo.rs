//! The smallest call there and back.

use std::rc::Rc;
use std::time::Duration;

use omnirelay_loadgen::{Caller, Connection, Dialer, OpenError, Sockets};
use omnirelay_net::rpc::Procedure;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::calls::{Calls, wait_until};
use super::meter::{CALLS, Meter};
use super::{Failure, Setting, allow_connections, probe};
use crate::args::EchoArgs;
use crate::progress::{Doing, End};
use crate::report::{Figure, Report, Step};

/// How long the last calls may take.
const LAST_CALLS_TIME_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &EchoArgs, mut setting: Setting) -> Result<Report, Failure> {
    allow_connections(args.connections)?;
    let (connections, callers) = open(args, &setting).await?;
    let calls = Rc::new(Calls::new(args.rate));
    let mut tasks = JoinSet::new();
    let meter = Meter::start(setting.server);
    for caller in callers {
        for _ in 0..args.pipeline {
            tasks.spawn_local(call_on(Rc::clone(&calls), caller.clone()));
        }
    }
    let clock = Rc::clone(&calls);
    let clock = tokio::task::spawn_local(async move { clock.keep_pace().await });
    let end = Instant::now() + args.duration;
    let doing = Doing {
        what: "calling",
        unit: "calls",
        end: End::At(end),
    };
    let measuring = async {
        tokio::select! {
            () = wait_until(end, &mut setting.interrupt) => {}
            () = join(&mut tasks) => {}
        }
    };
    setting
        .progress
        .during(doing, || calls.look(), measuring)
        .await;
    let answered = calls.answered();
    let measured = meter.stop();
    calls.stop();
    clock.abort();
    let is_late = timeout(LAST_CALLS_TIME_MAX, join(&mut tasks))
        .await
        .is_err();
    if is_late {
        calls.error(|| format!("stats: {} calls were not answered", calls.in_flight()));
    }
    let report = Report {
        rates: vec![Figure::real(
            "calls_per_s",
            "calls/s",
            measured.per_s(answered),
            0,
        )],
        steps: vec![Step {
            name: "echo",
            histogram: calls.histogram(),
        }],
        verdict: calls.verdict(),
        costs: measured.cpu(answered, &CALLS),
    };
    drop(tasks);
    Connection::close_all(connections).await;
    Ok(report)
}

/// Opens all connections, and sees by a call on the first that the server is one.
async fn open(
    args: &EchoArgs,
    setting: &Setting,
) -> Result<(Vec<Connection>, Vec<Caller>), OpenError> {
    let target = &setting.target;
    let no_connection = |error| OpenError::connect(target, error);
    let dialer = Dialer::new(target, Sockets::Own).map_err(no_connection)?;
    let mut connections = Vec::with_capacity(args.connections);
    let mut callers = Vec::with_capacity(args.connections);
    for at in 0..args.connections {
        let connection = dialer.open().await.map_err(no_connection)?;
        let mut caller = Caller::new(&connection, target, Procedure::Stats)?;
        if at == 0 {
            let first = probe::stats(&mut caller).await;
            first.map_err(|error| probe::of_call(target, error))?;
        }
        connections.push(connection);
        callers.push(caller);
    }
    Ok((connections, callers))
}

/// One call after the other, until the run is stopped or the connection fails.
async fn call_on(calls: Rc<Calls>, mut caller: Caller) {
    while let Some(began) = calls.next().await {
        if !calls.make(&mut caller, began).await {
            return;
        }
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}
