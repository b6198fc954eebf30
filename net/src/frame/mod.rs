//! RPC over QUIC: the frames that a stream carries, and their bytes. No IO.
//!
//! A stream is a run of frames, each a protobuf message `omnirelay.rpc.v1.Frame` behind its length
//! as a varint. [`FrameReader`] cuts a stream into frames, [`Frame::decode`] reads one, and the
//! functions of [`encode`] write one. Frames that carry calls and replies are read and written by
//! hand: nothing in them is copied or allocated but what there is no other way for.

mod decode;
pub mod encode;
mod reader;

pub use self::decode::{CallFrame, Frame, FrameError, Hello, ReplyFrame, Welcome};
pub use self::reader::FrameReader;
use crate::rpc::REQUEST_BYTES_MAX;

/// The protocol's name in TLS.
pub const ALPN: &[u8] = b"omnirelay/1";

/// What clients tell people when no handshake comes through: QUIC does not begin with less than
/// 1,200 bytes. <https://www.rfc-editor.org/rfc/rfc9000.html#section-14>
pub const NO_HANDSHAKE: &str = "nobody serves QUIC there, or the network carries no UDP datagrams \
    of 1,200 bytes; HTTP/2 and gRPC are served over TCP, by default on the same port";

/// The longest datagrams that both sides look for on a path, and take: an Ethernet of jumbo frames
/// and a machine's own loopback carry them, and each costs as much to make, send and read as a short
/// one. Ten of them, which quinn hands to the system at once, stay below the 64 KiB that it takes.
pub const DATAGRAM_BYTES_MAX: u16 = 6_500;

/// The version of the frames that this code speaks.
pub const VERSION: u32 = 1;

/// The longest frame: the longest body, and 64 KiB for what is around it.
pub const FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX + (64 << 10);

/// The longest first frame of a stream.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests;
