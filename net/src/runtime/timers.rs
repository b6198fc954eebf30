//! A core's timers.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::executor::with_core;

/// Deadlines of one core and whom to wake at each, earliest first.
///
/// The number tells timers of the same instant apart.
#[derive(Default)]
pub(super) struct Timers {
    pending: BTreeMap<(Instant, u64), Waker>,
    last: u64,
}

impl Timers {
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes one timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        if self.earliest()? > now {
            return None;
        }
        self.pending.pop_first().map(|(_, waker)| waker)
    }

    fn insert(&mut self, at: Instant, waker: Waker) -> u64 {
        self.last += 1;
        self.pending.insert((at, self.last), waker);
        self.last
    }
}

/// Completes at an instant. Made by [`sleep`] and [`sleep_until`].
///
/// Holds no reference to the core, so it may be moved and dropped anywhere;
/// it must be polled on a core.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    at: Instant,
    /// The core and number under which it is registered.
    registered: Option<(u64, u64)>,
}

impl Sleep {
    /// When it completes.
    pub fn deadline(&self) -> Instant {
        self.at
    }

    /// Completes at `at` instead. The task that polled it must poll it again.
    pub fn reset(&mut self, at: Instant) {
        self.deregister();
        self.at = at;
    }

    /// A timer registered with another core is left to fire there for nothing.
    fn deregister(&mut self) {
        let Some((core_id, number)) = self.registered.take() else {
            return;
        };
        let waker = with_core(|core| {
            let core = core.filter(|core| core.id() == core_id)?;
            core.timers()
                .borrow_mut()
                .pending
                .remove(&(self.at, number))
        });
        // Dropped here, with the timers no longer borrowed: the last waker of a
        // task schedules it.
        drop(waker);
    }
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    ///
    /// Outside a core.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if Instant::now() >= this.at {
            this.deregister();
            return Poll::Ready(());
        }
        with_core(|core| {
            let core = core.expect("a sleep is polled on a core");
            let mut timers = core.timers().borrow_mut();
            if let Some((core_id, number)) = this.registered
                && core_id == core.id()
                && let Some(waker) = timers.pending.get_mut(&(this.at, number))
            {
                waker.clone_from(cx.waker());
                return;
            }
            let number = timers.insert(this.at, cx.waker().clone());
            this.registered = Some((core.id(), number));
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.deregister();
    }
}

/// Completes at `at`, or up to about 2 ms later.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep {
        at,
        registered: None,
    }
}

/// Completes after `duration`, or up to about 2 ms later.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// The time given to [`timeout`] passed before its future completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time allowed passed")]
pub struct Elapsed;

/// Runs `future` for at most `duration`, then drops it.
///
/// # Errors
///
/// [`Elapsed`] if it had not completed by then.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now() + duration, future).await
}

/// Runs `future` until `at` at the latest, then drops it.
///
/// # Errors
///
/// [`Elapsed`] if it had not completed by then.
pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut deadline = pin!(sleep_until(at));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        deadline.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
