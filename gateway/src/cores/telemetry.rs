//! What a core counts. Plain integers, written by the core alone; a scrape asks each core for a
//! copy and adds the copies up.

use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_net::http::HttpCounters;
use omnirelay_net::quic::QuicCounters;
use omnirelay_net::rpc::{Code, Procedure};
use omnirelay_net::runtime::CoreStats;
use omnirelay_queue::Stats;

use crate::node::{LogId, LogSize, NamespaceId};

/// The longest latency told apart, in µs.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Two digits: within 1 % of the true value.
const LATENCY_DIGITS: u8 = 2;

/// An empty latency histogram in µs.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
        .expect("constant bounds are valid")
}

/// A duration as the histograms count it.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .clamp(1, LATENCY_US_MAX)
}

/// Counters of one procedure.
#[derive(Debug, Clone)]
pub struct ProcedureCounts {
    /// Replies by status, in the order of [`Code::ALL`].
    pub codes: [u64; Code::ALL.len()],
    /// From the request's head to its reply, in µs.
    pub latency_us: Histogram<u64>,
}

/// How calls come to a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `POST /yarpc/v1`.
    Http,
    /// gRPC.
    Grpc,
    /// Frames over QUIC.
    Quic,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Transport; 3] = [Transport::Http, Transport::Grpc, Transport::Quic];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Http => "http",
            Transport::Grpc => "grpc",
            Transport::Quic => "quic",
        }
    }
}

/// Counters of the calls that came by one transport.
#[derive(Debug, Clone)]
pub struct CallCounts {
    /// In the order of [`Procedure::ALL`].
    pub procedures: Vec<ProcedureCounts>,
    /// Requests refused before their procedure was known, by status.
    pub unrouted: [u64; Code::ALL.len()],
}

impl Default for CallCounts {
    fn default() -> CallCounts {
        let counts = || ProcedureCounts {
            codes: [0; Code::ALL.len()],
            latency_us: latency_histogram(),
        };
        CallCounts {
            procedures: Procedure::ALL.iter().map(|_| counts()).collect(),
            unrouted: [0; Code::ALL.len()],
        }
    }
}

/// Counters of one core.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// In the order of [`Transport::ALL`].
    pub calls: [CallCounts; Transport::ALL.len()],
    /// Write and sync of a batch, in µs.
    pub wal_sync_us: Histogram<u64>,
    /// Bytes of batches written.
    pub wal_bytes: u64,
    /// Batches written.
    pub wal_batches: u64,
    /// Records written.
    pub wal_records: u64,
    /// What came from other cores.
    pub rings: RingCounts,
}

/// Counters of a core's rings.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingCounts {
    /// Messages taken out of the rings from other cores.
    pub messages: u64,
    /// The most that waited in one of these at once, of [`RING_MESSAGES`](super::RING_MESSAGES).
    pub waiting_max: u64,
    /// Times that a ring to another core had no room.
    pub full: u64,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry {
            calls: Default::default(),
            wal_sync_us: latency_histogram(),
            wal_bytes: 0,
            wal_batches: 0,
            wal_records: 0,
            rings: RingCounts::default(),
        }
    }
}

impl Telemetry {
    /// Counts a reply.
    pub fn count_reply(
        &mut self,
        transport: Transport,
        procedure: Option<Procedure>,
        code: Code,
        latency: Duration,
    ) {
        let calls = &mut self.calls[transport as usize];
        let code = Code::ALL
            .iter()
            .position(|&c| c == code)
            .expect("every code is listed");
        match procedure {
            Some(procedure) => {
                let at = Procedure::ALL
                    .iter()
                    .position(|&p| p == procedure)
                    .expect("every procedure is listed");
                let counts = &mut calls.procedures[at];
                counts.codes[code] += 1;
                counts.latency_us.saturating_record(micros(latency));
            }
            None => calls.unrouted[code] += 1,
        }
    }

    /// Counts a synced batch.
    pub fn count_batch(&mut self, bytes: u64, records: u64, took: Duration) {
        self.wal_sync_us.saturating_record(micros(took));
        self.wal_bytes += bytes;
        self.wal_records += records;
        self.wal_batches += 1;
    }
}

/// One shard as a core sees it.
#[derive(Debug, Clone)]
pub struct ShardReport {
    /// The shard's number.
    pub shard: u32,
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its log.
    pub log: LogId,
    /// Its epoch.
    pub epoch: u32,
    /// Its newest record.
    pub last_lsn: u64,
    /// What it holds.
    pub stats: Stats,
}

/// A core's connections of one kind, as counted when it was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionReport {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections refused over the limit.
    pub refused: u64,
    /// Connections that timed out.
    pub timed_out: u64,
    /// Connections that broke off or were malformed.
    pub failed: u64,
}

/// A core's HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpReport {
    /// Its connections.
    pub connections: ConnectionReport,
    /// TLS handshakes.
    pub handshakes: HandshakeReport,
}

/// A core's QUIC.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuicReport {
    /// Its connections.
    pub connections: ConnectionReport,
    /// Clients that had to prove their address first.
    pub retried: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Streams ended because what came on them made no sense, or not in time.
    pub streams_failed: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Datagrams of no connection.
    pub stray: u64,
    /// Datagrams passed on to the core that they were for.
    pub passed_on: u64,
    /// Datagrams dropped because that core did not keep up.
    pub dropped: u64,
    /// Times that the socket took nothing more for a while.
    pub blocked: u64,
}

/// How TLS handshakes ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct HandshakeReport {
    /// In a connection.
    pub ok: u64,
    /// In an alert.
    pub failed: u64,
    /// Not in time.
    pub timed_out: u64,
    /// Before they began: plain text came.
    pub plain_text: u64,
}

impl HttpReport {
    /// Copies the counters.
    pub fn of(counters: &HttpCounters) -> HttpReport {
        HttpReport {
            connections: ConnectionReport {
                accepted: counters.accepted(),
                open: counters.open(),
                refused: counters.refused(),
                timed_out: counters.timed_out(),
                failed: counters.failed(),
            },
            handshakes: HandshakeReport {
                ok: counters.handshakes(),
                failed: counters.handshakes_failed(),
                timed_out: counters.handshakes_late(),
                plain_text: counters.plain_text(),
            },
        }
    }
}

impl QuicReport {
    /// Copies the counters.
    pub fn of(counters: &QuicCounters) -> QuicReport {
        QuicReport {
            connections: ConnectionReport {
                accepted: counters.accepted(),
                open: counters.open(),
                refused: counters.refused(),
                timed_out: counters.timed_out(),
                failed: counters.failed(),
            },
            retried: counters.retried(),
            handshakes_failed: counters.handshakes_failed(),
            streams_failed: counters.streams_failed(),
            datagrams_in: counters.datagrams_in(),
            datagrams_out: counters.datagrams_out(),
            stray: counters.stray(),
            passed_on: counters.passed_on(),
            dropped: counters.dropped(),
            blocked: counters.blocked(),
        }
    }
}

/// A core's answer to a scrape.
#[derive(Debug, Clone)]
pub struct CoreReport {
    /// The core's position.
    pub core: u16,
    /// io_uring or epoll.
    pub driver: &'static str,
    /// Its counters.
    pub telemetry: Telemetry,
    /// What its loop has done.
    pub run: CoreStats,
    /// Enqueues that wait for their namespace to have room.
    pub held_back: usize,
    /// Its HTTP connections.
    pub http: HttpReport,
    /// QUIC on it.
    pub quic: QuicReport,
    /// Its shards.
    pub shards: Vec<ShardReport>,
    /// Calls not yet answered, waiting workers included.
    pub open_calls: usize,
    /// The disk has no room for new work.
    pub storage_full: bool,
    /// How large its logs are.
    pub logs: Vec<(LogId, LogSize)>,
    /// Why a log takes nothing more.
    pub log_failure: Option<String>,
}
