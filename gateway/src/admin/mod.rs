//! The node's admin HTTP server: probes, metrics, introspection and the dashboard.
//!
//! It lives on a thread of its own, off the cores. What it shows of a core comes in that core's
//! own report; the functions that turn reports into text (`readiness`, `metrics`, `introspect`)
//! read no clock, no socket and no core.

mod assets;
mod backpressure;
mod explain;
mod exposition;
mod families;
mod introspect;
mod latency;
mod live;
mod log_level;
mod metrics;
#[cfg(feature = "otlp")]
mod numbers;
mod outgoing;
mod own_page;
mod process;
mod readiness;
mod recent;
mod replication;
mod reports;
mod secure;
mod server;
mod status;
mod stream;
mod subscriptions;

#[cfg(test)]
mod fixture;

pub(crate) use backpressure::page as backpressure_page;
#[cfg(feature = "otlp")]
pub(crate) use families::{Family, Kind, Number, Series, Value};
pub(crate) use introspect::{rfc3339, rfc3339_seconds};
#[cfg(feature = "otlp")]
pub(crate) use latency::{BOUNDS_US, Buckets, seconds};
#[cfg(feature = "otlp")]
pub(crate) use numbers::{Numbers, numbers};
pub(crate) use recent::{newest as newest_events, recent as recent_page};
pub(crate) use replication::refuse as refuse_events;
pub(crate) use secure::AdminTls;
pub(crate) use server::{Pages, document, json_bytes, serve};
pub use status::{NodeStatus, RunningNode};
pub(crate) use subscriptions::serve as serve_subscriptions;
