//! What bounds QUIC on a core, and what is counted.

use std::cell::Cell;
use std::time::Duration;

/// Bounds of QUIC on one core.
#[derive(Clone, Debug)]
pub struct QuicLimits {
    /// Connections open at a time; more are refused.
    pub connections_max: usize,
    /// Handshakes under way from which on a client has to prove its address first, by a retry.
    pub handshakes_unproved_max: usize,
    /// Handshakes under way; more are refused.
    pub handshakes_max: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long a connection may be silent. Clients that only wait keep theirs alive.
    pub idle_timeout: Duration,
    /// How long a client may acknowledge nothing at all while it has replies that can be undone to
    /// acknowledge. Then its connection is closed and they are.
    pub acknowledge_timeout: Duration,
    /// Streams of one connection open at a time.
    pub streams_max: u32,
    /// Calls of one connection worked on at a time; no further one is read meanwhile.
    pub calls_max: usize,
    /// Bytes of one stream that a client may send ahead of the core's reading.
    pub stream_window_bytes: u32,
    /// The same of all streams of a connection.
    pub connection_window_bytes: u32,
    /// Bytes of replies that a client has not taken yet, from which on no further call of its
    /// connection is read.
    pub unsent_bytes_max: usize,
    /// Bytes sent and not acknowledged yet that a connection holds.
    pub send_window_bytes: u64,
    /// The longest frame of a client.
    pub frame_bytes_max: usize,
    /// Bytes of frames that have begun and not ended, on all streams of the core: so many of frames
    /// up to 64 KiB, and so many of longer ones. A stream that wants more is reset.
    pub partial_bytes_max: usize,
    /// How long a frame, or a stream's first, may take from its first byte to its last.
    pub frame_timeout: Duration,
    /// How long connections may take to end once the core is told to.
    pub close_timeout: Duration,
}

impl Default for QuicLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            handshakes_unproved_max: 256,
            handshakes_max: 2_048,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            acknowledge_timeout: Duration::from_secs(10),
            streams_max: 128,
            calls_max: 4_096,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            unsent_bytes_max: 4 << 20,
            send_window_bytes: 4 << 20,
            frame_bytes_max: crate::frame::FRAME_BYTES_MAX,
            partial_bytes_max: 1 << 30,
            frame_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(3),
        }
    }
}

/// Defines the counters, and how they are read.
macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident;)+) => {
        /// What happened on one core's QUIC port. Plain counters, read at scrape.
        #[derive(Debug, Default)]
        pub struct QuicCounters {
            $(pub(super) $name: Cell<u64>,)+
        }

        impl QuicCounters {
            $($(#[$doc])+
            pub fn $name(&self) -> u64 {
                self.$name.get()
            })+
        }
    };
}

counters! {
    /// Connections accepted, refused ones not counted.
    accepted;
    /// Connections open now, those whose handshake is under way included.
    open;
    /// Connections refused because as many were open, or in their handshake, as may be.
    refused;
    /// Clients told to prove their address first.
    retried;
    /// Handshakes that failed.
    handshakes_failed;
    /// Connections that were silent for too long, or did not acknowledge replies.
    timed_out;
    /// Connections that ended in an error after their handshake.
    failed;
    /// Streams ended because what came on them made no sense, or not in time.
    streams_failed;
    /// Datagrams received.
    datagrams_in;
    /// Datagrams sent.
    datagrams_out;
    /// Datagrams that are of no connection and begin none: dropped, or answered with a reset or
    /// with the versions that are spoken.
    stray;
    /// Datagrams passed on to the core that they were for.
    passed_on;
    /// Datagrams dropped: that core did not keep up.
    dropped;
    /// Times that the socket took nothing more for a while.
    blocked;
}

/// Adds to a counter.
pub(super) fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get() + number);
}
