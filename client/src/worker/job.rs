//! One item in a worker's hands.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use crate::error::Error;
use crate::lease::{Failure, Lease, Settled};

/// Heartbeats come after this share of a lease, so that two may fail before it ends.
const BEATS_PER_LEASE: u32 = 3;
/// The shortest time between two heartbeats.
const BEAT_MIN: Duration = Duration::from_millis(100);

/// An item that a [`crate::Worker`] has handed to its handler: a [`Lease`] that is renewed and
/// settled for you.
#[derive(Debug, Clone)]
pub struct Job {
    lease: Arc<Lease>,
    lost: watch::Receiver<bool>,
}

impl Deref for Job {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl Job {
    /// Whether the lease has ended: somebody else may be working on the item. Stop, and write
    /// nothing more; what the handler returns is of no account.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the lease has ended, to stop work that waits for something else:
    ///
    /// ```
    /// # use omnirelay_client::{Failure, Job};
    /// async fn handle(job: Job) -> Result<(), Failure> {
    ///     tokio::select! {
    ///         done = vacuum(job.resource_id()) => done,
    ///         () = job.lost() => Err(Failure::retry("the lease was lost")),
    ///     }
    /// }
    /// # async fn vacuum(_: &str) -> Result<(), Failure> { Ok(()) }
    /// ```
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|lost| *lost).await.is_err() {
            // The job has ended, and its lease was not lost.
            std::future::pending::<()>().await;
        }
    }
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Completed,
    Failed,
    Panicked,
    Lost,
    GivenBack,
    Unsettled,
}

/// The handler's task, which ends with its handle.
struct Running(JoinHandle<Result<(), Failure>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What happened first to an item.
enum First {
    Handled(Result<Result<(), Failure>, JoinError>),
    Lost,
    /// To give it back.
    Told,
}

/// Runs the handler on an item, keeps the lease meanwhile, and settles it in the end.
pub(super) async fn work<H, F>(
    lease: Lease,
    lease_for: Option<Duration>,
    mut give_back: watch::Receiver<bool>,
    handler: Arc<H>,
) -> Ended
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let lease = Arc::new(lease);
    let (losing, lost) = watch::channel(false);
    let job = Job {
        lease: Arc::clone(&lease),
        lost,
    };
    // The closure itself may panic, so it is called in the task too.
    let handled = async move { handler(job).await }.in_current_span();
    let mut running = Running(tokio::spawn(handled));
    let mut kept = std::pin::pin!(keep(&lease, lease_for, &losing));
    let mut told = std::pin::pin!(give_back.wait_for(|told| *told));
    let first = tokio::select! {
        biased;
        result = &mut running.0 => First::Handled(result),
        () = &mut kept => First::Lost,
        _ = &mut told => First::Told,
    };
    let result = match first {
        First::Handled(result) => result,
        First::Lost => {
            // The handler may clean up; the item is somebody else's.
            tokio::select! {
                _ = &mut running.0 => {}
                _ = &mut told => {}
            }
            return Ended::Lost;
        }
        First::Told => {
            running.0.abort();
            (&mut running.0).await
        }
    };
    settle(&lease, result).await
}

async fn settle(lease: &Lease, result: Result<Result<(), Failure>, JoinError>) -> Ended {
    match result {
        Ok(Ok(())) => settled(lease, lease.complete().await, Ended::Completed),
        Ok(Err(failure)) => {
            tracing::debug!(?failure, "the handler failed");
            settled(lease, lease.fail(failure).await, Ended::Failed)
        }
        Err(error) if error.is_panic() => {
            let failure = Failure::retry(format!("the handler panicked: {}", words(error)));
            tracing::error!(?failure, "the handler panicked");
            settled(lease, lease.fail(failure).await, Ended::Panicked)
        }
        // It was aborted.
        Err(_) => settled(lease, lease.release().await, Ended::GivenBack),
    }
}

fn settled(lease: &Lease, result: Result<Settled, Error>, ended: Ended) -> Ended {
    match result {
        Ok(_) => ended,
        Err(error) if error.is_fenced() => {
            tracing::warn!(token = %lease.token(), %error, "the lease ended before its work");
            Ended::Lost
        }
        Err(error) => {
            tracing::error!(token = %lease.token(), %error, "the lease could not be settled");
            Ended::Unsettled
        }
    }
}

/// What a panic said.
fn words(error: JoinError) -> String {
    let panic: Box<dyn Any + Send> = match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => return error.to_string(),
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a word".into())
}

/// Renews a lease until it is lost, and then says so.
async fn keep(lease: &Lease, lease_for: Option<Duration>, losing: &watch::Sender<bool>) {
    let mut ends = lease.ends();
    let mut lasts = lease.lease_for();
    loop {
        let pause = (lasts / BEATS_PER_LEASE).max(BEAT_MIN);
        sleep_until((Instant::now() + pause).min(ends)).await;
        let asked = Instant::now();
        if asked >= ends {
            tracing::warn!("the lease ran out: the server could not be reached in time");
            break;
        }
        match lease.renew_until(lease_for, ends).await {
            Ok(renewed) => {
                lasts = renewed;
                // Counted from before it was asked for: never later than the server has it.
                ends = asked + renewed;
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "a heartbeat failed");
            }
            Err(error) => {
                tracing::warn!(%error, "the lease was lost");
                break;
            }
        }
    }
    losing.send_replace(true);
}
