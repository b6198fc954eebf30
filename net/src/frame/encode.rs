//! Writing frames, each with its length in front.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::decode::{Hello, Welcome, WireError};
use crate::rpc::{Call, EncodeReply, Encoding, Error, encode_call_behind};
use crate::wire::varint;

/// The most that is in front of a body in its frame: the lengths of frame and message, and fields
/// of a reply that are numbers.
const NUMBERS_BYTES_MAX: usize = 64;

/// What a call says besides its body. Empty texts are absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallHead<'a> {
    /// The client's name for it, different from all its open calls of the stream.
    pub id: u64,
    /// The procedure called.
    pub procedure: &'a str,
    /// The time until the caller's deadline.
    pub ttl_ms: Option<u32>,
    /// Who calls, where the hello does not say.
    pub caller: &'a str,
    /// The service called, where the hello does not say.
    pub service: &'a str,
    /// What decides the shard.
    pub shard_key: &'a str,
    /// The peer that will own what is leased.
    pub peer_id: &'a str,
    /// Which trace it belongs to.
    pub traceparent: &'a str,
    /// Application headers.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A client's first frame.
#[must_use]
pub fn hello(hello: &Hello) -> Bytes {
    let mut out = BytesMut::new();
    small(&mut out, 1, hello);
    out.freeze()
}

/// A server's first frame.
#[must_use]
pub fn welcome(welcome: &Welcome) -> Bytes {
    let mut out = BytesMut::new();
    small(&mut out, 2, welcome);
    out.freeze()
}

/// A call to the lease queue.
///
/// # Errors
/// `rpc.encoding.unsupported` for [`Encoding::Raw`].
pub fn call(head: &CallHead<'_>, encoding: Encoding, call: &Call) -> Result<Bytes, Error> {
    let body = encode_call_behind(0, encoding, call)?;
    Ok(raw_call(head, encoding, &body))
}

/// A call with a body of any kind.
#[must_use]
pub fn raw_call(head: &CallHead<'_>, encoding: Encoding, body: &[u8]) -> Bytes {
    let texts = [
        (2, head.procedure),
        (6, head.caller),
        (7, head.service),
        (8, head.shard_key),
        (9, head.peer_id),
        (13, head.traceparent),
    ];
    let number = encoding_number(encoding);
    let mut message = number_length(head.id) + piece_length(body.len());
    message += head.ttl_ms.map_or(0, |ms| number_length(u64::from(ms)));
    message += if number == 0 {
        0
    } else {
        number_length(number)
    };
    for (_, text) in texts {
        message += if text.is_empty() {
            0
        } else {
            piece_length(text.len())
        };
    }
    for (name, value) in head.headers {
        message += piece_length(piece_length(name.len()) + piece_length(value.len()));
    }
    let mut out = begin(3, message);
    put_number(&mut out, 1, head.id);
    for (tag, text) in texts {
        if !text.is_empty() {
            put_piece(&mut out, tag, text.as_bytes());
        }
    }
    if let Some(ms) = head.ttl_ms {
        put_number(&mut out, 4, u64::from(ms));
    }
    if number != 0 {
        put_number(&mut out, 5, number);
    }
    for (name, value) in head.headers {
        put_key(&mut out, 15, PIECE);
        let entry = piece_length(name.len()) + piece_length(value.len());
        varint::write(&mut out, entry as u64);
        put_piece(&mut out, 1, name.as_bytes());
        put_piece(&mut out, 2, value.as_bytes());
    }
    put_piece(&mut out, 3, body);
    out.freeze()
}

/// What a reply says besides its outcome.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplyHead<'a> {
    /// The call's.
    pub id: u64,
    /// The shard that served.
    pub shard: Option<u32>,
    /// The span that the server made of the call, or empty.
    pub traceresponse: &'a str,
    /// Another reply to the same call follows.
    pub more: bool,
}

/// A successful reply of the lease queue. Its message is written once, where it stays.
///
/// # Panics
/// On [`Encoding::Raw`]: no call in it can have succeeded.
#[must_use]
pub fn reply(head: &ReplyHead<'_>, encoding: Encoding, reply: &impl EncodeReply) -> Bytes {
    // What is in front is known only once the message is there, so it is written up against it.
    let front = NUMBERS_BYTES_MAX + head.traceresponse.len();
    let mut out = reply.encode_behind(front, encoding);
    let body = out.len() - front;
    let fields = reply_fields_length(head);
    let message = fields + piece_length(body);
    let whole = 1 + varint::length(message as u64) + message;
    let prefix = varint::length(whole as u64) + whole - body;
    let start = front - prefix;
    {
        let mut place = &mut out[start..front];
        varint::write(&mut place, whole as u64);
        put_key(&mut place, 4, PIECE);
        varint::write(&mut place, message as u64);
        put_reply_fields(&mut place, head);
        put_key(&mut place, 2, PIECE);
        varint::write(&mut place, body as u64);
        debug_assert!(place.is_empty());
    }
    out.advance(start);
    out.freeze()
}

/// A successful reply with a body of any kind.
#[must_use]
pub fn raw_reply(head: &ReplyHead<'_>, body: &[u8]) -> Bytes {
    let mut out = begin(4, reply_fields_length(head) + piece_length(body.len()));
    put_reply_fields(&mut out, head);
    put_piece(&mut out, 2, body);
    out.freeze()
}

/// A reply that says what went wrong.
#[must_use]
pub fn error(head: &ReplyHead<'_>, error: &Error) -> Bytes {
    let error = wire_error(error);
    let message = reply_fields_length(head) + piece_length(error.encoded_len());
    let mut out = begin(4, message);
    put_reply_fields(&mut out, head);
    put_message(&mut out, 3, &error);
    out.freeze()
}

/// That a call's answer is not wanted any more.
#[must_use]
pub fn cancel(id: u64) -> Bytes {
    let mut out = begin(5, number_length(id));
    put_number(&mut out, 1, id);
    out.freeze()
}

/// A server's last frame of a stream.
#[must_use]
pub fn farewell(error: &Error) -> Bytes {
    let error = wire_error(error);
    let mut out = begin(6, piece_length(error.encoded_len()));
    put_message(&mut out, 1, &error);
    out.freeze()
}

fn wire_error(error: &Error) -> WireError {
    WireError {
        status: u32::from(error.code.grpc_number()),
        code: error.error_code.clone().into_owned(),
        message: error.message.clone(),
        metadata: error.metadata.clone(),
    }
}

fn encoding_number(encoding: Encoding) -> u64 {
    match encoding {
        Encoding::Proto => 0,
        Encoding::Json => 1,
        Encoding::Raw => 2,
    }
}

fn reply_fields_length(head: &ReplyHead<'_>) -> usize {
    let response = head.traceresponse;
    number_length(head.id)
        + head
            .shard
            .map_or(0, |shard| number_length(u64::from(shard)))
        + if response.is_empty() {
            0
        } else {
            piece_length(response.len())
        }
        + if head.more { number_length(1) } else { 0 }
}

fn put_reply_fields(out: &mut impl BufMut, head: &ReplyHead<'_>) {
    put_number(out, 1, head.id);
    if let Some(shard) = head.shard {
        put_number(out, 4, u64::from(shard));
    }
    if head.more {
        put_number(out, 5, 1);
    }
    if !head.traceresponse.is_empty() {
        put_piece(out, 6, head.traceresponse.as_bytes());
    }
}

/// Protobuf's types of fields that frames have.
const NUMBER: u64 = 0;
const PIECE: u64 = 2;

/// A frame of one message of so many bytes, up to where that begins.
fn begin(tag: u32, message: usize) -> BytesMut {
    let whole = 1 + varint::length(message as u64) + message;
    let mut out = BytesMut::with_capacity(varint::length(whole as u64) + whole);
    varint::write(&mut out, whole as u64);
    put_key(&mut out, tag, PIECE);
    varint::write(&mut out, message as u64);
    out
}

fn small(out: &mut BytesMut, tag: u32, message: &impl Message) {
    let mut frame = begin(tag, message.encoded_len());
    message.encode_raw(&mut frame);
    out.unsplit(frame);
}

fn put_key(out: &mut impl BufMut, tag: u32, kind: u64) {
    varint::write(out, u64::from(tag) << 3 | kind);
}

fn put_number(out: &mut impl BufMut, tag: u32, value: u64) {
    put_key(out, tag, NUMBER);
    varint::write(out, value);
}

fn put_piece(out: &mut impl BufMut, tag: u32, bytes: &[u8]) {
    put_key(out, tag, PIECE);
    varint::write(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_message(out: &mut BytesMut, tag: u32, message: &impl Message) {
    put_key(out, tag, PIECE);
    varint::write(out, message.encoded_len() as u64);
    message.encode_raw(out);
}

/// Every field's number is below 16, so its key is one byte.
fn number_length(value: u64) -> usize {
    1 + varint::length(value)
}

fn piece_length(bytes: usize) -> usize {
    1 + varint::length(bytes as u64) + bytes
}
