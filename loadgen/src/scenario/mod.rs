//! What is done to a server, from the first connection to the report.

mod backlog;
mod calls;
mod cycle;
mod echo;
mod enqueue_only;
mod fanin;
mod lease_load;
mod meter;
mod probe;

use std::fmt;
use std::io;

use omnirelay_loadgen::cpu::ProcessClock;
use omnirelay_loadgen::{OpenError, Target, allow_open_files, grouped};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Scenario;
use crate::progress::Progress;
use crate::report::Report;

/// Files that are open besides connections.
const OTHER_FILES: usize = 64;

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// There is no server, or not one that does what a run needs.
    Open(OpenError),
    /// This machine failed.
    Io(io::Error),
    /// It could not be gone on with, for this reason.
    Stopped(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Stopped(message) => write!(out, "{message}"),
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

/// What every scenario works with.
struct Setting {
    target: Target,
    server: Option<Server>,
    interrupt: Signal,
    progress: Progress,
}

/// The server's process.
#[derive(Debug, Clone, Copy)]
struct Server {
    pid: i32,
    clock: ProcessClock,
}

impl Setting {
    fn new(scenario: &Scenario) -> Result<Self, Failure> {
        let (target, process, output) = scenario.common();
        let server = process.server_pid.map(|pid| match ProcessClock::of(pid) {
            Ok(clock) => Ok(Server { pid, clock }),
            Err(error) => Err(Failure::Usage(format!("--server-pid {pid}: {error}"))),
        });
        Ok(Self {
            target: target.target(),
            server: server.transpose()?,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::Io)?,
            progress: Progress::new(!output.no_progress),
        })
    }
}

/// Makes a run. Must be called on a [`tokio::task::LocalSet`].
pub(crate) async fn run(scenario: &Scenario) -> Result<Report, Failure> {
    let setting = Setting::new(scenario)?;
    match scenario {
        Scenario::Cycle(args) => cycle::run(args, setting).await,
        Scenario::Echo(args) => echo::run(args, setting).await,
        Scenario::EnqueueOnly(args) => enqueue_only::run(args, setting).await,
        Scenario::Backlog(args) => backlog::run(args, setting).await,
        Scenario::Fanin(args) => fanin::run(args, setting).await,
    }
}

/// What a picture of the run is called, and with which settings it was made.
pub(crate) fn words(scenario: &Scenario) -> (String, String) {
    let (target, ..) = scenario.common();
    let rate = |rate: Option<f64>| match rate {
        Some(rate) => format!(", {rate} a second"),
        None => String::new(),
    };
    let (title, settings) = match scenario {
        Scenario::Cycle(args) => (
            "Latency of enqueue, lease and complete".to_owned(),
            args.shape.words() + &rate(args.rate),
        ),
        Scenario::Echo(args) => (
            "Latency of the smallest call".to_owned(),
            format!("{} × {} in flight", args.connections, args.pipeline) + &rate(args.rate),
        ),
        Scenario::EnqueueOnly(args) => (
            "Latency of enqueue".to_owned(),
            args.shape.words() + &rate(args.rate),
        ),
        Scenario::Backlog(args) => (
            format!(
                "Latency with {} items waiting, and with none",
                grouped(args.items)
            ),
            args.shape.words(),
        ),
        Scenario::Fanin(args) => (
            format!(
                "Latency over {} connections",
                grouped(args.connections as u64)
            ),
            format!("{} calls a second", args.rate),
        ),
    };
    (title, format!("{}; {settings}", target.words()))
}

/// Sees that so many connections may be open.
fn allow_connections(connections: usize) -> Result<(), Failure> {
    let files = (connections + OTHER_FILES) as u64;
    allow_open_files(files).map_err(|error| Failure::Usage(format!("--connections: {error}")))
}
