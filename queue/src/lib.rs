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

mod chunks;
mod codec;
mod dedupe;
mod hash;
mod ids;
mod index;
mod item;
mod marks;
mod options;
mod outcome;
mod owners;
mod payload;
mod ready;
mod record;
mod settled;
mod shard;
mod slab;
mod split_table;
mod stats;
mod token;
mod wheel;

pub use codec::DecodeError;
pub use hash::{shard_index_of_key, shard_index_of_resource};
pub use ids::{
    EPOCH_MAX, Epoch, Lsn, Millis, Nanos, Place, SEQUENCE_ID_MAX, SHARD_ID_MAX, Secret, SequenceId,
    ShardId, ShardSpec,
};
pub use options::{LEASE_MAX, LEASE_MIN, Options, OptionsError};
pub use outcome::{
    Decision, EnqueueRefused, Enqueued, Extended, FenceReason, Grant, Head, TokenRefused,
};
pub use payload::{Attributes, Failure, NewItem, PayloadRef, TEXT_BYTES_MAX};
pub use record::{EnqueuedBody, Event, FailedBody, LeaseRef, Log, Record, kind};
#[doc(hidden)]
pub use shard::digest::{Digest, ItemDigest};
pub use shard::{ReplayError, Shard};
pub use stats::Stats;
pub use token::{LeaseId, LeaseIdError, Token};
