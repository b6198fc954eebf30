//! One stream of a connection: what has come on it, and what is to leave.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::connection::Replies;
use super::deliveries::{Trace, Undo};
use super::partials::Partial;
use crate::frame::{CallFrame, FrameReader};

/// Answers the calls of a core's QUIC connections.
pub trait FrameService: 'static {
    /// Answers one call. May be written as an `async fn`.
    ///
    /// The future is dropped when the client takes the call back or goes away.
    fn call(self: Rc<Self>, call: IncomingCall) -> impl Future<Output = Answer> + 'static;
}

/// What a client has said of itself at the beginning of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Who calls, for calls that do not say.
    pub caller: String,
    /// The service called, for calls that do not say.
    pub service: String,
}

/// A call as it came.
#[derive(Debug)]
pub struct IncomingCall {
    /// What it says.
    pub frame: CallFrame,
    /// What its stream says.
    pub greeting: Rc<Greeting>,
    /// The client's address.
    pub peer: SocketAddr,
    /// When it had come.
    pub came: Instant,
    /// Where replies before the last go, for procedures that have several.
    pub replies: Replies,
}

/// A reply's frame.
pub struct Answer {
    bytes: Bytes,
    undo: Option<(Trace, Undo)>,
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

    /// One of several, whose successor waits for the flag.
    pub(super) fn one_of_several(bytes: Bytes, taken: Rc<Flag>) -> Answer {
        Answer {
            bytes,
            undo: None,
            taken: Some(taken),
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

/// A flag that one task waits for: that nobody wants a call's answer any more, or that a reply has
/// been taken.
#[derive(Debug, Default)]
pub(super) struct Flag {
    is_set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Flag {
    pub(super) fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
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

/// The state of a stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) reader: FrameReader,
    pub(super) greeting: Option<Rc<Greeting>>,
    /// The calls that are worked on, by their ids.
    pub(super) calls: BTreeMap<u64, Rc<Flag>>,
    outbox: VecDeque<Answer>,
    unsent: usize,
    /// The client sends nothing more, or nothing more is taken from it.
    pub(super) is_read: bool,
    /// Nothing will be written behind what is in the outbox.
    pub(super) is_ending: bool,
    /// A frame, or the stream's first, that has begun and not ended.
    pub(super) partial: Option<Partial>,
}

impl Stream {
    /// Tells all calls that nobody wants their answers.
    pub(super) fn cancel_all(&mut self) {
        for unwanted in std::mem::take(&mut self.calls).into_values() {
            unwanted.set();
        }
    }

    pub(super) fn put(&mut self, answer: Answer) {
        self.unsent += answer.bytes.len();
        self.outbox.push_back(answer);
    }

    /// What is to leave next.
    pub(super) fn next_bytes(&mut self) -> Option<&mut Bytes> {
        self.outbox.front_mut().map(|answer| &mut answer.bytes)
    }

    /// The connection has taken so many of them; how to undo the answer, if that was its last.
    pub(super) fn advance(&mut self, bytes: usize) -> Option<(Trace, Undo)> {
        self.unsent -= bytes;
        let front = self.outbox.front_mut().expect("bytes of an answer left");
        if !front.bytes.is_empty() {
            return None;
        }
        let undo = front.undo.take();
        self.outbox.pop_front();
        undo
    }

    /// Bytes that wait to leave.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Nothing more comes and nothing more leaves.
    pub(super) fn is_over(&self) -> bool {
        let is_answered = self.is_ending || (self.is_read && self.calls.is_empty());
        is_answered && self.outbox.is_empty()
    }
}
