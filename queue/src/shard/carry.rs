//! Writing again what is still needed, so that the log can give up its oldest
//! records.
//!
//! Before the log gives a segment up, every record in it of one of the kinds
//! in [`CARRIED_KINDS`] is offered to [`Shard::carry`]; and a checkpoint of
//! what is remembered beside the items must have been begun in a later
//! segment, and be complete.

use crate::codec::DecodeError;
use crate::ids::{Lsn, Place};
use crate::record::{Log, kind};

use super::Shard;

/// Kinds of record that items or drained bundles may be rooted in.
pub const CARRIED_KINDS: [u8; 4] = [
    kind::ENQUEUED,
    kind::DRAIN_SNAPSHOT,
    kind::RESTORE_SNAPSHOT,
    kind::CARRY,
];

/// Largest body of a checkpoint's record, in bytes.
pub const CHECKPOINT_RECORD_BYTES_MAX: usize = 17 << 10;

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Nothing that is still needed lies in it.
    NotRooted,
    /// What lies in it was written again.
    Done,
    /// What lies in it must be written again together with these bytes: offer
    /// it once more with them.
    NeedsError(Place, u32),
}

/// How far a checkpoint has come.
#[derive(Debug)]
pub struct Checkpoint {}

impl Shard {
    /// Offers a record of a segment that is to be given up: its kind and LSN,
    /// where its body lies, and the body. `error` holds the bytes that an
    /// earlier offer asked for.
    ///
    /// # Errors
    /// When the body cannot be read, or `error` is not what was asked for. The
    /// segment must be kept then.
    pub fn carry(
        &mut self,
        kind: u8,
        lsn: Lsn,
        place: Place,
        record_body: &[u8],
        error: Option<&[u8]>,
        log: &mut impl Log,
    ) -> Result<Carried, DecodeError> {
        todo!()
    }

    /// Begins a checkpoint of what is remembered beside the items.
    pub fn checkpoint(&self) -> Checkpoint {
        todo!()
    }

    /// Goes on with a checkpoint: appends one record, and others while their
    /// bodies together are within `budget_bytes`. No body is longer than
    /// [`CHECKPOINT_RECORD_BYTES_MAX`]. True when the checkpoint is complete.
    pub fn handle_checkpoint(
        &mut self,
        checkpoint: &mut Checkpoint,
        budget_bytes: usize,
        log: &mut impl Log,
    ) -> bool {
        todo!()
    }

    /// Bytes of the log that the bodies and errors of the items in the shard,
    /// and of drained bundles that may be asked for again, take.
    pub fn live_bytes(&self) -> u64 {
        todo!()
    }
}
