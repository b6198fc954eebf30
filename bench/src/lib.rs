//! What the programs of `src/bin` share.

pub mod bare_node;
pub mod priority;
pub mod server;
