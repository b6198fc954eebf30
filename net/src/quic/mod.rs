//! QUIC on a core: quinn's state machines, driven by one task.
//!
//! Each core has a socket of its own on the same port, and the kernel spreads clients over them by
//! their addresses. A connection id carries the core that the connection lives on, so a datagram
//! that reaches another one, because a client's address has changed, is passed on by ring
//! ([`Lanes`]). The task of [`serve`] works in rounds: take datagrams, fire timers, read streams,
//! write what calls have answered, send. What a stream carries is in [`crate::frame`].
//!
//! Everything a client can make a core hold has a bound: connections, handshakes, streams, calls,
//! bytes that were received and not understood yet, bytes that were not taken yet.

mod answers;
mod connection;
mod deliveries;
mod endpoint;
mod ids;
mod lanes;
mod limits;
mod partials;
mod socket;
mod stream;

pub use self::answers::{Answer, CallTask, Replies};
pub use self::endpoint::{Endpoint, serve};
pub use self::ids::{QuicKeys, SECRET_BYTES};
pub use self::lanes::{Lanes, lanes};
pub use self::limits::{QuicCounters, QuicLimits};
pub use self::stream::{FrameService, Greeting, IncomingCall};

/// Why a stream or connection is ended, as the number in QUIC's frames.
pub mod reason {
    use quinn_proto::VarInt;

    /// What came makes no sense.
    pub const PROTOCOL: VarInt = VarInt::from_u32(1);
    /// Nobody wants it any more.
    pub const CANCELLED: VarInt = VarInt::from_u32(2);
    /// The server is ending.
    pub const ENDING: VarInt = VarInt::from_u32(3);
    /// The server holds as much as it may.
    pub const OVERLOADED: VarInt = VarInt::from_u32(4);
    /// The client has acknowledged nothing for too long.
    pub const UNREACHABLE: VarInt = VarInt::from_u32(5);
}
