//! What bounds HTTP on a core, and what is counted.

use std::cell::Cell;
use std::time::Duration;

/// Bounds of HTTP on one core.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Connections open at a time; more are closed, without TLS with a 503.
    pub connections_max: usize,
    /// From the connection to the end of the TLS handshake, where there is one; `header_timeout`
    /// begins then.
    pub handshake_timeout: Duration,
    /// Bytes of a request's head, at least 8 KiB; more get 431. Also the most
    /// that is read ahead from an HTTP/1 connection.
    pub header_bytes_max: u32,
    /// From the first byte of a request's head to its last, and from the
    /// connection to its first bytes; HTTP/2 connections are held to this for
    /// their preface only, and to `idle_timeout` then.
    pub header_timeout: Duration,
    /// How long a connection may go without reading or writing a byte while the
    /// service owes it nothing: no answer, and no further part of one.
    pub idle_timeout: Duration,
    /// Requests in flight on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// Bytes of one HTTP/2 request body sent ahead of the service's reading.
    pub h2_stream_window_bytes: u32,
    /// Bytes of all HTTP/2 request bodies of a connection sent ahead of the
    /// service's reading: with `connections_max`, bounds the memory they take.
    pub h2_connection_window_bytes: u32,
    /// Bytes of one HTTP/2 answer held until the client takes them.
    pub h2_send_bytes_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            header_bytes_max: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            h2_streams_max: 1_024,
            h2_stream_window_bytes: 256 * 1024,
            h2_connection_window_bytes: 1024 * 1024,
            h2_send_bytes_max: 256 * 1024,
        }
    }
}

/// What happened on one core's HTTP port. Plain counters, read at scrape.
#[derive(Debug, Default)]
pub struct HttpCounters {
    pub(super) accepted: Cell<u64>,
    pub(super) open: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) handshakes: Cell<u64>,
    pub(super) handshakes_failed: Cell<u64>,
    pub(super) handshakes_late: Cell<u64>,
    pub(super) plain_text: Cell<u64>,
    pub(super) http1: Cell<u64>,
    pub(super) http2: Cell<u64>,
    pub(super) timed_out: Cell<u64>,
    pub(super) failed: Cell<u64>,
    pub(super) accept_errors: Cell<u64>,
}

impl HttpCounters {
    /// Connections accepted, refused ones not counted.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.get()
    }

    /// Connections refused because [`HttpLimits::connections_max`] were open.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// TLS handshakes that succeeded.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.get()
    }

    /// TLS handshakes that failed: nothing in common, no good certificate, or no TLS at all.
    pub fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.get()
    }

    /// TLS handshakes that were not done within [`HttpLimits::handshake_timeout`].
    pub fn handshakes_late(&self) -> u64 {
        self.handshakes_late.get()
    }

    /// Connections that spoke HTTP without TLS to a port that takes only TLS.
    pub fn plain_text(&self) -> u64 {
        self.plain_text.get()
    }

    /// Connections that spoke HTTP/1.
    pub fn http1(&self) -> u64 {
        self.http1.get()
    }

    /// Connections that spoke HTTP/2.
    pub fn http2(&self) -> u64 {
        self.http2.get()
    }

    /// Connections ended because a request's head did not come in time, or
    /// because they were idle.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.get()
    }

    /// Connections that ended in an error: malformed input, or broken off.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Times accepting a connection failed for lack of descriptors or memory.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.get()
    }
}

/// Adds one to a counter.
pub(super) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}
