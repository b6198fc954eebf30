//! A core's state as the tasks on its thread share it, and the futures that wait for replies.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hashbrown::HashMap;
use omnirelay_net::http::HttpCounters;
use omnirelay_net::quic::QuicCounters;
use omnirelay_net::rpc::Request;
use omnirelay_net::runtime;
use omnirelay_wal::Disk;

use super::clock::Clock;
use super::telemetry::{CoreReport, HttpReport, QuicReport, ShardReport, Telemetry};
use crate::node::{CallContext, CallId, Core, GrantRef, Layout, Outcome};

/// A one-task wake-up flag.
#[derive(Debug, Default)]
pub(super) struct Signal {
    set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    pub(super) fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.set.take() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// A flag that is set once and that any number of tasks wait for.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Stop {
    pub(super) fn set(&self) {
        self.set.set(true);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.get()
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.set.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it is set.
    pub(super) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// Where a reply is put for the future that waits for it.
#[derive(Default)]
struct ReplyCell {
    waker: Cell<Option<Waker>>,
    outcome: Cell<Option<Outcome>>,
}

/// Whoever waits for a reply.
enum Waiting {
    /// A future.
    Future(Rc<ReplyCell>),
    /// What is to be done with it.
    Then(Box<dyn FnOnce(Outcome)>),
}

/// One core's state, shared by the tasks on its thread.
pub struct CoreCell<D: Disk> {
    pub(super) core: RefCell<Core<D>>,
    /// Replies that somebody waits for. A call's slot in the core is used again as soon as it has
    /// been answered, which may be before its reply is put here: hence by the whole id.
    replies: RefCell<HashMap<CallId, Waiting>>,
    /// The core has been given something: its turn must be finished.
    pub(super) dirty: Signal,
    /// The earliest deadline may have come nearer.
    pub(super) rearm: Signal,
    /// The node is going down.
    pub(super) drain: Stop,
    /// The core has done all it had to do.
    pub(super) stop: Stop,
    /// The new epochs are on disk, or their log has failed.
    pub(super) opened: Stop,
    /// Those of all other cores are too.
    pub(super) serve: Stop,
    pub(super) draining: Cell<bool>,
    /// No core has calls left, and all that they sent to this one has been taken.
    pub(super) unneeded: Cell<bool>,
    pub(super) clock: Clock,
    pub(super) layout: std::sync::Arc<Layout>,
    /// What the core counts.
    pub telemetry: RefCell<Telemetry>,
    /// Its HTTP connections.
    pub http: Rc<HttpCounters>,
    /// Its QUIC connections.
    pub quic: Rc<QuicCounters>,
    pub(super) driver: &'static str,
}

impl<D: Disk> CoreCell<D> {
    pub(super) fn new(
        core: Core<D>,
        clock: Clock,
        layout: std::sync::Arc<Layout>,
        driver: &'static str,
    ) -> Rc<Self> {
        Rc::new(CoreCell {
            core: RefCell::new(core),
            replies: RefCell::default(),
            dirty: Signal::default(),
            rearm: Signal::default(),
            drain: Stop::default(),
            stop: Stop::default(),
            opened: Stop::default(),
            serve: Stop::default(),
            draining: Cell::new(false),
            unneeded: Cell::new(false),
            clock,
            layout,
            telemetry: RefCell::new(Telemetry::default()),
            http: Rc::new(HttpCounters::default()),
            quic: Rc::new(QuicCounters::default()),
            driver,
        })
    }

    /// The node's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Namespaces and shards.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Hands a call to the core. Dropping the future before it is ready cancels the call: what it
    /// would have been given goes back.
    pub fn call(self: &Rc<Self>, request: Request, context: &CallContext) -> ReplyFuture<D> {
        let reply = Rc::new(ReplyCell::default());
        let id = self.begin(request, context, Waiting::Future(Rc::clone(&reply)));
        ReplyFuture {
            cell: Rc::clone(self),
            id,
            reply,
            done: false,
        }
    }

    /// Hands a call to the core, and its outcome to `then`, in another turn of the core. Dropping
    /// what is returned before that cancels the call: what it would have been given goes back, and
    /// `then` is dropped.
    pub fn call_then(
        self: &Rc<Self>,
        request: Request,
        context: &CallContext,
        then: impl FnOnce(Outcome) + 'static,
    ) -> OpenCall<D> {
        OpenCall {
            cell: Rc::clone(self),
            id: self.begin(request, context, Waiting::Then(Box::new(then))),
        }
    }

    fn begin(&self, request: Request, context: &CallContext, waiting: Waiting) -> CallId {
        let id = self
            .core
            .borrow_mut()
            .handle_call(self.clock.now(), request, context);
        self.replies.borrow_mut().insert(id, waiting);
        self.dirty.set();
        id
    }

    /// Nobody waits for a call's reply any more; one that has been given its reply is left alone.
    fn cancel(&self, id: CallId) {
        let waiting = self.replies.borrow_mut().remove(&id);
        if waiting.is_some() {
            self.core.borrow_mut().handle_cancel(id);
            self.dirty.set();
        }
    }

    /// Whether the core takes work: it is not going down, and its logs can be written.
    pub fn is_well(&self) -> bool {
        !self.draining.get() && self.core.borrow().failure().is_none()
    }

    /// Whether the node is going down.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Calls not yet answered, waiting workers included.
    pub fn open_calls(&self) -> usize {
        self.core.borrow().open_calls()
    }

    /// Gives back grants whose reply could not be delivered.
    pub fn undelivered(&self, grants: Vec<GrantRef>) {
        if !grants.is_empty() {
            self.core
                .borrow_mut()
                .handle_undelivered(self.clock.now(), grants);
            self.dirty.set();
        }
    }

    /// Gives a reply to whoever waits for it; gives it back if nobody does any more.
    pub(super) fn put_reply(&self, id: CallId, outcome: Outcome) -> Option<Outcome> {
        // Let go of first: what is done with it may hand in another call.
        let waiting = self.replies.borrow_mut().remove(&id);
        match waiting {
            Some(Waiting::Future(reply)) => {
                reply.outcome.set(Some(outcome));
                if let Some(waker) = reply.waker.take() {
                    waker.wake();
                }
                None
            }
            Some(Waiting::Then(then)) => {
                then(outcome);
                None
            }
            None => Some(outcome),
        }
    }

    /// A copy of everything the core counts.
    pub(super) fn report(&self, core_number: u16) -> CoreReport {
        let core = self.core.borrow();
        CoreReport {
            core: core_number,
            driver: self.driver,
            telemetry: self.telemetry.borrow().clone(),
            run: runtime::core_stats(),
            held_back: core.held_back(),
            http: HttpReport::of(&self.http),
            quic: QuicReport::of(&self.quic),
            shards: core
                .shards()
                .map(|(log, namespace, shard)| ShardReport {
                    shard: shard.spec().shard.0,
                    namespace,
                    log,
                    epoch: shard.epoch().0,
                    last_lsn: shard.last_lsn().0,
                    stats: shard.stats(),
                })
                .collect(),
            open_calls: core.open_calls(),
            storage_full: core.is_storage_full(),
            logs: core.log_sizes().collect(),
            log_failure: core.failure().map(|(_, why)| why.to_owned()),
        }
    }
}

/// A reply on its way.
pub struct ReplyFuture<D: Disk> {
    cell: Rc<CoreCell<D>>,
    id: CallId,
    reply: Rc<ReplyCell>,
    done: bool,
}

impl<D: Disk> Future for ReplyFuture<D> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.reply.outcome.take() {
            Some(outcome) => {
                self.done = true;
                Poll::Ready(outcome)
            }
            None => {
                self.reply.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<D: Disk> Drop for ReplyFuture<D> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(outcome) = self.reply.outcome.take() {
            self.cell.undelivered(outcome.grants);
        } else {
            self.cell.cancel(self.id);
        }
    }
}

/// A call whose outcome something waits for until this is dropped.
pub struct OpenCall<D: Disk> {
    cell: Rc<CoreCell<D>>,
    id: CallId,
}

impl<D: Disk> Drop for OpenCall<D> {
    fn drop(&mut self) {
        self.cell.cancel(self.id);
    }
}
