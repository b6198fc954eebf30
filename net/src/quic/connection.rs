//! One connection: its streams' frames in, answers out.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Dir, ReadError, StreamEvent, StreamId, VarInt, WriteError};

use super::answers::{Answer, Answered, Answers, CallKey, ConnectionKey, Replies};
use super::deliveries::Deliveries;
use super::limits::{QuicCounters, QuicLimits, add};
use super::partials::Partials;
use super::reason;
use super::stream::{FrameService, Greeting, IncomingCall, OpenCall, Stream};
use crate::frame::{
    CallFrame, Frame, FrameError, HELLO_BYTES_MAX, Hello, VERSION, Welcome, encode,
};
use crate::rpc::Error;

/// Name and version of the server, as its welcome says them.
const AGENT: &str = concat!("omnirelay/", env!("CARGO_PKG_VERSION"));

/// Streams that a client may open before it is told that it may open more, which it is once it has
/// half of them. QUIC keeps a place for each that may be opened: most clients need one, and these
/// fit a table of 8.
pub(super) const STREAMS_AT_FIRST: u32 = 7;

/// What all connections of a core share.
pub(super) struct Shared<S> {
    pub(super) service: Rc<S>,
    pub(super) limits: QuicLimits,
    pub(super) counters: Rc<QuicCounters>,
    pub(super) answers: Rc<Answers>,
    pub(super) partials: Partials,
    /// Replies that can be undone wait to be acknowledged, or did when last looked at.
    pub(super) has_deliveries: bool,
}

/// A connection.
pub(super) struct Connection<S: FrameService> {
    pub(super) key: ConnectionKey,
    pub(super) quic: quinn_proto::Connection,
    pub(super) is_established: bool,
    /// Its client has given it up before that.
    pub(super) is_given_up: bool,
    /// It waits for its turn with the endpoint's task.
    pub(super) is_dirty: bool,
    /// When its timer is to be looked at.
    pub(super) armed: Option<Instant>,
    streams: HashMap<StreamId, Box<Stream<S::Open>>>,
    deliveries: Deliveries,
    /// Calls that are worked on.
    calls: usize,
    /// Calls that have ever been begun.
    begun: u64,
    /// Bytes that wait for QUIC to take them.
    unsent: usize,
    /// Streams with something to read that had to wait, in the order of their turns.
    held_back: VecDeque<StreamId>,
    /// It takes no new calls.
    is_ending: bool,
    /// The client was told that it may open more than [`STREAMS_AT_FIRST`].
    may_open_all: bool,
}

impl<S: FrameService> Connection<S> {
    pub(super) fn new(key: ConnectionKey, quic: quinn_proto::Connection) -> Connection<S> {
        Connection {
            key,
            quic,
            is_established: false,
            is_given_up: false,
            is_dirty: false,
            armed: None,
            streams: HashMap::new(),
            deliveries: Deliveries::default(),
            calls: 0,
            begun: 0,
            unsent: 0,
            held_back: VecDeque::new(),
            is_ending: false,
            may_open_all: false,
        }
    }

    /// Reads and writes what an event says there is.
    pub(super) fn handle_stream(
        &mut self,
        now: Instant,
        event: StreamEvent,
        shared: &mut Shared<S>,
    ) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => {
                while let Some(id) = self.quic.streams().accept(Dir::Bi) {
                    self.streams.insert(id, Box::default());
                    // Seen with each of them: of those that come together only the first is told.
                    if !self.may_open_all && self.streams.len() > STREAMS_AT_FIRST as usize / 2 {
                        self.may_open_all = true;
                        let all = VarInt::from_u32(shared.limits.streams_max);
                        self.quic.set_max_concurrent_streams(Dir::Bi, all);
                    }
                    self.read(now, id, shared);
                }
            }
            StreamEvent::Readable { id } => self.read(now, id, shared),
            StreamEvent::Writable { id } => {
                self.write(id, shared);
                self.read_held_back(now, shared);
            }
            StreamEvent::Stopped { id, .. } => {
                // Whoever takes no answers needs no calls done.
                self.drop_stream(id, reason::CANCELLED, shared);
            }
            StreamEvent::Opened { dir: Dir::Uni }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => {}
        }
    }

    /// A call has come to its end.
    pub(super) fn handle_answered(
        &mut self,
        now: Instant,
        answered: Answered,
        shared: &mut Shared<S>,
    ) {
        let is_last = !answered.more;
        self.calls -= usize::from(is_last);
        let Answered { of, answer, .. } = answered;
        if let Some(stream) = self.streams.get_mut(&of.stream) {
            // A call may be taken back when its answer is on its way to here, and its id given to
            // another.
            let is_wanted = stream
                .calls
                .get(&of.id)
                .is_some_and(|c| c.serial == of.serial);
            if is_wanted && is_last {
                stream.calls.remove(&of.id);
            }
            match answer {
                Some(answer) if is_wanted => {
                    self.unsent += answer_length(stream, answer);
                    self.write(of.stream, shared);
                }
                _ if stream.is_over() => self.write(of.stream, shared),
                _ => {}
            }
        }
        self.read_held_back(now, shared);
    }

    /// Whether another call may be begun.
    fn has_room(&self, limits: &QuicLimits) -> bool {
        self.calls < limits.calls_max && self.unsent < limits.unsent_bytes_max
    }

    fn read_held_back(&mut self, now: Instant, shared: &mut Shared<S>) {
        while self.has_room(&shared.limits)
            && let Some(id) = self.held_back.pop_front()
        {
            // It was not the client that made a frame wait meanwhile.
            if let Some(stream) = self.streams.get_mut(&id)
                && let Some(partial) = &mut stream.partial
            {
                partial.since = now;
            }
            self.read(now, id, shared);
        }
    }

    /// Takes what has come on a stream, frame by frame, as long as there is room for calls.
    fn read(&mut self, now: Instant, id: StreamId, shared: &mut Shared<S>) {
        loop {
            if !self.take_frames(now, id, shared) {
                return;
            }
            let mut source = self.quic.recv_stream(id);
            let Ok(mut chunks) = source.read(true) else {
                return;
            };
            let next = chunks.next(usize::MAX);
            // What has to be sent for this is sent in this turn anyway.
            let _ = chunks.finalize();
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            match next {
                Ok(Some(chunk)) => stream.reader.push(chunk.bytes),
                Err(ReadError::Blocked) => return self.wait_for_more(now, id, shared),
                Ok(None) => {
                    stream.is_read = true;
                    if stream.reader.pending() > 0 {
                        let cut = FrameError::Malformed("the stream ended within a frame");
                        self.refuse(id, &malformed(&cut), shared);
                    } else {
                        self.write(id, shared);
                    }
                    return;
                }
                Err(ReadError::Reset(_)) => {
                    return self.drop_stream(id, reason::CANCELLED, shared);
                }
            }
        }
    }

    /// A frame has begun: it may take only so much room and time.
    fn wait_for_more(&mut self, now: Instant, id: StreamId, shared: &mut Shared<S>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let pending = stream.reader.pending();
        if pending == 0 && stream.greeting.is_some() {
            return;
        }
        let bytes_max = shared.limits.partial_bytes_max;
        if !shared
            .partials
            .note(&mut stream.partial, now, pending, bytes_max)
        {
            add(&shared.counters.streams_failed, 1);
            self.drop_stream(id, reason::OVERLOADED, shared);
        }
    }

    /// Does what the complete frames of a stream say; false if its reading has ended or must wait.
    fn take_frames(&mut self, now: Instant, id: StreamId, shared: &mut Shared<S>) -> bool {
        loop {
            let has_room = self.has_room(&shared.limits);
            let Some(stream) = self.streams.get_mut(&id) else {
                return false;
            };
            if stream.is_ending || self.is_ending {
                return false;
            }
            if !has_room {
                if !self.held_back.contains(&id) {
                    self.held_back.push_back(id);
                }
                return false;
            }
            let bytes_max = match stream.greeting {
                Some(_) => shared.limits.frame_bytes_max,
                None => HELLO_BYTES_MAX,
            };
            let frame = match stream.reader.next(bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => return true,
                Err(error) => {
                    self.refuse(id, &malformed(&error), shared);
                    return false;
                }
            };
            shared.partials.end(&mut stream.partial);
            let taken = Frame::decode(&frame)
                .map_err(|error| malformed(&error))
                .and_then(|frame| self.take_frame(now, id, frame, shared));
            if let Err(error) = taken {
                self.refuse(id, &error, shared);
                return false;
            }
        }
    }

    fn take_frame(
        &mut self,
        now: Instant,
        id: StreamId,
        frame: Frame,
        shared: &mut Shared<S>,
    ) -> Result<(), Error> {
        let stream = self.streams.get_mut(&id).expect("the stream is there");
        match (frame, &stream.greeting) {
            (Frame::Hello(hello), None) => {
                let welcome = welcome(&hello, &shared.limits)?;
                stream.greeting = Some(Rc::new(Greeting {
                    caller: hello.caller,
                    service: hello.service,
                }));
                self.unsent += answer_length(stream, Answer::new(welcome));
                self.write(id, shared);
                Ok(())
            }
            (_, None) => Err(unexpected("a stream begins with a hello")),
            (Frame::Call(call), Some(greeting)) => {
                if stream.calls.contains_key(&call.id) {
                    return Err(unexpected("two open calls have the same id"));
                }
                let greeting = Rc::clone(greeting);
                self.begin(now, id, call, greeting, shared);
                Ok(())
            }
            (Frame::Cancel(call), Some(_)) => {
                // It may have been answered meanwhile.
                drop(stream.calls.remove(&call));
                Ok(())
            }
            (Frame::Unknown, Some(_)) => Ok(()),
            (Frame::Hello(_), Some(_)) => {
                Err(unexpected("a stream has one hello, its first frame"))
            }
            (Frame::Welcome(_) | Frame::Reply(_) | Frame::Farewell(_), Some(_)) => {
                Err(unexpected("only servers send such a frame"))
            }
        }
    }

    fn begin(
        &mut self,
        now: Instant,
        stream: StreamId,
        call: CallFrame,
        greeting: Rc<Greeting>,
        shared: &Shared<S>,
    ) {
        self.calls += 1;
        self.begun += 1;
        let of = CallKey {
            connection: self.key,
            stream,
            id: call.id,
            serial: self.begun,
        };
        let incoming = IncomingCall {
            frame: call,
            greeting,
            peer: self.quic.remote_address(),
            came: now,
            replies: Replies::new(&shared.answers, of),
        };
        // Its answer, if it is there already, comes to the connection in its turn.
        let work = shared.service.begin(incoming);
        if let Some(stream) = self.streams.get_mut(&stream) {
            let serial = of.serial;
            stream.calls.insert(of.id, OpenCall { serial, work });
        }
    }

    /// Says what is wrong with a stream, and ends it.
    fn refuse(&mut self, id: StreamId, error: &Error, shared: &mut Shared<S>) {
        add(&shared.counters.streams_failed, 1);
        // The rest of what comes is of no use. It may have been read to its end.
        let _ = self.quic.recv_stream(id).stop(reason::PROTOCOL);
        self.say_farewell(id, error, shared);
    }

    fn say_farewell(&mut self, id: StreamId, error: &Error, shared: &mut Shared<S>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_ending {
            return;
        }
        stream.calls.clear();
        shared.partials.end(&mut stream.partial);
        stream.is_read = true;
        stream.is_ending = true;
        self.unsent += answer_length(stream, Answer::new(encode::farewell(error)));
        self.write(id, shared);
    }

    /// Writes what waits on a stream, as far as QUIC takes it, and ends it when it is over.
    fn write(&mut self, id: StreamId, shared: &mut Shared<S>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut sink = self.quic.send_stream(id);
        while let Some(bytes) = stream.next_bytes() {
            // What is taken is held, not copied, until it has been acknowledged.
            match sink.write_chunks(std::slice::from_mut(bytes)) {
                Ok(written) => {
                    if let Some((trace, undo)) = stream.advance(written.bytes) {
                        self.deliveries.push(id, trace, undo);
                    }
                    self.unsent -= written.bytes;
                }
                Err(WriteError::Blocked) => return,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    return self.drop_stream(id, reason::CANCELLED, shared);
                }
            }
        }
        if stream.is_over() {
            // It may be closed already.
            let _ = sink.finish();
            self.forget(id, shared);
        }
    }

    /// Ends a stream whose other side has gone, or is not wanted.
    fn drop_stream(&mut self, id: StreamId, why: VarInt, shared: &mut Shared<S>) {
        self.deliveries.undo_stream(id);
        // Either half may be closed already.
        let _ = self.quic.recv_stream(id).stop(why);
        let _ = self.quic.send_stream(id).reset(why);
        self.forget(id, shared);
    }

    fn forget(&mut self, id: StreamId, shared: &mut Shared<S>) {
        if let Some(mut stream) = self.streams.remove(&id) {
            stream.calls.clear();
            self.unsent -= stream.unsent();
            shared.partials.end(&mut stream.partial);
        }
        self.held_back.retain(|held| *held != id);
    }

    /// The connection is gone: nobody waits for anything, and what was not acknowledged is undone.
    pub(super) fn forget_all(&mut self, shared: &mut Shared<S>) {
        self.deliveries.undo_all();
        for id in self.stream_ids() {
            self.forget(id, shared);
        }
    }

    /// Ends streams whose frame has been on its way for too long; true if there were any.
    pub(super) fn handle_slow_frames(&mut self, now: Instant, shared: &mut Shared<S>) -> bool {
        let time = shared.limits.frame_timeout;
        let is_slow = |stream: &Stream<S::Open>| {
            let partial = stream.partial.as_ref();
            partial.is_some_and(|p| now.saturating_duration_since(p.since) >= time)
        };
        let streams = self.streams.iter();
        let slow: Vec<_> = streams
            .filter(|(id, s)| is_slow(s) && !self.held_back.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in &slow {
            let error = Error::deadline(format!("a frame took longer than {time:?} to arrive"));
            self.refuse(*id, &error, shared);
        }
        !slow.is_empty()
    }

    /// Looks at what has been acknowledged; true if replies that can be undone still wait for it.
    pub(super) fn settle_deliveries(&mut self) -> bool {
        self.deliveries.settle_front();
        !self.deliveries.is_empty()
    }

    /// Whether replies wait for a client from which no acknowledgement has come for too long.
    pub(super) fn is_unreachable(&mut self, now: Instant, limits: &QuicLimits) -> bool {
        if self.deliveries.is_empty() || self.quic.is_closed() {
            return false;
        }
        let acks = self.quic.stats().frame_rx.acks;
        let time = limits.acknowledge_timeout;
        self.deliveries.are_overdue(now, acks, time)
    }

    /// Takes no further calls; streams that wait for nothing end, the others when they do.
    pub(super) fn drain(&mut self, shared: &mut Shared<S>) {
        self.is_ending = true;
        let error = Error::peer_unavailable("the server is ending; call another, or again later");
        for id in self.stream_ids() {
            if self.streams.get(&id).is_some_and(|s| s.calls.is_empty()) {
                // What has not been read has not been begun.
                let _ = self.quic.recv_stream(id).stop(reason::ENDING);
                self.say_farewell(id, &error, shared);
            }
        }
    }

    /// Whether all that was begun has been answered and taken by QUIC.
    pub(super) fn is_drained(&self) -> bool {
        self.is_ending && self.streams.is_empty() && self.calls == 0
    }

    fn stream_ids(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }
}

/// Puts an answer behind the others of its stream; its length.
fn answer_length<O>(stream: &mut Stream<O>, answer: Answer) -> usize {
    let before = stream.unsent();
    stream.put(answer);
    stream.unsent() - before
}

fn welcome(hello: &Hello, limits: &QuicLimits) -> Result<Bytes, Error> {
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return Err(Error::version_unsupported(format!(
            "the hello asks for versions {} to {} of the frames; this server speaks {VERSION}",
            hello.version_min, hello.version_max
        )));
    }
    Ok(encode::welcome(&Welcome {
        version: VERSION,
        features: 0,
        agent: AGENT.to_owned(),
        frame_bytes_max: u32::try_from(limits.frame_bytes_max).unwrap_or(u32::MAX),
        calls_max: u32::try_from(limits.calls_max).unwrap_or(u32::MAX),
    }))
}

fn malformed(error: &FrameError) -> Error {
    Error::frame_malformed(error.to_string())
}

fn unexpected(why: &'static str) -> Error {
    malformed(&FrameError::Unexpected(why))
}
