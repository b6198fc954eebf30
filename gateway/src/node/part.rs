//! A call's parts: what one log's core does for it, and what comes back.
//!
//! A call is split by log, because a log is what commits together. A part is carried out on the
//! core that serves the log, be it this one or another, and its results leave when they are
//! committed there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::messages::read::EnqueueItems;
use omnirelay_net::messages::{ErrorInfo, ExplainResponse, PendingItem};
use omnirelay_net::rpc;
use omnirelay_queue::{Cursor, Grant, Lsn, Nanos, SequenceId, ShardId, Token};

use super::calls::CallId;
use super::changes::{Change, ChangeEntry};
use super::drain::DrainWish;
use super::layout::{CoreId, LogId, NamespaceId};
use super::listing::ListWish;
use super::restore::RestoreEntry;

/// Whom a part's results go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The core that holds the call.
    pub(super) core: CoreId,
    /// The call on that core.
    pub(super) call: CallId,
}

/// What a core is asked to do on one of its logs.
#[derive(Debug)]
pub(super) enum Part {
    /// Put items into shards of the log.
    Enqueue(NamespaceId, Arc<EnqueueItems>, Vec<EnqueueEntry>),
    /// Complete, fail or renew leases.
    Settle(NamespaceId, Vec<SettleEntry>),
    /// Lease what waits, best first.
    Take(NamespaceId, Take),
    /// Cancel or redrive items.
    Change(NamespaceId, Change, Vec<ChangeEntry>),
    /// Put items in that were taken out, so many new ones at most.
    Restore(NamespaceId, u64, Vec<RestoreEntry>),
    /// Show items of a shard.
    List(NamespaceId, ListWish),
    /// Say why an item of a shard is not being worked on.
    Explain(NamespaceId, ShardId, SequenceId),
    /// Take items of a shard out.
    Drain(NamespaceId, DrainWish),
}

/// One item of an enqueue, already checked and routed.
#[derive(Debug)]
pub(super) struct EnqueueEntry {
    /// Its place in the call, and among the call's items.
    pub(super) index: u32,
    pub(super) shard: ShardId,
    /// What its record may take.
    pub(super) record_bytes: u32,
}

/// One token of a settle, already parsed and routed.
#[derive(Debug)]
pub(super) struct SettleEntry {
    /// Its place in the call.
    pub(super) index: u32,
    pub(super) shard: ShardId,
    pub(super) token: Token,
    pub(super) action: Action,
}

/// What to do with a lease.
#[derive(Debug)]
pub(super) enum Action {
    Complete,
    Fail(Box<Failure>),
    Heartbeat { extend: Option<Duration> },
}

/// Why a worker gives an item up, and what is to become of it.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) reason: Option<String>,
    pub(super) code: Option<String>,
    pub(super) requeue: bool,
    pub(super) delay: Option<Duration>,
    pub(super) metadata: Vec<(String, String)>,
}

/// A wish for leases.
#[derive(Debug, Clone)]
pub(super) struct Take {
    pub(super) max: u32,
    pub(super) owner: Arc<str>,
    pub(super) lease: Option<Duration>,
    /// Only items of this partition key.
    pub(super) key: Option<String>,
}

/// What became of one entry of a part.
#[derive(Debug)]
pub(super) enum ItemResult {
    Enqueued {
        sequence_id: SequenceId,
        duplicate: bool,
        shard: ShardId,
        lsn: Lsn,
    },
    Settled {
        shard: ShardId,
        lsn: Lsn,
    },
    Extended {
        shard: ShardId,
        expires_at: Nanos,
        lease: Duration,
    },
    Leased(Box<Granted>),
    Restored {
        duplicate: bool,
    },
    Listed(Box<PendingItem>),
    /// Where a shard's next items are listed from; `None` when there are no others.
    ListedTo(Option<Cursor>),
    Drained(Box<PendingItem>),
    /// Whether there are more items to be taken out of the shard.
    DrainedTo {
        more: bool,
    },
    Explained(Box<ExplainResponse>),
    Refused(Box<rpc::Error>),
}

impl ItemResult {
    pub(super) fn refused(error: rpc::Error) -> ItemResult {
        ItemResult::Refused(Box::new(error))
    }
}

// They are passed on by the batch.
const _: () = assert!(size_of::<ItemResult>() <= 40);

/// A grant on its way to the worker.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) log: LogId,
    pub(super) grant: Grant,
    pub(super) owner: Arc<str>,
    /// Body of the record that enqueued the item; empty until the grant is committed and it has
    /// been read.
    pub(super) record: Bytes,
    /// Why the item's last attempt failed, read at the same time.
    pub(super) last_error: Option<Box<ErrorInfo>>,
}

impl Granted {
    /// How to undo it.
    pub(super) fn reference(&self) -> GrantRef {
        GrantRef {
            log: self.log,
            token: self.grant.token,
            expires_at: self.grant.expires_at,
        }
    }
}

/// Enough to undo a grant whose reply could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRef {
    /// The log that holds the item.
    pub log: LogId,
    /// The grant's token.
    pub token: Token,
    /// When the lease ends as it was granted. One that ends at another time has been renewed, so
    /// its grant was delivered, whatever the connection says.
    pub expires_at: Nanos,
}

/// Messages from core to core.
#[derive(Debug)]
pub enum Message {
    /// Carry out a part on one of your logs.
    #[doc(hidden)]
    Execute(ExecuteMessage),
    /// A part's results, committed.
    #[doc(hidden)]
    Done(DoneMessage),
    /// These grants never reached their workers: undo them.
    Release(Vec<GrantRef>),
    /// Workers wait on my core for items of this namespace.
    Interest(CoreId, NamespaceId),
    /// Items wait on this log of mine.
    Offer {
        /// The namespace asked for.
        namespace: NamespaceId,
        /// The log that has them.
        log: LogId,
        /// How many, when the offer was made.
        ready: u32,
    },
    /// Nobody waits here any more for what you offered: offer it to the next.
    Decline(NamespaceId),
}

/// The content of [`Message::Execute`].
#[derive(Debug)]
pub struct ExecuteMessage {
    pub(super) ticket: Ticket,
    pub(super) log: LogId,
    pub(super) part: Part,
}

/// The content of [`Message::Done`].
#[derive(Debug)]
pub struct DoneMessage {
    pub(super) call: CallId,
    pub(super) log: LogId,
    pub(super) results: Vec<(u32, ItemResult)>,
}
