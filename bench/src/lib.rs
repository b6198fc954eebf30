//! What the programs of `src/bin` share.

pub mod priority;
pub mod server;
