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

/// The waiting item that would be leased next. Where partition keys take turns
/// and no key is asked for, it is made to look like any other: shards take
/// turns too, whatever priorities their keys have inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its priority with what it gained by waiting; 0 where keys take turns.
    pub effective_priority: u8,
    /// Since when it could have been leased; not before the shard's last grant
    /// where keys take turns.
    pub ready_since: Nanos,
}

/// What a worker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseWish<'a> {
    /// Who it is.
    pub owner: &'a str,
    /// For how long; the shard's own duration if absent.
    pub lease: Option<Duration>,
    /// Only items of this partition key; any if absent.
    pub partition_key: Option<&'a str>,
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

/// Why an item was not cancelled or redriven. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemRefused {
    /// It is not there.
    #[error("the item is not there: it was completed, cancelled or drained, or never enqueued")]
    NotFound,
    /// Only dead letters are redriven.
    #[error("the item is not a dead letter: it waits or is leased, and needs no redrive")]
    NotDead,
    /// Attempts are counted in 16 bits.
    #[error(
        "the item has had 65535 attempts, the most there can be: cancel it, or enqueue it anew"
    )]
    AttemptsUsedUp,
}

/// What state an item is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemState {
    /// It can be leased.
    Waiting,
    /// An item before it of the same resource holds it back.
    Blocked,
    /// Its delay has not ended.
    Delayed,
    /// It is leased.
    Leased,
    /// It is given up on.
    Dead,
}

impl ItemState {
    /// The wire's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ItemState::Waiting => "waiting",
            ItemState::Blocked => "blocked",
            ItemState::Delayed => "delayed",
            ItemState::Leased => "leased",
            ItemState::Dead => "dead",
        }
    }
}

/// Which items to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Those that can be leased, then those that are held back, then those
    /// whose delay has not ended.
    Waiting,
    /// Dead letters, in the order that they were given up on.
    Dead,
}

/// Where a listing goes on. Opaque, and any two numbers are a cursor: one that
/// no listing gave out starts somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(pub u64, pub u64);

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// May be few, or none, although more follow.
    pub items: Vec<ItemView>,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<Cursor>,
}

/// An item as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemView {
    /// The item.
    pub sequence_id: SequenceId,
    /// The LSN of its enqueue.
    pub lsn: Lsn,
    /// Its state.
    pub state: ItemState,
    /// Attempts that count, with the one that is leased.
    pub attempt: u16,
    /// Attempts until it is a dead letter.
    pub max_attempts: u16,
    /// Its priority, without what it gained by waiting.
    pub priority: u8,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it can be leased, or when its delay ends; for a dead letter,
    /// when it was given up on.
    pub ready_at: Nanos,
    /// When it is dropped unless it is leased.
    pub ttl_end: Option<Nanos>,
    /// The record body that holds its payload.
    pub body: Place,
    /// Length of that body in bytes.
    pub body_len: u32,
    /// The body of its last `Failed` record, and its length in bytes.
    pub last_error: Option<(Place, u32)>,
    /// Who holds its lease.
    pub owner: Option<String>,
    /// When its lease ends unless it is renewed.
    pub expires_at: Option<Nanos>,
    /// The token of its last lease, ended or not.
    pub last_token: Option<Token>,
}

/// Why an item is not being worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// It is being worked on.
    Leased {
        /// By whom.
        owner: String,
        /// When the lease ends unless it is renewed.
        expires_at: Nanos,
    },
    /// Its delay has not ended.
    Delayed {
        /// When it does.
        until: Nanos,
        /// It waits because an attempt failed; otherwise its enqueuer wished so.
        after_failure: bool,
    },
    /// Another item of its resource goes first.
    Blocked {
        /// That item.
        behind: SequenceId,
        /// What state that is in.
        state: ItemState,
    },
    /// It can be leased, and nobody has taken it yet.
    Waiting {
        /// Waiting items that go before it: of the whole shard, or of its
        /// partition key where keys take turns.
        ahead: u64,
        /// There are more than `ahead`.
        ahead_is_cut: bool,
        /// Its priority with what it gained by waiting.
        effective_priority: u8,
        /// Where its partition key stands, where keys take turns.
        share: Option<KeyShare>,
    },
    /// It is given up on.
    Dead {
        /// After so many attempts.
        attempts: u16,
    },
    /// It is gone, or its number was never an item's: other records are
    /// numbered too.
    Gone {
        /// How its last lease ended; `None` when that is no longer remembered.
        reason: Option<FenceReason>,
    },
    /// The shard has never used its number.
    NotFound,
}

/// Where a partition key stands among those that take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyShare {
    /// The key.
    pub key: String,
    /// Items that it gets in one turn.
    pub weight: u32,
    /// Partition keys with waiting items in the shard, this one included.
    pub keys_waiting: u64,
    /// Turns of other keys before its own.
    pub position: u64,
    /// There are more than `position`.
    pub position_is_cut: bool,
}
