//! The write-ahead log: records are encoded into batches on a core, written and
//! synced by a log thread, and read back by position.
//!
//! One log is a directory of pre-allocated segment files. [`open`] recovers it
//! and hands out four parts, one for each place that works on a log:
//!
//! | Part | Lives on | Does |
//! |---|---|---|
//! | [`Appender`] | the core | places and encodes records, hands out sealed [`Batch`]es |
//! | [`Writer`] | the log thread | checksums, writes and syncs one batch after the other |
//! | [`Allocator`] | a thread of its own | makes spare segments, retires old ones |
//! | [`Reader`] | core and log thread, cloned | reads bodies by [`Position`] |
//! | [`Cleaner`] | the log thread that reads | reads a segment before it is given up |
//!
//! [`LogView`] reads a log without opening it: for streams and tools.
//!
//! The appender is pure: it does no IO and reads no clock. Everything that
//! touches a disk goes through [`Disk`], so [`fault::FaultDisk`] can stand in
//! for [`RealDisk`] and lose power at every step.
//!
//! What holds, and what recovery rests on:
//!
//! - Batch N+1 is written only after batch N is synced, so whatever proves that
//!   N+1 was begun proves N durable: a hole before it is corruption, not a tear.
//! - A committed sector is never written again with other content. The one
//!   sector that is overwritten is the empty marker of a clean end.
//! - A segment's random generation seeds every checksum in it, so zeros, stale
//!   bytes and bytes that a client chose never decode as a batch.
//! - A write or sync that failed poisons the writer for ever.
//! - What is below the log's floor is not looked at. The floor is a record that
//!   was synced before the first of those segments was touched, so a missing
//!   first segment is either proven to be not needed, or corruption.
//! - A segment is written to again only when its header was durably zeroed, it
//!   has another number, and nothing of it is mapped.
//!
//! What cannot be told: in a log that was not closed cleanly, a last batch that
//! rotted looks like one that was being written when the power went, and is left
//! out as such. A clean end leaves proof behind the last batch.

#![deny(unsafe_code)]

mod allocator;
mod appender;
mod batch;
mod batches;
mod cleaner;
mod disk;
mod error;
pub mod fault;
mod floor;
mod format;
mod lock;
mod map;
mod options;
mod reader;
mod real;
mod recover;
mod replay;
mod scan;
mod segment_file;
mod survey;
mod sys;
mod tail;
mod verify;
mod view;
mod writer;

pub use allocator::{Allocator, Fill, Reuse, Spare};
pub use appender::{Appender, SegmentUse};
pub use batch::Batch;
pub use batches::{Batches, ReadFrom, ViewedBatch};
pub use cleaner::{Cleaner, Cursor, ReadRecord, Scanned};
pub use disk::{Disk, DiskFile};
pub use error::{Damaged, OpenError, Poisoned};
pub use floor::{FLOOR_BODY_BYTES, LOG_SHARD};
pub use format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, FORMAT_VERSION, Position, RECORD_HEADER_BYTES,
    RecordHeader, SECTOR_BYTES, SEGMENT_HEADER_BYTES, body_bytes_max,
};
pub use lock::{DirLock, LockError};
pub use map::Mapping;
pub use options::{LogOptions, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SPARES_MAX};
pub use reader::Reader;
pub use real::{RealDisk, RealFile};
pub use recover::{Opened, Recovery, TornTail, open};
pub use replay::OnRecord;
pub use verify::{SegmentReport, Verification};
pub use view::{LogView, SegmentInfo, SegmentState, ViewError};
pub use writer::Writer;
