//! Waking a task on a core from any thread.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use super::bell::Bell;
use super::executor::with_core;
use super::sleep_flag::Raised;

/// What a notifier and its listener share.
#[derive(Debug)]
struct Shared {
    raised: Raised,
    /// The bell of the listener's core, once it listens.
    bell: OnceLock<Arc<Bell>>,
}

/// Tells a task on a core that there is something to look at, from any thread.
///
/// Costs no system call while the core is awake, and one per sleep of the core
/// otherwise. Notifications that nobody has seen yet become one.
#[derive(Clone, Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
}

/// The other end of a [`Notifier`], for one task on one core.
#[derive(Debug)]
pub struct NotifierListener {
    shared: Arc<Shared>,
    /// The core and the place among its listeners.
    listening: Option<(u64, u64)>,
}

impl Notifier {
    /// Both ends, made anywhere. The listener belongs to the first core that waits on it.
    pub fn pair() -> (Notifier, NotifierListener) {
        let shared = Arc::new(Shared {
            raised: Raised::new(),
            bell: OnceLock::new(),
        });
        let listener = NotifierListener {
            shared: Arc::clone(&shared),
            listening: None,
        };
        (Notifier { shared }, listener)
    }

    /// Wakes the listener. What was published before this call is visible to it.
    pub fn notify(&self) {
        if self.shared.raised.raise()
            && let Some(bell) = self.shared.bell.get()
        {
            bell.ring_if_asleep();
        }
    }
}

impl NotifierListener {
    /// Takes a notification if there is one, without waiting.
    pub fn take(&mut self) -> bool {
        self.shared.raised.take()
    }

    /// Waits for a notification and takes it. Look for work after this returns.
    ///
    /// # Panics
    ///
    /// Outside a core, or on another core than before.
    pub async fn notified(&mut self) {
        poll_fn(|cx| self.poll_notified(cx)).await;
    }

    /// [`NotifierListener::notified`], polled.
    ///
    /// # Panics
    ///
    /// Outside a core, or on another core than before.
    pub fn poll_notified(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.raised.take() {
            return Poll::Ready(());
        }
        with_core(|core| {
            let core = core.expect("a listener waits on a core");
            let mut listeners = core.listeners().borrow_mut();
            let number = match self.listening {
                Some((core_id, number)) => {
                    assert_eq!(core_id, core.id(), "a listener stays on its core");
                    number
                }
                None => {
                    let number = listeners.add(Arc::clone(&self.shared));
                    // Set before the core looks at what is raised on its way to
                    // sleep: a producer that does not see the bell yet is seen then.
                    let _ = self.shared.bell.set(Arc::clone(core.bell()));
                    self.listening = Some((core.id(), number));
                    number
                }
            };
            listeners.wait(number, cx.waker());
        });
        // Raised between the first look and the bell: the core looks again
        // before it sleeps, and wakes this task then.
        Poll::Pending
    }
}

impl Drop for NotifierListener {
    fn drop(&mut self) {
        let Some((core_id, number)) = self.listening else {
            return;
        };
        let waker = with_core(|core| {
            let core = core.filter(|core| core.id() == core_id)?;
            core.listeners().borrow_mut().remove(number)
        });
        drop(waker);
    }
}

/// The listeners of one core.
///
/// A core has a handful, one per ring and log, so a turn looks at each.
#[derive(Default)]
pub(super) struct Listeners {
    entries: Vec<Entry>,
    last: u64,
}

struct Entry {
    number: u64,
    shared: Arc<Shared>,
    waiting: Option<Waker>,
}

impl Listeners {
    fn add(&mut self, shared: Arc<Shared>) -> u64 {
        self.last += 1;
        self.entries.push(Entry {
            number: self.last,
            shared,
            waiting: None,
        });
        self.last
    }

    fn wait(&mut self, number: u64, waker: &Waker) {
        let entry = self.entries.iter_mut().find(|entry| entry.number == number);
        let entry = entry.expect("a listener is known to its core until it is dropped");
        match &mut entry.waiting {
            Some(waiting) => waiting.clone_from(waker),
            None => entry.waiting = Some(waker.clone()),
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waker> {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.number == number)?;
        self.entries.swap_remove(index).waiting
    }

    /// Is there a notification that a task waits for?
    pub(super) fn any_raised(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.waiting.is_some() && entry.shared.raised.is_raised())
    }

    /// Moves the tasks whose notification has come to `woken`.
    pub(super) fn take_raised(&mut self, woken: &mut Vec<Waker>) {
        for entry in &mut self.entries {
            if entry.shared.raised.is_raised() {
                woken.extend(entry.waiting.take());
            }
        }
    }
}
