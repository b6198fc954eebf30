//! Drives a running OmniRelay with enqueues, leases and completions over HTTP/2, and keeps account
//! of every item. `omnirelay-loadgen` is its command line; the measurements of whole processes in
//! `bench/` use it too.

mod connection;
pub mod cpu;
mod duration;
mod latency;
mod ledger;
mod load;
mod pacer;
mod producer;
mod run;
mod worker;

pub use connection::{CallError, Caller, Connection, Target, Transport};
pub use duration::parse_duration;
pub use latency::Latency;
pub use ledger::Ledger;
pub use load::{Load, OpenError, Shape};
pub use producer::RESOURCE_TYPE;
pub use run::{CallTime, Latencies, Pace, Run};
