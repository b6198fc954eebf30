//! One stream of a connection: what has come on it, and what is to leave.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::answers::{Answer, Replies};
use super::deliveries::{Trace, Undo};
use super::partials::Partial;
use crate::frame::{CallFrame, FrameReader};

/// Answers the calls of a core's QUIC connections.
pub trait FrameService: 'static {
    /// What works on a call. Dropped when the call has been answered, and when the client takes it
    /// back or goes away: then nobody wants its answer any more.
    type Open: 'static;

    /// Begins a call. It is answered through its `replies`, at once or later; nothing need be kept
    /// of one that has been answered at once.
    ///
    /// No call waits for a task of its own: one that does not need it costs none. See
    /// [`CallTask`](super::CallTask) for those that do.
    fn begin(self: &Rc<Self>, call: IncomingCall) -> Option<Self::Open>;
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
    /// Where its replies go.
    pub replies: Replies,
}

/// A call that has not been answered.
#[derive(Debug)]
pub(super) struct OpenCall<O> {
    /// Which of the connection's calls it is.
    pub(super) serial: u64,
    /// What works on it until this is dropped, if it has not been answered at once.
    #[expect(dead_code, reason = "it is kept to be dropped")]
    pub(super) work: Option<O>,
}

/// The state of a stream.
#[derive(Debug)]
pub(super) struct Stream<O> {
    pub(super) reader: FrameReader,
    pub(super) greeting: Option<Rc<Greeting>>,
    /// The calls that are worked on, by their ids.
    pub(super) calls: BTreeMap<u64, OpenCall<O>>,
    outbox: VecDeque<Answer>,
    unsent: usize,
    /// The client sends nothing more, or nothing more is taken from it.
    pub(super) is_read: bool,
    /// Nothing will be written behind what is in the outbox.
    pub(super) is_ending: bool,
    /// A frame, or the stream's first, that has begun and not ended.
    pub(super) partial: Option<Partial>,
}

impl<O> Default for Stream<O> {
    fn default() -> Stream<O> {
        Stream {
            reader: FrameReader::default(),
            greeting: None,
            calls: BTreeMap::new(),
            outbox: VecDeque::new(),
            unsent: 0,
            is_read: false,
            is_ending: false,
            partial: None,
        }
    }
}

impl<O> Stream<O> {
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
