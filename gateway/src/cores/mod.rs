//! Cores with their IO: one pinned thread each, with the threads of its logs beside it, joined to
//! the other cores by rings. All decisions are in [`crate::node`].

mod cell;
mod clock;
mod core_thread;
mod ending;
mod inbox;
mod log_threads;
mod start;
mod telemetry;

pub use cell::{CoreCell, OpenCall, ReplyFuture};
pub use clock::Clock;
pub use core_thread::RING_MESSAGES;
pub use inbox::{Event, Inbox};
pub use start::{Cores, OpenedLog, QuicStartup, Reporter, StartError, Startup};
pub use telemetry::{
    ConnectionReport, CoreReport, HandshakeReport, HttpReport, ProcedureCounts, QuicReport,
    RingCounts, ShardReport, Telemetry, Transport, latency_histogram,
};
