//! A core's thread: it feeds the core with what sockets, other cores and log threads bring, and
//! carries out what the core asks for. It decides nothing.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use omnirelay_net::messages::ExplainRequest;
use omnirelay_net::ring::{Consumer, Producer};
use omnirelay_net::rpc::{Call, Reply};
use omnirelay_net::runtime::{self, Notifier, NotifierListener};
use omnirelay_queue::Nanos;
use omnirelay_wal::Disk;

use super::cell::CoreCell;
use super::clock::Clock;
use super::ending::Ending;
use super::inbox::{Event, ExplainAsk, InboxReader};
use super::log_threads::LogThreads;
use crate::node::{Board, CallContext, Core, CoreId, Layout, LogId, LogParts, LogTask, Message};

/// Messages that fit a ring between two cores.
pub const RING_MESSAGES: usize = 4_096;
/// Messages a core takes from its rings before it looks at anything else.
const MESSAGES_PER_TURN: usize = 256;
/// Replies a core makes before it looks at anything else.
const REPLIES_PER_TURN: usize = 256;

/// A core's ring to another core.
pub(super) struct Outbound {
    pub(super) to: CoreId,
    pub(super) ring: Producer<Message>,
    pub(super) notifier: Notifier,
}

/// Everything a core starts with; made elsewhere, then moved to the core's thread.
pub(super) struct CoreSeed<D: Disk> {
    pub(super) id: CoreId,
    pub(super) layout: Arc<Layout>,
    pub(super) board: Arc<Board>,
    pub(super) clock: Clock,
    pub(super) logs: Vec<LogParts<D>>,
    pub(super) threads: Vec<(LogId, LogThreads)>,
    pub(super) inbox: InboxReader,
    pub(super) inbound: Vec<Consumer<Message>>,
    pub(super) messages: NotifierListener,
    /// Wakes the one that waits for `messages`.
    pub(super) notifier: Notifier,
    pub(super) outbound: Vec<Outbound>,
    pub(super) ending: Arc<Ending>,
}

/// The parts of a core's thread that are not the core.
struct Pump<D: Disk> {
    cell: Rc<CoreCell<D>>,
    threads: Vec<(LogId, LogThreads)>,
    outbound: Vec<Outbound>,
    notifier: Notifier,
    ending: Arc<Ending>,
    /// The others know that this core has no calls left.
    has_told: bool,
}

/// Makes the core on its thread and starts the tasks that drive it.
pub(super) fn start<D: Disk>(seed: CoreSeed<D>, driver: &'static str) -> Rc<CoreCell<D>> {
    let core = Core::new(seed.id, Arc::clone(&seed.layout), seed.board, seed.logs);
    let cell = CoreCell::new(core, seed.clock, seed.layout, driver);
    cell.core.borrow_mut().handle_open(seed.clock.now());
    cell.dirty.set();
    let pump = Pump {
        cell: Rc::clone(&cell),
        threads: seed.threads,
        outbound: seed.outbound,
        notifier: seed.notifier,
        ending: Arc::clone(&seed.ending),
        has_told: false,
    };
    let stopped = || Rc::clone(&cell);
    runtime::spawn(pump.run());
    runtime::spawn(until_stopped(
        stopped(),
        take_events(seed.id, Rc::clone(&cell), seed.inbox),
    ));
    runtime::spawn(until_stopped(
        stopped(),
        take_messages(Rc::clone(&cell), seed.inbound, seed.messages, seed.ending),
    ));
    runtime::spawn(until_stopped(stopped(), keep_time(Rc::clone(&cell))));
    cell
}

/// Runs a task that has no end of its own for as long as the core lives.
async fn until_stopped<D: Disk>(cell: Rc<CoreCell<D>>, task: impl Future<Output = ()>) {
    let mut task = std::pin::pin!(task);
    poll_fn(|cx| {
        if cell.stop.poll(cx).is_ready() {
            Poll::Ready(())
        } else {
            task.as_mut().poll(cx)
        }
    })
    .await;
}

impl<D: Disk> Pump<D> {
    async fn run(mut self) {
        loop {
            self.cell.dirty.wait().await;
            self.cell
                .core
                .borrow_mut()
                .finish_turn(self.cell.clock.now());
            let all_replied = self.reply();
            let all_sent = self.send();
            self.do_tasks();
            self.cell.rearm.set();
            if !self.cell.opened.is_set() && self.is_quiet() {
                self.cell.opened.set();
            }
            if self.cell.draining.get() && all_replied && all_sent && self.may_end() {
                self.cell.stop.set();
                return;
            }
            if !all_replied || !all_sent || self.cell.core.borrow().has_more() {
                // A ring is full, or there is more to do than fits a turn: let the core breathe and
                // go on.
                runtime::yield_to_driver().await;
                self.cell.dirty.set();
            }
        }
    }

    /// Tells all cores once this one has no calls left; true when none of them needs it any more.
    fn may_end(&mut self) -> bool {
        let is_left = self.cell.http.open() == 0 && self.cell.quic.open() == 0;
        let is_idle = is_left && self.cell.core.borrow().is_idle();
        if is_idle && !self.has_told {
            self.has_told = true;
            self.ending.core_is_done();
            self.notifier.notify();
            for lane in &self.outbound {
                lane.notifier.notify();
            }
        }
        self.cell.unneeded.get() && self.is_quiet()
    }

    /// Nothing waits for a disk.
    fn is_quiet(&self) -> bool {
        let core = self.cell.core.borrow();
        core.is_synced() || core.failure().is_some()
    }

    /// Gives replies to whoever waits for them; false if there are more.
    fn reply(&self) -> bool {
        for _ in 0..REPLIES_PER_TURN {
            let Some((id, outcome)) = self.cell.core.borrow_mut().poll_outcome() else {
                return true;
            };
            if let Some(unwanted) = self.cell.put_reply(id, outcome) {
                self.cell.undelivered(unwanted.grants);
            }
        }
        false
    }

    /// Sends what goes to other cores; false if a ring was full.
    fn send(&mut self) -> bool {
        let mut all_sent = true;
        loop {
            let Some((to, message)) = self.cell.core.borrow_mut().poll_message() else {
                break;
            };
            let lane = self
                .outbound
                .iter_mut()
                .find(|lane| lane.to == to)
                .expect("a ring to every other core");
            if let Err(message) = lane.ring.push(message) {
                self.cell.core.borrow_mut().return_message(to, message);
                self.cell.telemetry.borrow_mut().rings.full += 1;
                all_sent = false;
                break;
            }
        }
        for lane in &self.outbound {
            if !lane.ring.is_empty() {
                lane.notifier.notify();
            }
        }
        all_sent
    }

    fn do_tasks(&self) {
        loop {
            let Some(task) = self.cell.core.borrow_mut().poll_task() else {
                return;
            };
            let log = task.log();
            let (_, threads) = self
                .threads
                .iter()
                .find(|(id, _)| *id == log)
                .expect("a core has its logs' threads");
            match task {
                LogTask::Write(_, batch) => threads.write(batch),
                LogTask::Allocate(_, fill) => threads.allocate(fill),
                LogTask::Read(_, request) => threads.read(request),
                LogTask::Scan(_, request) => threads.scan(request),
                LogTask::Retire(_, segment, reuse) => threads.retire(segment, reuse),
            }
        }
    }
}

async fn take_events<D: Disk>(id: CoreId, cell: Rc<CoreCell<D>>, mut inbox: InboxReader) {
    loop {
        while let Some(event) = inbox.try_next() {
            let now = cell.clock.now();
            match event {
                Event::Synced {
                    log,
                    batch,
                    bytes,
                    records,
                    took,
                } => {
                    cell.telemetry
                        .borrow_mut()
                        .count_batch(bytes, records, took);
                    cell.core.borrow_mut().handle_synced(now, log, batch);
                }
                Event::LogFailed(log, why) => {
                    cell.core.borrow_mut().handle_log_failed(now, log, why)
                }
                Event::Spare(log, spare) => cell.core.borrow_mut().handle_spare(now, log, spare),
                Event::Read(read, bytes) => cell.core.borrow_mut().handle_read(now, read, bytes),
                Event::Scanned(log, scanned) => {
                    cell.core.borrow_mut().handle_scanned(log, scanned);
                }
                Event::Retired(log, segment, retired) => {
                    let mut core = cell.core.borrow_mut();
                    core.handle_retired(now, log, segment, retired);
                }
                Event::Serve => cell.serve.set(),
                Event::Drain => {
                    cell.draining.set(true);
                    cell.drain.set();
                    cell.core.borrow_mut().handle_drain(now);
                }
                // A scrape that gave up waiting takes no answer.
                Event::Report(to) => drop(to.send(cell.report(id.0))),
                Event::Explain(ask) => runtime::spawn(explain(Rc::clone(&cell), ask)),
            }
            cell.dirty.set();
        }
        inbox.notified().await;
    }
}

/// Asks as a client would, and hands the answer back.
async fn explain<D: Disk>(cell: Rc<CoreCell<D>>, ask: ExplainAsk) {
    let call = Call::Explain(ExplainRequest {
        sequence_id: ask.sequence_id,
        namespace: None,
    });
    let context = CallContext {
        namespace: ask.namespace,
        owner: String::new(),
        shard_key: None,
        reply_by: cell.clock.now().saturating_add(ask.time),
    };
    let reply = cell.call(call.into(), &context).await.reply;
    let answer = match reply.map(|answer| answer.to_reply()) {
        Ok(Reply::Explain(response)) => Ok(response),
        Ok(_) => unreachable!("an explain is answered with an explanation"),
        Err(error) => Err(error),
    };
    // Whoever asked may have gone.
    let _ = ask.to.send(answer);
}

async fn take_messages<D: Disk>(
    cell: Rc<CoreCell<D>>,
    mut inbound: Vec<Consumer<Message>>,
    mut listener: NotifierListener,
    ending: Arc<Ending>,
) {
    loop {
        // Asked before looking: whoever was done by then had sent all there is.
        let is_last_look = ending.all_are_done();
        let mut taken = 0;
        let mut waiting_max = 0;
        for ring in &mut inbound {
            waiting_max = waiting_max.max(ring.len() as u64);
            while taken < MESSAGES_PER_TURN
                && let Some(message) = ring.pop()
            {
                cell.core
                    .borrow_mut()
                    .handle_message(cell.clock.now(), message);
                taken += 1;
            }
        }
        if taken > 0 {
            let rings = &mut cell.telemetry.borrow_mut().rings;
            rings.messages += taken as u64;
            rings.waiting_max = rings.waiting_max.max(waiting_max);
            cell.dirty.set();
        }
        if taken >= MESSAGES_PER_TURN || (is_last_look && taken > 0) {
            runtime::yield_to_driver().await;
        } else {
            if is_last_look {
                cell.unneeded.set(true);
                cell.dirty.set();
            }
            listener.notified().await;
        }
    }
}

async fn keep_time<D: Disk>(cell: Rc<CoreCell<D>>) {
    /// Stands for "no deadline": far away, and found out again when one comes.
    const IDLE: Duration = Duration::from_secs(3_600);
    loop {
        let next = cell.core.borrow().next_deadline();
        let now = cell.clock.now();
        if next.is_some_and(|at| at <= now) {
            cell.core.borrow_mut().handle_time(now);
            cell.dirty.set();
            runtime::yield_to_driver().await;
            continue;
        }
        let at = next.map_or_else(
            || cell.clock.instant(now) + IDLE,
            |at| cell.clock.instant(at),
        );
        let mut sleep = std::pin::pin!(runtime::sleep_until(at));
        poll_fn(|cx| {
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            while cell.rearm.poll(cx).is_ready() {
                if is_sooner(cell.core.borrow().next_deadline(), next) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

fn is_sooner(a: Option<Nanos>, b: Option<Nanos>) -> bool {
    a.is_some_and(|a| b.is_none_or(|b| a < b))
}
