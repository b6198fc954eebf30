//! From whatever works on a call back to its connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn_proto::StreamId;

use super::deliveries::{Trace, Undo};
use crate::runtime::spawn;

/// A connection's place on its core, and which of those that had the place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionKey {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// A reply's frame.
pub struct Answer {
    pub(super) bytes: Bytes,
    pub(super) undo: Option<(Trace, Undo)>,
    /// Raised when it has been taken, or never will be.
    taken: Option<Rc<Flag>>,
}

impl Answer {
    /// Of a frame with its length in front.
    pub fn new(bytes: Bytes) -> Answer {
        Answer {
            bytes,
            undo: None,
            taken: None,
        }
    }

    /// As [`Answer::new`]; `undo` is called if the client never acknowledges it.
    pub fn or_undo(bytes: Bytes, undo: impl FnOnce() + 'static) -> Answer {
        let (trace, bytes) = Trace::of(bytes);
        Answer {
            bytes,
            undo: Some((trace, Box::new(undo))),
            taken: None,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some((_, undo)) = self.undo.take() {
            undo();
        }
        if let Some(taken) = self.taken.take() {
            taken.set();
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Answer")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Answers that calls have come to, until the endpoint's task takes them.
#[derive(Debug, Default)]
pub(super) struct Answers {
    ready: RefCell<Vec<Answered>>,
    waiting: RefCell<Option<Waker>>,
}

/// What a call came to; nothing if nobody wanted it any more.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) of: CallKey,
    pub(super) answer: Option<Answer>,
    /// Another follows.
    pub(super) more: bool,
}

impl Answers {
    fn put(&self, answered: Answered) {
        self.ready.borrow_mut().push(answered);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Swaps what is there for an empty list.
    pub(super) fn take(&self, into: &mut Vec<Answered>) {
        std::mem::swap(into, &mut self.ready.borrow_mut());
    }

    /// Ready if there are any; else the waker is called when there are.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<()> {
        if !self.ready.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(waker.clone());
        Poll::Pending
    }
}

/// A call of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallKey {
    pub(super) connection: ConnectionKey,
    pub(super) stream: StreamId,
    /// The client's name for it.
    pub(super) id: u64,
    /// Which of the connection's calls it is: a client may use a name again.
    pub(super) serial: u64,
}

/// Where the replies to one call go. Dropped before the last, the call has none.
#[derive(Debug)]
pub struct Replies {
    answers: Rc<Answers>,
    of: CallKey,
    has_ended: bool,
}

impl Replies {
    pub(super) fn new(answers: &Rc<Answers>, of: CallKey) -> Replies {
        Replies {
            answers: Rc::clone(answers),
            of,
            has_ended: false,
        }
    }

    /// The reply, the last one of several.
    pub fn end(mut self, answer: Answer) {
        self.has_ended = true;
        self.put(Some(answer), false);
    }

    /// Sends a reply's frame, which must say that another follows, and waits until the connection
    /// has taken it. At a client that reads nothing that may take for ever.
    pub async fn send(&self, frame: Bytes) {
        let taken = Rc::new(Flag::default());
        let mut answer = Answer::new(frame);
        answer.taken = Some(Rc::clone(&taken));
        self.put(Some(answer), true);
        poll_fn(|cx| taken.poll(cx)).await;
    }

    fn put(&self, answer: Option<Answer>, more: bool) {
        self.answers.put(Answered {
            of: self.of,
            answer,
            more,
        });
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if !self.has_ended {
            self.put(None, false);
        }
    }
}

/// A call that a task of its own works on. When this is dropped the task's future is, too.
#[derive(Debug)]
pub struct CallTask(Rc<Flag>);

impl CallTask {
    /// Begins the task.
    pub fn spawn(work: impl Future<Output = ()> + 'static) -> CallTask {
        let unwanted = Rc::new(Flag::default());
        let task = CallTask(Rc::clone(&unwanted));
        spawn(async move {
            let mut work = pin!(work);
            poll_fn(|cx| match unwanted.poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => work.as_mut().poll(cx),
            })
            .await;
        });
        task
    }
}

impl Drop for CallTask {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// A flag that one task waits for.
#[derive(Debug, Default)]
struct Flag {
    is_set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Flag {
    fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_set.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
