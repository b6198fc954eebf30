//! One connection: its streams' frames in, replies out.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use omnirelay_net::frame::{
    FRAME_BYTES_MAX, Frame, FrameError, FrameReader, VERSION, Welcome, encode,
};
use omnirelay_net::quic::reason;
use quinn_proto::{Dir, Event, StreamEvent, StreamId};

use super::service::{CallKey, Service};

pub(super) struct Connection {
    /// Its place with the driver.
    pub(super) index: usize,
    pub(super) quic: quinn_proto::Connection,
    /// It has a turn coming.
    pub(super) is_dirty: bool,
    /// When its timers are to be looked at.
    pub(super) deadline: Option<Instant>,
    streams: HashMap<StreamId, Stream>,
}

#[derive(Default)]
struct Stream {
    reader: FrameReader,
    /// While there is anything in it, nothing is read: a client that takes nothing asks for nothing.
    outbox: VecDeque<Bytes>,
}

impl Connection {
    pub(super) fn new(index: usize, quic: quinn_proto::Connection) -> Self {
        Self {
            index,
            quic,
            is_dirty: false,
            deadline: None,
            streams: HashMap::new(),
        }
    }

    /// Reads and writes what QUIC says there is.
    pub(super) fn handle(&mut self, now: Instant, event: Event, service: &mut impl Service) {
        match event {
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                while let Some(id) = self.quic.streams().accept(Dir::Bi) {
                    self.streams.insert(id, Stream::default());
                    self.read(now, id, service);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.read(now, id, service),
            Event::Stream(StreamEvent::Writable { id }) => {
                self.write(id);
                self.read(now, id, service);
            }
            Event::Stream(StreamEvent::Stopped { id, .. }) => drop(self.streams.remove(&id)),
            Event::ConnectionLost { .. } => self.streams.clear(),
            _ => {}
        }
    }

    /// Takes a reply; [`Connection::write_all`] sends it.
    pub(super) fn put(&mut self, id: StreamId, reply: Bytes) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.outbox.push_back(reply);
        }
    }

    /// Writes what waits on all streams, as far as QUIC takes it.
    pub(super) fn write_all(&mut self) {
        for (id, stream) in &mut self.streams {
            write(&mut self.quic, *id, stream);
        }
    }

    fn write(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            write(&mut self.quic, id, stream);
        }
    }

    fn read(&mut self, now: Instant, id: StreamId, service: &mut impl Service) {
        while let Some(stream) = self.streams.get_mut(&id)
            && stream.outbox.is_empty()
        {
            let key = |id_of_call| CallKey {
                connection: self.index,
                stream: id,
                id: id_of_call,
            };
            let mut welcome = None;
            let taken = take_frames(&mut stream.reader, |frame| match frame {
                Frame::Hello(_) => welcome = Some(encode::welcome(&words())),
                Frame::Call(call) => service.handle_call(now, key(call.id), &call),
                _ => {}
            });
            if let Err(error) = taken {
                let why = Bytes::from(error.to_string());
                return self.quic.close(now, reason::PROTOCOL, why);
            }
            if let Some(welcome) = welcome {
                stream.outbox.push_back(welcome);
                write(&mut self.quic, id, stream);
            }
            let mut source = self.quic.recv_stream(id);
            let Ok(mut chunks) = source.read(true) else {
                return;
            };
            let next = chunks.next(usize::MAX);
            // What has to be sent for this is sent in this turn anyway.
            let _ = chunks.finalize();
            match next {
                Ok(Some(chunk)) => stream.reader.push(chunk.bytes),
                Ok(None) => {
                    // It may be closed already.
                    let _ = self.quic.send_stream(id).finish();
                    drop(self.streams.remove(&id));
                }
                Err(quinn_proto::ReadError::Blocked) => return,
                Err(quinn_proto::ReadError::Reset(_)) => drop(self.streams.remove(&id)),
            }
        }
    }
}

fn take_frames(reader: &mut FrameReader, mut take: impl FnMut(Frame)) -> Result<(), FrameError> {
    while let Some(frame) = reader.next(FRAME_BYTES_MAX)? {
        take(Frame::decode(&frame)?);
    }
    Ok(())
}

fn write(quic: &mut quinn_proto::Connection, id: StreamId, stream: &mut Stream) {
    if stream.outbox.is_empty() {
        return;
    }
    let mut sink = quic.send_stream(id);
    // A stream that takes nothing for ever says so by an event.
    while let Ok(written) = sink.write_chunks(stream.outbox.make_contiguous())
        && written.chunks > 0
    {
        stream.outbox.drain(..written.chunks);
    }
}

fn words() -> Welcome {
    Welcome {
        version: VERSION,
        features: 0,
        agent: concat!("bare-quic/", env!("CARGO_PKG_VERSION")).to_owned(),
        frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX),
        calls_max: 0,
    }
}
