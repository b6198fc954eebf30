//! A core's run queue, and its turns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use async_task::{Runnable, ScheduleInfo, WithInfo};

use super::bell::Bell;
use super::driver::{Alarm, DriverKind};
use super::notifier::Listeners;
use super::sleep_flag::Raised;
use super::spin::Spin;
use super::stats::{CoreStats, LONG_TURN, cpu_taken};
use super::timers::Timers;

/// Task polls between two driver polls, at most.
///
/// A driver poll costs about as much as a short task's poll, so this makes it
/// cheap; [`TURN_TIME_MAX`] bounds the turn when tasks are long.
pub const TURN_POLLS_MAX: usize = 256;

/// Time between two driver polls, not counting the last few tasks' polls.
pub const TURN_TIME_MAX: Duration = Duration::from_micros(500);

/// Task polls between two looks at the clock.
const CLOCK_POLLS: usize = 16;

/// The longest sleep in the driver. A core without any timer may sleep for ever.
const PARK_MAX: Duration = Duration::from_secs(3600);

/// How long a core that spins looks at what other threads may give it before it polls the driver.
const SPIN_STEP: Duration = Duration::from_micros(2);

const _: () = assert!(TURN_POLLS_MAX.is_multiple_of(CLOCK_POLLS));

/// What a core's thread owns while it runs.
pub(super) struct Core {
    driver: DriverKind,
    bell: Arc<Bell>,
    remote: Arc<Remote>,
    /// Tasks to run in this turn, oldest first.
    ready: RefCell<VecDeque<Runnable>>,
    /// Tasks that woke themselves, to run after the next driver poll.
    deferred: RefCell<Vec<Runnable>>,
    /// Wakers to call after the next driver poll.
    deferred_wakers: RefCell<Vec<Waker>>,
    timers: RefCell<Timers>,
    listeners: RefCell<Listeners>,
    /// Wakes the thread's loop while it is in the driver; empty during a turn.
    parked: RefCell<Option<Waker>>,
    turn: Cell<u64>,
    turn_started: Cell<Instant>,
    /// When the last turn ended in a sleep, if it did.
    slept_at: Cell<Option<Instant>>,
    sleeps: Cell<u64>,
    awake: Cell<Duration>,
    long_turns: Cell<u64>,
    spin: RefCell<Spin>,
    live: Rc<Cell<usize>>,
}

/// The part of a core that other threads reach through their wakers.
struct Remote {
    core_id: u64,
    raised: Raised,
    bell: Arc<Bell>,
    /// `None` once the core has ended. At most one entry a task.
    queue: Mutex<Option<Vec<Runnable>>>,
}

thread_local! {
    static CORE: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    /// The id of [`CORE`], or 0: cheap to look at for every wake.
    static CORE_ID: Cell<u64> = const { Cell::new(0) };
}

static LAST_CORE_ID: AtomicU64 = AtomicU64::new(0);

/// Calls `f` with this thread's core, if it runs one.
pub(super) fn with_core<R>(f: impl FnOnce(Option<&Core>) -> R) -> R {
    // The thread-local is gone only while its thread ends, after any core.
    let mut f = Some(f);
    let tried = CORE.try_with(|core| f.take().map(|f| f(core.borrow().as_deref())));
    match tried {
        Ok(done) => done.expect("called once"),
        Err(_) => (f.take().expect("not called yet"))(None),
    }
}

/// Calls `f` with this thread's core. Panics if it runs none.
pub(super) fn with_this_core<R>(f: impl FnOnce(&Core) -> R) -> R {
    with_core(|core| f(core.expect("must be called on a core, inside runtime::run")))
}

/// Runs `future` on this core until it ends.
///
/// # Panics
///
/// Outside a core. A panic of the task ends the core: it unwinds out of
/// [`run`](super::run).
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    with_this_core(|core| {
        let live = LiveTask::new(&core.live);
        let remote = Arc::clone(&core.remote);
        let task = async move {
            let _live = live;
            future.await;
        };
        let schedule = WithInfo(move |runnable, info| remote.schedule(runnable, info));
        let (runnable, task) = async_task::spawn_local(task, schedule);
        task.detach();
        runnable.schedule();
    });
}

/// Tasks spawned on this core that have not ended.
///
/// # Panics
///
/// Outside a core.
pub fn tasks_live() -> usize {
    with_this_core(|core| core.live.get())
}

/// The number of this core's current turn. Rises by one with each driver poll.
///
/// # Panics
///
/// Outside a core.
pub fn driver_turn() -> u64 {
    with_this_core(|core| core.turn.get())
}

/// When this core's current turn began: a clock that costs nothing to read, at
/// most about [`TURN_TIME_MAX`] behind.
///
/// # Panics
///
/// Outside a core.
pub fn turn_started() -> Instant {
    with_this_core(|core| core.turn_started.get())
}

/// Lets the driver, the timers and all other tasks have their turn.
///
/// # Panics
///
/// Outside a core.
pub async fn yield_to_driver() {
    let turn = driver_turn();
    poll_fn(|cx| {
        if driver_turn() > turn {
            return Poll::Ready(());
        }
        wake_next_turn(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Calls `waker` after the next driver poll.
pub(super) fn wake_next_turn(waker: &Waker) {
    with_this_core(|core| core.deferred_wakers.borrow_mut().push(waker.clone()));
}

/// Counts a task for as long as it exists.
struct LiveTask(Rc<Cell<usize>>);

impl LiveTask {
    fn new(live: &Rc<Cell<usize>>) -> Self {
        live.set(live.get() + 1);
        Self(Rc::clone(live))
    }
}

impl Drop for LiveTask {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Remote {
    /// Queues a task that was woken, on whichever thread that was.
    fn schedule(&self, runnable: Runnable, info: ScheduleInfo) {
        let here = CORE_ID.try_with(Cell::get).unwrap_or(0) == self.core_id;
        if here {
            with_this_core(|core| core.schedule(runnable, info.woken_while_running));
        } else {
            self.push(runnable);
        }
    }

    fn push(&self, runnable: Runnable) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_mut() else {
            // The core has ended. Only its own thread may drop the task's
            // future, and that thread has moved on: leak it.
            std::mem::forget(runnable);
            return;
        };
        queue.push(runnable);
        self.announce();
    }

    fn announce(&self) {
        if self.raised.raise() {
            self.bell.ring_if_asleep();
        }
    }

    fn take(&self, into: &mut VecDeque<Runnable>) {
        if self.raised.take() {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            into.extend(queue.iter_mut().flat_map(|queue| queue.drain(..)));
        }
    }

    fn close(&self) -> Option<Vec<Runnable>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.take()
    }
}

/// Wakes the main future of a core.
struct MainWaker {
    woken: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let here = CORE_ID.try_with(Cell::get).unwrap_or(0) == self.remote.core_id;
        if here {
            with_this_core(Core::unpark);
        } else {
            self.remote.announce();
        }
    }
}

impl Core {
    /// Makes this thread a core that spins for so long at most. The guard takes it back.
    pub(super) fn enter(driver: DriverKind, spin_max: Duration) -> io::Result<CoreGuard> {
        assert_eq!(CORE_ID.get(), 0, "a thread runs one core at a time");
        let bell = Arc::new(Bell::new()?);
        let core_id = LAST_CORE_ID.fetch_add(1, Ordering::Relaxed) + 1;
        let remote = Remote {
            core_id,
            raised: Raised::new(),
            bell: Arc::clone(&bell),
            queue: Mutex::new(Some(Vec::new())),
        };
        let core = Rc::new(Core {
            driver,
            bell,
            remote: Arc::new(remote),
            ready: RefCell::default(),
            deferred: RefCell::default(),
            deferred_wakers: RefCell::default(),
            timers: RefCell::default(),
            listeners: RefCell::default(),
            parked: RefCell::new(None),
            turn: Cell::new(0),
            turn_started: Cell::new(Instant::now()),
            slept_at: Cell::new(None),
            sleeps: Cell::new(0),
            awake: Cell::new(Duration::ZERO),
            long_turns: Cell::new(0),
            spin: RefCell::new(Spin::new(spin_max)),
            live: Rc::new(Cell::new(0)),
        });
        CORE.set(Some(Rc::clone(&core)));
        CORE_ID.set(core_id);
        Ok(CoreGuard { core })
    }

    pub(super) fn id(&self) -> u64 {
        self.remote.core_id
    }

    pub(super) fn driver(&self) -> DriverKind {
        self.driver
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    pub(super) fn timers(&self) -> &RefCell<Timers> {
        &self.timers
    }

    pub(super) fn listeners(&self) -> &RefCell<Listeners> {
        &self.listeners
    }

    /// All but the thread's CPU time.
    pub(super) fn stats(&self) -> CoreStats {
        CoreStats {
            turns: self.turn.get(),
            sleeps: self.sleeps.get(),
            awake: self.awake.get(),
            spun: self.spin.borrow().spun(),
            long_turns: self.long_turns.get(),
            tasks: self.live.get(),
            cpu: Duration::ZERO,
        }
    }

    pub(super) fn live(&self) -> usize {
        self.live.get()
    }

    fn schedule(&self, runnable: Runnable, woke_itself: bool) {
        if woke_itself {
            self.deferred.borrow_mut().push(runnable);
        } else {
            self.ready.borrow_mut().push_back(runnable);
        }
        self.unpark();
    }

    /// Has the thread's loop run a turn when the driver returns.
    fn unpark(&self) {
        let waker = self.parked.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The driver was polled: collects everything that became ready.
    fn begin_turn(&self) {
        self.bell.sleep().awake();
        self.turn.set(self.turn.get() + 1);
        let now = Instant::now();
        self.count_turn(now);
        self.turn_started.set(now);
        {
            let mut ready = self.ready.borrow_mut();
            ready.extend(self.deferred.borrow_mut().drain(..));
            self.remote.take(&mut ready);
        }
        // Wakers are called with nothing borrowed: they schedule.
        let mut woken = std::mem::take(&mut *self.deferred_wakers.borrow_mut());
        self.listeners.borrow_mut().take_raised(&mut woken);
        for waker in woken.drain(..) {
            waker.wake();
        }
        // Keeps the allocation, unless a waker has deferred another meanwhile.
        if self.deferred_wakers.borrow().is_empty() {
            *self.deferred_wakers.borrow_mut() = woken;
        }
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            let Some(waker) = due else { break };
            waker.wake();
        }
    }

    /// The last turn is over: it lasted until the core went to sleep, or else until `now`.
    fn count_turn(&self, now: Instant) {
        let end = self.slept_at.take().unwrap_or(now);
        let lasted = end.saturating_duration_since(self.turn_started.get());
        self.awake.set(self.awake.get() + lasted);
        if lasted >= LONG_TURN {
            self.long_turns.set(self.long_turns.get() + 1);
        }
    }

    /// Runs ready tasks until none is left or the turn has lasted long enough. True if there were
    /// any.
    fn run_batch(&self) -> bool {
        for polls in 1..=TURN_POLLS_MAX {
            let next = self.ready.borrow_mut().pop_front();
            let Some(runnable) = next else {
                return polls > 1;
            };
            runnable.run();
            if polls.is_multiple_of(CLOCK_POLLS)
                && self.turn_started.get().elapsed() > TURN_TIME_MAX
            {
                break;
            }
        }
        true
    }

    /// Whether the core polls its driver again instead of sleeping though it has nothing to do; if
    /// so, a little later, or as soon as another thread has given it something.
    fn spins_on(&self, main: &MainWaker) -> bool {
        let mut spin = self.spin.borrow_mut();
        if !spin.is_on() || self.has_work() || main.woken.load(Ordering::Acquire) {
            return false;
        }
        let began = Instant::now();
        if !spin.should_spin(began, cpu_taken) {
            return false;
        }
        while !self.is_raised(main) && began.elapsed() < SPIN_STEP {
            std::hint::spin_loop();
        }
        true
    }

    /// Whether other threads have given it something.
    fn is_raised(&self, main: &MainWaker) -> bool {
        main.woken.load(Ordering::Acquire)
            || self.remote.raised.is_raised()
            || self.listeners.borrow().any_raised()
    }

    fn has_work(&self) -> bool {
        !self.ready.borrow().is_empty()
            || !self.deferred.borrow().is_empty()
            || !self.deferred_wakers.borrow().is_empty()
    }

    /// Announces sleep, then looks for work that other threads raised before
    /// they could see that.
    fn may_sleep(&self, main: &MainWaker) -> bool {
        if self.has_work() || main.woken.load(Ordering::Acquire) {
            return false;
        }
        self.bell.sleep().prepare();
        let raised = self.is_raised(main);
        if raised {
            self.bell.sleep().awake();
        }
        !raised
    }
}

/// A thread's time as a core. Dropping it ends that: tasks that are queued or
/// asleep on a timer are dropped, and wakes from other threads go nowhere.
pub(super) struct CoreGuard {
    core: Rc<Core>,
}

impl CoreGuard {
    pub(super) fn core(&self) -> &Core {
        &self.core
    }
}

impl Drop for CoreGuard {
    fn drop(&mut self) {
        // Dropping a future may wake and spawn others: go on until all is quiet,
        // still as a core, then close.
        loop {
            self.core.remote.take(&mut self.core.ready.borrow_mut());
            let wakers = std::mem::take(&mut *self.core.deferred_wakers.borrow_mut());
            let deferred = std::mem::take(&mut *self.core.deferred.borrow_mut());
            let ready = std::mem::take(&mut *self.core.ready.borrow_mut());
            let timers = std::mem::take(&mut *self.core.timers.borrow_mut());
            let done = wakers.is_empty() && deferred.is_empty() && ready.is_empty();
            if done && timers.earliest().is_none() {
                break;
            }
        }
        drop(self.core.remote.close());
        CORE_ID.set(0);
        CORE.set(None);
    }
}

/// The loop of a core, as the one future that the driver's runtime polls: a
/// poll of it is a turn, and it is pending while the driver is polled.
pub(super) async fn drive<F: Future>(core: &Core, main: F, drain_max: Duration) -> DriveEnd<F> {
    let mut parking = match Parking::new(core) {
        Ok(parking) => parking,
        Err(error) => return Err(DriveError::Driver(error)),
    };
    let waker = Arc::new(MainWaker {
        woken: AtomicBool::new(true),
        remote: Arc::clone(&core.remote),
    });
    let main_waker = Waker::from(Arc::clone(&waker));
    let mut main = std::pin::pin!(main);
    let mut output = None;
    let mut drain_until = None;
    poll_fn(|cx| {
        *core.parked.borrow_mut() = None;
        parking.poll_bell(cx);
        core.begin_turn();
        let mut has_worked = false;
        if output.is_none() && waker.woken.swap(false, Ordering::AcqRel) {
            has_worked = true;
            let polled = main.as_mut().poll(&mut Context::from_waker(&main_waker));
            if let Poll::Ready(value) = polled {
                output = Some(value);
                drain_until = Some(Instant::now() + drain_max);
            }
        }
        has_worked |= core.run_batch();
        if has_worked {
            core.spin.borrow_mut().found_work(core.turn_started.get());
        }
        if let Some(until) = drain_until {
            waker.woken.store(false, Ordering::Relaxed);
            if core.live() == 0 {
                return Poll::Ready(());
            }
            if core.turn_started.get() >= until {
                return Poll::Ready(());
            }
        }
        parking.park(core, &waker, drain_until, cx);
        Poll::Pending
    })
    .await;
    match core.live() {
        0 => Ok(output.expect("the loop ends after main")),
        tasks => Err(DriveError::TasksLeft(tasks)),
    }
}

pub(super) type DriveEnd<F> = Result<<F as Future>::Output, DriveError>;

/// Why a core ended without its result.
pub(super) enum DriveError {
    /// The driver refused the bell.
    Driver(io::Error),
    /// So many tasks were still live when the time to drain was over.
    TasksLeft(usize),
}

/// How a core waits in its driver.
struct Parking {
    /// Never completes; silences the bell and waits for it again.
    bell: Pin<Box<dyn Future<Output = ()>>>,
    alarm: Alarm,
    /// When `alarm` fires, unless it has.
    alarm_at: Option<Instant>,
}

impl Parking {
    fn new(core: &Core) -> io::Result<Self> {
        let readiness = super::Readiness::new(core.bell.descriptor()?)?;
        let bell = Arc::clone(&core.bell);
        Ok(Self {
            bell: Box::pin(async move {
                loop {
                    readiness
                        .readable()
                        .await
                        .expect("the driver watches the bell");
                    bell.silence();
                }
            }),
            alarm: Alarm::new(core.driver, Instant::now() + PARK_MAX),
            alarm_at: None,
        })
    }

    /// Silences the bell if it rang, and waits for it again. Must come before
    /// anything rings the bell for the next driver poll.
    fn poll_bell(&mut self, cx: &mut Context<'_>) {
        assert!(
            self.bell.as_mut().poll(cx).is_pending(),
            "the bell is waited for, for ever"
        );
    }

    /// Sees to it that the coming driver poll returns at once if there is work,
    /// else at the earliest timer or ring.
    fn park(
        &mut self,
        core: &Core,
        main: &MainWaker,
        until: Option<Instant>,
        cx: &mut Context<'_>,
    ) {
        *core.parked.borrow_mut() = Some(cx.waker().clone());
        if core.spins_on(main) || !core.may_sleep(main) || !self.set_alarm(core, until, cx) {
            core.bell.sleep().awake();
            core.bell.ring();
        } else {
            core.slept_at.set(Some(Instant::now()));
            core.sleeps.set(core.sleeps.get() + 1);
        }
    }

    /// False if the earliest timer is due already.
    ///
    /// An alarm that is set too early, for a deadline that was given up, is left
    /// to fire: that costs an empty turn, once, where setting it costs every time.
    fn set_alarm(&mut self, core: &Core, until: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let earliest = core.timers.borrow().earliest();
        let earliest = earliest.into_iter().chain(until).min();
        let Some(earliest) = earliest else {
            return true;
        };
        if self.alarm_at.is_none_or(|at| at > earliest) {
            let at = earliest.min(core.turn_started.get() + PARK_MAX);
            self.alarm.reset(at);
            self.alarm_at = Some(at);
        }
        if self.alarm.poll(cx).is_ready() {
            self.alarm_at = None;
            return false;
        }
        true
    }
}
