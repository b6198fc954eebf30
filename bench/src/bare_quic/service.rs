//! What is behind the driver.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use omnirelay_net::frame::CallFrame;
use omnirelay_net::rpc::{Encoding, Error, Procedure};
use quinn_proto::StreamId;

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallKey {
    /// The connection's place with the driver; given to another once the service was told that it
    /// is gone.
    pub(super) connection: usize,
    pub(super) stream: StreamId,
    /// The client's name for the call.
    pub(super) id: u64,
}

/// Answers calls.
pub(super) trait Service {
    /// Takes a call.
    fn handle_call(&mut self, now: Instant, key: CallKey, call: &CallFrame);

    /// All calls of a turn were taken; what was decided may leave once this returns.
    ///
    /// # Errors
    /// If it cannot be made durable: nothing may leave then.
    fn handle_turn_end(&mut self, now: Instant) -> io::Result<()>;

    /// A connection has ended, and its calls with it.
    fn handle_gone(&mut self, connection: usize);

    /// Hands out a reply, a whole frame.
    fn poll_reply(&mut self) -> Option<(CallKey, Bytes)>;

    /// When it wants a turn though nothing comes.
    fn next_deadline(&self) -> Option<Instant>;
}

/// Which procedure is called, in protobuf.
///
/// # Errors
/// If there is no such procedure, or the call is in another encoding.
pub(super) fn procedure(call: &CallFrame) -> Result<Procedure, Error> {
    if call.encoding != Some(Encoding::Proto) {
        return Err(Error::encoding_unsupported("only protobuf is spoken here"));
    }
    Ok(Procedure::parse(call.procedure())?.1)
}
