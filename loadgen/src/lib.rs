//! Drives a running OmniRelay with enqueues, leases and completions over HTTP/2, gRPC or QUIC, and
//! keeps account of every item. `omnirelay-loadgen` is its command line; the measurements in `bench/`
//! use it too.

mod connection;
pub mod cpu;
mod duration;
mod latency;
mod ledger;
mod load;
mod memory;
mod numbers;
mod open_files;
mod pacer;
pub mod plot;
mod producer;
mod run;
mod worker;

pub use connection::{
    CallError, Caller, ConnectError, Connection, Dialer, Sockets, Target, Transport,
};
pub use duration::parse_duration;
pub use latency::{Latency, latency_histogram};
pub use ledger::{Grant, Ledger};
pub use load::{Load, OpenError, Shape};
pub use memory::resident_bytes;
pub use numbers::grouped;
pub use open_files::allow_open_files;
pub use pacer::{intended, pace};
pub use producer::RESOURCE_TYPE;
pub use run::{CallTime, Latencies, Pace, Run};
