//! OmniRelay: an RPC gateway and durable lease mesh.

pub mod admin;
pub mod cli;
pub mod config;
pub mod cores;
pub mod data_dir;
pub mod demo;
pub mod inbound;
pub mod logging;
pub mod node;
pub mod replication;
pub mod serve;
pub mod telemetry;
mod tls;
