//! The live view of the node as server-sent events, for all who watch it.
//!
//! While anybody watches, one sample of the cores is taken a second and all are sent the same
//! bytes; while nobody does, none is taken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::introspect::{self, View};
use super::outgoing::{self, KEEP_ALIVE_EVERY, NotTaken, Outgoing, SSE, StreamLife};
use super::process::Process;
use super::status::NodeStatus;

/// How many may watch at once. Each has a connection of the admin server's.
pub(super) const WATCHERS_MAX: usize = 32;
/// Between two samples of the cores, and the least between two views for one watcher.
pub(super) const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The most between two views for one watcher.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// A view that comes this much before it is due is taken for the one that is due.
const EARLY: Duration = Duration::from_millis(500);

const _: () = assert!(EARLY.as_millis() < INTERVAL_MIN.as_millis());

/// The newest view, and who watches.
#[derive(Debug)]
pub(super) struct LiveFeed {
    places: Arc<Semaphore>,
    newest: watch::Sender<Bytes>,
    sampler: Mutex<Sampler>,
}

#[derive(Debug, Default)]
struct Sampler {
    runs: bool,
    samples: u64,
}

impl Default for LiveFeed {
    fn default() -> LiveFeed {
        LiveFeed {
            places: Arc::new(Semaphore::new(WATCHERS_MAX)),
            newest: watch::Sender::new(Bytes::new()),
            sampler: Mutex::default(),
        }
    }
}

impl LiveFeed {
    /// How many samples were taken.
    #[cfg(test)]
    pub(super) fn samples(&self) -> u64 {
        self.sampler().samples
    }

    fn sampler(&self) -> MutexGuard<'_, Sampler> {
        // Whoever panicked had set one field, or none.
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever comes first has the samples taken; whoever comes later has the newest at once.
    fn join(&self, status: &Arc<NodeStatus>) -> watch::Receiver<Bytes> {
        let mut sampler = self.sampler();
        let mut views = self.newest.subscribe();
        if !sampler.runs {
            sampler.runs = true;
            tokio::spawn(sample(Arc::clone(status)));
        } else if !self.newest.borrow().is_empty() {
            views.mark_changed();
        }
        views
    }
}

/// Takes samples until nobody watches.
async fn sample(status: Arc<NodeStatus>) {
    let mut ticks = interval(INTERVAL_MIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let live = status.live();
        {
            let mut sampler = live.sampler();
            if live.newest.receiver_count() == 0 {
                sampler.runs = false;
                live.newest.send_replace(Bytes::new());
                return;
            }
            sampler.samples += 1;
        }
        let moment = status.moment().await;
        let view = introspect::render(View::Live, &status, &moment, &Process::read());
        live.newest.send_replace(format!("data: {view}\n\n").into());
    }
}

/// The stream of live views on this connection; `None` if as many watch as may.
pub(super) fn watch(
    status: &Arc<NodeStatus>,
    life: Arc<StreamLife>,
    every: Duration,
) -> Option<Response> {
    let place = Arc::clone(&status.live().places).try_acquire_owned().ok()?;
    let views = status.live().join(status);
    let (out, response) = outgoing::respond(life, SSE);
    tokio::spawn(run(out, place, views, every));
    Some(response)
}

/// Sends views until the reader or the server ends.
async fn run(
    out: Outgoing,
    _place: OwnedSemaphorePermit,
    mut views: watch::Receiver<Bytes>,
    every: Duration,
) {
    match pump(&out, &mut views, every).await {
        Ok(()) => {
            let last = outgoing::farewell(
                "the node ends; come back",
                "UNAVAILABLE",
                "introspect.ended",
            );
            out.end(last, false);
        }
        Err(NotTaken::Gone) => {}
        Err(NotTaken::Slow) => {
            let why = "the reader took nothing for too long; come back";
            out.end(
                outgoing::farewell(why, "ABORTED", "introspect.slow_reader"),
                true,
            );
        }
    }
}

async fn pump(
    out: &Outgoing,
    views: &mut watch::Receiver<Bytes>,
    every: Duration,
) -> Result<(), NotTaken> {
    out.send_bytes(Bytes::from_static(b"retry: 1000\n\n"))
        .await?;
    let (mut due, mut sent) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                if Instant::now() + EARLY < due {
                    continue;
                }
                let view = views.borrow_and_update().clone();
                if view.is_empty() {
                    continue;
                }
                out.send_bytes(view).await?;
                due = Instant::now() + every;
            }
            () = sleep_until(sent + KEEP_ALIVE_EVERY) => {
                out.keep_alive().await?;
            }
            () = out.gone() => return Err(NotTaken::Gone),
            () = out.server_ends() => return Ok(()),
        }
        sent = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fixture;

    /// Waits for one more view.
    async fn next(views: &mut watch::Receiver<Bytes>) -> Bytes {
        views.changed().await.unwrap();
        views.borrow_and_update().clone()
    }

    #[tokio::test]
    async fn all_who_watch_get_the_same_sample_and_nobody_costs_none() {
        let status = fixture::status();
        assert_eq!(status.live().samples(), 0);
        let mut first = status.live().join(&status);
        assert!(next(&mut first).await.starts_with(b"data: {"));
        let mut second = status.live().join(&status);
        assert_eq!(next(&mut second).await, *first.borrow());
        assert_eq!(status.live().samples(), 1);
        assert_eq!(next(&mut first).await, next(&mut second).await);
        assert_eq!(status.live().samples(), 2);
        drop((first, second));
        let stopped = async {
            while status.live().sampler().runs {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stopped = tokio::time::timeout(Duration::from_secs(30), stopped).await;
        stopped.expect("nobody watches");
        assert_eq!(status.live().samples(), 2);
        // Whoever comes then is not shown what is long past.
        let mut late = status.live().join(&status);
        assert!(next(&mut late).await.starts_with(b"data: {"));
        assert_eq!(status.live().samples(), 3);
    }
}
