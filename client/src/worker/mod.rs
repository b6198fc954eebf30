//! Working items off: lease, run, renew, settle.

mod job;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::Instrument;

pub use self::job::Job;
use self::job::{Ended, work};
use crate::error::Error;
use crate::lease::Failure;
use crate::namespace::{LeaseOptions, Namespace};
use crate::retry::Backoff;

/// The most items in one lease call.
const LEASE_ITEMS_MAX: usize = omnirelay_net::messages::BATCH_ITEMS_MAX;
/// Pauses between lease calls that fail.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Says what a [`Worker`] is to be; from [`Namespace::worker`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `run_until`"]
pub struct WorkerBuilder {
    namespace: Namespace,
    concurrency: usize,
    options: LeaseOptions,
    lease_for: Option<Duration>,
    shutdown_timeout: Duration,
}

impl WorkerBuilder {
    pub(crate) fn new(namespace: Namespace) -> WorkerBuilder {
        WorkerBuilder {
            namespace,
            concurrency: 16,
            options: LeaseOptions::default().wait(Duration::from_secs(30)),
            lease_for: None,
            shutdown_timeout: Duration::from_secs(10),
        }
    }

    /// How many items are worked on at a time, at least 1; 16. No more are leased than can be
    /// begun at once.
    pub fn concurrency(mut self, items: usize) -> WorkerBuilder {
        self.concurrency = items.max(1);
        self
    }

    /// How long leases last, 1 s to 12 h; the namespace's duration unless said. They are renewed
    /// at a third of it. Short ones let others take over sooner, long ones survive longer breaks.
    pub fn lease_for(mut self, duration: Duration) -> WorkerBuilder {
        self.lease_for = Some(duration);
        self.options = self.options.lease_for(duration);
        self
    }

    /// The worker's name, for people who look.
    pub fn peer_id(mut self, peer_id: impl Into<String>) -> WorkerBuilder {
        self.options = self.options.peer_id(peer_id);
        self
    }

    /// Takes only items of this partition key; `""` those without one.
    pub fn partition_key(mut self, key: impl Into<String>) -> WorkerBuilder {
        self.options = self.options.partition_key(key);
        self
    }

    /// How long handlers may go on once the worker is to end; 10 s. Then they are aborted, and
    /// their items given back.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> WorkerBuilder {
        self.shutdown_timeout = timeout;
        self
    }

    /// What runs these settings.
    pub fn build(self) -> Worker {
        Worker(self)
    }

    /// Short for [`WorkerBuilder::build`] and [`Worker::run_until`].
    ///
    /// # Errors
    /// As [`Worker::run_until`].
    pub async fn run_until<S, H, F>(self, shutdown: S, handler: H) -> Result<Report, Error>
    where
        S: Future,
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.build().run_until(shutdown, handler).await
    }
}

/// Leases items and runs an async closure on each.
///
/// For each item it spawns the handler as a task, renews the lease for as long as that runs, and
/// completes or fails the item with what it returns. A handler that panics fails its item, which is
/// then tried again like after any failure. Errors of the connection are its own business: it
/// goes on when a server answers again.
///
/// An item may be handed to a handler more than once: where a worker dies, or a lease is lost. What
/// a handler writes elsewhere has to be idempotent, or fenced by [`crate::Token`].
#[derive(Debug, Clone)]
pub struct Worker(WorkerBuilder);

/// What became of the items that a worker was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Were completed.
    pub completed: u64,
    /// Were failed by their handler, panics included.
    pub failed: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Leases that ended under their handler.
    pub lost: u64,
    /// Were given back at the end.
    pub given_back: u64,
    /// Were handled, and the server could not be told within the call's time: they come again when
    /// their lease ends.
    pub unsettled: u64,
}

impl Report {
    fn count(&mut self, ended: Ended) {
        match ended {
            Ended::Completed => self.completed += 1,
            Ended::Failed => self.failed += 1,
            Ended::Panicked => {
                self.failed += 1;
                self.panicked += 1;
            }
            Ended::Lost => self.lost += 1,
            Ended::GivenBack => self.given_back += 1,
            Ended::Unsettled => self.unsettled += 1,
        }
    }
}

/// The jobs that are worked on, and what became of the others.
struct Jobs {
    tasks: JoinSet<Ended>,
    report: Report,
}

impl Jobs {
    async fn next(&mut self) -> Option<()> {
        let ended = self.tasks.join_next().await?;
        match ended {
            Ok(ended) => self.report.count(ended),
            Err(error) => {
                tracing::error!(%error, "a worker's own task failed");
                self.report.unsettled += 1;
            }
        }
        Some(())
    }
}

impl Worker {
    /// Works until `shutdown` is ready, then takes nothing more, lets handlers finish for
    /// [`WorkerBuilder::shutdown_timeout`], gives back the items of those that do not, and says
    /// what became of all.
    ///
    /// Dropping it aborts the handlers; their leases then expire.
    ///
    /// # Errors
    /// Where leasing can never succeed, e.g. because there is no such namespace. Handlers have
    /// ended by then as after `shutdown`.
    pub async fn run_until<S, H, F>(&self, shutdown: S, handler: H) -> Result<Report, Error>
    where
        S: Future,
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let (give_back, told) = watch::channel(false);
        let mut jobs = Jobs {
            tasks: JoinSet::new(),
            report: Report::default(),
        };
        let mut shutdown = std::pin::pin!(shutdown);
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let ended = loop {
            let free = self.0.concurrency - jobs.tasks.len();
            if free == 0 {
                tokio::select! {
                    _ = &mut shutdown => break Ok(()),
                    _ = jobs.next() => continue,
                }
            }
            let mut leasing = std::pin::pin!(self.lease(free));
            let leases = loop {
                tokio::select! {
                    biased;
                    _ = &mut shutdown => break None,
                    leases = &mut leasing => break Some(leases),
                    _ = jobs.next(), if !jobs.tasks.is_empty() => {}
                }
            };
            match leases {
                None => break Ok(()),
                Some(Ok(leases)) => {
                    backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                    for lease in leases {
                        let span = tracing::info_span!(
                            "omnirelay.job",
                            sequence_id = lease.sequence_id(),
                            attempt = lease.attempt(),
                        );
                        let handler = Arc::clone(&handler);
                        let job = work(lease, self.0.lease_for, told.clone(), handler);
                        jobs.tasks.spawn(job.instrument(span));
                    }
                }
                Some(Err(error)) if error.is_retryable() => {
                    tracing::warn!(%error, "cannot lease; trying again");
                    tokio::select! {
                        _ = &mut shutdown => break Ok(()),
                        () = sleep(backoff.next()) => {}
                    }
                }
                Some(Err(error)) => break Err(error),
            }
        };
        self.finish(&mut jobs, &give_back).await;
        ended.map(|()| jobs.report)
    }

    async fn lease(&self, free: usize) -> Result<Vec<crate::Lease>, Error> {
        let most = u32::try_from(free.min(LEASE_ITEMS_MAX)).unwrap_or(u32::MAX);
        let options = self.0.options.clone().items_max(most);
        self.0.namespace.lease_with(options).await
    }

    /// Lets jobs end by themselves for a while, then makes them.
    async fn finish(&self, jobs: &mut Jobs, give_back: &watch::Sender<bool>) {
        let all = async { while jobs.next().await.is_some() {} };
        if timeout(self.0.shutdown_timeout, all).await.is_err() {
            give_back.send_replace(true);
            // Each ends with its settlement, and that with its deadline.
            while jobs.next().await.is_some() {}
        }
    }
}
