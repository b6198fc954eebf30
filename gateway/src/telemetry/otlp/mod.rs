//! Telemetry as OTLP over HTTP: what it is made of, and the thread that sends it.

mod collector;
mod complaints;
mod exporter;
mod metrics;
mod resource;
mod traces;

pub(crate) use exporter::Exporter;
