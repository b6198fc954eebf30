//! What the shard answers.

use std::time::Duration;

use crate::ids::{Lsn, Nanos, Place, SequenceId};
use crate::token::Token;

/// An outcome, and what must be durable before anyone may learn of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an outcome may leave only once what it rests on is committed"]
pub struct Decision<T> {
    /// What was decided.
    pub outcome: T,
    /// The LSN that must be committed before the outcome leaves; `None` when
    /// it rests on nothing that a crash could undo.
    pub rests_on: Option<Lsn>,
}

/// An accepted enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The item's id; the first item's when this is a duplicate.
    pub sequence_id: SequenceId,
    /// The LSN of the (first) enqueue.
    pub lsn: Lsn,
    /// Whether the request id was seen before within the window.
    pub duplicate: bool,
}

/// Why an enqueue was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueRefused {
    /// The shard holds as many items as it may.
    #[error("the shard is at capacity; try again when items have been completed")]
    CapacityReached,
    /// The shard remembers as many request ids as it may.
    #[error("the shard remembers as many request ids as it may; try again later")]
    DedupeFull,
}

/// The waiting item that would be leased next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its priority with what it gained by waiting.
    pub effective_priority: u8,
    /// Since when it could have been leased.
    pub ready_since: Nanos,
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The item.
    pub sequence_id: SequenceId,
    /// From 1.
    pub attempt: u32,
    /// What its owner must show to renew or settle it.
    pub token: Token,
    /// The LSN of the grant.
    pub lsn: Lsn,
    /// The body of the item's `Enqueued` record, which holds its payload.
    pub item: Place,
    /// Length of that body in bytes.
    pub item_len: u32,
    /// The body of the item's last `Failed` record, and its length in bytes.
    pub last_error: Option<(Place, u32)>,
    /// When the item was enqueued.
    pub enqueued_at: Nanos,
    /// When the lease ends unless it is renewed.
    pub expires_at: Nanos,
    /// The lease's duration.
    pub lease: Duration,
}

/// A renewed lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// When the lease ends unless it is renewed again.
    pub expires_at: Nanos,
    /// From now to then.
    pub lease: Duration,
    /// The LSN of the heartbeat's record; the shard's last LSN when the
    /// heartbeat has none of its own.
    pub lsn: Lsn,
}

/// Why a token was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// This namespace never issued it: its check fails.
    #[error("the ownership token was never issued")]
    Unknown,
    /// Issued by another owner of the shard, in a later epoch, or by another
    /// shard.
    #[error("the ownership token belongs to another owner of the shard")]
    NotMine,
    /// Issued, and over.
    #[error("the lease is over")]
    Fenced {
        /// How it ended; `None` when that is no longer remembered.
        reason: Option<FenceReason>,
    },
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FenceReason {
    /// The item was completed with this token.
    Completed = 1,
    /// The attempt was failed with this token.
    Failed = 2,
    /// The lease ran out.
    Expired = 3,
    /// The grant was taken back, or the item was leased again since.
    Superseded = 4,
}

impl FenceReason {
    /// The wire's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FenceReason::Completed => "completed",
            FenceReason::Failed => "failed",
            FenceReason::Expired => "expired",
            FenceReason::Superseded => "superseded",
        }
    }
}
