//! The deterministic simulator: whole nodes on a fake clock, disk and scheduler.
//!
//! A seed decides everything: how many cores and logs a node has, when each of its steps happens,
//! what its callers do, and what goes wrong. The node is the product's own ([`omnirelay::node`]
//! with the queue and the log under it); only sockets, threads, clocks and disks are replaced.
//! Every reply and every record is judged by a checker that shares no code with the queue. A run
//! that breaks a rule does so again under the same seed.
#![forbid(unsafe_code)]

pub mod bugs;
pub mod checker;
pub mod client;
pub mod clock;
mod difference;
pub mod disk;
pub mod finding;
mod hearing;
pub mod history;
pub mod hits;
pub mod line;
mod lives;
pub mod node;
mod operating;
pub mod plan;
mod readback;
mod rotting;
pub mod runner;
pub mod schedule;
pub mod suite;
pub mod tape;
pub mod turns;
pub mod violation;
mod watch;
pub mod world;
