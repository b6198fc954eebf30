//! Putting items back that were taken out, here or elsewhere.

use crate::ids::{Lsn, Nanos, Origin, SequenceId};
use crate::outcome::Decision;
use crate::payload::{Attributes, PayloadRef};
use crate::record::Log;

use super::Shard;

/// An item to be put back. Texts must not be longer than
/// [`crate::TEXT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredItem<'a> {
    /// The namespace that it was taken out of.
    pub origin: Origin,
    /// Its number there.
    pub sequence_id: SequenceId,
    /// What it carries.
    pub payload: PayloadRef<'a>,
    /// Attempts that counted.
    pub attempt: u16,
    /// Attempts until it becomes a dead letter; the shard's default if absent.
    pub max_attempts: Option<u16>,
    /// Higher first.
    pub priority: u8,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it waited, or when its delay ends; now if absent.
    pub ready_at: Option<Nanos>,
    /// When it outlives its time.
    pub ttl_end: Option<Nanos>,
    /// Whether it was given up on.
    pub dead: bool,
    /// Why its last attempt failed.
    pub last_error: Option<RestoredError<'a>>,
    /// Who puts it back.
    pub restored_by: &'a str,
}

/// Why an item's last attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredError<'a> {
    /// For people.
    pub reason: Option<&'a str>,
    /// For programs; not longer than [`crate::TEXT_BYTES_MAX`].
    pub code: Option<&'a str>,
    /// Free text by name.
    pub metadata: Attributes<'a>,
}

/// An item that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its number here.
    pub sequence_id: SequenceId,
    /// The LSN of its record here.
    pub lsn: Lsn,
    /// It was here already, or was put back within the window.
    pub duplicate: bool,
}

/// Why an item was not put back. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreRefused {
    /// The shard holds as many items as it may.
    #[error("the shard is at capacity; try again when items have been completed")]
    CapacityReached,
    /// The shard remembers as many request ids as it may.
    #[error("the shard remembers as many request ids as it may; try again later")]
    DedupeFull,
    /// The shard remembers as many restored items as it may.
    #[error("the shard remembers as many restored items as it may; try again later")]
    RestoresFull,
}

impl Shard {
    /// Puts an item back, or finds that it was put back, or never left. It
    /// keeps its attempts, priority and times; one whose attempts are used up
    /// comes in as a dead letter.
    ///
    /// Items of this shard's own namespace must come to the shard that their
    /// number names: only there is it known whether they are still there.
    ///
    /// # Panics
    /// When a text is longer than [`crate::TEXT_BYTES_MAX`], `max_attempts` is
    /// 0, or the shard was not opened.
    pub fn handle_restore(
        &mut self,
        now: Nanos,
        item: &RestoredItem<'_>,
        log: &mut impl Log,
    ) -> Decision<Result<Restored, RestoreRefused>> {
        todo!()
    }
}
