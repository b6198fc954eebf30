//! What a node tells an OpenTelemetry collector: a span for each call that is recorded, and the
//! numbers of `/metrics`.
//!
//! A core does no more for it than to read a call's `traceparent`, and for a recorded call to put a
//! plain record into a bounded queue without locks ([`Spans`]). A thread of its own takes the
//! records out, turns them into OTLP and sends them. Whatever becomes of the collector, the cores
//! do not notice: a queue that is full drops spans and counts them.

#[cfg(feature = "otlp")]
mod otlp;
mod outlet;
mod span;
mod spans;
mod tracer;

pub(crate) use outlet::Outlet;
pub use span::{Said, Span};
pub use spans::Spans;
pub use tracer::{Tracer, Tracing};
