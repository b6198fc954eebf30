//! Attackers: a thread each, which takes no CPU time that the healthy client wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use bench::priority;
use tokio::sync::oneshot;

use super::{Attack, datagrams, half_frames, replay, slow_readers, versions};

/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(1);

/// Whom it is about.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) server: SocketAddr,
    pub(super) certificate: PathBuf,
}

/// What an attacker did, and what it should not have met.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) sent: u64,
    pub(super) broken: Vec<String>,
}

/// An attack that goes on until it is told to end.
#[derive(Debug)]
pub(super) struct Attacker {
    stop: Stop,
    /// Taken at the end.
    thread: Option<JoinHandle<anyhow::Result<Done>>>,
}

/// Whether an attack is over.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
    }
}

impl Attacker {
    /// Returns once it has begun: what it needs it has made before.
    pub(super) async fn start(attack: Attack, target: Target) -> anyhow::Result<Attacker> {
        let stop = Stop(Arc::default());
        let theirs = stop.clone();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new().name("attacker".into());
        let thread = thread.spawn(move || {
            priority::lowest().context("the attacker's priority")?;
            run(attack, &target, ready, &theirs)
        })?;
        let attacker = Attacker {
            stop,
            thread: Some(thread),
        };
        match is_ready.await {
            Ok(()) => Ok(attacker),
            Err(_) => match attacker.end().await {
                Ok(_) => Err(anyhow!("the attacker ended before it began")),
                Err(error) => Err(error),
            },
        }
    }

    pub(super) async fn end(mut self) -> anyhow::Result<Done> {
        self.stop.0.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken only here");
        while !thread.is_finished() {
            tokio::time::sleep(STEP).await;
        }
        thread
            .join()
            .map_err(|_| anyhow!("the attacker panicked"))?
    }
}

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Calls `send` so many times a second until it is over; how often.
    pub(super) fn pace(
        &self,
        per_second: u32,
        mut send: impl FnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let began = Instant::now();
        let mut sent = 0;
        while !self.is_set() {
            let due = began.elapsed().as_secs_f64() * f64::from(per_second);
            while (sent as f64) < due {
                send(sent)?;
                sent += 1;
            }
            std::thread::sleep(STEP);
        }
        Ok(sent)
    }

    /// Waits until it is over.
    pub(super) async fn wait(&self) {
        while !self.is_set() {
            tokio::time::sleep(STEP * 10).await;
        }
    }
}

fn run(
    attack: Attack,
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    match attack {
        Attack::Initials => datagrams::initials(target, ready, stop),
        Attack::Garbage => datagrams::garbage(target, ready, stop),
        Attack::Replay => on_runtime(replay::run(target, ready, stop)),
        Attack::SlowReaders => on_runtime(slow_readers::run(target, ready, stop)),
        Attack::HalfFrames => on_runtime(half_frames::run(target, ready, stop)),
        Attack::Versions => on_runtime(versions::run(target, ready, stop)),
    }
}

/// Runs what has connections.
pub(super) fn on_runtime<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, task)
}
