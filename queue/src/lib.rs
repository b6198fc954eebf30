//! The lease queue as a pure state machine.
//!
//! A [`Shard`] takes requests, time and randomness as arguments. It decides,
//! appends a [`Record`] of what it decided to a [`Log`], and changes its state
//! by applying that record; [`Shard::apply`] serves live requests and replay
//! alike, so a follower or a restart cannot drift. Nothing here reads a clock,
//! opens a file or waits.
//!
//! Every answer is a [`Decision`]: the outcome and the LSN that must be
//! committed before the outcome may leave the node.
//!
//! Payloads stay in the log. An item in memory is a fixed-size entry that
//! refers to the record of its enqueue by [`Place`].
#![forbid(unsafe_code)]

mod carry;
mod chunks;
mod codec;
mod dedupe;
mod drains;
mod hash;
mod ids;
mod index;
mod item;
mod keys;
mod list;
mod marks;
mod options;
mod outcome;
mod owners;
mod payload;
mod ready;
mod record;
mod resources;
mod roots;
mod settled;
mod shard;
mod side;
mod slab;
mod snapshot;
mod split_table;
mod stats;
mod token;
mod wheel;

pub use carry::{Carry, DrainPart, EncodedRows, Ended, EpochStart, Remembered, Row, Rows, Turn};
pub use codec::DecodeError;
pub use hash::{shard_index_of_key, shard_index_of_resource};
pub use ids::{
    EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Origin, Place, RequestKey, SEQUENCE_ID_MAX, SHARD_ID_MAX,
    Secret, SequenceId, ShardId, ShardSpec,
};
pub use options::{
    Fairness, LEASE_MAX, LEASE_MIN, Options, OptionsError, Ordering, WEIGHT_MAX, WEIGHTS_MAX,
};
pub use outcome::{
    Cursor, Decision, EnqueueRefused, Enqueued, Explanation, Extended, FenceReason, Grant, Head,
    ItemRefused, ItemState, ItemView, KeyShare, LeaseWish, Listed, Listing, TokenRefused,
};
pub use payload::{Attributes, Failure, NewItem, PayloadRef, TEXT_BYTES_MAX};
pub use record::{EnqueuedBody, Event, FailedBody, LeaseRef, Log, Record, kind};
pub use shard::carry::{CARRIED_KINDS, Carried};
pub use shard::checkpoint::{CHECKPOINT_RECORD_BYTES_MAX, Checkpoint};
#[doc(hidden)]
pub use shard::digest::{Digest, ItemDigest};
pub use shard::drain::{Candidate, Candidates, DrainCursor, DrainRefused, Drained, DrainedPart};
pub use shard::restore::{RestoreRefused, Restored, RestoredError, RestoredItem};
pub use shard::{ReplayError, Shard};
pub use snapshot::{ItemSnapshot, SnapshotState};
pub use stats::Stats;
pub use token::{LeaseId, LeaseIdError, Token};
pub use wheel::TIME_MAX;
