//! A node without its IO: what joins queue, log and wire messages into cores that answer calls.
//!
//! The way of a call: [`Core::handle_call`] checks it and splits it into parts by log (`join`);
//! each part is carried out on the core of its log (`execute`), where the shards decide and their
//! records go into the log's open batch (`owned_log`); when the batch is on disk the results are
//! let go, grants with their payloads (`readback`, `reads`), and joined into the reply (`answer`). A lease call
//! first has to find work (`work`, `board`).

mod answer;
mod backpressure;
mod board;
mod calls;
mod changes;
mod core;
mod drain;
mod errors;
mod execute;
mod explain;
mod gate;
mod join;
mod keyed;
mod layout;
mod listing;
mod owned_log;
mod part;
mod readback;
mod reads;
mod records;
mod restore;
mod split;
mod totals;
mod trim;
mod walks;
mod work;

pub use answer::{Answer, Results};
pub use backpressure::Watermarks;
pub use board::Board;
pub use calls::{CallId, Outcome};
pub use core::{CallContext, Core, LogParts, LogTask, ReadRequest};
pub use gate::{Gate, TRANSITIONS_KEPT, Transition};
pub use layout::{CoreId, Durability, Layout, LogId, Namespace, NamespaceId};
pub use owned_log::SPARES_MIN;
pub use part::{GrantRef, Message, Ticket};
pub use trim::{LogSize, ScanRequest};

/// How far a memory namespace's numbers skip ahead at every open, so that none is used again even
/// if the records that used it never reached the disk. More than can be in unsynced batches.
pub const MEMORY_LSN_SKIP: u64 = 1 << 20;

/// The longest owner of a lease, in bytes (contract: ids are at most 512 bytes).
pub const OWNER_BYTES_MAX: usize = 512;
