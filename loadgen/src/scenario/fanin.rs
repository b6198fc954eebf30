//! Very many connections, most of them idle.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_loadgen::{
    Caller, ConnectError, Connection, Dialer, OpenError, Sockets, Target, latency_histogram,
    resident_bytes,
};
use omnirelay_net::rpc::Procedure;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::calls::{Calls, wait_until};
use super::meter::{CALLS, Meter};
use super::{Failure, Server, Setting, allow_connections, probe};
use crate::args::FaninArgs;
use crate::progress::{Doing, End, Look};
use crate::report::{Figure, Report, Step};

/// Connections that open at a time.
const OPENING_MAX: usize = 64;

/// Calls under way at a time; one that is due then waits, and its latency counts on.
const IN_FLIGHT_MAX: usize = 16_384;

/// How long the last calls may take.
const LAST_CALLS_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a server has to come to rest before its memory is looked at.
const REST: Duration = Duration::from_millis(500);

/// The open connections, and how that went.
struct Opened {
    connections: Vec<Connection>,
    callers: Vec<Caller>,
    histogram: Histogram<u64>,
    elapsed: Duration,
}

/// The server's memory without connections, with all of them, and after they have been used.
#[derive(Default)]
struct Memory {
    before: Option<u64>,
    opened: Option<u64>,
    used: Option<u64>,
}

pub(super) async fn run(args: &FaninArgs, mut setting: Setting) -> Result<Report, Failure> {
    allow_connections(args.connections)?;
    let mut memory = Memory {
        before: resident(setting.server),
        ..Memory::default()
    };
    let opened = open(args, &mut setting).await?;
    if memory.before.is_some() {
        sleep(REST).await;
        memory.opened = resident(setting.server);
    }
    let calls = Rc::new(Calls::new(Some(args.rate)));
    let meter = Meter::start(setting.server);
    let end = Instant::now() + args.duration;
    let doing = Doing {
        what: "calling",
        unit: "calls",
        end: End::At(end),
    };
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut tasks = JoinSet::new();
    let calling = async {
        tokio::select! {
            () = wait_until(end, &mut setting.interrupt) => {}
            () = calls.keep_pace() => {}
            () = take_turns(&calls, &opened.callers, &room, &mut tasks) => {}
        }
    };
    setting
        .progress
        .during(doing, || calls.look(), calling)
        .await;
    let answered = calls.answered();
    let measured = meter.stop();
    calls.stop();
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(LAST_CALLS_TIME_MAX, ended).await.is_err() {
        calls.error(|| format!("stats: {} calls were not answered", calls.in_flight()));
    }
    memory.used = resident(setting.server);
    let lost = count_lost(&calls, &opened.connections);
    let connects_per_s = opened.connections.len() as f64 / opened.elapsed.as_secs_f64();
    let mut costs = vec![Figure::count("lost_connections", "lost connections", lost)];
    costs.extend(memory.figures(opened.connections.len()));
    costs.extend(measured.cpu(answered, &CALLS));
    let report = Report {
        rates: vec![
            Figure::count(
                "connections",
                "connections",
                opened.connections.len() as u64,
            ),
            Figure::real("connects_per_s", "connects/s", connects_per_s, 0),
            Figure::real("calls_per_s", "calls/s", measured.per_s(answered), 0),
        ],
        steps: vec![
            Step {
                name: "connect",
                histogram: opened.histogram,
            },
            Step {
                name: "call",
                histogram: calls.histogram(),
            },
        ],
        verdict: calls.verdict(),
        costs,
    };
    drop(tasks);
    drop(opened.callers);
    Connection::close_all(opened.connections).await;
    Ok(report)
}

/// Opens all connections, some at a time; the first alone, which shows whether there is a server.
async fn open(args: &FaninArgs, setting: &mut Setting) -> Result<Opened, Failure> {
    let target = setting.target.clone();
    let dialer = Dialer::new(&target, Sockets::Shared);
    let dialer = Rc::new(dialer.map_err(|error| OpenError::connect(&target, error))?);
    let mut opened = vec![open_one(&dialer, &target).await?];
    let histogram = RefCell::new(latency_histogram());
    let began = Instant::now();
    let look = || {
        let histogram = histogram.borrow();
        Look {
            done: histogram.len(),
            in_flight: OPENING_MAX as u64,
            p99_us: histogram.value_at_quantile(0.99),
            errors: 0,
        }
    };
    let doing = Doing {
        what: "connecting",
        unit: "connections",
        end: End::Goal(args.connections as u64),
    };
    let interrupt = &mut setting.interrupt;
    let mut opening = JoinSet::new();
    let connecting = async {
        let mut left = args.connections - 1;
        let mut refused = None;
        loop {
            while left > 0 && opening.len() < OPENING_MAX {
                left -= 1;
                let (dialer, target) = (Rc::clone(&dialer), target.clone());
                opening.spawn_local(async move {
                    let began = Instant::now();
                    let opened = open_one(&dialer, &target).await;
                    (opened, began.elapsed())
                });
            }
            tokio::select! {
                result = opening.join_next() => match result {
                    Some(Ok((Ok(one), took))) => {
                        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                        histogram.borrow_mut().saturating_record(took_us);
                        opened.push(one);
                    }
                    // Those that are opening are still counted.
                    Some(Ok((Err(error), _))) => {
                        left = 0;
                        refused.get_or_insert(error);
                    }
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                    None => return match refused {
                        Some(error) => Err(no_more(&target, opened.len(), &error)),
                        None => Ok(()),
                    },
                },
                _ = interrupt.recv() => {
                    return Err(Failure::Stopped("it was interrupted while connecting".into()));
                }
            }
        }
    };
    let connected = setting.progress.during(doing, look, connecting).await;
    let elapsed = began.elapsed();
    drop(opening);
    let (connections, callers) = opened.into_iter().unzip();
    if let Err(failure) = connected {
        Connection::close_all(connections).await;
        return Err(failure);
    }
    Ok(Opened {
        connections,
        callers,
        histogram: histogram.into_inner(),
        elapsed,
    })
}

/// Opens a connection and makes a first call: the kernel connects before the server takes it.
async fn open_one(dialer: &Dialer, target: &Target) -> Result<(Connection, Caller), OpenError> {
    let opened = dialer.open().await;
    let connection = opened.map_err(|error| OpenError::connect(target, error))?;
    let mut caller = Caller::new(&connection, target, Procedure::Stats)?;
    let answer = probe::stats(&mut caller).await;
    answer.map_err(|error| probe::of_call(target, error))?;
    Ok((connection, caller))
}

/// How many connections there were when another could not be opened: the server may take no more.
fn no_more(target: &Target, open: usize, failure: &OpenError) -> Failure {
    let (why, help) = match failure {
        OpenError::Connect { error, .. } => (error.to_string(), error.help()),
        OpenError::Refused(error) => (error.to_string(), ""),
    };
    let help = match failure {
        OpenError::Connect {
            error: ConnectError::Unreachable { .. },
            ..
        } => {
            "a node takes 10,000 connections a core unless limits.connections_max_per_core says otherwise"
        }
        _ => help,
    };
    Failure::Stopped(format!(
        "no more than {open} connections could be opened to {}: {why}\nhelp: {help}",
        target.address
    ))
}

/// Has one connection after the other make its call as calls are due.
async fn take_turns(
    calls: &Rc<Calls>,
    callers: &[Caller],
    room: &Arc<Semaphore>,
    tasks: &mut JoinSet<()>,
) {
    for caller in callers.iter().cycle() {
        let Some(began) = calls.next().await else {
            return;
        };
        let Ok(place) = Arc::clone(room).acquire_owned().await else {
            return;
        };
        let (calls, mut caller) = (Rc::clone(calls), caller.clone());
        tasks.spawn_local(async move {
            calls.make(&mut caller, began).await;
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// Connections that ended by themselves; each is an error.
fn count_lost(calls: &Calls, connections: &[Connection]) -> u64 {
    let failures = connections.iter().filter_map(Connection::failure);
    failures
        .inspect(|why| calls.error(|| format!("a connection was lost: {why}")))
        .count() as u64
}

fn resident(server: Option<Server>) -> Option<u64> {
    resident_bytes(server?.pid).ok()
}

impl Memory {
    fn figures(&self, connections: usize) -> Vec<Figure> {
        let (Some(before), Some(opened), Some(used)) = (self.before, self.opened, self.used) else {
            return Vec::new();
        };
        let of_each = |bytes: u64| bytes.saturating_sub(before) / connections as u64;
        vec![
            Figure::count(
                "server_resident_bytes",
                "server memory before, bytes",
                before,
            ),
            Figure::count(
                "server_bytes_per_connection",
                "… for each connection once open",
                of_each(opened),
            ),
            Figure::count(
                "server_bytes_per_connection_at_end",
                "… for each connection at the end",
                of_each(used),
            ),
        ]
    }
}
