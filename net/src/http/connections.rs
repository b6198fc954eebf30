//! The open connections of a core, and how they are told to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far the end of a core's HTTP has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Connections are served.
    Open,
    /// Connections finish what they have begun.
    Draining,
    /// Connections are dropped as they are.
    Closed,
}

/// The open connections of one listener.
pub(super) struct Connections {
    stage: Cell<Stage>,
    /// Whom to wake when the stage changes, once a connection has asked.
    open: RefCell<BTreeMap<u64, Option<Waker>>>,
    last: Cell<u64>,
    /// Who waits for the last connection to end.
    empty: RefCell<Option<Waker>>,
}

impl Connections {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            stage: Cell::new(Stage::Open),
            open: RefCell::default(),
            last: Cell::new(0),
            empty: RefCell::new(None),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Counts a connection for as long as the ticket lives.
    pub(super) fn admit(self: &Rc<Self>) -> Ticket {
        let number = self.last.get() + 1;
        self.last.set(number);
        self.open.borrow_mut().insert(number, None);
        Ticket {
            connections: Rc::clone(self),
            number,
        }
    }

    /// Moves on to `stage` and tells every connection. Never goes back.
    pub(super) fn advance(&self, stage: Stage) {
        self.stage.set(self.stage.get().max(stage));
        let mut wakers = Vec::new();
        for waker in self.open.borrow_mut().values_mut() {
            wakers.extend(waker.take());
        }
        for waker in wakers {
            waker.wake();
        }
    }

    /// Ready once no connection is open.
    pub(super) fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.len() == 0 {
            return Poll::Ready(());
        }
        *self.empty.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One open connection.
pub(super) struct Ticket {
    connections: Rc<Connections>,
    number: u64,
}

impl Ticket {
    /// The stage now; the task is woken when it changes.
    pub(super) fn poll_stage(&self, cx: &mut Context<'_>) -> Stage {
        let stage = self.connections.stage.get();
        if stage < Stage::Closed {
            let mut open = self.connections.open.borrow_mut();
            let waker = open.get_mut(&self.number);
            let waker = waker.expect("a ticket's connection is open");
            match waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
        }
        stage
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waker = self.connections.open.borrow_mut().remove(&self.number);
        drop(waker);
        if self.connections.len() == 0 {
            let waiting = self.connections.empty.borrow_mut().take();
            if let Some(waiting) = waiting {
                waiting.wake();
            }
        }
    }
}
