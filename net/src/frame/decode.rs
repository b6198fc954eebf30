//! Reading frames.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::rpc::{Code, Encoding, Error, TTL_DEFAULT, TTL_MAX};
use crate::wire::{Fields, Malformed, Span, Value};

/// Why a stream makes no sense. Nothing that comes after it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length is no varint.
    #[error("a frame's length is no varint of at most 64 bits")]
    Length,
    /// A frame is longer than allowed.
    #[error("a frame of {bytes} bytes; at most {bytes_max} are taken here")]
    TooLong {
        /// What it says of itself.
        bytes: u64,
        /// What is allowed.
        bytes_max: usize,
    },
    /// A frame is no message of the schema.
    #[error("a frame is malformed: {0}")]
    Malformed(&'static str),
    /// A frame that has no place here.
    #[error("{0}")]
    Unexpected(&'static str),
}

impl From<Malformed> for FrameError {
    fn from(Malformed(why): Malformed) -> FrameError {
        FrameError::Malformed(why)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Of a client: the first of a stream.
    Hello(Hello),
    /// Of a server: the first of a stream.
    Welcome(Welcome),
    /// Of a client: it asks for something.
    Call(CallFrame),
    /// Of a server: it answers.
    Reply(ReplyFrame),
    /// Of a client: the answer to this call is not wanted any more.
    Cancel(u64),
    /// Of a server: the last of a stream.
    Farewell(Error),
    /// Of a kind that is not known here. It is passed over.
    Unknown,
}

/// How a client introduces itself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// The first version it speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// The last.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// What else it can do.
    #[prost(uint64, tag = "3")]
    pub features: u64,
    /// Who calls, for calls that do not say.
    #[prost(string, tag = "4")]
    pub caller: String,
    /// Which service is called, for calls that do not say.
    #[prost(string, tag = "5")]
    pub service: String,
    /// Name and version of its software.
    #[prost(string, tag = "6")]
    pub agent: String,
}

/// How a server answers that.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Welcome {
    /// The version of what follows.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// What both can do.
    #[prost(uint64, tag = "2")]
    pub features: u64,
    /// Name and version of its software.
    #[prost(string, tag = "3")]
    pub agent: String,
    /// The longest frame that it takes.
    #[prost(uint32, tag = "4")]
    pub frame_bytes_max: u32,
    /// Calls of a connection that it works on at a time.
    #[prost(uint32, tag = "5")]
    pub calls_max: u32,
}

/// A call, where it lies in its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFrame {
    frame: Bytes,
    /// The client's name for it.
    pub id: u64,
    /// How its body is encoded; a number that is not known here is none.
    pub encoding: Option<Encoding>,
    ttl_ms: Option<u64>,
    texts: [Span; TEXTS],
    body: Span,
    headers: Vec<(Span, Span)>,
}

/// Text fields of a call: 2, and 6 to 14 of the message.
const TEXTS: usize = 10;

impl CallFrame {
    /// The procedure called.
    #[must_use]
    pub fn procedure(&self) -> &str {
        self.text(0)
    }

    /// Who calls; empty if the hello says.
    #[must_use]
    pub fn caller(&self) -> &str {
        self.text(1)
    }

    /// The service called; empty if the hello says.
    #[must_use]
    pub fn service(&self) -> &str {
        self.text(2)
    }

    /// What decides the shard, or empty.
    #[must_use]
    pub fn shard_key(&self) -> &str {
        self.text(3)
    }

    /// The peer that will own what is leased, or empty.
    #[must_use]
    pub fn peer_id(&self) -> &str {
        self.text(4)
    }

    /// What decides the peer a call is relayed to, or empty.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.text(5)
    }

    /// The service that stands in for the one called, or empty.
    #[must_use]
    pub fn routing_delegate(&self) -> &str {
        self.text(6)
    }

    /// The lease the call rests on, or empty.
    #[must_use]
    pub fn lease_token(&self) -> &str {
        self.text(7)
    }

    /// Which trace it belongs to, or empty.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        self.text(8)
    }

    /// What other systems say of that trace, or empty.
    #[must_use]
    pub fn tracestate(&self) -> &str {
        self.text(9)
    }

    /// The time until the caller's deadline.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl_ms
            .map_or(TTL_DEFAULT, Duration::from_millis)
            .min(TTL_MAX)
    }

    /// Its body, which shares the frame's memory.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.frame.slice(self.body.range())
    }

    /// Application headers, in the order they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let frame = &self.frame;
        let headers = self.headers.iter();
        headers.map(move |(name, value)| (name.text(frame), value.text(frame)))
    }

    fn text(&self, index: usize) -> &str {
        let text = self.texts[index].of(&self.frame);
        debug_assert!(str::from_utf8(text).is_ok());
        // SAFETY: `decode`, which alone makes a call, puts only pieces there that it has found to be
        // UTF-8, or none; the frame is its own, and nobody changes it.
        unsafe { str::from_utf8_unchecked(text) }
    }

    fn decode(frame: &Bytes, message: Span) -> Result<CallFrame, FrameError> {
        let mut call = CallFrame {
            frame: frame.clone(),
            id: 0,
            encoding: Some(Encoding::Proto),
            ttl_ms: None,
            texts: [Span::default(); TEXTS],
            body: Span::default(),
            headers: Vec::new(),
        };
        let mut fields = Fields::new(frame, message);
        while let Some((tag, value)) = fields.next()? {
            match (tag, value) {
                (1, Value::Number(id)) => call.id = id,
                (3, Value::Piece(body)) => call.body = body,
                (4, Value::Number(ms)) => call.ttl_ms = Some(ms),
                (5, Value::Number(number)) => call.encoding = encoding(number),
                (15, Value::Piece(entry)) => {
                    if call.headers.len() == HEADERS_MAX {
                        return Err(FrameError::Malformed("a call has more than 128 headers"));
                    }
                    call.headers.push(header(frame, entry)?);
                }
                (2, Value::Piece(text)) => call.texts[0] = text.checked(frame)?,
                (6..=14, Value::Piece(text)) => {
                    call.texts[tag as usize - 5] = text.checked(frame)?;
                }
                _ => {}
            }
        }
        Ok(call)
    }
}

/// Headers of one call, at most.
const HEADERS_MAX: usize = 128;

fn header(frame: &Bytes, entry: Span) -> Result<(Span, Span), FrameError> {
    let (mut name, mut value) = (Span::default(), Span::default());
    let mut fields = Fields::new(frame, entry);
    while let Some((tag, found)) = fields.next()? {
        match (tag, found) {
            (1, Value::Piece(text)) => name = text.checked(frame)?,
            (2, Value::Piece(text)) => value = text.checked(frame)?,
            _ => {}
        }
    }
    Ok((name, value))
}

fn encoding(number: u64) -> Option<Encoding> {
    match number {
        0 => Some(Encoding::Proto),
        1 => Some(Encoding::Json),
        2 => Some(Encoding::Raw),
        _ => None,
    }
}

/// A reply, as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFrame {
    /// The call's.
    pub id: u64,
    /// The body, which shares the frame's memory, or what went wrong.
    pub outcome: Result<Bytes, Error>,
    /// The shard that served.
    pub shard: Option<u32>,
    /// Another reply to the same call follows.
    pub more: bool,
    /// The span that the server made of the call, or empty.
    pub traceresponse: String,
}

impl ReplyFrame {
    fn decode(frame: &Bytes, message: Span) -> Result<ReplyFrame, FrameError> {
        let mut reply = ReplyFrame {
            id: 0,
            outcome: Ok(Bytes::new()),
            shard: None,
            more: false,
            traceresponse: String::new(),
        };
        let mut fields = Fields::new(frame, message);
        while let Some((tag, value)) = fields.next()? {
            match (tag, value) {
                (1, Value::Number(id)) => reply.id = id,
                (2, Value::Piece(body)) => reply.outcome = Ok(frame.slice(body.range())),
                (3, Value::Piece(error)) => reply.outcome = Err(decode_error(frame, error)?),
                (4, Value::Number(shard)) => reply.shard = Some(shard as u32),
                (5, Value::Number(more)) => reply.more = more != 0,
                (6, Value::Piece(text)) => {
                    reply.traceresponse = text.checked(frame)?.text(frame).to_owned();
                }
                _ => {}
            }
        }
        Ok(reply)
    }
}

impl Frame {
    /// Reads one frame, without its length in front.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn decode(frame: &Bytes) -> Result<Frame, FrameError> {
        let mut fields = Fields::new(frame, Span::whole(frame));
        let mut found = Frame::Unknown;
        // As protobuf has it: of several the last counts.
        while let Some((tag, value)) = fields.next()? {
            let Value::Piece(message) = value else {
                continue;
            };
            found = match tag {
                1 => Frame::Hello(small(frame, message)?),
                2 => Frame::Welcome(small(frame, message)?),
                3 => Frame::Call(CallFrame::decode(frame, message)?),
                4 => Frame::Reply(ReplyFrame::decode(frame, message)?),
                5 => Frame::Cancel(decode_cancel(frame, message)?),
                6 => Frame::Farewell(decode_farewell(frame, message)?),
                _ => found,
            };
        }
        Ok(found)
    }
}

/// A message that comes once a stream.
fn small<M: Message + Default>(frame: &Bytes, message: Span) -> Result<M, FrameError> {
    M::decode(message.of(frame)).map_err(|_| FrameError::Malformed("its message is no protobuf"))
}

fn decode_cancel(frame: &Bytes, message: Span) -> Result<u64, FrameError> {
    let mut fields = Fields::new(frame, message);
    let mut id = 0;
    while let Some((tag, value)) = fields.next()? {
        if let (1, Value::Number(number)) = (tag, value) {
            id = number;
        }
    }
    Ok(id)
}

fn decode_farewell(frame: &Bytes, message: Span) -> Result<Error, FrameError> {
    let mut fields = Fields::new(frame, message);
    let mut error = Error::internal("");
    while let Some((tag, value)) = fields.next()? {
        if let (1, Value::Piece(piece)) = (tag, value) {
            error = decode_error(frame, piece)?;
        }
    }
    Ok(error)
}

fn decode_error(frame: &Bytes, message: Span) -> Result<Error, FrameError> {
    let wire: WireError = small(frame, message)?;
    let status = u8::try_from(wire.status).ok();
    Ok(Error {
        code: status
            .and_then(Code::from_grpc_number)
            .unwrap_or(Code::Unknown),
        error_code: wire.code.into(),
        message: wire.message,
        metadata: wire.metadata,
    })
}

/// An error as frames carry it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireError {
    #[prost(uint32, tag = "1")]
    pub(super) status: u32,
    #[prost(string, tag = "2")]
    pub(super) code: String,
    #[prost(string, tag = "3")]
    pub(super) message: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) metadata: std::collections::BTreeMap<String, String>,
}
